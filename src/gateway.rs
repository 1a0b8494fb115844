//! The engine and its shards, to be shared by threads.

use crate::engine::{Counters, Engine, Fate, Lent, PortId, Shards, lock};
use crate::io::Frame;
use std::sync::{Arc, Mutex, MutexGuard};
use tidegate_nat::{Event, Stats, Tuple};
use tidegate_packet::Instant;

/// All of a gateway's state, to be shared by threads.
#[derive(Clone, Debug)]
pub struct Gateway {
    engine: Arc<Mutex<Engine>>,
    shards: Shards,
}

impl Gateway {
    /// The engine with this many empty shards.
    pub fn new(mut engine: Engine, shards: usize) -> Self {
        let shards = engine.divide(shards);
        Self { engine: Arc::new(Mutex::new(engine)), shards }
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.shards.count()
    }

    /// The engine: rules, interfaces, neighbours, and no connections.
    pub fn engine(&self) -> MutexGuard<'_, Engine> {
        lock(&self.engine)
    }

    /// The engine at work on one shard's connections.
    pub fn with<R>(&self, shard: usize, work: impl FnOnce(&mut Lent<'_>) -> R) -> R {
        work(&mut Lent::new(&mut self.engine(), shard))
    }

    /// The engine at work on the connections among which one with this tuple is, or would be.
    pub fn with_owner<R>(
        &self,
        tuple: &Tuple,
        zones: [u16; 2],
        work: impl FnOnce(&mut Lent<'_>) -> R,
    ) -> R {
        let mut engine = self.engine();
        let shard = engine.owner(tuple, zones);
        work(&mut Lent::new(&mut engine, shard))
    }

    /// The engine at work on each shard's connections in turn; nothing happens in between.
    pub fn each<R>(&self, mut work: impl FnMut(&mut Lent<'_>) -> R) -> Vec<R> {
        let mut engine = self.engine();
        (0..self.shards()).map(|shard| work(&mut Lent::new(&mut engine, shard))).collect()
    }

    /// Changes the engine, and all connections follow before anything else happens.
    pub fn change<R>(&self, work: impl FnOnce(&mut Engine) -> R) -> R {
        let mut engine = self.engine();
        let result = work(&mut engine);
        for shard in 0..self.shards() {
            drop(Lent::new(&mut engine, shard));
        }
        result
    }

    /// All counters, of the engine and of the shards.
    pub fn counters(&self) -> Counters {
        self.engine().counters()
    }

    /// What all tables have counted.
    pub fn stats(&self) -> Stats {
        self.each(|lent| *lent.conntrack().stats()).iter().fold(
            Stats::default(),
            |mut sum, part| {
                sum.add(part);
                sum
            },
        )
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        self.engine().connections()
    }

    /// What has happened to connections since the last call, oldest first, and how many events more
    /// there would have been.
    pub fn take_events(&self) -> (Vec<Event>, u64) {
        let parts = self.each(|lent| lent.conntrack_mut().take_events());
        let lost = parts.iter().map(|(_, lost)| lost).sum();
        let mut events: Vec<Event> = parts.into_iter().flat_map(|(events, _)| events).collect();
        // Those of one shard are in order.
        events.sort_by_key(|event| event.at);
        (events, lost)
    }

    /// Whether something waits for the manager.
    pub fn has_news(&self) -> bool {
        self.each(|lent| lent.has_news()).contains(&true)
    }

    /// A burst of frames that the worker of a shard has received.
    pub fn burst(&self, shard: usize, now: Instant, unix_nanos: u64) -> Burst<'_> {
        let mut engine = self.engine();
        engine.set_time(now, unix_nanos);
        Burst { engine, shards: &self.shards, shard, news: false }
    }
}

/// What a worker holds while a burst goes through.
pub struct Burst<'a> {
    engine: MutexGuard<'a, Engine>,
    shards: &'a Shards,
    shard: usize,
    news: bool,
}

impl Burst<'_> {
    /// Takes in a frame that a port has received.
    #[inline]
    pub fn input(&mut self, port: PortId, frame: Frame<'_>) -> Fate {
        let len = frame.bytes().len();
        let fate = self.engine.input(port, frame);
        self.news |= self.engine.has_news();
        self.shards.lock(self.shard).counters.received[usize::from(port.0)].count(len);
        fate
    }

    /// Lets time pass ([`Engine::tick`]).
    pub fn tick(&mut self) {
        self.news |= self.engine.tick();
    }

    /// Whether something waits for the manager.
    pub fn has_news(&self) -> bool {
        self.news
    }

    /// The engine.
    pub fn engine(&mut self) -> &mut Engine {
        &mut self.engine
    }
}

impl Drop for Burst<'_> {
    fn drop(&mut self) {
        self.engine.give_back();
    }
}
