//! `SYNPROXY`: the gateway answers clients itself and opens the connection to the server once they
//! have answered (netfilter's `nf_synproxy_core`; the numbers are `nat/src/synproxy.rs`'s).

use super::counters::Drop;
use super::forward::Own;
use super::interface::LOOPBACK;
use super::packet::{OwnedFrame, Packet};
use super::{Engine, Fate};
use crate::io::Checksum;
use tidegate_filter as filter;
use tidegate_nat::synproxy::{Offer, Proxied, Shaken};

impl Engine {
    /// A segment that met the target. It ends here; what it leads to has been queued.
    pub(crate) fn proxy(
        &mut self,
        packet: &Packet<'_>,
        offer: filter::SynProxy,
    ) -> Result<(), Drop> {
        let filter::SynProxy { sack, timestamp, window_scale, mss, ecn } = offer;
        let offer = Offer { sack, timestamp, window_scale, mss, ecn };
        let verify = packet.frame.meta.offload.checksum == Checksum::Unverified;
        let ttl = self.policy.default_ttl;
        let bytes = packet.bytes();
        match self.conntrack.proxy(offer, &packet.parsed, bytes, verify, ttl, self.now) {
            Proxied::Greeted(answer) => self.originate(answer, None),
            Proxied::Admitted(syn) => self.own.push_back(Own::Syn(syn)),
            Proxied::Refused => return Err(Drop::SynProxy),
        }
        Err(Drop::SynProxyTaken)
    }

    /// A packet of a proxied connection at its end: `true` if it goes no further.
    pub(crate) fn shake(&mut self, packet: &mut Packet<'_>) -> Result<bool, Drop> {
        let Some(tracked) = &mut packet.tracked else { return Ok(false) };
        if !self.conntrack.needs_shake(tracked) || packet.input == Some(LOOPBACK) {
            return Ok(false);
        }
        let ttl = self.policy.default_ttl;
        let field = match packet.frame.meta.offload.checksum {
            Checksum::Partial { .. } => tidegate_packet::checksum::Field::Partial,
            Checksum::Unverified | Checksum::Valid => tidegate_packet::checksum::Field::Complete,
        };
        let bytes = &mut packet.frame.slot[packet.l3..packet.frame.meta.end];
        match self.conntrack.shake(tracked, &packet.parsed, bytes, field, ttl, self.now) {
            Shaken::Passes => Ok(false),
            Shaken::Refused => Err(Drop::SynProxy),
            Shaken::Repeats(syn) => {
                self.own.push_back(Own::Syn(syn));
                Ok(true)
            }
            Shaken::Completes { server, client } => {
                let connection = tracked.clone();
                self.originate(server, None);
                self.originate_attached(client, None, Some(connection));
                Ok(true)
            }
        }
    }

    /// Sends a SYN in a client's name, from which the proxied connection begins.
    pub(crate) fn send_syn(&mut self, frame: &mut OwnedFrame) -> Result<Fate, Drop> {
        let l3 = frame.meta.start;
        let mut packet = Packet::decode(frame.frame(), l3)?;
        packet.frame.meta.offload.checksum = Checksum::Valid;
        packet.synproxy = true;
        let hop = self.route_out(packet.parsed.dst, None)?;
        self.send(&mut packet, hop)
    }
}
