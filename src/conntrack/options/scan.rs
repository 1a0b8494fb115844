//! getopt_long's way through the arguments: options anywhere, clusters of letters, long names that
//! may be cut short, optional values only where they are attached or the next word is no option.

use super::{Command, Table, Verb, Wrong};
use crate::conntrack::protocols::Part;

/// Whether an option has a value.
#[derive(Copy, Clone, PartialEq, Eq)]
enum Value {
    None,
    Required,
    Optional,
}

const LONG: [(&str, Value, char); 42] = [
    ("dump", Value::Optional, 'L'),
    ("create", Value::Optional, 'I'),
    ("add", Value::Optional, 'A'),
    ("delete", Value::Optional, 'D'),
    ("update", Value::Optional, 'U'),
    ("get", Value::Optional, 'G'),
    ("flush", Value::Optional, 'F'),
    ("event", Value::Optional, 'E'),
    ("counter", Value::Optional, 'C'),
    ("stats", Value::None, 'S'),
    ("version", Value::None, 'V'),
    ("help", Value::None, 'h'),
    ("orig-src", Value::Required, 's'),
    ("src", Value::Required, 's'),
    ("orig-dst", Value::Required, 'd'),
    ("dst", Value::Required, 'd'),
    ("reply-src", Value::Required, 'r'),
    ("reply-dst", Value::Required, 'q'),
    ("protonum", Value::Required, 'p'),
    ("timeout", Value::Required, 't'),
    ("status", Value::Required, 'u'),
    ("zero", Value::None, 'z'),
    ("event-mask", Value::Required, 'e'),
    ("tuple-src", Value::Required, '['),
    ("tuple-dst", Value::Required, ']'),
    ("mask-src", Value::Required, '{'),
    ("mask-dst", Value::Required, '}'),
    ("nat-range", Value::Required, 'a'),
    ("mark", Value::Required, 'm'),
    ("secmark", Value::Required, 'c'),
    ("id", Value::Optional, 'i'),
    ("family", Value::Required, 'f'),
    ("src-nat", Value::Optional, 'n'),
    ("dst-nat", Value::Optional, 'g'),
    ("output", Value::Required, 'o'),
    ("buffer-size", Value::Required, 'b'),
    ("any-nat", Value::Optional, 'j'),
    ("zone", Value::Required, 'w'),
    ("label", Value::Required, 'l'),
    ("label-add", Value::Required, '<'),
    ("label-del", Value::Optional, '>'),
    // The original's letters for the directions' zones.
    ("orig-zone", Value::Required, '('),
];

const REPLY_ZONE: (&str, Value, char) = ("reply-zone", Value::Required, ')');

fn short(letter: char) -> Option<Value> {
    Some(match letter {
        'L' | 'I' | 'U' | 'D' | 'G' | 'E' | 'F' | 'A' | 'h' | 'V' | 'S' | 'z' | 'C' => Value::None,
        's' | 'd' | 'r' | 'q' | 'p' | 't' | 'u' | 'e' | 'a' | 'm' | 'i' | 'f' | 'o' | 'c' | 'b'
        | 'w' | 'l' => Value::Required,
        'n' | 'g' | 'j' => Value::Optional,
        _ => return None,
    })
}

fn verb(letter: char) -> Option<Verb> {
    Some(match letter {
        'L' => Verb::List,
        'I' => Verb::Create,
        'A' => Verb::Add,
        'U' => Verb::Update,
        'D' => Verb::Delete,
        'G' => Verb::Get,
        'F' => Verb::Flush,
        'E' => Verb::Event,
        'C' => Verb::Count,
        'S' => Verb::Stats,
        'V' => Verb::Version,
        'h' => Verb::Help,
        _ => return None,
    })
}

/// What a long name stands for.
#[derive(Copy, Clone, PartialEq, Eq)]
enum Meaning {
    Option(char),
    Part(Part),
}

/// Goes through the arguments.
pub(super) fn scan(args: &[String], command: &mut Command) -> Result<(), Wrong> {
    let mut rest = Rest { args, at: 0 };
    while let Some(word) = rest.next() {
        if word == "--" {
            break;
        }
        if let Some(long) = word.strip_prefix("--") {
            read_long(word, long, &mut rest, command)?;
        } else if word.len() > 1 && word.starts_with('-') {
            read_cluster(word, &mut rest, command)?;
        }
        // The original takes no notice of other words.
    }
    Ok(())
}

struct Rest<'a> {
    args: &'a [String],
    at: usize,
}

impl<'a> Rest<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let word = self.args.get(self.at)?;
        self.at += 1;
        Some(word)
    }

    /// The next word, if it can't be an option.
    fn plain(&mut self) -> Option<&'a str> {
        let word = self.args.get(self.at)?;
        if word.starts_with(['-', '!']) || word.is_empty() {
            return None;
        }
        self.next()
    }
}

