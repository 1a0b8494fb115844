//! `MARK`: changes the packet's mark; and the form of changes that `CONNMARK` shares.

use std::fmt::{self, Write as _};

use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Next, Spec, Target, TargetSpec, value};
use crate::lex::Word;
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
#[derive(Copy, Clone, Debug)]
pub(super) struct Change {
    pub(super) value: u32,
    pub(super) mask: u32,
}

impl Change {
    /// What one of the options says.
    pub(super) fn read(option: &str, word: &Word<'_>) -> Outcome<Self> {
        let bits = || word.number(0..=u64::from(u32::MAX)).map(|n| n as u32);
        let (value, mask) = match option {
            "set-xmark" => word.masked_u32()?,
            "set-mark" => {
                let (value, mask) = word.masked_u32()?;
                (value, mask | value)
            }
            "and-mark" => (0, !bits()?),
            "or-mark" => (bits()?, bits()?),
            _ => (bits()?, 0),
        };
        Ok(Self { value, mask })
    }

    pub(super) fn of(self, mark: u32) -> u32 {
        mark & !self.mask ^ self.value
    }

    pub(super) fn save(self, out: &mut String) {
        let Self { value, mask } = self;
        save_option(out, "set-xmark", false, format_args!("{value:#x}/{mask:#x}"));
    }
}

/// As listings show it: in the simplest form that fits.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.value, self.mask) {
            (0, mask) => write!(f, "and {:#x}", !mask),
            (value, mask) if value == mask => write!(f, "or {value:#x}"),
            (value, 0) => write!(f, "xor {value:#x}"),
            (value, u32::MAX) => write!(f, "set {value:#x}"),
            (value, mask) => write!(f, "xset {value:#x}/{mask:#x}"),
        }
    }
}

#[derive(Debug)]
struct Mark(Change);

fn build(given: &Given<'_>) -> Outcome<Box<dyn Target>> {
    let option = given.one_of(&["set-xmark", "set-mark", "and-mark", "or-mark", "xor-mark"])?;
    let [word] = option.values.as_slice() else {
        return Err(given.wrong("a value is missing"));
    };
    Ok(Box::new(Mark(Change::read(option.opt.names[0], word)?)))
}

impl Target for Mark {
    fn apply(&self, context: &mut Context<'_>) -> Next {
        context.mark = self.0.of(context.mark);
        context.effects.set_mark(context.mark);
        Next::Continue
    }

    fn flow_only(&self) -> bool {
        true
    }

    fn list(&self, out: &mut String, _style: Listing) {
        let _ = write!(out, " MARK {}", self.0);
    }

    fn save(&self, out: &mut String) {
        self.0.save(out);
    }
}
