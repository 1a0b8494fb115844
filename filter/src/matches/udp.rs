//! `-m udp`: ports.

use tidegate_packet::protocol;

use super::header;
use super::tcp::Ports;
use crate::classify::PortsWanted;
use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, value};

pub(crate) static SPEC: MatchSpec = MatchSpec {
    options: &[
        value(&["source-port", "sport"]).inverts(),
        value(&["destination-port", "dport"]).inverts(),
    ],
    protocols: &[protocol::UDP],
    ..Spec::new("udp", build)
};

#[derive(Debug)]
struct Udp {
    source: Ports,
    destination: Ports,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    Ok(Box::new(Udp {
        source: Ports::given(given, "source-port")?,
        destination: Ports::given(given, "destination-port")?,
    }))
}

impl Match for Udp {
    fn matches(&self, context: &mut Context<'_>) -> bool {
        let Some(header) = header::<8>(context) else { return false };
        self.source.matches(u16::from_be_bytes([header[0], header[1]]))
            && self.destination.matches(u16::from_be_bytes([header[2], header[3]]))
    }

    fn flow_only(&self) -> bool {
        true
    }

    fn ports(&self) -> Option<PortsWanted<'_>> {
        let (source, destination) = (self.source.wanted(), self.destination.wanted());
        Some(PortsWanted { source, destination })
    }

    fn list(&self, out: &mut String, style: Listing) {
        out.push_str(" udp");
        self.source.list(out, "spt", style);
        self.destination.list(out, "dpt", style);
    }

    fn save(&self, out: &mut String) {
        self.source.save(out, "sport");
        self.destination.save(out, "dport");
    }
}
