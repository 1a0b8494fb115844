//! What packets cost in the engine, without devices: to see when a change makes them dearer.
//! `scripts/bench` measures the whole gateway.

mod common;

use std::hint::black_box;
use std::time::Duration;

use common::{
    RULES, Received, datagram, established, gateway, request, rules_behind, send, shuffled,
};
use criterion::measurement::WallTime;
use criterion::{
    BatchSize, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main,
};
use tidegate::engine::OwnedFrame;
use tidegate::sim::Sim;
use tidegate_filter::{self as filter, CtState, Hook, Query, TableName};
use tidegate_nat::{Conntrack, Settings};
use tidegate_packet::{Addr, Family, Instant, Parsed};

/// Packets that are sent in one go.
const PACKETS: u32 = 1000;

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

/// Packets of established flows, sent again and again.
fn known(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    sim: &mut Sim,
    fresh: &[OwnedFrame],
) {
    let mut frames = fresh.to_vec();
    group.bench_function(name, |b| {
        b.iter(|| {
            for (frame, fresh) in frames.iter_mut().zip(fresh) {
                // Forwarding has changed it.
                frame.slot.copy_from_slice(&fresh.slot);
                frame.meta = fresh.meta;
                send(sim, frame);
            }
        });
    });
}

/// The same in bursts, as workers take them.
fn known_in_bursts(group: &mut BenchmarkGroup<'_, WallTime>, sim: Sim, fresh: &[OwnedFrame]) {
    let (gateway, mut received) = (sim.into_gateway(), Received::new(fresh.to_vec()));
    group.bench_function("1000 packets of as many flows, in bursts", |b| {
        b.iter(|| {
            for (frame, fresh) in received.frames.iter_mut().zip(fresh) {
                frame.slot.copy_from_slice(&fresh.slot);
                frame.meta = fresh.meta;
            }
            received.send(&gateway);
        });
    });
}

fn forward(c: &mut Criterion) {
    let mut group = c.benchmark_group("engine");
    group.throughput(Throughput::Elements(PACKETS.into()));
    let warm: Vec<OwnedFrame> = (0..PACKETS).map(request).collect();
    let sim = &mut established(RULES, PACKETS);
    known(&mut group, "1000 packets of as many flows", sim, &warm);
    known_in_bursts(&mut group, established(RULES, PACKETS), &warm);
    for others in [10, 10_000] {
        let sim = &mut established(&rules_behind(others), PACKETS);
        known(&mut group, &format!("1000 packets behind {others} rules"), sim, &warm);
    }
    for others in [0, 10, 10_000] {
        let text = rules_behind(others);
        group.bench_function(format!("1000 new connections behind {others} rules"), |b| {
            let setup = || (gateway(&text), warm.clone());
            let run = |(mut sim, mut frames): (Sim, Vec<OwnedFrame>)| {
                for frame in &mut frames {
                    send(&mut sim, frame);
                }
                (sim, frames)
            };
            b.iter_batched(setup, run, BatchSize::LargeInput);
        });
    }
    group.finish();
}

/// A million flows, each as cold as it gets.
fn cold(c: &mut Criterion) {
    const MANY: u32 = 1_000_000;
    let mut group = c.benchmark_group("engine");
    group.throughput(Throughput::Elements(PACKETS.into()));
    let mut one_by_one = established(RULES, MANY);
    let sim = &mut one_by_one;
    let mut order = std::iter::repeat_with(|| shuffled(MANY)).flatten();
    group.bench_function("1000 packets of a million flows", |b| {
        let setup = || order.by_ref().take(PACKETS as usize).map(request).collect();
        let run = |mut frames: Vec<OwnedFrame>| {
            frames.iter_mut().for_each(|frame| send(sim, frame));
            frames
        };
        b.iter_batched(setup, run, BatchSize::LargeInput);
    });
    let gateway = one_by_one.into_gateway();
    group.bench_function("1000 packets of a million flows, in bursts", |b| {
        let setup = || Received::new(order.by_ref().take(PACKETS as usize).map(request).collect());
        let run = |mut received: Received| {
            received.send(&gateway);
            received
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
    targets = decode, conntrack, rules, forward, cold
}
criterion_main!(benches);
