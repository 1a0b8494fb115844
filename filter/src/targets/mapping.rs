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
    Ok(NatRange { mapping, ..range })
}

/// Appends them. The default filtering is written as well, so that nobody has to know it.
pub(super) fn save_mapping(out: &mut String, range: &NatRange) {
    let Some(mapping) = range.mapping else { return };
    save_option(out, "mapping", false, ENDPOINT);
    if let Some((name, _)) = FILTERING.iter().find(|(_, filtering)| *filtering == mapping) {
        save_option(out, "filtering", false, name);
    }
}
