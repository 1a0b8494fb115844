//! Routing decisions: where a packet that came in goes, and where one of our own goes
//! (Linux's `ip_route_input_slow` and `ip6_route_input`).

use super::Engine;
use super::counters::Drop;
use super::icmp::Message;
use super::interface::{InterfaceId, LOOPBACK};
use super::link_out::Hop;
use super::packet::Packet;
use super::route::{SourceCheck, Target};
use tidegate_filter::LinkType;
use tidegate_packet::{Addr, Family, ipv4};

/// Where a packet that came in goes.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// To the gateway itself.
    Local,
    /// Out again.
    Onward(Hop),
}

/// Where the routes lead an IPv4 packet, before its options have been looked at.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Routed {
    /// Somewhere.
    To(Destination),
    /// It would have to be forwarded, and forwarding is off.
    ForwardingOff,
    /// No route, or one that refuses.
    Refused(Option<Target>),
}

impl Engine {
    /// Decides where a packet goes, after destination translation.
    pub(crate) fn route_in(&mut self, packet: &mut Packet<'_>) -> Result<Destination, Drop> {
        let Some(input) = packet.input else { return Err(Drop::NoRoute) };
        match packet.parsed.family {
            Family::V4 => self.route_in_v4(packet, input),
            Family::V6 => self.route_in_v6(packet, input),
        }
    }

    fn route_in_v4(
        &mut self,
        packet: &mut Packet<'_>,
        input: InterfaceId,
    ) -> Result<Destination, Drop> {
        let mut routed = self.route_v4(packet, packet.parsed.dst, input)?;
        if packet.parsed.l4 as usize != ipv4::MIN_HEADER_LEN {
            routed = self.ip_options(packet, routed)?;
        }
        match routed {
            Routed::To(Destination::Onward(_))
                if packet.link.is_some_and(|l| l.kind != LinkType::Unicast) =>
            {
                Err(Drop::NotForwardable)
            }
            Routed::To(destination) => Ok(destination),
            Routed::ForwardingOff => Err(Drop::ForwardingOff),
            Routed::Refused(found) => self.refuse_route(packet, found),
        }
    }

    /// Where the routes lead a packet that is to go to `dst`.
    pub(crate) fn route_v4(
        &self,
        packet: &Packet<'_>,
        dst: Addr,
        input: InterfaceId,
    ) -> Result<Routed, Drop> {
        let src = packet.parsed.src;
        let checks = self.policy.interface(input);
        // Most addresses are nothing special.
        if !(src.is_v4_host() && dst.is_v4_host())
            && let Some(local) = self.special_v4(packet, dst, input)?
        {
            return Ok(Routed::To(local));
        }
        let found = self.routes.lookup(dst, Some(input)).map(|f| f.target);
        match found {
            Some(Target::Local(_) | Target::Broadcast(_)) => {
                self.local_after_source(src, input).map(Routed::To)
            }
            _ if !self.policy.forwarding(Family::V4, input) => Ok(Routed::ForwardingOff),
            Some(Target::Unicast { egress, via }) => {
                let turns_back = egress == input && checks.send_redirects;
                self.check_source(src, input, turns_back)?;
                Ok(Routed::To(onward(egress, via, dst)))
            }
            refused => {
                self.check_source(src, input, false)?;
                Ok(Routed::Refused(refused))
            }
        }
    }

    /// What becomes of packets of or to addresses that no host has, if that is decided by them alone.
    #[cold]
    fn special_v4(
        &self,
        packet: &Packet<'_>,
        dst: Addr,
        input: InterfaceId,
    ) -> Result<Option<Destination>, Drop> {
        let src = packet.parsed.src;
        let local_only = input != LOOPBACK && !self.policy.interface(input).route_localnet;
        // RFC 1812 section 5.3.7. A group's packets come from somebody, too (Linux's
        // `ip_mc_validate_source`).
        if dst.is_multicast() {
            let nobody =
                src.is_multicast() || src.is_limited_broadcast() || local_only && src.is_loopback();
            let joined = self.interfaces.get(input).joined(dst);
            return match (joined, nobody) {
                (true, false) => self.local_after_source(src, input).map(Some),
                (true, true) => Err(Drop::MartianSource),
                (false, _) => Err(Drop::MulticastNotJoined),
            };
        }
        if src.is_multicast() || src.is_limited_broadcast() {
            return Err(Drop::MartianSource);
        }
        if dst.is_limited_broadcast() || src.is_unspecified() && dst.is_unspecified() {
            return self.local_after_source(src, input).map(Some);
        }
        if src.is_unspecified() {
            return Err(Drop::MartianSource);
        }
        if dst.is_unspecified() || local_only && dst.is_loopback() {
            return Err(Drop::MartianDestination);
        }
        if local_only && src.is_loopback() {
            return Err(Drop::MartianSource);
        }
        Ok(None)
    }

