//! From a configuration to a gateway: takes interfaces over, opens devices, builds the engine.
//!
//! Everything that can be wrong with texts is found before the first interface is touched.

use crate::config::{self, Addresses, Config, Kind, PortKind, RouteKind};
use crate::engine::{self, Engine, Interface, InterfaceId, Interfaces, Setup, StaticRoute, Target};
use crate::io::bypass::Bypass;
use crate::io::{af_packet, ingress, tap};
use crate::link::netlink::Netlink;
use crate::link::{self, Adopted, records};
use crate::worker::{Clock, Device};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use tidegate_filter::Ruleset;
use tidegate_packet::{Family, MacAddr, Prefix};

/// Why a gateway can't be built.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// This user may not run a gateway.
    #[error(
        "a gateway needs the capabilities NET_ADMIN and NET_RAW in its network namespace: run it \
         as root, or in a user namespace (unshare --user --map-root-user --net)"
    )]
    Rights,
    /// An interface can't be taken over.
    #[error(transparent)]
    Adopt(#[from] link::AdoptError),
    /// There is no place for records of what is taken from the kernel.
    #[error("no directory for records of what is taken from the kernel: {0}")]
    Records(#[source] io::Error),
    /// A device can't be opened.
    #[error("can't open {name}: {source}")]
    Device {
        /// Its name.
        name: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The host device can't be given the gateway's addresses.
    #[error("can't set {name} up: {source}")]
    Host {
        /// Its name.
        name: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The host device would be reached past the rules.
    #[error(
        "the kernel can't be kept from handing packets of {name} to the host device past the \
         rules: {source}"
    )]
    Exposed {
        /// The interface that they arrive at.
        name: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A route leads to no interface.
    #[error("route to {to}: next hop {via} is on no interface's network")]
    Route {
        /// Its destinations.
        to: Prefix,
        /// Its next hop.
        via: String,
    },
}

/// Fails unless this process may do what a gateway does, so that nothing is left half done.
pub fn check_rights() -> Result<(), SetupError> {
    /// CAP_NET_ADMIN and CAP_NET_RAW (capabilities(7)).
    const NEEDED: u64 = 1 << 12 | 1 << 13;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    match effective_capabilities(&status) {
        Some(held) if held & NEEDED != NEEDED => Err(SetupError::Rights),
        // Where they can't be read, the kernel's answers will tell.
        _ => Ok(()),
    }
}

fn effective_capabilities(status: &str) -> Option<u64> {
    let text = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(text.trim(), 16).ok()
}

/// A gateway ready to run.
pub struct Built {
    /// The configuration, with the addresses and routes that were found on interfaces filled in.
    pub config: Config,
    /// The engine.
    pub engine: Engine,
    /// Devices for each worker, by port number.
    pub workers: Vec<Vec<Device>>,
    /// What must live as long as the gateway runs.
    pub held: Held,
    /// Who can forward established flows, if BPF is allowed.
    pub bypass: Option<Arc<Bypass>>,
    /// By port number: the kernel's number of the interface, where the bypass is at work.
    pub links: Vec<Option<u32>>,
}

/// Guards that give things back when they are dropped.
#[derive(Default)]
pub struct Held {
    // Fields are dropped in this order: the kernel sees packets again when all else is as it was.
    /// Interfaces of the kernel.
    adopted: Vec<Adopted>,
    source_checks: Vec<SourceCheck>,
    holds: Vec<ingress::Hold>,
    refused: Option<ingress::Unavailable>,
}

impl Held {
    /// Why the kernel can't be kept from handling packets too, if it can't.
    pub fn kernel_not_held(&self) -> Option<&ingress::Unavailable> {
        self.refused.as_ref()
    }

    /// Gives everything back, and says what can't be.
    pub fn give_back(mut self) -> Vec<link::AdoptError> {
        let adopted = self.adopted.drain(..).rev();
        adopted.filter_map(|adopted| adopted.give_back().err()).collect()
    }
}

/// A strict source check in the kernel, which makes it drop what it would otherwise hand to the
/// host device's addresses past the rules: the way back to every source is the host device.
struct SourceCheck {
    path: String,
    before: String,
}

impl SourceCheck {
    fn set(interface: &str) -> io::Result<Self> {
        let path = format!("/proc/sys/net/ipv4/conf/{interface}/rp_filter");
        let before = std::fs::read_to_string(&path)?;
        std::fs::write(&path, "1")?;
        Ok(Self { path, before })
    }
}

impl Drop for SourceCheck {
    fn drop(&mut self) {
        // The interface may be gone.
        let _ = std::fs::write(&self.path, &self.before);
    }
}

/// Devices as they are opened, port by port.
struct Opening<'a> {
    config: &'a Config,
    records: PathBuf,
    workers: Vec<Vec<Device>>,
    held: Held,
    ports: u16,
    steering: u32,
    bypass: Option<Arc<Bypass>>,
    links: Vec<Option<u32>>,
}

/// Builds a gateway from a configuration and its rules. `clock` is the gateway's.
pub fn build(config: &Config, v4: Ruleset, v6: Ruleset, clock: Clock) -> Result<Built, SetupError> {
    let bypass = Bypass::open(clock.now()).inspect_err(|error| {
        tracing::info!("no flow bypasses the gateway: {error}");
    });
    let mut opening = Opening {
        config,
        records: records().map_err(SetupError::Records)?,
        workers: (0..config.workers).map(|_| Vec::new()).collect(),
        held: Held::default(),
        ports: 0,
        steering: rand::random(),
        bypass: bypass.ok(),
        links: Vec::new(),
    };
    let mut interfaces = Interfaces::new();
    let mut resolved = config.clone();
    for wanted in &config.interfaces {
        opening.interface(wanted, &mut interfaces, &mut resolved)?;
    }
    let routes = static_routes(&resolved, &interfaces)?;
    let host_port = match &config.host {
        Some(host) => {
            opening.tap(&host.device, tap::Layer::Tun)?;
            carry_addresses(&host.device, &interfaces, &resolved)
                .map_err(|source| SetupError::Host { name: host.device.clone(), source })?;
            Some(interfaces.add_host_port(&host.device))
        }
        None => None,
    };
    let engine = Engine::new(Setup {
        interfaces,
        routes,
        rules_v4: v4,
        rules_v6: v6,
        sysctls: config.sysctls.clone(),
        host_port,
        steering: opening.steering,
        seed: rand::random(),
    });
    let Opening { workers, held, bypass, links, .. } = opening;
    Ok(Built { config: resolved, engine, workers, held, bypass, links })
}

/// A port's device that was opened again.
pub struct Reopened {
    /// Its halves, for each worker.
    pub devices: Vec<Device>,
    /// Link address of the new interface.
    pub mac: MacAddr,
    /// Its MTU.
    pub mtu: u32,
    /// The kernel's number of the interface, if the bypass is at work there.
    pub link: Option<u32>,
}

/// Opens a port's device again, after its interface was deleted and made anew. `number` must be one
/// that no device was opened with before, `steering` that of the engine.
pub fn reopen(
    config: &Config,
    port: &str,
    number: u16,
    workers: usize,
    steering: u32,
    bypass: Option<Arc<Bypass>>,
    held: &mut Held,
) -> Result<Reopened, SetupError> {
    // It holds the record that the new one needs, and there is nothing to give back to.
    held.adopted.retain(|adopted| adopted.link().name != port);
    let mut opening = Opening {
        config,
        records: records().map_err(SetupError::Records)?,
        workers: (0..workers).map(|_| Vec::new()).collect(),
        held: Held::default(),
        ports: number,
        steering,
        bypass,
        links: Vec::new(),
    };
    let found = match config.port(port) {
        Some((PortKind::AfPacket, bridged)) => opening.af_packet(port, bridged)?,
        _ => opening.tap(port, tap::Layer::Tap)?,
    };
    let Opening { workers, held: more, links, .. } = opening;
    held.adopted.extend(more.adopted);
    held.source_checks.extend(more.source_checks);
    held.holds.extend(more.holds);
    let devices = workers.into_iter().flatten().collect();
    let link = links.into_iter().next().flatten();
    Ok(Reopened { devices, mac: found.mac, mtu: found.mtu, link })
}

impl Opening<'_> {
    fn interface(
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
    fn af_packet(&mut self, name: &str, promiscuous: bool) -> Result<Found, SetupError> {
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
    fn tap(&mut self, name: &str, layer: tap::Layer) -> Result<Found, SetupError> {
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
struct Found {
    mac: MacAddr,
    mtu: u32,
}

/// A locally administered address (IEEE 802, section 8.4).
fn random_mac() -> MacAddr {
    let mut mac: [u8; 6] = rand::random();
    mac[0] = mac[0] & 0xfc | 0x02;
    MacAddr(mac)
}

/// Puts what an interface had into the configuration, as if it had been written there.
fn resolve(config: &mut Config, name: &str, adopted: &Adopted) {
    let prefixes = adopted.addresses().iter().map(|a| a.prefix).collect();
    if let Some(interface) = config.interfaces.iter_mut().find(|i| i.name == name) {
        interface.addresses = Addresses::Given { prefixes, dhcp: false };
    }
    config.routes.extend(adopted.routes().iter().map(|route| config::Route {
        to: route.to,
        via: route.via,
        dev: Some(name.to_owned()),
        metric: route.metric,
        kind: RouteKind::Unicast,
    }));
}

/// The configuration's routes, with their interfaces found.
pub fn static_routes(
    config: &Config,
    interfaces: &Interfaces,
) -> Result<Vec<StaticRoute>, SetupError> {
    let mut routes = Vec::new();
    for route in &config.routes {
        let target = match route.kind {
            RouteKind::Blackhole => Target::Blackhole,
            RouteKind::Unreachable => Target::Unreachable,
            RouteKind::Prohibit => Target::Prohibit,
            RouteKind::Unicast => match egress_of(route, interfaces) {
                Some(egress) => Target::Unicast { egress, via: route.via },
                // The next hop may be on a network that DHCP has yet to bring.
                None if config.interfaces.iter().any(|i| i.addresses.dhcp()) => continue,
                None => {
                    let via = route.via.map(|v| v.to_string()).unwrap_or_default();
                    return Err(SetupError::Route { to: route.to, via });
                }
            },
        };
        routes.push(StaticRoute { to: route.to, target, metric: route.metric, leased: false });
    }
    Ok(routes)
}

fn egress_of(route: &config::Route, interfaces: &Interfaces) -> Option<InterfaceId> {
    if let Some(name) = &route.dev {
        return interfaces.by_name(name);
    }
    let via = route.via?;
    let found = interfaces.iter().find(|(_, i)| i.addresses.iter().any(|p| p.contains(via)));
    found.map(|(id, _)| id)
}

/// Gives the host device the gateway's addresses, the uplinks' first so that the kernel prefers
/// them as a source, and makes it the way to everywhere.
pub fn carry_addresses(device: &str, interfaces: &Interfaces, config: &Config) -> io::Result<()> {
    let mut netlink = Netlink::open()?;
    let link = netlink.require_link(device)?;
    let is_uplink = |name: &str| config.uplinks().any(|i| i.name == name);
    let mut carriers: Vec<_> = interfaces.iter().filter(|(_, i)| i.name != "lo").collect();
    carriers.sort_by_key(|(_, i)| !is_uplink(&i.name));
    let wanted: Vec<Prefix> = carriers
        .iter()
        .flat_map(|(_, i)| i.addresses.iter().copied())
        .filter(|p| !p.addr().is_v6_link_local())
        .collect();
    for stale in netlink.addresses()?.iter().filter(|a| a.index == link.index) {
        if !wanted.contains(&stale.prefix) && !stale.prefix.addr().is_v6_link_local() {
            netlink.delete_address(link.index, stale.prefix)?;
        }
    }
    // New devices have no IPv6 where a container's runtime has switched it off.
    if wanted.iter().any(|p| !p.addr().is_v4()) {
        let disabled = format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6");
        if let Err(error) = std::fs::write(&disabled, "0") {
            tracing::info!(%error, "the host device may have no IPv6: {disabled}");
        }
    }
    for prefix in wanted {
        exists_already(netlink.add_address(link.index, prefix))?;
    }
    // An error about a packet of this kernel's own comes back with its own address as the source,
    // as on `lo`; without this it would be taken for a forgery.
    let accept_local = format!("/proc/sys/net/ipv4/conf/{device}/accept_local");
    if let Err(error) = std::fs::write(&accept_local, "1") {
        tracing::info!(%error, "the host won't hear errors about its own packets: {accept_local}");
    }
    netlink.set_up(link.index, true)?;
    for family in [Family::V4, Family::V6] {
        let everywhere = Prefix::new(tidegate_packet::Addr::unspecified(family), 0);
        let Some(everywhere) = everywhere else { continue };
        // Without IPv6 in the kernel there is nothing to route there.
        if let Err(error) =
            exists_already(netlink.add_route(everywhere, None, Some(link.index), None))
        {
            tracing::warn!(device, ?family, %error, "no default route through the host device");
        }
    }
    Ok(())
}

fn exists_already(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read() {
        let status = "Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t0000000000003000\n";
        assert_eq!(effective_capabilities(status), Some(0x3000));
        assert_eq!(effective_capabilities("Name:\tx\n"), None);
    }
}
