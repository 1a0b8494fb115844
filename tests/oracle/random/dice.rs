//! Random choices that are the same on every machine.

/// A generator of random numbers (SplitMix64).
pub struct Dice(u64);

impl Dice {
    /// One that draws what `seed` says.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5151_7ed6)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// A number from `low` to `high`, both included.
    pub fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True in so many cases of a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of these.
    pub fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize].clone()
    }

    /// Some of these in their order, at least one.
    pub fn some(&mut self, from: &[&str]) -> String {
        let must = self.below(from.len() as u64) as usize;
        let kept: Vec<&str> = from
            .iter()
            .enumerate()
            .filter(|(at, _)| *at == must || self.chance(30))
            .map(|(_, word)| *word)
            .collect();
        kept.join(",")
    }

    /// `! ` in some cases.
    pub fn not(&mut self) -> &'static str {
        if self.chance(20) { "! " } else { "" }
    }
}
