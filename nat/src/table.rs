//! The table of connections and a packet's way through it.

use tidegate_packet::{Instant, Parsed, Transport, protocol};

use crate::conn::{Connection, Direction, Proto, Status};
use crate::event::{Before, Changes, EventKind, Events};
use crate::expect::Expectations;
use crate::expiry::Wheel;
use crate::extra::Template;
use crate::hash::{HashKey, in_zone};
use crate::index::Index;
use crate::known::Missed;
use crate::lease::Leases;
use crate::mapping::Mappings;
use crate::sctp::SctpTrack;
use crate::settings::Settings;
use crate::shared::Shared;
use crate::slots::{Located, conn_of};
use crate::stats::Stats;
use crate::store::Slots;
use crate::sweep::{Room, Sweep};
use crate::tcp::{self, TcpVerdict};
use crate::tracked::{
    ConfirmDrop, Confirmed, ConnId, Entry, InvalidReason, Loose, Role, State, Tracked,
};
use crate::{Manip, Tuple, generic, icmp, icmp_error, udp};

/// The table of one worker.
#[derive(Debug)]
pub struct Conntrack {
    pub(crate) settings: Settings,
    pub(crate) key: HashKey,
    pub(crate) slots: Slots,
    /// Where each tuple is found.
    pub(crate) index: Index<Located>,
    /// Newest connection of each translated source: `find_appropriate_src` of netfilter.
    pub(crate) sources: Index<u32>,
    pub(crate) mappings: Box<Mappings>,
    pub(crate) wheel: Wheel,
    pub(crate) expectations: Box<Expectations>,
    pub(crate) shared: Box<Shared>,
    /// Which shard's it is.
    pub(crate) number: u8,
    /// How many connections have ever entered it.
    pub(crate) entered: u64,
    pub(crate) sweep: Sweep,
    /// Memory for the next new connection.
    spare: Option<Box<Loose>>,
    /// Where the search for a victim goes on when the table is full.
    pub(crate) victim: u32,
    pub(crate) events: Events,
    pub(crate) stats: Stats,
    /// How often the rules have changed.
    pub(crate) rules: u32,
    pub(crate) leases: Leases,
}

impl Conntrack {
    /// An empty table. `hash_key` must be secret and random.
    pub fn new(settings: Settings, hash_key: [u64; 2]) -> Self {
        Self::of_shard(0, settings, hash_key)
    }

