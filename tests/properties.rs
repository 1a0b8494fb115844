//! Random and damaged frames through the whole engine, under several rulesets: nothing panics,
//! what leaves is whole, nothing inside shows outside, and every frame is accounted for.

#[path = "common/mod.rs"]
mod common;
#[path = "common/mutate.rs"]
mod mutate;

use common::frames::{Arrival, catalogue};
use common::{check, page_with_neighbours};
use mutate::{Mutation, mend};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestError, TestRunner};
use std::collections::HashSet;
use std::time::Duration;
use tidegate::io::channel::Flying;
use tidegate::sim::{Sim, SimConfig};
use tidegate_packet::{Addr, Parsed, Prefix, Transport, ethernet, icmpv6, protocol};

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

/// The rulesets, by what makes each worth trying.
fn gateways() -> Vec<(&'static str, SimConfig)> {
    let page = page_with_neighbours();
    let nat = "*nat\n-A PREROUTING -i ppp0 -p udp -m udp --dport 9 -j DNAT --to-destination 192.168.0.6\n\
               -A PREROUTING -i ppp0 -p tcp -j DNAT --to-destination 192.168.0.5-192.168.0.6:1000-1003\n\
               -A POSTROUTING -s 192.168.0.0/24 -o ppp0 -p tcp -j MASQUERADE --to-ports 1024-1027\n\
               -A POSTROUTING -s 192.168.0.0/24 -o ppp0 -j MASQUERADE\n\
               -A POSTROUTING -s 10.3.0.0/16 -o ppp0 -j MASQUERADE\nCOMMIT\n";
    let clamp = "*mangle\n-A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu\n\
                 -A PREROUTING -m rpfilter --invert -j DROP\nCOMMIT\n";
    let notrack = "*raw\n-A PREROUTING -p udp -j NOTRACK\nCOMMIT\n";
    let reject = "*filter\n-A FORWARD -p tcp -j REJECT --reject-with tcp-reset\n-A FORWARD -j REJECT\n\
                  -A INPUT -j REJECT\nCOMMIT\n";
    let with = |rules_v4: String, rules_v6: String, sysctls: &str| SimConfig {
        rules_v4,
        rules_v6,
        sysctls: sysctls.into(),
        ..page.clone()
    };
    let mut narrow = with(format!("{nat}{clamp}"), clamp.into(), "");
    narrow.interfaces[2].mtu = 1280;
    vec![
        ("no rules", with(String::new(), String::new(), "")),
        ("translation alone", with(nat.into(), String::new(), "")),
        ("untracked UDP", with(format!("{nat}{notrack}"), notrack.into(), "")),
        ("a narrow uplink", narrow),
        ("everything refused", with(reject.into(), reject.into(), "")),
        (
            "four connections",
            with(nat.into(), String::new(), "net.netfilter.nf_conntrack_max = 4\n"),
        ),
        (
            "the page, strict sources",
            with(page.rules_v4.clone(), page.rules_v6.clone(), "net.ipv4.conf.all.rp_filter = 1\n"),
        ),
        ("the page", page),
    ]
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

/// What identifies a packet's flow to somebody who watches the wire.
type Flow = (u8, Addr, Addr, Option<(u16, u16)>);

/// Watches a gateway and holds it to its promises.
struct Watch {
    sim: Sim,
    masquerades: bool,
    max: usize,
    /// All frames so far had right transport checksums.
    right: bool,
    /// Flows that came from outside straight to an inside address: their answers were never to
    /// be translated.
    asked_inside: HashSet<Flow>,
}

impl Watch {
    fn new(config: &SimConfig) -> Self {
        Self {
            sim: Sim::new(config).expect("a configuration of this file"),
            masquerades: config.rules_v4.contains("MASQUERADE")
                && !config.sysctls.contains("invalid_bypasses_nat"),
            max: if config.sysctls.contains("conntrack_max") { 4 } else { 262_144 },
            right: true,
            asked_inside: HashSet::new(),
        }
    }

    /// Sends one frame in and looks at everything that this brings about.
    fn step(&mut self, port: &str, frame: Flying) -> Result<(), String> {
        self.right &= check::transport_is_right(&frame);
        if let Some(p) = parsed(&frame) {
            if inside(p.dst) && !inside(p.src) {
                self.asked_inside.insert((
                    p.protocol,
                    p.dst,
                    p.src,
                    p.ports().map(|(s, d)| (d, s)),
                ));
            }
        }
        let before = self.drops();
        self.sim.inject(port, frame.clone()).expect("a port of the gateway");
        let out = self.sim.collect();
        if out.len() > 80 {
            return Err(format!("{} frames for one", out.len()));
        }
        let silent = out.is_empty() && self.drops() == before;
        if silent && !self.may_be_silent(&frame) {
            return Err("neither sent, nor counted, nor kept".into());
        }
        self.look_at(&out)
    }

    fn wait(&mut self, by: Duration) -> Result<(), String> {
        self.sim.advance(by);
        let out = self.sim.collect();
        self.look_at(&out)
    }

    fn drops(&self) -> u64 {
        self.sim.engine().counters().drops().map(|(_, n)| n).sum()
    }

    /// Frames that end at the gateway without an answer: it learnt from them, or keeps them.
    fn may_be_silent(&self, frame: &Flying) -> bool {
        let Some(header) = ethernet::Header::parse(&frame.bytes) else { return false };
        if header.ethertype == ethernet::ARP {
            return true;
        }
        let Some(p) = parsed(frame) else { return false };
        p.fragment.is_some()
            || p.icmp().is_some_and(|(kind, _)| {
                p.protocol == protocol::ICMPV6 && kind == icmpv6::NEIGHBOUR_ADVERTISEMENT
            })
            || self.sim.engine().neighbours().any(|(_, _, mac)| mac.is_none())
    }

    fn look_at(&self, out: &[(String, Flying)]) -> Result<(), String> {
        for (port, frame) in out {
            let what = |why: String| format!("{port}: {why}: {:02x?}", frame.bytes);
            let Some((p, _)) = check::decodes(frame).map_err(what)? else { continue };
            if self.right && !check::transport_is_right(frame) {
                return Err(what("wrong transport checksum".into()));
            }
            if port == "ppp0" && self.masquerades && inside(p.src) && !self.was_asked(&p) {
                return Err(what(format!("{} shows outside", p.src)));
            }
        }
        let connections = self.sim.engine().conntrack().len();
        if connections > self.max {
            return Err(format!("{connections} connections"));
        }
        Ok(())
    }

    /// An answer to somebody outside who had named the inside address himself.
    fn was_asked(&self, p: &Parsed) -> bool {
        self.asked_inside.contains(&(p.protocol, p.src, p.dst, p.ports()))
            || p.is_icmp_error() && self.asked_inside.iter().any(|(_, _, asker, _)| *asker == p.dst)
    }
}

fn parsed(frame: &Flying) -> Option<Parsed> {
    let header = ethernet::Header::parse(&frame.bytes)?;
    Parsed::parse(&frame.bytes[header.len..]).ok()
}

/// An address that MASQUERADE rules cover, of a host other than the gateway.
fn inside(addr: Addr) -> bool {
    let lan: Prefix = "192.168.0.0/24".parse().expect("a prefix");
    let other: Prefix = "10.3.0.0/16".parse().expect("a prefix");
    let own = [common::addr("192.168.0.1"), common::addr("10.3.0.1")];
    (lan.contains(addr) || other.contains(addr)) && !own.contains(&addr)
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
