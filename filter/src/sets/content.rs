//! The elements that a set holds.

use std::collections::HashMap;
use std::time::Duration;

use foldhash::fast::RandomState;
use tidegate_packet::{Addr, Instant};

use super::Reference;
use super::element::{Element, Entry};
use super::kind::{Kind, Part};

/// Entries that have expired are swept out at most so often.
const SWEEP: Duration = Duration::from_secs(10);

/// What is in a set.
#[derive(Debug, Default)]
pub(crate) struct Content {
    entries: HashMap<Element, Entry, RandomState>,
    /// The lengths of the networks that there are, longest first, and how many of each: a look-up
    /// tries only those.
    lengths: Vec<((u8, u8), usize)>,
    /// How many entries each network has, where entries name interfaces too.
    networks: HashMap<(Addr, u8), usize, RandomState>,
    /// How many beginnings of interfaces' names of each length there are.
    wildcards: Vec<(u8, usize)>,
    /// When the next sweep is worth it.
    sweep: Option<Instant>,
    /// A list's members, in order.
    pub members: Vec<Member>,
}

/// A set in a list of sets.
#[derive(Debug)]
pub(crate) struct Member {
    pub set: Reference,
    pub entry: Entry,
}

/// Where a look-up looks.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The element itself.
    Element,
    /// Networks around it, from the longest to the shortest.
    Networks,
    /// The longest network around it that is there at all, for whichever interface.
    LongestNetwork,
}

impl Scope {
    /// How sets of a kind are looked into.
    pub fn of(kind: &Kind) -> Self {
        match (kind.has_networks(), kind.has(Part::Iface)) {
            (false, _) => Self::Element,
            (true, false) => Self::Networks,
            (true, true) => Self::LongestNetwork,
        }
    }
}

/// What a look-up found.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    No,
    Yes,
    /// An entry that is an exception.
    Exception,
}

/// Why an element wasn't added.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Exists,
    Full,
}

impl Content {
    /// How many elements there are; expired ones may still count.
    pub fn len(&self) -> usize {
        self.entries.len() + self.members.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Element, &Entry)> {
        self.entries.iter()
    }

    /// The longest networks that there are.
    pub fn longest(&self) -> Option<(u8, u8)> {
        self.lengths.first().map(|(lengths, _)| *lengths)
    }

    /// Just this element, and no network around it.
    pub fn get(&self, element: &Element, now: Instant) -> Option<&Entry> {
        self.entries.get(element).filter(|entry| entry.is_alive(now))
    }

    /// Looks an element up: its networks from the longest to the shortest, in each the interface
    /// itself and then beginnings of its name. `accept` may turn an entry down.
    pub fn find(
        &self,
        element: &Element,
        scope: Scope,
        now: Instant,
        accept: &mut dyn FnMut(&Entry) -> bool,
    ) -> Found {
        let mut check = |element: &Element, wild: bool| -> Option<Found> {
            let entry = self.get(element, now)?;
            if wild && !entry.wildcard || !accept(entry) {
                return None;
            }
            Some(if entry.nomatch { Found::Exception } else { Found::Yes })
        };
        if scope == Scope::Element {
            return check(element, false).unwrap_or(Found::No);
        }
        for (lengths, _) in &self.lengths {
            let element = element.within(*lengths);
            if scope == Scope::LongestNetwork
                && !self.networks.contains_key(&(element.addr, element.len))
            {
                continue;
            }
            if let Some(found) = check(&element, false) {
                return found;
            }
            for (len, _) in self.wildcards.iter().filter(|(len, _)| *len < element.iface.len()) {
                let shorter = Element { iface: element.iface.cut(*len), ..element };
                if let Some(found) = check(&shorter, true) {
                    return found;
                }
            }
            // mtype_test_cidrs stops at the first network that is there.
            if scope == Scope::LongestNetwork {
                break;
            }
        }
        Found::No
    }

    /// The element that an element is taken for: itself, or one whose name of an interface is a
    /// beginning of its own.
    fn same(&self, element: &Element, now: Instant) -> Option<Element> {
        if self.get(element, now).is_some() {
            return Some(*element);
        }
        self.wildcards.iter().filter(|(len, _)| *len < element.iface.len()).find_map(|(len, _)| {
            let shorter = Element { iface: element.iface.cut(*len), ..*element };
            self.get(&shorter, now).filter(|entry| entry.wildcard).map(|_| shorter)
        })
    }

