//! TCP: the states of a connection, judged from the middle.
//!
//! Both directions of `NEXT` stand beside each other as in netfilter's `nf_conntrack_proto_tcp`,
//! with the same ten states, so that one can be read against the other. The windows are in
//! `tcp_window.rs`.

use std::time::Duration;

use tidegate_packet::tcp::{ACK, FIN, Header, RST, SYN, URG};
use tidegate_packet::{Instant, Parsed, checksum, protocol};

use crate::conn::{Connection, Direction, Proto, Status};
use crate::lease::Windows;
use crate::settings::Settings;
use crate::tcp_window::{Fit, Peer, Segment, before};
use crate::tracked::InvalidReason;

/// The state of a TCP connection as netfilter names it.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum TcpState {
    /// Before the first segment.
    None,
    /// SYN seen.
    SynSent,
    /// SYN/ACK seen.
    SynRecv,
    /// ACK seen.
    Established,
    /// FIN seen.
    FinWait,
    /// ACK after the FIN seen.
    CloseWait,
    /// FIN from the other side seen too.
    LastAck,
    /// The last ACK seen.
    TimeWait,
    /// Reset.
    Close,
    /// SYN from both sides: a simultaneous open.
    SynSent2,
}

impl TcpState {
    /// As conntrack listings print it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::SynSent => "SYN_SENT",
            Self::SynRecv => "SYN_RECV",
            Self::Established => "ESTABLISHED",
            Self::FinWait => "FIN_WAIT",
            Self::CloseWait => "CLOSE_WAIT",
            Self::LastAck => "LAST_ACK",
            Self::TimeWait => "TIME_WAIT",
            Self::Close => "CLOSE",
            Self::SynSent2 => "SYN_SENT2",
        }
    }

    /// The state that listings print so.
    pub fn from_name(name: &str) -> Option<Self> {
        [
            Self::None,
            Self::SynSent,
            Self::SynRecv,
            Self::Established,
            Self::FinWait,
            Self::CloseWait,
            Self::LastAck,
            Self::TimeWait,
            Self::Close,
            Self::SynSent2,
        ]
        .into_iter()
        .find(|state| state.name() == name)
    }

    /// From the first FIN or a reset on: may go early when the table is full, and resets are no
    /// longer judged.
    pub(crate) const fn is_closing(self) -> bool {
        matches!(
            self,
            Self::FinWait | Self::CloseWait | Self::LastAck | Self::TimeWait | Self::Close
        )
    }

    fn timeout(self, settings: &Settings) -> Duration {
        let t = &settings.tcp;
        match self {
            Self::None | Self::SynSent | Self::SynSent2 => t.syn_sent,
            Self::SynRecv => t.syn_recv,
            Self::Established => t.established,
            Self::FinWait => t.fin_wait,
            Self::CloseWait => t.close_wait,
            Self::LastAck => t.last_ack,
            Self::TimeWait => t.time_wait,
            Self::Close => t.close,
        }
    }
}

/// What a segment is, by its flags. A reset counts as nothing else, then SYN, FIN, ACK.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Syn,
    SynAck,
    Fin,
    Ack,
    Rst,
    Bare,
}

impl Kind {
    fn of(flags: u8) -> Self {
        match flags {
            f if f & RST != 0 => Self::Rst,
            f if f & SYN != 0 && f & ACK != 0 => Self::SynAck,
            f if f & SYN != 0 => Self::Syn,
            f if f & FIN != 0 => Self::Fin,
            f if f & ACK != 0 => Self::Ack,
            _ => Self::Bare,
        }
    }
}

/// An entry of the table.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Next {
    To(TcpState),
    /// Passes, but proves nothing: whoever gets it knows better and will answer.
    Ignore,
    Invalid,
}

const SS: Next = Next::To(TcpState::SynSent);
const SR: Next = Next::To(TcpState::SynRecv);
const ES: Next = Next::To(TcpState::Established);
const FW: Next = Next::To(TcpState::FinWait);
const CW: Next = Next::To(TcpState::CloseWait);
const LA: Next = Next::To(TcpState::LastAck);
const TW: Next = Next::To(TcpState::TimeWait);
const CL: Next = Next::To(TcpState::Close);
const S2: Next = Next::To(TcpState::SynSent2);
const IG: Next = Next::Ignore;
const IV: Next = Next::Invalid;

