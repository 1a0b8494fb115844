//! `-m ipcomp`: the index of a compression header (RFC 3173 section 3).

use tidegate_packet::protocol;

use super::header;
use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, flag, value};
use crate::values::{Span, list_range, save_name, save_option};

pub(crate) static SPEC: MatchSpec = MatchSpec {
    options: &[value(&["ipcompspi"]).inverts(), flag(&["compres"])],
    protocols: &[protocol::IPCOMP],
    ..Spec::new("ipcomp", build)
};

#[derive(Debug)]
struct IpComp {
    range: (u32, u32),
    inverted: bool,
    /// `--compres`, which is printed and looked at by nothing, in the kernel neither.
    reserved: bool,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    let (range, inverted) = match given.value("ipcompspi") {
        Some((word, inverted)) => (word.u32_range()?, inverted),
        None => ((0, 0), false),
    };
    // iptables saves this as if nothing had been asked, and reads that as index 0.
    if range == (0, u32::MAX) {
        return Err(
            given.wrong("a range of all indexes isn't kept by iptables-save; use -p ipcomp")
        );
    }
    let reserved = given.has("compres");
    if reserved {
        given.warn("--compres is not looked at, as in the kernel");
    }
    Ok(Box::new(IpComp { range, inverted, reserved }))
}

impl Match for IpComp {
    fn matches(&self, context: &mut Context<'_>) -> bool {
        let Some(header) = header::<4>(context) else { return false };
        let index = u32::from(u16::from_be_bytes([header[2], header[3]]));
        (self.range.0 <= index && index <= self.range.1) != self.inverted
    }

    fn list(&self, out: &mut String, _: Listing) {
        out.push_str(" comp ");
        list_range(out, "spi", self.range, self.inverted);
        if self.reserved {
            out.push_str(" reserved");
        }
    }

    fn save(&self, out: &mut String) {
        let Self { range: (low, high), inverted, reserved: _ } = *self;
        save_option(out, "ipcompspi", inverted, Span(low, high, ':'));
        if self.reserved {
            save_name(out, "compres", false);
        }
    }
}
