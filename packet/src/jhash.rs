//! The kernel's hash of words, for whatever has to come out as it does there.

/// `jhash2`, Bob Jenkins' lookup3 over 32-bit words (public domain), as netfilter uses it: the same
/// words and seed give the same number. `jhash_1word` and `jhash_3words` are the same function of one
/// and of three words.
pub fn jhash2(mut words: &[u32], seed: u32) -> u32 {
    let start = 0xdead_beef_u32.wrapping_add((words.len() as u32) << 2).wrapping_add(seed);
    let (mut a, mut b, mut c) = (start, start, start);
    while let [x, y, z, rest @ ..] = words {
        if rest.is_empty() {
            break;
        }
        a = a.wrapping_add(*x);
        b = b.wrapping_add(*y);
        c = c.wrapping_add(*z);
        // Each step: p = (p - q) ^ rol(q, k), then q += r, around the three.
        for (k1, k2, k3) in [(4, 6, 8), (16, 19, 4)] {
            a = a.wrapping_sub(c) ^ c.rotate_left(k1);
            c = c.wrapping_add(b);
            b = b.wrapping_sub(a) ^ a.rotate_left(k2);
            a = a.wrapping_add(c);
            c = c.wrapping_sub(b) ^ b.rotate_left(k3);
            b = b.wrapping_add(a);
        }
        words = rest;
    }
    if words.is_empty() {
        return c;
    }
    a = a.wrapping_add(words[0]);
    b = b.wrapping_add(words.get(1).copied().unwrap_or(0));
    c = c.wrapping_add(words.get(2).copied().unwrap_or(0));
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    (c ^ b).wrapping_sub(b.rotate_left(24))
}

/// A hash brought below `end`, evenly (`reciprocal_scale`).
pub fn scale(hash: u32, end: u32) -> u32 {
    ((u64::from(hash) * u64::from(end)) >> 32) as u32
}
