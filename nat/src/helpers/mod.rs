//! Helpers read the control messages of protocols whose data flows on other connections, expect
//! those connections, and on translated connections rewrite the addresses in the messages.
//!
//! A helper is attached by a `CT --helper` rule, when the connection begins, and by nothing else. It
//! sees each packet once it is translated, right before it leaves ([`Conntrack::help`]). What a
//! helper can't expect or rewrite must not pass, or the receiver would open a connection that never
//! comes through: the packet is dropped, as netfilter drops it.

mod amanda;
mod ftp;
mod irc;
mod pptp;
mod sip;
mod text;
mod tftp;

use std::time::Duration;

use tidegate_packet::checksum::{self, Delta, Field};
use tidegate_packet::{Addr, Instant, Parsed, Transport, protocol, tcp, udp};

use crate::Tuple;
use crate::conn::{Connection, Direction, Status};
use crate::expect::{Expectation, Follow, Policy, Refused};
use crate::seqadj;
use crate::slots::conn_of;
use crate::table::Conntrack;
use crate::tracked::{ConnId, Role, State, Tracked};

/// A helper.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
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
    /// As `CT --helper` and conntrack listings name it.
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

    /// netfilter's bounds (`nf_conntrack_expect_policy`).
    pub(crate) fn policy(self, class: u8) -> Policy {
        let (max, minutes) = match self {
            Self::Ftp | Self::Tftp => (1, 5),
            Self::Irc => (8, 5),
            Self::Pptp => (2, 5),
            Self::Sip => match class {
                sip::CLASS_SIGNALLING => (1, 3),
                sip::CLASS_IMAGE => (2, 3),
                _ => (4, 3),
            },
            Self::Amanda => (4, 3),
        };
        Policy { max, timeout: Duration::from_secs(60 * minutes) }
    }

    fn fits(self, protocol: u8) -> bool {
        match self {
            Self::Ftp | Self::Irc | Self::Pptp => protocol == protocol::TCP,
            Self::Tftp | Self::Amanda => protocol == protocol::UDP,
            Self::Sip => matches!(protocol, protocol::TCP | protocol::UDP),
        }
    }
}

/// A helper's part of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Help {
    pub(crate) kind: Helper,
    /// What it expects, oldest first: slots of [`crate::expect::Expectations`].
    pub(crate) expected: Vec<u32>,
    pub(crate) memory: Memory,
}

/// What a helper remembers between packets.
#[derive(Clone, Debug)]
pub(crate) enum Memory {
    Nothing,
    Ftp(ftp::Lines),
    Pptp(pptp::Control),
    Sip(sip::Dialog),
}

impl Help {
    /// `None` if the helper doesn't read that protocol.
    pub(crate) fn new(kind: Helper, protocol: u8) -> Option<Box<Self>> {
        let memory = match kind {
            Helper::Ftp => Memory::Ftp(ftp::Lines::default()),
            Helper::Pptp => Memory::Pptp(pptp::Control::default()),
            Helper::Sip => Memory::Sip(sip::Dialog::default()),
            Helper::Tftp | Helper::Irc | Helper::Amanda => Memory::Nothing,
        };
        kind.fits(protocol).then(|| Box::new(Self { kind, expected: Vec::new(), memory }))
    }
}

/// Why a packet that a helper has read must be dropped. Each is a drop reason.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum HelpDrop {
    /// What it announces can't be expected: too much is expected already.
    #[error("the announced connection can't be expected")]
    Expect,
    /// A message that is cut off where it matters, or makes no sense.
    #[error("control message that can't be read")]
    Message,
    /// The rewritten packet would be too long.
    #[error("no room for the rewritten message")]
    Room,
}

/// Free bytes behind a packet that [`Conntrack::help`] may need: more than any helper adds.
pub const HELP_ROOM: usize = 2048;

