//! TCP: the states of a connection, judged from the middle.
//!
//! `tcp/state.rs` says which state a segment leads to, `tcp/refine.rs` what a table of states can't
//! tell; the windows are in `tcp_window.rs`. What is kept of it all is in `tcp/track.rs`.

mod refine;
mod state;
mod track;

pub use state::TcpState;
pub(crate) use track::TcpTrack;

use std::time::Duration;

use tidegate_packet::tcp::{ACK, FIN, Header, RST, SYN, URG};
use tidegate_packet::{Instant, Parsed, protocol};

use crate::conn::{Connection, Direction, Proto, Status};
use crate::early;
use crate::settings::Settings;
use crate::tcp_window::{Fit, Peer, Segment};
use crate::tracked::InvalidReason;
use refine::Step;
use state::{Kind, Next, next};

/// What becomes of a segment's connection.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum TcpVerdict {
    /// It goes on.
    Pass,
    /// It goes on as if the segment hadn't come, which passes and isn't counted: netfilter counts
    /// where it sets the time-out anew (`nf_ct_refresh_acct`).
    Unnoticed,
    /// It ends with this segment, which passes.
    Over,
    /// It has ended before; the segment starts another.
    Reopen,
}

/// The checks that come before any look-up.
pub(crate) fn check(packet: &Parsed, segment: &[u8], verify: bool) -> Result<(), InvalidReason> {
    let header = Header::new_checked(segment).ok_or(InvalidReason::Malformed)?;
    early::checksum(packet, protocol::TCP, segment, verify)?;
    // PSH, ECE and CWR go with anything.
    const SYN_URG: u8 = SYN | URG;
    const SYN_ACK: u8 = SYN | ACK;
    const RST_ACK: u8 = RST | ACK;
    const FIN_ACK: u8 = FIN | ACK;
    const FIN_ACK_URG: u8 = FIN | ACK | URG;
    const ACK_URG: u8 = ACK | URG;
    match header.flags() & (FIN | SYN | RST | ACK | URG) {
        SYN | SYN_URG | SYN_ACK | RST | RST_ACK | FIN_ACK | FIN_ACK_URG | ACK | ACK_URG => Ok(()),
        _ => Err(InvalidReason::TcpFlags),
    }
}

/// Judges a segment of a connection and moves the connection on.
pub(crate) fn packet(
    conn: &mut Connection,
    direction: Direction,
    segment: &[u8],
    settings: &Settings,
    now: Instant,
) -> Result<TcpVerdict, InvalidReason> {
    let mut segment = Segment::parse(segment).ok_or(InvalidReason::Malformed)?;
    let kind = Kind::of(segment.flags);
    segment.unshift(conn.seq_offset(direction.other(), segment.ack.wrapping_sub(1)));
    let status = conn.status;
    let proxied = conn.extra().is_some_and(|e| e.handshake.is_some());
    let Proto::Tcp(tcp) = &mut conn.proto else { return Err(InvalidReason::Malformed) };
    let mut old = tcp.state;
    let mut judge_window = true;
    let next = match next(direction, kind, old) {
        // The SYN proxy's client asks whether its window is still closed (nf_conntrack_tcp_packet
        // lets such a segment belong to its connection).
        Next::Invalid
            if proxied
                && old == TcpState::SynSent
                && kind == Kind::Ack
                && direction == Direction::Original
                && tcp.last.direction == direction
                && tcp.peers[0].end.wrapping_sub(1) == segment.seq =>
        {
            return Ok(TcpVerdict::Unnoticed);
        }
        Next::Invalid => return Err(InvalidReason::TcpState),
        Next::To(TcpState::SynSent) if tcp.is_over() => {
            if tcp.may_reopen(direction) {
                return Ok(TcpVerdict::Reopen);
            }
            Next::Ignore
        }
        next => next,
    };
    let new = match next {
        Next::To(state) => match tcp.refine(state, kind, direction, &segment, status, settings)? {
            Step::Go(state) => state,
            Step::Unjudged(state) => {
                judge_window = false;
                state
            }
            Step::Stay => return Ok(TcpVerdict::Unnoticed),
        },
        _ => {
            if !tcp.resynchronizes(kind, direction, &segment) {
                tcp.note(kind, direction, &segment);
                return Ok(TcpVerdict::Unnoticed);
            }
            old = TcpState::SynSent;
            TcpState::SynRecv
        }
    };
    if judge_window {
        match tcp.fit(direction, kind == Kind::Ack, &segment, settings.tcp_be_liberal) {
            Fit::Accept => {}
            Fit::Ignore => return Ok(TcpVerdict::Unnoticed),
            Fit::Beyond => {
                lower_timeout(conn, kind, direction, settings, now);
                return Err(InvalidReason::TcpWindow);
            }
        }
    }
    tcp.last.kind = kind;
    tcp.last.direction = direction;
    tcp.state = new;
    if old != new && new == TcpState::FinWait {
        tcp.peers[direction.index()].set(Peer::CLOSE_INIT);
    }
    let timeout = tcp.timeout(kind, settings);
    Ok(settle(conn, kind, old, new, timeout, settings, now))
}

