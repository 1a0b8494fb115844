//! The ICMP errors that the gateway makes (RFC 792, 1812, 4443), as Linux's `icmp_send` and
//! `icmp6_send` make them, and their rate limits.

use super::Engine;
use super::counters::Drop;
use super::interface::{InterfaceId, LOOPBACK};
use super::ip_options::{Options, Reply};
use super::packet::Packet;
use super::route::Target;
use std::collections::HashMap;
use std::time::Duration;
use tidegate_filter::LinkType;
use tidegate_nat::Tracked;
use tidegate_packet::builder::{self, Ip};
use tidegate_packet::{Addr, Family, Instant, Parsed, Transport, icmp, icmpv6, protocol};

/// What an error message says.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// The four bytes behind the checksum: MTU, pointer, gateway address, or zero.
    pub rest: [u8; 4],
}

impl Message {
    /// Type and code alone.
    pub const fn new(kind: u8, code: u8) -> Self {
        Self { kind, code, rest: [0; 4] }
    }

    /// TTL or hop limit used up in transit.
    pub const fn hop_limit(family: Family) -> Self {
        match family {
            Family::V4 => Self::new(icmp::TIME_EXCEEDED, 0),
            Family::V6 => Self::new(icmpv6::TIME_EXCEEDED, 0),
        }
    }

    /// Fragments that never became whole.
    pub const fn reassembly_time(family: Family) -> Self {
        match family {
            Family::V4 => Self::new(icmp::TIME_EXCEEDED, 1),
            Family::V6 => Self::new(icmpv6::TIME_EXCEEDED, 1),
        }
    }

    /// Too long for a link of this MTU (RFC 1191, RFC 8201).
    pub const fn too_big(family: Family, mtu: u32) -> Self {
        match family {
            Family::V4 => Self {
                kind: icmp::DEST_UNREACHABLE,
                code: icmp::unreachable::FRAG_NEEDED,
                rest: [0, 0, (mtu >> 8) as u8, mtu as u8],
            },
            Family::V6 => Self { kind: icmpv6::PACKET_TOO_BIG, code: 0, rest: mtu.to_be_bytes() },
        }
    }

    /// No route to the destination.
    pub const fn no_route(family: Family) -> Self {
        match family {
            Family::V4 => Self::new(icmp::DEST_UNREACHABLE, icmp::unreachable::NET),
            Family::V6 => Self::new(icmpv6::DEST_UNREACHABLE, icmpv6::unreachable::NO_ROUTE),
        }
    }

    /// An unreachable route covers the destination. Linux makes no difference to having no route
    /// in IPv6, but does in IPv4.
    pub const fn unreachable_route(family: Family) -> Self {
        match family {
            Family::V4 => Self::host_unreachable(family),
            Family::V6 => Self::no_route(family),
        }
    }

    /// The host doesn't answer on its link.
    pub const fn host_unreachable(family: Family) -> Self {
        match family {
            Family::V4 => Self::new(icmp::DEST_UNREACHABLE, icmp::unreachable::HOST),
            Family::V6 => Self::new(icmpv6::DEST_UNREACHABLE, icmpv6::unreachable::ADDRESS),
        }
    }

    /// A prohibit route covers the destination.
    pub const fn prohibited(family: Family) -> Self {
        match family {
            Family::V4 => Self::new(icmp::DEST_UNREACHABLE, icmp::unreachable::ADMIN_PROHIBITED),
            Family::V6 => Self::new(icmpv6::DEST_UNREACHABLE, icmpv6::unreachable::ADM_PROHIBITED),
        }
    }

    /// Nobody listens on the port.
    pub const fn port_unreachable(family: Family) -> Self {
        match family {
            Family::V4 => Self::new(icmp::DEST_UNREACHABLE, icmp::unreachable::PORT),
            Family::V6 => Self::new(icmpv6::DEST_UNREACHABLE, icmpv6::unreachable::PORT),
        }
    }
}

/// Burst of the per-destination limit (Linux: `XRLIM_BURST_FACTOR`).
const BURST: u32 = 6;
/// Destinations whose limit is remembered.
const MAX_PEERS: usize = 4096;

/// Token buckets for error messages: one for all, one per destination.
#[derive(Debug, Default)]
pub struct Limiter {
    peers: HashMap<Addr, (Duration, Instant)>,
    global: (u32, Instant),
    started: bool,
}

