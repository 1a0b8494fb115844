//! The short way: packets of flows about which everything is decided.
//!
//! What the long way (`forward.rs`) does with a packet depends on much more than its connection, but
//! for most packets of most flows it doesn't. Where all rules on the way have asked nothing but what
//! is the same for the whole flow ([`tidegate_filter::Trail`]), the first such packet leaves a
//! `paths::Path`: its input, its egress and link header, and the rules to be counted. Later
//! packets are checked, tracked, translated and counted as ever, and sent without asking anybody.
//!
//! Nothing is decided here. What isn't plain takes the long way, and whatever might lead a packet
//! elsewhere ends the generation of all paths ([`Generation`]) or, where it concerns one
//! connection, its paths (`nat/src/known.rs`).

pub use heavy::OFTEN;
pub use lease::Leases;
pub use paths::{End, Generation};

pub(crate) mod ahead;
pub(crate) mod compare;
pub(crate) mod heavy;
pub(crate) mod lease;
pub(crate) mod paths;
pub(crate) mod plain;
mod record;

use super::interface::PortId;
use super::{Engine, Fate};
use crate::io::{Checksum, Frame};
use ahead::Read;
use heavy::Heavy;
use paths::{Decision, Paths};
use plain::Plain;
use tidegate_filter::{self as filter, Trail};
use tidegate_nat::{Conntrack, Judged, Known, Missed, Sought, Tracked};
use tidegate_packet::{Instant, ethernet};

/// Whether there is a short way.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum ShortWay {
    /// Every packet takes the long way.
    Off,
    /// As described in `engine/short`.
    #[default]
    On,
    /// For tests: packets that could take it take both, and a difference is a panic.
    Compared,
}

/// What belongs to it: a part of every shard, lent to the engine with the shard's connections.
#[derive(Debug)]
pub(crate) struct Short {
    pub mode: ShortWay,
    pub generation: Generation,
    /// Frames of the host's device have no link header.
    host_port: Option<PortId>,
    pub paths: Paths,
    /// Packets that have taken it.
    pub taken: u64,
    /// Flows that have taken it often, if that is good for anything.
    pub heavy: Option<Heavy>,
}

/// What is known of the packet at hand when it begins its long way, and what it leaves behind there.
#[derive(Debug, Default)]
pub(crate) struct AtHand {
    /// Its flow, if something may be decided about that.
    deciding: Option<Known>,
    /// It was tracked already.
    pub judged: Option<Tracked>,
    /// Its connection was sought in vain.
    pub missed: Option<Missed>,
    /// What its walks have asked so far.
    pub trail: Trail,
}

impl AtHand {
    /// Whether the packet leaves a trail.
    #[inline]
    pub fn is_deciding(&self) -> bool {
        self.deciding.is_some()
    }

    /// Takes over what another place has found out.
    #[inline]
    pub fn take_over(&mut self, from: &mut Self) {
        (self.deciding, self.judged) = (from.deciding.take(), from.judged.take());
        self.missed = from.missed.take();
    }
}

impl From<bool> for ShortWay {
    fn from(wanted: bool) -> Self {
        if wanted { Self::On } else { Self::Off }
    }
}

impl Short {
    pub fn new(generation: Generation, host_port: Option<PortId>) -> Self {
        Self {
            mode: ShortWay::On,
            generation,
            host_port,
            paths: Paths::default(),
            taken: 0,
            heavy: None,
        }
    }