/// As [`packet`] for an ACK inside the windows of an established connection; of anything else
/// nothing.
#[inline]
pub(crate) fn steady(
    conn: &mut Connection,
    direction: Direction,
    segment: &[u8],
    settings: &Settings,
    now: Instant,
) -> bool {
    // Shifted numbers are for `packet`.
    if !conn.status.has(Status::SEEN_REPLY.with(Status::ASSURED)) || conn.extra().is_some() {
        return false;
    }
    let Proto::Tcp(tcp) = &mut conn.proto else { return false };
    let Some(segment) = Segment::parse(segment) else { return false };
    if tcp.state != TcpState::Established
        || Kind::of(segment.flags) != Kind::Ack
        || !tcp.accept(direction, &segment)
    {
        return false;
    }
    tcp.last.kind = Kind::Ack;
    tcp.last.direction = direction;
    let timeout = tcp.timeout(Kind::Ack, settings);
    conn.refresh(timeout, now);
    true
}

/// Status and deadline after a segment that was believed.
fn settle(
    conn: &mut Connection,
    kind: Kind,
    old: TcpState,
    new: TcpState,
    mut timeout: Duration,
    settings: &Settings,
    now: Instant,
) -> TcpVerdict {
    let unacknowledged = settings.tcp.unacknowledged;
    if !conn.status.has(Status::SEEN_REPLY) {
        // Answered by nothing but a reset: there was no connection.
        if kind == Kind::Rst {
            return TcpVerdict::Over;
        }
        // A repeated SYN doesn't prolong, or reuse of a port could keep an entry for ever.
        if kind == Kind::Syn && old == TcpState::SynSent {
            return TcpVerdict::Unnoticed;
        }
        // Picked up in the middle, and only one side heard so far.
        if new == TcpState::Established {
            timeout = timeout.min(unacknowledged);
        }
    } else if new == TcpState::Established
        && matches!(old, TcpState::SynRecv | TcpState::Established)
    {
        conn.status.set(Status::ASSURED);
    }
    conn.refresh(timeout, now);
    TcpVerdict::Pass
}

/// The gateway resets the connection by a rule (`nf_conntrack_tcp_set_closing`).
pub(crate) fn set_closing(conn: &mut Connection, settings: &Settings, now: Instant) {
    let Proto::Tcp(tcp) = &mut conn.proto else { return };
    tcp.state = TcpState::Close;
    conn.refresh(settings.tcp.close, now);
}

/// FIN or reset from both sides, but beyond the window: the connection is most likely gone, and
/// needn't stay for days.
fn lower_timeout(
    conn: &mut Connection,
    kind: Kind,
    direction: Direction,
    settings: &Settings,
    now: Instant,
) {
    if !conn.status.has(Status::ASSURED) || !matches!(kind, Kind::Rst | Kind::Fin) {
        return;
    }
    let left = conn.time_left(now);
    let Proto::Tcp(tcp) = &mut conn.proto else { return };
    if tcp.last.direction != direction && matches!(tcp.last.kind, Kind::Fin | Kind::Rst) {
        if left >= Duration::from_secs(120) && left > settings.tcp.unacknowledged {
            conn.refresh(settings.tcp.unacknowledged, now);
        }
    } else {
        tcp.last.kind = kind;
        tcp.last.direction = direction;
    }
}
