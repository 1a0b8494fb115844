//! Flows of many packets that somebody else forwards: the kernel, by the gateway's order.
//!
//! What the short way does with a packet is so little that it can be said in advance ([`Flow`]). A flow
//! that is worth it (`heavy.rs`) is leased to a [`Forwarder`], which is nearer to the devices. It takes
//! the flow's plain packets as the short way would, and leaves all others to the gateway. What it has
//! seen is asked for before anybody looks at the connection, the rules' counters or the clock
//! (`nat/src/lease.rs`), and a lease ends with the generation that its paths are of.

use super::heavy::{Heavy, SMALL};
use super::paths::{Decision, Path};
use super::{Generation, Short};
use crate::engine::interface::PortId;
use crate::engine::neighbour::{self, Resolution};
use crate::engine::{Counters, Engine};
use crate::io::bypass::{Flow, Forwarder, Way};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tidegate_filter as filter;
use tidegate_nat::lease::{Holder, Report, Windows};
use tidegate_nat::{ConnId, Conntrack, Direction, NO_PATH};
use tidegate_packet::{Family, Instant, MacAddr, ethernet};

/// That a leased flow has become such a flood is seen by so many of them a second.
const FLOOD: u64 = 50_000;
/// A lease of which nothing was seen for so long ends: others may want its place.
const IDLE: Duration = Duration::from_secs(10);
/// A lease ends when it has less time left than this, so that it doesn't run out between two ticks.
const TOO_SHORT: Duration = Duration::from_millis(600);
/// Next hops of a lease in use are asked so long before what is known of them ends, so that the lease
/// doesn't: for some ticks.
const AHEAD: Duration = Duration::from_secs(3);

/// The leases of a gateway.
#[derive(Debug)]
pub struct Leases {
    forwarder: Arc<dyn Forwarder>,
    /// The kernel's number of each port's interface; zero where the forwarder can't do anything.
    links: Box<[AtomicU32]>,
    /// How many packets make a flow worth a lease.
    pub(super) often: u16,
    /// Whether there may be any.
    allowed: AtomicBool,
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    /// By the number of the lease.
    leases: Vec<Option<Lease>>,
    /// Ended with something uncounted.
    ended: Vec<Lease>,
    /// Packets that were forwarded.
    taken: u64,
}

#[derive(Debug)]
struct Lease {
    family: Family,
    generation: u64,
    until: Instant,
    /// Until when it may last at most.
    limit: Instant,
    /// When something was seen of it.
    used: Instant,
    /// When it was last asked whether it is a flood, and what was counted since then.
    asked: Instant,
    recent: [tidegate_nat::Counters; 2],
    ways: [Option<Course>; 2],
}

/// A direction's way, as the counters know it, and what hasn't been counted there yet.
#[derive(Debug)]
struct Course {
    input: PortId,
    egress: PortId,
    next: neighbour::Key,
    station: MacAddr,
    rules: Box<[u32]>,
    packets: u64,
    bytes: u64,
    /// Bytes of the frames as they arrived.
    frames: u64,
}

impl Short {
    /// From now on flows may be leased.
    pub fn set_leases(&mut self, leases: Arc<Leases>) {
        self.heavy = Some(Heavy::new(leases));
    }

    /// Leases what has turned out to be worth it.
    pub fn lease_wanted(&mut self, conntrack: &mut Conntrack, now: Instant) {
        let Some(heavy) = &mut self.heavy else { return };
        let (leases, wanted) = (heavy.leases.clone(), std::mem::take(&mut heavy.wanted));
        if self.paths.generation() != self.generation.number() {
            return;
        }
        for id in wanted {
            if let Some((flow, lease, paths)) = self.flow(conntrack, id, &leases, now)
                && let Some(number) = leases.begin(&flow, lease, &self.generation)
            {
                conntrack.lease(id, number, paths);
            }
        }
    }

