//! What rules write into the log, compared with the kernel's.
//!
//! The cases of `tests/corpus/log/` are played as the others are; here the lines of LOG and TRACE
//! are compared. The kernel writes them into its ring buffer for all namespaces together, so every
//! interface has a name that no other run uses, by which its lines are known; that is taken off again
//! before they are compared. `<N>` in front is the level.

use crate::case::{self, Action, Case};
use crate::{kernel, tidegate};
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Makes the kernel log for every namespace, and gives the setting back.
const ALL_NAMESPACES: &str = "/proc/sys/net/netfilter/nf_log_all_netns";
const INTERFACES: [&str; 3] = ["eth0", "eth1", "ppp0"];

/// The cases, each with names of its own for the interfaces.
pub fn cases() -> Result<Vec<Case>, String> {
    let mut cases = case::load_all(Path::new("tests/corpus/log"))?;
    for (number, case) in cases.iter_mut().enumerate() {
        case.name = format!("log_{}", case.name);
        let tag = format!("_{:x}_{number:x}_", std::process::id());
        for rules in [&mut case.settings.rules4, &mut case.settings.rules6] {
            for name in INTERFACES {
                *rules = rules.replace(name, &format!("{name}{tag}"));
            }
        }
        for step in &mut case.steps {
            if let Action::Inject { interface, .. } | Action::Learn { interface, .. } =
                &mut step.action
            {
                interface.push_str(&tag);
            }
        }
        case.settings.tag = tag;
    }
    Ok(cases)
}

/// Whether this machine's kernel can be asked, else why not.
pub fn available() -> Result<(), String> {
    ring()?;
    let setting = OpenOptions::new().write(true).open(ALL_NAMESPACES);
    setting.map(drop).map_err(|e| format!("{ALL_NAMESPACES}: {e}"))
}

/// Keeps the kernel logging for all namespaces. One process at a time has it, so that the setting it
/// finds is that of the machine.
struct Logging {
    before: String,
    _turn: Flock<File>,
}

impl Logging {
    fn begin() -> Result<Self, String> {
        let path = std::env::temp_dir().join("tidegate-log-oracle.lock");
        let file = File::create(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let turn = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| e.to_string())?;
        let failed = |e: io::Error| format!("{ALL_NAMESPACES}: {e}");
        let before = fs::read_to_string(ALL_NAMESPACES).map_err(failed)?;
        fs::write(ALL_NAMESPACES, "1").map_err(failed)?;
        Ok(Self { before, _turn: turn })
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        let _ = fs::write(ALL_NAMESPACES, &self.before);
    }
}

/// The kernel's ring buffer from here on.
fn ring() -> Result<File, String> {
    let path = "/dev/kmsg";
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let mut file = file.map_err(|e| format!("{path}: {e}"))?;
    file.seek(SeekFrom::End(0)).map_err(|e| format!("{path}: {e}"))?;
    Ok(file)
}

/// The lines of a run in the kernel. The ring is small and everybody writes into it, so it is read
/// while they do, and what was overwritten all the same is played again.
fn kernel_lines(case: &Case) -> Result<Vec<String>, String> {
    // One at a time, to leave room in the ring.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let _logging = Logging::begin()?;
    for _ in 0..20 {
        let ring = ring()?;
        let done = AtomicBool::new(false);
        let (played, lines) = std::thread::scope(|scope| {
            let reader = scope.spawn(|| read_lines(ring, &case.settings.tag, &done));
            let played = kernel::transcript(case, false);
            done.store(true, Ordering::Release);
            (played, reader.join())
        });
        played?;
        match lines.map_err(|_| "the reader of /dev/kmsg panicked".to_owned())? {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {}
            lines => return lines.map_err(|e| format!("/dev/kmsg: {e}")),
        }
    }
    Err("/dev/kmsg: lines are overwritten faster than they can be read".to_owned())
}

fn read_lines(mut ring: File, tag: &str, done: &AtomicBool) -> io::Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut record = vec![0; 8192];
    loop {
        // What was written before the end is in the ring when the end is seen.
        let last = done.load(Ordering::Acquire);
        loop {
            match ring.read(&mut record) {
                Ok(0) => break,
                Ok(n) => lines.extend(line(&String::from_utf8_lossy(&record[..n]), tag)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
        }
        if last {
            return Ok(lines);
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// A record of the ring, if it is one of ours: `PRIORITY,SEQUENCE,TIME,FLAGS;TEXT`.
fn line(record: &str, tag: &str) -> Option<String> {
    let (head, text) = record.split_once(';')?;
    let text = text.lines().next().filter(|text| text.contains(tag))?;
    let priority: u32 = head.split(',').next()?.parse().ok()?;
    Some(plain(priority & 7, text, tag))
}

/// Without what differs from run to run: the names' ends, and the identification of packets that
/// the gateway makes itself.
fn plain(level: u32, text: &str, tag: &str) -> String {
    let text = text.replace(tag, "");
    let own = text.contains("IN= OUT=");
    let text: Vec<&str> = match (text.find(" ID=").filter(|_| own), own) {
        (Some(at), _) => {
            let rest = &text[at + 4..];
            vec![&text[..at], " ID=*", &rest[rest.find(' ').unwrap_or(rest.len())..]]
        }
        (None, _) => vec![&text],
    };
    format!("<{level}>{}", text.concat())
}

fn golden(case: &Case) -> PathBuf {
    let name = case.name.trim_start_matches("log_");
    case.file.with_file_name("golden").join(format!("{name}.log"))
}

/// Plays a case and compares the lines: with the kernel's, or with those that were recorded.
pub fn run(case: &Case, ask: bool) -> Result<(), String> {
    let path = golden(case);
    let wanted = match ask {
        true => kernel_lines(case)?,
        false => fs::read_to_string(&path)
            .map_err(|e| format!("{}: {e}; run with TIDEGATE_BLESS=1", path.display()))?
            .lines()
            .map(str::to_owned)
            .collect(),
    };
    if ask && std::env::var_os("TIDEGATE_BLESS").is_some() {
        let text = wanted.iter().map(|line| format!("{line}\n")).collect::<String>();
        fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    if wanted.is_empty() {
        return Err("nothing was logged".to_owned());
    }
    let lines = tidegate::lines(case)?;
    let tag = &case.settings.tag;
    let got: Vec<String> =
        lines.iter().map(|line| plain(u32::from(line.level), &line.text, tag)).collect();
    let mut report = String::new();
    for n in 0..wanted.len().max(got.len()) {
        let (kernel, tidegate) = (wanted.get(n), got.get(n));
        if kernel != tidegate {
            let shown = |line: Option<&String>| line.map_or("nothing".to_owned(), |l| l.clone());
            report += &format!(
                "line {}\n  kernel   {}|\n  tidegate {}|\n",
                n + 1,
                shown(kernel),
                shown(tidegate)
            );
        }
    }
    if report.is_empty() { Ok(()) } else { Err(format!("{}\n{report}", case.about)) }
}
