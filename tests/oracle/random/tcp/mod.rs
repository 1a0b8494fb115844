//! Random TCP conversations: long ones, mostly right, through forwarding and NAT.
//!
//! Every packet that is forwarded says in its TOS byte what connection tracking made of it, and the
//! connections are compared after every packet, so that a difference shows where it begins.

mod course;
mod forge;

use super::dice::Dice;
use super::model::{Layer, Model, Rule, Step, Table};
use super::traffic::interleaved;
use super::values::Net;
use course::Talk;

/// What of the rules matters to the course of a conversation.
#[derive(Copy, Clone, Debug)]
pub struct Stage {
    net: Net,
    /// What leaves by the uplink has the gateway's address.
    masquerade: bool,
    /// The gateway's port 8080 is a server's behind it.
    forward: bool,
}

/// The case of a seed.
pub fn generate(seed: u64) -> Model {
    let mut d = Dice::new(seed ^ 0x7463_7000_0000);
    let net = if d.chance(70) { Net::V4 } else { Net::V6 };
    let stage = Stage { net, masquerade: d.chance(50), forward: d.chance(40) };
    let mut model = Model { seed, listed: true, mode: " --tcp", ..Model::default() };
    model.rules[net as usize] = tables(&mut d, &stage);
    model.sysctls = sysctls(&mut d);
    let talks = d.pick(&[1, 1, 1, 2, 2, 3, 4]);
    let waiting = d.chance(5);
    if waiting {
        for state in SHORT {
            model.sysctls.push(format!("net.netfilter.nf_conntrack_tcp_timeout_{state}=1"));
        }
    }
    let threads = (0..talks).map(|n| Talk::new(&mut d, &stage, n).steps(&mut d)).collect();
    model.steps = interleaved(&mut d, threads, 8);
    if waiting {
        let at = d.below(model.steps.len() as u64) as usize;
        model.steps[at].then = Some("wait 3s".to_owned());
    }
    model
}

/// States that end within a wait, in cases that have one.
const SHORT: [&str; 3] = ["close", "time_wait", "syn_recv"];

fn sysctls(d: &mut Dice) -> Vec<String> {
    let mut set = Vec::new();
    for (name, values, likely) in SYSCTLS {
        if d.chance(likely) {
            set.push(format!("net.netfilter.nf_conntrack_{name}={}", d.pick(values)));
        }
    }
    set
}

/// Names, values and how likely they are set.
const SYSCTLS: [(&str, &[u32], u64); 9] = [
    ("tcp_loose", &[0], 15),
    ("tcp_be_liberal", &[1], 12),
    ("tcp_ignore_invalid_rst", &[1], 12),
    ("tcp_max_retrans", &[0, 1, 2, 5, 255], 20),
    ("tcp_timeout_max_retrans", &[25, 1000], 10),
    ("tcp_timeout_unacknowledged", &[20, 800], 15),
    ("tcp_timeout_established", &[1000, 70], 10),
    ("checksum", &[0], 8),
    ("acct", &[1], 10),
];

fn rule(chain: &str, parts: &[&str], target: impl Into<String>) -> Rule {
    let parts = parts.iter().map(|p| (*p).to_owned()).collect();
    Rule { chain: chain.to_owned(), parts, target: target.into() }
}

fn table(name: &'static str, rules: Vec<Rule>) -> Table {
    let hooks: &[&'static str] = match name {
        "raw" => &["PREROUTING", "OUTPUT"],
        "mangle" => &["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"],
        "nat" => &["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"],
        _ => &["INPUT", "FORWARD", "OUTPUT"],
    };
    let policies = hooks.iter().map(|hook| (*hook, false)).collect();
    Table { name, policies, chains: Vec::new(), rules }
}

