//! TCP conversations as tables, `tests/corpus/tcp/*.rows`: a segment a row, and what connection
//! tracking makes of it.
//!
//! ```text
//! == name: what the table shows
//! sysctl net.netfilter.nf_conntrack_tcp_loose=0      any setting of a case
//! like established                                   the rows of that table come first, unjudged
//! apart                                              each row by itself, in a connection of its own
//! # direction, flags, sequence number, acknowledgment, window, bytes of data, options
//! >  S     1000     -  64240     0  mss 1460 ws 7   => NEW SYN_SENT 120 UNREPLIED
//! wait 2s                                           => - SYN_SENT 118 UNREPLIED
//! ```
//!
//! Right of the arrow stand the packet's state (`dropped` if it goes nowhere), the connection's
//! state and time-out, and its flags: `ASSURED`, `UNREPLIED`, and `TURNED` if it is the server's.
//! `-` is a zero on the left and no connection on the right. Options may be any word of the case
//! language's `tcp` layer, and layers that follow it.
//!
//! Each table is played over IPv4 and IPv6, in the kernel and in Tidegate, and what comes of it has
//! to be what stands there. `TIDEGATE_BLESS=1` writes what the kernel does.

use crate::case::{self, Case};
use crate::side::{Played, Transcript};
use crate::{kernel, tidegate};
use libtest_mimic::{Failed, Trial};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Where the tables are.
const FOLDER: &str = "tests/corpus/tcp";
/// How much of a time-out may pass while a table is played.
const SECONDS: u64 = 3;
/// The client's port in a table's first connection.
const PORT: u16 = 1025;
/// The packet's state, written into its TOS byte.
const STATES: [(&str, u8); 5] = [
    ("NEW", 0x20),
    ("ESTABLISHED", 0x40),
    ("RELATED", 0x60),
    ("INVALID", 0x80),
    ("UNTRACKED", 0xa0),
];

/// A line of a table.
#[derive(Clone, Debug)]
struct Row {
    /// Its line in the file, from zero.
    line: usize,
    /// What is done.
    left: String,
    /// What comes of it.
    right: Vec<String>,
}

/// A table.
#[derive(Clone, Debug, Default)]
struct Table {
    name: String,
    about: String,
    /// Lines of the case language.
    settings: Vec<String>,
    /// The table whose rows come first.
    like: Option<String>,
    /// Each row is played by itself.
    apart: bool,
    rows: Vec<Row>,
}

/// A file's tables.
#[derive(Clone, Debug)]
struct File {
    path: PathBuf,
    text: String,
    tables: Vec<Table>,
}

/// What came of a step.
struct Seen {
    /// The row it belongs to; none in what comes first.
    row: Option<Row>,
    words: Vec<String>,
}

/// A trial for each table; for each file, if they are to be written.
pub fn trials(ask_kernel: bool) -> Result<Vec<Trial>, String> {
    let mut trials = Vec::new();
    for file in files()? {
        let stem = file.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if ask_kernel && std::env::var_os("TIDEGATE_BLESS").is_some() {
            trials.push(Trial::test(format!("rows_{stem}"), move || {
                bless(&file).map_err(Failed::from)
            }));
            continue;
        }
        for table in &file.tables {
            for v4 in [true, false] {
                let (file, table) = (file.clone(), table.clone());
                let name = format!("rows_{stem}_{}_{}", table.name, if v4 { "v4" } else { "v6" });
                trials.push(Trial::test(name, move || {
                    check(&file, &table, v4, ask_kernel).map_err(Failed::from)
                }));
            }
        }
    }
    Ok(trials)
}

fn files() -> Result<Vec<File>, String> {
    let fail = |path: &Path, e: std::io::Error| format!("{}: {e}", path.display());
    let folder = Path::new(FOLDER);
    let entries = std::fs::read_dir(folder).map_err(|e| fail(folder, e))?;
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "rows"))
        .collect();
    paths.sort();
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).map_err(|e| fail(&path, e))?;
        let tables = parse(&text).map_err(|why| format!("{}:{why}", path.display()))?;
        Ok(File { path, text, tables })
    };
    paths.into_iter().map(read).collect()
}

