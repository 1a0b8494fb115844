//! `-m frag`: the fragment header of an IPv6 packet (RFC 8200 section 4.5).

use std::fmt::Write as _;

use tidegate_packet::{Family, ipv6, protocol};

use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, flag, value};
use crate::values::{Span, bang, list_range, save_name, save_option};

pub(crate) static SPEC: MatchSpec = MatchSpec {
    families: &[Family::V6],
    options: &[
        value(&["fragid"]).inverts(),
        value(&["fraglen"]).inverts(),
        flag(&["fragres"]),
        flag(&["fragfirst"]),
        flag(&["fragmore"]),
        flag(&["fraglast"]),
    ],
    ..Spec::new("frag", build)
};

#[derive(Debug)]
struct Fragment {
    low: u32,
    high: u32,
    inverted: bool,
    /// Looked at by nothing, in the kernel neither.
    len: Option<(u32, bool)>,
    reserved: bool,
    first: bool,
    more: bool,
    last: bool,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    given.exclusive(&["fragmore", "fraglast"])?;
    let (low, high, inverted) = match given.value("fragid") {
        Some((word, inverted)) => {
            let (low, high) = word.u32_range()?;
            (low, high, inverted)
        }
        None => (0, u32::MAX, false),
    };
    let len = match given.value("fraglen") {
        Some((word, inverted)) => Some((word.number(0..=u64::from(u32::MAX))? as u32, inverted)),
        None => None,
    };
    if len.is_some() {
        given
            .warn("--fraglen is not looked at, as in the kernel: a fragment header has one length");
    }
    Ok(Box::new(Fragment {
        low,
        high,
        inverted,
        len,
        reserved: given.has("fragres"),
        first: given.has("fragfirst"),
        more: given.has("fragmore"),
        last: given.has("fraglast"),
    }))
}

impl Match for Fragment {
    /// ip6t_frag.
    fn matches(&self, context: &mut Context<'_>) -> bool {
        let query = context.query;
        let Some(bytes) = query.bytes.get(..query.packet.len as usize) else { return false };
        let found = ipv6::Extensions::new(bytes).find(|e| e.kind == protocol::FRAGMENT);
        let Some(h) = found.and_then(|e| bytes.get(e.at..)?.first_chunk::<8>()) else {
            return false;
        };
        let id = u32::from_be_bytes([h[4], h[5], h[6], h[7]]);
        let word = u16::from_be_bytes([h[2], h[3]]);
        (self.low <= id && id <= self.high) != self.inverted
            && (!self.reserved || h[1] == 0 && word & 0x6 == 0)
            && (!self.first || word & 0xfff8 == 0)
            && (!self.more || word & 1 != 0)
            && (!self.last || word & 1 == 0)
    }

    fn list(&self, out: &mut String, _: Listing) {
        out.push_str(" frag ");
        if (self.low, self.high) != (0, u32::MAX) || self.inverted {
            list_range(out, "id", (self.low, self.high), self.inverted);
        }
        if let Some((len, inverted)) = self.len {
            let _ = write!(out, " length:{}{len}", bang(inverted));
        }
        for (given, name) in [
            (self.reserved, " reserved"),
            (self.first, " first"),
            (self.more, " more"),
            (self.last, " last"),
        ] {
            out.push_str(if given { name } else { "" });
        }
    }

    fn save(&self, out: &mut String) {
        if (self.low, self.high) != (0, u32::MAX) || self.inverted {
            save_option(out, "fragid", self.inverted, Span(self.low, self.high, ':'));
        }
        if let Some((len, inverted)) = self.len {
            save_option(out, "fraglen", inverted, len);
        }
        for (given, name) in [
            (self.reserved, "fragres"),
            (self.first, "fragfirst"),
            (self.more, "fragmore"),
            (self.last, "fraglast"),
        ] {
            if given {
                save_name(out, name, false);
            }
        }
    }
}
