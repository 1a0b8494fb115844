//! Redirects that the gateway sends: the next hop is on the sender's own link (RFC 1812 section
//! 5.2.7.2, RFC 4861 section 8.2). The packet is forwarded all the same.

use super::super::Engine;
use super::super::counters::Drop;
use super::super::icmp::Message;
use super::super::interface::InterfaceId;
use super::super::link_out::Hop;
use super::super::packet::Packet;
use super::super::route::Target;
use std::collections::HashMap;
use std::time::Duration;
use tidegate_nat::Manip;
use tidegate_packet::builder::{self, Ip};
use tidegate_packet::{Addr, Family, Instant, MacAddr, icmp, icmpv6, protocol};

/// Redirects that a host may ignore before no more are sent (Linux: `redirect_number`).
const MAX_IGNORED: u32 = 9;
/// Time to the second redirect; it doubles with each (Linux: `redirect_load`).
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// After so long without a redirect all is forgotten (Linux: `redirect_silence`).
const SILENCE: Duration = Duration::from_millis(20 << 10);
/// Time between two IPv6 redirects to a host, or about one (RFC 4861 section 8.2 wants a limit).
const INTERVAL_V6: Duration = Duration::from_secs(1);
/// Hosts remembered.
const MAX_HOSTS: usize = 4096;

/// An error message at most as long as every link takes, header included.
const MAX_LEN_V6: usize = 1280;

/// How often each host was told already.
#[derive(Debug, Default)]
pub struct Redirects {
    hosts: HashMap<Addr, (u32, Instant)>,
}

impl Redirects {
    /// Whether an IPv4 host is told (once more).
    fn allow(&mut self, host: Addr, now: Instant) -> bool {
        if self.hosts.len() >= MAX_HOSTS && !self.hosts.contains_key(&host) {
            self.hosts.retain(|_, (_, last)| now - *last <= SILENCE);
            if self.hosts.len() >= MAX_HOSTS {
                return false;
            }
        }
        let (told, last) = self.hosts.entry(host).or_insert((0, now));
        if now - *last > SILENCE {
            *told = 0;
        }
        if *told >= MAX_IGNORED {
            *last = now;
            return false;
        }
        if *told > 0 && now - *last <= FIRST_PAUSE * (1 << *told) {
            return false;
        }
        (*told, *last) = (*told + 1, now);
        true
    }
}

impl Engine {
    /// Tells the sender of an IPv4 packet, unless it has named the way itself.
    pub(crate) fn redirect_v4(&mut self, packet: &Packet<'_>, hop: Hop) {
        let src = packet.parsed.src;
        if !self.policy.interface(hop.egress).send_redirects
            || packet.options.as_deref().is_some_and(|o| o.has_source_route())
            || !self.interfaces.get(hop.egress).addresses.iter().any(|p| p.contains(src))
            || !self.redirects.allow(src, self.now)
        {
            return;
        }
        // Before its source is translated, nobody knows whether the flow may be told another way: as
        // soon as the nat table is in use, Linux drops such a redirect (nf_nat_icmp_reply_translation).
        let undecided = self.policy.translates(Family::V4)
            && packet.tracked.as_ref().is_some_and(|t| self.conntrack.needs_nat(t, Manip::Source));
        if undecided {
            return;
        }
        let message = Message { kind: icmp::REDIRECT, code: 1, rest: hop.next.v4_bytes() };
        self.send_error(packet, message);
    }

    /// An IPv6 packet that leaves by the link it came from makes a redirect; from an address that
    /// has no meaning elsewhere it may leave by no other (RFC 4291 section 2.5.6).
    pub(crate) fn turn_back_v6(&mut self, packet: &Packet<'_>, hop: Hop) -> Result<(), Drop> {
        if packet.input == Some(hop.egress) {
            // Both ends of the way are limited, as in Linux.
            if self.limiter.allow_peer(packet.parsed.dst, INTERVAL_V6, self.now) {
                self.redirect_v6(packet, hop.egress, hop.next);
            }
            return Ok(());
        }
        let src = packet.parsed.src;
        if src.is_unspecified() || src.is_loopback() {
            return Err(Drop::Ip6Scope);
        }
        if src.is_v6_link_local() {
            let code = icmpv6::unreachable::BEYOND_SCOPE;
            self.send_error(packet, Message::new(icmpv6::DEST_UNREACHABLE, code));
            return Err(Drop::Ip6Scope);
        }
        Ok(())
    }