    /// Adds an element. One that is there already is replaced if `exist`, and else refused. `room`
    /// is how many there may be; if `force`, one has to go when there is no more.
    pub fn add(
        &mut self,
        element: Element,
        entry: Entry,
        exist: bool,
        (room, force): (usize, bool),
        now: Instant,
    ) -> Result<(), Refused> {
        if let Some(there) = self.same(&element, now) {
            if !exist {
                return Err(Refused::Exists);
            }
            self.remove(&there);
            self.insert(element, entry);
            return Ok(());
        }
        // An expired one in its place makes no room for another.
        self.remove(&element);
        if self.sweep.is_some_and(|at| at <= now) || self.entries.len() >= room {
            self.sweep(now);
        }
        if self.entries.len() >= room {
            // `forceadd` makes room at random; the table's order is that.
            let victim = self.entries.keys().next().copied().filter(|_| force);
            self.remove(&victim.ok_or(Refused::Full)?);
        }
        if let Some(at) = entry.expires {
            let sweep = at.max(now + SWEEP);
            self.sweep = Some(self.sweep.map_or(sweep, |before| before.min(sweep)));
        }
        self.insert(element, entry);
        Ok(())
    }

    /// Removes an element; whether it was there.
    pub fn delete(&mut self, element: &Element, now: Instant) -> bool {
        let Some(there) = self.same(element, now) else { return false };
        self.remove(&there).is_some()
    }

    fn insert(&mut self, element: Element, entry: Entry) {
        count(&mut self.lengths, element.lengths());
        if entry.wildcard {
            count(&mut self.wildcards, element.iface.len());
        }
        if element.iface.len() > 0 {
            *self.networks.entry((element.addr, element.len)).or_default() += 1;
        }
        self.entries.insert(element, entry);
    }

    fn remove(&mut self, element: &Element) -> Option<Entry> {
        let removed = self.entries.remove(element)?;
        let Self { lengths, networks, wildcards, .. } = self;
        forget(lengths, networks, wildcards, element, &removed);
        Some(removed)
    }

    /// Removes what has expired.
    pub fn sweep(&mut self, now: Instant) {
        let Self { entries, lengths, networks, wildcards, sweep, members } = self;
        members.retain(|member| member.entry.is_alive(now));
        let mut next: Option<Instant> = None;
        entries.retain(|element, entry| {
            let alive = entry.is_alive(now);
            if !alive {
                forget(lengths, networks, wildcards, element, entry);
            } else if let Some(at) = entry.expires {
                next = Some(next.map_or(at, |n| n.min(at)));
            }
            alive
        });
        *sweep = next.map(|at| at.max(now + SWEEP));
    }
}

/// Takes an entry out of the counts.
fn forget(
    lengths: &mut Vec<((u8, u8), usize)>,
    networks: &mut HashMap<(Addr, u8), usize, RandomState>,
    wildcards: &mut Vec<(u8, usize)>,
    element: &Element,
    entry: &Entry,
) {
    discount(lengths, element.lengths());
    if entry.wildcard {
        discount(wildcards, element.iface.len());
    }
    let network = (element.addr, element.len);
    if let Some(count) = networks.get_mut(&network) {
        *count -= 1;
        if *count == 0 {
            networks.remove(&network);
        }
    }
}

/// Counts one more of these; the largest come first.
fn count<T: Ord + Copy>(counts: &mut Vec<(T, usize)>, what: T) {
    match counts.binary_search_by(|(there, _)| what.cmp(there)) {
        Ok(at) => counts[at].1 += 1,
        Err(at) => counts.insert(at, (what, 1)),
    }
}

fn discount<T: Ord + Copy>(counts: &mut Vec<(T, usize)>, what: T) {
    if let Ok(at) = counts.binary_search_by(|(there, _)| what.cmp(there)) {
        counts[at].1 -= 1;
        if counts[at].1 == 0 {
            counts.remove(at);
        }
    }
}
