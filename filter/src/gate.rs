//! What every rule of a chain wants of a packet, so that a packet which lacks it needn't ask any.
//!
//! Many chains are about one interface or protocol: those of nat PREROUTING about the uplink, and
//! nobody else's packets. And a chain may have no rules at all.

use tidegate_packet::Parsed;

use crate::base::{Base, Interface, Protocol};
use crate::counters::Counters;
use crate::interpret::Walk;
use crate::query::{Hook, TableName};
use crate::ruleset::{Builtin, Policy, Rule, Ruleset, Table};
use crate::trail::{Observer, Trail};

/// Interfaces, or protocols, that a chain remembers at most: among more a walk is as quick.
const MOST: usize = 4;

/// Of what every rule of a chain wants one; `None`: there are rules that want nothing of the kind.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    inputs: Option<Box<[Interface]>>,
    outputs: Option<Box<[Interface]>>,
    protocols: Option<Box<[Protocol]>>,
}

impl Gate {
    pub fn new(rules: &[Rule]) -> Self {
        Self {
            inputs: all(rules, |base| base.input.as_ref()),
            outputs: all(rules, |base| base.output.as_ref()),
            protocols: all(rules, |base| base.protocol.as_ref()),
        }
    }

    /// Whether no rule can match such a packet.
    #[inline]
    fn is_closed(&self, packet: &Parsed, input: Option<&str>, output: Option<&str>) -> bool {
        let Self { inputs, outputs, protocols } = self;
        let lacks = |wanted: &Option<Box<[Interface]>>, name| {
            wanted.as_ref().is_some_and(|wanted| !wanted.iter().any(|i| i.matches(name)))
        };
        lacks(inputs, input)
            || protocols
                .as_ref()
                .is_some_and(|wanted| !wanted.iter().any(|p| p.matches(packet.protocol)))
            || lacks(outputs, output)
    }
}

/// What the rules want, if each wants something.
fn all<'r, T: Clone + PartialEq + 'r>(
    rules: &'r [Rule],
    wants: impl Fn(&'r Base) -> Option<&'r T>,
) -> Option<Box<[T]>> {
    let mut all: Vec<&T> = Vec::new();
    for rule in rules {
        let wanted = wants(&rule.base)?;
        if !all.contains(&wanted) {
            if all.len() == MOST {
                return None;
            }
            all.push(wanted);
        }
    }
    Some(all.into_iter().cloned().collect())
}

/// A built-in chain, where packets meet it.
#[derive(Copy, Clone)]
pub struct Entrance<'r> {
    pub(crate) table: &'r Table,
    /// Its place in the table.
    pub(crate) chain: usize,
    pub(crate) builtin: Builtin,
}

impl Ruleset {
    /// Where packets enter a table at a hook, if it is loaded and has a chain there.
    #[inline]
    pub fn entrance(&self, table: TableName, hook: Hook) -> Option<Entrance<'_>> {
        let table = self.table(table)?;
        let chain = table.builtin_at(hook)?;
        let builtin = table.chains[chain].builtin?;
        Some(Entrance { table, chain, builtin })
    }
}

impl<'r> Entrance<'r> {
    /// Begins a packet's walk.
    #[inline]
    pub fn walk(self) -> Walk<'r> {
        Walk::new(Some(self), self.builtin.hook)
    }

    /// Takes a packet that isn't traced past the chain if no rule can match it: it meets the policy
    /// alone, which is counted. `None`: it has to walk.
    #[inline]
    pub fn pass_by(
        self,
        packet: &Parsed,
        [input, output]: [Option<&str>; 2],
        counters: &mut Counters,
        trail: Option<&mut Trail>,
    ) -> Option<Policy> {
        let Self { table, chain, builtin } = self;
        if !table.chains[chain].content.gate.is_closed(packet, input, output) {
            return None;
        }
        if let Some(trail) = trail {
            trail.counts(builtin.counter);
        }
        counters.bump(builtin.counter, packet.len);
        Some(builtin.policy)
    }
}
