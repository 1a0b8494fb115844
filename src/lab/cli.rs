//! `tidegate lab`.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, setsid};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::error::{Doing, LabError, Result};
use super::gateway::Engine;
use super::performance::{self, Ended, Show};
use super::privilege;
use super::scene::{Devices, Plan, Scene};
use super::standing::{Directory, Home, Host, State};

/// Exit status when a row differs, and when the lab couldn't be built.
const FAILED: u8 = 1;

/// Exit status of `exec` when it didn't get as far as the command, as env(1) has it.
const NOT_ENTERED: u8 = 125;

/// Exit status of a process that Ctrl-C ended (128 + SIGINT).
const INTERRUPTED: u8 = 130;

/// How much of the gateway's log is shown when rows are wrong.
const LOG_LINES: usize = 20;

/// How often a standing lab looks whether it is to end.
const LOOK_UP: Duration = Duration::from_millis(100);

/// Options of `tidegate lab`.
#[derive(Clone, Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct LabArgs {
    #[command(subcommand)]
    command: Option<LabCommand>,

    #[command(flatten)]
    show: ShowArgs,

    /// Leave it standing in the background
    #[arg(long)]
    keep: bool,
}

#[derive(Clone, Debug, clap::Args)]
struct ShowArgs {
    /// Let the gateway drive TAP devices instead of packet sockets on veth pairs
    #[arg(long)]
    tap: bool,

    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,

    /// Let the kernel's netfilter be the gateway, with the same rules
    #[arg(long, hide = true, conflicts_with = "tap")]
    reference: bool,

    /// The background process of --keep
    #[arg(long, hide = true)]
    keeper: bool,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum LabCommand {
    /// Run a program at a host of a lab that was started with --keep
    Exec {
        /// The lab's process, if several stand
        #[arg(long, value_name = "PID")]
        lab: Option<u32>,
        /// client, client2, ssh, web, gateway, internet, server, outsider, narrow
        host: String,
        /// The program and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// List the labs that stand, their hosts and addresses
    List,
    /// Take down a lab that was started with --keep
    Stop {
        /// The lab's process, if several stand
        #[arg(long, value_name = "PID")]
        lab: Option<u32>,
    },
}

type Done = std::result::Result<ExitCode, Failed>;

/// An error and the exit status that goes with it.
struct Failed {
    error: LabError,
    status: u8,
}

impl From<LabError> for Failed {
    fn from(error: LabError) -> Self {
        Self { error, status: FAILED }
    }
}

/// Does what the command line says. Must be called before the process starts its first thread
/// (see [`privilege::acquire`]).
pub fn main(args: LabArgs) -> ExitCode {
    let LabArgs { command, show, keep } = args;
    let done = match command {
        None if keep => keep_in_background(&show),
        None => perform(&show),
        Some(LabCommand::Exec { lab, host, command }) => Err(exec(lab, &host, &command)),
        Some(LabCommand::List) => list(),
        Some(LabCommand::Stop { lab }) => stop(lab),
    };
    done.unwrap_or_else(|failed| {
        eprintln!("tidegate lab: {}", failed.error);
        ExitCode::from(failed.status)
    })
}

/// Runs the lab in this process.
fn perform(args: &ShowArgs) -> Done {
    let home = Home::find()?;
    let interrupted = watch_signals()?;
    privilege::acquire()?;
    for pid in home.sweep()? {
        eprintln!("cleaned up after lab {pid}, which had crashed");
    }
    let directory = home.begin()?;
    let plan = Plan {
        engine: if args.reference {
            Engine::Kernel
        } else {
            Engine::Tidegate { program: this_program()? }
        },
        devices: if args.tap { Devices::Tap } else { Devices::AfPacket },
        host_device: false,
        directory: directory.path().to_owned(),
    };
    let show = if args.json { Show::Json } else { Show::Table };
    let ended =
        performance::run(plan, show, &interrupted, |scene| directory.write(&State::of(scene)?))?;
    match ended {
        Ended::Interrupted => Ok(ExitCode::from(INTERRUPTED)),
        Ended::Finished { wrong, scene } => {
            if wrong > 0 {
                show_log(&directory);
            }
            let status = u8::from(wrong > 0);
            if args.keeper {
                stand(&scene, status, &interrupted)?;
            }
            Ok(ExitCode::from(status))
        }
    }
}

/// Set by the signals that ask to end. A second one ends the process at once.
fn watch_signals() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        let status = i32::from(INTERRUPTED);
        signal_hook::flag::register_conditional_shutdown(signal, status, Arc::clone(&flag))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&flag)))
            .doing(|| "signal handlers")?;
    }
    Ok(flag)
}

fn this_program() -> Result<PathBuf> {
    std::env::current_exe().doing(|| "the path of this program")
}

