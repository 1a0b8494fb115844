//! `-m ipv6header`: which extension headers an IPv6 packet has.

use std::fmt::Write as _;

use tidegate_packet::{Family, ipv6, protocol};

use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, flag, value};
use crate::values::{bang, save_name, save_option};

pub(crate) static SPEC: MatchSpec = MatchSpec {
    families: &[Family::V6],
    options: &[value(&["header"]).inverts(), flag(&["soft"])],
    ..Spec::new("ipv6header", build)
};

const HOPOPTS: u8 = 0x80;
const DSTOPTS: u8 = 0x40;
const ROUTING: u8 = 0x20;
const FRAGMENT: u8 = 0x10;
const AUTH: u8 = 0x08;
const ESP: u8 = 0x04;
const NONE: u8 = 0x02;
/// Any upper-layer protocol.
const PROTOCOL: u8 = 0x01;

/// The name that is printed, the short one, the number, and the bit.
const HEADERS: [(&str, &str, &str, u8); 8] = [
    ("hop-by-hop", "hop", "0", HOPOPTS),
    ("ipv6-opts", "dst", "60", DSTOPTS),
    ("ipv6-route", "route", "43", ROUTING),
    ("ipv6-frag", "frag", "44", FRAGMENT),
    ("ah", "auth", "51", AUTH),
    ("esp", "esp", "50", ESP),
    ("ipv6-nonxt", "none", "59", NONE),
    ("protocol", "prot", "255", PROTOCOL),
];

#[derive(Debug)]
struct Headers {
    bits: u8,
    inverted: bool,
    /// Other headers don't matter.
    soft: bool,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    let (word, inverted) = given.required("header")?;
    let mut bits = 0;
    for part in word.list().filter(|part| !part.text.is_empty()) {
        let same = |name: &&str| **name == part.text;
        let found = HEADERS
            .iter()
            .find(|(long, short, number, _)| [long, short, number].into_iter().any(same));
        let Some((.., bit)) = found else {
            return Err(part
                .wrong(format!("unknown header `{}`", part.text))
                .words(format!("unknown header `{}' specified", part.text))
                .help("expected hop, dst, route, frag, auth, esp, none or prot"));
        };
        bits |= bit;
    }
    if bits == 0 {
        return Err(word.wrong("no header is named"));
    }
    Ok(Box::new(Headers { bits, inverted, soft: given.has("soft") }))
}

/// The headers that ip6t_ipv6header finds; it looks behind a fragment header with an offset too,
/// where there is payload. `None` where the packet ends in the middle of one.
fn found(bytes: &[u8]) -> Option<u8> {
    let (mut next, mut at) = (bytes[6], ipv6::HEADER_LEN);
    let mut bits = 0;
    loop {
        bits |= match next {
            protocol::NO_NEXT => return Some(bits | NONE),
            protocol::HOPOPTS => HOPOPTS,
            protocol::DSTOPTS => DSTOPTS,
            protocol::ROUTING => ROUTING,
            protocol::FRAGMENT => FRAGMENT,
            protocol::AH => AUTH,
            protocol::ESP => 0,
            _ => return Some(bits | PROTOCOL),
        };
        let &[after, len, ..] = bytes.get(at..)?.first_chunk::<2>()?;
        if next == protocol::ESP {
            return Some(bits | ESP);
        }
        at += match next {
            protocol::FRAGMENT => ipv6::FRAGMENT_LEN,
            protocol::AH => (usize::from(len) + 2) * 4,
            _ => (usize::from(len) + 1) * 8,
        };
        next = after;
        if at > bytes.len() {
            let ended = matches!(next, protocol::NO_NEXT | protocol::ESP);
            return Some(bits | if ended { 0 } else { PROTOCOL });
        }
    }
}

impl Headers {
    fn names(&self) -> String {
        let named = HEADERS.iter().filter(|(.., bit)| self.bits & bit != 0);
        named.map(|(name, ..)| *name).collect::<Vec<_>>().join(",")
    }
}

impl Match for Headers {
    fn matches(&self, context: &mut Context<'_>) -> bool {
        let query = context.query;
        let Some(bytes) = query.bytes.get(..query.packet.len as usize) else { return false };
        let Some(found) = found(bytes) else { return false };
        match (self.soft, self.inverted) {
            (true, false) => found & self.bits == self.bits,
            (true, true) => found & self.bits == 0,
            (false, inverted) => (found == self.bits) != inverted,
        }
    }

    fn list(&self, out: &mut String, style: Listing) {
        let _ = write!(out, " ipv6header flags:{}", bang(self.inverted));
        let _ = match style.numeric {
            true => write!(out, "0x{:02X}", self.bits),
            false => write!(out, "{}", self.names()),
        };
        if self.soft {
            out.push_str(" soft");
        }
    }

    fn save(&self, out: &mut String) {
        save_option(out, "header", self.inverted, self.names());
        if self.soft {
            save_name(out, "soft", false);
        }
    }
}
