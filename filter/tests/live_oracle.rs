//! The same commands for iptables-legacy in a namespace and for [`live::run`] here: output, exit
//! status and the rules afterwards have to be equal.
//!
//! `corpus/live.txt` has sequences, `%%` between them. A line is a command: `iptables`, `save` or
//! `restore` with arguments, quoted as for a shell; behind `<<` stands what `restore` reads, `\n`
//! for a line end. `6` before a sequence makes it one of ip6tables. `~` before a command: the words
//! of the error are our own, status and output are compared.
//!
//! Besides, every rule of the corpus of saved rules is listed by `-L`, with names and with numbers.

mod oracle;

use oracle::{Line, Oracle, RESET, Ran, corpus, lines, quoted, sections};
use tidegate_filter::live::{self, Call, Present, Program};
use tidegate_filter::{Counters, Ruleset, Sets};
use tidegate_packet::{Family, Instant};

/// A gateway's rules, changed call by call.
struct Gateway {
    ruleset: Ruleset,
    counters: Counters,
}

impl Gateway {
    fn new(family: Family) -> Self {
        let sets = Sets::new();
        let create = corpus_sets(family).map(|set| format!("create {set}\n")).concat();
        sets.restore(&create, Instant::ZERO).unwrap();
        Self { ruleset: Ruleset::empty(family, &sets), counters: Counters::default() }
    }

    fn run(&mut self, program: Program, args: &[String], input: &str) -> Ran {
        let family = self.ruleset.family();
        let call = Call { program, family, args, input, stamp: "NOW" };
        let present = Present { ruleset: &self.ruleset, counters: &self.counters };
        let answer = live::run(call, present);
        if let Some(change) = answer.change {
            let seen = self.counters.clone();
            self.counters.follow(&change, &seen);
            self.ruleset = change.ruleset;
        }
        Ran { status: answer.status, out: answer.out, err: answer.err }
    }
}

/// The sets that corpus lines name.
fn corpus_sets(family: Family) -> [String; 2] {
    let kind = if family == Family::V4 { "inet" } else { "inet6" };
    ["one", "two"].map(|set| format!("{set} hash:net family {kind} timeout 0"))
}

/// A command of the corpus.
#[derive(Clone, Debug)]
struct Step {
    program: Program,
    args: Vec<String>,
    input: String,
    own_words: bool,
}

fn step(line: &str) -> Step {
    let Line { mut words, input, own_words } = Line::parse(line, '"');
    let program = match words.remove(0).as_str() {
        "iptables" => Program::Iptables,
        "save" => Program::Save,
        "restore" => Program::Restore,
        other => panic!("no program {other}"),
    };
    Step { program, args: words, input, own_words }
}

fn program(family: Family, program: Program) -> String {
    let name = if family == Family::V4 { "iptables-legacy" } else { "ip6tables-legacy" };
    match program {
        Program::Iptables => name.to_owned(),
        Program::Save => format!("{name}-save"),
        Program::Restore => format!("{name}-restore"),
    }
}

/// Runs the steps in a fresh namespace.
fn ask(oracle: Oracle, family: Family, steps: &[Step]) -> Vec<Ran> {
    let sets = corpus_sets(family).map(|set| format!("ipset create {set}\n")).concat();
    let line = |step: &Step| quoted(&program(family, step.program), &step.args);
    let commands: Vec<_> = steps.iter().map(|step| (line(step), step.input.as_str())).collect();
    oracle.run(&sets, &commands)
}

/// What to look at when a sequence is over.
const AFTER: &[&str] = &[
    "iptables -S",
    "iptables -S -v",
    "iptables -L -n -v",
    "iptables -L -nv --line-numbers -x",
    "iptables -L",
    "iptables -t nat -S",
    "iptables -t nat -L -n -v",
    "save -c",
    "save",
    "save -t filter -c",
];

