//! Makes one super-packet out of packets of a flow that come in one burst: UDP datagrams (the
//! reverse of `UDP_SEGMENT`) and TCP segments (of TSO). The kernel then carries one packet, and
//! cuts it where packets are wanted: in the device, in front of a device that can't, or never, if
//! the receiving socket is on this machine.
//!
//! Only what leaves no trace is joined: cut again, it is what it was. The headers must be equal but
//! for what differs from segment to segment by itself: lengths, the checksum, TCP's sequence
//! number and its PSH on the last, and IPv4's identification, which must count on. (In UDP it needn't
//! where fragmenting is forbidden and it means nothing, RFC 6864 section 4.1: most senders of UDP
//! say zero there, and TCP's count.) The checksum must be known to be right, since the segments get
//! new ones. A flow's packets stay in order.

use super::{BURST, Checksum, Outgoing};
use segment::{Flow, Seen, Segment};
use tidegate_packet::ethernet;

mod header;
mod segment;
#[cfg(test)]
mod tests;

pub(super) use header::Header;

/// Segments that every kernel since 4.18 takes (`UDP_MAX_SEGMENTS`).
const MAX_SEGMENTS: usize = 64;
/// Bytes of payload that leave room for the headers in 65,535 bytes.
const MAX_PAYLOAD: usize = 65_000;
/// Flows that are gathered at the same time; a burst with more is joined less.
const OPEN: usize = 8;

const L3: usize = ethernet::HEADER_LEN;
const NO_FRAME: u8 = u8::MAX;

/// What is joined.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Datagrams.
    Udp,
    /// Segments.
    Tcp,
}

/// The kinds that a device takes joined.
#[derive(Copy, Clone, Debug)]
pub(super) struct Kinds {
    udp: bool,
    tcp: bool,
}

impl Kinds {
    /// All of them.
    pub const ALL: Self = Self { udp: true, tcp: true };
    /// None.
    pub const NONE: Self = Self { udp: false, tcp: false };

    /// This one no more.
    pub fn refuse(&mut self, kind: Kind) {
        match kind {
            Kind::Udp => self.udp = false,
            Kind::Tcp => self.tcp = false,
        }
    }

    fn has(self, kind: Kind) -> bool {
        match kind {
            Kind::Udp => self.udp,
            Kind::Tcp => self.tcp,
        }
    }
}

/// Frames that are sent as one.
#[derive(Copy, Clone, Debug)]
pub(super) struct Group {
    first: u8,
    last: u8,
    /// How many frames.
    pub frames: usize,
    /// Their bytes, as if each were sent by itself.
    pub bytes: usize,
    /// What they are, if they are several.
    pub kind: Kind,
    /// Payload bytes of the first and of all.
    size: usize,
    total: usize,
    /// The last has TCP's PSH.
    pushes: bool,
    open: bool,
}

impl Group {
    /// The number of its first frame.
    pub fn first(&self) -> usize {
        usize::from(self.first)
    }

    const NONE: Self = Self {
        first: 0,
        last: 0,
        frames: 0,
        bytes: 0,
        kind: Kind::Udp,
        size: 0,
        total: 0,
        pushes: false,
        open: false,
    };
}

/// How the frames of a burst are put together.
#[derive(Debug)]
pub(super) struct Groups {
    groups: [Group; BURST],
    len: usize,
    /// The next frame of the same group.
    next: [u8; BURST],
}

impl Groups {
    /// Packets of one flow together, in the order of each group's first frame.
    pub fn of(frames: &[Outgoing<'_>], kinds: Kinds) -> Self {
        let mut this = Self { groups: [Group::NONE; BURST], len: 0, next: [NO_FRAME; BURST] };
        if frames.len() < 2 || !(kinds.udp || kinds.tcp) {
            for (index, frame) in frames.iter().enumerate().take(BURST) {
                this.alone(index, frame);
            }
            return this;
        }
        for (index, frame) in frames.iter().enumerate().take(BURST) {
            match Seen::of(frame) {
                Seen::Segment(segment) if kinds.has(segment.kind()) => {
                    this.place(frames, index, &segment);
                }
                // They must not be overtaken by what comes later of their flow.
                Seen::Segment(Segment { flow, .. }) | Seen::Alone(flow) => {
                    this.close(frames, &flow);
                    this.alone(index, frame);
                }
                Seen::Unknown => {
                    this.groups[..this.len].iter_mut().for_each(|g| g.open = false);
                    this.alone(index, frame);
                }
            }
        }
        this
    }

    fn alone(&mut self, index: usize, frame: &Outgoing<'_>) {
        let at = index as u8;
        self.groups[self.len] =
            Group { first: at, last: at, frames: 1, bytes: frame.bytes.len(), ..Group::NONE };
        self.len += 1;
    }

    /// The groups that may still grow.
    fn open(&mut self) -> impl Iterator<Item = &mut Group> {
        let recent = self.len.saturating_sub(OPEN);
        self.groups[recent..self.len].iter_mut().filter(|g| g.open)
    }

    fn close(&mut self, frames: &[Outgoing<'_>], flow: &Flow<'_>) {
        for group in self.open().filter(|group| flow.has(frames[group.first()].bytes)) {
            group.open = false;
        }
    }

    fn place(&mut self, frames: &[Outgoing<'_>], index: usize, segment: &Segment<'_>) {
        let (at, size) = (index as u8, segment.payload);
        let bytes = frames[index].bytes.len();
        let same = self.open().find(|group| segment.flow.has(frames[group.first()].bytes));
        if let Some(group) = same {
            let first = frames[group.first()].bytes;
            let fits = size <= group.size
                && group.frames < MAX_SEGMENTS
                && group.total + size <= MAX_PAYLOAD
                && segment.continues(first, group.frames, group.total);
            // Only the last segment may be shorter, or push.
            group.open = fits && size == group.size && !segment.ends();
            if fits {
                let last = std::mem::replace(&mut group.last, at);
                group.frames += 1;
                group.bytes += bytes;
                group.total += size;
                group.pushes = segment.ends();
                self.next[usize::from(last)] = at;
                return;
            }
        }
        self.groups[self.len] = Group {
            first: at,
            last: at,
            frames: 1,
            bytes,
            kind: segment.kind(),
            size,
            total: size,
            pushes: segment.ends(),
            open: !segment.ends(),
        };
        self.len += 1;
    }

    /// The groups in the order in which they are to be sent.
    pub fn as_slice(&self) -> &[Group] {
        &self.groups[..self.len]
    }

    /// The numbers of a group's frames, in order.
    pub fn frames<'a>(&'a self, group: &Group) -> impl Iterator<Item = usize> + 'a {
        let mut at = group.first;
        std::iter::from_fn(move || {
            let index = usize::from(at);
            at = *self.next.get(index)?;
            Some(index)
        })
    }
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn is_v4(frame: &[u8]) -> bool {
    be16(frame, 12) == ethernet::IPV4
}
