//! The leases of uplinks that are configured by DHCP.

use super::Manager;
use crate::dhcp::{DhcpClient, Event as DhcpEvent};
use crate::engine::{InterfaceId, StaticRoute, Target};
use crate::setup;
use std::time::Duration;
use tidegate_packet::{Addr, Family, Prefix};

impl Manager {
    pub(super) fn start_dhcp(&mut self) {
        let mut engine = self.gateway.engine();
        for interface in self.config.interfaces.iter().filter(|i| i.addresses.dhcp()) {
            let Some(id) = engine.interfaces().by_name(&interface.name) else { continue };
            let mac = engine.interfaces().get(id).mac;
            engine.divert_dhcp(id);
            let client = DhcpClient::new(mac, rand::random(), self.clock.now());
            self.dhcp.insert(id, (client, None));
        }
    }

    pub(super) fn poll_dhcp(&mut self) {
        let now = self.clock.now();
        let mut frames = Vec::new();
        let mut changed = Vec::new();
        for (id, (client, lease)) in &mut self.dhcp {
            let mut out = Vec::new();
            while let Some(event) = client.poll(now, &mut out) {
                *lease = match event {
                    DhcpEvent::Configured(lease) => Some(lease),
                    DhcpEvent::Deconfigured => None,
                };
                changed.push(*id);
            }
            frames.extend(out.into_iter().map(|frame| (*id, frame)));
        }
        if !frames.is_empty() {
            let mut engine = self.gateway.engine();
            for (id, frame) in frames {
                engine.send_frame(id, &frame);
            }
            drop(engine);
            // A worker that can't be woken sends them at its next tick.
            let _ = self.waker.as_ref().map(|w| w.wake());
        }
        for id in changed {
            self.apply_lease(id);
        }
    }

    /// Gives an uplink what its lease says, or takes it away.
    pub(super) fn apply_lease(&mut self, id: InterfaceId) {
        let Some((_, lease)) = self.dhcp.get(&id) else { return };
        let engine = self.gateway.engine();
        let name = engine.interfaces().get(id).name.clone();
        let Some(wanted) = self.config.interface(&name) else { return };
        let mut addresses = wanted.addresses.prefixes().to_vec();
        match lease {
            Some(lease) => {
                tracing::info!(interface = name, address = %lease.address, router = ?lease.router, "DHCP lease");
                addresses.insert(0, lease.address);
            }
            None => tracing::warn!(interface = name, "DHCP lease lost"),
        }
        let leases = self.dhcp.iter().filter_map(|(id, (_, lease))| Some((*id, lease.as_ref()?)));
        let leased = leases.filter_map(|(id, lease)| {
            let name = &engine.interfaces().get(id).name;
            let metric = self.config.interface(name)?.dhcp_metric;
            Some(leased_route(id, lease.router?, metric))
        });
        let leased: Vec<StaticRoute> = leased.collect();
        drop(engine);
        let interfaces = self.gateway.change(|engine| {
            engine.replace_addresses(id, addresses, leased);
            // Next hops of configured routes may be on the network that the lease has brought.
            if let Ok(configured) = setup::static_routes(&self.config, engine.interfaces()) {
                let routes = [&configured, engine.static_routes()].concat();
                engine.replace_routes(routes);
            }
            engine.interfaces().clone()
        });
        if let Some(host) = &self.config.host
            && let Err(error) = setup::carry_addresses(&host.device, &interfaces, &self.config)
        {
            tracing::error!(device = host.device, %error, "addresses of the host device");
        }
    }

    /// Gives leases back (RFC 2131 section 4.4.6), so that servers needn't wait for their end. With a
    /// saved state the next run goes on where this one ends: with the same address, as servers keep
    /// it for the same client while its lease lasts.
    pub(super) fn release_leases(&mut self) {
        if self.config.state.is_some() {
            return;
        }
        let mut engine = self.gateway.engine();
        let mut released = false;
        for (id, (client, _)) in &mut self.dhcp {
            let mut frames = Vec::new();
            client.release(&mut frames);
            for frame in frames {
                engine.send_frame(*id, &frame);
                released = true;
            }
        }
        drop(engine);
        let Some(waker) = self.waker.as_ref().filter(|_| released) else { return };
        let _ = waker.wake();
        // The worker takes them at once, unless it has ended or hangs.
        for _ in 0..100 {
            if self.gateway.engine().outbox().is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn leased_route(egress: InterfaceId, via: Addr, metric: u32) -> StaticRoute {
    let to = Prefix::new(Addr::unspecified(Family::V4), 0).unwrap_or(Prefix::host(via));
    StaticRoute { to, target: Target::Unicast { egress, via: Some(via) }, metric, leased: true }
}
