//! `-m tcp`: ports, flags, options.

use std::fmt::Write as _;

use tidegate_packet::{Family, protocol, tcp};

use super::header;
use crate::classify::{PortsWanted, Ranges};
use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, flag, value};
use crate::lex::Word;
use crate::values::{Span, save_name, save_option};
use crate::values::{bang, shown_port};

pub(crate) static SPEC: MatchSpec = MatchSpec {
    options: &[
        value(&["source-port", "sport"]).inverts(),
        value(&["destination-port", "dport"]).inverts(),
        flag(&["syn"]).inverts(),
        value(&["tcp-flags"]).pair().inverts(),
        value(&["tcp-option"]).inverts(),
    ],
    protocols: &[protocol::TCP],
    ..Spec::new("tcp", build)
};

/// Names in the order they are printed.
const FLAGS: &[(&str, u8)] = &[
    ("FIN", tcp::FIN),
    ("SYN", tcp::SYN),
    ("RST", tcp::RST),
    ("PSH", tcp::PSH),
    ("ACK", tcp::ACK),
    ("URG", tcp::URG),
];
const ALL_FLAGS: u8 = 0x3f;
const SYN_MASK: u8 = tcp::FIN | tcp::SYN | tcp::RST | tcp::ACK;

#[derive(Debug)]
struct Tcp {
    source: Ports,
    destination: Ports,
    flags: Option<Flags>,
    option: Option<(u8, bool)>,
}

/// A port range that may be negated.
#[derive(Copy, Clone, Debug)]
pub(super) struct Ports {
    low: u16,
    high: u16,
    inverted: bool,
}

#[derive(Copy, Clone, Debug)]
struct Flags {
    mask: u8,
    set: u8,
    inverted: bool,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    let flags = match given.exclusive(&["syn", "tcp-flags"]).and(Ok(given.get("tcp-flags")))? {
        Some(option) => match option.values.as_slice() {
            [mask, set] => {
                Some(Flags { mask: flags(mask)?, set: flags(set)?, inverted: option.inverted })
            }
            _ => None,
        },
        None => given.get("syn").map(|option| Flags {
            mask: SYN_MASK,
            set: tcp::SYN,
            inverted: option.inverted,
        }),
    };
    let option = match given.value("tcp-option") {
        Some((word, inverted)) => Some((word.number(1..=255)? as u8, inverted)),
        None => None,
    };
    Ok(Box::new(Tcp {
        source: Ports::given(given, "source-port")?,
        destination: Ports::given(given, "destination-port")?,
        flags,
        option,
    }))
}

fn flags(word: &Word<'_>) -> Outcome<u8> {
    let mut sum = 0;
    for part in word.list() {
        let known = FLAGS.iter().find(|(name, _)| part.text.eq_ignore_ascii_case(name));
        sum |= match known {
            Some((_, bit)) => *bit,
            None if part.text.eq_ignore_ascii_case("ALL") => ALL_FLAGS,
            None if part.text.eq_ignore_ascii_case("NONE") => 0,
            None => {
                return Err(part
                    .wrong(format!("unknown TCP flag `{}`", part.text))
                    .help("expected SYN, ACK, FIN, RST, URG, PSH, ALL or NONE")
                    .words(format!("Unknown TCP flag `{}'", part.text)));
            }
        };
    }
    Ok(sum)
}

impl Ports {
    pub fn given(given: &Given<'_>, name: &str) -> Outcome<Self> {
        let Some((word, inverted)) = given.value(name) else {
            return Ok(Self { low: 0, high: u16::MAX, inverted: false });
        };
        let (low, high) = word.port_range(given.protocol)?;
        Ok(Self { low, high, inverted })
    }

    /// The range that a port must be in; none if that can be any.
    pub fn wanted(self) -> Ranges<'static> {
        if self.inverted || self.is_any() {
            Ranges::Any
        } else {
            Ranges::One((self.low, self.high))
        }
    }

    /// The ports of an option, if it was given.
    pub fn optional(given: &Given<'_>, name: &str) -> Outcome<Option<Self>> {
        given.has(name).then(|| Self::given(given, name)).transpose()
    }

    /// Two ends that the caller has read; of a range that runs backwards no port is.
    pub fn new(low: u16, high: u16, inverted: bool) -> Self {
        Self { low, high, inverted }
    }

    pub fn matches(self, port: u16) -> bool {
        (self.low <= port && port <= self.high) != self.inverted
    }

    /// The range of all ports is left out, unless negated.
    pub fn list(self, out: &mut String, name: &str, style: Listing) {
        let Self { low, high, inverted } = self;
        if self.is_any() && !inverted {
            return;
        }
        let s = if low == high { "" } else { "s" };
        let range = Span(shown_port(low, style), shown_port(high, style), ':');
        // Writing to a string can't fail.
        let _ = write!(out, " {name}{s}:{}{range}", bang(inverted));
    }

    /// iptables-save leaves out the range of all ports, even negated.
    pub fn save(self, out: &mut String, name: &str) {
        if !self.is_any() {
            self.save_range(out, name);
        }
    }

    /// As the ports of SCTP and DCCP are saved: all of them too, where they were asked for.
    pub fn save_given(ports: Option<Self>, out: &mut String, name: &str) {
        if let Some(ports) = ports {
            ports.save_range(out, name);
        }
    }

    fn is_any(self) -> bool {
        (self.low, self.high) == (0, u16::MAX)
    }

    fn save_range(self, out: &mut String, name: &str) {
        save_option(out, name, self.inverted, Span(self.low, self.high, ':'));
    }
}

