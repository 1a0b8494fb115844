//! Checks of the network layer beyond what decoding needs.

use super::Engine;
use super::counters::Drop;
use super::interface::LOOPBACK;
use super::packet::Packet;
use tidegate_packet::{Family, ipv6};

impl Engine {
    /// What Linux checks as an IPv6 packet comes in, before any rule (`ip6_rcv_core`).
    pub(crate) fn sanity(&mut self, packet: &Packet<'_>) -> Result<(), Drop> {
        if packet.parsed.family == Family::V4 {
            return Ok(());
        }
        if packet.input != Some(LOOPBACK) {
            check_v6_addresses(packet)?;
        }
        if packet.parsed.l4 as usize != ipv6::HEADER_LEN {
            self.hop_by_hop(packet)?;
        }
        Ok(())
    }
}

/// Addresses that must not come from a wire: loopback, a group as source, and groups of the scopes 0
/// and 1 (RFC 4291 sections 2.5.3, 2.7). The decoder has refused IPv4-mapped ones.
fn check_v6_addresses(packet: &Packet<'_>) -> Result<(), Drop> {
    let (src, dst) = (packet.parsed.src, packet.parsed.dst);
    let small_scope = dst.is_multicast() && dst.octets()[1] & 0x0f <= 1;
    if src.is_loopback() || dst.is_loopback() || src.is_multicast() || small_scope {
        return Err(Drop::Ip6BadAddress);
    }
    Ok(())
}
