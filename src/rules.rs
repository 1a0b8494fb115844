//! The rules files of a configuration, read and checked.

use crate::config::Config;
use crate::diagnostic::{Diagnostic, Report, Severity, Source};
use crate::rules_builtin::{self, Topology};
use std::sync::Arc;
use tidegate_filter::{self as filter, Ruleset};
use tidegate_packet::Family;

/// Both families' rules, and what in them will do nothing.
#[derive(Debug)]
pub struct Rulesets {
    /// IPv4.
    pub v4: Ruleset,
    /// IPv6.
    pub v6: Ruleset,
    /// Warnings.
    pub warnings: Vec<Diagnostic>,
}

/// Loads the rules that a configuration names, or the built-in ones. The report of a failure
/// holds all errors of both files.
pub fn load(config: &Config) -> Result<Rulesets, Report> {
    let mut report = Report::default();
    let mut family = |family| match load_family(config, family) {
        Ok((ruleset, warnings)) => {
            report.diagnostics.extend(warnings);
            Some(ruleset)
        }
        Err(errors) => {
            report.diagnostics.extend(errors.diagnostics);
            None
        }
    };
    match (family(Family::V4), family(Family::V6)) {
        (Some(v4), Some(v6)) => Ok(Rulesets { v4, v6, warnings: report.diagnostics }),
        _ => Err(report),
    }
}

fn load_family(config: &Config, family: Family) -> Result<(Ruleset, Vec<Diagnostic>), Report> {
    let source = match config.rules_file(family) {
        Some(path) => Source::read(path).map_err(|error| Report::from(*error))?,
        None => {
            let text = rules_builtin::text(family, &Topology::of(config));
            Source::new("built-in rules", text)
        }
    };
    let (ruleset, mut warnings) = parse(&source, family)?;
    warnings.extend(strangers(config, &source.name, &ruleset));
    Ok((ruleset, warnings))
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

/// Loads one text.
pub fn parse(source: &Arc<Source>, family: Family) -> Result<(Ruleset, Vec<Diagnostic>), Report> {
    let text = filter::Source { name: &source.name, text: &source.text };
    let convert = |list: Vec<filter::Diagnostic>, severity| {
        list.into_iter().map(|d| diagnostic(source, d, severity)).collect()
    };
    match filter::load(text, family) {
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