/// What differs in one step.
fn difference(step: &Step, theirs: &Ran, ours: &Ran) -> Option<String> {
    let same_out = match step.program {
        Program::Save => sections(&theirs.out) == sections(&ours.out),
        _ => theirs.out == ours.out,
    };
    // Ours may say more, behind what iptables says.
    let same_err = step.own_words || ours.err.starts_with(&theirs.err);
    let same = same_out && same_err && theirs.status == ours.status;
    (!same).then(|| format!("{step:?}\n  iptables {theirs:#?}\n  we {ours:#?}"))
}

/// Runs a file of sequences on both sides.
fn compare(file: &str, after: &[&str], least: usize) {
    let text = corpus(file);
    let Some(oracle) = Oracle::iptables() else { return };
    let mut wrong = Vec::new();
    let mut count = 0;
    for sequence in text.split("%%\n") {
        let (sequence, family) = match sequence.strip_prefix("6\n") {
            Some(rest) => (rest, Family::V6),
            None => (sequence, Family::V4),
        };
        let steps: Vec<Step> = lines(sequence).chain(after.iter().copied()).map(step).collect();
        let theirs = ask(oracle, family, &steps);
        let mut gateway = Gateway::new(family);
        for (step, theirs) in steps.iter().zip(&theirs) {
            count += 1;
            let ours = gateway.run(step.program, &step.args, &step.input);
            wrong.extend(difference(step, theirs, &ours));
        }
    }
    assert!(count > least, "the corpus is there");
    assert!(wrong.is_empty(), "{} of {count} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn commands_do_what_iptables_does() {
    compare("live.txt", AFTER, 200);
}

#[test]
fn mistakes_are_told_as_iptables_tells_them() {
    compare("errors.txt", &["save"], 300);
}

/// The rules of the corpus of saved rules, each alone.
fn listed(file: &str, family: Family) {
    let text = corpus(file);
    let Some(oracle) = Oracle::iptables() else { return };
    let mut steps = Vec::new();
    let mut ours = Vec::new();
    for line in lines(&text) {
        let line = line.strip_prefix("allow ").unwrap_or(line);
        let Some((table, rule)) = line.split_once(' ').filter(|(t, _)| *t != "deny") else {
            continue;
        };
        // Names of hosts aren't asked for here, and iptables finds this one in a file.
        if rule.contains("localhost") || rule.contains("127.0.0.1") {
            continue;
        }
        let input = format!("*{table}\n{rule}\nCOMMIT\n");
        let mut gateway = Gateway::new(family);
        let restored = gateway.run(Program::Restore, &[], &input);
        if restored.status != 0 {
            continue;
        }
        for input in [RESET.to_owned(), input] {
            steps.push(Step { program: Program::Restore, args: vec![], input, own_words: true });
            ours.push(None);
        }
        for form in ["-nL", "-nvL", "-L"] {
            let args = vec!["-t".into(), table.into(), form.into()];
            let input = String::new();
            ours.push(Some((rule.to_owned(), gateway.run(Program::Iptables, &args, ""))));
            steps.push(Step { program: Program::Iptables, args, input, own_words: false });
        }
    }
    let theirs = ask(oracle, family, &steps);
    let mut wrong = Vec::new();
    let mut taken = true;
    for ((step, theirs), ours) in steps.iter().zip(&theirs).zip(&ours) {
        match ours {
            // What iptables doesn't take it can't list.
            None => taken = theirs.status == 0,
            Some((rule, ours)) if taken && theirs.out != ours.out => {
                let differs = |(a, b): &(&str, &str)| a != b;
                let (a, b) = theirs
                    .out
                    .lines()
                    .zip(ours.out.lines())
                    .find(differs)
                    .unwrap_or((&theirs.out, &ours.out));
                wrong.push(format!("{rule} ({})\n  {a:?}\n  {b:?}", step.args[2]));
            }
            Some(_) => {}
        }
    }
    assert!(steps.len() > 400, "the corpus is there");
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), steps.len(), wrong.join("\n"));
}

#[test]
fn ipv4_rules_are_listed_as_iptables_lists_them() {
    listed("v4.txt", Family::V4);
}

#[test]
fn ipv6_rules_are_listed_as_ip6tables_lists_them() {
    listed("v6.txt", Family::V6);
}
