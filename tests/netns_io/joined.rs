//! Packets of a flow that leave as one, and what the kernel makes of them.

use crate::Topology;
use crate::devices::packet;
use crate::netns::{Namespace, collect};
use tidegate::io::{Checksum, GsoKind, Meta, Offload, Outgoing, Transmit, ethtool, tap};
use tidegate_packet::builder::{self, Ip};
use tidegate_packet::{MacAddr, ethernet, tcp};

const PORT: u16 = 4711;

/// How many packets a stream has: no more than a burst, with more than 64 KiB a second
/// super-packet.
const PACKETS: usize = 60;

/// Frames of a stream whose last is shorter and pushes.
fn stream(v6: bool, is_tcp: bool) -> Vec<Vec<u8>> {
    let [src, dst] = if v6 { ["fd00::1", "fd00::2"] } else { ["10.0.0.1", "10.0.0.2"] };
    let addr = |text: &str| text.parse().expect("an address");
    let ethertype = if v6 { ethernet::IPV6 } else { ethernet::IPV4 };
    let packet = |n: usize| {
        let last = n + 1 == PACKETS;
        let payload: Vec<u8> = (0..if last { 77 } else { 1400 }).map(|i| (n + i) as u8).collect();
        let ip = Ip {
            id: 65_530_u16.wrapping_add(n as u16),
            dont_fragment: is_tcp,
            tos: 0x20,
            ..Ip::new(addr(src), addr(dst), if is_tcp { 6 } else { 17 })
        };
        let packet = if is_tcp {
            let fields = builder::Tcp {
                sport: PORT,
                dport: PORT,
                // The sequence numbers go round.
                seq: 0xffff_f000_u32.wrapping_add(1400 * n as u32),
                ack: 5,
                flags: tcp::ACK | if last { tcp::PSH } else { 0 },
                window: 501,
                options: &[1, 1, 8, 10, 0, 0, 0, 3, 0, 0, 0, 9],
            };
            builder::tcp(ip, fields, &payload)
        } else {
            builder::udp(ip, PORT, PORT, &payload)
        };
        let mut bytes = vec![0; ethernet::HEADER_LEN];
        ethernet::write(&mut bytes, MacAddr([2; 6]), MacAddr([4; 6]), ethertype);
        bytes.extend(packet);
        bytes
    };
    (0..PACKETS).map(packet).collect()
}

fn is_ours(bytes: &[u8]) -> bool {
    let at = match bytes.get(12..14) {
        Some([0x08, 0x00]) => 34,
        Some([0x86, 0xdd]) => 54,
        _ => return false,
    };
    bytes.get(at..at + 2) == Some(&PORT.to_be_bytes())
}

/// All four kinds of streams.
fn streams() -> impl Iterator<Item = (Vec<Vec<u8>>, bool, bool)> {
    [(false, false), (false, true), (true, false), (true, true)]
        .into_iter()
        .map(|(v6, is_tcp)| (stream(v6, is_tcp), v6, is_tcp))
}

fn send(transmit: &mut dyn Transmit, frames: &[Vec<u8>]) {
    let offload = Offload { checksum: Checksum::Valid, gso: None };
    let sent = transmit
        .send(&mut frames.iter().map(|bytes| Outgoing { bytes, offload }))
        .expect("sending");
    let bytes = frames.iter().map(Vec::len).sum::<usize>();
    assert_eq!((sent.frames, sent.refused, sent.bytes), (frames.len(), 0, bytes));
}

fn expect_supers(got: &[(Vec<u8>, Meta)], v6: bool, is_tcp: bool) {
    let kind = match (is_tcp, v6) {
        (false, _) => GsoKind::UdpL4,
        (true, false) => GsoKind::Tcp4,
        (true, true) => GsoKind::Tcp6,
    };
    for (_, meta) in got {
        let gso = meta.offload.gso.expect("a super-packet");
        assert_eq!((gso.kind, gso.size), (kind, 1400), "IPv6: {v6}");
    }
}

pub fn joined_packets_leave_as_one() {
    let net = Topology::new();
    let (_, mut wan) = packet(&net.gateway, "wan0");
    let (mut server, _) = packet(&net.server, "s0");
    for (frames, v6, is_tcp) in streams() {
        send(&mut wan, &frames);
        // 65,000 bytes are 46 packets.
        expect_supers(&collect(&mut server, 2, is_ours), v6, is_tcp);
    }
}

pub fn a_tap_takes_joined_packets() {
    let namespace = Namespace::new();
    let (_tap, mut transmit) =
        namespace.run(|| tap::open("tap0", tap::Options::default()).expect("a TAP"));
    namespace.netlink().set_up(namespace.index("tap0"), true).expect("up");
    let (mut kernel, _) = packet(&namespace, "tap0");
    for (frames, v6, is_tcp) in streams() {
        send(&mut transmit, &frames);
        expect_supers(&collect(&mut kernel, 2, is_ours), v6, is_tcp);
    }
}

/// The kernel is the reference of what segmentation makes. The device can do nothing for it, so a
/// sender that hands its packets to the device directly would lose them.
pub fn the_kernel_cuts_joined_packets_to_what_they_were() {
    let net = Topology::new();
    net.gateway.run(|| {
        ethtool::set_super_packets("wan0", false).expect("switching offloads off");
        // Without that veth leaves cutting UDP to its other end.
        ethtool::set("wan0", ethtool::Offload::TransmitChecksum, false).expect("checksums too");
    });
    let (_, mut wan) = packet(&net.gateway, "wan0");
    let (mut server, _) = packet(&net.server, "s0");
    for (frames, v6, is_tcp) in streams() {
        send(&mut wan, &frames);
        let got = collect(&mut server, PACKETS, is_ours);
        assert!(got.iter().all(|(_, meta)| meta.offload.gso.is_none()));
        assert!(got.iter().map(|(bytes, _)| bytes).eq(&frames), "IPv6: {v6}, TCP: {is_tcp}");
    }
}
