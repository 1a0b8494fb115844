//! Events, printed until a signal ends it.

use super::entries::formatted;
use super::{End, NAME, Run, VERSION, odd, other};
use crate::conntrack::options::{Command, Form, Table};
use crate::conntrack::{Ask, HappenedExpected, Tell, What, expected, xml};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

/// Events that wait for us where `-b` doesn't say.
const QUEUE: usize = 8192;
/// Bytes that an event takes, for `-b`.
const EVENT_BYTES: u64 = 256;

impl Run<'_> {
    /// Prints what happens until it is told to stop.
    pub(super) fn watch(&mut self, command: &Command) -> Result<u64, End> {
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
