//! What an administrator does to connections: netfilter's `nf_conntrack_netlink`.

use std::time::Duration;

use tidegate_packet::{Addr, Instant, protocol};

use crate::Tuple;
use crate::conn::{Connection, Counters, Direction, Proto, Status};
use crate::event::{Changes, EventKind};
use crate::slots::conn_of;
use crate::table::Conntrack;
use crate::tcp::{TcpState, TcpTrack};
use crate::tracked::{ConnId, Entry, Role, Tracked};

/// What may be set of a connection. What is absent stays.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// Its mark: the bits to change, and what they become.
    pub mark: Option<(u32, u32)>,
    /// How long it lives from now on if no packet comes.
    pub timeout: Option<Duration>,
    /// Status bits to be added; only [`Update::STATUS`] can be.
    pub status: Option<u16>,
    /// The TCP state.
    pub state: Option<TcpState>,
    /// Labels to set.
    pub add_labels: u128,
    /// Labels to take away.
    pub del_labels: u128,
}

impl Update {
    /// The bits that may be added by hand.
    pub const STATUS: Status = Status::SEEN_REPLY.with(Status::ASSURED).with(Status::FIXED_TIMEOUT);
}

/// A connection to be made.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Create {
    /// Its original direction.
    pub original: Tuple,
    /// Its reply direction; other than the inverse of the original one where it is translated.
    pub reply: Tuple,
    /// How long it lives if no packet comes.
    pub timeout: Duration,
    /// Status bits out of [`Update::STATUS`].
    pub status: u16,
    /// Its mark.
    pub mark: u32,
    /// The TCP state, for TCP.
    pub state: Option<TcpState>,
    /// Its zones, original then reply.
    pub zones: [u16; 2],
    /// Its labels.
    pub labels: u128,
}

/// Why something can't be done.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no such connection.
    #[error("no such connection")]
    Absent,
    /// One of the tuples is taken.
    #[error("the connection exists")]
    Exists,
    /// The table is full and nothing may be thrown out.
    #[error("connection table full")]
    Full,
    /// The connection has no helper that could expect anything.
    #[error("connection without a helper")]
    Unsupported,
    /// Somebody else expects the same.
    #[error("expected by another")]
    Busy,
    /// The parts contradict each other.
    #[error("invalid parameters")]
    Invalid,
}

impl Conntrack {
    /// Under which rules packets pass from now on. With other ones than before, the nat table may
    /// say something else: see [`Conntrack::second_look`].
    pub fn set_rules(&mut self, number: u32) {
        self.rules = number;
    }

    /// Once after each change of rules: where the packets of a UDP flow in its original direction
    /// go now, with which port. The kernel keeps a flow as it was until nothing passes for a while,
    /// which for a flow that is kept alive is never.
    #[inline]
    pub fn second_look(&mut self, tracked: &Tracked) -> Option<(Addr, u16)> {
        let Entry::Known(id) = tracked.entry else { return None };
        if tracked.direction == Direction::Reply || tracked.role != Role::Member {
            return None;
        }
        let current = self.rules;
        let conn = conn_of(&mut self.slots, id)?;
        let Proto::Udp { rules, .. } = &mut conn.proto else { return None };
        if *rules == current {
            return None;
        }
        *rules = current;
        let reply = conn.reply();
        Some((reply.src, reply.sport))
    }

    /// Names the process whose doing the next changes are, until called again with `None`.
    pub fn set_author(&mut self, author: Option<u32>) {
        self.events.author = author;
    }

    /// How many places for connections there are: what [`Conntrack::page`] counts in.
    pub fn places(&self) -> usize {
        self.slots.places()
    }

    /// Copies of the connections in `count` places from `first` on, those whose time is over
    /// excepted. What happens between two calls may be seen in part or twice or not at all, as
    /// with the kernel's dumps.
    pub fn page(
        &self,
        first: usize,
        count: usize,
        now: Instant,
        mut each: impl FnMut(ConnId, &Connection),
    ) {
        let end = first.saturating_add(count);
        for (id, conn) in self.slots.from(first).take_while(|(id, _)| (id.slot as usize) < end) {
            if !conn.is_expired(now) {
                each(id, conn);
            }
        }
    }

