//! SCTP: the states of an association, judged from the middle as netfilter's
//! `nf_conntrack_proto_sctp` does, and the verification tags (RFC 9260 section 8.5).

use std::time::Duration;

use tidegate_packet::Instant;

use crate::conn::{Connection, Direction, Proto, Status};
use crate::settings::Settings;
use crate::tracked::InvalidReason;

/// The state of an association as netfilter names it.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum SctpState {
    /// Before the first packet.
    None,
    /// An INIT was seen, or it is over.
    Closed,
    /// INIT ACK seen.
    CookieWait,
    /// COOKIE ECHO seen.
    CookieEchoed,
    /// COOKIE ACK seen.
    Established,
    /// The opener's SHUTDOWN seen.
    ShutdownSent,
    /// The other side's SHUTDOWN seen.
    ShutdownReceived,
    /// SHUTDOWN ACK seen.
    ShutdownAckSent,
    /// A HEARTBEAT out of the middle, or on a further path.
    HeartbeatSent,
}

impl SctpState {
    /// As conntrack listings print it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Closed => "CLOSED",
            Self::CookieWait => "COOKIE_WAIT",
            Self::CookieEchoed => "COOKIE_ECHOED",
            Self::Established => "ESTABLISHED",
            Self::ShutdownSent => "SHUTDOWN_SENT",
            Self::ShutdownReceived => "SHUTDOWN_RECD",
            Self::ShutdownAckSent => "SHUTDOWN_ACK_SENT",
            Self::HeartbeatSent => "HEARTBEAT_SENT",
        }
    }

    /// Near its end: may go early when the table is full.
    pub(crate) const fn is_closing(self) -> bool {
        matches!(self, Self::ShutdownSent | Self::ShutdownReceived | Self::ShutdownAckSent)
    }

    fn timeout(self, settings: &Settings) -> Duration {
        match self {
            Self::None | Self::Closed => settings.sctp_closed,
            Self::CookieWait => settings.sctp_cookie_wait,
            Self::CookieEchoed => settings.sctp_cookie_echoed,
            Self::Established => settings.sctp_established,
            Self::ShutdownSent => settings.sctp_shutdown_sent,
            Self::ShutdownReceived => settings.sctp_shutdown_recd,
            Self::ShutdownAckSent => settings.sctp_shutdown_ack_sent,
            Self::HeartbeatSent => settings.sctp_heartbeat_sent,
        }
    }
}

const DATA: u8 = 0;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const HEARTBEAT: u8 = 4;
const HEARTBEAT_ACK: u8 = 5;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_ACK: u8 = 8;
const ERROR: u8 = 9;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;
const SHUTDOWN_COMPLETE: u8 = 14;

/// The common header's length (RFC 9260 section 3.1).
const HEADER_LEN: usize = 12;
/// Chunks of one packet that are looked at; a full-sized one of empty chunks has fewer.
const MOST_CHUNKS: usize = 16_384;

const NO: SctpState = SctpState::None;
const CL: SctpState = SctpState::Closed;
const CW: SctpState = SctpState::CookieWait;
const CE: SctpState = SctpState::CookieEchoed;
const ES: SctpState = SctpState::Established;
const SS: SctpState = SctpState::ShutdownSent;
const SR: SctpState = SctpState::ShutdownReceived;
const SA: SctpState = SctpState::ShutdownAckSent;
const HS: SctpState = SctpState::HeartbeatSent;
/// Stands for INVALID in the table, in which nothing leads back to the beginning.
const IV: SctpState = NO;

/// The next state by direction, kind of chunk, and present state.
#[rustfmt::skip]
const NEXT: [[[SctpState; 9]; 11]; 2] = [
    [ // Original
        //                 NO  CL  CW  CE  ES  SS  SR  SA  HS
        /* init         */ [CL, CL, CW, CE, ES, CL, CL, SA, CW],
        /* init ack     */ [CL, CL, CW, CE, ES, SS, SR, SA, CL],
        /* abort        */ [CL, CL, CL, CL, CL, CL, CL, CL, CL],
        /* shutdown     */ [CL, CL, CW, CE, SS, SS, SR, SA, CL],
        /* shutdown ack */ [SA, CL, CW, CE, ES, SA, SA, SA, SA],
        /* error        */ [CL, CL, CW, CE, ES, SS, SR, SA, CL],
        /* cookie echo  */ [CL, CL, CE, CE, ES, SS, SR, SA, CL],
        /* cookie ack   */ [CL, CL, CW, ES, ES, SS, SR, SA, CL],
        /* shutdown cpl */ [CL, CL, CW, CE, ES, SS, SR, CL, CL],
        /* heartbeat    */ [HS, CL, CW, CE, ES, SS, SR, SA, HS],
        /* heartbeat ack*/ [CL, CL, CW, CE, ES, SS, SR, SA, HS],
    ],
    [ // Reply
        //                 NO  CL  CW  CE  ES  SS  SR  SA  HS
        /* init         */ [IV, CL, CW, CE, ES, SS, SR, SA, IV],
        /* init ack     */ [IV, CW, CW, CE, ES, SS, SR, SA, IV],
        /* abort        */ [IV, CL, CL, CL, CL, CL, CL, CL, IV],
        /* shutdown     */ [IV, CL, CW, CE, SR, SS, SR, SA, IV],
        /* shutdown ack */ [IV, CL, CW, CE, ES, SA, SA, SA, IV],
        /* error        */ [IV, CL, CW, CL, ES, SS, SR, SA, IV],
        /* cookie echo  */ [IV, CL, CE, CE, ES, SS, SR, SA, IV],
        /* cookie ack   */ [IV, CL, CW, ES, ES, SS, SR, SA, IV],
        /* shutdown cpl */ [IV, CL, CW, CE, ES, SS, SR, CL, IV],
        /* heartbeat    */ [IV, CL, CW, CE, ES, SS, SR, SA, HS],
        /* heartbeat ack*/ [IV, CL, CW, CE, ES, SS, SR, SA, ES],
    ],
];

