//! `-m ttl` and `-m hl`: the TTL or hop limit.

use std::cmp::Ordering;
use std::fmt::Write as _;

use tidegate_packet::Family;

use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, value};
use crate::values::save_option;

pub(crate) static TTL: MatchSpec = MatchSpec {
    families: &[Family::V4],
    options: &[value(&["ttl-eq", "ttl"]).inverts(), value(&["ttl-lt"]), value(&["ttl-gt"])],
    ..Spec::new("ttl", build)
};

pub(crate) static HL: MatchSpec = MatchSpec {
    families: &[Family::V6],
    options: &[value(&["hl-eq", "hl"]).inverts(), value(&["hl-lt"]), value(&["hl-gt"])],
    ..Spec::new("hl", build)
};

#[derive(Debug)]
struct HopLimit {
    name: &'static str,
    wanted: Ordering,
    value: u8,
    inverted: bool,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    let names = match given.family {
        Family::V4 => ["ttl-eq", "ttl-lt", "ttl-gt"],
        Family::V6 => ["hl-eq", "hl-lt", "hl-gt"],
    };
    let option = given.one_of(&names)?;
    let [word] = option.values.as_slice() else {
        return Err(given.wrong("a value is missing"));
    };
    let name = option.opt.names[0];
    let wanted = match name.rsplit('-').next() {
        Some("lt") => Ordering::Less,
        Some("gt") => Ordering::Greater,
        _ => Ordering::Equal,
    };
    let value = word.number(0..=255)? as u8;
    Ok(Box::new(HopLimit { name, wanted, value, inverted: option.inverted }))
}

impl Match for HopLimit {
    fn matches(&self, context: &mut Context<'_>) -> bool {
        (context.query.packet.hop_limit.cmp(&self.value) == self.wanted) != self.inverted
    }

    fn list(&self, out: &mut String, _style: Listing) {
        let name = if self.name.starts_with("ttl") { "TTL" } else { "HL" };
        let sign = match self.wanted {
            Ordering::Less => "<",
            Ordering::Equal if self.inverted => "!=",
            Ordering::Equal => "==",
            Ordering::Greater => ">",
        };
        let _ = write!(out, " {name} match {name} {sign} {}", self.value);
    }

    fn save(&self, out: &mut String) {
        save_option(out, self.name, self.inverted, self.value);
    }
}
