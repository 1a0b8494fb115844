//! One command line: `-A CHAIN …` and its kin.

use std::ops::Range;

use tidegate_packet::Family;

use super::file::{Reading, leading_count};
use super::option::{self, Found, Lookup, Own};
use crate::ast::*;
use crate::base::Interface;
use crate::counters::Count;
use crate::diagnostic::{Outcome, Problem, Told};
use crate::lex::{self, Word};
use crate::names;
use crate::values::parse_number;
use crate::{matches, targets};

/// `IFNAMSIZ` less the final zero.
const MAX_INTERFACE: usize = 15;

/// Reads a command line of a file. `None` if it is meant for the other family (`-4`, `-6`).
pub(super) fn command(body: &str, start: usize, reading: Reading) -> Outcome<Option<ItemAst>> {
    let Reading { family, counters, .. } = reading;
    let (count, skip) = leading_count(body, start, counters)?;
    let words = lex::split(&body[skip..], start + skip)?;
    let mut parser = Parser::new(words, start..start + body.len(), family, count);
    parser.run()?;
    if parser.other_family {
        return Ok(None);
    }
    parser.finish().map(Some)
}

/// What the command `iptables` was called with.
#[derive(Debug, Default)]
pub(crate) struct CommandLine {
    pub switches: Switches,
    /// `-L` or `-S`, with a chain and a rule's number.
    pub list: Option<Listing>,
    /// What is to be changed; with a listing only `-Z`.
    pub item: Option<ItemAst>,
}

/// `-L` or `-S`.
#[derive(Debug)]
pub(crate) struct Listing {
    /// `-S`.
    pub as_rules: bool,
    pub chain: Option<Word>,
    pub number: Option<Word>,
}

/// The options of the command `iptables` that are about the call.
#[derive(Debug, Default)]
pub(crate) struct Switches {
    pub table: Option<Word>,
    pub numeric: bool,
    pub verbose: bool,
    pub exact: bool,
    pub line_numbers: bool,
    pub version: bool,
    pub help: bool,
    wait: bool,
    pub wait_interval: bool,
    counters: bool,
}

/// Reads the words of a call.
pub(crate) fn call(words: Vec<Word>, family: Family) -> Outcome<CommandLine> {
    let end = words.last().map_or(0, |word| word.span.end);
    let mut parser = Parser::new(words, 0..end, family, Count::default());
    parser.switches = Some(Switches::default());
    parser.run()?;
    parser.finish_call()
}

impl Parser {
    fn new(words: Vec<Word>, span: Range<usize>, family: Family, count: Count) -> Self {
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
            protocol_loaded: false,
            other_family: false,
        }
    }
}

/// The command of a line and the words that belong to it.
#[derive(Debug)]
struct Command {
    own: Own,
    word: Word,
    chain: Option<Word>,
    /// A rule number, a new name or a policy.
    second: Option<Word>,
}

/// The number of a rule, counted from 1.
pub(crate) fn rule_number(word: &Word) -> Outcome<u32> {
    match parse_number(&word.text).and_then(|n| u32::try_from(n).ok()) {
        Some(number) if number > 0 => Ok(number),
        _ => Err(word
            .wrong(format!("bad rule number `{}`", word.text))
            .words(format!("Invalid rule number `{}'", word.text))),
    }
}

struct Parser {
    family: Family,
    words: Vec<Word>,
    at: usize,
    /// The `!` before the option at hand.
    negation: Option<Word>,
    command: Option<Command>,
    listing: Option<Command>,
    /// There is a place for them in a call and none in a file.
    switches: Option<Switches>,
    rule: RuleAst,
    target: Option<(&'static crate::extension::TargetSpec, ExtensionAst)>,
    /// The extension that `-p` implies was opened.
    protocol_loaded: bool,
    other_family: bool,
}

impl Parser {
    fn run(&mut self) -> Outcome<()> {
        while let Some(word) = self.next() {
            if word.text == "!" {
                if self.negation.is_some() {
                    return Err(word.wrong("two ! in a row"));
                }
                self.negation = Some(word);
                continue;
            }
            self.word(&word)?;
            if self.other_family {
                return Ok(());
            }
            if let Some(bang) = self.negation.take() {
                return Err(bang
                    .wrong(format!("! is not allowed before {}", word.text))
                    .words(format!("cannot have ! before {}", word.text)));
            }
        }
        match self.negation.take() {
            Some(bang) => Err(bang.wrong("! with nothing behind it")),
            None => Ok(()),
        }
    }