fn next(direction: Direction, state: SctpState, kind: u8) -> Option<SctpState> {
    let row = match kind {
        INIT => 0,
        INIT_ACK => 1,
        ABORT => 2,
        SHUTDOWN => 3,
        SHUTDOWN_ACK => 4,
        ERROR => 5,
        COOKIE_ECHO => 6,
        COOKIE_ACK => 7,
        SHUTDOWN_COMPLETE => 8,
        HEARTBEAT => 9,
        HEARTBEAT_ACK => 10,
        // DATA, SACK and the like say nothing about states.
        _ => return Some(state),
    };
    Some(NEXT[direction.index()][row][state as usize]).filter(|next| *next != IV)
}

/// SCTP's part of a connection.
#[derive(Copy, Clone, Debug)]
pub(crate) struct SctpTrack {
    pub(crate) state: SctpState,
    /// The tag that packets of a direction must have; zero: not known.
    pub(crate) tags: [u32; 2],
    /// An INIT was seen of this side.
    inits: [bool; 2],
    /// A HEARTBEAT of this direction had another tag: the ends may have made a new association.
    doubted: Option<Direction>,
}

/// A chunk: its kind, flags and first word of its value.
#[derive(Copy, Clone, Debug)]
struct Chunk {
    kind: u8,
    reflected: bool,
    /// The initiate tag, in an INIT or INIT ACK that is long enough.
    tag: Option<u32>,
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let b = bytes.get(at..at + 4)?;
    Some(u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
}

/// The chunks that are there, up to one of length zero, which `None` stands for.
fn chunks(segment: &[u8]) -> impl Iterator<Item = Option<Chunk>> {
    /// The T bit: the tag is the receiver's own (RFC 9260 section 8.5.1).
    const REFLECTED: u8 = 1;
    /// An INIT's fixed part, with its chunk header.
    const INIT_LEN: usize = 20;
    let mut at = HEADER_LEN;
    std::iter::from_fn(move || {
        let [kind, flags, high, low] = *segment.get(at..at + 4)? else { return None };
        let len = usize::from(u16::from_be_bytes([high, low]));
        if len == 0 {
            at = segment.len();
            return Some(None);
        }
        let whole = segment.len() >= at + INIT_LEN;
        let tag = if whole { word(segment, at + 4) } else { None };
        at += len.next_multiple_of(4);
        Some(Some(Chunk { kind, reflected: flags & REFLECTED != 0, tag }))
    })
    .take(MOST_CHUNKS)
}

/// The kinds of chunks in a packet, a bit each, if they may stand together (RFC 9260 section 6.10).
fn kinds(segment: &[u8]) -> Option<[u64; 4]> {
    let mut seen = [0u64; 4];
    let mut count = 0;
    let mut alone = false;
    for chunk in chunks(segment) {
        let kind = chunk?.kind;
        alone |= matches!(kind, INIT | INIT_ACK | SHUTDOWN_COMPLETE);
        if (alone || matches!(kind, COOKIE_ACK | COOKIE_ECHO)) && count != 0 {
            return None;
        }
        seen[usize::from(kind) / 64] |= 1 << (kind % 64);
        count += 1;
    }
    (count != 0).then_some(seen)
}

impl SctpTrack {
    /// For a connection's first packet.
    pub(crate) fn new(segment: &[u8]) -> Result<Self, InvalidReason> {
        let kinds = kinds(segment).ok_or(InvalidReason::SctpChunks)?;
        let has = |kind: u8| kinds[0] >> kind & 1 != 0;
        // RFC 9260 section 8.4: out of the blue.
        if has(ABORT) || has(SHUTDOWN_COMPLETE) || has(COOKIE_ACK) {
            return Err(InvalidReason::SctpNew);
        }
        let tag = word(segment, 4).ok_or(InvalidReason::Malformed)?;
        let mut this = Self { state: NO, tags: [0; 2], inits: [false; 2], doubted: None };
        for chunk in chunks(segment).flatten() {
            match next(Direction::Original, NO, chunk.kind) {
                None | Some(SctpState::None) => return Err(InvalidReason::SctpNew),
                Some(_) => {}
            }
            match chunk.kind {
                INIT if tag != 0 => return Err(InvalidReason::SctpTag),
                INIT => this.tags[1] = chunk.tag.ok_or(InvalidReason::Malformed)?,
                HEARTBEAT => this.tags[0] = tag,
                _ => this.tags[1] = tag,
            }
        }
        Ok(this)
    }

