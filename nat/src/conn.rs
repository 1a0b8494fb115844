//! A connection: two tuples and what is known of the flow between them.

use std::fmt;
use std::time::Duration;

use tidegate_packet::{Addr, Instant};

use crate::event::Changes;
use crate::extra::Extra;
use crate::mapping;
use crate::pair::Pair;
use crate::sctp::{SctpState, SctpTrack};
use crate::settings::Settings;
use crate::tcp::{TcpState, TcpTrack};
use crate::{Manip, Tuple};

/// Which way of a connection a packet goes.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// As the first packet.
    Original,
    /// Against it.
    Reply,
}

impl Direction {
    /// The other way.
    #[inline]
    pub const fn other(self) -> Self {
        match self {
            Self::Original => Self::Reply,
            Self::Reply => Self::Original,
        }
    }

    #[inline]
    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

/// What has happened to a connection, as `--ctstatus` names it.
#[derive(Copy, Clone, PartialEq, Eq, Default)]
pub struct Status(u16);

impl Status {
    /// Was expected by a helper.
    pub const EXPECTED: Self = Self(1 << 0);
    /// Packets went both ways.
    pub const SEEN_REPLY: Self = Self(1 << 1);
    /// Not to be dropped early.
    pub const ASSURED: Self = Self(1 << 2);
    /// In the table.
    pub const CONFIRMED: Self = Self(1 << 3);
    /// The source is translated.
    pub const SNAT: Self = Self(1 << 4);
    /// The destination is translated.
    pub const DNAT: Self = Self(1 << 5);
    /// It is decided whether the source is translated.
    pub const SNAT_DONE: Self = Self(1 << 7);
    /// It is decided whether the destination is translated.
    pub const DNAT_DONE: Self = Self(1 << 8);
    /// Its sequence numbers are shifted on their way.
    pub const SEQ_ADJUST: Self = Self(1 << 6);
    /// No longer in the table; only a packet on its way still holds it.
    pub const DYING: Self = Self(1 << 9);
    /// Packets don't prolong it.
    pub const FIXED_TIMEOUT: Self = Self(1 << 10);
    /// A rule has given it a helper.
    pub const HELPER: Self = Self(1 << 13);
    /// Somebody else handles its packets ([`crate::lease`]). Nobody outside sees it.
    pub(crate) const LEASED: Self = Self(1 << 14);
    /// Its addresses are IPv6 and stand in [`Rare`]. No bit of the kernel's: nobody outside sees it.
    pub(crate) const V6: Self = Self(1 << 15);

    /// Whether all of `other`'s bits are set.
    #[inline]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any of `other`'s bits is set.
    #[inline]
    pub const fn any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The bits, in the kernel's places (`IPS_*`), as conntrack listings number them.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Both sets of bits.
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The set with these bits.
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// These bits without `other`'s.
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(crate) fn set(&mut self, other: Self) {
        self.0 |= other.0;
    }

    pub(crate) fn clear(&mut self, other: Self) {
        self.0 &= !other.0;
    }

    /// The bit that says a manipulation changes something.
    pub(crate) const fn nat(manip: Manip) -> Self {
        match manip {
            Manip::Source => Self::SNAT,
            Manip::Destination => Self::DNAT,
        }
    }

