//! The short way of packets whose connection is known and whose fate is decided: what
//! [`Conntrack::track`] and the two calls of [`Conntrack::translate`] do to them, without what these
//! have to find out first.
//!
//! What was decided about a direction of a connection has a number, the *path*, which means
//! something to whoever gives it. It is lost with every change of what rules can see of the
//! connection: status, mark, labels, whatever is in [`crate::extra`].

use tidegate_packet::checksum::Field;
use tidegate_packet::{Instant, Parsed, Transport, protocol};

use crate::conn::Connection;
use crate::slots::conn_of;
use crate::table::Conntrack;
use crate::tracked::{ConnId, Entry, Role, Tracked};
use crate::{Direction, Tuple, translate};

/// Nothing was decided.
pub const NO_PATH: u32 = 0;

/// A packet's connection, found by its tuple alone.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its name.
    pub id: ConnId,
    /// The packet's direction.
    pub direction: Direction,
    /// What was decided about that direction.
    pub path: u32,
}

/// What has become of a packet of a known connection.
#[derive(Debug)]
pub enum Judged {
    /// It is one of its packets, and nothing is different for rules.
    Steady,
    /// Rules may see something else now. This is what [`Conntrack::track`] would have said.
    Changed(Tracked),
    /// Its connection has come to its end, and it has still to be tracked.
    Gone,
}

impl Conntrack {
    /// The connection of a packet outside all zones, if there is one and its time isn't over.
    #[inline]
    pub fn known(&self, tuple: &Tuple, now: Instant) -> Option<Known> {
        let (id, direction) = self.find_in(tuple, [0; 2], now)?;
        let path = self.get(id)?.paths[direction.index()];
        Some(Known { id, direction, path })
    }

    /// Remembers what was decided about a direction.
    pub fn set_path(&mut self, id: ConnId, direction: Direction, path: u32) {
        self.lease_follows(id, direction, path);
        if let Some(conn) = conn_of(&mut self.slots, id) {
            conn.paths[direction.index()] = path;
        }
    }

    /// Forgets what was decided about all connections: numbers are going to be used again.
    pub fn forget_paths(&mut self) {
        self.slots.iter_mut().for_each(Connection::forget_paths);
    }

    /// The name and direction of a packet's connection if something may be decided about all of its
    /// packets: it is in the table and outside all zones, and nobody reads along or shifts numbers.
    pub fn may_have_path(&self, tracked: &Tracked) -> Option<(ConnId, Direction)> {
        let Entry::Known(id) = tracked.entry else { return None };
        let conn = self.get(id).filter(|_| tracked.role == Role::Member)?;
        let plain = conn.extra().is_none_or(|extra| {
            extra.zones == [0; 2]
                && extra.help.is_none()
                && extra.seqadj.is_none()
                && extra.handshake.is_none()
        });
        plain.then_some((id, tracked.direction))
    }

    /// Tracks a packet whose connection has just been found.
    #[inline]
    pub fn judge(
        &mut self,
        known: &Known,
        packet: &Parsed,
        bytes: &[u8],
        verify: bool,
        now: Instant,
    ) -> Judged {
        let verify = verify && self.settings.checksum;
        match self.judge_member(known, packet, bytes, verify, now) {
            Ok(Some(tracked)) => {
                let steady = matches!(tracked.entry, Entry::Known(_))
                    && self.get(known.id).is_some_and(|c| c.path(known.direction) == known.path);
                if steady { Judged::Steady } else { Judged::Changed(tracked) }
            }
            Ok(None) => Judged::Gone,
            Err(reason) => {
                self.stats.count_invalid(reason, false);
                Judged::Changed(Tracked::invalid(reason))
            }
        }
    }

    #[inline]
    fn judge_member(
        &mut self,
        known: &Known,
        packet: &Parsed,
        bytes: &[u8],
        verify: bool,
        now: Instant,
    ) -> Result<Option<Tracked>, crate::InvalidReason> {
        self.mappings.seen = now;
        let segment = packet.segment(bytes);
        match packet.protocol {
            protocol::TCP => crate::tcp::check(packet, segment, verify)?,
            _ => crate::udp::check(packet, segment, verify)?,
        }
        self.packet_of(known.id, known.direction, packet, segment, now)
    }

    /// Rewrites both ends of a packet that [`Conntrack::judge`] has called steady, and tells of what
    /// it has changed. Its header is known to be complete.
    #[inline]
    pub fn rewrite(&mut self, known: &Known, packet: &Parsed, bytes: &mut [u8], field: Field) {
        debug_assert!(matches!(packet.transport, Transport::Tcp { .. } | Transport::Udp { .. }));
        if let Some(conn) = self.get(known.id).filter(|conn| conn.is_translated()) {
            translate::both_ends(conn, known.direction, packet, bytes, field);
        }
        if self.events.wanted() {
            let (state, direction) = (crate::State::Established, known.direction);
            let entry = Entry::Known(known.id);
            self.tell_changes(&Tracked { state, direction, entry, role: Role::Member });
        }
    }

    /// A copy of a connection, for [`Conntrack::put_back`].
    pub fn take_down(&self, id: ConnId) -> Option<Connection> {
        self.get(id).cloned()
    }

    /// Makes a connection what it was when the copy was made, and forgets the events since the list
    /// had that length: a packet is tried twice.
    pub fn put_back(&mut self, id: ConnId, copy: Connection, events: usize) {
        if let Some(conn) = conn_of(&mut self.slots, id) {
            *conn = copy;
        }
        self.events.forget_since(events);
    }

    /// How many events wait.
    pub fn waiting_events(&self) -> usize {
        self.events.len()
    }
}

impl Connection {
    #[inline]
    fn path(&self, direction: Direction) -> u32 {
        self.paths[direction.index()]
    }

    /// What was decided about its packets counts no longer.
    #[inline]
    pub(crate) fn forget_paths(&mut self) {
        self.paths = [NO_PATH; 2];
    }
}