    /// What a forwarder has to know of a connection. `None`: nobody can forward it.
    fn flow(
        &self,
        conntrack: &Conntrack,
        id: ConnId,
        leases: &Leases,
        now: Instant,
    ) -> Option<(Flow, Lease, [u32; 2])> {
        let terms = conntrack.terms(id)?;
        let limit = terms.until.unwrap_or(Instant::from_nanos(u64::MAX));
        let mut until = limit;
        let (mut family, mut paths) = (None, [NO_PATH; 2]);
        let (mut ways, mut courses) = ([None, None], [None, None]);
        for direction in [Direction::Original, Direction::Reply].map(|d| d as usize) {
            if terms.paths[direction] == NO_PATH {
                continue;
            }
            let Decision::Path(path, place) = self.paths.get(terms.paths[direction], now) else {
                continue;
            };
            let rewritten = terms.tuples[1 - direction].inverse()?;
            let Some(way) = leases.way(path, terms.tuples[direction], rewritten) else { continue };
            until = until.min(self.paths.known_until(place));
            (family, paths[direction]) = (Some(path.family), terms.paths[direction]);
            ways[direction] = Some(way);
            courses[direction] = Some(Course::of(path));
        }
        if until < now + 2 * TOO_SHORT {
            return None;
        }
        let (family, generation) = (family?, self.generation.sum());
        let (windows, checksum) = (terms.windows, conntrack.settings().checksum);
        let flow = Flow { family, ways, windows, checksum, generation, until };
        let (used, asked, recent) = (now, now, Default::default());
        let lease = Lease { family, generation, until, limit, used, asked, recent, ways: courses };
        Some((flow, lease, paths))
    }
}

impl Leases {
    /// For a gateway of this many ports. A flow is worth a lease after `often` packets.
    pub fn new(forwarder: Arc<dyn Forwarder>, ports: usize, often: u16) -> Self {
        let links = (0..ports).map(|_| AtomicU32::new(0)).collect();
        let (allowed, books) = (AtomicBool::new(true), Mutex::default());
        Self { forwarder, links, often, allowed, books }
    }

    /// The forwarder receives and sends by this port, whose interface has this number; `None`: it can't.
    pub fn set_link(&self, PortId(port): PortId, index: Option<u32>) {
        if let Some(link) = self.links.get(usize::from(port)) {
            link.store(index.unwrap_or(0), Ordering::Release);
        }
    }

    /// Whether there may be leases from now on; those that there are end with their generation.
    pub fn allow(&self, allowed: bool) {
        self.allowed.store(allowed, Ordering::Release);
    }

    /// Nothing is forwarded any more that has been leased so far.
    pub fn stop(&self) {
        self.forwarder.set_generation(0);
    }

    fn link(&self, PortId(port): PortId) -> Option<u32> {
        let index = self.links.get(usize::from(port))?.load(Ordering::Acquire);
        (index != 0).then_some(index)
    }

    fn way(
        &self,
        path: &Path,
        tuple: tidegate_nat::Tuple,
        rewritten: tidegate_nat::Tuple,
    ) -> Option<Way> {
        // A bridge has to learn where its stations are.
        if path.from.is_some() {
            return None;
        }
        let (input, egress) = (self.link(path.input)?, self.link(path.egress)?);
        let Path { to, header, mtu, .. } = *path;
        Some(Way { tuple, input, to, rewritten, egress, header, mtu })
    }

    /// Begins a lease, and gives its number.
    fn begin(&self, flow: &Flow, lease: Lease, generation: &Generation) -> Option<u32> {
        if !self.allowed.load(Ordering::Acquire) {
            return None;
        }
        let mut books = self.books();
        let number = self.forwarder.lease(flow)?;
        let place = number as usize;
        if books.leases.len() <= place {
            books.leases.resize_with(place + 1, || None);
        }
        books.leases[place] = Some(lease);
        self.follow(generation);
        Some(number)
    }

    /// What was leased in this generation is forwarded, and nothing else.
    pub fn follow(&self, generation: &Generation) {
        let number = generation.sum();
        self.forwarder.set_generation(number);
        // Whoever has ended it meanwhile may have stopped the forwarder before.
        if generation.sum() != number {
            self.stop();
        }
    }