    /// The bit that says a manipulation is decided.
    pub(crate) const fn done(manip: Manip) -> Self {
        match manip {
            Manip::Source => Self::SNAT_DONE,
            Manip::Destination => Self::DNAT_DONE,
        }
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [(Status, &str); 12] = [
            (Status::EXPECTED, "EXPECTED"),
            (Status::SEEN_REPLY, "SEEN_REPLY"),
            (Status::ASSURED, "ASSURED"),
            (Status::CONFIRMED, "CONFIRMED"),
            (Status::SNAT, "SNAT"),
            (Status::DNAT, "DNAT"),
            (Status::SEQ_ADJUST, "SEQ_ADJUST"),
            (Status::SNAT_DONE, "SNAT_DONE"),
            (Status::DNAT_DONE, "DNAT_DONE"),
            (Status::DYING, "DYING"),
            (Status::FIXED_TIMEOUT, "FIXED_TIMEOUT"),
            (Status::HELPER, "HELPER"),
        ];
        f.debug_set()
            .entries(NAMES.iter().filter(|(bit, _)| self.has(*bit)).map(|(_, name)| name))
            .finish()
    }
}

/// Packets and bytes of one direction.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
pub struct Counters {
    /// Packets; a super-packet counts once.
    pub packets: u64,
    /// Bytes from the IP header on.
    pub bytes: u64,
}

/// What a protocol keeps for each connection.
#[derive(Clone, Debug)]
pub(crate) enum Proto {
    /// Nothing.
    Plain,
    /// When the connection was made.
    Udp {
        start: Instant,
        /// Under which rules its destination was decided ([`crate::Conntrack::rules_changed`]).
        rules: u32,
    },
    /// States and tags.
    Sctp(SctpTrack),
    /// States and windows.
    Tcp(TcpTrack),
}

/// What few connections need, or only those of IPv6.
#[derive(Clone, Debug)]
pub(crate) struct Rare {
    /// Source and destination of both directions, with [`Status::V6`].
    pub(crate) addrs: [[Addr; 2]; 2],
    /// Whether packets and bytes are counted.
    pub(crate) counted: bool,
    pub(crate) accounting: [Counters; 2],
    /// Whether it is remembered when the connection began.
    pub(crate) stamped: bool,
    pub(crate) started: Option<Instant>,
    /// Endpoint-independent mappings that translate its source and its destination.
    pub(crate) mappings: [u32; 2],
    pub(crate) extra: Option<Box<Extra>>,
}

impl Default for Rare {
    fn default() -> Self {
        Self {
            addrs: [[Addr::UNSPECIFIED_V6; 2]; 2],
            counted: false,
            accounting: [Counters::default(); 2],
            stamped: false,
            started: None,
            mappings: [mapping::NONE; 2],
            extra: None,
        }
    }
}

/// No interface has this number.
const NOT_MASQUERADED: u32 = u32::MAX;

/// A tracked connection.
///
/// Gateways hold a million of them, so it is kept small, and what a packet of an established flow
/// needs of it but for its protocol's part stands in its first 64 bytes. The two tuples are taken
/// apart for that (`pair.rs`).
#[derive(Clone, Debug)]
#[repr(C)]
pub struct Connection {
    /// Tuples, original then reply, but for what is in `protocol` and, of IPv6, in `rare`.
    pub(crate) pair: Pair,
    /// When it ends if no packet comes. Before [`Status::CONFIRMED`] it counts from zero, since
    /// the time begins when the first packet leaves.
    pub(crate) deadline: Instant,
    pub(crate) rare: Option<Box<Rare>>,
    pub(crate) status: Status,
    /// Of both tuples.
    pub(crate) protocol: u8,
    /// What has changed since the last event, while anybody listens.
    pub(crate) pending: Changes,
    pub(crate) mark: u32,
    /// What was decided about each direction ([`crate::known`]).
    pub(crate) paths: [u32; 2],
    /// The egress interface, if it was masqueraded; [`NOT_MASQUERADED`] else.
    masqueraded: u32,
    /// Tells it from others that had or will have its slot.
    pub(crate) generation: u32,
    pub(crate) proto: Proto,
    /// Neighbours in the chain of translated connections with the same original source.
    pub(crate) same_source: [u32; 2],
}

impl Connection {
    pub(crate) fn new(original: Tuple, reply: Tuple, proto: Proto, acct: bool) -> Self {
        let mut conn = Self {
            pair: Pair::default(),
            deadline: Instant::ZERO,
            rare: acct.then(|| Box::new(Rare { counted: true, ..Rare::default() })),
            status: Status::default(),
            protocol: original.protocol,
            pending: Changes::default(),
            mark: 0,
            paths: [crate::NO_PATH; 2],
            masqueraded: NOT_MASQUERADED,
            generation: 0,
            same_source: [crate::store::NONE; 2],
            proto,
        };
        if !original.src.is_v4() {
            conn.status.set(Status::V6);
        }
        conn.set_tuple(Direction::Original, &original);
        conn.set_tuple(Direction::Reply, &reply);
        conn
    }

    /// Status bits.
    #[inline]
    pub fn status(&self) -> Status {
        self.status.without(Status::V6.with(Status::LEASED))
    }

    /// Endpoint-independent mappings that translate its source and its destination.
    #[inline]
    pub(crate) fn mappings(&self) -> [u32; 2] {
        self.rare.as_ref().map_or([mapping::NONE; 2], |rare| rare.mappings)
    }

    pub(crate) fn set_mapping(&mut self, manip: usize, id: u32) {
        if id != mapping::NONE || self.rare.is_some() {
            self.rare.get_or_insert_default().mappings[manip] = id;
        }
    }