    fn next(&mut self) -> Option<Word> {
        let word = self.words.get(self.at).cloned();
        self.at += usize::from(word.is_some());
        word
    }

    /// The word that must follow `option`. A `!` before it is the old place of negation.
    fn value(&mut self, option: &Word, negatable: bool) -> Outcome<Word> {
        let missing = |word: &Word| {
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
    fn optional_value(&mut self) -> Option<Word> {
        let word = self.words.get(self.at)?;
        if word.text.starts_with(['-', '!']) {
            return None;
        }
        self.next()
    }

    fn word(&mut self, word: &Word) -> Outcome<()> {
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
            let word = Word { text: format!("-{letter}"), ..word.clone() };
            return self.own(&word, own, value);
        }
        if word.text.chars().count() > 2 {
            return Err(
                word.wrong(format!("`{}`: a value must stand apart from its option", word.text))
            );
        }
        self.own(word, own, value)
    }

    /// `-nvL`, `-tnat`: what stands behind the first letter is its value, or more letters.
    fn split(&mut self, word: &Word, own: Own, value: bool) {
        let rest: String = word.text.chars().skip(2).collect();
        let optional = [
            Own::List,
            Own::ListRules,
            Own::Flush,
            Own::Zero,
            Own::DeleteChain,
            Own::Wait,
            Own::WaitInterval,
        ];
        let text = if value || optional.contains(&own) { rest } else { format!("-{rest}") };
        self.words.insert(self.at, Word { text, ..word.clone() });
    }

    fn long(&mut self, word: &Word, name: &str) -> Outcome<()> {
        if let Some((name, value)) = name.split_once('=').filter(|_| self.switches.is_some()) {
            let value = Word { text: value.to_owned(), ..word.clone() };
            self.words.insert(self.at, value);
            let word = Word { text: format!("--{name}"), ..word.clone() };
            return self.long(&word, name);
        }
        // getopt_long knows `--name=value`; iptables itself then misreads most of them.
        if name.contains('=') {
            return Err(
                word.wrong(format!("`{}`: a value must stand apart from its option", word.text))
            );
        }
        loop {
            let target =
                self.target.iter().map(|(spec, _)| (usize::MAX, spec.options)).collect::<Vec<_>>();
            let matches = self.rule.matches.iter().enumerate().rev();
            let lists: Vec<_> = matches.map(|(i, m)| (i, m.spec.options)).chain(target).collect();
            match option::long(name, lists.iter().copied()) {
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
                    return Err(unknown_option(word).help(
                        "the options of a match follow its -m, and -p tcp comes before --dport",
                    ));
                }
            }
        }
    }

    /// Opens the extension that the protocol implies: `-p tcp --dport 22` needs no `-m tcp`.
    fn load_protocol(&mut self) -> bool {
        if self.protocol_loaded {
            return false;
        }
        self.protocol_loaded = true;
        let Some(protocol) = &self.rule.protocol else { return false };
        let Some(name) = names::protocol_name(protocol.number) else { return false };
        let Some(spec) = matches::find(name, self.family) else { return false };
        let word = Word { text: spec.name.to_owned(), ..protocol.word.clone() };
        let extension = ExtensionAst { name: word, options: Vec::new() };
        self.rule.matches.push(MatchAst { spec, extension });
        true
    }

    fn extension_option(
        &mut self,
        word: &Word,
        index: usize,
        opt: &'static crate::extension::Opt,
    ) -> Outcome<()> {
        let mut values = Vec::new();
        for n in 0..opt.values {
            values.push(self.value(word, opt.invert && n == 0)?);
        }
        // Without a value a `!` behind the option belongs to the next one.
        let bang = self.negation.take();
        if let Some(bang) = &bang
            && !opt.invert
        {
            return Err(bang.wrong(format!("--{} can't be negated", opt.names[0])));
        }
        let extension = match self.rule.matches.get_mut(index) {
            Some(m) => &mut m.extension,
            None => match &mut self.target {
                Some((_, extension)) => extension,
                None => return Err(word.wrong("an option without its extension")),
            },
        };
        if !opt.repeats && extension.options.iter().any(|o| std::ptr::eq(o.opt, opt)) {
            return Err(word.wrong(format!("--{} may be given only once", opt.names[0])));
        }
        let span = word.span.start..values.last().map_or(word.span.end, |v| v.span.end);
        extension.options.push(OptionAst { opt, span, inverted: bang.is_some(), values });
        Ok(())
    }

