//! Captures in, captures out: what comes in by each port, what leaves by each, and the counters,
//! as files that one can open. `scripts/regen-golden` writes what the gateway does now.
//!
//! `NAME/in-PORT.pcap` are played on the capture's own clock, `NAME/out-PORT.pcap` and
//! `NAME/counters` are what must come of them. The inputs are made by [`traces`], so that a
//! reader sees what they are meant to be.

#[path = "../common/mod.rs"]
mod common;

mod traces;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tidegate::io::pcap::{Reader, Record, Writer};
use tidegate::sim::Sim;
use tidegate_packet::Instant;
use traces::{Trace, traces};

/// Files by their names.
type Files = BTreeMap<String, Vec<u8>>;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn capture(records: &[(Instant, Vec<u8>)]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new()).expect("a Vec takes all");
    for (time, bytes) in records {
        writer.write(*time, bytes).expect("a Vec takes all");
    }
    writer.into_inner()
}

/// The input captures of a trace.
fn inputs(trace: &Trace) -> Files {
    let mut ports: BTreeMap<&str, Vec<(Instant, Vec<u8>)>> = BTreeMap::new();
    for (at, port, frame) in &trace.frames {
        ports.entry(port).or_default().push((Instant::from_millis(*at), frame.clone()));
    }
    ports.iter().map(|(port, records)| (format!("in-{port}.pcap"), capture(records))).collect()
}

/// Plays input captures, in the order of their times, and collects what comes of them.
fn play(trace: &Trace, inputs: &Files) -> Files {
    let mut frames: Vec<(Instant, String, Vec<u8>)> = Vec::new();
    for (name, file) in inputs {
        let port = name.trim_start_matches("in-").trim_end_matches(".pcap");
        for record in Reader::new(file.as_slice()).expect("a capture") {
            let Record { time, bytes, .. } = record.expect("a whole record");
            frames.push((time, port.to_owned(), bytes));
        }
    }
    frames.sort_by_key(|(time, ..)| *time);
    let mut sim = Sim::new(&trace.config).expect("a configuration");
    let start = sim.now();
    let mut out: BTreeMap<String, Vec<(Instant, Vec<u8>)>> = BTreeMap::new();
    let mut gather = |sim: &mut Sim, time: Instant| {
        for (port, frame) in sim.collect() {
            out.entry(port).or_default().push((time, frame.bytes));
        }
    };
    for (time, port, bytes) in frames {
        let due = start + Duration::from_nanos(time.as_nanos());
        while sim.now() < due {
            sim.advance(Duration::from_millis(50).min(due - sim.now()));
            let passed = Instant::from_nanos((sim.now() - start).as_nanos() as u64);
            gather(&mut sim, passed);
        }
        sim.inject(&port, bytes).expect("a port of the gateway");
        gather(&mut sim, time);
    }
    let mut files: Files =
        out.iter().map(|(port, records)| (format!("out-{port}.pcap"), capture(records))).collect();
    files.insert("counters".into(), counters(&sim).into_bytes());
    files
}

fn counters(sim: &Sim) -> String {
    let mut text = String::new();
    for (reason, count) in sim.counters().drops() {
        writeln!(text, "{} {count}", reason.name()).expect("a string takes all");
    }
    let connections = sim.connections();
    writeln!(text, "connections {connections}").expect("a string takes all");
    text
}

fn read(folder: &Path) -> Files {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    entries
        .map(|entry| entry.expect("an entry").path())
        .map(|path| {
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            (name, fs::read(&path).expect("a file"))
        })
        .collect()
}

/// The records of a capture as lines, so that a difference can be read.
fn lines(file: &[u8]) -> Vec<String> {
    match Reader::new(file) {
        Ok(reader) => reader
            .map(|record| {
                let Record { time, bytes, .. } = record.expect("a whole record");
                let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
                format!("{:>7} ms {hex}", time.as_millis())
            })
            .collect(),
        Err(_) => String::from_utf8_lossy(file).lines().map(str::to_owned).collect(),
    }
}

fn compare(name: &str, want: &Files, got: &Files) -> Vec<String> {
    let mut differences = Vec::new();
    let all: std::collections::BTreeSet<_> = want.keys().chain(got.keys()).collect();
    for file in all {
        let side = |files: &Files| files.get(file).map(|f| lines(f)).unwrap_or_default();
        let (want, got) = (side(want), side(got));
        for n in 0..want.len().max(got.len()) {
            if want.get(n) != got.get(n) {
                differences.push(format!(
                    "{name}/{file}, {}:\n  want {}\n  got  {}",
                    n + 1,
                    want.get(n).map_or("nothing", String::as_str),
                    got.get(n).map_or("nothing", String::as_str),
                ));
            }
        }
    }
    differences
}

#[test]
fn captures_come_out_as_they_did() {
    let regenerate = std::env::var_os("TIDEGATE_REGEN_GOLDEN").is_some();
    let mut differences = Vec::new();
    for trace in traces() {
        let folder = folder(trace.name);
        if regenerate {
            let inputs = inputs(&trace);
            let outputs = play(&trace, &inputs);
            let _ = fs::remove_dir_all(&folder);
            fs::create_dir_all(&folder).expect("a folder");
            for (name, bytes) in inputs.iter().chain(&outputs) {
                fs::write(folder.join(name), bytes).expect("a file");
            }
            continue;
        }
        let (inputs, want): (Files, Files) =
            read(&folder).into_iter().partition(|(name, _)| name.starts_with("in-"));
        assert!(!inputs.is_empty(), "{} has no input", trace.name);
        differences.extend(compare(trace.name, &want, &play(&trace, &inputs)));
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// The files are what [`traces`] says: neither is changed without the other.
#[test]
fn inputs_are_as_written() {
    if std::env::var_os("TIDEGATE_REGEN_GOLDEN").is_some() {
        return;
    }
    for trace in traces() {
        let mut files = read(&folder(trace.name));
        files.retain(|name, _| name.starts_with("in-"));
        let differences = compare(trace.name, &files, &inputs(&trace));
        assert!(differences.is_empty(), "{}", differences.join("\n"));
    }
}
