//! `TTL` and `HL`: the TTL or hop limit.

use std::fmt::Write as _;

use tidegate_packet::Family;

use crate::diagnostic::Outcome;
use crate::edit::{Edit, HeaderEdit};
use crate::extension::{Context, Given, Listing, Next, Spec, Target, TargetSpec, value};
use crate::query::TableName;
use crate::values::save_option;

pub(crate) static TTL: TargetSpec = TargetSpec {
    families: &[Family::V4],
    options: &[value(&["ttl-set"]), value(&["ttl-inc"]), value(&["ttl-dec"])],
    tables: &[TableName::Mangle],
    ..Spec::new("TTL", build)
};

pub(crate) static HL: TargetSpec = TargetSpec {
    families: &[Family::V6],
    options: &[value(&["hl-set"]), value(&["hl-inc"]), value(&["hl-dec"])],
    tables: &[TableName::Mangle],
    ..Spec::new("HL", build)
};

#[derive(Copy, Clone, Debug)]
enum Change {
    Set,
    Increase,
    Decrease,
}

#[derive(Debug)]
struct HopLimit {
    name: &'static str,
    change: Change,
    value: u8,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Target>> {
    let names = match given.family {
        Family::V4 => ["ttl-set", "ttl-inc", "ttl-dec"],
        Family::V6 => ["hl-set", "hl-inc", "hl-dec"],
    };
    let option = given.one_of(&names)?;
    let [word] = option.values.as_slice() else {
        return Err(given.wrong("a value is missing"));
    };
    let name = option.opt.names[0];
    let change = match name.rsplit('-').next() {
        Some("inc") => Change::Increase,
        Some("dec") => Change::Decrease,
        _ => Change::Set,
    };
    let least = if matches!(change, Change::Set) { 0 } else { 1 };
    let value = word.number(least..=255)? as u8;
    Ok(Box::new(HopLimit { name, change, value }))
}

impl Target for HopLimit {
    fn apply(&self, context: &mut Context<'_>) -> Next {
        let old = context.query.packet.hop_limit;
        let new = match self.change {
            Change::Set => self.value,
            Change::Increase => old.saturating_add(self.value),
            Change::Decrease => old.saturating_sub(self.value),
        };
        match new == old {
            true => Next::Continue,
            false => Next::Edit(Edit::Header(HeaderEdit::HopLimit(new))),
        }
    }

    fn list(&self, out: &mut String, _: Listing) {
        let name = if self.name.starts_with("ttl") { "TTL" } else { "HL" };
        let change = match self.change {
            Change::Set => "set to",
            Change::Increase => "increment by",
            Change::Decrease => "decrement by",
        };
        let _ = write!(out, " {name} {change} {}", self.value);
    }

    fn save(&self, out: &mut String) {
        save_option(out, self.name, false, self.value);
    }
}