impl Limiter {
    /// Takes a token of the destination's bucket and one of all destinations' together, or none.
    /// So a destination that has had its share takes nothing from the others, as in Linux.
    pub fn allow(
        &mut self,
        peer: Addr,
        interval: Duration,
        (per_second, burst): (u32, u32),
        now: Instant,
    ) -> bool {
        let allowed =
            self.global_has(per_second, burst, now) && self.allow_peer(peer, interval, now);
        self.global.0 -= u32::from(allowed);
        allowed
    }

    /// Whether the bucket of all destinations together has a token: `per_second` come, at most
    /// `burst` are saved.
    fn global_has(&mut self, per_second: u32, burst: u32, now: Instant) -> bool {
        let (credit, stamp) = &mut self.global;
        if !self.started {
            (self.started, *credit, *stamp) = (true, burst, now);
        }
        let elapsed = (now - *stamp).min(Duration::from_secs(1)).as_nanos() as u64;
        let fresh = elapsed * u64::from(per_second) / 1_000_000_000;
        if fresh > 0 {
            *credit = u64::from(*credit).saturating_add(fresh).min(u64::from(burst)) as u32;
            *stamp = now;
        }
        *credit > 0
    }

    /// The bucket of one destination: a token each `interval`, at most six saved.
    pub fn allow_peer(&mut self, peer: Addr, interval: Duration, now: Instant) -> bool {
        if interval.is_zero() {
            // A limit that is switched off still empties the bucket, which IPv6 shares with
            // redirects, unless it was looked at in the same instant (inet_peer_xrlim_allow).
            if self.peers.len() < MAX_PEERS && self.peers.get(&peer).is_none_or(|p| p.1 < now) {
                self.peers.insert(peer, (Duration::ZERO, now));
            }
            return true;
        }
        let full = interval * BURST;
        if self.peers.len() >= MAX_PEERS && !self.peers.contains_key(&peer) {
            // A full bucket is the same as none.
            self.peers.retain(|_, (tokens, last)| *tokens + (now - *last) < full);
            if self.peers.len() >= MAX_PEERS {
                return false;
            }
        }
        let (tokens, last) = self.peers.entry(peer).or_insert((full, now));
        *tokens = (*tokens + (now - *last)).min(full);
        *last = now;
        if *tokens < interval {
            return false;
        }
        *tokens -= interval;
        true
    }
}

/// A packet that an error is about.
#[derive(Copy, Clone, Debug)]
pub(crate) struct About<'a> {
    /// Its headers.
    pub parsed: &'a Parsed,
    /// The packet, from its IP header on.
    pub bytes: &'a [u8],
    /// The interface it came in by.
    pub input: Option<InterfaceId>,
    /// Its connection.
    pub tracked: Option<&'a Tracked>,
    /// Its IPv4 options; the error carries them turned round.
    pub options: Option<&'a Options>,
}

impl Engine {
    /// Answers a packet with an error, unless it must not be answered. The message goes through
    /// OUTPUT like every packet of the gateway's own, once the packet's own way has ended.
    pub(crate) fn send_error(&mut self, packet: &Packet<'_>, message: Message) {
        // While Linux sends an ICMP message of its own, it can make no other: what becomes of the
        // gateway's echo replies and errors in OUTPUT is never reported.
        let own_icmp = packet.input.is_none()
            && self.host_port.is_none()
            && matches!(packet.parsed.protocol, protocol::ICMP | protocol::ICMPV6);
        if own_icmp {
            return;
        }
        // A group on the link or on the network gets no answer (RFC 1122 section 3.2.2); a
        // packet that is too big and an option that asks for it are the exceptions of RFC 4443
        // section 2.4 (e.3).
        let v6_exception = packet.parsed.family == Family::V6
            && (message.kind == icmpv6::PACKET_TOO_BIG
                || super::extension_headers::asks_for_answer(packet.bytes(), message));
        let to_group = packet.link.is_some_and(|l| l.kind != LinkType::Unicast)
            || self.is_group(packet.parsed.dst);
        if to_group && !v6_exception {
            return;
        }
        let about = About {
            parsed: &packet.parsed,
            bytes: packet.bytes(),
            input: packet.input,
            tracked: packet.tracked.as_ref(),
            options: packet.options.as_deref(),
        };
        self.send_error_about(about, message);
    }

