//! `-m mark`: the packet's mark; and the form of tests that `-m connmark` shares.

use std::fmt::{self, Write as _};

use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, value};
use crate::values::save_option;

pub(crate) static SPEC: MatchSpec =
    MatchSpec { options: &[value(&["mark"]).inverts()], ..Spec::new("mark", build) };

/// `--mark VALUE/MASK`: bits that a mark must have.
#[derive(Copy, Clone, Debug)]
pub(super) struct Wanted {
    value: u32,
    mask: u32,
    pub(super) inverted: bool,
}

impl Wanted {
    pub(super) fn read(given: &Given<'_>) -> Outcome<Self> {
        let (word, inverted) = given.required("mark")?;
        let (value, mask) = word.masked_u32()?;
        Ok(Self { value, mask, inverted })
    }

    pub(super) fn fits(self, mark: u32) -> bool {
        (mark & self.mask == self.value) != self.inverted
    }

    pub(super) fn save(self, out: &mut String) {
        save_option(out, "mark", self.inverted, self);
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mask {
            u32::MAX => write!(f, "{:#x}", self.value),
            mask => write!(f, "{:#x}/{mask:#x}", self.value),
        }
    }
}

#[derive(Debug)]
struct Mark(Wanted);

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    Ok(Box::new(Mark(Wanted::read(given)?)))
}

impl Match for Mark {
    fn matches(&self, context: &mut Context<'_>) -> bool {
        self.0.fits(context.mark)
    }

    fn flow_only(&self) -> bool {
        true
    }

    fn list(&self, out: &mut String, _style: Listing) {
        let _ = write!(out, " mark match{} {}", if self.0.inverted { " !" } else { "" }, self.0);
    }

    fn is_pure(&self) -> bool {
        true
    }

    fn save(&self, out: &mut String) {
        self.0.save(out);
    }
}
