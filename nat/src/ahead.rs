//! Looking for a burst's connections together.
//!
//! A packet of a flow that is in no cache waits for memory again and again: for a group of the index, for
//! the entry in it, for the two lines of the slot; and the next packet's look-up is too far behind to
//! begin meanwhile. So the look-ups of many packets are made step by step, all first steps, then all
//! second ones, each a loop of a few instructions whose loads don't wait for each other. What is found
//! is a guess that the packet's own look-up checks: until its turn comes, others may have changed the
//! table.

use std::hint::black_box;

use tidegate_packet::Plain;

use crate::known::tuple;
use crate::slots::Located;
use crate::table::Conntrack;

/// With fewer connections the core's own cache holds them: two megabytes with their index.
const WORTHWHILE: usize = 8192;

/// What a packet's connection is looked for by, and where it most likely is.
#[derive(Copy, Clone, Debug)]
pub struct Sought {
    pub(crate) hash: u64,
    /// Entries of the index whose hash looks like this one: most often one, and the right one.
    pub(crate) entries: [Located; 2],
}

impl Sought {
    /// Of no packet.
    pub const NOTHING: Self = Self { hash: 0, entries: [Located::NOWHERE; 2] };
}

impl Conntrack {
    /// Whether there are so many connections that looking ahead is worth its while.
    #[inline]
    pub fn is_large(&self) -> bool {
        self.len() >= WORTHWHILE
    }

    /// What a packet's connection is looked for by.
    #[inline(always)]
    pub fn seek<const V6: bool>(&self, plain: &Plain<V6>, packet: &[u8]) -> Sought {
        let hash = match V6 {
            false => self.key.v4(plain.v4, [plain.sport, plain.dport], plain.protocol),
            true => self.key.tuple(&tuple(*plain, packet)),
        };
        Sought { hash, ..Sought::NOTHING }
    }

    /// Finds where the connections of these packets most likely are, and brings them into the cache.
    pub fn look_ahead(&self, packets: &mut [Sought]) {
        for sought in packets.iter_mut() {
            let mut others = sought.entries.iter_mut();
            self.index.find(sought.hash, |entry| match others.next() {
                Some(place) => {
                    *place = *entry;
                    false
                }
                None => true,
            });
        }
        let mut touched = 0;
        for entry in packets.iter().flat_map(|sought| sought.entries) {
            if let Some(conn) = entry.conn(&self.slots) {
                // Something of each line.
                touched ^= conn.mark ^ conn.same_source[0];
            }
        }
        black_box(touched);
    }
}

#[cfg(test)]
mod tests {
    use tidegate_packet::builder::{self, Ip};
    use tidegate_packet::{Instant, Parsed, protocol};

    use super::*;
    use crate::settings::Settings;

    fn packet<const V6: bool>(port: u16) -> Vec<u8> {
        let ends = if V6 { ["fd00::1", "fd00::2"] } else { ["10.0.0.1", "10.0.0.2"] };
        let [src, dst] = ends.map(|end| end.parse().unwrap());
        builder::udp(Ip::new(src, dst, protocol::UDP), port, 53, b"x")
    }

    /// With and without looking ahead the same is known, and the guesses are worth something.
    fn guesses<const V6: bool>() {
        let now = Instant::from_secs(9);
        let mut table = Conntrack::new(Settings::default(), [1, 2]);
        let packets: Vec<_> = (0..2000).map(packet::<V6>).collect();
        for bytes in &packets[..1900] {
            let parsed = Parsed::parse(bytes).unwrap();
            let mut tracked = table.track(&parsed, bytes, true, now);
            table.confirm(&mut tracked, now).unwrap();
        }
        let plain = |at: usize| Plain::<V6>::read(&packets[at]).unwrap();
        let seek = |at: usize| table.seek(&plain(at), &packets[at]);
        let mut ahead: Vec<Sought> = (0..packets.len()).map(seek).collect();
        for together in ahead.chunks_mut(32) {
            table.look_ahead(together);
        }
        let right = |(at, sought): (usize, &Sought)| {
            let known = table.known(sought, &plain(at), &packets[at], now).ok();
            assert_eq!(known, table.known(&seek(at), &plain(at), &packets[at], now).ok());
            assert_eq!(known.is_some(), at < 1900);
            known.is_some_and(|known| sought.entries[0].slot() == known.id.slot)
        };
        let right = ahead.iter().enumerate().filter(|guess| right(*guess)).count();
        assert!((1700..=1900).contains(&right), "{right}");
        // Others have changed the table in the meantime.
        table.delete_if(|conn| conn.original().sport % 3 == 0);
        for (at, bytes) in packets.iter().enumerate().skip(1900) {
            let parsed = Parsed::parse(bytes).unwrap();
            let mut tracked = table.track(&parsed, bytes, true, now);
            table.confirm(&mut tracked, now).unwrap();
            assert!(table.known(&ahead[at], &plain(at), bytes, now).is_ok());
        }
        for (at, sought) in ahead.iter().enumerate() {
            let known = table.known(sought, &plain(at), &packets[at], now).ok();
            let anew = table.seek(&plain(at), &packets[at]);
            assert_eq!(known, table.known(&anew, &plain(at), &packets[at], now).ok());
            assert_eq!(known.is_some(), at >= 1900 || at % 3 != 0);
        }
    }

    #[test]
    fn guesses_are_only_guesses() {
        guesses::<false>();
        guesses::<true>();
    }
}
