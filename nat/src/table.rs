//! The table of connections and a packet's way through it.
//!
//! Connections live in numbered slots; the index holds a number and a direction for each tuple and
//! reads the tuple itself from the slot. A slot's generation tells a connection from a later one
//! in the same place, so a [`Tracked`] that outlives its connection finds nothing.

use hashbrown::HashTable;
use tidegate_packet::{Instant, Parsed, Transport, protocol};

use crate::conn::{Connection, Direction, Proto, Status};
use crate::expiry::Wheel;
use crate::hash::HashKey;
use crate::settings::Settings;
use crate::tcp::{self, TcpVerdict};
use crate::{Manip, Tuple, generic, icmp, icmp_error, udp};

/// No slot.
pub(crate) const NONE: u32 = u32::MAX;

/// A packet's relation to its connection, as `--ctstate` sees it.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Of a connection that has seen packets in one direction only.
    New,
    /// Of a connection that has seen packets both ways.
    Established,
    /// An error about a connection, or an answer that the gateway makes to one of its packets.
    Related,
    /// Of no connection, and fit to start none.
    Invalid(InvalidReason),
    /// Exempt from tracking.
    Untracked,
}

/// Why a packet is INVALID. Each is a counter's name.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum InvalidReason {
    /// A fragment that was not reassembled.
    #[error("fragment without transport header")]
    Fragment,
    /// The transport header is cut short or contradicts itself.
    #[error("malformed transport header")]
    Malformed,
    /// The transport checksum is wrong.
    #[error("bad transport checksum")]
    Checksum,
    /// The UDP length field is too small or too large.
    #[error("bad UDP length")]
    UdpLength,
    /// Flags that no TCP sends together.
    #[error("invalid TCP flags")]
    TcpFlags,
    /// This segment makes no sense in this state of the connection.
    #[error("TCP segment out of state")]
    TcpState,
    /// The segment can't start a connection.
    #[error("TCP segment without connection")]
    TcpNew,
    /// Sequence or acknowledgment number beyond the window.
    #[error("TCP segment out of window")]
    TcpWindow,
    /// A reset below the window.
    #[error("TCP reset out of window")]
    TcpReset,
    /// An ICMP message that is neither a query that opens a connection nor the answer to one.
    #[error("ICMP message without connection")]
    IcmpNew,
    /// An ICMP type that isn't known.
    #[error("unknown ICMP type")]
    IcmpType,
    /// An ICMP error whose quoted packet is damaged.
    #[error("ICMP error with a damaged quote")]
    IcmpQuote,
    /// An ICMP error about no connection.
    #[error("ICMP error about no connection")]
    IcmpNoConnection,
    /// An ICMP error that isn't addressed to the sender of the packet it quotes.
    #[error("ICMP error to somebody else")]
    IcmpAddress,
}

/// Names a connection in the table.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConnId {
    pub(crate) slot: u32,
    generation: u32,
}

/// What stays with a packet: its state, its direction, its connection.
#[derive(Clone, Debug)]
pub struct Tracked {
    pub(crate) state: State,
    pub(crate) direction: Direction,
    pub(crate) entry: Entry,
    pub(crate) role: Role,
}

/// Where the packet's connection is.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    None,
    /// Not in the table: new (this packet alone has it), or removed by this very packet.
    Own(Box<Connection>),
    Known(ConnId),
}

/// What the packet is to its connection.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// One of its packets.
    Member,
    /// An ICMP error about it.
    Error,
    /// The gateway's answer to one of its packets.
    Answer,
}

impl Tracked {
    /// A packet exempt from tracking (`NOTRACK`).
    pub const fn untracked() -> Self {
        Self::without(State::Untracked)
    }

    pub(crate) const fn invalid(reason: InvalidReason) -> Self {
        Self::without(State::Invalid(reason))
    }

    const fn without(state: State) -> Self {
        Self { state, direction: Direction::Original, entry: Entry::None, role: Role::Member }
    }

    /// The relation to the connection.
    #[inline]
    pub fn state(&self) -> State {
        self.state
    }

