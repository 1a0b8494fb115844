//! Damages frames: single bytes and bits, lengths, offload state; and mends the checksums where
//! damage should get past them.

use proptest::prelude::*;
use tidegate::io::channel::Flying;
use tidegate::io::{Checksum, Gso, GsoKind, Offload};
use tidegate_packet::{Parsed, Transport, checksum, ethernet, ipv4, protocol};

/// One change to a frame. Places are fractions of its length, so that they fit every frame.
#[derive(Clone, Debug)]
pub enum Mutation {
    /// Sets a byte.
    Set(u16, u8),
    /// Sets a byte in the first 80, where the headers are.
    SetHeader(u8, u8),
    /// Flips a bit.
    Flip(u16, u8),
    /// Cuts the frame here.
    Cut(u16),
    /// Lengthens the frame.
    Extend(Vec<u8>),
    /// Takes bytes out.
    Remove(u16, u8),
    /// Puts bytes in.
    Insert(u16, Vec<u8>),
    /// Gives it this offload state.
    Offload(Offload),
}

impl Mutation {
    /// Any mutation.
    pub fn any() -> impl Strategy<Value = Self> {
        prop_oneof![
            3 => (any::<u16>(), any::<u8>()).prop_map(|(at, v)| Self::Set(at, v)),
            6 => (0..80_u8, any::<u8>()).prop_map(|(at, v)| Self::SetHeader(at, v)),
            3 => (any::<u16>(), 0..8_u8).prop_map(|(at, bit)| Self::Flip(at, bit)),
            1 => any::<u16>().prop_map(Self::Cut),
            1 => proptest::collection::vec(any::<u8>(), 1..64).prop_map(Self::Extend),
            1 => (any::<u16>(), 1..32_u8).prop_map(|(at, n)| Self::Remove(at, n)),
            1 => (any::<u16>(), proptest::collection::vec(any::<u8>(), 1..24))
                .prop_map(|(at, v)| Self::Insert(at, v)),
            2 => offload().prop_map(Self::Offload),
        ]
    }

    /// Makes the change.
    pub fn apply(&self, frame: &mut Flying) {
        let bytes = &mut frame.bytes;
        let place = |at: u16| usize::from(at) * bytes.len() / 65_536;
        match self {
            _ if bytes.is_empty() => {}
            Self::Set(at, value) => {
                let at = place(*at);
                bytes[at] = *value;
            }
            Self::SetHeader(at, value) => {
                let at = usize::from(*at) % bytes.len();
                bytes[at] = *value;
            }
            Self::Flip(at, bit) => {
                let at = place(*at);
                bytes[at] ^= 1 << bit;
            }
            Self::Cut(at) => bytes.truncate(place(*at)),
            Self::Extend(more) => bytes.extend_from_slice(more),
            Self::Remove(at, count) => {
                let at = place(*at);
                let end = (at + usize::from(*count)).min(bytes.len());
                bytes.drain(at..end);
            }
            Self::Insert(at, more) => {
                let at = place(*at);
                bytes.splice(at..at, more.iter().copied());
            }
            Self::Offload(offload) => frame.offload = *offload,
        }
    }
}

/// Offload state that no driver would make, and some that one would.
pub fn offload() -> impl Strategy<Value = Offload> {
    let place = || prop_oneof![Just(0_u16), Just(14), Just(34), Just(54), Just(65_535), 0..200_u16];
    let sum = prop_oneof![
        Just(Checksum::Unverified),
        Just(Checksum::Valid),
        (place(), prop_oneof![Just(16_u16), Just(6), Just(2), Just(65_535), 0..100_u16])
            .prop_map(|(start, offset)| Checksum::Partial { start, offset }),
    ];
    let kind = prop_oneof![Just(GsoKind::Tcp4), Just(GsoKind::Tcp6), Just(GsoKind::UdpL4)];
    let size = prop_oneof![Just(0_u16), Just(1), Just(1448), Just(65_535), any::<u16>()];
    let gso = (kind, size, any::<bool>()).prop_map(|(kind, size, ecn)| Gso { kind, size, ecn });
    (sum, proptest::option::of(gso)).prop_map(|(checksum, gso)| Offload { checksum, gso })
}

/// Makes lengths and checksums fit the bytes again, so that damage behind them is looked at.
pub fn mend(frame: &mut Flying) {
    let Some(header) = ethernet::Header::parse(&frame.bytes) else { return };
    let packet = &mut frame.bytes[header.len..];
    if header.ethertype == ethernet::IPV4 && packet.len() >= 20 {
        let len = packet.len().min(65_535) as u16;
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        let head = usize::from(packet[0] & 15) * 4;
        if head >= 20 && head <= packet.len() {
            ipv4::write_checksum(packet);
        }
    }
    if header.ethertype == ethernet::IPV6 && packet.len() >= 40 {
        let len = (packet.len() - 40).min(65_535) as u16;
        packet[4..6].copy_from_slice(&len.to_be_bytes());
    }
    let Ok(parsed) = Parsed::parse(packet) else { return };
    let l4 = usize::from(parsed.l4);
    let at = match parsed.transport {
        Transport::Tcp { .. } => 16,
        Transport::Udp { .. } => 6,
        Transport::Icmp { .. } | Transport::Icmpv6 { .. } => 2,
        _ => return,
    };
    let segment = &mut packet[l4..parsed.len as usize];
    if matches!(frame.offload.checksum, Checksum::Partial { .. }) {
        let len = segment.len() as u32;
        let sum = checksum::pseudo_header(parsed.src, parsed.dst, parsed.protocol, len);
        segment[at..at + 2].copy_from_slice(&checksum::fold(sum).to_be_bytes());
        return;
    }
    segment[at..at + 2].fill(0);
    let sum = match parsed.protocol {
        protocol::ICMP => checksum::of(segment),
        number => checksum::transport(parsed.src, parsed.dst, number, segment),
    };
    let sum = if sum == 0 { 0xffff } else { sum };
    segment[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}
