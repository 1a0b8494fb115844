//! The command line. One file a subcommand; here is what they share.
//!
//! Exit status: 0 it was done, 1 it wasn't, 2 the command line itself is wrong.

use crate::config::{Config, DEFAULT_CONTROL, Flags, Loaded};
use crate::control::client::ClientError;
use crate::control::{Client, Reply, Request};
use crate::daemon::{self, DaemonError, Reload};
use crate::diagnostic::{Report, Style};
use clap::{Args, Parser, Subcommand};
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use tidegate_packet::Family;

mod check;
mod conntrack;
mod install_names;
mod ipset;
mod names;
mod recent;
mod reload;
mod restore;
mod rules;
mod run;
mod save;
mod status;
#[cfg(test)]
mod tests;

/// It was done.
pub const DONE: u8 = 0;
/// It wasn't done, and why was said.
pub const FAILED: u8 = 1;
/// The command line is wrong.
pub const USAGE: u8 = 2;

/// Runs the gateway until it is told to stop.
type Daemon = fn(Config, Reload) -> Result<(), DaemonError>;

const EXAMPLES: &str = "\
Examples:
  A gateway between a LAN and an uplink with a fixed address:
    tidegate run --lan lan0=192.168.0.1/24 --uplink wan0=203.0.113.1/24,via=203.0.113.2

  The same with rules of one's own, the uplink's address by DHCP:
    tidegate run --lan lan0=192.168.0.1/24 --uplink wan0=dhcp --rules iptables.rules

  Everything from a file:
    tidegate run --config gateway.toml

  Is a rules file right, and how does iptables-save print it?
    tidegate check iptables.rules

  Change the running gateway's rules; iptables, iptables-save, iptables-restore, ip6tables,
  ip6tables-save and ip6tables-restore have the originals' command lines:
    tidegate iptables -I FORWARD -s 192.168.0.66 -j DROP
    tidegate iptables-save -c

  Change the sets that rules name, with the command line of ipset:
    tidegate ipset add blocked 192.0.2.66

  Keep all of it, and put it back:
    tidegate save before.state
    tidegate restore before.state

  The connections that are tracked, with conntrack's command line:
    tidegate conntrack -L -p tcp --dport 443
    tidegate conntrack -E -o timestamp

Exit status: 0 it was done, 1 it was not, 2 the command line is wrong.";

/// A userspace router, NAT gateway and stateful firewall that runs iptables rules
///
/// Tidegate forwards packets between network interfaces over packet sockets or TAP devices and
/// decides every one of them as the Linux kernel would under the same iptables-save rules. It
/// needs no netfilter in the kernel.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, after_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::RunArgs),
    Check(check::CheckArgs),
    Rules(rules::RulesArgs),
    Status(status::StatusArgs),
    Reload(reload::ReloadArgs),
    Save(save::SaveArgs),
    Restore(restore::RestoreArgs),
    Recent(recent::RecentArgs),
    InstallNames(install_names::InstallNamesArgs),
    /// Show a gateway at work between hosts in network namespaces
    ///
    /// Builds client, server and outsider hosts in namespaces, starts the gateway between them
    /// with the rules of the page "Simple stateful firewall", sends real traffic and prints what
    /// was tried, what must happen and what happened. Needs root, or user namespaces.
    Lab(crate::lab::cli::LabArgs),
}

/// Does what the arguments (the program's name first) say.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    read_label_names();
    dispatch(args, daemon::run, &mut io::stdout(), &mut io::stderr())
}

/// The names of connection labels, where iptables has them, too. Without the file there are none.
fn read_label_names() {
    const FILE: &str = "/etc/xtables/connlabel.conf";
    if let Ok(text) = std::fs::read_to_string(FILE) {
        tidegate_filter::labels::Labels::parse(&text).put_in_force();
    }
}

