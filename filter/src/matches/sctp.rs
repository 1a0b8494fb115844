//! `-m sctp`: ports, and which chunks a packet has (RFC 9260 section 3.2).

use std::fmt::Write as _;

use tidegate_packet::protocol;

use super::header;
use super::tcp::Ports;
use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, value};
use crate::lex::Word;
use crate::values::save_name;

pub(crate) static SPEC: MatchSpec = MatchSpec {
    options: &[
        value(&["source-port", "sport"]).inverts(),
        value(&["destination-port", "dport"]).inverts(),
        value(&["chunk-types"]).pair().inverts(),
    ],
    protocols: &[protocol::SCTP],
    ..Spec::new("sctp", build)
};

const NO_FLAGS: &str = "--------";
const DATA_FLAGS: &str = "----IUBE";
const ABORT_FLAGS: &str = "-------T";

/// Chunks in the order of their types, and the letters of their flags from the highest bit on.
const CHUNKS: [(&str, u8, &str); 20] = [
    ("DATA", 0, DATA_FLAGS),
    ("INIT", 1, NO_FLAGS),
    ("INIT_ACK", 2, NO_FLAGS),
    ("SACK", 3, NO_FLAGS),
    ("HEARTBEAT", 4, NO_FLAGS),
    ("HEARTBEAT_ACK", 5, NO_FLAGS),
    ("ABORT", 6, ABORT_FLAGS),
    ("SHUTDOWN", 7, NO_FLAGS),
    ("SHUTDOWN_ACK", 8, NO_FLAGS),
    ("ERROR", 9, NO_FLAGS),
    ("COOKIE_ECHO", 10, NO_FLAGS),
    ("COOKIE_ACK", 11, NO_FLAGS),
    ("ECN_ECNE", 12, NO_FLAGS),
    ("ECN_CWR", 13, NO_FLAGS),
    ("SHUTDOWN_COMPLETE", 14, ABORT_FLAGS),
    ("I_DATA", 64, ""),
    ("ASCONF_ACK", 128, ""),
    ("RE_CONFIG", 130, ""),
    ("PAD", 132, ""),
    ("FORWARD_TSN", 192, ""),
];
/// Those whose types stand highest.
const LATE_CHUNKS: [(&str, u8, &str); 2] = [("ASCONF", 193, ""), ("I_FORWARD_TSN", 194, "")];

/// The length of the common header (RFC 9260 section 3.1).
const HEADER_LEN: usize = 12;

#[derive(Debug)]
struct Sctp {
    source: Option<Ports>,
    destination: Option<Ports>,
    chunks: Option<Chunks>,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Mode {
    All,
    Any,
    Only,
}

const MODES: [(&str, Mode); 3] = [("all", Mode::All), ("any", Mode::Any), ("only", Mode::Only)];

#[derive(Debug)]
struct Chunks {
    mode: Mode,
    types: Types,
    /// Of a chunk of that type, these flag bits have to be so.
    flags: Vec<Flags>,
    inverted: bool,
}

/// A bit for each chunk type.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
struct Types([u64; 4]);

#[derive(Copy, Clone, Debug)]
struct Flags {
    kind: u8,
    mask: u8,
    set: u8,
}

impl Types {
    const ALL: Self = Self([u64::MAX; 4]);

    fn has(self, kind: u8) -> bool {
        self.0[usize::from(kind) / 64] >> (kind % 64) & 1 != 0
    }

    fn put(&mut self, kind: u8) {
        self.0[usize::from(kind) / 64] |= 1 << (kind % 64);
    }

    fn take(&mut self, kind: u8) {
        self.0[usize::from(kind) / 64] &= !(1 << (kind % 64));
    }
}

fn known() -> impl Iterator<Item = &'static (&'static str, u8, &'static str)> {
    CHUNKS.iter().chain(&LATE_CHUNKS)
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    let chunks = match given.get("chunk-types") {
        None => None,
        Some(option) => match option.values.as_slice() {
            [mode, list] => Some(chunks(mode, list, option.inverted)?),
            _ => return Err(given.wrong("--chunk-types needs two values")),
        },
    };
    Ok(Box::new(Sctp {
        source: Ports::optional(given, "source-port")?,
        destination: Ports::optional(given, "destination-port")?,
        chunks,
    }))
}

fn chunks(mode: &Word<'_>, list: &Word<'_>, inverted: bool) -> Outcome<Chunks> {
    let Some((_, mode)) = MODES.iter().find(|(name, _)| mode.text.eq_ignore_ascii_case(name))
    else {
        return Err(mode
            .wrong(format!("unknown way to match chunks `{}`", mode.text))
            .help("expected all, any or only"));
    };
    let mut chunks = Chunks { mode: *mode, types: Types::default(), flags: Vec::new(), inverted };
    if list.text.eq_ignore_ascii_case("ALL") {
        chunks.types = Types::ALL;
        return Ok(chunks);
    }
    if list.text.eq_ignore_ascii_case("NONE") {
        return Ok(chunks);
    }
    for part in list.list().filter(|part| !part.text.is_empty()) {
        let (name, letters) = part.text.split_once(':').unwrap_or((&part.text, ""));
        let Some((_, kind, valid)) = known().find(|(n, ..)| n.eq_ignore_ascii_case(name)) else {
            return Err(part
                .wrong(format!("unknown chunk `{name}`"))
                .words(format!("Unknown sctp chunk `{name}'")));
        };
        chunks.types.put(*kind);
        chunks.add_flags(*kind, letters, valid, &part)?;
    }
    Ok(chunks)
}

