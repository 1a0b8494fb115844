//! `-m multiport`: up to fifteen ports.

use std::fmt::Write as _;

use tidegate_packet::protocol;

use super::header;
use crate::classify::{PortsWanted, Ranges};
use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, value};
use crate::values::shown_port;
use crate::values::{Span, save_name};

pub(crate) static SPEC: MatchSpec = MatchSpec {
    options: &[
        value(&["source-ports", "sports"]).inverts(),
        value(&["destination-ports", "dports"]).inverts(),
        value(&["ports"]).inverts(),
    ],
    protocols: &[protocol::TCP, protocol::UDP, protocol::UDPLITE, protocol::SCTP, protocol::DCCP],
    ..Spec::new("multiport", build)
};

/// A range takes two places.
const PLACES: usize = 15;

#[derive(Copy, Clone, Debug)]
enum Side {
    Source,
    Destination,
    Either,
}

#[derive(Debug)]
struct MultiPort {
    side: Side,
    ranges: Vec<(u16, u16)>,
    inverted: bool,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    let option = given.one_of(&["source-ports", "destination-ports", "ports"])?;
    let side = match option.opt.names[0] {
        "source-ports" => Side::Source,
        "destination-ports" => Side::Destination,
        _ => Side::Either,
    };
    let [word] = option.values.as_slice() else {
        return Err(given.wrong("a value is missing"));
    };
    let mut ranges = Vec::new();
    let mut places = 0;
    for part in word.list() {
        places += if part.text.contains(':') { 2 } else { 1 };
        let range = part.port_range(given.protocol)?;
        if range.0 == range.1 && part.text.contains(':') {
            return Err(part
                .wrong(format!("port range `{}` holds a single port", part.text))
                .words("invalid portrange specified")
                .help(format!("iptables takes {} for that and no range", range.0)));
        }
        ranges.push(range);
    }
    if places > PLACES {
        return Err(word
            .wrong("too many ports")
            .help(format!("at most {PLACES}, and a range counts as two"))
            .words("too many ports specified"));
    }
    Ok(Box::new(MultiPort { side, ranges, inverted: option.inverted }))
}

impl Match for MultiPort {
    fn matches(&self, context: &mut Context<'_>) -> bool {
        let Some(header) = header::<4>(context) else { return false };
        let source = u16::from_be_bytes([header[0], header[1]]);
        let destination = u16::from_be_bytes([header[2], header[3]]);
        let any = |port: u16| self.ranges.iter().any(|&(low, high)| (low..=high).contains(&port));
        let found = match self.side {
            Side::Source => any(source),
            Side::Destination => any(destination),
            Side::Either => any(source) || any(destination),
        };
        found != self.inverted
    }

    fn flow_only(&self) -> bool {
        true
    }

    fn ports(&self) -> Option<PortsWanted<'_>> {
        let (any, these) = (Ranges::Any, Ranges::Of(&self.ranges));
        Some(match self.side {
            Side::Source if !self.inverted => PortsWanted { source: these, destination: any },
            Side::Destination if !self.inverted => PortsWanted { source: any, destination: these },
            _ => PortsWanted { source: any, destination: any },
        })
    }

    fn list(&self, out: &mut String, style: Listing) {
        let name = match self.side {
            Side::Source => "sports",
            Side::Destination => "dports",
            Side::Either => "ports",
        };
        let _ = write!(out, " multiport {name} {}", if self.inverted { " !" } else { "" });
        for (n, &(low, high)) in self.ranges.iter().enumerate() {
            let range = Span(shown_port(low, style), shown_port(high, style), ':');
            let _ = write!(out, "{}{range}", if n == 0 { "" } else { "," });
        }
    }

    fn save(&self, out: &mut String) {
        let name = match self.side {
            Side::Source => "sports",
            Side::Destination => "dports",
            Side::Either => "ports",
        };
        save_name(out, name, self.inverted);
        for (n, (low, high)) in self.ranges.iter().enumerate() {
            let between = if n == 0 { ' ' } else { ',' };
            let _ = write!(out, "{between}{}", Span(low, high, ':'));
        }
    }
}
