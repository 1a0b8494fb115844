//! Neighbours: which link address an IP address on a link has (ARP, RFC 826; NDP, RFC 4861).
//!
//! Life of an entry: *incomplete* (asked, packets wait) → *reachable* (answered) → after
//! [`REACHABLE`] *stale*: still used, and the next use starts a *probe* → confirmed again, or
//! forgotten. An entry that can't be resolved takes its waiting packets with it; each is answered
//! with host unreachable by the engine.

pub mod arp;
pub mod ndp;

use super::interface::InterfaceId;
use super::packet::OwnedFrame;
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
/// Entries at most; a scan of a large LAN must not take the memory.
pub const MAX_ENTRIES: usize = 16_384;
/// An entry that nobody used for so long is forgotten.
const UNUSED: Duration = Duration::from_secs(600);

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
    swept: Instant,
}

impl Neighbours {
    /// Adds an entry that is never asked for and never forgotten.
    pub fn set_permanent(&mut self, key: Key, mac: MacAddr) {
        self.entries.insert(key, Entry { state: State::Permanent { mac }, next: Instant::ZERO });
    }

    /// Looks up the link address of a next hop that a packet is about to be sent to.
    pub fn resolve(&mut self, key: Key, now: Instant) -> Resolution {
        let Some(entry) = self.entries.get_mut(&key) else {
            return Resolution::Unknown { ask: true };
        };
        match &mut entry.state {
            State::Permanent { mac } => Resolution::Known(*mac),
            State::Incomplete { .. } => Resolution::Unknown { ask: false },
            State::Known { mac, confirmed, used, probes } => {
                *used = now;
                if now - *confirmed > REACHABLE && *probes == 0 {
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

    /// Keeps a packet until the address is known. Gives it back if there is no room for it (the
    /// oldest waiting packet is what goes, as in Linux, so it may be another one).
    pub fn wait(&mut self, key: Key, packet: Waiting, now: Instant) -> Option<Waiting> {
        if !self.entries.contains_key(&key) {
            if self.entries.len() >= MAX_ENTRIES {
                return Some(packet);
            }
            let asker = packet.source;
            let state = State::Incomplete { asked: 1, asker, waiting: VecDeque::new() };
            self.entries.insert(key, Entry { state, next: now + RETRANSMIT });
            self.asking.push(key);
        }
        match self.entries.get_mut(&key).map(|e| &mut e.state) {
            Some(State::Incomplete { waiting, .. }) => {
                waiting.push_back(packet);
                if waiting.len() > QUEUE { waiting.pop_front() } else { None }
            }
            _ => Some(packet),
        }
    }

    /// Takes in that an address has this link address and returns what waited for it. `create`
    /// says whether an entry is made for an address nobody asked for.
    pub fn learn(
        &mut self,
        key: Key,
        mac: MacAddr,
        solicited: bool,
        create: bool,
        now: Instant,
    ) -> VecDeque<Waiting> {
        // An address that only spoke is stale: using it starts a probe.
        let confirmed = if solicited { now } else { Instant::ZERO };
        let room = self.entries.len() < MAX_ENTRIES;
        let known = |confirmed| State::Known { mac, confirmed, used: now, probes: 0 };
        match self.entries.get_mut(&key) {
            None if create && room => {
                self.entries.insert(key, Entry { state: known(confirmed), next: now });
            }
            None => {}
            Some(entry) => match &mut entry.state {
                State::Permanent { .. } => {}
                State::Incomplete { waiting, .. } => {
                    let waiting = std::mem::take(waiting);
                    // An answer to our question confirms both ways.
                    entry.state = known(now);
                    self.asking.retain(|k| *k != key);
                    return waiting;
                }
                State::Known { mac: old, confirmed: at, .. } => {
                    let same = *old == mac;
                    if solicited || !same {
                        let at = if same && !solicited { *at } else { confirmed };
                        entry.state = known(at);
                        self.asking.retain(|k| *k != key);
                    }
                }
            },
        }
        VecDeque::new()
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
                    false
                }
            }
        });
        self.asking = asking;
        self.sweep(now);
    }

    /// Forgets entries that nobody used for long, once a minute.
    fn sweep(&mut self, now: Instant) {
        if now - self.swept < Duration::from_secs(60) {
            return;
        }
        self.swept = now;
        self.entries.retain(|_, entry| match &entry.state {
            State::Known { used, .. } => now - *used < UNUSED,
            State::Incomplete { .. } | State::Permanent { .. } => true,
        });
    }

    /// Whether a question is outstanding, so that [`Neighbours::tick`] must be called soon.
    pub fn is_asking(&self) -> bool {
        !self.asking.is_empty()
    }

    /// Forgets everything learnt on an interface.
    pub fn flush(&mut self, interface: InterfaceId) {
        self.entries.retain(|key, entry| {
            key.0 != interface || matches!(entry.state, State::Permanent { .. })
        });
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
        assert!(table.wait(key(5), waiting(1), now).is_none());
        assert_eq!(table.resolve(key(5), now), Resolution::Unknown { ask: false });
        assert!(table.wait(key(5), waiting(2), now).is_none());
        let released = table.learn(key(5), MAC, true, false, now);
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
            assert!(table.wait(key(5), waiting(n), now).is_none());
        }
        let lost = table.wait(key(5), waiting(99), now).unwrap();
        assert_eq!(lost.frame.bytes(), [0]);
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
        table.learn(key(5), MAC, true, true, Instant::from_secs(100));
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
        table.learn(key(5), MacAddr([2, 0, 0, 0, 0, 1]), true, true, Instant::from_secs(1));
        assert_eq!(table.resolve(key(5), Instant::from_secs(9999)), Resolution::Known(MAC));
    }
}