    /// The direction inside the connection; original where there is none.
    #[inline]
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// Whether it is an ICMP error about its connection.
    #[inline]
    pub fn is_error(&self) -> bool {
        self.role == Role::Error
    }

    /// The name of the connection, if it is in the table.
    #[inline]
    pub fn id(&self) -> Option<ConnId> {
        match self.entry {
            Entry::Known(id) => Some(id),
            _ => None,
        }
    }
}

/// What [`Conntrack::confirm`] did.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Confirmed {
    /// The packet has no connection, or its connection was in the table already.
    Nothing,
    /// The connection is in the table now.
    Inserted(ConnId),
    /// As `Inserted`; the table was full and another connection had to go.
    InsertedForAnother(ConnId),
}

/// Why the first packet of a connection must be dropped. Each is a drop reason.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ConfirmDrop {
    /// One of its tuples is taken by another connection.
    #[error("tuple is taken by another connection")]
    Clash,
    /// The table is full and nothing in it may be dropped.
    #[error("connection table full")]
    TableFull,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    conn: Option<Connection>,
}

/// The table of one worker.
#[derive(Debug)]
pub struct Conntrack {
    pub(crate) settings: Settings,
    key: HashKey,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Slot number and direction of each tuple: `slot * 2 + direction`.
    index: HashTable<u32>,
    /// Newest connection of each translated source: `find_appropriate_src` of netfilter.
    sources: HashTable<u32>,
    wheel: Wheel,
    /// Where the search for a victim goes on when the table is full.
    victim: u32,
}

impl Conntrack {
    /// An empty table. `hash_key` must be secret and random.
    pub fn new(settings: Settings, hash_key: [u64; 2]) -> Self {
        Self {
            settings,
            key: HashKey::new(hash_key),
            slots: Vec::new(),
            free: Vec::new(),
            index: HashTable::new(),
            sources: HashTable::new(),
            wheel: Wheel::new(),
            victim: 0,
        }
    }

    /// The settings in force.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The settings, to be changed: new timeouts count for packets that come later.
    pub fn settings_mut(&mut self) -> &mut Settings {
        &mut self.settings
    }

    /// Finds the connection of a packet at PREROUTING or OUTPUT, or starts one.
    ///
    /// `bytes` starts at the IP header. `verify` says that nobody has looked at the transport
    /// checksum (never for partial fields, never at OUTPUT).
    pub fn track(&mut self, packet: &Parsed, bytes: &[u8], verify: bool, now: Instant) -> Tracked {
        match self.try_track(packet, bytes, verify && self.settings.checksum, now) {
            Ok(tracked) => tracked,
            Err(reason) => Tracked::invalid(reason),
        }
    }

    fn try_track(
        &mut self,
        packet: &Parsed,
        bytes: &[u8],
        verify: bool,
        now: Instant,
    ) -> Result<Tracked, InvalidReason> {
        if packet.is_later_fragment() {
            return Err(InvalidReason::Fragment);
        }
        let segment = packet.segment(bytes);
        match packet.protocol {
            protocol::ICMP | protocol::ICMPV6 => match icmp::check(packet, segment, verify)? {
                icmp::Kind::Untracked => return Ok(Tracked::untracked()),
                icmp::Kind::Error => return icmp_error::track(self, packet, bytes, now),
                icmp::Kind::Query => {}
            },
            protocol::TCP => tcp::check(packet, segment, verify)?,
            protocol::UDP => udp::check(packet, segment, verify)?,
            protocol::SCTP => generic::check_sctp(segment, verify)?,
            protocol::UDPLITE => udp::check_lite(packet, segment, verify)?,
            _ => {}
        }
        let tuple = Tuple::of(packet, segment).ok_or(InvalidReason::Malformed)?;
        if let Some((id, direction)) = self.lookup(&tuple, now)
            && let Some(tracked) = self.packet_of(id, direction, packet, segment, now)?
        {
            return Ok(tracked);
        }
        self.start(tuple, packet, segment, now)
    }

