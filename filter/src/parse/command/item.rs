//! What a line of rules comes to.

use super::{Command, Parser, rule_number};
use crate::ast::*;
use crate::diagnostic::{Outcome, Problem};
use crate::parse::option::Own;

impl<'t> Parser<'t> {
    pub(super) fn finish(mut self) -> Outcome<ItemAst<'t>> {
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
