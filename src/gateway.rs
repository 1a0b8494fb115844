//! The engine and its shards behind their locks.
//!
//! Order of locks: the engine before any shard. Whoever holds a shard alone waits for nothing while
//! it does; whoever holds the engine may wait for any shard. So a worker that needs the engine while
//! it holds its shard lets go of the shard first ([`Burst`]).

use crate::engine::{Counters, Engine, Fate, Lent, PortId, Shard};
use crate::io::Frame;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use tidegate_nat::Event;
use tidegate_packet::Instant;

/// Looks at a lock before waiting for it asleep: some twenty microseconds.
const LOCK_LOOKS: usize = 500;

/// Locks. A worker that panics ends the gateway; until it has, the others go on.
///
/// Waits awake for the length of a burst first: going to sleep and being woken costs more.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    for _ in 0..LOCK_LOOKS {
        match mutex.try_lock() {
            Ok(guard) => return guard,
            Err(TryLockError::Poisoned(error)) => return error.into_inner(),
            Err(TryLockError::WouldBlock) => std::hint::spin_loop(),
        }
    }
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All of a gateway's state, to be shared by threads.
#[derive(Clone, Debug)]
pub struct Gateway {
    engine: Arc<Mutex<Engine>>,
    shards: Arc<[Mutex<Shard>]>,
}

impl Gateway {
    /// The engine with this many empty shards.
    pub fn new(engine: Engine, shards: usize) -> Self {
        let shards = (0..shards.max(1)).map(|_| Mutex::new(Shard::new(&engine))).collect();
        Self { engine: Arc::new(Mutex::new(engine)), shards }
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// The engine alone: rules, interfaces, neighbours, and no connection.
    pub fn engine(&self) -> MutexGuard<'_, Engine> {
        lock(&self.engine)
    }

    /// The same, with all that packets have counted in the rules' counters.
    pub fn settled(&self) -> MutexGuard<'_, Engine> {
        let mut engine = self.engine();
        for shard in self.shards.iter() {
            lock(shard).lend(&mut engine);
        }
        engine
    }

    /// The engine at work on one shard's connections.
    pub fn with<R>(&self, shard: usize, work: impl FnOnce(&mut Lent<'_>) -> R) -> R {
        let mut engine = self.engine();
        work(&mut lock(&self.shards[shard]).lend(&mut engine))
    }

    /// The engine at work on each shard's connections in turn; nothing happens in between.
    pub fn each<R>(&self, mut work: impl FnMut(usize, &mut Lent<'_>) -> R) -> Vec<R> {
        let mut engine = self.engine();
        let mut each = |(number, shard): (usize, &Mutex<Shard>)| {
            work(number, &mut lock(shard).lend(&mut engine))
        };
        self.shards.iter().enumerate().map(&mut each).collect()
    }

    /// Changes the engine, and all connections follow before anything else happens.
    pub fn change<R>(&self, work: impl FnOnce(&mut Engine) -> R) -> R {
        let mut engine = self.engine();
        let mut shards: Vec<_> = self.shards.iter().map(lock).collect();
        // What packets have counted belongs to the rules that they met.
        shards.iter_mut().for_each(|shard| drop(shard.lend(&mut engine)));
        let result = work(&mut engine);
        shards.iter_mut().for_each(|shard| drop(shard.lend(&mut engine)));
        result
    }

    /// All counters, of the engine and of the shards.
    pub fn counters(&self) -> Counters {
        let engine = self.engine();
        let mut sum = engine.counters().clone();
        for shard in self.shards.iter() {
            sum.add(&lock(shard).counters);
        }
        sum
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).connections()).sum()
    }

    /// What has happened to connections since the last call, oldest first, and how many events more
    /// there would have been.
    pub fn take_events(&self) -> (Vec<Event>, u64) {
        let parts = self.each(|_, lent| lent.conntrack_mut().take_events());
        let lost = parts.iter().map(|(_, lost)| lost).sum();
        let mut events: Vec<Event> = parts.into_iter().flat_map(|(events, _)| events).collect();
        // Those of one shard are in order.
        events.sort_by_key(|event| event.at);
        (events, lost)
    }

    /// Whether something waits for the manager.
    pub fn has_news(&self) -> bool {
        self.each(|_, lent| lent.has_news()).contains(&true)
    }

    /// A burst of frames for one shard.
    pub fn burst(&self, shard: usize, now: Instant, unix_nanos: u64) -> Burst<'_> {
        let mut burst =
            Burst { gateway: self, number: shard, now, unix_nanos, held: Held::Nothing };
        let mut shard = lock(&self.shards[shard]);
        shard.set_time(now);
        burst.held = Held::Shard(shard);
        burst
    }
}

/// What a worker holds while a burst goes through: its shard, and the engine from the first packet
/// on that has no short way.
pub struct Burst<'a> {
    gateway: &'a Gateway,
    number: usize,
    now: Instant,
    unix_nanos: u64,
    held: Held<'a>,
}

enum Held<'a> {
    /// Only while one lock is exchanged for both.
    Nothing,
    Shard(MutexGuard<'a, Shard>),
    Both(MutexGuard<'a, Engine>, MutexGuard<'a, Shard>),
}

impl<'a> Burst<'a> {
    /// Takes in a frame that a port has received.
    #[inline]
    pub fn input(&mut self, port: PortId, mut frame: Frame<'_>) -> Fate {
        if let Some(fate) = self.shard().receive(port, &mut frame) {
            return fate;
        }
        let (engine, shard) = self.both();
        shard.go_on(engine, port, frame)
    }

    fn both(&mut self) -> (&mut Engine, &mut Shard) {
        if !matches!(self.held, Held::Both(..)) {
            // The engine comes first; nobody waits for it who holds a shard.
            self.held = Held::Nothing;
            let mut engine = lock(&self.gateway.engine);
            engine.set_time(self.now, self.unix_nanos);
            let shard = lock(&self.gateway.shards[self.number]);
            self.held = Held::Both(engine, shard);
        }
        match &mut self.held {
            Held::Both(engine, shard) => (engine, shard),
            Held::Nothing | Held::Shard(_) => unreachable!("both were locked"),
        }
    }

    /// The engine, at work on the shard's connections.
    pub fn engine(&mut self) -> Lent<'_> {
        let (engine, shard) = self.both();
        shard.lend(engine)
    }

    /// The same if a packet has needed it.
    pub fn engine_if_held(&mut self) -> Option<Lent<'_>> {
        match &mut self.held {
            Held::Both(engine, shard) => Some(shard.lend(engine)),
            Held::Nothing | Held::Shard(_) => None,
        }
    }

    /// The shard, to count what happens outside.
    pub fn shard(&mut self) -> &mut Shard {
        if matches!(self.held, Held::Nothing) {
            self.both();
        }
        match &mut self.held {
            Held::Shard(shard) | Held::Both(_, shard) => shard,
            Held::Nothing => unreachable!("a shard is locked"),
        }
    }
}
