//! The two tuples of a connection in little room.
//!
//! Both have one protocol and one family. IPv4 addresses stand here; those of IPv6 in the
//! connection's [`Rare`] box, which costs IPv6 an allocation and a further cache line.

use tidegate_packet::{Addr, Plain};

use crate::Tuple;
use crate::conn::{Connection, Direction, Rare, Status};

/// Addresses and ports of both directions, original then reply: source, destination.
#[derive(Copy, Clone, Debug, Default)]
pub(crate) struct Pair {
    /// Zero for IPv6.
    v4: [[u32; 2]; 2],
    ports: [[u16; 2]; 2],
}

impl Connection {
    /// The tuple of a direction, as packets of it look when they arrive.
    #[inline]
    pub fn tuple(&self, direction: Direction) -> Tuple {
        let way = direction.index();
        let [src, dst] = match self.v6() {
            Some(rare) => rare.addrs[way],
            None => self.pair.v4[way].map(|bits| Addr::from_v4_bytes(bits.to_be_bytes())),
        };
        let [sport, dport] = self.pair.ports[way];
        Tuple { src, dst, sport, dport, protocol: self.protocol }
    }

    /// The original direction as the first packet had it.
    #[inline]
    pub fn original(&self) -> Tuple {
        self.tuple(Direction::Original)
    }

    /// What answers look like on the wire.
    #[inline]
    pub fn reply(&self) -> Tuple {
        self.tuple(Direction::Reply)
    }

    /// Gives a direction another tuple, of the same family and protocol.
    pub(crate) fn set_tuple(&mut self, direction: Direction, tuple: &Tuple) {
        let way = direction.index();
        self.pair.ports[way] = [tuple.sport, tuple.dport];
        if self.status.has(Status::V6) {
            self.rare.get_or_insert_default().addrs[way] = [tuple.src, tuple.dst];
        } else {
            self.pair.v4[way] = [tuple.src.v4_u32(), tuple.dst.v4_u32()];
        }
    }

    /// Whether a direction's tuple is this one.
    #[inline]
    pub(crate) fn has_tuple(&self, direction: Direction, tuple: &Tuple) -> bool {
        let way = direction.index();
        self.pair.ports[way] == [tuple.sport, tuple.dport]
            && self.protocol == tuple.protocol
            && self.has_addr(way, 0, tuple.src)
            && self.has_addr(way, 1, tuple.dst)
    }

    /// As [`Connection::has_tuple`] of the tuple of a packet.
    #[inline(always)]
    pub(crate) fn has_plain<const V6: bool>(
        &self,
        direction: Direction,
        plain: &Plain<V6>,
        packet: &[u8],
    ) -> bool {
        let way = direction.index();
        if self.pair.ports[way] != [plain.sport, plain.dport] || self.protocol != plain.protocol {
            return false;
        }
        if V6 {
            return self.v6().is_some_and(|rare| rare.addrs[way] == plain.addrs(packet));
        }
        self.pair.v4[way] == plain.v4 && !self.status.has(Status::V6)
    }

    /// Addresses and ports of a direction of an IPv4 connection.
    #[inline(always)]
    pub(crate) fn v4_ends(&self, direction: Direction) -> ([u32; 2], [u16; 2]) {
        let way = direction.index();
        (self.pair.v4[way], self.pair.ports[way])
    }

    /// Whether its original source is that of `tuple`.
    #[inline]
    pub(crate) fn has_source(&self, tuple: &Tuple) -> bool {
        self.pair.ports[0][0] == tuple.sport
            && self.protocol == tuple.protocol
            && self.has_addr(0, 0, tuple.src)
    }

    #[inline]
    fn has_addr(&self, way: usize, end: usize, addr: Addr) -> bool {
        match self.v6() {
            Some(rare) => rare.addrs[way][end] == addr,
            None => self.pair.v4[way][end] == addr.v4_u32() && addr.is_v4(),
        }
    }

    /// What holds the addresses, for IPv6.
    #[inline]
    fn v6(&self) -> Option<&Rare> {
        if self.status.has(Status::V6) { self.rare.as_deref() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conn::Proto;

    fn tuple(src: &str, dst: &str, sport: u16, dport: u16) -> Tuple {
        let [src, dst] = [src, dst].map(|addr| addr.parse().unwrap());
        Tuple { src, dst, sport, dport, protocol: 17 }
    }

    /// What goes in comes out, in both families, and nothing else is taken for it.
    #[test]
    fn tuples_come_back() {
        let rows = [
            (tuple("10.0.0.1", "192.0.2.1", 1, 2), tuple("192.0.2.1", "203.0.113.1", 2, 3)),
            (tuple("0.0.0.0", "255.255.255.255", 0, 65535), tuple("0.0.0.0", "0.0.0.0", 0, 0)),
            (tuple("2001:db8::1", "::", 1, 2), tuple("::a00:1", "2001:db8::2", 2, 1)),
        ];
        for (original, reply) in rows {
            for acct in [false, true] {
                let mut conn = Connection::new(original, reply, Proto::Plain, acct);
                assert_eq!((conn.original(), conn.reply()), (original, reply));
                assert_eq!(conn.status(), Status::default());
                assert_eq!(conn.counted().is_some(), acct);
                let others = [
                    Tuple { sport: original.sport ^ 1, ..original },
                    Tuple { dport: original.dport ^ 1, ..original },
                    Tuple { protocol: 6, ..original },
                    Tuple { src: "10.0.0.9".parse().unwrap(), ..original },
                    // The same last bits in the other family.
                    Tuple { src: "::a00:1".parse().unwrap(), ..original },
                    Tuple { dst: "2001:db8::9".parse().unwrap(), ..original },
                ];
                assert!(conn.has_tuple(Direction::Original, &original));
                assert!(!others.iter().any(|t| conn.has_tuple(Direction::Original, t)));
                assert_eq!(conn.has_tuple(Direction::Reply, &original), original == reply);
                assert!(conn.has_source(&original) && !conn.has_source(&others[0]));
                assert!(!conn.has_source(&others[3]));
                conn.set_tuple(Direction::Reply, &others[0]);
                assert_eq!((conn.original(), conn.reply()), (original, others[0]));
            }
        }
    }
}