    /// Changes a connection.
    pub fn update(&mut self, id: ConnId, update: &Update, now: Instant) -> Result<(), Refused> {
        self.end_lease(id);
        let Some(conn) = conn_of(&mut self.slots, id) else { return Err(Refused::Absent) };
        let armed = conn.deadline;
        conn.forget_paths();
        // The kernel reports everything that could have been changed this way.
        let mut changes =
            Changes::REPLY.with(Changes::ASSURED).with(Changes::STATE).with(Changes::MARK);
        if let Some(bits) = update.status {
            if Status::from_bits(bits).without(Update::STATUS) != Status::default() {
                return Err(Refused::Invalid);
            }
            conn.status.set(Status::from_bits(bits));
        }
        if let (Some(state), Proto::Tcp(track)) = (update.state, &mut conn.proto) {
            track.set_state(state);
        }
        if let Some((mask, value)) = update.mark {
            conn.mark = (conn.mark & !mask) ^ value;
        }
        if update.add_labels | update.del_labels != 0 {
            let extra = conn.make_extra();
            extra.labels = extra.labels & !update.del_labels | update.add_labels;
            changes = changes.with(Changes::LABEL);
        }
        if let Some(timeout) = update.timeout {
            conn.deadline = now + timeout;
        }
        let deadline = conn.deadline;
        conn.pending = Changes::default();
        self.events.push(EventKind::Update, changes, id, conn);
        if deadline < armed {
            self.wheel.arm(id.slot, deadline);
        }
        Ok(())
    }

    /// Sets a connection's packet and byte counters to zero.
    pub fn zero_counters(&mut self, id: ConnId) {
        self.settle_lease(id.slot, false);
        if let Some(rare) = conn_of(&mut self.slots, id).and_then(|conn| conn.rare.as_mut()) {
            rare.accounting = [Counters::default(); 2];
        }
    }

    /// Makes a connection.
    pub fn create(&mut self, create: &Create, now: Instant) -> Result<ConnId, Refused> {
        let Create { original, reply, timeout, status, mark, state, zones, labels } = *create;
        let consistent = original.protocol == reply.protocol
            && original.src.family() == original.dst.family()
            && reply.src.family() == original.src.family()
            && reply.dst.family() == original.src.family()
            && (original.protocol == protocol::TCP) == state.is_some();
        let status = Status::from_bits(status);
        if !consistent || status.without(Update::STATUS) != Status::default() {
            return Err(Refused::Invalid);
        }
        if self.holder(&original, zones, Direction::Original, now).is_some()
            || self.holder(&reply, zones, Direction::Reply, now).is_some()
        {
            return Err(Refused::Exists);
        }
        if self.settings.max != 0 && self.total() >= self.settings.max as usize {
            self.make_room(now).ok_or(Refused::Full)?;
        }
        let proto = match (original.protocol, state) {
            (protocol::TCP, Some(state)) => Proto::Tcp(TcpTrack::by_hand(state)),
            (protocol::UDP, _) => Proto::Udp { start: now, rules: self.rules },
            _ => Proto::Plain,
        };
        let mut conn = Connection::new(original, reply, proto, false);
        conn.extend(&self.settings);
        conn.start(now);
        conn.mark = mark;
        if zones != [0; 2] || labels != 0 {
            let extra = conn.make_extra();
            (extra.zones, extra.labels) = (zones, labels);
        }
        conn.status
            .set(status.with(Status::CONFIRMED).with(Status::SNAT_DONE).with(Status::DNAT_DONE));
        if original.inverse() != Some(reply) {
            if (reply.dst, reply.dport) != (original.src, original.sport) {
                conn.status.set(Status::SNAT);
            }
            if (reply.src, reply.sport) != (original.dst, original.dport) {
                conn.status.set(Status::DNAT);
            }
        }
        conn.deadline = now + timeout;
        let copy = self.events.wanted().then(|| conn.clone());
        let id = self.insert(conn);
        self.stats.insert += 1;
        if let Some(conn) = copy {
            let changes = Changes::STATE.with(Changes::MARK);
            self.events.push(EventKind::New, changes, id, &conn);
        }
        Ok(id)
    }

    /// The connection that has this tuple in this direction.
    pub fn find_exactly(
        &self,
        tuple: &Tuple,
        zones: [u16; 2],
        direction: Direction,
        now: Instant,
    ) -> Option<ConnId> {
        self.find_in(tuple, zones, now).filter(|(_, d)| *d == direction).map(|(id, _)| id)
    }
}
