//! What a table of states alone can't tell: segments that mean something else after what was let
//! through before.

use super::state::{Kind, TcpState};
use super::track::{Marks, SynOptions, TcpTrack};
use crate::conn::{Direction, Status};
use crate::settings::Settings;
use crate::tcp_window::{Peer, Segment, before};
use crate::tracked::InvalidReason;

/// A refinement of what the table says.
pub(super) enum Step {
    /// To this state, if the window fits.
    Go(TcpState),
    /// To this state, whatever the window.
    Unjudged(TcpState),
    /// The segment passes and changes nothing.
    Stay,
}

impl TcpTrack {
    /// RFC 9293 section 3.6.1 lets a SYN reopen a connection in TIME-WAIT; netfilter also after a
    /// reset by the same side.
    pub(super) fn may_reopen(&self, direction: Direction) -> bool {
        self.peers.iter().any(|p| p.has(Peer::CLOSE_INIT))
            || self.last.direction == direction && self.last.kind == Kind::Rst
    }

    /// What a table of states alone can't tell.
    pub(super) fn refine(
        &mut self,
        state: TcpState,
        kind: Kind,
        direction: Direction,
        segment: &Segment<'_>,
        status: Status,
        settings: &Settings,
    ) -> Result<Step, InvalidReason> {
        Ok(match state {
            // RFC 5961 section 4.2: a SYN in LAST_ACK is answered by a challenge ACK, which must
            // not be taken for the ACK of the last FIN.
            TcpState::TimeWait
                if self.state == TcpState::LastAck
                    && kind == Kind::Ack
                    && self.last.direction != direction
                    && self.last.kind == Kind::Syn
                    && self.marks.has(Marks::CHALLENGE) =>
            {
                self.marks.put(Marks::CHALLENGE, false);
                Step::Stay
            }
            TcpState::SynSent2 => {
                self.marks.put(Marks::SIMULTANEOUS, true);
                Step::Go(state)
            }
            TcpState::SynRecv
                if direction == Direction::Reply
                    && kind == Kind::Ack
                    && self.marks.has(Marks::SIMULTANEOUS) =>
            {
                Step::Go(TcpState::Established)
            }
            TcpState::Close if kind == Kind::Rst => {
                self.reset(direction, segment, status, settings)?
            }
            _ => Step::Go(state),
        })
    }

    /// Whether a reset closes the connection (RFC 5961 section 3.2: only an exact one does).
    fn reset(
        &self,
        direction: Direction,
        segment: &Segment<'_>,
        status: Status,
        settings: &Settings,
    ) -> Result<Step, InvalidReason> {
        // What is closing may be in use again already, so nothing known is worth comparing.
        if self.state.is_closing() {
            return Ok(Step::Unjudged(TcpState::Close));
        }
        let mut state = TcpState::Close;
        let receiver = &self.peers[direction.other().index()];
        let established = self.state == TcpState::Established && status.has(Status::ASSURED);
        // After a SYN that was let through the highest acknowledgment may be out of date.
        if receiver.has(Peer::MAXACK_SET) && self.last.kind != Kind::Syn {
            let seq = segment.seq;
            // Most likely an answer to a SYN that was let through.
            if seq == 0 && !established {
                return Ok(Step::Go(state));
            }
            if before(seq, receiver.max_ack) && !settings.tcp_ignore_invalid_rst {
                return Err(InvalidReason::TcpReset);
            }
            // Exact, or directly behind the same side's last data.
            let last = &self.last;
            let follows = last.kind == Kind::Ack && last.direction == direction && seq == last.end;
            if !established || seq == receiver.max_ack || follows {
                return Ok(Step::Go(state));
            }
            // The receiver will answer with a challenge ACK; until then nothing has changed.
            state = self.state;
        }
        // A reset that answers a SYN or an ACK that was let through: the connection that is known
        // here isn't the one at the ends, and its window says nothing.
        let after_syn = status.has(Status::SEEN_REPLY)
            && self.last.kind == Kind::Syn
            && self.last.direction != direction;
        let after_ack = !status.has(Status::ASSURED) && self.last.kind == Kind::Ack;
        if (after_syn || after_ack) && segment.ack == self.last.end {
            return Ok(Step::Unjudged(state));
        }
        // A reset by the opener that answers a challenge ACK which was let through.
        if self.state == TcpState::SynSent
            && self.last.kind == Kind::Ack
            && self.last.direction == Direction::Reply
            && segment.seq == self.last.ack
        {
            return Ok(Step::Unjudged(state));
        }
        Ok(Step::Go(state))
    }

    /// Whether this SYN/ACK acknowledges the SYN that was let through before: then the two ends
    /// are in step and it is here that the history is lost. Takes the noted SYN for the truth.
    pub(super) fn resynchronizes(
        &mut self,
        kind: Kind,
        direction: Direction,
        segment: &Segment<'_>,
    ) -> bool {
        let last = self.last;
        if kind != Kind::SynAck
            || last.kind != Kind::Syn
            || last.direction == direction
            || segment.ack != last.end
        {
            return false;
        }
        self.marks.put(Marks::CHALLENGE, false);
        let (scale, flags) = last.options.get();
        self.peers[last.direction.index()].reopen(last.end, last.window, scale, flags);
        self.peers[direction.index()].reset();
        true
    }

    /// Notes a segment that is let through without being believed.
    pub(super) fn note(&mut self, kind: Kind, direction: Direction, segment: &Segment<'_>) {
        let challenge_possible = self.state == TcpState::SynSent;
        let last = &mut self.last;
        last.kind = kind;
        last.direction = direction;
        last.seq = segment.seq;
        last.end = segment.end;
        last.window = segment.window;
        if kind == Kind::Syn && direction == Direction::Original {
            last.options = SynOptions::new(segment.syn_options().unwrap_or_default());
            self.marks.put(Marks::SIMULTANEOUS, false);
            self.marks.put(Marks::CHALLENGE, self.state == TcpState::LastAck);
        }
        if challenge_possible && kind == Kind::Ack && direction == Direction::Reply {
            last.ack = segment.ack;
        }
    }
}
