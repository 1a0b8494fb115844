//! `CONNMARK`: the connection's mark, and moving it to and from the packet.

use std::fmt::Write as _;

use super::mark::Change;
use crate::diagnostic::Outcome;
use crate::edit::Edit;
use crate::extension::{Context, Given, Listing, Next, Spec, Target, TargetSpec, flag, value};
use crate::values::{list_saved, save_name, save_option};

pub(crate) static SPEC: TargetSpec = TargetSpec {
    options: &[
        value(&["set-xmark"]),
        value(&["set-mark"]),
        value(&["and-mark"]),
        value(&["or-mark"]),
        value(&["xor-mark"]),
        flag(&["save-mark"]),
        flag(&["restore-mark"]),
        value(&["ctmask"]),
        value(&["nfmask"]),
        value(&["mask"]),
        value(&["left-shift-mark"]),
        value(&["right-shift-mark"]),
    ],
    ..Spec::new("CONNMARK", build)
};

#[derive(Debug)]
enum ConnMark {
    Set { change: Change, shift: Shift },
    Save { ct: u32, nf: u32, shift: Shift },
    Restore { ct: u32, nf: u32, shift: Shift },
}

/// Bits to shift by, to the left if positive.
type Shift = i8;

fn build(given: &Given<'_>) -> Outcome<Box<dyn Target>> {
    let option = given.one_of(&[
        "set-xmark",
        "set-mark",
        "and-mark",
        "or-mark",
        "xor-mark",
        "save-mark",
        "restore-mark",
    ])?;
    let bits = |name: &str| match given.value(name) {
        Some((word, _)) => word.number(0..=u64::from(u32::MAX)).map(|n| Some(n as u32)),
        None => Ok(None),
    };
    given.exclusive(&["mask", "ctmask"])?;
    given.exclusive(&["mask", "nfmask"])?;
    given.exclusive(&["left-shift-mark", "right-shift-mark"])?;
    let bits_to_shift = |name: &str| match given.value(name) {
        Some((word, _)) => word.number(0..=31).map(|n| n as Shift),
        None => Ok(0),
    };
    let shift = bits_to_shift("left-shift-mark")? - bits_to_shift("right-shift-mark")?;
    let given_mask = bits("mask")?.or(bits("ctmask")?);
    let (ct, nf) = match bits("mask")? {
        Some(mask) => (mask, mask),
        None => (bits("ctmask")?.unwrap_or(u32::MAX), bits("nfmask")?.unwrap_or(u32::MAX)),
    };
    Ok(Box::new(match (option.opt.names[0], option.values.first()) {
        ("save-mark", _) => ConnMark::Save { ct, nf, shift },
        ("restore-mark", _) => ConnMark::Restore { ct, nf, shift },
        (name, Some(word)) => {
            let Change { value, mask } = Change::read(name, word)?;
            let mask = given_mask.unwrap_or(mask);
            ConnMark::Set { change: Change { value, mask }, shift }
        }
        (_, None) => return Err(given.wrong("a value is missing")),
    }))
}

fn shifted(bits: u32, shift: Shift) -> u32 {
    match u32::from(shift.unsigned_abs()) {
        n if shift >= 0 => bits.checked_shl(n).unwrap_or(0),
        n => bits.checked_shr(n).unwrap_or(0),
    }
}

fn save_masks(out: &mut String, ct: u32, nf: u32) {
    save_option(out, "nfmask", false, format_args!("0x{nf:x}"));
    save_option(out, "ctmask", false, format_args!("0x{ct:x}"));
}

fn save_shift(out: &mut String, shift: Shift) {
    match shift {
        0 => {}
        1.. => save_option(out, "left-shift-mark", false, shift),
        _ => save_option(out, "right-shift-mark", false, -shift),
    }
}

impl Target for ConnMark {
    /// xt_connmark. A packet without a connection is left alone.
    fn apply(&self, context: &mut Context<'_>) -> Next {
        let Some(connection) = context.query.connection else { return Next::Continue };
        let old = connection.mark;
        let new = match *self {
            Self::Set { change, shift } => shifted(change.of(old), shift),
            Self::Save { ct, nf, shift } => old & !ct ^ shifted(context.mark & nf, shift),
            Self::Restore { ct, nf, shift } => {
                context.mark = context.mark & !nf ^ shifted(old & ct, shift);
                context.effects.set_mark(context.mark);
                return Next::Continue;
            }
        };
        if new == old { Next::Continue } else { Next::Edit(Edit::ConnMark(new)) }
    }

    fn flow_only(&self) -> bool {
        true
    }

    fn list(&self, out: &mut String, _: Listing) {
        out.push_str(" CONNMARK");
        let masks = |out: &mut String, ct: u32, nf: u32, from: (&str, u32), to: (&str, u32)| {
            let _ = match (ct, nf) {
                (u32::MAX, u32::MAX) => Ok(()),
                _ if ct == nf => write!(out, " mask {ct:#x}"),
                // The bits that are cleared on the other side.
                _ => write!(out, " {} {:#x} {} ~{:#x}", from.0, from.1, to.0, to.1),
            };
        };
        let shift = match *self {
            Self::Set { change, shift } => {
                let _ = write!(out, " {change}");
                shift
            }
            Self::Save { ct, nf, shift } => {
                out.push_str(" save");
                masks(out, ct, nf, ("nfmask", nf), ("ctmask", ct));
                shift
            }
            Self::Restore { ct, nf, shift } => {
                out.push_str(" restore");
                masks(out, ct, nf, ("ctmask", ct), ("nfmask", nf));
                shift
            }
        };
        list_saved(out, |out| save_shift(out, shift));
    }

    fn save(&self, out: &mut String) {
        let shift = match self {
            Self::Set { change, shift } => {
                change.save(out);
                shift
            }
            Self::Save { ct, nf, shift } => {
                save_name(out, "save-mark", false);
                save_masks(out, *ct, *nf);
                shift
            }
            Self::Restore { ct, nf, shift } => {
                save_name(out, "restore-mark", false);
                save_masks(out, *ct, *nf);
                shift
            }
        };
        save_shift(out, *shift);
    }

    fn uses_conntrack(&self) -> bool {
        true
    }
}
