//! What happens to connections, for whoever wants to be told: netfilter's `nf_conntrack_ecache`.
//!
//! While nobody listens, nothing is kept and a packet pays for one test. While somebody does, what
//! a packet changes is noted in its connection and becomes one event when the packet leaves, with
//! the connection as it is then. What a dropped packet has changed goes with the next event.
//!
//! Events wait in a bounded list for [`Conntrack::take_events`]. When it is full they are lost and
//! counted; packets never wait.

use std::fmt;

use tidegate_packet::Instant;

use crate::Tuple;
use crate::conn::{Connection, Status};
use crate::expect::Expectation;
use crate::sctp::SctpState;
use crate::table::Conntrack;
use crate::tcp::TcpState;
use crate::tracked::{ConnId, Entry, Tracked};

/// Most events that wait to be taken.
const EVENTS_MAX: usize = 32 * 1024;

/// What became of a connection.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// It is in the table now.
    New,
    /// Something about it has changed.
    Update,
    /// It is no longer in the table.
    Destroy,
}

/// What has changed about a connection: netfilter's `IPCT_*`.
#[derive(Copy, Clone, PartialEq, Eq, Default)]
pub struct Changes(u8);

impl Changes {
    /// The first answer has come.
    pub const REPLY: Self = Self(1 << 0);
    /// It is assured now.
    pub const ASSURED: Self = Self(1 << 1);
    /// The protocol's state.
    pub const STATE: Self = Self(1 << 2);
    /// The mark.
    pub const MARK: Self = Self(1 << 3);
    /// The labels.
    pub const LABEL: Self = Self(1 << 4);
    /// The helper.
    pub const HELPER: Self = Self(1 << 5);

    /// Whether all of `other` is among them.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether nothing has changed.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Both.
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [(Changes, &str); 6] = [
            (Changes::REPLY, "REPLY"),
            (Changes::ASSURED, "ASSURED"),
            (Changes::STATE, "STATE"),
            (Changes::MARK, "MARK"),
            (Changes::LABEL, "LABEL"),
            (Changes::HELPER, "HELPER"),
        ];
        let names = NAMES.iter().filter(|(bit, _)| self.has(*bit)).map(|(_, name)| name);
        f.debug_set().entries(names).finish()
    }
}

/// Something that happened to a connection.
#[derive(Clone, Debug)]
pub struct Event {
    /// What.
    pub kind: EventKind,
    /// What is different, for updates.
    pub changes: Changes,
    /// The connection's name; of one that is gone, the one it had.
    pub id: ConnId,
    /// When.
    pub at: Instant,
    /// The process that did it, if it was no packet.
    pub author: Option<u32>,
    /// The connection as it was then.
    pub connection: Connection,
}

/// Something that happened to an expectation: it is new, or no more.
#[derive(Clone, Debug)]
pub struct ExpectationEvent {
    /// [`EventKind::New`] or [`EventKind::Destroy`].
    pub kind: EventKind,
    /// When.
    pub at: Instant,
    /// The expectation.
    pub expectation: Expectation,
    /// The original direction of the connection that announced it.
    pub master: Tuple,
}

/// Events that wait.
#[derive(Debug, Default)]
pub(crate) struct Events {
    expectations: Vec<ExpectationEvent>,
    wanted: bool,
    pub(crate) author: Option<u32>,
    now: Instant,
    waiting: Vec<Event>,
    lost: u64,
}

