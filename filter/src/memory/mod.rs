//! What rules remember from packet to packet under a name: the lists of `recent` and the tables of
//! `hashlimit`.
//!
//! A list belongs to its name, not to a rule: rules of successive rulesets share it, and those of
//! `recent` are shared by both families. It is made when a ruleset that names it is adopted and goes
//! when no ruleset names it any more.

pub(crate) mod hashlimit;
mod recent;

use std::sync::{Mutex, PoisonError};

use tidegate_packet::Instant;

use crate::extension::RecentUse;
use crate::ruleset::Ruleset;

pub(crate) use recent::{Action, Touch};

/// What the rules of a gateway remember.
#[derive(Debug, Default)]
pub struct Memory {
    lists: Mutex<recent::Lists>,
    tables: Mutex<hashlimit::Tables>,
}

impl Memory {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes what these rulesets name (all that are in force from now on, in the order they were
    /// loaded) and drops the rest. What stays keeps its entries.
    pub fn adopt(&self, rulesets: &[&Ruleset]) {
        let matches = || rulesets.iter().flat_map(|r| r.remembering());
        let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        lists.adopt(matches().filter_map(|m| m.recent()));
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        tables.adopt(matches().filter_map(|m| m.hashlimit()));
    }

    /// The names of the lists of `recent`, sorted.
    pub fn names(&self) -> Vec<String> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner).names()
    }

    /// A list of `recent` as its file in `/proc/net/xt_recent` shows it, the least recently seen
    /// first; times are in jiffies.
    pub fn text(&self, name: &str) -> Option<String> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner).text(name)
    }

    /// What writing to that file does: `+ADDRESS` adds or stamps an entry, `-ADDRESS` removes it,
    /// `/` empties the list. `None` if there is no such list.
    pub fn write(&self, name: &str, text: &str, now: Instant) -> Option<Result<(), String>> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner).write(name, text, now)
    }

    /// A list of `recent` in full, for [`Memory::restore`]: a line each for its entries, the least
    /// recently seen first, with address, TTL, place of the next stamp, and stamps as `time` says
    /// them. `None` if there is no such list.
    pub fn saved(&self, name: &str, time: impl Fn(Instant) -> u64) -> Option<String> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner).saved(name, time)
    }

    /// Puts the lines of [`Memory::saved`] in the place of a list's entries. A list that no rule names
    /// is left out.
    ///
    /// # Errors
    ///
    /// The number of the first line that is none of an entry, from zero.
    pub fn restore(
        &self,
        name: &str,
        text: &str,
        time: impl Fn(u64) -> Instant,
    ) -> Result<(), usize> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner).restore(name, text, time)
    }

    pub(crate) fn touch(&self, used: RecentUse<'_>, touch: Touch) -> bool {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner).touch(used, touch)
    }

    pub(crate) fn spend(
        &self,
        used: hashlimit::Use<'_>,
        packet: hashlimit::Packet,
    ) -> Option<bool> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner).spend(used, packet)
    }
}