fn tables(d: &mut Dice, stage: &Stage) -> Vec<Table> {
    let mut tables = vec![table("mangle", marks())];
    let blind = d.pick(&[
        "-i eth0 -p tcp -m tcp --tcp-flags PSH PSH",
        "-p tcp -m tcp --tcp-flags SYN,ACK SYN,ACK",
        "-p tcp -m tcp --tcp-flags FIN FIN",
        "-p tcp -m statistic --mode nth --every 5 --packet 3",
        "-p tcp -m length --length 100:500",
    ]);
    if d.chance(12) {
        tables.insert(0, table("raw", vec![rule("PREROUTING", &[blind], "-j CT --notrack")]));
    }
    let nat = nat(d, stage);
    if !nat.is_empty() {
        tables.push(table("nat", nat));
    }
    let mut filter = Vec::new();
    for (likely, part, target) in [
        (20, "-m conntrack --ctstate INVALID", "-j DROP"),
        (5, "-p tcp -m tcp --tcp-flags RST RST", "-j DROP"),
        (5, "-i ppp0 -m conntrack --ctstate NEW", "-j DROP"),
        (6, "-p tcp -m length --length 500:1500", "-j REJECT --reject-with tcp-reset"),
        (3, "-p tcp -m length --length 500:1500", "-j REJECT"),
        (3, "-p tcp -m statistic --mode nth --every 7 --packet 4", "-j DROP"),
    ] {
        if d.chance(likely) {
            filter.push(rule("FORWARD", &[part], target));
        }
    }
    if !filter.is_empty() {
        tables.push(table("filter", filter));
    }
    tables
}

/// State, direction, ASSURED and the class of the time-out, written into the TOS byte.
fn marks() -> Vec<Rule> {
    let mut rules = Vec::new();
    let states = ["NEW", "ESTABLISHED", "RELATED", "INVALID", "UNTRACKED"];
    for (at, state) in states.into_iter().enumerate() {
        let part = format!("-m conntrack --ctstate {state}");
        rules.push(rule("PREROUTING", &[&part], format!("-j TOS --set-tos {:#x}", (at + 1) << 5)));
    }
    let with =
        |part: &str, bits: u8| rule("PREROUTING", &[part], format!("-j TOS --or-tos {bits:#04x}"));
    rules.push(with("-m conntrack --ctdir REPLY", 0x10));
    rules.push(with("-m conntrack --ctstatus ASSURED", 0x08));
    let classes = ["15:45", "45:90", "90:200", "200:400", "400:100000", "100001:4294967295"];
    for (at, class) in classes.into_iter().enumerate() {
        // What it says of others depends on how long the machine has been up.
        let part = format!("-m conntrack --ctstatus CONFIRMED --ctexpire {class}");
        rules.push(with(&part, at as u8 + 1));
    }
    rules
}

fn nat(d: &mut Dice, stage: &Stage) -> Vec<Rule> {
    let v4 = stage.net == Net::V4;
    let mut rules = Vec::new();
    if stage.forward {
        let (own, server, lan, host) = if v4 {
            ("203.0.113.1/32", "192.168.0.2:80", "192.168.0.0/24", "192.168.0.2/32")
        } else {
            ("2001:db8:1::1/128", "[fd00:1::2]:80", "fd00:1::/64", "fd00:1::2/128")
        };
        let parts = [&*format!("-d {own}"), "-p tcp -m tcp --dport 8080"];
        rules.push(rule("PREROUTING", &parts, format!("-j DNAT --to-destination {server}")));
        let parts = [&*format!("-s {lan}"), &*format!("-d {host}"), "-p tcp"];
        rules.push(rule("POSTROUTING", &parts, "-j MASQUERADE"));
    }
    if stage.masquerade {
        let target = match d.below(10) {
            // So many that no port is met twice by chance: which one is taken, both sides roll by
            // themselves, and that of a closed connection may be taken again.
            0 if v4 => "-j SNAT --to-source 203.0.113.1:4000-19999",
            1 => "-j MASQUERADE --random",
            _ => "-j MASQUERADE",
        };
        rules.push(rule("POSTROUTING", &["-o ppp0", "-p tcp"], target));
    }
    rules
}

/// A step with this frame.
fn step(interface: &'static str, layers: Vec<Layer>) -> Step {
    Step { times: 1, interface, layers, then: None }
}
