//! Edits one end of a packet and mends every checksum that covers it.

use tidegate_packet::checksum::{self, Delta, Field};
use tidegate_packet::{Addr, icmp, icmpv6, protocol, tcp, udp};

use crate::{Manip, Tuple};

/// A transport header too short to be translated.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Truncated;

/// What has to be known of a packet, or of a quoted one, to edit it.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Place {
    /// Where its IP header starts.
    pub(crate) ip: usize,
    /// Where its transport header starts.
    pub(crate) l4: usize,
    /// One past its last byte.
    pub(crate) end: usize,
    /// Its transport protocol.
    pub(crate) protocol: u8,
    pub(crate) v4: bool,
    /// What its transport checksum field holds.
    pub(crate) field: Field,
    /// Only the beginning is there, so that a checksum can't be computed anew.
    pub(crate) cut: bool,
}

/// Makes the `manip` end of the packet that of `target`.
pub(crate) fn rewrite(
    bytes: &mut [u8],
    place: Place,
    manip: Manip,
    target: &Tuple,
) -> Result<(), Truncated> {
    let mut addresses = Delta::default();
    let (at, new) = match (place.v4, manip) {
        (true, Manip::Source) => (place.ip + 12, target.src),
        (true, Manip::Destination) => (place.ip + 16, target.dst),
        (false, Manip::Source) => (place.ip + 8, target.src),
        (false, Manip::Destination) => (place.ip + 24, target.dst),
    };
    if place.v4 {
        let old = u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if old != new.v4_u32() {
            addresses.replace32(old, new.v4_u32());
        }
    } else if bytes[at..at + 16] != new.octets() {
        addresses.replace(&bytes[at..at + 16], &new.octets());
    }
    transport(bytes, place, manip, target, addresses)?;
    match place.v4 {
        true => {
            bytes[at..at + 4].copy_from_slice(&new.v4_bytes());
            if !addresses.is_zero() {
                addresses.update(bytes, place.ip + 10, Field::Complete);
            }
        }
        false => bytes[at..at + 16].copy_from_slice(&new.octets()),
    }
    Ok(())
}

/// Port or identifier, and the checksum of the transport header.
fn transport(
    bytes: &mut [u8],
    place: Place,
    manip: Manip,
    target: &Tuple,
    addresses: Delta,
) -> Result<(), Truncated> {
    let Place { l4, end, .. } = place;
    let (port_at, port) = match manip {
        Manip::Source => (l4, target.sport),
        Manip::Destination => (l4 + 2, target.dport),
    };
    match place.protocol {
        protocol::TCP => {
            need(end, l4 + 8)?;
            let ports = put_word(bytes, port_at, port);
            // A quote may end before the checksum; then it stays as it was.
            if l4 + tcp::MIN_HEADER_LEN <= end {
                update(bytes, l4 + tcp::CHECKSUM_AT, place.field, addresses, ports);
            }
        }
        protocol::UDP | protocol::UDPLITE => {
            need(end, l4 + udp::HEADER_LEN)?;
            let ports = put_word(bytes, port_at, port);
            let changes = covered(place.field, addresses, ports);
            update_udp(&mut bytes[l4..], place.field, changes, place.protocol == protocol::UDP);
        }
        protocol::SCTP => {
            need(end, l4 + 8)?;
            put_word(bytes, port_at, port);
            // RFC 9260 section 6.8: CRC32c over the packet, without a pseudo-header.
            if !place.cut && place.field == Field::Complete && l4 + 12 <= end {
                bytes[l4 + 8..l4 + 12].fill(0);
                let crc = crc32c(&bytes[l4..end]);
                bytes[l4 + 8..l4 + 12].copy_from_slice(&crc.to_le_bytes());
            }
        }
        protocol::ICMP => {
            need(end, l4 + icmp::HEADER_LEN)?;
            let kind = bytes[l4];
            if icmp::counterpart(kind).is_some() {
                let id = put_word(bytes, l4 + 4, target.sport);
                update(bytes, l4 + 2, Field::Complete, Delta::default(), id);
            }
        }
        protocol::ICMPV6 => {
            need(end, l4 + icmpv6::HEADER_LEN)?;
            let id = match bytes[l4] {
                icmpv6::ECHO_REQUEST | icmpv6::ECHO_REPLY => put_word(bytes, l4 + 4, target.sport),
                _ => Delta::default(),
            };
            update(bytes, l4 + 2, place.field, addresses, id);
        }
        // The receiver's key alone is in the packet, and of PPTP alone it is one that can change.
        protocol::GRE => {
            need(end, l4 + 8)?;
            match (manip, bytes[l4 + 1] & 7) {
                (Manip::Source, _) | (_, 0) => {}
                (_, 1) => {
                    put_word(bytes, l4 + 6, target.dport);
                }
                // netfilter doesn't translate what it doesn't know.
                _ => return Err(Truncated),
            }
        }
        // The rest has neither ports nor a checksum over the addresses that could be mended.
        _ => {}
    }
    Ok(())
}