impl Chunks {
    /// An upper-case letter: set; a lower-case one: not set.
    fn add_flags(&mut self, kind: u8, letters: &str, valid: &str, word: &Word<'_>) -> Outcome<()> {
        // iptables knows no flags of the newer chunks and drops what is said of them.
        if letters.is_empty() || valid.is_empty() {
            return Ok(());
        }
        let at = match self.flags.iter().position(|f| f.kind == kind) {
            Some(at) => at,
            None => {
                self.flags.push(Flags { kind, mask: 0, set: 0 });
                self.flags.len() - 1
            }
        };
        for letter in letters.chars() {
            let Some(place) = valid.find(letter.to_ascii_uppercase()) else {
                return Err(word
                    .wrong(format!("chunk flag `{letter}` is unknown here"))
                    .words(format!("Invalid flags for chunk type {kind}")));
            };
            let bit = 0x80 >> place;
            self.flags[at].mask |= bit;
            if letter.is_ascii_uppercase() {
                self.flags[at].set |= bit;
            }
        }
        Ok(())
    }

    fn flags_fit(&self, kind: u8, flags: u8) -> bool {
        let asked = self.flags.iter().find(|f| f.kind == kind);
        asked.is_none_or(|f| flags & f.mask == f.set)
    }

    /// Walks the chunks behind the common header; `None` if one has no length (match_packet).
    fn hold(&self, segment: &[u8]) -> Option<bool> {
        let mut missing = self.types;
        let mut at = HEADER_LEN;
        while {
            let chunk = segment.get(at..)?.first_chunk::<4>()?;
            let [kind, flags, high, low] = *chunk;
            let len = usize::from(u16::from_be_bytes([high, low]));
            if len == 0 {
                return None;
            }
            at += len.next_multiple_of(4);
            let fits = self.types.has(kind) && self.flags_fit(kind, flags);
            match self.mode {
                Mode::Any if fits => return Some(true),
                Mode::Only if !fits => return Some(false),
                Mode::All if fits => missing.take(kind),
                _ => {}
            }
            at < segment.len()
        } {}
        Some(match self.mode {
            Mode::All => missing == Types::default(),
            Mode::Any => false,
            Mode::Only => true,
        })
    }

    /// The mode and the chunks.
    fn write(&self, out: &mut String, numeric: bool) {
        let mode = MODES.iter().find(|(_, mode)| *mode == self.mode).map_or("", |(name, _)| name);
        let _ = write!(out, " {mode} ");
        match self.types {
            Types::ALL => return out.push_str("ALL"),
            types if types == Types::default() => return out.push_str("NONE"),
            _ => {}
        }
        let mut between = "";
        for (name, kind, valid) in known().filter(|(_, kind, _)| self.types.has(*kind)) {
            let _ = match numeric {
                true => write!(out, "{between}0x{kind:04X}"),
                false => write!(out, "{between}{name}"),
            };
            between = ",";
            let Some(asked) = self.flags.iter().find(|f| f.kind == *kind) else { continue };
            out.push(':');
            for (place, letter) in valid.chars().enumerate() {
                let bit = 0x80 >> place;
                if asked.mask & bit != 0 {
                    let set = asked.set & bit != 0;
                    out.push(if set { letter } else { letter.to_ascii_lowercase() });
                }
            }
        }
    }
}

impl Match for Sctp {
    fn matches(&self, context: &mut Context<'_>) -> bool {
        let Some(header) = header::<HEADER_LEN>(context) else { return false };
        let port = |at| u16::from_be_bytes([header[at], header[at + 1]]);
        if !self.source.is_none_or(|ports| ports.matches(port(0)))
            || !self.destination.is_none_or(|ports| ports.matches(port(2)))
        {
            return false;
        }
        let Some(chunks) = &self.chunks else { return true };
        match chunks.hold(context.query.packet.segment(context.query.bytes)) {
            Some(hold) => hold != chunks.inverted,
            None => {
                context.hotdrop = true;
                false
            }
        }
    }

    fn list(&self, out: &mut String, style: Listing) {
        out.push_str(" sctp");
        for (ports, name) in [(self.source, "spt"), (self.destination, "dpt")] {
            if let Some(ports) = ports {
                ports.list(out, name, style);
            }
        }
        if let Some(chunks) = &self.chunks {
            out.push_str(if chunks.inverted { " !" } else { "" });
            chunks.write(out, style.numeric);
        }
    }

    fn save(&self, out: &mut String) {
        Ports::save_given(self.source, out, "sport");
        Ports::save_given(self.destination, out, "dport");
        if let Some(chunks) = &self.chunks {
            save_name(out, "chunk-types", chunks.inverted);
            chunks.write(out, false);
        }
    }
}
