//! Listings of connections, made comparable: both sides print them in the same three forms, and
//! what may differ is taken out.

use std::collections::BTreeSet;
use std::fmt::Write;

/// How far the seconds left may lie apart: the kernel's clock goes on while a case is played.
const SECONDS: u64 = 3;

/// Words whose numbers may be chosen freely.
const CHOSEN: [&str; 8] = [
    "sport",
    "dport",
    "id",
    "--sport",
    "--dport",
    "--reply-port-src",
    "--reply-port-dst",
    "--icmp-id",
];

/// Lines with a `*` for times (what is left, and the age) and for ports and identifiers that no
/// case spells out, sorted; and the times, in that order.
pub fn masked(lines: &[String], known: &BTreeSet<u16>) -> (Vec<String>, Vec<[u64; 2]>) {
    let mut all: Vec<(String, [u64; 2])> = lines.iter().map(|line| mask(line, known)).collect();
    all.sort();
    all.into_iter().unzip()
}

fn mask(line: &str, known: &BTreeSet<u16>) -> (String, [u64; 2]) {
    let plain = line.starts_with("ipv");
    let expected = line.contains(" master-src=");
    let (mut text, mut times, mut before, mut index) = (String::new(), [0; 2], "", 0);
    let mut rest = line;
    while !rest.is_empty() {
        let part = |c: char| c.is_ascii_alphanumeric() || "_.:-".contains(c);
        let word = &rest[..rest.find(|c| !part(c)).unwrap_or(rest.len())];
        if word.is_empty() {
            let gap = rest.find(part).unwrap_or(rest.len());
            text.push_str(&rest[..gap]);
            rest = &rest[gap..];
            continue;
        }
        rest = &rest[word.len()..];
        let left =
            matches!(before, "timeout" | "-t") || plain && index == 4 || expected && index == 0;
        let free = |n: u16| CHOSEN.contains(&before) && !known.contains(&n);
        match word.parse::<u64>() {
            Ok(seconds) if left || matches!(before, "delta-time" | "deltatime") => {
                times[usize::from(!left)] = seconds;
                text.push('*');
            }
            // The kernel counts packets that wait for a neighbour among those who hold it.
            Ok(_) if before == "use" => text.push('*'),
            Ok(n) if u16::try_from(n).is_ok_and(free) => text.push('*'),
            _ => text.push_str(word),
        }
        (before, index) = (word, index + 1);
    }
    (text, times)
}

/// Lines whose times lie too far apart, where so many seconds went by on one side alone.
pub fn late(lines: &[String], left: &[[u64; 2]], right: &[[u64; 2]], passed: u64) -> String {
    let mut report = String::new();
    for ((line, left), right) in lines.iter().zip(left).zip(right) {
        if left.iter().zip(right).any(|(left, right)| left.abs_diff(*right) > SECONDS + passed) {
            let _ = writeln!(report, "  connections: {left:?} or {right:?} seconds: {line}");
        }
    }
    report
}
