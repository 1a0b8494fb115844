//! Packets as checked views: decode once, then accessors that can't fail.
//!
//! Terms: a *frame* is what a device hands over (link header and all); a *packet* is the IP
//! datagram inside it, and every offset in this crate counts from the packet's first byte.
//! Nothing here does I/O, reads a clock, allocates on the receive path or uses `unsafe`.
#![forbid(unsafe_code)]

pub mod addr;
pub mod arp;
pub mod builder;
pub mod checksum;
pub mod ethernet;
pub mod icmp;
pub mod icmpv6;
pub mod ipv4;
pub mod ipv6;
pub mod jhash;
pub mod ndp;
pub mod parsed;
pub mod plain;
pub mod protocol;
pub mod tcp;
pub mod time;
pub mod udp;

pub use addr::{Addr, Family, Prefix};
pub use ethernet::MacAddr;
pub use parsed::{Fragment, ParseError, Parsed, Transport};
pub use plain::Plain;
pub use time::Instant;

/// Reads a big-endian `u16`. The caller has checked the length.
#[inline]
pub(crate) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Reads a big-endian `u32`. The caller has checked the length.
#[inline]
pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Writes a big-endian `u16`.
#[inline]
pub(crate) fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}
