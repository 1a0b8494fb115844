//! Connections whose packets somebody else handles for a time: the *holder* of the lease.
//!
//! A holder decides nothing that isn't plain: it takes packets of established connections that change
//! nothing but counters, deadlines and TCP's windows, and hands every other packet on as it came, which
//! ends the lease ([`Conntrack::track`] takes the state back first). Until then what stands in the table
//! may be old, and [`Conntrack::settle_leases`] brings it up to date.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;

use tidegate_packet::{Instant, Transport};

use crate::conn::{Connection, Counters, Direction, Proto, Status};
use crate::slots::conn_of;
use crate::table::Conntrack;
use crate::tcp::{TcpState, TcpTrack};
use crate::tcp_window::Segment;
use crate::tracked::{ConnId, InvalidReason, Tracked};
use crate::{NO_PATH, Tuple, udp};

/// What is known of one side of a TCP connection (see `tcp_window.rs`).
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerWindow {
    /// Highest sequence number sent, plus one.
    pub end: u32,
    /// Highest that the other side has room for.
    pub max_end: u32,
    /// Largest window it has announced, in bytes.
    pub max_window: u32,
    /// Highest acknowledgment it has sent.
    pub max_ack: u32,
    /// Its window's scale.
    pub scale: u8,
    /// [`PeerWindow::SACK`] and the like; the rest is to be kept.
    pub flags: u8,
}

impl PeerWindow {
    /// It permits SACK.
    pub const SACK: u8 = 1 << 1;
    /// It sent data that wait for their acknowledgment.
    pub const UNACKNOWLEDGED: u8 = 1 << 4;
    /// `max_ack` holds something.
    pub const MAXACK_SET: u8 = 1 << 5;
}

/// The windows of an established TCP connection and the segment that was looked at last.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Windows {
    /// Of the original direction's sender and of the reply's.
    pub peers: [PeerWindow; 2],
    /// Sequence number of the last segment.
    pub seq: u32,
    /// Its acknowledgment.
    pub ack: u32,
    /// The sequence number behind it.
    pub end: u32,
    /// Its window as it stands in the header.
    pub window: u16,
    /// Its direction: 0 is the original one, 1 the reply.
    pub direction: u8,
    /// How often it was repeated; stays at 255.
    pub retransmissions: u8,
}

impl Windows {
    /// Judges a segment with ACK and without SYN, FIN and RST (its TCP header and what follows), as a
    /// holder has to. False: it isn't inside the window, nothing has changed, and the segment is to be
    /// handed on.
    pub fn accept(&mut self, direction: Direction, segment: &[u8]) -> bool {
        let mut track = TcpTrack::by_hand(TcpState::Established);
        track.set_windows(self);
        let Some(segment) = Segment::parse(segment) else { return false };
        let fits = track.accept(direction, &segment);
        if fits {
            *self = Self { direction: direction.index() as u8, ..track.windows() };
        }
        fits
    }
}

/// What has happened to a leased connection since the last report.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Packets and bytes (from the IP header on) of both directions.
    pub counted: [Counters; 2],
    /// Bytes of the frames that they came in.
    pub frames: [u64; 2],
    /// When the last packet came. Means something only if there was one.
    pub seen: Instant,
    /// TCP: what they are now.
    pub windows: Option<Windows>,
}

/// Who handles leased connections' packets. The numbers of leases are its own.
pub trait Holder: Debug + Send + Sync {
    /// What has happened since the last report. With `end` the lease is over: the holder handles no
    /// packet any more when this returns, and may give the number to another.
    fn report(&self, number: u32, end: bool) -> Report;

    /// What has happened since the last report. The holder handles no packet until
    /// [`Holder::resume`].
    fn pause(&self, number: u32) -> Report;

    /// It may go on, with these windows.
    fn resume(&self, number: u32, windows: Option<Windows>);
}

/// What a holder has to know of a connection.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Its tuples, the original one and the reply.
    pub tuples: [Tuple; 2],
    /// What was decided about its directions.
    pub paths: [u32; 2],
    /// TCP: the windows so far.
    pub windows: Option<Windows>,
    /// The first packet after this time changes more than a holder can.
    pub until: Option<Instant>,
}

/// The connections of a table that are leased.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    holder: Option<Arc<dyn Holder>>,
    /// By the connection's slot.
    leased: HashMap<u32, Lease>,
}

#[derive(Copy, Clone, Debug)]
struct Lease {
    number: u32,
    /// What it is about.
    paths: [u32; 2],
}

impl Conntrack {
    /// Who is going to hold leases.
    pub fn set_holder(&mut self, holder: Arc<dyn Holder>) {
        self.leases.holder = Some(holder);
    }

    /// On what terms a connection may be leased: `None` if it isn't there, is leased already, or if its
    /// next packets change more than a holder can.
    pub fn terms(&self, id: ConnId) -> Option<Terms> {
        let conn = self.get(id).filter(|conn| !conn.status.has(Status::LEASED))?;
        self.leases.holder.as_ref()?;
        let until = match &conn.proto {
            Proto::Tcp(tcp) => {
                let steady = Status::SEEN_REPLY.with(Status::ASSURED);
                (conn.status.has(steady) && tcp.is_leasable()).then_some(None)?
            }
            Proto::Udp { start, .. } => udp::steady_until(conn, *start),
            _ => return None,
        };
        let mut paths = conn.paths;
        // The first answer changes what rules see.
        if !conn.status.has(Status::SEEN_REPLY) {
            paths[Direction::Reply.index()] = NO_PATH;
        }
        let tuples = [Direction::Original, Direction::Reply].map(|way| conn.tuple(way));
        Some(Terms { tuples, paths, windows: conn.windows(), until })
    }

