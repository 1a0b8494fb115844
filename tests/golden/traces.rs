//! What comes in.

use super::common::frames::{pieces_v4, pieces_v6};
use super::common::{addr, arriving, frame, gateway_mac, host_mac, page, page_with_neighbours};
use tidegate::sim::SimConfig;
use tidegate_packet::arp::{Arp, Operation};
use tidegate_packet::builder::{self, Ip, Tcp};
use tidegate_packet::{MacAddr, icmp, tcp};

/// A gateway and the frames that reach it: milliseconds since the start, port, frame.
pub struct Trace {
    /// The folder's name.
    pub name: &'static str,
    /// The gateway.
    pub config: SimConfig,
    /// The frames, by time.
    pub frames: Vec<(u64, &'static str, Vec<u8>)>,
}

/// All of them.
pub fn traces() -> Vec<Trace> {
    vec![page_walk(), nat_errors(), fragments(), bridge()]
}

const CLIENT: &str = "192.168.0.2";
const WEB: &str = "192.168.0.6";
const FAR: &str = "198.51.100.10";
const WAN: &str = "203.0.113.1";

fn ip(src: &str, dst: &str) -> Ip {
    Ip { id: 0x1234, ..Ip::new(addr(src), addr(dst), 0) }
}

fn segment(
    src: (&str, u16),
    dst: (&str, u16),
    flags: u8,
    seq: u32,
    ack: u32,
    data: &[u8],
) -> Vec<u8> {
    let fields = Tcp { sport: src.1, dport: dst.1, seq, ack, flags, window: 8000, options: &[] };
    builder::tcp(ip(src.0, dst.0), fields, data)
}

/// The page from its beginning: ARP, out through MASQUERADE and back, a port forward, closed
/// ports, pings, and what is refused.
fn page_walk() -> Trace {
    let arp = |port, from: &str, n: u8, interface: u8, operation, to: &str| {
        let message = Arp {
            operation,
            sender_mac: host_mac(n),
            sender: addr(from),
            target_mac: gateway_mac(interface),
            target: addr(to),
        };
        let dst = match operation {
            Operation::Request => MacAddr::BROADCAST,
            Operation::Reply => gateway_mac(interface),
        };
        (port, message.to_frame(dst))
    };
    let on = |port, packet: Vec<u8>| (port, arriving(port, &packet));
    let client = (CLIENT, 40_000);
    let (server, masqueraded, psh) = ((FAR, 80), (WAN, 40_000), tcp::ACK | tcp::PSH);
    let (visitor, web) = ((FAR, 50_000), (WEB, 80));
    let steps = vec![
        arp("eth0", CLIENT, 2, 0, Operation::Request, "192.168.0.1"),
        // The client fetches a page; the gateway must ask for its router first.
        on("eth0", segment(client, server, tcp::SYN, 1000, 0, b"")),
        arp("ppp0", "203.0.113.2", 99, 2, Operation::Reply, WAN),
        on("ppp0", segment(server, masqueraded, tcp::SYN | tcp::ACK, 9000, 1001, b"")),
        on("eth0", segment(client, server, tcp::ACK, 1001, 9001, b"")),
        on("eth0", segment(client, server, psh, 1001, 9001, b"GET / HTTP/1.0\r\n\r\n")),
        on("ppp0", segment(server, masqueraded, psh, 9001, 1019, b"HTTP/1.0 200 OK\r\n\r\n")),
        on("eth0", segment(client, server, tcp::FIN | tcp::ACK, 1019, 9020, b"")),
        on("ppp0", segment(server, masqueraded, tcp::FIN | tcp::ACK, 9020, 1020, b"")),
        on("eth0", segment(client, server, tcp::ACK, 1020, 9021, b"")),
        // A name, and its answer.
        on("eth0", builder::udp(ip(CLIENT, FAR), 5353, 53, b"who is it?")),
        on("ppp0", builder::udp(ip(FAR, WAN), 53, 5353, b"it is me")),
        // A visitor of the web server behind port 8000.
        on("ppp0", segment(visitor, (WAN, 8000), tcp::SYN, 500, 0, b"")),
        arp("eth0", WEB, 6, 0, Operation::Reply, "192.168.0.1"),
        on("eth0", segment(web, visitor, tcp::SYN | tcp::ACK, 700, 501, b"")),
        on("ppp0", segment(visitor, (WAN, 8000), tcp::ACK, 501, 701, b"")),
        // Closed: a reset and port unreachable. Unasked: host unreachable. Strange: protocol
        // unreachable.
        on("ppp0", segment(visitor, (WAN, 81), tcp::SYN, 1, 0, b"")),
        on("ppp0", builder::udp(ip(FAR, WAN), 50_000, 81, b"anybody?")),
        on("ppp0", segment(visitor, (CLIENT, 80), tcp::SYN, 1, 0, b"")),
        on("ppp0", builder::ip(Ip { protocol: 253, ..ip(FAR, WAN) }, &[0xff, 0xff])),
        // Pings: of the gateway, and through it. An INVALID segment ends here.
        on("eth0", builder::echo(ip(CLIENT, "192.168.0.1"), true, 1, 1, b"ping")),
        on("eth0", builder::echo(ip(CLIENT, FAR), true, 2, 1, b"ping")),
        on("ppp0", builder::echo(ip(FAR, WAN), false, 2, 1, b"ping")),
        on("eth0", segment((CLIENT, 41_000), server, tcp::FIN, 5, 0, b"")),
    ];
    let frames =
        steps.into_iter().enumerate().map(|(n, (port, f))| (n as u64 * 20, port, f)).collect();
    Trace { name: "page_walk", config: page(), frames }
}

/// Errors about translated flows, from both sides, and the gateway's own.
fn nat_errors() -> Trace {
    let on = |port, packet: Vec<u8>| (port, arriving(port, &packet));
    let asked = builder::udp(ip(CLIENT, FAR), 4000, 53, b"question");
    let seen = builder::udp(Ip { hop_limit: 63, ..ip(WAN, FAR) }, 4000, 53, b"question");
    let router = |kind, code, rest, quote: &[u8]| {
        builder::icmp(ip("192.0.2.7", WAN), kind, code, rest, quote)
    };
    let forwarded = builder::udp(Ip { hop_limit: 63, ..ip(FAR, WEB) }, 50_000, 80, b"visit");
    let steps = vec![
        on("eth0", asked),
        on("ppp0", router(icmp::TIME_EXCEEDED, 0, [0; 4], &seen)),
        on("ppp0", router(icmp::DEST_UNREACHABLE, icmp::unreachable::PORT, [0; 4], &seen[..28])),
        on(
            "ppp0",
            router(icmp::DEST_UNREACHABLE, icmp::unreachable::FRAG_NEEDED, [0, 0, 5, 0], &seen),
        ),
        // A redirect would name the uplink's router to the LAN; a strange quote is about nothing.
        on("ppp0", router(icmp::REDIRECT, 1, [203, 0, 113, 9], &seen)),
        on("ppp0", router(icmp::TIME_EXCEEDED, 0, [0; 4], &seen[..24])),
        // The web server refuses what was forwarded to it.
        on("ppp0", builder::udp(ip(FAR, WAN), 50_000, 8000, b"visit")),
        on("eth0", builder::icmp(ip(WEB, FAR), 3, 3, [0; 4], &forwarded)),
        // The gateway's own: hop limit, inside and outside of the translation.
        on("eth0", builder::udp(Ip { hop_limit: 1, ..ip(CLIENT, FAR) }, 4001, 33_434, b"trace")),
        on("ppp0", builder::udp(Ip { hop_limit: 1, ..ip(FAR, WAN) }, 50_001, 8000, b"trace")),
    ];
    let frames =
        steps.into_iter().enumerate().map(|(n, (port, f))| (n as u64 * 20, port, f)).collect();
    Trace { name: "nat_errors", config: page_with_neighbours(), frames }
}

/// Fragments of both families, out of order, and a datagram that is never whole.
fn fragments() -> Trace {
    let data: Vec<u8> = (0..2400_u32).map(|n| n as u8).collect();
    let v4 = pieces_v4(&builder::udp(ip(CLIENT, FAR), 4000, 53, &data), 1000);
    let v6 = pieces_v6(&builder::udp(ip("fd00:1::2", "2001:db8:2::10"), 4000, 53, &data), 1000);
    let other = Ip { id: 0x4321, ..ip(CLIENT, FAR) };
    let unfinished = pieces_v4(&builder::udp(other, 4001, 53, &data), 1000);
    let eth0 = |at, packet: &[u8]| (at, "eth0", arriving("eth0", packet));
    let frames = vec![
        eth0(0, &v4[2]),
        eth0(10, &v4[0]),
        eth0(20, &v4[0]),
        eth0(30, &v4[1]),
        eth0(100, &v6[1]),
        eth0(110, &v6[0]),
        eth0(120, &v6[2]),
        eth0(200, &unfinished[0]),
        eth0(210, &unfinished[2]),
        // Thirty seconds later the rest comes too late.
        eth0(31_000, &unfinished[1]),
    ];
    Trace { name: "fragments", config: page_with_neighbours(), frames }
}

/// Three ports of a bridge: flooding, learning, tags, and a guest that goes out.
fn bridge() -> Trace {
    let mut config = page_with_neighbours();
    config.interfaces[0].name = "br0".into();
    config.interfaces[0].ports = ["tap0", "tap1", "tap2"].map(String::from).to_vec();
    config.rules_v4 = config.rules_v4.replace("-i eth0", "-i br0");
    config.rules_v6 = config.rules_v6.replace("-i eth0", "-i br0");
    config.neighbours.retain(|(name, ..)| name != "eth0");
    let tagged = |src, dst, tci: u16, packet: &[u8]| {
        let mut f = frame(host_mac(src), dst, packet);
        f.splice(12..12, [0x81, 0, (tci >> 8) as u8, tci as u8]);
        f
    };
    let between = builder::udp(ip("192.168.0.11", "192.168.0.12"), 1, 2, b"hello");
    let out = builder::udp(ip("192.168.0.11", FAR), 4000, 53, b"question");
    let back = builder::udp(ip(FAR, WAN), 53, 4000, b"answer");
    let request = Arp {
        operation: Operation::Request,
        sender_mac: host_mac(11),
        sender: addr("192.168.0.11"),
        target_mac: MacAddr::default(),
        target: addr("192.168.0.1"),
    };
    let frames = vec![
        // Nobody is known: to all. Then the other one is.
        (0, "tap0", frame(host_mac(11), host_mac(12), &between)),
        (10, "tap1", frame(host_mac(12), host_mac(11), &between)),
        (20, "tap0", frame(host_mac(11), host_mac(12), &between)),
        // Tagged frames keep their tags, and none of them reaches the gateway's rules.
        (30, "tap0", tagged(11, host_mac(12), 7, &between)),
        (40, "tap0", tagged(11, MacAddr::BROADCAST, 7, &between)),
        (50, "tap0", tagged(11, gateway_mac(0), 7, &out)),
        // A priority tag is not a VLAN.
        (60, "tap0", request.to_frame(MacAddr::BROADCAST)),
        (70, "tap0", tagged(11, gateway_mac(0), 0x6000, &out)),
        (80, "ppp0", arriving("ppp0", &back)),
        // The guest moves.
        (90, "tap2", frame(host_mac(11), host_mac(12), &between)),
        (100, "ppp0", arriving("ppp0", &back)),
    ];
    Trace { name: "bridge", config, frames }
}
