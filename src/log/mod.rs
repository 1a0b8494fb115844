//! Where log lines and packets of NFLOG go: standard error, syslog or a file, and pcapng files.
//!
//! The workers leave both in the engine, the manager hands them over by a bounded queue, and a thread
//! of its own writes. So neither packets nor the manager ever wait for a slow reader: what finds the
//! queue full is lost, counted, and told in a line.

mod pcapng;
mod text;

use crate::config::{self, LogTo};
use crate::engine::log::{Groups, Line, Logged, WARNING, Waiting};
use pcapng::Capture;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::time::{Duration, Instant};
use text::Text;

/// Messages that wait for the writer at most.
const QUEUE: usize = 4096;
/// Bytes of packets among them at most.
const QUEUE_BYTES: usize = 16 << 20;
/// Messages between two looks at the files' buffers.
const BATCH: usize = 256;
/// How long the end of a gateway waits for the last lines to be written.
const PATIENCE: Duration = Duration::from_secs(1);
/// Losses are told once in this time.
const TELL: Duration = Duration::from_secs(1);

/// Why logging can't begin.
#[derive(Debug, thiserror::Error)]
#[error("the log {path}: {source}")]
pub struct LogError {
    /// The file.
    pub path: PathBuf,
    /// Why it can't be written.
    #[source]
    pub source: io::Error,
}

enum Message {
    Line(Line),
    Packet(Box<Logged>),
    Reopen,
}

/// What is counted.
#[derive(Debug, Default)]
struct Counts {
    /// Written.
    written: AtomicU64,
    /// Found no room, or couldn't be written.
    lost: AtomicU64,
    /// Bytes of packets in the queue.
    waiting: AtomicUsize,
}

impl Counts {
    fn lose(&self, n: u64) {
        self.lost.fetch_add(n, Ordering::Relaxed);
    }
}

/// The way to the sinks.
#[derive(Debug)]
pub struct Sinks {
    queue: SyncSender<Message>,
    counts: Arc<Counts>,
    ended: Receiver<()>,
    groups: Groups,
}

/// How much was logged and how much was lost; stays after the sinks have ended.
#[derive(Clone, Debug)]
pub struct Tally(Arc<Counts>);

impl Tally {
    /// Lines and packets that were written.
    pub fn written(&self) -> u64 {
        self.0.written.load(Ordering::Relaxed)
    }

    /// Lines and packets that found no room or couldn't be written.
    pub fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }
}

impl Sinks {
    /// Opens what the configuration names and starts the writer.
    pub fn open(config: &config::Log) -> Result<Self, LogError> {
        let named = |path: &PathBuf, source| LogError { path: path.clone(), source };
        let text = match &config.to {
            LogTo::Stderr => Text::Stderr,
            LogTo::Syslog(path) => Text::syslog(path.clone()),
            LogTo::File(path) => Text::file(path.clone()).map_err(|e| named(path, e))?,
        };
        let mut captures = BTreeMap::new();
        for (group, path) in &config.nflog {
            let capture = Capture::open(path.clone()).map_err(|e| named(path, e))?;
            captures.insert(*group, capture);
        }
        let groups = match captures.contains_key(&None) {
            true => Groups::All,
            false if captures.is_empty() => Groups::None,
            false => Groups::Some(captures.keys().flatten().copied().collect()),
        };
        let counts = Arc::new(Counts::default());
        let (queue, messages) = mpsc::sync_channel(QUEUE);
        let (end, ended) = mpsc::channel();
        let writer = Writer { text, captures, counts: counts.clone(), told: 0, told_at: None };
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || {
                writer.run(&messages);
                drop(end);
            })
            .map_err(|source| LogError { path: PathBuf::from("-"), source })?;
        Ok(Self { queue, counts, ended, groups })
    }

    /// The groups of NFLOG that are written to a file.
    pub fn groups(&self) -> &Groups {
        &self.groups
    }

    /// Hands over what the engine has for the log. Never waits.
    pub fn take(&self, waiting: Waiting) {
        self.counts.lose(waiting.lost);
        for line in waiting.lines {
            self.send(Message::Line(line));
        }
        for packet in waiting.packets {
            let len = packet.bytes.len();
            if self.counts.waiting.load(Ordering::Relaxed) + len > QUEUE_BYTES {
                self.counts.lose(1);
                continue;
            }
            self.counts.waiting.fetch_add(len, Ordering::Relaxed);
            if !self.send(Message::Packet(Box::new(packet))) {
                self.counts.waiting.fetch_sub(len, Ordering::Relaxed);
            }
        }
    }

    /// Opens the files again, after logrotate has moved them.
    pub fn reopen(&self) {
        // A queue that is full holds older lines, which belong into the older file; the next reload
        // opens the new one.
        if !self.send(Message::Reopen) {
            tracing::warn!("the log is too busy to open its files again");
        }
    }

    /// How much was logged and lost.
    pub fn tally(&self) -> Tally {
        Tally(self.counts.clone())
    }

    /// Writes what is left, if that can be done soon.
    pub fn end(self) {
        let Self { queue, ended, .. } = self;
        drop(queue);
        if matches!(ended.recv_timeout(PATIENCE), Err(RecvTimeoutError::Timeout)) {
            tracing::warn!("the last log lines weren't taken in time");
        }
    }

    fn send(&self, message: Message) -> bool {
        let reopen = matches!(message, Message::Reopen);
        match self.queue.try_send(message) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.counts.lose(u64::from(!reopen));
                false
            }
        }
    }
}

