//! The plain interpreter: what rules mean.
//!
//! A walk keeps a stack of places to return to. `-j CHAIN` pushes one, `-g CHAIN` doesn't; RETURN and
//! the end of a user's chain pop one. With an empty stack RETURN means the built-in chain's policy.
//! (That is how xtables walks; RETURN from a chain entered by goto goes back to the last jump.)
//!
//! A target that changes the packet or its connection ends a leg of the walk: [`Walk::resume`] gives
//! the [`Edit`] to the caller, who owns both, makes the change and resumes with what is there now.

use crate::classify::{Candidates, Facts};
use crate::counters::Counters;
use crate::edit::Edit;
use crate::effects::{Effects, NoEffects, TraceRecord, TraceStep};
use crate::extension::{Context, Match, Next, Target};
use crate::gate::Entrance;
use crate::memory::Memory;
use crate::query::{CtState, Hook, Query, TableName};
use crate::ruleset::{Action, Builtin, Chain, Content, Rule, Ruleset, Table};
use crate::trail::{Observer, Trail};
use crate::verdict::{NatAction, Verdict};

/// A packet's walk through one table's chain at a hook.
pub struct Walk<'r> {
    /// The table and what its chain decides at the end; absent: every packet passes.
    at: Option<(&'r Table, Builtin)>,
    hook: Hook,
    place: Place,
    stack: Stack,
    /// The rules of the present chain that the packet can match, once they were looked up.
    candidates: Option<Candidates<'r>>,
    /// Ask every rule.
    plain: bool,
    /// The mark as targets on the way have left it.
    mark: Option<u32>,
    /// Labels that matches on the way have given to the connection.
    labels: u128,
    /// Random numbers drawn so far.
    draws: u64,
}

/// Where a leg of a walk ended.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The table has decided.
    Done(Verdict),
    /// Make this change and resume.
    Edit(Edit),
}

impl Ruleset {
    /// Begins a packet's walk. A table that isn't loaded accepts.
    pub fn walk(&self, table: TableName, hook: Hook) -> Walk<'_> {
        Walk::new(self.entrance(table, hook), hook)
    }

    /// The same, asking one rule after the other: what a walk has to agree with.
    pub fn walk_plainly(&self, table: TableName, hook: Hook) -> Walk<'_> {
        Walk { plain: true, ..self.walk(table, hook) }
    }

    /// Whether a source translation in nat POSTROUTING would take this packet if it were the first
    /// of its connection, or the chain would drop it (as a match does that meets a header cut
    /// short). Nothing is counted or remembered.
    pub fn covers_source(&self, query: &Query<'_>, memory: &Memory) -> bool {
        let Some(verdict) = self.first_packet(Hook::Postrouting, query, memory) else {
            return false;
        };
        // In POSTROUTING a NETMAP is one of the source.
        matches!(
            verdict,
            Verdict::Drop
                | Verdict::Nat(
                    NatAction::Source(_) | NatAction::Masquerade(_) | NatAction::Netmap { .. }
                )
        )
    }

    /// How the nat table would translate this packet's destination if it were the first of its
    /// connection. Nothing is counted or remembered.
    pub fn destination(&self, hook: Hook, query: &Query<'_>, memory: &Memory) -> Option<NatAction> {
        match self.first_packet(hook, query, memory)? {
            Verdict::Nat(action) => Some(action),
            _ => None,
        }
    }

    /// How many rules are asked about this packet: a measure of how well long chains are searched.
    /// `plainly`, all on the way are. Nothing is counted or remembered.
    pub fn rules_asked(
        &self,
        (table, hook): (TableName, Hook),
        query: &Query<'_>,
        memory: &Memory,
        plainly: bool,
    ) -> usize {
        let mut walk = Walk { plain: plainly, ..self.walk(table, hook) };
        let mut asked = Asked(0);
        // What an edit would change isn't changed for a question.
        while let Step::Edit(_) = walk.leg(query, None, memory, &mut NoEffects, &mut asked) {}
        asked.0
    }

    fn first_packet(&self, hook: Hook, query: &Query<'_>, memory: &Memory) -> Option<Verdict> {
        self.table(TableName::Nat)?;
        let query = Query { state: CtState::New, connection: None, ..*query };
        let mut walk = self.walk(TableName::Nat, hook);
        loop {
            match walk.leg(&query, None, memory, &mut NoEffects, &mut ()) {
                Step::Done(verdict) => return Some(verdict),
                Step::Edit(_) => {}
            }
        }
    }
}