impl Events {
    /// Whether anybody listens.
    #[inline]
    pub(crate) fn wanted(&self) -> bool {
        self.wanted
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn forget_since(&mut self, len: usize) {
        self.waiting.truncate(len);
    }

    pub(crate) fn push(
        &mut self,
        kind: EventKind,
        changes: Changes,
        id: ConnId,
        connection: &Connection,
    ) {
        if !self.wanted || !told(kind, changes, connection) {
            return;
        }
        if self.waiting.len() >= EVENTS_MAX {
            self.lost += 1;
            return;
        }
        let (at, author, connection) = (self.now, self.author, connection.clone());
        self.waiting.push(Event { kind, changes, id, at, author, connection });
    }

    /// An expectation of this master's has come or gone.
    pub(crate) fn push_expectation(
        &mut self,
        kind: EventKind,
        expectation: &Expectation,
        master: &Connection,
    ) {
        // `--expevents`: the kernel's `IPEXP_*`.
        let bit = u8::from(kind == EventKind::Destroy);
        if !self.wanted || master.expectation_event_mask().is_some_and(|m| m >> bit & 1 == 0) {
            return;
        }
        if self.expectations.len() >= EVENTS_MAX {
            self.lost += 1;
            return;
        }
        let (at, expectation, master) = (self.now, expectation.clone(), master.original());
        self.expectations.push(ExpectationEvent { kind, at, expectation, master });
    }
}

/// Whether an event is among those that a rule wants to be told of its connection
/// (`CT --ctevents`). The numbers are the kernel's `IPCT_*`.
fn told(kind: EventKind, changes: Changes, connection: &Connection) -> bool {
    let Some(mask) = connection.event_mask() else { return true };
    let bits = [
        (Changes::REPLY, 3),
        (Changes::ASSURED, 4),
        (Changes::STATE, 5),
        (Changes::HELPER, 6),
        (Changes::MARK, 7),
        (Changes::LABEL, 10),
    ];
    let wanted = |bit: u16| mask >> bit & 1 == 1;
    match kind {
        // `new,related`: which of them a connection is, its status says.
        EventKind::New => wanted(u16::from(connection.status.has(Status::EXPECTED))),
        EventKind::Destroy => wanted(2),
        EventKind::Update => bits.iter().any(|(change, bit)| changes.has(*change) && wanted(*bit)),
    }
}

/// What of a connection can change with a packet.
#[derive(Copy, Clone)]
pub(crate) struct Before {
    status: Status,
    state: Option<TcpState>,
    sctp: Option<SctpState>,
}

impl Before {
    #[inline]
    pub(crate) fn of(conn: &Connection) -> Self {
        Self { status: conn.status, state: conn.tcp_state(), sctp: conn.sctp_state() }
    }

    /// Notes in the connection what is different now.
    pub(crate) fn note(self, conn: &mut Connection) {
        let gained = |bit: Status| conn.status.has(bit) && !self.status.has(bit);
        let mut changes = conn.pending;
        if gained(Status::SEEN_REPLY) {
            changes = changes.with(Changes::REPLY);
        }
        if gained(Status::ASSURED) {
            changes = changes.with(Changes::ASSURED);
        }
        if (conn.tcp_state(), conn.sctp_state()) != (self.state, self.sctp) {
            changes = changes.with(Changes::STATE);
        }
        conn.pending = changes;
    }
}

impl Conntrack {
    /// Whether events are kept from now on. Switching it off forgets those that wait.
    pub fn listen(&mut self, wanted: bool, now: Instant) {
        self.events.now = now;
        if self.events.wanted != wanted {
            self.events = Events { wanted, now, ..Events::default() };
        }
    }

    /// Says what time it is, for events.
    #[inline]
    pub fn set_event_time(&mut self, now: Instant) {
        self.events.now = now;
    }

    /// Whether [`Conntrack::take_events`] has something.
    #[inline]
    pub fn has_events(&self) -> bool {
        !self.events.waiting.is_empty() || !self.events.expectations.is_empty()
    }

    /// The events since the last call, oldest first, and how many more there would have been.
    pub fn take_events(&mut self) -> (Vec<Event>, u64) {
        let lost = std::mem::take(&mut self.events.lost);
        (std::mem::take(&mut self.events.waiting), lost)
    }

    /// The events of expectations since the last call, oldest first.
    pub fn take_expectation_events(&mut self) -> Vec<ExpectationEvent> {
        std::mem::take(&mut self.events.expectations)
    }

    /// At the end of a packet's way: tells what it has changed.
    pub(crate) fn tell_changes(&mut self, tracked: &Tracked) {
        let Entry::Known(id) = tracked.entry else { return };
        let Some(conn) = crate::slots::conn_of(&mut self.slots, id) else { return };
        let changes = std::mem::take(&mut conn.pending);
        if !changes.is_empty() {
            self.events.push(EventKind::Update, changes, id, conn);
        }
    }
}
