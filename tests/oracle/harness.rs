//! Tests of the comparison itself: it has to see what differs and nothing else.

use crate::case::{self, Case};
use crate::compare::{Names, compare};
use crate::side::{Played, Transcript};
use libtest_mimic::{Failed, Trial};
use std::path::Path;
use tidegate_packet::builder::{self, Ip, Tcp};

const NAMES: Names = Names("left", "right");

/// The harness's own tests.
pub fn trials() -> Vec<Trial> {
    let test = |name: &str, run: fn() -> Result<(), Failed>| Trial::test(name, run);
    vec![
        test("harness_sees_every_changed_bit", every_changed_bit),
        test("harness_sees_missing_and_reordered_frames", missing_and_reordered),
        test("harness_renames_only_what_was_chosen", renaming),
        test("harness_refuses_what_it_cannot_read", refuses),
    ]
}

fn ensure(holds: bool, why: impl Into<String>) -> Result<(), Failed> {
    if holds { Ok(()) } else { Err(why.into().into()) }
}

/// A case with one step that puts in a packet with identification 7.
fn a_case() -> Case {
    let text = "== one: a step\neth0: ip 192.168.0.2 > 198.51.100.10 id 7 | tcp 1025 > 80 S\n";
    case::parse(Path::new("x.case"), text, Path::new("")).expect("a right case").remove(0)
}

fn segment(sport: u16, id: u16, ttl: u8) -> Vec<u8> {
    let (src, dst) = ([203, 0, 113, 1], [198, 51, 100, 10]);
    let mut header = Ip::new(
        tidegate_packet::Addr::from_v4_bytes(src),
        tidegate_packet::Addr::from_v4_bytes(dst),
        6,
    );
    (header.id, header.hop_limit) = (id, ttl);
    let fields = Tcp { sport, dport: 80, seq: 1000, flags: 2, window: 64240, ..Tcp::default() };
    let packet = builder::tcp(header, fields, b"abc");
    [&[2, 0, 0, 0, 3, 2, 2, 0, 0, 0, 3, 1, 8, 0][..], &packet].concat()
}

fn transcript(frames: Vec<Vec<u8>>) -> Transcript {
    let emitted = frames.into_iter().map(|f| ("ppp0".to_owned(), f)).collect();
    Transcript {
        steps: vec![Played { injected: vec![segment(1025, 7, 64)], emitted, listing: None }],
        known: [1025, 80].into(),
        ..Transcript::default()
    }
}

fn every_changed_bit() -> Result<(), Failed> {
    let case = a_case();
    let frame = segment(1025, 7, 63);
    let right = transcript(vec![frame.clone()]);
    ensure(compare(&case, NAMES, &right, &right).is_empty(), "equal frames differ")?;
    for bit in 0..frame.len() * 8 {
        let mut changed = frame.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let report = compare(&case, NAMES, &right, &transcript(vec![changed]));
        ensure(!report.is_empty(), format!("bit {} of byte {}", bit % 8, bit / 8))?;
    }
    Ok(())
}

fn missing_and_reordered() -> Result<(), Failed> {
    let case = a_case();
    let (a, b) = (segment(1025, 7, 63), segment(1025, 8, 63));
    let both = transcript(vec![a.clone(), b.clone()]);
    for other in [vec![], vec![a.clone()], vec![b.clone(), a.clone()], vec![a.clone(), b, a]] {
        let report = compare(&case, NAMES, &both, &transcript(other));
        ensure(!report.is_empty(), "frames are missing, or in another order")?;
    }
    Ok(())
}

fn renaming() -> Result<(), Failed> {
    let case = a_case();
    let rows: [(&str, [u16; 2], [u16; 2], bool); 6] = [
        ("both chose", [40000, 40001], [50000, 50001], true),
        ("one name for two", [40000, 40001], [50000, 50000], false),
        ("two names for one", [40000, 40000], [50000, 50001], false),
        ("the case's port wasn't kept", [1025, 1025], [50000, 50000], false),
        ("the case's port was kept wrongly", [40000, 40000], [1025, 1025], false),
        ("another range", [40000, 40000], [700, 700], false),
    ];
    for (what, left, right, same) in rows {
        let frames = |ports: [u16; 2]| transcript(ports.map(|p| segment(p, 7, 63)).to_vec());
        let report = compare(&case, NAMES, &frames(left), &frames(right));
        ensure(report.is_empty() == same, format!("{what}: {report}"))?;
    }
    Ok(())
}

fn refuses() -> Result<(), Failed> {
    let steps = ["eth0 ip 1.2.3.4", "wait long", "sysctl x", "rules4 no-such-file", "-> nothing"];
    for step in steps {
        let text = format!("== one: a step\n{step}\n");
        let parsed = case::parse(Path::new("x.case"), &text, Path::new("tests/corpus/rules"));
        let error = parsed.err().unwrap_or_default();
        ensure(error.starts_with("x.case:2: "), format!("{step:?}: {error:?}"))?;
    }
    Ok(())
}
