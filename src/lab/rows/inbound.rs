//! From outside to what is open.

use super::super::scene::{at, ip};
use super::super::traffic::{ping, tcp, udp};
use super::Row;

const SECTION: &str = "In from outside";
const TO_SSH: &str = "PREROUTING: DNAT of port 22 to 192.168.0.5; fw-open accepts it";
const TO_WEB: &str = "PREROUTING: DNAT of port 8000 to 192.168.0.6:80; fw-open accepts it";

pub(super) fn rows() -> Vec<Row> {
    vec![
        Row::new(
            SECTION,
            "ping outsider → gateway",
            "INPUT: icmp type 8 is accepted",
            "reply from 203.0.113.1, TTL 63",
            |s| s.at("outsider", || ping::ping(ip("203.0.113.1"))).into(),
        ),
        Row::new(
            SECTION,
            "TCP outsider → gateway port 22",
            TO_SSH,
            "ssh sees 192.0.2.66, port kept",
            |s| s.at("outsider", || tcp::ask(None, at("203.0.113.1", 22))).into(),
        ),
        Row::new(
            SECTION,
            "UDP outsider → gateway port 22",
            TO_SSH,
            "ssh sees 192.0.2.66, port kept",
            |s| s.at("outsider", || udp::ask(None, at("203.0.113.1", 22))).into(),
        ),
        Row::new(
            SECTION,
            "TCP outsider → gateway port 8000",
            TO_WEB,
            "web sees 192.0.2.66, port kept",
            |s| s.at("outsider", || tcp::ask(None, at("203.0.113.1", 8000))).into(),
        ),
        Row::new(
            SECTION,
            "UDP outsider → gateway port 8000",
            TO_WEB,
            "web sees 192.0.2.66, port kept",
            |s| s.at("outsider", || udp::ask(None, at("203.0.113.1", 8000))).into(),
        ),
    ]
}
