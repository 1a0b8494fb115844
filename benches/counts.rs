//! Instructions that packets cost in the engine, counted by valgrind: figures that don't depend on the
//! machine's mood and can be compared between machines. Needs valgrind and gungraun-runner;
//! `scripts/bench --counts` looks for both.

// Of what the macros make.
#![allow(unused_qualifications, missing_docs)]

mod common;

use std::hint::black_box;

use common::{
    RULES, Received, connected, data, established, gateway, request, rules_behind, segment_out,
    send,
};
use gungraun::{library_benchmark, library_benchmark_group, main};
use tidegate::engine::OwnedFrame;
use tidegate::gateway::Gateway;
use tidegate::sim::Sim;
use tidegate_packet::tcp::SYN;

/// Packets that are sent: divide by it.
const PACKETS: u32 = 1000;

fn requests() -> Vec<OwnedFrame> {
    (0..PACKETS).map(request).collect()
}

fn warm(others: usize) -> (Sim, Vec<OwnedFrame>) {
    let rules = if others == 0 { RULES.to_owned() } else { rules_behind(others) };
    let mut sim = established(&rules, PACKETS);
    requests().iter_mut().for_each(|frame| send(&mut sim, frame));
    (sim, requests())
}

fn empty(others: usize) -> (Sim, Vec<OwnedFrame>) {
    let rules = if others == 0 { RULES.to_owned() } else { rules_behind(others) };
    (gateway(&rules), requests())
}

#[library_benchmark]
#[bench::page(args = (0), setup = warm)]
#[bench::behind_10(args = (10), setup = warm)]
#[bench::behind_10000(args = (10_000), setup = warm)]
fn known((mut sim, mut frames): (Sim, Vec<OwnedFrame>)) -> (Sim, Vec<OwnedFrame>) {
    for frame in &mut frames {
        send(black_box(&mut sim), frame);
    }
    (sim, frames)
}

fn shared(flows: u32) -> (Gateway, Received) {
    let gateway = established(RULES, flows).into_gateway();
    Received::new(requests()).send(&gateway);
    (gateway, Received::new(requests()))
}

// In bursts, as workers take them: with few flows, and with so many that a burst's are looked for
// together.
#[library_benchmark]
#[bench::few(args = (PACKETS), setup = shared)]
#[bench::many(args = (20_000), setup = shared)]
fn bursts((gateway, mut received): (Gateway, Received)) -> (Gateway, Received) {
    received.send(black_box(&gateway));
    (gateway, received)
}

fn connections() -> (Sim, Vec<OwnedFrame>) {
    (connected(RULES, PACKETS), (0..PACKETS).map(data).collect())
}

#[library_benchmark]
#[bench::page(setup = connections)]
fn tcp((mut sim, mut frames): (Sim, Vec<OwnedFrame>)) -> (Sim, Vec<OwnedFrame>) {
    for frame in &mut frames {
        send(black_box(&mut sim), frame);
    }
    (sim, frames)
}

#[library_benchmark]
#[bench::page(args = (0), setup = empty)]
#[bench::behind_10(args = (10), setup = empty)]
#[bench::behind_10000(args = (10_000), setup = empty)]
fn new((mut sim, mut frames): (Sim, Vec<OwnedFrame>)) -> (Sim, Vec<OwnedFrame>) {
    for frame in &mut frames {
        send(black_box(&mut sim), frame);
    }
    (sim, frames)
}

fn syns() -> (Sim, Vec<OwnedFrame>) {
    let frames = (0..PACKETS).map(|flow| segment_out(flow, SYN, [1000, 0])).collect();
    (gateway(RULES), frames)
}

#[library_benchmark]
#[bench::page(setup = syns)]
fn syn((mut sim, mut frames): (Sim, Vec<OwnedFrame>)) -> (Sim, Vec<OwnedFrame>) {
    for frame in &mut frames {
        send(black_box(&mut sim), frame);
    }
    (sim, frames)
}

library_benchmark_group!(name = packets, benchmarks = [known, bursts, tcp, new, syn]);
main!(library_benchmark_groups = packets);
