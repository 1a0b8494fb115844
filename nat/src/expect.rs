//! Expectations: connections that a helper has read about and that haven't begun yet.
//!
//! An expectation belongs to its *master*, the connection that announced it, and ends with it, when
//! its time is over, or when the connection comes. There is a bound for each master and helper
//! (`Policy`) and one for all ([`crate::Settings::expect_max`]).

use std::time::Duration;

use hashbrown::HashTable;
use tidegate_packet::{Addr, Instant};

use crate::conn::Direction;
use crate::control;
use crate::event::EventKind;
use crate::expiry::Wheel;
use crate::hash::HashKey;
use crate::helpers::Helper;
use crate::slots::conn_of;
use crate::table::Conntrack;
use crate::tracked::ConnId;
use crate::{Connection, Tuple};

/// How many connections of a kind may be expected by one master at a time, and how long.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Policy {
    pub(crate) max: usize,
    pub(crate) timeout: Duration,
}

/// A connection that is expected.
#[derive(Clone, Debug)]
pub struct Expectation {
    /// Its original direction.
    pub tuple: Tuple,
    /// Any source address will do.
    pub any_source: bool,
    /// Any source port will do.
    pub any_sport: bool,
    /// Who announced it.
    pub master: ConnId,
    /// The helper that reads the master.
    pub helper: Helper,
    /// Which kind of the helper's connections it is.
    pub class: u8,
    /// When it is given up.
    pub deadline: Instant,
    /// It stays when the connection comes.
    pub permanent: bool,
    /// It doesn't count yet.
    pub inactive: bool,
    /// What reads the connection once it is there.
    pub(crate) child_helper: Option<Helper>,
    pub(crate) zones: [u16; 2],
    pub(crate) follow: Follow,
}

/// How the expected connection is translated.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Follow {
    /// As the rules say.
    Rules,
    /// As its master (`nf_nat_follow_master`).
    Master {
        /// The direction of the master that it goes in.
        direction: Direction,
        /// The port that it really is for.
        port: u16,
    },
    /// As its master, and the other way of the same call is no longer expected.
    Call {
        /// The direction of the master that it goes in.
        direction: Direction,
        /// The receiver's number behind the translation, if there is one.
        key: Option<u16>,
        /// What is no longer expected then.
        counterpart: Option<Tuple>,
    },
    /// To an address and port, and from where its counterpart goes to.
    Sip {
        /// The direction of the master that it goes in.
        direction: Direction,
        /// Where it really is for.
        addr: Addr,
        /// The port there.
        port: u16,
    },
}

/// Why nothing can be expected.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Somebody else expects the same.
    Clash,
    /// The same is expected as another kind or, where that counts, by another connection.
    Already,
    /// No room, or the master is gone.
    Full,
}

/// The table of expectations.
#[derive(Debug)]
pub(crate) struct Expectations {
    slots: Vec<Option<Expectation>>,
    free: Vec<u32>,
    index: HashTable<u32>,
    wheel: Wheel,
}

impl Default for Expectations {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), index: HashTable::new(), wheel: Wheel::new() }
    }
}

impl Expectations {
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn get(&self, slot: u32) -> Option<&Expectation> {
        self.slots.get(slot as usize)?.as_ref()
    }

    fn iter(&self) -> impl Iterator<Item = &Expectation> {
        self.slots.iter().flatten()
    }

