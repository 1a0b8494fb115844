//! What the kernel did, kept in files, for machines that can't ask it.
//!
//! `TIDEGATE_BLESS=1` writes them. A frame stands in hexadecimal behind its interface; the lines
//! that start with `#` are for people, those with `=` are the rules and their counters afterwards.

use crate::case::Case;
use crate::decode::{decode, hex};
use crate::frame::hex as bytes;
use crate::side::{Played, Transcript};
use std::fmt::Write as _;
use std::path::PathBuf;

fn path(case: &Case) -> PathBuf {
    let folder = case.file.parent().map(|p| p.join("golden")).unwrap_or_default();
    folder.join(format!("{}.golden", case.name))
}

/// Writes what the kernel did.
pub fn write(case: &Case, transcript: &Transcript) -> Result<(), String> {
    let mut text = String::new();
    let known: Vec<String> = transcript.known.iter().map(u16::to_string).collect();
    let _ = writeln!(text, "known {}", known.join(" "));
    for (step, played) in case.steps.iter().zip(&transcript.steps) {
        let _ = writeln!(text, "step\n# {}", step.text);
        for frame in &played.injected {
            let _ = writeln!(text, "< {}", hex(frame));
        }
        for (interface, frame) in &played.emitted {
            let _ = writeln!(text, "# -> {interface}: {}", decode(frame).summary);
            let _ = writeln!(text, "{interface} {}", hex(frame));
        }
    }
    for line in transcript.counters.iter().flatten() {
        let _ = writeln!(text, "= {line}");
    }
    std::fs::write(path(case), text).map_err(|e| format!("{}: {e}", path(case).display()))
}

/// Reads what the kernel did when the case was blessed; an error if it has changed since.
pub fn read(case: &Case) -> Result<Transcript, String> {
    let path = path(case);
    let fail = |why: String| format!("{}: {why}; run with TIDEGATE_BLESS=1", path.display());
    let text = std::fs::read_to_string(&path).map_err(|e| fail(e.to_string()))?;
    let mut transcript = Transcript { counters: Some(Vec::new()), ..Transcript::default() };
    let mut steps = Vec::new();
    for line in text.lines() {
        if let Some(text) = line.strip_prefix("# ").filter(|t| !t.starts_with("->")) {
            steps.push(text);
        } else if let Some(known) = line.strip_prefix("known") {
            transcript.known = known.split_whitespace().filter_map(|p| p.parse().ok()).collect();
        } else if let Some(counter) = line.strip_prefix("= ") {
            transcript.counters.get_or_insert_default().push(counter.to_owned());
        } else if line == "step" {
            transcript.steps.push(Played::default());
        } else if let (Some((interface, digits)), Some(step)) =
            (line.split_once(' ').filter(|_| !line.starts_with('#')), transcript.steps.last_mut())
        {
            let frame = bytes(digits).map_err(&fail)?;
            if interface == "<" {
                step.injected.push(frame);
            } else {
                step.emitted.push((interface.to_owned(), frame));
            }
        }
    }
    if steps != case.steps.iter().map(|s| s.text.as_str()).collect::<Vec<_>>() {
        return Err(fail("the case has changed".to_owned()));
    }
    Ok(transcript)
}
