//! One command line: `-A CHAIN …` and its kin.

mod call;
mod item;
mod rule;

use std::ops::Range;

use tidegate_packet::Family;

use super::file::{Reading, leading_count};
use super::option::{self, Found, Lookup, Own};
use crate::ast::*;
use crate::counters::Count;
use crate::diagnostic::{Outcome, Problem, Told};
use crate::extension::Opt;
use crate::lex::{self, Word};
use crate::values::parse_number;

pub(crate) use call::{CommandLine, Listing, Switches, call};
pub(crate) use rule::protocol;

/// Reads a command line of a file. `None` if it is meant for the other family (`-4`, `-6`).
/// `words` has room for the words of a line.
pub(super) fn command<'t>(
    body: &'t str,
    start: usize,
    reading: Reading,
    words: &mut Vec<Word<'t>>,
) -> Outcome<Option<ItemAst<'t>>> {
    let Reading { family, counters, .. } = reading;
    let (count, skip) = leading_count(body, start, counters)?;
    words.clear();
    lex::split(&body[skip..], start + skip, words)?;
    let line = std::mem::take(words);
    let mut parser = Parser::new(line, start..start + body.len(), family, count);
    parser.run()?;
    *words = std::mem::take(&mut parser.words);
    if parser.other_family {
        return Ok(None);
    }
    parser.finish().map(Some)
}

impl<'t> Parser<'t> {
    fn new(words: Vec<Word<'t>>, span: Range<usize>, family: Family, count: Count) -> Self {
        let rule = RuleAst {
            span,
            sources: None,
            destinations: None,
            input: None,
            output: None,
            protocol: None,
            fragment: None,
            matches: Vec::new(),
            action: ActionAst::None,
            count,
        };
        Self {
            family,
            words,
            at: 0,
            negation: None,
            command: None,
            listing: None,
            switches: None,
            rule,
            target: None,
            target_at: 0,
            protocol_loaded: false,
            other_family: false,
        }
    }
}

/// The command of a line and the words that belong to it.
#[derive(Debug)]
struct Command<'t> {
    own: Own,
    word: Word<'t>,
    chain: Option<Word<'t>>,
    /// A rule number, a new name or a policy.
    second: Option<Word<'t>>,
}

/// The number of a rule, counted from 1.
pub(crate) fn rule_number(word: &Word<'_>) -> Outcome<u32> {
    match parse_number(&word.text).and_then(|n| u32::try_from(n).ok()) {
        Some(number) if number > 0 => Ok(number),
        _ => Err(word
            .wrong(format!("bad rule number `{}`", word.text))
            .words(format!("Invalid rule number `{}'", word.text))),
    }
}

struct Parser<'t> {
    family: Family,
    words: Vec<Word<'t>>,
    at: usize,
    /// The `!` before the option at hand.
    negation: Option<Word<'t>>,
    command: Option<Command<'t>>,
    listing: Option<Command<'t>>,
    /// There is a place for them in a call and none in a file.
    switches: Option<Switches<'t>>,
    rule: RuleAst<'t>,
    target: Option<(&'static crate::extension::TargetSpec, ExtensionAst<'t>)>,
    /// How many matches stood before the target.
    target_at: usize,
    /// The extension that `-p` implies was opened.
    protocol_loaded: bool,
    other_family: bool,
}

impl<'t> Parser<'t> {
    fn run(&mut self) -> Outcome<()> {
        while let Some(word) = self.next() {
            if word.text == "!" {
                if self.negation.is_some() {
                    return Err(word
                        .wrong("two ! in a row")
                        .words("multiple consecutive ! not allowed"));
                }
                self.negation = Some(word);
                continue;
            }
            self.word(&word)?;
            if self.other_family {
                return Ok(());
            }
            if let Some(bang) = self.negation.take() {
                let words = match option::short(word.text.chars().nth(1).unwrap_or(' ')) {
                    Some((Own::Match, _)) => "unexpected ! flag before --match".to_owned(),
                    _ => format!("cannot have ! before {}", word.text),
                };
                let message = format!("! is not allowed before {}", word.text);
                return Err(bang.wrong(message).words(words));
            }
        }
        match self.negation.take() {
            Some(bang) => {
                Err(bang.wrong("! with nothing behind it").words("nothing appropriate following !"))
            }
            None => Ok(()),
        }
    }