    fn insert(&mut self, expectation: Expectation, key: &HashKey) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as u32
        });
        self.wheel.arm(slot, expectation.deadline);
        let hash = hash(key, &expectation.tuple);
        self.slots[slot as usize] = Some(expectation);
        let slots = &self.slots;
        self.index.insert_unique(hash, slot, |&s| {
            slots[s as usize].as_ref().map_or(0, |e| self::hash(key, &e.tuple))
        });
        slot
    }

    fn remove(&mut self, slot: u32, key: &HashKey) -> Option<Expectation> {
        let gone = self.slots.get_mut(slot as usize)?.take()?;
        if let Ok(entry) = self.index.find_entry(hash(key, &gone.tuple), |&s| s == slot) {
            entry.remove();
        }
        self.wheel.disarm(slot);
        self.free.push(slot);
        Some(gone)
    }

    fn matching(&self, tuple: &Tuple, key: &HashKey) -> impl Iterator<Item = (u32, &Expectation)> {
        self.index
            .iter_hash(hash(key, tuple))
            .filter_map(|&slot| Some((slot, self.get(slot)?)))
            .filter(|(_, e)| e.same_destination(tuple))
    }

    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        self.wheel.next()
    }
}

/// Of what every expectation knows: where the connection goes.
fn hash(key: &HashKey, tuple: &Tuple) -> u64 {
    let Tuple { dst, dport, protocol, .. } = *tuple;
    key.tuple(&Tuple { src: dst, dst, sport: 0, dport, protocol })
}

impl Expectation {
    fn same_destination(&self, tuple: &Tuple) -> bool {
        let t = &self.tuple;
        (t.dst, t.dport, t.protocol) == (tuple.dst, tuple.dport, tuple.protocol)
    }

    /// Whether a connection that begins like this, in these zones, is meant.
    pub fn covers(&self, tuple: &Tuple, zones: [u16; 2]) -> bool {
        self.same_destination(tuple)
            && (self.any_source || self.tuple.src == tuple.src)
            && (self.any_sport || self.tuple.sport == tuple.sport)
            && self.zones == zones
    }

    /// Whether both say the same.
    fn equals(&self, other: &Self) -> bool {
        self.tuple == other.tuple
            && (self.any_source, self.any_sport) == (other.any_source, other.any_sport)
            && self.zones == other.zones
    }

    /// Whether a connection could be meant by both.
    fn clashes(&self, other: &Self) -> bool {
        self.same_destination(&other.tuple)
            && (self.any_source || other.any_source || self.tuple.src == other.tuple.src)
            && (self.any_sport || other.any_sport || self.tuple.sport == other.tuple.sport)
            && self.zones == other.zones
    }
}

impl Conntrack {
    /// Registers an expectation (`nf_ct_expect_related`). One that says the same for the same master
    /// is replaced; the oldest of its kind goes if the master has too many.
    /// `any_master`: one that says the same for another is no clash.
    pub(crate) fn expect(
        &mut self,
        expectation: Expectation,
        any_master: bool,
    ) -> Result<(), Refused> {
        // What is over is in nobody's way.
        self.expire_expected(self.mappings.seen, &mut 256);
        let of = |e: &Expectation| any_master || e.master == expectation.master;
        let same = |e: &Expectation| of(e) && e.equals(&expectation);
        let mut replaced = None;
        for (slot, other) in self.expectations.matching(&expectation.tuple, &self.key) {
            if same(other) {
                if (other.class, other.master) != (expectation.class, expectation.master) {
                    return Err(Refused::Already);
                }
                replaced = Some(slot);
                break;
            }
            if other.clashes(&expectation) {
                return Err(Refused::Clash);
            }
        }
        if let Some(slot) = replaced {
            self.unexpect(slot);
        }
        let policy = expectation.helper.policy(expectation.class);
        let of_class: Vec<u32> = self
            .expected_by(expectation.master)
            .ok_or(Refused::Full)?
            .iter()
            .copied()
            .filter(|s| self.expectations.get(*s).is_some_and(|e| e.class == expectation.class))
            .collect();
        if of_class.len() >= policy.max
            && let Some(oldest) = of_class.first()
        {
            self.unexpect(*oldest);
        }
        if self.expectations.len() >= self.settings.expect_max as usize {
            return Err(Refused::Full);
        }
        let master = expectation.master;
        self.stats.expect_create += 1;
        if self.events.wanted()
            && let Some(conn) = conn_of(&mut self.slots, master)
        {
            self.events.push_expectation(EventKind::New, &expectation, conn);
        }
        let slot = self.expectations.insert(expectation, &self.key);
        if let Some(expected) = self.expected_by_mut(master) {
            expected.push(slot);
        }
        Ok(())
    }