    fn own(&mut self, word: &Word, own: Own, takes_value: bool) -> Outcome<()> {
        let negatable = matches!(
            own,
            Own::Source | Own::Destination | Own::Protocol | Own::Input | Own::Output
        );
        let value = match takes_value {
            true => Some(self.value(word, negatable)?),
            false => None,
        };
        let inverted = match own {
            _ if negatable => self.negation.take().is_some(),
            Own::Fragment => self.negation.take().is_some(),
            _ => false,
        };
        match (own, value) {
            (Own::Append | Own::New | Own::Check, Some(chain)) => {
                self.set_command(own, word, Some(chain), None)
            }
            (Own::Insert | Own::Delete | Own::Replace, Some(chain)) => {
                let number = self.optional_value();
                self.set_command(own, word, Some(chain), number)
            }
            (Own::Rename | Own::Policy, Some(chain)) => {
                let second = self.value(word, false).map_err(|problem| {
                    let what = match own {
                        Own::Rename => "-E requires old-chain-name and new-chain-name",
                        _ => "-P requires a chain and a policy",
                    };
                    problem.words(what)
                })?;
                self.set_command(own, word, Some(chain), Some(second))
            }
            (Own::Flush | Own::DeleteChain, _) => {
                let chain = self.optional_value();
                self.set_command(own, word, chain, None)
            }
            (Own::Zero, _) => {
                let chain = self.optional_value();
                let number = chain.as_ref().and_then(|_| self.optional_value());
                self.set_command(own, word, chain, number)
            }
            (Own::Source, Some(value)) => {
                let list = self.addresses(word, &value, inverted)?;
                once(&mut self.rule.sources, list, word)
            }
            (Own::Destination, Some(value)) => {
                let list = self.addresses(word, &value, inverted)?;
                once(&mut self.rule.destinations, list, word)
            }
            (Own::Input, Some(value)) => {
                let interface = interface(&value, inverted)?;
                once(&mut self.rule.input, (interface, word.clone()), word)
            }
            (Own::Output, Some(value)) => {
                let interface = interface(&value, inverted)?;
                once(&mut self.rule.output, (interface, word.clone()), word)
            }
            (Own::Protocol, Some(value)) => {
                let number = protocol(&value)?;
                if number == 0 && inverted {
                    return Err(value.wrong("no packet can match ! -p all"));
                }
                once(&mut self.rule.protocol, ProtocolAst { number, inverted, word: value }, word)
            }
            (Own::Fragment, _) if self.family == Family::V6 => {
                Err(word.wrong("-f is for IPv4 only").help("IPv6 has -m frag"))
            }
            (Own::Fragment, _) => once(&mut self.rule.fragment, !inverted, word),
            (Own::Match, Some(name)) => self.open_match(name),
            (Own::Jump, Some(name)) => self.jump(word, name),
            (Own::Goto, Some(name)) => {
                self.one_action(word)?;
                self.rule.action = ActionAst::Goto(name);
                Ok(())
            }
            (Own::Counters, Some(packets)) => {
                let bytes = self
                    .value(word, false)
                    .map_err(|problem| problem.words("-c requires packet and byte counter"))?;
                let number = |word: &Word, what| {
                    let words = match bytes.text.starts_with('-') {
                        true => "-c requires packet and byte counter".to_owned(),
                        false => format!("-c {what} counter not numeric"),
                    };
                    word.number(0..=u64::MAX).map_err(|problem| problem.words(words))
                };
                self.rule.count.bytes = number(&bytes, "byte")?;
                self.rule.count.packets = number(&packets, "packet")?;
                if let Some(switches) = &mut self.switches {
                    switches.counters = true;
                }
                Ok(())
            }
            (Own::Ipv4, _) => {
                self.other_family = self.family != Family::V4;
                Ok(())
            }
            (Own::Ipv6, _) => {
                self.other_family = self.family != Family::V6;
                Ok(())
            }
            (own, value) => self.switch(word, own, value),
        }
    }

