//! `-m mh`: the type of a mobility header (RFC 6275).

use std::fmt::Write as _;

use tidegate_packet::{Family, protocol};

use super::header;
use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, value};
use crate::lex::Word;
use crate::values::{Span, bang, parse_number, save_option};

pub(crate) static SPEC: MatchSpec = MatchSpec {
    aliases: &["mobility-header", "ipv6-mh"],
    families: &[Family::V6],
    options: &[value(&["mh-type"]).inverts()],
    protocols: &[protocol::MH],
    ..Spec::new("mh", build)
};

const NAMES: [(&str, &str, u8); 8] = [
    ("binding-refresh-request", "brr", 0),
    ("home-test-init", "hoti", 1),
    ("careof-test-init", "coti", 2),
    ("home-test", "hot", 3),
    ("careof-test", "cot", 4),
    ("binding-update", "bu", 5),
    ("binding-acknowledgement", "ba", 6),
    ("binding-error", "be", 7),
];

#[derive(Debug)]
struct Mobility {
    low: u8,
    high: u8,
    inverted: bool,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    let Some((word, inverted)) = given.value("mh-type") else {
        return Ok(Box::new(Mobility { low: 0, high: u8::MAX, inverted: false }));
    };
    let (low, high) = match word.text.split_once(':') {
        Some((low, high)) => {
            let end = |text: &str, default| match text {
                "" => Ok(default),
                text => kind(&word.part(text)),
            };
            (end(low, 0)?, end(high, u8::MAX)?)
        }
        None => {
            let kind = kind(word)?;
            (kind, kind)
        }
    };
    if low > high {
        return Err(word.wrong(format!("range `{}` runs backwards", word.text)));
    }
    Ok(Box::new(Mobility { low, high, inverted }))
}

fn kind(word: &Word<'_>) -> Outcome<u8> {
    let same = |name: &str| word.text.eq_ignore_ascii_case(name);
    let named = NAMES.iter().find(|(name, short, _)| same(name) || same(short));
    named
        .map(|(.., kind)| *kind)
        .or_else(|| parse_number(&word.text).and_then(|n| u8::try_from(n).ok()))
        .ok_or_else(|| word.wrong(format!("unknown mobility type `{}`", word.text)))
}

impl Match for Mobility {
    fn matches(&self, context: &mut Context<'_>) -> bool {
        let Some(header) = header::<6>(context) else { return false };
        // A mobility header ends the chain (RFC 6275 section 6.1.1).
        if header[0] != protocol::NO_NEXT {
            context.hotdrop = true;
            return false;
        }
        (self.low <= header[2] && header[2] <= self.high) != self.inverted
    }

    fn list(&self, out: &mut String, style: Listing) {
        out.push_str(" mh");
        let Self { low, high, inverted } = *self;
        if (low, high) == (0, u8::MAX) && !inverted {
            return;
        }
        let name = |kind: u8| match NAMES.iter().find(|(.., number)| *number == kind) {
            Some((name, ..)) if !style.numeric => (*name).to_owned(),
            _ => kind.to_string(),
        };
        let _ = write!(out, " {}{}", bang(inverted), Span(name(low), name(high), ':'));
    }

    fn save(&self, out: &mut String) {
        if (self.low, self.high) != (0, u8::MAX) || self.inverted {
            save_option(out, "mh-type", self.inverted, Span(self.low, self.high, ':'));
        }
    }
}