    fn expected_by(&self, master: ConnId) -> Option<&Vec<u32>> {
        Some(&self.get(master)?.extra()?.help.as_ref()?.expected)
    }

    fn expected_by_mut(&mut self, master: ConnId) -> Option<&mut Vec<u32>> {
        let conn = conn_of(&mut self.slots, master)?;
        Some(&mut conn.extra_mut()?.help.as_mut()?.expected)
    }

    fn unexpect(&mut self, slot: u32) -> Option<Expectation> {
        let gone = self.expectations.remove(slot, &self.key)?;
        self.stats.expect_delete += 1;
        // Its master may be in another shard's table.
        self.visit_of(gone.master, |table| {
            if table.events.wanted()
                && let Some(conn) = conn_of(&mut table.slots, gone.master)
            {
                table.events.push_expectation(EventKind::Destroy, &gone, conn);
            }
            if let Some(expected) = table.expected_by_mut(gone.master) {
                expected.retain(|s| *s != slot);
            }
        });
        Some(gone)
    }

    /// The first expectation that a connection with this tuple would fulfil, were all of them
    /// active.
    pub(crate) fn first_expected(&self, tuple: &Tuple, zones: [u16; 2]) -> Option<&Expectation> {
        let mut all = self.expectations.matching(tuple, &self.key);
        all.find(|(_, e)| e.covers(tuple, zones)).map(|(_, e)| e)
    }

    /// Lets the first of a master's expectations that `which` names live until then, and makes it
    /// count. Says whether there is one.
    pub(crate) fn prolong(
        &mut self,
        master: ConnId,
        deadline: Instant,
        which: impl Fn(&Expectation) -> bool,
    ) -> bool {
        let expected = self.expected_by(master).cloned().unwrap_or_default();
        let found = expected.into_iter().find(|s| self.expectations.get(*s).is_some_and(&which));
        let Some(slot) = found else { return false };
        if let Some(found) = self.expectations.slots.get_mut(slot as usize).and_then(Option::as_mut)
        {
            (found.deadline, found.inactive) = (deadline, false);
        }
        self.expectations.wheel.arm(slot, deadline);
        true
    }

    /// What a master expects that goes on from an address and port, the newest first: where that
    /// arrives.
    pub(crate) fn counterpart(
        &self,
        master: ConnId,
        protocol: u8,
        from: (Addr, u16),
    ) -> Option<(Addr, u16)> {
        let expected = self.expected_by(master)?;
        let mut all = expected.iter().rev().filter_map(|s| self.expectations.get(*s));
        let found = all.find(|e| {
            let behind = match e.follow {
                Follow::Sip { addr, port, .. } => Some((addr, port)),
                _ => None,
            };
            e.tuple.protocol == protocol && behind == Some(from)
        })?;
        Some((found.tuple.dst, found.tuple.dport))
    }

    /// Gives up the first expectation that a connection with this tuple would fulfil.
    pub(crate) fn unexpect_first(&mut self, tuple: &Tuple, zones: [u16; 2]) {
        let found = self
            .expectations
            .matching(tuple, &self.key)
            .find(|(_, e)| e.covers(tuple, zones))
            .map(|(slot, _)| slot);
        if let Some(slot) = found {
            self.unexpect(slot);
        }
    }

    /// Removes what a connection expects that is itself gone.
    pub(crate) fn unexpect_all(&mut self, master: &Connection) {
        self.end_call_of(master);
        let Some(help) = master.extra().and_then(|e| e.help.as_ref()) else { return };
        for slot in &help.expected {
            let gone = self.expectations.remove(*slot, &self.key);
            self.stats.expect_delete += u64::from(gone.is_some());
            if let Some(gone) = gone {
                self.events.push_expectation(EventKind::Destroy, &gone, master);
            }
        }
    }

