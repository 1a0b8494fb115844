//! IPv6 headers and the chain of extension headers (RFC 8200).

use crate::protocol::{AH, DSTOPTS, FRAGMENT, HOPOPTS, NO_NEXT, ROUTING};
use crate::{Addr, be16};

/// Length of the fixed header.
pub const HEADER_LEN: usize = 40;
/// Length of a fragment header.
pub const FRAGMENT_LEN: usize = 8;

/// An IPv6 fixed header that is there in full.
#[derive(Copy, Clone, Debug)]
pub struct Header<'a>(&'a [u8]);

impl<'a> Header<'a> {
    /// Checks the version and that `packet` holds the fixed header.
    #[inline]
    pub fn new_checked(packet: &'a [u8]) -> Option<Self> {
        (packet.len() >= HEADER_LEN && packet[0] >> 4 == 6).then(|| Self(&packet[..HEADER_LEN]))
    }

    /// Traffic class: DSCP and ECN.
    pub fn traffic_class(&self) -> u8 {
        self.0[0] << 4 | self.0[1] >> 4
    }
    /// Length of everything after the fixed header.
    pub fn payload_len(&self) -> u16 {
        be16(self.0, 4)
    }
    /// The first next-header value.
    pub fn next_header(&self) -> u8 {
        self.0[6]
    }
    /// Hop limit.
    pub fn hop_limit(&self) -> u8 {
        self.0[7]
    }
    /// Source.
    pub fn src(&self) -> Addr {
        let mut b = [0; 16];
        b.copy_from_slice(&self.0[8..24]);
        Addr::from_v6_bytes(b)
    }
    /// Destination.
    pub fn dst(&self) -> Addr {
        let mut b = [0; 16];
        b.copy_from_slice(&self.0[24..40]);
        Addr::from_v6_bytes(b)
    }
}

/// One extension header of the chain.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    /// Which kind: its protocol number.
    pub kind: u8,
    /// Where it starts.
    pub at: usize,
    /// Its length in bytes.
    pub len: usize,
    /// What follows it.
    pub next: u8,
}

/// Walks the extension headers that netfilter steps over: hop-by-hop, routing, fragment,
/// destination options, authentication. Ends before anything else, and after a fragment header
/// with a non-zero offset, since what follows that is payload.
#[derive(Copy, Clone, Debug)]
pub struct Extensions<'a> {
    packet: &'a [u8],
    next: u8,
    at: usize,
    ended: bool,
    truncated: bool,
}

impl<'a> Extensions<'a> {
    /// Starts behind the fixed header, which the caller has checked.
    pub fn new(packet: &'a [u8]) -> Self {
        Self { packet, next: packet[6], at: HEADER_LEN, ended: false, truncated: false }
    }

    /// The protocol number at the walker's place.
    pub fn protocol(&self) -> u8 {
        self.next
    }

    /// The walker's place.
    pub fn offset(&self) -> usize {
        self.at
    }

    /// Whether the packet ended inside a header.
    pub fn truncated(&self) -> bool {
        self.truncated
    }
}

impl Iterator for Extensions<'_> {
    type Item = Extension;

    fn next(&mut self) -> Option<Extension> {
        if self.ended || !is_extension(self.next) || self.next == NO_NEXT {
            return None;
        }
        let rest = self.packet.get(self.at..).unwrap_or_default();
        if rest.len() < 8 {
            (self.ended, self.truncated) = (true, true);
            return None;
        }
        let len = match self.next {
            FRAGMENT => FRAGMENT_LEN,
            AH => (usize::from(rest[1]) + 2) * 4,
            _ => (usize::from(rest[1]) + 1) * 8,
        };
        if len > rest.len() {
            (self.ended, self.truncated) = (true, true);
            return None;
        }
        let found = Extension { kind: self.next, at: self.at, len, next: rest[0] };
        if self.next == FRAGMENT && be16(rest, 2) & 0xfff8 != 0 {
            self.ended = true;
        }
        self.next = found.next;
        self.at += len;
        Some(found)
    }
}

/// Whether a next-header value names an extension header (or "no next header").
pub const fn is_extension(protocol: u8) -> bool {
    matches!(protocol, HOPOPTS | ROUTING | FRAGMENT | AH | NO_NEXT | DSTOPTS)
}
