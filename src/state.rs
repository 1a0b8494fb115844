//! What a gateway keeps from one run to the next: rules as commands have changed them, with their
//! counters, the lists of `recent`, and sets. `tidegate save` and `restore` use the same form.
//!
//! ```text
//! %tidegate state 1
//! %ipset
//! create …                           as ipset save
//! %ipv4 1234567890abcdef edited      the fingerprint of the rules file they came from
//! *filter …                          as iptables-save -c
//! %ipv6 …
//! %recent NAME
//! 192.0.2.1 64 1 1700000000000000000 address, TTL, place of the next stamp, stamps since 1970
//! %end
//! ```
//!
//! Saved rules are used at a start as long as the rules file is the one they came from: then what
//! commands have changed is still wanted. Once the file has changed it wins, and that is said.

use crate::diagnostic::{Diagnostic, Report, Source};
use crate::engine::Engine;
use crate::rules;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tidegate_filter::{Counters, Ruleset, SaveStyle, Sets};
use tidegate_packet::{Family, Instant};

/// The first line.
const HEAD: &str = "%tidegate state 1";
const END: &str = "%end";
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// Two clocks at one moment.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Monotonic time.
    pub now: Instant,
    /// Nanoseconds since 1970.
    pub unix_nanos: u64,
}

impl Moment {
    fn to_unix(self, at: Instant) -> u64 {
        self.unix_nanos.saturating_sub(self.now.as_nanos().saturating_sub(at.as_nanos()))
    }

    /// What is in the future was saved before the clock was set back.
    fn of_unix(self, nanos: u64) -> Instant {
        let ago = self.unix_nanos.saturating_sub(nanos);
        Instant::from_nanos(self.now.as_nanos().saturating_sub(ago))
    }
}

/// A gateway's state at one moment, taken while nobody waits.
pub struct Snapshot {
    rules: [(Arc<Ruleset>, Counters); 2],
    fingerprints: [u64; 2],
    edited: bool,
    recent: Vec<(String, String)>,
    sets: String,
}

impl Snapshot {
    /// Takes it. `fingerprints` are those of the rules files; `sets` in the form of `ipset save`.
    pub fn take(engine: &Engine, fingerprints: [u64; 2], sets: String, moment: Moment) -> Self {
        let rules = engine.rules_in_force();
        let memory = rules.memory();
        let list = |name: String| {
            let text = memory.saved(&name, |at| moment.to_unix(at))?;
            Some((name, text))
        };
        Self {
            rules: FAMILIES.map(|family| rules.snapshot(family)),
            fingerprints,
            edited: rules.edited(),
            recent: {
                let names = memory.names().into_iter();
                // A name of several lines can't be told from other parts.
                names.filter(|name| !name.contains(char::is_control)).filter_map(list).collect()
            },
            sets,
        }
    }

    /// As text; `stamp` is for the comments of the rules.
    pub fn text(&self, stamp: &str) -> String {
        let mut out = format!("{HEAD}\n");
        // Rules name sets, so these come first.
        if !self.sets.is_empty() {
            out.push_str("%ipset\n");
            out.push_str(&self.sets);
        }
        let style = SaveStyle { stamp, rule_counters: true };
        let edited = if self.edited { " edited" } else { "" };
        for ((ruleset, counters), fingerprint) in self.rules.iter().zip(self.fingerprints) {
            let name = section(ruleset.family());
            out.push_str(&format!("%{name} {fingerprint:016x}{edited}\n"));
            out.push_str(&ruleset.save(Some(counters), style));
        }
        for (name, text) in &self.recent {
            out.push_str(&format!("%recent {name}\n{text}"));
        }
        out.push_str(END);
        out.push('\n');
        out
    }
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    name.into()
}

/// Whether a state can be written there, before there is one.
pub fn try_place(path: &Path) -> io::Result<()> {
    let temporary = &temporary(path);
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(temporary)?;
    fs::remove_file(temporary)
}

