//! `REDIRECT`: the destination becomes the gateway itself.

use std::fmt::Write as _;

use super::dnat::{save_switches, save_to_ports, to_ports};
use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Next, Spec, Target, TargetSpec, flag, value};
use crate::query::{Hook, TableName};
use crate::values::{Span, list_saved};
use crate::verdict::{NatAction, NatRange, Verdict};

pub(crate) static SPEC: TargetSpec = TargetSpec {
    options: &[value(&["to-ports"]), flag(&["random"])],
    tables: &[TableName::Nat],
    hooks: &[Hook::Prerouting, Hook::Output],
    ..Spec::new("REDIRECT", build)
};

#[derive(Debug)]
struct Redirect(NatRange);

fn build(given: &Given<'_>) -> Outcome<Box<dyn Target>> {
    Ok(Box::new(Redirect(to_ports(given)?)))
}

impl Target for Redirect {
    fn apply(&self, _: &mut Context<'_>) -> Next {
        Next::Final(Verdict::Nat(NatAction::Redirect(self.0)))
    }

    fn list(&self, out: &mut String, _style: Listing) {
        if let Some((first, last)) = self.0.ports {
            let _ = write!(out, " redir ports {}", Span(first, last, '-'));
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
