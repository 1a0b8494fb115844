//! What the in-memory tests share: the page's gateway, a set of frames of every kind, and what
//! must hold for every frame that leaves.

// Each test binary uses its part.
#![allow(dead_code)]

pub mod check;
pub mod conversation;
pub mod frames;
pub mod lockstep;
pub mod mutate;
pub mod uplink;
pub mod watch;

use tidegate::sim::{SimConfig, SimInterface, SimRoute};
use tidegate_packet::{Addr, MacAddr, ethernet};

/// The page's rules, as the demo uses them.
pub const PAGE_V4: &str = include_str!("../../src/lab/rules/iptables.rules");
/// The page's IPv6 rules.
pub const PAGE_V6: &str = include_str!("../../src/lab/rules/ip6tables.rules");

/// The link address of the gateway's n-th interface.
pub fn gateway_mac(n: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 1, n])
}

/// The link address of the host with this number.
pub fn host_mac(n: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, n])
}

/// An address.
pub fn addr(text: &str) -> Addr {
    text.parse().expect("an address")
}

/// An interface with these addresses.
pub fn interface(name: &str, n: u8, addresses: &[&str]) -> SimInterface {
    let addresses: Vec<_> = addresses.iter().map(|a| a.parse().expect("a prefix")).collect();
    SimInterface::new(name, gateway_mac(n), &addresses)
}

/// The page's gateway: two LANs and an uplink, default routes behind 203.0.113.2 and its like.
pub fn page() -> SimConfig {
    let route = |to: &str, via: &str| SimRoute {
        to: to.parse().expect("a prefix"),
        via: Some(addr(via)),
        dev: None,
    };
    SimConfig {
        interfaces: vec![
            interface("eth0", 0, &["192.168.0.1/24", "fd00:1::1/64"]),
            interface("eth1", 1, &["10.3.0.1/16", "fd00:2::1/64"]),
            interface("ppp0", 2, &["203.0.113.1/24", "2001:db8:1::1/64"]),
        ],
        routes: vec![route("0.0.0.0/0", "203.0.113.2"), route("::/0", "2001:db8:1::2")],
        rules_v4: PAGE_V4.into(),
        rules_v6: PAGE_V6.into(),
        ..SimConfig::default()
    }
}

/// The page's gateway with its neighbours known, so that nothing waits for ARP.
pub fn page_with_neighbours() -> SimConfig {
    let mut config = page();
    for (name, text, n) in [
        ("eth0", "192.168.0.2", 2),
        ("eth0", "192.168.0.5", 5),
        ("eth0", "192.168.0.6", 6),
        ("eth0", "fd00:1::2", 2),
        ("eth1", "10.3.0.9", 9),
        ("eth1", "fd00:2::9", 9),
        ("ppp0", "203.0.113.2", 99),
        ("ppp0", "2001:db8:1::2", 99),
    ] {
        config.neighbours.push((name.into(), addr(text), host_mac(n)));
    }
    config
}

/// A packet in an Ethernet frame.
pub fn frame(src: MacAddr, dst: MacAddr, packet: &[u8]) -> Vec<u8> {
    let ethertype = if packet[0] >> 4 == 4 { ethernet::IPV4 } else { ethernet::IPV6 };
    let mut bytes = vec![0; ethernet::HEADER_LEN];
    ethernet::write(&mut bytes, dst, src, ethertype);
    bytes.extend_from_slice(packet);
    bytes
}

/// A packet as it comes to the gateway's port.
pub fn arriving(port: &str, packet: &[u8]) -> Vec<u8> {
    let (src, n) = match port {
        "eth0" => (host_mac(2), 0),
        "eth1" => (host_mac(9), 1),
        _ => (host_mac(99), 2),
    };
    frame(src, gateway_mac(n), packet)
}
