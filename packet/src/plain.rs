//! One look at the headers of what most packets are: TCP and UDP without anything uncommon.
//!
//! [`Parsed`] tells everything about any packet. This tells what tracking and translation
//! need, of packets about which no more is to be told, and in a fraction of the time. The family is a
//! part of the type, so every field has its place and all that is asked is machine code of its own.

use crate::{Addr, Family, Parsed, Transport, checksum, ipv4, ipv6, protocol, tcp, udp};

/// A whole TCP segment or UDP datagram without IPv4 options or IPv6 extension headers, in whose headers
/// [`Parsed`] finds nothing wrong, either.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Plain<const V6: bool> {
    /// TCP or UDP.
    pub protocol: u8,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// TCP's flags; none for UDP.
    pub flags: u8,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// Length of the packet as the IP header says; the frame may be longer (padding).
    pub len: u32,
    /// IPv4 source and destination as numbers. Zero for IPv6, whose addresses aren't copied
    /// ([`Plain::addrs`]).
    pub v4: [u32; 2],
}

impl<const V6: bool> Plain<V6> {
    /// The family.
    pub const FAMILY: Family = if V6 { Family::V6 } else { Family::V4 };
    /// Where the transport header stands.
    pub const L4: usize = if V6 { ipv6::HEADER_LEN } else { ipv4::MIN_HEADER_LEN };

    /// Reads a packet's headers. `None`: it is damaged or something else.
    #[inline(always)]
    pub fn read(packet: &[u8]) -> Option<Self> {
        let plain = if V6 { Self::read_v6(packet) } else { Self::read_v4(packet) }?;
        plain.transport(packet)
    }

    #[inline(always)]
    fn read_v4(packet: &[u8]) -> Option<Self> {
        // With UDP's header, the shorter one.
        let header: &[u8; ipv4::MIN_HEADER_LEN + udp::HEADER_LEN] = packet.first_chunk()?;
        let long = |at: usize| [header[at], header[at + 1], header[at + 2], header[at + 3]];
        // In the processor's order: swapped bytes have a swapped sum, and all ones are all ones.
        let word = |at: usize| u64::from(u32::from_le_bytes(long(at)));
        let sum = word(0) + word(4) + word(8) + word(12) + word(16);
        let len = u16::from_be_bytes([header[2], header[3]]);
        // All but the don't-fragment bit and the reserved one.
        let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
        if header[0] != 0x45
            || fragment
            || usize::from(len) > packet.len()
            || checksum::fold(sum) != 0xffff
        {
            return None;
        }
        Some(Self {
            protocol: header[9],
            hop_limit: header[8],
            flags: 0,
            sport: u16::from_be_bytes([header[20], header[21]]),
            dport: u16::from_be_bytes([header[22], header[23]]),
            len: u32::from(len),
            v4: [u32::from_be_bytes(long(12)), u32::from_be_bytes(long(16))],
        })
    }

    #[inline(always)]
    fn read_v6(packet: &[u8]) -> Option<Self> {
        let header: &[u8; ipv6::HEADER_LEN + udp::HEADER_LEN] = packet.first_chunk()?;
        let payload = u16::from_be_bytes([header[4], header[5]]);
        let len = ipv6::HEADER_LEN + usize::from(payload);
        // The form that IPv4 addresses have here belongs on no wire.
        let mapped = |at: usize| {
            header[at..at + 8] == [0; 8] && header[at + 8..at + 12] == [0, 0, 0xff, 0xff]
        };
        if header[0] >> 4 != 6 || len > packet.len() || mapped(8) || mapped(24) {
            return None;
        }
        Some(Self {
            protocol: header[6],
            hop_limit: header[7],
            flags: 0,
            sport: u16::from_be_bytes([header[40], header[41]]),
            dport: u16::from_be_bytes([header[42], header[43]]),
            len: len as u32,
            v4: [0; 2],
        })
    }