    /// Hands a packet of a known connection to its protocol. `None`: the connection is over and
    /// the packet starts a new one in its place.
    fn packet_of(
        &mut self,
        id: ConnId,
        direction: Direction,
        packet: &Parsed,
        segment: &[u8],
        now: Instant,
    ) -> Result<Option<Tracked>, InvalidReason> {
        let settings = self.settings;
        let Some(conn) = self.get_mut(id) else { return Ok(None) };
        let state = match direction {
            Direction::Reply => State::Established,
            Direction::Original if conn.status.has(Status::SEEN_REPLY) => State::Established,
            Direction::Original if conn.status.has(Status::EXPECTED) => State::Related,
            Direction::Original => State::New,
        };
        let armed = conn.deadline;
        let mut entry = Entry::Known(id);
        let mut over = false;
        match packet.transport {
            Transport::Tcp { .. } => {
                match tcp::packet(conn, direction, segment, &settings, now) {
                    Ok(TcpVerdict::Pass) => {}
                    Ok(TcpVerdict::Over) => over = true,
                    Ok(TcpVerdict::Reopen) => {
                        self.remove(id.slot);
                        return Ok(None);
                    }
                    // A segment out of the window may shorten its connection's life.
                    Err(reason) => {
                        let deadline = conn.deadline;
                        if deadline < armed {
                            self.wheel.arm(id.slot, deadline);
                        }
                        return Err(reason);
                    }
                }
            }
            Transport::Udp { .. } => udp::packet(conn, &settings, now),
            Transport::Icmp { .. } | Transport::Icmpv6 { .. } => {
                icmp::packet(conn, &settings, now);
            }
            _ => generic::packet(conn, &settings, now),
        }
        conn.count(direction, packet.len);
        if direction == Direction::Reply {
            conn.status.set(Status::SEEN_REPLY);
        }
        let deadline = conn.deadline;
        if over {
            if let Some(mut conn) = self.remove(id.slot) {
                conn.status.set(Status::DYING);
                entry = Entry::Own(Box::new(conn));
            }
        } else if deadline < armed {
            self.wheel.arm(id.slot, deadline);
        }
        Ok(Some(Tracked { state, direction, entry, role: Role::Member }))
    }

    /// Makes a connection that its first packet carries along.
    fn start(
        &mut self,
        tuple: Tuple,
        packet: &Parsed,
        segment: &[u8],
        now: Instant,
    ) -> Result<Tracked, InvalidReason> {
        let settings = &self.settings;
        let reply = tuple.inverse().ok_or(InvalidReason::IcmpNew)?;
        let proto = match packet.transport {
            Transport::Tcp { .. } => Proto::Tcp(tcp::TcpTrack::new(segment, settings)?),
            Transport::Udp { .. } => Proto::Udp { start: now },
            Transport::Icmp { .. } | Transport::Icmpv6 { .. } => {
                icmp::may_start(packet)?;
                Proto::Plain
            }
            _ => Proto::Plain,
        };
        let mut conn = Box::new(Connection::new(tuple, reply, proto, settings.acct));
        let direction = Direction::Original;
        match packet.transport {
            Transport::Tcp { .. } => {
                tcp::packet(&mut conn, direction, segment, settings, now)?;
            }
            Transport::Udp { .. } => udp::packet(&mut conn, settings, now),
            Transport::Icmp { .. } | Transport::Icmpv6 { .. } => {
                icmp::packet(&mut conn, settings, now);
            }
            _ => generic::packet(&mut conn, settings, now),
        }
        conn.count(direction, packet.len);
        Ok(Tracked { state: State::New, direction, entry: Entry::Own(conn), role: Role::Member })
    }

    /// The tracking of a packet that the gateway makes in answer to `question` (a reset, an
    /// unreachable): it is RELATED and goes the other way, is translated as the connection is,
    /// and neither consults the nat table nor puts anything into the connection table.
    pub fn attach_reply(&self, question: &Tracked) -> Tracked {
        let state = match question.entry {
            Entry::None => question.state,
            _ => State::Related,
        };
        Tracked {
            state,
            direction: question.direction.other(),
            entry: question.entry.clone(),
            role: Role::Answer,
        }
    }

