//! What the rules refuse, and how.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};

use tidegate_packet::builder::{self, Ip};
use tidegate_packet::{Addr, protocol, tcp as flags};

use super::super::scene::{Scene, at, ip};
use super::super::traffic::{PATIENCE, SILENCE, raw, tcp, udp};
use super::{Row, Seen};

const SECTION: &str = "Refused";
const UPLINK: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const OUTSIDER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 66);
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 2);
const CLIENT2: Ipv4Addr = Ipv4Addr::new(10, 3, 0, 2);
const GATEWAY2: Ipv4Addr = Ipv4Addr::new(10, 3, 0, 1);
const CLOSED: u16 = 81;

const RESET: &str = "INPUT: tcp that TCP doesn't accept, REJECT with tcp-reset";
const UNREACHABLE: &str = "INPUT: udp that UDP doesn't accept, REJECT with icmp-port-unreachable";
const UNASKED: &str = "FORWARD: fw-open doesn't know it, REJECT with icmp-host-unreachable";

pub(super) fn rows() -> Vec<Row> {
    let mut rows = towards_the_gateway();
    rows.extend(through_the_gateway());
    rows.extend(scans());
    rows.push(Row::new(
        SECTION,
        "TCP client2 → gateway port 22, four times",
        "IN_SSH: three attempts in ten seconds, then LOG_AND_DROP (no sshd listens here)",
        "reset, reset, reset, no answer",
        |s| brute_force(s).map_or_else(|e| Seen::new(format!("error: {e}")), Seen::new),
    ));
    rows
}

fn towards_the_gateway() -> Vec<Row> {
    vec![
        Row::new(SECTION, "TCP outsider → gateway, closed port", RESET, "reset", |s| {
            s.at("outsider", || tcp::knock(at("203.0.113.1", CLOSED), PATIENCE)).into()
        }),
        Row::new(SECTION, "TCP client → gateway, closed port", RESET, "reset", |s| {
            s.at("client", || tcp::knock(at("192.168.0.1", CLOSED), PATIENCE)).into()
        }),
        Row::new(
            SECTION,
            "UDP outsider → gateway, closed port",
            UNREACHABLE,
            "port unreachable from 203.0.113.1",
            |s| s.at("outsider", || udp::Probe::new(at("203.0.113.1", CLOSED)).send()).into(),
        ),
        Row::new(
            SECTION,
            "UDP client → gateway, closed port",
            UNREACHABLE,
            "port unreachable from 192.168.0.1",
            |s| s.at("client", || udp::Probe::new(at("192.168.0.1", CLOSED)).send()).into(),
        ),
        Row::new(
            SECTION,
            "protocol 253 outsider → gateway",
            "INPUT: everything else, REJECT with icmp-proto-unreachable",
            "protocol unreachable from 203.0.113.1",
            |s| s.at("outsider", || raw::unknown_protocol(ip("203.0.113.1"), PATIENCE)).into(),
        ),
    ]
}

fn through_the_gateway() -> Vec<Row> {
    vec![
        Row::new(
            SECTION,
            "TCP outsider → client's own address",
            UNASKED,
            "host unreachable from 203.0.113.1",
            |s| s.at("outsider", || tcp::knock(at("192.168.0.2", 7), PATIENCE)).into(),
        ),
        Row::new(
            SECTION,
            "UDP outsider → client2's own address",
            UNASKED,
            "host unreachable from 203.0.113.1",
            |s| s.at("outsider", || udp::Probe::new(at("10.3.0.2", 7)).send()).into(),
        ),
        Row::new(
            SECTION,
            "UDP from outside, client's as source",
            "rp_filter = 1: that source doesn't live behind ppp0",
            "client hears nothing",
            |s| spoofed(s).map_or_else(|e| Seen::new(format!("error: {e}")), Seen::new),
        ),
    ]
}

fn scans() -> Vec<Row> {
    let scan = |s: &Scene, sport, bits| {
        let (from, to) = (SocketAddrV4::new(OUTSIDER, sport), SocketAddrV4::new(UPLINK, CLOSED));
        let wait = if bits == flags::ACK { PATIENCE } else { SILENCE };
        s.at("outsider", || raw::segment(from, to, bits, wait)).into()
    };
    vec![
        Row::new(
            SECTION,
            "TCP without any flag (NULL scan)",
            "INPUT: INVALID is dropped",
            "no answer",
            move |s| scan(s, 50001, 0),
        ),
        Row::new(
            SECTION,
            "TCP with FIN, PSH, URG (XMAS scan)",
            "INPUT: INVALID is dropped",
            "no answer",
            move |s| scan(s, 50002, flags::FIN | flags::PSH | flags::URG),
        ),
        Row::new(
            SECTION,
            "TCP with ACK alone (ACK scan)",
            "INPUT: NEW, but no SYN: REJECT with tcp-reset",
            "reset",
            move |s| scan(s, 50003, flags::ACK),
        ),
    ]
}

/// Asks the port forward to web in client's name: without the reverse path check web would answer
/// client.
fn spoofed(scene: &Scene) -> io::Result<&'static str> {
    const PORT: u16 = 50004;
    let victim = scene.at("client", || UdpSocket::bind((CLIENT, PORT)))?;
    victim.set_read_timeout(Some(SILENCE))?;
    let header = Ip::new(Addr::from(CLIENT), Addr::from(UPLINK), protocol::UDP);
    let packet = builder::udp(header, PORT, 8000, b"spoofed");
    scene.at("outsider", || raw::send_v4(&packet))?;
    match victim.recv_from(&mut [0; 64]) {
        Ok(_) => Ok("client hears an answer"),
        Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            Ok("client hears nothing")
        }
        Err(e) => Err(e),
    }
}

fn brute_force(scene: &Scene) -> io::Result<String> {
    // By hand: a kernel that waits long enough for an answer would send its SYN again, which counts.
    let to = SocketAddrV4::new(GATEWAY2, 22);
    let attempts = (0..4)
        .map(|n| {
            let (from, wait) =
                (SocketAddrV4::new(CLIENT2, 50010 + n), if n < 3 { PATIENCE } else { SILENCE });
            let answer = scene.at("client2", || raw::segment(from, to, flags::SYN, wait))?;
            Ok(answer.to_string())
        })
        .collect::<io::Result<Vec<_>>>()?;
    Ok(attempts.join(", "))
}
