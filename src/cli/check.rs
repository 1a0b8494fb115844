//! `tidegate check`: is a rules file right, and how does it read when it is saved?

use super::{DONE, FAILED, FamilyArgs};
use crate::ctime;
use crate::diagnostic::{Diagnostic, Source, Style};
use crate::rules;
use clap::Args;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tidegate_filter::{SaveStyle, Sets, guess_family};
use tidegate_packet::Instant;

const EXAMPLES: &str = "\
Examples:
  tidegate check iptables.rules ip6tables.rules
  iptables-save | tidegate check -4 -
  tidegate check --sets ipset.save iptables.rules

The family is that of -4 or -6; otherwise it is told by the file's name (ip6tables.rules, rules.v6),
by the comment that ip6tables-save writes, or by the addresses and protocols in the text, and is
IPv4 if none of them says.";

/// Parse and validate rules files, and print them as iptables-save would
///
/// Rules that are right go to standard output. Everything that is wrong is shown with its file,
/// line and column, and the exit status is 1. Nothing is applied.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    family: FamilyArgs,

    /// Print nothing of rules that are right
    #[arg(short, long)]
    quiet: bool,

    /// Sets that the rules name, as ipset save prints them
    #[arg(long, value_name = "FILE")]
    sets: Option<PathBuf>,

    /// Rules as iptables-save or ip6tables-save print them; `-` is standard input
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

pub(super) fn main(args: &CheckArgs, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    let style = Style::of_stderr();
    let stamp = ctime::now();
    let mut status = DONE;
    let sets = match args.sets.as_deref().map(|path| rules::read_sets(path, Instant::ZERO)) {
        None => Sets::new(),
        Some(Ok(sets)) => sets,
        // Rules that name what is missing would only make more errors of one.
        Some(Err(report)) => {
            err.write_all(report.render(style).as_bytes())?;
            return Ok(FAILED);
        }
    };
    for path in &args.files {
        let source = match read(path) {
            Ok(source) => source,
            Err(error) => {
                err.write_all(error.render(style).as_bytes())?;
                status = FAILED;
                continue;
            }
        };
        let family =
            args.family.family().unwrap_or_else(|| guess_family(&source.name, &source.text));
        match rules::parse(&source, family, &sets) {
            Ok((ruleset, warnings)) => {
                for warning in warnings {
                    err.write_all(warning.render(style).as_bytes())?;
                }
                if !args.quiet {
                    let save = SaveStyle { stamp: &stamp, rule_counters: false };
                    out.write_all(ruleset.save(None, save).as_bytes())?;
                }
                // The program is about to end: to take the rules apart would be the longer way.
                std::mem::forget(ruleset);
            }
            Err(report) => {
                err.write_all(report.render(style).as_bytes())?;
                status = FAILED;
            }
        }
    }
    Ok(status)
}

pub(super) fn read(path: &Path) -> Result<Arc<Source>, Box<Diagnostic>> {
    if path != Path::new("-") {
        return Source::read(path);
    }
    let name = "<stdin>".to_owned();
    let mut bytes = Vec::new();
    match io::stdin().read_to_end(&mut bytes) {
        Ok(_) => Source::from_bytes(name, bytes),
        Err(error) => Err(Box::new(Diagnostic::unplaced(format!("{name}: {error}")))),
    }
}
