//! Rules that lines and commands put into chains, replace, take out, look for, and zero.

use std::ops::Range;

use super::Draftbook;
use super::chain::ChainDraft;
use super::rule::{self, Draft};
use crate::ast::{Place, RuleAst};
use crate::diagnostic::{Outcome, Problem, Refusal};
use crate::lex::Word;
use crate::live::list::told as told_of;

impl Draftbook {
    /// Does what a line or a command says of a rule, which may stand for several.
    pub(super) fn place(
        &mut self,
        name: &Word<'_>,
        place: &Place,
        ast: &RuleAst<'_>,
        warnings: &mut Vec<Problem>,
    ) -> Outcome<()> {
        let mut drafts = std::mem::take(&mut self.line);
        drafts.clear();
        rule::drafts(self, name, ast, warnings, &mut drafts)?;
        if let Some(told) = &mut self.told {
            for draft in &drafts {
                let to = draft.rule.leads_to().map_or("", |to| &*self.chains[to].name);
                told.push_str(&told_of(&draft.rule, to));
            }
        }
        let at = self.number(name)?;
        let rules = self.chains[at].open();
        let len = rules.len();
        let missing = |n: u32, span: &Range<usize>, refusal| {
            Problem::new(span.clone(), format!("{} has no place {n} for a rule", name.text))
                .help(format!("it has {len} rules"))
                .refused(refusal)
        };
        match place {
            Place::Append => rules.append(&mut drafts),
            Place::Insert(n, span) => {
                let at = *n as usize - 1;
                if at > len {
                    return Err(missing(*n, span, Refusal::NoInsertion));
                }
                // One after the other at the same place, so that they end up reversed, as with -I.
                rules.splice(at..at, drafts.drain(..).rev());
            }
            Place::Replace(n, span) => {
                let at = *n as usize - 1;
                let mut drafts = drafts.drain(..);
                let (Some(draft), None) = (drafts.next(), drafts.next()) else {
                    return Err(Problem::new(ast.span.clone(), "-R takes a single rule")
                        .words("Replacement rule does not specify a unique address"));
                };
                let old = rules.get_mut(at);
                let old = old.ok_or_else(|| missing(*n, span, Refusal::NoReplacement))?;
                self.freed.extend(old.old_place());
                *old = draft;
            }
            Place::Delete | Place::Check => {
                for draft in drafts.drain(..) {
                    let same = |r: &Draft| r.rule.same(&draft.rule);
                    let at = rules.iter().position(same).ok_or_else(|| {
                        Problem::new(ast.span.clone(), format!("{} has no such rule", name.text))
                            .refused(draft.absent())
                    })?;
                    if matches!(place, Place::Delete) {
                        self.freed.extend(rules.remove(at).old_place());
                    }
                }
            }
        }
        self.line = drafts;
        Ok(())
    }

    /// `-D CHAIN NUMBER`.
    pub(super) fn delete_number(&mut self, chain: &Word<'_>, number: &Word<'_>) -> Outcome<()> {
        let n = number.number(1..=u64::from(u32::MAX))? as usize;
        let rules = self.chain(chain)?.open();
        if n > rules.len() {
            return Err(number
                .wrong(format!("{} has no rule {n}", chain.text))
                .refused(Refusal::NoDeletion));
        }
        let gone = rules.remove(n - 1).old_place();
        self.freed.extend(gone);
        Ok(())
    }

    /// Zeroes the counters of a rule, of a chain, or of all.
    pub(super) fn zero(
        &mut self,
        name: Option<&Word<'_>>,
        number: Option<&Word<'_>>,
    ) -> Outcome<()> {
        if let (Some(name), Some(number)) = (name, number) {
            let n = number.number(1..=u64::from(u32::MAX))? as usize;
            let rule = self.chain(name)?.open().get_mut(n - 1).ok_or_else(|| {
                number.wrong(format!("{} has no rule {n}", name.text)).refused(Refusal::NoCounter)
            })?;
            rule.count = rule.count.zeroed();
            return Ok(());
        }
        if let Some(name) = name {
            self.chain(name)?;
        }
        let named = |c: &&mut ChainDraft| name.is_none_or(|n| n.text == *c.name);
        for chain in self.chains.iter_mut().filter(named) {
            chain.count = chain.count.zeroed();
            chain.open().iter_mut().for_each(|rule| rule.count = rule.count.zeroed());
        }
        Ok(())
    }
}