/// The end of what the gateway said, where something was wrong.
fn show_log(directory: &Directory) {
    let Ok(log) = fs::read_to_string(directory.path().join("gateway.log")) else { return };
    let lines: Vec<_> = log.lines().collect();
    if !lines.is_empty() {
        eprintln!("\nthe gateway's log ends with:");
    }
    for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
        eprintln!("  {line}");
    }
}

/// Runs the lab in a background process and returns when it has shown its table.
fn keep_in_background(args: &ShowArgs) -> Done {
    let what = || "the lab's background process";
    let (mut ours, theirs) = UnixStream::pair().doing(what)?;
    let ShowArgs { tap, json, reference, keeper: _ } = *args;
    let flags = [(tap, "--tap"), (json, "--json"), (reference, "--reference"), (true, "--keeper")];
    let mut child = Command::new(this_program()?)
        .arg("lab")
        .args(flags.iter().filter(|(on, _)| *on).map(|(_, flag)| flag))
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()
        .doing(what)?;
    // The status, or nothing if the process ended instead of staying.
    let mut status = [0];
    match ours.read(&mut status) {
        Ok(1) => Ok(ExitCode::from(status[0])),
        _ => {
            let ended = child.wait().doing(what)?;
            Ok(ExitCode::from(ended.code().and_then(|c| c.try_into().ok()).unwrap_or(FAILED)))
        }
    }
}

/// Stays behind as the background process that standard input's other end waits for, until a
/// signal comes or the gateway ends.
fn stand(scene: &Scene, status: u8, interrupted: &AtomicBool) -> Result<()> {
    let what = || "going into the background";
    // Away from the terminal, so that its Ctrl-C and its end don't reach us.
    setsid().doing(what)?;
    let pid = std::process::id();
    eprintln!(
        "\nThe lab stands (process {pid}).\n  \
         tidegate lab exec client -- COMMAND   runs something at a host\n  \
         tidegate lab list                     shows hosts and addresses\n  \
         tidegate lab stop                     takes it down"
    );
    let parent = io::stdin().as_fd().try_clone_to_owned().doing(what)?;
    let nothing = File::options().read(true).write(true).open("/dev/null").doing(what)?;
    dup2_stdin(&nothing).doing(what)?;
    dup2_stdout(&nothing).doing(what)?;
    dup2_stderr(&nothing).doing(what)?;
    UnixStream::from(parent).write_all(&[status]).doing(what)?;
    while !interrupted.load(Ordering::Relaxed) && scene.gateway.exited().is_none() {
        thread::sleep(LOOK_UP);
    }
    scene.gateway.stop();
    Ok(())
}

/// Becomes `command` at a host; returns only if that fails.
fn exec(lab: Option<u32>, host: &str, command: &[OsString]) -> Failed {
    let entered = Home::find().and_then(|h| h.pick(lab)?.enter(host));
    if let Err(error) = entered {
        return Failed { error, status: NOT_ENTERED };
    }
    let Some((program, arguments)) = command.split_first() else {
        return LabError::Invalid("no command".into()).into();
    };
    let error = Command::new(program).args(arguments).env("TIDEGATE_LAB_HOST", host).exec();
    // As a shell has it.
    let status = if error.kind() == ErrorKind::NotFound { 127 } else { 126 };
    let what = program.to_string_lossy().into_owned();
    Failed { error: LabError::System { what, source: error }, status }
}

fn list() -> Done {
    let mut out = io::stdout().lock();
    for state in Home::find()?.standing()? {
        let pid = state.process.pid;
        let mut text = format!("lab {pid}\n");
        for Host { name, fd, addresses } in &state.hosts {
            text += &format!("  {name:8}  /proc/{pid}/fd/{fd:<3}  {}\n", addresses.join(", "));
        }
        out.write_all(text.as_bytes()).doing(|| "writing the list")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn stop(lab: Option<u32>) -> Done {
    Home::find()?.pick(lab)?.stop()?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        lab: LabArgs,
    }

    #[test]
    fn command_lines() {
        let parse = |line: &str| Line::try_parse_from(format!("lab {line}").split_whitespace());
        for good in ["", "--tap", "--keep --tap --json", "--reference", "list", "stop --lab 7"] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in ["--tap --reference", "--keep list", "exec client", "exec", "nonsense"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        for line in ["exec client -- ping -c 1 server", "exec client ping -c 1 server"] {
            let parsed = parse(line).map(|l| l.lab.command);
            let Ok(Some(LabCommand::Exec { host, command, .. })) = parsed else {
                panic!("{line}");
            };
            assert_eq!((host.as_str(), command.len()), ("client", 4), "{line}");
        }
    }
}
