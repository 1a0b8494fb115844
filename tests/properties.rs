//! Random and damaged frames through the whole engine, under several rulesets: nothing panics,
//! what leaves is whole, nothing inside shows outside, and every frame is accounted for.

mod common;

use common::frames::{Arrival, catalogue};
use common::mutate::{Mutation, mend};
use common::watch::{Watch, gateways, parsed};
use common::{check, page_with_neighbours};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestError, TestRunner};
use std::time::Duration;
use tidegate::sim::{Sim, SimConfig};
use tidegate_packet::{Transport, ethernet};

/// A frame to be sent, and how long to wait afterwards.
#[derive(Clone, Debug)]
struct Step {
    frame: usize,
    port: Option<&'static str>,
    mutations: Vec<Mutation>,
    mend: bool,
    wait: Duration,
}

const PORTS: [&str; 3] = ["eth0", "eth1", "ppp0"];

fn step(mutations: impl Strategy<Value = Vec<Mutation>>) -> impl Strategy<Value = Step> {
    let waits = prop_oneof![
        8 => Just(Duration::ZERO),
        2 => (0..3000_u64).prop_map(Duration::from_millis),
        1 => (1..300_u64).prop_map(Duration::from_secs),
    ];
    let port = proptest::option::weighted(0.1, proptest::sample::select(&PORTS[..]));
    (0..catalogue().len(), port, mutations, any::<bool>(), waits).prop_map(
        |(frame, port, mutations, mend, wait)| Step { frame, port, mutations, mend, wait },
    )
}

fn damaged() -> impl Strategy<Value = Vec<Step>> {
    let mutations = prop_oneof![
        1 => Just(Vec::new()),
        3 => proptest::collection::vec(Mutation::any(), 1..4),
    ];
    proptest::collection::vec(step(mutations), 1..60)
}

fn whole() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec(step(Just(Vec::new())), 1..100)
}

/// The same walks each time, so that nobody's build fails by luck. `PROPTEST_RNG_SEED` and
/// `PROPTEST_CASES` try others.
fn config(cases: u32) -> Config {
    let number = |name| std::env::var(name).ok().and_then(|s| s.parse::<u64>().ok());
    let seed = number("PROPTEST_RNG_SEED");
    Config {
        cases: number("PROPTEST_CASES").map_or(cases, |n| n as u32),
        failure_persistence: None,
        max_shrink_iters: 2000,
        rng_seed: RngSeed::Fixed(seed.unwrap_or(0x7469_6465)),
        ..Config::default()
    }
}

fn run(
    steps: &[Step],
    catalogue: &[Arrival],
    name: &str,
    config: &SimConfig,
) -> Result<(), TestCaseError> {
    let mut watch = Watch::new(config);
    for (n, step) in steps.iter().enumerate() {
        let Arrival { port, mut frame } = catalogue[step.frame].clone();
        for mutation in &step.mutations {
            mutation.apply(&mut frame);
        }
        if step.mend && !step.mutations.is_empty() {
            mend(&mut frame);
        }
        let at = |why| TestCaseError::fail(format!("{name}, step {n} {step:?}: {why}"));
        watch.step(step.port.unwrap_or(port), frame).map_err(at)?;
        watch.wait(step.wait).map_err(at)?;
    }
    watch.wait(Duration::from_secs(5)).map_err(TestCaseError::fail)
}

/// Tries `cases` walks, each under one of the rulesets.
fn hold(cases: u32, walks: impl Strategy<Value = Vec<Step>>) {
    let (catalogue, gateways) = (catalogue(), gateways());
    let strategy = (walks, 0..gateways.len());
    let mut runner = TestRunner::new(config(cases));
    let done = runner.run(&strategy, |(steps, n)| {
        let (name, gateway) = &gateways[n];
        run(&steps, &catalogue, name, gateway)
    });
    match done {
        Ok(()) => {}
        Err(TestError::Fail(why, (steps, _))) => panic!("{why}\n{steps:#?}"),
        Err(TestError::Abort(why)) => panic!("{why}"),
    }
}

#[test]
fn damaged_frames_are_survived() {
    hold(600, damaged());
}

#[test]
fn whole_frames_leave_whole() {
    hold(200, whole());
}

/// Each frame of the catalogue is what it is meant to be: it decodes, and its checksums are right.
#[test]
fn the_catalogue_is_whole() {
    for (n, Arrival { frame, .. }) in catalogue().iter().enumerate() {
        assert!(check::transport_is_right(frame), "{n}: {:02x?}", frame.bytes);
        let header = ethernet::Header::parse(&frame.bytes).expect("a header");
        if matches!(header.ethertype, ethernet::IPV4 | ethernet::IPV6) {
            assert!(parsed(frame).is_some(), "{n}: {:02x?}", frame.bytes);
        }
    }
}

/// The kernel's way by its sysctl: an INVALID packet passes untranslated.
#[test]
fn invalid_packets_show_their_source_only_where_it_is_wanted() {
    let accept = "*nat\n-A POSTROUTING -s 192.168.0.0/24 -o ppp0 -j MASQUERADE\nCOMMIT\n";
    let invalid = catalogue()
        .into_iter()
        .filter(|a| a.port == "eth0")
        .filter(|a| {
            parsed(&a.frame)
                .is_some_and(|p| matches!(p.transport, Transport::Tcp { flags: 0 | 3, .. }))
        })
        .collect::<Vec<_>>();
    assert_eq!(invalid.len(), 2);
    for (sysctl, leaves) in [(0, 0), (1, 1)] {
        let config = SimConfig {
            rules_v4: accept.into(),
            sysctls: format!("tidegate.invalid_bypasses_nat = {sysctl}\n"),
            ..page_with_neighbours()
        };
        for arrival in &invalid {
            let mut sim = Sim::new(&config).expect("a configuration");
            sim.inject(arrival.port, arrival.frame.clone()).expect("a port");
            let sources: Vec<_> =
                sim.collect().iter().filter_map(|(_, f)| parsed(f)).map(|p| p.src).collect();
            assert_eq!(sources, vec![common::addr("192.168.0.2"); leaves]);
        }
    }
}
