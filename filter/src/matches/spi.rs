//! `-m esp` and `-m ah`: the index of a security association (RFC 4303, RFC 4302).

use std::fmt::Write as _;

use tidegate_packet::{Family, ipv6, protocol};

use super::header;
use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, flag, value};
use crate::values::{Span, bang, list_range, save_name, save_option};

pub(crate) static ESP: MatchSpec = MatchSpec {
    options: &[value(&["espspi"]).inverts()],
    protocols: &[protocol::ESP],
    ..Spec::new("esp", build)
};

pub(crate) static AH4: MatchSpec = MatchSpec {
    families: &[Family::V4],
    options: &[value(&["ahspi"]).inverts()],
    protocols: &[protocol::AH],
    ..Spec::new("ah", build)
};

pub(crate) static AH6: MatchSpec = MatchSpec {
    families: &[Family::V6],
    options: &[value(&["ahspi"]).inverts(), value(&["ahlen"]).inverts(), flag(&["ahres"])],
    ..Spec::new("ah", build)
};

#[derive(Debug)]
struct Index {
    option: &'static str,
    family: Family,
    low: u32,
    high: u32,
    inverted: bool,
    /// The length of the header in bytes.
    len: Option<(u32, bool)>,
    /// Reserved bits must be zero.
    reserved: bool,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    let option = match &*given.extension.name.text {
        "esp" => "espspi",
        _ => "ahspi",
    };
    let (low, high, inverted) = match given.value(option) {
        Some((word, inverted)) => {
            let (low, high) = word.u32_range()?;
            (low, high, inverted)
        }
        None => (0, u32::MAX, false),
    };
    let len = match given.value("ahlen") {
        Some((word, inverted)) => Some((word.number(0..=u64::from(u32::MAX))? as u32, inverted)),
        None => None,
    };
    let (family, reserved) = (given.family, given.has("ahres"));
    Ok(Box::new(Index { option, family, low, high, inverted, len, reserved }))
}

impl Index {
    /// The bytes of an authentication header among IPv6's extension headers.
    fn extension<'a>(context: &Context<'a>) -> Option<&'a [u8]> {
        let bytes = context.query.bytes.get(..context.query.packet.len as usize)?;
        let found = ipv6::Extensions::new(bytes).find(|e| e.kind == protocol::AH)?;
        bytes.get(found.at..found.at + found.len)
    }

    fn judge(&self, index: u32) -> bool {
        (self.low <= index && index <= self.high) != self.inverted
    }
}

impl Match for Index {
    fn matches(&self, context: &mut Context<'_>) -> bool {
        if self.option == "espspi" {
            return header::<8>(context)
                .is_some_and(|h| self.judge(u32::from_be_bytes([h[0], h[1], h[2], h[3]])));
        }
        if self.family == Family::V4 {
            return header::<12>(context)
                .is_some_and(|h| self.judge(u32::from_be_bytes([h[4], h[5], h[6], h[7]])));
        }
        let Some(ah) = Self::extension(context) else { return false };
        let Some(&[_, _, r0, r1, a, b, c, d, ..]) = ah.first_chunk::<12>() else {
            return false;
        };
        self.judge(u32::from_be_bytes([a, b, c, d]))
            && self.len.is_none_or(|(len, inverted)| (ah.len() as u32 == len) != inverted)
            && (!self.reserved || (r0, r1) == (0, 0))
    }

    fn list(&self, out: &mut String, _: Listing) {
        let esp = self.option == "espspi";
        out.push_str(if esp { " esp" } else { " ah " });
        if (self.low, self.high) != (0, u32::MAX) || self.inverted {
            // That of AH has written its blank.
            out.push_str(if esp { " " } else { "" });
            list_range(out, "spi", (self.low, self.high), self.inverted);
        }
        if let Some((len, inverted)) = self.len {
            let _ = write!(out, "length:{}{len}", bang(inverted));
        }
        if self.reserved {
            out.push_str(" reserved");
        }
    }

    fn save(&self, out: &mut String) {
        // libipt_ah forgets the negation of everything, the others keep it.
        let forgets = self.option == "ahspi" && self.family == Family::V4;
        if (self.low, self.high) != (0, u32::MAX) || self.inverted && !forgets {
            save_option(out, self.option, self.inverted, Span(self.low, self.high, ':'));
        }
        if let Some((len, inverted)) = self.len {
            save_option(out, "ahlen", inverted, len);
        }
        if self.reserved {
            save_name(out, "ahres", false);
        }
    }
}
