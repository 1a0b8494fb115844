//! `conntrack`, against the running gateway: conntrack-tools' command line, output and exit status.

mod entries;
mod expectations;
mod files;
mod help;
mod watch;

use super::names::CONTROL;
use crate::config::DEFAULT_CONTROL;
use crate::conntrack::options::{Command, Table, Verb, Wrong};
use crate::conntrack::{Action, Ask, Fault, Tell};
use crate::control::client::ClientError;
use crate::control::{Client, Reply, Request};
use files::{parse_labels, split};
use help::HELP;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// The program's name.
pub(super) const NAME: &str = "conntrack";
const VERSION: &str = "1.4.7";
/// Where the names of labels are.
const LABELS: &str = "/etc/xtables/connlabel.conf";
/// How long a call waits while too many others are served.
const PATIENCE: Duration = Duration::from_secs(60);
/// The arguments behind the name, if this program was called as `conntrack` or the first argument
/// is that.
pub(super) fn called(args: &[OsString]) -> Option<&[OsString]> {
    let own = args.first().and_then(|path| Path::new(path).file_name());
    match own.is_some_and(|name| name == NAME) {
        true => Some(&args[1..]),
        false => (args.get(1)? == NAME).then(|| &args[2..]),
    }
}

/// Why a run ends without having done everything.
enum End {
    /// Something to be said, with the exit status.
    Wrong(Wrong),
    Io(io::Error),
}

impl From<Wrong> for End {
    fn from(wrong: Wrong) -> Self {
        Self::Wrong(wrong)
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn other(text: impl Into<String>) -> End {
    End::Wrong(Wrong { text: text.into(), status: 1 })
}

/// Runs the program.
pub(super) fn main(args: &[OsString], out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    let Some(args) = args.iter().map(|arg| arg.to_str().map(str::to_owned)).collect() else {
        writeln!(err, "{NAME} v{VERSION} (conntrack-tools): an argument is not UTF-8")?;
        return Ok(1);
    };
    let args: Vec<String> = args;
    let mut run = Run { labels: None, gateway: None, out, err };
    let done = match args.first().map(String::as_str) {
        Some("-R" | "--load-file") if args.len() > 1 => run.file(&args[1]),
        _ => run.line(&args),
    };
    match done {
        Ok(status) => Ok(status),
        Err(End::Io(error)) => Err(error),
        Err(End::Wrong(Wrong { text, status })) => {
            run.out.flush()?;
            writeln!(run.err, "{NAME} v{VERSION} (conntrack-tools): {text}")?;
            if status == 2 {
                writeln!(run.err, "Try `{NAME} -h' or '{NAME} --help' for more information.")?;
            }
            Ok(status)
        }
    }
}

struct Run<'a> {
    /// Names of labels, once they were needed.
    labels: Option<Vec<(u8, String)>>,
    gateway: Option<Client>,
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
}

impl Run<'_> {
    /// One command line.
    fn line(&mut self, args: &[String]) -> Result<u8, End> {
        let command = self.read(args)?;
        let verb = command.verb;
        let count = self.perform(&command)?;
        let said = match (verb, command.table) {
            (Some(Verb::Get), Table::Expect) => return Ok(0),
            (Some(Verb::List | Verb::Delete), Table::Expect) => "expectations have been shown",
            (Some(Verb::List | Verb::Get), _) => "flow entries have been shown",
            (Some(Verb::Delete), _) => "flow entries have been deleted",
            (Some(Verb::Create), Table::Conntrack) => "flow entries have been created",
            (Some(Verb::Add), _) => "flow entries have been added",
            (Some(Verb::Update), _) => "flow entries have been updated",
            _ => return Ok(0),
        };
        self.out.flush()?;
        writeln!(self.err, "{NAME} v{VERSION} (conntrack-tools): {count} {said}.")?;
        let nothing_is_fine = matches!(verb, Some(Verb::List | Verb::Add));
        Ok(u8::from(count == 0 && !nothing_is_fine))
    }

