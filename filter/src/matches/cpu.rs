//! `-m cpu`: the worker that handles the packet.

use std::fmt::Write as _;

use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, value};
use crate::values::save_option;

pub(crate) static SPEC: MatchSpec =
    MatchSpec { options: &[value(&["cpu"]).inverts()], ..Spec::new("cpu", build) };

#[derive(Debug)]
struct Cpu {
    number: u32,
    inverted: bool,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    let (word, inverted) = given.required("cpu")?;
    Ok(Box::new(Cpu { number: word.number(0..=u64::from(u32::MAX))? as u32, inverted }))
}

impl Match for Cpu {
    fn matches(&self, context: &mut Context<'_>) -> bool {
        (context.query.cpu == self.number) != self.inverted
    }

    fn list(&self, out: &mut String, _: Listing) {
        let _ = write!(out, " cpu {}{}", if self.inverted { "! " } else { "" }, self.number);
    }

    fn save(&self, out: &mut String) {
        save_option(out, "cpu", self.inverted, self.number);
    }
}
