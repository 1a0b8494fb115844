//! Sets of addresses, networks and ports that rules look packets up in (`ipset`).
//!
//! A set has a *kind* (what its elements are made of, one part a dimension), options and *entries*.
//! [`Sets`] belongs to a gateway: rules of both families hold on to sets by name, so that entries
//! change while rules are in force. What a name stands for can be exchanged (`ipset swap`); a set
//! that is held on to can't be destroyed or renamed. A rule that names a set that isn't there is
//! refused.
//!
//! Each set has a lock of its own: packets read, commands and `-j SET` write. Counters are atomic,
//! so a packet that is counted reads too.

mod change;
mod command;
mod content;
mod create;
mod element;
mod fault;
mod help;
mod icmp;
mod kind;
mod list;
mod lookup;
mod words;

use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tidegate_packet::{Addr, Family, Instant};

use crate::diagnostic::Diagnostic;
use content::Content;
use fault::Fault;
use kind::Kind;

pub use command::{Answer, Files, files};
pub(crate) use create::MAX_TIMEOUT;
pub(crate) use lookup::{CounterTest, MAX_SIDES, Question, Sides};

/// Most sets that there may be, as in the kernel.
const MAX_SETS: usize = 65_534;

/// All sets by name. Clones are the same sets.
#[derive(Clone, Default)]
pub struct Sets {
    table: Arc<RwLock<Table>>,
    changes: Changes,
}

/// A number that becomes another whenever a command has changed a set. What rules do to sets doesn't
/// change it.
#[derive(Clone, Debug, Default)]
pub struct Changes(Arc<AtomicU64>);

impl Changes {
    /// The number as it is now.
    #[inline]
    pub fn number(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

#[derive(Default)]
struct Table {
    /// In the order they are listed in; a new set takes the first free place.
    places: Vec<Option<Arc<Set>>>,
    by_name: HashMap<String, usize>,
}

/// A set: a name and what it stands for.
pub(crate) struct Set {
    pub name: String,
    body: RwLock<Body>,
    /// Rules and lists that hold on to it.
    references: AtomicUsize,
    /// Rules put packets' elements in or take them out.
    written: AtomicBool,
}

/// What a set's name stands for.
#[derive(Debug)]
pub(crate) struct Body {
    pub kind: &'static Kind,
    pub options: Options,
    pub content: Content,
}

/// A rule's or list's hold on a set.
pub(crate) struct Reference(Arc<Set>);

/// What a set was created with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub family: Family,
    pub hash_size: u32,
    /// How full a place of the kernel's table gets, and the seed of its hash: shown, nothing else.
    pub bucket_size: u8,
    pub initval: u32,
    pub max: u32,
    /// Seconds that an entry stays unless it says otherwise; zero: for ever.
    pub timeout: Option<u32>,
    pub counters: bool,
    pub comments: bool,
    pub skbinfo: bool,
    pub force: bool,
    /// Addresses are cut to these bits.
    pub mask: Option<Mask>,
    pub mark_mask: u32,
    /// What a bitmap has room for, as numbers.
    pub range: (u32, u32),
    /// What a list was created with; it grows all the same.
    pub size: u32,
}

/// What addresses are cut to.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mask {
    Len(u8),
    Bits(Addr),
}

impl Sets {
    /// No sets.
    pub fn new() -> Self {
        Self::default()
    }

    /// The names there are, in the order of their listing.
    pub fn names(&self) -> Vec<String> {
        self.all().iter().map(|set| set.name.clone()).collect()
    }

    /// Carries out the lines of a text in the form of `ipset save`. Lines up to the first that is
    /// refused stay done, as with `ipset restore`; what is wrong is told for all lines.
    pub fn restore(&self, text: &str, now: Instant) -> Result<(), Vec<Diagnostic>> {
        command::load(self, text, now)
    }

    /// Runs `ipset` with these arguments, its own name not among them; `input` is what `restore`
    /// reads.
    pub fn call(&self, args: &[String], input: &str, now: Instant) -> Answer {
        command::run(self, args, input, now)
    }

    /// All sets in the form of `ipset save -sorted`.
    pub fn save(&self, now: Instant) -> String {
        list::save(&self.all(), now)
    }