    /// Takes a packet the short way if it has one. `None`: the frame is as it
    /// was and takes the long way.
    #[inline(always)]
    fn pass<const V6: bool>(
        &mut self,
        conntrack: &mut Conntrack,
        port: PortId,
        (plain, ahead): (Plain<V6>, Option<Sought>),
        frame: &mut Frame<'_>,
        now: Instant,
        at_hand: &mut AtHand,
    ) -> Option<Fate> {
        let (wire_len, verify) = (plain.wire_len(frame), plain.is_unverified(frame));
        let (link, packet) = frame.bytes_mut().split_first_chunk_mut()?;
        let sought = ahead.unwrap_or_else(|| conntrack.seek(&plain.packet, packet));
        let known = match conntrack.known(&sought, &plain.packet, packet, now) {
            Ok(known) => known,
            Err(missed) => {
                at_hand.missed = Some(missed);
                return None;
            }
        };
        if !self.generation.is(self.paths.generation()) {
            at_hand.deciding = Some(known);
            return None;
        }
        let (path, place) = match self.paths.get(known.path, now) {
            Decision::Path(path, place) => (path, place),
            Decision::Refused => return None,
            Decision::None => {
                at_hand.deciding = Some(known);
                return None;
            }
        };
        if !plain.comes_by(path, port, link) {
            at_hand.deciding = Some(known);
            return None;
        }
        if wire_len > path.mtu {
            return None;
        }
        match conntrack.pass_on(known, &plain.packet, packet, (verify, plain.field), now) {
            Judged::Steady => {}
            Judged::Gone => return None,
            Judged::Changed(tracked) => {
                at_hand.judged = Some(tracked);
                at_hand.deciding = Some(known);
                return None;
            }
        }
        *link = path.header;
        if verify && conntrack.settings().checksum {
            frame.meta.offload.checksum = Checksum::Valid;
        }
        frame.meta.end = frame.meta.start + ethernet::HEADER_LEN + plain.packet.len as usize;
        let fate = Fate::Transmit(path.egress);
        self.paths.count(place, plain.packet.len);
        self.taken += 1;
        if let Some(heavy) = &mut self.heavy {
            heavy.note(known.id, known.direction, plain.packet.len);
        }
        Some(fate)
    }

    /// The same for any frame. Each family has machine code of its own.
    #[inline]
    fn try_pass(
        &mut self,
        conntrack: &mut Conntrack,
        port: PortId,
        frame: &mut Frame<'_>,
        now: Instant,
        at_hand: &mut AtHand,
    ) -> Option<Fate> {
        if let Some(plain) = Plain::<false>::read(frame) {
            return self.pass(conntrack, port, (plain, None), frame, now, at_hand);
        }
        let plain = Plain::<true>::read(frame)?;
        self.pass(conntrack, port, (plain, None), frame, now, at_hand)
    }
}

impl Short {
    /// Takes a packet the short way, if it has one and the way is open. The frame is as it was if not.
    #[inline]
    pub fn take(
        &mut self,
        conntrack: &mut Conntrack,
        port: PortId,
        frame: &mut Frame<'_>,
        now: Instant,
        at_hand: &mut AtHand,
    ) -> Option<Fate> {
        self.is_open(port).then(|| self.try_pass(conntrack, port, frame, now, at_hand)).flatten()
    }

    /// The same for a frame that [`ahead::Ahead`] has looked at.
    #[inline]
    pub fn take_read(
        &mut self,
        conntrack: &mut Conntrack,
        port: PortId,
        (read, sought): (Read, Sought),
        frame: &mut Frame<'_>,
        now: Instant,
        at_hand: &mut AtHand,
    ) -> Option<Fate> {
        if !self.is_open(port) {
            return None;
        }
        let ahead = Some(sought);
        match read {
            Read::V4(plain) => self.pass(conntrack, port, (plain, ahead), frame, now, at_hand),
            Read::V6(plain) => self.pass(conntrack, port, (plain, ahead), frame, now, at_hand),
        }
    }

    #[inline]
    fn is_open(&self, port: PortId) -> bool {
        self.mode == ShortWay::On && self.host_port != Some(port)
    }

    /// Counts in the rules what was met since the last time. With `end`, the way is closed until the
    /// long way opens it.
    pub fn settle(&mut self, counters: &mut [filter::Counters; 2], end: bool) {
        self.paths.settle(counters);
        if end {
            self.paths.close();
        }
    }

    /// What the engine wants of all.
    pub fn follow(&mut self, mode: ShortWay, generation: &Generation) {
        self.mode = mode;
        self.generation.clone_from(generation);
    }
}

impl Engine {
    /// For a new shard.
    pub(super) fn new_short(&self) -> Short {
        let mut short = Short::new(self.generation.clone(), self.host_port);
        short.mode = self.short_way;
        short
    }

    /// Switches the short way on or off.
    pub fn set_short_way(&mut self, mode: ShortWay) {
        self.short_way = mode;
        self.standing.changed();
        self.undecide();
    }

    /// Whatever was decided about flows may be wrong now.
    pub(crate) fn undecide(&mut self) {
        self.generation.end().end();
    }
}
