//! IPv6 under the page's ip6tables rules: forwarded as it is, without NAT.

use super::super::scene::{at, ip};
use super::super::traffic::udp::{self, Probe};
use super::super::traffic::{PATIENCE, ping, tcp};
use super::Row;

const SECTION: &str = "IPv6";
const FORWARDED: &str = "FORWARD: fw-interfaces accepts what comes from the LANs";
const PROHIBITED: &str = "REJECT with icmp6-adm-prohibited";
const SERVER: &str = "2001:db8:2::10";
const CLOSED: u16 = 81;

pub(super) fn rows() -> Vec<Row> {
    let mut rows = forwarded();
    rows.extend(refused());
    rows.extend(errors());
    rows
}

fn forwarded() -> Vec<Row> {
    vec![
        Row::new(SECTION, "ping client → server", FORWARDED, "reply from 2001:db8:2::10", |s| {
            s.at("client", || ping::ping(ip(SERVER))).into()
        }),
        Row::new(
            SECTION,
            "TCP client → server",
            FORWARDED,
            "server sees fd00:1::2, port kept",
            |s| s.at("client", || tcp::ask(None, at(SERVER, 7))).into(),
        ),
        Row::new(
            SECTION,
            "UDP client2 → server",
            FORWARDED,
            "server sees fd00:2::2, port kept",
            |s| s.at("client2", || udp::ask(None, at(SERVER, 7))).into(),
        ),
        Row::new(
            SECTION,
            "UDP client → client2",
            FORWARDED,
            "client2 sees fd00:1::2, port kept",
            |s| s.at("client", || udp::ask(None, at("fd00:2::2", 7))).into(),
        ),
        Row::new(
            SECTION,
            "ping client → gateway",
            "INPUT: icmpv6 is accepted from directly attached subnets",
            "reply from fd00:1::1",
            |s| s.at("client", || ping::ping(ip("fd00:1::1"))).into(),
        ),
    ]
}

fn refused() -> Vec<Row> {
    vec![
        Row::new(
            SECTION,
            "ping server → gateway",
            "INPUT: the page's rule for echo requests stands behind its final REJECT",
            "admin prohibited from 2001:db8:1::1",
            |s| s.at("server", || ping::ping(ip("2001:db8:1::1"))).into(),
        ),
        Row::new(
            SECTION,
            "TCP outsider → client",
            PROHIBITED,
            "admin prohibited from 2001:db8:1::1",
            |s| s.at("outsider", || tcp::knock(at("fd00:1::2", 7), PATIENCE)).into(),
        ),
        Row::new(
            SECTION,
            "UDP outsider → client2",
            PROHIBITED,
            "admin prohibited from 2001:db8:1::1",
            |s| s.at("outsider", || Probe::new(at("fd00:2::2", 7)).send()).into(),
        ),
        Row::new(
            SECTION,
            "TCP client → gateway, closed port",
            "INPUT: tcp, REJECT with tcp-reset",
            "reset",
            |s| s.at("client", || tcp::knock(at("fd00:1::1", CLOSED), PATIENCE)).into(),
        ),
        Row::new(
            SECTION,
            "UDP client → gateway, closed port",
            PROHIBITED,
            "admin prohibited from fd00:1::1",
            |s| s.at("client", || Probe::new(at("fd00:1::1", CLOSED)).send()).into(),
        ),
    ]
}

fn errors() -> Vec<Row> {
    let server = at(SERVER, 9);
    vec![
        Row::new(
            SECTION,
            "UDP client → server, closed port",
            "FORWARD: RELATED is accepted",
            "port unreachable from 2001:db8:2::10",
            move |s| s.at("client", || Probe::new(server).send()).into(),
        ),
        Row::new(
            SECTION,
            "UDP client → server with hop limit 1",
            "forwarding: the hop limit ends at the gateway",
            "hop limit exceeded from fd00:1::1",
            move |s| s.at("client", || Probe { ttl: Some(1), ..Probe::new(server) }.send()).into(),
        ),
        Row::new(
            SECTION,
            "UDP client → narrow, 1500 bytes",
            "FORWARD: RELATED is accepted",
            "too big (MTU 1400) from 2001:db8:1::2",
            |s| {
                let probe = Probe { size: 1452, ..Probe::new(at("2001:db8:4::10", 7)) };
                s.at("client", || probe.send()).into()
            },
        ),
    ]
}
