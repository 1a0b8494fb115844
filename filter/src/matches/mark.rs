//! `-m mark`: the packet's mark.

use std::fmt::Write as _;

use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, value};
use crate::values::save_option;

pub(crate) static SPEC: MatchSpec =
    MatchSpec { options: &[value(&["mark"]).inverts()], ..Spec::new("mark", build) };

#[derive(Debug)]
struct Mark {
    value: u32,
    mask: u32,
    inverted: bool,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    let (word, inverted) = given.required("mark")?;
    let (value, mask) = word.masked_u32()?;
    Ok(Box::new(Mark { value, mask, inverted }))
}

impl Match for Mark {
    fn matches(&self, context: &mut Context<'_>) -> bool {
        (context.mark & self.mask == self.value) != self.inverted
    }

    fn flow_only(&self) -> bool {
        true
    }

    fn list(&self, out: &mut String, _style: Listing) {
        let Self { value, mask, inverted } = *self;
        let _ = write!(out, " mark match{} 0x{value:x}", if inverted { " !" } else { "" });
        if mask != u32::MAX {
            let _ = write!(out, "/0x{mask:x}");
        }
    }

    fn is_pure(&self) -> bool {
        true
    }

    fn save(&self, out: &mut String) {
        let Self { value, mask, inverted } = *self;
        if mask == u32::MAX {
            save_option(out, "mark", inverted, format_args!("0x{value:x}"));
        } else {
            save_option(out, "mark", inverted, format_args!("0x{value:x}/0x{mask:x}"));
        }
    }
}
