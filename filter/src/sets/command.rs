//! `ipset` as users and programs know it: its command line, outputs, words and exit statuses
//! (ipset 7).

use std::ops::Range;
use std::sync::Arc;

use tidegate_packet::Instant;

use super::change::Change;
use super::fault::{Class, Fault, Result};
use super::kind::Kind;
use super::list::{self, Mode, Style};
use super::{Set, Sets, create, help, no_set};
use crate::diagnostic::{Diagnostic, Problem};
use crate::lex::Word;

/// The version whose words these are.
const VERSION: &str = "v7.17";
/// `IPSET_MAXNAMELEN` less the final zero.
const MAX_NAME: usize = 31;
/// Mistakes in the command line.
const USAGE: u8 = 2;
const FAILED: u8 = 1;

/// What a run of `ipset` gives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Its exit status.
    pub status: u8,
    /// What it writes to standard output.
    pub out: String,
    /// And to standard error.
    pub err: String,
}

/// Files that `ipset` reads or writes, and whether it is standard input: whoever was called does
/// that, not the gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// It carries out the commands of a file.
    pub restores: bool,
    /// It asks for no sets (`help`, `version`).
    pub offline: bool,
    /// `-file`.
    pub file: Option<String>,
}

/// What arguments are about. Arguments that can't be read are about nothing; the answer says so.
pub fn files(args: &[String]) -> Files {
    let words = words(args);
    let Ok(call) = Call::read(&words) else { return Files::default() };
    let offline = matches!(call.command, Command::Help | Command::Version | Command::Quit);
    Files { restores: call.command == Command::Restore, offline, file: call.options.file }
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Create,
    Add,
    Del,
    Test,
    Destroy,
    List,
    Save,
    Restore,
    Flush,
    Rename,
    Swap,
    Help,
    Version,
    Quit,
}

/// Name, letter, how many words have to follow and how many more may.
type Known = (Command, &'static str, char, usize, usize);

const ANY: usize = usize::MAX;
const COMMANDS: [Known; 14] = [
    (Command::Create, "create", 'n', 2, ANY),
    (Command::Add, "add", 'a', 2, ANY),
    (Command::Del, "del", 'd', 2, ANY),
    (Command::Test, "test", 't', 2, ANY),
    (Command::Destroy, "destroy", 'x', 0, 1),
    (Command::List, "list", 'l', 0, 1),
    (Command::Save, "save", 's', 0, 1),
    (Command::Restore, "restore", 'r', 0, 0),
    (Command::Flush, "flush", 'f', 0, 1),
    (Command::Rename, "rename", 'e', 2, 0),
    (Command::Swap, "swap", 'w', 2, 0),
    (Command::Help, "help", 'h', 0, 1),
    (Command::Version, "version", 'v', 0, ANY),
    (Command::Quit, "quit", 'q', 0, ANY),
];

/// What may stand anywhere in a command.
#[derive(Clone, Debug, Default)]
struct Common {
    exist: bool,
    quiet: bool,
    style: Style,
    mode: Option<Mode>,
    file: Option<String>,
}

/// A command that was taken apart.
#[derive(Debug)]
struct Call<'w> {
    command: Command,
    name: &'static str,
    rest: Vec<Word<'w>>,
    options: Common,
}

/// Arguments as words, with the places that they have when blanks stand between them.
fn words(args: &[String]) -> Vec<Word<'_>> {
    let mut at = 0;
    let words = args.iter().map(|text| {
        let start = at;
        at += text.len() + 1;
        Word { text: text.into(), span: start..start + text.len(), quoted: false }
    });
    words.collect()
}

impl<'w> Call<'w> {
    fn read(words: &[Word<'w>]) -> Result<Self> {
        let mut options = Common::default();
        let mut rest = Vec::with_capacity(words.len());
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match common(&word.text).filter(|_| !word.quoted) {
                Some("exist") => options.exist = true,
                Some("quiet") => options.quiet = true,
                Some("name") => options.style.names = true,
                Some("terse") => options.style.terse = true,
                Some(name @ ("output" | "file")) => {
                    let value = words.next().ok_or_else(|| {
                        let what = format!("Missing mandatory argument to option {}", word.text);
                        Fault::usage(what).at(word)
                    })?;
                    match name {
                        "file" => options.file = Some(value.text.to_string()),
                        _ => options.mode = Some(mode(value)?),
                    }
                }
                // Entries are sorted as they are, and names of hosts aren't asked for.
                Some(_) => {}
                None => rest.push(word.clone()),
            }
        }
        let first = match rest.is_empty() {
            true => return Err(Fault::usage("No command specified.")),
            false => rest.remove(0),
        };
        let (command, name, _, needed, more) = command(&first.text).ok_or_else(|| {
            let what = format!("No command specified: unknown argument {}", first.text);
            Fault::usage(what).at(&first)
        })?;
        if rest.len() < needed {
            let nth = if rest.is_empty() { "" } else { "second " };
            let what = format!("Missing {nth}mandatory argument to command {name}");
            return Err(Fault::usage(what).at(&first));
        }
        if let Some(word) = rest.get(needed.saturating_add(more)) {
            return Err(Fault::usage(format!("Unknown argument {}", word.text)).at(word));
        }
        Ok(Self { command, name, rest, options })
    }
}

