//! `-m connmark`: the connection's mark.

use std::fmt::Write as _;

use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, value};
use crate::values::{bang, save_option};

pub(crate) static SPEC: MatchSpec =
    MatchSpec { options: &[value(&["mark"]).inverts()], ..Spec::new("connmark", build) };

#[derive(Debug)]
struct ConnMark {
    value: u32,
    mask: u32,
    inverted: bool,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    let (word, inverted) = given.required("mark")?;
    let (value, mask) = word.masked_u32()?;
    Ok(Box::new(ConnMark { value, mask, inverted }))
}

impl Match for ConnMark {
    /// Without a connection it doesn't match, negated or not (xt_connmark).
    fn matches(&self, context: &mut Context<'_>) -> bool {
        let Self { value, mask, inverted } = *self;
        context.query.connection.is_some_and(|c| (c.mark & mask == value) != inverted)
    }

    fn flow_only(&self) -> bool {
        true
    }

    fn list(&self, out: &mut String, _: Listing) {
        let Self { value, mask, inverted } = *self;
        let _ = write!(out, " connmark match {} {value:#x}", bang(inverted));
        if mask != u32::MAX {
            let _ = write!(out, "/{mask:#x}");
        }
    }

    fn save(&self, out: &mut String) {
        let Self { value, mask, inverted } = *self;
        if mask == u32::MAX {
            save_option(out, "mark", inverted, format_args!("0x{value:x}"));
        } else {
            save_option(out, "mark", inverted, format_args!("0x{value:x}/0x{mask:x}"));
        }
    }

    fn uses_conntrack(&self) -> bool {
        true
    }
}
