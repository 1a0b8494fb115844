//! A hash table that grows and shrinks a little at a time (extendible hashing; Fagin,
//! Nievergelt, Pippenger and Strong, 1979).
//!
//! Entries are in segments, hash tables of at most [`MOST`] entries each. A directory says by some
//! bits of the hash which segment an entry is in. A segment that is full is split by the next bit;
//! two halves that have become nearly empty are joined. So no call moves more than a segment's
//! entries, however many there are in all; the directory, four bytes a segment, is all that
//! doubles.
//!
//! As in hashbrown, the caller knows the hashes: entries are no more than numbers here. The upper
//! half of a hash is all that counts, so an entry can have it beside its number and needn't be hashed
//! anew when it moves.

use hashbrown::HashTable;

/// Entries of a segment. hashbrown keeps them in 512 places.
const MOST: usize = 448;
/// Two halves that have no more than this together become one.
const JOIN: usize = MOST / 4;
/// Where the bits for the directory begin: hashbrown uses the lowest and the highest seven.
const SHIFT: u32 = 32;
/// No more bits than this for the directory: 2^16 segments hold twenty million entries and become
/// longer when there are more.
const MOST_BITS: u32 = 16;

/// A hash for hashbrown made of the upper half: 16 bits for the directory, and above them seven that
/// it compares and nine for the place among 512, which it takes from below.
#[inline]
fn spread(hash: u64) -> u64 {
    hash >> SHIFT << SHIFT | hash >> 48
}

#[derive(Debug)]
struct Segment<T> {
    table: HashTable<T>,
    /// By how many bits the hashes of its entries are alike.
    bits: u32,
}

#[derive(Debug)]
pub(crate) struct Index<T> {
    segments: Vec<Segment<T>>,
    /// Segments that have become nothing when they were joined to others.
    spare: Vec<u32>,
    /// 2^`bits` numbers of segments.
    directory: Vec<u32>,
    bits: u32,
    /// Segments that use all bits.
    deepest: usize,
    len: usize,
}