    /// Whether a lease should end by now.
    pub fn is_ending(&self, number: u32, generation: u64, now: Instant) -> bool {
        let mut books = self.books();
        let Some(lease) = books.leases.get_mut(number as usize).and_then(Option::as_mut) else {
            return true;
        };
        lease.generation != generation
            || lease.until < now + TOO_SHORT
            || lease.used + IDLE < now
            || lease.is_flood(now)
    }

    /// The next hops of those in use that end soon, if that is for their sake.
    fn hops_to_ask(&self, now: Instant) -> Vec<neighbour::Key> {
        let books = self.books();
        let ending = books.leases.iter().flatten().filter(|lease| lease.is_to_go_on(now));
        let mut hops: Vec<_> =
            ending.flat_map(|l| l.ways.iter().flatten().map(|w| w.next)).collect();
        hops.sort_unstable();
        hops.dedup();
        hops
    }

    /// They go on for as long as their next hops are known, which is asked by the hop and its link
    /// address.
    fn prolong(
        &self,
        now: Instant,
        known_until: impl Fn(neighbour::Key, MacAddr) -> Option<Instant>,
    ) {
        let mut books = self.books();
        for (number, lease) in (0..).zip(&mut books.leases) {
            let Some(lease) = lease.as_mut().filter(|lease| lease.is_to_go_on(now)) else {
                continue;
            };
            let ways = lease.ways.iter().flatten();
            let known = ways.map(|way| known_until(way.next, way.station)).min().flatten();
            let until = lease.limit.min(known.unwrap_or(Instant::ZERO));
            if until > lease.until {
                lease.until = until;
                self.forwarder.prolong(number, until);
            }
        }
    }

    /// Adds what has been forwarded to the rules' counters and the ports'.
    pub fn settle(&self, rules: &mut [filter::Counters; 2], ports: &mut Counters) {
        let mut books = self.books();
        let Books { leases, ended, .. } = &mut *books;
        for lease in leases.iter_mut().flatten().chain(ended.iter_mut()) {
            for way in lease.ways.iter_mut().flatten().filter(|way| way.packets > 0) {
                rules[lease.family as usize].count_trail(&way.rules, way.packets, way.bytes);
                let received = &mut ports.received[usize::from(way.input.0)];
                received.packets += way.packets;
                received.bytes += way.frames;
                let sent = &mut ports.sent[usize::from(way.egress.0)];
                sent.packets += way.packets;
                sent.bytes += way.bytes + way.packets * ethernet::HEADER_LEN as u64;
                (way.packets, way.bytes, way.frames) = (0, 0, 0);
            }
        }
        ended.clear();
    }

    /// Packets that were forwarded without the gateway.
    pub fn taken(&self) -> u64 {
        self.books().taken
    }