    /// The holder has taken a connection and given the lease a number. `paths` are those of the
    /// directions that it handles, and [`NO_PATH`].
    pub fn lease(&mut self, id: ConnId, number: u32, paths: [u32; 2]) {
        if let Some(conn) = conn_of(&mut self.slots, id) {
            conn.status.set(Status::LEASED);
            self.leases.leased.insert(id.slot, Lease { number, paths });
        }
    }

    /// Ends a lease that isn't about this path of the direction.
    #[inline]
    pub(crate) fn lease_follows(&mut self, id: ConnId, direction: Direction, path: u32) {
        if self.get(id).is_some_and(|conn| conn.status.has(Status::LEASED))
            && self.leases.leased.get(&id.slot).is_some_and(|l| l.paths[direction.index()] != path)
        {
            self.settle_lease(id.slot, true);
        }
    }

    /// How many connections are leased.
    pub fn leased(&self) -> usize {
        self.leases.leased.len()
    }

    /// Brings all leased connections up to date, and ends the leases with these numbers.
    pub fn settle_leases(&mut self, mut ends: impl FnMut(u32) -> bool) {
        if self.leases.leased.is_empty() {
            return;
        }
        let all: Vec<_> = self.leases.leased.iter().map(|(s, l)| (*s, l.number)).collect();
        for (slot, number) in all {
            self.settle_lease(slot, false);
            if ends(number) {
                self.settle_lease(slot, true);
            }
        }
    }

    /// Brings a connection up to date that may be leased.
    pub(crate) fn settle_lease(&mut self, slot: u32, end: bool) {
        let Leases { holder: Some(holder), leased } = &mut self.leases else { return };
        let Some(&Lease { number, .. }) = leased.get(&slot) else { return };
        if end {
            leased.remove(&slot);
        }
        let report = holder.report(number, end);
        self.enter_report(slot, &report);
        if end && let Some(conn) = self.slots.get_mut(slot) {
            conn.status.clear(Status::LEASED);
        }
    }

    /// Ends a connection's lease, if it is leased: it is going to be another than the holder knows.
    #[inline]
    pub(crate) fn end_lease(&mut self, id: ConnId) {
        if self.get(id).is_some_and(|conn| conn.status.has(Status::LEASED)) {
            self.settle_lease(id.slot, true);
        }
    }

    /// A packet of a leased connection that the holder didn't take: it was on its way before the
    /// lease began, or isn't plain. It is tracked as ever while the holder waits.
    pub(crate) fn packet_of_leased(
        &mut self,
        id: ConnId,
        direction: Direction,
        transport: Transport,
        len: u32,
        segment: &[u8],
        now: Instant,
    ) -> Result<Option<Tracked>, InvalidReason> {
        let slot = id.slot;
        let number = self.leases.leased.get(&slot).map(|lease| lease.number);
        if let (Some(holder), Some(number)) = (&self.leases.holder, number) {
            let report = holder.pause(number);
            self.enter_report(slot, &report);
        }
        let before = conn_of(&mut self.slots, id).map(|conn| {
            conn.status.clear(Status::LEASED);
            (conn.status, conn.paths)
        });
        let result = self.packet_of(id, direction, transport, len, segment, now);
        let after = conn_of(&mut self.slots, id);
        if let (Some(holder), Some(number)) = (&self.leases.holder, number) {
            match after {
                Some(conn) if before == Some((conn.status, conn.paths)) && conn.is_leasable() => {
                    conn.status.set(Status::LEASED);
                    holder.resume(number, conn.windows());
                }
                // Nothing has happened since the pause. A connection that has gone has ended it itself.
                _ if self.leases.leased.remove(&slot).is_some() => {
                    holder.report(number, true);
                }
                _ => {}
            }
        }
        result
    }

    /// Enters what a holder reports.
    fn enter_report(&mut self, slot: u32, report: &Report) {
        let Some(conn) = self.slots.get_mut(slot) else { return };
        if report.counted.iter().all(|way| way.packets == 0) {
            return;
        }
        for (way, counted) in [Direction::Original, Direction::Reply].iter().zip(&report.counted) {
            conn.count_many(*way, *counted);
        }
        let armed = conn.deadline;
        match (&mut conn.proto, &report.windows) {
            (Proto::Tcp(tcp), Some(windows)) => {
                tcp.set_windows(windows);
                let timeout = tcp.timeout_of_acks(&self.settings);
                conn.refresh(timeout, report.seen);
            }
            _ => udp::packet(conn, &self.settings, report.seen),
        }
        self.mappings.seen = self.mappings.seen.max(report.seen);
        if conn.deadline < armed {
            let deadline = conn.deadline;
            self.wheel.arm(slot, deadline);
        }
    }

    /// The windows of a TCP connection.
    pub fn windows(&self, id: ConnId) -> Option<Windows> {
        self.get(id)?.windows()
    }
}

impl Connection {
    fn windows(&self) -> Option<Windows> {
        match &self.proto {
            Proto::Tcp(tcp) => Some(tcp.windows()),
            _ => None,
        }
    }

    /// Whether packets that only acknowledge and carry data change nothing but windows and counters.
    fn is_leasable(&self) -> bool {
        match &self.proto {
            Proto::Tcp(tcp) => tcp.is_leasable(),
            _ => true,
        }
    }
}
