//! A small gateway: a LAN with hosts 192.168.0.2 to .9, and an uplink with a router.

use super::{addr, frame, interface};
use tidegate::sim::{SimConfig, SimRoute};
use tidegate_packet::MacAddr;

/// The gateway's end of the LAN.
pub const LAN: MacAddr = MacAddr([2, 0, 0, 0, 1, 0]);
/// The gateway's end of the uplink.
pub const UPLINK: MacAddr = MacAddr([2, 0, 0, 0, 1, 1]);
/// Every host of the LAN.
pub const HOST: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x22]);
/// What is behind the uplink.
pub const ROUTER: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x99]);

/// `lan0` and `wan0`, and everybody is known, the router first.
pub fn lan_and_uplink(rules: &str, sysctls: &str) -> SimConfig {
    let mut neighbours = vec![("wan0".into(), addr("203.0.113.2"), ROUTER)];
    neighbours.extend((2..10).map(|n| ("lan0".into(), addr(&format!("192.168.0.{n}")), HOST)));
    SimConfig {
        interfaces: vec![
            interface("lan0", 0, &["192.168.0.1/24"]),
            interface("wan0", 1, &["203.0.113.1/24"]),
        ],
        routes: vec![SimRoute {
            to: "0.0.0.0/0".parse().expect("a prefix"),
            via: Some(addr("203.0.113.2")),
            dev: None,
        }],
        neighbours,
        rules_v4: rules.into(),
        sysctls: sysctls.into(),
        ..SimConfig::default()
    }
}

/// A packet as it comes to one of the two ports.
pub fn framed(port: &str, packet: &[u8]) -> Vec<u8> {
    let (src, dst) = if port == "lan0" { (HOST, LAN) } else { (ROUTER, UPLINK) };
    frame(src, dst, packet)
}