    /// Leases that there are.
    pub fn count(&self) -> usize {
        self.books().leases.iter().flatten().count()
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Course {
    fn of(path: &Path) -> Self {
        let Path { input, egress, next, header, .. } = *path;
        let mut station = MacAddr::default();
        station.0.copy_from_slice(&header[..6]);
        let rules = path.counted.clone();
        Self { input, egress, next, station, rules, packets: 0, bytes: 0, frames: 0 }
    }
}

impl Lease {
    /// Whether it is in use and ends soon, for another reason than its connection.
    fn is_to_go_on(&self, now: Instant) -> bool {
        self.until < now + AHEAD && self.until < self.limit && now < self.used + AHEAD
    }

    /// Whether its packets have been many and small lately. Answers now and then.
    fn is_flood(&mut self, now: Instant) -> bool {
        let millis = (now - self.asked).as_millis() as u64;
        if millis < 100 {
            return false;
        }
        let ways = std::mem::take(&mut self.recent);
        self.asked = now;
        let [packets, bytes] = [ways[0].packets + ways[1].packets, ways[0].bytes + ways[1].bytes];
        let answered = ways[0].packets.min(ways[1].packets) >= packets / 4;
        packets * 1000 > FLOOD * millis && bytes < SMALL * packets && !answered
    }
}

impl Books {
    fn enter(&mut self, number: u32, report: &Report) {
        let Some(Some(lease)) = self.leases.get_mut(number as usize) else { return };
        let seen = report.counted.iter().zip(&report.frames);
        for (recent, counted) in lease.recent.iter_mut().zip(&report.counted) {
            recent.packets += counted.packets;
            recent.bytes += counted.bytes;
        }
        for (way, (counted, frames)) in lease.ways.iter_mut().zip(seen) {
            let Some(way) = way else { continue };
            way.frames += frames;
            way.packets += counted.packets;
            way.bytes += counted.bytes;
            self.taken += counted.packets;
            if counted.packets > 0 {
                lease.used = lease.used.max(report.seen);
            }
        }
    }
}

impl Holder for Leases {
    fn report(&self, number: u32, end: bool) -> Report {
        let mut books = self.books();
        let report = self.forwarder.report(number, end);
        books.enter(number, &report);
        if end
            && let Some(lease) = books.leases.get_mut(number as usize).and_then(Option::take)
            && lease.ways.iter().flatten().any(|way| way.packets > 0)
        {
            books.ended.push(lease);
        }
        report
    }

    fn pause(&self, number: u32) -> Report {
        let mut books = self.books();
        let report = self.forwarder.pause(number);
        books.enter(number, &report);
        report
    }

    fn resume(&self, number: u32, windows: Option<Windows>) {
        self.forwarder.resume(number, windows);
    }
}

impl Engine {
    /// From now on heavy flows are leased. To be called once the engine is divided.
    pub fn set_leases(&mut self, leases: &Arc<Leases>) {
        leases.allow(self.sysctls.bypass());
        self.generation.end().stop_with(leases.clone());
        for number in 0..self.shards.count() {
            self.shards.lock(number).set_leases(leases);
        }
        self.leases = Some(leases.clone());
    }

    /// A command has changed a set: what was decided about flows may be wrong now.
    pub fn sets_changed(&self) {
        if let Some(leases) = &self.leases {
            leases.follow(&self.generation);
        }
    }

    /// Whether there are flows to be leased in the shard at work.
    pub(crate) fn wants_leases(&self) -> bool {
        self.short.heavy.as_ref().is_some_and(Heavy::is_wanted)
    }

    /// The leases, if there are any.
    pub fn leases(&self) -> Option<&Arc<Leases>> {
        self.leases.as_ref()
    }

    /// Asks the next hops of leases in use before what is known of them ends, so that the leases go on.
    /// To be called behind [`Engine::settle_leases`].
    pub(crate) fn prolong_leases(&mut self) {
        let Some(leases) = self.leases.clone() else { return };
        for (interface, next) in leases.hops_to_ask(self.now) {
            let found = self.neighbours.resolve_ahead((interface, next), self.now, AHEAD);
            if let Resolution::Probe(mac) = found {
                self.ask(interface, next, None, Some(mac));
            }
        }
        leases.prolong(self.now, |next, station| self.known_until(next, station));
    }

    /// Brings what is leased of the table at work up to date, and ends what is over.
    pub(crate) fn settle_leases(&mut self) {
        let Self { leases: Some(leases), conntrack, generation, now, .. } = self else { return };
        let generation = generation.sum();
        conntrack.settle_leases(|number| leases.is_ending(number, generation, *now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_one_by_number_and_size() {
        let lease = |there: u64, back: u64, size: u64| Lease {
            family: Family::V4,
            generation: 1,
            until: Instant::from_secs(99),
            used: Instant::ZERO,
            asked: Instant::ZERO,
            limit: Instant::from_secs(99),
            recent: [there, back]
                .map(|packets| tidegate_nat::Counters { packets, bytes: packets * size }),
            ways: [None, None],
        };
        let half = Instant::from_nanos(500_000_000);
        for (there, back, size, flood) in [
            (30_000, 0, 60, true),
            (30_000, 5_000, 60, true),
            (30_000, 0, 600, false),
            (20_000, 0, 60, false),
            (30_000, 30_000, 60, false),
        ] {
            let mut lease = lease(there, back, size);
            assert!(!lease.is_flood(Instant::from_nanos(99_000_000)), "not so soon");
            assert_eq!(lease.is_flood(half), flood, "{there} and {back} of {size}");
            assert!(!lease.is_flood(half + Duration::from_secs(1)), "only what is new");
        }
    }
}