    /// An option that is about the call.
    fn switch(&mut self, word: &Word, own: Own, value: Option<Word>) -> Outcome<()> {
        if self.switches.is_none() {
            return match own {
                Own::Verbose | Own::Exact => Ok(()),
                Own::Table => Err(word.wrong("-t has no place inside a *table")),
                _ => Err(word.wrong(format!("{} has no place in a rules file", word.text))),
            };
        }
        if matches!(own, Own::List | Own::ListRules) {
            let chain = self.optional_value();
            let second = chain.as_ref().and_then(|_| self.optional_value());
            let earlier = self.listing.as_ref().or(self.command.as_ref());
            if let Some(earlier) = earlier.filter(|c| c.own != Own::Zero) {
                return Err(both_commands(word, own, earlier));
            }
            self.listing = Some(Command { own, word: word.clone(), chain, second });
            return Ok(());
        }
        // Every call waits for its turn, however long it says it would.
        if matches!(own, Own::Wait | Own::WaitInterval)
            && let Some(time) = self.optional_value()
        {
            time.number(0..=u64::from(u32::MAX))
                .map_err(|problem| problem.words("wait seconds not numeric"))?;
        }
        let Some(switches) = &mut self.switches else { return Ok(()) };
        let given = match own {
            Own::Table => {
                return once(&mut switches.table, value.unwrap_or_else(|| word.clone()), word);
            }
            // The module loader, for what is built in here.
            Own::Modprobe => return Ok(()),
            Own::Verbose => {
                switches.verbose = true;
                return Ok(());
            }
            Own::Numeric => &mut switches.numeric,
            Own::Exact => &mut switches.exact,
            Own::LineNumbers => &mut switches.line_numbers,
            Own::Version => &mut switches.version,
            Own::Help => &mut switches.help,
            Own::Wait => &mut switches.wait,
            _ => &mut switches.wait_interval,
        };
        if std::mem::replace(given, true) {
            return Err(twice(word));
        }
        Ok(())
    }

    fn set_command(
        &mut self,
        own: Own,
        word: &Word,
        chain: Option<Word>,
        second: Option<Word>,
    ) -> Outcome<()> {
        let listing = self.listing.as_ref().filter(|_| own != Own::Zero);
        if let Some(earlier) = self.command.as_ref().or(listing) {
            return Err(both_commands(word, own, earlier));
        }
        self.command = Some(Command { own, word: word.clone(), chain, second });
        Ok(())
    }

    fn addresses(&self, option: &Word, value: &Word, inverted: bool) -> Outcome<Addresses> {
        let mut networks = Vec::new();
        for part in value.list() {
            let network = part.network(self.family)?;
            if !networks.contains(&network) {
                networks.push(network);
            }
        }
        if inverted && value.text.contains(',') {
            return Err(option
                .wrong("! is not allowed with several addresses")
                .help("write one negated rule per address, or a chain of RETURNs"));
        }
        Ok(Addresses { networks, inverted })
    }

    fn open_match(&mut self, name: Word) -> Outcome<()> {
        let Some(spec) = matches::find(&name.text, self.family) else {
            if let Some(why) = matches::refused(&name.text) {
                return Err(name.wrong(format!("{} {why}", name.text)));
            }
            let words = format!("Couldn't load match `{}':No such file or directory\n", name.text);
            return Err(name.wrong(format!("there is no match `{}`", name.text)).words(words));
        };
        // An explicit `-m tcp` serves `-p tcp` as well.
        self.rule
            .matches
            .push(MatchAst { spec, extension: ExtensionAst { name, options: Vec::new() } });
        Ok(())
    }

    fn one_action(&self, word: &Word) -> Outcome<()> {
        match (&self.rule.action, &self.target) {
            (ActionAst::None, None) => Ok(()),
            _ => Err(word.wrong("a rule can have only one -j or -g").words(multiple(word))),
        }
    }

    fn jump(&mut self, word: &Word, name: Word) -> Outcome<()> {
        self.one_action(word)?;
        match targets::find(&name.text, self.family) {
            Some(spec) => {
                self.target = Some((spec, ExtensionAst { name, options: Vec::new() }));
            }
            None => self.rule.action = ActionAst::Jump(name),
        }
        Ok(())
    }

