//! The same commands for the real ipset in a namespace and for [`Sets::call`] here: output, exit
//! status, words, and the sets afterwards have to be equal.
//!
//! `corpus/ipset.txt` has sequences, `%%` between them. A line is the arguments of `ipset`, quoted
//! as for a shell; behind `<<` stands what `restore` reads, `\n` for a line end. `~` before a
//! command: the words of the error are our own, status and output are compared.
//!
//! What depends on the kernel's memory is left out: the size, the seed of the hash, and how much of
//! a second has passed.

mod oracle;

use std::time::Duration;

use oracle::{Line, Oracle, Ran, corpus, lines, quoted};
use tidegate_filter::Sets;
use tidegate_packet::Instant;

/// Runs the steps in a fresh namespace.
fn ask(oracle: Oracle, steps: &[Line]) -> Vec<Ran> {
    let line = |step: &Line| quoted("ipset", &step.words);
    let commands: Vec<_> = steps.iter().map(|step| (line(step), step.input.as_str())).collect();
    let mut all = oracle.run("", &commands);
    all.iter_mut().for_each(|ran| ran.out = settled(&ran.out));
    all
}

/// The lines of one that aren't among those of the other.
fn difference(theirs: &Ran, ours: &Ran) -> String {
    let text = |ran: &Ran| format!("status {}\n{}{}", ran.status, ran.out, ran.err);
    let (theirs, ours) = (text(theirs), text(ours));
    let only = |sign: char, of: &str, other: &str| -> String {
        let other: Vec<_> = other.lines().collect();
        let lines = of.lines().filter(|line| !other.contains(line));
        lines.map(|line| format!("  {sign} {line}\n")).collect()
    };
    only('-', &theirs, &ours) + &only('+', &ours, &theirs)
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    lines
}

/// A text without what can't be the same.
fn settled(text: &str) -> String {
    let line = |line: &str| {
        let mut line = line.to_owned();
        if line.starts_with("Size in memory") || line.starts_with("<memsize>") {
            return String::new();
        }
        line = without(&line, "initval 0x", "");
        line = without(&line, "<initval>0x", "");
        if !line.starts_with("create") && !line.starts_with("Header") && !line.contains("header>") {
            line = without(&line, " timeout ", "0");
            line = without(&line, "<timeout>", "0");
        }
        line + "\n"
    };
    text.lines().map(line).collect()
}

/// Leaves out the value behind a mark, unless it is `keep`.
fn without(line: &str, mark: &str, keep: &str) -> String {
    let Some(at) = line.find(mark).map(|at| at + mark.len()) else { return line.to_owned() };
    let len = line[at..].find([' ', '<']).unwrap_or(line.len() - at);
    match &line[at..at + len] == keep {
        true => line.to_owned(),
        false => format!("{}N{}", &line[..at], &line[at + len..]),
    }
}

/// What to look at when a sequence is over.
const AFTER: [&str; 3] = ["save -s", "list -s", "-o xml list -sorted"];

#[test]
fn commands_do_what_ipset_does() {
    let text = corpus("ipset.txt");
    let Some(oracle) = Oracle::ipset() else { return };
    let mut wrong = Vec::new();
    let mut count = 0;
    for sequence in text.split("%%\n") {
        let step = |line| Line::parse(line, '\'');
        let steps: Vec<Line> = lines(sequence).chain(AFTER).map(step).collect();
        let theirs = ask(oracle, &steps);
        let sets = Sets::new();
        for (n, (step, theirs)) in steps.iter().zip(theirs).enumerate() {
            count += 1;
            let now = Instant::ZERO + Duration::from_millis(n as u64);
            let answer = sets.call(&step.words, &step.input, now);
            let (status, err) = (answer.status, answer.err);
            let ours = Ran { status, out: settled(&answer.out), err };
            // The order of a hash is its own; the words of the help are ours.
            let is = |words: &[&str]| step.words.iter().any(|a| words.contains(&a.as_str()));
            let ordered = is(&["-s", "-sorted"]) && !is(&["xml"]);
            let same_out = step.words[0] == "help"
                || ours.out == theirs.out
                || !ordered && sorted(&ours.out) == sorted(&theirs.out);
            let same_err = step.own_words || ours.err == theirs.err;
            if !(same_err && ours.status == theirs.status && same_out) {
                let command = step.words.join(" ");
                wrong.push(format!("ipset {command}\n{}", difference(&theirs, &ours)));
            }
        }
    }
    assert!(count > 200, "the corpus is there");
    assert!(wrong.is_empty(), "{} of {count} differ:\n{}", wrong.len(), wrong.join("\n"));
}
