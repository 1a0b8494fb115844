//! Neighbours: which link address an IP address on a link has (ARP, RFC 826; NDP, RFC 4861).
//!
//! Life of an entry: *incomplete* (asked, packets wait) → *reachable* (answered) → after
//! [`REACHABLE`] *stale*: still used, and the next use starts a *probe* → confirmed again, or
//! forgotten. An entry that can't be resolved takes its waiting packets with it; each is answered
//! with host unreachable by the engine.

pub mod arp;
pub mod ndp;
pub mod redirect;

use super::interface::InterfaceId;
use super::packet::OwnedFrame;
use super::short::End;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;
use tidegate_nat::Tracked;
use tidegate_packet::{Addr, Instant, MacAddr};

/// How long an answer is trusted without asking again (RFC 4861 section 10: REACHABLE_TIME).
pub const REACHABLE: Duration = Duration::from_secs(30);
/// Time between two questions (RETRANS_TIMER).
pub const RETRANSMIT: Duration = Duration::from_secs(1);
/// Questions before giving up (MAX_MULTICAST_SOLICIT, MAX_UNICAST_SOLICIT).
pub const TRIES: u8 = 3;
/// Packets that wait for one unresolved address.
pub const QUEUE: usize = 16;
/// Their bytes (Linux: `unres_qlen_bytes`).
pub const QUEUE_BYTES: usize = 212_992;
/// Bytes that wait for all unresolved addresses together.
pub const HELD_BYTES: usize = 16 << 20;
/// Entries at most; a scan of a large LAN must not take the memory.
pub const MAX_ENTRIES: usize = 16_384;
/// Entries from which on nobody gets one by speaking first, so that a station with many addresses
/// can't keep the gateway from asking.
const MAX_HEARD: usize = MAX_ENTRIES / 2;
/// An entry that nobody used for so long is forgotten.
const UNUSED: Duration = Duration::from_secs(600);
/// The same while the table is full.
const UNUSED_WHEN_FULL: Duration = Duration::from_secs(5);

/// An address on a link.
pub type Key = (InterfaceId, Addr);

/// A packet that waits for its next hop's link address.
#[derive(Debug)]
pub struct Waiting {
    /// The packet, from its IP header on.
    pub frame: OwnedFrame,
    /// The interface it had come in by, for the error that may follow.
    pub input: Option<InterfaceId>,
    /// Its connection, for the same.
    pub tracked: Option<Tracked>,
    /// Its source address if that is one of the gateway's: the one to ask from.
    pub source: Option<Addr>,
}

impl Waiting {
    fn cost(&self) -> usize {
        self.frame.slot.len()
    }
}

fn cost(waiting: &VecDeque<Waiting>) -> usize {
    waiting.iter().map(Waiting::cost).sum()
}

/// What a message says of an address.
#[derive(Copy, Clone, Debug)]
pub struct Heard {
    /// Its link address; absent: the one that is known (RFC 4861 section 4.4).
    pub mac: Option<MacAddr>,
    /// The message answers a question, so the way there and back works.
    pub solicited: bool,
    /// It replaces a link address that is known already.
    pub overrides: bool,
    /// An entry is made even if nobody asked for the address.
    pub create: bool,
}

#[derive(Debug)]
enum State {
    Incomplete { asked: u8, asker: Option<Addr>, waiting: VecDeque<Waiting> },
    Known { mac: MacAddr, confirmed: Instant, used: Instant, probes: u8 },
    Permanent { mac: MacAddr },
}

#[derive(Debug)]
struct Entry {
    state: State,
    /// When to ask again; meaningful while incomplete or probing.
    next: Instant,
}

/// What a look-up leads to.
#[derive(Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Send there.
    Known(MacAddr),
    /// Send there, and ask whether it is still right.
    Probe(MacAddr),
    /// Unknown: keep the packet with [`Neighbours::wait`]; `ask` says whether to send a question.
    Unknown {
        /// The first packet for this address: a question has to go out.
        ask: bool,
    },
}

/// A question to be sent because time has passed.
#[derive(Debug, PartialEq, Eq)]
pub struct Question {
    /// Who is asked for.
    pub key: Key,
    /// The gateway's address to ask from, where it matters.
    pub asker: Option<Addr>,
    /// Where a probe goes; absent: to everybody.
    pub mac: Option<MacAddr>,
}

