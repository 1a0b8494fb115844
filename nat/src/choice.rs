//! Connections that a mapping of [`crate::mapping`] translates: outwards, inwards, and out and in
//! again.

use std::time::Duration;

use tidegate_packet::{Instant, protocol};

use crate::blocks::{BlockEvent, BlockRule};
use crate::conn::{Connection, Status};
use crate::mapping::{self, Endpoint, Filtering};
use crate::ports::{self, Choice, Range};
use crate::table::Conntrack;
use crate::tracked::{Entry, Tracked};
use crate::{Manip, Tuple};

/// A rule's wish for endpoint-independent mapping.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct MappingRule {
    /// Who may come in by the mapping.
    pub filtering: Filtering,
    /// The interface that the flow leaves by; each has mappings of its own.
    pub interface: u32,
    /// The outside address is that interface's own, and goes when that does.
    pub masqueraded: bool,
    /// Ports come out of blocks that belong to the host.
    pub blocks: Option<BlockRule>,
}

/// With `nf_conntrack_max = 0` there is no bound on connections, but still one on mappings.
const MOST_MAPPINGS: usize = 1 << 18;

/// A port is searched from this many starts, at most [`PORTS_A_START`] from each.
const STARTS: u32 = 4;
const PORTS_A_START: u32 = 128;

/// The protocols that RFC 4787 and RFC 5382 speak of; what others have for ports follows
/// netfilter's ways.
fn has_mappings(protocol: u8) -> bool {
    matches!(protocol, protocol::UDP | protocol::TCP)
}

fn source(tuple: &Tuple) -> Endpoint {
    Endpoint { addr: tuple.src, port: tuple.sport, protocol: tuple.protocol }
}

impl Choice<'_> {
    /// The source by an endpoint-independent mapping: the one that is there or a new one. `None`:
    /// the rule or the protocol wants none, or the one that is there can't be used for this flow.
    /// `Some(None)`: there is no port left.
    pub(crate) fn mapped(&mut self, current: &Tuple) -> Option<Option<Tuple>> {
        let rule = self.range.mapping?;
        // In other zones the same inside end may be another host's.
        if !has_mappings(current.protocol) || self.zones != [0, 0] {
            return None;
        }
        let inside = source(current);
        if let Some(id) = self.table.mappings.of_inside(inside, rule.interface, self.now) {
            let outside = self.table.mappings.get(id)?.outside;
            let tuple = Tuple { src: outside.addr, sport: outside.port, ..*current };
            // Other rules by now, or a connection from before the mapping has these very ports: this
            // one flow then goes netfilter's way.
            let fits = self.range.has_addr(tuple.src) && self.range.has_port(&tuple, Manip::Source);
            if !fits || self.is_taken(&tuple) {
                return None;
            }
            self.mapping = id;
            return Some(Some(tuple));
        }
        Some(self.new_mapping(inside, rule, current))
    }

    fn new_mapping(
        &mut self,
        inside: Endpoint,
        rule: MappingRule,
        current: &Tuple,
    ) -> Option<Tuple> {
        let most = match self.table.settings.max {
            0 => MOST_MAPPINGS,
            max => max as usize,
        };
        if self.table.mappings.len() >= most {
            // One will do.
            self.table.mappings.expire(self.now, &mut 64);
            if self.table.mappings.len() >= most {
                return None;
            }
        }
        let mut tuple = *current;
        // RFC 4787 REQ-2: a host keeps its outside address ("paired").
        let paired = Range { persistent: true, ..*self.range };
        ports::pick_address(&mut tuple, Manip::Source, &paired);
        if let Some(blocks) = rule.blocks {
            self.search_blocks(&mut tuple, rule, blocks)?;
            return Some(self.map(inside, rule, tuple));
        }
        let keep = !self.range.any_random() && self.range.has_port(&tuple, Manip::Source);
        if !keep || self.is_taken(&tuple) {
            self.search(&mut tuple)?;
        }
        Some(self.map(inside, rule, tuple))
    }

    fn map(&mut self, inside: Endpoint, rule: MappingRule, tuple: Tuple) -> Tuple {
        let settings = &self.table.settings;
        let deadline = self.now + mapping::linger(settings, tuple.protocol);
        let mappings = &mut self.table.mappings;
        self.mapping = mappings.add((inside, source(&tuple)), rule, self.range.ports, deadline);
        if rule.blocks.is_some() {
            mappings.blocks.take(tuple.src, tuple.sport, tuple.protocol);
        }
        tuple
    }

    /// A free port of the host's blocks, or of a new one.
    fn search_blocks(
        &mut self,
        tuple: &mut Tuple,
        rule: MappingRule,
        blocks: BlockRule,
    ) -> Option<()> {
        let Tuple { src: outside, protocol, sport: own, .. } = *tuple;
        let host = (self.conn.reply().inverse()?.src, rule.interface);
        for ports in self.table.mappings.blocks.with_room(host, outside, protocol) {
            if self.search_in(tuple, ports, own).is_some() {
                return Some(());
            }
        }
        let range = self.range.ports.unwrap_or((1024, u16::MAX));
        let random = (self.random)();
        let ports = self.table.mappings.blocks.give(host, outside, blocks, range, random)?;
        let found = self.search_in(tuple, ports, own);
        if found.is_none() {
            // Others have all of it, by rules without blocks.
            self.table.mappings.blocks.put_back(outside, ports.0, protocol);
        }
        found
    }

    /// A free port, of the same parity if there is one (RFC 4787 REQ-4).
    fn search(&mut self, tuple: &mut Tuple) -> Option<()> {
        let ports = match self.range.ports {
            Some((a, b)) => (a.min(b), a.max(b)),
            None => ports::port_class(tuple.sport),
        };
        self.search_in(tuple, ports, tuple.sport)
    }

    fn search_in(&mut self, tuple: &mut Tuple, (first, last): (u16, u16), own: u16) -> Option<()> {
        let parity = own & 1;
        for step in [2u32, 1] {
            let first =
                if step == 2 && first & 1 != parity { first.saturating_add(1) } else { first };
            if first > last {
                continue;
            }
            let size = u32::from(last - first) / step + 1;
            for start in 0..STARTS {
                let offset = (self.random)() % size;
                for n in 0..size.min(PORTS_A_START) {
                    tuple.sport = first + ((offset + n) % size * step) as u16;
                    if !self.is_taken(tuple) {
                        return Some(());
                    }
                }
                // All of them have been tried.
                if size <= PORTS_A_START && start == 0 {
                    break;
                }
            }
        }
        None
    }

    /// Whether an outside end belongs to another inside end.
    #[inline]
    pub(crate) fn is_reserved(&self, tuple: &Tuple) -> bool {
        // Most gateways have none.
        self.table.mappings.len() > 0 && self.is_mapped(tuple)
    }

    fn is_mapped(&self, tuple: &Tuple) -> bool {
        let mappings = &self.table.mappings;
        let Some(id) = mappings.of_outside(source(tuple), self.now) else { return false };
        let Some(own) = self.conn.reply().inverse() else { return true };
        mappings.get(id).is_some_and(|m| m.inside != source(&own))
    }
}

