//! From which hooks a rule can be reached: loops, and extensions that are tied to hooks.

use super::chain::ChainDraft;
use crate::diagnostic::{Problem, Refusal};
use crate::query::Hook;
use crate::ruleset::Action;

/// Refuses loops and extensions at hooks where they can't work. Like the kernel, looks only at
/// chains that can be reached.
pub(super) fn check(chains: &mut [ChainDraft]) -> Result<(), Vec<Problem>> {
    let order = order(chains).map_err(|problem| vec![problem])?;
    let mut masks: Vec<u8> = chains.iter().map(|c| c.hook.map_or(0, Hook::bit)).collect();
    for &at in order.iter().rev() {
        for &(to, _) in chains[at].leads() {
            masks[to] |= masks[at];
        }
    }
    let mut problems = Vec::new();
    for (chain, mask) in chains.iter_mut().zip(masks) {
        // What is in force has been looked at.
        let looked_at = chain.drafts().is_none() && chain.hooks == mask;
        if !looked_at && chain.is_tied() {
            check_chain(chain, mask, &mut problems);
        }
        chain.hooks = mask;
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

#[derive(Copy, Clone, PartialEq)]
enum Seen {
    No,
    OnTheWay,
    Done,
}

/// The chains that can be reached, each after all it leads to. A jump back to a chain on the way is
/// a loop.
fn order(chains: &[ChainDraft]) -> Result<Vec<usize>, Problem> {
    let mut seen = vec![Seen::No; chains.len()];
    let mut order = Vec::new();
    for start in (0..chains.len()).filter(|&at| chains[at].hook.is_some()) {
        // An explicit stack: chains may be nested deeper than ours.
        let mut stack = vec![(start, chains[start].leads().iter())];
        seen[start] = Seen::OnTheWay;
        while let Some((at, rest)) = stack.last_mut() {
            let at = *at;
            match rest.next() {
                None => {
                    seen[at] = Seen::Done;
                    order.push(at);
                    stack.pop();
                }
                Some(&(to, n)) => match seen[to] {
                    Seen::Done => {}
                    Seen::No => {
                        seen[to] = Seen::OnTheWay;
                        stack.push((to, chains[to].leads().iter()));
                    }
                    Seen::OnTheWay => {
                        let draft = chains[at].drafts().and_then(|drafts| drafts.get(n));
                        let span = draft.map_or(0..0, |draft| draft.target_span.clone());
                        let message = format!("`{}` leads back to itself", chains[to].name);
                        return Err(Problem::new(span, message).refused(Refusal::Loop));
                    }
                },
            }
        }
    }
    Ok(order)
}

fn check_chain(chain: &ChainDraft, mask: u8, problems: &mut Vec<Problem>) {
    for (rule, draft) in chain.rules().filter(|(rule, _)| rule.tied) {
        let only_syn = rule.matches.iter().any(|m| m.test.only_syn());
        // A rule that was there before has no place in this text.
        let target_span = draft.map_or(0..0, |draft| draft.target_span.clone());
        for (n, m) in rule.matches.iter().enumerate() {
            let wrong =
                misplaced(m.spec.hooks, mask).or(m.test.check_hooks(mask).err().map(Into::into));
            let name = m.spec.name;
            problems.extend(wrong.map(|why| {
                let span = draft.and_then(|draft| draft.match_spans.get(n)).unwrap_or(&target_span);
                Problem::new(span.clone(), format!("{name}: {why}")).refused(Refusal::Invalid)
            }));
        }
        if let Action::Target(spec, target) = &rule.action {
            let wrong = misplaced(spec.hooks, mask)
                .or(target.check_rule(mask, only_syn).err().map(Into::into));
            let name = spec.name;
            problems.extend(wrong.map(|why| {
                Problem::new(target_span, format!("{name}: {why}")).refused(Refusal::Invalid)
            }));
        }
    }
}

fn misplaced(hooks: &[Hook], mask: u8) -> Option<String> {
    let allowed = hooks.iter().fold(0, |sum, hook| sum | hook.bit());
    if hooks.is_empty() || mask & !allowed == 0 {
        return None;
    }
    let names: Vec<_> = hooks.iter().map(|h| h.chain_name()).collect();
    Some(format!("works only in {} and chains called from there", names.join(", ")))
}
