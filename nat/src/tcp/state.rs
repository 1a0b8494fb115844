//! TCP's states: what a segment is, and which state it leads to.
//!
//! Both directions of `NEXT` stand beside each other as in netfilter's `nf_conntrack_proto_tcp`,
//! with the same ten states, so that one can be read against the other.

use std::time::Duration;

use tidegate_packet::tcp::{ACK, FIN, RST, SYN};

use crate::conn::Direction;
use crate::settings::Settings;

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

    pub(super) fn timeout(self, settings: &Settings) -> Duration {
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
    pub(super) fn of(flags: u8) -> Self {
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
pub(super) enum Next {
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

/// Where a segment leads.
pub(super) fn next(direction: Direction, kind: Kind, state: TcpState) -> Next {
    NEXT[direction.index()][kind as usize][state as usize]
}
