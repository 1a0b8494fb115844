//! Random rulesets and random traffic, played in the kernel and in Tidegate.
//!
//! A seed makes a case; where the two sides differ, it is made as small as it gets and printed as
//! the text of a case file. What the kernel decides by chance or by its clock isn't drawn, and a
//! case that the kernel plays in two ways is left out.

mod dice;
mod matches;
mod model;
mod rules;
mod shrink;
mod targets;
mod tcp;
mod traffic;
mod values;

use crate::compare::{Names, compare};
use crate::{kernel, tidegate};
use dice::Dice;
use libtest_mimic::{Failed, Trial};
use model::Model;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use values::Net;

/// How many trials of `cargo test`, and seeds of each.
const TRIALS: u64 = 8;
const SEEDS: u64 = 12;

/// What came of a seed.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Same,
    /// Neither side takes the rules.
    Refused(String),
    /// Why the sides differ, or which of them refuses the rules.
    Differs(String),
}

/// What random cases are about.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Any rules, any packets.
    Rules,
    /// Long TCP conversations.
    Tcp,
}

impl Mode {
    /// The mode that `TIDEGATE_RANDOM_MODE` names.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "" => Some(Self::Rules),
            "tcp" => Some(Self::Tcp),
            _ => None,
        }
    }

    /// Its trials' names begin so.
    fn name(self) -> &'static str {
        match self {
            Self::Rules => "random",
            Self::Tcp => "random_tcp",
        }
    }

    /// Seeds whose cases show what docs/DIFFERENCES.md lists or what isn't understood yet.
    fn known(self) -> &'static [u64] {
        match self {
            Self::Rules => &[82, 95],
            Self::Tcp => &[],
        }
    }

    /// The case of a seed.
    fn generate(self, seed: u64) -> Model {
        match self {
            Self::Rules => generate(seed),
            Self::Tcp => tcp::generate(seed),
        }
    }
}

/// A few seeds, always the same.
pub fn trials() -> Vec<Trial> {
    let trial = |mode: Mode, n: u64| {
        Trial::test(format!("{}_{n}", mode.name()), move || {
            let known = mode.known();
            for seed in (n * SEEDS..(n + 1) * SEEDS).filter(|seed| !known.contains(seed)) {
                if let Some(repro) = try_seed(mode, seed, Duration::from_secs(60)) {
                    return Err(Failed::from(repro));
                }
            }
            Ok(())
        })
    };
    let modes = [Mode::Rules, Mode::Tcp];
    modes.iter().flat_map(|mode| (0..TRIALS).map(|n| trial(*mode, n))).collect()
}

