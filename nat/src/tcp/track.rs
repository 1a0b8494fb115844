//! What is kept of a TCP connection, and how long it lives.

use std::time::Duration;

use super::state::{Kind, Next, TcpState, next};
use crate::conn::Direction;
use crate::lease::Windows;
use crate::settings::Settings;
use crate::tcp_window::{Peer, Segment, before};
use crate::tracked::InvalidReason;

/// The segment that was last looked at, for repetitions and for answers to what was let through.
#[derive(Copy, Clone, Debug)]
#[repr(C, packed(2))]
pub(crate) struct Last {
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) end: u32,
    pub(crate) window: u16,
    pub(crate) direction: Direction,
    pub(super) kind: Kind,
    /// Of a SYN that was let through.
    pub(super) options: SynOptions,
    /// Repetitions of an acknowledgment.
    pub(crate) retransmissions: u8,
}

/// Window scale and flags of a SYN in one byte.
#[derive(Copy, Clone, Debug, Default)]
pub(super) struct SynOptions(u8);

impl SynOptions {
    pub(super) fn new((scale, flags): (u8, u8)) -> Self {
        Self(flags << 4 | scale)
    }

    pub(super) fn get(self) -> (u8, u8) {
        (self.0 & 15, self.0 >> 4)
    }
}

impl Last {
    const NONE: Self = Self {
        seq: 0,
        ack: 0,
        end: 0,
        window: 0,
        direction: Direction::Original,
        kind: Kind::Bare,
        options: SynOptions(0),
        retransmissions: 0,
    };
}

/// TCP's part of a connection. 56 bytes, and `store.rs` has a test that says so.
#[derive(Copy, Clone, Debug)]
pub(crate) struct TcpTrack {
    pub(crate) peers: [Peer; 2],
    pub(crate) last: Last,
    pub(super) state: TcpState,
    pub(super) marks: Marks,
}

/// Things to remember.
#[derive(Copy, Clone, Debug, Default)]
pub(super) struct Marks(u8);

impl Marks {
    /// Both sides sent a SYN.
    pub(super) const SIMULTANEOUS: u8 = 1 << 0;
    /// A SYN was let through in LAST_ACK; an ACK may be RFC 5961's challenge.
    pub(super) const CHALLENGE: u8 = 1 << 1;

    pub(super) fn has(self, mark: u8) -> bool {
        self.0 & mark != 0
    }

    pub(super) fn put(&mut self, mark: u8, on: bool) {
        self.0 = if on { self.0 | mark } else { self.0 & !mark };
    }
}

impl TcpTrack {
    /// Segments of an established connection have passed unseen: its windows start anew.
    pub(crate) fn forget_windows(&mut self) {
        if self.state == TcpState::Established {
            for peer in &mut self.peers {
                peer.max_window = 0;
            }
        }
    }

    /// Of a connection that was put into the table by hand: windows begin with its next segments.
    pub(crate) fn by_hand(state: TcpState) -> Self {
        Self {
            peers: [Peer::unseen(), Peer::unseen()],
            last: Last::NONE,
            state,
            marks: Marks::default(),
        }
    }

    /// Sets the state by hand.
    pub(crate) fn set_state(&mut self, state: TcpState) {
        self.state = state;
    }

    /// For a connection's first segment: a SYN, or with `tcp_loose` an ACK out of the middle.
    pub(crate) fn new(segment: &[u8], settings: &Settings) -> Result<Self, InvalidReason> {
        let segment = Segment::parse(segment).ok_or(InvalidReason::Malformed)?;
        let kind = Kind::of(segment.flags);
        let peers = match next(Direction::Original, kind, TcpState::None) {
            Next::To(TcpState::SynSent) => [Peer::opening(&segment), Peer::default()],
            Next::To(_) if settings.tcp_loose => [Peer::picked_up(&segment), Peer::unseen()],
            _ => return Err(InvalidReason::TcpNew),
        };
        Ok(Self { peers, last: Last::NONE, state: TcpState::None, marks: Marks::default() })
    }

    /// Whether its windows are all that acknowledgments and data change.
    pub(crate) fn is_leasable(&self) -> bool {
        self.state == TcpState::Established && self.peers.iter().all(|peer| peer.max_window != 0)
    }

    /// For a holder ([`crate::lease`]).
    pub(crate) fn windows(&self) -> Windows {
        let Last { seq, ack, end, window, direction, retransmissions, .. } = self.last;
        let direction = direction.index() as u8;
        let peers = self.peers.map(Peer::window);
        Windows { peers, seq, ack, end, window, direction, retransmissions }
    }

    /// Takes over what a holder has learned: all that it has seen were acknowledgments.
    pub(crate) fn set_windows(&mut self, windows: &Windows) {
        let Windows { peers, seq, ack, end, window, direction, retransmissions } = *windows;
        let direction = if direction == 0 { Direction::Original } else { Direction::Reply };
        self.peers = peers.map(Peer::from_window);
        let kind = Kind::Ack;
        self.last = Last { seq, ack, end, window, direction, kind, retransmissions, ..self.last };
    }

    /// How long it lives after an acknowledgment.
    pub(crate) fn timeout_of_acks(&self, settings: &Settings) -> Duration {
        self.timeout(Kind::Ack, settings)
    }

    pub(crate) fn state(&self) -> TcpState {
        self.state
    }

    /// Nothing more is expected of it.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state, TcpState::TimeWait | TcpState::Close)
    }

    /// Whether the opener's sequence numbers are beyond all that `old`'s opener has sent, so that
    /// nothing late of the old one fits into this one.
    pub(crate) fn is_beyond(&self, old: &Self) -> bool {
        before(old.peers[0].end, self.peers[0].end)
    }

    /// How long it lives after a segment of this kind.
    pub(super) fn timeout(&self, kind: Kind, settings: &Settings) -> Duration {
        let by_state = self.state.timeout(settings);
        let t = &settings.tcp;
        if self.last.retransmissions >= settings.tcp_max_retrans && by_state > t.max_retrans {
            t.max_retrans
        } else if kind == Kind::Rst {
            t.close
        } else if self.peers.iter().any(|p| p.has(Peer::UNACKNOWLEDGED))
            && by_state > t.unacknowledged
        {
            t.unacknowledged
        } else if self.last.window == 0 && by_state > t.max_retrans {
            // A closed window: somebody may have gone away without a word.
            t.max_retrans
        } else {
            by_state
        }
    }
}