impl Conntrack {
    /// Where a mapping takes a packet at PREROUTING that belongs to no connection and that no rule
    /// gives another destination: the range for [`Conntrack::set_nat`]. `input` is the interface
    /// that it came in by.
    pub fn inbound(&mut self, tracked: &mut Tracked, input: u32, now: Instant) -> Option<Range> {
        if !self.needs_nat(tracked, Manip::Destination) {
            return None;
        }
        let Entry::Own(conn) = &mut tracked.entry else { return None };
        if conn.zones() != [0, 0] {
            return None;
        }
        let packet = conn.original();
        let outside = Endpoint { addr: packet.dst, port: packet.dport, protocol: packet.protocol };
        let id = self.mappings.of_outside(outside, now)?;
        let mapping = self.mappings.get(id)?;
        // RFC 4787 REQ-9: two hosts inside that know each other's outside ends. Each has sent
        // something outside; where neither could be the first they would never meet. Rules at
        // FORWARD decide about them as about any neighbours.
        let neighbour = input != mapping.interface
            && self.mappings.of_inside(source(&packet), mapping.interface, now).is_some();
        if !neighbour && !self.mappings.admits(id, packet.src) {
            return None;
        }
        let inside = mapping.inside;
        conn.set_mapping(1, id);
        Some(Range {
            addrs: Some((inside.addr, inside.addr)),
            ports: Some((inside.port, inside.port)),
            ..Range::default()
        })
    }

    /// The range for the source at POSTROUTING of a packet that came in by `input` from inside,
    /// was sent to a mapping and is covered by no rule: it has to look as if it had come from
    /// outside (RFC 4787 REQ-9a), or the answers would take a shorter way.
    pub fn hairpin(&self, tracked: &Tracked, input: u32) -> Option<Range> {
        let Entry::Own(conn) = &tracked.entry else { return None };
        let mapping = self.mappings.get(conn.mappings()[1])?;
        if input == mapping.interface {
            return None;
        }
        let addr = mapping.outside.addr;
        let rule = MappingRule {
            filtering: mapping.filtering,
            interface: mapping.interface,
            masqueraded: mapping.masqueraded,
            blocks: mapping.blocks,
        };
        let (addrs, ports) = (Some((addr, addr)), mapping.ports);
        Some(Range { addrs, ports, mapping: Some(rule), ..Range::default() })
    }

    /// A connection enters the table: its mappings are in use.
    pub(crate) fn hold_mappings(&mut self, conn: &mut Connection) {
        if conn.mappings() == [mapping::NONE; 2] {
            return;
        }
        let peer = peer(conn);
        for (manip, id) in conn.mappings().into_iter().enumerate() {
            if self.mappings.get(id).is_some() {
                self.mappings.hold(id, if manip == 0 { peer } else { None });
            } else if id != mapping::NONE {
                conn.set_mapping(manip, mapping::NONE);
            }
        }
    }

    /// A connection has left the table.
    pub(crate) fn release_mappings(&mut self, conn: &Connection) {
        if conn.mappings() == [mapping::NONE; 2] {
            return;
        }
        // One that is taken away before its time doesn't leave its time behind.
        let end = conn.deadline.min(self.mappings.seen + Duration::from_secs(1));
        let end = end + mapping::linger(&self.settings, conn.protocol);
        for (id, peer) in conn.mappings().into_iter().zip([peer(conn), None]) {
            if id != mapping::NONE {
                self.mappings.release(id, peer, end);
            }
        }
    }

    /// Blocks of ports that were given or taken back since the last call, and how many more there
    /// were than could wait.
    pub fn block_events(&mut self) -> (Vec<BlockEvent>, u64) {
        self.mappings.blocks.events()
    }

    /// Whether [`Conntrack::block_events`] has any.
    #[inline]
    pub fn has_block_events(&self) -> bool {
        self.mappings.blocks.has_events()
    }

    /// How many endpoint-independent mappings there are.
    pub fn mappings(&self) -> usize {
        self.mappings.len()
    }
}

/// Whom the inside end of a connection has addressed, if it is translated by a mapping.
fn peer(conn: &Connection) -> Option<tidegate_packet::Addr> {
    conn.status.has(Status::SNAT).then_some(conn.original().dst)
}
