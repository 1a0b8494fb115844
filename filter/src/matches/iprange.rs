//! `-m iprange`: addresses between two others.

use std::fmt::Write as _;

use tidegate_packet::Addr;

use crate::classify::AddressesWanted;
use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, value};
use crate::values::save_option;

pub(crate) static SPEC: MatchSpec = MatchSpec {
    options: &[value(&["src-range"]).inverts(), value(&["dst-range"]).inverts()],
    ..Spec::new("iprange", build)
};

#[derive(Debug)]
struct IpRange {
    source: Option<Range>,
    destination: Option<Range>,
}

/// Both ends belong to it. One that runs backwards holds nothing.
#[derive(Copy, Clone, Debug)]
struct Range {
    first: Addr,
    last: Addr,
    inverted: bool,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    given.not_empty()?;
    Ok(Box::new(IpRange {
        source: range(given, "src-range")?,
        destination: range(given, "dst-range")?,
    }))
}

fn range(given: &Given<'_>, name: &str) -> Outcome<Option<Range>> {
    let Some((word, inverted)) = given.value(name) else { return Ok(None) };
    let (first, last) = word.text.split_once('-').unwrap_or((&word.text, &word.text));
    let address = |text| word.part(text).address(given.family);
    Ok(Some(Range { first: address(first)?, last: address(last)?, inverted }))
}

impl Range {
    fn holds(self, addr: Addr) -> bool {
        (self.first <= addr && addr <= self.last) != self.inverted
    }
}

impl Match for IpRange {
    fn matches(&self, context: &mut Context<'_>) -> bool {
        let packet = context.query.packet;
        self.source.is_none_or(|r| r.holds(packet.src))
            && self.destination.is_none_or(|r| r.holds(packet.dst))
    }

    fn flow_only(&self) -> bool {
        true
    }

    fn list(&self, out: &mut String, _style: Listing) {
        for (name, range) in [("source", self.source), ("destination", self.destination)] {
            if let Some(Range { first, last, inverted }) = range {
                let bang = if inverted { " !" } else { "" };
                let _ = write!(out, " {name} IP range{bang} {first}-{last}");
            }
        }
    }

    fn addresses(&self) -> Option<AddressesWanted> {
        let wanted = |range: Option<Range>| {
            range.filter(|range| !range.inverted).map(|range| (range.first, range.last))
        };
        let (source, destination) = (wanted(self.source), wanted(self.destination));
        Some(AddressesWanted { source, destination })
    }

    fn is_pure(&self) -> bool {
        true
    }

    fn save(&self, out: &mut String) {
        for (name, range) in [("src-range", self.source), ("dst-range", self.destination)] {
            if let Some(Range { first, last, inverted }) = range {
                save_option(out, name, inverted, format_args!("{first}-{last}"));
            }
        }
    }
}
