//! `conntrack`, against the running gateway: conntrack-tools' command line, output and exit status.

mod files;
mod help;

use super::names::CONTROL;
use crate::config::DEFAULT_CONTROL;
use crate::conntrack::options::{Command, Form, Table, Verb, Wrong};
use crate::conntrack::wire::Which;
use crate::conntrack::{Action, Ask, Entry, Fault, HappenedExpected, Tell, What};
use crate::conntrack::{Expected, expected, json, save, text, xml};
use crate::control::client::ClientError;
use crate::control::{Client, Reply, Request};
use files::{parse_labels, split};
use help::HELP;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The program's name.
pub(super) const NAME: &str = "conntrack";
const VERSION: &str = "1.4.7";
/// Where the names of labels are.
const LABELS: &str = "/etc/xtables/connlabel.conf";
/// How long a call waits while too many others are served.
const PATIENCE: Duration = Duration::from_secs(60);
/// Events that wait for us where `-b` doesn't say.
const QUEUE: usize = 8192;
/// Bytes that an event takes, for `-b`.
const EVENT_BYTES: u64 = 256;

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

    fn walk(&mut self, command: &Command, action: Action) -> Result<u64, End> {
        let (mut cursor, mut count) = (0, 0);
        loop {
            let filter = Box::new(command.filter.clone());
            let tell = self.ask(Ask::Walk { filter, action: action.clone(), cursor })?;
            let (entries, next, now) = match tell {
                Tell::Page { entries, next, now } => (entries, next, now),
                Tell::Fault(fault) => return Err(failed(fault, None)),
                _ => return Err(odd()),
            };
            // The kernel tells the age of those that are shown, not of those that are deleted.
            for entry in &entries {
                self.print(command, entry, count == 0, now)?;
                count += 1;
            }
            match next {
                Some(next) => cursor = next,
                None => break,
            }
        }
        if command.form == Form::Xml && count > 0 {
            self.out.write_all(xml::TAIL.as_bytes())?;
        }
        Ok(count)
    }

    fn print(&mut self, command: &Command, entry: &Entry, first: bool, now: u64) -> io::Result<()> {
        if first && command.form == Form::Xml {
            self.out.write_all(xml::HEAD.as_bytes())?;
        }
        let line = formatted(command, entry, None, now, self.labels.as_deref().unwrap_or(&[]));
        self.out.write_all(line.as_bytes())?;
        self.out.write_all(b"\n")
    }

    fn get(&mut self, command: &Command) -> Result<u64, End> {
        let Some((protocol, side, reply)) = command.exact_side() else {
            return Err(failed(Fault::Invalid, Some(Verb::Get)));
        };
        match self.ask(Ask::Get { protocol, side, reply })? {
            Tell::Page { entries, now, .. } => {
                let mut count = 0;
                // What else was said has to be so, too.
                for entry in entries.iter().filter(|entry| command.filter.fits(entry)) {
                    self.print(command, entry, count == 0, now)?;
                    count += 1;
                }
                if command.form == Form::Xml && count > 0 {
                    self.out.write_all(xml::TAIL.as_bytes())?;
                }
                Ok(count)
            }
            Tell::Fault(fault) => Err(failed(fault, Some(Verb::Get))),
            _ => Err(odd()),
        }
    }

    fn create(&mut self, command: &Command, exclusive: bool) -> Result<u64, End> {
        let verb = if exclusive { Verb::Create } else { Verb::Add };
        let entry = command.entry().ok_or_else(|| failed(Fault::Invalid, Some(verb)))?;
        match self.ask(Ask::Create { entry: Box::new(entry), exclusive })? {
            Tell::Done => Ok(1),
            Tell::Fault(fault) => Err(failed(fault, Some(verb))),
            _ => Err(odd()),
        }
    }

    fn expectations(&mut self, command: &Command, verb: Verb) -> Result<u64, End> {
        let which = match verb {
            Verb::Event => return self.watch(command),
            Verb::Create => return self.expect(command),
            Verb::Get | Verb::Delete => {
                let Some((protocol, side, _)) = command.exact_side() else {
                    return Err(failed(Fault::Invalid, None));
                };
                Which::Tuple(protocol, side)
            }
            Verb::Flush => Which::All,
            // As the original: IPv6 has to be asked for.
            _ => Which::Family(command.family.unwrap_or(4)),
        };
        let delete = matches!(verb, Verb::Delete | Verb::Flush);
        let Tell::Expected(expected) = self.ask(Ask::Expected { which, delete })? else {
            return Err(odd());
        };
        let count = expected.len() as u64;
        match verb {
            Verb::Count => writeln!(self.out, "{count}")?,
            Verb::Flush => {
                let done = "expectation table has been emptied.";
                writeln!(self.err, "{NAME} v{VERSION} (conntrack-tools): {done}")?;
            }
            Verb::Get | Verb::Delete if count == 0 => return Err(failed(Fault::Absent, None)),
            Verb::List | Verb::Get => self.print_expected(command, &expected)?,
            // The original doesn't count what it deletes, and ends as if there were nothing.
            Verb::Delete => return Ok(0),
            _ => {}
        }
        Ok(count)
    }

    /// `-I expect`. The original's last release sends it with a protocol that no kernel takes.
    fn expect(&mut self, command: &Command) -> Result<u64, End> {
        let expected = command.expected().ok_or_else(|| failed(Fault::Invalid, None))?;
        match self.ask(Ask::Expect { expected: Box::new(expected) })? {
            Tell::Done => Ok(1),
            Tell::Fault(Fault::Absent) => {
                Err(other("Operation failed: master conntrack not found"))
            }
            Tell::Fault(fault) => Err(failed(fault, None)),
            _ => Err(odd()),
        }
    }

    fn print_expected(&mut self, command: &Command, all: &[Expected]) -> io::Result<()> {
        let xml = command.form == Form::Xml && !all.is_empty();
        if xml {
            self.out.write_all(expected::HEAD.as_bytes())?;
        }
        for one in all {
            if command.show.timestamp && command.form == Form::Plain {
                let micros = crate::worker::unix_nanos() / 1000;
                write!(self.out, "[{:<8}.{:<6}]\t", micros / 1_000_000, micros % 1_000_000)?;
            }
            let line = match command.form {
                Form::Plain | Form::Save => one.line(),
                Form::Xml => one.xml(),
                Form::Json => one.json(),
            };
            writeln!(self.out, "{line}")?;
        }
        if xml {
            self.out.write_all(expected::TAIL.as_bytes())?;
        }
        Ok(())
    }

    fn print_expectation_event(
        &mut self,
        command: &Command,
        event: &HappenedExpected,
        shown: &Shown,
    ) -> io::Result<()> {
        let HappenedExpected { what, expected, at } = event;
        let timed = command.show.timestamp;
        let line = match command.form {
            Form::Plain if timed => {
                let micros = at / 1000;
                let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
                format!("[{seconds:<8}.{micros:<6}]\t{}", expected.event_line(*what))
            }
            Form::Plain | Form::Save => expected.event_line(*what),
            Form::Xml => expected.event_xml(*what, timed.then_some(*at)),
            Form::Json => expected.event_json(*what),
        };
        if shown.count.load(Ordering::Relaxed) == 0 && command.form == Form::Xml {
            self.out.write_all(expected::HEAD.as_bytes())?;
            shown.tail.store(true, Ordering::Relaxed);
        }
        writeln!(self.out, "{line}")?;
        shown.count.fetch_add(1, Ordering::Relaxed);
        Ok(())
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

    /// Prints what happens until it is told to stop.
    fn watch(&mut self, command: &Command) -> Result<u64, End> {
        let mut what = command.events.clone();
        if what.is_empty() {
            what.extend(What::ALL);
        }
        let queue = match command.buffer {
            None => QUEUE,
            Some(bytes) => {
                // The kernel doubles what it is given, for its own bookkeeping, and says so.
                writeln!(
                    self.err,
                    "NOTICE: Netlink socket buffer size has been set to {} bytes.",
                    bytes.saturating_mul(2)
                )?;
                usize::try_from(bytes / EVENT_BYTES).unwrap_or(QUEUE).max(1)
            }
        };
        let expectations = command.table == Table::Expect;
        let filter = Box::new(command.filter.clone());
        let ask = Ask::Listen { filter, what, queue, expectations };
        match self.ask(ask)? {
            Tell::Done => {}
            Tell::Fault(_) => return Err(other("Can't open netlink socket")),
            _ => return Err(odd()),
        }
        let shown = Arc::new(Shown { expectations, ..Shown::default() });
        end_on_signal(shown.clone())?;
        loop {
            let tell = self.ask(Ask::Next).map_err(|end| match end {
                End::Wrong(wrong) => {
                    other(format!("failed to received netlink event: {}", wrong.text))
                }
                end => end,
            })?;
            let Tell::Happened { events, expected, lost } = tell else { return Err(odd()) };
            if lost > 0 {
                self.err.write_all(LOST.as_bytes())?;
            }
            for event in events {
                let head = shown.count.load(Ordering::Relaxed) == 0 && command.form == Form::Xml;
                let labels = self.labels.as_deref().unwrap_or(&[]);
                let mut line = formatted(command, &event.entry, Some(event.what), event.at, labels);
                if let (Some(pid), Form::Plain | Form::Save) = (event.author, command.form) {
                    line += &authored(pid);
                }
                if head {
                    self.out.write_all(xml::HEAD.as_bytes())?;
                    shown.tail.store(true, Ordering::Relaxed);
                }
                line.push('\n');
                self.out.write_all(line.as_bytes())?;
                shown.count.fetch_add(1, Ordering::Relaxed);
            }
            for event in expected {
                self.print_expectation_event(command, &event, &shown)?;
            }
            self.out.flush()?;
        }
    }
}

