//! The same commands for the real ipset in a namespace and for [`Sets::call`] here: output, exit
//! status, words, and the sets afterwards have to be equal.
//!
//! `corpus/ipset.txt` has sequences, `%%` between them. A line is the arguments of `ipset`, quoted
//! as for a shell; behind `<<` stands what `restore` reads, `\n` for a line end. `~` before a
//! command: the words of the error are our own, status and output are compared.
//!
//! What depends on the kernel's memory is left out: the size, the seed of the hash, and how much of
//! a second has passed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tidegate_filter::Sets;
use tidegate_packet::Instant;

/// What a command gave.
#[derive(Debug, PartialEq, Eq)]
struct Ran {
    status: u8,
    out: String,
    err: String,
}

#[derive(Clone, Debug)]
struct Step {
    args: Vec<String>,
    input: String,
    own_words: bool,
}

fn step(line: &str) -> Step {
    let (line, own_words) = match line.strip_prefix('~') {
        Some(line) => (line, true),
        None => (line, false),
    };
    let (line, input) = line.split_once("<<").unwrap_or((line, ""));
    Step { args: words(line), input: input.replace("\\n", "\n"), own_words }
}

/// Words with single quotes around some.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (n, part) in line.split('\'').enumerate() {
        match n % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_owned)),
            _ => words.push(part.to_owned()),
        }
    }
    words
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The namespace, or a loud skip.
fn namespace() -> Option<&'static str> {
    let works = |flags: &&&str| {
        let mut command = unshare(flags);
        command.args(["ipset", "create", "try", "hash:ip"]).stdout(Stdio::null());
        command.stderr(Stdio::null()).status().is_ok_and(|s| s.success())
    };
    let found = ["-n", "-rn"].iter().find(works).copied();
    if found.is_none() {
        assert!(
            std::env::var_os("TIDEGATE_FORBID_SKIP").is_none_or(|v| v != "1"),
            "ipset is not usable here, and TIDEGATE_FORBID_SKIP=1 forbids to skip"
        );
        eprintln!("SKIPPED: no ipset (Debian: apt-get install ipset), or no namespaces");
    }
    found
}

fn unshare(flags: &str) -> Command {
    let mut command = Command::new("unshare");
    command.arg(flags).env("LC_ALL", "C");
    command
}

/// Runs the steps in a fresh namespace.
fn ask(flags: &str, folder: &Path, steps: &[Step]) -> Vec<Ran> {
    let mut script = String::new();
    for (n, step) in steps.iter().enumerate() {
        std::fs::write(folder.join(format!("{n}.in")), &step.input).unwrap();
        let args: Vec<_> = step.args.iter().map(|a| quoted(a)).collect();
        script +=
            &format!("ipset {} <{n}.in >{n}.out 2>{n}.err; echo $? >{n}.rc\n", args.join(" "));
    }
    std::fs::write(folder.join("run.sh"), script).unwrap();
    let status = unshare(flags).args(["sh", "run.sh"]).current_dir(folder).status().unwrap();
    assert!(status.success());
    let read = |n: usize, what: &str| {
        let bytes = std::fs::read(folder.join(format!("{n}.{what}"))).unwrap();
        String::from_utf8(bytes).unwrap()
    };
    let ran = |n| Ran {
        status: read(n, "rc").trim().parse().unwrap(),
        out: settled(&read(n, "out")),
        err: read(n, "err"),
    };
    (0..steps.len()).map(ran).collect()
}

/// A folder that is removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("ipset-oracle-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The lines of one that aren't among those of the other.
fn difference(theirs: &Ran, ours: &Ran) -> String {
    let text = |ran: &Ran| format!("status {}\n{}{}", ran.status, ran.out, ran.err);
    let (theirs, ours) = (text(theirs), text(ours));
    let only = |sign: char, of: &str, other: &str| -> String {
        let other: Vec<_> = other.lines().collect();
        let lines = of.lines().filter(|line| !other.contains(line));
        lines.map(|line| format!("  {sign} {line}\n")).collect()
    };
    only('-', &theirs, &ours) + &only('+', &ours, &theirs)
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    lines
}

/// A text without what can't be the same.
fn settled(text: &str) -> String {
    let line = |line: &str| {
        let mut line = line.to_owned();
        if line.starts_with("Size in memory") || line.starts_with("<memsize>") {
            return String::new();
        }
        line = without(&line, "initval 0x", "");
        line = without(&line, "<initval>0x", "");
        if !line.starts_with("create") && !line.starts_with("Header") && !line.contains("header>") {
            line = without(&line, " timeout ", "0");
            line = without(&line, "<timeout>", "0");
        }
        line + "\n"
    };
    text.lines().map(line).collect()
}

/// Leaves out the value behind a mark, unless it is `keep`.
fn without(line: &str, mark: &str, keep: &str) -> String {
    let Some(at) = line.find(mark).map(|at| at + mark.len()) else { return line.to_owned() };
    let len = line[at..].find([' ', '<']).unwrap_or(line.len() - at);
    match &line[at..at + len] == keep {
        true => line.to_owned(),
        false => format!("{}N{}", &line[..at], &line[at + len..]),
    }
}

/// What to look at when a sequence is over.
const AFTER: [&str; 3] = ["save -s", "list -s", "-o xml list -sorted"];

#[test]
fn commands_do_what_ipset_does() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/ipset.txt");
    let text = std::fs::read_to_string(path).unwrap();
    let Some(flags) = namespace() else { return };
    let mut wrong = Vec::new();
    let mut count = 0;
    let folder = Folder::new();
    for sequence in text.split("%%\n") {
        let lines = sequence.lines().filter(|l| !l.is_empty() && !l.starts_with('#'));
        let steps: Vec<Step> = lines.chain(AFTER).map(step).collect();
        let theirs = ask(flags, &folder.0, &steps);
        let sets = Sets::new();
        for (n, (step, theirs)) in steps.iter().zip(theirs).enumerate() {
            count += 1;
            let now = Instant::ZERO + Duration::from_millis(n as u64);
            let answer = sets.call(&step.args, &step.input, now);
            let (status, err) = (answer.status, answer.err);
            let ours = Ran { status, out: settled(&answer.out), err };
            // The order of a hash is its own; the words of the help are ours.
            let is = |words: &[&str]| step.args.iter().any(|a| words.contains(&a.as_str()));
            let ordered = is(&["-s", "-sorted"]) && !is(&["xml"]);
            let same_out = step.args[0] == "help"
                || ours.out == theirs.out
                || !ordered && sorted(&ours.out) == sorted(&theirs.out);
            let same_err = step.own_words || ours.err == theirs.err;
            if !(same_err && ours.status == theirs.status && same_out) {
                let command = step.args.join(" ");
                wrong.push(format!("ipset {command}\n{}", difference(&theirs, &ours)));
            }
        }
    }
    assert!(count > 200, "the corpus is there");
    assert!(wrong.is_empty(), "{} of {count} differ:\n{}", wrong.len(), wrong.join("\n"));
}
