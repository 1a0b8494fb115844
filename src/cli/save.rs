//! `tidegate save`: what the running gateway keeps, as text.

use super::{ControlArgs, DONE, FAILED, FamilyArgs};
use crate::control::{Reply, Request};
use crate::state;
use clap::Args;
use std::io::{self, Write};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  tidegate save /var/lib/tidegate/before-the-change
  tidegate restore /var/lib/tidegate/before-the-change
  tidegate save -4 > iptables.rules";

/// Save the running gateway's rules with their counters, its `recent` lists and sets
///
/// The text is for `tidegate restore` and for `tidegate run --state`. With -4 or -6 it is the rules of
/// that family alone, as iptables-save -c prints them.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct SaveArgs {
    #[command(flatten)]
    family: FamilyArgs,

    /// Write to this file, whole or not at all and readable by its owner only (default: standard
    /// output)
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,

    #[command(flatten)]
    control: ControlArgs,
}

pub(super) fn main(args: &SaveArgs, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    let request = match args.family.family() {
        Some(family) => Request::Rules { family },
        None => Request::Save {},
    };
    let text = match args.control.ask(request, err)? {
        Some(Reply::Rules(text) | Reply::Saved(text)) => text,
        Some(_) => {
            writeln!(err, "error: the gateway answered something else")?;
            return Ok(FAILED);
        }
        None => return Ok(FAILED),
    };
    match &args.file {
        None => out.write_all(text.as_bytes())?,
        Some(path) => {
            if let Err(error) = state::write(path, &text) {
                writeln!(err, "error: {}: {error}", path.display())?;
                return Ok(FAILED);
            }
        }
    }
    Ok(DONE)
}