    fn next(&mut self) -> Option<Word<'t>> {
        // Nobody looks back.
        let word = self.words.get_mut(self.at).map(std::mem::take);
        self.at += usize::from(word.is_some());
        word
    }

    /// The word that must follow `option`. A `!` before it is the old place of negation.
    fn value(&mut self, option: &Word<'t>, negatable: bool) -> Outcome<Word<'t>> {
        let missing = |word: &Word<'_>| {
            let words = format!("option \"{}\" requires an argument", word.text);
            word.wrong(format!("{} needs a value", word.text)).words(words)
        };
        let word = self.next().ok_or_else(|| missing(option))?;
        if negatable && word.text == "!" && !word.quoted {
            if self.negation.is_some() {
                return Err(word.wrong("negated twice"));
            }
            self.negation = Some(word);
            return self.next().ok_or_else(|| missing(option));
        }
        Ok(word)
    }

    /// A word that may follow: anything but an option or `!`.
    fn optional_value(&mut self) -> Option<Word<'t>> {
        let word = self.words.get(self.at)?;
        if word.text.starts_with(['-', '!']) {
            return None;
        }
        self.next()
    }

    fn word(&mut self, word: &Word<'t>) -> Outcome<()> {
        if let Some(name) = word.text.strip_prefix("--") {
            if name.is_empty() {
                return Err(word.wrong("-- has no meaning here"));
            }
            return self.long(word, name);
        }
        let mut letters = word.text.strip_prefix('-').unwrap_or("").chars();
        let Some(letter) = letters.next() else {
            return Err(word
                .wrong(format!("unexpected `{}`", word.text))
                .help("expected an option")
                .told(Told::Bare(format!("Bad argument `{}'", word.text))));
        };
        let Some((own, value)) = option::short(letter) else {
            return Err(unknown_option(word));
        };
        if letters.next().is_some() && self.switches.is_some() {
            self.split(word, own, value);
            let word = Word { text: format!("-{letter}").into(), ..word.clone() };
            return self.own(&word, own, value);
        }
        if word.text.chars().count() > 2 {
            return Err(
                word.wrong(format!("`{}`: a value must stand apart from its option", word.text))
            );
        }
        self.own(word, own, value)
    }

    fn long(&mut self, word: &Word<'t>, name: &str) -> Outcome<()> {
        if let Some((name, value)) = name.split_once('=').filter(|_| self.switches.is_some()) {
            let value = Word { text: value.to_owned().into(), ..word.clone() };
            self.words.insert(self.at, value);
            let word = Word { text: format!("--{name}").into(), ..word.clone() };
            return self.long(&word, name);
        }
        // getopt_long knows `--name=value`; iptables itself then misreads most of them.
        if name.contains('=') {
            return Err(
                word.wrong(format!("`{}`: a value must stand apart from its option", word.text))
            );
        }
        loop {
            match option::long(name, self.option_lists()) {
                Lookup::One(Found::Own { own, value }) => return self.own(word, own, value),
                Lookup::One(Found::Extension { index, opt }) => {
                    return self.extension_option(word, index, opt);
                }
                Lookup::Ambiguous(which) => {
                    return Err(word
                        .wrong(format!("`{}` is ambiguous", word.text))
                        .words(format!("unknown option \"{}\"", word.text))
                        .help(format!("expected {which}")));
                }
                Lookup::None if self.load_protocol() => {}
                Lookup::None => {
                    let known = option::spellings(self.option_lists());
                    return Err(unknown_option(word)
                        .help(
                            "the options of a match follow its -m, and -p tcp comes before --dport",
                        )
                        .nearest(&word.text, known.iter().map(String::as_str)));
                }
            }
        }
    }

    /// The options of the rule's extensions. Of two extensions with an option of one name, the one
    /// that was named last has it, so that comes first.
    fn option_lists(&self) -> impl Iterator<Item = (usize, &'static [Opt])> + Clone {
        let matches = &self.rule.matches;
        let (before, after) = matches.split_at(self.target_at.min(matches.len()));
        let numbered = |first: usize| {
            move |(n, m): (usize, &MatchAst<'_>)| -> (usize, &'static [Opt]) {
                (first + n, m.spec.options)
            }
        };
        let target = self.target.iter().map(|(spec, _)| (usize::MAX, spec.options));
        let after = after.iter().enumerate().rev().map(numbered(before.len()));
        after.chain(target).chain(before.iter().enumerate().rev().map(numbered(0)))
    }
}

fn unknown_option(word: &Word<'_>) -> Problem {
    word.wrong(format!("unknown option `{}`", word.text))
        .words(format!("unknown option \"{}\"", word.text))
}
