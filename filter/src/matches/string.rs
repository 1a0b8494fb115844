//! `-m string`: bytes somewhere in the packet.

use std::fmt::Write as _;

use crate::diagnostic::{Outcome, Refusal};
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, flag, value};
use crate::lex::Word;
use crate::values::{save_name, save_option};

pub(crate) static SPEC: MatchSpec = MatchSpec {
    options: &[
        value(&["string"]).inverts(),
        value(&["hex-string"]).inverts(),
        value(&["algo"]),
        value(&["from"]),
        value(&["to"]),
        flag(&["icase"]),
    ],
    ..Spec::new("string", build)
};

/// `XT_STRING_MAX_PATTERN_SIZE`.
const MAX_PATTERN: usize = 128;
const MAX_OFFSET: u16 = u16::MAX;

#[derive(Debug)]
struct Pattern {
    bytes: Vec<u8>,
    inverted: bool,
    /// How the kernel would search; what is found is the same.
    algorithm: &'static str,
    from: u16,
    to: u16,
    ignore_case: bool,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    let option = given.one_of(&["string", "hex-string"])?;
    let [word] = option.values.as_slice() else {
        return Err(given.wrong("a value is missing"));
    };
    let bytes = match option.opt.names[0] {
        "string" => word.text.as_bytes().to_vec(),
        _ => hex_blocks(word)?,
    };
    if bytes.is_empty() || bytes.len() > MAX_PATTERN {
        return Err(word.wrong("bad pattern").help(format!("expected 1 to {MAX_PATTERN} bytes")));
    }
    let (algo, _) = given.required("algo")?;
    let Some(algorithm) = ["bm", "kmp"].into_iter().find(|name| *name == algo.text) else {
        return Err(algo
            .wrong(format!("unknown algorithm `{}`", algo.text))
            .help("expected bm or kmp")
            .refused(Refusal::NoChain));
    };
    let offset = |name, default| match given.value(name) {
        Some((word, _)) => word.number(0..=u64::from(MAX_OFFSET)).map(|n| n as u16),
        None => Ok(default),
    };
    let (from, to) = (offset("from", 0)?, offset("to", MAX_OFFSET)?);
    if from > to {
        return Err(given.wrong("--from is behind --to"));
    }
    let (inverted, ignore_case) = (option.inverted, given.has("icase"));
    Ok(Box::new(Pattern { bytes, inverted, algorithm, from, to, ignore_case }))
}

/// Text with hexadecimal bytes between bars: `abc|00 ff|def`.
fn hex_blocks(word: &Word<'_>) -> Outcome<Vec<u8>> {
    let bad = || {
        word.wrong(format!("bad pattern `{}`", word.text))
            .help("expected text with pairs of hexadecimal digits between bars: ab|00ff|cd")
    };
    let mut bytes = Vec::new();
    let mut parts = word.text.split('|');
    bytes.extend(parts.next().unwrap_or("").bytes());
    while let Some(block) = parts.next() {
        let digits: Vec<u8> = block.bytes().filter(|b| *b != b' ').collect();
        let (pairs, []) = digits.as_chunks::<2>() else { return Err(bad()) };
        for pair in pairs {
            let digit = |b: u8| char::from(b).to_digit(16).map(|d| d as u8).ok_or_else(bad);
            bytes.push(digit(pair[0])? << 4 | digit(pair[1])?);
        }
        bytes.extend(parts.next().ok_or_else(bad)?.bytes());
    }
    Ok(bytes)
}

impl Pattern {
    /// Whether it isn't text that a line can't show, or whose last backslash would escape the quote.
    fn printable(&self) -> bool {
        let shown = self.bytes.iter().all(|b| matches!(b, b' '..=b'~'));
        shown && self.bytes.last() != Some(&b'\\')
    }

    /// The bytes as text, or else as digits.
    fn write_bytes(&self, out: &mut String) {
        let printable = self.printable();
        for &byte in &self.bytes {
            if !printable {
                // Writing to a string can't fail.
                let _ = write!(out, "{byte:02x}");
                continue;
            }
            if matches!(byte, b'"' | b'\\') {
                out.push('\\');
            }
            out.push(char::from(byte));
        }
    }
}

impl Match for Pattern {
    fn matches(&self, context: &mut Context<'_>) -> bool {
        let query = context.query;
        // Offsets count from the IP header, and the pattern must lie wholly between them.
        let end = usize::from(self.to).min(query.packet.len as usize);
        let window = query.bytes.get(usize::from(self.from)..end).unwrap_or_default();
        let found = window.windows(self.bytes.len()).any(|part| match self.ignore_case {
            true => part.eq_ignore_ascii_case(&self.bytes),
            false => part == self.bytes,
        });
        found != self.inverted
    }

    fn list(&self, out: &mut String, _style: Listing) {
        out.push_str(if self.inverted { " STRING match !" } else { " STRING match " });
        out.push_str(if self.printable() { " \"" } else { " \"|" });
        self.write_bytes(out);
        out.push_str(if self.printable() { "\"" } else { "|\"" });
        let _ = write!(out, " ALGO name {}", self.algorithm);
        if self.from != 0 {
            let _ = write!(out, " FROM {}", self.from);
        }
        if self.to != MAX_OFFSET {
            let _ = write!(out, " TO {}", self.to);
        }
        out.push_str(if self.ignore_case { " ICASE" } else { "" });
    }

    fn save(&self, out: &mut String) {
        if self.printable() {
            save_name(out, "string", self.inverted);
            out.push_str(" \"");
            self.write_bytes(out);
            out.push('"');
        } else {
            save_name(out, "hex-string", self.inverted);
            out.push_str(" \"|");
            self.write_bytes(out);
            out.push_str("|\"");
        }
        save_option(out, "algo", false, self.algorithm);
        if self.from != 0 {
            save_option(out, "from", false, self.from);
        }
        if self.to != MAX_OFFSET {
            save_option(out, "to", false, self.to);
        }
        if self.ignore_case {
            save_name(out, "icase", false);
        }
    }
}
