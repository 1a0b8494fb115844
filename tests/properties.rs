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
use tidegate_packet::{Parsed, Prefix, Transport, ethernet};

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
    walk(Watch::new(config), steps, catalogue, name)
}

fn walk(
    mut watch: Watch,
    steps: &[Step],
    catalogue: &[Arrival],
    name: &str,
) -> Result<(), TestCaseError> {
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

/// A rule of POSTROUTING that says what becomes of sources, simple enough to be judged here.
#[derive(Clone, Debug)]
struct SourceRule {
    network: Option<&'static str>,
    protocol: Option<u8>,
    target: &'static str,
}

impl SourceRule {
    fn any() -> impl Strategy<Value = Self> {
        const NETWORKS: &[&str] = &["192.168.0.0/24", "192.168.0.2/32", "10.3.0.0/16"];
        const TARGETS: &[&str] = &[
            "MASQUERADE",
            "MASQUERADE --random-fully",
            "SNAT --to-source 203.0.113.1",
            "SNAT --to-source 203.0.113.20-203.0.113.22 --persistent",
            "NETMAP --to 203.0.113.0/24",
            "ACCEPT",
        ];
        (
            proptest::option::of(proptest::sample::select(NETWORKS)),
            proptest::option::weighted(0.6, proptest::sample::select(&[1_u8, 6, 17, 132, 47][..])),
            proptest::sample::select(TARGETS),
        )
            .prop_map(|(network, protocol, target)| Self { network, protocol, target })
    }

    fn text(&self) -> String {
        let source = self.network.map(|n| format!(" -s {n}")).unwrap_or_default();
        let protocol = self.protocol.map(|p| format!(" -p {p}")).unwrap_or_default();
        format!("-A POSTROUTING{source} -o ppp0{protocol} -j {}\n", self.target)
    }

    fn matches(&self, p: &Parsed) -> bool {
        let network: Option<Prefix> = self.network.map(|n| n.parse().expect("a network"));
        p.src.is_v4()
            && network.is_none_or(|n| n.contains(p.src))
            && self.protocol.is_none_or(|n| n == p.protocol)
    }
}

/// Whether the rules translate the packet. An error belongs to the connection that it is about, so it
/// counts only where all are covered.
fn covers(rules: &[SourceRule], p: &Parsed) -> bool {
    let first = |p: &Parsed| rules.iter().find(|rule| rule.matches(p));
    if p.is_icmp_error() {
        let of = |protocol| Parsed { protocol, ..*p };
        return [1, 6, 17, 132, 47, 255]
            .iter()
            .all(|&n| first(&of(n)).is_some_and(|rule| rule.target != "ACCEPT"));
    }
    first(p).is_some_and(|rule| rule.target != "ACCEPT")
}

/// Random frames under random rules for sources, in a gateway with these parameters; what shows
/// outside though it is covered is an error.
fn under_random_rules(cases: u32, more: &'static str) -> Result<(), String> {
    const BEFORE: &[&str] = &[
        "",
        "*raw\n-A PREROUTING -i eth0 -p udp -j CT --notrack\nCOMMIT\n",
        "*raw\n-A PREROUTING -i ppp0 -j CT --notrack\nCOMMIT\n",
        "*raw\n-A PREROUTING -i eth1 -j CT --zone 4\nCOMMIT\n",
        "*filter\n-A FORWARD -m conntrack --ctstate INVALID -j REJECT\nCOMMIT\n",
    ];
    const SYSCTLS: &[&str] =
        &["", "net.netfilter.nf_conntrack_max = 4\n", "tidegate.raw_before_defrag = 1\n"];
    let catalogue = catalogue();
    let rules = proptest::collection::vec(SourceRule::any(), 1..5);
    let (before, sysctls) = (proptest::sample::select(BEFORE), proptest::sample::select(SYSCTLS));
    let mut runner = TestRunner::new(config(cases));
    let done =
        runner.run(&(damaged(), rules, before, sysctls), |(steps, rules, before, sysctls)| {
            let nat: String = rules.iter().map(SourceRule::text).collect();
            let config = SimConfig {
                rules_v4: format!("{before}*nat\n{nat}COMMIT\n"),
                rules_v6: String::new(),
                sysctls: format!("{sysctls}{more}"),
                ..page_with_neighbours()
            };
            let watch = Watch::with_bound(&config, 262_144);
            let name = config.rules_v4.clone();
            walk(watch.covering(Box::new(move |p| covers(&rules, p))), &steps, &catalogue, &name)
        });
    match done {
        Ok(()) => Ok(()),
        Err(TestError::Fail(why, (steps, ..))) => Err(format!("{why}\n{steps:#?}")),
        Err(TestError::Abort(why)) => Err(why.to_string()),
    }
}

/// Whatever comes in, and whichever rules translate sources: nothing that they cover leaves with an
/// address from inside. Damaged packets, those outside the window, errors, fragments and untracked
/// ones are in it, in a table with room for few. The kernel's way doesn't pass this.
#[test]
fn nothing_inside_shows_outside() {
    if let Err(why) = under_random_rules(400, "") {
        panic!("{why}");
    }
    let leaks = under_random_rules(100, "tidegate.invalid_bypasses_nat = 1\n");
    assert!(leaks.expect_err("the kernel lets them through").contains("shows outside"));
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
