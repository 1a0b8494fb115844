//! Chains that lines and commands make, name, give a policy, and take away.

use std::sync::Arc;

use super::Draftbook;
use super::chain::ChainDraft;
use super::rule;
use crate::counters::Count;
use crate::diagnostic::{Outcome, Refusal};
use crate::lex::Word;
use crate::query::TableName;
use crate::ruleset::Policy;
use crate::targets;

/// The longest chain name (`XT_EXTENSION_MAXNAMELEN` less the final zero).
const MAX_CHAIN_NAME: usize = 28;

const CLASH: &str = "chain name may not clash with target name";

/// What iptables says to a name of more than [`MAX_CHAIN_NAME`] bytes.
fn too_long(name: &str) -> String {
    format!("chain name `{name}' too long (must be under {} chars)", MAX_CHAIN_NAME + 1)
}

impl Draftbook {
    /// `:CHAIN POLICY`: declares the user's own chain or sets a policy.
    pub(super) fn declare(
        &mut self,
        name: &Word<'_>,
        policy: &Word<'_>,
        count: Count,
    ) -> Outcome<()> {
        let builtin = self.find(&name.text).is_some_and(|at| self.chains[at].hook.is_some());
        if builtin {
            if policy.text == "-" {
                return Ok(());
            }
            return self.set_policy(name, policy, count);
        }
        if policy.text != "-" {
            return Err(policy
                .wrong(format!("`{}` can't have a policy", name.text))
                .help("only built-in chains have one; expected -")
                .refused(Refusal::NoBuiltin));
        }
        if let Some(at) = self.find(&name.text) {
            if self.redeclare {
                self.chains[at].clear(&mut self.freed);
                return Ok(());
            }
            return Err(name
                .wrong(format!("chain `{}` is declared twice", name.text))
                .words(format!("error creating chain '{}':File exists", name.text)));
        }
        self.check_name(name)?;
        self.add_chain(&name.text);
        Ok(())
    }

    pub(super) fn new_chain(&mut self, name: &Word<'_>) -> Outcome<()> {
        self.check_new_name(name)?;
        self.add_chain(&name.text);
        Ok(())
    }

    /// Whether a command may give a chain this name.
    fn check_new_name(&self, name: &Word<'_>) -> Outcome<()> {
        if self.find(&name.text).is_some() {
            return Err(name
                .wrong(format!("there is a chain `{}` already", name.text))
                .refused(Refusal::ChainExists));
        }
        if name.text.starts_with(['-', '!']) {
            let first = name.text.chars().next().unwrap_or('-');
            return Err(name
                .wrong("a chain's name can't start with - or !")
                .words(format!("chain name not allowed to start with `{first}'")));
        }
        if name.text.contains(char::is_whitespace) {
            return Err(name
                .wrong("a chain's name can't contain blanks")
                .words(format!("Invalid chain name `{}'", name.text)));
        }
        if targets::find(&name.text, self.family).is_some() {
            return Err(name
                .wrong(format!("`{}` is the name of a target", name.text))
                .words(CLASH));
        }
        self.check_name(name)
    }

    fn check_name(&self, name: &Word<'_>) -> Outcome<()> {
        if name.text.is_empty() || name.text.len() > MAX_CHAIN_NAME {
            return Err(name
                .wrong(format!("bad chain name `{}`", name.text))
                .help(format!("expected 1 to {MAX_CHAIN_NAME} characters"))
                .words(too_long(&name.text)));
        }
        // Saved, it couldn't be read again.
        if name.text.contains(char::is_control) {
            return Err(name.wrong("a chain's name can't contain control characters"));
        }
        if rule::is_verdict(&name.text) {
            return Err(name
                .wrong(format!("`{}` is the name of a verdict", name.text))
                .words(CLASH));
        }
        Ok(())
    }

    fn add_chain(&mut self, name: &str) {
        let name: Arc<str> = name.into();
        let chain = ChainDraft::new(name.clone(), None);
        let at = match self.vacant.pop() {
            Some(at) => {
                self.chains[at] = chain;
                at
            }
            None => {
                self.chains.push(chain);
                self.chains.len() - 1
            }
        };
        Arc::make_mut(&mut self.index).insert(name, at);
        self.order.push(at);
    }

    pub(super) fn set_policy(
        &mut self,
        name: &Word<'_>,
        policy: &Word<'_>,
        count: Count,
    ) -> Outcome<()> {
        let nat = self.name == TableName::Nat;
        let chain = self.chain(name).map_err(|problem| problem.refused(Refusal::NoBuiltin))?;
        if chain.hook.is_none() {
            return Err(name
                .wrong(format!("`{}` can't have a policy", name.text))
                .refused(Refusal::NoBuiltin));
        }
        chain.policy = match &*policy.text {
            "ACCEPT" => Policy::Accept,
            "DROP" if nat => return Err(rule::no_filtering_in_nat(policy)),
            "DROP" => Policy::Drop,
            other => {
                return Err(policy
                    .wrong(format!("bad policy `{other}`"))
                    .help("expected ACCEPT or DROP")
                    .refused(Refusal::Policy));
            }
        };
        chain.count = chain.count.set(count);
        Ok(())
    }

    fn is_referenced(&self, chain: usize) -> bool {
        self.chains.iter().any(|c| c.leads_to(chain))
    }

    pub(super) fn delete_chain(&mut self, name: Option<&Word<'_>>) -> Outcome<()> {
        let Some(name) = name else {
            let mut referenced = vec![false; self.chains.len()];
            for chain in &mut self.chains {
                chain.settle_leads();
                chain.leads().iter().for_each(|(to, _)| referenced[*to] = true);
            }
            let users = self.order.iter().copied().filter(|&at| self.chains[at].hook.is_none());
            let gone = users.filter(|&at| self.chains[at].is_empty() && !referenced[at]);
            gone.collect::<Vec<_>>().into_iter().for_each(|at| self.vacate(at));
            self.order.retain(|&at| !self.chains[at].is_vacant());
            return Ok(());
        };
        let at = self.number(name)?;
        let (why, refusal) = match &self.chains[at] {
            c if c.hook.is_some() => ("is a built-in chain", Refusal::Invalid),
            _ if self.is_referenced(at) => ("is still used by rules", Refusal::Linked),
            c if !c.is_empty() => ("still has rules", Refusal::NotEmpty),
            _ => {
                self.vacate(at);
                self.order.retain(|&other| other != at);
                return Ok(());
            }
        };
        Err(name.wrong(format!("`{}` {why}", name.text)).refused(refusal))
    }

    /// Takes a chain out, which must have no rules; its place in the order stays.
    fn vacate(&mut self, at: usize) {
        let vacant = ChainDraft::new("".into(), None);
        let chain = std::mem::replace(&mut self.chains[at], vacant);
        Arc::make_mut(&mut self.index).remove(&chain.name);
        self.vacant.push(at);
    }

    pub(super) fn rename(&mut self, old: &Word<'_>, new: &Word<'_>) -> Outcome<()> {
        if self.find(&new.text).is_some() {
            return Err(new
                .wrong(format!("there is a chain `{}` already", new.text))
                .refused(Refusal::NameTaken));
        }
        let at = self.number(old)?;
        if self.chains[at].hook.is_some() {
            return Err(old.wrong("a built-in chain can't be renamed").refused(Refusal::NoBuiltin));
        }
        self.check_new_name(new)?;
        let name: Arc<str> = (&*new.text).into();
        let index = Arc::make_mut(&mut self.index);
        index.remove(&*old.text);
        index.insert(name.clone(), at);
        self.chains[at].name = name;
        Ok(())
    }
}
