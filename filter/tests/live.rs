//! Rules changed by command: what stays of rules and counters, and what a failure leaves.

use std::fmt::Write as _;
use tidegate_filter::live::{self, Answer, Call, Files, Present, Program, files};
use tidegate_filter::{Counters, Ruleset, Source, load};
use tidegate_packet::Family;

fn args(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

/// Rules with counters, changed call by call.
struct Gateway {
    ruleset: Ruleset,
    counters: Counters,
}

impl Gateway {
    fn load(text: &str) -> Self {
        let loaded = load(Source { name: "test", text }, Family::V4).unwrap();
        let counters = loaded.ruleset.new_counters();
        Self { ruleset: loaded.ruleset, counters }
    }

    fn answer(&self, program: Program, args: &[String], input: &str) -> Answer {
        let call = Call { program, family: Family::V4, args, input, stamp: "NOW" };
        live::run(call, Present { ruleset: &self.ruleset, counters: &self.counters })
    }

    fn run(&mut self, program: Program, line: &str, input: &str) -> (u8, String) {
        let answer = self.answer(program, &args(line), input);
        if let Some(change) = answer.change {
            let seen = self.counters.clone();
            self.counters.follow(&change, &seen);
            self.ruleset = change.ruleset;
        }
        (answer.status, answer.out)
    }

    fn iptables(&mut self, line: &str) -> (u8, String) {
        self.run(Program::Iptables, line, "")
    }

    /// `-S -v` of a chain, rules only.
    fn rules(&mut self, chain: &str) -> Vec<String> {
        let (status, out) = self.iptables(&format!("-S {chain} -v"));
        assert_eq!(status, 0);
        let rule = |line: &str| line.strip_prefix(&format!("-A {chain} ")).map(str::to_owned);
        out.lines().filter_map(rule).collect()
    }
}

const COUNTED: &str = "*filter
:INPUT DROP [7:700]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:own - [0:0]
[1:10] -A INPUT -s 10.0.0.1/32 -j ACCEPT
[2:20] -A INPUT -s 10.0.0.2/32 -j own
[3:30] -A INPUT -s 10.0.0.3/32 -j ACCEPT
[4:40] -A own -m limit --limit 1/hour -j ACCEPT
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
[5:50] -A PREROUTING -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 8080
COMMIT
";

#[test]
fn rules_that_stay_go_on_counting() {
    // Commands, and INPUT afterwards.
    for (commands, want) in [
        (&["-A INPUT -j DROP"][..], &["1.1:1", "2.2:2", "3.3:3", "DROP:0"][..]),
        (&["-I INPUT -j DROP"], &["DROP:0", "1.1:1", "2.2:2", "3.3:3"]),
        (&["-I INPUT 3 -j DROP -c 9 90"], &["1.1:1", "2.2:2", "DROP:9", "3.3:3"]),
        (&["-D INPUT 1"], &["2.2:2", "3.3:3"]),
        (&["-D INPUT 1", "-A INPUT -j DROP"], &["2.2:2", "3.3:3", "DROP:0"]),
        (&["-D INPUT -s 10.0.0.3 -j ACCEPT"], &["1.1:1", "2.2:2"]),
        (&["-R INPUT 1 -j DROP"], &["DROP:0", "2.2:2", "3.3:3"]),
        (&["-Z INPUT 2"], &["1.1:1", "2.2:0", "3.3:3"]),
        (&["-Z INPUT"], &["1.1:0", "2.2:0", "3.3:0"]),
        (&["-E own mine", "-P INPUT ACCEPT", "-N x"], &["1.1:1", "2.2:2", "3.3:3"]),
        (&["-F INPUT", "-A INPUT -j DROP"], &["DROP:0"]),
        (&["-t nat -F", "-t mangle -A INPUT -j ACCEPT"], &["1.1:1", "2.2:2", "3.3:3"]),
    ] {
        let mut gateway = Gateway::load(COUNTED);
        for command in commands {
            assert_eq!(gateway.iptables(command).0, 0, "{command}");
        }
        let shown = |rule: &String| {
            let count = rule.split("-c ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
            let host = rule.strip_prefix("-s 10.0.0.").map(|r| r.split('/').next().unwrap());
            match host {
                Some(n) => format!("{n}.{n}:{count}"),
                None => format!("DROP:{count}"),
            }
        };
        let got: Vec<String> = gateway.rules("INPUT").iter().map(shown).collect();
        assert_eq!(got, want, "{commands:?}");
    }
}

#[test]
fn other_tables_and_policies_keep_their_counters() {
    let mut gateway = Gateway::load(COUNTED);
    for command in ["-A INPUT -j DROP", "-D INPUT 1", "-X", "-t nat -I PREROUTING -j ACCEPT"] {
        assert_eq!(gateway.iptables(command).0, 0, "{command}");
    }
    assert!(gateway.iptables("-S INPUT -v").1.starts_with("-P INPUT DROP -c 7 700\n"));
    assert!(gateway.iptables("-t nat -S -v").1.contains("-c 5 50 -j REDIRECT"));
    assert_eq!(gateway.rules("own"), ["-m limit --limit 1/hour -c 4 40 -j ACCEPT"]);
}

#[test]
fn what_was_counted_meanwhile_outlives_a_zero() {
    let mut gateway = Gateway::load(COUNTED);
    let seen = gateway.counters.clone();
    let change = gateway.answer(Program::Iptables, &args("-Z"), "").change.unwrap();
    // Another worker's packets arrive between the listing and the change.
    gateway.counters.absorb(&seen);
    gateway.counters.follow(&change, &seen);
    gateway.ruleset = change.ruleset;
    assert!(gateway.rules("INPUT")[0].contains("-c 1 10 "));
}

#[test]
fn a_restore_is_all_or_nothing_and_leaves_other_tables() {
    let mut gateway = Gateway::load(COUNTED);
    let before = gateway.run(Program::Save, "-c", "").1;
    for (line, input, status) in [
        ("", "*nat\n-A PREROUTING -j ACCEPT\nCOMMIT\n*filter\n-A INPUT -j NOWHERE\nCOMMIT\n", 2),
        ("", "*filter\n-D INPUT 1\nCOMMIT\n", 1),
        ("-n", "*filter\n-X own\nCOMMIT\n", 1),
        ("", "*filter\n-A INPUT -j ACCEPT\n", 1),
        ("-c", "*filter\n:INPUT DROP [x:0]\nCOMMIT\n", 2),
        ("-n", "*filter\n-A own -j own\nCOMMIT\n", 1),
        ("-t", "*filter\nCOMMIT\n", 0),
        ("-T raw", "*filter\nCOMMIT\n", 0),
    ] {
        let got = gateway.run(Program::Restore, line, input).0;
        assert_eq!(got, status, "{line} {input}");
        assert_eq!(gateway.run(Program::Save, "-c", "").1, before, "{line} {input}");
    }
    assert_eq!(gateway.run(Program::Restore, "", "*filter\n-A INPUT -j ACCEPT\nCOMMIT\n").0, 0);
    let after = gateway.run(Program::Save, "-c", "").1;
    assert!(after.contains(":INPUT DROP [7:700]\n"), "{after}");
    assert!(!after.contains("own") && after.contains("[5:50] -A PREROUTING"), "{after}");
    assert!(after.contains("[0:0] -A INPUT -j ACCEPT\n"), "{after}");
}

#[test]
fn nothing_but_changes_makes_a_change() {
    let gateway = Gateway::load(COUNTED);
    for line in ["-S", "-L", "-nvL INPUT", "-C INPUT -s 10.0.0.1 -j ACCEPT", "-V", "--help", ""] {
        let answer = gateway.answer(Program::Iptables, &args(line), "");
        assert!(answer.change.is_none(), "{line}");
    }
}

/// As programs look for them in the original's help.
#[test]
fn help_names_icmp_types() {
    let gateway = Gateway::load(COUNTED);
    let plain = gateway.answer(Program::Iptables, &args("--help"), "").out;
    assert!(!plain.contains("Valid ICMP Types"), "{plain}");
    let told = gateway.answer(Program::Iptables, &args("-p icmp --help"), "").out;
    let (before, types) = told.split_once("Valid ICMP Types:\n").unwrap();
    assert_eq!(before.trim_end(), plain.trim_end());
    let lines: Vec<&str> = types.lines().collect();
    assert_eq!(
        lines[..4],
        ["any", "echo-reply (pong)", "destination-unreachable", "   network-unreachable"]
    );
    assert_eq!((lines.len(), *lines.last().unwrap()), (37, "address-mask-reply"));
}

#[test]
fn arguments_are_read_as_getopt_does() {
    let mut gateway = Gateway::load(COUNTED);
    for (line, status) in [
        ("-nvL", 0),
        ("-vnxL INPUT --line-numbers", 0),
        ("-tnat -SPREROUTING", 0),
        ("--table=nat --list-rules PREROUTING", 0),
        ("-w5 -L", 0),
        ("-w 5 -W 100 -L", 0),
        ("--wait --list INPUT 1", 0),
        ("-M /sbin/modprobe -L", 0),
        ("-4 -L", 0),
        ("-6 -L", 2),
        ("-L -S", 2),
        ("-L -j DROP", 2),
        ("-A INPUT -n -j DROP", 2),
        ("-A", 2),
        ("-A INPUT extra", 2),
        ("-q", 2),
        ("-t nosuch -L", 3),
        ("-W 5 -L", 2),
    ] {
        assert_eq!(gateway.iptables(line).0, status, "{line}");
    }
    for (program, line, input, output) in [
        (Program::Restore, "-c -n rules.v4", Some("rules.v4"), None),
        (Program::Restore, "-w 5 -T nat", None, None),
        (Program::Restore, "--wait=5 --table nat x", Some("x"), None),
        (Program::Save, "-cf out", None, Some("out")),
        (Program::Save, "--file=out -t nat", None, Some("out")),
        (Program::Save, "-z -f out", None, None),
        (Program::Iptables, "-f -A INPUT", None, None),
    ] {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let want = Files { input: owned(input), output: owned(output) };
        assert_eq!(files(program, &args(line)), want, "{line}");
    }
}

/// A change touches its own rule: all others are there afterwards, in their order.
#[test]
fn one_rule_among_many() {
    let mut text = String::from("*filter\n:c - [0:0]\n");
    for n in 0..2_000 {
        let (b, c) = (n / 256, n % 256);
        let _ = writeln!(text, "-A c -s 10.0.{b}.{c} -p tcp -m tcp --dport 22 -j DROP");
    }
    text.push_str("COMMIT\n");
    let mut gateway = Gateway::load(&text);
    let before = gateway.iptables("-S c");
    for line in [
        "-I c 5 -s 1.1.1.1 -j DROP",
        "-A c -s 1.1.1.2 -j DROP",
        "-C c -s 1.1.1.2 -j DROP",
        "-D c -s 1.1.1.2 -j DROP",
        "-D c 5",
    ] {
        assert_eq!(gateway.iptables(line).0, 0, "{line}");
        let changed = gateway.iptables("-S c") != before;
        assert_eq!(changed, line != "-D c 5", "{line}");
    }
}
