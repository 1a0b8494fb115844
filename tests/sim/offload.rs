//! Super-packets and partial checksums: translated in one header, passed on whole.

use crate::common::frames::{Arrival, super_packet};
use crate::common::{addr, arriving, check, page_with_neighbours};
use tidegate::engine::Drop;
use tidegate::io::channel::Flying;
use tidegate::io::{Checksum, Gso, GsoKind, Offload};
use tidegate::sim::{Sim, SimConfig};
use tidegate_packet::builder::{self, Ip, Tcp};
use tidegate_packet::{Parsed, checksum, tcp};

/// A connection from the LAN stands.
fn connected(client: &str, server: &str, seen_as: &str) -> Sim {
    connected_over(&page_with_neighbours(), client, server, seen_as)
}

fn connected_over(config: &SimConfig, client: &str, server: &str, seen_as: &str) -> Sim {
    let mut sim = Sim::new(config).expect("a configuration");
    let ip = |src: &str, dst: &str| Ip::new(addr(src), addr(dst), 6);
    let fields = Tcp { sport: 40_000, dport: 80, seq: 100, window: 60_000, ..Tcp::default() };
    let back =
        Tcp { sport: 80, dport: 40_000, seq: 900, ack: 101, window: 60_000, ..Tcp::default() };
    let handshake = [
        ("eth0", builder::tcp(ip(client, server), Tcp { flags: tcp::SYN, ..fields }, &[])),
        (
            "ppp0",
            builder::tcp(ip(server, seen_as), Tcp { flags: tcp::SYN | tcp::ACK, ..back }, &[]),
        ),
        (
            "eth0",
            builder::tcp(
                ip(client, server),
                Tcp { seq: 101, ack: 901, flags: tcp::ACK, ..fields },
                &[],
            ),
        ),
    ];
    for (port, packet) in handshake {
        sim.inject(port, arriving(port, &packet)).expect("a port");
        assert_eq!(sim.collect().len(), 1);
    }
    sim
}

fn data(src: &str, dst: &str, ports: (u16, u16), seq: u32, ack: u32, len: usize) -> Vec<u8> {
    let flags = tcp::ACK | tcp::PSH;
    let fields =
        Tcp { sport: ports.0, dport: ports.1, seq, ack, flags, window: 60_000, options: &[] };
    builder::tcp(Ip::new(addr(src), addr(dst), 6), fields, &vec![0x5a; len])
}

fn one(sim: &mut Sim, arrival: Arrival) -> (String, Flying) {
    sim.inject(arrival.port, arrival.frame).expect("a port");
    let mut out = sim.collect();
    let drops: Vec<_> = sim.counters().drops().collect();
    assert_eq!(out.len(), 1, "{drops:?}");
    out.remove(0)
}

#[test]
fn a_super_packet_leaves_whole() {
    let rows = [
        ("192.168.0.2", "198.51.100.10", "203.0.113.1", GsoKind::Tcp4),
        ("fd00:1::2", "2001:db8:2::10", "fd00:1::2", GsoKind::Tcp6),
    ];
    for (client, server, seen_as, kind) in rows {
        let mut sim = connected(client, server, seen_as);
        let up = data(client, server, (40_000, 80), 101, 901, 50_000);
        let (port, out) = one(&mut sim, super_packet("eth0", up, kind, 1400));
        let p = Parsed::parse(&out.bytes[14..]).expect("a packet");
        assert_eq!((port.as_str(), p.src), ("ppp0", addr(seen_as)));
        let gso = out.offload.gso.expect("still a super-packet");
        assert_eq!((gso.kind, gso.size), (kind, 1400));
        assert!(matches!(out.offload.checksum, Checksum::Partial { .. }));
        check::decodes(&out).expect("the device can finish it");
        assert!(check::transport_is_right(&out));

        // And back, in another size.
        let down = data(server, seen_as, (80, 40_000), 901, 50_101, 60_000);
        let (port, out) = one(&mut sim, super_packet("ppp0", down, kind, 1440));
        let p = Parsed::parse(&out.bytes[14..]).expect("a packet");
        assert_eq!((port.as_str(), p.dst, p.len > 60_000), ("eth0", addr(client), true));
        assert!(check::transport_is_right(&out));
    }
}

