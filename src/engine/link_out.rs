//! The link layer on the way out: MTU, next hop, neighbour, Ethernet header.

use super::counters::Drop;
use super::interface::{InterfaceId, Kind, LOOPBACK, PortId};
use super::neighbour::{Resolution, Waiting};
use super::packet::{OwnedFrame, Packet, ethertype};
use super::{Engine, Fate};
use crate::io::Checksum;
use std::collections::VecDeque;
use tidegate_packet::{Addr, MacAddr, ethernet};

/// Where a packet goes next.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Egress interface.
    pub egress: InterfaceId,
    /// The station to send it to: a router's address or the destination itself.
    pub next: Addr,
    /// The destination is a broadcast address of the egress.
    pub broadcast: bool,
}

impl Engine {
    /// Sends a packet that has passed everything else.
    pub(crate) fn link_out(&mut self, packet: &mut Packet<'_>, hop: Hop) -> Result<Fate, Drop> {
        if packet.wire_len() > self.interfaces.get(hop.egress).mtu || packet.pieces.is_some() {
            return self.fragment_out(packet, hop);
        }
        let dst = match self.link_address(hop) {
            Ok(mac) => mac,
            Err(ask) => return self.wait_for_neighbour(packet, hop, ask),
        };
        write_link_header(packet, dst, self.interfaces.get(hop.egress).mac);
        match self.egress_port(hop.egress, dst) {
            Some(port) => {
                self.decide(packet, hop, dst, port);
                Ok(Fate::Transmit(port))
            }
            None => {
                self.flood(hop.egress, packet.frame.bytes(), packet.frame.meta.offload);
                Ok(Fate::Consumed)
            }
        }
    }

    /// The station's link address, or whether to ask for it.
    fn link_address(&mut self, hop: Hop) -> Result<MacAddr, bool> {
        if hop.broadcast || hop.next.is_limited_broadcast() {
            return Ok(MacAddr::BROADCAST);
        }
        if hop.next.is_multicast() {
            return Ok(MacAddr::of_multicast(hop.next));
        }
        match self.neighbours.resolve((hop.egress, hop.next), self.now) {
            Resolution::Known(mac) => Ok(mac),
            Resolution::Probe(mac) => {
                self.ask(hop.egress, hop.next, None, Some(mac));
                Ok(mac)
            }
            Resolution::Unknown { ask } => Err(ask),
        }
    }

    fn wait_for_neighbour(
        &mut self,
        packet: &Packet<'_>,
        hop: Hop,
        ask: bool,
    ) -> Result<Fate, Drop> {
        let src = packet.parsed.src;
        let source = self.routes.is_local(src).then_some(src);
        let waiting = Waiting {
            frame: packet.to_owned_frame(),
            input: packet.input,
            tracked: packet.tracked.clone(),
            source,
        };
        let lost = self.neighbours.wait((hop.egress, hop.next), waiting, self.now);
        self.counters.drop_many(Drop::NeighbourQueue, lost);
        // Without room there is no entry that remembers the question.
        if ask && lost == 0 {
            self.ask(hop.egress, hop.next, source, None);
        }
        Ok(Fate::Consumed)
    }

    /// Asks for a link address by the family's protocol.
    pub(crate) fn ask(
        &mut self,
        interface: InterfaceId,
        target: Addr,
        asker: Option<Addr>,
        probe: Option<MacAddr>,
    ) {
        if target.is_v4() {
            self.arp_ask(interface, target, asker, probe);
        } else {
            self.ndp_ask(interface, target, asker, probe.is_some());
        }
    }

    /// Sends what waited for a neighbour that is known now.
    pub(crate) fn release(
        &mut self,
        interface: InterfaceId,
        dst: MacAddr,
        waiting: VecDeque<Waiting>,
    ) {
        let src = self.interfaces.get(interface).mac;
        for mut held in waiting {
            let l3 = held.frame.meta.start;
            // It was decoded before it began to wait, so this can't fail.
            let Ok(mut packet) = Packet::decode(held.frame.frame(), l3) else { continue };
            write_link_header(&mut packet, dst, src);
            match self.egress_port(interface, dst) {
                Some(port) => self.outbox.push((port, held.frame)),
                None => self.flood(interface, held.frame.bytes(), held.frame.meta.offload),
            }
        }
    }

    /// The port towards a station; `None` on a bridge that must flood.
    fn egress_port(&self, interface: InterfaceId, dst: MacAddr) -> Option<PortId> {
        let i = self.interfaces.get(interface);
        match i.kind {
            Kind::Ethernet => i.ports.first().copied(),
            Kind::Bridge if dst.is_group() => None,
            Kind::Bridge => self.stations.find(interface, dst, self.now),
            Kind::Loopback => None,
        }
    }

    /// Sends a frame of the gateway's own to a station on an interface.
    pub(crate) fn transmit_on_link(&mut self, interface: InterfaceId, frame: &[u8], dst: MacAddr) {
        match self.egress_port(interface, dst) {
            Some(port) => self.transmit_raw(port, frame),
            None => self.flood(interface, frame, crate::io::Offload::default()),
        }
    }

    /// Sends a frame of the gateway's own out of one port.
    pub(crate) fn transmit_raw(&mut self, port: PortId, frame: &[u8]) {
        self.outbox.push((port, OwnedFrame::new(frame)));
    }

    fn flood(&mut self, interface: InterfaceId, frame: &[u8], offload: crate::io::Offload) {
        debug_assert!(interface != LOOPBACK);
        let mut copy = OwnedFrame::new(frame);
        copy.meta.offload = offload;
        for port in self.interfaces.get(interface).ports.clone() {
            self.outbox.push((port, copy.clone()));
        }
    }
}

/// Puts an Ethernet header in front of the packet and brings the offload state in step.
pub(crate) fn write_link_header(packet: &mut Packet<'_>, dst: MacAddr, src: MacAddr) {
    let ethertype = ethertype(&packet.parsed);
    let start = packet.l3 - ethernet::HEADER_LEN;
    ethernet::write(&mut packet.frame.slot[start..], dst, src, ethertype);
    packet.frame.meta.start = start;
    packet.frame.meta.vlan = None;
    if let Checksum::Partial { start, .. } = &mut packet.frame.meta.offload.checksum {
        *start = ethernet::HEADER_LEN as u16 + packet.parsed.l4;
    }
}