    /// Takes over the sets of `others` whose names aren't there yet, and tells which those are. What
    /// is there stays what it is. Sets are read aside first, so that a mistake changes nothing.
    pub fn add_missing(&self, others: &Self) -> Vec<String> {
        let mut added = Vec::new();
        for other in others.all() {
            if self.get(&other.name).is_some() {
                continue;
            }
            let mut body = std::mem::replace(&mut *other.write(), Body::empty());
            // A list lists what its names stand for here.
            body.content.members.retain_mut(|member| match self.hold(&member.set.name) {
                Some(set) => {
                    member.set = set;
                    true
                }
                None => false,
            });
            if self.write().insert(Arc::new(Set::new(&other.name, body))).is_ok() {
                added.push(other.name.clone());
            }
        }
        added
    }

    /// Takes back what [`Self::add_missing`] has added, as far as nothing holds on to it.
    pub fn withdraw(&self, added: &[String]) {
        // Lists come last, and hold on to the others.
        for name in added.iter().rev() {
            let _ = self.destroy(Some(name));
        }
    }

    /// The number of their changes.
    pub fn changes(&self) -> &Changes {
        &self.changes
    }

    /// A command has changed something.
    fn changed(&self) {
        self.changes.0.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn get(&self, name: &str) -> Option<Arc<Set>> {
        self.read().get(name)
    }

    /// Holds on to the set of that name.
    pub(crate) fn hold(&self, name: &str) -> Option<Reference> {
        // Under the table's lock, so that nobody destroys it in between.
        let table = self.read();
        table.get(name).map(Reference::new)
    }

    /// All sets, lists last: what they list comes before them.
    fn all(&self) -> Vec<Arc<Set>> {
        let table = self.read();
        let sets: Vec<_> = table.places.iter().flatten().cloned().collect();
        let (lists, mut others): (Vec<_>, Vec<_>) =
            sets.into_iter().partition(|set| set.read().kind.is_list());
        others.extend(lists);
        others
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a set. With `exist` one of that name may be there already, if it is the same.
    fn create(&self, name: &str, body: Body, exist: bool) -> fault::Result<()> {
        let mut table = self.write();
        if let Some(old) = table.get(name) {
            return match exist && old.read().is_like(&body) {
                true => Ok(()),
                false => Err(Fault::refused(
                    "Set cannot be created: set with the same name already exists",
                )),
            };
        }
        table.insert(Arc::new(Set::new(name, body)))
    }

    /// Removes a set, or all; one that is held on to stays, and then all do.
    fn destroy(&self, name: Option<&str>) -> fault::Result<()> {
        let mut table = self.write();
        let busy = || Fault::refused("Set cannot be destroyed: it is in use by a kernel component");
        let Some(name) = name else {
            if table.places.iter().flatten().any(|set| set.references() > 0) {
                return Err(busy());
            }
            *table = Table::default();
            return Ok(());
        };
        let set = table.get(name).ok_or_else(no_set)?;
        if set.references() > 0 {
            return Err(busy());
        }
        table.remove(name);
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> fault::Result<()> {
        let mut table = self.write();
        let set = table.get(from).ok_or_else(no_set)?;
        if set.references() > 0 {
            return Err(Fault::refused("Set cannot be renamed: it is in use by another system"));
        }
        if table.by_name.contains_key(to) {
            return Err(Fault::refused(
                "Set cannot be renamed: a set with the new name already exists",
            ));
        }
        let Some(place) = table.by_name.remove(from) else { return Err(no_set()) };
        let body = std::mem::replace(&mut *set.write(), Body::empty());
        table.by_name.insert(to.to_owned(), place);
        table.places[place] = Some(Arc::new(Set::new(to, body)));
        Ok(())
    }

    /// Exchanges what two names stand for: rules follow the name.
    fn swap(&self, from: &str, to: &str) -> fault::Result<()> {
        let table = self.write();
        let first = table.get(from).ok_or_else(no_set)?;
        let second = table.get(to).ok_or_else(|| {
            Fault::refused("Sets cannot be swapped: the second set does not exist")
        })?;
        if Arc::ptr_eq(&first, &second) {
            return Ok(());
        }
        // Nobody else holds two such locks: that takes the table's. A list's members are no lists.
        let (mut first, mut second) = (first.write(), second.write());
        if !first.swaps_with(&second) {
            return Err(Fault::refused("The sets cannot be swapped: their type does not match"));
        }
        std::mem::swap(&mut *first, &mut *second);
        drop((first, second));
        // The names' new members are written to as the old ones were.
        for set in [from, to].into_iter().filter_map(|name| table.get(name)) {
            if set.is_written_by_rules() {
                set.written_by_rules();
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Sets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sets").field(&self.names()).finish()
    }
}

fn no_set() -> Fault {
    Fault::refused("The set with the given name does not exist")
}

impl Table {
    fn get(&self, name: &str) -> Option<Arc<Set>> {
        self.places.get(*self.by_name.get(name)?)?.clone()
    }

    fn insert(&mut self, set: Arc<Set>) -> fault::Result<()> {
        let free = self.places.iter().position(Option::is_none).unwrap_or(self.places.len());
        if free >= MAX_SETS {
            return Err(Fault::refused(
                "Kernel error received: maximal number of sets reached, cannot create more.",
            ));
        }
        if free == self.places.len() {
            self.places.push(None);
        }
        self.by_name.insert(set.name.clone(), free);
        self.places[free] = Some(set);
        Ok(())
    }

    fn remove(&mut self, name: &str) {
        if let Some(place) = self.by_name.remove(name) {
            self.places[place] = None;
        }
    }
}

impl Set {
    fn new(name: &str, body: Body) -> Self {
        Self {
            name: name.to_owned(),
            body: RwLock::new(body),
            references: AtomicUsize::new(0),
            written: AtomicBool::new(false),
        }
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Body> {
        self.body.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Body> {
        self.body.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on rules may write to it, and so to a list's members.
    pub(crate) fn written_by_rules(&self) {
        self.written.store(true, Ordering::Release);
        for member in &self.read().content.members {
            member.set.written_by_rules();
        }
    }

    fn is_written_by_rules(&self) -> bool {
        self.written.load(Ordering::Acquire)
    }

    fn references(&self) -> usize {
        self.references.load(Ordering::SeqCst)
    }
}

impl fmt::Debug for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Set").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Reference {
    fn new(set: Arc<Set>) -> Self {
        set.references.fetch_add(1, Ordering::SeqCst);
        Self(set)
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        self.0.references.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Deref for Reference {
    type Target = Set;

    fn deref(&self) -> &Set {
        &self.0
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Body {
    fn empty() -> Self {
        let kind = &kind::KINDS[0];
        Self { kind, options: Options::of(kind), content: Content::default() }
    }

    /// Whether another set would be the same but for its elements.
    fn is_like(&self, other: &Self) -> bool {
        // How the kernel's table is laid out makes no difference.
        let options = Options {
            hash_size: self.options.hash_size,
            bucket_size: self.options.bucket_size,
            initval: self.options.initval,
            ..other.options.clone()
        };
        self.kind == other.kind && self.options == options
    }

    /// Sets can be exchanged if their elements are alike.
    fn swaps_with(&self, other: &Self) -> bool {
        use kind::Part;
        let parts = |kind: &Kind| -> Vec<Part> {
            kind.parts.iter().map(|p| if *p == Part::Net { Part::Ip } else { *p }).collect()
        };
        parts(self.kind) == parts(other.kind)
            && self.kind.has_networks() == other.kind.has_networks()
            && (!self.kind.has_family() || self.options.family == other.options.family)
    }

    /// When an entry goes that is to stay for so many seconds, or as long as entries of the set do.
    fn expiry(&self, seconds: Option<u32>, now: Instant) -> Option<Instant> {
        let default = self.options.timeout?;
        let seconds = seconds.unwrap_or(default);
        (seconds > 0).then(|| now + std::time::Duration::from_secs(seconds.into()))
    }

    /// How many elements there is room for, and whether one has to go when there is none.
    fn room(&self) -> (usize, bool) {
        match self.kind.is_hash() {
            // As in the kernel, zero elements are too many already.
            true => (self.options.max as usize, self.options.force),
            false => (usize::MAX, false),
        }
    }

    /// An address as the set keeps it.
    fn cut(&self, addr: Addr) -> Addr {
        match self.options.mask {
            Some(Mask::Len(len)) => element::network(addr, len),
            Some(Mask::Bits(bits)) => {
                let head = if addr.is_v4() { u128::MAX << 32 } else { 0 };
                Addr::from_bits(addr.bits() & (bits.bits() | head))
            }
            None => addr,
        }
    }
}