    /// Removes those of a master's expectations that `which` names.
    pub(crate) fn unexpect_if(&mut self, master: ConnId, which: impl Fn(&Expectation) -> bool) {
        for slot in self.expected_by(master).cloned().unwrap_or_default() {
            if self.expectations.get(slot).is_some_and(&which) {
                self.unexpect(slot);
            }
        }
    }

    /// The expectation that a new connection fulfils; it is used up by that.
    pub(crate) fn take_expected(
        &mut self,
        tuple: &Tuple,
        zones: [u16; 2],
        now: Instant,
    ) -> Option<Expectation> {
        let found = self
            .expectations
            .matching(tuple, &self.key)
            .find(|(_, e)| e.covers(tuple, zones) && !e.inactive && e.deadline > now);
        let (slot, found) = found?;
        if self.get(found.master)?.is_expired(now) {
            return None;
        }
        self.stats.expect_new += 1;
        if found.permanent { Some(found.clone()) } else { self.unexpect(slot) }
    }

    /// The shard of the master that expects a connection.
    pub(crate) fn expecting(&self, tuple: &Tuple, zones: [u16; 2], now: Instant) -> Option<u8> {
        if self.expectations.len() == 0 {
            return None;
        }
        let mut found = self.expectations.matching(tuple, &self.key);
        let (_, found) = found.find(|(_, e)| e.covers(tuple, zones) && e.deadline > now)?;
        Some(found.master.shard())
    }

    /// Removes the expectations whose time is over, as long as something is `left` to be done.
    pub(crate) fn expire_expected(&mut self, now: Instant, left: &mut usize) {
        while *left > 0
            && let Some(slot) = self.expectations.wheel.pop(now)
        {
            *left -= 1;
            match self.expectations.get(slot).map(|e| e.deadline) {
                Some(deadline) if deadline > now => self.expectations.wheel.arm(slot, deadline),
                Some(_) => {
                    self.unexpect(slot);
                }
                None => {}
            }
        }
    }

    /// Gives up those that `which` names, and says how many.
    pub fn unexpect_where(&mut self, which: impl Fn(&Self, &Expectation) -> bool) -> usize {
        let meant = |slot: &u32| self.expectations.get(*slot).is_some_and(|e| which(self, e));
        let slots = self.expectations.slots.len() as u32;
        let gone: Vec<u32> = (0..slots).filter(meant).collect();
        gone.into_iter().filter_map(|slot| self.unexpect(slot)).count()
    }

    /// Has the connection with an original direction as this one's expect another one, by hand.
    /// `any`: any source address, any source port.
    pub fn expect_by_hand(
        &mut self,
        master: ConnId,
        tuple: Tuple,
        any: [bool; 2],
        timeout: Duration,
        now: Instant,
    ) -> Result<(), control::Refused> {
        let conn = self.get(master).ok_or(control::Refused::Absent)?;
        let (zones, helper) = (conn.zones(), conn.helper().ok_or(control::Refused::Unsupported)?);
        let family = conn.original().src.family();
        if tuple.src.family() != family || tuple.dst.family() != family {
            return Err(control::Refused::Invalid);
        }
        let expectation = Expectation {
            tuple,
            any_source: any[0],
            any_sport: any[1],
            master,
            helper,
            class: 0,
            deadline: now + timeout,
            permanent: false,
            inactive: false,
            child_helper: None,
            zones,
            follow: Follow::Rules,
        };
        let mut matching = self.expectations.matching(&tuple, &self.key);
        if matching.any(|(_, e)| e.equals(&expectation)) {
            return Err(control::Refused::Exists);
        }
        drop(matching);
        self.expect(expectation, false).map_err(|why| match why {
            Refused::Clash => control::Refused::Busy,
            Refused::Already => control::Refused::Exists,
            Refused::Full => control::Refused::Full,
        })
    }

    /// All expectations.
    pub fn expectations(&self) -> impl Iterator<Item = &Expectation> {
        self.expectations.iter()
    }
}
