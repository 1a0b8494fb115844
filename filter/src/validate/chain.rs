//! A chain while its table is changed.

use std::sync::Arc;

use super::rule::{Draft, Tally};
use crate::counters::{Count, Slots};
use crate::query::Hook;
use crate::ruleset::{Builtin, Chain, Content, Policy, Rule};

/// A chain while the table's lines are read. As long as nothing is changed in it, it is what it was.
pub(super) struct ChainDraft {
    /// Empty if there is no such chain any more.
    pub name: Arc<str>,
    pub hook: Option<Hook>,
    pub policy: Policy,
    /// Of the policy; where it is counted, unless it is new.
    pub count: Tally,
    pub counter: usize,
    /// The hooks from which it can be reached.
    pub hooks: u8,
    /// What is in force.
    base: Option<Arc<Content>>,
    /// What is to become of it, once it was opened.
    drafts: Option<Vec<Draft>>,
    leads: Vec<(usize, usize)>,
}

impl ChainDraft {
    /// A new chain without rules.
    pub fn new(name: Arc<str>, hook: Option<Hook>) -> Self {
        Self {
            name,
            hook,
            policy: Policy::Accept,
            count: Tally::Fresh(Count::default()),
            counter: usize::MAX,
            hooks: 0,
            base: None,
            drafts: Some(Vec::new()),
            leads: Vec::new(),
        }
    }

    /// A chain that is in force.
    pub fn of(chain: &Chain) -> Self {
        Self {
            name: chain.name.clone(),
            hook: chain.builtin.map(|b| b.hook),
            policy: chain.builtin.map_or(Policy::Accept, |b| b.policy),
            count: Tally::Kept,
            counter: chain.builtin.map_or(usize::MAX, |b| b.counter),
            hooks: chain.hooks,
            base: Some(chain.content.clone()),
            drafts: None,
            leads: Vec::new(),
        }
    }

    /// Whether the number is free.
    pub fn is_vacant(&self) -> bool {
        self.name.is_empty()
    }

    /// The rules, to be changed.
    pub fn open(&mut self) -> &mut Vec<Draft> {
        let base = self.base.as_deref();
        self.drafts.get_or_insert_with(|| {
            base.map_or_else(Vec::new, |base| base.rules.iter().map(Draft::present).collect())
        })
    }

    /// Takes out all rules; their places in the counters are `freed`.
    pub fn clear(&mut self, freed: &mut Vec<usize>) {
        match (&self.drafts, &self.base) {
            (Some(drafts), _) => freed.extend(drafts.iter().filter_map(Draft::old_place)),
            (None, Some(base)) => freed.extend(base.rules.iter().map(|rule| rule.counter)),
            (None, None) => {}
        }
        self.drafts = Some(Vec::new());
        self.base = None;
    }

    /// Its rules as drafts, if it was opened.
    pub fn drafts(&self) -> Option<&[Draft]> {
        self.drafts.as_deref()
    }

    /// Whether it has no rules.
    pub fn is_empty(&self) -> bool {
        match (&self.drafts, &self.base) {
            (Some(drafts), _) => drafts.is_empty(),
            (None, base) => base.as_ref().is_none_or(|base| base.rules.is_empty()),
        }
    }

    /// Its rules, each as a draft if the chain was opened.
    pub fn rules(&self) -> impl Iterator<Item = (&Rule, Option<&Draft>)> {
        let drafts = self.drafts.iter().flatten().map(|draft| (&draft.rule, Some(draft)));
        let base = self.base.as_deref().filter(|_| self.drafts.is_none());
        drafts.chain(base.into_iter().flat_map(|base| &base.rules).map(|rule| (rule, None)))
    }

    /// Whether a rule leads to this chain.
    pub fn leads_to(&self, chain: usize) -> bool {
        match (&self.drafts, &self.base) {
            (Some(drafts), _) => drafts.iter().any(|d| d.rule.leads_to() == Some(chain)),
            (None, Some(base)) => base.leads.iter().any(|(to, _)| *to == chain),
            (None, None) => false,
        }
    }

    /// Whether a rule may have to be looked at once it is known from where the chain can be reached.
    pub fn is_tied(&self) -> bool {
        match (&self.drafts, &self.base) {
            (Some(drafts), _) => drafts.iter().any(|d| d.rule.tied),
            (None, base) => base.as_ref().is_some_and(|base| base.tied),
        }
    }

    /// Works out where its rules lead.
    pub fn settle_leads(&mut self) {
        let Some(drafts) = &self.drafts else { return };
        let numbered = drafts.iter().enumerate();
        self.leads = numbered.filter_map(|(n, d)| Some((d.rule.leads_to()?, n))).collect();
        // The first to each chain is enough.
        self.leads.sort_unstable();
        self.leads.dedup_by_key(|(to, _)| *to);
        self.leads.sort_unstable_by_key(|(_, n)| *n);
    }

    /// Where its rules lead, and the first rule to each chain; known once they were settled.
    pub fn leads(&self) -> &[(usize, usize)] {
        match (&self.drafts, &self.base) {
            (None, Some(base)) => &base.leads,
            _ => &self.leads,
        }
    }

    /// The chain.
    pub fn finish(self, slots: &mut Slots) -> Chain {
        let Self { name, hook, policy, count, counter, hooks, base, drafts, leads } = self;
        let builtin =
            hook.map(|hook| Builtin { hook, policy, counter: count.place(counter, slots) });
        let content = match (drafts, base) {
            (None, base) => base.unwrap_or_default(),
            (Some(drafts), base) => {
                let mut rules: Vec<Rule> = Vec::with_capacity(drafts.len());
                for mut draft in drafts {
                    draft.rule.counter = draft.count.place(draft.rule.counter, slots);
                    rules.push(draft.rule);
                }
                match base {
                    Some(base) if base.has(&rules) => base,
                    base => Arc::new(Content::new(rules, leads, base.as_deref())),
                }
            }
        };
        Chain { name, builtin, hooks, content }
    }
}

impl Draft {
    /// Its place in the counters, if it has one already.
    pub fn old_place(&self) -> Option<usize> {
        self.count.is_old().then_some(self.rule.counter)
    }
}
