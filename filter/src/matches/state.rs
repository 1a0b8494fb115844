//! `-m state`: the older way to ask for a connection's state.

use super::conntrack::{States, states};
use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, value};
use crate::values::list_saved;
use crate::values::save_option;

pub(crate) static SPEC: MatchSpec =
    MatchSpec { options: &[value(&["state"]).inverts()], ..Spec::new("state", build) };

#[derive(Debug)]
struct State {
    states: States,
    inverted: bool,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    let (word, inverted) = given.required("state")?;
    Ok(Box::new(State { states: states(word, false)?, inverted }))
}

impl Match for State {
    fn matches(&self, context: &mut Context<'_>) -> bool {
        self.states.has(context.query.state) != self.inverted
    }

    fn flow_only(&self) -> bool {
        true
    }

    fn list(&self, out: &mut String, _style: Listing) {
        list_saved(out, |out| self.save(out));
    }

    fn is_pure(&self) -> bool {
        true
    }

    fn save(&self, out: &mut String) {
        save_option(out, "state", self.inverted, self.states);
    }

    fn uses_conntrack(&self) -> bool {
        true
    }
}
