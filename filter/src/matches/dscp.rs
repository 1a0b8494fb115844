//! `-m dscp`: the differentiated services code point (RFC 2474).

use std::fmt::Write as _;

use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, value};
use crate::lex::Word;
use crate::values::bang;
use crate::values::save_option;

pub(crate) static SPEC: MatchSpec = MatchSpec {
    options: &[value(&["dscp"]).inverts(), value(&["dscp-class"]).inverts()],
    ..Spec::new("dscp", build)
};

#[derive(Debug)]
struct Dscp {
    value: u8,
    inverted: bool,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    let option = given.one_of(&["dscp", "dscp-class"])?;
    let [word] = option.values.as_slice() else {
        return Err(given.wrong("a value is missing"));
    };
    let value = match option.opt.names[0] {
        "dscp" => word.number(0..=63)? as u8,
        _ => class(word)?,
    };
    Ok(Box::new(Dscp { value, inverted: option.inverted }))
}

/// The code point of a class: CS0–CS7, AF11–AF43 (RFC 2597), EF (RFC 3246), BE.
pub(crate) fn class(word: &Word<'_>) -> Outcome<u8> {
    let name = word.text.to_ascii_uppercase();
    let digits: Vec<u8> = name.bytes().skip(2).map(|b| b.wrapping_sub(b'0')).collect();
    let found = match (name.get(..2), digits.as_slice()) {
        (Some("BE"), []) => Some(0),
        (Some("EF"), []) => Some(46),
        (Some("CS"), [n @ 0..=7]) => Some(n * 8),
        (Some("AF"), [class @ 1..=4, drop @ 1..=3]) => Some(class * 8 + drop * 2),
        _ => None,
    };
    found.ok_or_else(|| {
        word.wrong(format!("unknown class `{}`", word.text))
            .help("expected BE, EF, CS0 to CS7 or AF11 to AF43")
    })
}

impl Match for Dscp {
    fn matches(&self, context: &mut Context<'_>) -> bool {
        (context.query.packet.tos >> 2 == self.value) != self.inverted
    }

    fn list(&self, out: &mut String, _style: Listing) {
        let _ = write!(out, " DSCP match {}0x{:02x}", bang(self.inverted), self.value);
    }

    fn save(&self, out: &mut String) {
        save_option(out, "dscp", self.inverted, format_args!("0x{:02x}", self.value));
    }
}