    /// Looks at the transport header.
    #[inline(always)]
    fn transport(mut self, packet: &[u8]) -> Option<Self> {
        let room = (self.len as usize).checked_sub(Self::L4)?;
        match self.protocol {
            protocol::UDP if room >= udp::HEADER_LEN => Some(self),
            protocol::TCP if room >= tcp::MIN_HEADER_LEN => {
                let header: &[u8; tcp::MIN_HEADER_LEN] = packet.get(Self::L4..)?.first_chunk()?;
                let options_end = usize::from(header[12] >> 4) * 4;
                self.flags = header[13];
                (options_end >= tcp::MIN_HEADER_LEN && options_end <= room).then_some(self)
            }
            _ => None,
        }
    }

    /// Whether it is TCP.
    #[inline(always)]
    pub fn is_tcp(&self) -> bool {
        self.protocol == protocol::TCP
    }

    /// Source and destination; `packet` is what it was read from.
    #[inline(always)]
    pub fn addrs(&self, packet: &[u8]) -> [Addr; 2] {
        if !V6 {
            return self.v4.map(|bits| Addr::from_v4_bytes(bits.to_be_bytes()));
        }
        [8, 24].map(|at| {
            let mut wire = [0; 16];
            wire.copy_from_slice(&packet[at..at + 16]);
            Addr::from_v6_bytes(wire)
        })
    }

    /// As [`Parsed`] has it.
    pub fn as_transport(&self) -> Transport {
        let Self { sport, dport, flags, .. } = *self;
        match self.is_tcp() {
            true => Transport::Tcp { sport, dport, flags },
            false => Transport::Udp { sport, dport },
        }
    }

    /// Everything that [`Parsed`] tells; `packet` is what it was read from.
    #[inline]
    pub(crate) fn parsed(&self, packet: &[u8]) -> Parsed {
        let [src, dst] = self.addrs(packet);
        let tos = if V6 { packet[0] << 4 | packet[1] >> 4 } else { packet[1] };
        Parsed {
            family: Self::FAMILY,
            protocol: self.protocol,
            hop_limit: self.hop_limit,
            tos,
            src,
            dst,
            len: self.len,
            l4: Self::L4 as u16,
            dont_fragment: V6 || packet[6] & 0x40 != 0,
            fragment: None,
            transport: self.as_transport(),
        }
    }