    /// Goes through a packet's chunks, and says what the state was before them. `None`: it
    /// passes, but doesn't prolong the connection.
    fn follow(
        &mut self,
        direction: Direction,
        segment: &[u8],
        confirmed: bool,
    ) -> Result<Option<SctpState>, InvalidReason> {
        let kinds = kinds(segment).ok_or(InvalidReason::SctpChunks)?;
        let has = |kind: u8| kinds[0] >> kind & 1 != 0;
        let tag = word(segment, 4).ok_or(InvalidReason::Malformed)?;
        let (this, other) = (direction.index(), direction.other().index());
        const SPECIAL: [u8; 7] =
            [INIT, SHUTDOWN_COMPLETE, COOKIE_ECHO, ABORT, SHUTDOWN_ACK, HEARTBEAT, HEARTBEAT_ACK];
        if !SPECIAL.iter().any(|kind| has(*kind)) && tag != self.tags[this] {
            return Err(InvalidReason::SctpTag);
        }
        let mut ignored = false;
        let before = self.state;
        for chunk in chunks(segment).flatten() {
            let own = tag == self.tags[this];
            // RFC 9260 section 8.5.1.
            let fits = match chunk.kind {
                INIT => tag == 0,
                ABORT => own || tag == self.tags[other],
                SHUTDOWN_COMPLETE => own || tag == self.tags[other] && chunk.reflected,
                COOKIE_ECHO => own,
                HEARTBEAT | HEARTBEAT_ACK => {
                    if self.tags[this] == 0 {
                        self.tags[this] = tag;
                    } else if own {
                        self.doubted = None;
                    } else if has(DATA) || ignored {
                        return Err(InvalidReason::SctpTag);
                    } else if chunk.kind == HEARTBEAT {
                        // Passes; only the answer proves that the other side knows the tag.
                        self.doubted = Some(direction);
                        ignored = true;
                        continue;
                    } else if self.doubted == Some(direction.other()) {
                        self.doubted = None;
                        self.tags[this] = tag;
                        self.tags[other] = 0;
                    } else {
                        return Err(InvalidReason::SctpTag);
                    }
                    true
                }
                _ => true,
            };
            if !fits {
                return Err(InvalidReason::SctpTag);
            }
            let old = self.state;
            let new = next(direction, old, chunk.kind).ok_or(InvalidReason::SctpState)?;
            match (chunk.kind, chunk.tag) {
                (INIT | INIT_ACK, None) => return Err(InvalidReason::Malformed),
                (INIT, Some(theirs)) => {
                    if self.inits == [true; 2] {
                        self.inits[other] = false;
                    }
                    self.inits[this] = true;
                    self.tags[other] = theirs;
                    // A repeated INIT must not keep an entry for ever.
                    ignored |= (old, new) == (CL, CL) && confirmed;
                }
                (INIT_ACK, Some(theirs)) => {
                    let known = self.tags[other];
                    let collision = self.inits == [true; 2];
                    let unasked = !self.inits[other] && known != 0;
                    if (unasked || collision) && known != theirs {
                        return Err(InvalidReason::SctpTag);
                    }
                    self.tags[other] = theirs;
                }
                _ => {}
            }
            self.state = new;
        }
        Ok((!ignored).then_some(before))
    }
}

/// Judges a packet of an association and moves it on; says whether it was noticed.
pub(crate) fn packet(
    conn: &mut Connection,
    direction: Direction,
    segment: &[u8],
    settings: &Settings,
    now: Instant,
) -> Result<bool, InvalidReason> {
    let confirmed = conn.status.has(Status::CONFIRMED);
    let Proto::Sctp(track) = &mut conn.proto else { return Err(InvalidReason::Malformed) };
    let Some(old) = track.follow(direction, segment, confirmed)? else { return Ok(false) };
    let new = track.state;
    conn.refresh(new.timeout(settings), now);
    // By a COOKIE ACK, or by the answer to a HEARTBEAT.
    if old != ES && new == ES && direction == Direction::Reply {
        conn.status.set(Status::ASSURED);
    }
    Ok(true)
}
