//! The short way of packets whose connection is known and whose fate is decided: what
//! [`Conntrack::track`] and the two calls of [`Conntrack::translate`] do to them, without what these
//! have to find out first.
//!
//! What was decided about a direction of a connection has a number, the *path*, which means
//! something to whoever gives it. It is lost with every change of what rules can see of the
//! connection: status, mark, labels, whatever is in [`crate::extra`].

use tidegate_packet::checksum::Field;
use tidegate_packet::{Family, Instant, Plain};

use crate::conn::{Connection, Status};
use crate::slots::{conn_at, conn_of, way_of};
use crate::table::Conntrack;
use crate::tracked::{ConnId, Entry, InvalidReason, Role, Tracked};
use crate::{Direction, Tuple, tcp, translate, udp};

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
    /// It is one of its packets, and nothing is different for rules. It is translated and has made its
    /// hop: it stands as it leaves.
    Steady,
    /// Rules may see something else now. This is what [`Conntrack::track`] would have said; the packet
    /// is as it was.
    Changed(Tracked),
    /// Its connection has come to its end, and it has still to be tracked.
    Gone,
}

impl Conntrack {
    /// The connection of a packet outside all zones, if there is one and its time isn't over.
    #[inline(always)]
    pub fn known(&self, plain: &Plain, packet: &[u8], now: Instant) -> Option<Known> {
        let hash = match plain.family {
            Family::V4 => self.key.v4(plain.v4, [plain.sport, plain.dport], plain.protocol),
            Family::V6 => self.key.tuple(&tuple(*plain, packet)),
        };
        let mut found = None;
        self.index.find(hash, |&entry| {
            let conn = conn_at(&self.slots, entry);
            found = conn.and_then(|conn| met(conn, entry, plain, packet));
            found.is_some()
        })?;
        let (conn, known) = found?;
        (!conn.is_expired(now)).then_some(known)
    }

    /// Remembers what was decided about a direction.
    pub fn set_path(&mut self, id: ConnId, direction: Direction, path: u32) {
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

    /// Tracks a packet whose connection has just been found, and sends it on if nothing has changed
    /// with it: rewrites both ends, takes one off its TTL or hop limit, and mends the checksums.
    /// `verify` and `field` are about the transport checksum. `packet` may be followed by padding.
    #[inline(always)]
    pub fn pass_on(
        &mut self,
        known: &Known,
        plain: &Plain,
        packet: &mut [u8],
        verify: bool,
        field: Field,
        now: Instant,
    ) -> Judged {
        self.mappings.seen = now;
        let verify = verify && self.settings.checksum;
        if let Err(reason) = check(plain, packet, verify) {
            return self.invalid(reason);
        }
        if !self.is_steady(known, plain, packet, now) {
            match self.judge(*known, *plain, packet, now) {
                Judged::Steady => {}
                other => return other,
            }
        }
        if self.events.wanted() {
            let (state, direction) = (crate::State::Established, known.direction);
            let entry = Entry::Known(known.id);
            self.tell_changes(&Tracked { state, direction, entry, role: Role::Member });
        }
        if let Some(conn) = self.get(known.id) {
            translate::pass_on(conn, known.direction, plain, packet, field);
        }
        Judged::Steady
    }

    /// What [`Conntrack::track`] does for most packets: those that do no more than prolong their
    /// connection. False: it is another one, and nothing is done.
    #[inline(always)]
    fn is_steady(&mut self, known: &Known, plain: &Plain, packet: &[u8], now: Instant) -> bool {
        let Some(conn) = conn_of(&mut self.slots, known.id) else { return false };
        // Of one that has seen no answer yet, none of those who ask may be the answer.
        let unanswered = !conn.status.has(Status::SEEN_REPLY);
        if unanswered && known.direction == Direction::Reply {
            return false;
        }
        let armed = conn.deadline;
        let steady = match plain.is_tcp() {
            true => tcp::steady(conn, known.direction, plain.segment(packet), &self.settings, now),
            false => udp::steady(conn, &self.settings, now),
        };
        if steady {
            conn.count(known.direction, plain.len);
            let deadline = conn.deadline;
            if deadline < armed {
                self.wheel.arm(known.id.slot, deadline);
            }
        }
        steady
    }

    /// The same for any packet that has passed [`check`].
    #[cold]
    fn judge(&mut self, known: Known, plain: Plain, packet: &[u8], now: Instant) -> Judged {
        let (transport, segment) = (plain.as_transport(), plain.segment(packet));
        match self.packet_of(known.id, known.direction, transport, plain.len, segment, now) {
            Ok(Some(tracked)) => {
                let steady = matches!(tracked.entry, Entry::Known(_))
                    && self.get(known.id).is_some_and(|c| c.path(known.direction) == known.path);
                if steady { Judged::Steady } else { Judged::Changed(tracked) }
            }
            Ok(None) => Judged::Gone,
            Err(reason) => self.invalid(reason),
        }
    }

    #[cold]
    fn invalid(&mut self, reason: InvalidReason) -> Judged {
        self.stats.count_invalid(reason, false);
        Judged::Changed(Tracked::invalid(reason))
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

/// The checks that come before any look-up.
#[inline(always)]
fn check(plain: &Plain, packet: &[u8], verify: bool) -> Result<(), InvalidReason> {
    match plain.is_tcp() {
        true => tcp::check_plain(plain, packet, verify),
        false => udp::check_plain(plain, packet, verify),
    }
}

fn tuple(plain: Plain, packet: &[u8]) -> Tuple {
    let [src, dst] = plain.addrs(packet);
    let Plain { sport, dport, protocol, .. } = plain;
    Tuple { src, dst, sport, dport, protocol }
}

/// A connection outside all zones that an entry of the index leads to, if it is the packet's.
#[inline(always)]
fn met<'a>(
    conn: &'a Connection,
    entry: u32,
    plain: &Plain,
    packet: &[u8],
) -> Option<(&'a Connection, Known)> {
    let way = way_of(entry);
    if !conn.has_plain(way, plain, packet) || conn.zones()[way.index()] != 0 {
        return None;
    }
    let own_answer = plain.sport == plain.dport && {
        let [src, dst] = plain.addrs(packet);
        src == dst
    };
    // Of a flow that is its own answer, netfilter finds the reply first.
    let direction = if own_answer { Direction::Reply } else { way };
    let id = ConnId { slot: entry / 2, generation: conn.generation };
    Some((conn, Known { id, direction, path: conn.path(direction) }))
}

impl Connection {
    #[inline(always)]
    fn path(&self, direction: Direction) -> u32 {
        self.paths[direction.index()]
    }

    /// What was decided about its packets counts no longer.
    #[inline]
    pub(crate) fn forget_paths(&mut self) {
        self.paths = [NO_PATH; 2];
    }
}