/// The thread that writes.
struct Writer {
    text: Text,
    captures: BTreeMap<Option<u16>, Capture>,
    counts: Arc<Counts>,
    /// Losses that the log has been told of, and when.
    told: u64,
    told_at: Option<Instant>,
}

impl Writer {
    fn run(mut self, messages: &Receiver<Message>) {
        loop {
            let first = match messages.recv_timeout(self.next_flush()) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            for message in first.into_iter().chain(messages.try_iter().take(BATCH)) {
                self.write(message);
            }
            self.tell_losses(false);
            self.flush(false);
        }
        self.tell_losses(true);
        self.flush(true);
    }

    fn write(&mut self, message: Message) {
        let result = match message {
            Message::Line(line) => self.text.write(&line),
            Message::Packet(packet) => {
                self.counts.waiting.fetch_sub(packet.bytes.len(), Ordering::Relaxed);
                let capture = match self.captures.contains_key(&Some(packet.group)) {
                    true => self.captures.get_mut(&Some(packet.group)),
                    false => self.captures.get_mut(&None),
                };
                capture.map_or(Ok(()), |capture| capture.write(&packet))
            }
            Message::Reopen => return self.reopen(),
        };
        match result {
            Ok(()) => {
                self.counts.written.fetch_add(1, Ordering::Relaxed);
            }
            Err(()) => self.counts.lose(1),
        }
    }

    fn reopen(&mut self) {
        self.flush(true);
        if let Err((path, error)) = self.text.reopen() {
            tracing::error!(path = %path.display(), %error, "the log can't be opened again");
        }
        for capture in self.captures.values_mut() {
            if let Err(error) = capture.reopen() {
                let path = capture.path().display();
                tracing::error!(%path, %error, "the log can't be opened again");
            }
        }
    }

    /// Says what was lost, once a second at most while it goes on.
    fn tell_losses(&mut self, last: bool) {
        let lost = self.counts.lost.load(Ordering::Relaxed);
        let soon = self.told_at.is_some_and(|at| at.elapsed() < TELL);
        if lost == self.told || soon && !last {
            return;
        }
        let n = lost - self.told;
        let s = if n == 1 { "" } else { "s" };
        let text = format!("tidegate: {n} log message{s} lost");
        // A sink that can't be written to can't be told either.
        let _ = self.text.write(&Line { level: WARNING, text });
        self.told = lost;
        self.told_at = Some(Instant::now());
    }

    fn flush(&mut self, all: bool) {
        if let Err(n) = self.text.flush() {
            self.counts.lose(n);
        }
        for capture in self.captures.values_mut() {
            if let Err(n) = capture.flush(all) {
                self.counts.lose(n);
            }
        }
    }

    fn next_flush(&self) -> Duration {
        let due = self.captures.values().filter_map(Capture::due);
        let now = Instant::now();
        let wait = due.map(|at| at.saturating_duration_since(now)).min();
        let told = self.counts.lost.load(Ordering::Relaxed) == self.told;
        let most = if told { Duration::from_secs(3600) } else { TELL };
        wait.map_or(most, |wait| wait.min(most))
    }
}

#[cfg(test)]
mod tests;
