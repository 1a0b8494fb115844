//! `NETMAP`: maps a whole network onto another, host by host.

use std::fmt::Write as _;

use tidegate_packet::Addr;

use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Next, Spec, Target, TargetSpec, value};
use crate::query::{Hook, TableName};
use crate::values::save_option;
use crate::verdict::{NatAction, Verdict};

pub(crate) static SPEC: TargetSpec = TargetSpec {
    options: &[value(&["to"])],
    tables: &[TableName::Nat],
    hooks: &[Hook::Prerouting, Hook::Input, Hook::Output, Hook::Postrouting],
    ..Spec::new("NETMAP", build)
};

#[derive(Debug)]
struct Netmap {
    network: Addr,
    len: u8,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Target>> {
    let (word, _) = given.required("to")?;
    let network = word.network(given.family)?;
    let Some(len) = network.prefix_len() else {
        return Err(word.wrong("the mask has holes").help("expected a prefix"));
    };
    Ok(Box::new(Netmap { network: network.addr, len }))
}

impl Target for Netmap {
    fn apply(&self, _: &mut Context<'_>) -> Next {
        let Self { network, len } = *self;
        Next::Final(Verdict::Nat(NatAction::Netmap { network, len }))
    }

    fn list(&self, out: &mut String, _style: Listing) {
        let _ = write!(out, " to:{}/{}", self.network, self.len);
    }

    fn save(&self, out: &mut String) {
        let Self { network, len } = self;
        save_option(out, "to", false, format_args!("{network}/{len}"));
    }

    fn uses_conntrack(&self) -> bool {
        true
    }
}
