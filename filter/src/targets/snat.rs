//! `SNAT`: changes the source.

use tidegate_packet::Family;

use super::dnat::{Shown, list_range, range, save_switches, switches};
use super::mapping::mapping;
use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Next, Spec, Target, TargetSpec, flag, value};
use crate::query::{Hook, TableName};
use crate::values::save_option;
use crate::verdict::{NatAction, NatRange, Verdict};

pub(crate) static SPEC: TargetSpec = TargetSpec {
    options: &[
        value(&["to-source"]),
        flag(&["random"]),
        flag(&["random-fully"]),
        flag(&["persistent"]),
        value(&["mapping"]),
        value(&["filtering"]),
        value(&["port-block-size"]),
        value(&["port-blocks"]),
    ],
    tables: &[TableName::Nat],
    hooks: &[Hook::Postrouting, Hook::Input],
    ..Spec::new("SNAT", build)
};

#[derive(Debug)]
struct Snat {
    range: NatRange,
    family: Family,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Target>> {
    let (word, _) = given.required("to-source")?;
    let range = switches(given, range(given, word, false)?);
    let range = mapping(given, range)?;
    Ok(Box::new(Snat { range, family: given.family }))
}

impl Target for Snat {
    fn apply(&self, _: &mut Context<'_>) -> Next {
        Next::Final(Verdict::Nat(NatAction::Source(self.range)))
    }

    fn list(&self, out: &mut String, _style: Listing) {
        list_range(out, self.range, self.family);
    }

    fn save(&self, out: &mut String) {
        save_option(out, "to-source", false, Shown(self.range, self.family));
        save_switches(out, &self.range);
    }

    fn uses_conntrack(&self) -> bool {
        true
    }
}
