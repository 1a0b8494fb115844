//! Frames of every kind that a gateway meets, as they arrive at the page's gateway. Whole and
//! right; tests damage them.

use super::{addr, arriving, frame, gateway_mac, host_mac};
use tidegate::io::channel::Flying;
use tidegate::io::{Checksum, Gso, GsoKind, Offload};
use tidegate_packet::arp::{Arp, Operation};
use tidegate_packet::builder::{self, Ip, Tcp};
use tidegate_packet::ndp::{self, Ndp};
use tidegate_packet::{MacAddr, checksum, icmp, icmpv6, ipv4, protocol, tcp};

/// A frame and the port that it arrives on.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The port.
    pub port: &'static str,
    /// The frame.
    pub frame: Flying,
}

impl Arrival {
    fn new(port: &'static str, frame: impl Into<Flying>) -> Self {
        Self { port, frame: frame.into() }
    }

    fn packet(port: &'static str, packet: &[u8]) -> Self {
        Self::new(port, arriving(port, packet))
    }
}

/// All kinds.
pub fn catalogue() -> Vec<Arrival> {
    let mut all = tcp_frames();
    all.extend(udp_frames());
    all.extend(icmp_frames());
    all.extend(icmpv6_frames());
    all.extend(link_frames());
    all.extend(fragments());
    all.extend(headers());
    all.extend(super_packets());
    all
}

const LAN: &str = "192.168.0.2";
const LAN_B: &str = "10.3.0.9";
const FAR: &str = "198.51.100.10";
const WAN: &str = "203.0.113.1";
const LAN6: &str = "fd00:1::2";
const FAR6: &str = "2001:db8:2::10";
const WAN6: &str = "2001:db8:1::1";

fn ip(src: &str, dst: &str) -> Ip {
    Ip { id: 7, ..Ip::new(addr(src), addr(dst), 0) }
}

fn segment(src: &str, dst: &str, ports: (u16, u16), flags: u8, numbers: (u32, u32)) -> Vec<u8> {
    let fields = Tcp {
        sport: ports.0,
        dport: ports.1,
        seq: numbers.0,
        ack: numbers.1,
        flags,
        window: 4000,
        options: if flags & tcp::SYN != 0 { &[2, 4, 5, 0xb4, 3, 3, 7, 0] } else { &[] },
    };
    let data: &[u8] = if flags & tcp::PSH != 0 { b"hello" } else { b"" };
    builder::tcp(ip(src, dst), fields, data)
}

fn tcp_frames() -> Vec<Arrival> {
    let mut all = Vec::new();
    for (port, src, dst) in [("eth0", LAN, FAR), ("eth1", LAN_B, FAR), ("eth0", LAN6, FAR6)] {
        let back = if addr(src).is_v4() { WAN } else { src };
        let (up, down) = ((40_000, 80), (80, 40_000));
        all.extend([
            Arrival::packet(port, &segment(src, dst, up, tcp::SYN, (100, 0))),
            Arrival::packet("ppp0", &segment(dst, back, down, tcp::SYN | tcp::ACK, (900, 101))),
            Arrival::packet(port, &segment(src, dst, up, tcp::ACK, (101, 901))),
            Arrival::packet(port, &segment(src, dst, up, tcp::ACK | tcp::PSH, (101, 901))),
            Arrival::packet("ppp0", &segment(dst, back, down, tcp::ACK | tcp::FIN, (901, 106))),
            Arrival::packet(port, &segment(src, dst, up, tcp::RST, (101, 0))),
        ]);
    }
    // Port forwards, closed ports, the gateway itself, and no flags at all.
    all.extend([
        Arrival::packet("ppp0", &segment(FAR, WAN, (5000, 8000), tcp::SYN, (1, 0))),
        Arrival::packet("ppp0", &segment(FAR, WAN, (5000, 22), tcp::SYN, (1, 0))),
        Arrival::packet("ppp0", &segment(FAR, WAN, (5000, 81), tcp::SYN, (1, 0))),
        Arrival::packet("eth0", &segment(LAN, "192.168.0.1", (5000, 80), tcp::SYN, (1, 0))),
        Arrival::packet("eth0", &segment(LAN, FAR, (5001, 80), tcp::ACK, (1, 5))),
        Arrival::packet("eth0", &segment(LAN, FAR, (5002, 80), 0, (1, 5))),
        Arrival::packet("eth0", &segment(LAN, FAR, (5003, 80), tcp::SYN | tcp::FIN, (1, 5))),
    ]);
    all
}