    fn redirect_v6(&mut self, packet: &Packet<'_>, link: InterfaceId, target: Addr) {
        let (src, dst) = (packet.parsed.src, packet.parsed.dst);
        // A router is named by its link-local address (RFC 4861 section 8.2).
        if target != dst && !target.is_v6_link_local() {
            return;
        }
        let own = self.interfaces.get(link).addresses.iter().map(|p| p.addr());
        let Some(own) = own.clone().find(|a| a.is_v6_link_local()) else { return };
        // The sender has to be a neighbour.
        let back = self.routes.lookup(src, Some(link)).map(|f| f.target);
        if back != Some(Target::Unicast { egress: link, via: None })
            || !self.limiter.allow_peer(src, INTERVAL_V6, self.now)
        {
            return;
        }
        let mac = self.neighbours.known((link, target));
        let redirect = redirect_packet(own, src, target, dst, mac, packet.bytes());
        self.originate_on(link, redirect);
    }
}

/// RFC 4861 section 4.5, with the options of section 4.6.
fn redirect_packet(
    from: Addr,
    to: Addr,
    target: Addr,
    destination: Addr,
    target_mac: Option<MacAddr>,
    about: &[u8],
) -> Vec<u8> {
    let mut body = [target.octets(), destination.octets()].concat();
    if let Some(mac) = target_mac {
        body.extend([2, 1]);
        body.extend(mac.0);
    }
    // The packet it is about, cut to whole units of eight octets.
    let room = MAX_LEN_V6 - 40 - 8 - body.len();
    let len = room.min(about.len() + 8) & !7;
    body.extend([4, (len / 8) as u8, 0, 0, 0, 0, 0, 0]);
    body.extend_from_slice(&about[..len - 8]);
    let header = Ip { hop_limit: 255, ..Ip::new(from, to, protocol::ICMPV6) };
    builder::icmp(header, icmpv6::REDIRECT, 0, [0; 4], &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pauses double, nine are enough, and after a silence it starts again.
    #[test]
    fn a_host_that_doesnt_listen_is_told_less_and_less() {
        let mut redirects = Redirects::default();
        let host = Addr::from_v4_bytes([192, 168, 0, 2]);
        let told: Vec<u64> = (0..40_000)
            .step_by(10)
            .filter(|ms| redirects.allow(host, Instant::from_millis(1000 + ms)))
            .collect();
        assert_eq!(told, [0, 50, 140, 310, 640, 1290, 2580, 5150, 10_280]);
        let later = Instant::from_millis(41_000 + 20_490);
        assert!(redirects.allow(host, later));
    }

    #[test]
    fn a_redirect_is_a_whole_number_of_units_long_and_fits_every_link() {
        let addr = |n| Addr::from_v6_bytes([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n]);
        let mac = Some(MacAddr([2, 0, 0, 0, 0, 9]));
        for (about, target_mac, want) in [
            (48, mac, 40 + 40 + 8 + 56),
            (49, mac, 40 + 40 + 8 + 56),
            (56, None, 40 + 40 + 64),
            (1500, mac, 1280),
            (1500, None, 1280),
        ] {
            let bytes = vec![7; about];
            let packet = redirect_packet(addr(1), addr(2), addr(3), addr(4), target_mac, &bytes);
            assert_eq!(packet.len(), want, "{about}");
            assert_eq!((packet[7], packet[40]), (255, icmpv6::REDIRECT));
            assert_eq!(packet[64..80], addr(4).octets());
        }
    }
}
