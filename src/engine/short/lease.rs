//! Flows of many packets that somebody else forwards: the kernel, by the gateway's order.
//!
//! What the short way does with a packet is so little that it can be said in advance ([`Flow`]). A flow
//! that has gone the short way often ([`OFTEN`]), and whose packets are large or answered, is
//! leased to a [`Forwarder`], which is nearer to the devices. It takes the flow's plain packets as the short way would, and leaves all others to the
//! gateway. What it has seen is asked for before anybody looks at the connection, the rules' counters
//! or the clock (`nat/src/lease.rs`), and a lease ends with the generation that its paths are of.

use super::paths::{Decision, Path};
use super::{Generation, Short};
use crate::engine::interface::PortId;
use crate::engine::{Counters, Engine};
use crate::io::bypass::{Flow, Forwarder, Way};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tidegate_filter as filter;
use tidegate_nat::lease::{Holder, Report, Windows};
use tidegate_nat::{ConnId, Conntrack, Direction, NO_PATH};
use tidegate_packet::{Family, Instant, ethernet};

/// So many packets a flow of a gateway with devices has to have sent the short way, with few others
/// among them.
pub const OFTEN: u16 = 32;
/// Flows that are watched at the same time; of two at one place that with more packets stays.
const WATCHED: usize = 256;
/// Shorter packets, in bytes, don't gain by being leased if nobody answers them: copying them costs
/// little, and a worker takes half of the work off the core that they come by, where a forwarder would
/// do it. Of answers, the sooner the better.
const SMALL: u64 = 512;
/// That a leased flow has become such a flood is seen by so many of them a second.
const FLOOD: u64 = 50_000;
/// A lease of which nothing was seen for so long ends: others may want its place.
const IDLE: Duration = Duration::from_secs(10);
/// A lease ends when it has less time left than this, so that it doesn't run out between two ticks.
const TOO_SHORT: Duration = Duration::from_millis(600);

/// Which flows of a shard are worth a lease.
#[derive(Debug)]
pub(crate) struct Heavy {
    leases: Arc<Leases>,
    watched: Box<[Option<Watched>; WATCHED]>,
    wanted: Vec<ConnId>,
}

/// A flow whose packets are counted until they are many.
#[derive(Copy, Clone, Debug)]
struct Watched {
    id: ConnId,
    /// In each direction.
    packets: [u16; 2],
    bytes: u64,
}

/// The leases of a gateway.
#[derive(Debug)]
pub struct Leases {
    forwarder: Arc<dyn Forwarder>,
    /// The kernel's number of each port's interface; zero where the forwarder can't do anything.
    links: Box<[AtomicU32]>,
    /// How many packets make a flow worth a lease.
    often: u16,
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
    rules: Box<[u32]>,
    packets: u64,
    bytes: u64,
    /// Bytes of the frames as they arrived.
    frames: u64,
}

impl Heavy {
    pub fn new(leases: Arc<Leases>) -> Self {
        Self { leases, watched: Box::new([None; WATCHED]), wanted: Vec::new() }
    }

    /// A flow's packet of this many bytes has gone the short way.
    #[inline]
    pub fn note(&mut self, id: ConnId, direction: Direction, bytes: u32) {
        let place = &mut self.watched[id.number() as usize % WATCHED];
        let flow = match place {
            Some(flow) if flow.id == id => flow,
            Some(flow) if flow.packets != [0; 2] => {
                // One of each.
                flow.packets = flow.packets.map(|n| n.saturating_sub(1));
                return;
            }
            _ => place.insert(Watched { id, packets: [0; 2], bytes: 0 }),
        };
        flow.packets[direction as usize] += 1;
        flow.bytes += u64::from(bytes);
        let (often, [there, back]) = (self.leases.often, flow.packets);
        if there + back < often {
            return;
        }
        let worth_it = flow.bytes >= SMALL * u64::from(often) || there.min(back) >= often / 4;
        (flow.packets, flow.bytes) = ([0; 2], 0);
        if worth_it && self.wanted.len() < WATCHED {
            self.wanted.push(id);
        }
    }

