//! Answers and asks by ARP.

use super::super::counters::Drop;
use super::super::interface::{InterfaceId, PortId};
use super::super::{Engine, Fate};
use super::Heard;
use tidegate_packet::arp::{Arp, Operation};
use tidegate_packet::{Addr, MacAddr};

impl Engine {
    /// Takes in an ARP message. As Linux does by default (`arp_ignore = 0`), requests for any of
    /// the gateway's addresses are answered on any interface.
    pub(crate) fn arp_in(
        &mut self,
        port: PortId,
        interface: InterfaceId,
        message: &[u8],
    ) -> Result<Fate, Drop> {
        let arp = Arp::parse(message).ok_or(Drop::ArpMalformed)?;
        if arp.sender_mac.is_group() || arp.sender.is_multicast() || arp.sender_mac.is_zero() {
            return Err(Drop::ArpMalformed);
        }
        let ours = self.routes.is_local(arp.target) && !arp.target.is_loopback();
        // A probe (RFC 5227 section 2.1.1) has no sender address and teaches nothing. Our own
        // address as a sender is a conflict, or our own broadcast coming back.
        let probe = arp.sender.is_unspecified();
        if !probe && !self.routes.is_local(arp.sender) {
            let solicited = arp.operation == Operation::Reply && ours;
            let on_link =
                self.interfaces.get(interface).addresses.iter().any(|p| p.contains(arp.sender));
            let create = ours && on_link && arp.operation == Operation::Request;
            let key = (interface, arp.sender);
            let mac = Some(arp.sender_mac);
            let heard = Heard { mac, solicited, overrides: true, create };
            let released = self.neighbours.learn(key, heard, self.now);
            self.release(interface, arp.sender_mac, released);
        }
        if arp.operation != Operation::Request {
            return Ok(Fate::Consumed);
        }
        if !ours {
            return Err(Drop::ArpNotForUs);
        }
        let reply = Arp {
            operation: Operation::Reply,
            sender_mac: self.interfaces.get(interface).mac,
            sender: arp.target,
            target_mac: arp.sender_mac,
            target: arp.sender,
        };
        self.transmit_raw(port, &reply.to_frame(arp.sender_mac));
        Ok(Fate::Consumed)
    }

    /// Asks who has `target`, everybody or, for a probe, the one who had it.
    /// The question comes from the address that the waiting packet has, if it is the gateway's own
    /// (Linux's `arp_announce = 0`).
    pub(crate) fn arp_ask(
        &mut self,
        interface: InterfaceId,
        target: Addr,
        asker: Option<Addr>,
        probe: Option<MacAddr>,
    ) {
        let from = self.interfaces.get(interface);
        let Some(sender) = asker.or_else(|| from.source_address(target)) else { return };
        let request = Arp {
            operation: Operation::Request,
            sender_mac: from.mac,
            sender,
            target_mac: MacAddr::default(),
            target,
        };
        let dst = probe.unwrap_or(MacAddr::BROADCAST);
        self.transmit_on_link(interface, &request.to_frame(dst), dst);
    }
}
