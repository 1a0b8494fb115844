//! `-m helper`: connections that a helper has expected.

use std::fmt::Write as _;

use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, value};
use crate::values::{cut, save_name, save_string};

pub(crate) static SPEC: MatchSpec =
    MatchSpec { options: &[value(&["helper"]).inverts()], ..Spec::new("helper", build) };

/// What fits in a rule.
const MAX_NAME: usize = 29;

#[derive(Debug)]
struct Helper {
    name: String,
    inverted: bool,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    let (word, inverted) = given.required("helper")?;
    Ok(Box::new(Helper { name: cut(&word.text, MAX_NAME).to_owned(), inverted }))
}

impl Match for Helper {
    /// xt_helper: only what a helper has expected can be judged, and what can't be is as negated. The
    /// rule's name may go on behind the helper's; an empty one stands for any helper.
    fn matches(&self, context: &mut Context<'_>) -> bool {
        let helper = context.query.connection.and_then(|c| c.helper);
        helper.is_some_and(|h| self.name.is_empty() || self.name.starts_with(h.name()))
            != self.inverted
    }

    fn flow_only(&self) -> bool {
        true
    }

    fn list(&self, out: &mut String, _: Listing) {
        let negation = if self.inverted { "! " } else { "" };
        let _ = write!(out, " helper match {negation}\"{}\"", self.name);
    }

    fn save(&self, out: &mut String) {
        save_name(out, "helper", self.inverted);
        save_string(out, &self.name);
    }

    fn uses_conntrack(&self) -> bool {
        true
    }
}
