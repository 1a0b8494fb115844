//! Devices whose interface was deleted and made anew while the gateway runs.

use super::Manager;
use crate::config::{Kind, PortKind};
use crate::dhcp::DhcpClient;
use crate::engine::PortId;
use crate::link::netlink::Netlink;
use crate::setup::{self, Reopened, SetupError};
use std::time::Duration;

/// A device that is gone is looked for in such intervals.
pub(super) const LOOK_FOR_DEVICES: Duration = Duration::from_millis(300);

impl Manager {
    /// Opens devices again whose interface was deleted and made anew.
    pub(super) fn look_for_devices(&mut self) {
        let missing: Vec<PortId> = self.missing.keys().copied().collect();
        for port in missing {
            let name = self.gateway.engine().interfaces().port_name(port).to_owned();
            // The host device is made by a start only.
            if self.config.port(&name).is_none() {
                self.missing.remove(&port);
                continue;
            }
            let found = Netlink::open().and_then(|mut netlink| netlink.link(&name));
            let Ok(Some(link)) = found else { continue };
            // Each worker tells that it has lost the device, the last one perhaps after this.
            if self.opened.get(&port) == Some(&link.index) {
                self.missing.remove(&port);
                continue;
            }
            match self.open_again(port, &name) {
                Ok(()) => {
                    tracing::info!(port = name, "device is there again");
                    self.opened.insert(port, link.index);
                    self.missing.remove(&port);
                }
                Err(error) => {
                    let why = error.to_string();
                    let before = self.missing.insert(port, why.clone());
                    if before.as_ref() != Some(&why) {
                        tracing::warn!(port = name, error = why, "can't open the device again");
                    }
                }
            }
        }
    }

    /// An interface whose MTU isn't configured has that of its device, of a bridge's the smallest.
    pub(super) fn follow_mtus(&mut self) {
        let Ok(links) = Netlink::open().and_then(|mut netlink| netlink.links()) else { return };
        let mtu_of = |name: &str| links.iter().find(|link| link.name == name).map(|link| link.mtu);
        for wanted in self.config.interfaces.iter().filter(|wanted| wanted.mtu.is_none()) {
            let found = match &wanted.kind {
                Kind::AfPacket | Kind::Tap => mtu_of(&wanted.name),
                Kind::Bridge(ports) => ports.iter().filter_map(|port| mtu_of(&port.name)).min(),
            };
            // What is gone has the MTU that it had.
            let Some(mtu) = found else { continue };
            let id = {
                let engine = self.gateway.engine();
                let interfaces = engine.interfaces();
                interfaces.by_name(&wanted.name).filter(|id| interfaces.get(*id).mtu != mtu)
            };
            if let Some(id) = id {
                tracing::info!(interface = wanted.name, mtu, "the device has another MTU");
                self.gateway.change(|engine| engine.replace_mtu(id, mtu));
            }
        }
    }

    fn open_again(&mut self, port: PortId, name: &str) -> Result<(), SetupError> {
        let ports = self.gateway.engine().interfaces().port_count() as u16;
        let steering = self.gateway.engine().steering();
        self.reopened = self.reopened.wrapping_add(1);
        let number = ports.wrapping_add(self.reopened);
        let workers = self.inboxes.len();
        let bypass = self.bypass.as_ref().map(|(bypass, _)| bypass.clone());
        let held = &mut self.held;
        let again = setup::reopen(&self.config, name, number, workers, steering, bypass, held)?;
        if let Some((_, leases)) = &self.bypass {
            leases.set_link(port, again.link);
        }
        self.take_link(port, name, &again);
        for (device, (inbox, waker)) in again.devices.into_iter().zip(&self.inboxes) {
            // Workers end only when everything does.
            let _ = inbox.send((port, device));
            let _ = waker.wake();
        }
        Ok(())
    }

    /// An interface of one port has that port's link address and MTU, unless they were configured.
    fn take_link(&mut self, port: PortId, name: &str, again: &Reopened) {
        let Some((kind, bridged)) = self.config.port(name) else { return };
        let Some(wanted) = self.config.interface(name) else { return };
        if bridged {
            return;
        }
        let mut engine = self.gateway.engine();
        let id = engine.interfaces().of_port(port);
        let before = engine.interfaces().get(id).mac;
        // The address behind a TAP device is the gateway's own business and stays.
        let found = if kind == PortKind::Tap { before } else { again.mac };
        let mac = wanted.mac.unwrap_or(found);
        engine.replace_link(id, mac, wanted.mtu.unwrap_or(again.mtu));
        if self.dhcp.contains_key(&id) {
            let client = DhcpClient::new(mac, rand::random(), self.clock.now());
            let lease = self.dhcp.remove(&id).and_then(|(_, lease)| lease);
            self.dhcp.insert(id, (client, lease));
        }
    }
}