fn dispatch(
    args: impl IntoIterator<Item = OsString>,
    daemon: Daemon,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    if let Some(rest) = conntrack::called(&args) {
        return finish(conntrack::main(rest, out, err), out, err);
    }
    if let Some(rest) = ipset::called(&args) {
        return finish(ipset::main(rest, out, err), out, err);
    }
    if let Some((name, rest)) = names::called(&args) {
        return finish(names::main(name, rest, out, err), out, err);
    }
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are errors to clap, but go to standard output and end with 0.
            let to: &mut dyn Write = if error.use_stderr() { err } else { out };
            let _ = write!(to, "{}", error.render());
            return if error.use_stderr() { USAGE } else { DONE }.into();
        }
    };
    let done = match cli.command {
        Command::Run(args) => run::main(args, daemon, err),
        Command::Check(args) => check::main(&args, out, err),
        Command::Rules(args) => rules::main(&args, out, err),
        Command::Status(args) => status::main(&args, out, err),
        Command::Reload(args) => reload::main(&args, out, err),
        Command::Save(args) => save::main(&args, out, err),
        Command::Restore(args) => restore::main(&args, out, err),
        Command::Recent(args) => recent::main(&args, out, err),
        Command::InstallNames(args) => install_names::main(&args, out, err),
        Command::Lab(args) => return crate::lab::cli::main(args),
    };
    finish(done, out, err)
}

/// The exit status, once everything is written.
fn finish(done: io::Result<u8>, out: &mut dyn Write, err: &mut dyn Write) -> ExitCode {
    let status = match done.and_then(|status| out.flush().map(|()| status)) {
        Ok(status) => status,
        // Whoever read the output has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => DONE,
        Err(error) => {
            let _ = writeln!(err, "error: {error}");
            FAILED
        }
    };
    status.into()
}

/// What describes a gateway. Clap's part of [`Flags`].
#[derive(Clone, Debug, Args)]
struct GatewayArgs {
    /// Read the configuration from this file (default: none, flags alone)
    ///
    /// The flags are put over what the file says: --workers, --control, --rules, --rules6 replace
    /// its values, and so does --sets; --lan and --uplink replace the addresses of interfaces that it
    /// names and add others, --sysctl is read after its [sysctl].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// An interface with hosts that may open connections; repeatable
    ///
    /// NAME alone keeps the addresses that the kernel has given the interface. Otherwise ITEMs
    /// separated by commas follow: addresses with prefix length (IPv4 or IPv6), and kind=tap for
    /// a TAP device, which is made if it isn't there (default: kind=af-packet, an existing
    /// interface). Example: --lan lan0=192.168.0.1/24,fd00:1::1/64
    #[arg(long, value_name = "NAME[=ITEM,...]")]
    lan: Vec<String>,

    /// An interface that leads to the rest of the world; repeatable, the first is preferred
    ///
    /// As --lan, and besides: dhcp for an IPv4 address and a default route from a DHCP server,
    /// via=NEXTHOP for a default route (once for IPv4 and once for IPv6), metric=N, 0 to
    /// 4294967295, for its default routes (default: 0 for the first --uplink, 1 for the second
    /// and so on; the smallest wins). Example: --uplink wan0=203.0.113.1/24,via=203.0.113.2
    #[arg(long, value_name = "NAME[=ITEM,...]")]
    uplink: Vec<String>,

    /// IPv4 rules as iptables-save prints them (default: the built-in rules of a NAT gateway)
    ///
    /// `tidegate rules` prints the built-in ones for the same flags.
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,

    /// IPv6 rules as ip6tables-save prints them (default: the built-in rules of a gateway)
    #[arg(long, value_name = "FILE")]
    rules6: Option<PathBuf>,

    /// Sets that rules name, as ipset save prints them (default: none)
    ///
    /// A reload makes those that aren't there yet; sets that are there stay as they are.
    #[arg(long, value_name = "FILE")]
    sets: Option<PathBuf>,

    /// Kernel parameters in the form of sysctl.d; repeatable, the last wins (default: none)
    ///
    /// Every parameter has the kernel's default, but that forwarding is on. Parameters that mean
    /// nothing to a gateway are named in a warning.
    #[arg(long, value_name = "FILE")]
    sysctl: Vec<PathBuf>,