/// The neighbour table.
#[derive(Debug, Default)]
pub struct Neighbours {
    entries: HashMap<Key, Entry, foldhash::fast::RandomState>,
    /// Entries that are incomplete or being probed; few at any time.
    asking: Vec<Key>,
    /// Bytes of all waiting packets.
    held: usize,
    swept: Instant,
    /// To be told when what [`Neighbours::known_until`] said isn't so any more.
    changed: End,
}

impl Neighbours {
    /// None yet.
    pub fn new(changed: End) -> Self {
        Self { changed, ..Self::default() }
    }

    /// Adds an entry that is never asked for and never forgotten.
    pub fn set_permanent(&mut self, key: Key, mac: MacAddr) {
        self.changed.end();
        self.entries.insert(key, Entry { state: State::Permanent { mac }, next: Instant::ZERO });
    }

    /// Looks up the link address of a next hop that a packet is about to be sent to.
    pub fn resolve(&mut self, key: Key, now: Instant) -> Resolution {
        self.resolve_ahead(key, now, Duration::ZERO)
    }

    /// The same for packets that are sent until `ahead` from now without anybody looking.
    pub fn resolve_ahead(&mut self, key: Key, now: Instant, ahead: Duration) -> Resolution {
        let Some(entry) = self.entries.get_mut(&key) else {
            return Resolution::Unknown { ask: true };
        };
        match &mut entry.state {
            State::Permanent { mac } => Resolution::Known(*mac),
            State::Incomplete { .. } => Resolution::Unknown { ask: false },
            State::Known { mac, confirmed, used, probes } => {
                *used = now;
                if now + ahead - *confirmed > REACHABLE && *probes == 0 {
                    *probes = 1;
                    entry.next = now + RETRANSMIT;
                    self.asking.push(key);
                    Resolution::Probe(*mac)
                } else {
                    Resolution::Known(*mac)
                }
            }
        }
    }

    /// The link address of a neighbour, if it is known. Asks nobody.
    pub fn known(&self, key: Key) -> Option<MacAddr> {
        match self.entries.get(&key)?.state {
            State::Incomplete { .. } => None,
            State::Known { mac, .. } | State::Permanent { mac } => Some(mac),
        }
    }

    /// Until when a known address is used without asking anybody again, unless something is heard of
    /// it. For as long as packets keep coming: whoever relies on this has to come back every now and
    /// then ([`Neighbours::resolve`]), or the address counts as unused.
    pub fn known_until(&self, key: Key) -> Option<Instant> {
        match self.entries.get(&key)?.state {
            State::Incomplete { .. } => None,
            State::Known { confirmed, probes: 0, .. } => Some(confirmed + REACHABLE),
            // It is being asked already.
            State::Known { used, .. } => Some(used + REACHABLE),
            State::Permanent { .. } => Some(Instant::from_nanos(u64::MAX)),
        }
    }

    /// Keeps a packet until the address is known and says how many packets were lost for it: where
    /// there is no room the oldest goes, as in Linux.
    pub fn wait(&mut self, key: Key, packet: Waiting, now: Instant) -> u64 {
        if !self.entries.contains_key(&key) && !self.open(key, packet.source, now) {
            return 1;
        }
        let Some(State::Incomplete { waiting, .. }) =
            self.entries.get_mut(&key).map(|e| &mut e.state)
        else {
            return 1;
        };
        self.held += packet.cost();
        waiting.push_back(packet);
        let mut lost = 0;
        while waiting.len() > QUEUE || cost(waiting) > QUEUE_BYTES || self.held > HELD_BYTES {
            let Some(oldest) = waiting.pop_front() else { break };
            self.held -= oldest.cost();
            lost += 1;
        }
        lost
    }