#[test]
fn a_partial_checksum_is_handed_on() {
    let mut sim = connected("192.168.0.2", "198.51.100.10", "203.0.113.1");
    let small = data("192.168.0.2", "198.51.100.10", (40_000, 80), 101, 901, 100);
    let mut arrival = super_packet("eth0", small, GsoKind::Tcp4, 1400);
    arrival.frame.offload.gso = None;
    let before = arrival.frame.offload.checksum;
    let (_, out) = one(&mut sim, arrival);
    assert_eq!(out.offload, Offload { checksum: before, gso: None });
    assert!(check::transport_is_right(&out));
}

/// What connection tracking has verified, a device may join with others. What it hasn't, may not.
#[test]
fn a_checksum_that_was_verified_is_known_to_be_right() {
    for (sysctls, want) in
        [("", Checksum::Valid), ("net.netfilter.nf_conntrack_checksum = 0", Checksum::Unverified)]
    {
        let config = SimConfig { sysctls: sysctls.to_owned(), ..page_with_neighbours() };
        let mut sim = connected_over(&config, "192.168.0.2", "198.51.100.10", "203.0.113.1");
        let up = data("192.168.0.2", "198.51.100.10", (40_000, 80), 101, 901, 100);
        let (_, out) = one(&mut sim, Arrival { port: "eth0", frame: arriving("eth0", &up).into() });
        assert_eq!(out.offload, Offload { checksum: want, gso: None }, "{sysctls:?}");
        assert!(check::transport_is_right(&out));
    }
}

/// One segment's worth is an ordinary packet, whatever the header says.
#[test]
fn a_short_super_packet_is_none() {
    let mut sim = connected("192.168.0.2", "198.51.100.10", "203.0.113.1");
    let small = data("192.168.0.2", "198.51.100.10", (40_000, 80), 101, 901, 100);
    let (_, out) = one(&mut sim, super_packet("eth0", small, GsoKind::Tcp4, 65_535));
    assert_eq!(out.offload.gso, None);
}

/// Segments that don't fit the uplink are reported with its MTU, as one packet of their size.
#[test]
fn segments_too_long_for_the_uplink() {
    let mut sim = connected("fd00:1::2", "2001:db8:2::10", "fd00:1::2");
    let up = data("fd00:1::2", "2001:db8:2::10", (40_000, 80), 101, 901, 50_000);
    let (port, out) = one(&mut sim, super_packet("eth0", up, GsoKind::Tcp6, 1500));
    let p = Parsed::parse(&out.bytes[14..]).expect("a packet");
    assert_eq!((port.as_str(), p.icmp()), ("eth0", Some((2, 0))));
    assert_eq!(out.bytes[58..62], 1500_u32.to_be_bytes());
    assert_eq!(sim.counters().dropped(Drop::TooBig), 1);
}

/// Where no segment fits and the sender allows it, each is fragmented, as the wire would have it.
#[test]
fn segments_are_fragmented_where_that_is_allowed() {
    let mut config = page_with_neighbours();
    config.interfaces[2].mtu = 1000;
    let (client, server, seen_as) = ("192.168.0.2", "198.51.100.10", "203.0.113.1");
    let mut sim = connected_over(&config, client, server, seen_as);
    let fields = Tcp { sport: 40_000, dport: 80, seq: 101, ack: 901, ..Tcp::default() };
    let fields = Tcp { flags: tcp::ACK | tcp::PSH, window: 60_000, ..fields };
    let ip = Ip { id: 0xffff, dont_fragment: false, ..Ip::new(addr(client), addr(server), 6) };
    let payload: Vec<u8> = (0..3000).map(|n| n as u8).collect();
    let up = super_packet("eth0", builder::tcp(ip, fields, &payload), GsoKind::Tcp4, 1400);
    sim.inject("eth0", up.frame).expect("a port");

    let mut segments: Vec<(u16, Vec<u8>)> = Vec::new();
    let out = sim.collect();
    let lengths: Vec<_> = out.iter().map(|(_, f)| f.bytes.len() - 14).collect();
    assert_eq!(lengths, [996, 464, 996, 464, 240]);
    for (_, flying) in &out {
        assert_eq!(flying.offload.gso, None);
        let packet = &flying.bytes[14..];
        let p = Parsed::parse(packet).expect("a packet");
        match p.fragment {
            Some(f) if f.offset > 0 => {
                let (_, segment) = segments.last_mut().expect("the first came before");
                segment.extend_from_slice(&packet[20..]);
            }
            _ => segments.push((u16::from_be_bytes([packet[4], packet[5]]), packet[20..].to_vec())),
        }
    }
    let mut whole = Vec::new();
    for (n, (id, segment)) in segments.iter().enumerate() {
        assert_eq!(*id, 0xffff_u16.wrapping_add(n as u16));
        assert!(checksum::verify_transport(addr(seen_as), addr(server), 6, segment));
        let header = tcp::Header::new_checked(segment).expect("a header");
        assert_eq!(header.seq() as usize, 101 + whole.len());
        assert_eq!(header.flags() & tcp::PSH != 0, n == 2);
        whole.extend_from_slice(&segment[20..]);
    }
    assert_eq!(whole, payload);
}

