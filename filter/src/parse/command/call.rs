//! The words of a call of the command `iptables`: what is about the call and not about a rule.

use tidegate_packet::Family;

use super::rule::{both_commands, twice};
use super::{Command, Parser, rule_number};
use crate::ast::{ActionAst, ItemAst};
use crate::counters::Count;
use crate::diagnostic::{Outcome, Problem};
use crate::lex::Word;
use crate::names;
use crate::parse::option::Own;

/// What the command `iptables` was called with.
#[derive(Debug, Default)]
pub(crate) struct CommandLine<'t> {
    pub switches: Switches<'t>,
    /// `-L` or `-S`, with a chain and a rule's number.
    pub list: Option<Listing<'t>>,
    /// What is to be changed; with a listing only `-Z`.
    pub item: Option<ItemAst<'t>>,
}

/// `-L` or `-S`.
#[derive(Debug)]
pub(crate) struct Listing<'t> {
    /// `-S`.
    pub as_rules: bool,
    pub chain: Option<Word<'t>>,
    pub number: Option<Word<'t>>,
}

/// The options of the command `iptables` that are about the call.
#[derive(Debug, Default)]
pub(crate) struct Switches<'t> {
    pub table: Option<Word<'t>>,
    pub numeric: bool,
    pub verbose: bool,
    pub exact: bool,
    pub line_numbers: bool,
    pub version: bool,
    pub help: bool,
    wait: bool,
    pub wait_interval: bool,
    pub(super) counters: bool,
}

/// Reads the words of a call.
pub(crate) fn call<'t>(words: Vec<Word<'t>>, family: Family) -> Outcome<CommandLine<'t>> {
    let end = words.last().map_or(0, |word| word.span.end);
    let mut parser = Parser::new(words, 0..end, family, Count::default());
    parser.switches = Some(Switches::default());
    parser.run()?;
    parser.finish_call()
}

impl<'t> Parser<'t> {
    /// `-nvL`, `-tnat`: what stands behind the first letter is its value, or more letters.
    pub(super) fn split(&mut self, word: &Word<'t>, own: Own, value: bool) {
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
        let text = text.into();
        self.words.insert(self.at, Word { text, ..word.clone() });
    }

    /// An option that is about the call.
    pub(super) fn switch(
        &mut self,
        word: &Word<'t>,
        own: Own,
        value: Option<Word<'t>>,
    ) -> Outcome<()> {
        if self.switches.is_none() {
            return match own {
                Own::Verbose | Own::Exact => Ok(()),
                Own::Table => Err(word.wrong("-t has no place inside a *table").words(format!(
                    "The -t option cannot be used in {}-restore.\n",
                    names::program(self.family)
                ))),
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
            // The last one counts.
            Own::Table => {
                switches.table = value;
                return Ok(());
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
            Own::Wait => {
                switches.wait = true;
                return Ok(());
            }
            _ => {
                switches.wait_interval = true;
                return Ok(());
            }
        };
        if std::mem::replace(given, true) {
            return Err(twice(word));
        }
        Ok(())
    }

    fn finish_call(mut self) -> Outcome<CommandLine<'t>> {
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
    fn of(parser: &Parser<'_>, switches: &Switches<'_>) -> Self {
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

    fn check(&self, Command { own, word, second, .. }: &Command<'_>) -> Outcome<()> {
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
