//! `tidegate status`: how a running gateway is.

use super::{ControlArgs, DONE, FAILED};
use crate::control::{BypassStatus, Reply, Request, Status};
use clap::Args;
use std::io::{self, Write};

const EXAMPLES: &str = "\
Examples:
  tidegate status
  tidegate status --control /run/user/1000/tidegate.sock --json";

/// Show how the running gateway is
///
/// Its interfaces with their addresses, packets and bytes, the number of tracked connections, and
/// how many packets were dropped for which reason. Only root and the user that the gateway runs
/// as may ask.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    control: ControlArgs,

    /// Print one JSON object instead of text for people
    #[arg(long)]
    json: bool,
}

pub(super) fn main(args: &StatusArgs, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    match args.control.ask(Request::Status {}, err)? {
        Some(Reply::Status(status)) if args.json => {
            writeln!(out, "{}", serde_json::to_string(&status)?)?;
            Ok(DONE)
        }
        Some(Reply::Status(status)) => {
            print(&status, out)?;
            Ok(DONE)
        }
        Some(_) => {
            writeln!(err, "error: the gateway answered something else")?;
            Ok(FAILED)
        }
        None => Ok(FAILED),
    }
}

pub(super) fn print(status: &Status, out: &mut dyn Write) -> io::Result<()> {
    let Status { version, pid, uptime, workers, connections, interfaces, drops, .. } = status;
    let Status { logged, log_lost, bypass, .. } = status;
    let s = if *workers == 1 { "" } else { "s" };
    writeln!(out, "tidegate {version}, process {pid}, up {}, {workers} worker{s}", span(*uptime))?;
    writeln!(out, "connections {connections}")?;
    let width = interfaces.iter().map(|i| i.name.len()).max().unwrap_or(0);
    for i in interfaces {
        let role = if i.uplink { "uplink" } else { "lan" };
        let addresses = i.addresses.join(" ");
        let head = format!("{:width$}  {role:6}  {}  mtu {}  {addresses}", i.name, i.mac, i.mtu);
        writeln!(out, "{}", head.trim_end())?;
        let (rx, tx) = ((i.rx_packets, i.rx_bytes), (i.tx_packets, i.tx_bytes));
        for (way, (packets, bytes)) in [("in", rx), ("out", tx)] {
            writeln!(out, "{:width$}  {way:3} {packets:>14} packets {bytes:>18} bytes", "")?;
        }
    }
    for (reason, packets) in drops.iter().filter(|(_, packets)| **packets > 0) {
        writeln!(out, "dropped {packets:>14} packets: {reason}")?;
    }
    if let Some(BypassStatus { flows, packets }) = bypass.as_ref().filter(|b| b.packets > 0) {
        writeln!(out, "bypassing now {flows} flows, {packets} packets so far")?;
    }
    if logged + log_lost > 0 {
        writeln!(out, "logged {logged}, lost {log_lost}")?;
    }
    Ok(())
}

/// `1d 2h 3m 4s`, without what is zero in front.
fn span(seconds: u64) -> String {
    let parts = [
        (seconds / 86400, "d"),
        (seconds / 3600 % 24, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
    ];
    let first = parts.iter().position(|(n, _)| *n > 0).unwrap_or(3);
    parts[first..].iter().map(|(n, unit)| format!("{n}{unit}")).collect::<Vec<_>>().join(" ")
}
