//! What the long way has decided about flows, for the short one.
//!
//! Most flows of a gateway share a handful of decisions, so a decision (a [`Path`]) stands here once
//! and connections hold its number. Numbers go up and are not used twice: after a change that makes
//! all decisions void the next ones begin where the old ones ended, and what connections still hold
//! of those means nothing. Before the numbers run out all connections forget theirs.

use super::super::interface::PortId;
use super::super::neighbour;
use super::lease::Leases;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use tidegate_filter as filter;
use tidegate_filter::sets::Changes;
use tidegate_nat::NO_PATH;
use tidegate_packet::{Family, Instant, MacAddr, ethernet};

/// Decisions that there are at most. Where rules, neighbours and routes make more, the rest of the
/// flows go the long way.
const MOST: usize = 65_536;

/// No generation.
const CLOSED: [u64; 3] = [u64::MAX; 3];

/// A number that becomes another with everything that may lead packets another way: rules, routes,
/// addresses, neighbours, settings. Sets have numbers of their own, one for each family's rules.
#[derive(Clone, Debug, Default)]
pub struct Generation {
    own: End,
    sets: [Changes; 2],
}

/// Ends generations, for whoever knows that something has changed.
#[derive(Clone, Debug, Default)]
pub struct End(Arc<Ending>);

#[derive(Debug, Default)]
struct Ending {
    number: AtomicU64,
    /// Whoever forwards packets by what was decided.
    leases: OnceLock<Arc<Leases>>,
}

impl End {
    /// Voids everything that was decided so far.
    pub fn end(&self) {
        self.0.number.fetch_add(1, Ordering::SeqCst);
        if let Some(leases) = self.0.leases.get() {
            leases.stop();
        }
    }

    /// These end too.
    pub(crate) fn stop_with(&self, leases: Arc<Leases>) {
        // There is one gateway, and it has told us.
        let _ = self.0.leases.set(leases);
    }
}

impl Generation {
    /// Of a gateway whose rules know these sets.
    pub fn new(sets: [Changes; 2]) -> Self {
        Self { own: End::default(), sets }
    }

    /// What ends it.
    pub fn end(&self) -> &End {
        &self.own
    }

    /// The rules in force know these sets. Ends the generation.
    pub fn follow(&mut self, sets: [Changes; 2]) {
        self.sets = sets;
        self.own.end();
    }

    /// Whether it is this one still.
    #[inline(always)]
    pub fn is(&self, [own, v4, v6]: [u64; 3]) -> bool {
        self.own.0.number.load(Ordering::SeqCst) == own
            && self.sets[0].number() == v4
            && self.sets[1].number() == v6
    }

    /// What it is now.
    #[inline]
    pub fn number(&self) -> [u64; 3] {
        let [v4, v6] = &self.sets;
        [self.own.0.number.load(Ordering::SeqCst), v4.number(), v6.number()]
    }

    /// The same as one number, never zero: none of them ever falls.
    pub fn sum(&self) -> u64 {
        self.number().iter().fold(1, |sum, n| sum.wrapping_add(*n))
    }
}

/// A decision about the packets of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Path {
    pub family: Family,
    /// The port they come in by.
    pub input: PortId,
    /// The link address they are sent to: the gateway's.
    pub to: MacAddr,
    /// The link address they come from, if their link is a bridge that has to learn it.
    pub from: Option<MacAddr>,
    /// The port they leave by.
    pub egress: PortId,
    /// Their next hop.
    pub next: neighbour::Key,
    /// Their link header then.
    pub header: [u8; ethernet::HEADER_LEN],
    /// Longest packet for that link.
    pub mtu: u32,
    /// Places in the counters of the rules that count them, in the order in which they meet them.
    pub counted: Box<[u32]>,
}

/// A decision with what belongs to it.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Absent: all of the flow's packets have to go the long way.
    pub path: Option<Path>,
    /// From then on the long way has to look at the neighbour again.
    until: Instant,
    /// And from then on the neighbour may be another.
    known_until: Instant,
    /// Packets and bytes that the rules haven't counted yet.
    packets: u64,
    bytes: u64,
}

/// The decisions that are in force.
#[derive(Debug)]
pub(crate) struct Paths {
    /// The number of the first.
    first: u32,
    /// The first says that there is nothing to be decided.
    entries: Vec<Entry>,
    by_path: HashMap<Path, u32>,
    /// Places of those that have something to count.
    touched: Vec<u32>,
    /// The generation that they are of.
    generation: [u64; 3],
}

/// What is known about a flow.
pub(crate) enum Decision<'a> {
    /// Nothing (any more): the long way may decide.
    None,
    /// All its packets have to go the long way.
    Refused,
    /// They go this way.
    Path(&'a Path, u32),
}

impl Default for Paths {
    fn default() -> Self {
        let mut paths = Self {
            first: NO_PATH + 1,
            entries: Vec::new(),
            by_path: HashMap::new(),
            touched: Vec::new(),
            generation: CLOSED,
        };
        paths.entries.push(Entry::refused());
        paths
    }
}

impl Entry {
    fn refused() -> Self {
        let (until, known_until) = (Instant::ZERO, Instant::ZERO);
        Self { path: None, until, known_until, packets: 0, bytes: 0 }
    }
}

impl Paths {
    /// The generation that they are of.
    #[inline]
    pub fn generation(&self) -> [u64; 3] {
        self.generation
    }