    fn is_group(&self, dst: Addr) -> bool {
        dst.is_multicast()
            || dst.is_limited_broadcast()
            || matches!(self.routes.lookup(dst, None).map(|f| f.target), Some(Target::Broadcast(_)))
    }

    /// The same for a packet that isn't on its way any more.
    pub(crate) fn send_error_about(&mut self, about: About<'_>, message: Message) {
        let About { parsed, bytes, input, tracked, options } = about;
        if !may_be_answered(parsed) || parsed.src.is_unspecified() || parsed.src.is_multicast() {
            return;
        }
        let Some(options) = self.turn_round(options, bytes) else { return };
        let to = options.first_stop().unwrap_or(parsed.src);
        let Some(found) = self.routes.lookup(to, input) else { return };
        let egress = match found.target {
            Target::Local(_) => LOOPBACK,
            Target::Unicast { egress, .. } | Target::Broadcast(egress) => egress,
            _ => return,
        };
        if egress != LOOPBACK && !self.error_allowed(parsed, found.prefix_len, message) {
            self.counters.drop(Drop::ErrorRateLimited);
            return;
        }
        let Some(src) = self.error_source(parsed, to, found.target, (input, egress)) else {
            return;
        };
        let answer = match parsed.family {
            Family::V4 => self.error_v4(about, src, message, options),
            Family::V6 => error_v6(parsed, bytes, src, message),
        };
        // As in Linux, an error belongs to the connection of the packet that it is about, even if
        // that will never be confirmed.
        let attach = tracked.and_then(|question| self.conntrack.attach_reply(question));
        self.originate_attached(answer, input, attach);
    }

    /// Tells the host device's kernel that there is no way. A kernel that knew our routes would
    /// have told its program without a packet, so no rule is asked.
    pub(crate) fn tell_host(&mut self, packet: &Packet<'_>) {
        let (parsed, family) = (&packet.parsed, packet.parsed.family);
        let Some(port) = self.host_port else { return };
        if !may_be_answered(parsed) || !self.routes.is_local(parsed.src) {
            return;
        }
        let message = match self.routes.lookup(parsed.dst, None).map(|f| f.target) {
            None => Message::no_route(family),
            Some(Target::Unreachable) => Message::unreachable_route(family),
            Some(Target::Prohibit) => Message::prohibited(family),
            Some(_) => return,
        };
        let bytes = packet.bytes();
        let about = About { parsed, bytes, input: None, tracked: None, options: None };
        let answer = match family {
            Family::V4 => {
                let Some(options) = self.turn_round(None, bytes) else { return };
                self.error_v4(about, parsed.src, message, options)
            }
            Family::V6 => error_v6(parsed, bytes, parsed.src, message),
        };
        self.outbox.push((port, super::OwnedFrame::new(&answer)));
    }

    /// The address the offender spoke to if it is ours, else that of the route back.
    fn error_source(
        &self,
        parsed: &Parsed,
        to: Addr,
        target: Target,
        (input, egress): (Option<InterfaceId>, InterfaceId),
    ) -> Option<Addr> {
        let here = |id| self.interfaces.get(id).has(parsed.dst);
        let own = self.routes.is_local(parsed.dst)
            && (!parsed.dst.is_v6_link_local() || input.is_none_or(here));
        if own || self.interfaces.is_anycast(parsed.dst) {
            return Some(parsed.dst);
        }
        if egress == LOOPBACK {
            return Some(to);
        }
        let next = match target {
            Target::Unicast { via: Some(via), .. } if parsed.family == Family::V4 => via,
            _ => to,
        };
        self.source_for(egress, next)
    }

    fn error_allowed(&mut self, parsed: &Parsed, prefix_len: u8, message: Message) -> bool {
        let limits = self.policy.icmp_limits(parsed.family);
        if !limits.covers(message.kind)
            || parsed.family == Family::V4
                && message.kind == icmp::DEST_UNREACHABLE
                && message.code == icmp::unreachable::FRAG_NEEDED
        {
            return true;
        }
        // Linux halves the interval for each 32 bits that the route to the offender leaves open.
        let interval = match parsed.family {
            Family::V4 => limits.interval,
            Family::V6 => limits.interval / (1 << ((128 - u32::from(prefix_len)) >> 5)),
        };
        let all = (self.policy.icmp_per_second, self.policy.icmp_burst);
        self.limiter.allow(parsed.src, interval, all, self.now)
    }

