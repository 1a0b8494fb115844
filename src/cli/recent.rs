//! `tidegate recent`: the lists of the `recent` match.

use super::{ControlArgs, DONE, FAILED};
use crate::control::{Reply, Request};
use clap::Args;
use std::io::{self, Write};

const EXAMPLES: &str = "\
Examples:
  tidegate recent
  tidegate recent TCP-PORTSCAN
  tidegate recent TCP-PORTSCAN +203.0.113.9
  tidegate recent TCP-PORTSCAN -203.0.113.9
  tidegate recent TCP-PORTSCAN /";

/// Show or change the lists of `-m recent`
///
/// Without NAME the names of all lists; with NAME the list as its file under /proc/net/xt_recent
/// would show it; with CHANGE what writing that to the file would do.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct RecentArgs {
    /// The list (`--name`)
    #[arg(value_name = "NAME")]
    name: Option<String>,

    /// +ADDRESS adds or refreshes an entry, -ADDRESS removes it, / empties the list
    #[arg(value_name = "CHANGE", allow_hyphen_values = true)]
    change: Option<String>,

    #[command(flatten)]
    control: ControlArgs,
}

pub(super) fn main(args: &RecentArgs, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    let request = Request::Recent { name: args.name.clone(), write: args.change.clone() };
    match args.control.ask(request, err)? {
        Some(Reply::Recent(text)) => {
            out.write_all(text.as_bytes())?;
            Ok(DONE)
        }
        Some(_) => {
            writeln!(err, "error: the gateway answered something else")?;
            Ok(FAILED)
        }
        None => Ok(FAILED),
    }
}
