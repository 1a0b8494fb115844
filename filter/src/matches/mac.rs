//! `-m mac`: the source of the frame.

use std::fmt::Write as _;

use tidegate_packet::MacAddr;

use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, value};
use crate::lex::Word;
use crate::query::Hook;
use crate::values::save_name;

pub(crate) static SPEC: MatchSpec = MatchSpec {
    options: &[value(&["mac-source"]).inverts()],
    hooks: &[Hook::Prerouting, Hook::Input, Hook::Forward],
    ..Spec::new("mac", build)
};

#[derive(Debug)]
struct Mac {
    source: [u8; 6],
    inverted: bool,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    let (word, inverted) = given.required("mac-source")?;
    Ok(Box::new(Mac { source: parse(word)?, inverted }))
}

/// Six parts of one or two hexadecimal digits.
fn parse(word: &Word<'_>) -> Outcome<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut parts = word.text.split(':');
    for byte in &mut bytes {
        let part = parts
            .next()
            .filter(|p| matches!(p.len(), 1 | 2) && p.bytes().all(|b| b.is_ascii_hexdigit()));
        let parsed = part.and_then(|p| u8::from_str_radix(p, 16).ok());
        *byte = parsed.ok_or_else(|| {
            word.wrong(format!("bad MAC address `{}`", word.text))
                .help("expected six hexadecimal bytes with colons between")
                .words("Invalid MAC address specified.")
        })?;
    }
    match parts.next() {
        None => Ok(bytes),
        Some(_) => Err(word
            .wrong(format!("bad MAC address `{}`", word.text))
            .words("Invalid MAC address specified.")),
    }
}

impl Match for Mac {
    fn matches(&self, context: &mut Context<'_>) -> bool {
        // Without a link layer there is nothing to compare, negated or not (xt_mac).
        context.query.link.is_some_and(|link| (link.src == MacAddr(self.source)) != self.inverted)
    }

    fn list(&self, out: &mut String, _style: Listing) {
        out.push_str(if self.inverted { " MAC !" } else { " MAC" });
        for (n, byte) in self.source.iter().enumerate() {
            let _ = write!(out, "{}{byte:02x}", if n == 0 { ' ' } else { ':' });
        }
    }

    fn save(&self, out: &mut String) {
        save_name(out, "mac-source", self.inverted);
        for (n, byte) in self.source.iter().enumerate() {
            let _ = write!(out, "{}{byte:02x}", if n == 0 { ' ' } else { ':' });
        }
    }
}