    fn finish(mut self) -> Outcome<ItemAst> {
        let span = self.rule.span.clone();
        let Some(Command { own, word, chain, second }) = self.command.take() else {
            return Err(Problem::new(span, "a line without a command")
                .help("expected -A CHAIN and a rule, or COMMIT"));
        };
        if let Some((spec, extension)) = self.target.take() {
            self.rule.action = ActionAst::Target { spec, extension };
        }
        let missing = || word.wrong(format!("{} needs a chain", word.text));
        let second_missing = || word.wrong(format!("{} needs another word", word.text));
        let numbered = rule_number;
        let takes_rule = [Own::Append, Own::Insert, Own::Replace, Own::Delete, Own::Check];
        if (!takes_rule.contains(&own) || own == Own::Delete && second.is_some())
            && !self.rule_is_empty()
        {
            return Err(word.wrong(format!("{} doesn't take a rule", word.text)));
        }
        let count = self.rule.count;
        let rule = Box::new(self.rule);
        Ok(match own {
            Own::Append => {
                ItemAst::Rule { chain: chain.ok_or_else(missing)?, place: Place::Append, rule }
            }
            Own::Insert => {
                let place = match &second {
                    Some(n) => Place::Insert(numbered(n)?, n.span.clone()),
                    None => Place::Insert(1, word.span.clone()),
                };
                ItemAst::Rule { chain: chain.ok_or_else(missing)?, place, rule }
            }
            Own::Replace => {
                let n =
                    second.ok_or_else(|| second_missing().words("-R requires a rule number"))?;
                let place = Place::Replace(numbered(&n)?, n.span.clone());
                ItemAst::Rule { chain: chain.ok_or_else(missing)?, place, rule }
            }
            Own::Delete => match second {
                Some(number) => {
                    numbered(&number)?;
                    ItemAst::DeleteNumber { chain: chain.ok_or_else(missing)?, number }
                }
                None => {
                    ItemAst::Rule { chain: chain.ok_or_else(missing)?, place: Place::Delete, rule }
                }
            },
            // A file isn't the place for a question.
            Own::Check if self.switches.is_some() => {
                ItemAst::Rule { chain: chain.ok_or_else(missing)?, place: Place::Check, rule }
            }
            Own::New => ItemAst::New(chain.ok_or_else(missing)?),
            Own::Rename => {
                ItemAst::Rename(chain.ok_or_else(missing)?, second.ok_or_else(second_missing)?)
            }
            Own::Policy => ItemAst::Policy {
                name: chain.ok_or_else(missing)?,
                policy: second.ok_or_else(second_missing)?,
                count,
            },
            Own::Flush => ItemAst::Flush(chain),
            Own::Zero => {
                if let Some(number) = &second {
                    numbered(number)?;
                }
                ItemAst::Zero(chain, second)
            }
            Own::DeleteChain => ItemAst::DeleteChain(chain),
            _ => return Err(word.wrong(format!("{} has no place in a rules file", word.text))),
        })
    }

    fn finish_call(mut self) -> Outcome<CommandLine> {
        let switches = self.switches.take().unwrap_or_default();
        if switches.version || switches.help {
            return Ok(CommandLine { switches, ..CommandLine::default() });
        }
        if self.other_family {
            let message = "the other family's rules have a command of their own";
            return Err(Problem::new(self.rule.span.clone(), message)
                .help("iptables is for IPv4, ip6tables for IPv6"));
        }
        if switches.wait_interval && !switches.wait {
            return Err(Problem::new(self.rule.span.clone(), "-W without -w")
                .words("--wait-interval only makes sense with --wait\n"));
        }
        let given = Given::of(&self, &switches);
        for command in self.command.iter().chain(&self.listing) {
            given.check(command)?;
        }
        let mut list = self.listing.take();
        // There is one place for a chain in a call.
        if let (Some(list), Some(zero)) = (&mut list, &mut self.command) {
            match &zero.chain {
                Some(chain) => list.chain = Some(chain.clone()),
                None => zero.chain.clone_from(&list.chain),
            }
        }
        let list = list.map(|Command { own, chain, second, .. }| {
            let as_rules = own == Own::ListRules;
            Listing { as_rules, chain, number: second }
        });
        if let Some(number) = list.as_ref().and_then(|l| l.number.as_ref()) {
            rule_number(number)?;
        }
        let item = match (&self.command, &list) {
            (None, None) => {
                return Err(Problem::new(self.rule.span.clone(), "no command")
                    .words("no command specified"));
            }
            (None, Some(_)) => None,
            (Some(_), _) => {
                self.switches = Some(Switches::default());
                Some(self.finish()?)
            }
        };
        Ok(CommandLine { switches, list, item })
    }

