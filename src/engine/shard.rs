//! A worker's part of the gateway's state: what its packets change and no other worker's do.
//!
//! A shard holds connections. An established packet needs nothing else; everything else is in the
//! one [`Engine`], to which a shard *lends* its connections for as long as the engine works on them.
//! Both change places by a pointer each, so the engine's code knows one table. Which shard's it has to
//! be shows when a packet is tracked ([`Engine::lend`]), and may be another one than that of the worker
//! that received the packet: a packet on the long way always meets the table that has its connection,
//! so what becomes of it doesn't depend on the number of workers.
//!
//! Order of locks: the engine before any shard, and one shard at a time. Whoever holds a shard alone
//! waits for nothing while it does; so whoever holds the engine gets any shard soon. A shard whose
//! connections are lent is open and empty: nothing is found in it, and who misses something there
//! waits for the engine.
//!
//! What all tables share (mappings, expectations, the registry of tuples) is with the engine and goes
//! into the table that is lent.

use super::short::ahead::{Ahead, Read};
use super::short::heavy::Heavy;
use super::short::{AtHand, Leases, Short};
use super::steer::{Onward, Steering};
use super::{Counters, Engine, Fate, PortId};
use crate::io::{Frame, Receive};
use std::fmt;
use std::ops::{Deref, DerefMut, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use tidegate_nat::{Conntrack, Others, Signs, Sought, Tracked, Tuple};
use tidegate_packet::Instant;

/// One worker's connections and counters.
#[derive(Debug)]
pub struct Shard {
    conntrack: Box<Conntrack>,
    /// What was decided about its flows.
    short: Box<Short>,
    /// What time it is.
    now: Instant,
    /// What this shard counts: frames received, and what never reaches the engine.
    pub counters: Counters,
    /// Changes that the table knows of ([`Engine::instruct`]).
    instructed: u64,
    /// Its connections are lent: what is here is an empty table.
    lent: bool,
    /// To flows that are at home here and live elsewhere.
    signs: Signs,
    steering: Steering,
    number: usize,
}

/// Where a frame's way goes on.
#[derive(Debug)]
pub(crate) enum Place {
    /// All is done.
    Done(Fate),
    /// The long way ([`Engine::go_on`]).
    Here,
    /// In the hands of another worker.
    Elsewhere(Onward),
    /// Nobody knows until the shard's connections are back.
    Unknown,
}

/// All shards of a gateway.
#[derive(Clone)]
pub struct Shards(Arc<[Mutex<Shard>]>);

impl Default for Shards {
    /// None: an engine by itself.
    fn default() -> Self {
        Self(Arc::new([]))
    }
}

impl fmt::Debug for Shards {
    /// Without their connections: they may be in use.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Shards").field(&self.0.len()).finish()
    }
}

impl Shards {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// One of them.
    #[inline]
    pub fn lock(&self, number: usize) -> MutexGuard<'_, Shard> {
        lock(&self.0[number])
    }
}

impl Others for Shards {
    fn visit(&self, shard: u8, work: &mut dyn FnMut(&mut Conntrack)) {
        if let Some(shard) = self.0.get(usize::from(shard)) {
            work(&mut lock(shard).conntrack);
        }
    }
}

/// Looks at a lock before waiting for it asleep: some twenty microseconds.
const LOCK_LOOKS: usize = 500;

