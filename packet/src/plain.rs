//! One look at the headers of what most packets are: TCP and UDP without anything uncommon.
//!
//! [`Parsed`](crate::Parsed) tells everything about any packet. This tells what tracking and translation
//! need, of packets about which no more is to be told, and in a fraction of the time: every field is at
//! a place that is known beforehand.

use crate::{Addr, Family, Transport, checksum, ipv4, ipv6, protocol, tcp, udp};

/// A whole TCP segment or UDP datagram without IPv4 options or IPv6 extension headers, in whose headers
/// [`Parsed`](crate::Parsed) finds nothing wrong, either.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Plain {
    /// IPv4 or IPv6.
    pub family: Family,
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

impl Plain {
    /// Reads a packet's headers. `None`: it is damaged or something else.
    #[inline]
    pub fn read(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => Self::read_v4(packet),
            6 => Self::read_v6(packet),
            _ => None,
        }
    }

    /// The same for what has to be IPv4.
    ///
    /// This and all that is asked of it afterwards is meant to become one piece of machine code for each
    /// family, in which all places are constants.
    #[inline(always)]
    pub fn read_v4(packet: &[u8]) -> Option<Self> {
        // With UDP's header, the shorter one.
        let header: &[u8; ipv4::MIN_HEADER_LEN + udp::HEADER_LEN] = packet.first_chunk()?;
        let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let long = |at: usize| [header[at], header[at + 1], header[at + 2], header[at + 3]];
        // In the processor's order: swapped bytes have a swapped sum, and all ones are all ones.
        let sum =
            [0, 4, 8, 12, 16].into_iter().map(|at| u64::from(u32::from_le_bytes(long(at)))).sum();
        let len = u32::from(word(2));
        // All but the don't-fragment bit and the reserved one.
        let fragment = word(6) & 0x3fff != 0;
        if header[0] != 0x45
            || checksum::fold(sum) != 0xffff
            || fragment
            || len as usize > packet.len()
        {
            return None;
        }
        let plain = Self {
            family: Family::V4,
            protocol: header[9],
            hop_limit: header[8],
            flags: 0,
            sport: word(20),
            dport: word(22),
            len,
            v4: [12, 16].map(|at| u32::from_be_bytes(long(at))),
        };
        plain.transport(packet, ipv4::MIN_HEADER_LEN)
    }

    /// The same for what has to be IPv6.
    #[inline(always)]
    pub fn read_v6(packet: &[u8]) -> Option<Self> {
        let header: &[u8; ipv6::HEADER_LEN + udp::HEADER_LEN] = packet.first_chunk()?;
        let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let len = ipv6::HEADER_LEN as u32 + u32::from(word(4));
        if header[0] >> 4 != 6 || len as usize > packet.len() {
            return None;
        }
        let plain = Self {
            family: Family::V6,
            protocol: header[6],
            hop_limit: header[7],
            flags: 0,
            sport: word(40),
            dport: word(42),
            len,
            v4: [0; 2],
        };
        plain.transport(packet, ipv6::HEADER_LEN)
    }

    /// Looks at the transport header.
    #[inline(always)]
    fn transport(mut self, packet: &[u8], l4: usize) -> Option<Self> {
        let room = (self.len as usize).checked_sub(l4)?;
        match self.protocol {
            protocol::UDP if room >= udp::HEADER_LEN => Some(self),
            protocol::TCP if room >= tcp::MIN_HEADER_LEN => {
                let header: &[u8; tcp::MIN_HEADER_LEN] = packet.get(l4..)?.first_chunk()?;
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

    /// Where its transport header stands.
    #[inline(always)]
    pub fn l4(&self) -> usize {
        match self.family {
            Family::V4 => ipv4::MIN_HEADER_LEN,
            Family::V6 => ipv6::HEADER_LEN,
        }
    }

    /// Source and destination; `packet` is what it was read from.
    #[inline(always)]
    pub fn addrs(&self, packet: &[u8]) -> [Addr; 2] {
        match self.family {
            Family::V4 => self.v4.map(|bits| Addr::from_v4_bytes(bits.to_be_bytes())),
            Family::V6 => [8, 24].map(|at| {
                let mut wire = [0; 16];
                wire.copy_from_slice(&packet[at..at + 16]);
                Addr::from_v6_bytes(wire)
            }),
        }
    }

    /// As [`Parsed`](crate::Parsed) has it.
    #[inline(always)]
    pub fn as_transport(&self) -> Transport {
        let Self { sport, dport, flags, .. } = *self;
        match self.is_tcp() {
            true => Transport::Tcp { sport, dport, flags },
            false => Transport::Udp { sport, dport },
        }
    }

    /// Transport header and payload.
    #[inline(always)]
    pub fn segment<'a>(&self, packet: &'a [u8]) -> &'a [u8] {
        &packet[self.l4()..self.len as usize]
    }

    /// Whether the transport checksum is right: as [`checksum::verify_transport`]. The addresses of the
    /// pseudo-header stand right before the transport header.
    #[inline(always)]
    pub fn verify(&self, packet: &[u8]) -> bool {
        let l4 = self.l4();
        let addrs = match self.family {
            Family::V4 => 12,
            Family::V6 => 8,
        };
        let rest = [0, self.protocol];
        let len = (self.len - l4 as u32) as u16;
        let rest = u64::from(u16::from_le_bytes(rest)) + u64::from(len.swap_bytes());
        let sum = checksum::add_swapped(rest, &packet[addrs..self.len as usize]);
        checksum::fold(sum) == 0xffff
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Parsed;
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
    fn expected(packet: &[u8]) -> Option<(Plain, [Addr; 2], bool)> {
        let parsed = Parsed::parse(packet).ok()?;
        let l4 = if parsed.family == Family::V4 { 20 } else { 40 };
        let (sport, dport, flags) = match parsed.transport {
            Transport::Tcp { sport, dport, flags } => (sport, dport, flags),
            Transport::Udp { sport, dport } => (sport, dport, 0),
            _ => return None,
        };
        let common = matches!(parsed.protocol, protocol::TCP | protocol::UDP);
        if !common || parsed.fragment.is_some() || usize::from(parsed.l4) != l4 {
            return None;
        }
        let Parsed { family, protocol, hop_limit, len, src, dst, .. } = parsed;
        let v4 = if family == Family::V4 { [src.v4_u32(), dst.v4_u32()] } else { [0; 2] };
        let right = checksum::verify_transport(src, dst, protocol, parsed.segment(packet));
        let plain = Plain { family, protocol, hop_limit, flags, sport, dport, len, v4 };
        Some((plain, [src, dst], right))
    }

    fn check(packet: &[u8]) {
        let got = Plain::read(packet);
        let got = got.map(|plain| (plain, plain.addrs(packet), plain.verify(packet)));
        assert_eq!(got, expected(packet), "{packet:x?}");
    }

    #[test]
    fn whole_and_cut_short() {
        let mut read = 0;
        for mut packet in packets() {
            check(&packet);
            read += usize::from(Plain::read(&packet).is_some_and(|plain| plain.verify(&packet)));
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
