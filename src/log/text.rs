//! Sinks for lines.

use crate::engine::log::Line;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A sink that fails is tried again after this time, and complained of as often.
const RETRY: Duration = Duration::from_secs(1);
const TAG: &str = "tidegate";

/// Where lines go.
pub(super) enum Text {
    /// Standard error, with the level in the form that journald understands (sd-daemon(3)).
    Stderr,
    /// A syslog daemon's socket.
    Syslog { path: PathBuf, socket: Option<UnixDatagram>, failed: Failed },
    /// A file, in the form of /var/log/kern.log.
    File { path: PathBuf, file: File, host: String, held: String, lines: u64, failed: Failed },
}

/// When a sink failed last.
#[derive(Default)]
pub(super) struct Failed(Option<Instant>);

impl Failed {
    fn recently(&self) -> bool {
        self.0.is_some_and(|at| at.elapsed() < RETRY)
    }

    fn complain(&mut self, path: &Path, error: &io::Error) {
        if !self.recently() {
            tracing::error!(path = %path.display(), %error, "the log can't be written");
        }
        self.0 = Some(Instant::now());
    }
}

impl Text {
    pub fn syslog(path: PathBuf) -> Self {
        Self::Syslog { path, socket: None, failed: Failed::default() }
    }

    pub fn file(path: PathBuf) -> io::Result<Self> {
        let file = open(&path)?;
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        // The kernel's name of a host may be a whole domain; log files have its first part.
        let host = host.trim().split('.').next().unwrap_or_default().to_owned();
        let (held, failed) = (String::new(), Failed::default());
        Ok(Self::File { path, file, host, held, lines: 0, failed })
    }

    /// Takes a line; an error means that it is lost.
    pub fn write(&mut self, line: &Line) -> Result<(), ()> {
        // A rule's prefix must not make two lines of one.
        let text = line.text.replace(char::is_control, "?");
        let level = line.level;
        match self {
            Self::Stderr => {
                let text = format!("<{level}>{text}\n");
                io::stderr().lock().write_all(text.as_bytes()).map_err(drop)
            }
            Self::Syslog { path, socket, failed } => {
                // RFC 3164 section 4.1 without the host, as on a host's own socket. Facility 0 is the
                // kernel's, for which these lines stand.
                let text = format!("<{level}>{} {TAG}: {text}", stamp());
                if socket.is_none() && !failed.recently() {
                    *socket = connect(path).map_err(|error| failed.complain(path, &error)).ok();
                }
                let sent = socket.as_ref().ok_or(())?.send(text.as_bytes());
                sent.map(drop).map_err(|error| {
                    failed.complain(path, &error);
                    // A daemon that was restarted has a new socket.
                    *socket = None;
                })
            }
            Self::File { host, held, lines, .. } => {
                held.push_str(&format!("{} {host} {TAG}: {text}\n", stamp()));
                *lines += 1;
                Ok(())
            }
        }
    }

    /// Writes what is held back; an error tells how many lines are lost.
    pub fn flush(&mut self) -> Result<(), u64> {
        let Self::File { path, file, held, lines, failed, .. } = self else { return Ok(()) };
        if held.is_empty() {
            return Ok(());
        }
        let result = file.write_all(held.as_bytes());
        held.clear();
        let lines = std::mem::take(lines);
        result.map_err(|error| {
            failed.complain(path, &error);
            lines
        })
    }

    /// Opens the file again. If that fails the old one stays in use.
    pub fn reopen(&mut self) -> Result<(), (PathBuf, io::Error)> {
        match self {
            Self::Stderr => {}
            Self::Syslog { socket, failed, .. } => {
                *socket = None;
                *failed = Failed::default();
            }
            Self::File { path, file, .. } => {
                *file = open(path).map_err(|error| (path.clone(), error))?;
            }
        }
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    // A daemon that doesn't read must not keep the gateway from ending.
    socket.set_write_timeout(Some(RETRY))?;
    Ok(socket)
}

/// Such as `Nov  2 17:39:42`.
fn stamp() -> String {
    jiff::Zoned::now().strftime("%b %e %H:%M:%S").to_string()
}