    /// Makes an entry for an address that is being asked for, if there is room.
    fn open(&mut self, key: Key, asker: Option<Addr>, now: Instant) -> bool {
        if self.entries.len() >= MAX_ENTRIES {
            self.sweep(now, Duration::from_secs(1), UNUSED_WHEN_FULL);
            if self.entries.len() >= MAX_ENTRIES {
                return false;
            }
        }
        let state = State::Incomplete { asked: 1, asker, waiting: VecDeque::new() };
        self.entries.insert(key, Entry { state, next: now + RETRANSMIT });
        self.asking.push(key);
        true
    }

    /// Takes in what a message says of an address and returns what waited for it.
    pub fn learn(&mut self, key: Key, heard: Heard, now: Instant) -> VecDeque<Waiting> {
        let Heard { mac, solicited, overrides, create } = heard;
        // An address that only spoke is stale: using it starts a probe.
        let confirmed = if solicited { now } else { Instant::ZERO };
        let room = self.entries.len() < MAX_HEARD;
        let known = |mac, confirmed| State::Known { mac, confirmed, used: now, probes: 0 };
        let Some(entry) = self.entries.get_mut(&key) else {
            if let (Some(mac), true) = (mac, create && room) {
                self.entries.insert(key, Entry { state: known(mac, confirmed), next: now });
            }
            return VecDeque::new();
        };
        let settled = match (&mut entry.state, mac) {
            (State::Permanent { .. }, _) | (State::Incomplete { .. }, None) => None,
            (State::Incomplete { waiting, .. }, Some(mac)) => {
                let waiting = std::mem::take(waiting);
                self.held -= cost(&waiting);
                // An answer to our question confirms both ways.
                entry.state = known(mac, now);
                Some(waiting)
            }
            (State::Known { mac: old, confirmed: at, .. }, Some(mac)) if *old != mac => {
                if overrides || *at != Instant::ZERO {
                    self.changed.end();
                }
                if overrides {
                    entry.state = known(mac, confirmed);
                    Some(VecDeque::new())
                } else {
                    // Only a doubt (RFC 4861 section 7.2.5): the next use asks.
                    *at = Instant::ZERO;
                    None
                }
            }
            (State::Known { mac, .. }, _) if solicited => {
                entry.state = known(*mac, now);
                Some(VecDeque::new())
            }
            (State::Known { .. }, _) => None,
        };
        if settled.is_some() {
            self.asking.retain(|k| *k != key);
        }
        settled.unwrap_or_default()
    }

    /// Does what is due: questions to ask again go into `questions`, packets whose next hop
    /// doesn't answer into `failed`.
    pub fn tick(
        &mut self,
        now: Instant,
        questions: &mut Vec<Question>,
        failed: &mut Vec<(Key, Waiting)>,
    ) {
        let mut asking = std::mem::take(&mut self.asking);
        asking.retain(|key| {
            let Some(entry) = self.entries.get_mut(key) else { return false };
            if entry.next > now {
                return true;
            }
            entry.next = now + RETRANSMIT;
            match &mut entry.state {
                State::Permanent { .. } => false,
                State::Incomplete { asked, asker, .. } if *asked < TRIES => {
                    *asked += 1;
                    questions.push(Question { key: *key, asker: *asker, mac: None });
                    true
                }
                State::Incomplete { waiting, .. } => {
                    self.held -= cost(waiting);
                    failed.extend(waiting.drain(..).map(|w| (*key, w)));
                    self.entries.remove(key);
                    false
                }
                State::Known { mac, probes, .. } if *probes < TRIES => {
                    *probes += 1;
                    questions.push(Question { key: *key, asker: None, mac: Some(*mac) });
                    true
                }
                State::Known { .. } => {
                    self.entries.remove(key);
                    self.changed.end();
                    false
                }
            }
        });
        self.asking = asking;
        self.sweep(now, Duration::from_secs(60), UNUSED);
    }

    /// Forgets entries that nobody used for so long, unless that was done lately.
    fn sweep(&mut self, now: Instant, lately: Duration, unused: Duration) {
        if now - self.swept < lately {
            return;
        }
        self.swept = now;
        let before = self.entries.len();
        self.entries.retain(|_, entry| match &entry.state {
            State::Known { used, .. } => now - *used < unused,
            State::Incomplete { .. } | State::Permanent { .. } => true,
        });
        if self.entries.len() < before {
            self.changed.end();
        }
    }

