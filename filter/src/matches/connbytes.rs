//! `-m connbytes`: how much a connection has carried.

use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, value};
use crate::values::save_option;

pub(crate) static SPEC: MatchSpec = MatchSpec {
    options: &[
        value(&["connbytes"]).inverts(),
        value(&["connbytes-dir"]),
        value(&["connbytes-mode"]),
    ],
    ..Spec::new("connbytes", build)
};

const DIRECTIONS: [&str; 3] = ["original", "reply", "both"];
const MODES: [&str; 3] = ["packets", "bytes", "avgpkt"];

#[derive(Debug)]
struct ConnBytes {
    from: u64,
    to: u64,
    inverted: bool,
    direction: &'static str,
    mode: &'static str,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    let (word, inverted) = given.required("connbytes")?;
    let end = |text: &str, default| match text {
        "" => Ok(default),
        text => word.part(text).number(0..=u64::MAX),
    };
    let (from, to) = match word.text.split_once(':') {
        Some((from, to)) => (end(from, 0)?, end(to, u64::MAX)?),
        None => (word.number(0..=u64::MAX)?, u64::MAX),
    };
    if from > to {
        return Err(word.wrong(format!("range `{}` runs backwards", word.text)));
    }
    // Negation swaps the ends in the kernel's structure, which changes nothing where they are equal.
    let inverted = inverted && from != to;
    let one_of = |name: &str, known: [&'static str; 3]| {
        let (word, _) = given.required(name)?;
        known.into_iter().find(|known| *known == word.text).ok_or_else(|| {
            word.wrong(format!("unknown `{}`", word.text))
                .help(format!("expected {}", known.join(", ")))
        })
    };
    Ok(Box::new(ConnBytes {
        from,
        to,
        inverted,
        direction: one_of("connbytes-dir", DIRECTIONS)?,
        mode: one_of("connbytes-mode", MODES)?,
    }))
}

impl Match for ConnBytes {
    /// xt_connbytes. Without accounting nothing matches, negated or not.
    fn matches(&self, context: &mut Context<'_>) -> bool {
        let Some(connection) = context.query.connection else { return false };
        let [original, reply] = connection.accounting;
        if (original, reply) == ((0, 0), (0, 0)) {
            return false;
        }
        let (packets, bytes) = match self.direction {
            "original" => original,
            "reply" => reply,
            _ => (original.0.wrapping_add(reply.0), original.1.wrapping_add(reply.1)),
        };
        let amount = match self.mode {
            "packets" => packets,
            "bytes" => bytes,
            _ => bytes.checked_div(packets).unwrap_or(0),
        };
        (self.from..=self.to).contains(&amount) != self.inverted
    }

    fn list(&self, out: &mut String, _: Listing) {
        let mut saved = String::new();
        self.save(&mut saved);
        saved = saved.replace("-mode", " mode").replace("-dir", " direction");
        out.push_str(&saved.replace("--connbytes", "connbytes"));
    }

    fn save(&self, out: &mut String) {
        match self.to {
            // libxt_connbytes takes an upper end of zero for none.
            0 | u64::MAX => save_option(out, "connbytes", self.inverted, self.from),
            to => save_option(out, "connbytes", self.inverted, format_args!("{}:{to}", self.from)),
        }
        save_option(out, "connbytes-mode", false, self.mode);
        save_option(out, "connbytes-dir", false, self.direction);
    }

    fn uses_conntrack(&self) -> bool {
        true
    }

    fn needs_accounting(&self) -> bool {
        true
    }
}