    /// Whether there are flows to be leased.
    #[inline]
    pub fn is_wanted(&self) -> bool {
        !self.wanted.is_empty()
    }
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
        let generation = self.generation.sum();
        conntrack.settle_leases(|number| leases.is_ending(number, generation, now));
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
        let mut until = terms.until.unwrap_or(Instant::from_nanos(u64::MAX));
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
            let Path { input, egress, .. } = *path;
            let rules = path.counted.clone();
            courses[direction] =
                Some(Course { input, egress, rules, packets: 0, bytes: 0, frames: 0 });
        }
        if until < now + 2 * TOO_SHORT {
            return None;
        }
        let (family, generation) = (family?, self.generation.sum());
        let (windows, checksum) = (terms.windows, conntrack.settings().checksum);
        let flow = Flow { family, ways, windows, checksum, generation, until };
        let (used, asked, recent) = (now, now, Default::default());
        let lease = Lease { family, generation, until, used, asked, recent, ways: courses };
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

impl Lease {
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
    use crate::sim::forwarder::InMemory;
    use tidegate_nat::Settings;
    use tidegate_packet::builder::{Ip, udp};
    use tidegate_packet::{Parsed, protocol};

    fn connection(table: &mut Conntrack, port: u16) -> ConnId {
        let [src, dst] = ["10.0.0.1", "10.0.0.2"].map(|a| a.parse().unwrap());
        let bytes = udp(Ip::new(src, dst, protocol::UDP), port, 53, b"x");
        let packet = Parsed::parse(&bytes).unwrap();
        let mut tracked = table.track(&packet, &bytes, false, Instant::ZERO);
        table.confirm(&mut tracked, Instant::ZERO).unwrap();
        tracked.id().unwrap()
    }

    /// How often a flow is wanted of whose packets every so many-th is an answer.
    fn wanted(packets: usize, answers: usize, bytes: u32) -> usize {
        let mut table = Conntrack::new(Settings::default(), [1, 2]);
        let leases = Leases::new(Arc::new(InMemory::default()), 1, OFTEN);
        let (mut heavy, id) = (Heavy::new(Arc::new(leases)), connection(&mut table, 4000));
        for packet in 1..=packets {
            let answer = packet % answers == 0;
            let direction = if answer { Direction::Reply } else { Direction::Original };
            heavy.note(id, direction, bytes);
        }
        heavy.wanted.len()
    }

    #[test]
    fn large_packets_and_answered_ones_are_worth_a_lease() {
        assert_eq!(wanted(31, 2, 1500), 0, "too few");
        assert_eq!([wanted(32, 2, 60), wanted(64, 4, 60)], [1, 2]);
        assert_eq!([wanted(32, 99, 512), wanted(32, 99, 64_000)], [1, 1]);
        assert_eq!([wanted(320, 999, 60), wanted(320, 20, 511)], [0, 0], "a flood of small ones");
    }

    #[test]
    fn others_among_them_count_against_it() {
        let mut table = Conntrack::new(Settings::default(), [1, 2]);
        let leases = Leases::new(Arc::new(InMemory::default()), 1, OFTEN);
        let mut heavy = Heavy::new(Arc::new(leases));
        let ids: Vec<ConnId> = (0..WATCHED as u16 * 4).map(|n| connection(&mut table, n)).collect();
        // Four to a place, all with as many packets as the others.
        for _ in 0..100 {
            ids.iter().for_each(|id| heavy.note(*id, Direction::Original, 1500));
        }
        assert_eq!(heavy.wanted, []);
    }

    #[test]
    fn a_flood_is_one_by_number_and_size() {
        let lease = |there: u64, back: u64, size: u64| Lease {
            family: Family::V4,
            generation: 1,
            until: Instant::from_secs(99),
            used: Instant::ZERO,
            asked: Instant::ZERO,
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