/// Locks. A worker that panics ends the gateway; until it has, the others go on.
///
/// Waits awake for the length of a burst first: going to sleep and being woken costs more.
#[inline]
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    for _ in 0..LOCK_LOOKS {
        match mutex.try_lock() {
            Ok(guard) => return guard,
            Err(TryLockError::Poisoned(error)) => return error.into_inner(),
            Err(TryLockError::WouldBlock) => std::hint::spin_loop(),
        }
    }
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Engine {
    /// Makes this many shards, all empty. To be called once, before packets come.
    pub fn divide(&mut self, shards: usize) -> Shards {
        let (key, host_port) = (self.steering, self.host_port);
        let steering = Steering { key, shards, host_port };
        let shard = |number: usize| {
            Mutex::new(Shard {
                conntrack: Box::new(self.new_table(number as u8)),
                short: Box::new(self.new_short()),
                now: self.now,
                counters: Counters::new(self.interfaces.port_count()),
                instructed: 0,
                lent: false,
                signs: Signs::default(),
                steering,
                number,
            })
        };
        let shards = Shards((0..shards.max(1)).map(shard).collect());
        self.conntrack.divide(shards.count(), self.steering, Arc::new(shards.clone()));
        self.shards = shards.clone();
        shards
    }

    /// Takes a shard's connections to work on, if they aren't there yet, and gives back others.
    #[inline]
    pub fn lend(&mut self, number: usize) {
        if self.lent == Some(number) || number >= self.shards.count() {
            return;
        }
        self.give_back();
        let known = {
            let mut shard = self.shards.lock(number);
            shard.lent = true;
            exchange(&mut shard, &mut self.conntrack, &mut self.short);
            shard.instructed
        };
        self.lent = Some(number);
        let known_now = self.instruct(known);
        if known_now != known {
            self.shards.lock(number).instructed = known_now;
        }
    }

    /// Gives the connections back that are there.
    #[inline]
    pub fn give_back(&mut self) {
        if let Some(number) = self.lent.take() {
            self.post_signs();
            let mut shard = self.shards.lock(number);
            shard.lent = false;
            exchange(&mut shard, &mut self.conntrack, &mut self.short);
        }
    }

    /// Puts up and takes down signs that the table at work has left.
    #[inline]
    fn post_signs(&mut self) {
        for sign in self.conntrack.take_signs() {
            self.shards.lock(sign.home()).signs.follow(&sign);
        }
    }

    /// As [`Shard::receive`] for a worker that has the engine already.
    pub(crate) fn receive(
        &mut self,
        number: usize,
        port: PortId,
        frame: &mut Frame<'_>,
        last: bool,
        at_hand: &mut AtHand,
    ) -> Place {
        self.lend(number);
        let Self { short, conntrack, shards, now, .. } = self;
        if let Some(fate) = short.take(conntrack, port, frame, *now, at_hand) {
            return Place::Done(fate);
        }
        if last || shards.count() < 2 {
            return Place::Here;
        }
        let shard = shards.lock(number);
        let known = (&**conntrack, &shard.signs);
        let onward = shard.steering.onward(number, known, port, frame, *now);
        onward.map_or(Place::Here, Place::Elsewhere)
    }

    /// How many signs there are in all shards.
    pub fn signs(&self) -> usize {
        (0..self.shards.count()).map(|number| self.shards.lock(number).signs.len()).sum()
    }

    /// Works on the table that a packet's connection is in.
    pub(super) fn lend_for(&mut self, tracked: Option<&Tracked>) {
        if let Some(id) = tracked.and_then(Tracked::id) {
            self.lend(usize::from(id.shard()));
        }
    }

    /// The shard that a connection with this tuple is in, or would be.
    pub fn owner(&self, tuple: &Tuple, zones: [u16; 2]) -> usize {
        usize::from(self.conntrack.owner_of(self.steering, zones, tuple, self.now))
    }

    /// All counters.
    pub fn counters(&self) -> Counters {
        let mut sum = self.counters.clone();
        for number in 0..self.shards.count() {
            sum.add(&self.shards.lock(number).counters);
        }
        sum
    }
}

impl Shard {
    /// Takes in a frame, as far as that goes without the engine. But for [`Place::Done`] the frame is as
    /// it was. With `last` it isn't handed on.
    #[inline]
    pub(crate) fn receive(
        &mut self,
        port: PortId,
        frame: &mut Frame<'_>,
        ahead: Option<(Read, Sought)>,
        last: bool,
        at_hand: &mut AtHand,
    ) -> Place {
        let Self { short, conntrack, now, .. } = self;
        let taken = match ahead {
            Some(read) => short.take_read(conntrack, port, read, frame, *now, at_hand),
            None => short.take(conntrack, port, frame, *now, at_hand),
        };
        match taken {
            Some(fate) => Place::Done(fate),
            None if last || self.steering.shards < 2 => Place::Here,
            None if self.lent => Place::Unknown,
            None => {
                let known = (&*self.conntrack, &self.signs);
                let onward = self.steering.onward(self.number, known, port, frame, self.now);
                onward.map_or(Place::Here, Place::Elsewhere)
            }
        }
    }

