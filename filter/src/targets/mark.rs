//! `MARK`: changes the packet's mark.

use std::fmt::Write as _;

use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Next, Spec, Target, TargetSpec, value};
use crate::values::save_option;

pub(crate) static SPEC: TargetSpec = TargetSpec {
    options: &[
        value(&["set-xmark"]),
        value(&["set-mark"]),
        value(&["and-mark"]),
        value(&["or-mark"]),
        value(&["xor-mark"]),
    ],
    ..Spec::new("MARK", build)
};

/// The bits of `mask` are cleared, then those of `value` flipped: all forms come down to this.
#[derive(Debug)]
struct Mark {
    value: u32,
    mask: u32,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Target>> {
    let option = given.one_of(&["set-xmark", "set-mark", "and-mark", "or-mark", "xor-mark"])?;
    let [word] = option.values.as_slice() else {
        return Err(given.wrong("a value is missing"));
    };
    let bits = || word.number(0..=u64::from(u32::MAX)).map(|n| n as u32);
    let (value, mask) = match option.opt.names[0] {
        "set-xmark" => word.masked_u32()?,
        "set-mark" => {
            let (value, mask) = word.masked_u32()?;
            (value, mask | value)
        }
        "and-mark" => (0, !bits()?),
        "or-mark" => (bits()?, bits()?),
        _ => (bits()?, 0),
    };
    Ok(Box::new(Mark { value, mask }))
}

impl Target for Mark {
    fn apply(&self, context: &mut Context<'_>) -> Next {
        context.mark = context.mark & !self.mask ^ self.value;
        context.effects.set_mark(context.mark);
        Next::Continue
    }

    fn flow_only(&self) -> bool {
        true
    }

    fn list(&self, out: &mut String, _style: Listing) {
        let Self { value, mask } = *self;
        // All forms come down to one, and the simplest that fits is shown.
        let _ = match (value, mask) {
            (0, _) => write!(out, " MARK and 0x{:x}", !mask),
            (value, mask) if value == mask => write!(out, " MARK or 0x{value:x}"),
            (value, 0) => write!(out, " MARK xor 0x{value:x}"),
            (value, u32::MAX) => write!(out, " MARK set 0x{value:x}"),
            (value, mask) => write!(out, " MARK xset 0x{value:x}/0x{mask:x}"),
        };
    }

    fn save(&self, out: &mut String) {
        let Self { value, mask } = self;
        save_option(out, "set-xmark", false, format_args!("0x{value:x}/0x{mask:x}"));
    }
}
