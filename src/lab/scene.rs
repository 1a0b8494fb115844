//! The lab itself: hosts around one gateway.
//!
//! ```text
//!  client 192.168.0.2 ─┐
//!  ssh    192.168.0.5 ─┼─ eth0 ┌─────────┐                    ┌── server   198.51.100.10
//!  web    192.168.0.6 ─┘       │ gateway │ ppp0 ── internet ──┼── outsider 192.0.2.66
//!  client2 10.3.0.2 ───── eth1 └─────────┘  203.0.113.1 / .2  └── narrow   100.64.0.10 (MTU 1400)
//! ```
//!
//! `internet` is a router that knows the way to the LANs' private addresses, as a provider's or an
//! attacker's might; the rules have to keep it out. The gateway's interfaces bear the names of
//! the rules, so that those load as they were published.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::error::{Doing, Result};
use super::gateway::{Engine, Gateway};
use super::topology::{End, Network, Topology};
use super::traffic::service::Service;

/// Behind what the gateway's interfaces are.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
pub enum Devices {
    /// veth pairs, driven through packet sockets.
    #[default]
    AfPacket,
    /// TAP devices that the gateway opens; their network sides are moved into the hosts.
    Tap,
}

/// What a lab is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Who forwards.
    pub engine: Engine,
    /// Through what; the kernel as a gateway has only veth.
    pub devices: Devices,
    /// Whether the gateway's namespace carries its addresses, so that programs there are behind the
    /// INPUT chain; otherwise the built-in host answers. With the kernel it is always so.
    pub host_device: bool,
    /// Where configuration, rules, log and control socket of the gateway go.
    pub directory: PathBuf,
}

/// A cable between a host and a port of the gateway.
#[derive(Copy, Clone, Debug)]
pub struct Cable {
    /// The host; its interface is `eth0`.
    pub host: &'static str,
    /// The host's addresses.
    pub addresses: [&'static str; 2],
    /// The gateway's port.
    pub port: &'static str,
    /// The host's routes: destination, next hop.
    pub routes: &'static [(&'static str, &'static str)],
}

const LAN1: &[(&str, &str)] = &[("default", "192.168.0.1"), ("default", "fd00:1::1")];

/// The gateway's cables. The first three lead to ports of the bridge `eth0`.
pub const CABLES: [Cable; 5] = [
    Cable {
        host: "client",
        addresses: ["192.168.0.2/24", "fd00:1::2/64"],
        port: "eth0p1",
        routes: LAN1,
    },
    Cable {
        host: "ssh",
        addresses: ["192.168.0.5/24", "fd00:1::5/64"],
        port: "eth0p2",
        routes: LAN1,
    },
    Cable {
        host: "web",
        addresses: ["192.168.0.6/24", "fd00:1::6/64"],
        port: "eth0p3",
        routes: LAN1,
    },
    Cable {
        host: "client2",
        addresses: ["10.3.0.2/16", "fd00:2::2/64"],
        port: "eth1",
        routes: &[("default", "10.3.0.1"), ("default", "fd00:2::1")],
    },
    Cable {
        host: "internet",
        addresses: ["203.0.113.2/24", "2001:db8:1::2/64"],
        port: "ppp0",
        routes: &[
            ("192.168.0.0/24", "203.0.113.1"),
            ("10.3.0.0/16", "203.0.113.1"),
            ("fd00:1::/64", "2001:db8:1::1"),
            ("fd00:2::/64", "2001:db8:1::1"),
        ],
    },
];

/// The bridge's ports.
pub const BRIDGE_PORTS: [&str; 3] = ["eth0p1", "eth0p2", "eth0p3"];

/// The gateway's interfaces and their addresses.
pub const INTERFACES: [(&str, [&str; 2]); 3] = [
    ("eth0", ["192.168.0.1/24", "fd00:1::1/64"]),
    ("eth1", ["10.3.0.1/16", "fd00:2::1/64"]),
    ("ppp0", ["203.0.113.1/24", "2001:db8:1::1/64"]),
];

/// The gateway's next hops for everything else.
pub const NEXT_HOPS: [&str; 2] = ["203.0.113.2", "2001:db8:1::2"];

/// Hosts with something to talk to, and the port that it listens on.
const SERVICES: [(&str, u16); 8] = [
    ("server", 7),
    ("server", 80),
    ("client", 7),
    ("client2", 7),
    ("ssh", 22),
    ("web", 80),
    ("narrow", 7),
    ("outsider", 7),
];

/// A lab that stands. It falls when this is dropped.
#[derive(Debug)]
pub struct Scene {
    // Dropped in this order: first those who use the network.
    services: Vec<Service>,
    /// The gateway's process, or the kernel.
    pub gateway: Gateway,
    /// The hosts.
    pub network: Network,
}

impl Scene {
    /// Builds it and waits until the gateway forwards.
    pub fn build(plan: &Plan) -> Result<Self> {
        let network = topology(plan).build()?;
        let gateway = Gateway::start(plan, network.host("gateway"))?;
        for cable in &CABLES {
            if plan.devices == Devices::Tap {
                network.adopt("gateway", cable.port, &cable.end(true))?;
            }
            for (to, via) in cable.routes {
                network.add_route(cable.host, to, via)?;
            }
        }
        let services = SERVICES
            .iter()
            .map(|&(host, port)| Service::start(network.host(host), host, port))
            .collect::<std::io::Result<_>>()
            .doing(|| "servers of the lab")?;
        Ok(Self { services, gateway, network })
    }