    /// At most 576 bytes in all (RFC 1812 section 4.3.2.3), precedence internetwork control
    /// (section 4.3.2.5).
    fn error_v4(
        &mut self,
        about: About<'_>,
        src: Addr,
        message: Message,
        options: Reply,
    ) -> Vec<u8> {
        let About { parsed, bytes, .. } = about;
        let max_quote = 576 - 20 - 8 - options.len();
        let quote = &bytes[..(parsed.len as usize).min(bytes.len()).min(max_quote)];
        let header = Ip {
            tos: parsed.tos & 0x1e | 0xc0,
            id: self.next_ip_id(),
            hop_limit: self.policy.default_ttl,
            ..Ip::new(src, parsed.src, protocol::ICMP)
        };
        let packet = builder::icmp(header, message.kind, message.code, message.rest, quote);
        options.put_into(packet)
    }
}

/// At most 1280 bytes in all (RFC 4443 section 2.4 c).
fn error_v6(parsed: &Parsed, bytes: &[u8], src: Addr, message: Message) -> Vec<u8> {
    const MAX_QUOTE: usize = 1280 - 40 - 8;
    let quote = &bytes[..(parsed.len as usize).min(bytes.len()).min(MAX_QUOTE)];
    let header = Ip::new(src, parsed.src, protocol::ICMPV6);
    builder::icmp(header, message.kind, message.code, message.rest, quote)
}

/// Never an error about an error, nor about a later fragment (RFC 1122 section 3.2.2, RFC 4443
/// section 2.4 e). IPv4 types that nobody knows or that were never in use (icmp_pointers) count as
/// errors.
fn may_be_answered(parsed: &Parsed) -> bool {
    match parsed.transport {
        Transport::LaterFragment => parsed.family == Family::V6 && parsed.protocol != 58,
        Transport::Icmp { kind, .. } => {
            kind <= icmp::MAX_KNOWN
                && !icmp::is_error(kind)
                && !matches!(kind, 1 | 2 | 6 | 7 | 9 | 10)
        }
        Transport::Icmpv6 { kind, .. } => !icmpv6::is_error(kind),
        Transport::Malformed => !matches!(parsed.protocol, protocol::ICMPV6 | protocol::ICMP),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn six_at_once_then_one_each_interval() {
        let mut limiter = Limiter::default();
        let peer = Addr::from_v4_bytes([192, 168, 0, 2]);
        let second = Duration::from_secs(1);
        let burst =
            (0..10).filter(|_| limiter.allow_peer(peer, second, Instant::from_secs(5))).count();
        assert_eq!(burst, 6);
        assert!(!limiter.allow_peer(peer, second, Instant::from_millis(5900)));
        assert!(limiter.allow_peer(peer, second, Instant::from_millis(6000)));
        assert!(!limiter.allow_peer(peer, second, Instant::from_millis(6100)));
        let other = Addr::from_v4_bytes([192, 168, 0, 3]);
        assert!(limiter.allow_peer(other, second, Instant::from_millis(6100)));
    }

    #[test]
    fn the_bucket_of_all_refills_with_time() {
        let mut limiter = Limiter::default();
        let peer = |n| Addr::from_v4_bytes([192, 168, 0, n]);
        let mut hundred = |at| {
            let allowed = |n: &u8| limiter.allow(peer(*n), Duration::from_secs(1), (1000, 50), at);
            (0..100).filter(allowed).count()
        };
        assert_eq!(hundred(Instant::from_secs(5)), 50);
        assert_eq!(hundred(Instant::from_millis(5020)), 20);
    }

    #[test]
    fn one_destination_does_not_use_up_the_bucket_of_all() {
        let mut limiter = Limiter::default();
        let (second, at) = (Duration::from_secs(1), Instant::from_secs(5));
        let loud = Addr::from_v4_bytes([192, 168, 0, 2]);
        assert_eq!((0..100).filter(|_| limiter.allow(loud, second, (1000, 50), at)).count(), 6);
        let other = Addr::from_v4_bytes([192, 168, 0, 3]);
        assert!(limiter.allow(other, second, (1000, 50), at));
    }
}