fn parse(text: &str) -> Result<Vec<Table>, String> {
    let mut tables: Vec<Table> = Vec::new();
    for (line, raw) in text.lines().enumerate() {
        let words = raw.trim();
        if words.is_empty() || words.starts_with('#') {
            continue;
        }
        if let Some(title) = words.strip_prefix("==") {
            let (name, about) = title.split_once(':').unwrap_or((title, ""));
            let (name, about) = (name.trim().to_owned(), about.trim().to_owned());
            tables.push(Table { name, about, ..Table::default() });
            continue;
        }
        let table = tables.last_mut().ok_or(format!("{}: a row without a table", line + 1))?;
        let (left, right) = words.split_once("=>").unwrap_or((words, ""));
        let left = left.trim().to_owned();
        match left.split_whitespace().next() {
            Some("like") => table.like = left.split_whitespace().nth(1).map(str::to_owned),
            Some("apart") => table.apart = true,
            Some(">" | "<" | "wait") => {
                let right = right.split_whitespace().map(str::to_owned).collect();
                table.rows.push(Row { line, left, right });
            }
            _ => table.settings.push(left),
        }
    }
    Ok(tables)
}

/// The rows that come before a table's own.
fn before(file: &File, table: &Table) -> Result<Vec<Row>, String> {
    let Some(name) = &table.like else { return Ok(Vec::new()) };
    let other = file.tables.iter().find(|t| t.name == *name && t.name != table.name);
    let other = other.ok_or(format!("no table {name}"))?;
    let mut rows = before(file, other)?;
    rows.extend(other.rows.clone());
    Ok(rows)
}

/// Rows in the order in which they are played, each with its client's port and whether it counts.
fn order(file: &File, table: &Table) -> Result<Vec<(Row, u16, bool)>, String> {
    let first = before(file, table)?;
    let groups: Vec<Vec<Row>> = match table.apart {
        true => table.rows.iter().map(|row| vec![row.clone()]).collect(),
        false => vec![table.rows.clone()],
    };
    let mut all = Vec::new();
    for (port, group) in (PORT..).zip(groups) {
        all.extend(first.iter().map(|row| (row.clone(), port, false)));
        all.extend(group.into_iter().map(|row| (row, port, true)));
    }
    Ok(all)
}

/// A row as a step of a case.
fn step(row: &Row, port: u16, v4: bool) -> Result<String, String> {
    if row.left.starts_with("wait") {
        return Ok(row.left.clone());
    }
    let words: Vec<&str> = row.left.split_whitespace().collect();
    let [direction, flags, seq, ack, window, data, options @ ..] = &words[..] else {
        return Err(format!("line {}: direction flags seq ack window data", row.line + 1));
    };
    let (client, server) = match v4 {
        true => ("192.168.0.2", "198.51.100.10"),
        false => ("fd00:1::2", "2001:db8:99::10"),
    };
    let mut text = match *direction {
        ">" => format!("eth0: ip {client} > {server} | tcp {port} > 80 {flags}"),
        _ => format!("ppp0: ip {server} > {client} | tcp 80 > {port} {flags}"),
    };
    let number = |text: &&str| if *text == "-" { "0".to_owned() } else { (*text).to_owned() };
    let _ = write!(text, " seq {} ack {} win {}", number(seq), number(ack), number(window));
    let options = options.join(" ");
    let (options, layers) = options.split_once(" | ").unwrap_or((&options, ""));
    if !options.is_empty() {
        let _ = write!(text, " {options}");
    }
    if *data != "-" && *data != "0" {
        let _ = write!(text, " | data {data}");
    }
    if !layers.is_empty() {
        let _ = write!(text, " | {layers}");
    }
    Ok(text)
}

fn to_case(file: &File, table: &Table, v4: bool) -> Result<Case, String> {
    let mut text = format!("== {}: {}\n", table.name, table.about);
    let family = if v4 { 4 } else { 6 };
    let _ = writeln!(text, "listed\nlenient\nrules{family} <<\n*mangle");
    for (state, tos) in STATES {
        let mark = format!("-m conntrack --ctstate {state} -j TOS --set-tos {tos:#x}");
        let _ = writeln!(text, "-A PREROUTING {mark}");
    }
    text.push_str("COMMIT\nend\n");
    for setting in &table.settings {
        let _ = writeln!(text, "{setting}");
    }
    for (row, port, _) in order(file, table)? {
        let _ = writeln!(text, "{}", step(&row, port, v4)?);
    }
    let cases = case::parse(&file.path, &text, Path::new(""))?;
    cases.into_iter().next().ok_or_else(|| "no case".to_owned())
}

/// What a side made of each step.
fn seen(file: &File, table: &Table, transcript: &Transcript) -> Result<Vec<Seen>, String> {
    let rows = order(file, table)?;
    let judged = |((row, port, counts), played): ((Row, u16, bool), &Played)| Seen {
        words: words(&row, port, played),
        row: counts.then_some(row),
    };
    Ok(rows.into_iter().zip(&transcript.steps).map(judged).collect())
}

