//! Which packets may take the short way at all: those about which no stage has anything to say but
//! conntrack, the rules and the egress.

use super::super::interface::PortId;
use super::paths::Path;
use crate::io::{Checksum, Frame, GsoKind};
use tidegate_nat::Tuple;
use tidegate_packet::checksum::Field;
use tidegate_packet::{Family, Parsed, Transport, ethernet, ipv4, ipv6, protocol, tcp, udp};

/// A packet without anything uncommon: TCP in the middle of a connection or UDP, whole, without
/// options and extension headers, in a frame without tags.
pub(crate) struct Plain {
    pub parsed: Parsed,
    pub tuple: Tuple,
    /// Where the IP header stands in the slot.
    pub l3: usize,
    /// What the transport checksum field holds.
    pub field: Field,
}

impl Plain {
    /// `None` for every other packet, damaged ones included.
    #[inline]
    pub fn read(frame: &Frame<'_>) -> Option<Self> {
        let bytes = frame.bytes();
        let family = match *bytes.get(12..ethernet::HEADER_LEN + 1)? {
            [0x08, 0x00, 0x45] => Family::V4,
            [0x86, 0xdd, first] if first >> 4 == 6 => Family::V6,
            _ => return None,
        };
        if frame.meta.vlan.is_some() {
            return None;
        }
        let packet = &bytes[ethernet::HEADER_LEN..];
        let protocol = *packet.get(if family == Family::V4 { 9 } else { 6 })?;
        if !matches!(protocol, protocol::TCP | protocol::UDP) {
            return None;
        }
        let parsed = Parsed::parse(packet).ok()?;
        let (sport, dport) = match parsed.transport {
            Transport::Tcp { sport, dport, flags } => {
                // What opens, ends or breaks a connection is for the long way.
                const DATA: u8 = !(tcp::PSH | tcp::ECE | tcp::CWR);
                (flags & DATA == tcp::ACK).then_some((sport, dport))?
            }
            Transport::Udp { sport, dport } => (sport, dport),
            _ => return None,
        };
        let l4 = match family {
            Family::V4 => ipv4::MIN_HEADER_LEN,
            Family::V6 => ipv6::HEADER_LEN,
        };
        let whole = parsed.fragment.is_none() && usize::from(parsed.l4) == l4;
        if !whole || parsed.hop_limit <= 1 {
            return None;
        }
        let Parsed { src, dst, .. } = parsed;
        let tuple = Tuple { src, dst, sport, dport, protocol };
        let l3 = frame.meta.start + ethernet::HEADER_LEN;
        let plain = Self { parsed, tuple, l3, field: Field::Complete };
        plain.offload(frame)
    }

    /// As the device says: a partial checksum is that of the transport header, and a super-packet is
    /// what its headers say and more than one segment.
    #[inline]
    fn offload(mut self, frame: &Frame<'_>) -> Option<Self> {
        let offload = frame.meta.offload;
        if let Checksum::Partial { start, offset } = offload.checksum {
            let at = if self.is_tcp() { tcp::CHECKSUM_AT } else { udp::CHECKSUM_AT };
            let right = usize::from(start) == ethernet::HEADER_LEN + usize::from(self.parsed.l4)
                && usize::from(offset) == at;
            right.then_some(())?;
            self.field = Field::Partial;
        }
        if let Some(gso) = offload.gso {
            let fits = match gso.kind {
                GsoKind::Tcp4 => self.is_tcp() && self.parsed.family == Family::V4,
                GsoKind::Tcp6 => self.is_tcp() && self.parsed.family == Family::V6,
                GsoKind::UdpL4 => !self.is_tcp(),
            };
            if !fits || gso.size == 0 || self.parsed.len <= self.wire_len(frame) {
                return None;
            }
        }
        Some(self)
    }

    fn is_tcp(&self) -> bool {
        matches!(self.parsed.transport, Transport::Tcp { .. })
    }

    /// One past its last byte in the slot; link padding may follow.
    #[inline]
    pub fn end(&self) -> usize {
        self.l3 + self.parsed.len as usize
    }

    /// The longest IP packet that it puts on the wire.
    #[inline]
    pub fn wire_len(&self, frame: &Frame<'_>) -> u32 {
        let Some(gso) = frame.meta.offload.gso else { return self.parsed.len };
        let l4 = usize::from(self.parsed.l4);
        let header = match self.is_tcp() {
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
    pub(super) fn comes_by(&self, path: &Path, port: PortId, frame: &Frame<'_>) -> bool {
        let link = &frame.bytes()[..12];
        path.input == port
            && path.family == self.parsed.family
            && link[..6] == path.to.0
            && path.from.is_none_or(|from| link[6..] == from.0)
    }
}
