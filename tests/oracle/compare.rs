//! Compares two transcripts of a case.

use crate::case::{Case, Expect};
use crate::connections;
use crate::decode::{Decoded, Value, decode};
use crate::side::{Played, Transcript};
use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;

/// The names of the two sides, as differences print them.
#[derive(Copy, Clone)]
pub struct Names(pub &'static str, pub &'static str);

/// What one side's number is called on the other. One to one, for the whole case.
#[derive(Default)]
struct Renaming {
    there: HashMap<(u16, u32), u32>,
    back: HashMap<(u16, u32), u32>,
}

impl Renaming {
    /// Takes `a` and `b` for the same thing, if nothing speaks against it.
    fn unify(&mut self, kind: u16, a: u32, b: u32) -> bool {
        let there = *self.there.entry((kind, a)).or_insert(b);
        let back = *self.back.entry((kind, b)).or_insert(a);
        (there, back) == (b, a)
    }
}

/// Everything that a comparison of two frames needs besides them.
struct Comparison<'a> {
    renaming: Renaming,
    known: BTreeSet<u16>,
    /// How far the second side's sequence numbers of cookies are from the first side's.
    cookie: Option<u32>,
    /// Seconds that went by on one side alone.
    late: u64,
    injected: Vec<(u16, u8)>,
    case: &'a Case,
    names: Names,
}

/// What differs between `a` (what is right) and `b`, as text for people; empty if nothing does.
pub fn compare(case: &Case, names: Names, a: &Transcript, b: &Transcript) -> String {
    let injected = a
        .steps
        .iter()
        .flat_map(|s| &s.injected)
        .filter(|f| f.len() > 22 && f[12..14] == [0x08, 0x00])
        .map(|f| (u16::from_be_bytes([f[18], f[19]]), f[22]))
        .collect();
    let mut comparison = Comparison {
        renaming: Renaming::default(),
        known: a.known.clone(),
        cookie: None,
        injected,
        late: a.late.max(b.late),
        case,
        names,
    };
    let mut report = String::new();
    for (at, (left, right)) in a.steps.iter().zip(&b.steps).enumerate() {
        let mut differences = comparison.step(left, right);
        if let (Some(left), Some(right)) = (&left.listing, &right.listing) {
            differences.push_str(&comparison.listings(left, right, &a.known));
        }
        if !differences.is_empty() {
            let step = &case.steps[at];
            let _ = writeln!(report, "{}:{}: {}", case.file.display(), step.line, step.text);
            report.push_str(&differences);
        }
    }
    if let (Some(left), Some(right)) = (&a.counters, &b.counters) {
        report.push_str(&comparison.lines("counters", left, right));
    }
    if let (Some(left), Some(right)) = (&a.connections, &b.connections) {
        report.push_str(&comparison.listings(left, right, &a.known));
    }
    report
}