/// Writes a state where nobody but its owner can read it, all of it or nothing.
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    let temporary = &temporary(path);
    let result = (|| {
        let mut options = OpenOptions::new();
        let mut file =
            options.write(true).create(true).truncate(true).mode(0o600).open(temporary)?;
        file.write_all(text.as_bytes())?;
        // Otherwise a power cut may leave the new name with nothing behind it.
        file.sync_all()?;
        fs::rename(temporary, path)
    })();
    if result.is_err() {
        let _ = fs::remove_file(temporary);
    }
    result
}

/// Rules of a family.
#[derive(Debug)]
pub struct Rules {
    /// The rules, their counters as they were.
    pub ruleset: Ruleset,
    /// Of the file that they came from.
    pub fingerprint: u64,
    /// Commands have changed them since.
    pub edited: bool,
    /// Their text.
    text: Range<usize>,
}

/// A state that was read and is right.
#[derive(Debug)]
pub struct State {
    source: Arc<Source>,
    /// IPv4 and IPv6.
    pub rules: [Option<Rules>; 2],
    recent: Vec<(String, Range<usize>)>,
    sets: Option<Range<usize>>,
}

impl State {
    /// Whether a text says that it is one.
    pub fn is_one(text: &str) -> bool {
        text.lines().next() == Some(HEAD)
    }

    /// Reads a file; `None` if it isn't there. Its sets are put among `sets`.
    pub fn read(path: &Path, sets: &Sets, now: Instant) -> Result<Option<Self>, Report> {
        if !path.exists() {
            return Ok(None);
        }
        let source = Source::read(path).map_err(|error| Report::from(*error))?;
        Self::parse(&source, sets, now).map(Some)
    }

    /// Reads a text and puts its sets among `sets`, where its rules find them. A state that isn't
    /// whole is an error: half of the rules are none.
    pub fn parse(source: &Arc<Source>, sets: &Sets, now: Instant) -> Result<Self, Report> {
        let mut report = Report::default();
        let mut state =
            Self { source: source.clone(), rules: [None, None], recent: Vec::new(), sets: None };
        let text = &source.text;
        if !Self::is_one(text) {
            let place = source.place(0..text.lines().next().unwrap_or("").len());
            report.push(place.error("this is no saved state").expected(format!("`{HEAD}`")));
            return Err(report);
        }
        let sections = sections(text);
        if sections.last().is_none_or(|(head, _)| &text[head.clone()] != END) {
            let place = source.place(text.len()..text.len());
            let help = "remove the file to start without it";
            report.push(place.error("the saved state is cut off").expected("`%end`").help(help));
            return Err(report);
        }
        for (head, body) in &sections[1..sections.len() - 1] {
            state.section(head, body, (sets, now), &mut report);
        }
        if report.has_errors() { Err(report) } else { Ok(state) }
    }

    fn section(
        &mut self,
        head: &Range<usize>,
        body: &Range<usize>,
        (sets, now): (&Sets, Instant),
        report: &mut Report,
    ) {
        let source = self.source.clone();
        let head_text = &source.text[head.clone()];
        let words: Vec<&str> = match head_text.strip_prefix("%recent ") {
            // A name may have blanks in it.
            Some(name) => vec!["%recent", name],
            None => head_text.split(' ').collect(),
        };
        match words[..] {
            ["%ipv4" | "%ipv6", fingerprint, ..] if words.len() <= 3 => {
                let family = FAMILIES[usize::from(words[0] == "%ipv6")];
                let edited = words.get(2).is_some_and(|word| *word == "edited");
                let Ok(fingerprint) = u64::from_str_radix(fingerprint, 16) else {
                    report.push(source.place(head.clone()).error("this is no fingerprint"));
                    return;
                };
                // Lines keep their numbers, so that errors name the right ones.
                let masked = masked(&source.text, body);
                match rules::parse(&Source::new(source.name.clone(), masked), family, sets) {
                    Ok((ruleset, _)) => {
                        let text = body.clone();
                        let rules = Rules { ruleset, fingerprint, edited, text };
                        self.rules[family as usize] = Some(rules);
                    }
                    Err(errors) => report.diagnostics.extend(errors.diagnostics),
                }
            }
            ["%recent", name] => {
                let list = (name.to_owned(), body.clone());
                // Tried on no list: that tells whether every line is right.
                let memory = tidegate_filter::Memory::new();
                let tried = memory.restore(name, &source.text[body.clone()], Instant::from_nanos);
                match tried {
                    Ok(()) => self.recent.push(list),
                    Err(line) => report.push(entry_error(&source, body, line)),
                }
            }
            ["%ipset"] => {
                let masked = Source::new(source.name.clone(), masked(&source.text, body));
                match rules::restore_sets(&masked, sets, now) {
                    Ok(()) => self.sets = Some(body.clone()),
                    Err(errors) => report.diagnostics.extend(errors.diagnostics),
                }
            }
            _ => {
                let place = source.place(head.clone());
                report.push(place.error("a saved state has no such part"));
            }
        }
    }

