//! `TOS`: the type-of-service byte or traffic class.

use std::fmt::Write as _;

use crate::diagnostic::Outcome;
use crate::edit::{Edit, HeaderEdit};
use crate::extension::{Context, Given, Listing, Next, Spec, Target, TargetSpec, value};
use crate::lex::Word;
use crate::matches::tos::{NAME_MASK, NAMES, named};
use crate::query::TableName;
use crate::values::save_option;

pub(crate) static SPEC: TargetSpec = TargetSpec {
    options: &[value(&["set-tos"]), value(&["and-tos"]), value(&["or-tos"]), value(&["xor-tos"])],
    tables: &[TableName::Mangle],
    ..Spec::new("TOS", build)
};

/// The bits of `mask` are cleared, then those of `value` flipped.
#[derive(Debug)]
struct Tos {
    value: u8,
    mask: u8,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Target>> {
    let option = given.one_of(&["set-tos", "and-tos", "or-tos", "xor-tos"])?;
    let [word] = option.values.as_slice() else {
        return Err(given.wrong("a value is missing"));
    };
    let byte = |word: &Word<'_>| word.number(0..=255).map(|n| n as u8);
    let (value, mask) = match option.opt.names[0] {
        "set-tos" => match (named(word), word.text.split_once('/')) {
            (Some(value), _) => (value, NAME_MASK),
            (None, Some((value, mask))) => (byte(&word.part(value))?, byte(&word.part(mask))?),
            (None, None) => (byte(word)?, 0xff),
        },
        "and-tos" => (0, !byte(word)?),
        "or-tos" => (byte(word)?, byte(word)?),
        _ => (byte(word)?, 0),
    };
    Ok(Box::new(Tos { value, mask }))
}

impl Target for Tos {
    fn apply(&self, context: &mut Context<'_>) -> Next {
        let old = context.query.packet.tos;
        let new = old & !self.mask ^ self.value;
        match new == old {
            true => Next::Continue,
            false => Next::Edit(Edit::Header(HeaderEdit::Tos(new))),
        }
    }

    fn list(&self, out: &mut String, style: Listing) {
        let Self { value, mask } = *self;
        let name = NAMES.iter().find(|(_, named)| *named == value && mask == NAME_MASK);
        let _ = match (name, value, mask) {
            _ if style.numeric => write!(out, " TOS set 0x{value:02x}/0x{mask:02x}"),
            (Some((name, _)), ..) => write!(out, "  TOS set{name}"),
            (_, 0, mask) => write!(out, " TOS and 0x{:02x}", !mask),
            (_, value, mask) if value == mask => write!(out, " TOS or 0x{value:02x}"),
            (_, value, 0) => write!(out, " TOS xor 0x{value:02x}"),
            _ => write!(out, " TOS set 0x{value:02x}/0x{mask:02x}"),
        };
    }

    fn save(&self, out: &mut String) {
        let Self { value, mask } = self;
        save_option(out, "set-tos", false, format_args!("0x{value:02x}/0x{mask:02x}"));
    }
}
