//! The rules files of a configuration, read and checked.

use crate::config::Config;
use crate::diagnostic::{Diagnostic, Report, Severity, Source};
use crate::rules_builtin::{self, Topology};
use std::path::Path;
use std::sync::Arc;
use tidegate_filter::{self as filter, Ruleset, Sets};
use tidegate_packet::{Family, Instant};

/// Both families' rules, and what in them will do nothing.
#[derive(Debug)]
pub struct Rulesets {
    /// IPv4.
    pub v4: Ruleset,
    /// IPv6.
    pub v6: Ruleset,
    /// Fingerprints of the texts that they were read from, IPv4 and IPv6.
    pub fingerprints: [u64; 2],
    /// Warnings.
    pub warnings: Vec<Diagnostic>,
}

/// Loads the sets that a configuration names, aside from those in force.
pub fn sets(config: &Config, now: Instant) -> Result<Sets, Report> {
    match &config.rules.sets {
        Some(path) => read_sets(path, now),
        None => Ok(Sets::new()),
    }
}

/// Loads sets from a file.
pub fn read_sets(path: &Path, now: Instant) -> Result<Sets, Report> {
    let source = Source::read(path).map_err(|error| Report::from(*error))?;
    let sets = Sets::new();
    restore_sets(&source, &sets, now)?;
    Ok(sets)
}

/// Puts a text's sets among others.
pub fn restore_sets(source: &Arc<Source>, sets: &Sets, now: Instant) -> Result<(), Report> {
    let errors = sets.restore(&source.text, now).err().unwrap_or_default();
    let diagnostics: Vec<_> =
        errors.into_iter().map(|d| diagnostic(source, d, Severity::Error)).collect();
    if diagnostics.is_empty() { Ok(()) } else { Err(Report { diagnostics }) }
}

/// Loads the rules that a configuration names, or the built-in ones; they may name these sets. The
/// report of a failure holds all errors of both files.
pub fn load(config: &Config, sets: &Sets) -> Result<Rulesets, Report> {
    let mut report = Report::default();
    let mut family = |family| match load_family(config, family, sets) {
        Ok((ruleset, warnings, fingerprint)) => {
            report.diagnostics.extend(warnings);
            Some((ruleset, fingerprint))
        }
        Err(errors) => {
            report.diagnostics.extend(errors.diagnostics);
            None
        }
    };
    match (family(Family::V4), family(Family::V6)) {
        (Some((v4, first)), Some((v6, second))) => {
            let fingerprints = [first, second];
            Ok(Rulesets { v4, v6, fingerprints, warnings: report.diagnostics })
        }
        _ => Err(report),
    }
}

type Read = (Ruleset, Vec<Diagnostic>, u64);

fn load_family(config: &Config, family: Family, sets: &Sets) -> Result<Read, Report> {
    let source = match config.rules_file(family) {
        Some(path) => Source::read(path).map_err(|error| Report::from(*error))?,
        None => {
            let text = rules_builtin::text(family, &Topology::of(config));
            Source::new("built-in rules", text)
        }
    };
    let (ruleset, mut warnings) = parse(&source, family, sets)?;
    warnings.extend(strangers(config, &source.name, &ruleset));
    // A file that was cut off to nothing opens everything, and is right.
    if !source.text.lines().any(|line| line.starts_with('*')) {
        let message = format!("{}: there is no table in it: every packet is accepted", source.name);
        warnings.push(Diagnostic { severity: Severity::Warning, ..Diagnostic::unplaced(message) });
    }
    Ok((ruleset, warnings, fingerprint(&source.text)))
}

/// Interfaces that rules ask for and the gateway doesn't have: such rules never match.
fn strangers(config: &Config, source: &str, ruleset: &Ruleset) -> Vec<Diagnostic> {
    let known: Vec<&str> =
        config.interfaces.iter().map(|i| i.name.as_str()).chain(["lo"]).collect();
    let strange = ruleset.interfaces().into_iter().filter(|name| !known.contains(name));
    strange
        .map(|name| {
            let message = format!(
                "{source}: the gateway has no interface `{name}`: rules for it never match"
            );
            let warning =
                Diagnostic { severity: Severity::Warning, ..Diagnostic::unplaced(message) };
            warning.nearest(name, known.iter().copied())
        })
        .collect()
}

/// Tells texts apart (FNV-1a, which stays the same from one build to the next).
fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// Loads one text; its rules may name these sets.
pub fn parse(
    source: &Arc<Source>,
    family: Family,
    sets: &Sets,
) -> Result<(Ruleset, Vec<Diagnostic>), Report> {
    let text = filter::Source { name: &source.name, text: &source.text };
    let convert = |list: Vec<filter::Diagnostic>, severity| {
        list.into_iter().map(|d| diagnostic(source, d, severity)).collect()
    };
    match filter::load_with(text, family, sets) {
        Ok(loaded) => Ok((loaded.ruleset, convert(loaded.warnings, Severity::Warning))),
        Err(errors) => Err(Report { diagnostics: convert(errors, Severity::Error) }),
    }
}

fn diagnostic(source: &Arc<Source>, found: filter::Diagnostic, severity: Severity) -> Diagnostic {
    Diagnostic {
        severity,
        place: Some(source.place(found.span)),
        message: found.message,
        label: None,
        help: found.help,
    }
}
