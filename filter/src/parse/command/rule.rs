//! The parts of a rule, and the command that it belongs to.

use tidegate_packet::Family;

use super::{Command, Parser, unknown_option};
use crate::ast::*;
use crate::base::Interface;
use crate::diagnostic::{Outcome, Problem};
use crate::extension::Opt;
use crate::lex::Word;
use crate::parse::option::{self, Found, Lookup, Own};
use crate::values::parse_number;
use crate::{matches, names, targets};

/// `IFNAMSIZ` less the final zero.
const MAX_INTERFACE: usize = 15;

/// The longest name of a target or a chain.
const MAX_TARGET: usize = 28;

impl<'t> Parser<'t> {
    pub(super) fn own(&mut self, word: &Word<'t>, own: Own, takes_value: bool) -> Outcome<()> {
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
        match own {
            Own::Append | Own::New | Own::Check | Own::Insert | Own::Delete | Own::Replace => {
                self.chain_command(own, word, value)
            }
            Own::Rename | Own::Policy | Own::Flush | Own::DeleteChain | Own::Zero => {
                self.chain_command(own, word, value)
            }
            _ => self.part(own, word, value, inverted),
        }
    }

    /// A command with its chain and what follows.
    fn chain_command(&mut self, own: Own, word: &Word<'t>, value: Option<Word<'t>>) -> Outcome<()> {
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
            _ => Err(unknown_option(word)),
        }
    }

    /// A part of a rule.
    fn part(
        &mut self,
        own: Own,
        word: &Word<'t>,
        value: Option<Word<'t>>,
        inverted: bool,
    ) -> Outcome<()> {
        match (own, value) {
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
                    return Err(value
                        .wrong("no packet can match ! -p all")
                        .words("rule would never match protocol"));
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
            (Own::Counters, Some(packets)) => self.counters(word, &packets),
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

    fn set_command(
        &mut self,
        own: Own,
        word: &Word<'t>,
        chain: Option<Word<'t>>,
        second: Option<Word<'t>>,
    ) -> Outcome<()> {
        let listing = self.listing.as_ref().filter(|_| own != Own::Zero);
        if let Some(earlier) = self.command.as_ref().or(listing) {
            return Err(both_commands(word, own, earlier));
        }
        self.command = Some(Command { own, word: word.clone(), chain, second });
        Ok(())
    }

    fn addresses(&self, option: &Word<'_>, value: &Word<'_>, inverted: bool) -> Outcome<Addresses> {
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
                .help("write one negated rule per address, or a chain of RETURNs")
                .words("! not allowed with multiple source or destination IP addresses"));
        }
        Ok(Addresses { networks, inverted })
    }

    fn open_match(&mut self, name: Word<'t>) -> Outcome<()> {
        let Some(spec) = matches::find(&name.text, self.family) else {
            if let Some(why) = matches::refused(&name.text) {
                return Err(name.wrong(format!("{} {why}", name.text)));
            }
            let words = format!("Couldn't load match `{}':No such file or directory\n", name.text);
            return Err(name
                .wrong(format!("there is no match `{}`", name.text))
                .words(words)
                .nearest(&name.text, matches::names(self.family)));
        };
        // An explicit `-m tcp` serves `-p tcp` as well.
        self.rule
            .matches
            .push(MatchAst { spec, extension: ExtensionAst { name, options: Vec::new() } });
        Ok(())
    }

    fn one_action(&self, word: &Word<'_>) -> Outcome<()> {
        match (&self.rule.action, &self.target) {
            (ActionAst::None, None) => Ok(()),
            // To iptables both are -j.
            _ => Err(word
                .wrong("a rule can have only one -j or -g")
                .words("multiple -j flags not allowed")),
        }
    }

    fn jump(&mut self, word: &Word<'t>, name: Word<'t>) -> Outcome<()> {
        self.one_action(word)?;
        if name.text.is_empty() {
            return Err(name
                .wrong("a target without a name")
                .words("Invalid target name (too short)"));
        }
        if name.text.len() > MAX_TARGET {
            return Err(name
                .wrong(format!("`{}` is too long for a name", name.text))
                .words(format!("Invalid target name `{}' ({MAX_TARGET} chars max)", name.text)));
        }
        match targets::find(&name.text, self.family) {
            Some(spec) => {
                self.target = Some((spec, ExtensionAst { name, options: Vec::new() }));
                self.target_at = self.rule.matches.len();
            }
            None => self.rule.action = ActionAst::Jump(name),
        }
        Ok(())
    }

    /// Opens the extension that the protocol implies: `-p tcp --dport 22` needs no `-m tcp`.
    pub(super) fn load_protocol(&mut self) -> bool {
        if self.protocol_loaded {
            return false;
        }
        self.protocol_loaded = true;
        let Some(protocol) = &self.rule.protocol else { return false };
        let Some(name) = names::protocol_name(protocol.number) else { return false };
        let Some(spec) = matches::find(name, self.family) else { return false };
        let word = Word { text: spec.name.into(), ..protocol.word.clone() };
        let extension = ExtensionAst { name: word, options: Vec::new() };
        self.rule.matches.push(MatchAst { spec, extension });
        true
    }

    pub(super) fn extension_option(
        &mut self,
        word: &Word<'t>,
        index: usize,
        opt: &'static Opt,
    ) -> Outcome<()> {
        let mut values = Values::default();
        for n in 0..opt.values {
            let value = self.value(word, opt.invert && n == 0);
            values.push(value.map_err(|problem| match n {
                0 => problem,
                _ => problem.words(format!("--{} requires two args.", opt.names[0])),
            })?);
        }
        // Without a value a `!` behind the option belongs to the next one.
        let bang = self.negation.take();
        if let Some(bang) = &bang
            && !opt.invert
        {
            let name = self.extension_name(index);
            let words = format!("{name}: option \"--{}\" cannot be inverted.\n", opt.names[0]);
            return Err(bang.wrong(format!("--{} can't be negated", opt.names[0])).words(words));
        }
        let extension = match self.rule.matches.get_mut(index) {
            Some(m) => &mut m.extension,
            None => match &mut self.target {
                Some((_, extension)) => extension,
                None => return Err(word.wrong("an option without its extension")),
            },
        };
        if !opt.repeats && extension.options.iter().any(|o| std::ptr::eq(o.opt, opt)) {
            let message = format!("--{} may be given only once", opt.names[0]);
            return Err(word.wrong(message).words(repeated(&extension.name.text, opt.names[0])));
        }
        let span = word.span.start..values.last().map_or(word.span.end, |v| v.span.end);
        extension.options.push(OptionAst { opt, span, inverted: bang.is_some(), values });
        Ok(())
    }

    /// `-c PACKETS BYTES`.
    fn counters(&mut self, word: &Word<'t>, packets: &Word<'t>) -> Outcome<()> {
        let bytes = self
            .value(word, false)
            .map_err(|problem| problem.words("-c requires packet and byte counter"))?;
        let number = |word: &Word<'_>, what| {
            let words = match bytes.text.starts_with('-') {
                true => "-c requires packet and byte counter".to_owned(),
                false => format!("-c {what} counter not numeric"),
            };
            word.number(0..=u64::MAX).map_err(|problem| problem.words(words))
        };
        self.rule.count.packets = number(packets, "packet")?;
        self.rule.count.bytes = number(&bytes, "byte")?;
        if let Some(switches) = &mut self.switches {
            switches.counters = true;
        }
        Ok(())
    }

    fn extension_name(&self, index: usize) -> &str {
        let target = self.target.as_ref().map(|(_, extension)| extension);
        let found = self.rule.matches.get(index).map(|m| &m.extension).or(target);
        found.map_or("", |extension| &extension.name.text)
    }
}