    /// Transport header and payload.
    #[inline(always)]
    pub fn segment<'a>(&self, packet: &'a [u8]) -> &'a [u8] {
        &packet[Self::L4..self.len as usize]
    }

    /// Whether the transport checksum is right: as [`checksum::verify_transport`]. The addresses of the
    /// pseudo-header stand right before the transport header.
    #[inline(always)]
    pub fn verify(&self, packet: &[u8]) -> bool {
        let addrs = if V6 { 8 } else { 12 };
        let len = (self.len - Self::L4 as u32) as u16;
        let protocol = u16::from_le_bytes([0, self.protocol]);
        let rest = u64::from(protocol) + u64::from(len.swap_bytes());
        let sum = checksum::add_swapped(rest, &packet[addrs..self.len as usize]);
        checksum::fold(sum) == 0xffff
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builder::{self, Ip, Tcp};
    use proptest::prelude::*;

    fn ip(family: Family, protocol: u8) -> Ip {
        let [src, dst] = match family {
            Family::V4 => ["10.0.0.1", "192.0.2.77"],
            Family::V6 => ["2001:db8::1", "fd00::ffff:0:9"],
        };
        Ip::new(src.parse().unwrap(), dst.parse().unwrap(), protocol)
    }

    fn packets() -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        for family in [Family::V4, Family::V6] {
            for payload in [&b""[..], b"x", b"four", b"as long as it takes to have some words"] {
                packets.push(builder::udp(ip(family, protocol::UDP), 5353, 53, payload));
                let fields = Tcp { sport: 80, dport: 4096, flags: tcp::ACK, ..Tcp::default() };
                packets.push(builder::tcp(ip(family, protocol::TCP), fields, payload));
            }
            packets.push(builder::ip(ip(family, protocol::ESP), b"12345678901234567890"));
        }
        packets
    }

    /// What `Parsed` says of the packets that are read here.
    fn expected<const V6: bool>(packet: &[u8]) -> Option<(Plain<V6>, [Addr; 2], bool)> {
        let parsed = Parsed::parse_any(packet).ok().filter(|p| p.family == Plain::<V6>::FAMILY)?;
        let l4 = Plain::<V6>::L4;
        let (sport, dport, flags) = match parsed.transport {
            Transport::Tcp { sport, dport, flags } => (sport, dport, flags),
            Transport::Udp { sport, dport } => (sport, dport, 0),
            _ => return None,
        };
        let common = matches!(parsed.protocol, protocol::TCP | protocol::UDP);
        if !common || parsed.fragment.is_some() || usize::from(parsed.l4) != l4 {
            return None;
        }
        let Parsed { protocol, hop_limit, len, src, dst, .. } = parsed;
        let v4 = if V6 { [0; 2] } else { [src.v4_u32(), dst.v4_u32()] };
        let right = checksum::verify_transport(src, dst, protocol, parsed.segment(packet));
        let plain = Plain { protocol, hop_limit, flags, sport, dport, len, v4 };
        Some((plain, [src, dst], right))
    }

    fn look<const V6: bool>(packet: &[u8]) -> Option<bool> {
        let got = Plain::<V6>::read(packet);
        if let Some(plain) = got {
            assert_eq!(Ok(plain.parsed(packet)), Parsed::parse_any(packet), "{packet:x?}");
        }
        let got = got.map(|plain| (plain, plain.addrs(packet), plain.verify(packet)));
        assert_eq!(got, expected(packet), "{packet:x?}");
        got.map(|(.., right)| right)
    }

    /// Whether its checksum is right, if it is read.
    fn check(packet: &[u8]) -> Option<bool> {
        look::<false>(packet).or(look::<true>(packet))
    }

    #[test]
    fn mapped_addresses_are_refused() {
        let (good, mapped) =
            ("2001:db8::1", [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1]);
        let ip = Ip::new(good.parse().unwrap(), "2001:db8::2".parse().unwrap(), protocol::UDP);
        let packet = builder::udp(ip, 5353, 53, b"x");
        assert_eq!(check(&packet), Some(true));
        for at in [8, 24] {
            let mut packet = packet.clone();
            packet[at..at + 16].copy_from_slice(&mapped);
            assert_eq!(Parsed::parse(&packet), Err(crate::ParseError::MappedAddress), "{at}");
            assert_eq!(check(&packet), None, "{at}");
            // Neighbours of that form are addresses like others.
            packet[at + 10] = 0;
            assert!(Parsed::parse(&packet).is_ok() && check(&packet).is_some(), "{at}");
        }
    }

    #[test]
    fn whole_and_cut_short() {
        let mut read = 0;
        for mut packet in packets() {
            read += usize::from(check(&packet) == Some(true));
            for cut in 0..packet.len() {
                check(&packet[..cut]);
            }
            packet.extend_from_slice(b"padding");
            check(&packet);
        }
        assert_eq!(read, 16);
    }

    proptest! {
        /// It agrees with `Parsed` about whatever is made of a packet.
        #[test]
        fn as_parsed(
            which in 0..18usize,
            edits in proptest::collection::vec((0..64usize, any::<u8>()), 0..4),
            mend in any::<bool>(),
        ) {
            let mut packet = packets().swap_remove(which);
            for (at, value) in edits {
                let at = at % packet.len();
                packet[at] = value;
            }
            // Most edits would do no more than break IPv4's checksum.
            let header = usize::from(packet[0] & 15) * 4;
            if mend && packet[0] >> 4 == 4 && header >= 20 && header <= packet.len() {
                ipv4::write_checksum(&mut packet);
            }
            check(&packet);
        }
    }
}
