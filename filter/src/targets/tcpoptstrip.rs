//! `TCPOPTSTRIP`: overwrites TCP options with padding.

use std::fmt::Write as _;

use tidegate_packet::protocol;

use crate::diagnostic::Outcome;
use crate::edit::{Edit, HeaderEdit};
use crate::extension::{Context, Given, Listing, Next, Spec, Target, TargetSpec, value};
use crate::query::TableName;
use crate::values::save_name;

pub(crate) static SPEC: TargetSpec = TargetSpec {
    options: &[value(&["strip-options"])],
    tables: &[TableName::Mangle],
    protocols: &[protocol::TCP],
    ..Spec::new("TCPOPTSTRIP", build)
};

const NAMES: [(&str, u8); 6] =
    [("wscale", 3), ("mss", 2), ("sack-permitted", 4), ("sack", 5), ("timestamp", 8), ("md5", 19)];

/// A bit for each option kind.
#[derive(Debug)]
struct Strip([u64; 4]);

fn build(given: &Given<'_>) -> Outcome<Box<dyn Target>> {
    let mut kinds = [0; 4];
    let list = given.value("strip-options");
    for part in list.iter().flat_map(|(word, _)| word.list()) {
        let named = NAMES.iter().find(|(name, _)| *name == part.text);
        let kind = match named {
            Some((_, kind)) => usize::from(*kind),
            None => part.number(2..=255)? as usize,
        };
        kinds[kind / 64] |= 1 << (kind % 64);
    }
    if kinds == [0; 4] {
        given.warn("without --strip-options it changes nothing");
    }
    Ok(Box::new(Strip(kinds)))
}

impl Strip {
    fn kinds(&self, out: &mut String, name: impl Fn(usize) -> Option<&'static str>) {
        let mut between = ' ';
        for kind in (0..256).filter(|kind| self.0[kind / 64] >> (kind % 64) & 1 != 0) {
            out.push(between);
            match name(kind) {
                Some(name) => out.push_str(name),
                None => drop(write!(out, "{kind}")),
            }
            between = ',';
        }
    }
}

impl Target for Strip {
    fn apply(&self, context: &mut Context<'_>) -> Next {
        if context.query.packet.is_later_fragment() {
            return Next::Continue;
        }
        Next::Edit(Edit::Header(HeaderEdit::StripTcpOptions(self.0)))
    }

    fn list(&self, out: &mut String, style: Listing) {
        if self.0 == [0; 4] {
            return;
        }
        out.push_str(" TCPOPTSTRIP options");
        self.kinds(out, |kind| {
            let named = NAMES.iter().find(|(_, k)| usize::from(*k) == kind && !style.numeric);
            named.map(|(name, _)| *name)
        });
    }

    fn save(&self, out: &mut String) {
        if self.0 == [0; 4] {
            return;
        }
        save_name(out, "strip-options", false);
        self.kinds(out, |_| None);
    }
}
