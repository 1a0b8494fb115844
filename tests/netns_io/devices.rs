//! Frames in, frames out.

use crate::Topology;
use crate::netns::{Device, Namespace, Plumb, collect, wait_for};
use std::io::ErrorKind;
use std::net::UdpSocket;
use tidegate::io::af_packet::{self, PacketReceive};
use tidegate::io::transmit::PacketTransmit;
use tidegate::io::{Checksum, Gso, GsoKind, Offload, Outgoing, Receive, Transmit, tap};
use tidegate_nat::{Tuple, home};
use tidegate_packet::protocol;

/// IEEE 802's EtherType for local experiments: no kernel answers it.
const EXPERIMENT: [u8; 2] = [0x88, 0xb5];

pub fn packet(namespace: &Namespace, name: &str) -> (PacketReceive, PacketTransmit) {
    namespace.run(|| af_packet::open(name, &promiscuous()).expect("a packet device"))
}

fn promiscuous() -> af_packet::Options {
    af_packet::Options { promiscuous: true, ..af_packet::Options::default() }
}

pub fn boxed<R: Receive + 'static, T: Transmit + 'static>((receive, transmit): (R, T)) -> Device {
    (Box::new(receive), Box::new(transmit))
}

/// A frame of this length whose every byte depends on `seed`.
fn frame(seed: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2, EXPERIMENT[0], EXPERIMENT[1]];
    bytes.extend((bytes.len()..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)));
    bytes
}

fn is_ours(bytes: &[u8]) -> bool {
    bytes.get(12..14) == Some(&EXPERIMENT)
}

fn plain(bytes: &[u8]) -> Outgoing<'_> {
    Outgoing { bytes, offload: Offload::default() }
}

/// How many the device took, and how many it refused.
fn send(device: &mut dyn Transmit, frames: &[Vec<u8>]) -> (usize, usize) {
    let sent = device.send(&mut frames.iter().map(|f| plain(f))).expect("sending");
    if sent.refused == 0 {
        assert_eq!(sent.bytes, frames.iter().map(Vec::len).sum::<usize>());
    }
    (sent.frames, sent.refused)
}

pub fn frames_pass_byte_exact() {
    let net = Topology::new();
    let lan = packet(&net.gateway, "lan0");
    let wan = packet(&net.gateway, "wan0");
    // A socket that isn't ours reads what comes out.
    let witness = net.server.run(|| {
        let protocol = socket2::Protocol::from(i32::from((libc::ETH_P_ALL as u16).to_be()));
        let domain = socket2::Domain::PACKET;
        socket2::Socket::new(domain, socket2::Type::RAW, Some(protocol)).expect("a packet socket")
    });
    witness.set_read_timeout(Some(crate::netns::PATIENCE)).expect("a time-out");
    let _plumb = Plumb::new(boxed(lan), boxed(wan));
    let (_, mut client) = packet(&net.client, "c0");
    for len in (14..=100).chain([511, 512, 1500, 1514]) {
        let sent = vec![frame(len as u8, len)];
        assert_eq!(send(&mut client, &sent), (1, 0), "length {len}");
        let mut buffer = [0; 2000];
        let got = loop {
            let n = std::io::Read::read(&mut &witness, &mut buffer).expect("a frame in time");
            if is_ours(&buffer[..n]) {
                break &buffer[..n];
            }
        };
        assert_eq!(got, sent[0], "length {len}");
    }
}

/// Long frames come another way than short ones, but keep their place among them.
pub fn long_and_short_frames_keep_their_order() {
    let net = Topology::new();
    for (namespace, name) in [(&net.client, "c0"), (&net.gateway, "lan0")] {
        namespace.netlink().set_mtu(namespace.index(name), 9000).expect("a longer MTU");
    }
    let (_, mut client) = packet(&net.client, "c0");
    let (mut lan, _) = packet(&net.gateway, "lan0");
    let lengths = [60, 9014, 1514, 1598, 1599, 1600, 1601, 1602, 1700, 60, 3000, 9014, 61];
    for round in 0..20 {
        let sent: Vec<_> = lengths.iter().map(|len| frame(*len as u8 + round, *len)).collect();
        assert_eq!(send(&mut client, &sent), (lengths.len(), 0));
        let got = collect(&mut lan, lengths.len(), is_ours);
        assert!(got.iter().map(|(bytes, _)| bytes).eq(&sent), "round {round}");
    }
    assert_eq!((lan.overruns(), lan.discards()), (0, 0));
}

