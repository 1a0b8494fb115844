//! How long the prefixes are around a value.
//!
//! Of thousands of networks only few hold a given address. All networks cut the addresses into
//! stretches inside of which every address lies in the same networks; one search among these tells
//! how long those are.

use super::Mask;

/// Fewer lengths than these are as quickly all tried.
const MANY: usize = 3;

/// A set of lengths, of which zero is always one.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Length(u128);

impl Length {
    pub const ALL: Self = Self(u128::MAX);

    fn only(len: u8) -> Self {
        Self(1_u128.checked_shl(u32::from(len).wrapping_sub(1)).unwrap_or(0))
    }

    #[inline]
    pub fn has(self, len: u8) -> bool {
        len == 0 || self.0 & Self::only(len).0 != 0
    }
}

/// The stretches, each from its first value to before the next one's.
#[derive(Clone, Debug, Default)]
pub(super) struct Lengths(Vec<(u128, Length)>);

impl Lengths {
    /// For each thing that masks look at by lengths: whether there are so many that it pays.
    pub fn needed(masks: &[Mask]) -> [Option<Self>; 4] {
        std::array::from_fn(|n| {
            let mut lens: Vec<u8> = masks.iter().map(|mask| mask.looked_up()[n]).collect();
            lens.sort_unstable();
            lens.dedup();
            (lens.iter().filter(|len| **len > 0).count() >= MANY).then(Self::default)
        })
    }

    /// Takes in prefixes: their first value and their length.
    pub fn fill(&mut self, mut prefixes: Vec<(u128, u8)>) {
        // A network comes before those inside of it, so these can be kept on a stack.
        prefixes.sort_unstable();
        prefixes.dedup();
        let mut stretches: Vec<(u128, Length)> = vec![(0, Length::default())];
        let mut begin = |at: u128, lens: Length| match stretches.last_mut() {
            Some(last) if last.0 == at => last.1 = lens,
            Some(last) if last.1 == lens => {}
            _ => stretches.push((at, lens)),
        };
        // The last values of the networks that hold the present one, and the lengths outside of each.
        let mut around: Vec<(u128, Length)> = Vec::new();
        let mut lens = Length::default();
        for (first, len) in prefixes {
            while let Some(&(end, outside)) = around.last().filter(|(end, _)| *end < first) {
                around.pop();
                lens = outside;
                begin(end + 1, lens);
            }
            around.push((last_of(first, len), lens));
            lens.0 |= Length::only(len).0;
            begin(first, lens);
        }
        while let Some((end, outside)) = around.pop() {
            if let Some(next) = end.checked_add(1) {
                begin(next, outside);
            }
        }
        self.0 = stretches;
    }

    /// Takes in one more.
    pub fn add(&mut self, value: u128, len: u8) {
        if len == 0 {
            return;
        }
        let first = value & (u128::MAX << (128 - u32::from(len)));
        let last = last_of(first, len);
        let from = self.cut(first);
        let to = last.checked_add(1).map_or(self.0.len(), |next| self.cut(next));
        self.0[from..to].iter_mut().for_each(|(_, lens)| lens.0 |= Length::only(len).0);
    }

    /// Makes a stretch begin at a value, and tells its place.
    fn cut(&mut self, at: u128) -> usize {
        let place = self.0.partition_point(|(first, _)| *first < at);
        if self.0.get(place).is_none_or(|(first, _)| *first != at) {
            let lens = place.checked_sub(1).map_or_else(Length::default, |before| self.0[before].1);
            self.0.insert(place, (at, lens));
        }
        place
    }

    /// The lengths around a value.
    #[inline]
    pub fn around(&self, value: u128) -> Length {
        let next = self.0.partition_point(|(first, _)| *first <= value);
        next.checked_sub(1).map_or_else(Length::default, |at| self.0[at].1)
    }
}

/// The last value that has the first `len` bits of this one.
fn last_of(first: u128, len: u8) -> u128 {
    first | u128::MAX.checked_shr(len.into()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Networks in one byte, so that every value can be tried.
    fn lens_around(prefixes: &[(u8, u8)], value: u8) -> Length {
        let holds = |(first, len): &&(u8, u8)| (first ^ value).leading_zeros() >= u32::from(*len);
        let lens = prefixes.iter().filter(holds);
        Length(lens.fold(0, |sum, (_, len)| sum | Length::only(*len).0))
    }

    #[test]
    fn lengths_are_those_of_the_networks_around_a_value() {
        let all =
            [(0, 1), (128, 1), (0, 8), (255, 8), (16, 4), (16, 6), (20, 8), (240, 4), (20, 8)];
        let wide = |value: u8| u128::from(value) << 120;
        for n in 0..=all.len() {
            let (filled, added) = all.split_at(n);
            let mut lengths = Lengths::default();
            lengths.fill(filled.iter().map(|(first, len)| (wide(*first), *len)).collect());
            added.iter().for_each(|(value, len)| lengths.add(wide(*value), *len));
            for value in 0..=255 {
                let at = (u128::MAX >> 8) | wide(value);
                assert_eq!(lengths.around(at), lens_around(&all, value), "{n} {value}");
                assert_eq!(lengths.around(wide(value)), lens_around(&all, value), "{n} {value}");
            }
        }
        assert!(Length::ALL.has(128) && Length::default().has(0) && !Length::default().has(128));
    }
}
