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

    /// Takes all counts out and leaves zeros, so that a worker can hand over what it gathered.
    pub fn take(&mut self) -> Self {
        let zero = Self::zero(self.0.len());
        std::mem::replace(self, zero)
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

/// Gives out places in the counters.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    taken: Vec<bool>,
    /// The first place that may be free.
    next: usize,
    adjusted: Vec<(usize, Adjust)>,
}

impl Slots {
    /// These are in use.
    pub fn with(taken: impl Iterator<Item = usize>) -> Self {
        let mut slots = Self::default();
        for slot in taken {
            if slots.taken.len() <= slot {
                slots.taken.resize(slot + 1, false);
            }
            slots.taken[slot] = true;
        }
        slots
    }

    /// A free place that starts from `count`.
    pub fn take(&mut self, count: Count) -> usize {
        while self.taken.get(self.next) == Some(&true) {
            self.next += 1;
        }
        let slot = self.next;
        self.next += 1;
        match self.taken.get_mut(slot) {
            Some(taken) => *taken = true,
            None => self.taken.push(true),
        }
        self.adjust(slot, Adjust::Set(count));
        slot
    }

    pub fn adjust(&mut self, slot: usize, adjust: Adjust) {
        self.adjusted.push((slot, adjust));
    }

    /// How many places there are, and what becomes of some.
    pub fn done(self) -> (usize, Vec<(usize, Adjust)>) {
        (self.taken.len(), self.adjusted)
    }
}