/// The next state by direction, kind of segment, and present state.
#[rustfmt::skip]
const NEXT: [[[Next; 10]; 6]; 2] = [
    [ // Original
        // No  SS  SR  ES  FW  CW  LA  TW  CL  S2
        /* syn    */ [SS, SS, IG, IG, IG, IG, IG, SS, SS, S2],
        /* synack */ [IV, IV, SR, IV, IV, IV, IV, IV, IV, SR],
        /* fin    */ [IV, IV, FW, FW, LA, LA, LA, TW, CL, IV],
        /* ack    */ [ES, IV, ES, ES, CW, CW, TW, TW, CL, IV],
        /* rst    */ [IV, CL, CL, CL, CL, CL, CL, CL, CL, CL],
        /* bare   */ [IV, IV, IV, IV, IV, IV, IV, IV, IV, IV],
    ],
    [ // Reply
        // No  SS  SR  ES  FW  CW  LA  TW  CL  S2
        /* syn    */ [IV, S2, IV, IV, IV, IV, IV, SS, IV, S2],
        /* synack */ [IV, SR, IG, IG, IG, IG, IG, IG, IG, SR],
        /* fin    */ [IV, IV, FW, FW, LA, LA, LA, TW, CL, IV],
        /* ack    */ [IV, IG, SR, ES, CW, CW, TW, TW, CL, IG],
        /* rst    */ [IV, CL, CL, CL, CL, CL, CL, CL, CL, CL],
        /* bare   */ [IV, IV, IV, IV, IV, IV, IV, IV, IV, IV],
    ],
];

/// The segment that was last looked at, for repetitions and for answers to what was let through.
#[derive(Copy, Clone, Debug)]
#[repr(C, packed(2))]
pub(crate) struct Last {
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) end: u32,
    pub(crate) window: u16,
    pub(crate) direction: Direction,
    kind: Kind,
    /// Of a SYN that was let through.
    options: SynOptions,
    /// Repetitions of an acknowledgment.
    pub(crate) retransmissions: u8,
}

/// Window scale and flags of a SYN in one byte.
#[derive(Copy, Clone, Debug, Default)]
struct SynOptions(u8);

impl SynOptions {
    fn new((scale, flags): (u8, u8)) -> Self {
        Self(flags << 4 | scale)
    }

    fn get(self) -> (u8, u8) {
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
#[derive(Clone, Debug)]
pub(crate) struct TcpTrack {
    pub(crate) peers: [Peer; 2],
    pub(crate) last: Last,
    state: TcpState,
    marks: Marks,
}

/// Things to remember.
#[derive(Copy, Clone, Debug, Default)]
struct Marks(u8);

impl Marks {
    /// Both sides sent a SYN.
    const SIMULTANEOUS: u8 = 1 << 0;
    /// A SYN was let through in LAST_ACK; an ACK may be RFC 5961's challenge.
    const CHALLENGE: u8 = 1 << 1;

    fn has(self, mark: u8) -> bool {
        self.0 & mark != 0
    }

    fn put(&mut self, mark: u8, on: bool) {
        self.0 = if on { self.0 | mark } else { self.0 & !mark };
    }
}

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
    if verify && !checksum::verify_transport(packet.src, packet.dst, protocol::TCP, segment) {
        return Err(InvalidReason::Checksum);
    }
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
        let peers = match NEXT[0][kind as usize][TcpState::None as usize] {
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
    let next = match NEXT[direction.index()][kind as usize][old as usize] {
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

/// A refinement of what the table says.
enum Step {
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
    fn may_reopen(&self, direction: Direction) -> bool {
        self.peers.iter().any(|p| p.has(Peer::CLOSE_INIT))
            || self.last.direction == direction && self.last.kind == Kind::Rst
    }

    /// What a table of states alone can't tell.
    fn refine(
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
    fn resynchronizes(&mut self, kind: Kind, direction: Direction, segment: &Segment<'_>) -> bool {
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
    fn note(&mut self, kind: Kind, direction: Direction, segment: &Segment<'_>) {
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

    fn timeout(&self, kind: Kind, settings: &Settings) -> Duration {
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