/// However many long frames wait, a burst holds few, and the next ones the others.
pub fn a_burst_of_long_frames_is_short() {
    let net = Topology::new();
    for (namespace, name) in [(&net.client, "c0"), (&net.gateway, "lan0")] {
        namespace.netlink().set_mtu(namespace.index(name), 65_000).expect("a longer MTU");
    }
    let (_, mut client) = packet(&net.client, "c0");
    let (mut lan, _) = packet(&net.gateway, "lan0");
    let frames: Vec<_> = (0..40).map(|n| frame(n, 65_000)).collect();
    assert_eq!(send(&mut client, &frames), (40, 0));
    let mut got = Vec::new();
    wait_for("all frames", || {
        let n = lan.receive().expect("receiving");
        assert!(n <= 8, "{n} at once");
        got.extend((0..n).map(|i| lan.sent(i).bytes.to_vec()).filter(|bytes| is_ours(bytes)));
        lan.release();
        (got.len() >= frames.len()).then_some(())
    });
    assert!(got == frames);
}

pub fn vlan_tags_survive() {
    let net = Topology::new();
    let (_, mut client) = packet(&net.client, "c0");
    let (mut lan, lan_out) = packet(&net.gateway, "lan0");
    let (mut server, _) = packet(&net.server, "s0");
    let tagged = |tpid: [u8; 2], tci: u16| {
        let mut bytes = frame(9, 200);
        let tag = [tpid[0], tpid[1], tci.to_be_bytes()[0], tci.to_be_bytes()[1]];
        bytes.splice(12..12, tag);
        bytes
    };
    let rows = [([0x81, 0x00], 0x0064), ([0x81, 0x00], 0xefff), ([0x88, 0xa8], 0x2005)];
    for (tpid, tci) in rows {
        send(&mut client, &[tagged(tpid, tci)]);
        // The kernel takes the tag out and says so.
        let (bytes, meta) = collect(&mut lan, 1, is_ours).remove(0);
        assert_eq!(bytes, frame(9, 200));
        assert_eq!(meta.vlan, Some((u16::from_be_bytes(tpid), tci)));
    }
    let _plumb =
        Plumb::new((Box::new(lan), Box::new(lan_out)), boxed(packet(&net.gateway, "wan0")));
    for (tpid, tci) in rows {
        send(&mut client, &[tagged(tpid, tci)]);
        let mut restored = Vec::new();
        wait_for("the tagged frame", || {
            let n = server.receive().expect("receiving");
            for i in 0..n {
                let mut frame = server.frame(i);
                if is_ours(frame.bytes()) {
                    frame.restore_vlan();
                    restored = server.sent(i).bytes.to_vec();
                }
            }
            server.release();
            (!restored.is_empty()).then_some(())
        });
        assert_eq!(restored, tagged(tpid, tci));
    }
}

pub fn a_refused_frame_stops_no_other() {
    let net = Topology::new();
    let (_, mut client) = packet(&net.client, "c0");
    let (mut lan, _) = packet(&net.gateway, "lan0");
    let (good, long, short) = (frame(1, 60), frame(2, 1600), vec![0; 5]);
    let outside = Checksum::Partial { start: 500, offset: 16 };
    let gso = Some(Gso { kind: GsoKind::Tcp4, size: 500, ecn: false });
    let mut batch = vec![
        plain(&good),
        plain(&long),
        plain(&good),
        plain(&short),
        Outgoing { bytes: &good, offload: Offload { checksum: outside, gso: None } },
        // No TCP in it.
        Outgoing { bytes: &long, offload: Offload { checksum: Checksum::Unverified, gso } },
        plain(&good),
    ];
    // More than one system call's worth.
    batch.extend(std::iter::repeat_n(plain(&good), 100));
    let sent = client.send(&mut batch.into_iter()).expect("sending");
    assert_eq!((sent.frames, sent.refused), (103, 4));
    let got = collect(&mut lan, 103, is_ours);
    assert!(got.iter().all(|(bytes, _)| *bytes == good));
    assert_eq!(got.len(), 103);
}

