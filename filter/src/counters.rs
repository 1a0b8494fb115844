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

/// The counters of one ruleset: one per rule and one per built-in chain's policy. Every worker has
/// its own; sums are made when somebody asks.
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
