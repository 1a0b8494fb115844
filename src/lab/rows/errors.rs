//! Errors from beyond the gateway that have to find their way back through its NAT.

use super::super::scene::{Scene, at};
use super::super::traffic::udp::Probe;
use super::super::traffic::{PATIENCE, tcp};
use super::{Row, Seen};

const SECTION: &str = "Errors find their way back";
const RELATED: &str = "FORWARD: RELATED is accepted, its quoted packet translated back";

/// Nobody listens on it.
const CLOSED: u16 = 9;

pub(super) fn rows() -> Vec<Row> {
    let probe =
        |s: &Scene, host: &str, probe: Probe| -> Seen { s.at(host, || probe.send()).into() };
    let server = at("198.51.100.10", CLOSED);
    let narrow = at("100.64.0.10", 7);
    vec![
        Row::new(
            SECTION,
            "UDP client → server, closed port",
            RELATED,
            "port unreachable from 198.51.100.10",
            move |s| probe(s, "client", Probe::new(server)),
        ),
        Row::new(
            SECTION,
            "UDP client2 → server, closed port",
            RELATED,
            "port unreachable from 198.51.100.10",
            move |s| probe(s, "client2", Probe::new(server)),
        ),
        Row::new(
            SECTION,
            "TCP client → server, closed port",
            "FORWARD: ESTABLISHED is accepted",
            "reset",
            move |s| s.at("client", || tcp::knock(server, PATIENCE)).into(),
        ),
        Row::new(
            SECTION,
            "UDP client → server with TTL 1",
            "forwarding: the TTL ends at the gateway",
            "TTL exceeded from 192.168.0.1",
            move |s| probe(s, "client", Probe { ttl: Some(1), ..Probe::new(server) }),
        ),
        Row::new(
            SECTION,
            "UDP client → server with TTL 2",
            RELATED,
            "TTL exceeded from 203.0.113.2",
            move |s| probe(s, "client", Probe { ttl: Some(2), ..Probe::new(server) }),
        ),
        Row::new(
            SECTION,
            "UDP client → narrow, 1500 bytes with DF",
            RELATED,
            "frag needed (MTU 1400) from 203.0.113.2",
            move |s| probe(s, "client", Probe { size: 1472, ..Probe::new(narrow) }),
        ),
    ]
}
