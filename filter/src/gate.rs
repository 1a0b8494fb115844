//! What every rule of a chain wants of a packet, so that a packet which lacks it needn't ask any.
//!
//! Many chains are about one interface or protocol: those of nat PREROUTING about the uplink, and
//! nobody else's packets. And a chain may have no rules at all.

use tidegate_packet::Parsed;

use crate::base::{Base, Interface, Protocol};
use crate::counters::Counters;
use crate::query::{Hook, TableName};
use crate::ruleset::{Rule, Ruleset};
use crate::trail::{Observer, Trail};
use crate::verdict::Verdict;

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

impl Ruleset {
    /// Takes a packet that isn't traced past a chain in which no rule can match it: it meets the
    /// chain's policy alone, which is counted. `None`: it has to walk.
    #[inline]
    pub fn pass_by(
        &self,
        (table, hook): (TableName, Hook),
        packet: &Parsed,
        [input, output]: [Option<&str>; 2],
        counters: &mut Counters,
        trail: Option<&mut Trail>,
    ) -> Option<Verdict> {
        let chain = self.table(table)?.builtin_chain(hook)?;
        let policy = chain.builtin?;
        if !chain.content.gate.is_closed(packet, input, output) {
            return None;
        }
        if let Some(trail) = trail {
            trail.counts(policy.counter);
        }
        counters.bump(policy.counter, packet.len);
        Some(policy.policy.into())
    }
}