    /// The text of a family's rules, for a running gateway.
    pub fn rules_text(&self, family: Family) -> Option<&str> {
        let rules = self.rules[family as usize].as_ref()?;
        Some(&self.source.text[rules.text.clone()])
    }

    /// The sets, in the form of `ipset save`.
    pub fn sets(&self) -> Option<&str> {
        self.sets.clone().map(|range| &self.source.text[range])
    }

    /// Fills the lists of `recent` that rules in force name.
    pub fn restore_recent(&self, engine: &Engine, moment: Moment) {
        let memory = engine.rules_in_force().memory();
        for (name, range) in &self.recent {
            let text = &self.source.text[range.clone()];
            // Its lines were looked at when it was read.
            let _ = memory.restore(name, text, |nanos| moment.of_unix(nanos));
        }
    }

    /// Puts it in force at a start. Gives the families whose saved rules are not used because their
    /// file has changed, though commands had changed them.
    pub fn restore(mut self, engine: &mut Engine, loaded: [u64; 2], moment: Moment) -> Vec<Family> {
        let mut dropped = Vec::new();
        let mut kept = [None, None];
        let mut any_edited = false;
        for (n, family) in FAMILIES.into_iter().enumerate() {
            let Some(Rules { ruleset, fingerprint, edited, .. }) = self.rules[n].take() else {
                continue;
            };
            if fingerprint == loaded[n] {
                any_edited |= edited;
                kept[n] = Some(ruleset);
            } else if edited {
                dropped.push(family);
            }
        }
        engine.restore_rules(kept, any_edited);
        self.restore_recent(engine, moment);
        dropped
    }
}

const fn section(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
}

/// The heads, without their line ends, and what follows each.
fn sections(text: &str) -> Vec<(Range<usize>, Range<usize>)> {
    let mut out: Vec<(Range<usize>, Range<usize>)> = Vec::new();
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let end = at + line.len();
        if line.starts_with('%') {
            out.push((at..at + line.trim_end().len(), end..end));
        } else if let Some((_, body)) = out.last_mut() {
            body.end = end;
        }
        at = end;
    }
    out
}

/// One part of a text, with as many empty lines in front as the text has lines there.
fn masked(text: &str, part: &Range<usize>) -> String {
    let before = text[..part.start].matches('\n').count();
    ["\n".repeat(before).as_str(), &text[part.clone()]].concat()
}

fn entry_error(source: &Arc<Source>, body: &Range<usize>, line: usize) -> Diagnostic {
    let text = &source.text[body.clone()];
    let before: usize = text.split_inclusive('\n').take(line).map(str::len).sum();
    let len = text[before..].lines().next().unwrap_or("").len();
    let start = body.start + before;
    let place = source.place(start..start + len);
    place.error("this is no entry of a list").expected("ADDRESS TTL INDEX STAMP…")
}

#[cfg(test)]
mod tests;
