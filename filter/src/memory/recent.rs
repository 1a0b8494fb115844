//! The lists of `recent`.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use tidegate_packet::{Addr, Instant};

use crate::extension::RecentUse;

/// Entries per list (`ip_list_tot`).
const MAX_ENTRIES: usize = 100;
/// Stamps per entry unless a rule's `--hitcount` needs more.
const MIN_STAMPS: usize = 32;

/// All lists by name.
#[derive(Debug, Default)]
pub(super) struct Lists(HashMap<String, List>);

/// A list of addresses seen.
#[derive(Debug)]
pub(crate) struct List {
    /// The mask of the rule that made the list; later rules' masks don't count.
    mask: u128,
    /// Room for stamps in an entry, a power of two.
    stamps: usize,
    /// The least recently stamped first.
    entries: Vec<Entry>,
}

/// An address and when it was seen.
#[derive(Debug)]
struct Entry {
    addr: Addr,
    ttl: u8,
    stamps: Vec<Instant>,
    /// Where the next stamp goes.
    index: usize,
}

/// What a `recent` rule does with an address.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Set,
    Check,
    Update,
    Remove,
}

/// A question to a list.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Touch {
    pub action: Action,
    pub inverted: bool,
    pub seconds: u32,
    pub hitcount: u32,
    pub reap: bool,
    pub check_ttl: bool,
    pub addr: Addr,
    pub ttl: u8,
    pub now: Instant,
    /// Answer, but change nothing.
    pub dry: bool,
}

fn stamps_for(hitcount: u32) -> usize {
    (hitcount as usize).next_power_of_two().max(MIN_STAMPS)
}

impl Lists {
    /// Makes the lists that are used and drops the others. Lists that stay keep their entries,
    /// except that one whose entries need more room for stamps starts afresh, as in the kernel.
    pub fn adopt<'a>(&mut self, uses: impl Iterator<Item = RecentUse<'a>>) {
        let mut named = HashSet::new();
        for used in uses {
            named.insert(used.name);
            self.0
                .entry(used.name.to_owned())
                .and_modify(|list| list.make_room(used.hitcount))
                .or_insert_with(|| List::new(&used));
        }
        self.0.retain(|name, _| named.contains(name.as_str()));
    }

    /// The names of the lists, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.0.keys().cloned().collect();
        names.sort();
        names
    }

    /// A list as its file in `/proc/net/xt_recent` shows it.
    pub fn text(&self, name: &str) -> Option<String> {
        let mut out = String::new();
        for entry in &self.0.get(name)?.entries {
            entry.text(&mut out);
        }
        Some(out)
    }

    /// What writing to that file does.
    pub fn write(&mut self, name: &str, text: &str, now: Instant) -> Option<Result<(), String>> {
        Some(self.0.get_mut(name)?.write(text, now))
    }

    /// A list in full.
    pub fn saved(&self, name: &str, time: impl Fn(Instant) -> u64) -> Option<String> {
        let mut out = String::new();
        for Entry { addr, ttl, stamps, index } in &self.0.get(name)?.entries {
            // Writing to a string can't fail.
            let _ = write!(out, "{addr} {ttl} {index}");
            for stamp in stamps {
                let _ = write!(out, " {}", time(*stamp));
            }
            out.push('\n');
        }
        Some(out)
    }

    /// The reverse. Nothing is changed if a line is wrong.
    pub fn restore(
        &mut self,
        name: &str,
        text: &str,
        time: impl Fn(u64) -> Instant,
    ) -> Result<(), usize> {
        let mut entries = Vec::new();
        for (number, line) in text.lines().enumerate() {
            entries.push(Entry::read(line, &time).ok_or(number)?);
        }
        if let Some(list) = self.0.get_mut(name) {
            let room = list.stamps;
            entries.drain(..entries.len().saturating_sub(MAX_ENTRIES));
            for entry in &mut entries {
                entry.stamps.truncate(room);
                entry.index = entry.index.min(entry.stamps.len());
            }
            list.entries = entries;
        }
        Ok(())
    }

    pub fn touch(&mut self, used: RecentUse<'_>, touch: Touch) -> bool {
        if !self.0.contains_key(used.name) {
            self.0.insert(used.name.to_owned(), List::new(&used));
        }
        self.0.get_mut(used.name).is_some_and(|list| list.touch(touch))
    }
}

impl Entry {
    /// A line of [`Lists::saved`].
    fn read(line: &str, time: impl Fn(u64) -> Instant) -> Option<Self> {
        let mut words = line.split(' ');
        let addr = words.next()?.parse().ok()?;
        let ttl = words.next()?.parse().ok()?;
        let index = words.next()?.parse().ok()?;
        let stamps: Option<Vec<Instant>> = words.map(|w| w.parse().ok().map(&time)).collect();
        let stamps = stamps.filter(|stamps| !stamps.is_empty())?;
        // The next stamp goes behind the last one, or into a place that is full.
        (1..=stamps.len()).contains(&index).then_some(Self { addr, ttl, stamps, index })
    }