fn udp_frames() -> Vec<Arrival> {
    let ask = |src, dst, sport, dport| builder::udp(ip(src, dst), sport, dport, b"question");
    let mut unchecked = ask(LAN, FAR, 4001, 53);
    unchecked[26..28].fill(0);
    let mut dns = ask("192.168.0.2", "192.168.0.1", 4002, 53);
    dns[8] = 1;
    ipv4::write_checksum(&mut dns);
    let with_ttl = |ttl| builder::udp(Ip { hop_limit: ttl, ..ip(LAN, FAR) }, 4003, 33_434, b"t");
    vec![
        Arrival::packet("eth0", &ask(LAN, FAR, 4000, 53)),
        Arrival::packet("ppp0", &ask(FAR, WAN, 53, 4000)),
        Arrival::packet("eth1", &ask(LAN_B, FAR, 4000, 53)),
        Arrival::packet("ppp0", &ask(FAR, WAN, 5000, 8000)),
        Arrival::packet("ppp0", &ask(FAR, WAN, 5000, 9)),
        Arrival::packet("ppp0", &ask(FAR, LAN, 5000, 9)),
        Arrival::packet("eth0", &unchecked),
        Arrival::packet("eth0", &dns),
        Arrival::packet("eth0", &with_ttl(1)),
        Arrival::packet("eth0", &with_ttl(2)),
        Arrival::packet("eth0", &ask(LAN, "10.3.0.9", 4000, 53)),
        Arrival::packet("eth0", &ask(LAN, "255.255.255.255", 4000, 53)),
        Arrival::packet("eth0", &ask(LAN, "192.168.0.255", 4000, 53)),
        Arrival::packet("eth0", &ask("0.0.0.0", "255.255.255.255", 68, 67)),
        Arrival::packet("ppp0", &ask("203.0.113.2", WAN, 67, 68)),
        Arrival::packet("eth0", &ask(LAN, "224.0.0.251", 5353, 5353)),
        Arrival::packet("eth0", &ask(LAN6, FAR6, 4000, 53)),
        Arrival::packet("ppp0", &ask(FAR6, LAN6, 53, 4000)),
        Arrival::packet("eth0", &ask(LAN6, "ff02::fb", 5353, 5353)),
        Arrival::packet("ppp0", &ask("fe80::9", "fe80::1:2", 547, 546)),
    ]
}

fn icmp_frames() -> Vec<Arrival> {
    let echo = |src, dst, ask, id| builder::echo(ip(src, dst), ask, id, 1, b"ping");
    let mut all = vec![
        Arrival::packet("eth0", &echo(LAN, FAR, true, 7)),
        Arrival::packet("ppp0", &echo(FAR, WAN, false, 7)),
        Arrival::packet("eth0", &echo(LAN, "192.168.0.1", true, 8)),
        Arrival::packet("ppp0", &echo(FAR, WAN, true, 9)),
        Arrival::packet("eth0", &builder::icmp(ip(LAN, WAN), 13, 0, [0, 1, 0, 1], &[0; 12])),
        Arrival::packet("eth0", &builder::icmp(ip(LAN, FAR), 17, 0, [0, 1, 0, 1], &[0; 4])),
        Arrival::packet("eth0", &builder::icmp(ip(LAN, FAR), 200, 0, [0, 1, 0, 1], &[0; 4])),
    ];
    // Errors about what the frames above have sent, as a router beyond the uplink sees it, and
    // about what was forwarded inside, as the inner host sees it.
    let quoted = [
        segment(WAN, FAR, (40_000, 80), tcp::SYN, (100, 0)),
        builder::udp(ip(WAN, FAR), 4000, 53, b"question"),
        echo(WAN, FAR, true, 7),
    ];
    for (kind, code) in [(3, 1), (3, 4), (11, 0), (12, 0), (5, 1), (4, 0)] {
        for quote in &quoted {
            let error = builder::icmp(ip("192.0.2.7", WAN), kind, code, [0, 0, 5, 0], quote);
            all.push(Arrival::packet("ppp0", &error));
        }
    }
    let inner = builder::udp(ip(FAR, "192.168.0.6"), 5000, 80, b"question");
    all.push(Arrival::packet(
        "eth0",
        &builder::icmp(ip("192.168.0.6", FAR), 3, 3, [0; 4], &inner[..28]),
    ));
    let nested = builder::icmp(ip("192.0.2.7", WAN), 3, 1, [0; 4], &quoted[0]);
    all.push(Arrival::packet("ppp0", &builder::icmp(ip("192.0.2.8", WAN), 3, 1, [0; 4], &nested)));
    all.push(Arrival::packet("ppp0", &builder::icmp(ip("192.0.2.8", WAN), 3, 1, [0; 4], &[])));
    all
}