impl Conntrack {
    /// Whether [`Conntrack::help`] has anything to do with the packet.
    #[inline]
    pub fn needs_help(&self, tracked: &Tracked) -> bool {
        tracked.role == Role::Member
            && self
                .view(tracked)
                .and_then(Connection::extra)
                .is_some_and(|extra| extra.help.is_some() || extra.seqadj.is_some())
    }

    /// Lets the connection's helper read a translated packet that is about to leave, and shifts its
    /// sequence numbers if earlier packets have grown. The connection must be in the table.
    ///
    /// `room` begins with the packet and goes on behind it, so that it can grow; [`HELP_ROOM`]
    /// bytes are enough. `packet.len` is kept in step.
    pub fn help(
        &mut self,
        tracked: &Tracked,
        packet: &mut Parsed,
        room: &mut [u8],
        field: Field,
        now: Instant,
    ) -> Result<(), HelpDrop> {
        let Some(id) = tracked.id().filter(|_| tracked.role == Role::Member) else { return Ok(()) };
        let Some(extra) = self.get(id).and_then(Connection::extra) else { return Ok(()) };
        // What this very packet adds counts for those behind it.
        let shifted = extra.seqadj.is_some();
        if let Some(kind) = extra.help.as_ref().map(|help| help.kind) {
            let direction = tracked.direction;
            let state = tracked.state;
            let mut reading =
                Reading { table: self, id, direction, state, packet, room, field, now };
            reading.dispatch(kind)?;
        }
        let extra = self.get(id).and_then(Connection::extra);
        if let (true, Some(ways)) = (shifted, extra.and_then(|e| e.seqadj.as_deref())) {
            let len = (packet.len as usize).min(room.len());
            seqadj::adjust(ways, tracked.direction, packet, &mut room[..len], field);
        }
        Ok(())
    }

    /// Random bits that nobody outside can foresee, for helpers and what they expect.
    pub(crate) fn random(&mut self) -> u32 {
        self.shared.draws = self.shared.draws.wrapping_add(1);
        (self.key.number(self.shared.draws) >> 16) as u32
    }
}

/// A packet under a helper's eyes.
pub(crate) struct Reading<'a> {
    pub(crate) table: &'a mut Conntrack,
    pub(crate) id: ConnId,
    pub(crate) direction: Direction,
    pub(crate) state: State,
    pub(crate) packet: &'a mut Parsed,
    room: &'a mut [u8],
    field: Field,
    pub(crate) now: Instant,
}