impl Comparison<'_> {
    /// Interfaces are independent of each other; within one, order counts.
    fn step(&mut self, left: &Played, right: &Played) -> String {
        let interfaces: BTreeSet<&String> =
            left.emitted.iter().chain(&right.emitted).map(|(name, _)| name).collect();
        let mut report = String::new();
        for interface in interfaces {
            let pick = |side: &Played| -> Vec<Decoded> {
                let of_interface = side.emitted.iter().filter(|(name, _)| name == interface);
                of_interface.map(|(_, frame)| decode(frame)).collect()
            };
            let (left, right) = (pick(left), pick(right));
            for at in 0..left.len().max(right.len()) {
                self.pair(interface, left.get(at), right.get(at), &mut report);
            }
        }
        report
    }

    fn pair(
        &mut self,
        interface: &str,
        a: Option<&Decoded>,
        b: Option<&Decoded>,
        out: &mut String,
    ) {
        let rows = match (a, b) {
            (Some(a), Some(b)) => self.rows(a, b),
            _ => Vec::new(),
        };
        if a.is_some() && b.is_some() && rows.is_empty() {
            return;
        }
        let summary = |d: Option<&Decoded>| d.map_or("nothing".to_owned(), |d| d.summary.clone());
        let Names(first, second) = self.names;
        let _ = writeln!(out, "  {interface}  {first:>9}: {}", summary(a));
        let _ = writeln!(out, "  {interface}  {second:>9}: {}", summary(b));
        // Of packets of two kinds, what they have in common says enough.
        let missing = rows.iter().filter(|(_, left, right)| left.is_none() || right.is_none());
        let of_two_kinds = missing.count() > 2;
        for (name, left, right) in rows {
            if of_two_kinds && (left.is_none() || right.is_none()) {
                continue;
            }
            let (left, right) = around_difference(left, right);
            let _ = writeln!(out, "      {name:<22} {first} {left}  {second} {right}");
        }
    }

    /// The fields that differ: name, and the value on each side that has it.
    fn rows(&mut self, a: &Decoded, b: &Decoded) -> Vec<(String, Option<String>, Option<String>)> {
        let mut rows = Vec::new();
        for (name, left) in &a.fields {
            let right = b.fields.iter().find(|(n, _)| n == name).map(|(_, v)| v);
            if !right.is_some_and(|right| self.equal(name, left, right)) {
                rows.push((name.clone(), Some(left.to_string()), right.map(Value::to_string)));
            }
        }
        for (name, right) in &b.fields {
            if a.fields.iter().all(|(n, _)| n != name) {
                rows.push((name.clone(), None, Some(right.to_string())));
            }
        }
        rows
    }

    fn equal(&mut self, name: &str, a: &Value, b: &Value) -> bool {
        match (a, b) {
            (Value::Port(protocol, a), Value::Port(_, b)) => self.ports(*protocol, *a, *b),
            (Value::IpId { id: a, ttl, df }, Value::IpId { id: b, .. }) => {
                let forwarded =
                    |id| self.injected.iter().any(|(i, t)| (*i, *t) == (id, ttl.wrapping_add(1)));
                // A packet of the gateway's own may carry any number if it may be fragmented.
                a == b || !df && !forwarded(*a) && !forwarded(*b)
            }
            (Value::FragmentId(a), Value::FragmentId(b)) => self.renaming.unify(0x100, *a, *b),
            (Value::Text(a), Value::Text(b)) if name == "ip.label" => {
                // The gateway's own packets may carry any label; a forwarded one keeps its own.
                a == b || !self.labels().contains(a)
            }
            (Value::Text(a), Value::Text(b))
                if self.case.settings.cookies && matches!(name, "tcp.seq" | "tcp.ack") =>
            {
                a == b || self.same_distance(a, b)
            }
            (a, b) => a == b,
        }
    }

    /// Each side draws the number that its cookies begin from; all that follow are as far from the
    /// other side's as the first.
    fn same_distance(&mut self, a: &str, b: &str) -> bool {
        let (Ok(a), Ok(b)) = (a.parse::<u32>(), b.parse::<u32>()) else { return false };
        let distance = b.wrapping_sub(a);
        *self.cookie.get_or_insert(distance) == distance
    }

    /// Flow labels that the case gives.
    fn labels(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for step in &self.case.steps {
            let mut words = step.text.split_whitespace();
            while let Some(word) = words.next() {
                if word == "flow" {
                    found.extend(words.next().map(str::to_owned));
                }
            }
        }
        found
    }

    /// A port may differ if both sides chose it freely: neither is one that the case spells out,
    /// and both lie in the same of the kernel's ranges.
    fn ports(&mut self, protocol: u8, a: u16, b: u16) -> bool {
        let range = |port: u16| match port {
            _ if matches!(protocol, 1 | 58) => 0,
            0..512 => 1,
            512..1024 => 2,
            _ => 3,
        };
        let free = a != b && !self.known.contains(&a) && !self.known.contains(&b);
        (a == b || free && range(a) == range(b))
            && self.renaming.unify(u16::from(protocol), u32::from(a), u32::from(b))
    }

    fn listings(&self, left: &[String], right: &[String], known: &BTreeSet<u16>) -> String {
        let (left, left_times) = connections::masked(left, known);
        let (right, right_times) = connections::masked(right, known);
        let mut report = self.lines("connections", &left, &right);
        if left == right {
            report.push_str(&connections::late(&left, &left_times, &right_times, self.late));
        }
        report
    }

    fn lines(&self, what: &str, left: &[String], right: &[String]) -> String {
        let mut report = String::new();
        let Names(first, second) = self.names;
        for line in left.iter().filter(|l| !right.contains(l)) {
            let _ = writeln!(report, "  {what}: {first:>9}: {line}");
        }
        for line in right.iter().filter(|l| !left.contains(l)) {
            let _ = writeln!(report, "  {what}: {second:>9}: {line}");
        }
        if report.is_empty() && left != right {
            let _ = writeln!(report, "  {what}: the same lines in another order");
        }
        report
    }
}