    /// Looks ahead at some frames of a burst, if there are so many connections that it is worth its
    /// while.
    pub(crate) fn look_ahead(
        &self,
        receive: &mut dyn Receive,
        frames: Range<usize>,
    ) -> Option<Ahead> {
        self.conntrack.is_large().then(|| Ahead::look(&self.conntrack, receive, frames))
    }

    /// Leases flows that have sent many packets.
    pub(crate) fn lease_wanted(&mut self) {
        let Self { conntrack, short, now, .. } = self;
        short.lease_wanted(conntrack, *now);
    }

    /// Whether there are flows to be leased.
    #[inline]
    pub(crate) fn wants_leases(&self) -> bool {
        self.short.heavy.as_ref().is_some_and(Heavy::is_wanted)
    }

    /// From now on flows may be leased.
    pub(crate) fn set_leases(&mut self, leases: &Arc<Leases>) {
        self.conntrack.set_holder(leases.clone());
        self.short.set_leases(leases.clone());
    }

    /// Says what time it is for what happens without the engine.
    pub(crate) fn set_time(&mut self, now: Instant) {
        self.now = now;
        self.conntrack.set_event_time(now);
    }

    /// Whether something has happened to its connections that somebody wants to be told.
    pub(crate) fn has_news(&self) -> bool {
        self.conntrack.has_events()
    }
}

impl Engine {
    /// Counts in the rules what shards' packets have met on the short way. With `end`, no packet has a
    /// short way any more until the engine has decided anew.
    pub fn settle(&mut self, end: bool) {
        let Self { short, conntrack, rules, shards, leases, counters, .. } = self;
        short.settle(rules.counters_mut(), end);
        conntrack.settle_leases(|_| end);
        for number in 0..shards.count() {
            let mut shard = shards.lock(number);
            shard.short.settle(rules.counters_mut(), end);
            shard.conntrack.settle_leases(|_| end);
        }
        if let Some(leases) = leases {
            leases.settle(rules.counters_mut(), counters);
        }
    }

    /// How many packets have taken the short way.
    pub fn taken_short_way(&self) -> u64 {
        let shards = (0..self.shards.count()).map(|number| self.shards.lock(number).short.taken);
        let forwarded = self.leases.as_ref().map_or(0, |leases| leases.taken());
        self.short.taken + shards.sum::<u64>() + forwarded
    }
}

/// The table that works, and what is shared, change places.
#[inline]
fn exchange(shard: &mut Shard, conntrack: &mut Box<Conntrack>, short: &mut Box<Short>) {
    std::mem::swap(&mut shard.conntrack, conntrack);
    std::mem::swap(&mut shard.short, short);
    conntrack.exchange_shared(&mut shard.conntrack);
}

/// The engine while it has a shard's connections.
#[derive(Debug)]
pub struct Lent<'a>(&'a mut Engine);

impl<'a> Lent<'a> {
    /// Lends this shard's.
    pub fn new(engine: &'a mut Engine, shard: usize) -> Self {
        engine.lend(shard);
        engine.settle_leases();
        Self(engine)
    }

    /// The shard's connections.
    pub fn conntrack(&self) -> &Conntrack {
        &self.0.conntrack
    }

    /// The shard's connections, to change them by hand.
    pub fn conntrack_mut(&mut self) -> &mut Conntrack {
        &mut self.0.conntrack
    }
}

impl Deref for Lent<'_> {
    type Target = Engine;

    fn deref(&self) -> &Engine {
        self.0
    }
}

impl DerefMut for Lent<'_> {
    fn deref_mut(&mut self) -> &mut Engine {
        self.0
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.0.give_back();
    }
}