fn icmpv6_frames() -> Vec<Arrival> {
    let echo = |src, dst, ask, id| builder::echo(ip(src, dst), ask, id, 1, b"ping");
    let quote = segment(LAN6, FAR6, (40_000, 80), tcp::SYN, (100, 0));
    let solicit = |src: &str, target: &str, source_mac| {
        let target = addr(target);
        let packet = Ndp::Solicitation { target, source_mac }
            .to_packet(addr(src), ndp::solicited_node(target));
        let group = MacAddr::of_multicast(ndp::solicited_node(target));
        frame(host_mac(2), group, &packet)
    };
    let advert = Ndp::Advertisement {
        target: addr("fd00:1::77"),
        target_mac: Some(host_mac(77)),
        router: false,
        solicited: true,
        overrides: true,
    };
    let router = builder::icmp(
        Ip { hop_limit: 255, ..ip("fe80::5", "ff02::1") },
        134,
        0,
        [64, 0, 0, 0],
        &[0; 8],
    );
    vec![
        Arrival::packet("eth0", &echo(LAN6, FAR6, true, 7)),
        Arrival::packet("ppp0", &echo(FAR6, LAN6, false, 7)),
        Arrival::packet("eth0", &echo(LAN6, "fd00:1::1", true, 8)),
        Arrival::packet("ppp0", &echo(FAR6, WAN6, true, 9)),
        Arrival::packet("ppp0", &builder::icmp(ip(FAR6, LAN6), 1, 4, [0; 4], &quote)),
        Arrival::packet(
            "ppp0",
            &builder::icmp(
                ip("2001:db8:9::1", LAN6),
                icmpv6::PACKET_TOO_BIG,
                0,
                [0, 0, 5, 0],
                &quote,
            ),
        ),
        Arrival::packet(
            "ppp0",
            &builder::icmp(
                ip("2001:db8:9::1", LAN6),
                icmpv6::TIME_EXCEEDED,
                0,
                [0; 4],
                &quote[..44],
            ),
        ),
        Arrival::new("eth0", solicit(LAN6, "fd00:1::1", Some(host_mac(2)))),
        Arrival::new("eth0", solicit("fe80::2", "fd00:1::1", Some(host_mac(2)))),
        Arrival::new("eth0", solicit("::", "fd00:1::1", None)),
        Arrival::packet("eth0", &advert.to_packet(addr("fd00:1::77"), addr("fd00:1::1"))),
        Arrival::new("eth0", frame(host_mac(2), MacAddr([0x33, 0x33, 0, 0, 0, 1]), &router)),
    ]
}

