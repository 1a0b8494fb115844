//! A burst's frames, read before the first of them goes its way, so that their connections can be looked
//! for together (`nat/src/ahead.rs`).

use super::plain::Plain;
use crate::io::{BURST, Frame, Receive};
use std::ops::Range;
use tidegate_nat::{Conntrack, Sought};
use tidegate_packet::ethernet;

/// Frames that are read at once: their headers, and the connections that are found, stay in the cache
/// next to the core.
pub(crate) const TOGETHER: usize = BURST;

/// A frame's headers.
#[derive(Copy, Clone, Debug)]
pub(crate) enum Read {
    /// IPv4.
    V4(Plain<false>),
    /// IPv6.
    V6(Plain<true>),
}

/// Some frames of a burst.
#[derive(Debug)]
pub(crate) struct Ahead {
    first: usize,
    /// Those that may take the short way.
    read: [Option<Read>; TOGETHER],
    sought: [Sought; TOGETHER],
}

impl Ahead {
    /// Reads these frames, and finds where their connections are in this table.
    pub fn look(conntrack: &Conntrack, receive: &mut dyn Receive, frames: Range<usize>) -> Self {
        let (read, sought) = ([None; TOGETHER], [Sought::NOTHING; TOGETHER]);
        let mut ahead = Self { first: frames.start, read, sought };
        let count = frames.len().min(TOGETHER);
        let places = ahead.read.iter_mut().zip(&mut ahead.sought);
        for (index, (read, sought)) in frames.zip(places) {
            if let Some((headers, wanted)) = look_at(conntrack, &receive.frame(index)) {
                (*read, *sought) = (Some(headers), wanted);
            }
        }
        conntrack.look_ahead(&mut ahead.sought[..count]);
        ahead
    }

    /// What was found out about a frame.
    #[inline]
    pub fn get(&self, index: usize) -> Option<(Read, Sought)> {
        let at = index.checked_sub(self.first)?;
        Some(((*self.read.get(at)?)?, *self.sought.get(at)?))
    }
}

#[inline]
fn look_at(conntrack: &Conntrack, frame: &Frame<'_>) -> Option<(Read, Sought)> {
    let packet = frame.bytes().get(ethernet::HEADER_LEN..)?;
    if let Some(plain) = Plain::<false>::read(frame) {
        return Some((Read::V4(plain), conntrack.seek(&plain.packet, packet)));
    }
    let plain = Plain::<true>::read(frame)?;
    Some((Read::V6(plain), conntrack.seek(&plain.packet, packet)))
}