    fn rule_is_empty(&self) -> bool {
        let RuleAst {
            span: _,
            sources,
            destinations,
            input,
            output,
            protocol,
            fragment,
            matches,
            action,
            count: _,
        } = &self.rule;
        sources.is_none()
            && destinations.is_none()
            && input.is_none()
            && output.is_none()
            && protocol.is_none()
            && fragment.is_none()
            && matches.is_empty()
            && matches!(action, ActionAst::None)
    }
}

/// Which options a call has, to be held against what its command takes.
struct Given {
    numeric: bool,
    exact: bool,
    line_numbers: bool,
    counters: bool,
    /// A part of a rule, and its letter.
    rule: Option<char>,
}

impl Given {
    fn of(parser: &Parser, switches: &Switches) -> Self {
        let rule = &parser.rule;
        let action = !matches!(rule.action, ActionAst::None) || parser.target.is_some();
        let parts = [
            (rule.sources.is_some(), Own::Source),
            (rule.destinations.is_some(), Own::Destination),
            (rule.protocol.is_some(), Own::Protocol),
            (action, Own::Jump),
            (rule.input.is_some(), Own::Input),
            (rule.output.is_some(), Own::Output),
            (rule.fragment.is_some(), Own::Fragment),
        ];
        Self {
            numeric: switches.numeric,
            exact: switches.exact,
            line_numbers: switches.line_numbers,
            counters: switches.counters,
            rule: parts.iter().find(|(given, _)| *given).map(|(_, own)| own.letter()),
        }
    }

    fn check(&self, Command { own, word, second, .. }: &Command) -> Outcome<()> {
        let takes_rule = match own {
            Own::Append | Own::Insert | Own::Replace | Own::Check => true,
            Own::Delete => second.is_none(),
            _ => false,
        };
        let takes_counters = matches!(own, Own::Append | Own::Insert | Own::Replace | Own::Policy);
        let listing = *own == Own::List;
        let wrong = match self {
            Self { numeric: true, .. } if !listing => Some('n'),
            Self { rule: Some(letter), .. } if !takes_rule => Some(*letter),
            Self { exact: true, .. } if !listing => Some('x'),
            Self { line_numbers: true, .. } if !listing => Some('0'),
            Self { counters: true, .. } if !takes_counters => Some('c'),
            _ => None,
        };
        wrong.map_or(Ok(()), |letter| {
            let words = format!("Illegal option `-{letter}' with this command");
            Err(word.wrong(words.clone()).words(words))
        })
    }
}

fn unknown_option(word: &Word) -> Problem {
    word.wrong(format!("unknown option `{}`", word.text))
        .words(format!("unknown option \"{}\"", word.text))
}

fn both_commands(word: &Word, own: Own, earlier: &Command) -> Problem {
    let words = format!("Cannot use -{} with -{}", own.letter(), earlier.own.letter());
    word.wrong(format!("{} after {}", word.text, earlier.word.text)).words(words)
}

fn multiple(word: &Word) -> String {
    let long = word.text.strip_prefix("--").unwrap_or("");
    match option::long(long, std::iter::empty()) {
        Lookup::One(Found::Own { own, .. }) => {
            format!("multiple -{} flags not allowed", own.letter())
        }
        _ => format!("multiple {} flags not allowed", word.text),
    }
}

fn twice(word: &Word) -> Problem {
    word.wrong(format!("{} may be given only once", word.text)).words(multiple(word))
}

fn once<T>(place: &mut Option<T>, value: T, word: &Word) -> Outcome<()> {
    if place.is_some() {
        return Err(twice(word));
    }
    *place = Some(value);
    Ok(())
}

fn interface(word: &Word, inverted: bool) -> Outcome<Interface> {
    if word.text.is_empty() {
        return Err(word.wrong("an interface without a name"));
    }
    if word.text.len() > MAX_INTERFACE {
        return Err(word
            .wrong(format!("interface name `{}` is too long", word.text))
            .help(format!("expected at most {MAX_INTERFACE} characters"))
            .words(format!(
                "interface name `{}' must be shorter than IFNAMSIZ ({MAX_INTERFACE})",
                word.text
            )));
    }
    Ok(Interface::new(&word.text, inverted))
}

/// A protocol by number or name; zero stands for all.
pub(crate) fn protocol(word: &Word) -> Outcome<u8> {
    let name = word.text.to_ascii_lowercase();
    let number = match parse_number(&name) {
        Some(number) => u8::try_from(number).ok(),
        None if matches!(name.as_str(), "all" | "ip" | "hopopt") => Some(0),
        None => names::protocol_number(&name),
    };
    number.ok_or_else(|| {
        word.wrong(format!("unknown protocol `{}`", word.text))
            .help("expected a number of 0 to 255 or a name such as tcp")
            .words(format!("unknown protocol \"{name}\" specified"))
    })
}
