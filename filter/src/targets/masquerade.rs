//! `MASQUERADE`: the source becomes the egress interface's address.

use std::fmt::Write as _;

use super::dnat::{save_switches, save_to_ports, to_ports};
use super::mapping::mapping;
use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Next, Spec, Target, TargetSpec, flag, value};
use crate::query::{Hook, TableName};
use crate::values::{Span, list_saved};
use crate::verdict::{NatAction, NatRange, Verdict};

pub(crate) static SPEC: TargetSpec = TargetSpec {
    options: &[
        value(&["to-ports"]),
        flag(&["random"]),
        flag(&["random-fully"]),
        value(&["mapping"]),
        value(&["filtering"]),
        value(&["port-block-size"]),
        value(&["port-blocks"]),
    ],
    tables: &[TableName::Nat],
    hooks: &[Hook::Postrouting],
    ..Spec::new("MASQUERADE", build)
};

#[derive(Debug)]
struct Masquerade(NatRange);

fn build(given: &Given<'_>) -> Outcome<Box<dyn Target>> {
    Ok(Box::new(Masquerade(mapping(given, to_ports(given)?)?)))
}

impl Target for Masquerade {
    fn apply(&self, _: &mut Context<'_>) -> Next {
        Next::Final(Verdict::Nat(NatAction::Masquerade(self.0)))
    }

    fn list(&self, out: &mut String, _style: Listing) {
        if let Some((first, last)) = self.0.ports {
            let _ = write!(out, " masq ports: {}", Span(first, last, '-'));
        }
        list_saved(out, |out| save_switches(out, &self.0));
    }

    fn save(&self, out: &mut String) {
        save_to_ports(out, &self.0);
    }

    fn uses_conntrack(&self) -> bool {
        true
    }
}