/// The long name of an option that any command may have.
fn common(text: &str) -> Option<&'static str> {
    const OPTIONS: [(&str, &str); 8] = [
        ("sorted", "s"),
        ("quiet", "q"),
        ("resolve", "r"),
        ("exist", "!"),
        ("name", "n"),
        ("terse", "t"),
        ("output", "o"),
        ("file", "f"),
    ];
    let text = text.strip_prefix('-')?;
    let text = text.strip_prefix('-').unwrap_or(text);
    OPTIONS.iter().find(|(long, short)| text == *long || text == *short).map(|(long, _)| *long)
}

fn mode(word: &Word) -> Result<Mode> {
    match &*word.text {
        "plain" => Ok(Mode::Plain),
        "save" => Ok(Mode::Save),
        "xml" => Ok(Mode::Xml),
        other => Err(Fault::syntax(format!("unknown output mode '{other}'")).at(word)),
    }
}

/// A command by its name, a beginning of it, or its letter: `-A`, `a`.
fn command(text: &str) -> Option<Known> {
    let bare = text.trim_start_matches('-');
    let mut chars = bare.chars();
    if let (Some(letter), None) = (chars.next(), chars.next()) {
        let dashed = text.len() == 2;
        let letter = match (dashed, letter) {
            (true, 'V') | (false, 'v') => 'v',
            (true, letter) => letter.to_ascii_lowercase(),
            (false, letter) => letter,
        };
        return COMMANDS.into_iter().find(|known| known.2 == letter);
    }
    COMMANDS.into_iter().find(|known| !bare.is_empty() && known.1.starts_with(bare))
}

/// Runs the program.
pub(super) fn run(sets: &Sets, args: &[String], input: &str, now: Instant) -> Answer {
    let mut answer = Answer::default();
    let words = words(args);
    let call = match Call::read(&words) {
        Ok(call) => call,
        Err(fault) => {
            let quiet = words.iter().any(|word| common(&word.text) == Some("quiet"));
            answer.fail(&fault, None, quiet);
            return answer;
        }
    };
    if call.command == Command::Restore {
        restore(sets, input, &call.options, now, &mut answer);
        return answer;
    }
    if let Err(fault) = execute(sets, &call, now, &mut answer) {
        answer.fail(&fault, None, call.options.quiet);
    }
    answer
}

impl Answer {
    fn fail(&mut self, fault: &Fault, line: Option<usize>, quiet: bool) {
        self.status = if fault.class == Class::Usage { USAGE } else { FAILED };
        if quiet {
            return;
        }
        let words = fault.words();
        self.err += &match (fault.class, line) {
            (Class::Usage, _) => {
                format!("ipset {VERSION}: {words}\nTry `ipset help' for more information.\n")
            }
            (_, Some(line)) => format!("ipset {VERSION}: Error in line {line}: {words}\n"),
            (_, None) => format!("ipset {VERSION}: {words}\n"),
        };
    }
}

/// Carries out the lines that `restore` reads, up to the first that is refused.
fn restore(sets: &Sets, input: &str, options: &Common, now: Instant, answer: &mut Answer) {
    for (n, (body, start)) in lines(input).enumerate() {
        let call = match read_line(body, start) {
            Ok(None) => continue,
            Ok(Some(call)) => call,
            Err(fault) => return answer.fail(&fault, Some(n + 1), options.quiet),
        };
        let call = Call {
            options: Common {
                exist: call.options.exist || options.exist,
                quiet: call.options.quiet || options.quiet,
                ..call.options
            },
            ..call
        };
        if let Err(fault) = execute(sets, &call, now, answer) {
            return answer.fail(&fault, Some(n + 1), call.options.quiet);
        }
        if answer.status != 0 {
            return;
        }
    }
}

