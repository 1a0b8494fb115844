//! Makes a case that shows a difference as small as it gets.

use super::model::Model;
use std::time::Instant;

/// Makes a change if what the case shows is still there then.
type Attempt<'a> = dyn Fn(&mut Model, &dyn Fn(&mut Model)) -> bool + 'a;

/// Takes things out of `model` as long as `shows` still holds, until `until`.
pub fn shrink(mut model: Model, until: Instant, shows: &dyn Fn(&Model) -> bool) -> Model {
    let attempt = |model: &mut Model, change: &dyn Fn(&mut Model)| {
        let mut smaller = model.clone();
        change(&mut smaller);
        let better = Instant::now() < until && shows(&smaller);
        if better {
            *model = smaller;
        }
        better
    };
    loop {
        let before = model.text();
        chunks(&mut model, |m| &mut m.steps, &attempt);
        for family in 0..2 {
            chunks(&mut model, |m| &mut m.rules[family], &attempt);
            for table in 0..model.rules[family].len() {
                chunks(&mut model, |m| &mut m.rules[family][table].rules, &attempt);
            }
        }
        chunks(&mut model, |m| &mut m.sysctls, &attempt);
        for family in 0..2 {
            for table in 0..model.rules[family].len() {
                inside_table(&mut model, family, table, &attempt);
            }
        }
        for step in 0..model.steps.len() {
            attempt(&mut model, &|m| m.steps[step].times = 1);
            if model.steps[step].then.is_some() {
                attempt(&mut model, &|m| m.steps[step].then = None);
            }
            for layer in (0..model.steps[step].layers.len()).rev() {
                chunks(&mut model, |m| &mut m.steps[step].layers[layer].options, &attempt);
                if layer > 1 {
                    attempt(&mut model, &|m| drop(m.steps[step].layers.remove(layer)));
                }
            }
        }
        if model.text() == before {
            return model;
        }
    }
}

fn inside_table(model: &mut Model, family: usize, table: usize, attempt: &Attempt<'_>) {
    chunks(model, |m| &mut m.rules[family][table].chains, attempt);
    for policy in 0..model.rules[family][table].policies.len() {
        if model.rules[family][table].policies[policy].1 {
            attempt(model, &|m| m.rules[family][table].policies[policy].1 = false);
        }
    }
    for rule in 0..model.rules[family][table].rules.len() {
        chunks(model, |m| &mut m.rules[family][table].rules[rule].parts, attempt);
        if !model.rules[family][table].rules[rule].target.is_empty() {
            attempt(model, &|m| m.rules[family][table].rules[rule].target.clear());
        }
    }
}

/// Takes elements out of a list: half of them, a quarter, … one.
fn chunks<T>(model: &mut Model, list: impl Fn(&mut Model) -> &mut Vec<T>, attempt: &Attempt<'_>) {
    let mut size = list(model).len();
    while size > 0 {
        let mut at = list(model).len();
        while at > 0 {
            let from = at.saturating_sub(size);
            attempt(model, &|m| drop(list(m).drain(from..at)));
            at = from.min(list(model).len());
        }
        size /= 2;
    }
}
