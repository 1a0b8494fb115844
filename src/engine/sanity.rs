//! Checks of the network layer beyond what decoding needs.

use super::Engine;
use super::counters::Drop;
use super::icmp::Message;
use super::interface::LOOPBACK;
use super::packet::Packet;
use tidegate_packet::{Family, icmp, ipv4};

/// IPv4 option kinds that name a route the sender wants (RFC 791 section 3.1).
const LOOSE_SOURCE_ROUTE: u8 = 131;
const STRICT_SOURCE_ROUTE: u8 = 137;

impl Engine {
    /// IPv6 addresses that must not come from a wire (Linux's `ip6_rcv_core`): loopback, a group
    /// as source, IPv4-mapped, and groups of the scopes 0 and 1 (RFC 4291 sections 2.5.3, 2.7).
    pub(crate) fn sanity(&self, packet: &Packet<'_>) -> Result<(), Drop> {
        let (src, dst) = (packet.parsed.src, packet.parsed.dst);
        if packet.parsed.family == Family::V4 || packet.input == Some(LOOPBACK) {
            return Ok(());
        }
        let small_scope = dst.is_multicast() && dst.octets()[1] & 0x0f <= 1;
        if src.is_loopback()
            || dst.is_loopback()
            || src.is_multicast()
            || src.is_v4()
            || small_scope
        {
            return Err(Drop::Ip6BadAddress);
        }
        Ok(())
    }

    /// IPv4 options: damaged ones are answered with parameter problem (RFC 1122 section 3.2.1.8),
    /// source routes are refused unless `accept_source_route` says otherwise; it can't, here.
    pub(crate) fn ip_options(&mut self, packet: &Packet<'_>) -> Result<(), Drop> {
        if packet.parsed.l4 as usize == ipv4::MIN_HEADER_LEN {
            return Ok(());
        }
        let Some(header) = ipv4::Header::new_checked(packet.bytes()) else {
            return Err(Drop::IpHeaderLength);
        };
        let options = header.options();
        let mut at = 0;
        while at < options.len() {
            let kind = options[at];
            match kind {
                0 => break,
                1 => at += 1,
                _ => {
                    let len = options.get(at + 1).map_or(0, |l| usize::from(*l));
                    if len < 2 || at + len > options.len() {
                        // The pointer names the damaged octet.
                        let pointer = (ipv4::MIN_HEADER_LEN + at) as u8;
                        let message = Message {
                            rest: [pointer, 0, 0, 0],
                            ..Message::new(icmp::PARAMETER_PROBLEM, 0)
                        };
                        self.send_error(packet, message);
                        return Err(Drop::IpOptions);
                    }
                    if matches!(kind, LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE) {
                        return Err(Drop::IpOptions);
                    }
                    at += len;
                }
            }
        }
        Ok(())
    }
}