    /// Whether a question is outstanding, so that [`Neighbours::tick`] must be called soon.
    pub fn is_asking(&self) -> bool {
        !self.asking.is_empty()
    }

    /// Forgets everything learnt on an interface and says how many packets waited there.
    pub fn flush(&mut self, interface: InterfaceId) -> u64 {
        let (mut lost, mut bytes) = (0, 0);
        self.changed.end();
        self.entries.retain(|key, entry| {
            if key.0 != interface {
                return true;
            }
            if let State::Incomplete { waiting, .. } = &entry.state {
                (lost, bytes) = (lost + waiting.len() as u64, bytes + cost(waiting));
            }
            matches!(entry.state, State::Permanent { .. })
        });
        self.held -= bytes;
        lost
    }

    /// The known addresses, for listings.
    pub fn iter(&self) -> impl Iterator<Item = (Key, Option<MacAddr>)> {
        self.entries.iter().map(|(key, entry)| {
            let mac = match &entry.state {
                State::Incomplete { .. } => None,
                State::Known { mac, .. } | State::Permanent { mac } => Some(*mac),
            };
            (*key, mac)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
    const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const ANSWER: Heard = Heard { mac: Some(MAC), solicited: true, overrides: true, create: false };

    fn key(n: u8) -> Key {
        (InterfaceId(1), Addr::from_v4_bytes([192, 168, 0, n]))
    }

    fn waiting(n: u8) -> Waiting {
        Waiting { frame: OwnedFrame::new(&[n]), input: None, tracked: None, source: None }
    }

    #[test]
    fn packets_wait_and_are_released_in_order() {
        let mut table = Neighbours::default();
        let now = Instant::from_secs(100);
        assert_eq!(table.resolve(key(5), now), Resolution::Unknown { ask: true });
        assert_eq!(table.wait(key(5), waiting(1), now), 0);
        assert_eq!(table.resolve(key(5), now), Resolution::Unknown { ask: false });
        assert_eq!(table.wait(key(5), waiting(2), now), 0);
        let released = table.learn(key(5), ANSWER, now);
        let order: Vec<_> = released.iter().map(|w| w.frame.bytes()[0]).collect();
        assert_eq!(order, [1, 2]);
        assert_eq!(table.resolve(key(5), now), Resolution::Known(MAC));
        assert!(!table.is_asking());
    }

    #[test]
    fn the_oldest_packet_goes_when_the_queue_is_full() {
        let mut table = Neighbours::default();
        let now = Instant::from_secs(100);
        for n in 0..QUEUE as u8 {
            assert_eq!(table.wait(key(5), waiting(n), now), 0);
        }
        assert_eq!(table.wait(key(5), waiting(99), now), 1);
        let kept = table.learn(key(5), ANSWER, now);
        assert_eq!((kept.len(), kept[0].frame.bytes()), (QUEUE, &[1][..]));
    }

    #[test]
    fn waiting_packets_are_bounded_in_bytes() {
        let mut table = Neighbours::default();
        let now = Instant::from_secs(100);
        let long = || Waiting { frame: OwnedFrame::new(&[0; 65_000]), ..waiting(0) };
        let lost: Vec<_> = (0..5).map(|_| table.wait(key(5), long(), now)).collect();
        assert_eq!(lost, [0, 0, 0, 1, 1], "of one address");
        let mut lost = 0;
        for n in 0..1000u16 {
            let [a, b] = n.to_be_bytes();
            let key = (InterfaceId(1), Addr::from_v4_bytes([10, 3, a, b]));
            lost += table.wait(key, long(), now);
            assert!(table.held <= HELD_BYTES);
        }
        assert_eq!(lost, 1000 - (HELD_BYTES / long().cost() - 3) as u64, "of all addresses");
        table.flush(InterfaceId(1));
        assert_eq!(table.held, 0);
    }

    #[test]
    fn who_speaks_first_cannot_fill_the_table() {
        let mut table = Neighbours::default();
        let now = Instant::from_secs(100);
        let speaks = Heard { mac: Some(MAC), solicited: false, overrides: true, create: true };
        for n in 0..2 * MAX_ENTRIES as u32 {
            let key = (InterfaceId(1), Addr::from_bits(0x2001_0db8 << 96 | u128::from(n)));
            table.learn(key, speaks, now);
        }
        assert_eq!(table.wait(key(5), waiting(1), now), 0);
        assert!(table.iter().count() <= MAX_ENTRIES / 2 + 1);
    }

    #[test]
    fn a_full_table_forgets_who_is_silent() {
        let mut table = Neighbours::default();
        let at = |secs| Instant::from_secs(secs);
        for n in 0..MAX_ENTRIES as u32 {
            let key = (InterfaceId(1), Addr::from_bits(0x2001_0db8 << 96 | u128::from(n)));
            table.wait(key, waiting(1), at(100));
            table.learn(key, ANSWER, at(100));
        }
        assert_eq!(table.wait(key(5), waiting(1), at(102)), 1, "all in use");
        assert_eq!(table.wait(key(5), waiting(1), at(106)), 0);
    }

    /// RFC 4861 section 7.2.5, for an entry that is reachable at 100 s and asked about at 140 s.
    #[test]
    fn what_an_advertisement_changes() {
        let says = |mac, solicited, overrides| Heard { mac, solicited, overrides, create: false };
        for (what, heard, want) in [
            ("an answer", says(Some(MAC), true, true), Resolution::Known(MAC)),
            ("an answer without address", says(None, true, false), Resolution::Known(MAC)),
            ("the same unasked", says(Some(MAC), false, true), Resolution::Probe(MAC)),
            ("another, instead", says(Some(OTHER), false, true), Resolution::Probe(OTHER)),
            ("another, answering", says(Some(OTHER), true, true), Resolution::Known(OTHER)),
            ("another, besides", says(Some(OTHER), true, false), Resolution::Probe(MAC)),
        ] {
            let mut table = Neighbours::default();
            table.wait(key(5), waiting(1), Instant::from_secs(100));
            table.learn(key(5), ANSWER, Instant::from_secs(100));
            table.learn(key(5), heard, Instant::from_secs(139));
            assert_eq!(table.resolve(key(5), Instant::from_secs(140)), want, "{what}");
        }
    }

    #[test]
    fn three_questions_then_failure() {
        let mut table = Neighbours::default();
        table.wait(key(5), waiting(1), Instant::from_secs(100));
        let (mut questions, mut failed) = (Vec::new(), Vec::new());
        for (secs, asked, lost) in [(100, 0, 0), (101, 1, 0), (102, 2, 0), (103, 2, 1)] {
            table.tick(Instant::from_secs(secs), &mut questions, &mut failed);
            assert_eq!((questions.len(), failed.len()), (asked, lost), "at {secs} s");
        }
        let again = table.resolve(key(5), Instant::from_secs(103));
        assert_eq!(again, Resolution::Unknown { ask: true });
    }

    #[test]
    fn a_stale_entry_is_probed_while_used_and_forgotten_without_an_answer() {
        let mut table = Neighbours::default();
        table.learn(key(5), Heard { create: true, ..ANSWER }, Instant::from_secs(100));
        assert_eq!(table.resolve(key(5), Instant::from_secs(130)), Resolution::Known(MAC));
        assert_eq!(table.resolve(key(5), Instant::from_secs(131)), Resolution::Probe(MAC));
        assert_eq!(table.resolve(key(5), Instant::from_secs(131)), Resolution::Known(MAC));
        let (mut questions, mut failed) = (Vec::new(), Vec::new());
        for secs in 131..140 {
            table.tick(Instant::from_secs(secs), &mut questions, &mut failed);
        }
        assert_eq!(questions.len(), 2);
        assert!(questions.iter().all(|q| q.mac == Some(MAC)));
        let again = table.resolve(key(5), Instant::from_secs(140));
        assert_eq!(again, Resolution::Unknown { ask: true });
    }

    #[test]
    fn a_permanent_entry_stays() {
        let mut table = Neighbours::default();
        table.set_permanent(key(5), MAC);
        table.learn(key(5), Heard { mac: Some(OTHER), ..ANSWER }, Instant::from_secs(1));
        assert_eq!(table.resolve(key(5), Instant::from_secs(9999)), Resolution::Known(MAC));
    }
}