fn read_long(
    word: &str,
    long: &str,
    rest: &mut Rest<'_>,
    command: &mut Command,
) -> Result<(), Wrong> {
    let (name, attached) = match long.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (long, None),
    };
    let unknown = || Wrong::usage(format!("unknown option `{word}'"));
    let (full, value, meaning) = find(name, command).ok_or_else(unknown)?;
    let text = match (value, attached) {
        (Value::None, Some(_)) => return Err(unknown()),
        (Value::Required, None) => Some(rest.next().ok_or_else(|| missing(word))?),
        (_, attached) => attached,
    };
    match meaning {
        Meaning::Part(part) => command.part(part, full, text.unwrap_or_default()),
        Meaning::Option(letter) => handle(letter, full, text, rest, command),
    }
}

/// The long option of a name, or the only one that begins so.
fn find(name: &str, command: &Command) -> Option<(&'static str, Value, Meaning)> {
    let own = LONG.iter().chain([&REPLY_ZONE]).map(|(n, v, c)| (*n, *v, Meaning::Option(*c)));
    let parts = command.protocol.map_or(&[][..], |(protocol, _)| protocol.options);
    let all = own.chain(parts.iter().map(|(n, p)| (*n, Value::Required, Meaning::Part(*p))));
    let fitting: Vec<_> = all.filter(|(n, _, _)| n.starts_with(name)).collect();
    let exact = fitting.iter().find(|(n, _, _)| *n == name);
    let only = fitting.first().filter(|first| fitting.iter().all(|other| other.2 == first.2));
    exact.or(only).copied()
}

fn read_cluster(word: &str, rest: &mut Rest<'_>, command: &mut Command) -> Result<(), Wrong> {
    let mut left = &word[1..];
    while let Some(letter) = left.chars().next() {
        left = &left[letter.len_utf8()..];
        let Some(value) = short(letter) else {
            return Err(Wrong::usage(format!("unknown option `{word}'")));
        };
        let attached = (!left.is_empty()).then_some(left);
        let text = match value {
            Value::None => None,
            Value::Optional => attached,
            Value::Required => Some(attached.or_else(|| rest.next()).ok_or_else(|| missing(word))?),
        };
        let names = LONG.iter().filter(|(_, _, c)| *c == letter);
        let long = names.map(|(n, _, _)| *n).next_back().unwrap_or_default();
        handle(letter, long, text, rest, command)?;
        if value != Value::None {
            return Ok(());
        }
    }
    Ok(())
}

fn missing(word: &str) -> Wrong {
    Wrong::usage(format!("option `{word}' requires an argument"))
}

fn handle(
    letter: char,
    long: &str,
    text: Option<&str>,
    rest: &mut Rest<'_>,
    command: &mut Command,
) -> Result<(), Wrong> {
    if let Some(verb) = verb(letter) {
        let table = match text.or_else(|| rest.plain()) {
            Some(text) => table(text)?,
            None => Table::Conntrack,
        };
        return set_verb(verb, table, long, command);
    }
    let text = match letter {
        'n' | 'g' | 'j' | '>' => text.or_else(|| rest.plain()),
        _ => text,
    };
    // `get_long_opt` of the original finds the first name of a letter.
    let first = LONG.iter().find(|(_, _, c)| *c == letter).map_or(long, |(n, _, _)| *n);
    command.option(letter, first, text)
}

/// The original compares as much as there is.
fn table(text: &str) -> Result<Table, Wrong> {
    let all = [
        ("expect", Table::Expect),
        ("conntrack", Table::Conntrack),
        ("dying", Table::Dying),
        ("unconfirmed", Table::Unconfirmed),
    ];
    let found = all.iter().find(|(name, _)| name.starts_with(text)).map(|(_, table)| *table);
    found.ok_or_else(|| Wrong::usage(format!("unknown type `{text}'")))
}

fn set_verb(verb: Verb, table: Table, long: &str, command: &mut Command) -> Result<(), Wrong> {
    if matches!(table, Table::Dying | Table::Unconfirmed) && verb != Verb::List {
        let why = "Can't do that command with tables `dying' and `unconfirmed'";
        return Err(Wrong::usage(why.to_owned()));
    }
    if table == Table::Expect && matches!(verb, Verb::Update | Verb::Add) {
        return Err(Wrong::usage(format!("Can't do --{long} on expectations")));
    }
    if command.verb.is_some() {
        return Err(Wrong::usage("Invalid commands combination".to_owned()));
    }
    (command.verb, command.table) = (Some(verb), table);
    Ok(())
}
