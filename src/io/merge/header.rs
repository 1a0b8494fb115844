//! The headers of a super-packet.

use super::{Checksum, Group, Kind, L3, is_v4};
use crate::io::{Gso, GsoKind, Offload, Outgoing};
use tidegate_packet::{Addr, checksum, ethernet, ipv4, ipv6, protocol, tcp, udp};

/// Ethernet, IPv6, TCP with all options.
const LONGEST: usize = ethernet::HEADER_LEN + ipv6::HEADER_LEN + 60;

/// The headers of a super-packet and what the device has to know of it.
#[derive(Copy, Clone, Debug)]
pub(in crate::io) struct Header {
    bytes: [u8; LONGEST],
    len: usize,
    offload: Offload,
}

impl Header {
    /// Those of nothing.
    pub const NONE: Self = Self {
        bytes: [0; LONGEST],
        len: 0,
        offload: Offload { checksum: Checksum::Unverified, gso: None },
    };

    /// The first frame's headers, with the lengths, the checksums and the PSH of all together.
    pub fn of(group: &Group, first: &Outgoing<'_>) -> Self {
        let len = first.bytes.len() - group.size;
        let mut bytes = [0; LONGEST];
        bytes[..len].copy_from_slice(&first.bytes[..len]);
        let v4 = is_v4(&bytes);
        let l4 = L3 + if v4 { ipv4::MIN_HEADER_LEN } else { ipv6::HEADER_LEN };
        // No more than 65,535 with the IPv4 header (`MAX_PAYLOAD`).
        let segment = (len - l4 + group.total) as u16;
        let (src, dst) = if v4 {
            let total = (l4 - L3) as u16 + segment;
            bytes[L3 + 2..L3 + 4].copy_from_slice(&total.to_be_bytes());
            ipv4::write_checksum(&mut bytes[L3..l4]);
            let addr = |at: usize| {
                Addr::from_v4_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
            };
            (addr(L3 + 12), addr(L3 + 16))
        } else {
            bytes[L3 + 4..L3 + 6].copy_from_slice(&segment.to_be_bytes());
            let addr = |at: usize| {
                let mut octets = [0; 16];
                octets.copy_from_slice(&bytes[at..at + 16]);
                Addr::from_v6_bytes(octets)
            };
            (addr(L3 + 8), addr(L3 + 24))
        };
        let (protocol, gso) = match group.kind {
            Kind::Udp => {
                bytes[l4 + 4..l4 + 6].copy_from_slice(&segment.to_be_bytes());
                (protocol::UDP, GsoKind::UdpL4)
            }
            Kind::Tcp => {
                bytes[l4 + 13] |= if group.pushes { tcp::PSH } else { 0 };
                (protocol::TCP, if v4 { GsoKind::Tcp4 } else { GsoKind::Tcp6 })
            }
        };
        let pseudo = checksum::pseudo_header(src, dst, protocol, segment.into());
        let offset = group.kind.checksum_at();
        bytes[l4 + offset..l4 + offset + 2].copy_from_slice(&checksum::fold(pseudo).to_be_bytes());
        let offload = Offload {
            checksum: Checksum::Partial { start: l4 as u16, offset: offset as u16 },
            gso: Some(Gso { kind: gso, size: group.size as u16, ecn: false }),
        };
        Self { bytes, len, offload }
    }

    /// As a frame without payload.
    pub fn outgoing(&self) -> Outgoing<'_> {
        Outgoing { bytes: &self.bytes[..self.len], offload: self.offload }
    }
}

impl Kind {
    /// Where its checksum stands.
    pub(super) fn checksum_at(self) -> usize {
        match self {
            Self::Udp => udp::CHECKSUM_AT,
            Self::Tcp => tcp::CHECKSUM_AT,
        }
    }

    /// Length of its header at `l4`, whether it is there in full or not; the fixed part is.
    pub(super) fn header_len(self, bytes: &[u8], l4: usize) -> usize {
        match self {
            Self::Udp => udp::HEADER_LEN,
            Self::Tcp => usize::from(bytes[l4 + 12] >> 4).max(5) * 4,
        }
    }
}