pub(super) fn both_commands(word: &Word<'_>, own: Own, earlier: &Command<'_>) -> Problem {
    let words = format!("Cannot use -{} with -{}", own.letter(), earlier.own.letter());
    word.wrong(format!("{} after {}", word.text, earlier.word.text)).words(words)
}

fn multiple(word: &Word<'_>) -> String {
    let long = word.text.strip_prefix("--").unwrap_or("");
    match option::long(long, std::iter::empty()) {
        Lookup::One(Found::Own { own, .. }) => {
            format!("multiple -{} flags not allowed", own.letter())
        }
        _ => format!("multiple {} flags not allowed", word.text),
    }
}

/// An option of an extension that was there before.
fn repeated(extension: &str, name: &str) -> String {
    match (extension, name) {
        // Its reader is older than the others'.
        ("tcp", "syn" | "tcp-flags") => "Only one of `--syn' or `--tcp-flags'  allowed".to_owned(),
        ("tcp", _) => format!("Only one `--{name}' allowed"),
        _ => format!("{extension}: option \"--{name}\" can only be used once.\n"),
    }
}

pub(super) fn twice(word: &Word<'_>) -> Problem {
    word.wrong(format!("{} may be given only once", word.text)).words(multiple(word))
}

fn once<T>(place: &mut Option<T>, value: T, word: &Word<'_>) -> Outcome<()> {
    if place.is_some() {
        return Err(twice(word));
    }
    *place = Some(value);
    Ok(())
}

fn interface(word: &Word<'_>, inverted: bool) -> Outcome<Interface> {
    if word.text.is_empty() {
        return Err(word
            .wrong("an interface without a name")
            .words("Empty interface is likely to be undesired"));
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
pub(crate) fn protocol(word: &Word<'_>) -> Outcome<u8> {
    let name = word.text.to_ascii_lowercase();
    let number = match parse_number(&name) {
        Some(number) => u8::try_from(number).ok(),
        None if matches!(name.as_str(), "all" | "ip" | "hopopt") => Some(0),
        None => names::protocol_number(&name),
    };
    number.ok_or_else(|| {
        word.wrong(format!("unknown protocol `{}`", word.text))
            .help("expected a number of 0 to 255 or a name such as tcp")
            .nearest(&name, names::protocols())
            .words(format!("unknown protocol \"{name}\" specified"))
    })
}