fn link_frames() -> Vec<Arrival> {
    let arp = |operation, sender: &str, target: &str| Arp {
        operation,
        sender_mac: host_mac(2),
        sender: addr(sender),
        target_mac: MacAddr::default(),
        target: addr(target),
    };
    let ask = arriving("eth0", &builder::udp(ip(LAN, FAR), 4004, 53, b"q"));
    let tagged = |tci: u16| {
        let mut f = ask.clone();
        f.splice(12..12, [0x81, 0, (tci >> 8) as u8, tci as u8]);
        f
    };
    let mut padded = ask.clone();
    padded.resize(60, 0xee);
    let mut other = ask.clone();
    other[5] = 0x55;
    let mut lldp = ask.clone();
    lldp[12..14].copy_from_slice(&[0x88, 0xcc]);
    vec![
        Arrival::new(
            "eth0",
            arp(Operation::Request, LAN, "192.168.0.1").to_frame(MacAddr::BROADCAST),
        ),
        Arrival::new(
            "eth0",
            arp(Operation::Request, "0.0.0.0", "192.168.0.1").to_frame(MacAddr::BROADCAST),
        ),
        Arrival::new(
            "eth0",
            arp(Operation::Request, LAN, "192.168.0.9").to_frame(MacAddr::BROADCAST),
        ),
        Arrival::new(
            "eth0",
            arp(Operation::Reply, "192.168.0.9", "192.168.0.1").to_frame(gateway_mac(0)),
        ),
        Arrival::new("eth0", tagged(0x6000)),
        Arrival::new("eth0", tagged(7)),
        Arrival::new("eth0", padded),
        Arrival::new("eth0", other),
        Arrival::new("eth0", lldp),
    ]
}

/// The pieces of a long packet, cut after each `sizes` bytes of payload.
pub fn pieces_v4(packet: &[u8], size: usize) -> Vec<Vec<u8>> {
    let (head, payload) = packet.split_at(20);
    let count = payload.len().div_ceil(size);
    let cut = payload.chunks(size).enumerate().map(|(n, part)| {
        let mut piece = [head, part].concat();
        let word = (n * size / 8) as u16 | u16::from(n + 1 < count) << 13;
        piece[2..4].copy_from_slice(&((20 + part.len()) as u16).to_be_bytes());
        piece[6..8].copy_from_slice(&word.to_be_bytes());
        ipv4::write_checksum(&mut piece);
        piece
    });
    cut.collect()
}

/// The same for IPv6, with a fragment header each.
pub fn pieces_v6(packet: &[u8], size: usize) -> Vec<Vec<u8>> {
    let (head, payload) = packet.split_at(40);
    let count = payload.len().div_ceil(size);
    let cut = payload.chunks(size).enumerate().map(|(n, part)| {
        let word = (n * size) as u16 | u16::from(n + 1 < count);
        let [high, low] = word.to_be_bytes();
        let mut piece = [head, &[head[6], 0, high, low, 0, 0, 0, 9], part].concat();
        piece[6] = protocol::FRAGMENT;
        piece[4..6].copy_from_slice(&((8 + part.len()) as u16).to_be_bytes());
        piece
    });
    cut.collect()
}

fn fragments() -> Vec<Arrival> {
    let long = builder::udp(ip(LAN, FAR), 4005, 53, &[0x5a; 2000]);
    let long6 = builder::udp(ip(LAN6, FAR6), 4005, 53, &[0x5a; 2000]);
    let ping = builder::echo(ip(LAN, "192.168.0.1"), true, 3, 1, &[1; 1600]);
    let v4 = pieces_v4(&long, 1000).into_iter().chain(pieces_v4(&ping, 800));
    let v6 = pieces_v6(&long6, 1000);
    v4.chain(v6).map(|p| Arrival::packet("eth0", &p)).collect()
}

