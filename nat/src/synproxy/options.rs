//! TCP options of handshakes, and time stamps that are shifted on their way.

use tidegate_packet::Parsed;
use tidegate_packet::checksum::{Delta, Field};
use tidegate_packet::tcp::{
    CHECKSUM_AT, Header, MIN_HEADER_LEN, OPT_MSS, OPT_SACK_PERMITTED, OPT_TIMESTAMP,
    OPT_WINDOW_SCALE,
};

use super::Handshake;
use crate::conn::Direction;

/// RFC 7323 section 2.3.
const MAX_SCALE: u8 = 14;
/// The options of a handshake's segment.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Options {
    pub(super) mss: Option<u16>,
    pub(super) scale: Option<u8>,
    pub(super) sack: bool,
    /// Value and echo.
    pub(super) stamps: Option<(u32, u32)>,
}

impl Options {
    pub(super) fn read(header: &Header<'_>) -> Self {
        let mut read = Self::default();
        for option in header.options() {
            match (option.kind, option.data) {
                (OPT_MSS, [a, b]) => read.mss = Some(u16::from_be_bytes([*a, *b])),
                (OPT_WINDOW_SCALE, [scale]) => read.scale = Some((*scale).min(MAX_SCALE)),
                (OPT_SACK_PERMITTED, []) => read.sack = true,
                (OPT_TIMESTAMP, [a, b, c, d, e, f, g, h]) => {
                    let value = u32::from_be_bytes([*a, *b, *c, *d]);
                    read.stamps = Some((value, u32::from_be_bytes([*e, *f, *g, *h])));
                }
                _ => {}
            }
        }
        read
    }

    pub(super) fn write(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(24);
        if let Some(mss) = self.mss {
            out.extend([OPT_MSS, 4]);
            out.extend(mss.to_be_bytes());
        }
        match (self.sack, self.stamps.is_some()) {
            (true, true) => out.extend([OPT_SACK_PERMITTED, 2]),
            (true, false) => out.extend([1, 1, OPT_SACK_PERMITTED, 2]),
            (false, true) => out.extend([1, 1]),
            (false, false) => {}
        }
        if let Some((value, echo)) = self.stamps {
            out.extend([OPT_TIMESTAMP, 10]);
            out.extend(value.to_be_bytes());
            out.extend(echo.to_be_bytes());
        }
        if let Some(scale) = self.scale {
            out.extend([1, OPT_WINDOW_SCALE, 3, scale]);
        }
        out
    }
}

/// Overwrites four bytes of the TCP header.
pub(super) fn put(packet: &Parsed, bytes: &mut [u8], at: usize, new: u32, field: Field) {
    let Some(segment) = bytes.get_mut(usize::from(packet.l4)..) else { return };
    let Some(place) = segment.get_mut(at..at + 4) else { return };
    let mut delta = Delta::default();
    let (old, new) = ([place[0], place[1], place[2], place[3]], new.to_be_bytes());
    match at % 2 {
        0 => delta.replace(&old, &new),
        // The sum of what stands at an odd place is byte-swapped.
        _ => delta.replace(
            &[0, old[0], old[1], old[2], old[3], 0],
            &[0, new[0], new[1], new[2], new[3], 0],
        ),
    }
    place.copy_from_slice(&new);
    if field == Field::Complete {
        delta.update(segment, CHECKSUM_AT, field);
    }
}

/// The server's time stamps, as the client knows them, and back.
pub(super) fn adjust_stamps(
    known: Handshake,
    direction: Direction,
    packet: &Parsed,
    bytes: &mut [u8],
    field: Field,
) {
    if known.stamp_offset == 0 {
        return;
    }
    let Some(header) = Header::new_checked(packet.segment(bytes)) else { return };
    let Some((value, echo)) = Options::read(&header).stamps else { return };
    let Some(at) = stamp_at(header.option_bytes()).map(|at| MIN_HEADER_LEN + at) else { return };
    match direction {
        Direction::Original => {
            put(packet, bytes, at + 6, echo.wrapping_add(known.stamp_offset), field)
        }
        Direction::Reply => {
            put(packet, bytes, at + 2, value.wrapping_sub(known.stamp_offset), field)
        }
    }
}

/// Where the time stamps' option begins.
fn stamp_at(options: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match *options.get(at..)? {
            [] | [0, ..] => return None,
            [1, ..] => at += 1,
            [OPT_TIMESTAMP, 10, ..] => return Some(at),
            [_, len, ..] if len >= 2 => at += usize::from(len),
            _ => return None,
        }
    }
}
