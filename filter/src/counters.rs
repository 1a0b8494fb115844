//! Packets and bytes per rule and chain policy.

/// Packets and bytes.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes of IP, headers included.
    pub bytes: u64,
}

impl Count {
    /// One more packet of `bytes`.
    #[inline]
    pub fn bump(&mut self, bytes: u32) {
        self.packets = self.packets.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add(u64::from(bytes));
    }
}

/// The counters of one ruleset: one per rule and one per built-in chain's policy. A rule keeps its
/// place in them when others come and go around it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters(pub(crate) Vec<Count>);

impl Counters {
    pub(crate) fn zero(len: usize) -> Self {
        Self(vec![Count::default(); len])
    }

    #[inline]
    pub(crate) fn bump(&mut self, index: usize, bytes: u32) {
        if let Some(count) = self.0.get_mut(index) {
            count.bump(bytes);
        }
    }

    /// Makes room for `len` places.
    pub(crate) fn resize(&mut self, len: usize) {
        self.0.resize(len, Count::default());
    }

    /// Changes one place; `seen` is what whoever wants zero has been shown.
    pub(crate) fn adjust(&mut self, slot: usize, adjust: Adjust, seen: Count) {
        let Some(count) = self.0.get_mut(slot) else { return };
        *count = match adjust {
            Adjust::Set(count) => count,
            Adjust::Zero => Count {
                packets: count.packets.wrapping_sub(seen.packets),
                bytes: count.bytes.wrapping_sub(seen.bytes),
            },
        };
    }

    /// Counts packets that would have walked as the one did that left this trail.
    pub fn count_trail(&mut self, counted: &[u32], packets: u64, bytes: u64) {
        for &index in counted {
            if let Some(count) = self.0.get_mut(index as usize) {
                count.packets = count.packets.wrapping_add(packets);
                count.bytes = count.bytes.wrapping_add(bytes);
            }
        }
    }

    pub(crate) fn get(&self, index: usize) -> Count {
        self.0.get(index).copied().unwrap_or_default()
    }

    /// Adds another worker's counters of the same ruleset.
    pub fn absorb(&mut self, other: &Self) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), Count::default());
        }
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            mine.packets = mine.packets.wrapping_add(theirs.packets);
            mine.bytes = mine.bytes.wrapping_add(theirs.bytes);
        }
    }
}

/// What becomes of one place when rules change.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Adjust {
    /// It starts from this.
    Set(Count),
    /// What was seen of it is taken away. What came in since stays.
    Zero,
}

/// Which places there are in the counters, and which of them are free.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places {
    len: usize,
    /// The lowest comes last.
    free: Vec<usize>,
}

impl Places {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }
}

/// Gives out places in the counters.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    places: Places,
    adjusted: Vec<(usize, Adjust)>,
}

impl Slots {
    /// Of these places some more have become free.
    pub fn with(mut places: Places, freed: impl Iterator<Item = usize>) -> Self {
        let before = places.free.len();
        places.free.extend(freed);
        if places.free.len() > before {
            places.free.sort_unstable_by(|a, b| b.cmp(a));
        }
        Self { places, adjusted: Vec::new() }
    }

    /// A free place that starts from `count`.
    pub fn take(&mut self, count: Count) -> usize {
        let slot = self.places.free.pop().unwrap_or_else(|| {
            self.places.len += 1;
            self.places.len - 1
        });
        self.adjust(slot, Adjust::Set(count));
        slot
    }

    pub fn adjust(&mut self, slot: usize, adjust: Adjust) {
        self.adjusted.push((slot, adjust));
    }

    /// The places that there are now, and what becomes of some.
    pub fn done(self) -> (Places, Vec<(usize, Adjust)>) {
        let Self { mut places, adjusted } = self;
        let at_end = |(n, slot): &(usize, &usize)| **slot + n + 1 == places.len;
        let unused = places.free.iter().enumerate().take_while(at_end).count();
        places.free.drain(..unused);
        places.len -= unused;
        (places, adjusted)
    }
}
