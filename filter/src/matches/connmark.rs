//! `-m connmark`: the connection's mark.

use std::fmt::Write as _;

use super::mark::Wanted;
use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, value};
use crate::values::bang;

pub(crate) static SPEC: MatchSpec =
    MatchSpec { options: &[value(&["mark"]).inverts()], ..Spec::new("connmark", build) };

#[derive(Debug)]
struct ConnMark(Wanted);

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    Ok(Box::new(ConnMark(Wanted::read(given)?)))
}

impl Match for ConnMark {
    /// Without a connection it doesn't match, negated or not (xt_connmark).
    fn matches(&self, context: &mut Context<'_>) -> bool {
        context.query.connection.is_some_and(|c| self.0.fits(c.mark))
    }

    fn flow_only(&self) -> bool {
        true
    }

    fn list(&self, out: &mut String, _: Listing) {
        let _ = write!(out, " connmark match {} {}", bang(self.0.inverted), self.0);
    }

    fn save(&self, out: &mut String) {
        self.0.save(out);
    }

    fn uses_conntrack(&self) -> bool {
        true
    }
}