/// The right side of a row, as it came.
fn words(row: &Row, port: u16, played: &Played) -> Vec<String> {
    let tos = played.emitted.first().map(|(_, frame)| match frame.get(14) {
        Some(version) if version >> 4 == 6 => version << 4 | frame[15] >> 4,
        _ => frame.get(15).copied().unwrap_or_default(),
    });
    let state = |tos| STATES.iter().find(|(_, t)| *t == tos).map_or("unmarked", |(name, _)| *name);
    let mut words = vec![match tos {
        _ if row.left.starts_with("wait") => "-".to_owned(),
        Some(tos) => state(tos).to_owned(),
        None => "dropped".to_owned(),
    }];
    let lines = played.listing.iter().flatten();
    let ours = |line: &&String| line.split(' ').any(|w| *w == format!("sport={port}"));
    let Some(line) = lines.into_iter().find(ours) else {
        words.push("-".to_owned());
        return words;
    };
    let fields: Vec<&str> = line.split(' ').collect();
    words.push(fields[5].to_owned());
    words.push(fields[4].to_owned());
    for flag in ["ASSURED", "UNREPLIED"] {
        words.extend(line.contains(flag).then(|| flag.to_owned()));
    }
    if !fields.iter().any(|f| f.starts_with("sport=")) || fields[8] != format!("sport={port}") {
        words.push("TURNED".to_owned());
    }
    words
}

/// Whether a side did what the row says; some of the time-out may have passed, on a slow machine more.
fn fits(right: &[String], words: &[String], late: u64) -> bool {
    let equal = |(at, (a, b)): (usize, (&String, &String))| match (at, a.parse(), b.parse()) {
        (2, Ok(a), Ok(b)) => u64::abs_diff(a, b) <= SECONDS + late,
        _ => a == b,
    };
    right.len() == words.len() && right.iter().zip(words).enumerate().all(equal)
}

fn check(file: &File, table: &Table, v4: bool, ask_kernel: bool) -> Result<(), String> {
    let case = to_case(file, table, v4)?;
    let mut sides = vec![("tidegate", tidegate::transcript(&case)?)];
    if ask_kernel {
        sides.insert(0, ("kernel", kernel::transcript(&case, false)?));
    }
    let mut report = String::new();
    for (name, transcript) in &sides {
        for Seen { row, words } in seen(file, table, transcript)? {
            let Some(row) = row.filter(|row| !fits(&row.right, &words, transcript.late)) else {
                continue;
            };
            let place = format!("{}:{}", file.path.display(), row.line + 1);
            let _ = writeln!(report, "{place}: {} => {}", row.left, row.right.join(" "));
            let _ = writeln!(report, "  {name:>9}: {}", words.join(" "));
        }
    }
    if report.is_empty() { Ok(()) } else { Err(format!("{}\n{report}", table.about)) }
}

/// Writes what the kernel does into the file.
fn bless(file: &File) -> Result<(), String> {
    let mut lines: Vec<String> = file.text.lines().map(str::to_owned).collect();
    for table in &file.tables {
        let transcript = kernel::transcript(&to_case(file, table, true)?, false)?;
        let width = table.rows.iter().map(|row| tidy(&row.left).len()).max().unwrap_or(0);
        for Seen { row, mut words } in seen(file, table, &transcript)? {
            let Some(row) = row else { continue };
            // What stood there stays if only the clock says otherwise.
            if fits(&row.right, &words, transcript.late) {
                words = row.right;
            } else if let Some(seconds) = words.get_mut(2) {
                *seconds = nominal(seconds);
            }
            lines[row.line] = format!("{:width$}  => {}", tidy(&row.left), words.join(" "));
        }
    }
    std::fs::write(&file.path, lines.join("\n") + "\n").map_err(|e| e.to_string())
}

/// The time-out that was set a moment ago.
fn nominal(seconds: &str) -> String {
    let left: u64 = seconds.parse().unwrap_or_default();
    let whole = [10, 30, 60, 120, 300, 432_000].into_iter();
    whole.into_iter().find(|t| *t >= left && t - left <= SECONDS).unwrap_or(left).to_string()
}

/// A row's left side, in columns.
fn tidy(left: &str) -> String {
    let words: Vec<&str> = left.split_whitespace().collect();
    let [direction, flags, seq, ack, window, data, options @ ..] = &words[..] else {
        return left.to_owned();
    };
    let line = format!("{direction} {flags:<4} {seq:>10} {ack:>10} {window:>5} {data:>5}");
    if options.is_empty() { line } else { format!("{line}  {}", options.join(" ")) }
}
