//! The original programs in a namespace of their own, asked for what they make of a corpus.

// Each test binary uses its part.
#![allow(dead_code)]

use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// Every table empty, every policy ACCEPT: iptables-restore keeps a policy that isn't mentioned.
pub const RESET: &str = "\
*raw\n:PREROUTING ACCEPT\n:OUTPUT ACCEPT\nCOMMIT\n\
*mangle\n:PREROUTING ACCEPT\n:INPUT ACCEPT\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\n:POSTROUTING ACCEPT\nCOMMIT\n\
*nat\n:PREROUTING ACCEPT\n:INPUT ACCEPT\n:OUTPUT ACCEPT\n:POSTROUTING ACCEPT\nCOMMIT\n\
*filter\n:INPUT ACCEPT\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\nCOMMIT\n\
*security\n:INPUT ACCEPT\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\nCOMMIT\n";

/// What a command gave.
#[derive(Debug, PartialEq, Eq)]
pub struct Ran {
    pub status: u8,
    pub out: String,
    pub err: String,
}

/// A line of a corpus of commands: words, quoted as for a shell; behind `<<` the input, `\n` for a
/// line end. `~` before it: the words of the error are our own, status and output are compared.
#[derive(Clone, Debug)]
pub struct Line {
    pub words: Vec<String>,
    pub input: String,
    pub own_words: bool,
}

impl Line {
    pub fn parse(line: &str, quote: char) -> Self {
        let (line, own_words) = match line.strip_prefix('~') {
            Some(line) => (line, true),
            None => (line, false),
        };
        let (line, input) = line.split_once("<<").unwrap_or((line, ""));
        let mut words = Vec::new();
        for (n, part) in line.split(quote).enumerate() {
            match n % 2 {
                0 => words.extend(part.split_whitespace().map(str::to_owned)),
                _ => words.push(part.to_owned()),
            }
        }
        Self { words, input: input.replace("\\n", "\n"), own_words }
    }
}

/// A file of the corpus.
pub fn corpus(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(file);
    std::fs::read_to_string(path).unwrap()
}

/// The lines of a text that aren't comments.
pub fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// A command line for the shell.
pub fn quoted(program: &str, args: &[String]) -> String {
    let quote = |word: &String| format!(" '{}'", word.replace('\'', r"'\''"));
    args.iter().map(quote).fold(program.to_owned(), |line, word| line + &word)
}

/// Where the original programs run.
#[derive(Copy, Clone)]
pub struct Oracle {
    /// How a namespace is to be had: as root, or as an ordinary user.
    flags: &'static str,
}

impl Oracle {
    /// iptables-legacy, or a loud skip.
    pub fn iptables() -> Option<Self> {
        let probe = "iptables-legacy-save -t filter && ip6tables-legacy-save -t filter";
        Self::of("iptables-legacy", "iptables", probe)
    }

    /// ipset, or a loud skip.
    pub fn ipset() -> Option<Self> {
        Self::of("ipset", "ipset", "ipset create try hash:ip")
    }

    fn of(program: &str, package: &str, probe: &str) -> Option<Self> {
        let works = |oracle: &Self| {
            let folder = oracle.folder();
            let mut command = folder.command(probe);
            command.stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        };
        let found = ["-n", "-rn"].map(|flags| Self { flags }).into_iter().find(works);
        if found.is_none() {
            assert!(
                std::env::var_os("TIDEGATE_FORBID_SKIP").is_none_or(|v| v != "1"),
                "{program} is not usable here, and TIDEGATE_FORBID_SKIP=1 forbids to skip"
            );
            eprintln!(
                "SKIPPED: no {program} (Debian: apt-get install {package}), or no namespaces"
            );
        }
        found
    }

    /// An empty folder to run scripts in.
    pub fn folder(self) -> Folder {
        Folder { flags: self.flags, dir: tempfile::tempdir().unwrap() }
    }

    /// Runs command lines, each with its input, in one namespace.
    pub fn run(self, before: &str, commands: &[(String, &str)]) -> Vec<Ran> {
        let folder = self.folder();
        let mut script = before.to_owned();
        for (n, (line, input)) in commands.iter().enumerate() {
            folder.write(&format!("{n}.in"), input);
            script += &format!("{line} <{n}.in >{n}.out 2>{n}.err; echo $? >{n}.rc\n");
        }
        folder.script(&script);
        let read = |n: usize, what: &str| folder.read(&format!("{n}.{what}")).unwrap();
        let ran = |n| Ran {
            status: read(n, "rc").trim().parse().unwrap(),
            out: read(n, "out"),
            err: read(n, "err"),
        };
        (0..commands.len()).map(ran).collect()
    }
}

/// A folder for what goes in and comes out.
pub struct Folder {
    flags: &'static str,
    dir: TempDir,
}

impl Folder {
    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.dir.path().join(name), text).unwrap();
    }

    /// A file's text, if it is there.
    pub fn read(&self, name: &str) -> Option<String> {
        let mut bytes = std::fs::read(self.dir.path().join(name)).ok()?;
        // iptables lists a program of BPF with the zero byte behind it.
        bytes.retain(|byte| *byte != 0);
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// A shell with this script, in the folder and in a fresh namespace.
    pub fn command(&self, script: &str) -> Command {
        let mut command = Command::new("unshare");
        command.args([self.flags, "sh", "-c", script]).current_dir(self.dir.path());
        // Users may not write to /run, where iptables' lock is.
        command.env("XTABLES_LOCKFILE", self.dir.path().join("lock")).env("LC_ALL", "C");
        command
    }

    /// Runs a script of any length, which has to succeed.
    pub fn script(&self, script: &str) {
        self.write("run.sh", script);
        let status = self.command("sh run.sh").status().unwrap();
        assert!(status.success(), "the oracle's script failed");
    }
}

/// The sections of a saved text by table, without comments. Those that hold nothing but untouched
/// built-in chains are left out: the oracle's namespace has met all tables before.
pub fn sections(saved: &str) -> Vec<String> {
    let mut sections: Vec<String> = Vec::new();
    for line in saved.lines().filter(|l| !l.starts_with('#')) {
        if line.starts_with('*') {
            sections.push(String::new());
        }
        match sections.last_mut() {
            Some(section) => *section += &format!("{line}\n"),
            None => sections.push(format!("{line}\n")),
        }
    }
    let untouched =
        |line: &str| line.starts_with('*') || line == "COMMIT" || line.ends_with(" ACCEPT [0:0]");
    sections.retain(|s| !s.lines().all(untouched));
    sections.sort();
    sections
}
