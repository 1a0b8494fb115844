//! `DSCP`: the differentiated services code point (RFC 2474).

use std::fmt::Write as _;

use crate::diagnostic::Outcome;
use crate::edit::{Edit, HeaderEdit};
use crate::extension::{Context, Given, Listing, Next, Spec, Target, TargetSpec, value};
use crate::matches::dscp::class;
use crate::query::TableName;
use crate::values::save_option;

pub(crate) static SPEC: TargetSpec = TargetSpec {
    options: &[value(&["set-dscp"]), value(&["set-dscp-class"])],
    tables: &[TableName::Mangle],
    ..Spec::new("DSCP", build)
};

#[derive(Debug)]
struct Dscp(u8);

fn build(given: &Given<'_>) -> Outcome<Box<dyn Target>> {
    let option = given.one_of(&["set-dscp", "set-dscp-class"])?;
    let [word] = option.values.as_slice() else {
        return Err(given.wrong("a value is missing"));
    };
    Ok(Box::new(Dscp(match option.opt.names[0] {
        "set-dscp" => word.number(0..=63)? as u8,
        _ => class(word)?,
    })))
}

impl Target for Dscp {
    fn apply(&self, context: &mut Context<'_>) -> Next {
        let old = context.query.packet.tos;
        match old >> 2 == self.0 {
            true => Next::Continue,
            false => Next::Edit(Edit::Header(HeaderEdit::Tos(self.0 << 2 | old & 3))),
        }
    }

    fn list(&self, out: &mut String, _: Listing) {
        let _ = write!(out, " DSCP set 0x{:02x}", self.0);
    }

    fn save(&self, out: &mut String) {
        save_option(out, "set-dscp", false, format_args!("0x{:02x}", self.0));
    }
}