    /// Worker threads, 1 to 256 (default: one per core)
    #[arg(long, value_name = "N")]
    workers: Option<usize>,

    /// Path of the control socket (default: /run/tidegate/control.sock)
    ///
    /// The socket appears when packets are being forwarded. Relative paths in the file start from
    /// the file's folder, those in flags from the current one. At most 107 bytes.
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,

    /// Where the lines of LOG and TRACE go: stderr, syslog[=SOCKET] or file=PATH (default: stderr)
    ///
    /// On standard error each has its level in front in the form of journald, `<4>`. To syslog they
    /// go as the kernel's (facility kern) by the socket /dev/log. A file is continued, and opened
    /// again on SIGHUP and `tidegate reload`.
    #[arg(long, value_name = "WHERE")]
    log: Option<String>,

    /// Write packets that meet NFLOG to this pcapng file; repeatable with groups
    ///
    /// FILE alone is for all groups that have no file of their own. Packets of groups without a file
    /// become log lines.
    #[arg(long, value_name = "[GROUP=]FILE")]
    nflog: Vec<String>,

    /// Keep rules, counters, `recent` lists and sets in this file from one run to the next
    ///
    /// Read at the start and written at the end and every ten minutes. Rules from it are used as long
    /// as the rules files are what they were when it was written.
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
}

impl GatewayArgs {
    /// The configuration; in case of errors all of them.
    fn read(&self) -> Result<Loaded, Report> {
        let Self {
            config,
            lan,
            uplink,
            rules,
            rules6,
            sets,
            sysctl,
            workers,
            control,
            log,
            nflog,
            state,
        } = self.clone();
        let flags =
            Flags { lan, uplink, rules, rules6, sets, sysctl, workers, control, log, nflog, state };
        Config::load(config.as_deref(), &flags)
    }

    /// The configuration, or the exit status after everything that is wrong was written to `err`.
    fn load(&self, err: &mut dyn Write) -> io::Result<Result<Config, u8>> {
        let style = Style::of_stderr();
        match self.read() {
            Ok(loaded) => {
                for warning in &loaded.warnings {
                    err.write_all(warning.render(style).as_bytes())?;
                }
                Ok(Ok(loaded.config))
            }
            Err(report) => {
                err.write_all(report.render(style).as_bytes())?;
                // What is missing altogether is at no place; without a file, flags are missing.
                let nowhere = report.diagnostics.iter().any(|d| d.place.is_none());
                let usage = report.is_usage() || self.config.is_none() && nowhere;
                Ok(Err(if usage { USAGE } else { FAILED }))
            }
        }
    }
}

/// The family that a subcommand is about.
#[derive(Copy, Clone, Debug, Default, Args)]
struct FamilyArgs {
    /// IPv4
    #[arg(short = '4', long, conflicts_with = "ipv6")]
    ipv4: bool,

    /// IPv6
    #[arg(short = '6', long)]
    ipv6: bool,
}

impl FamilyArgs {
    fn family(self) -> Option<Family> {
        match self {
            Self { ipv4: true, .. } => Some(Family::V4),
            Self { ipv6: true, .. } => Some(Family::V6),
            _ => None,
        }
    }
}

/// The running gateway that a subcommand speaks to.
#[derive(Clone, Debug, Args)]
struct ControlArgs {
    /// Path of the gateway's control socket
    #[arg(long, value_name = "PATH", env = names::CONTROL, default_value = DEFAULT_CONTROL)]
    control: PathBuf,
}

impl ControlArgs {
    /// One request's reply; why there is none is written to `err`.
    fn ask(&self, request: Request, err: &mut dyn Write) -> io::Result<Option<Reply>> {
        let reply = Client::connect(&self.control).and_then(|mut client| client.ask(request));
        match reply {
            Ok(reply) => Ok(Some(reply)),
            Err(ClientError::Refused(why)) if why.ends_with('\n') => {
                err.write_all(why.as_bytes())?;
                Ok(None)
            }
            Err(error) => {
                writeln!(err, "error: {error}")?;
                Ok(None)
            }
        }
    }
}
