//! One decode of a packet, without allocation, that every later stage relies on.

use crate::{
    Addr, Family, Plain, be16, be32, checksum, icmp, icmpv6, ipv4, ipv6, protocol, tcp, udp,
};

/// A packet that passed the checks of the network layer.
///
/// All offsets count from the first byte of the IP header. What can be wrong with the transport
/// header alone is not an error here: such a packet is still routed and filtered, and conntrack
/// calls it INVALID, as netfilter does.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// IPv4 or IPv6.
    pub family: Family,
    /// The upper-layer protocol, behind all extension headers.
    pub protocol: u8,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// Type of service or traffic class.
    pub tos: u8,
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Length of the whole packet as the IP header says; the frame may be longer (padding).
    pub len: u32,
    /// Where the upper-layer header starts.
    pub l4: u16,
    /// The IPv4 don't-fragment bit; always `true` for IPv6.
    pub dont_fragment: bool,
    /// Set if the packet is a fragment.
    pub fragment: Option<Fragment>,
    /// The upper-layer header.
    pub transport: Transport,
}

/// Which part of a datagram a fragment is.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Offset of its payload in the datagram's, in bytes.
    pub offset: u16,
    /// More fragments follow.
    pub more: bool,
    /// Identification.
    pub id: u32,
    /// IPv6: where the fragment header stands. IPv4: zero.
    pub header_at: u16,
}

/// The upper-layer header, as far as tuples and rules need it.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A TCP header that is there in full, options included.
    Tcp {
        /// Source port.
        sport: u16,
        /// Destination port.
        dport: u16,
        /// The eight flag bits.
        flags: u8,
    },
    /// UDP or UDP-Lite, header complete; the length field is not judged.
    Udp {
        /// Source port.
        sport: u16,
        /// Destination port.
        dport: u16,
    },
    /// ICMP, eight bytes of header there.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// Identifier; meaningful for queries and their replies.
        id: u16,
    },
    /// ICMPv6, eight bytes of header there.
    Icmpv6 {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// Identifier; meaningful for queries and their replies.
        id: u16,
    },
    /// SCTP or DCCP, ports there.
    Ports {
        /// Source port.
        sport: u16,
        /// Destination port.
        dport: u16,
    },
    /// A protocol whose header isn't decoded here.
    Other,
    /// A later fragment: it has no upper-layer header.
    LaterFragment,
    /// A known protocol whose header is cut short or, for TCP, whose data offset is wrong.
    Malformed,
}

/// Why the network layer refuses a packet. Each is a drop reason.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Shorter than an IP header.
    #[error("shorter than an IP header")]
    Truncated,
    /// The version isn't what the link layer said.
    #[error("IP version is neither 4 nor 6")]
    Version,
    /// The IPv4 header length is below 20 or beyond the packet.
    #[error("bad IPv4 header length")]
    HeaderLength,
    /// The length field is shorter than the header or longer than the frame.
    #[error("bad IP length field")]
    Length,
    /// The IPv4 header checksum is wrong.
    #[error("bad IPv4 header checksum")]
    HeaderChecksum,
    /// An IPv6 extension header runs beyond the packet.
    #[error("IPv6 extension header beyond the packet")]
    ExtensionHeader,
    /// An address of an IPv6 packet is IPv4-mapped, which belongs on no wire.
    #[error("IPv4-mapped address in an IPv6 header")]
    MappedAddress,
}

impl Parsed {
    /// Decodes `packet`, which starts with the IP header and may carry link padding behind it.
    pub fn parse(packet: &[u8]) -> Result<Self, ParseError> {
        // Most are without anything uncommon, and sooner read as such.
        if let Some(plain) = Plain::<false>::read(packet) {
            return Ok(plain.parsed(packet));
        }
        if let Some(plain) = Plain::<true>::read(packet) {
            return Ok(plain.parsed(packet));
        }
        Self::parse_any(packet)
    }

    /// The same by looking at everything that there may be.
    pub(crate) fn parse_any(packet: &[u8]) -> Result<Self, ParseError> {
        match packet.first().map(|b| b >> 4) {
            Some(4) => Self::parse_v4(packet),
            Some(6) => Self::parse_v6(packet),
            Some(_) => Err(ParseError::Version),
            None => Err(ParseError::Truncated),
        }
    }

    /// Decodes the beginning of a packet that may have been cut short: the length counted is that of
    /// the bytes there.
    pub fn parse_quote(bytes: &[u8]) -> Result<Self, ParseError> {
        let mut whole = bytes.to_vec();
        let wanted = match bytes.first().map(|b| b >> 4) {
            Some(4) if bytes.len() >= ipv4::MIN_HEADER_LEN => usize::from(be16(bytes, 2)),
            Some(6) if bytes.len() >= ipv6::HEADER_LEN => {
                ipv6::HEADER_LEN + usize::from(be16(bytes, 4))
            }
            _ => return Err(ParseError::Truncated),
        };
        whole.resize(wanted.max(bytes.len()), 0);
        let parsed = Self::parse(&whole)?;
        Ok(Self { len: parsed.len.min(bytes.len() as u32), ..parsed })
    }

