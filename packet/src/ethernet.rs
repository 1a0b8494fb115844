//! Ethernet II frames and their VLAN tags (IEEE 802.3, 802.1Q).

use crate::be16;
use std::fmt;
use std::str::FromStr;

/// Length of a frame's header without a tag.
pub const HEADER_LEN: usize = 14;
/// Length of one 802.1Q tag.
pub const VLAN_LEN: usize = 4;

/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;
/// EtherType of an 802.1Q tag.
pub const VLAN: u16 = 0x8100;
/// EtherType of an 802.1ad service tag.
pub const QINQ: u16 = 0x88a8;

/// A 48-bit link address.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Broadcast or multicast: the group bit is set.
    #[inline]
    pub fn is_group(&self) -> bool {
        self.0[0] & 1 == 1
    }

    /// Whether all six bytes are `ff`.
    #[inline]
    pub fn is_broadcast(&self) -> bool {
        *self == Self::BROADCAST
    }

    /// Whether all six bytes are zero.
    pub fn is_zero(&self) -> bool {
        self.0 == [0; 6]
    }

    /// The group address of an IP multicast destination (RFC 1112 section 6.4, RFC 2464 section 7).
    pub fn of_multicast(addr: crate::Addr) -> Self {
        let o = addr.octets();
        if addr.is_v4() {
            Self([0x01, 0x00, 0x5e, o[13] & 0x7f, o[14], o[15]])
        } else {
            Self([0x33, 0x33, o[12], o[13], o[14], o[15]])
        }
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddr {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut out = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut out {
            let part = parts.next().ok_or(())?;
            if part.is_empty() || part.len() > 2 {
                return Err(());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| ())?;
        }
        if parts.next().is_some() { Err(()) } else { Ok(Self(out)) }
    }
}

/// A frame's header, tags included.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Destination.
    pub dst: MacAddr,
    /// Source.
    pub src: MacAddr,
    /// The first 802.1Q tag's control word (priority, DEI, VLAN id), if the frame has one.
    pub vlan: Option<u16>,
    /// What follows the tags.
    pub ethertype: u16,
    /// Where the payload starts.
    pub len: usize,
}

impl Header {
    /// Reads a header with at most two tags; `None` if the frame is too short.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        if frame.len() < HEADER_LEN {
            return None;
        }
        let mut header = Self {
            dst: MacAddr(frame[0..6].try_into().ok()?),
            src: MacAddr(frame[6..12].try_into().ok()?),
            vlan: None,
            ethertype: be16(frame, 12),
            len: HEADER_LEN,
        };
        while matches!(header.ethertype, VLAN | QINQ) && header.len < HEADER_LEN + 2 * VLAN_LEN {
            if frame.len() < header.len + VLAN_LEN {
                return None;
            }
            header.vlan = header.vlan.or(Some(be16(frame, header.len)));
            header.ethertype = be16(frame, header.len + 2);
            header.len += VLAN_LEN;
        }
        Some(header)
    }
}

/// Writes an untagged header into the first 14 bytes of `frame`.
#[inline]
pub fn write(frame: &mut [u8], dst: MacAddr, src: MacAddr, ethertype: u16) {
    frame[0..6].copy_from_slice(&dst.0);
    frame[6..12].copy_from_slice(&src.0);
    frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
}
