//! What a `CT` rule says about the connection that its packet may start.

/// A `CT` rule without `--notrack`. It says nothing about connections that are known already.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
pub struct Tracking {
    /// Where the connection is kept apart from others.
    pub zone: Zone,
    /// Who reads along.
    pub helper: Option<Helper>,
    /// `--ctevents`: these events alone are told, a bit each in the order of [`EVENTS`].
    pub events: Option<u16>,
    /// `--expevents new`: of expectations their beginning alone is told.
    pub expectation_events: bool,
}

/// `--zone`, `--zone-orig`, `--zone-reply`: connections of different zones may have equal tuples.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    /// The zone's number.
    pub id: u16,
    /// The number is the lower half of the packet's mark (`mark` instead of a number).
    pub from_mark: bool,
    /// Whether the zone counts for the original direction.
    pub original: bool,
    /// Whether the zone counts for the reply direction.
    pub reply: bool,
}

impl Default for Zone {
    fn default() -> Self {
        Self { id: 0, from_mark: false, original: true, reply: true }
    }
}

/// Events that `--ctevents` knows, from the lowest bit on.
pub const EVENTS: [&str; 10] = [
    "new",
    "related",
    "destroy",
    "reply",
    "assured",
    "protoinfo",
    "helper",
    "mark",
    "natseqinfo",
    "secmark",
];

/// A helper: it reads a protocol's control messages and expects the connections they announce.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Helper {
    /// RFC 959, RFC 2428.
    Ftp,
    /// RFC 1350.
    Tftp,
    /// DCC over IRC.
    Irc,
    /// The Amanda backup protocol.
    Amanda,
    /// RFC 2637.
    Pptp,
    /// RFC 3261.
    Sip,
}

impl Helper {
    /// Every helper.
    pub const ALL: [Self; 6] =
        [Self::Ftp, Self::Tftp, Self::Irc, Self::Amanda, Self::Pptp, Self::Sip];

    /// As `--helper` names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ftp => "ftp",
            Self::Tftp => "tftp",
            Self::Irc => "irc",
            Self::Amanda => "amanda",
            Self::Pptp => "pptp",
            Self::Sip => "sip",
        }
    }
}