    /// The same for one of several shards ([`Conntrack::divide`]).
    pub fn of_shard(number: u8, settings: Settings, hash_key: [u64; 2]) -> Self {
        let key = HashKey::new(hash_key);
        Self {
            settings,
            key,
            mappings: Box::new(Mappings::new(key)),
            slots: Slots::new(number),
            index: Index::new(),
            sources: Index::new(),
            wheel: Wheel::new(),
            expectations: Box::default(),
            shared: Box::default(),
            number,
            entered: 0,
            sweep: Sweep::default(),
            spare: None,
            victim: 0,
            events: Events::default(),
            stats: Stats::default(),
            rules: 0,
            leases: Leases::default(),
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
        self.track_as(&Template::default(), None, packet, bytes, verify, now)
    }

    /// The same for a packet that a `CT` rule has met, or that was sought already ([`Conntrack::known`])
    /// and has still the same addresses and ports.
    pub fn track_as(
        &mut self,
        template: &Template,
        missed: Option<Missed>,
        packet: &Parsed,
        bytes: &[u8],
        verify: bool,
        now: Instant,
    ) -> Tracked {
        match self.try_track(template, missed, packet, bytes, verify && self.settings.checksum, now)
        {
            Ok(tracked) => tracked,
            Err(reason) => {
                let icmp = matches!(packet.protocol, protocol::ICMP | protocol::ICMPV6);
                self.stats.count_invalid(reason, icmp);
                Tracked::invalid(reason)
            }
        }
    }

    fn try_track(
        &mut self,
        template: &Template,
        missed: Option<Missed>,
        packet: &Parsed,
        bytes: &[u8],
        verify: bool,
        now: Instant,
    ) -> Result<Tracked, InvalidReason> {
        if packet.is_later_fragment() {
            return Err(InvalidReason::Fragment);
        }
        self.mappings.seen = now;
        // "No next header" has nothing to track (ipv6_skip_exthdr).
        if packet.protocol == protocol::NO_NEXT && !packet.src.is_v4() {
            return Err(InvalidReason::Malformed);
        }
        let segment = packet.segment(bytes);
        match packet.protocol {
            protocol::ICMP | protocol::ICMPV6 => match icmp::check(packet, segment, verify)? {
                icmp::Kind::Untracked => return Ok(Tracked::untracked()),
                icmp::Kind::Error => {
                    return icmp_error::track(self, packet, bytes, template.zones, now);
                }
                icmp::Kind::Query => {}
            },
            protocol::TCP => tcp::check(packet, segment, verify)?,
            protocol::UDP => udp::check(packet, segment, verify)?,
            protocol::SCTP => generic::check_sctp(segment, verify)?,
            protocol::UDPLITE => udp::check_lite(packet, segment, verify)?,
            _ => {}
        }
        let mut tuple = Tuple::of(packet, segment).ok_or(InvalidReason::Malformed)?;
        self.complete(&mut tuple, segment);
        let hash = missed.map_or_else(|| self.key.tuple(&tuple), |missed| missed.hash);
        debug_assert_eq!(hash, self.key.tuple(&tuple));
        let absent =
            template.zones == [0; 2] && missed.is_some_and(|missed| self.is_absent(missed));
        if !absent
            && let Some((id, direction)) = self.lookup((&tuple, hash), template.zones, now)
            && let Some(tracked) =
                self.packet_of(id, direction, packet.transport, packet.len, segment, now)?
        {
            return Ok(tracked);
        }
        self.start(template, (tuple, hash), packet, segment, now)
    }

    /// Hands a packet of a known connection to its protocol. `None`: the connection is over and
    /// the packet starts a new one in its place.
    pub(crate) fn packet_of(
        &mut self,
        id: ConnId,
        direction: Direction,
        transport: Transport,
        len: u32,
        segment: &[u8],
        now: Instant,
    ) -> Result<Option<Tracked>, InvalidReason> {
        let settings = &self.settings;
        let Some(conn) = conn_of(&mut self.slots, id) else { return Ok(None) };
        if conn.status.has(Status::LEASED) {
            return self.packet_of_leased(id, direction, transport, len, segment, now);
        }
        let state = match direction {
            Direction::Reply => State::Established,
            Direction::Original if conn.status.has(Status::SEEN_REPLY) => State::Established,
            Direction::Original if conn.status.has(Status::EXPECTED) => State::Related,
            Direction::Original => State::New,
        };
        let (armed, status) = (conn.deadline, conn.status);
        let before = self.events.wanted().then(|| Before::of(conn));
        let mut entry = Entry::Known(id);
        let (mut over, mut counted) = (false, true);
        match transport {
            Transport::Tcp { .. } => {
                match tcp::packet(conn, direction, segment, settings, now) {
                    Ok(TcpVerdict::Pass) => {}
                    Ok(TcpVerdict::Unnoticed) => counted = false,
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
            Transport::Udp { .. } => udp::packet(conn, settings, now),
            Transport::Icmp { .. } | Transport::Icmpv6 { .. } => {
                icmp::packet(conn, settings, now);
            }
            _ => counted = generic::packet(conn, direction, segment, settings, now)?,
        }
        if counted {
            conn.count(direction, len);
        }
        if direction == Direction::Reply {
            conn.status.set(Status::SEEN_REPLY);
        }
        if conn.status != status {
            conn.forget_paths();
        }
        if let Some(before) = before {
            before.note(conn);
        }
        let deadline = conn.deadline;
        if over {
            if let Some(mut conn) = self.remove(id.slot) {
                conn.status.set(Status::DYING);
                entry = Entry::Own(self.loose(conn, [None; 2]));
            }
        } else if deadline < armed {
            self.wheel.arm(id.slot, deadline);
        }
        Ok(Some(Tracked { state, direction, entry, role: Role::Member }))
    }

    /// Makes a connection that its first packet carries along.
    fn start(
        &mut self,
        template: &Template,
        (tuple, hash): (Tuple, u64),
        packet: &Parsed,
        segment: &[u8],
        now: Instant,
    ) -> Result<Tracked, InvalidReason> {
        let settings = &self.settings;
        let reply = tuple.inverse().ok_or(InvalidReason::IcmpNew)?;
        let proto = match packet.transport {
            Transport::Tcp { .. } => Proto::Tcp(tcp::TcpTrack::new(segment, settings)?),
            Transport::Udp { .. } => Proto::Udp { start: now, rules: self.rules },
            Transport::Icmp { .. } | Transport::Icmpv6 { .. } => {
                icmp::may_start(packet)?;
                Proto::Plain
            }
            _ if packet.protocol == protocol::SCTP => Proto::Sctp(SctpTrack::new(segment)?),
            _ => Proto::Plain,
        };
        let mut conn = Connection::new(tuple, reply, proto, settings.acct);
        conn.extend(settings);
        let direction = Direction::Original;
        match packet.transport {
            Transport::Tcp { .. } => {
                tcp::packet(&mut conn, direction, segment, settings, now)?;
            }
            Transport::Udp { .. } => udp::packet(&mut conn, settings, now),
            Transport::Icmp { .. } | Transport::Icmpv6 { .. } => {
                icmp::packet(&mut conn, settings, now);
            }
            _ => {
                generic::packet(&mut conn, direction, segment, settings, now)?;
            }
        }
        conn.count(direction, packet.len);
        let entry = Entry::Own(self.loose(conn, [Some(hash), None]));
        let mut tracked = Tracked { state: State::New, direction, entry, role: Role::Member };
        self.prepare(&mut tracked, template, now);
        Ok(tracked)
    }

    /// A connection that goes with its packet, in the memory that the one before has left.
    fn loose(&mut self, conn: Connection, free: [Option<u64>; 2]) -> Box<Loose> {
        let (entered, source) = (self.shared.entered, None);
        match self.spare.take() {
            Some(mut place) => {
                place.conn = conn;
                (place.free, place.entered, place.source) = (free, entered, source);
                place
            }
            None => Box::new(Loose { conn, free, entered, source }),
        }
    }

    /// The tracking of a packet that the gateway makes in answer to `question` (a reset, an
    /// unreachable): it is RELATED and goes the other way, is translated as the connection is,
    /// and neither consults the nat table nor puts anything into the connection table. Where the
    /// question has no connection, an untracked one included, the answer is tracked like any other
    /// packet (`nf_conntrack_in` looks for what `nf_ct_attach` couldn't give).
    pub fn attach_reply(&self, question: &Tracked) -> Option<Tracked> {
        let direction = question.direction.other();
        let entry = match &question.entry {
            Entry::None => return None,
            entry => entry.clone(),
        };
        Some(Tracked { state: State::Related, direction, entry, role: Role::Answer })
    }

    /// A rule answers the packet with a reset, which ends its connection at both sides.
    pub fn set_closing(&mut self, tracked: &Tracked, now: Instant) {
        let Entry::Known(id) = tracked.entry else { return };
        self.end_lease(id);
        let Some(conn) = conn_of(&mut self.slots, id) else { return };
        let armed = conn.deadline;
        tcp::set_closing(conn, &self.settings, now);
        if conn.deadline < armed {
            let deadline = conn.deadline;
            self.wheel.arm(id.slot, deadline);
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
            Entry::Known(id) => {
                self.end_lease(*id);
                conn_of(&mut self.slots, *id)
            }
        }
    }

    /// Sets the mark of the packet's connection (`CONNMARK`).
    pub fn set_mark(&mut self, tracked: &mut Tracked, mark: u32) {
        let wanted = self.events.wanted();
        if let Some(conn) = self.view_mut(tracked) {
            if wanted && conn.mark != mark {
                conn.pending = conn.pending.with(Changes::MARK);
            }
            if conn.mark != mark {
                conn.forget_paths();
            }
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

    /// Whether the packet is the gateway's answer to one whose connection is still new and has this
    /// end undecided. netfilter asks its nat table about such an answer too, if it is no ICMP
    /// error, but the outcome can't change it.
    pub fn asks_nat_in_vain(&self, tracked: &Tracked, manip: Manip) -> bool {
        match &tracked.entry {
            Entry::Own(conn) => {
                tracked.role == Role::Answer && !conn.status.any(Status::done(manip))
            }
            _ => false,
        }
    }

    /// Remembers the egress interface of a masqueraded connection, so that
    /// a sweep's order and [`Conntrack::check_egress`] find it.
    pub fn set_masqueraded(&mut self, tracked: &mut Tracked, interface: u32) {
        if let Some(conn) = self.view_mut(tracked) {
            conn.set_masqueraded(interface);
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
        if self.events.wanted() {
            self.tell_changes(tracked);
        }
        // netfilter confirms in the original direction only.
        if tracked.direction == Direction::Reply || tracked.role != Role::Member {
            return Ok(Confirmed::Nothing);
        }
        let Entry::Own(conn) = &tracked.entry else { return Ok(Confirmed::Nothing) };
        if conn.status.has(Status::DYING) {
            return Ok(Confirmed::Nothing);
        }
        // Both tuples must be free, also as the other direction of somebody else's. Most often that
        // was seen when they were chosen, and nobody has come since.
        let mut hashes = [0; 2];
        for (direction, hash) in
            [Direction::Original, Direction::Reply].into_iter().zip(&mut hashes)
        {
            let zones = conn.zones();
            let found = match conn.is_free(direction, self.shared.entered) {
                Some(hash) => hash,
                None => {
                    let tuple = conn.tuple(direction);
                    let hash = self.key.tuple(&tuple);
                    if self.holder((&tuple, hash), zones, direction, now).is_some() {
                        self.stats.insert_failed += 1;
                        self.stats.drop += 1;
                        return Err(ConfirmDrop::Clash);
                    }
                    hash
                }
            };
            *hash = in_zone(found, zones[direction.index()]);
        }
        let mut made_room = false;
        if self.settings.max != 0 && self.total() >= self.settings.max as usize {
            let Some(room) = self.make_room(now) else {
                self.stats.drop += 1;
                self.stats.table_full += 1;
                return Err(ConfirmDrop::TableFull);
            };
            made_room = room == Room::ThrownOut;
        }
        let Entry::Own(mut loose) = std::mem::replace(&mut tracked.entry, Entry::None) else {
            return Ok(Confirmed::Nothing);
        };
        loose.status.set(Status::CONFIRMED);
        loose.deadline = now + (loose.deadline - Instant::ZERO);
        loose.start(now);
        let id = self.enter(&mut loose.conn, hashes, loose.source);
        self.spare = Some(loose);
        if self.events.wanted()
            && let Some(conn) = conn_of(&mut self.slots, id)
        {
            let changes = std::mem::take(&mut conn.pending).with(Changes::STATE);
            self.events.push(EventKind::New, changes, id, conn);
        }
        tracked.entry = Entry::Known(id);
        Ok(if made_room { Confirmed::InsertedForAnother(id) } else { Confirmed::Inserted(id) })
    }

    /// What has been counted.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Connections in the table.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether the table is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All connections in the table.
    pub fn iter(&self) -> impl Iterator<Item = (ConnId, &Connection)> {
        self.slots.from(0)
    }

    /// The connection of that name, if it is still there.
    #[inline]
    pub fn get(&self, id: ConnId) -> Option<&Connection> {
        self.slots.get(id.slot).filter(|conn| conn.generation == id.generation)
    }

    /// The connection that a packet with this tuple belongs to, and its direction.
    pub fn find(&self, tuple: &Tuple, now: Instant) -> Option<(ConnId, Direction)> {
        self.find_in(tuple, [0; 2], now)
    }

    /// The same in other zones, original and reply.
    pub fn find_in(
        &self,
        tuple: &Tuple,
        zones: [u16; 2],
        now: Instant,
    ) -> Option<(ConnId, Direction)> {
        let (id, direction) = self.find_slot(self.hashed(tuple), zones)?;
        self.get(id).filter(|c| !c.is_expired(now)).map(|_| (id, direction))
    }

    /// Removes a connection.
    pub fn delete(&mut self, id: ConnId) -> bool {
        self.get(id).is_some() && self.remove(id.slot).is_some()
    }
}
