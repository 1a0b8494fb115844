//! Bursts of frames through a gateway with so many connections that it looks for a burst's together:
//! what becomes of each frame has to be what becomes of it when they come one by one.

mod common;

use common::addr;
use common::uplink::{HOST, ROUTER, framed, lan_and_uplink};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::io;
use std::os::fd::BorrowedFd;
use tidegate::engine::{Fate, OwnedFrame, PortId};
use tidegate::gateway::Gateway;
use tidegate::io::{BURST, Frame, Outgoing, Receive};
use tidegate::sim::Sim;
use tidegate_packet::builder::{self, Ip, Tcp};
use tidegate_packet::{Instant, protocol, tcp};

/// More than a core's own cache holds.
const FLOWS: u16 = 9000;

const RULES: &str = "*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A POSTROUTING -o wan0 -j MASQUERADE
COMMIT
*filter
:FORWARD DROP [0:0]
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -i lan0 -j ACCEPT
COMMIT
";

fn gateway() -> Gateway {
    let mut config = lan_and_uplink(RULES, "net.ipv6.conf.all.forwarding = 1\n");
    for (n, prefix) in ["fd00:1::1/64", "2001:db8::1/64"].into_iter().enumerate() {
        config.interfaces[n].addresses.push(prefix.parse().unwrap());
    }
    config.neighbours.push(("lan0".into(), addr("fd00:1::2"), HOST));
    config.neighbours.push(("wan0".into(), addr("2001:db8::2"), ROUTER));
    Sim::new(&config).unwrap().into_gateway()
}

/// A frame and the port that it comes in by.
type Arrival = (PortId, OwnedFrame);

fn arrival(port: u16, packet: &[u8]) -> Arrival {
    let bytes = framed(["lan0", "wan0"][usize::from(port)], packet);
    (PortId(port), OwnedFrame::new(&bytes))
}

fn out(flow: u16) -> Arrival {
    let ip = Ip::new(addr("192.168.0.2"), addr("198.51.100.7"), protocol::UDP);
    arrival(0, &builder::udp(ip, 1024 + flow, 53, b"question"))
}

fn back(flow: u16) -> Arrival {
    let ip = Ip::new(addr("198.51.100.7"), addr("203.0.113.1"), protocol::UDP);
    arrival(1, &builder::udp(ip, 53, 1024 + flow, b"answer"))
}

fn v6(flow: u16) -> Arrival {
    let ip = Ip::new(addr("fd00:1::2"), addr("2001:db8::2"), protocol::UDP);
    arrival(0, &builder::udp(ip, 1024 + flow % 64, 53, b"question"))
}

fn segment(flow: u16, flags: u8, seq: u32) -> Arrival {
    let ip = Ip::new(addr("192.168.0.2"), addr("198.51.100.8"), protocol::TCP);
    let (sport, ack) = (1024 + flow % 64, 0);
    let fields = Tcp { sport, dport: 80, seq, ack, flags, window: 9, ..Tcp::default() };
    arrival(0, &builder::tcp(ip, fields, b""))
}

/// Packets of all kinds, some of flows that have just begun or come to their end.
fn mixed(random: &mut StdRng) -> Vec<Arrival> {
    let flow = random.random_range(0..FLOWS + 500);
    let mut packets = match random.random_range(0..16) {
        0 => vec![segment(flow, tcp::SYN, 1), segment(flow, tcp::ACK, 2)],
        1 => {
            vec![segment(flow, tcp::ACK, 2), segment(flow, tcp::RST, 2), segment(flow, tcp::ACK, 2)]
        }
        2 | 3 => vec![v6(flow), v6(flow)],
        4..8 => vec![back(flow)],
        8 => vec![out(flow), out(flow), back(flow), out(flow)],
        _ => vec![out(flow)],
    };
    if random.random_range(0..10) == 0 {
        let (_, frame) = &mut packets[0];
        let at = random.random_range(frame.meta.start + 12..frame.meta.end);
        frame.slot[at] ^= 1 << random.random_range(0..8);
    }
    packets
}

/// What a port has received.
struct Received<'a>(&'a mut [Arrival]);

impl Receive for Received<'_> {
    fn receive(&mut self) -> io::Result<usize> {
        Ok(self.0.len())
    }

    fn frame(&mut self, index: usize) -> Frame<'_> {
        self.0[index].1.frame()
    }

    fn sent(&self, index: usize) -> Outgoing<'_> {
        let frame = &self.0[index].1;
        Outgoing { bytes: frame.bytes(), offload: frame.meta.offload }
    }

    fn release(&mut self) {}

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

struct Both {
    together: Gateway,
    one_by_one: Gateway,
    now: Instant,
}

impl Both {
    /// Sends the same through both, and compares; returns how many were sent on.
    fn send(&mut self, mut frames: Vec<Arrival>) -> usize {
        let mut sent = 0;
        // A burst is what one port has received.
        for burst in frames.chunk_by_mut(|a, b| a.0 == b.0).flat_map(|run| run.chunks_mut(BURST)) {
            let port = burst[0].0;
            let mut copies = burst.to_vec();
            let mut fates = vec![Fate::Consumed; burst.len()];
            let mut held = self.together.burst(0, self.now, 0);
            held.inputs(port, &mut Received(burst), &mut fates);
            let own = held.take_outbox();
            drop(held);
            let mut expected = Vec::new();
            for ((port, copy), (fate, (_, frame))) in copies.iter_mut().zip(fates.iter().zip(burst))
            {
                let mut held = self.one_by_one.burst(0, self.now, 0);
                assert_eq!(held.input(*port, copy.frame()), *fate);
                expected.append(&mut held.take_outbox());
                assert_eq!((frame.bytes(), frame.meta), (copy.bytes(), copy.meta));
                sent += usize::from(*fate != Fate::Consumed);
            }
            let bytes = |(port, frame): &(PortId, OwnedFrame)| (*port, frame.bytes().to_vec());
            let [own, expected] =
                [own, expected].map(|all| all.iter().map(bytes).collect::<Vec<_>>());
            assert_eq!(own, expected);
        }
        sent
    }
}

#[test]
fn a_burst_is_what_its_frames_are() {
    let now = Instant::from_secs(3600);
    let mut both = Both { together: gateway(), one_by_one: gateway(), now };
    let all = || 0..FLOWS;
    for _ in 0..2 {
        assert_eq!(
            both.send(all().map(out).chain(all().map(back)).collect()),
            2 * usize::from(FLOWS)
        );
    }
    let random = &mut StdRng::seed_from_u64(1);
    let mut sent = 0;
    for _ in 0..60 {
        sent += both.send((0..64).flat_map(|_| mixed(random)).collect());
        both.now = both.now + std::time::Duration::from_millis(100);
    }
    assert!(sent > 3000, "{sent}");
    let [got, expected] =
        [&both.together, &both.one_by_one].map(|gateway| (gateway.connections(), gateway.stats()));
    assert_eq!(got, expected);
    let taken = both.together.engine().taken_short_way();
    let off = std::env::var("TIDEGATE_SHORT_WAY").is_ok_and(|mode| mode != "on");
    assert!(got.0 > usize::from(FLOWS) && (taken > 3000 || off), "{got:?} {taken}");
}