    /// Remembers the egress interface.
    pub(crate) fn set_masqueraded(&mut self, interface: u32) {
        self.masqueraded = interface;
    }

    /// The connection's mark.
    #[inline]
    pub fn mark(&self) -> u32 {
        self.mark
    }

    /// The egress interface it was masqueraded for.
    pub fn masqueraded(&self) -> Option<u32> {
        (self.masqueraded != NOT_MASQUERADED).then_some(self.masqueraded)
    }

    /// Packets and bytes, original then reply; zero unless [`crate::Settings::acct`] was set when
    /// the connection began.
    pub fn accounting(&self) -> [Counters; 2] {
        self.rare.as_ref().map(|r| r.accounting).unwrap_or_default()
    }

    /// As [`Connection::accounting`]; `None` if nothing is counted.
    pub fn counted(&self) -> Option<[Counters; 2]> {
        self.rare.as_ref().filter(|r| r.counted).map(|r| r.accounting)
    }

    /// When it entered the table, if [`crate::Settings::timestamp`] was set then.
    pub fn started(&self) -> Option<Instant> {
        self.rare.as_ref().and_then(|r| r.started)
    }

    /// Makes room for what the settings want to be kept of a new connection.
    pub(crate) fn extend(&mut self, settings: &Settings) {
        if settings.acct || settings.timestamp {
            let rare = self.rare.get_or_insert_default();
            (rare.counted, rare.stamped) = (settings.acct, settings.timestamp);
        }
    }

    /// It enters the table.
    pub(crate) fn start(&mut self, now: Instant) {
        if let Some(rare) = self.rare.as_mut().filter(|rare| rare.stamped) {
            rare.started = Some(now);
        }
    }

    /// The TCP state, for TCP.
    pub fn tcp_state(&self) -> Option<TcpState> {
        self.tcp().map(TcpTrack::state)
    }

    /// The SCTP state, for SCTP.
    pub fn sctp_state(&self) -> Option<SctpState> {
        match &self.proto {
            Proto::Sctp(track) => Some(track.state),
            _ => None,
        }
    }

    /// The verification tags that packets must have, original then reply, for SCTP.
    pub fn sctp_tags(&self) -> Option<[u32; 2]> {
        match &self.proto {
            Proto::Sctp(track) => Some(track.tags),
            _ => None,
        }
    }

    #[inline]
    pub(crate) fn tcp(&self) -> Option<&TcpTrack> {
        match &self.proto {
            Proto::Tcp(tcp) => Some(tcp),
            _ => None,
        }
    }

    /// Time left until it expires.
    pub fn time_left(&self, now: Instant) -> Duration {
        if self.status.has(Status::CONFIRMED) {
            self.deadline - now
        } else {
            self.deadline - Instant::ZERO
        }
    }

    /// Whether the connection has been translated at either end.
    pub fn is_translated(&self) -> bool {
        self.status.any(Status::SNAT.with(Status::DNAT))
    }

    #[inline]
    pub(crate) fn is_expired(&self, now: Instant) -> bool {
        self.status.has(Status::CONFIRMED) && self.deadline <= now
    }

    /// Lets the connection live for `timeout` from now on. Before confirmation the time is kept
    /// and begins to run later.
    #[inline]
    pub(crate) fn refresh(&mut self, timeout: Duration, now: Instant) {
        // `nf_ct_refresh`: the time that was set by hand stays.
        if self.status.has(Status::FIXED_TIMEOUT) {
            return;
        }
        let from = if self.status.has(Status::CONFIRMED) { now } else { Instant::ZERO };
        self.deadline = from + timeout;
    }

    #[inline]
    pub(crate) fn count(&mut self, direction: Direction, bytes: u32) {
        self.count_many(direction, Counters { packets: 1, bytes: u64::from(bytes) });
    }

    #[inline]
    pub(crate) fn count_many(&mut self, direction: Direction, counted: Counters) {
        if let Some(rare) = self.rare.as_mut().filter(|rare| rare.counted) {
            let counters = &mut rare.accounting[direction.index()];
            counters.packets += counted.packets;
            counters.bytes += counted.bytes;
        }
    }

    /// Whether it may be thrown out when the table is full: nothing came back yet, or (TCP) it is
    /// closing anyway.
    pub(crate) fn may_drop_early(&self) -> bool {
        if !self.status.has(Status::ASSURED) {
            return true;
        }
        self.tcp().is_some_and(|tcp| tcp.state().is_closing())
            || self.sctp_state().is_some_and(SctpState::is_closing)
    }
}
