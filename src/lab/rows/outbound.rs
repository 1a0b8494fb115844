//! From the LANs: to the world, to each other, to the gateway.

use super::super::scene::{Scene, at, ip};
use super::super::traffic::{Asked, PATIENCE, ping, tcp, udp};
use super::{Row, Seen};

const SECTION: &str = "Out of the LANs";
const FORWARDED: &str = "FORWARD: fw-interfaces accepts what comes from the LANs";
const MASQUERADED: &str = "POSTROUTING: MASQUERADE of both LANs on ppp0, the port kept where free";

/// Two clients use it at the same time.
const SHARED_PORT: u16 = 40000;

pub(super) fn rows() -> Vec<Row> {
    let mut rows = vec![
        Row::new(
            SECTION,
            "ping client → gateway",
            "INPUT: icmp type 8 is accepted",
            "reply from 192.168.0.1, TTL 64",
            |s| s.at("client", || ping::ping(ip("192.168.0.1"))).into(),
        ),
        Row::new(
            SECTION,
            "ping client → web, in the same LAN",
            "the bridge: frames between its ports aren't routed",
            "reply from 192.168.0.6, TTL 64",
            |s| s.at("client", || ping::ping(ip("192.168.0.6"))).into(),
        ),
        Row::new(
            SECTION,
            "ping client → client2, in the other LAN",
            FORWARDED,
            "reply from 10.3.0.2, TTL 63",
            |s| s.at("client", || ping::ping(ip("10.3.0.2"))).into(),
        ),
        Row::new(
            SECTION,
            "TCP client → client2",
            "POSTROUTING: only what leaves by ppp0 is masqueraded",
            "client2 sees 192.168.0.2, port kept",
            |s| s.at("client", || tcp::ask(None, at("10.3.0.2", 7))).into(),
        ),
    ];
    for host in ["client", "client2"] {
        rows.push(Row::new(
            SECTION,
            format!("ping {host} → server"),
            FORWARDED,
            "reply from 198.51.100.10, TTL 62",
            move |s| s.at(host, || ping::ping(ip("198.51.100.10"))).into(),
        ));
        rows.push(Row::new(
            SECTION,
            format!("TCP {host} → server"),
            MASQUERADED,
            "server sees 203.0.113.1, port kept",
            move |s| s.at(host, || tcp::ask(None, at("198.51.100.10", 7))).into(),
        ));
        rows.push(Row::new(
            SECTION,
            format!("UDP {host} → server"),
            MASQUERADED,
            "server sees 203.0.113.1, port kept",
            move |s| s.at(host, || udp::ask(None, at("198.51.100.10", 7))).into(),
        ));
    }
    rows.push(Row::new(
        SECTION,
        "UDP, both clients from port 40000",
        MASQUERADED,
        "one keeps the port, one gets another",
        same_udp_port,
    ));
    rows.push(Row::new(
        SECTION,
        "TCP, both clients from port 40000",
        MASQUERADED,
        "one keeps the port, one gets another",
        same_tcp_port,
    ));
    rows
}

fn same_udp_port(scene: &Scene) -> Seen {
    let ask = || udp::ask(Some(SHARED_PORT), at("198.51.100.10", 7));
    match scene.at("client", ask) {
        Ok(first) => told_apart(first.port_kept(), scene.at("client2", ask)),
        Err(e) => Seen::new(e),
    }
}

/// Holds the first connection while the second client asks.
fn same_tcp_port(scene: &Scene) -> Seen {
    let server = at("198.51.100.10", 7);
    match scene.at("client", || tcp::connect(Some(SHARED_PORT), server, PATIENCE)) {
        Ok(_held) => told_apart(true, scene.at("client2", || tcp::ask(Some(SHARED_PORT), server))),
        Err(e) => Seen::new(e),
    }
}

fn told_apart(first_kept: bool, second: Asked) -> Seen {
    match second {
        Err(e) => Seen::new(e),
        Ok(second) if first_kept && !second.port_kept() => Seen::new(
            "one keeps the port, one gets another",
        )
        .figure(format!("{} and {}", SHARED_PORT, second.seen.port())),
        Ok(second) => Seen::new(format!(
            "first {}, second {}",
            if first_kept { "kept" } else { "changed" },
            if second.port_kept() { "kept" } else { "changed" },
        )),
    }
}
