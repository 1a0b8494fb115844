//! TCP headers (RFC 9293).

use crate::{be16, be32};

/// FIN.
pub const FIN: u8 = 0x01;
/// SYN.
pub const SYN: u8 = 0x02;
/// RST.
pub const RST: u8 = 0x04;
/// PSH.
pub const PSH: u8 = 0x08;
/// ACK.
pub const ACK: u8 = 0x10;
/// URG.
pub const URG: u8 = 0x20;
/// ECE.
pub const ECE: u8 = 0x40;
/// CWR.
pub const CWR: u8 = 0x80;

/// Header length without options.
pub const MIN_HEADER_LEN: usize = 20;
/// Place of the checksum field.
pub const CHECKSUM_AT: usize = 16;

/// A TCP header that is there in full, options included.
#[derive(Copy, Clone, Debug)]
pub struct Header<'a>(&'a [u8]);

impl<'a> Header<'a> {
    /// Checks that `segment` holds the fixed part and all options the data offset promises.
    #[inline]
    pub fn new_checked(segment: &'a [u8]) -> Option<Self> {
        if segment.len() < MIN_HEADER_LEN {
            return None;
        }
        let len = usize::from(segment[12] >> 4) * 4;
        (len >= MIN_HEADER_LEN && len <= segment.len()).then(|| Self(&segment[..len]))
    }

    /// Source port.
    pub fn sport(&self) -> u16 {
        be16(self.0, 0)
    }
    /// Destination port.
    pub fn dport(&self) -> u16 {
        be16(self.0, 2)
    }
    /// Sequence number.
    pub fn seq(&self) -> u32 {
        be32(self.0, 4)
    }
    /// Acknowledgment number; meaningful with ACK.
    pub fn ack(&self) -> u32 {
        be32(self.0, 8)
    }
    /// The eight flag bits.
    pub fn flags(&self) -> u8 {
        self.0[13]
    }
    /// The four reserved bits before the flags.
    pub fn reserved(&self) -> u8 {
        self.0[12] & 0x0f
    }
    /// The window as it stands, unscaled.
    pub fn window(&self) -> u16 {
        be16(self.0, 14)
    }
    /// The checksum field.
    pub fn checksum(&self) -> u16 {
        be16(self.0, CHECKSUM_AT)
    }
    /// The urgent pointer.
    pub fn urgent(&self) -> u16 {
        be16(self.0, 18)
    }
    /// Header length in bytes.
    pub fn header_len(&self) -> usize {
        self.0.len()
    }
    /// The options' bytes.
    pub fn option_bytes(&self) -> &'a [u8] {
        &self.0[MIN_HEADER_LEN..]
    }
    /// The options one by one; stops at the first that is damaged.
    pub fn options(&self) -> Options<'a> {
        Options(self.option_bytes())
    }
}

/// One option: its kind and the bytes after kind and length.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct TcpOption<'a> {
    /// Kind (IANA "TCP Option Kind Numbers").
    pub kind: u8,
    /// What follows the length byte.
    pub data: &'a [u8],
}

/// Option kind of the maximum segment size.
pub const OPT_MSS: u8 = 2;
/// Option kind of the window scale (RFC 7323).
pub const OPT_WINDOW_SCALE: u8 = 3;
/// Option kind of SACK-permitted (RFC 2018).
pub const OPT_SACK_PERMITTED: u8 = 4;
/// Option kind of selective acknowledgments (RFC 2018).
pub const OPT_SACK: u8 = 5;
/// Option kind of timestamps (RFC 7323).
pub const OPT_TIMESTAMP: u8 = 8;

/// Iterates over a header's options.
#[derive(Copy, Clone, Debug)]
pub struct Options<'a>(&'a [u8]);

impl<'a> Iterator for Options<'a> {
    type Item = TcpOption<'a>;

    fn next(&mut self) -> Option<TcpOption<'a>> {
        loop {
            match *self.0 {
                [] | [0, ..] => return None,
                [1, ..] => self.0 = &self.0[1..],
                [kind, len, ..] if len >= 2 && usize::from(len) <= self.0.len() => {
                    let (option, rest) = self.0.split_at(usize::from(len));
                    self.0 = rest;
                    return Some(TcpOption { kind, data: &option[2..] });
                }
                _ => return None,
            }
        }
    }
}
