//! `tidegate run`: the gateway itself.

use super::{Daemon, FAILED, GatewayArgs};
use crate::daemon::DaemonError;
use crate::diagnostic::Style;
use clap::Args;
use std::io::{self, IsTerminal, Write};
use tracing_subscriber::EnvFilter;

const EXAMPLES: &str = "\
Examples:
  tidegate run --lan lan0=192.168.0.1/24 --uplink wan0=203.0.113.1/24,via=203.0.113.2
  tidegate run --lan lan0=192.168.0.1/24 --lan lan1=10.3.0.1/16 --uplink wan0=dhcp
  tidegate run --lan tap0=192.168.0.1/24,kind=tap --uplink eth0
  tidegate run --lan lan0=192.168.0.1/24 --uplink wan0=dhcp --log syslog --nflog a.pcapng
  tidegate run --config /etc/tidegate/gateway.toml --sysctl /etc/sysctl.d/90-firewall.conf

Signals: SIGTERM and SIGINT end the gateway in order, SIGHUP reads the rules again and opens log
files again.
Environment: TIDEGATE_LOG says what is logged to standard error, as in TIDEGATE_LOG=debug or
TIDEGATE_LOG=tidegate::control=trace (default: info).";

/// Run the gateway on existing interfaces
///
/// Forwards packets between the interfaces that flags and file name until it is told to end.
/// Nothing is touched unless the whole configuration and all rules are right. Needs root, or the
/// capabilities NET_ADMIN and NET_RAW in the network namespace.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct RunArgs {
    #[command(flatten)]
    gateway: GatewayArgs,

    /// End, as on SIGTERM, when standard input does. For programs that start a gateway.
    #[arg(long, hide = true)]
    exit_with_parent: bool,
}

pub(super) fn main(args: RunArgs, daemon: Daemon, err: &mut dyn Write) -> io::Result<u8> {
    let config = match args.gateway.load(err)? {
        Ok(config) => config,
        Err(status) => return Ok(status),
    };
    let filter = EnvFilter::try_from_env("TIDEGATE_LOG").unwrap_or_else(|_| "info".into());
    // A program that embeds this one may log in its own way already.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .try_init();
    if args.exit_with_parent {
        crate::lab::gateway::exit_with_parent()?;
    }
    let again = args.gateway;
    let reload = move || {
        super::read_label_names();
        let loaded = again.read()?;
        for warning in loaded.warnings {
            tracing::warn!("{warning}");
        }
        Ok(loaded.config)
    };
    match daemon(config, Box::new(reload)) {
        Ok(()) => Ok(super::DONE),
        Err(DaemonError::Rules(report) | DaemonError::State(report)) => {
            err.write_all(report.render(Style::of_stderr()).as_bytes())?;
            Ok(FAILED)
        }
        Err(error) => {
            writeln!(err, "error: {error}")?;
            Ok(FAILED)
        }
    }
}
