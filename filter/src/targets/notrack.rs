//! `NOTRACK` and `CT --notrack`: the packet is not to be tracked.

use crate::diagnostic::Outcome;
use crate::edit::Edit;
use crate::extension::{Context, Given, Listing, Next, Spec, Target, TargetSpec, flag, value};
use crate::query::TableName;
use crate::values::save_name;

pub(crate) static NOTRACK: TargetSpec =
    TargetSpec { tables: &[TableName::Raw], ..Spec::new("NOTRACK", build_notrack) };

pub(crate) static CT: TargetSpec = TargetSpec {
    options: &[
        flag(&["notrack"]),
        value(&["helper"]),
        value(&["timeout"]),
        value(&["ctevents"]),
        value(&["expevents"]),
        value(&["zone"]),
        value(&["zone-orig"]),
        value(&["zone-reply"]),
    ],
    tables: &[TableName::Raw],
    ..Spec::new("CT", build_ct)
};

/// What a CT rule that was accepted does.
#[derive(Debug)]
enum Tracking {
    /// `-j NOTRACK`.
    NoTrack,
    /// `-j CT --notrack`.
    CtNoTrack,
    /// `-j CT` with no option: tracked as always.
    CtPlain,
}

fn build_notrack(_: &Given<'_>) -> Outcome<Box<dyn Target>> {
    Ok(Box::new(Tracking::NoTrack))
}

fn build_ct(given: &Given<'_>) -> Outcome<Box<dyn Target>> {
    // Templates, zones and helpers need support in tracking itself: an error, not a silent pass.
    if let Some(other) = given.extension.options.iter().find(|o| o.opt.names[0] != "notrack") {
        return Err(given
            .wrong(format!("--{} is not supported", other.opt.names[0]))
            .help("expected --notrack"));
    }
    let plain = given.extension.options.is_empty();
    Ok(Box::new(if plain { Tracking::CtPlain } else { Tracking::CtNoTrack }))
}

impl Target for Tracking {
    fn apply(&self, context: &mut Context<'_>) -> Next {
        // A packet that has a connection already (looped back) keeps it.
        if !matches!(self, Self::CtPlain) && context.query.connection.is_none() {
            return Next::Edit(Edit::Untrack);
        }
        Next::Continue
    }

    fn list(&self, out: &mut String, _style: Listing) {
        out.push_str(match self {
            Self::NoTrack => " NOTRACK",
            Self::CtNoTrack => " CT notrack",
            Self::CtPlain => " CT",
        });
    }

    fn save(&self, out: &mut String) {
        if matches!(self, Self::CtNoTrack) {
            save_name(out, "notrack", false);
        }
    }

    fn uses_conntrack(&self) -> bool {
        true
    }
}
