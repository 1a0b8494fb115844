//! The arguments of `iptables-save` and `iptables-restore`.

use super::Program;

/// Files that a program reads or writes: whoever was called does that, not the gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// What `iptables-restore` reads instead of standard input.
    pub input: Option<String>,
    /// What `iptables-save` writes to instead of standard output (`-f`).
    pub output: Option<String>,
}

/// Which files the arguments name. Arguments that can't be read name none; the answer says so.
pub fn files(program: Program, args: &[String]) -> Files {
    match (program, options(program, args)) {
        (Program::Save, Ok(Options { file, .. })) => Files { output: file, ..Files::default() },
        (Program::Restore, Ok(Options { rest, .. })) => {
            Files { input: rest.into_iter().next(), ..Files::default() }
        }
        _ => Files::default(),
    }
}

/// What the arguments say.
#[derive(Debug, Default)]
pub(super) struct Options {
    pub counters: bool,
    pub verbose: bool,
    pub version: bool,
    pub test: bool,
    pub help: bool,
    pub noflush: bool,
    pub wait_interval: bool,
    pub table: Option<String>,
    file: Option<String>,
    pub rest: Vec<String>,
}

/// Whether a value follows.
#[derive(Copy, Clone, PartialEq, Eq)]
enum Takes {
    Nothing,
    Value,
    /// A number, which may be left out.
    Number,
}

/// Long name, letter, value.
type Known = (&'static str, char, Takes);

#[rustfmt::skip]
const SAVE: &[Known] = &[
    ("counters", 'c', Takes::Nothing), ("version", 'V', Takes::Nothing),
    ("table", 't', Takes::Value), ("modprobe", 'M', Takes::Value), ("file", 'f', Takes::Value),
];

#[rustfmt::skip]
const RESTORE: &[Known] = &[
    ("counters", 'c', Takes::Nothing), ("verbose", 'v', Takes::Nothing),
    ("version", 'V', Takes::Nothing), ("test", 't', Takes::Nothing), ("help", 'h', Takes::Nothing),
    ("noflush", 'n', Takes::Nothing), ("modprobe", 'M', Takes::Value),
    ("table", 'T', Takes::Value), ("wait", 'w', Takes::Number),
    ("wait-interval", 'W', Takes::Number),
];

/// Reads the arguments, or tells what is wrong as `getopt_long` does.
pub(super) fn options(program: Program, args: &[String]) -> Result<Options, String> {
    let known = if program == Program::Save { SAVE } else { RESTORE };
    let mut options = Options::default();
    let mut args = args.iter().map(String::as_str).peekable();
    while let Some(arg) = args.next() {
        if arg == "--" {
            options.rest.extend(args.map(str::to_owned));
            break;
        }
        let (found, mut glued) = match (arg.strip_prefix("--"), arg.strip_prefix('-')) {
            (Some(long), _) => {
                let (name, value) = match long.split_once('=') {
                    Some((name, value)) => (name, Some(value)),
                    None => (long, None),
                };
                (vec![by_name(known, name)?], value)
            }
            (None, Some(letters)) if !letters.is_empty() => by_letters(known, letters)?,
            _ => {
                options.rest.push(arg.to_owned());
                continue;
            }
        };
        for (name, letter, takes) in found {
            let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
            let value = match takes {
                Takes::Nothing if glued.is_some() => {
                    return Err(format!("option '--{name}' doesn't allow an argument"));
                }
                Takes::Nothing => None,
                Takes::Value => Some(match glued.take().or_else(|| args.next()) {
                    Some(value) => value,
                    None => return Err(format!("option requires an argument -- '{letter}'")),
                }),
                Takes::Number => glued.take().or_else(|| args.next_if(|next| number(next))),
            };
            options.set(program, letter, value);
        }
    }
    Ok(options)
}

fn by_name(known: &[Known], name: &str) -> Result<Known, String> {
    let mut found = known.iter().filter(|(long, ..)| long.starts_with(name));
    let exact = known.iter().find(|(long, ..)| *long == name);
    match (exact, found.next(), found.next()) {
        (Some(known), ..) | (None, Some(known), None) => Ok(*known),
        (None, None, _) => Err(format!("unrecognized option '--{name}'")),
        _ => Err(format!("option '--{name}' is ambiguous")),
    }
}

/// `-cn`, `-Tnat`: letters, the last of which may have its value right behind it.
fn by_letters<'a>(
    known: &[Known],
    letters: &'a str,
) -> Result<(Vec<Known>, Option<&'a str>), String> {
    let mut found = Vec::new();
    for (at, letter) in letters.char_indices() {
        let Some(option) = known.iter().find(|(_, short, _)| *short == letter) else {
            return Err(format!("invalid option -- '{letter}'"));
        };
        found.push(*option);
        let rest = &letters[at + letter.len_utf8()..];
        if option.2 != Takes::Nothing && !rest.is_empty() {
            return Ok((found, Some(rest)));
        }
    }
    Ok((found, None))
}

impl Options {
    fn set(&mut self, program: Program, letter: char, value: Option<&str>) {
        let value = value.map(str::to_owned);
        match (letter, program) {
            ('c', _) => self.counters = true,
            ('V', _) => self.version = true,
            ('v', _) => self.verbose = true,
            ('h', _) => self.help = true,
            ('n', _) => self.noflush = true,
            ('t', Program::Restore) => self.test = true,
            ('t' | 'T', _) => self.table = value,
            ('f', _) => self.file = value,
            ('W', _) => self.wait_interval = true,
            // -w: every call waits for its turn; -M: nothing has to be loaded.
            _ => {}
        }
    }
}
