//! What packets cost in the engine, without devices: to see when a change makes them dearer.
//! `scripts/bench` measures the whole gateway.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use tidegate::engine::{Fate, OwnedFrame, PortId};
use tidegate::sim::{Sim, SimConfig, SimInterface, SimRoute};
use tidegate_filter::{self as filter, CtState, Hook, Query, TableName};
use tidegate_nat::{Conntrack, Settings};
use tidegate_packet::builder::{self, Ip};
use tidegate_packet::{Addr, Family, Instant, MacAddr, Parsed, ethernet, protocol};

const CLIENT: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const ROUTER: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
const LAN: MacAddr = MacAddr([2, 0, 0, 0, 1, 0]);
const WAN: MacAddr = MacAddr([2, 0, 0, 0, 1, 1]);
const RULES: &str = include_str!("../src/lab/rules/iptables.rules");
/// Flows that are warm, and packets in a burst.
const FLOWS: u16 = 64;
/// Connections made in one go.
const NEW: u16 = 1000;

fn addr(text: &str) -> Addr {
    text.parse().expect("an address")
}

/// Datagram `flow` of the client's.
fn datagram(flow: u16) -> Vec<u8> {
    let ip = Ip::new(addr("192.168.0.2"), addr("198.51.100.10"), protocol::UDP);
    builder::udp(ip, 1024 + flow, 5002, &[b't'; 18])
}

fn frame(packet: &[u8]) -> OwnedFrame {
    let mut bytes = vec![0; ethernet::HEADER_LEN];
    ethernet::write(&mut bytes, LAN, CLIENT, ethernet::IPV4);
    bytes.extend_from_slice(packet);
    OwnedFrame::new(&bytes)
}

/// The page's rules, with others before those of FORWARD that no packet here matches.
fn rules_behind(others: usize) -> String {
    let mut text = String::new();
    let mut placed = false;
    for line in RULES.lines() {
        if line.starts_with("-A FORWARD") && !placed {
            placed = true;
            for n in 0..others {
                let (a, b) = (n >> 8, n & 0xff);
                text +=
                    &format!("-A FORWARD -s 10.9.{a}.{b}/32 -p udp --dport {} -j DROP\n", n + 1);
            }
        }
        text += line;
        text.push('\n');
    }
    assert!(placed, "rules in FORWARD");
    text
}

fn gateway() -> Sim {
    gateway_with(RULES)
}

fn gateway_with(rules: &str) -> Sim {
    let interface = |name: &str, mac, address: &str| {
        SimInterface::new(name, mac, &[address.parse().expect("a prefix")])
    };
    let config = SimConfig {
        interfaces: vec![
            interface("eth0", LAN, "192.168.0.1/24"),
            interface("ppp0", WAN, "203.0.113.1/24"),
        ],
        routes: vec![SimRoute {
            to: "0.0.0.0/0".parse().expect("a prefix"),
            via: Some(addr("203.0.113.2")),
            dev: None,
        }],
        neighbours: vec![
            ("eth0".into(), addr("192.168.0.2"), CLIENT),
            ("ppp0".into(), addr("203.0.113.2"), ROUTER),
        ],
        rules_v4: rules.into(),
        ..SimConfig::default()
    };
    Sim::new(&config).expect("a gateway")
}

fn decode(c: &mut Criterion) {
    let packet = datagram(0);
    c.bench_function("decode", |b| b.iter(|| Parsed::parse(black_box(&packet))));
}

fn conntrack(c: &mut Criterion) {
    let now = Instant::from_secs(3600);
    let packet = datagram(0);
    let parsed = Parsed::parse(&packet).expect("a packet");
    let mut table = Conntrack::new(Settings::default(), [1, 2]);
    let mut first = table.track(&parsed, &packet, true, now);
    table.confirm(&mut first, now).expect("room");
    c.bench_function("conntrack, known connection", |b| {
        b.iter(|| table.track(black_box(&parsed), &packet, false, now));
    });
}

