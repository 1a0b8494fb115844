//! The short way of packets whose connection is known and whose fate is decided: what
//! [`Conntrack::track`] and the two calls of [`Conntrack::translate`] do to them, without what these
//! have to find out first.
//!
//! What was decided about a direction of a connection has a number, the *path*, which means
//! something to whoever gives it. It is lost with every change of what rules can see of the
//! connection: status, mark, labels, whatever is in [`crate::extra`].

use tidegate_packet::checksum::Field;
use tidegate_packet::{Instant, Plain};

use crate::ahead::Sought;
use crate::conn::{Connection, Status};
use crate::settings::Settings;
use crate::slots::{Located, conn_of};
use crate::table::Conntrack;
use crate::tracked::{ConnId, Entry, InvalidReason, Role, State, Tracked};
use crate::{Direction, Tuple, early, tcp, translate, udp};

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

/// What is known of a packet whose connection was sought in vain.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Missed {
    /// Its tuple's, outside zones.
    pub(crate) hash: u64,
    /// There was nothing under that hash in the table, when it stood at this
    /// ([`Conntrack::entries_so_far`]).
    absent: Option<u64>,
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
    /// [`Conntrack::seek`] tells what it is sought by.
    #[inline(always)]
    pub fn known<const V6: bool>(
        &self,
        sought: &Sought,
        plain: &Plain<V6>,
        packet: &[u8],
        now: Instant,
    ) -> Result<Known, Missed> {
        let hash = sought.hash;
        let entry = match sought.entries[0] {
            // What looks like it is it nearly always.
            Located::NOWHERE => match self.index.find(hash, |entry| entry.has(hash)) {
                Some(entry) => *entry,
                None => return Err(Missed { hash, absent: Some(self.entries_so_far()) }),
            },
            guess => guess,
        };
        match self.met(entry, plain, packet, now) {
            None => self
                .known_for_certain(hash, *plain, packet, now)
                .ok_or(Missed { hash, absent: None }),
            Some(known) => Ok(known),
        }
    }

    /// Which table it is and how many connections have ever entered it: as long as it stays the same,
    /// what wasn't there isn't there.
    #[inline]
    fn entries_so_far(&self) -> u64 {
        u64::from(self.number) << 56 | self.entered
    }

    /// Whether no tuple outside all zones has the hash of a packet's that was missed.
    #[inline]
    pub(crate) fn is_absent(&self, missed: Missed) -> bool {
        missed.absent == Some(self.entries_so_far())
    }

    #[cold]
    fn known_for_certain<const V6: bool>(
        &self,
        hash: u64,
        plain: Plain<V6>,
        packet: &[u8],
        now: Instant,
    ) -> Option<Known> {
        let mut known = None;
        self.index.find(hash, |&entry| {
            known = self.met(entry, &plain, packet, now);
            known.is_some()
        })?;
        known
    }

    /// What an entry of the index leads to, if it is the packet's connection and outside all zones.
    #[inline(always)]
    fn met<const V6: bool>(
        &self,
        entry: Located,
        plain: &Plain<V6>,
        packet: &[u8],
        now: Instant,
    ) -> Option<Known> {
        let (conn, way) = (entry.conn(&self.slots)?, entry.way());
        if !conn.has_plain(way, plain, packet)
            || conn.zones()[way.index()] != 0
            || conn.is_expired(now)
        {
            return None;
        }
        // Of a flow that is its own answer, netfilter finds the reply first.
        let own_answer = plain.sport == plain.dport && {
            let [src, dst] = plain.addrs(packet);
            src == dst
        };
        let direction = if own_answer { Direction::Reply } else { way };
        let id = ConnId { slot: entry.slot(), generation: conn.generation };
        Some(Known { id, direction, path: conn.path(direction) })
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

    /// Tracks a packet whose connection has just been found, and sends it on if nothing has changed
    /// with it: rewrites both ends, takes one off its TTL or hop limit, and mends the checksums.
    /// `verify` and `field` are about the transport checksum. Padding may follow the packet.
    #[inline(always)]
    pub fn pass_on<const V6: bool>(
        &mut self,
        known: Known,
        plain: &Plain<V6>,
        packet: &mut [u8],
        (verify, field): (bool, Field),
        now: Instant,
    ) -> Judged {
        self.mappings.seen = now;
        let verify = verify && self.settings.checksum;
        if let Err(reason) = early::check_plain(plain, packet, verify) {
            return self.invalid(reason);
        }
        let mut steady = false;
        if let Some(conn) = conn_of(&mut self.slots, known.id) {
            let armed = conn.deadline;
            steady = is_steady(conn, known.direction, plain, packet, &self.settings, now);
            if steady {
                translate::pass_on(conn, known.direction, plain, packet, field);
                let deadline = conn.deadline;
                if deadline < armed {
                    self.wheel.arm(known.id.slot, deadline);
                }
            }
        }
        if !steady {
            match self.judge(known, *plain, packet, field, now) {
                Judged::Steady => {}
                other => return other,
            }
        }
        if self.events.wanted() {
            self.tell_known(known);
        }
        Judged::Steady
    }

    /// What [`Conntrack::pass_on`] does with other packets.
    #[cold]
    fn judge<const V6: bool>(
        &mut self,
        known: Known,
        plain: Plain<V6>,
        packet: &mut [u8],
        field: Field,
        now: Instant,
    ) -> Judged {
        let Known { id, direction, path } = known;
        let (transport, segment) = (plain.as_transport(), plain.segment(packet));
        let tracked = match self.packet_of(id, direction, transport, plain.len, segment, now) {
            Ok(Some(tracked)) => tracked,
            Ok(None) => return Judged::Gone,
            Err(reason) => return self.invalid(reason),
        };
        match self.get(id).filter(|conn| conn.path(direction) == path) {
            Some(conn) if tracked.id().is_some() => {
                translate::pass_on(conn, direction, &plain, packet, field);
                Judged::Steady
            }
            _ => Judged::Changed(tracked),
        }
    }

    #[cold]
    fn invalid(&mut self, reason: InvalidReason) -> Judged {
        self.stats.count_invalid(reason, false);
        Judged::Changed(Tracked::invalid(reason))
    }

    #[cold]
    fn tell_known(&mut self, Known { id, direction, .. }: Known) {
        let state = State::Established;
        self.tell_changes(&Tracked {
            state,
            direction,
            entry: Entry::Known(id),
            role: Role::Member,
        });
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

/// What [`Conntrack::track`] does for most packets: those that do no more than prolong their
/// connection. False: it is another one, and nothing is done.
#[inline(always)]
fn is_steady<const V6: bool>(
    conn: &mut Connection,
    direction: Direction,
    plain: &Plain<V6>,
    packet: &[u8],
    settings: &Settings,
    now: Instant,
) -> bool {
    // The first answer changes the status; what is leased has to be taken back first.
    let first = direction == Direction::Reply && !conn.status.has(Status::SEEN_REPLY);
    if first || conn.status.has(Status::LEASED) {
        return false;
    }
    let steady = match plain.is_tcp() {
        true => tcp::steady(conn, direction, plain.segment(packet), settings, now),
        false => udp::steady(conn, settings, now),
    };
    if steady {
        conn.count(direction, plain.len);
    }
    steady
}

pub(crate) fn tuple<const V6: bool>(plain: Plain<V6>, packet: &[u8]) -> Tuple {
    let [src, dst] = plain.addrs(packet);
    let Plain { sport, dport, protocol, .. } = plain;
    Tuple { src, dst, sport, dport, protocol }
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