/// Carries out all lines of a file that can be, and tells of the others with their places.
pub(super) fn load(
    sets: &Sets,
    text: &str,
    now: Instant,
) -> std::result::Result<(), Vec<Diagnostic>> {
    let mut problems = Vec::new();
    for (body, start) in lines(text) {
        let span: Range<usize> = start..start + body.len();
        let done = read_line(body, start).and_then(|call| match call {
            None => Ok(()),
            Some(Call { command, name, .. }) if !command.makes_sets() => {
                let what = format!("`{name}` has no place in a file of sets");
                Err(Fault::refused(what))
            }
            Some(call) => execute(sets, &call, now, &mut Answer::default()),
        });
        problems.extend(done.err().map(|fault| fault.problem(span)));
    }
    let problems: Vec<Problem> = problems;
    if problems.is_empty() { Ok(()) } else { Err(Diagnostic::all(text, problems)) }
}

impl Command {
    fn makes_sets(self) -> bool {
        matches!(
            self,
            Self::Create
                | Self::Add
                | Self::Del
                | Self::Destroy
                | Self::Flush
                | Self::Rename
                | Self::Swap
        )
    }
}

/// Lines without their ends, and where they start.
fn lines(text: &str) -> impl Iterator<Item = (&str, usize)> {
    let mut start = 0;
    text.split_inclusive('\n').map(move |line| {
        let at = start;
        start += line.len();
        (line.trim_end_matches(['\n', '\r']), at)
    })
}

/// A line of a file, unless there is nothing to do in it.
fn read_line(body: &str, start: usize) -> Result<Option<Call<'_>>> {
    let trimmed = body.trim_start();
    if trimmed.is_empty() || trimmed.starts_with('#') || trimmed == "COMMIT" {
        return Ok(None);
    }
    Call::read(&split(body, start)?).map(Some)
}

/// Splits a line at blanks; a double quote keeps what is up to the next one together.
fn split(line: &str, start: usize) -> Result<Vec<Word<'_>>> {
    let mut words = Vec::with_capacity(4);
    let mut at = 0;
    while let Some(skip) = line[at..].find(|c: char| !c.is_ascii_whitespace()) {
        at += skip;
        let rest = &line[at..];
        if let Some(inner) = rest.strip_prefix('"') {
            let end = inner.find('"').ok_or_else(|| {
                let mut fault = Fault::usage("Missing close quote!");
                fault.span = Some(start + at..start + line.len());
                fault
            })?;
            let span = start + at + 1..start + at + 1 + end;
            words.push(Word { text: inner[..end].into(), span, quoted: true });
            at += end + 2;
            continue;
        }
        let end = rest.find(|c: char| c.is_ascii_whitespace()).unwrap_or(rest.len());
        let span = start + at..start + at + end;
        words.push(Word { text: rest[..end].into(), span, quoted: false });
        at += end;
    }
    Ok(words)
}

fn checked_name<'a>(word: &'a Word<'_>) -> Result<&'a str> {
    if word.text.len() > MAX_NAME {
        let what = format!("setname '{}' is longer than {MAX_NAME} characters", word.text);
        return Err(Fault::syntax(what).at(word));
    }
    Ok(&word.text)
}

fn known(sets: &Sets, word: &Word) -> Result<Arc<Set>> {
    sets.get(checked_name(word)?).ok_or_else(|| no_set().at(word))
}

fn execute(sets: &Sets, call: &Call, now: Instant, answer: &mut Answer) -> Result<()> {
    let done = carry_out(sets, call, now, answer);
    // What is refused may have been done in part.
    if call.command.makes_sets() {
        sets.changed();
    }
    done
}