    /// The packet's connection.
    #[inline]
    pub fn view<'a>(&'a self, tracked: &'a Tracked) -> Option<&'a Connection> {
        match &tracked.entry {
            Entry::None => None,
            Entry::Own(conn) => Some(conn),
            Entry::Known(id) => self.get(*id),
        }
    }

    pub(crate) fn view_mut<'a>(
        &'a mut self,
        tracked: &'a mut Tracked,
    ) -> Option<&'a mut Connection> {
        match &mut tracked.entry {
            Entry::None => None,
            Entry::Own(conn) => Some(conn),
            Entry::Known(id) => self.get_mut(*id),
        }
    }

    /// Sets the mark of the packet's connection (`CONNMARK`).
    pub fn set_mark(&mut self, tracked: &mut Tracked, mark: u32) {
        if let Some(conn) = self.view_mut(tracked) {
            conn.mark = mark;
        }
    }

    /// Whether the nat table has to be asked about the packet: it starts a connection and nothing
    /// is decided about this end yet.
    #[inline]
    pub fn needs_nat(&self, tracked: &Tracked, manip: Manip) -> bool {
        match &tracked.entry {
            Entry::Own(conn) => {
                tracked.role == Role::Member
                    && !conn.status.any(Status::DYING.with(Status::done(manip)))
            }
            _ => false,
        }
    }

    /// Remembers the egress interface of a masqueraded connection, so that
    /// [`Conntrack::forget_masqueraded`] and [`Conntrack::check_egress`] find it.
    pub fn set_masqueraded(&mut self, tracked: &mut Tracked, interface: u32) {
        if let Some(conn) = self.view_mut(tracked) {
            conn.masqueraded = interface;
        }
    }

    /// At POSTROUTING: a masqueraded connection whose route has moved to another interface is
    /// over. Removes it and answers `false`; the packet must be dropped then.
    pub fn check_egress(&mut self, tracked: &Tracked, interface: u32) -> bool {
        let Some(conn) = self.view(tracked) else { return true };
        let moved = conn.masqueraded().is_some_and(|egress| egress != interface);
        if tracked.direction == Direction::Reply || !moved {
            return true;
        }
        if let Entry::Known(id) = tracked.entry {
            self.delete(id);
        }
        false
    }

    /// Puts a new connection into the table: its first packet is about to leave, or has been
    /// accepted by the gateway itself.
    pub fn confirm(
        &mut self,
        tracked: &mut Tracked,
        now: Instant,
    ) -> Result<Confirmed, ConfirmDrop> {
        // netfilter confirms in the original direction only.
        if tracked.direction == Direction::Reply || tracked.role != Role::Member {
            return Ok(Confirmed::Nothing);
        }
        let Entry::Own(conn) = &tracked.entry else { return Ok(Confirmed::Nothing) };
        if conn.status.has(Status::DYING) {
            return Ok(Confirmed::Nothing);
        }
        let tuples = conn.tuples;
        // Both tuples must be free, also as the other direction of somebody else's.
        if tuples.iter().any(|t| self.lookup(t, now).is_some()) {
            return Err(ConfirmDrop::Clash);
        }
        let mut made_room = false;
        if self.settings.max != 0 && self.len() >= self.settings.max as usize {
            if !self.drop_early(now) {
                return Err(ConfirmDrop::TableFull);
            }
            made_room = true;
        }
        let Entry::Own(mut conn) = std::mem::replace(&mut tracked.entry, Entry::None) else {
            return Ok(Confirmed::Nothing);
        };
        conn.status.set(Status::CONFIRMED);
        conn.deadline = now + (conn.deadline - Instant::ZERO);
        let id = self.insert(*conn);
        tracked.entry = Entry::Known(id);
        Ok(if made_room { Confirmed::InsertedForAnother(id) } else { Confirmed::Inserted(id) })
    }

    /// Removes all connections whose time is over and says how many there were.
    pub fn expire(&mut self, now: Instant) -> usize {
        let mut ended = 0;
        while let Some(slot) = self.wheel.pop(now) {
            let Some(conn) = self.slots.get(slot as usize).and_then(|s| s.conn.as_ref()) else {
                continue;
            };
            if conn.deadline <= now {
                self.remove(slot);
                ended += 1;
            } else {
                let deadline = conn.deadline;
                self.wheel.arm(slot, deadline);
            }
        }
        ended
    }

    /// When [`Conntrack::expire`] should be called next; nothing can expire before.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.wheel.next()
    }

    /// Connections in the table.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether the table is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All connections in the table.
    pub fn iter(&self) -> impl Iterator<Item = (ConnId, &Connection)> {
        self.slots.iter().enumerate().filter_map(|(slot, s)| {
            let id = ConnId { slot: slot as u32, generation: s.generation };
            s.conn.as_ref().map(|conn| (id, conn))
        })
    }

    /// The connection of that name, if it is still there.
    #[inline]
    pub fn get(&self, id: ConnId) -> Option<&Connection> {
        let slot = self.slots.get(id.slot as usize)?;
        if slot.generation == id.generation { slot.conn.as_ref() } else { None }
    }

    #[inline]
    fn get_mut(&mut self, id: ConnId) -> Option<&mut Connection> {
        let slot = self.slots.get_mut(id.slot as usize)?;
        if slot.generation == id.generation { slot.conn.as_mut() } else { None }
    }

    /// The connection that a packet with this tuple belongs to, and its direction.
    pub fn find(&self, tuple: &Tuple, now: Instant) -> Option<(ConnId, Direction)> {
        let (id, direction) = self.find_slot(tuple)?;
        self.get(id).filter(|c| !c.is_expired(now)).map(|_| (id, direction))
    }

    /// Removes a connection.
    pub fn delete(&mut self, id: ConnId) -> bool {
        self.get(id).is_some() && self.remove(id.slot).is_some()
    }

    /// Removes all connections.
    pub fn flush(&mut self) -> usize {
        self.delete_if(|_| true)
    }

    /// Removes the connections that `which` names, and says how many.
    pub fn delete_if(&mut self, mut which: impl FnMut(&Connection) -> bool) -> usize {
        let mut gone = 0;
        for slot in 0..self.slots.len() {
            if self.slots[slot].conn.as_ref().is_some_and(&mut which) {
                self.remove(slot as u32);
                gone += 1;
            }
        }
        gone
    }

    /// Removes what was masqueraded for an interface whose address has changed.
    pub fn forget_masqueraded(&mut self, interface: u32) -> usize {
        self.delete_if(|conn| conn.masqueraded() == Some(interface))
    }

    #[inline]
    fn find_slot(&self, tuple: &Tuple) -> Option<(ConnId, Direction)> {
        let hash = self.key.tuple(tuple);
        let &entry = self.index.find(hash, |&e| tuple_at(&self.slots, e) == Some(tuple))?;
        let slot = entry / 2;
        let direction = if entry & 1 == 0 { Direction::Original } else { Direction::Reply };
        Some((ConnId { slot, generation: self.slots[slot as usize].generation }, direction))
    }

    /// As [`Conntrack::find`]; a connection that is found expired is removed.
    pub(crate) fn lookup(&mut self, tuple: &Tuple, now: Instant) -> Option<(ConnId, Direction)> {
        let (id, direction) = self.find_slot(tuple)?;
        if self.get(id)?.is_expired(now) {
            self.remove(id.slot);
            return None;
        }
        Some((id, direction))
    }

    /// The newest of the connections whose original source is that of `tuple` and was translated,
    /// and from there on the older ones.
    pub(crate) fn same_source(&self, tuple: &Tuple) -> impl Iterator<Item = &Connection> {
        let head = self
            .sources
            .find(self.key.source(tuple), |&s| same_source_at(&self.slots, s, tuple))
            .copied();
        let at = |slot: u32| self.slots.get(slot as usize).and_then(|s| s.conn.as_ref());
        std::iter::successors(head.and_then(at), move |conn| at(conn.same_source[0]))
    }

    fn insert(&mut self, conn: Connection) -> ConnId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, conn: None });
            (self.slots.len() - 1) as u32
        });
        let hashes = conn.tuples.map(|t| self.key.tuple(&t));
        let (source, translated) = (conn.tuples[0], conn.status.has(Status::SNAT));
        self.wheel.arm(slot, conn.deadline);
        let place = &mut self.slots[slot as usize];
        let id = ConnId { slot, generation: place.generation };
        place.conn = Some(conn);
        let (key, slots) = (self.key, &self.slots);
        for (direction, hash) in hashes.into_iter().enumerate() {
            self.index.insert_unique(hash, slot * 2 + direction as u32, |&e| {
                tuple_at(slots, e).map_or(0, |t| key.tuple(t))
            });
        }
        if translated {
            self.link_source(slot, &source);
        }
        id
    }

    fn link_source(&mut self, slot: u32, source: &Tuple) {
        let (key, slots) = (self.key, &self.slots);
        let hash = key.source(source);
        let head = self.sources.find_mut(hash, |&s| same_source_at(slots, s, source));
        let old = match head {
            Some(head) => std::mem::replace(head, slot),
            None => {
                self.sources.insert_unique(hash, slot, |&s| {
                    slots[s as usize].conn.as_ref().map_or(0, |c| key.source(&c.tuples[0]))
                });
                NONE
            }
        };
        self.set_neighbour(slot, 0, old);
        self.set_neighbour(old, 1, slot);
    }

    fn unlink_source(&mut self, slot: u32, conn: &Connection) {
        let [next, prev] = conn.same_source;
        self.set_neighbour(next, 1, prev);
        self.set_neighbour(prev, 0, next);
        if prev != NONE {
            return;
        }
        // It was the head; its own slot still holds nothing, so compare numbers.
        let hash = self.key.source(&conn.tuples[0]);
        if let Ok(mut head) = self.sources.find_entry(hash, |&s| s == slot) {
            if next == NONE {
                head.remove();
            } else {
                *head.get_mut() = next;
            }
        }
    }

    fn set_neighbour(&mut self, slot: u32, side: usize, to: u32) {
        if let Some(conn) = self.slots.get_mut(slot as usize).and_then(|s| s.conn.as_mut()) {
            conn.same_source[side] = to;
        }
    }

    /// Takes a connection out of the table.
    pub(crate) fn remove(&mut self, slot: u32) -> Option<Connection> {
        let place = self.slots.get_mut(slot as usize)?;
        let conn = place.conn.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.wheel.disarm(slot);
        for (direction, tuple) in conn.tuples.iter().enumerate() {
            let entry = slot * 2 + direction as u32;
            if let Ok(found) = self.index.find_entry(self.key.tuple(tuple), |&e| e == entry) {
                found.remove();
            }
        }
        if conn.status.has(Status::SNAT) {
            self.unlink_source(slot, &conn);
        }
        self.free.push(slot);
        Some(conn)
    }

    /// Makes room: removes one connection among the next few slots that is expired, unassured or
    /// closing. netfilter looks at eight chains near the newcomer's in the same way.
    fn drop_early(&mut self, now: Instant) -> bool {
        const LOOK_AT: usize = 64;
        let total = self.slots.len();
        for _ in 0..LOOK_AT.min(total) {
            self.victim = (self.victim + 1) % total as u32;
            let slot = self.victim;
            let conn = self.slots[slot as usize].conn.as_ref();
            if conn.is_some_and(|c| c.is_expired(now) || c.may_drop_early()) {
                return self.remove(slot).is_some();
            }
        }
        false
    }
}

#[inline]
fn tuple_at(slots: &[Slot], entry: u32) -> Option<&Tuple> {
    let conn = slots.get(entry as usize / 2)?.conn.as_ref()?;
    Some(&conn.tuples[entry as usize & 1])
}

fn same_source_at(slots: &[Slot], slot: u32, tuple: &Tuple) -> bool {
    slots.get(slot as usize).and_then(|s| s.conn.as_ref()).is_some_and(|conn| {
        let t = &conn.tuples[0];
        (t.src, t.sport, t.protocol) == (tuple.src, tuple.sport, tuple.protocol)
    })
}