/// The uplink's side of the page's rules, walked to their end by a packet that nothing is known of.
fn rules(c: &mut Criterion) {
    struct Nowhere;
    impl filter::Gateway for Nowhere {
        fn reverse_path(&self, _: filter::ReversePath<'_>) -> bool {
            true
        }
        fn addr_type(&self, _: Addr, _: Option<&str>) -> filter::AddrType {
            filter::AddrType::Unicast
        }
        fn flow(&self, _: &filter::Flow, _: [u16; 2]) -> filter::FlowState {
            filter::FlowState::Unknown
        }
    }
    let source = filter::Source { name: "rules", text: RULES };
    let ruleset = filter::load(source, Family::V4).expect("the page's rules").ruleset;
    let (mut counters, memory) = (ruleset.new_counters(), filter::Memory::new());
    let packet = datagram(0);
    let parsed = Parsed::parse(&packet).expect("a packet");
    let query = |state| Query {
        packet: &parsed,
        bytes: &packet,
        input: Some("ppp0"),
        output: Some("eth0"),
        port: Some("ppp0"),
        link: None,
        state,
        connection: None,
        mark: 0,
        now: Instant::from_secs(3600),
        unix_nanos: 0,
        random: 0,
        trace: false,
        cpu: 0,
        gateway: &Nowhere,
    };
    for (name, state) in
        [("rules, ESTABLISHED", CtState::Established), ("rules, NEW, refused", CtState::New)]
    {
        let query = query(state);
        c.bench_function(name, |b| {
            b.iter(|| {
                let effects = &mut filter::NoEffects;
                let table = TableName::Filter;
                let mut walk = ruleset.walk(table, Hook::Forward);
                walk.resume(&query, &mut counters, &memory, effects)
            });
        });
    }
}

fn forward(c: &mut Criterion) {
    let mut sim = gateway();
    let port = PortId(0);
    let frames: Vec<_> = (0..FLOWS).map(|flow| frame(&datagram(flow))).collect();
    let mut group = c.benchmark_group("engine");
    group.throughput(Throughput::Elements(FLOWS.into()));
    group.bench_function("64 datagrams of known connections", |b| {
        let mut burst = frames.clone();
        b.iter(|| {
            for (frame, fresh) in burst.iter_mut().zip(&frames) {
                // Forwarding has changed it.
                frame.slot.copy_from_slice(&fresh.slot);
                frame.meta = fresh.meta;
                assert_ne!(sim.input(port, frame.frame()), Fate::Consumed);
            }
        });
    });
    for others in [10, 10_000] {
        let mut sim = gateway_with(&rules_behind(others));
        group.bench_function(format!("64 known, behind {others} rules"), |b| {
            let mut burst = frames.clone();
            b.iter(|| {
                for (frame, fresh) in burst.iter_mut().zip(&frames) {
                    frame.slot.copy_from_slice(&fresh.slot);
                    frame.meta = fresh.meta;
                    assert_ne!(sim.input(port, frame.frame()), Fate::Consumed);
                }
            });
        });
    }
    group.throughput(Throughput::Elements(NEW.into()));
    for others in [10, 10_000] {
        let text = rules_behind(others);
        group.bench_function(format!("1000 new, behind {others} rules"), |b| {
            let setup = || {
                (
                    gateway_with(&text),
                    (0..NEW).map(|flow| frame(&datagram(flow))).collect::<Vec<_>>(),
                )
            };
            let run = |(mut sim, mut frames): (Sim, Vec<OwnedFrame>)| {
                for frame in &mut frames {
                    assert_ne!(sim.input(port, frame.frame()), Fate::Consumed);
                }
                (sim, frames)
            };
            b.iter_batched(setup, run, BatchSize::LargeInput);
        });
    }
    group.bench_function("1000 new connections", |b| {
        let setup = || (gateway(), (0..NEW).map(|flow| frame(&datagram(flow))).collect::<Vec<_>>());
        let run = |(mut sim, mut frames): (Sim, Vec<OwnedFrame>)| {
            for frame in &mut frames {
                assert_ne!(sim.input(port, frame.frame()), Fate::Consumed);
            }
            (sim, frames)
        };
        b.iter_batched(setup, run, BatchSize::LargeInput);
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(20);
    targets = decode, conntrack, rules, forward
}
criterion_main!(benches);