/// Two values, long ones cut to where they first differ.
fn around_difference(left: Option<String>, right: Option<String>) -> (String, String) {
    let (left, right) = (left.unwrap_or("-".to_owned()), right.unwrap_or("-".to_owned()));
    if left.len().max(right.len()) <= 48 {
        return (left, right);
    }
    let at = left.bytes().zip(right.bytes()).take_while(|(a, b)| a == b).count();
    let cut = |text: &str| match text.get(at.saturating_sub(4)..) {
        Some(rest) if at > 4 => format!("…{rest:.40}"),
        _ => format!("{text:.40}"),
    };
    (format!("at {}: {}", at / 2, cut(&left)), cut(&right))
}

/// Holds a transcript against what the case says will happen; empty if it did.
pub fn unexpected(case: &Case, side: &str, transcript: &Transcript) -> String {
    let mut report = String::new();
    for (step, played) in case.steps.iter().zip(&transcript.steps) {
        let Some(expected) = &step.expect else { continue };
        if expected.iter().any(|e| matches!(e, Expect::Anything)) {
            continue;
        }
        let fits = expected.len() == played.emitted.len()
            && expected.iter().all(|expect| {
                let Expect::Frame(interface, words) = expect else { return true };
                played.emitted.iter().any(|(i, frame)| i == interface && says(frame, words))
            });
        if !fits {
            let _ = writeln!(
                report,
                "{}:{}: {}\n  {side} does otherwise than the case says:",
                case.file.display(),
                step.line,
                step.text
            );
            for (interface, frame) in &played.emitted {
                let _ = writeln!(report, "  -> {interface}: {}", decode(frame).summary);
            }
            if played.emitted.is_empty() {
                report.push_str("  -> nothing\n");
            }
        }
    }
    report
}

/// Whether the frame's summary has `words` in this order.
fn says(frame: &[u8], words: &[String]) -> bool {
    let summary = decode(frame).summary;
    let mut said = summary.split_whitespace();
    words.iter().all(|word| said.any(|s| s == word))
}

/// A transcript for people, in the notation of case files.
pub fn show(case: &Case, transcript: &Transcript) -> String {
    let mut text = format!("== {}: {}\n", case.name, case.about);
    for (step, played) in case.steps.iter().zip(&transcript.steps) {
        let _ = writeln!(text, "{}", step.text);
        for (interface, frame) in &played.emitted {
            let _ = writeln!(text, "    -> {interface}: {}", decode(frame).summary);
        }
        if played.emitted.is_empty() && !played.injected.is_empty() {
            text.push_str("    -> nothing\n");
        }
    }
    for line in transcript.connections.iter().flatten() {
        let _ = writeln!(text, "    ct {line}");
    }
    text
}