impl<'r> Walk<'r> {
    #[inline]
    pub(crate) fn new(entrance: Option<Entrance<'r>>, hook: Hook) -> Self {
        Self {
            at: entrance.map(|entrance| (entrance.table, entrance.builtin)),
            hook,
            place: Place { chain: entrance.map_or(0, |entrance| entrance.chain), next: 0 },
            stack: Stack::default(),
            candidates: None,
            plain: false,
            mark: None,
            labels: 0,
            draws: 0,
        }
    }

    /// Goes on until the table decides or the packet has to be changed. Counts every rule that
    /// matched, and the policy if that decided.
    pub fn resume(
        &mut self,
        query: &Query<'_>,
        counters: &mut Counters,
        memory: &Memory,
        effects: &mut dyn Effects,
    ) -> Step {
        self.leg(query, Some(counters), memory, effects, &mut ())
    }

    /// The same, and `trail` gets what has to be known to spare the rest of the flow this walk.
    pub fn resume_on_trail(
        &mut self,
        query: &Query<'_>,
        counters: &mut Counters,
        memory: &Memory,
        effects: &mut dyn Effects,
        trail: &mut Trail,
    ) -> Step {
        self.leg(query, Some(counters), memory, effects, trail)
    }

    /// Without counters it is a question, not a packet: nothing may be remembered.
    fn leg<O: Observer>(
        &mut self,
        query: &Query<'_>,
        counters: Option<&mut Counters>,
        memory: &Memory,
        effects: &mut dyn Effects,
        observer: &mut O,
    ) -> Step {
        let Some((table, builtin)) = self.at else { return Step::Done(Verdict::Accept) };
        let mut context = Context {
            query,
            table: table.name,
            hook: self.hook,
            memory,
            effects,
            mark: self.mark.unwrap_or(query.mark),
            labels: self.labels,
            draws: self.draws,
            hotdrop: false,
            dry: counters.is_none(),
        };
        self.candidates = None;
        let step = self.rules(table, builtin, &mut context, counters, observer);
        self.mark = Some(context.mark);
        self.labels = context.labels;
        self.draws = context.draws;
        step
    }

    fn rules<O: Observer>(
        &mut self,
        table: &'r Table,
        builtin: Builtin,
        context: &mut Context<'_>,
        mut counters: Option<&mut Counters>,
        observer: &mut O,
    ) -> Step {
        let bytes = context.query.packet.len;
        let mut count = |index, observer: &mut O| {
            observer.counts(index);
            if let Some(counters) = counters.as_deref_mut() {
                counters.bump(index, bytes);
            }
        };
        let mut facts = Lazy::Unknown;
        let mut content = &*table.chains[self.place.chain].content;
        loop {
            let Some((number, rule)) = self.next(content, context.query, &mut facts) else {
                match self.stack.pop() {
                    Some(place) => {
                        self.place.trace_end(table, context, TraceStep::Return);
                        content = self.go(table, place);
                    }
                    None => break,
                }
                continue;
            };
            self.place.next = number + 1;
            observer.meets();
            if !rule.matches(context, observer) {
                if context.hotdrop {
                    return Step::Done(Verdict::Drop);
                }
                continue;
            }
            count(rule.counter, observer);
            if context.query.trace {
                self.place.trace(table, context, rule);
            }
            match &rule.action {
                Action::None => {}
                Action::Accept => return Step::Done(Verdict::Accept),
                Action::Drop => return Step::Done(Verdict::Drop),
                Action::Return => match self.stack.pop() {
                    Some(place) => content = self.go(table, place),
                    None => break,
                },
                Action::Jump(chain) => {
                    self.stack.push(self.place);
                    content = self.go(table, Place { chain: *chain, next: 0 });
                }
                Action::Goto(chain) => {
                    content = self.go(table, Place { chain: *chain, next: 0 });
                }
                Action::Target(_, target) => {
                    observer.applies(&**target);
                    match target.apply(context) {
                        Next::Continue => {}
                        Next::Edit(edit) => {
                            observer.edits();
                            return Step::Edit(edit);
                        }
                        Next::Final(verdict) => return Step::Done(verdict),
                    }
                }
            }
        }
        if let Some(start) = table.builtin_at(self.hook) {
            let place = Place { chain: start, next: 0 };
            place.trace_end(table, context, TraceStep::Policy);
        }
        count(builtin.counter, observer);
        Step::Done(builtin.policy.into())
    }
}

