//! Keyed hashing of tuples (SipHash-1-3), so that nobody outside can aim at one chain.

use tidegate_packet::Addr;

use crate::Tuple;
use crate::mapping::Endpoint;

/// The table's secret.
#[derive(Copy, Clone, Debug)]
pub(crate) struct HashKey([u64; 4]);

impl HashKey {
    pub(crate) fn new(key: [u64; 2]) -> Self {
        // The initial state of SipHash: the key under four constants.
        Self([
            key[0] ^ 0x736f_6d65_7073_6575,
            key[1] ^ 0x646f_7261_6e64_6f6d,
            key[0] ^ 0x6c79_6765_6e65_7261,
            key[1] ^ 0x7465_6462_7974_6573,
        ])
    }

    /// Of a whole tuple.
    #[inline]
    pub(crate) fn tuple(&self, t: &Tuple) -> u64 {
        if t.src.is_v4() {
            self.v4([t.src.v4_u32(), t.dst.v4_u32()], [t.sport, t.dport], t.protocol)
        } else {
            let (s, d) = (halves(t.src), halves(t.dst));
            self.message(&[s[0], s[1], d[0], d[1]], 37, ports(t.sport, t.dport, t.protocol))
        }
    }

    /// Of a whole tuple of IPv4.
    #[inline(always)]
    pub(crate) fn v4(&self, addrs: [u32; 2], [sport, dport]: [u16; 2], protocol: u8) -> u64 {
        let addrs = u64::from(addrs[0]) << 32 | u64::from(addrs[1]);
        self.message(&[addrs], 13, ports(sport, dport, protocol))
    }

    /// Of a whole tuple in a zone.
    #[inline]
    pub(crate) fn zoned(&self, t: &Tuple, zone: u16) -> u64 {
        in_zone(self.tuple(t), zone)
    }

    /// Of a number.
    pub(crate) fn number(&self, n: u64) -> u64 {
        self.words(&[n])
    }

    /// Of some numbers.
    pub(crate) fn numbers(&self, numbers: &[u64]) -> u64 {
        self.words(numbers)
    }

    /// Of a tuple's source alone.
    #[inline]
    pub(crate) fn source(&self, t: &Tuple) -> u64 {
        let port = u64::from(t.sport) << 8 | u64::from(t.protocol);
        if t.src.is_v4() {
            self.message(&[], 7, u64::from(t.src.v4_u32()) << 24 | port)
        } else {
            self.message(&halves(t.src), 19, port)
        }
    }

    /// Of one end of a flow.
    #[inline]
    pub(crate) fn endpoint(&self, e: &Endpoint) -> u64 {
        let a = halves(e.addr);
        self.words(&[a[0], a[1], u64::from(e.port) << 16 | u64::from(e.protocol)])
    }

    /// Of a mapping's number and an address.
    pub(crate) fn peer(&self, mapping: u32, peer: Addr) -> u64 {
        let a = halves(peer);
        self.words(&[a[0], a[1], u64::from(mapping)])
    }

    fn words(&self, words: &[u64]) -> u64 {
        self.message(words, words.len() as u64 * 8, 0)
    }

    /// Of so many bytes: whole words, and what is left in the lower seven bytes of `rest`.
    #[inline(always)]
    fn message(&self, words: &[u64], len: u64, rest: u64) -> u64 {
        let mut v = self.0;
        for &w in words {
            v[3] ^= w;
            round(&mut v);
            v[0] ^= w;
        }
        let end = len << 56 | rest;
        v[3] ^= end;
        round(&mut v);
        v[0] ^= end;
        v[2] ^= 0xff;
        for _ in 0..3 {
            round(&mut v);
        }
        v[0] ^ v[1] ^ v[2] ^ v[3]
    }
}

/// The hash of a tuple in a zone. Whoever sends packets doesn't choose the zone, so it needn't go
/// through the key.
#[inline]
pub(crate) fn in_zone(hash: u64, zone: u16) -> u64 {
    hash ^ u64::from(zone).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// What a tuple is besides its addresses: five bytes.
#[inline]
fn ports(sport: u16, dport: u16, protocol: u8) -> u64 {
    u64::from(sport) << 24 | u64::from(dport) << 8 | u64::from(protocol)
}

#[inline]
fn halves(a: Addr) -> [u64; 2] {
    let bits = a.bits();
    [(bits >> 64) as u64, bits as u64]
}

#[inline(always)]
fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}
