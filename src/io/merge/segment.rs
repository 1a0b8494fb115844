//! Which frames can be told apart from a super-packet's segment, and which can't.

use super::{Checksum, Kind, L3, be16, is_v4};
use crate::io::Outgoing;
use tidegate_packet::{ethernet, ipv4, ipv6, protocol, tcp, udp};

/// A frame as far as joining is concerned.
pub(super) enum Seen<'a> {
    /// May be one of several.
    Segment(Segment<'a>),
    /// Goes by itself, in its flow's order.
    Alone(Flow<'a>),
    /// Goes by itself, and may belong to any flow.
    Unknown,
}

impl<'a> Seen<'a> {
    #[inline]
    pub fn of(frame: &Outgoing<'a>) -> Self {
        let Some(flow) = Flow::of(frame.bytes) else { return Self::Unknown };
        match Segment::of(flow, frame) {
            Some(segment) => Self::Segment(segment),
            None => Self::Alone(flow),
        }
    }
}

/// A TCP or UDP packet without fragmentation, IPv4 options or extension headers, so that its ports
/// are where they are in all such.
#[derive(Copy, Clone)]
pub(super) struct Flow<'a> {
    bytes: &'a [u8],
    kind: Kind,
    l4: usize,
}

impl<'a> Flow<'a> {
    #[inline]
    fn of(bytes: &'a [u8]) -> Option<Self> {
        if bytes.len() < L3 + ipv4::MIN_HEADER_LEN + udp::HEADER_LEN {
            return None;
        }
        let (protocol, l4) = match be16(bytes, 12) {
            ethernet::IPV4 => {
                let plain = bytes[L3] == 0x45 && be16(bytes, L3 + 6) & 0x3fff == 0;
                plain.then_some((bytes[L3 + 9], L3 + ipv4::MIN_HEADER_LEN))?
            }
            ethernet::IPV6 => (bytes[L3 + 6], L3 + ipv6::HEADER_LEN),
            _ => return None,
        };
        let (kind, header) = match protocol {
            protocol::UDP => (Kind::Udp, udp::HEADER_LEN),
            protocol::TCP => (Kind::Tcp, tcp::MIN_HEADER_LEN),
            _ => return None,
        };
        (bytes.len() >= l4 + header).then_some(Self { bytes, kind, l4 })
    }

    /// Same family, protocol, addresses and ports as a frame that was found to be of a flow.
    #[inline]
    pub fn has(&self, other: &[u8]) -> bool {
        let (a, b) = (self.bytes, other);
        let (protocol, addresses) =
            if is_v4(a) { (L3 + 9, L3 + 12..L3 + 20) } else { (L3 + 6, L3 + 8..L3 + 40) };
        let ports = self.l4..self.l4 + 4;
        a[12..14] == b[12..14]
            && a[protocol] == b[protocol]
            && a[addresses.clone()] == b[addresses]
            && a[ports.clone()] == b[ports]
    }
}

/// A packet that may be joined.
pub(super) struct Segment<'a> {
    pub flow: Flow<'a>,
    /// Its payload's bytes.
    pub payload: usize,
}

impl<'a> Segment<'a> {
    #[inline]
    fn of(flow: Flow<'a>, frame: &Outgoing<'_>) -> Option<Self> {
        let Flow { bytes, kind, l4 } = flow;
        if frame.offload.gso.is_some() {
            return None;
        }
        let len = match is_v4(bytes) {
            true => usize::from(be16(bytes, L3 + 2)),
            false => ipv6::HEADER_LEN + usize::from(be16(bytes, L3 + 4)),
        };
        let headers = l4 + kind.header_len(bytes, l4);
        // Without padding of the link; and nothing is joined to nothing.
        if len != bytes.len() - L3 || headers >= bytes.len() {
            return None;
        }
        let fits = match kind {
            Kind::Udp => usize::from(be16(bytes, l4 + 4)) == bytes.len() - l4,
            // What else a segment may say is said by the first or the last of a super-packet only,
            // or differs from sender to sender.
            Kind::Tcp => bytes[l4 + 13] & !(tcp::PSH | tcp::ECE) == tcp::ACK,
        };
        let field = kind.checksum_at();
        let known = match frame.offload.checksum {
            Checksum::Partial { start, offset } => {
                usize::from(start) == l4 && usize::from(offset) == field
            }
            // In UDP zero says that there is none (RFC 768).
            Checksum::Valid => kind == Kind::Tcp || be16(bytes, l4 + field) != 0,
            Checksum::Unverified => false,
        };
        (fits && known).then_some(Self { flow, payload: bytes.len() - headers })
    }

    pub fn kind(&self) -> Kind {
        self.flow.kind
    }

    /// Whether it is what segment `number`, behind `offset` bytes of payload, of a super-packet
    /// that begins with `first`, of the same flow, looks like.
    #[inline]
    pub fn continues(&self, first: &[u8], number: usize, offset: usize) -> bool {
        let Flow { bytes, kind, l4 } = self.flow;
        bytes[..12] == first[..12]
            && self.same_ip_header(first, number)
            && (kind == Kind::Udp || continues_tcp(&bytes[l4..], &first[l4..], offset))
    }

    fn same_ip_header(&self, first: &[u8], number: usize) -> bool {
        let (a, b) = (self.flow.bytes, first);
        if !is_v4(a) {
            // Version, class, flow label; next header and hop limit.
            return a[L3..L3 + 4] == b[L3..L3 + 4] && a[L3 + 6..L3 + 8] == b[L3 + 6..L3 + 8];
        }
        let dont_fragment = a[L3 + 6] & 0x40 != 0;
        let counts_on = be16(a, L3 + 4) == be16(b, L3 + 4).wrapping_add(number as u16);
        a[L3..L3 + 2] == b[L3..L3 + 2]
            && a[L3 + 6..L3 + 10] == b[L3 + 6..L3 + 10]
            && (counts_on || (dont_fragment && self.flow.kind == Kind::Udp))
    }

    /// Whether nothing may be joined behind it: the kernel leaves PSH to the last segment.
    pub fn ends(&self) -> bool {
        let Flow { bytes, kind, l4 } = self.flow;
        kind == Kind::Tcp && bytes[l4 + 13] & tcp::PSH != 0
    }
}

/// The next sequence number, and all else as in the first: acknowledgment, flags but PSH, window,
/// urgent pointer, options (time stamps).
fn continues_tcp(segment: &[u8], first: &[u8], offset: usize) -> bool {
    let (Some(a), Some(b)) = (tcp::Header::new_checked(segment), tcp::Header::new_checked(first))
    else {
        return false;
    };
    let options = tcp::MIN_HEADER_LEN..a.header_len();
    a.seq() == b.seq().wrapping_add(offset as u32)
        && segment[8..13] == first[8..13]
        && a.flags() & !tcp::PSH == b.flags()
        && a.window() == b.window()
        && a.urgent() == b.urgent()
        && segment[options.clone()] == first[options]
}