    /// The command lines of a file (`-o save` writes such).
    fn file(&mut self, path: &str) -> Result<u8, End> {
        let from = if path == "-" { "/dev/stdin" } else { path };
        let text = std::fs::read_to_string(from).map_err(|_| Wrong {
            text: format!("Failed to open file {from} for reading"),
            status: 2,
        })?;
        let mut commands = Vec::new();
        for line in text.lines().map(str::trim_start) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let args: Vec<String> = split(line);
            let command = self.read(&args)?;
            let fine = matches!(
                command.verb,
                Some(Verb::Create | Verb::Add | Verb::Update | Verb::Delete | Verb::Flush)
            ) && command.table == Table::Conntrack;
            if !fine {
                let what = args.first().map_or("unknown", String::as_str);
                let text = format!("Cannot use command `{what}' with --load-file");
                return Err(Wrong { text, status: 2 }.into());
            }
            commands.push(command);
        }
        for command in &commands {
            self.perform(command)?;
        }
        self.out.flush()?;
        Ok(0)
    }

    fn read(&mut self, args: &[String]) -> Result<Command, End> {
        let labels = match std::fs::read_to_string(LABELS) {
            Ok(text) => parse_labels(&text),
            Err(error) => {
                // As the original says it, where labels are asked for.
                let asked = |a: &String| a.starts_with("-l") || a.contains("label");
                if args.iter().any(asked) {
                    let why = error.to_string();
                    let why = why.split(" (os error").next().unwrap_or_default();
                    writeln!(self.err, "nfct_labelmap_new: {why}")?;
                }
                Vec::new()
            }
        };
        let number = |name: &str| labels.iter().find(|(_, n)| n == name).map(|(bit, _)| *bit);
        let command = Command::read(args, &number)?;
        for warning in &command.warnings {
            writeln!(self.err, "{warning}")?;
        }
        self.labels = Some(labels);
        Ok(command)
    }

    /// Does it, and says to how many.
    fn perform(&mut self, command: &Command) -> Result<u64, End> {
        let Some(verb) = command.verb else { return self.help(command) };
        match (verb, command.table) {
            (Verb::Help, _) => self.help(command),
            (Verb::Version, _) => {
                writeln!(self.out, "{NAME} v{VERSION} (conntrack-tools)")?;
                Ok(0)
            }
            (Verb::List, Table::Dying | Table::Unconfirmed) => {
                // A packet has gone its whole way before anybody else looks at the table, so there
                // are never any.
                self.ask(Ask::Count)?;
                Ok(0)
            }
            (Verb::Stats, table) => self.stats(table == Table::Expect),
            (_, Table::Expect) => self.expectations(command, verb),
            (Verb::List, _) => {
                let action = if command.zero { Action::Zero } else { Action::List };
                self.walk(command, action)
            }
            (Verb::Delete, _) => self.walk(command, Action::Delete),
            (Verb::Update, _) => self.walk(command, Action::Update(command.change.clone())),
            (Verb::Get, _) => self.get(command),
            (Verb::Create | Verb::Add, _) => self.create(command, verb == Verb::Create),
            (Verb::Flush, _) => {
                self.ask(Ask::Flush { family: command.family })?;
                let done = "connection tracking table has been emptied.";
                writeln!(self.err, "{NAME} v{VERSION} (conntrack-tools): {done}")?;
                Ok(0)
            }
            (Verb::Count, _) => {
                let Tell::Count(count) = self.ask(Ask::Count)? else { return Err(odd()) };
                writeln!(self.out, "{count}")?;
                Ok(0)
            }
            (Verb::Event, _) => self.watch(command),
        }
    }

    fn stats(&mut self, expectations: bool) -> Result<u64, End> {
        let Tell::Stats(rows) = self.ask(Ask::Stats { expectations })? else { return Err(odd()) };
        write!(self.out, "cpu={:<4}\t", 0)?;
        for (name, value) in rows {
            // The original's numbers have 32 bits.
            write!(self.out, "{name}={} ", value as u32)?;
        }
        writeln!(self.out)?;
        Ok(0)
    }

    fn ask(&mut self, ask: Ask) -> Result<Tell, End> {
        let began = Instant::now();
        loop {
            let client = match self.gateway.take() {
                Some(client) => Ok(client),
                None => connect(),
            };
            let mut client = client.map_err(|error| other(error.to_string()))?;
            match client.ask(Request::Conntrack { ask: ask.clone() }) {
                Ok(Reply::Conntrack(tell)) => {
                    self.gateway = Some(client);
                    return Ok(tell);
                }
                Ok(_) => return Err(odd()),
                Err(ClientError::Refused(why)) if why == crate::control::server::TOO_MANY => {
                    if began.elapsed() > PATIENCE {
                        return Err(other(why));
                    }
                    thread::sleep(Duration::from_millis(20));
                }
                // A listing that nobody has read for a while goes on where it was.
                Err(ClientError::Broken { .. })
                    if matches!(ask, Ask::Walk { cursor: 1.., .. })
                        && began.elapsed() < PATIENCE =>
                {
                    thread::sleep(Duration::from_millis(20));
                }
                Err(error) => return Err(other(error.to_string())),
            }
        }
    }

    fn help(&mut self, command: &Command) -> Result<u64, End> {
        write!(
            self.out,
            "Command line interface for the connection tracking system. Version {VERSION}\n\
             Usage: {NAME} [commands] [options]\n\n{}\n",
            HELP
        )?;
        if let Some((protocol, _)) = command.protocol {
            write!(self.out, "Proto `{}' help:\n{}", protocol.name, protocol.help)?;
        }
        Ok(0)
    }
}

