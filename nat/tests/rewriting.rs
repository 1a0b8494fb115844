//! Rewritten packets against checksums computed anew, and back again.

mod common;

use common::{Gateway, Rules};
use proptest::prelude::*;
use tidegate_nat::{Conntrack, Range, State};
use tidegate_packet::builder::{self, Ip, Tcp};
use tidegate_packet::checksum::{self, Field};
use tidegate_packet::{Addr, Parsed, Transport, icmp, icmpv6, protocol};

/// A client's first packet and what the rules make of it.
#[derive(Clone, Debug)]
struct Case {
    packet: Vec<u8>,
    snat: Option<Range>,
    dnat: Option<Range>,
}

impl Case {
    fn rules(&self) -> Rules {
        Rules { snat: self.snat, dnat: self.dnat }
    }
}

fn host(v4: bool, net: u8, low: u16) -> Addr {
    let [a, b] = low.to_be_bytes();
    if v4 {
        Addr::from_v4_bytes([10, net, a, b])
    } else {
        Addr::from_v6_bytes([0xfd, net, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, a, b])
    }
}

fn packet(v4: bool, kind: u8, ports: (u16, u16), numbers: (u32, u16), body: &[u8]) -> Vec<u8> {
    let header = |protocol| Ip::new(host(v4, 1, numbers.1 | 1), host(v4, 2, 99), protocol);
    match kind {
        0 => {
            let (seq, window) = numbers;
            let flags = tidegate_packet::tcp::SYN;
            let fields =
                Tcp { sport: ports.0, dport: ports.1, seq, ack: 0, flags, window, options: &[] };
            builder::tcp(header(protocol::TCP), fields, body)
        }
        1 => builder::udp(header(protocol::UDP), ports.0, ports.1, body),
        2 => {
            let protocol = if v4 { protocol::ICMP } else { protocol::ICMPV6 };
            builder::echo(header(protocol), true, ports.0, ports.1, body)
        }
        3 => {
            // A datagram without checksum.
            let mut p = builder::udp(header(protocol::UDP), ports.0, ports.1, body);
            let at = p.len() - body.len() - 2;
            p[at..at + 2].fill(0);
            p
        }
        _ => {
            let mut s = Vec::new();
            s.extend(ports.0.to_be_bytes());
            s.extend(ports.1.to_be_bytes());
            // No tag yet, a checksum, and an INIT with its tag.
            s.extend([0; 8]);
            s.extend([1, 0]);
            s.extend((20 + body.len() as u16).to_be_bytes());
            s.extend(numbers.0.to_be_bytes());
            s.extend([0; 12]);
            s.extend(body);
            let crc = crc32c(&s);
            s[8..12].copy_from_slice(&crc.to_le_bytes());
            builder::ip(header(protocol::SCTP), &s)
        }
    }
}

/// Bit by bit, to be different from the table that is tested.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &b| {
        (0..8).fold(crc ^ u32::from(b), |c, _| (c >> 1) ^ (0x82f6_3b78 & (c & 1).wrapping_neg()))
    })
}

fn case() -> impl Strategy<Value = Case> {
    let end = |net: u8| {
        (any::<bool>(), any::<u16>(), proptest::option::of((1u16.., 0u16..500))).prop_map(
            move |(on, low, ports)| (on, net, low, ports.map(|(p, n)| (p, p.saturating_add(n)))),
        )
    };
    let body = proptest::collection::vec(any::<u8>(), 0..90);
    (any::<bool>(), 0u8..5, any::<(u16, u16)>(), any::<(u32, u16)>(), body, end(3), end(4))
        .prop_map(|(v4, kind, ports, numbers, body, snat, dnat)| {
            let range = |(on, net, low, ports): (bool, u8, u16, Option<(u16, u16)>)| {
                let addr = host(v4, net, low);
                on.then(|| Range { addrs: Some((addr, addr)), ports, ..Range::default() })
            };
            let packet = packet(v4, kind, ports, numbers, &body);
            Case { packet, snat: range(snat), dnat: range(dnat) }
        })
}

/// Whether every checksum of a packet is right.
fn sound(bytes: &[u8]) -> bool {
    let p = Parsed::parse(bytes).unwrap();
    let segment = p.segment(bytes);
    match p.protocol {
        protocol::ICMP => checksum::of(segment) == 0,
        protocol::UDP if segment[6..8] == [0, 0] => true,
        protocol::SCTP => {
            let mut copy = segment.to_vec();
            copy[8..12].fill(0);
            crc32c(&copy).to_le_bytes() == segment[8..12]
        }
        _ => checksum::verify_transport(p.src, p.dst, p.protocol, segment),
    }
}

