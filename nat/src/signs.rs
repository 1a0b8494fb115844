//! Signs to connections that live elsewhere than at home.
//!
//! Each direction of a flow has a home shard ([`crate::home`]), and whoever receives its frames can
//! tell which. Where translation has changed ports, or a helper has announced the connection, the
//! connection lives in another shard; then there is a *sign* in the home of that direction for as long
//! as the connection is in its table. So a packet of an established flow finds its worker without
//! asking anybody who has to be asked by all.
//!
//! A table that works leaves signs to be put up or taken down in what all tables share; whoever has
//! the shards does it ([`Conntrack::take_signs`]).

use tidegate_packet::protocol;

use crate::conn::{Connection, Direction};
use crate::index::Index;
use crate::shared::{Shared, home};
use crate::table::Conntrack;
use crate::{Tuple, shared};

/// A sign to be put up or taken down.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Sign {
    home: u8,
    entry: u64,
    up: bool,
}

impl Sign {
    /// The shard where it belongs.
    pub fn home(&self) -> usize {
        usize::from(self.home)
    }
}

/// The signs in a shard. An entry is 56 bits of the flow's keyed hash and the number of the shard that
/// the flow lives in. Of two flows with the same 56 bits one may be sent to the wrong shard, which
/// costs it time.
#[derive(Debug)]
pub struct Signs {
    index: Index<u64>,
    len: usize,
}

const HASH: u64 = !0xff;

/// The low bits of an entry say nothing about its flow.
fn place(entry: u64) -> u64 {
    (entry & HASH).rotate_right(20)
}

impl Default for Signs {
    fn default() -> Self {
        Self { index: Index::new(), len: 0 }
    }
}

impl Signs {
    /// Puts a sign up or takes it down.
    pub fn follow(&mut self, sign: &Sign) {
        let entry = sign.entry;
        if sign.up {
            self.len += 1;
            self.index.insert(place(entry), entry, |e| place(*e));
        } else if self.index.find(place(entry), |e| *e == entry).is_some() {
            self.len -= 1;
            self.index.remove(place(entry), |e| *e == entry, |e| place(*e));
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Shared {
    /// A connection has entered the table of a shard or leaves it.
    pub(crate) fn sign(&mut self, conn: &Connection, hashes: [u64; 2], shard: u8, up: bool) {
        // What has a zone, or no ports, is never steered by its flow.
        if conn.zones() != [0; 2] || !matches!(conn.protocol, protocol::TCP | protocol::UDP) {
            return;
        }
        for way in [Direction::Original, Direction::Reply] {
            let at = home(self.steering, self.shards.into(), &conn.tuple(way)) as u8;
            if at != shard {
                let entry = hashes[way.index()] & HASH | u64::from(shard);
                self.signs.push(Sign { home: at, entry, up });
            }
        }
    }
}

impl Conntrack {
    /// The signs to be put up and taken down since the last call, in this order.
    #[inline]
    pub fn take_signs(&mut self) -> Vec<Sign> {
        std::mem::take(&mut self.shared.signs)
    }

    /// Where a sign says that a flow lives.
    #[inline]
    pub fn signed(&self, signs: &Signs, flow: &Tuple) -> Option<u8> {
        if signs.is_empty() {
            return None;
        }
        let hash = self.key.zoned(flow, 0) & HASH;
        signs.index.find(place(hash), |e| *e & HASH == hash).map(|e| *e as u8)
    }
}

const _: () = assert!(shared::SHARDS_MAX <= 256);
