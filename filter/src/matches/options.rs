//! `-m hbh` and `-m dst`: the options headers of an IPv6 packet (RFC 8200 sections 4.3 and 4.6).

use std::fmt::Write as _;

use tidegate_packet::{Family, ipv6, protocol};

use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, value};
use crate::lex::Word;
use crate::values::{bang, parse_number, save_name, save_option};

pub(crate) static HBH: MatchSpec = MatchSpec {
    families: &[Family::V6],
    options: &[value(&["hbh-len"]).inverts(), value(&["hbh-opts"])],
    ..Spec::new("hbh", build_hop_by_hop)
};

pub(crate) static DST: MatchSpec = MatchSpec {
    families: &[Family::V6],
    options: &[value(&["dst-len"]).inverts(), value(&["dst-opts"])],
    ..Spec::new("dst", build_destination)
};

/// `IP6T_OPTS_OPTSNR`.
const MAX_OPTIONS: usize = 16;
/// Of a single byte (RFC 8200 section 4.2).
const PAD1: u8 = 0;
/// Stands for any length.
const ANY_LEN: u8 = 0xff;

#[derive(Debug)]
struct Options {
    name: &'static str,
    kind: u8,
    len: Option<(u32, bool)>,
    /// Types and lengths of the first options, in their order.
    options: Vec<(u8, u8)>,
}

fn build_hop_by_hop(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    build(given, "hbh", protocol::HOPOPTS)
}

fn build_destination(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    build(given, "dst", protocol::DSTOPTS)
}

fn build(given: &Given<'_>, name: &'static str, kind: u8) -> Outcome<Box<dyn Match>> {
    let len = match given.value(&format!("{name}-len")) {
        Some((word, inverted)) => Some((word.number(0..=u64::from(u32::MAX))? as u32, inverted)),
        None => None,
    };
    let mut options = Vec::new();
    if let Some((word, _)) = given.value(&format!("{name}-opts")) {
        for part in word.list() {
            options.push(option(&part)?);
        }
        if options.len() > MAX_OPTIONS {
            return Err(word.wrong(format!("at most {MAX_OPTIONS} options")));
        }
    }
    Ok(Box::new(Options { name, kind, len, options }))
}

/// `type` or `type:length`. Both lose what is above a byte, as in iptables.
fn option(word: &Word<'_>) -> Outcome<(u8, u8)> {
    let number = |text: &str| {
        parse_number(text).filter(|n| !text.is_empty() && u32::try_from(*n).is_ok()).ok_or_else(
            || {
                word.wrong(format!("bad option `{}`", word.text))
                    .help("expected TYPE or TYPE:LENGTH")
            },
        )
    };
    match word.text.split_once(':') {
        None => Ok((number(&word.text)? as u8, ANY_LEN)),
        Some((kind, len)) => match (number(kind)?, number(len)?) {
            (0, _) => Err(word.wrong("the one-byte padding has no length")),
            (kind, len) => Ok((kind as u8, len as u8)),
        },
    }
}

impl Options {
    /// Whether the header starts with the options asked for. Where it ends before them, or in the
    /// middle of one, they are not all there.
    fn starts_with(&self, mut rest: &[u8]) -> bool {
        for (n, &(wanted, wanted_len)) in self.options.iter().enumerate() {
            let Some(&kind) = rest.first() else { return false };
            if kind != wanted {
                return false;
            }
            let mut step = 1;
            if kind != PAD1 {
                let Some(&len) = rest.get(1) else { return false };
                if wanted_len != ANY_LEN && wanted_len != len {
                    return false;
                }
                step = usize::from(len) + 2;
            }
            rest = match rest.get(step..) {
                Some(rest) => rest,
                // What the last option holds isn't looked at.
                None => return n + 1 == self.options.len(),
            };
        }
        true
    }

    fn write(&self, out: &mut String) {
        let mut between = ' ';
        for (kind, len) in &self.options {
            let _ = write!(out, "{between}{kind}");
            if *len != ANY_LEN {
                let _ = write!(out, ":{len}");
            }
            between = ',';
        }
    }
}

impl Match for Options {
    /// ip6t_hbh.
    fn matches(&self, context: &mut Context<'_>) -> bool {
        let Some(bytes) = context.query.bytes.get(..context.query.packet.len as usize) else {
            return false;
        };
        let Some(found) = ipv6::Extensions::new(bytes).find(|e| e.kind == self.kind) else {
            return false;
        };
        let Some(header) = bytes.get(found.at..found.at + found.len) else { return false };
        self.len.is_none_or(|(len, inverted)| (found.len as u32 == len) != inverted)
            && (self.options.is_empty() || self.starts_with(&header[2..]))
    }

    fn list(&self, out: &mut String, _: Listing) {
        let _ = write!(out, " {}", self.name);
        if let Some((len, inverted)) = self.len {
            let _ = write!(out, " length:{}{len}", bang(inverted));
        }
        if !self.options.is_empty() {
            out.push_str(" opts");
            self.write(out);
        }
    }

    fn save(&self, out: &mut String) {
        if let Some((len, inverted)) = self.len {
            save_option(out, &format!("{}-len", self.name), inverted, len);
        }
        if !self.options.is_empty() {
            save_name(out, &format!("{}-opts", self.name), false);
            self.write(out);
        }
    }
}