fn need(end: usize, wanted: usize) -> Result<(), Truncated> {
    if wanted <= end { Ok(()) } else { Err(Truncated) }
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Writes a word and says how it changes a sum.
fn put_word(bytes: &mut [u8], at: usize, new: u16) -> Delta {
    let mut delta = Delta::default();
    let old = word(bytes, at);
    if old != new {
        delta.replace16(old, new);
        bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
    }
    delta
}

/// What of a packet's changes is in its checksum: a partial field covers the addresses alone.
#[inline(always)]
pub(crate) fn covered(field: Field, mut addresses: Delta, header: Delta) -> Delta {
    if field == Field::Complete && !header.is_zero() {
        addresses.add(header);
    }
    addresses
}

/// Mends a checksum.
fn update(bytes: &mut [u8], at: usize, field: Field, addresses: Delta, header: Delta) {
    let changes = covered(field, addresses, header);
    if !changes.is_zero() {
        changes.update(bytes, at, field);
    }
}

/// Mends the checksum of UDP or UDP-Lite; the segment may be `without` any.
#[inline(always)]
pub(crate) fn update_udp(segment: &mut [u8], field: Field, changes: Delta, without: bool) {
    let Some(header) = segment.first_chunk_mut::<{ udp::HEADER_LEN }>() else { return };
    // RFC 768: zero is no checksum; a computed zero is sent as all ones.
    if field == Field::Complete && without && word(header, udp::CHECKSUM_AT) == 0 {
        return;
    }
    if !changes.is_zero() {
        changes.update(header, udp::CHECKSUM_AT, field);
    }
    if field == Field::Complete && word(header, udp::CHECKSUM_AT) == 0 {
        header[udp::CHECKSUM_AT..].fill(0xff);
    }
}

/// The checksum of an ICMP error whose quote was edited, computed anew.
pub(crate) fn refresh_icmp(bytes: &mut [u8], place: Place, src: Addr, dst: Addr) {
    let Place { l4, end, .. } = place;
    bytes[l4 + 2..l4 + 4].fill(0);
    let sum = if place.v4 {
        checksum::of(&bytes[l4..end])
    } else {
        checksum::transport(src, dst, protocol::ICMPV6, &bytes[l4..end])
    };
    bytes[l4 + 2..l4 + 4].copy_from_slice(&sum.to_be_bytes());
}

/// CRC-32C (Castagnoli), reflected, as SCTP uses it.
pub(crate) fn crc32c<'a>(bytes: impl IntoIterator<Item = &'a u8>) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0u32; 256];
        let mut i = 0;
        while i < 256 {
            let mut crc = i as u32;
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 1 == 0 { crc >> 1 } else { crc >> 1 ^ 0x82f6_3b78 };
                bit += 1;
            }
            table[i] = crc;
            i += 1;
        }
        table
    };
    !bytes.into_iter().fold(!0, |crc, &b| TABLE[usize::from(crc as u8 ^ b)] ^ crc >> 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_of_the_check_string() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }
}
