//! The command line: commands by name or letter, options that may stand anywhere, lines of a file.

use crate::lex::Word;
use crate::sets::fault::{Fault, Result};
use crate::sets::list::{Mode, Style};

/// `IPSET_MAXNAMELEN` less the final zero.
const MAX_NAME: usize = 31;
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

impl Command {
    /// Whether it is one of those that a file of sets is made of.
    pub(super) fn makes_sets(self) -> bool {
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
pub(super) struct Common {
    pub(super) exist: bool,
    pub(super) quiet: bool,
    pub(super) style: Style,
    pub(super) mode: Option<Mode>,
    pub(super) file: Option<String>,
}

/// A command that was taken apart.
#[derive(Debug)]
pub(super) struct Call<'w> {
    pub(super) command: Command,
    pub(super) name: &'static str,
    pub(super) rest: Vec<Word<'w>>,
    pub(super) options: Common,
}

/// Arguments as words, with the places that they have when blanks stand between them.
pub(super) fn words(args: &[String]) -> Vec<Word<'_>> {
    let mut at = 0;
    let words = args.iter().map(|text| {
        let start = at;
        at += text.len() + 1;
        Word { text: text.into(), span: start..start + text.len(), quoted: false }
    });
    words.collect()
}

impl<'w> Call<'w> {
    pub(super) fn read(words: &[Word<'w>]) -> Result<Self> {
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
pub(super) fn common(text: &str) -> Option<&'static str> {
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

/// Lines without their ends, and where they start.
pub(super) fn lines(text: &str) -> impl Iterator<Item = (&str, usize)> {
    let mut start = 0;
    text.split_inclusive('\n').map(move |line| {
        let at = start;
        start += line.len();
        (line.trim_end_matches(['\n', '\r']), at)
    })
}

/// A line of a file, unless there is nothing to do in it.
pub(super) fn read_line(body: &str, start: usize) -> Result<Option<Call<'_>>> {
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

/// A set's name.
pub(super) fn checked_name<'a>(word: &'a Word<'_>) -> Result<&'a str> {
    if word.text.len() > MAX_NAME {
        let what = format!("setname '{}' is longer than {MAX_NAME} characters", word.text);
        return Err(Fault::syntax(what).at(word));
    }
    Ok(&word.text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sets::kind::{KINDS, Kind};

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