    /// Appends its line.
    fn text(&self, out: &mut String) {
        // A jiffy of 4 ms, as with HZ=250.
        let jiffies =
            |stamp: &Instant| stamp.saturating_since(Instant::from_secs(0)).as_millis() / 4;
        let Self { addr, ttl, stamps, index } = self;
        out.push_str("src=");
        // Writing to a string can't fail.
        let _ = match addr.to_ip() {
            std::net::IpAddr::V4(addr) => write!(out, "{addr}"),
            std::net::IpAddr::V6(addr) => {
                let groups: Vec<_> =
                    addr.segments().iter().map(|group| format!("{group:04x}")).collect();
                write!(out, "{}", groups.join(":"))
            }
        };
        let last = stamps.get(index.wrapping_sub(1)).map_or(0, jiffies);
        let _ = write!(out, " ttl: {ttl} last_seen: {last} oldest_pkt: {index}");
        for (n, stamp) in stamps.iter().enumerate() {
            let between = if n == 0 { " " } else { ", " };
            let _ = write!(out, "{between}{}", jiffies(stamp));
        }
        out.push('\n');
    }
}

impl List {
    fn new(used: &RecentUse<'_>) -> Self {
        Self { mask: used.mask, stamps: stamps_for(used.hitcount), entries: Vec::new() }
    }

    fn make_room(&mut self, hitcount: u32) {
        let stamps = stamps_for(hitcount);
        if stamps > self.stamps {
            self.stamps = stamps;
            self.entries.clear();
        }
    }

    fn write(&mut self, text: &str, now: Instant) -> Result<(), String> {
        let text = text.trim_end();
        if text == "/" {
            self.entries.clear();
            return Ok(());
        }
        let (action, addr) = match (text.strip_prefix('+'), text.strip_prefix('-')) {
            (Some(addr), _) => (Action::Set, addr),
            (_, Some(addr)) => (Action::Remove, addr),
            _ => return Err("expected +ADDRESS, -ADDRESS or /".to_owned()),
        };
        let addr = addr.parse().map_err(|_| format!("`{addr}` is no address"))?;
        // As it is written, whatever mask the rules have, and without a TTL.
        let at = self.entries.iter().position(|e| e.addr == addr);
        let touch = Touch {
            action,
            inverted: false,
            seconds: 0,
            hitcount: 0,
            reap: false,
            check_ttl: false,
            addr,
            ttl: 0,
            now,
            dry: false,
        };
        match (at, action) {
            (Some(at), Action::Remove) => {
                self.entries.remove(at);
            }
            (None, Action::Remove) => {}
            (Some(at), _) => self.stamp(at, touch),
            (None, _) => self.add(addr, 0, now),
        }
        Ok(())
    }

    fn add(&mut self, addr: Addr, ttl: u8, now: Instant) {
        if self.entries.len() >= MAX_ENTRIES {
            self.entries.remove(0);
        }
        self.entries.push(Entry { addr, ttl, stamps: vec![now], index: 1 });
    }

    fn touch(&mut self, t: Touch) -> bool {
        let addr = if t.addr.is_v4() {
            Addr::from_bits(t.addr.bits() & (self.mask | u128::MAX << 32))
        } else {
            Addr::from_bits(t.addr.bits() & self.mask)
        };
        let found = self.entries.iter().position(|e| {
            // A TTL of zero on either side stands for "not known".
            e.addr == addr && (!t.check_ttl || t.ttl == 0 || e.ttl == 0 || e.ttl == t.ttl)
        });
        let Some(at) = found else {
            if t.action != Action::Set {
                return t.inverted;
            }
            if !t.dry {
                self.add(addr, t.ttl, t.now);
            }
            return !t.inverted;
        };
        match t.action {
            Action::Set => {
                self.stamp(at, t);
                !t.inverted
            }
            Action::Remove => {
                if !t.dry {
                    self.entries.remove(at);
                }
                !t.inverted
            }
            Action::Check | Action::Update => self.check(at, t),
        }
    }

    fn check(&mut self, at: usize, t: Touch) -> bool {
        let age = |stamp: Instant| t.now.saturating_since(stamp).as_nanos();
        let limit = u128::from(t.seconds) * 1_000_000_000;
        let recent = |stamp: &Instant| t.seconds == 0 || age(*stamp) <= limit;
        let hits = self.entries[at].stamps.iter().filter(|s| recent(s)).count();
        let answer = (hits >= (t.hitcount as usize).max(1)) != t.inverted;
        let update = t.action == Action::Update && answer;
        // The oldest entry goes if its last stamp is out of date, unless it is about to be stamped.
        let reap = t.reap && !t.dry && !(at == 0 && update) && {
            let oldest = &self.entries[0];
            oldest.stamps.get(oldest.index.wrapping_sub(1)).is_some_and(|s| age(*s) > limit)
        };
        if update {
            self.stamp(at, t);
        }
        if reap {
            // Stamping moves an entry to the end, so the oldest is still in front.
            self.entries.remove(0);
        }
        answer
    }

    /// Notes the time and makes the entry the most recent.
    fn stamp(&mut self, at: usize, t: Touch) {
        if t.dry {
            return;
        }
        let mut entry = self.entries.remove(at);
        entry.index &= self.stamps - 1;
        match entry.stamps.get_mut(entry.index) {
            Some(stamp) => *stamp = t.now,
            None => entry.stamps.push(t.now),
        }
        entry.index += 1;
        entry.ttl = t.ttl;
        self.entries.push(entry);
    }
}
