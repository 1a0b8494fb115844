//! Changes that targets make to packets, and how the bytes and their checksums follow.

use tidegate_packet::checksum::{Delta, Field};
use tidegate_packet::{Addr, Family, Parsed, Transport, tcp};

use crate::effects::MssClamp;
use crate::tracking::Tracking;

/// A change that a target asks for. The caller of [`crate::Walk::resume`] makes it before the walk
/// goes on, so that later rules see the packet as it is then.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// A change of headers; [`HeaderEdit::make`] does it.
    Header(HeaderEdit),
    /// `TCPMSS`: the MSS option of a SYN. The caller knows the MTUs.
    Mss(MssClamp),
    /// `CHECKSUM --checksum-fill`: a checksum left to the device is computed now.
    FillChecksum,
    /// `NOTRACK`, `CT --notrack`: the packet is not to be tracked. Like [`Edit::Track`] it says
    /// nothing about a packet that has its connection already, or that such a rule has met before.
    Untrack,
    /// `CT`: how the connection is tracked that the packet may start.
    Track(Tracking),
    /// `CONNMARK`: the connection's mark becomes this.
    ConnMark(u32),
    /// `TRACE`: rules from here on are told to [`crate::Effects::trace`].
    Trace,
}

/// A change of a packet's headers that keeps its length.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum HeaderEdit {
    /// The whole type-of-service byte or traffic class.
    Tos(u8),
    /// TTL or hop limit.
    HopLimit(u8),
    /// These of the eight TCP flag bits are cleared, those set.
    TcpFlags {
        /// Cleared.
        clear: u8,
        /// Set afterwards.
        set: u8,
    },
    /// TCP options whose bit is set (kind 0 in the lowest bit of the first word) become padding.
    StripTcpOptions([u64; 4]),
    /// The source address, without mending the transport's checksum (RFC 6296 keeps it right).
    Source(Addr),
    /// The destination address, likewise.
    Destination(Addr),
}

impl HeaderEdit {
    /// Makes the change on the bytes, which start with the IP header, and on what was decoded from
    /// them. `field` says what the transport's checksum field holds. A packet that the change doesn't
    /// fit is left alone.
    pub fn make(self, parsed: &mut Parsed, bytes: &mut [u8], field: Field) {
        match self {
            Self::Tos(tos) => {
                set_tos(parsed.family, bytes, tos);
                parsed.tos = tos;
            }
            Self::HopLimit(limit) => {
                match parsed.family {
                    Family::V4 => replace_v4(bytes, 8, [limit, bytes[9]]),
                    Family::V6 => bytes[7] = limit,
                }
                parsed.hop_limit = limit;
            }
            Self::TcpFlags { clear, set } => tcp_flags(parsed, bytes, field, clear, set),
            Self::StripTcpOptions(kinds) => strip(parsed, bytes, field, kinds),
            Self::Source(addr) => {
                if addr.family() == Family::V6 && parsed.family == Family::V6 {
                    bytes[8..24].copy_from_slice(addr.wire());
                    parsed.src = addr;
                }
            }
            Self::Destination(addr) => {
                if addr.family() == Family::V6 && parsed.family == Family::V6 {
                    bytes[24..40].copy_from_slice(addr.wire());
                    parsed.dst = addr;
                }
            }
        }
    }
}

/// The option that only pads (RFC 9293 section 3.1).
const NOP: u8 = 1;

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

fn set_tos(family: Family, bytes: &mut [u8], tos: u8) {
    match family {
        Family::V4 => replace_v4(bytes, 0, [bytes[0], tos]),
        // The traffic class lies across the first two bytes (RFC 8200 section 3).
        Family::V6 => {
            bytes[0] = bytes[0] & 0xf0 | tos >> 4;
            bytes[1] = bytes[1] & 0x0f | tos << 4;
        }
    }
}

/// Replaces a word of an IPv4 header and mends the header's checksum.
fn replace_v4(bytes: &mut [u8], at: usize, new: [u8; 2]) {
    let mut delta = Delta::default();
    delta.replace(&bytes[at..at + 2], &new);
    bytes[at..at + 2].copy_from_slice(&new);
    delta.update(bytes, 10, Field::Complete);
}

fn tcp_flags(parsed: &mut Parsed, bytes: &mut [u8], field: Field, clear: u8, set: u8) {
    let Transport::Tcp { flags, .. } = &mut parsed.transport else { return };
    *flags = *flags & !clear | set;
    let at = usize::from(parsed.l4) + 12;
    let old = be16(bytes, at);
    let new = old & 0xff00 | u16::from(*flags);
    put16(bytes, at, new);
    // A partial field covers the pseudo-header only.
    if field == Field::Complete {
        let mut delta = Delta::default();
        delta.replace16(old, new);
        delta.update(bytes, usize::from(parsed.l4) + tcp::CHECKSUM_AT, field);
    }
}

fn strip(parsed: &Parsed, bytes: &mut [u8], field: Field, kinds: [u64; 4]) {
    if !matches!(parsed.transport, Transport::Tcp { .. }) {
        return;
    }
    let start = usize::from(parsed.l4);
    let Some(header) = tcp::Header::new_checked(&bytes[start..]) else { return };
    let end = start + tcp::MIN_HEADER_LEN + header.option_bytes().len();
    let (first, last) = (start + tcp::MIN_HEADER_LEN, end);
    let before = bytes[first..last].to_vec();
    // As xt_TCPOPTSTRIP walks: the last byte is no option, and a length of zero counts as one.
    let mut at = first;
    while at + 1 < last {
        let kind = usize::from(bytes[at]);
        let len = match (kind, bytes[at + 1]) {
            (0 | 1, _) | (_, 0) => 1,
            (_, len) => usize::from(len),
        };
        if at + len > last {
            break;
        }
        if kinds[kind / 64] >> (kind % 64) & 1 != 0 {
            bytes[at..at + len].fill(NOP);
        }
        at += len;
    }
    if field == Field::Complete {
        let mut delta = Delta::default();
        delta.replace(&before, &bytes[first..last]);
        delta.update(bytes, start + tcp::CHECKSUM_AT, field);
    }
}