impl Reading<'_> {
    fn dispatch(&mut self, kind: Helper) -> Result<(), HelpDrop> {
        match kind {
            Helper::Ftp => ftp::read(self),
            Helper::Tftp => tftp::read(self),
            Helper::Irc => irc::read(self),
            Helper::Amanda => amanda::read(self),
            Helper::Pptp => pptp::read(self),
            Helper::Sip => sip::read(self),
        }
    }

    pub(crate) fn conn(&self) -> Option<&Connection> {
        self.table.get(self.id)
    }

    pub(crate) fn tuple(&self, direction: Direction) -> Tuple {
        // The connection was there when the reading began, and a reading doesn't remove it.
        self.conn().map_or(EMPTY, |conn| conn.tuple(direction))
    }

    /// Whether addresses in the payload have to be changed.
    pub(crate) fn is_translated(&self) -> bool {
        self.conn().is_some_and(Connection::is_translated)
    }

    pub(crate) fn memory(&mut self) -> Option<&mut Memory> {
        let conn = conn_of(&mut self.table.slots, self.id)?;
        Some(&mut conn.extra_mut()?.help.as_mut()?.memory)
    }

    /// Where the payload begins: behind the TCP or UDP header.
    pub(crate) fn payload_at(&self) -> Option<usize> {
        let l4 = usize::from(self.packet.l4);
        let segment = self.room.get(l4..self.len())?;
        let header = match self.packet.protocol {
            protocol::TCP => tcp::Header::new_checked(segment)?.header_len(),
            protocol::UDP if segment.len() >= udp::HEADER_LEN => udp::HEADER_LEN,
            _ => return None,
        };
        Some(l4 + header)
    }

    fn len(&self) -> usize {
        (self.packet.len as usize).min(self.room.len())
    }

    /// The payload; empty if the packet has none.
    pub(crate) fn payload(&self) -> &[u8] {
        self.payload_at().map_or(&[], |at| &self.room[at..self.len()])
    }

    /// The sequence number of a TCP segment.
    pub(crate) fn seq(&self) -> u32 {
        let l4 = usize::from(self.packet.l4);
        self.room.get(l4..).and_then(tcp::Header::new_checked).map_or(0, |h| h.seq())
    }

    /// An expectation of the master's, with everything that most have in common: from the source of
    /// `towards` or anybody, to its destination at `port`.
    pub(crate) fn expectation(
        &self,
        src: Addr,
        dst: Addr,
        protocol: u8,
        dport: u16,
    ) -> Expectation {
        let (zones, helper) = match self.conn() {
            Some(conn) => (conn.zones(), conn.helper()),
            None => ([0; 2], None),
        };
        Expectation {
            tuple: Tuple { src, dst, sport: 0, dport, protocol },
            any_source: false,
            any_sport: true,
            master: self.id,
            helper: helper.unwrap_or(Helper::Ftp),
            class: 0,
            deadline: self.now,
            permanent: false,
            inactive: false,
            child_helper: None,
            zones,
            follow: Follow::Rules,
        }
    }

    /// Registers an expectation.
    pub(crate) fn expect(&mut self, expectation: Expectation) -> Result<(), Refused> {
        let expectation = self.in_time(expectation);
        self.table.expect(expectation, false)
    }

    /// The same; [`Refused::Already`] if another connection expects just that.
    pub(crate) fn expect_of_any_master(&mut self, expectation: Expectation) -> Result<(), Refused> {
        let expectation = self.in_time(expectation);
        self.table.expect(expectation, true)
    }

    fn in_time(&self, expectation: Expectation) -> Expectation {
        let timeout = expectation.helper.policy(expectation.class).timeout;
        Expectation { deadline: self.now + timeout, ..expectation }
    }

    /// Registers an expectation of a connection that will be translated as its master: at the port
    /// it names or, if somebody else expects that one, at another (`nf_nat_exp_find_port`).
    pub(crate) fn expect_at_a_free_port(
        &mut self,
        mut expectation: Expectation,
        direction: Direction,
    ) -> Result<u16, HelpDrop> {
        expectation.follow = Follow::Master { direction, port: expectation.tuple.dport };
        self.expect_from_port(expectation)
    }

    /// The same of one whose translation is said already.
    pub(crate) fn expect_from_port(
        &mut self,
        mut expectation: Expectation,
    ) -> Result<u16, HelpDrop> {
        const MOST_ATTEMPTS: u32 = 128;
        let own = expectation.tuple.dport;
        let range = u32::from(u16::MAX - own);
        for _ in 0..=range.min(MOST_ATTEMPTS) {
            match self.expect(expectation.clone()) {
                Ok(()) => return Ok(expectation.tuple.dport),
                Err(Refused::Full | Refused::Already) => return Err(HelpDrop::Expect),
                Err(Refused::Clash) if range == 0 => return Err(HelpDrop::Expect),
                Err(Refused::Clash) => {
                    expectation.tuple.dport = own + (self.table.random() % range) as u16;
                }
            }
        }
        Err(HelpDrop::Expect)
    }

    /// Replaces `len` bytes at `at` of the payload, mends lengths and checksums, and for TCP notes
    /// how far what follows has moved.
    pub(crate) fn replace(&mut self, at: usize, len: usize, with: &[u8]) -> Result<(), HelpDrop> {
        let start = self.payload_at().ok_or(HelpDrop::Message)? + at;
        let old = self.len();
        let new = (old + with.len()).checked_sub(len).ok_or(HelpDrop::Message)?;
        if start + len > old {
            return Err(HelpDrop::Message);
        }
        if new > usize::from(u16::MAX) || new > self.room.len() {
            return Err(HelpDrop::Room);
        }
        let seq = self.seq();
        self.room.copy_within(start + len..old, start + with.len());
        self.room[start..start + with.len()].copy_from_slice(with);
        self.set_len(new);
        if self.packet.protocol == protocol::TCP && with.len() != len {
            let by = (with.len() as u32).wrapping_sub(len as u32);
            let (direction, id) = (self.direction, self.id);
            if let Some(conn) = conn_of(&mut self.table.slots, id) {
                conn.status.set(Status::SEQ_ADJUST);
                conn.make_extra().seqadj.get_or_insert_default()[direction.index()].note(seq, by);
            }
        }
        Ok(())
    }

    /// Brings the headers in step with the packet's new length and payload.
    fn set_len(&mut self, new: usize) {
        let Self { packet, room, field, .. } = self;
        let old = std::mem::replace(&mut packet.len, new as u32);
        let l4 = usize::from(packet.l4);
        let v4 = packet.src.is_v4();
        let (at, value) = match v4 {
            true => (2, new as u16),
            false => (4, (new - tidegate_packet::ipv6::HEADER_LEN) as u16),
        };
        let mut delta = Delta::default();
        delta.replace(&room[at..at + 2], &value.to_be_bytes());
        room[at..at + 2].copy_from_slice(&value.to_be_bytes());
        if v4 && !delta.is_zero() {
            delta.update(room, 10, Field::Complete);
        }
        let check_at = match packet.protocol {
            protocol::UDP => {
                room[l4 + 4..l4 + 6].copy_from_slice(&((new - l4) as u16).to_be_bytes());
                l4 + udp::CHECKSUM_AT
            }
            _ => l4 + tcp::CHECKSUM_AT,
        };
        match field {
            // The field holds the sum of the pseudo-header, of which the length is a part.
            Field::Partial => {
                let mut delta = Delta::default();
                delta.replace16((old as usize - l4) as u16, (new - l4) as u16);
                delta.update(room, check_at, Field::Partial);
            }
            // RFC 768: a datagram without a checksum stays without one.
            Field::Complete
                if packet.protocol == protocol::UDP && room[check_at..check_at + 2] == [0, 0] => {}
            Field::Complete => {
                room[check_at..check_at + 2].fill(0);
                let sum =
                    checksum::transport(packet.src, packet.dst, packet.protocol, &room[l4..new]);
                let sum = if sum == 0 && packet.protocol == protocol::UDP { 0xffff } else { sum };
                room[check_at..check_at + 2].copy_from_slice(&sum.to_be_bytes());
            }
        }
    }

    /// Lets the connection live for that long from now on.
    pub(crate) fn refresh(&mut self, lasts: Duration) {
        let now = self.now;
        if let Some(conn) = conn_of(&mut self.table.slots, self.id) {
            conn.refresh(lasts, now);
        }
    }

    /// Sends a datagram to another port of its destination.
    pub(crate) fn send_to_port(&mut self, port: u16) -> Result<(), HelpDrop> {
        let l4 = usize::from(self.packet.l4);
        let place = self.room.get_mut(l4 + 2..l4 + 4).ok_or(HelpDrop::Message)?;
        place.copy_from_slice(&port.to_be_bytes());
        if let Transport::Udp { dport, .. } = &mut self.packet.transport {
            *dport = port;
        }
        let len = self.len();
        self.set_len(len);
        Ok(())
    }

    /// Whether the packet is one of an answered connection.
    pub(crate) fn is_established(&self) -> bool {
        self.state == State::Established
    }
}

const EMPTY: Tuple =
    Tuple { src: Addr::UNSPECIFIED_V4, dst: Addr::UNSPECIFIED_V4, sport: 0, dport: 0, protocol: 0 };
