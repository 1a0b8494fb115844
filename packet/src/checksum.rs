//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! A *sum* is an unfolded ones-complement sum of big-endian words; a *checksum* is what stands in
//! a header. A *partial* field (what Linux calls `CHECKSUM_PARTIAL`) holds the folded sum of the
//! pseudo-header, not complemented: the sender's device was to finish it.

use crate::{Addr, Family, be16, put16};

/// How a transport checksum field has to be treated.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// A finished checksum over pseudo-header, header and payload.
    Complete,
    /// The folded pseudo-header sum; ports and payload are not in it.
    Partial,
}

/// Adds the big-endian words of `bytes` to `sum`; an odd last byte counts as the high half.
#[inline]
pub fn add(sum: u64, bytes: &[u8]) -> u64 {
    add_carry(sum, u64::from(fold(add_swapped(0, bytes)).swap_bytes()))
}

/// The same with the bytes of all words swapped, `sum`'s too: as the processor reads them. The sum of
/// such words is the sum, swapped (RFC 1071 section 2 B).
#[inline]
pub(crate) fn add_swapped(sum: u64, bytes: &[u8]) -> u64 {
    // Two sums, since each addition waits for the one before.
    let mut halves = [sum, 0];
    let (blocks, rest) = bytes.as_chunks::<16>();
    for block in blocks {
        for (half, word) in halves.iter_mut().zip(block.as_chunks::<8>().0) {
            *half = add_carry(*half, u64::from_le_bytes(*word));
        }
    }
    let mut total = add_carry(halves[0], halves[1]);
    let mut rest = rest;
    if let Some((word, more)) = rest.split_first_chunk::<8>() {
        total = add_carry(total, u64::from_le_bytes(*word));
        rest = more;
    }
    if !rest.is_empty() {
        let last = match bytes.last_chunk::<8>() {
            // What was added already goes out at the lower end.
            Some(last) => u64::from_le_bytes(*last) >> (64 - 8 * rest.len()),
            None => rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
        };
        total = add_carry(total, last);
    }
    total
}

/// Ones-complement addition.
#[inline]
fn add_carry(a: u64, b: u64) -> u64 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u64::from(carry)
}

/// Folds a sum to 16 bits.
#[inline]
pub fn fold(sum: u64) -> u16 {
    // End-around carries (RFC 1071): nothing but zero becomes zero.
    let (half, carry) = (sum as u32).overflowing_add((sum >> 32) as u32);
    let half = half + u32::from(carry);
    let (word, carry) = (half as u16).overflowing_add((half >> 16) as u16);
    word + u16::from(carry)
}

/// The checksum of `bytes`, as it goes into a header whose own field was zero.
pub fn of(bytes: &[u8]) -> u16 {
    !fold(add(0, bytes))
}

/// The sum of the pseudo-header of a transport protocol (RFC 9293 section 3.1, RFC 8200 section
/// 8.1). `len` is the length of transport header and payload.
pub fn pseudo_header(src: Addr, dst: Addr, protocol: u8, len: u32) -> u64 {
    let sum = match src.is_v4() && dst.is_v4() {
        true => u64::from(src.v4_u32()) + u64::from(dst.v4_u32()),
        // Folded: the addresses of a packet may add up to all ones, with no room for what comes to
        // them.
        false => u64::from(fold(add(add(0, src.wire()), dst.wire()))),
    };
    sum + u64::from(protocol) + u64::from(len >> 16) + u64::from(len & 0xffff)
}

/// The checksum of a transport segment (its own field counted as it stands).
pub fn transport(src: Addr, dst: Addr, protocol: u8, segment: &[u8]) -> u16 {
    !fold(add(pseudo_header(src, dst, protocol, segment.len() as u32), segment))
}

/// Whether a segment's checksum is right (the sum over everything is all ones).
pub fn verify_transport(src: Addr, dst: Addr, protocol: u8, segment: &[u8]) -> bool {
    transport(src, dst, protocol, segment) == 0
}