    /// Runs `work` at a host.
    pub fn at<T: Send>(&self, host: &str, work: impl FnOnce() -> T + Send) -> T {
        self.network.host(host).run(work)
    }

    /// How many servers listen.
    pub fn services(&self) -> usize {
        self.services.len()
    }
}

impl Cable {
    fn end(&self, fixed_mac: bool) -> End {
        let end = End::new(self.host, "eth0");
        let end = self.addresses.iter().fold(end, |end, address| end.address(address));
        // A TAP's own address would be another one in every run.
        let number = self.port.bytes().fold(0u8, |n, b| n.wrapping_mul(31).wrapping_add(b));
        let mac = tidegate_packet::MacAddr([2, b't', b'g', b't', 0, number]);
        if fixed_mac { end.mac(mac) } else { end }
    }
}

fn topology(plan: &Plan) -> Topology {
    let mut t = Topology::new();
    t = match plan.engine {
        Engine::Kernel => t.router("gateway"),
        // What the kernel of that namespace would say by itself on the gateway's interfaces
        // (router solicitations, multicast reports) is none of the hosts' business.
        Engine::Tidegate { .. } => {
            t.host("gateway").sysctl("gateway", "net.ipv6.conf.default.disable_ipv6", "1")
        }
    };
    for host in ["client", "ssh", "web", "client2", "server", "outsider", "narrow"] {
        t = t.host(host);
    }
    t = t.router("internet");
    if plan.devices == Devices::AfPacket {
        for cable in &CABLES {
            let port = End::new("gateway", cable.port);
            let port = match plan.engine {
                Engine::Kernel => with_addresses(port, cable.port),
                Engine::Tidegate { .. } => port,
            };
            t = t.link(cable.end(false), port);
        }
    }
    if plan.engine == Engine::Kernel {
        t = t.bridge(with_addresses(End::new("gateway", "eth0"), "eth0"), &BRIDGE_PORTS);
        t = t.sysctl("gateway", "net.ipv4.conf.all.rp_filter", "1");
        for hop in NEXT_HOPS {
            t = t.route("gateway", "default", hop);
        }
    }
    let beyond = [
        ("server", "198.51.100", "2001:db8:2:", "10", 1500),
        ("outsider", "192.0.2", "2001:db8:3:", "66", 1500),
        ("narrow", "100.64.0", "2001:db8:4:", "10", 1400),
    ];
    for (host, v4, v6, last, mtu) in beyond {
        let far = End::new(host, "eth0")
            .address(&format!("{v4}.{last}/24"))
            .address(&format!("{v6}:{last}/64"))
            .mtu(mtu);
        let near = End::new("internet", host)
            .address(&format!("{v4}.1/24"))
            .address(&format!("{v6}:1/64"))
            .mtu(mtu);
        t = t.link(far, near).route(host, "default", &format!("{v4}.1")).route(
            host,
            "default",
            &format!("{v6}:1"),
        );
    }
    t
}

/// Adds the addresses that the gateway's interface `name` has, if it has any.
fn with_addresses(end: End, name: &str) -> End {
    INTERFACES
        .iter()
        .filter(|(interface, _)| *interface == name)
        .flat_map(|(_, addresses)| addresses)
        .fold(end, |end, address| end.address(address))
}

/// An address of the lab, written by hand.
pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| unreachable!("{text} is an address"))
}

/// A port of the lab, written by hand.
pub(super) fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip(address), port)
}
