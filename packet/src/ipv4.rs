//! IPv4 headers (RFC 791).

use crate::checksum::{Delta, Field};
use crate::{Addr, be16};

/// Header length without options.
pub const MIN_HEADER_LEN: usize = 20;

/// An IPv4 header that is there in full, options included. Its checksum is not judged here.
#[derive(Copy, Clone, Debug)]
pub struct Header<'a>(&'a [u8]);

impl<'a> Header<'a> {
    /// Checks version, header length and that `packet` holds the header.
    #[inline]
    pub fn new_checked(packet: &'a [u8]) -> Option<Self> {
        if packet.len() < MIN_HEADER_LEN || packet[0] >> 4 != 4 {
            return None;
        }
        let len = usize::from(packet[0] & 0x0f) * 4;
        (len >= MIN_HEADER_LEN && len <= packet.len()).then(|| Self(&packet[..len]))
    }

    /// Header length in bytes.
    pub fn header_len(&self) -> usize {
        self.0.len()
    }
    /// Type of service: DSCP and ECN.
    pub fn tos(&self) -> u8 {
        self.0[1]
    }
    /// Length of header and payload.
    pub fn total_len(&self) -> u16 {
        be16(self.0, 2)
    }
    /// Identification.
    pub fn id(&self) -> u16 {
        be16(self.0, 4)
    }
    /// The don't-fragment bit.
    pub fn dont_fragment(&self) -> bool {
        self.0[6] & 0x40 != 0
    }
    /// The more-fragments bit.
    pub fn more_fragments(&self) -> bool {
        self.0[6] & 0x20 != 0
    }
    /// The fragment offset in bytes.
    pub fn fragment_offset(&self) -> u16 {
        (be16(self.0, 6) & 0x1fff) * 8
    }
    /// Time to live.
    pub fn ttl(&self) -> u8 {
        self.0[8]
    }
    /// Protocol of the payload.
    pub fn protocol(&self) -> u8 {
        self.0[9]
    }
    /// Source.
    pub fn src(&self) -> Addr {
        Addr::from_v4_bytes([self.0[12], self.0[13], self.0[14], self.0[15]])
    }
    /// Destination.
    pub fn dst(&self) -> Addr {
        Addr::from_v4_bytes([self.0[16], self.0[17], self.0[18], self.0[19]])
    }
    /// The options' bytes.
    pub fn options(&self) -> &'a [u8] {
        &self.0[MIN_HEADER_LEN..]
    }
    /// All bytes of the header.
    pub fn bytes(&self) -> &'a [u8] {
        self.0
    }
}

/// Decrements the TTL and mends the header checksum (RFC 1141). The caller has checked the header
/// and that the TTL is above zero.
#[inline]
pub fn decrement_ttl(packet: &mut [u8]) {
    hop(packet, Delta::default());
}

/// The same, and mends the header checksum for other changes that were made.
#[inline(always)]
pub fn hop(packet: &mut [u8], mut changes: Delta) {
    let Some(header) = packet.first_chunk_mut::<MIN_HEADER_LEN>() else { return };
    let old = be16(header, 8);
    header[8] -= 1;
    changes.replace16(old, be16(header, 8));
    changes.update(header, 10, Field::Complete);
}

/// Writes a fresh header checksum.
pub fn write_checksum(packet: &mut [u8]) {
    let len = usize::from(packet[0] & 0x0f) * 4;
    crate::put16(packet, 10, 0);
    let sum = crate::checksum::of(&packet[..len]);
    crate::put16(packet, 10, sum);
}