fn carry_out(sets: &Sets, call: &Call, now: Instant, answer: &mut Answer) -> Result<()> {
    let Call { command, rest, options, .. } = call;
    let two = || match rest.as_slice() {
        [from, to] => {
            checked_name(from)?;
            Ok((from, to, checked_name(to)?))
        }
        _ => Err(no_set()),
    };
    match command {
        Command::Create => create(sets, call, answer),
        Command::Add | Command::Del | Command::Test => {
            let [name, element, extras @ ..] = rest.as_slice() else { return Err(no_set()) };
            let set = known(sets, name)?;
            let change = Change { sets, set: &set, exist: options.exist, now };
            match command {
                Command::Add => change.add(element, extras),
                Command::Del => change.delete(element, extras),
                _ => {
                    let (found, text) = change.test(element, extras)?;
                    let name = &set.name;
                    answer.status = if found { 0 } else { FAILED };
                    match (found, options.quiet) {
                        (_, true) => {}
                        (true, _) => {
                            answer.err += &format!("Warning: {text} is in set {name}.\n");
                        }
                        (false, _) => answer.err += &format!("{text} is NOT in set {name}.\n"),
                    }
                    Ok(())
                }
            }
        }
        Command::Destroy => {
            let name = rest.first().map(checked_name).transpose()?;
            if options.exist && name.is_some_and(|name| sets.get(name).is_none()) {
                return Ok(());
            }
            sets.destroy(name).map_err(|fault| rest.first().map_or(fault.clone(), |w| fault.at(w)))
        }
        Command::Flush => {
            for set in those(sets, rest.first())? {
                set.write().content = super::content::Content::default();
            }
            Ok(())
        }
        Command::List | Command::Save => {
            let default = if *command == Command::Save { Mode::Save } else { Mode::Plain };
            let mode = options.mode.unwrap_or(default);
            let those = those(sets, rest.first())?;
            answer.out += &list::list(&those, mode, options.style, now);
            Ok(())
        }
        Command::Rename => {
            let (from, to_word, to) = two()?;
            sets.rename(&from.text, to).map_err(|fault| fault.at(to_word))
        }
        Command::Swap => {
            let (from, to_word, to) = two()?;
            sets.swap(&from.text, to).map_err(|fault| fault.at(to_word))
        }
        Command::Help => explain(rest.first(), answer),
        Command::Version => {
            answer.out += &format!("ipset {VERSION}, protocol version: 7\n");
            Ok(())
        }
        Command::Restore => Err(Fault::refused("restore can't be nested")),
        Command::Quit => Ok(()),
    }
}

/// The named set, or all.
fn those(sets: &Sets, name: Option<&Word>) -> Result<Vec<Arc<Set>>> {
    match name {
        Some(name) => Ok(vec![known(sets, name)?]),
        None => Ok(sets.all()),
    }
}

fn create(sets: &Sets, call: &Call, answer: &mut Answer) -> Result<()> {
    let [name, kind_word, words @ ..] = call.rest.as_slice() else { return Err(no_set()) };
    let name_text = checked_name(name)?;
    let kind = Kind::named(&kind_word.text).ok_or_else(|| {
        Fault::syntax(format!("typename '{}' is unknown", kind_word.text)).at(kind_word)
    })?;
    let (body, ignored) =
        create::body(name_text, kind, words).map_err(|fault| fault.at(kind_word))?;
    if !ignored.is_empty() && !call.options.quiet {
        let tell = |o: &String| format!("Option '{o}' is ignored. Please upgrade your syntax.\n");
        answer.err += "Warning: ";
        answer.err += &ignored.iter().map(tell).collect::<String>();
    }
    sets.create(name_text, body, call.options.exist).map_err(|fault| fault.at(name))
}

fn explain(of: Option<&Word>, answer: &mut Answer) -> Result<()> {
    answer.out += &format!("ipset {VERSION}\n\n{}", help::USAGE);
    let unknown = |word: &Word| Fault::usage(format!("Unknown settype: `{}'", word.text)).at(word);
    let kind = of.map(|word| Kind::named(&word.text).ok_or_else(|| unknown(word))).transpose()?;
    answer.out += &kind.map_or_else(help::types, help::of);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::kind::KINDS;
    use super::*;

    #[test]
    fn commands_have_names_beginnings_and_letters() {
        for (text, want) in [
            ("create", Some(Command::Create)),
            ("-N", Some(Command::Create)),
            ("--add", Some(Command::Add)),
            ("a", Some(Command::Add)),
            ("-D", Some(Command::Del)),
            ("cre", Some(Command::Create)),
            ("-X", Some(Command::Destroy)),
            ("-V", Some(Command::Version)),
            ("-v", Some(Command::Version)),
            ("foo", None),
            ("-U", None),
            ("--", None),
        ] {
            assert_eq!(command(text).map(|known| known.0), want, "{text}");
        }
        assert!(KINDS.iter().all(|kind| Kind::named(kind.name).is_some_and(|k| k == kind)));
    }

    #[test]
    fn lines_are_split_at_blanks_and_quotes() {
        let words = split(r#" add  a 1.1.1.1 comment "a b" x"#, 10).unwrap();
        let texts: Vec<_> = words.iter().map(|w| &*w.text).collect();
        assert_eq!(texts, ["add", "a", "1.1.1.1", "comment", "a b", "x"]);
        assert_eq!(words[4].span, 35..38);
        assert_eq!(split("a \"b", 0).unwrap_err().span, Some(2..4));
    }
}
