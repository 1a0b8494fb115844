//! `--mapping` and `--filtering` of `SNAT` and `MASQUERADE`: options of Tidegate's, for NAT as
//! RFC 4787 and RFC 5382 want it. Their words are RFC 4787's (sections 4.1 and 5).

use crate::diagnostic::Outcome;
use crate::extension::Given;
use crate::values::save_option;
use crate::verdict::{Filtering, NatRange};

const ENDPOINT: &str = "endpoint-independent";

const FILTERING: [(&str, Filtering); 3] = [
    (ENDPOINT, Filtering::EndpointIndependent),
    ("address-dependent", Filtering::AddressDependent),
    ("address-and-port-dependent", Filtering::AddressAndPortDependent),
];

/// Smaller blocks would log as much as no blocks at all.
const SMALLEST_BLOCK: u16 = 32;

/// Adds what was given. Filtering is a matter of mappings: without them nothing can be let in.
pub(super) fn mapping(given: &Given<'_>, range: NatRange) -> Outcome<NatRange> {
    let filtering = match given.value("filtering") {
        Some((word, _)) => match FILTERING.iter().find(|(name, _)| *name == word.text) {
            Some((_, filtering)) => Some((*filtering, word)),
            None => {
                let names = FILTERING.map(|(name, _)| name).join(", ");
                return Err(word
                    .wrong(format!("unknown filtering `{}`", word.text))
                    .help(format!("expected one of {names}")));
            }
        },
        None => None,
    };
    let mapping = match (given.value("mapping"), filtering) {
        (Some((word, _)), _) if word.text != ENDPOINT => {
            return Err(word
                .wrong(format!("unknown mapping `{}`", word.text))
                .help("expected endpoint-independent; without --mapping it is netfilter's"));
        }
        (Some(_), Some((filtering, _))) => Some(filtering),
        // Who asks for one outside port hasn't asked for strangers.
        (Some(_), None) => Some(Filtering::AddressAndPortDependent),
        (None, Some((_, word))) => {
            return Err(word
                .wrong("--filtering without --mapping")
                .help("add --mapping endpoint-independent"));
        }
        (None, None) => None,
    };
    Ok(NatRange { mapping, blocks: blocks(given, mapping.is_some(), range.ports)?, ..range })
}

/// Blocks of ports; a host has one if it isn't said otherwise.
fn blocks(
    given: &Given<'_>,
    mapped: bool,
    ports: Option<(u16, u16)>,
) -> Outcome<Option<(u16, u16)>> {
    let number = |name, least: u16| match given.value(name) {
        Some((word, _)) => match word.text.parse::<u16>() {
            Ok(number) if number >= least => Ok(Some((number, word))),
            _ => Err(word
                .wrong(format!("`{}` is no number for --{name}", word.text))
                .help(format!("expected a number from {least} to 65535"))),
        },
        None => Ok(None),
    };
    match (number("port-block-size", SMALLEST_BLOCK)?, number("port-blocks", 1)?) {
        (Some((_, word)), _) if !mapped => Err(word
            .wrong("blocks of ports without --mapping")
            .help("add --mapping endpoint-independent")),
        (Some((size, word)), _) if ports.is_some_and(|(first, last)| last - first < size - 1) => {
            Err(word.wrong("a block of ports that is larger than the rule's range of ports"))
        }
        (None, Some((_, word))) => {
            Err(word.wrong("--port-blocks without a size").help("add --port-block-size"))
        }
        (Some((size, _)), most) => Ok(Some((size, most.map_or(1, |(most, _)| most)))),
        (None, None) => Ok(None),
    }
}

/// Appends them. The default filtering is written as well, so that nobody has to know it.
pub(super) fn save_mapping(out: &mut String, range: &NatRange) {
    let Some(mapping) = range.mapping else { return };
    save_option(out, "mapping", false, ENDPOINT);
    if let Some((name, _)) = FILTERING.iter().find(|(_, filtering)| *filtering == mapping) {
        save_option(out, "filtering", false, name);
    }
    if let Some((size, most)) = range.blocks {
        save_option(out, "port-block-size", false, size);
        save_option(out, "port-blocks", false, most);
    }
}
