//! One command line: `-A CHAIN …` and its kin.

use tidegate_packet::Family;

use super::file::leading_count;
use super::option::{self, Found, Lookup, Own};
use crate::ast::*;
use crate::base::Interface;
use crate::diagnostic::{Outcome, Problem};
use crate::lex::{self, Word};
use crate::names;
use crate::values::parse_number;
use crate::{matches, targets};

/// `IFNAMSIZ` less the final zero.
const MAX_INTERFACE: usize = 15;

/// Reads a command line. `None` if it is meant for the other family (`-4`, `-6`).
pub(super) fn command(body: &str, start: usize, family: Family) -> Outcome<Option<ItemAst>> {
    let (count, skip) = leading_count(body, start)?;
    let words = lex::split(&body[skip..], start + skip)?;
    let line = start..start + body.len();
    let rule = RuleAst {
        span: line.clone(),
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
    let mut parser = Parser {
        family,
        words,
        at: 0,
        negation: None,
        command: None,
        rule,
        target: None,
        protocol_loaded: false,
        other_family: false,
    };
    parser.run()?;
    if parser.other_family {
        return Ok(None);
    }
    parser.finish().map(Some)
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

struct Parser {
    family: Family,
    words: Vec<Word>,
    at: usize,
    /// The `!` before the option at hand.
    negation: Option<Word>,
    command: Option<Command>,
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
                return Err(bang.wrong(format!("! is not allowed before {}", word.text)));
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
        let missing = |word: &Word| word.wrong(format!("{} needs a value", word.text));
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
                .help("expected an option"));
        };
        let Some((own, value)) = option::short(letter) else {
            return Err(word.wrong(format!("unknown option `{}`", word.text)));
        };
        if letters.next().is_some() {
            return Err(
                word.wrong(format!("`{}`: a value must stand apart from its option", word.text))
            );
        }
        self.own(word, own, value)
    }

    fn long(&mut self, word: &Word, name: &str) -> Outcome<()> {
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
                        .help(format!("expected {which}")));
                }
                Lookup::None if self.load_protocol() => {}
                Lookup::None => {
                    return Err(word.wrong(format!("unknown option `{}`", word.text)).help(
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
        if extension.options.iter().any(|o| std::ptr::eq(o.opt, opt)) {
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
            (Own::Append, Some(chain)) => self.set_command(own, word, Some(chain), None),
            (Own::New, Some(chain)) => self.set_command(own, word, Some(chain), None),
            (Own::Insert | Own::Delete | Own::Replace, Some(chain)) => {
                let number = self.optional_value();
                self.set_command(own, word, Some(chain), number)
            }
            (Own::Rename | Own::Policy, Some(chain)) => {
                let second = self.value(word, false)?;
                self.set_command(own, word, Some(chain), Some(second))
            }
            (Own::Flush | Own::DeleteChain | Own::Zero, _) => {
                let chain = self.optional_value();
                self.set_command(own, word, chain, None)
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
                let bytes = self.value(word, false)?;
                self.rule.count.packets = packets.number(0..=u64::MAX)?;
                self.rule.count.bytes = bytes.number(0..=u64::MAX)?;
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
            (Own::Verbose | Own::Exact, _) => Ok(()),
            (Own::Table, _) => Err(word.wrong("-t has no place inside a *table")),
            _ => Err(word.wrong(format!("{} has no place in a rules file", word.text))),
        }
    }

    fn set_command(
        &mut self,
        own: Own,
        word: &Word,
        chain: Option<Word>,
        second: Option<Word>,
    ) -> Outcome<()> {
        if let Some(earlier) = &self.command {
            return Err(word.wrong(format!("{} after {}", word.text, earlier.word.text)));
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
            return Err(name.wrong(format!("there is no match `{}`", name.text)));
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
            _ => Err(word.wrong("a rule can have only one -j or -g")),
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
        let numbered = |n: &Word| match parse_number(&n.text).and_then(|n| u32::try_from(n).ok()) {
            Some(number) if number > 0 => Ok(number),
            _ => Err(n.wrong(format!("bad rule number `{}`", n.text))),
        };
        if !matches!(own, Own::Append | Own::Insert | Own::Replace | Own::Delete)
            && !self.rule_is_empty()
        {
            return Err(word.wrong(format!("{} doesn't take a rule", word.text)));
        }
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
                let n = second.ok_or_else(second_missing)?;
                let place = Place::Replace(numbered(&n)?, n.span.clone());
                ItemAst::Rule { chain: chain.ok_or_else(missing)?, place, rule }
            }
            Own::Delete => match second {
                Some(number) => ItemAst::DeleteNumber { chain: chain.ok_or_else(missing)?, number },
                None => {
                    ItemAst::Rule { chain: chain.ok_or_else(missing)?, place: Place::Delete, rule }
                }
            },
            Own::New => ItemAst::New(chain.ok_or_else(missing)?),
            Own::Rename => {
                ItemAst::Rename(chain.ok_or_else(missing)?, second.ok_or_else(second_missing)?)
            }
            Own::Policy => ItemAst::Policy {
                name: chain.ok_or_else(missing)?,
                policy: second.ok_or_else(second_missing)?,
            },
            Own::Flush => ItemAst::Flush(chain),
            Own::Zero => ItemAst::Zero(chain),
            Own::DeleteChain => ItemAst::DeleteChain(chain),
            _ => return Err(word.wrong(format!("{} has no place in a rules file", word.text))),
        })
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

fn once<T>(place: &mut Option<T>, value: T, word: &Word) -> Outcome<()> {
    if place.is_some() {
        return Err(word.wrong(format!("{} may be given only once", word.text)));
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
            .help(format!("expected at most {MAX_INTERFACE} characters")));
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
    })
}