    /// What a number stands for. The number in the answer is for [`Paths::count`].
    #[inline]
    pub fn get(&self, number: u32, now: Instant) -> Decision<'_> {
        let place = number.wrapping_sub(self.first);
        match self.entries.get(place as usize) {
            None => Decision::None,
            Some(Entry { path: None, .. }) => Decision::Refused,
            Some(Entry { until, .. }) if *until < now => Decision::None,
            Some(Entry { path: Some(path), .. }) => Decision::Path(path, place),
        }
    }

    /// Counts a packet that went a way; `place` is what [`Paths::get`] gave.
    #[inline]
    pub fn count(&mut self, place: u32, bytes: u32) {
        let Some(entry) = self.entries.get_mut(place as usize) else { return };
        if entry.packets == 0 {
            self.touched.push(place);
        }
        entry.packets += 1;
        entry.bytes += u64::from(bytes);
    }

    /// The number of the decision that there is nothing to decide.
    pub fn refusal(&self) -> u32 {
        self.first
    }

    /// Until when a decision holds if nobody can look at the neighbour sooner; `place` is what
    /// [`Paths::get`] gave.
    pub fn known_until(&self, place: u32) -> Instant {
        self.entries.get(place as usize).map_or(Instant::ZERO, |entry| entry.known_until)
    }

    /// The number of a decision that holds until then, if there is room for it.
    pub fn add(&mut self, path: Path, until: Instant, known_until: Instant) -> Option<u32> {
        if let Some(&place) = self.by_path.get(&path) {
            let entry = &mut self.entries[place as usize];
            (entry.until, entry.known_until) = (until, known_until);
            return Some(self.first + place);
        }
        if self.entries.len() >= MOST {
            return None;
        }
        let place = self.entries.len() as u32;
        let entry = Entry { path: Some(path.clone()), until, known_until, ..Entry::refused() };
        self.entries.push(entry);
        self.by_path.insert(path, place);
        Some(self.first + place)
    }

    /// Counts in the rules what has gone the short way since the last time.
    #[inline]
    pub fn settle(&mut self, counters: &mut [filter::Counters; 2]) {
        for place in self.touched.drain(..) {
            let Some(entry) = self.entries.get_mut(place as usize) else { continue };
            let (packets, bytes) = (entry.packets, entry.bytes);
            (entry.packets, entry.bytes) = (0, 0);
            if let Some(path) = &entry.path {
                counters[path.family as usize].count_trail(&path.counted, packets, bytes);
            }
        }
    }

    /// Nothing is decided any more, until [`Paths::renew`].
    pub fn close(&mut self) {
        self.generation = CLOSED;
    }

    /// Forgets all decisions; what they have counted must be settled. True: the numbers begin anew,
    /// and connections must forget theirs.
    pub fn renew(&mut self, generation: [u64; 3]) -> bool {
        self.generation = generation;
        let used = self.entries.len() as u32;
        self.by_path.clear();
        self.touched.clear();
        self.entries.truncate(1);
        let wraps = u32::MAX - self.first < used + MOST as u32;
        self.first = if wraps { NO_PATH + 1 } else { self.first + used };
        wraps
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::interface::InterfaceId;
    use super::*;
    use tidegate_packet::Addr;

    fn path(egress: u16) -> Path {
        Path {
            family: Family::V4,
            input: PortId(0),
            to: MacAddr([2; 6]),
            from: None,
            egress: PortId(egress),
            next: (InterfaceId(0), Addr::unspecified(Family::V4)),
            header: [0; ethernet::HEADER_LEN],
            mtu: 1500,
            counted: Box::default(),
        }
    }

    fn egress(paths: &Paths, number: u32, now: Instant) -> Option<u16> {
        match paths.get(number, now) {
            Decision::Path(path, _) => Some(path.egress.0),
            Decision::None | Decision::Refused => None,
        }
    }

    #[test]
    fn equal_decisions_have_one_number_and_the_latest_time() {
        let mut paths = Paths::default();
        let at = Instant::from_secs;
        let [one, two] = [1, 2].map(|port| paths.add(path(port), at(10), at(10)).expect("room"));
        assert_ne!(one, two);
        assert_eq!(paths.add(path(1), at(20), at(20)), Some(one));
        assert_eq!(
            [10, 11, 20, 21].map(|t| egress(&paths, one, at(t))),
            [Some(1), Some(1), Some(1), None]
        );
        assert_eq!([10, 11].map(|t| egress(&paths, two, at(t))), [Some(2), None]);
        assert_eq!(egress(&paths, NO_PATH, at(0)), None);
        assert!(matches!(paths.get(paths.refusal(), at(0)), Decision::Refused));
    }

    #[test]
    fn numbers_of_another_generation_mean_nothing() {
        let (mut paths, now) = (Paths::default(), Instant::ZERO);
        let old = [paths.refusal(), paths.add(path(1), now, now).expect("room")];
        assert!(!paths.renew([1, 0, 0]));
        let new = paths.add(path(2), now, now).expect("room");
        for number in old {
            assert!(matches!(paths.get(number, now), Decision::None), "{number}");
        }
        assert_eq!(egress(&paths, new, now), Some(2));
    }

    #[test]
    fn numbers_begin_anew_before_they_run_out() {
        let mut paths = Paths { first: u32::MAX - MOST as u32 - 9, ..Paths::default() };
        for n in 0..MOST - 1 {
            let mtu = n as u32;
            assert!(paths.add(Path { mtu, ..path(1) }, Instant::ZERO, Instant::ZERO).is_some());
        }
        assert_eq!(paths.add(path(2), Instant::ZERO, Instant::ZERO), None, "full");
        assert!(paths.renew([1, 0, 0]));
        assert_eq!(paths.add(path(2), Instant::ZERO, Instant::ZERO), Some(NO_PATH + 2));
    }
}
