//! What is legal and never comes into play: rules behind one that decides about every packet, and
//! chains that no packet gets to.

use super::chain::ChainDraft;
use super::rule::Draft;
use crate::diagnostic::Problem;
use crate::query::TableName;
use crate::ruleset::Action;

/// Targets that end a packet's way through the table.
const TERMINAL: [&str; 6] = ["REJECT", "DNAT", "SNAT", "MASQUERADE", "REDIRECT", "NETMAP"];

/// Tells of each such rule and chain once. Chains without rules are left alone: programs make them
/// beforehand and fill them later.
pub(super) fn check(
    table: TableName,
    chains: &[ChainDraft],
    order: &[usize],
    warnings: &mut Vec<Problem>,
) {
    for chain in order.iter().map(|&at| &chains[at]) {
        behind_the_last(chain, warnings);
        if table == TableName::Nat {
            drafts(chain).iter().filter_map(never_in_nat).for_each(|p| warnings.push(p));
        }
    }
    let mut reached: Vec<bool> = chains.iter().map(|c| c.hook.is_some()).collect();
    let mut todo: Vec<usize> = (0..chains.len()).filter(|at| reached[*at]).collect();
    while let Some(at) = todo.pop() {
        let used = drafts(&chains[at]).iter().take(decided_at(&chains[at]).unwrap_or(usize::MAX));
        for draft in used {
            if let Some(to) = draft.rule.leads_to()
                && !std::mem::replace(&mut reached[to], true)
            {
                todo.push(to);
            }
        }
    }
    for chain in order.iter().filter(|&&at| !reached[at]).map(|&at| &chains[at]) {
        if let Some(first) = drafts(chain).first() {
            let message =
                format!("no packet gets to chain `{}`: no rule in use leads there", chain.name);
            warnings.push(Problem::new(first.span.clone(), message));
        }
    }
}

/// The rules of a chain that was read from a file.
fn drafts(chain: &ChainDraft) -> &[Draft] {
    chain.drafts().unwrap_or_default()
}

/// How many rules of a chain can be reached at all; none if all can.
fn decided_at(chain: &ChainDraft) -> Option<usize> {
    let last =
        drafts(chain).iter().position(|draft| takes_all(draft) && decides(&draft.rule.action));
    last.map(|at| at + 1)
}

fn behind_the_last(chain: &ChainDraft, warnings: &mut Vec<Problem>) {
    let Some(draft) = decided_at(chain).and_then(|at| drafts(chain).get(at)) else { return };
    let message = format!(
        "no packet gets to this rule: the one before it in `{}` decides about all of them",
        chain.name
    );
    warnings.push(Problem::new(draft.span.clone(), message));
}

fn decides(action: &Action) -> bool {
    match action {
        Action::Accept | Action::Drop | Action::Return | Action::Goto(_) => true,
        Action::Target(spec, _) => TERMINAL.contains(&spec.name),
        Action::None | Action::Jump(_) => false,
    }
}

/// A rule without conditions; a comment is none.
fn takes_all(draft: &Draft) -> bool {
    draft.rule.base.is_any() && draft.rule.matches.iter().all(|m| m.spec.name == "comment")
}

/// Only the first packet of a connection comes to the nat table.
fn never_in_nat(draft: &Draft) -> Option<Problem> {
    let at = draft.rule.matches.iter().position(|m| m.test.never_new())?;
    let span = draft.match_spans.get(at).unwrap_or(&draft.target_span).clone();
    Some(Problem::new(
        span,
        "only the first packet of a connection passes the nat table, so this never matches",
    ))
}
