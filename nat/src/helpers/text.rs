//! Reading numbers and addresses out of text.

use tidegate_packet::Addr;

/// A decimal number at the beginning, and how many digits it has; `None` without a digit or above
/// 32 bits.
pub(super) fn decimal(text: &[u8]) -> Option<(u32, usize)> {
    let digits = text.iter().take_while(|b| b.is_ascii_digit()).count();
    if digits == 0 {
        return None;
    }
    let mut value = 0u32;
    for b in &text[..digits] {
        value = value.checked_mul(10)?.checked_add(u32::from(b - b'0'))?;
    }
    Some((value, digits))
}

/// Where `needle` begins.
pub(super) fn find(text: &[u8], needle: &[u8]) -> Option<usize> {
    text.windows(needle.len()).position(|w| w == needle)
}

/// Whether the text begins with a word, in letters of either case.
pub(super) fn begins_with(text: &[u8], word: &[u8]) -> bool {
    text.get(..word.len()).is_some_and(|t| t.eq_ignore_ascii_case(word))
}

/// Decimal numbers with `N - 1` separators between them, and where they end; what follows must be
/// `end`, if that matters.
pub(super) fn numbers<const N: usize>(
    text: &[u8],
    separator: u8,
    end: Option<u8>,
) -> Option<([u32; N], usize)> {
    let mut all = [0; N];
    let mut at = 0;
    for (n, value) in all.iter_mut().enumerate() {
        let (number, digits) = decimal(&text[at..])?;
        *value = number;
        at += digits;
        if n + 1 < N {
            if text.get(at) != Some(&separator) {
                return None;
            }
            at += 1;
        }
    }
    match (text.get(at), end) {
        (Some(_), None) => Some((all, at)),
        (Some(found), Some(end)) if *found == end => Some((all, at)),
        _ => None,
    }
}

/// The address of four numbers, each a byte.
pub(super) fn v4(numbers: &[u32]) -> Option<Addr> {
    let mut bytes = [0; 4];
    for (byte, number) in bytes.iter_mut().zip(numbers) {
        *byte = u8::try_from(*number).ok()?;
    }
    Some(Addr::from_v4_bytes(bytes))
}

/// An address as text that ends before the first byte that no address has.
pub(super) fn address(text: &[u8], v4: bool) -> Option<(Addr, usize)> {
    let part = |b: &u8| match v4 {
        true => b.is_ascii_digit() || *b == b'.',
        false => b.is_ascii_hexdigit() || matches!(b, b':' | b'.'),
    };
    let len = text.iter().take(46).take_while(|b| part(b)).count();
    let addr: Addr = std::str::from_utf8(&text[..len]).ok()?.parse().ok()?;
    (addr.is_v4() == v4).then_some((addr, len))
}