/// The answer to a packet: ends exchanged.
fn answer(bytes: &[u8], body: &[u8]) -> Vec<u8> {
    let p = Parsed::parse(bytes).unwrap();
    let header = Ip::new(p.dst, p.src, p.protocol);
    match p.transport {
        Transport::Tcp { sport, dport, .. } => {
            let seq = tidegate_packet::tcp::Header::new_checked(p.segment(bytes)).unwrap().seq();
            let len = p.segment(bytes).len() as u32 - 20;
            let ack = seq.wrapping_add(1 + len);
            let flags = tidegate_packet::tcp::SYN | tidegate_packet::tcp::ACK;
            let fields =
                Tcp { sport: dport, dport: sport, seq: 7, ack, flags, window: 9, options: &[] };
            builder::tcp(header, fields, &[])
        }
        Transport::Udp { sport, dport } => builder::udp(header, dport, sport, body),
        Transport::Icmp { id, .. } | Transport::Icmpv6 { id, .. } => {
            builder::echo(header, false, id, 5, body)
        }
        Transport::Ports { sport, dport } => {
            let mut s = p.segment(bytes).to_vec();
            s[..2].copy_from_slice(&dport.to_be_bytes());
            s[2..4].copy_from_slice(&sport.to_be_bytes());
            // An INIT ACK, with the tag that the INIT said.
            s.copy_within(16..20, 4);
            s[12] = 2;
            s[8..12].fill(0);
            let crc = crc32c(&s);
            s[8..12].copy_from_slice(&crc.to_le_bytes());
            builder::ip(header, &s)
        }
        _ => unreachable!(),
    }
}

/// An error about a packet by a router on the way to `to`.
fn error(about: &[u8], to: Addr, quoted: usize) -> Vec<u8> {
    let v4 = to.is_v4();
    let (kind, header) = if v4 {
        (icmp::TIME_EXCEEDED, Ip::new(host(v4, 9, 1), to, protocol::ICMP))
    } else {
        (icmpv6::TIME_EXCEEDED, Ip::new(host(v4, 9, 1), to, protocol::ICMPV6))
    };
    builder::icmp(header, kind, 0, [0; 4], &about[..quoted.min(about.len())])
}