pub fn a_link_that_goes_down_is_reported() {
    let net = Topology::new();
    let (_, mut client) = packet(&net.client, "c0");
    let (mut lan, mut lan_out) = packet(&net.gateway, "lan0");
    let mut netlink = net.gateway.netlink();
    let index = net.gateway.index("lan0");
    assert_eq!(lan.receive().expect("nothing wrong"), 0);

    netlink.set_up(index, false).expect("down");
    let error = wait_for("the report", || lan.receive().err());
    assert_eq!(error.kind(), ErrorKind::NetworkDown);
    assert_eq!(lan.receive().expect("reported once"), 0);
    let sent = send(&mut lan_out, &vec![frame(1, 60); 3]);
    assert_eq!(sent, (0, 3));

    netlink.set_up(index, true).expect("up");
    wait_for("frames again", || {
        send(&mut client, &[frame(1, 60)]);
        (lan.receive().expect("up again") > 0).then_some(())
    });
    lan.release();

    // Before it goes away it goes down. Who has heard of that hears of the other as well.
    netlink.set_up(index, false).expect("down");
    let error = wait_for("the report", || lan.receive().err());
    assert_eq!(error.kind(), ErrorKind::NetworkDown);
    netlink.delete_link(index).expect("deleted");
    for _ in 0..3 {
        let error = wait_for("the report", || lan.receive().err());
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert!(error.to_string().contains("lan0"));
    }
    let sent = send(&mut lan_out, &[frame(1, 60)]);
    assert_eq!(sent, (0, 1));
}

pub fn a_tap_that_is_deleted_is_reported() {
    let namespace = Namespace::new();
    let (mut receive, mut transmit) =
        namespace.run(|| tap::open("tap0", tap::Options::default()).expect("a TAP"));
    // Not up yet: what is sent is lost, and nothing waits.
    assert_eq!(send(&mut transmit, &[frame(1, 60)]), (0, 1));
    assert_eq!(receive.receive().expect("nothing wrong"), 0);
    let index = namespace.index("tap0");
    namespace.netlink().set_up(index, true).expect("up");
    assert_eq!(send(&mut transmit, &[frame(1, 60)]), (1, 0));
    namespace.netlink().delete_link(index).expect("deleted");
    for _ in 0..3 {
        let error = wait_for("the report", || receive.receive().err());
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
    assert_eq!(send(&mut transmit, &[frame(1, 60)]), (0, 1));
}

pub fn a_full_ring_is_counted() {
    let net = Topology::new();
    let (_, mut client) = packet(&net.client, "c0");
    let options = af_packet::Options { slots: 1, ..promiscuous() };
    let (mut lan, _) = net.gateway.run(|| af_packet::open("lan0", &options).expect("a device"));
    // Another socket of the interface, with room: what it has, the first has met, but for the last.
    let (mut witness, _) = packet(&net.gateway, "lan0");
    let frames: Vec<_> = (0..=255).cycle().take(2000).map(|i| frame(i, 100)).collect();
    for some in frames.chunks(100) {
        assert_eq!(send(&mut client, some).0, 100);
        collect(&mut witness, 100, is_ours);
    }
    send(&mut client, &[frame(0, 100)]);
    collect(&mut witness, 1, is_ours);
    let mut got = Vec::new();
    wait_for("what the ring holds", || {
        let n = lan.receive().expect("receiving");
        got.extend((0..n).map(|i| lan.sent(i).bytes.to_vec()).filter(|bytes| is_ours(bytes)));
        lan.release();
        (n == 0 && !got.is_empty()).then_some(())
    });
    // A block's worth of slots is the least there is: the first frames are there, in order.
    assert!((31..500).contains(&got.len()), "{} frames", got.len());
    assert_eq!(got, frames[..got.len()]);
    let mut lost = 0;
    wait_for("the last one's loss", || {
        lost += lan.overruns();
        (lost >= 2001 - got.len() as u64).then_some(())
    });
    assert_eq!((lost, lan.overruns(), lan.discards()), (2001 - got.len() as u64, 0, 0));
}

pub fn what_is_sent_does_not_come_back() {
    let net = Topology::new();
    let (_, mut client) = packet(&net.client, "c0");
    for fanout in [None, Some(fanout(78))] {
        let options = af_packet::Options { fanout, ..promiscuous() };
        let open = || af_packet::open("lan0", &options).expect("a device");
        let (mut lan, mut lan_out) = net.gateway.run(open);
        for len in [60, 1514] {
            assert_eq!(send(&mut lan_out, &vec![frame(1, len); 10]), (10, 0));
            assert_eq!(send(&mut client, &[frame(2, len)]), (1, 0));
            // Frames come in the order in which the kernel has met them.
            let got = collect(&mut lan, 1, is_ours);
            assert_eq!(got.len(), 1, "{fanout:?}");
            assert_eq!(got[0].0, frame(2, len), "{fanout:?}");
        }
    }
}

fn fanout(group: u16) -> af_packet::Fanout {
    af_packet::Fanout { group, steering: 7 }
}

pub fn workers_share_by_flow() {
    let net = Topology::new();
    let (_, mut client) = packet(&net.client, "c0");
    let options = af_packet::Options { fanout: Some(fanout(77)), ..promiscuous() };
    let open = || net.gateway.run(|| af_packet::open("lan0", &options).expect("a ring")).0;
    let mut workers = [open(), open()];
    let flow = |port: u16, n: u8| {
        let build = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let build = build.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9).udp(port, 9);
        let mut bytes = Vec::new();
        build.write(&mut bytes, &[n]).expect("a Vec takes all");
        bytes
    };
    let frames: Vec<_> = (0..50).flat_map(|p| (0..2).map(move |n| flow(4000 + p, n))).collect();
    assert_eq!(send(&mut client, &frames).0, 100);
    let mut seen: [Vec<[u8; 2]>; 2] = Default::default();
    wait_for("all frames", || {
        for (worker, seen) in workers.iter_mut().zip(&mut seen) {
            let n = worker.receive().expect("receiving");
            seen.extend((0..n).filter_map(|i| {
                let bytes = worker.sent(i).bytes;
                (bytes[12..14] == [8, 0]).then(|| [bytes[34], bytes[35]])
            }));
            worker.release();
        }
        (seen[0].len() + seen[1].len() >= 100).then_some(())
    });
    assert_eq!(seen[0].len() + seen[1].len(), 100);
    assert!(!seen[0].is_empty() && !seen[1].is_empty(), "one worker got all flows");
    // Each has the flows that are at home in its shard.
    let [src, dst] = ["10.0.0.1", "10.0.0.2"].map(|addr| addr.parse().expect("an address"));
    for (worker, ports) in seen.iter().enumerate() {
        for port in ports {
            let (sport, dport) = (u16::from_be_bytes(*port), 9);
            let tuple = Tuple { src, dst, sport, dport, protocol: protocol::UDP };
            assert_eq!(home(fanout(77).steering, 2, &tuple), worker, "{sport}");
        }
    }
}

