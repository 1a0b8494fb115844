//! The plain interpreter: what rules mean.
//!
//! A walk keeps a stack of places to return to. `-j CHAIN` pushes one, `-g CHAIN` doesn't; RETURN and
//! the end of a user's chain pop one. With an empty stack RETURN means the built-in chain's policy.
//! (That is how xtables walks; RETURN from a chain entered by goto goes back to the last jump.)

use crate::counters::Counters;
use crate::effects::{Effects, NoEffects};
use crate::extension::{Context, Next};
use crate::memory::Memory;
use crate::query::{CtState, Hook, Query, TableName};
use crate::ruleset::{Action, Policy, Rule, Ruleset, Table};
use crate::verdict::{NatAction, Verdict};

impl Ruleset {
    /// Walks a packet through one table's chain at a hook. Counts every rule that matched, and the
    /// policy if that decided. A table that isn't loaded accepts.
    pub fn evaluate(
        &self,
        table: TableName,
        hook: Hook,
        query: &Query<'_>,
        counters: &mut Counters,
        memory: &Memory,
        effects: &mut dyn Effects,
    ) -> Verdict {
        let Some(found) = self.table(table) else { return Verdict::Accept };
        let mut context = Context {
            query,
            table,
            hook,
            memory,
            effects,
            mark: query.mark,
            hotdrop: false,
            dry: false,
        };
        found.walk(&mut context, Some(counters))
    }

    /// Whether a source translation in nat POSTROUTING would take this packet if it were the first
    /// of its connection, or the chain would drop it (as a match does that meets a header cut
    /// short). Nothing is counted or remembered.
    pub fn covers_source(&self, query: &Query<'_>, memory: &Memory) -> bool {
        let Some(table) = self.table(TableName::Nat) else { return false };
        let query = Query { state: CtState::New, connection: None, ..*query };
        let mut context = Context {
            query: &query,
            table: TableName::Nat,
            hook: Hook::Postrouting,
            memory,
            effects: &mut NoEffects,
            mark: query.mark,
            hotdrop: false,
            dry: true,
        };
        // In POSTROUTING a NETMAP is one of the source.
        matches!(
            table.walk(&mut context, None),
            Verdict::Drop
                | Verdict::Nat(
                    NatAction::Source(_) | NatAction::Masquerade(_) | NatAction::Netmap { .. }
                )
        )
    }
}

impl Table {
    fn walk(&self, context: &mut Context<'_>, mut counters: Option<&mut Counters>) -> Verdict {
        let Some((start, builtin)) = self.builtin(context.hook) else { return Verdict::Accept };
        let bytes = context.query.packet.len;
        let mut count = |index| {
            if let Some(counters) = counters.as_deref_mut() {
                counters.bump(index, bytes);
            }
        };
        let mut stack = Stack::default();
        let mut rules = start.rules.as_slice();
        loop {
            let Some((rule, rest)) = rules.split_first() else {
                match stack.pop() {
                    Some(place) => rules = place,
                    None => break,
                }
                continue;
            };
            rules = rest;
            if !rule.matches(context) {
                if context.hotdrop {
                    return Verdict::Drop;
                }
                continue;
            }
            count(rule.counter);
            match &rule.action {
                Action::None => {}
                Action::Accept => return Verdict::Accept,
                Action::Drop => return Verdict::Drop,
                Action::Return => rules = stack.pop().unwrap_or_default(),
                Action::Jump(chain) => {
                    stack.push(rules);
                    rules = &self.chains[*chain].rules;
                }
                Action::Goto(chain) => rules = &self.chains[*chain].rules,
                Action::Target(_, target) => {
                    if let Next::Final(verdict) = target.apply(context) {
                        return verdict;
                    }
                }
            }
        }
        count(builtin.counter);
        match builtin.policy {
            Policy::Accept => Verdict::Accept,
            Policy::Drop => Verdict::Drop,
        }
    }
}

/// Places to return to. Few rulesets nest deeper than the array, and only they pay for more.
#[derive(Default)]
struct Stack<'a> {
    near: [&'a [Rule]; 8],
    len: usize,
    far: Vec<&'a [Rule]>,
}

impl<'a> Stack<'a> {
    #[inline]
    fn push(&mut self, place: &'a [Rule]) {
        match self.near.get_mut(self.len) {
            Some(slot) => {
                *slot = place;
                self.len += 1;
            }
            None => self.far.push(place),
        }
    }

    #[inline]
    fn pop(&mut self) -> Option<&'a [Rule]> {
        if let Some(place) = self.far.pop() {
            return Some(place);
        }
        self.len = self.len.checked_sub(1)?;
        self.near.get(self.len).copied()
    }
}

impl Rule {
    /// Left to right, and no further than the first that doesn't match.
    fn matches(&self, context: &mut Context<'_>) -> bool {
        self.base.matches(context.query)
            && self.matches.iter().all(|m| m.test.matches(context) && !context.hotdrop)
    }
}
