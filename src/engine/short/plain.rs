//! Which packets may take the short way at all: those about which no stage has anything to say but
//! conntrack, the rules and the egress.

use super::super::interface::PortId;
use super::paths::Path;
use crate::io::{Checksum, Frame, GsoKind};
use tidegate_packet::checksum::Field;
use tidegate_packet::{self as packet, ethernet, tcp, udp};

/// A packet without anything uncommon: TCP in the middle of a connection or UDP, whole, without
/// options and extension headers, in a frame without tags.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Plain<const V6: bool> {
    /// Its headers.
    pub packet: packet::Plain<V6>,
    /// What the transport checksum field holds.
    pub field: Field,
}

impl<const V6: bool> Plain<V6> {
    /// `None` for every other packet, damaged ones included.
    #[inline(always)]
    pub fn read(frame: &Frame<'_>) -> Option<Self> {
        let (link, packet) = frame.bytes().split_first_chunk::<{ ethernet::HEADER_LEN }>()?;
        let ethertype = if V6 { ethernet::IPV6 } else { ethernet::IPV4 };
        if [link[12], link[13]] != ethertype.to_be_bytes() || frame.meta.vlan.is_some() {
            return None;
        }
        let packet = packet::Plain::read(packet)?;
        // What opens, ends or breaks a connection is for the long way.
        const DATA: u8 = !(tcp::PSH | tcp::ECE | tcp::CWR);
        if packet.is_tcp() && packet.flags & DATA != tcp::ACK || packet.hop_limit <= 1 {
            return None;
        }
        Self { packet, field: Field::Complete }.offload(frame)
    }

    /// As the device says: a partial checksum is that of the transport header, and a super-packet is
    /// what its headers say and more than one segment.
    #[inline(always)]
    fn offload(mut self, frame: &Frame<'_>) -> Option<Self> {
        let offload = &frame.meta.offload;
        let packet = &self.packet;
        if let Checksum::Partial { start, offset } = offload.checksum {
            let at = if packet.is_tcp() { tcp::CHECKSUM_AT } else { udp::CHECKSUM_AT };
            let right = usize::from(start) == ethernet::HEADER_LEN + packet::Plain::<V6>::L4
                && usize::from(offset) == at;
            right.then_some(())?;
            self.field = Field::Partial;
        }
        if let Some(gso) = offload.gso {
            let fits = match gso.kind {
                GsoKind::Tcp4 => packet.is_tcp() && !V6,
                GsoKind::Tcp6 => packet.is_tcp() && V6,
                GsoKind::UdpL4 => !packet.is_tcp(),
            };
            if !fits || gso.size == 0 || packet.len <= self.wire_len(frame) {
                return None;
            }
        }
        Some(self)
    }

    /// The longest IP packet that it puts on the wire.
    #[inline(always)]
    pub fn wire_len(&self, frame: &Frame<'_>) -> u32 {
        let Some(gso) = frame.meta.offload.gso else { return self.packet.len };
        let l4 = packet::Plain::<V6>::L4;
        let header = match self.packet.is_tcp() {
            true => usize::from(frame.bytes()[ethernet::HEADER_LEN + l4 + 12] >> 4) * 4,
            false => udp::HEADER_LEN,
        };
        (l4 + header) as u32 + u32::from(gso.size)
    }

    /// Whether nobody has looked at its transport checksum.
    #[inline(always)]
    pub fn is_unverified(&self, frame: &Frame<'_>) -> bool {
        frame.meta.offload.checksum == Checksum::Unverified
    }

    /// Whether it came in where a path begins.
    #[inline(always)]
    pub fn comes_by(&self, path: &Path, port: PortId, link: &[u8; ethernet::HEADER_LEN]) -> bool {
        let [t0, t1, t2, t3, t4, t5, f0, f1, f2, f3, f4, f5, ..] = *link;
        path.input == port
            && path.family == packet::Plain::<V6>::FAMILY
            && [t0, t1, t2, t3, t4, t5] == path.to.0
            && path.from.is_none_or(|from| [f0, f1, f2, f3, f4, f5] == from.0)
    }
}
