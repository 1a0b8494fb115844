//! `tidegate restore`: saved rules into the running gateway.

use super::check::read;
use super::{ControlArgs, DONE, FAILED, FamilyArgs};
use crate::control::{Reply, Request, Restore};
use crate::diagnostic::Style;
use clap::Args;
use std::io::{self, Write};
use std::path::PathBuf;
use tidegate_filter::guess_family;
use tidegate_packet::Family;

const EXAMPLES: &str = "\
Examples:
  tidegate restore rules.v4 rules.v6
  tidegate restore --noflush more.rules
  tidegate restore /var/lib/tidegate/before-the-change

The family is told as `tidegate check` tells it: by -4 or -6, the file's name, or its text.";

/// Put saved rules in force in the running gateway
///
/// Files are what iptables-save and ip6tables-save print, or what `tidegate save` prints. All of them
/// are put in force together, between two packets, or none is: then everything that is wrong is shown
/// with file, line and column, and the exit status is 1. Tables that no file names stay as they are,
/// connections and `recent` lists too. Rules restored so are gone after `tidegate reload`; a gateway
/// takes those of --rules, --rules6 and --state at its start.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct RestoreArgs {
    #[command(flatten)]
    family: FamilyArgs,

    /// Add to the chains that the files name, and don't empty them first
    #[arg(short, long)]
    noflush: bool,

    /// Take counters from the files too (those of `tidegate save` are always taken)
    #[arg(short, long)]
    counters: bool,

    /// Saved rules; `-` is standard input
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,

    #[command(flatten)]
    control: ControlArgs,
}

pub(super) fn main(args: &RestoreArgs, _: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    let mut inputs = Vec::new();
    for path in &args.files {
        match read(path) {
            Ok(source) => {
                let given: Option<Family> = args.family.family();
                let family = given.unwrap_or_else(|| guess_family(&source.name, &source.text));
                let (name, text) = (source.name.clone(), source.text.clone());
                inputs.push(Restore { name, family, text });
            }
            Err(error) => {
                err.write_all(error.render(Style::of_stderr()).as_bytes())?;
                return Ok(FAILED);
            }
        }
    }
    let (noflush, counters) = (args.noflush, args.counters);
    match args.control.ask(Request::Restore { inputs, noflush, counters }, err)? {
        Some(Reply::Restored(warnings)) => {
            err.write_all(warnings.as_bytes())?;
            Ok(DONE)
        }
        Some(_) => {
            writeln!(err, "error: the gateway answered something else")?;
            Ok(FAILED)
        }
        None => Ok(FAILED),
    }
}
