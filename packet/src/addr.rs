//! Addresses of both families in one 16-byte type.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The network layer's family.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Bits in an address of the family.
    pub const fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

/// An IPv4 or IPv6 address. IPv4 is held as `::ffff:a.b.c.d`, a form that never comes from the
/// wire (the decoder refuses it), so one comparison serves both families.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Addr([u8; 16]);

const V4_HEAD: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

impl Addr {
    /// `0.0.0.0`.
    pub const UNSPECIFIED_V4: Self = Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0]);
    /// `::`.
    pub const UNSPECIFIED_V6: Self = Self([0; 16]);

    /// From the four bytes of an IPv4 header field.
    #[inline]
    pub const fn from_v4_bytes(b: [u8; 4]) -> Self {
        Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, b[0], b[1], b[2], b[3]])
    }

    /// From the sixteen bytes of an IPv6 header field.
    #[inline]
    pub const fn from_v6_bytes(b: [u8; 16]) -> Self {
        Self(b)
    }

    /// The unspecified address of a family.
    pub const fn unspecified(family: Family) -> Self {
        match family {
            Family::V4 => Self::UNSPECIFIED_V4,
            Family::V6 => Self::UNSPECIFIED_V6,
        }
    }

    /// Whether this is an IPv4 address.
    #[inline]
    pub fn is_v4(&self) -> bool {
        self.0[..12] == V4_HEAD
    }

    /// The address's family.
    #[inline]
    pub fn family(&self) -> Family {
        if self.is_v4() { Family::V4 } else { Family::V6 }
    }

    /// The bytes as they stand in a header: 4 for IPv4, 16 for IPv6.
    #[inline]
    pub fn wire(&self) -> &[u8] {
        if self.is_v4() { &self.0[12..] } else { &self.0 }
    }

    /// The last four bytes: the whole of an IPv4 address.
    #[inline]
    pub fn v4_bytes(&self) -> [u8; 4] {
        [self.0[12], self.0[13], self.0[14], self.0[15]]
    }

    /// The IPv4 address as a number in host order. Meaningful only for IPv4.
    #[inline]
    pub fn v4_u32(&self) -> u32 {
        u32::from_be_bytes(self.v4_bytes())
    }

    /// All sixteen bytes.
    #[inline]
    pub const fn octets(&self) -> [u8; 16] {
        self.0
    }

    /// The sixteen bytes as a number in host order.
    #[inline]
    pub const fn bits(&self) -> u128 {
        u128::from_be_bytes(self.0)
    }

    /// From the number that [`Addr::bits`] gives.
    #[inline]
    pub const fn from_bits(bits: u128) -> Self {
        Self(bits.to_be_bytes())
    }

    /// As the standard library's type.
    pub fn to_ip(self) -> IpAddr {
        if self.is_v4() {
            IpAddr::V4(Ipv4Addr::from(self.v4_bytes()))
        } else {
            IpAddr::V6(Ipv6Addr::from(self.0))
        }
    }

    /// `0.0.0.0` or `::`.
    pub fn is_unspecified(&self) -> bool {
        *self == Self::UNSPECIFIED_V4 || *self == Self::UNSPECIFIED_V6
    }

    /// Whether it is an IPv4 address that isn't out of `0.0.0.0/8`, `127.0.0.0/8`, a group's or beyond:
    /// one that any host may have.
    #[inline]
    pub fn is_v4_host(&self) -> bool {
        self.is_v4() && matches!(self.0[12], 1..=126 | 128..=223)
    }

    /// `224.0.0.0/4` or `ff00::/8`.
    #[inline]
    pub fn is_multicast(&self) -> bool {
        if self.is_v4() { self.0[12] & 0xf0 == 0xe0 } else { self.0[0] == 0xff }
    }

    /// `127.0.0.0/8` or `::1`.
    #[inline]
    pub fn is_loopback(&self) -> bool {
        if self.is_v4() { self.0[12] == 127 } else { self.bits() == 1 }
    }

    /// `255.255.255.255`.
    #[inline]
    pub fn is_limited_broadcast(&self) -> bool {
        self.is_v4() && self.v4_u32() == u32::MAX
    }

    /// `fe80::/10`; `false` for IPv4, whose link-local range is routed like any other.
    #[inline]
    pub fn is_v6_link_local(&self) -> bool {
        self.0[0] == 0xfe && self.0[1] & 0xc0 == 0x80
    }
}

impl From<Ipv4Addr> for Addr {
    fn from(a: Ipv4Addr) -> Self {
        Self::from_v4_bytes(a.octets())
    }
}

impl From<Ipv6Addr> for Addr {
    fn from(a: Ipv6Addr) -> Self {
        Self(a.octets())
    }
}