proptest! {
    #![proptest_config(common::proptest(400))]

    #[test]
    fn there_and_back(case in case(), body in proptest::collection::vec(any::<u8>(), 0..40)) {
        let mut gw = Gateway::new();
        let sent = Parsed::parse(&case.packet).unwrap();
        let out = gw.pass(&case.packet, case.rules()).unwrap();
        prop_assert!(sound(&out));
        let seen = Parsed::parse(&out).unwrap();
        prop_assert_eq!(seen.src, case.snat.map_or(sent.src, |r| r.addrs.unwrap().0));
        prop_assert_eq!(seen.dst, case.dnat.map_or(sent.dst, |r| r.addrs.unwrap().0));

        let back = gw.pass(&answer(&out, &body), Rules::default()).unwrap();
        prop_assert!(sound(&back));
        // What comes back is what the client would have got from the one it wrote to.
        prop_assert_eq!(back, answer(&case.packet, &body));
    }

    /// A partial field holds the pseudo-header's sum before and after.
    #[test]
    fn partial_fields(case in case()) {
        let p = Parsed::parse(&case.packet).unwrap();
        let l4 = usize::from(p.l4);
        let at = match p.protocol {
            protocol::TCP => l4 + 16,
            protocol::UDP => l4 + 6,
            _ => return Ok(()),
        };
        let mut sent = case.packet.clone();
        let len = p.len - u32::from(p.l4);
        let partial = |src, dst| checksum::fold(checksum::pseudo_header(src, dst, p.protocol, len));
        sent[at..at + 2].copy_from_slice(&partial(p.src, p.dst).to_be_bytes());
        let (mut out, _) = Gateway::new().pass_as(&sent, case.rules(), Field::Partial).unwrap();
        let q = Parsed::parse(&out).unwrap();
        prop_assert_eq!(&out[at..at + 2], partial(q.src, q.dst).to_be_bytes());
        prop_assert!(checksum::complete_partial(&mut out, l4, at - l4));
        prop_assert!(sound(&out));
    }

    /// An error from beyond comes back quoting what the client sent, byte for byte.
    #[test]
    fn errors_quote_what_was_sent(case in case(), more in 0usize..150) {
        let mut gw = Gateway::new();
        let out = gw.pass(&case.packet, case.rules()).unwrap();
        let (sent, seen) = (Parsed::parse(&case.packet).unwrap(), Parsed::parse(&out).unwrap());
        // Between 8 and 20 bytes a quoted TCP header may hold a checksum that isn't mended.
        let least = usize::from(sent.l4) + if sent.protocol == protocol::TCP && more > 0 { 20 } else { 8 };
        let quoted = least + more;
        let (got, tracked) = gw
            .pass_as(&error(&out, seen.src, quoted), Rules::default(), Field::Complete)
            .unwrap();
        prop_assert_eq!(tracked.state(), State::Related);
        prop_assert!(sound(&got));
        let p = Parsed::parse(&got).unwrap();
        prop_assert_eq!(p.dst, sent.src);
        let quote = &p.segment(&got)[8..];
        let mut want = case.packet[..quoted.min(case.packet.len())].to_vec();
        // SCTP's checksum can't be computed anew from a quote.
        if sent.protocol == protocol::SCTP {
            let (at, end) = (usize::from(sent.l4) + 8, want.len());
            let end = end.min(at + 4);
            want[at..end].copy_from_slice(&out[at..end]);
        }
        prop_assert_eq!(quote, want);
    }

    /// The same for an error about an answer, sent by the client's side.
    #[test]
    fn errors_about_answers(case in case(), more in 0usize..60) {
        let mut gw = Gateway::new();
        let out = gw.pass(&case.packet, case.rules()).unwrap();
        let reply = answer(&out, b"some bytes");
        let seen = gw.pass(&reply, Rules::default()).unwrap();
        let (sent, seen_by) = (Parsed::parse(&reply).unwrap(), Parsed::parse(&seen).unwrap());
        let quoted = usize::from(sent.l4) + 20 + more;
        let about = error(&seen, seen_by.src, quoted);
        let (got, tracked) = gw.pass_as(&about, Rules::default(), Field::Complete).unwrap();
        prop_assert_eq!(tracked.state(), State::Related);
        prop_assert!(sound(&got));
        let p = Parsed::parse(&got).unwrap();
        prop_assert_eq!(p.dst, sent.src);
        let mut want = reply[..quoted.min(reply.len())].to_vec();
        if sent.protocol == protocol::SCTP {
            let at = usize::from(sent.l4) + 8;
            want[at..at + 4].copy_from_slice(&seen[at..at + 4]);
        }
        prop_assert_eq!(&p.segment(&got)[8..], want);
    }

    /// The gateway's own answers: a reset and an error to the first packet, before the connection
    /// is in the table. Both come from the address that the client wrote to.
    #[test]
    fn own_answers(case in case()) {
        let mut table = Conntrack::new(tidegate_nat::Settings::default(), [5, 6]);
        let now = tidegate_packet::Instant::from_secs(9);
        let mut bytes = case.packet.clone();
        let mut packet = Parsed::parse(&bytes).unwrap();
        let mut question = table.track(&packet, &bytes, true, now);
        let manip = tidegate_nat::Manip::Destination;
        table.set_nat(&mut question, manip, case.dnat.as_ref(), now, &mut || 7).unwrap();
        table.translate(&question, manip, &mut packet, &mut bytes, Field::Complete).unwrap();

        let tracked = table.attach_reply(&question).unwrap();
        prop_assert_eq!(tracked.state(), State::Related);
        for mut made in [answer(&bytes, b""), error(&bytes, packet.src, 60)] {
            // An error of the gateway comes from the gateway; a reset in the server's name.
            let mut p = Parsed::parse(&made).unwrap();
            let manip = tidegate_nat::Manip::Source;
            prop_assert!(!table.needs_nat(&tracked, manip));
            table.translate(&tracked, manip, &mut p, &mut made, Field::Complete).unwrap();
            prop_assert!(sound(&made));
            if case.dnat.is_some() {
                prop_assert_eq!(p.src, Parsed::parse(&case.packet).unwrap().dst);
            }
        }
        prop_assert!(table.is_empty());
    }
}