pub fn tap_queues_attach_by_name() {
    let namespace = Namespace::new();
    let options = tap::Options { multi_queue: true, ..tap::Options::default() };
    let open = |name: &str, options| namespace.run(|| tap::open(name, options));
    let (first, _transmit) = open("tap%d", options).expect("a first queue");
    assert_eq!(first.name(), "tap0");
    let _second = open("tap0", options).expect("a second queue");
    assert!(open("tap0", tap::Options::default()).is_err(), "a queue of another kind");
    assert!(open("a-name-that-is-too-long", options).is_err());
    drop((first, _transmit, _second));
    assert_eq!(namespace.netlink().link("tap0").expect("links"), None);
}

pub fn tun_carries_packets() {
    let namespace = Namespace::new();
    let options = tap::Options { layer: tap::Layer::Tun, ..tap::Options::default() };
    let (mut receive, mut transmit) = namespace.run(|| tap::open("tide0", options).expect("a TUN"));
    namespace.address("tide0", "10.5.0.1/24");
    namespace.netlink().set_up(namespace.index("tide0"), true).expect("up");
    let socket = namespace.run(|| UdpSocket::bind("10.5.0.1:7").expect("a socket"));
    socket.set_read_timeout(Some(crate::netns::PATIENCE)).expect("a time-out");
    socket.send_to(b"question", "10.5.0.9:99").expect("sending");
    let is_udp = |bytes: &[u8]| bytes.first() == Some(&0x45) && bytes[9] == 17;
    let (bytes, meta) = collect(&mut receive, 1, is_udp).remove(0);
    assert_eq!(&bytes[28..], b"question");
    assert_eq!(meta.offload.checksum, Checksum::Partial { start: 20, offset: 6 });

    let mut answer = Vec::new();
    let build = etherparse::PacketBuilder::ipv4([10, 5, 0, 9], [10, 5, 0, 1], 64).udp(99, 7);
    build.write(&mut answer, b"answer").expect("a Vec takes all");
    assert_eq!(send(&mut transmit, &[answer]).0, 1);
    let mut buffer = [0; 100];
    let (n, from) = socket.recv_from(&mut buffer).expect("the answer");
    assert_eq!((&buffer[..n], from.to_string().as_str()), (&b"answer"[..], "10.5.0.9:99"));
}
