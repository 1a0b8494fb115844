//! The programs in the kernel, on frames of ours (BPF_PROG_TEST_RUN). Needs CAP_BPF.

mod frames;
mod leases;
mod windows;

use super::layout::context::SkBuff;
use super::*;
use crate::io::bpf::test_run;
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;
use std::time::Duration;
use tidegate_packet::Addr;
use tidegate_packet::builder::{self, Ip, Tcp};

/// Of the loopback interface, which every namespace has: where test runs come in.
const INPUT: u32 = 1;
const EGRESS: u32 = 77;
const NOW: Instant = Instant::from_secs(1000);

const UP: u32 = u32::MAX;
const TAKEN: u32 = 0;
const SHOT: u32 = 2;
const REDIRECT: u32 = 7;

/// The programs, if they can be loaded at all. This thread stays on one processor from then on.
fn bypass() -> Option<Arc<Bypass>> {
    match Bypass::open(NOW) {
        Ok(bypass) => {
            let mut here = CpuSet::new();
            here.set(sched_getcpu().unwrap()).unwrap();
            sched_setaffinity(Pid::from_raw(0), &here).unwrap();
            bypass.set_generation(1);
            Some(bypass)
        }
        Err(why) => {
            let allowed = std::env::var_os("TIDEGATE_FORBID_SKIP").is_none_or(|v| v != "1");
            assert!(allowed, "no bypass: {why}");
            eprintln!("SKIPPED: no test of the bypass was run: {why}");
            None
        }
    }
}

fn mac(last: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, last])
}

/// Where the packets of a direction are sent to, by its number.
fn gateway_mac(direction: usize) -> MacAddr {
    mac(10 + direction as u8)
}

fn link_header(direction: usize, family: Family) -> [u8; ethernet::HEADER_LEN] {
    let mut header = [0; ethernet::HEADER_LEN];
    let ethertype = if family == Family::V4 { ethernet::IPV4 } else { ethernet::IPV6 };
    ethernet::write(&mut header, mac(20 + direction as u8), mac(30 + direction as u8), ethertype);
    header
}

fn tuple(protocol: u8, src: &str, sport: u16, dst: &str, dport: u16) -> Tuple {
    let addr = |text: &str| text.parse::<Addr>().unwrap();
    Tuple { src: addr(src), dst: addr(dst), sport, dport, protocol }
}

/// A flow with these tuples of the original direction and the reply.
fn flow(original: Tuple, reply: Tuple) -> Flow {
    let family = if original.src.is_v4() { Family::V4 } else { Family::V6 };
    let way = |direction: usize, tuple: Tuple, other: Tuple| Way {
        tuple,
        input: INPUT,
        to: gateway_mac(direction),
        rewritten: other.inverse().unwrap(),
        egress: EGRESS + direction as u32,
        header: link_header(direction, family),
        mtu: 1500,
    };
    let tcp = original.protocol == tidegate_packet::protocol::TCP;
    Flow {
        family,
        ways: [Some(way(0, original, reply)), Some(way(1, reply, original))],
        windows: tcp.then(windows::established),
        checksum: true,
        generation: 1,
        until: NOW + Duration::from_secs(100_000),
    }
}

/// Plain, source and destination translated, of both families and protocols.
fn flows() -> Vec<(&'static str, Flow)> {
    let mut flows = Vec::new();
    for protocol in [tidegate_packet::protocol::TCP, tidegate_packet::protocol::UDP] {
        let t = |src, sport, dst, dport| tuple(protocol, src, sport, dst, dport);
        let (c4, g4, s4) = ("192.168.0.5", "198.51.100.1", "203.0.113.9");
        let (c6, g6, s6) = ("fd00::5", "2001:db8::1", "2001:db8:5:6:7:8:9:a");
        flows.push(("plain IPv4", flow(t(c4, 4000, s4, 80), t(s4, 80, c4, 4000))));
        flows.push(("plain IPv6", flow(t(c6, 4000, s6, 80), t(s6, 80, c6, 4000))));
        flows.push(("SNAT", flow(t(c4, 4000, s4, 80), t(s4, 80, g4, 61_000))));
        flows.push(("SNAT, same port", flow(t(c4, 4000, s4, 80), t(s4, 80, g4, 4000))));
        flows.push(("SNAT IPv6", flow(t(c6, 4000, s6, 80), t(s6, 80, g6, 61_001))));
        flows.push(("DNAT", flow(t(s4, 4000, g4, 80), t(c4, 8080, s4, 4000))));
        flows.push(("DNAT IPv6", flow(t(s6, 4000, g6, 80), t(c6, 8080, s6, 4000))));
        flows.push(("both", flow(t(c4, 4000, g4, 80), t(s4, 8080, g4, 4001))));
    }
    flows
}

fn is_tcp(flow: &Flow) -> bool {
    flow.windows.is_some()
}

fn way(flow: &Flow, direction: usize) -> &Way {
    flow.ways[direction].as_ref().unwrap()
}

/// An ordinary packet of a direction of a flow, without its link header.
fn packet(flow: &Flow, direction: usize, payload: &[u8]) -> Vec<u8> {
    let Tuple { src, dst, sport, dport, protocol } = way(flow, direction).tuple;
    let ip = Ip { dont_fragment: true, id: 77, tos: 8, ..Ip::new(src, dst, protocol) };
    match is_tcp(flow) {
        true => {
            let (seq, ack) = windows::numbers(direction);
            let flags = tidegate_packet::tcp::ACK;
            let fields = Tcp { sport, dport, seq, ack, flags, window: 500, options: &[] };
            builder::tcp(ip, fields, payload)
        }
        false => builder::udp(ip, sport, dport, payload),
    }
}

/// A packet in a frame to the gateway.
fn frame(direction: usize, packet: &[u8]) -> Vec<u8> {
    let ethertype = if packet[0] >> 4 == 4 { ethernet::IPV4 } else { ethernet::IPV6 };
    let mut frame = vec![0; ethernet::HEADER_LEN];
    ethernet::write(&mut frame, gateway_mac(direction), mac(1), ethertype);
    frame.extend_from_slice(packet);
    frame
}

/// What the kernel says of a frame besides its bytes.
fn context() -> SkBuff {
    SkBuff { ifindex: INPUT, ..SkBuff::default() }
}

fn context_bytes(context: &SkBuff) -> Vec<u8> {
    let mut bytes = vec![0; size_of::<SkBuff>()];
    let mut put = |at: i16, value: u32| {
        bytes[at as usize..at as usize + 4].copy_from_slice(&value.to_ne_bytes());
    };
    put(layout::context::INTERFACE, context.ifindex);
    put(layout::context::GSO_SIZE, context.gso_size);
    put(layout::context::GSO_SEGMENTS, context.gso_segs);
    bytes
}

/// What `decide` says of a frame.
fn decide_with(bypass: &Bypass, frame: &[u8], context: &SkBuff) -> u32 {
    // A test run takes a link header off the front of what isn't a program of tc; a packet socket's
    // filter sees it.
    let packet = [&frame[..ethernet::HEADER_LEN], frame].concat();
    let context = context_bytes(context);
    test_run::run(bypass.decide.as_fd(), &packet, &context, 0).unwrap().0
}

fn decide(bypass: &Bypass, frame: &[u8]) -> u32 {
    decide_with(bypass, frame, &context())
}

/// What `forward` does with it.
fn forward(bypass: &Bypass, frame: &[u8]) -> (u32, Vec<u8>) {
    let (action, frame) =
        test_run::run(bypass.program(), frame, &context_bytes(&context()), 0).unwrap();
    (action, frame)
}
