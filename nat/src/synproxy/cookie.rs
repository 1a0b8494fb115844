//! What the gateway's initial sequence number remembers: the period it was made in, the client's
//! segment size, and that it is the gateway's.

use tidegate_packet::{Addr, Instant};

use super::Ends;
use crate::hash::HashKey;

/// The segment sizes that a cookie can hold.
pub(super) const SIZES: [u16; 8] = [536, 1220, 1300, 1360, 1420, 1440, 1460, 8960];
/// A cookie is good in its period and the next.
pub(super) const PERIOD_SECONDS: u64 = 64;
/// The cookie for a client's SYN with this number, of an index into [`SIZES`].
pub(super) fn cookie(
    key: &HashKey,
    [client, server]: Ends,
    isn: u32,
    period: u64,
    size: usize,
) -> u32 {
    let half = |a: Addr| [(a.bits() >> 64) as u64, a.bits() as u64];
    let (c, s) = (half(client.0), half(server.0));
    let ports = u64::from(client.1) << 16 | u64::from(server.1);
    let mac = key.numbers(&[c[0], c[1], s[0], s[1], ports, u64::from(isn), period, size as u64]);
    (period as u32) << 27 | (size as u32) << 24 | (mac as u32 & 0x00ff_ffff)
}

/// The segment size in a cookie that this gateway has made lately.
pub(super) fn size_in(key: &HashKey, ends: Ends, isn: u32, seen: u32, now: Instant) -> Option<u16> {
    let size = (seen >> 24 & 7) as usize;
    let period = now.as_secs() / PERIOD_SECONDS;
    [Some(period), period.checked_sub(1)]
        .into_iter()
        .flatten()
        .any(|period| cookie(key, ends, isn, period, size) == seen)
        .then(|| SIZES[size])
}