/// What a signal has to know to end a listing in order.
#[derive(Default)]
struct Shown {
    /// Of expectations.
    expectations: bool,
    count: AtomicU64,
    /// An XML document is open.
    tail: AtomicBool,
}

const LOST: &str = "\
WARNING: We have hit ENOBUFS! We are losing events.
This message means that the current netlink socket buffer size is too small.
Please, check --buffer-size in conntrack(8) manpage.
";

fn end_on_signal(shown: Arc<Shown>) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        if signals.forever().next().is_some() {
            let mut out = io::stdout().lock();
            if shown.tail.load(Ordering::Relaxed) {
                let tail = if shown.expectations { expected::TAIL } else { xml::TAIL };
                let _ = out.write_all(tail.as_bytes());
            }
            let _ = out.flush();
            let count = shown.count.load(Ordering::Relaxed);
            let what = if shown.expectations { "expectation" } else { "flow" };
            eprintln!(
                "{NAME} v{VERSION} (conntrack-tools): {count} {what} events have been shown."
            );
            std::process::exit(0);
        }
    })?;
    Ok(())
}

/// How the original marks what a program has done.
fn authored(pid: u32) -> String {
    match std::fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => format!(" [USERSPACE] portid={pid} progname={}", name.trim_end()),
        Err(_) => format!(" [USERSPACE] portid={pid}"),
    }
}

fn formatted(
    command: &Command,
    entry: &Entry,
    what: Option<What>,
    now: u64,
    labels: &[(u8, String)],
) -> String {
    let name = |bit: u8| {
        let found = labels.iter().find(|(b, _)| *b == bit).map(|(_, name)| name.clone());
        found.unwrap_or_else(|| bit.to_string())
    };
    match command.form {
        Form::Plain => {
            let line = text::line(entry, what, command.show, now, &name);
            match what.is_some() && command.show.timestamp {
                true => {
                    let micros = now / 1000;
                    format!("[{:08}.{:06}]\t{line}", micros / 1_000_000, micros % 1_000_000)
                }
                false => line,
            }
        }
        Form::Xml => xml::line(entry, what, command.show, now, &name),
        Form::Save => save::line(entry, what),
        Form::Json => json::line(entry, what, command.show, now, &name),
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
