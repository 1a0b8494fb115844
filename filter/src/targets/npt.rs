//! `SNPT` and `DNPT`: one IPv6 prefix becomes another, without state (RFC 6296).

use tidegate_packet::checksum::{add, fold};
use tidegate_packet::{Addr, Family};

use crate::diagnostic::Outcome;
use crate::edit::{Edit, HeaderEdit};
use crate::extension::{Context, Given, Listing, Next, Opt, Spec, Target, TargetSpec, value};
use crate::query::{Hook, TableName};
use crate::values::{Network, list_saved, save_option};
use crate::verdict::Verdict;

const OPTIONS: &[Opt] = &[value(&["src-pfx"]), value(&["dst-pfx"])];

pub(crate) static SNPT: TargetSpec = TargetSpec {
    families: &[Family::V6],
    options: OPTIONS,
    tables: &[TableName::Mangle],
    hooks: &[Hook::Input, Hook::Postrouting],
    ..Spec::new("SNPT", build_source)
};

pub(crate) static DNPT: TargetSpec = TargetSpec {
    families: &[Family::V6],
    options: OPTIONS,
    tables: &[TableName::Mangle],
    hooks: &[Hook::Prerouting, Hook::Output],
    ..Spec::new("DNPT", build_destination)
};

#[derive(Debug)]
struct Translation {
    source: bool,
    from: Network,
    to: Network,
    /// What the change of prefixes does to a sum, to be undone in another word.
    adjustment: u16,
}

fn build_source(given: &Given<'_>) -> Outcome<Box<dyn Target>> {
    build(given, true)
}

fn build_destination(given: &Given<'_>) -> Outcome<Box<dyn Target>> {
    build(given, false)
}

fn build(given: &Given<'_>, source: bool) -> Outcome<Box<dyn Target>> {
    let prefix = |name: &str| {
        let (word, _) = given.required(name)?;
        let network = word.network(Family::V6)?;
        let written = word.text.split('/').next().and_then(|text| text.parse::<Addr>().ok());
        match network.prefix_len() {
            Some(0..=64) if written.is_some_and(|addr| addr != network.addr) => {
                Err(word.wrong("the prefix has bits behind its length"))
            }
            Some(0..=64) => Ok(network),
            _ => Err(word.wrong("bad prefix").help("expected a length of at most 64")),
        }
    };
    let (from, to) = (prefix("src-pfx")?, prefix("dst-pfx")?);
    let sum = |network: Network| u64::from(fold(add(0, network.addr.wire())));
    let adjustment = fold(sum(from) + u64::from(!fold(sum(to))));
    Ok(Box::new(Translation { source, from, to, adjustment }))
}

impl Translation {
    /// The longer of both prefixes is replaced; then the first word behind it that isn't all ones
    /// makes up for the change, so that no checksum notices. None left: no translation (section 3.6).
    fn map(&self, addr: Addr) -> Option<Addr> {
        let len = self.from.prefix_len().max(self.to.prefix_len())?;
        let mask = if len == 0 { 0 } else { u128::MAX << (128 - u32::from(len)) };
        let mut bytes = Addr::from_bits(addr.bits() & !mask | self.to.addr.bits() & mask).octets();
        let word = |bytes: &[u8; 16], at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let at = match len {
            0..=48 => 6,
            _ => (8..16).step_by(2).find(|&at| word(&bytes, at) != 0xffff)?,
        };
        let sum = fold(u64::from(word(&bytes, at)) + u64::from(self.adjustment));
        let sum = if sum == 0xffff { 0 } else { sum };
        bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        Some(Addr::from_bits(u128::from_be_bytes(bytes)))
    }
}

impl Target for Translation {
    fn apply(&self, context: &mut Context<'_>) -> Next {
        let packet = context.query.packet;
        let addr = if self.source { packet.src } else { packet.dst };
        let edit = self.map(addr).map(|addr| match self.source {
            true => HeaderEdit::Source(addr),
            false => HeaderEdit::Destination(addr),
        });
        match edit {
            Some(edit) => Next::Edit(Edit::Header(edit)),
            None => Next::Final(Verdict::Drop),
        }
    }

    fn list(&self, out: &mut String, _: Listing) {
        out.push_str(if self.source { " SNPT" } else { " DNPT" });
        list_saved(out, |out| self.save(out));
    }

    fn save(&self, out: &mut String) {
        save_option(out, "src-pfx", false, self.from);
        save_option(out, "dst-pfx", false, self.to);
    }
}
