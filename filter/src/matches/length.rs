//! `-m length`: the packet's length.

use std::fmt::Write as _;

use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, value};
use crate::values::bang;
use crate::values::{Span, save_option};

pub(crate) static SPEC: MatchSpec =
    MatchSpec { options: &[value(&["length"]).inverts()], ..Spec::new("length", build) };

#[derive(Debug)]
struct Length {
    low: u32,
    high: u32,
    inverted: bool,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    let (word, inverted) = given.required("length")?;
    let end = |text: &str, default| match text {
        "" => Ok(default),
        text => word.part(text).number(0..=65_535).map(|n| n as u32),
    };
    let (low, high) = match word.text.split_once(':') {
        Some((low, high)) => (end(low, 0)?, end(high, 65_535)?),
        None => {
            let n = word.number(0..=65_535)? as u32;
            (n, n)
        }
    };
    Ok(Box::new(Length { low, high, inverted }))
}

impl Match for Length {
    fn matches(&self, context: &mut Context<'_>) -> bool {
        (self.low..=self.high).contains(&context.query.packet.len) != self.inverted
    }

    fn list(&self, out: &mut String, _style: Listing) {
        let _ = write!(out, " length {}{}", bang(self.inverted), Span(self.low, self.high, ':'));
    }

    fn save(&self, out: &mut String) {
        save_option(out, "length", self.inverted, Span(self.low, self.high, ':'));
    }
}