/// Options, extension headers, and protocols that aren't decoded.
fn headers() -> Vec<Arrival> {
    let plain = builder::udp(ip(LAN, FAR), 4006, 53, b"q");
    let with_options = |options: &[u8]| {
        let mut p = [&plain[..20], options, &plain[20..]].concat();
        p[0] = 0x40 | (5 + options.len() / 4) as u8;
        let len = p.len() as u16;
        p[2..4].copy_from_slice(&len.to_be_bytes());
        ipv4::write_checksum(&mut p);
        Arrival::packet("eth0", &p)
    };
    let extended = |first: u8, chain: &[u8]| {
        let plain = builder::udp(ip(LAN6, FAR6), 4006, 53, b"q");
        let mut p = [&plain[..40], chain, &plain[40..]].concat();
        p[6] = first;
        let len = (p.len() - 40) as u16;
        p[4..6].copy_from_slice(&len.to_be_bytes());
        Arrival::packet("eth0", &p)
    };
    let other = |number: u8, payload: &[u8]| {
        let header = Ip { protocol: number, ..ip(LAN, FAR) };
        Arrival::packet("eth0", &builder::ip(header, payload))
    };
    vec![
        with_options(&[7, 7, 4, 0, 0, 0, 0, 0]),
        with_options(&[148, 4, 0, 0]),
        with_options(&[131, 3, 4, 0]),
        with_options(&[7, 99, 4, 0]),
        with_options(&[1, 1, 1, 0]),
        extended(0, &[17, 0, 1, 4, 0, 0, 0, 0]),
        extended(60, &[17, 0, 1, 4, 0, 0, 0, 0]),
        extended(43, &[17, 0, 0, 0, 0, 0, 0, 0]),
        extended(0, &[60, 0, 1, 4, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0]),
        extended(44, &[17, 0, 0, 0, 0, 0, 0, 5]),
        other(47, &[0x30, 1, 0x88, 0x0b, 0, 0, 0, 5, 0, 0, 0, 1]),
        other(50, &[0, 0, 0, 1, 0, 0, 0, 1, 9, 9, 9, 9]),
        other(132, &[0x10, 0, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 4]),
        other(33, &[0x10, 0, 0, 80, 2, 0, 0, 0, 0, 0, 0, 0]),
        other(136, &builder::udp(ip(LAN, FAR), 4006, 53, b"q")[20..]),
        other(2, &[0x16, 0, 0, 0, 224, 0, 0, 9]),
        other(253, &[1, 2, 3]),
    ]
}

/// A super-packet as a local sender hands it over: one header, a partial checksum.
pub fn super_packet(port: &'static str, mut packet: Vec<u8>, kind: GsoKind, size: u16) -> Arrival {
    let (l4, v4) = if packet[0] >> 4 == 4 { (20, true) } else { (40, false) };
    let (number, offset) = match kind {
        GsoKind::UdpL4 => (protocol::UDP, 6),
        GsoKind::Tcp4 | GsoKind::Tcp6 => (protocol::TCP, 16),
    };
    let parsed = tidegate_packet::Parsed::parse(&packet).expect("a whole packet");
    let len = (packet.len() - l4) as u32;
    let sum = checksum::fold(checksum::pseudo_header(parsed.src, parsed.dst, number, len));
    packet[l4 + offset..l4 + offset + 2].copy_from_slice(&sum.to_be_bytes());
    debug_assert_eq!(parsed.src.is_v4(), v4);
    let mut flying = Flying::from(arriving(port, &packet));
    flying.offload = Offload {
        checksum: Checksum::Partial { start: 14 + l4 as u16, offset: offset as u16 },
        gso: Some(Gso { kind, size, ecn: false }),
    };
    Arrival { port, frame: flying }
}

fn super_packets() -> Vec<Arrival> {
    let fields = |sport| Tcp {
        sport,
        dport: 80,
        seq: 101,
        ack: 901,
        flags: tcp::ACK,
        window: 4000,
        options: &[],
    };
    let data = vec![0x42; 9000];
    let mut lone =
        super_packet("eth0", builder::udp(ip(LAN, FAR), 4007, 53, b"q"), GsoKind::UdpL4, 1);
    lone.frame.offload.gso = None;
    vec![
        super_packet(
            "eth0",
            builder::tcp(ip(LAN, FAR), fields(40_000), &data),
            GsoKind::Tcp4,
            1448,
        ),
        super_packet(
            "eth0",
            builder::tcp(ip(LAN6, FAR6), fields(40_000), &data),
            GsoKind::Tcp6,
            1428,
        ),
        super_packet("eth0", builder::udp(ip(LAN, FAR), 4008, 53, &data), GsoKind::UdpL4, 1000),
        lone,
    ]
}

/// An ICMP error with this quote.
pub fn error(src: &str, dst: &str, code: u8, quote: &[u8]) -> Vec<u8> {
    builder::icmp(ip(src, dst), icmp::DEST_UNREACHABLE, code, [0; 4], quote)
}
