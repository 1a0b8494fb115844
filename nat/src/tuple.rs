//! Tuples: what identifies one direction of a flow.

use tidegate_packet::{Addr, Parsed, Transport, icmp, icmpv6, protocol};

/// Addresses, protocol and ports of one direction.
///
/// ICMP queries have their identifier in `sport`, type and code in `dport` (as netfilter lays them
/// out); GRE of PPTP has its call id in `dport`; protocols without ports have zeros.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port, or the identifier of an ICMP query.
    pub sport: u16,
    /// Destination port, or type and code of an ICMP query.
    pub dport: u16,
    /// Transport protocol.
    pub protocol: u8,
}

impl Tuple {
    /// The tuple of a packet: `None` if it has none (a later fragment, a header cut short).
    ///
    /// `segment` is the packet from its transport header on; only GRE looks into it.
    #[inline]
    pub fn of(packet: &Parsed, segment: &[u8]) -> Option<Self> {
        let (sport, dport) = Self::ports_of(packet.protocol, packet.transport, segment)?;
        let Parsed { src, dst, protocol, .. } = *packet;
        Some(Self { src, dst, sport, dport, protocol })
    }

    #[inline]
    fn ports_of(protocol: u8, transport: Transport, segment: &[u8]) -> Option<(u16, u16)> {
        Some(match transport {
            // Linux 6.17 dropped DCCP from conntrack: it is a protocol without ports.
            Transport::Ports { .. } if protocol == protocol::DCCP => (0, 0),
            Transport::Tcp { sport, dport, .. }
            | Transport::Udp { sport, dport }
            | Transport::Ports { sport, dport } => (sport, dport),
            Transport::Icmp { kind, code, id } | Transport::Icmpv6 { kind, code, id } => {
                (id, u16::from_be_bytes([kind, code]))
            }
            Transport::Other if protocol == protocol::GRE => gre_key(segment)?,
            Transport::Other => (0, 0),
            Transport::Malformed if protocol == protocol::DCCP => (0, 0),
            Transport::LaterFragment | Transport::Malformed => return None,
        })
    }

    /// The tuple of a packet quoted in an ICMP error, of which eight bytes of transport header
    /// suffice (RFC 792; ports even need only four).
    pub(crate) fn of_quote(src: Addr, dst: Addr, protocol: u8, segment: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u16::from_be_bytes([*segment.get(at)?, *segment.get(at + 1)?]));
        let (sport, dport) = match protocol {
            protocol::TCP | protocol::UDP | protocol::UDPLITE | protocol::SCTP => {
                (word(0)?, word(2)?)
            }
            // An ICMP message is at home in its own family only.
            protocol::ICMP if !src.is_v4() => return None,
            protocol::ICMPV6 if src.is_v4() => return None,
            protocol::ICMP | protocol::ICMPV6 => {
                segment.get(7)?;
                (word(4)?, word(0)?)
            }
            protocol::GRE => gre_key(segment)?,
            _ => (0, 0),
        };
        Some(Self { src, dst, sport, dport, protocol })
    }

    /// What the other direction looks like. `None` for ICMP messages that have no counterpart.
    #[inline]
    pub fn inverse(&self) -> Option<Self> {
        let Self { src, dst, sport, dport, protocol } = *self;
        let (sport, dport) = match protocol {
            protocol::ICMP | protocol::ICMPV6 => {
                let [kind, code] = dport.to_be_bytes();
                let kind = if protocol == protocol::ICMP {
                    icmp::counterpart(kind)?
                } else {
                    icmpv6::counterpart(kind)?
                };
                (sport, u16::from_be_bytes([kind, code]))
            }
            _ => (dport, sport),
        };
        Some(Self { src: dst, dst: src, sport, dport, protocol })
    }

    /// ICMP or ICMPv6: the ports are identifier, type and code.
    #[inline]
    pub fn is_icmp(&self) -> bool {
        matches!(self.protocol, protocol::ICMP | protocol::ICMPV6)
    }

    /// Whether translation can tell flows of this protocol apart by a number of its choice.
    #[inline]
    pub(crate) fn has_ports(&self) -> bool {
        matches!(self.protocol, protocol::TCP | protocol::UDP | protocol::UDPLITE | protocol::SCTP)
    }
}

/// GRE version 1 (PPTP, RFC 2637) is told apart by its call id; other GRE has no ports.
fn gre_key(segment: &[u8]) -> Option<(u16, u16)> {
    const PPTP_PROTOCOL: u16 = 0x880b;
    match *segment {
        [_, flags, ..] if flags & 7 != 1 => Some((0, 0)),
        [_, _, p0, p1, _, _, k0, k1, ..] if u16::from_be_bytes([p0, p1]) == PPTP_PROTOCOL => {
            Some((0, u16::from_be_bytes([k0, k1])))
        }
        [_, _, _, _, _, _, _, _, ..] => None,
        // Cut short: what isn't there is zero.
        _ => Some((0, 0)),
    }
}