impl Match for Tcp {
    fn matches(&self, context: &mut Context<'_>) -> bool {
        let packet = context.query.packet;
        // A fragment at offset 8 could overwrite the flags that were judged in the first one
        // (RFC 1858 section 3); netfilter sees it only in IPv4.
        let evil = packet.fragment.is_some_and(|f| f.offset == 8);
        if evil && packet.family == Family::V4 {
            context.hotdrop = true;
            return false;
        }
        let Some(header) = header::<20>(context) else { return false };
        let port = |at| u16::from_be_bytes([header[at], header[at + 1]]);
        let flags_match = |f: Flags| (header[13] & f.mask == f.set) != f.inverted;
        self.source.matches(port(0))
            && self.destination.matches(port(2))
            && self.flags.is_none_or(flags_match)
            && self.option.is_none_or(|(kind, inverted)| {
                let segment = context.query.packet.segment(context.query.bytes);
                let Some(header) = tcp::Header::new_checked(segment) else {
                    context.hotdrop = true;
                    return false;
                };
                has_option(header.option_bytes(), kind) != inverted
            })
    }

    fn flow_only(&self) -> bool {
        // Segments that only carry data have ACK, and PSH or not.
        self.option.is_none() && self.flags.is_none_or(|flags| flags.mask & tcp::PSH == 0)
    }

    fn ports(&self) -> Option<PortsWanted<'_>> {
        let (source, destination) = (self.source.wanted(), self.destination.wanted());
        Some(PortsWanted { source, destination })
    }

    fn list(&self, out: &mut String, style: Listing) {
        out.push_str(" tcp");
        self.source.list(out, "spt", style);
        self.destination.list(out, "dpt", style);
        if let Some((kind, inverted)) = self.option {
            let _ = write!(out, " option={}{kind}", bang(inverted));
        }
        if let Some(Flags { mask, set, inverted }) = self.flags.filter(|f| f.mask | f.set != 0) {
            let _ = write!(out, " flags:{}", bang(inverted));
            if style.numeric {
                let _ = write!(out, "0x{mask:02X}/0x{set:02X}");
                return;
            }
            let mut names = String::new();
            save_flags(&mut names, mask);
            save_flags(&mut names, set);
            // The first blank, and a slash for the second.
            let (mask, set) = names.trim_start().split_once(' ').unwrap_or_default();
            let _ = write!(out, "{mask}/{set}");
        }
    }

    fn save(&self, out: &mut String) {
        self.source.save(out, "sport");
        self.destination.save(out, "dport");
        if let Some((kind, inverted)) = self.option {
            save_option(out, "tcp-option", inverted, kind);
        }
        // A mask of no flags says nothing and isn't printed.
        if let Some(Flags { mask, set, inverted }) = self.flags.filter(|f| f.mask | f.set != 0) {
            save_name(out, "tcp-flags", inverted);
            save_flags(out, mask);
            save_flags(out, set);
        }
    }

    fn only_syn(&self) -> bool {
        self.flags.is_some_and(|f| f.set & tcp::SYN != 0 && !f.inverted)
    }
}

/// Looks for an option kind as netfilter does: a length below two counts as one byte.
fn has_option(mut bytes: &[u8], kind: u8) -> bool {
    while let [first, rest @ ..] = bytes {
        if *first == kind {
            return true;
        }
        let step = match (first, rest.first()) {
            (0 | 1, _) | (_, None | Some(0)) => 1,
            (_, Some(len)) => usize::from(*len),
        };
        bytes = bytes.get(step..).unwrap_or_default();
    }
    false
}

fn save_flags(out: &mut String, bits: u8) {
    let mut between = ' ';
    for (name, _) in FLAGS.iter().filter(|(_, bit)| bits & bit != 0) {
        out.push(between);
        out.push_str(name);
        between = ',';
    }
    if bits & ALL_FLAGS == 0 {
        out.push_str(" NONE");
    }
}
