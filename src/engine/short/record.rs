//! The long way's part: what a packet that has gone it leaves for the others of its flow.

use super::super::Engine;
use super::super::interface::{InterfaceId, Kind, PortId};
use super::super::link_out::Hop;
use super::super::neighbour;
use super::super::packet::Packet;
use super::paths::Path;
use std::time::Duration;
use tidegate_filter::LinkType;
use tidegate_packet::{Instant, MacAddr, ethernet};

/// So long a path is believed at most before a packet goes the long way again: by then neighbours
/// and stations have to be known to be in use.
const LONGEST: Duration = Duration::from_secs(2);

impl Engine {
    /// The packet at hand begins its long way.
    #[inline]
    pub(crate) fn begin_trail(&mut self) {
        if !self.at_hand.is_deciding() {
            return;
        }
        let Self { short, rules, conntrack, .. } = self;
        let generation = short.generation.number();
        if short.paths.generation() != generation {
            short.paths.settle(rules.counters_mut());
            if short.paths.renew(generation) {
                conntrack.forget_paths();
            }
        }
        self.at_hand.trail.clear();
    }

    /// The packet at hand is about to leave by a port.
    pub(crate) fn decide(&mut self, packet: &Packet<'_>, hop: Hop, station: MacAddr, port: PortId) {
        let Some(known) = self.at_hand.deciding else { return };
        if !self.at_hand.trail.holds() {
            return;
        }
        self.at_hand.deciding = None;
        let place = packet.tracked.as_ref().and_then(|t| self.conntrack.may_have_path(t));
        let Some((path, until, known_until)) = self.path_of(packet, hop, station, port) else {
            return self.refuse_path(known);
        };
        // What has changed meanwhile may be about this very way.
        let current = self.short.paths.generation() == self.short.generation.number();
        if place != Some((known.id, known.direction)) || !current {
            return;
        }
        if let Some(number) = self.short.paths.add(path, until, known_until) {
            self.conntrack.set_path(known.id, known.direction, number);
        }
    }

    /// The packet's long way is over. If it has depended on more than the flow, those that come will
    /// go it too.
    pub(crate) fn end_trail(&mut self) {
        (self.at_hand.judged, self.at_hand.missed) = (None, None);
        if let Some(known) = self.at_hand.deciding.take()
            && !self.at_hand.trail.holds()
        {
            self.refuse_path(known);
        }
    }

    fn refuse_path(&mut self, known: tidegate_nat::Known) {
        // Another shard's connections may be lent by now.
        if self.lent.is_some_and(|lent| lent != usize::from(known.id.shard())) {
            return;
        }
        let number = self.short.paths.refusal();
        self.conntrack.set_path(known.id, known.direction, number);
    }

    /// `None` for packets of whose way more has to be known than a path says.
    fn path_of(
        &self,
        packet: &Packet<'_>,
        hop: Hop,
        station: MacAddr,
        egress: PortId,
    ) -> Option<(Path, Instant, Instant)> {
        let input = packet.input?;
        let link = packet.link.filter(|link| link.kind == LinkType::Unicast)?;
        // Whose next hop is on his own link is told so; broadcasts are heard by the gateway too.
        if input == hop.egress || hop.broadcast || packet.pieces.is_some() || packet.copied {
            return None;
        }
        let next = (hop.egress, hop.next);
        let known_until = self.known_until(next, station)?;
        let mut header = [0; ethernet::HEADER_LEN];
        let interface = self.interfaces.get(hop.egress);
        let ethertype = super::super::packet::ethertype(&packet.parsed);
        ethernet::write(&mut header, station, interface.mac, ethertype);
        let path = Path {
            family: packet.parsed.family,
            input: packet.port?,
            to: link.dst,
            from: self.is_bridged(input).then_some(link.src),
            egress,
            next,
            header,
            mtu: interface.mtu,
            counted: self.at_hand.trail.counted().into(),
        };
        Some((path, known_until.min(self.now + LONGEST), known_until))
    }

    fn is_bridged(&self, id: InterfaceId) -> bool {
        self.interfaces.get(id).kind == Kind::Bridge
    }

    /// Until when a next hop is this station, unless something is heard of it.
    pub(super) fn known_until(&self, next: neighbour::Key, station: MacAddr) -> Option<Instant> {
        let known_until = self.neighbours.known_until(next)?;
        if !self.is_bridged(next.0) {
            return Some(known_until);
        }
        Some(known_until.min(self.stations.known_until(next.0, station)?))
    }
}