/// A device's word that doesn't fit the frame is not believed.
#[test]
fn wild_requests_are_refused() {
    let partial = |start, offset| Checksum::Partial { start, offset };
    let gso = |kind, size| Some(Gso { kind, size, ecn: false });
    let right = partial(34, 16);
    let rows = [
        ("beyond the frame", partial(65_535, 65_535), None),
        ("its field beyond the frame", partial(34, 6000), None),
        ("inside the link header", partial(0, 20), None),
        ("the field inside the IP header", partial(14, 12), None),
        ("no size", right, gso(GsoKind::Tcp4, 0)),
        ("of the other family", right, gso(GsoKind::Tcp6, 1400)),
        ("of another protocol", right, gso(GsoKind::UdpL4, 1400)),
        ("the wrong field of a super-packet", partial(34, 6), gso(GsoKind::Tcp4, 1400)),
    ];
    for (what, checksum, gso) in rows {
        let mut sim = connected("192.168.0.2", "198.51.100.10", "203.0.113.1");
        let up = data("192.168.0.2", "198.51.100.10", (40_000, 80), 101, 901, 5000);
        let mut arrival = super_packet("eth0", up, GsoKind::Tcp4, 1400);
        arrival.frame.offload = Offload { checksum, gso };
        sim.inject("eth0", arrival.frame).expect("a port");
        assert_eq!(sim.collect(), [], "{what}");
        assert_eq!(sim.counters().dropped(Drop::Offload), 1, "{what}");
    }
}

/// A checksum that isn't the outer header's (a tunnel's inner one) is finished on the spot.
#[test]
fn an_inner_partial_checksum_is_finished() {
    let mut sim = Sim::new(&page_with_neighbours()).expect("a configuration");
    let inner = builder::udp(Ip::new(addr("10.9.9.1"), addr("10.9.9.2"), 17), 1, 2, b"inner");
    let header = Ip::new(addr("192.168.0.2"), addr("198.51.100.10"), 17);
    let mut vxlan = builder::udp(header, 50_000, 4789, &inner);
    vxlan[26..28].fill(0);
    let mut flying = Flying::from(arriving("eth0", &vxlan));
    let (start, offset) = (14 + 28 + 20, 6);
    let want = flying.bytes[start + offset..start + offset + 2].to_vec();
    let sum = checksum::pseudo_header(addr("10.9.9.1"), addr("10.9.9.2"), 17, 13);
    let sum = checksum::fold(sum).to_be_bytes();
    flying.bytes[start + offset..start + offset + 2].copy_from_slice(&sum);
    flying.offload.checksum = Checksum::Partial { start: start as u16, offset: offset as u16 };
    let (_, out) = one(&mut sim, Arrival { port: "eth0", frame: flying });
    // The outer header has none, which is right too (RFC 768).
    assert_eq!(out.offload, Offload { checksum: Checksum::Valid, gso: None });
    assert_eq!(out.bytes[start + offset..start + offset + 2], want);
}
