//! The network that every case plays in.
//!
//! ```text
//! 192.168.0.2 … .9  ── eth0 192.168.0.1/24  fd00:1::1/64 ─┐
//!                                                          gateway ─ ppp0 203.0.113.1/24, 2001:db8:1::1/64 ── .2 … .9
//! 10.3.0.2 … .9     ── eth1 10.3.0.1/16     fd00:2::1/64 ─┘                 default route by .2 / ::2
//! ```
//!
//! Host `n` on the interface with index `i` has the link address `02:00:00:00:0i:0n`, the gateway
//! there ends in `01`. Frames from elsewhere carry the link address of host 2.

use crate::case::Settings;
use std::net::IpAddr;
use tidegate_packet::{MacAddr, Prefix};

/// An interface of the gateway.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its link address.
    pub mac: MacAddr,
    /// Its addresses with their prefix lengths.
    pub addresses: Vec<String>,
    /// Its MTU.
    pub mtu: u16,
}

/// A route of the gateway.
#[derive(Clone, Debug)]
pub struct Route {
    /// Destination prefix.
    pub to: String,
    /// Gateway, unless the destination is on the link.
    pub via: Option<String>,
    /// Interface.
    pub dev: String,
}

/// A neighbour that is always known.
#[derive(Clone, Debug)]
pub struct Neighbour {
    /// Where.
    pub interface: String,
    /// Who.
    pub addr: String,
    /// Its link address.
    pub mac: MacAddr,
}

/// The gateway's place in the network.
#[derive(Clone, Debug)]
pub struct Topology {
    /// Interfaces, in order of their index.
    pub interfaces: Vec<Interface>,
    /// Routes besides those of the interfaces' own networks.
    pub routes: Vec<Route>,
    /// Permanent neighbours.
    pub neighbours: Vec<Neighbour>,
}

/// The last byte of the hosts that exist behind each interface.
const HOSTS: std::ops::RangeInclusive<u8> = 2..=9;

impl Topology {
    /// The network with a case's changes.
    pub fn new(settings: &Settings) -> Self {
        let mut interfaces: Vec<Interface> = [
            ("eth0", ["192.168.0.1/24", "fd00:1::1/64"]),
            ("eth1", ["10.3.0.1/16", "fd00:2::1/64"]),
            ("ppp0", ["203.0.113.1/24", "2001:db8:1::1/64"]),
        ]
        .iter()
        .enumerate()
        .map(|(index, (name, addresses))| Interface {
            name: (*name).to_owned(),
            mac: mac(index as u8 + 1, 1),
            addresses: addresses.iter().map(|a| (*a).to_owned()).collect(),
            mtu: 1500,
        })
        .collect();
        for interface in &mut interfaces {
            for (_, mtu) in settings.mtus.iter().filter(|(name, _)| *name == interface.name) {
                interface.mtu = *mtu;
            }
            for (_, a) in settings.addresses.iter().filter(|(name, _)| *name == interface.name) {
                interface.addresses.push(a.clone());
            }
        }
        let mut routes = Vec::new();
        if !settings.no_default_route {
            for (to, via) in [("0.0.0.0/0", "203.0.113.2"), ("::/0", "2001:db8:1::2")] {
                routes.push(Route { to: to.into(), via: Some(via.into()), dev: "ppp0".into() });
            }
        }
        routes.extend(settings.routes.iter().map(|(to, via, dev)| Route {
            to: to.clone(),
            via: via.clone(),
            dev: dev.clone(),
        }));
        for interface in &mut interfaces {
            interface.name.push_str(&settings.tag);
        }
        for route in &mut routes {
            route.dev.push_str(&settings.tag);
        }
        let neighbours = neighbours(&interfaces, &settings.unresolved);
        Self { interfaces, routes, neighbours }
    }

    /// The interface called `name`.
    pub fn interface(&self, name: &str) -> Option<&Interface> {
        self.interfaces.iter().find(|i| i.name == name)
    }

    /// The link address that frames from `src` carry when they arrive at `interface`.
    pub fn sender(&self, interface: &Interface, src: Option<IpAddr>) -> MacAddr {
        let on_link = src.and_then(|src| {
            let text = src.to_string();
            self.neighbours.iter().find(|n| n.interface == interface.name && n.addr == text)
        });
        on_link.map_or(mac(interface.mac.0[4], 2), |n| n.mac)
    }

    /// All addresses with their interface.
    pub fn prefixes(&self) -> impl Iterator<Item = (&Interface, Prefix)> {
        self.interfaces
            .iter()
            .flat_map(|i| i.addresses.iter().filter_map(move |a| Some((i, a.parse().ok()?))))
    }
}

/// The link address of host `host` behind interface number `interface`.
fn mac(interface: u8, host: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, interface, host])
}

/// Hosts 2 to 9 of every network and of the link-local one.
fn neighbours(interfaces: &[Interface], unresolved: &[String]) -> Vec<Neighbour> {
    let mut found = Vec::new();
    for interface in interfaces {
        let networks = interface
            .addresses
            .iter()
            .filter_map(|a| Some(a.parse::<Prefix>().ok()?.addr().to_ip()))
            .chain(std::iter::once("fe80::1".parse().expect("a constant address")));
        for gateway in networks {
            for host in HOSTS {
                let addr = match gateway {
                    IpAddr::V4(a) => {
                        let [x, y, z, _] = a.octets();
                        IpAddr::from([x, y, z, host])
                    }
                    IpAddr::V6(a) => {
                        let mut octets = a.octets();
                        octets[15] = host;
                        IpAddr::from(octets)
                    }
                };
                found.push(Neighbour {
                    interface: interface.name.clone(),
                    addr: addr.to_string(),
                    mac: mac(interface.mac.0[4], host),
                });
            }
        }
    }
    found.retain(|n| !unresolved.contains(&n.addr));
    found
}
