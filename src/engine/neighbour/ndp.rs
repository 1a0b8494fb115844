//! Answers and asks by neighbour discovery (RFC 4861 section 7.2).
//!
//! Messages have passed INPUT on their way here, as in Linux: rules that don't let solicitations
//! in make the gateway unreachable over IPv6.

use super::super::counters::Drop;
use super::super::interface::InterfaceId;
use super::super::packet::Packet;
use super::super::{Engine, Fate};
use super::Heard;
use tidegate_packet::ndp::{self, Ndp};
use tidegate_packet::{Addr, Family, MacAddr};

impl Engine {
    /// Takes in a solicitation or an advertisement whose checksum is right.
    pub(crate) fn ndp_in(&mut self, packet: &Packet<'_>) -> Result<Fate, Drop> {
        let interface = packet.input.ok_or(Drop::HostMalformed)?;
        // RFC 4861 section 7.1: a router would have decremented the hop limit.
        if packet.parsed.hop_limit != 255 {
            return Err(Drop::HostMalformed);
        }
        let message = packet.parsed.segment(packet.bytes());
        match Ndp::parse(message).ok_or(Drop::HostMalformed)? {
            Ndp::Solicitation { target, source_mac } => {
                self.solicited(packet, interface, target, source_mac)
            }
            Ndp::Advertisement { target, target_mac: mac, solicited, overrides, .. } => {
                if packet.parsed.dst.is_multicast() && solicited || is_group(mac) {
                    return Err(Drop::HostMalformed);
                }
                // A probe that was sent to the address itself is answered without a link address.
                let heard = Heard { mac, solicited, overrides, create: false };
                let released = self.neighbours.learn((interface, target), heard, self.now);
                if let Some(mac) = mac {
                    self.release(interface, mac, released);
                }
                Ok(Fate::Consumed)
            }
        }
    }

    fn solicited(
        &mut self,
        packet: &Packet<'_>,
        interface: InterfaceId,
        target: Addr,
        source_mac: Option<MacAddr>,
    ) -> Result<Fate, Drop> {
        let from = packet.parsed.src;
        // Duplicate address detection comes from the unspecified address, without an option.
        if from.is_unspecified() && source_mac.is_some() || is_group(source_mac) {
            return Err(Drop::HostMalformed);
        }
        if !self.interfaces.get(interface).has(target) {
            return Err(Drop::HostIgnored);
        }
        if let (Some(mac), false) = (source_mac, from.is_unspecified()) {
            let heard = Heard { mac: source_mac, solicited: false, overrides: true, create: true };
            let released = self.neighbours.learn((interface, from), heard, self.now);
            self.release(interface, mac, released);
        }
        let dst = if from.is_unspecified() { ALL_NODES } else { from };
        let to_group = packet.parsed.dst.is_multicast();
        let answer = Ndp::Advertisement {
            target,
            // Who asked the address itself knows where it is (Linux leaves both out then).
            target_mac: to_group.then_some(self.interfaces.get(interface).mac),
            router: self.policy.forwarding(Family::V6, interface),
            solicited: !from.is_unspecified(),
            overrides: to_group,
        };
        self.originate_on(interface, answer.to_packet(target, dst));
        Ok(Fate::Consumed)
    }

    /// Asks who has `target`, its solicited-node group or, for a probe, the one who had it.
    /// The question comes from the waiting packet's address if that is this interface's, else from
    /// the link-local one.
    pub(crate) fn ndp_ask(
        &mut self,
        interface: InterfaceId,
        target: Addr,
        asker: Option<Addr>,
        probe: bool,
    ) {
        let from = self.interfaces.get(interface);
        let link_local = || from.source_address(LINK_LOCAL);
        let Some(src) = asker.filter(|a| from.has(*a)).or_else(link_local) else { return };
        let question = Ndp::Solicitation { target, source_mac: Some(from.mac) };
        let dst = if probe { target } else { ndp::solicited_node(target) };
        self.originate_on(interface, question.to_packet(src, dst));
    }
}

/// A group has no station: what is sent to one address would reach everybody.
fn is_group(mac: Option<MacAddr>) -> bool {
    mac.is_some_and(|mac| mac.is_group())
}

/// Any link-local address: what is asked for is the interface's own.
const LINK_LOCAL: Addr =
    Addr::from_v6_bytes([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
/// `ff02::1`.
const ALL_NODES: Addr = Addr::from_v6_bytes([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
