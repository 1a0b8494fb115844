//! `-m connlabel`: one of a connection's 128 labels.

use std::fmt::Write as _;

use crate::diagnostic::{Outcome, Refusal};
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, flag, value};
use crate::labels::Labels;
use crate::lex::Word;
use crate::values::{parse_number, save_name};

pub(crate) static SPEC: MatchSpec = MatchSpec {
    options: &[value(&["label"]).inverts(), flag(&["set"])],
    ..Spec::new("connlabel", build)
};

/// `XT_CONNLABEL_MAXBIT`.
const LAST: u64 = 127;

#[derive(Debug)]
struct ConnLabel {
    bit: u8,
    inverted: bool,
    /// `--set`: a connection without the label gets it, and matches.
    set: bool,
    /// The label's name, as the rule is saved with it.
    name: Option<String>,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    let (word, inverted) = given.required("label")?;
    let labels = Labels::in_force();
    let bit = number(word, &labels)?;
    let name = labels.name(bit).map(str::to_owned);
    Ok(Box::new(ConnLabel { bit, inverted, set: given.has("set"), name }))
}

/// A name comes before a number.
fn number(word: &Word<'_>, labels: &Labels) -> Outcome<u8> {
    let found = labels
        .bit(&word.text)
        .map(u64::from)
        .or_else(|| parse_number(&word.text).filter(|_| !word.text.is_empty()));
    match found {
        Some(bit) if bit <= LAST => Ok(bit as u8),
        Some(_) => Err(word
            .wrong(format!("label {} is too large", word.text))
            .help("expected 0 to 127 or a name from /etc/xtables/connlabel.conf")
            .refused(Refusal::OutOfRange)),
        None => Err(word
            .wrong(format!("unknown label `{}`", word.text))
            .help("expected 0 to 127 or a name from /etc/xtables/connlabel.conf")
            .words(format!("label '{}' not found or invalid value", word.text))),
    }
}

impl Match for ConnLabel {
    fn matches(&self, context: &mut Context<'_>) -> bool {
        let Some(connection) = context.query.connection else { return self.inverted };
        let wanted = 1u128 << self.bit;
        if (connection.labels | context.labels) & wanted != 0 {
            return !self.inverted;
        }
        if !self.set {
            return self.inverted;
        }
        if !context.dry {
            context.labels |= wanted;
            context.effects.set_label(self.bit);
        }
        !self.inverted
    }

    fn flow_only(&self) -> bool {
        !self.set
    }

    fn list(&self, out: &mut String, style: Listing) {
        let negated = if self.inverted { " !" } else { "" };
        let _ = match &self.name {
            Some(name) if !style.numeric => write!(out, " connlabel{negated} '{name}'"),
            _ => write!(out, " connlabel{negated} {}", self.bit),
        };
        if self.set {
            out.push_str(" set");
        }
    }

    fn save(&self, out: &mut String) {
        save_name(out, "label", self.inverted);
        let _ = match &self.name {
            Some(name) => write!(out, " \"{name}\""),
            None => write!(out, " \"{}\"", self.bit),
        };
        if self.set {
            out.push_str(" --set");
        }
    }

    fn uses_conntrack(&self) -> bool {
        true
    }
}