impl<T> Index<T> {
    pub(crate) fn new() -> Self {
        Self {
            segments: vec![Segment { table: HashTable::new(), bits: 0 }],
            spare: Vec::new(),
            directory: vec![0],
            bits: 0,
            deepest: 1,
            len: 0,
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[inline]
    fn place(&self, hash: u64) -> usize {
        (hash >> SHIFT) as usize & (self.directory.len() - 1)
    }

    #[inline]
    fn segment(&self, hash: u64) -> usize {
        self.directory[self.place(hash)] as usize
    }

    #[inline]
    pub(crate) fn find(&self, hash: u64, eq: impl FnMut(&T) -> bool) -> Option<&T> {
        self.segments[self.segment(hash)].table.find(spread(hash), eq)
    }

    pub(crate) fn find_mut(&mut self, hash: u64, eq: impl FnMut(&T) -> bool) -> Option<&mut T> {
        let segment = self.segment(hash);
        self.segments[segment].table.find_mut(spread(hash), eq)
    }

    /// Adds an entry that isn't there. `hasher` is asked for the hashes of those that have to move,
    /// and has to know this one's as well.
    pub(crate) fn insert(&mut self, hash: u64, entry: T, hasher: impl Fn(&T) -> u64) {
        let mut segment = self.segment(hash);
        if self.segments[segment].table.len() >= MOST && self.segments[segment].bits < MOST_BITS {
            self.split(hash, &hasher);
            segment = self.segment(hash);
        }
        let table = &mut self.segments[segment].table;
        // A new one is at once as long as it may become: by doubling each entry would move once more.
        // One that is full of what removed entries leave would be doubled, too.
        if table.len() == table.capacity() && table.len() < MOST {
            let old = std::mem::replace(table, HashTable::with_capacity(MOST));
            for entry in old {
                let hash = spread(hasher(&entry));
                table.insert_unique(hash, entry, |entry| spread(hasher(entry)));
            }
        }
        table.insert_unique(spread(hash), entry, |entry| spread(hasher(entry)));
        self.len += 1;
    }

    /// Takes out an entry. `hasher` as for [`Index::insert`]: whatever else is in the table must
    /// have its hash still.
    pub(crate) fn remove(
        &mut self,
        hash: u64,
        eq: impl FnMut(&T) -> bool,
        hasher: impl Fn(&T) -> u64,
    ) -> Option<T> {
        let segment = self.segment(hash);
        let table = &mut self.segments[segment].table;
        let (entry, _) = table.find_entry(spread(hash), eq).ok()?.remove();
        self.len -= 1;
        if table.len() * 8 < table.capacity() {
            table.shrink_to(table.len() * 2, |entry| spread(hasher(entry)));
        }
        if table.len() <= JOIN / 2 {
            while self.join(hash, &hasher) {}
        }
        Some(entry)
    }

    /// Splits the segment of a hash by one bit more.
    fn split(&mut self, hash: u64, hasher: &impl Fn(&T) -> u64) {
        let old = self.segment(hash);
        let bits = self.segments[old].bits;
        if bits == self.bits {
            self.directory.extend_from_within(..);
            self.bits += 1;
            self.deepest = 0;
        }
        let table = std::mem::take(&mut self.segments[old].table);
        let mut halves = [HashTable::with_capacity(MOST), HashTable::with_capacity(MOST)];
        for entry in table {
            let hash = spread(hasher(&entry));
            let upper = hash >> (SHIFT + bits) & 1;
            halves[upper as usize].insert_unique(hash, entry, |entry| spread(hasher(entry)));
        }
        let [lower, upper] = halves;
        self.segments[old] = Segment { table: lower, bits: bits + 1 };
        let upper = Segment { table: upper, bits: bits + 1 };
        let new = match self.spare.pop() {
            Some(new) => {
                self.segments[new as usize] = upper;
                new
            }
            None => {
                self.segments.push(upper);
                (self.segments.len() - 1) as u32
            }
        };
        let first = self.place(hash) & ((1 << bits) - 1) | 1 << bits;
        for place in (first..self.directory.len()).step_by(1 << (bits + 1)) {
            self.directory[place] = new;
        }
        if bits + 1 == self.bits {
            self.deepest += 2;
        }
    }

    /// Joins the segment of a hash to its other half, if both are nearly empty. Whoever joins
    /// further doesn't move more than `JOIN` entries in all: more are too many to be joined.
    fn join(&mut self, hash: u64, hasher: &impl Fn(&T) -> u64) -> bool {
        let here = self.segment(hash);
        let Some(bits) = self.segments[here].bits.checked_sub(1) else { return false };
        let other = self.directory[self.place(hash) ^ 1 << bits];
        let [one, two] = [&self.segments[here], &self.segments[other as usize]];
        if two.bits != bits + 1 || one.table.len() + two.table.len() > JOIN {
            return false;
        }
        let moved = std::mem::take(&mut self.segments[other as usize].table);
        let Segment { table, bits: alike } = &mut self.segments[here];
        for entry in moved {
            table.insert_unique(spread(hasher(&entry)), entry, |entry| spread(hasher(entry)));
        }
        *alike = bits;
        self.spare.push(other);
        let first = self.place(hash) & ((1 << bits) - 1);
        for place in (first..self.directory.len()).step_by(1 << bits) {
            self.directory[place] = here as u32;
        }
        if bits + 1 == self.bits {
            self.deepest -= 2;
            if self.deepest == 0 {
                self.narrow();
            }
        }
        true
    }

    /// Halves the directory as often as no segment needs its last bit.
    fn narrow(&mut self) {
        while self.deepest == 0 && self.bits > 0 {
            self.bits -= 1;
            self.directory.truncate(1 << self.bits);
            let (segments, bits) = (&self.segments, self.bits);
            let deepest = |&&number: &&u32| segments[number as usize].bits == bits;
            self.deepest = self.directory.iter().filter(deepest).count();
        }
        self.directory.shrink_to(2 * self.directory.len());
        if self.bits == 0 {
            // One is left: it becomes the first, and the others are nothing.
            let last = self.directory[0] as usize;
            self.segments.swap(0, last);
            self.segments.truncate(1);
            self.segments.shrink_to_fit();
            (self.spare, self.directory) = (Vec::new(), vec![0]);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// As good as random.
    fn hash(n: &u32) -> u64 {
        let mut h = u64::from(*n).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        h = (h ^ h >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
        h ^ h >> 29
    }

    fn has(index: &Index<u32>, n: u32) -> bool {
        index.find(hash(&n), |&m| m == n).is_some()
    }

    /// Nothing takes long at once: the entries that a call moves are counted.
    #[test]
    fn no_call_moves_many() {
        const N: u32 = 200_000;
        let moved = Cell::new(0usize);
        let counting = |n: &u32| {
            moved.set(moved.get() + 1);
            hash(n)
        };
        let worst = Cell::new(0);
        let mut index = Index::new();
        let step = || {
            worst.set(moved.take().max(worst.get()));
        };
        for n in 0..N {
            index.insert(hash(&n), n, counting);
            step();
        }
        assert!((MOST..=2 * MOST).contains(&worst.get()), "{}", worst.get());
        assert!((0..N).all(|n| has(&index, n)) && !has(&index, N));
        // The directory stays near what is needed.
        assert!(index.directory.len() <= 8 * N as usize / MOST, "{}", index.directory.len());
        worst.set(0);
        for n in 0..N {
            assert_eq!(index.remove(hash(&n), |&m| m == n, counting), Some(n));
            step();
        }
        assert!((1..=2 * MOST).contains(&worst.get()), "{}", worst.get());
        let Index { segments, spare, directory, .. } = &index;
        assert_eq!((segments.len(), spare.len(), directory.len()), (1, 0, 1));
        assert!(segments[0].table.capacity() < 16);
    }

    /// What comes and goes for long leaves nothing behind that would make tables longer.
    #[test]
    fn turnover_makes_nothing_longer() {
        const N: u32 = 20_000;
        let mut index = Index::new();
        (0..N).for_each(|n| index.insert(hash(&n), n, hash));
        for n in N..30 * N {
            let old = n - N;
            assert_eq!(index.remove(hash(&old), |&m| m == old, hash), Some(old));
            index.insert(hash(&n), n, hash);
        }
        assert!(index.segments.iter().all(|s| s.table.capacity() <= MOST));
        assert!((30 * N - N..30 * N).all(|n| has(&index, n)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        /// It holds what a set holds, through growth and shrinking.
        #[test]
        fn as_a_set(steps in proptest::collection::vec((0u32..3000, 0usize..3000, any::<bool>()), 1..12)) {
            let (mut index, mut model) = (Index::new(), BTreeSet::new());
            for (first, count, add) in steps {
                for n in (first..).take(count) {
                    if add && model.insert(n) {
                        index.insert(hash(&n), n, hash);
                    } else if !add {
                        let gone = index.remove(hash(&n), |&m| m == n, hash);
                        prop_assert_eq!(gone.is_some(), model.remove(&n));
                    }
                }
                prop_assert_eq!(index.len(), model.len());
                for n in 0..6000 {
                    prop_assert_eq!(has(&index, n), model.contains(&n));
                }
            }
        }
    }
}
