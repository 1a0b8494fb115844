//! `-m connlimit`: how many connections a client or network has open.
//!
//! A rule counts the connections whose packets have met it (nf_conncount); those that are over or no
//! longer in the table are forgotten when they would make a client exceed its limit, and a few clients
//! are looked through with every new connection. What is counted belongs to the rule: it stays when
//! rules around it change, and a rule that is loaded anew starts from nothing.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
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
    seen: Mutex<Seen>,
}

/// Connections that one rule remembers; as many as a kernel with much memory tracks in all.
const MAX_SEEN: usize = 262_144;
/// Clients looked through with every new connection, as the kernel does.
const SWEPT: usize = 8;

/// A masked address in a zone: equal addresses of two zones are two clients (connlimit_mt).
type Client = (Addr, u16);

/// A connection's original direction, and its zones.
type Known = (Flow, [u16; 2]);

/// The connections that have met the rule, by client.
#[derive(Debug, Default)]
struct Seen {
    clients: HashMap<Client, Vec<Known>>,
    /// Every client once, those looked through longest ago in front.
    order: VecDeque<Client>,
    /// Of all clients.
    connections: usize,
}

impl Seen {
    /// How many connections the client has with this one.
    fn count(&self, client: Client, flow: &Known, open: impl Fn(&Known) -> bool) -> usize {
        let Some(flows) = self.clients.get(&client) else { return 1 };
        let others = flows.iter().filter(|other| *other != flow && open(other)).count();
        others + 1
    }

    /// Counts the connection and gives the client's, where those beyond `limit` are sure to be open.
    /// `None` if there is no room.
    fn add(
        &mut self,
        client: Client,
        flow: Known,
        limit: usize,
        max: usize,
        open: impl Fn(&Known) -> bool,
    ) -> Option<usize> {
        if let Some(flows) = self.clients.get_mut(&client) {
            if flows.contains(&flow) {
                return Some(flows.len());
            }
            if flows.len() >= limit {
                let before = flows.len();
                flows.retain(&open);
                self.connections -= before - flows.len();
            }
        }
        for _ in 0..SWEPT.min(self.order.len()) {
            self.sweep(&open);
        }
        if self.connections >= max {
            return None;
        }
        let flows = match self.clients.entry(client) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                self.order.push_back(client);
                new.insert(Vec::new())
            }
        };
        flows.push(flow);
        self.connections += 1;
        Some(flows.len())
    }

    /// Forgets what is over of the client at the front.
    fn sweep(&mut self, open: impl Fn(&Known) -> bool) {
        let Some(client) = self.order.pop_front() else { return };
        let Some(flows) = self.clients.get_mut(&client) else { return };
        let before = flows.len();
        flows.retain(open);
        self.connections -= before - flows.len();
        match flows.is_empty() {
            true => drop(self.clients.remove(&client)),
            false => self.order.push_back(client),
        }
    }
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
fn flow(query: &Query<'_>) -> Option<Known> {
    if let Some(connection) = query.connection {
        return Some((connection.original, connection.zones));
    }
    let packet = query.packet;
    let (sport, dport) = match packet.transport {
        Transport::Icmp { kind, code, id } | Transport::Icmpv6 { kind, code, id } => {
            (id, u16::from_be_bytes([kind, code]))
        }
        Transport::Other => (0, 0),
        _ => packet.ports()?,
    };
    let (src, dst, protocol) = (packet.src, packet.dst, packet.protocol);
    Some((Flow { src, dst, sport, dport, protocol }, [0; 2]))
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
        // A zone may count for one direction only; it is the same zone.
        let key = (Addr::from_bits(addr.bits() & self.mask), flow.1[0].max(flow.1[1]));
        let open = |(flow, zones): &Known| query.gateway.flow(flow, *zones) == FlowState::Open;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let count = match context.dry {
            true => seen.count(key, &flow, open),
            false => match seen.add(key, flow, self.limit as usize, MAX_SEEN, open) {
                Some(count) => count,
                // The kernel drops what it finds no memory to count.
                None => {
                    context.hotdrop = true;
                    return false;
                }
            },
        };
        let count = count as u64;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(client: u32, sport: u16) -> (Client, Known) {
        let src = Addr::from_v4_bytes(client.to_be_bytes());
        ((src, 0), (Flow { src, dst: src, sport, dport: 80, protocol: 6 }, [0; 2]))
    }

    fn add(seen: &mut Seen, (client, flow): (Client, Known), open: bool) -> Option<usize> {
        seen.add(client, flow, 2, 100, |_| open)
    }

    #[test]
    fn a_full_table_refuses_until_connections_are_over() {
        let mut seen = Seen::default();
        for client in 0..100 {
            assert_eq!(add(&mut seen, flow(client, 1), true), Some(1));
        }
        assert_eq!(add(&mut seen, flow(100, 1), true), None);
        assert_eq!(add(&mut seen, flow(5, 2), true), None);
        // Those that are known are still told.
        assert_eq!(add(&mut seen, flow(5, 1), true), Some(1));
        assert_eq!(add(&mut seen, flow(100, 1), false), Some(1));
        assert_eq!(seen.connections, 100 - SWEPT + 1);
    }

    #[test]
    fn what_is_over_goes_though_its_client_never_comes_back() {
        let mut seen = Seen::default();
        for client in 0..10_000 {
            assert_eq!(add(&mut seen, flow(client, 1), false), Some(1));
            assert!(seen.clients.len() <= SWEPT && seen.order.len() == seen.clients.len());
        }
        let known: usize = seen.clients.values().map(Vec::len).sum();
        assert_eq!(seen.connections, known);
    }

    #[test]
    fn only_open_connections_exceed_a_limit() {
        let mut seen = Seen::default();
        for sport in 1..=3 {
            assert_eq!(add(&mut seen, flow(1, sport), true), Some(sport.into()));
        }
        assert_eq!(add(&mut seen, flow(1, 4), false), Some(1));
        let (client, other) = flow(1, 5);
        assert_eq!(seen.count(client, &other, |_| true), 2);
        assert_eq!(seen.count(client, &other, |_| false), 1);
        assert_eq!(seen.connections, 1, "a question counts nothing");
    }
}