impl From<IpAddr> for Addr {
    fn from(a: IpAddr) -> Self {
        match a {
            IpAddr::V4(a) => a.into(),
            IpAddr::V6(a) => a.into(),
        }
    }
}

impl From<Addr> for IpAddr {
    fn from(a: Addr) -> Self {
        a.to_ip()
    }
}

impl FromStr for Addr {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(text.parse::<IpAddr>()?.into())
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // inet_ntop writes IPv4-compatible addresses (RFC 4291 section 2.5.5.1) with dots.
        match self.bits() {
            bits if bits >> 32 == 0 && bits >> 16 != 0 => {
                let [.., a, b, c, d] = bits.to_be_bytes();
                f.pad(&format!("::{a}.{b}.{c}.{d}"))
            }
            _ => self.to_ip().fmt(f),
        }
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An address with a prefix length, as in `192.168.0.1/24`. The host bits are kept, so that it
/// serves as an interface's address; [`Prefix::network`] clears them.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    addr: Addr,
    len: u8,
}

impl Prefix {
    /// `len` counts bits of the family's own address length; `None` if it is too long.
    pub fn new(addr: Addr, len: u8) -> Option<Self> {
        (len <= addr.family().bits()).then_some(Self { addr, len })
    }

    /// The prefix that holds one address alone.
    pub fn host(addr: Addr) -> Self {
        Self { addr, len: addr.family().bits() }
    }

    /// The address, host bits included.
    pub fn addr(&self) -> Addr {
        self.addr
    }

    /// The prefix length in the family's own bits.
    pub fn len(&self) -> u8 {
        self.len
    }

    /// Whether the prefix holds every address of its family.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The mask over all 128 bits (an IPv4 prefix's mask covers the mapped head too).
    pub fn mask(&self) -> u128 {
        let host_bits = u32::from(self.addr.family().bits() - self.len);
        if host_bits == 128 { 0 } else { u128::MAX << host_bits }
    }

    /// The same prefix with the host bits cleared.
    pub fn network(&self) -> Self {
        Self { addr: Addr::from_bits(self.addr.bits() & self.mask()), len: self.len }
    }

    /// Whether `addr` is of the same family and inside the prefix.
    #[inline]
    pub fn contains(&self, addr: Addr) -> bool {
        self.addr.is_v4() == addr.is_v4() && (self.addr.bits() ^ addr.bits()) & self.mask() == 0
    }

    /// The directed broadcast address: IPv4 prefixes up to /30 have one (RFC 3021 takes it from
    /// a /31).
    pub fn broadcast(&self) -> Option<Addr> {
        (self.addr.is_v4() && self.len <= 30)
            .then(|| Addr::from_bits(self.addr.bits() | !self.mask()))
    }
}

/// Why a prefix could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// The part before the slash is no address.
    #[error("expected an IPv4 or IPv6 address")]
    Address,
    /// The part after the slash is no number, or longer than the address.
    #[error("expected a prefix length of 0 to {0}")]
    Length(u8),
}

impl FromStr for Prefix {
    type Err = PrefixError;

    /// Reads `addr` or `addr/len`; without a length the prefix holds that address alone.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (addr, len) = match text.split_once('/') {
            Some((addr, len)) => (addr, Some(len)),
            None => (text, None),
        };
        let addr: Addr = addr.parse().map_err(|_| PrefixError::Address)?;
        let bits = addr.family().bits();
        match len {
            None => Ok(Self::host(addr)),
            Some(len) => len
                .parse()
                .ok()
                .and_then(|len| Self::new(addr, len))
                .ok_or(PrefixError::Length(bits)),
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_hold_what_they_should() {
        for (prefix, addr, inside) in [
            ("192.168.0.1/24", "192.168.0.200", true),
            ("192.168.0.1/24", "192.168.1.0", false),
            ("0.0.0.0/0", "8.8.8.8", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "8.8.8.8", false),
            ("::/0", "2001:db8::1", true),
            ("fe80::/10", "febf::1", true),
            ("fe80::/10", "fec0::1", false),
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
        ] {
            let p: Prefix = prefix.parse().unwrap();
            assert_eq!(p.contains(addr.parse().unwrap()), inside, "{prefix} {addr}");
        }
        assert_eq!("10.3.7.1/16".parse::<Prefix>().unwrap().network().to_string(), "10.3.0.0/16");
        assert_eq!(
            "10.3.7.1/16".parse::<Prefix>().unwrap().broadcast().unwrap().to_string(),
            "10.3.255.255"
        );
        assert_eq!("1.2.3.4/33".parse::<Prefix>(), Err(PrefixError::Length(32)));
        assert_eq!("1.2.3/8".parse::<Prefix>(), Err(PrefixError::Address));
    }
}