fn connect() -> Result<Client, ClientError> {
    let path = std::env::var_os(CONTROL).map_or_else(|| DEFAULT_CONTROL.into(), PathBuf::from);
    Client::connect(&path)
}

fn odd() -> End {
    other("the gateway answered something else")
}

/// The original's words for an error number.
fn failed(fault: Fault, verb: Option<Verb>) -> End {
    let words = match (fault, verb) {
        (Fault::Invalid, _) => "invalid parameters".to_owned(),
        (Fault::Exists, Some(Verb::Create)) => "Such conntrack exists, try -U to update".to_owned(),
        (Fault::Absent, Some(_)) => "such conntrack doesn't exist".to_owned(),
        (Fault::Full, Some(_)) => "not enough memory".to_owned(),
        _ => fault.to_string(),
    };
    other(format!("Operation failed: {words}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(line: &str) -> (u8, String, String) {
        let args: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let status = main(&args, &mut out, &mut err).unwrap();
        let [out, err] = [out, err].map(|bytes| String::from_utf8(bytes).unwrap());
        (status, out, err)
    }

    #[test]
    fn what_needs_no_gateway_needs_none() {
        let (status, out, _) = call("-V");
        assert_eq!((status, out.as_str()), (0, "conntrack v1.4.7 (conntrack-tools)\n"));
        let (status, out, _) = call("-h -p tcp");
        assert!(status == 0 && out.contains("Proto `tcp' help:\n  --orig-port-src\t\toriginal"));
        let (status, out, err) = call("-L -X");
        assert_eq!((status, out.as_str()), (2, ""));
        assert_eq!(
            err,
            "conntrack v1.4.7 (conntrack-tools): unknown option `-X'\nTry `conntrack -h' or \
             'conntrack --help' for more information.\n"
        );
    }

    #[test]
    fn it_is_called_by_name() {
        for (args, want) in [
            (&["/usr/sbin/conntrack", "-L"][..], Some(1)),
            (&["/bin/tidegate", "conntrack", "-L", "expect"], Some(2)),
            (&["/bin/tidegate", "status"], None),
            (&["/bin/tidegate"], None),
        ] {
            let args: Vec<OsString> = args.iter().map(OsString::from).collect();
            assert_eq!(called(&args).map(<[_]>::len), want, "{args:?}");
        }
    }
}
