//! `-m connlimit`: how many connections a client or network has open.
//!
//! A rule counts the connections whose packets have met it (nf_conncount); those that are over or no
//! longer in the table are forgotten when the next packet of the same client comes.

use std::fmt::Write as _;

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tidegate_packet::{Addr, Family, Transport};

use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, flag, value};
use crate::query::{Flow, FlowState, Query};
use crate::values::{parse_number, prefix_len, save_name, save_option};

pub(crate) static SPEC: MatchSpec = MatchSpec {
    options: &[
        value(&["connlimit-upto"]).inverts(),
        value(&["connlimit-above"]).inverts(),
        value(&["connlimit-mask"]),
        flag(&["connlimit-saddr"]),
        flag(&["connlimit-daddr"]),
    ],
    ..Spec::new("connlimit", build)
};

#[derive(Debug)]
struct ConnLimit {
    family: Family,
    limit: u32,
    upto: bool,
    mask: u128,
    destination: bool,
    /// The connections that have met the rule, by masked address.
    seen: Mutex<HashMap<Addr, Vec<Flow>>>,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    let option = given.one_of(&["connlimit-upto", "connlimit-above"])?;
    let [word] = option.values.as_slice() else {
        return Err(given.wrong("a value is missing"));
    };
    given.exclusive(&["connlimit-saddr", "connlimit-daddr"])?;
    let mask = match given.value("connlimit-mask") {
        // A length beyond IPv4's stands for the whole address; IPv6's is checked.
        Some((word, _))
            if given.family == Family::V4 && parse_number(&word.text).is_some_and(|n| n <= 255) =>
        {
            let len = word.number(0..=255)?.min(given.family.bits().into());
            word.part(&len.to_string()).mask(given.family)?
        }
        Some((word, _)) => word.mask(given.family)?,
        None => u128::MAX,
    };
    Ok(Box::new(ConnLimit {
        family: given.family,
        limit: word.number(0..=u64::from(u32::MAX))? as u32,
        upto: (option.opt.names[0] == "connlimit-upto") != option.inverted,
        mask,
        destination: given.has("connlimit-daddr"),
        seen: Mutex::default(),
    }))
}

/// The flow that the packet's connection has, or would have if it were tracked.
fn flow(query: &Query<'_>) -> Option<Flow> {
    if let Some(connection) = query.connection {
        return Some(connection.original);
    }
    let packet = query.packet;
    let (sport, dport) = match packet.transport {
        Transport::Icmp { kind, code, id } | Transport::Icmpv6 { kind, code, id } => {
            (id, u16::from_be_bytes([kind, code]))
        }
        Transport::Other => (0, 0),
        _ => packet.ports()?,
    };
    Some(Flow { src: packet.src, dst: packet.dst, sport, dport, protocol: packet.protocol })
}

impl ConnLimit {
    /// The mask as a length; one with holes as the number of its bits.
    fn mask_bits(&self) -> u32 {
        match prefix_len(self.mask, self.family) {
            Some(len) => u32::from(len),
            None => self.mask.count_ones() - 128 + u32::from(self.family.bits()),
        }
    }
}

impl Match for ConnLimit {
    fn matches(&self, context: &mut Context<'_>) -> bool {
        let query = context.query;
        let Some(flow) = flow(query) else {
            context.hotdrop = true;
            return false;
        };
        let addr = if self.destination { query.packet.dst } else { query.packet.src };
        let key = Addr::from_bits(addr.bits() & self.mask);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let of_client = seen.entry(key).or_default();
        if !of_client.contains(&flow) {
            of_client.retain(|flow| query.gateway.flow(flow) == FlowState::Open);
            of_client.push(flow);
        }
        let count = of_client.len() as u64;
        if context.dry {
            of_client.pop();
        }
        (count > u64::from(self.limit)) != self.upto
    }

    fn list(&self, out: &mut String, _: Listing) {
        let side = if self.destination { "dst" } else { "src" };
        let sign = if self.upto { "<=" } else { ">" };
        let _ = write!(out, " #conn {side}/{} {sign} {}", self.mask_bits(), self.limit);
    }

    fn save(&self, out: &mut String) {
        let name = if self.upto { "connlimit-upto" } else { "connlimit-above" };
        save_option(out, name, false, self.limit);
        save_option(out, "connlimit-mask", false, self.mask_bits());
        let name = if self.destination { "connlimit-daddr" } else { "connlimit-saddr" };
        save_name(out, name, false);
    }

    fn uses_conntrack(&self) -> bool {
        true
    }
}
