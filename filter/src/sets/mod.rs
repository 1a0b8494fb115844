//! Sets of addresses, networks and ports that rules look packets up in (`ipset`).
//!
//! A set has a *kind* (what its elements are made of, one part a dimension), options and *entries*.
//! Rules hold on to the set itself, so that its entries may change while rules are in force. Sets are
//! no part of a ruleset: a rule that names one that isn't there is refused.

mod element;
mod lookup;
mod text;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tidegate_packet::{Addr, Family, Instant};

pub(crate) use element::{Element, Kind};
pub(crate) use lookup::{CounterTest, Question, Sides};

/// All sets by name. Clones are the same sets.
#[derive(Clone, Debug, Default)]
pub struct Sets(Arc<RwLock<BTreeMap<String, Arc<Set>>>>);

/// A set.
pub struct Set {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) options: Options,
    content: Mutex<Content>,
}

/// What a set was created with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub family: Family,
    pub hash_size: u32,
    pub max: usize,
    /// Seconds that an entry stays unless it says otherwise; zero: for ever.
    pub timeout: Option<u32>,
    pub counters: bool,
    pub comments: bool,
    /// Addresses are cut to so many bits.
    pub netmask: Option<u8>,
    pub force: bool,
    /// What a bitmap has room for, as numbers.
    pub range: (u32, u32),
    /// Members that a list has room for.
    pub size: u32,
}

#[derive(Debug, Default)]
struct Content {
    entries: HashMap<Element, Entry>,
    /// How many networks of each length there are, so that a look-up tries only those.
    lengths: BTreeMap<u8, usize>,
    /// A list's members, in order.
    members: Vec<Arc<Set>>,
}

/// What is kept of an element.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    /// When it goes; absent: never.
    pub expires: Option<Instant>,
    pub packets: u64,
    pub bytes: u64,
    /// An exception from a larger network.
    pub nomatch: bool,
    pub comment: String,
}

impl fmt::Debug for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Set").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Sets {
    /// No sets.
    pub fn new() -> Self {
        Self::default()
    }

    /// The names there are, in order.
    pub fn names(&self) -> Vec<String> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    pub(crate) fn get(&self, name: &str) -> Option<Arc<Set>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
}

impl Entry {
    fn is_alive(&self, now: Instant) -> bool {
        self.expires.is_none_or(|at| at > now)
    }
}

impl Set {
    fn new(name: &str, kind: Kind, options: Options) -> Self {
        Self { name: name.to_owned(), kind, options, content: Mutex::default() }
    }

    fn content(&self) -> std::sync::MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an element. One that is there already is replaced if `exist`, and else refused.
    fn add(
        &self,
        element: Element,
        entry: Entry,
        exist: bool,
        now: Instant,
    ) -> Result<(), Refused> {
        let mut content = self.content();
        if let Some(old) = content.entries.get(&element)
            && old.is_alive(now)
        {
            if !exist {
                return Err(Refused::Exists);
            }
            content.entries.insert(element, entry);
            return Ok(());
        }
        if content.entries.len() >= self.options.max {
            content.purge(now);
        }
        if content.entries.len() >= self.options.max && !content.entries.contains_key(&element) {
            // `forceadd` makes room at random; any entry will do.
            let victim = content.entries.keys().next().cloned();
            match victim.filter(|_| self.options.force) {
                Some(victim) => content.remove(&victim),
                None => return Err(Refused::Full),
            };
        }
        content.insert(element, entry);
        Ok(())
    }

    fn delete(&self, element: &Element, now: Instant) -> bool {
        self.content().remove(element).is_some_and(|entry| entry.is_alive(now))
    }

    /// When an entry goes that is made now.
    fn expiry(&self, seconds: Option<u32>, now: Instant) -> Option<Instant> {
        let seconds =
            seconds.or(self.options.timeout).filter(|_| self.options.timeout.is_some())?;
        (seconds > 0).then(|| now + std::time::Duration::from_secs(seconds.into()))
    }

    /// An address as the set keeps it.
    fn cut(&self, addr: Addr) -> Addr {
        match self.options.netmask {
            Some(len) => element::network(addr, len),
            None => addr,
        }
    }
}

/// Why an element wasn't added.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Refused {
    Exists,
    Full,
}

impl Content {
    fn insert(&mut self, element: Element, entry: Entry) {
        let len = element.len;
        if self.entries.insert(element, entry).is_none() {
            *self.lengths.entry(len).or_default() += 1;
        }
    }

    fn remove(&mut self, element: &Element) -> Option<Entry> {
        let removed = self.entries.remove(element)?;
        if let Some(count) = self.lengths.get_mut(&element.len) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&element.len);
            }
        }
        Some(removed)
    }

    fn purge(&mut self, now: Instant) {
        let dead: Vec<_> =
            self.entries.iter().filter(|(_, e)| !e.is_alive(now)).map(|(e, _)| e.clone()).collect();
        for element in dead {
            self.remove(&element);
        }
    }
}