    /// The checks of Linux's `ip_rcv_core`, in its order.
    fn parse_v4(packet: &[u8]) -> Result<Self, ParseError> {
        if packet.len() < ipv4::MIN_HEADER_LEN {
            return Err(ParseError::Truncated);
        }
        let header = ipv4::Header::new_checked(packet).ok_or(ParseError::HeaderLength)?;
        if checksum::of(header.bytes()) != 0 {
            return Err(ParseError::HeaderChecksum);
        }
        let len = usize::from(header.total_len());
        if len > packet.len() || len < header.header_len() {
            return Err(ParseError::Length);
        }
        let offset = header.fragment_offset();
        let fragment = (offset != 0 || header.more_fragments()).then(|| Fragment {
            offset,
            more: header.more_fragments(),
            id: u32::from(header.id()),
            header_at: 0,
        });
        let transport = if offset != 0 {
            Transport::LaterFragment
        } else {
            Transport::parse(header.protocol(), &packet[header.header_len()..len])
        };
        Ok(Self {
            family: Family::V4,
            protocol: header.protocol(),
            hop_limit: header.ttl(),
            tos: header.tos(),
            src: header.src(),
            dst: header.dst(),
            len: len as u32,
            l4: header.header_len() as u16,
            dont_fragment: header.dont_fragment(),
            fragment,
            transport,
        })
    }

    /// The checks of Linux's `ip6_rcv_core`; jumbograms (RFC 2675) are not supported.
    fn parse_v6(packet: &[u8]) -> Result<Self, ParseError> {
        let header = ipv6::Header::new_checked(packet).ok_or(ParseError::Truncated)?;
        let len = ipv6::HEADER_LEN + usize::from(header.payload_len());
        if len > packet.len() {
            return Err(ParseError::Length);
        }
        // An IPv4 address has this form here: the packet would meet routes, rules and connections of
        // the other family. Linux takes it for an address like others.
        if header.src().is_v4() || header.dst().is_v4() {
            return Err(ParseError::MappedAddress);
        }
        let packet = &packet[..len];
        let mut fragment = None;
        let mut chain = ipv6::Extensions::new(packet);
        for extension in &mut chain {
            if extension.kind == protocol::FRAGMENT {
                let word = be16(packet, extension.at + 2);
                fragment = fragment.or(Some(Fragment {
                    offset: word & 0xfff8,
                    more: word & 1 != 0,
                    id: be32(packet, extension.at + 4),
                    header_at: extension.at as u16,
                }));
            }
        }
        if chain.truncated() {
            return Err(ParseError::ExtensionHeader);
        }
        let transport = if fragment.is_some_and(|f| f.offset != 0) {
            Transport::LaterFragment
        } else {
            Transport::parse(chain.protocol(), &packet[chain.offset()..])
        };
        Ok(Self {
            family: Family::V6,
            protocol: chain.protocol(),
            hop_limit: header.hop_limit(),
            tos: header.traffic_class(),
            src: header.src(),
            dst: header.dst(),
            len: len as u32,
            l4: chain.offset() as u16,
            dont_fragment: true,
            fragment,
            transport,
        })
    }

    /// Source and destination port, for protocols that have them.
    #[inline]
    pub fn ports(&self) -> Option<(u16, u16)> {
        match self.transport {
            Transport::Tcp { sport, dport, .. }
            | Transport::Udp { sport, dport }
            | Transport::Ports { sport, dport } => Some((sport, dport)),
            _ => None,
        }
    }

    /// ICMP or ICMPv6 type and code.
    #[inline]
    pub fn icmp(&self) -> Option<(u8, u8)> {
        match self.transport {
            Transport::Icmp { kind, code, .. } | Transport::Icmpv6 { kind, code, .. } => {
                Some((kind, code))
            }
            _ => None,
        }
    }

    /// Whether the packet is an ICMP or ICMPv6 error, which must never be answered by another
    /// (RFC 1122 section 3.2.2, RFC 4443 section 2.4 e).
    pub fn is_icmp_error(&self) -> bool {
        match self.transport {
            Transport::Icmp { kind, .. } => icmp::is_error(kind),
            Transport::Icmpv6 { kind, .. } => icmpv6::is_error(kind),
            _ => false,
        }
    }

    /// Whether this is a fragment other than the first.
    #[inline]
    pub fn is_later_fragment(&self) -> bool {
        self.transport == Transport::LaterFragment
    }

    /// The upper-layer header and payload inside `packet`.
    #[inline]
    pub fn segment<'a>(&self, packet: &'a [u8]) -> &'a [u8] {
        &packet[usize::from(self.l4)..self.len as usize]
    }
}

impl Transport {
    /// Reads the header of `protocol` at the start of `segment`.
    #[inline]
    pub fn parse(protocol: u8, segment: &[u8]) -> Self {
        match protocol {
            protocol::TCP => match tcp::Header::new_checked(segment) {
                Some(h) => Self::Tcp { sport: h.sport(), dport: h.dport(), flags: h.flags() },
                None => Self::Malformed,
            },
            protocol::UDP | protocol::UDPLITE => match udp::Header::new_checked(segment) {
                Some(h) => Self::Udp { sport: h.sport(), dport: h.dport() },
                None => Self::Malformed,
            },
            protocol::ICMP | protocol::ICMPV6 => {
                if segment.len() < icmp::HEADER_LEN {
                    return Self::Malformed;
                }
                let (kind, code, id) = (segment[0], segment[1], be16(segment, 4));
                if protocol == protocol::ICMP {
                    Self::Icmp { kind, code, id }
                } else {
                    Self::Icmpv6 { kind, code, id }
                }
            }
            protocol::SCTP | protocol::DCCP => {
                // SCTP's common header and DCCP's generic header are both twelve bytes.
                if segment.len() < 12 {
                    return Self::Malformed;
                }
                Self::Ports { sport: be16(segment, 0), dport: be16(segment, 2) }
            }
            _ => Self::Other,
        }
    }
}
