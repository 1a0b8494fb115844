//! A shell in a room of its own, for programs that edit rules.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use tempfile::TempDir;
use tidegate::lab::netns::Netns;

use super::harness::{Gateway, Outcome, Tried, run, text};

/// Where the names of a room lead.
pub enum Names<'a> {
    /// To the kernel of the namespace, by Debian's `iptables-legacy`.
    Kernel,
    /// To this gateway.
    Gateway(&'a Gateway),
}

/// A shell whose `iptables` is the gateway's, or the kernel's.
pub struct Room {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    work: TempDir,
}

/// What a line gave.
#[derive(Debug, PartialEq, Eq)]
pub struct Done {
    pub line: String,
    pub status: i32,
    pub out: String,
}

const LEGACY: &str = "/usr/sbin/xtables-legacy-multi";

impl Room {
    pub fn new(namespace: &Netns, names: Names<'_>) -> Tried<Self> {
        let work = tempfile::tempdir()?;
        let folder = work.path().join("names");
        fs::create_dir(&folder)?;
        let made = run(namespace, &["install-names", &folder.to_string_lossy()])?;
        assert!(made.status.success(), "{}", text(&made.stderr));
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/room.sh");
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh"]).arg(script).arg(&folder).arg(work.path());
        match names {
            Names::Kernel => lead_to_the_kernel(&folder)?,
            Names::Gateway(gateway) => _ = command.env("TIDEGATE_CONTROL", gateway.control()),
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = namespace.run(|| command.spawn())?;
        let output = BufReader::new(child.stdout.take().ok_or("no output")?);
        let input = child.stdin.take();
        let mut room = Self { child, input, output, work };
        let (_, status) = room.answer()?;
        assert_eq!(status, "ready");
        Ok(room)
    }

    /// A file that lines can read as `$WORK/NAME`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }

    /// Runs a line.
    pub fn run(&mut self, line: &str) -> Tried<Done> {
        let input = self.input.as_mut().ok_or("the room is closed")?;
        writeln!(input, "{line}")?;
        input.flush()?;
        let (out, status) = self.answer()?;
        Ok(Done { line: line.to_owned(), status: status.parse()?, out })
    }

    /// Runs a line that has to do well, and gives what it writes.
    pub fn done(&mut self, line: &str) -> Tried<String> {
        match self.run(line)? {
            Done { status: 0, out, .. } => Ok(out),
            other => Err(format!("{}: {}\n{}", other.line, other.status, other.out).into()),
        }
    }

    /// Whether the name is among those that lead somewhere.
    pub fn has_name(&self, name: &str) -> bool {
        self.path("names").join(name).exists()
    }

    /// The calls of the names so far, with their exit statuses.
    pub fn calls(&self) -> String {
        fs::read_to_string(self.path("calls")).unwrap_or_default()
    }

    /// Rules of both families without comments and counters.
    pub fn rules(&mut self) -> Tried<String> {
        Ok(settled(&self.done("iptables-save; ip6tables-save")?))
    }

    /// What is written before the next \001, and what stands behind that.
    fn answer(&mut self) -> Tried<(String, String)> {
        let mut out = Vec::new();
        self.output.read_until(1, &mut out)?;
        if out.pop() != Some(1) {
            return Err(format!("the room is gone\n{}", text(&out)).into());
        }
        let mut status = String::new();
        self.output.read_line(&mut status)?;
        Ok((text(&out), status.trim_end().to_owned()))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.child.wait();
    }
}

/// Gives the kernel the rules that the gateway was started with.
pub fn same_start(room: &mut Room, rules: &str) -> Outcome {
    fs::write(room.path("rules"), rules)?;
    room.done("iptables-restore <rules; ip6tables-restore <rules; rm calls")?;
    Ok(())
}

fn lead_to_the_kernel(folder: &Path) -> Outcome {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        fs::remove_file(&path)?;
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let own = Path::new("/usr/sbin").join(name);
        let to = if name.contains("tables") { Path::new(LEGACY) } else { &own };
        std::os::unix::fs::symlink(to, &path)?;
    }
    Ok(())
}

/// A saved text without what differs from run to run; tables in a fixed order, and those that hold
/// nothing left out, which are there or not by the kernel's history.
pub fn settled(saved: &str) -> String {
    let mut sections: Vec<String> = Vec::new();
    let mut family = 0;
    for line in saved.lines() {
        if line.starts_with("# Generated by ip6tables") {
            family = 6;
        }
        if line.starts_with('#') {
            continue;
        }
        let line = match line.strip_prefix(':').and_then(|l| l.split_once(" [")) {
            Some((chain, _)) => format!(":{chain}"),
            None => line.to_owned(),
        };
        if line.starts_with('*') {
            sections.push(format!("{family}"));
        }
        if let Some(section) = sections.last_mut() {
            *section += &format!("{line}\n");
        }
    }
    let empty = |line: &str| {
        line.contains('*') || line == "COMMIT" || line.starts_with(':') && line.ends_with(" ACCEPT")
    };
    sections.retain(|section| !section.lines().all(empty));
    sections.sort();
    sections.concat()
}