    fn local_after_source(&self, src: Addr, input: InterfaceId) -> Result<Destination, Drop> {
        if !src.is_unspecified() && input != LOOPBACK {
            self.check_source(src, input, false)?;
        }
        Ok(Destination::Local)
    }

    fn check_source(&self, src: Addr, input: InterfaceId, turns_back: bool) -> Result<(), Drop> {
        if input == LOOPBACK {
            return Ok(());
        }
        let rp_filter = self.policy.interface(input).rp_filter;
        match self.routes.check_source(src, input, rp_filter, turns_back) {
            SourceCheck::Fine => Ok(()),
            SourceCheck::Martian => Err(Drop::MartianSource),
            SourceCheck::ReversePath => Err(Drop::ReversePath),
        }
    }

    fn route_in_v6(
        &mut self,
        packet: &Packet<'_>,
        input: InterfaceId,
    ) -> Result<Destination, Drop> {
        let dst = packet.parsed.dst;
        if dst.is_multicast() {
            let joined = self.interfaces.get(input).joined(dst);
            return if joined { Ok(Destination::Local) } else { Err(Drop::MulticastNotJoined) };
        }
        if self.interfaces.is_anycast(dst) {
            return Ok(Destination::Local);
        }
        // A link-local address is ours only on its own link.
        if dst.is_v6_link_local() && self.interfaces.get(input).has(dst) {
            return Ok(Destination::Local);
        }
        let found = self.routes.lookup(dst, Some(input)).map(|f| f.target);
        match found {
            Some(Target::Local(_)) => Ok(Destination::Local),
            _ if !self.policy.forwarding(Family::V6, input) => Err(Drop::ForwardingOff),
            Some(Target::Unicast { egress, via }) => {
                if packet.link.is_some_and(|l| l.kind != LinkType::Unicast) {
                    return Err(Drop::NotForwardable);
                }
                Ok(onward(egress, via, dst))
            }
            refused => self.refuse_route(packet, refused),
        }
    }

    /// No route, or one that refuses.
    fn refuse_route(
        &mut self,
        packet: &Packet<'_>,
        found: Option<Target>,
    ) -> Result<Destination, Drop> {
        let family = packet.parsed.family;
        let (message, reason) = match found {
            Some(Target::Blackhole) => return Err(Drop::RouteRefused),
            Some(Target::Unreachable) => (Message::unreachable_route(family), Drop::RouteRefused),
            Some(Target::Prohibit) => (Message::prohibited(family), Drop::RouteRefused),
            _ => (Message::no_route(family), Drop::NoRoute),
        };
        self.send_error(packet, message);
        Err(reason)
    }

    /// Where a packet of the gateway's own goes. `link` is the interface meant by link-local
    /// destinations.
    pub(crate) fn route_out(&self, dst: Addr, link: Option<InterfaceId>) -> Result<Hop, Drop> {
        if dst.is_limited_broadcast() || dst.is_multicast() {
            let egress = link.filter(|id| *id != LOOPBACK).ok_or(Drop::NoRoute)?;
            return Ok(Hop { egress, next: dst, broadcast: false });
        }
        match self.routes.lookup(dst, link).map(|f| f.target) {
            Some(Target::Local(_)) => Ok(Hop { egress: LOOPBACK, next: dst, broadcast: false }),
            Some(Target::Broadcast(egress)) => Ok(Hop { egress, next: dst, broadcast: true }),
            Some(Target::Unicast { egress, via }) => {
                Ok(Hop { egress, next: via.unwrap_or(dst), broadcast: false })
            }
            Some(Target::Blackhole | Target::Unreachable | Target::Prohibit) => {
                Err(Drop::RouteRefused)
            }
            None => Err(Drop::NoRoute),
        }
    }
}

fn onward(egress: InterfaceId, via: Option<Addr>, dst: Addr) -> Destination {
    Destination::Onward(Hop { egress, next: via.unwrap_or(dst), broadcast: false })
}
