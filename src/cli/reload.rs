//! `tidegate reload`: a running gateway reads its rules again.

use super::{ControlArgs, DONE, FAILED};
use crate::control::{Reply, Request};
use clap::Args;
use std::io::{self, Write};

/// Make the running gateway read its rules files again
///
/// Connections stay. If a file has an error it is shown, the old rules stay, and the exit status
/// is 1. SIGHUP does the same, and the gateway's log says how it went.
#[derive(Debug, Args)]
pub(super) struct ReloadArgs {
    #[command(flatten)]
    control: ControlArgs,
}

pub(super) fn main(args: &ReloadArgs, _out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    match args.control.ask(Request::Reload {}, err)? {
        Some(Reply::Reloaded(warnings)) => {
            for warning in warnings {
                writeln!(err, "{warning}")?;
            }
            Ok(DONE)
        }
        Some(_) => {
            writeln!(err, "error: the gateway answered something else")?;
            Ok(FAILED)
        }
        None => Ok(FAILED),
    }
}
