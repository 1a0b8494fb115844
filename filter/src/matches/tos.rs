//! `-m tos`: the type-of-service byte or traffic class.

use std::fmt::Write as _;

use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, value};
use crate::lex::Word;
use crate::values::save_option;

pub(crate) static SPEC: MatchSpec =
    MatchSpec { options: &[value(&["tos"]).inverts()], ..Spec::new("tos", build) };

/// RFC 1349's names.
pub(crate) const NAMES: [(&str, u8); 5] = [
    ("Minimize-Delay", 0x10),
    ("Maximize-Throughput", 0x08),
    ("Maximize-Reliability", 0x04),
    ("Minimize-Cost", 0x02),
    ("Normal-Service", 0x00),
];
/// Names are compared without the two highest bits.
pub(crate) const NAME_MASK: u8 = 0x3f;

#[derive(Debug)]
struct Tos {
    value: u8,
    mask: u8,
    inverted: bool,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    let (word, inverted) = given.required("tos")?;
    let (value, mask) = match (named(word), word.text.split_once('/')) {
        (Some(value), _) => (value, NAME_MASK),
        (None, Some((value, mask))) => {
            (word.part(value).number(0..=255)? as u8, word.part(mask).number(0..=255)? as u8)
        }
        (None, None) => (word.number(0..=255)? as u8, 0xff),
    };
    Ok(Box::new(Tos { value, mask, inverted }))
}

/// The value of a name.
pub(crate) fn named(word: &Word<'_>) -> Option<u8> {
    NAMES.iter().find(|(name, _)| word.text.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
}

impl Match for Tos {
    fn matches(&self, context: &mut Context<'_>) -> bool {
        (context.query.packet.tos & self.mask == self.value) != self.inverted
    }

    fn list(&self, out: &mut String, style: Listing) {
        let Self { value, mask, inverted } = *self;
        out.push_str(if inverted { " tos match!" } else { " tos match" });
        let name = NAMES.iter().find(|(_, named)| *named == value && mask == NAME_MASK);
        let _ = match name.filter(|_| !style.numeric) {
            Some((name, _)) => write!(out, " {name}"),
            None => write!(out, "0x{value:02x}/0x{mask:02x}"),
        };
    }

    fn save(&self, out: &mut String) {
        let Self { value, mask, inverted } = self;
        save_option(out, "tos", *inverted, format_args!("0x{value:02x}/0x{mask:02x}"));
    }
}