/// The change that replacing some words makes to a sum. Collect all of a packet's edits in one
/// `Delta` and apply it to each field that covers them.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta(u64);

impl Delta {
    /// Records that `old` became `new`, both a whole number of 16-bit words that stand at an even
    /// offset.
    pub fn replace(&mut self, old: &[u8], new: &[u8]) {
        debug_assert!(old.len().is_multiple_of(2) && new.len().is_multiple_of(2));
        self.0 += u64::from(!fold(add(0, old))) + u64::from(fold(add(0, new)));
    }

    /// Records that the word `old` became `new`.
    #[inline]
    pub fn replace16(&mut self, old: u16, new: u16) {
        self.0 += u64::from(!old) + u64::from(new);
    }

    /// Records that the two words `old` became `new`.
    #[inline]
    pub fn replace32(&mut self, old: u32, new: u32) {
        self.0 += u64::from(!old) + u64::from(new);
    }

    /// Records that address `old` became `new` (of the same family).
    #[inline]
    pub fn replace_addr(&mut self, old: Addr, new: Addr) {
        match old.is_v4() {
            true => self.replace32(old.v4_u32(), new.v4_u32()),
            false => self.replace(&old.octets(), &new.octets()),
        }
    }

    /// Adds another delta to this one.
    #[inline]
    pub fn add(&mut self, other: Self) {
        self.0 += u64::from(fold(other.0));
    }

    /// Whether nothing was recorded.
    #[inline]
    pub fn is_zero(&self) -> bool {
        self.0 == 0
    }

    /// A finished checksum after the change (RFC 1624 equation 3).
    #[inline]
    pub fn apply(&self, checksum: u16) -> u16 {
        !fold(u64::from(!checksum) + self.0)
    }

    /// A partial field after the change.
    #[inline]
    pub fn apply_partial(&self, sum: u16) -> u16 {
        fold(u64::from(sum) + self.0)
    }

    /// Updates the field at `at`.
    #[inline(always)]
    pub fn update(&self, bytes: &mut [u8], at: usize, field: Field) {
        let old = be16(bytes, at);
        let new = match field {
            Field::Complete => self.apply(old),
            Field::Partial => self.apply_partial(old),
        };
        put16(bytes, at, new);
    }
}

/// Finishes a partial checksum in software: `start` is where the covered bytes begin, `offset` the
/// field's place counted from `start`. Out-of-range values change nothing.
pub fn complete_partial(bytes: &mut [u8], start: usize, offset: usize) -> bool {
    if start + offset + 2 > bytes.len() {
        return false;
    }
    let sum = !fold(add(0, &bytes[start..]));
    // UDP spells a computed zero as all ones (RFC 768); for TCP both mean the same.
    put16(bytes, start + offset, if sum == 0 { 0xffff } else { sum });
    true
}

/// The length of the pseudo-header's family-dependent part, for callers that lay one out.
pub const fn pseudo_len(family: Family) -> usize {
    match family {
        Family::V4 => 12,
        Family::V6 => 40,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slow(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for c in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([c[0], *c.get(1).unwrap_or(&0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    proptest! {
        #[test]
        fn fast_sum_equals_rfc_1071(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(of(&bytes), slow(&bytes));
        }

        #[test]
        fn a_delta_equals_a_new_sum(
            mut bytes in proptest::collection::vec(any::<u8>(), 20..80),
            new in any::<[u8; 4]>(),
        ) {
            bytes[0] = 0;
            bytes[1] = 0;
            bytes[2] |= 1; // a non-zero sum before and after: ones-complement has two zeros
            let before = of(&bytes);
            let mut delta = Delta::default();
            let old: [u8; 4] = bytes[4..8].try_into().unwrap();
            delta.replace(&old, &new);
            bytes[4..8].copy_from_slice(&new);
            let (got, want) = (delta.apply(before), of(&bytes));
            prop_assert!(got == want || (got ^ want) == 0xffff, "{got:04x} {want:04x}");
        }
    }
}