/// Tries seeds from `first` on for so long, and prints what it finds.
pub fn search(mode: Mode, first: u64, time: Duration) -> ExitCode {
    let end = Instant::now() + time;
    let (next, refused, found) = (AtomicU64::new(first), AtomicU64::new(0), AtomicU64::new(0));
    let workers = std::env::var("TIDEGATE_RANDOM_WORKERS").ok().and_then(|n| n.parse().ok());
    std::thread::scope(|scope| {
        for _ in 0..workers.unwrap_or(2) {
            scope.spawn(|| {
                while Instant::now() < end {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if let Outcome::Refused(why) = play(&mode.generate(seed)) {
                        refused.fetch_add(1, Ordering::Relaxed);
                        eprintln!("seed {seed}: both sides refuse: {why}");
                    } else if let Some(repro) = try_seed(mode, seed, Duration::from_secs(120)) {
                        found.fetch_add(1, Ordering::Relaxed);
                        println!("{repro}\n");
                    }
                }
            });
        }
    });
    let found = found.into_inner();
    let tried = next.into_inner() - first;
    eprintln!("{tried} seeds, {found} differences, {} without effect", refused.into_inner());
    if found == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The case of a seed.
fn generate(seed: u64) -> Model {
    let mut d = Dice::new(seed);
    let nets: &[Net] = match d.below(10) {
        0..5 => &[Net::V4],
        5..8 => &[Net::V6],
        _ => &[Net::V4, Net::V6],
    };
    let mut model = Model { seed, ..Model::default() };
    for net in nets {
        model.rules[*net as usize] = rules::ruleset(&mut d, *net);
    }
    for _ in 0..d.pick(&[0, 0, 0, 1, 2]) {
        model.sysctls.push(d.pick(&SYSCTLS).to_owned());
    }
    model.steps = traffic::steps(&mut d, nets);
    model
}

const SYSCTLS: [&str; 15] = [
    "net.ipv4.conf.all.rp_filter=1",
    "net.ipv4.conf.all.rp_filter=2",
    "net.ipv4.conf.ppp0.rp_filter=1",
    "net.ipv4.conf.all.send_redirects=1",
    "net.ipv4.conf.all.accept_source_route=1",
    "net.ipv4.icmp_echo_ignore_all=1",
    "net.ipv4.icmp_echo_ignore_broadcasts=0",
    "net.ipv4.ip_forward=0",
    "net.ipv4.ip_default_ttl=100",
    "net.ipv6.conf.all.forwarding=0",
    "net.netfilter.nf_conntrack_tcp_loose=0",
    "net.netfilter.nf_conntrack_tcp_be_liberal=1",
    "net.netfilter.nf_conntrack_checksum=0",
    "net.netfilter.nf_conntrack_tcp_ignore_invalid_rst=1",
    "net.netfilter.nf_conntrack_acct=1",
];

/// A smallest case for a seed that the sides differ on, with what differs.
fn try_seed(mode: Mode, seed: u64, patience: Duration) -> Option<String> {
    let model = mode.generate(seed);
    let Outcome::Differs(_) = settled(&model) else { return None };
    let until = Instant::now() + patience;
    let small = shrink::shrink(model, until, &|m| matches!(play(m), Outcome::Differs(_)));
    // What chance decides may have come in while things were taken out.
    match settled(&small) {
        Outcome::Differs(why) => Some(format!("{}\n{}", small.text(), commented(&why))),
        _ => None,
    }
}

fn commented(why: &str) -> String {
    why.lines().map(|line| format!("# {line}\n")).collect()
}

/// What comes of it, unless the kernel itself plays it in two ways.
fn settled(model: &Model) -> Outcome {
    let outcome = play(model);
    if let (Outcome::Differs(_), Ok(case)) = (&outcome, model.case()) {
        for _ in 0..3 {
            let (once, again) =
                (kernel::transcript(&case, false), kernel::transcript(&case, false));
            let unsure =
                |once, again| !compare(&case, Names("kernel", "again"), &once, &again).is_empty();
            if once.and_then(|once| Ok(unsure(once, again?))) == Ok(true) {
                return Outcome::Same;
            }
        }
        return play(model);
    }
    outcome
}

/// Plays it on both sides.
fn play(model: &Model) -> Outcome {
    let case = match model.case() {
        Ok(case) => case,
        Err(why) => return Outcome::Refused(why),
    };
    let got = catch_unwind(AssertUnwindSafe(|| tidegate::transcript(&case)));
    let got = got.unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().cloned().unwrap_or_default();
        Err(format!("it panics: {said}"))
    });
    match (kernel::transcript(&case, false), got) {
        (Ok(wanted), Ok(got)) => {
            let report = compare(&case, Names("kernel", "tidegate"), &wanted, &got);
            if report.is_empty() { Outcome::Same } else { Outcome::Differs(report) }
        }
        (Err(why), Err(own)) if !own.contains("panics") => {
            Outcome::Refused(format!("{why}; {own}"))
        }
        (Ok(_), Err(why)) => Outcome::Differs(format!("only Tidegate refuses: {why}")),
        (Err(why), Ok(_)) => Outcome::Differs(format!("only the kernel refuses: {why}")),
        (_, Err(why)) => Outcome::Differs(why),
    }
}