impl<'r> Walk<'r> {
    fn go(&mut self, table: &'r Table, place: Place) -> &'r Content {
        self.place = place;
        self.candidates = None;
        &table.chains[place.chain].content
    }

    /// The next rule to ask, with its number.
    #[inline]
    fn next(
        &mut self,
        content: &'r Content,
        query: &Query<'_>,
        facts: &mut Lazy,
    ) -> Option<(usize, &'r Rule)> {
        let mut number = self.place.next;
        if let Some(classifier) = content.classifier.as_ref().filter(|_| !self.plain)
            && let Some(facts) = facts.get(query)
        {
            let candidates = &mut self.candidates;
            number = candidates.get_or_insert_with(|| classifier.candidates(facts)).next(number)?;
        }
        Some((number, content.rules.get(number)?))
    }
}

/// What classifiers look at, read from the packet when the first asks.
enum Lazy {
    Unknown,
    Known(Option<Facts>),
}

impl Lazy {
    fn get(&mut self, query: &Query<'_>) -> Option<&Facts> {
        if matches!(self, Self::Unknown) {
            *self = Self::Known(Facts::of(query));
        }
        match self {
            Self::Known(facts) => facts.as_ref(),
            Self::Unknown => None,
        }
    }
}

/// Counts the rules that are asked.
struct Asked(usize);

impl Observer for Asked {
    fn meets(&mut self) {
        self.0 += 1;
    }

    fn counts(&mut self, _: usize) {}
    fn asks(&mut self, _: &dyn Match) {}
    fn applies(&mut self, _: &dyn Target) {}
    fn edits(&mut self) {}
}

/// A place in a chain: its number in the table and that of the next rule.
#[derive(Copy, Clone, Default)]
struct Place {
    chain: usize,
    next: usize,
}

impl Place {
    /// Tells of a rule that matched; the place is behind it already.
    fn trace(&self, table: &Table, context: &mut Context<'_>, rule: &Rule) {
        let Some(chain) = table.chains.get(self.chain) else { return };
        // The kernel can't tell an unconditional verdict from the end of a chain.
        let tail = match rule.action {
            Action::Accept | Action::Drop | Action::Return => rule.is_unconditional(),
            _ => false,
        };
        let step = match tail {
            true if chain.builtin.is_some() => TraceStep::Policy,
            true => TraceStep::Return,
            false => TraceStep::Rule,
        };
        self.tell(chain, context, step, self.next);
    }

    /// Tells of the end of a chain, which counts as one more rule.
    fn trace_end(&self, table: &Table, context: &mut Context<'_>, step: TraceStep) {
        if context.query.trace
            && let Some(chain) = table.chains.get(self.chain)
        {
            self.tell(chain, context, step, chain.content.rules.len() + 1);
        }
    }

    fn tell(&self, chain: &Chain, context: &mut Context<'_>, step: TraceStep, number: usize) {
        context.effects.trace(TraceRecord {
            table: context.table,
            chain: &chain.name,
            step,
            number,
            hook: context.hook,
            query: context.query,
            mark: context.mark,
        });
    }
}

/// Places to return to. Few rulesets nest deeper than the array, and only they pay for more.
#[derive(Default)]
struct Stack {
    near: [Place; 8],
    len: usize,
    far: Vec<Place>,
}

impl Stack {
    #[inline]
    fn push(&mut self, place: Place) {
        match self.near.get_mut(self.len) {
            Some(slot) => {
                *slot = place;
                self.len += 1;
            }
            None => self.far.push(place),
        }
    }

    #[inline]
    fn pop(&mut self) -> Option<Place> {
        if let Some(place) = self.far.pop() {
            return Some(place);
        }
        self.len = self.len.checked_sub(1)?;
        self.near.get(self.len).copied()
    }
}

impl Rule {
    /// Left to right, and no further than the first that doesn't match.
    fn matches<O: Observer>(&self, context: &mut Context<'_>, observer: &mut O) -> bool {
        self.base.matches(context.query)
            && self.matches.iter().all(|m| {
                observer.asks(&*m.test);
                m.test.matches(context) && !context.hotdrop
            })
    }

    /// Whether every packet matches.
    fn is_unconditional(&self) -> bool {
        self.matches.is_empty() && self.base.is_any()
    }
}
