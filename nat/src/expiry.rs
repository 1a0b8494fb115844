//! The timer wheel: which connections to look at, and when.
//!
//! A packet that prolongs its connection only writes the deadline. The wheel holds each connection
//! once, at a time no later than its deadline; when that comes, the connection is looked at and
//! either ends or is put at its deadline again. Only a deadline that moves *forward* (a connection
//! that closes) has to be put anew at once.
//!
//! Six levels of 64 buckets: level 0's buckets are a tick apart, each next level's 64 times as
//! far. An entry fires when its bucket begins, so entries of higher levels fire early and are put
//! again, lower.

use tidegate_packet::Instant;

use crate::pages::{Pages, page_of};

/// Nothing: end of a list.
const NONE: u32 = u32::MAX;
/// A tick is 2^26 ns, about 67 ms.
const TICK_SHIFT: u32 = 26;
const LEVELS: usize = 6;
const BUCKETS: usize = 64;

#[derive(Copy, Clone, Debug)]
struct Link {
    next: u32,
    prev: u32,
    /// Which bucket it is in, `NONE` if in none.
    bucket: u32,
}

const UNLINKED: Link = Link { next: NONE, prev: NONE, bucket: NONE };

/// The wheel. Entries are slot numbers.
#[derive(Debug)]
pub(crate) struct Wheel {
    /// The tick up to which everything has fired.
    now: u64,
    heads: [[u32; BUCKETS]; LEVELS],
    /// One bit a bucket: there are entries.
    occupied: [u64; LEVELS],
    links: Pages<Link>,
}

/// The first tick that isn't before `at`.
fn tick_after(at: Instant) -> u64 {
    at.as_nanos().div_ceil(1 << TICK_SHIFT)
}

impl Wheel {
    pub(crate) fn new() -> Self {
        Self {
            now: 0,
            heads: [[NONE; BUCKETS]; LEVELS],
            occupied: [0; LEVELS],
            links: Pages::new(),
        }
    }

    /// Puts an entry so that it fires at `deadline` or somewhat earlier (later by less than a
    /// tick). An entry that is in already is moved.
    pub(crate) fn arm(&mut self, slot: u32, deadline: Instant) {
        self.disarm(slot);
        let tick = tick_after(deadline).max(self.now + 1);
        let ahead = tick - self.now;
        let level = (ahead.ilog2() as usize / 6).min(LEVELS - 1);
        let shift = 6 * level as u32;
        // Beyond the last level: as far as it reaches.
        let place = (tick >> shift)
            .min((self.now >> shift) + BUCKETS as u64 - u64::from(level == LEVELS - 1));
        let index = (place % BUCKETS as u64) as usize;
        let head = self.heads[level][index];
        if self.links.get(slot).is_none() {
            self.links.make(page_of(slot), |_| UNLINKED);
        }
        if let Some(link) = self.links.get_mut(slot) {
            *link = Link { next: head, prev: NONE, bucket: (level * BUCKETS + index) as u32 };
        }
        if let Some(behind) = self.links.get_mut(head) {
            behind.prev = slot;
        }
        self.heads[level][index] = slot;
        self.occupied[level] |= 1 << index;
    }

    /// Takes an entry out, if it is in.
    pub(crate) fn disarm(&mut self, slot: u32) {
        let Some(link) = self.links.get_mut(slot) else { return };
        let Link { next, prev, bucket } = std::mem::replace(link, UNLINKED);
        if bucket == NONE {
            return;
        }
        let (level, index) = (bucket as usize / BUCKETS, bucket as usize % BUCKETS);
        if let Some(behind) = self.links.get_mut(next) {
            behind.prev = prev;
        }
        if let Some(before) = self.links.get_mut(prev) {
            before.next = next;
        } else {
            self.heads[level][index] = next;
            if next == NONE {
                self.occupied[level] &= !(1 << index);
            }
        }
    }

    /// Forgets a page of entries none of which is in.
    pub(crate) fn release(&mut self, page: usize) {
        self.links.release(page);
    }

    /// The next tick at which a bucket begins that holds something.
    fn next_tick(&self) -> Option<u64> {
        (0..LEVELS)
            .filter(|&l| self.occupied[l] != 0)
            .map(|l| {
                let shift = 6 * l as u32;
                let here = self.now >> shift;
                // Buckets in the order in which they come, beginning with the next one.
                let ahead = self.occupied[l].rotate_right(((here + 1) % 64) as u32);
                (here + 1 + u64::from(ahead.trailing_zeros())) << shift
            })
            .min()
    }

    /// When [`Wheel::pop`] will have something to say, at the earliest.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.next_tick().map(|tick| Instant::from_nanos(tick.saturating_mul(1 << TICK_SHIFT)))
    }

    /// Takes out an entry that fires at or before `now`. The caller ends it or arms it again.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<u32> {
        let target = now.as_nanos() >> TICK_SHIFT;
        loop {
            // Whatever stands in a bucket that begins at this very tick fires now.
            for level in 0..LEVELS {
                let shift = 6 * level as u32;
                if self.now & ((1 << shift) - 1) != 0 {
                    break;
                }
                let index = ((self.now >> shift) % BUCKETS as u64) as usize;
                let slot = self.heads[level][index];
                if slot != NONE {
                    self.disarm(slot);
                    return Some(slot);
                }
            }
            match self.next_tick() {
                Some(tick) if tick <= target => self.now = tick,
                _ => {
                    self.now = self.now.max(target);
                    return None;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    use super::*;

    const TICK: u64 = 1 << TICK_SHIFT;

    fn settings() -> ProptestConfig {
        let rng_seed = RngSeed::Fixed(3);
        ProptestConfig { rng_seed, failure_persistence: None, ..ProptestConfig::default() }
    }

    proptest! {
        #![proptest_config(settings())]

        /// Everything is seen within a tick of its deadline, and nothing is lost, whatever the
        /// steps in which time goes on.
        #[test]
        fn nothing_late_nothing_lost(
            steps in proptest::collection::vec(
                (0u32..20, 0u32..44, any::<u64>(), 0u32..44, any::<bool>()),
                1..150,
            ),
        ) {
            let mut wheel = Wheel::new();
            let mut model: BTreeMap<u32, Instant> = BTreeMap::new();
            let mut now = Instant::ZERO;
            for (slot, far, bits, step, disarm) in steps {
                if disarm {
                    wheel.disarm(slot);
                    model.remove(&slot);
                } else {
                    let deadline = Instant::from_nanos(now.as_nanos() + (bits >> (63 - far)));
                    wheel.arm(slot, deadline);
                    model.insert(slot, deadline);
                }
                let earliest = model.values().min();
                prop_assert!(wheel.next() <= earliest.map(|e| *e + std::time::Duration::from_nanos(TICK)));
                now = Instant::from_nanos(now.as_nanos() + (bits.rotate_left(20) >> (63 - step)));
                while let Some(slot) = wheel.pop(now) {
                    let deadline = model[&slot];
                    if deadline <= now {
                        model.remove(&slot);
                    } else {
                        wheel.arm(slot, deadline);
                    }
                }
                for deadline in model.values() {
                    prop_assert!(deadline.as_nanos() + TICK > now.as_nanos());
                }
                prop_assert_eq!(wheel.next().is_none(), model.is_empty());
            }
        }
    }
}
