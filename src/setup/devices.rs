//! Interfaces taken over from the kernel, and devices opened for each worker.

use super::host::SourceCheck;
use super::routes::resolve;
use super::{Held, SetupError};
use crate::config::{self, Addresses, Config, Kind, PortKind};
use crate::engine::{self, Interface, Interfaces};
use crate::io::bypass::Bypass;
use crate::io::{af_packet, ingress, tap};
use crate::link;
use crate::link::netlink::Netlink;
use crate::worker::Device;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use tidegate_packet::MacAddr;

/// Devices as they are opened, port by port.
pub(super) struct Opening<'a> {
    pub(super) config: &'a Config,
    pub(super) records: PathBuf,
    pub(super) workers: Vec<Vec<Device>>,
    pub(super) held: Held,
    pub(super) ports: u16,
    pub(super) steering: u32,
    pub(super) bypass: Option<Arc<Bypass>>,
    pub(super) links: Vec<Option<u32>>,
}

impl Opening<'_> {
    pub(super) fn interface(
        &mut self,
        wanted: &config::Interface,
        interfaces: &mut Interfaces,
        resolved: &mut Config,
    ) -> Result<(), SetupError> {
        let (found, ports) = match &wanted.kind {
            Kind::AfPacket => (self.af_packet(&wanted.name, false)?, vec![wanted.name.as_str()]),
            Kind::Tap => (self.tap(&wanted.name, tap::Layer::Tap)?, vec![wanted.name.as_str()]),
            Kind::Bridge(ports) => {
                let mut first = None;
                for port in ports {
                    let opened = match port.kind {
                        PortKind::AfPacket => self.af_packet(&port.name, true)?,
                        PortKind::Tap => self.tap(&port.name, tap::Layer::Tap)?,
                    };
                    let first = first.get_or_insert(opened);
                    first.mtu = first.mtu.min(opened.mtu);
                }
                let found = first.unwrap_or(Found { mac: MacAddr::default(), mtu: 1500 });
                (found, ports.iter().map(|p| p.name.as_str()).collect())
            }
        };
        let mut interface = Interface::new(
            &wanted.name,
            wanted.mac.unwrap_or(found.mac),
            wanted.mtu.unwrap_or(found.mtu),
        );
        if matches!(wanted.kind, Kind::Bridge(_)) {
            interface.kind = engine::Kind::Bridge;
        }
        if let (Addresses::Adopt, Some(adopted)) = (&wanted.addresses, self.held.adopted.last()) {
            resolve(resolved, &wanted.name, adopted);
        }
        let addresses = resolved.interface(&wanted.name).map(|i| i.addresses.prefixes());
        interface.addresses = addresses.unwrap_or_default().to_vec();
        interfaces.add(interface, &ports);
        Ok(())
    }

    /// Takes an interface over from the kernel and opens it once for each worker.
    pub(super) fn af_packet(&mut self, name: &str, promiscuous: bool) -> Result<Found, SetupError> {
        let adopted = link::adopt(name, &self.records)?;
        let link = adopted.link().clone();
        self.held.adopted.push(adopted);
        let port = self.next_port();
        // The group's number must be unique in the namespace: the process id makes it likely.
        let group = (std::process::id() as u16).wrapping_mul(31).wrapping_add(port);
        let fanout = af_packet::Fanout { group, steering: self.steering };
        let fanout = (self.workers.len() > 1).then_some(fanout);
        let device = |source| SetupError::Device { name: name.to_owned(), source };
        // A gateway with another link address than the device's must hear frames for it.
        let options = af_packet::Options {
            promiscuous: promiscuous || self.has_own_mac(name),
            fanout,
            ..af_packet::Options::default()
        };
        for worker in &mut self.workers {
            let (receive, transmit) = af_packet::open(name, &options).map_err(device)?;
            worker.push(Device { receive: Box::new(receive), transmit: Box::new(transmit) });
        }
        let bypass = self.bypass.clone().filter(|bypass| self.watch(bypass));
        let forward = bypass.as_ref().map(|bypass| bypass.program());
        match ingress::hold(link.index, ingress::Method::Best, forward) {
            Ok(hold) => {
                self.held.holds.push(hold);
                self.links.push(bypass.map(|_| link.index));
            }
            Err(refused) => {
                self.links.push(None);
                self.held.refused = Some(refused);
                if self.config.host.is_some() {
                    let check = SourceCheck::set(name)
                        .map_err(|source| SetupError::Exposed { name: name.to_owned(), source })?;
                    self.held.source_checks.push(check);
                }
            }
        }
        Ok(Found { mac: link.mac.unwrap_or_else(random_mac), mtu: link.mtu })
    }

    /// Makes every worker's socket of the last port ask the bypass first.
    fn watch(&self, bypass: &Bypass) -> bool {
        let mut sockets = self.workers.iter().filter_map(|devices| devices.last()?.receive.fd());
        let watched = sockets.try_for_each(|socket| bypass.watch(socket));
        watched.inspect_err(|error| tracing::info!("no flow bypasses the gateway: {error}")).is_ok()
    }

    fn has_own_mac(&self, name: &str) -> bool {
        self.config.interface(name).is_some_and(|i| i.mac.is_some())
    }

    /// Opens a TAP or TUN device, one queue for each worker, and brings it up.
    pub(super) fn tap(&mut self, name: &str, layer: tap::Layer) -> Result<Found, SetupError> {
        let device = |source| SetupError::Device { name: name.to_owned(), source };
        self.next_port();
        self.links.push(None);
        let options = tap::Options { layer, multi_queue: self.workers.len() > 1 };
        for worker in &mut self.workers {
            let opened = tap::open(name, options).map_err(|error| explain_tap(name, error));
            let (receive, transmit) = opened.map_err(device)?;
            worker.push(Device { receive: Box::new(receive), transmit: Box::new(transmit) });
        }
        let mut netlink = Netlink::open().map_err(device)?;
        let link = netlink.require_link(name).map_err(device)?;
        netlink.set_up(link.index, true).map_err(device)?;
        // The device's own address is that of the station behind it; ours must be another.
        Ok(Found { mac: random_mac(), mtu: link.mtu })
    }

    fn next_port(&mut self) -> u16 {
        let port = self.ports;
        self.ports += 1;
        port
    }
}

/// Says what the kernel's `EINVAL` means for a name that is in use already.
fn explain_tap(name: &str, error: io::Error) -> io::Error {
    if error.raw_os_error() != Some(libc::EINVAL) {
        return error;
    }
    let found = Netlink::open().and_then(|mut netlink| netlink.link(name)).ok().flatten();
    match found.and_then(|link| link.kind).as_deref() {
        Some("tun") => io::Error::other(
            "there is one, but it is of another kind (tap or tun) or of another number of queues: \
             several workers need one that was made with multi_queue",
        ),
        _ => io::Error::other("there is an interface of that name, but it is no TAP or TUN device"),
    }
}

/// What a device told about itself.
#[derive(Copy, Clone)]
pub(super) struct Found {
    pub(super) mac: MacAddr,
    pub(super) mtu: u32,
}

/// A locally administered address (IEEE 802, section 8.4).
fn random_mac() -> MacAddr {
    let mut mac: [u8; 6] = rand::random();
    mac[0] = mac[0] & 0xfc | 0x02;
    MacAddr(mac)
}
