//! UDP headers (RFC 768).

use crate::be16;

/// Header length.
pub const HEADER_LEN: usize = 8;
/// Place of the checksum field.
pub const CHECKSUM_AT: usize = 6;

/// A UDP header that is there in full. Its length field is not judged here.
#[derive(Copy, Clone, Debug)]
pub struct Header<'a>(&'a [u8]);

impl<'a> Header<'a> {
    /// Checks that `datagram` holds a header.
    #[inline]
    pub fn new_checked(datagram: &'a [u8]) -> Option<Self> {
        (datagram.len() >= HEADER_LEN).then(|| Self(&datagram[..HEADER_LEN]))
    }

    /// Source port.
    pub fn sport(&self) -> u16 {
        be16(self.0, 0)
    }
    /// Destination port.
    pub fn dport(&self) -> u16 {
        be16(self.0, 2)
    }
    /// The length field: header and payload.
    pub fn len_field(&self) -> u16 {
        be16(self.0, 4)
    }
    /// The checksum field; zero means that there is none (IPv4 only).
    pub fn checksum(&self) -> u16 {
        be16(self.0, CHECKSUM_AT)
    }
}
