//! Which packets may take the short way at all: those about which no stage has anything to say but
//! conntrack, the rules and the egress.

use super::super::interface::PortId;
use super::paths::Path;
use crate::io::{Checksum, Frame, GsoKind};
use tidegate_packet::checksum::Field;
use tidegate_packet::{self as packet, Family, ethernet, tcp, udp};

/// A packet without anything uncommon: TCP in the middle of a connection or UDP, whole, without
/// options and extension headers, in a frame without tags.
pub(super) struct Plain {
    /// Its headers.
    pub packet: packet::Plain,
    /// Where the IP header stands in the slot.
    pub l3: usize,
    /// What the transport checksum field holds.
    pub field: Field,
}

impl Plain {
    /// `None` for every other packet, damaged ones included.
    #[inline]
    pub fn read(frame: &Frame<'_>) -> Option<Self> {
        let (link, packet) = frame.bytes().split_first_chunk::<{ ethernet::HEADER_LEN }>()?;
        let packet = packet::Plain::read(packet)?;
        let ethertype = match packet.family {
            Family::V4 => ethernet::IPV4,
            Family::V6 => ethernet::IPV6,
        };
        if link[12..] != ethertype.to_be_bytes() || frame.meta.vlan.is_some() {
            return None;
        }
        // What opens, ends or breaks a connection is for the long way.
        const DATA: u8 = !(tcp::PSH | tcp::ECE | tcp::CWR);
        if packet.is_tcp() && packet.flags & DATA != tcp::ACK || packet.hop_limit <= 1 {
            return None;
        }
        let l3 = frame.meta.start + ethernet::HEADER_LEN;
        Self { packet, l3, field: Field::Complete }.offload(frame)
    }

    /// As the device says: a partial checksum is that of the transport header, and a super-packet is
    /// what its headers say and more than one segment.
    #[inline]
    fn offload(mut self, frame: &Frame<'_>) -> Option<Self> {
        let offload = &frame.meta.offload;
        let packet = &self.packet;
        if let Checksum::Partial { start, offset } = offload.checksum {
            let at = if packet.is_tcp() { tcp::CHECKSUM_AT } else { udp::CHECKSUM_AT };
            let right = usize::from(start) == ethernet::HEADER_LEN + packet.l4()
                && usize::from(offset) == at;
            right.then_some(())?;
            self.field = Field::Partial;
        }
        if let Some(gso) = offload.gso {
            let fits = match gso.kind {
                GsoKind::Tcp4 => packet.is_tcp() && packet.family == Family::V4,
                GsoKind::Tcp6 => packet.is_tcp() && packet.family == Family::V6,
                GsoKind::UdpL4 => !packet.is_tcp(),
            };
            if !fits || gso.size == 0 || packet.len <= self.wire_len(frame) {
                return None;
            }
        }
        Some(self)
    }

    /// One past its last byte in the slot; link padding may follow.
    #[inline]
    pub fn end(&self) -> usize {
        self.l3 + self.packet.len as usize
    }

    /// The longest IP packet that it puts on the wire.
    #[inline]
    pub fn wire_len(&self, frame: &Frame<'_>) -> u32 {
        let Some(gso) = frame.meta.offload.gso else { return self.packet.len };
        let l4 = self.packet.l4();
        let header = match self.packet.is_tcp() {
            true => usize::from(frame.slot[self.l3 + l4 + 12] >> 4) * 4,
            false => udp::HEADER_LEN,
        };
        (l4 + header) as u32 + u32::from(gso.size)
    }

    /// Whether nobody has looked at its transport checksum.
    #[inline]
    pub fn is_unverified(&self, frame: &Frame<'_>) -> bool {
        frame.meta.offload.checksum == Checksum::Unverified
    }

    /// Whether it came in where a path begins.
    #[inline]
    pub fn comes_by(&self, path: &Path, port: PortId, frame: &Frame<'_>) -> bool {
        let link = &frame.bytes()[..12];
        path.input == port
            && path.family == self.packet.family
            && link[..6] == path.to.0
            && path.from.is_none_or(|from| link[6..] == from.0)
    }
}
