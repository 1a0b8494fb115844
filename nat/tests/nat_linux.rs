//! Translation against Linux 6.18: random flows through a gateway with
//!
//! ```text
//! -t nat -A POSTROUTING -o wan -j MASQUERADE
//! -t nat -A PREROUTING -i wan -p tcp --dport 80 -j DNAT --to-destination 192.168.0.5
//! -t nat -A PREROUTING -i wan -p udp --dport 80 -j DNAT --to-destination 192.168.0.6:8080
//! -A FORWARD -m conntrack --ctstate INVALID -j DROP
//! -A INPUT -j DROP
//! ```
//!
//! were recorded. `out protocol source port destination port = kept|moved packets`: a packet from
//! the LAN, whether its port was kept, and which earlier ones of the protocol left by the same
//! port. `answer packet from flags = ...`: an answer to such a packet, perhaps from another host,
//! and what reached the LAN. `in protocol source port port = ...`: a packet from outside.

mod common;

use common::{Gateway, Rules, ip, to};
use tidegate_nat::{Manip, State};
use tidegate_packet::builder::{self, Tcp, echo, tcp, udp};
use tidegate_packet::checksum::Field;
use tidegate_packet::{Parsed, Transport, protocol};

const WAN: &str = "203.0.113.1";

fn ports(bytes: &[u8]) -> (u16, u16) {
    let p = Parsed::parse(bytes).unwrap();
    match p.transport {
        Transport::Icmp { id, .. } => (id, 0),
        _ => p.ports().unwrap_or((0, 0)),
    }
}

#[derive(Clone, Copy)]
struct Numbers {
    seq: u32,
    ack: u32,
    flags: u8,
}

fn packet(kind: u8, src: &str, sport: u16, dst: &str, dport: u16, n: Numbers) -> Vec<u8> {
    let header = ip(src, dst, kind);
    match kind {
        protocol::TCP => {
            let Numbers { seq, ack, flags } = n;
            let fields = Tcp { sport, dport, seq, ack, flags, window: 100, options: &[] };
            tcp(header, fields, &[])
        }
        protocol::UDP => udp(header, sport, dport, b"x"),
        protocol::ICMP => echo(header, n.ack == 0, sport.max(dport), 1, &[]),
        _ => builder::ip(header, &[0; 8]),
    }
}

/// A packet from outside; what reaches the LAN, as the recording prints it.
fn inwards(gw: &mut Gateway, bytes: &[u8]) -> String {
    let p = Parsed::parse(bytes).unwrap();
    let forwarded = matches!(p.ports(), Some((_, 80))) && p.dst == common::addr(WAN);
    let dnat = forwarded.then(|| {
        let mut range = to(if p.protocol == protocol::TCP { "192.168.0.5" } else { "192.168.0.6" });
        range.ports = (p.protocol == protocol::UDP).then_some((8080, 8080));
        range
    });
    // INPUT drops before the connection is confirmed, so look before passing.
    let mut bytes = bytes.to_vec();
    let mut packet = p;
    let mut tracked = gw.table.track(&packet, &bytes, true, gw.now);
    if matches!(tracked.state(), State::Invalid(_)) {
        return "-".into();
    }
    let random = &mut || 12345;
    if gw.table.needs_nat(&tracked, Manip::Destination) {
        gw.table.set_nat(&mut tracked, Manip::Destination, dnat.as_ref(), gw.now, random).unwrap();
    }
    let field = Field::Complete;
    gw.table.translate(&tracked, Manip::Destination, &mut packet, &mut bytes, field).unwrap();
    if packet.dst == common::addr(WAN) {
        return "-".into();
    }
    if gw.table.set_nat(&mut tracked, Manip::Source, None, gw.now, random).is_err() {
        return "-".into();
    }
    gw.table.translate(&tracked, Manip::Source, &mut packet, &mut bytes, field).unwrap();
    if gw.table.confirm(&mut tracked, gw.now).is_err() {
        return "-".into();
    }
    let (sport, dport) = ports(&bytes);
    format!("{} {} {sport} {dport}", packet.src, packet.dst)
}

struct Sent {
    kind: u8,
    dport: u16,
    left_by: u16,
}

fn replay(name: &str, text: &str) {
    let mut gw = Gateway::new();
    let masquerade = Rules { snat: Some(to(WAN)), dnat: None };
    let mut sent: Vec<Sent> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let Some((what, want)) = line.split_once(" = ") else {
            gw.table.flush();
            continue;
        };
        let f: Vec<&str> = what.split(' ').collect();
        let num = |i: usize| f[i].parse::<u16>().unwrap();
        let syn = Numbers { seq: 100, ack: 0, flags: 2 };
        let got = match f[0] {
            "out" => {
                let (kind, sport, dport) = (num(1) as u8, num(3), num(5));
                let bytes = packet(kind, f[2], sport, f[4], dport, syn);
                match gw.pass(&bytes, masquerade) {
                    Ok(out) => {
                        let left_by = ports(&out).0;
                        let same: Vec<String> = (0..sent.len())
                            .filter(|&i| sent[i].kind == kind && sent[i].left_by == left_by)
                            .map(|i| i.to_string())
                            .collect();
                        sent.push(Sent { kind, dport, left_by });
                        let kept = if left_by == sport { "kept" } else { "moved" };
                        let same = if same.is_empty() { "-".into() } else { same.join(",") };
                        format!("{kept} {same}")
                    }
                    Err(_) => "dropped".into(),
                }
            }
            "answer" => {
                let Sent { kind, dport, left_by } = sent[usize::from(num(1))];
                let numbers = Numbers { seq: 500, ack: 101, flags: num(3) as u8 };
                inwards(&mut gw, &packet(kind, f[2], dport, WAN, left_by, numbers))
            }
            _ => {
                let bytes = packet(num(1) as u8, f[2], num(3), WAN, num(4), syn);
                inwards(&mut gw, &bytes)
            }
        };
        assert_eq!(got, want, "{name}, line {}: {line}", number + 1);
    }
}

#[test]
fn recordings() {
    replay("1", include_str!("data/nat-linux-6.18-1.txt"));
    replay("2", include_str!("data/nat-linux-6.18-2.txt"));
    replay("3", include_str!("data/nat-linux-6.18-3.txt"));
}
