//! The engine and its shards, to be shared by threads.

use crate::engine::{
    AtHand, Counters, Engine, Fate, Lent, OwnedFrame, PortId, Shard, Shards, lock,
};
use crate::io::Frame;
use std::sync::{Arc, Mutex, MutexGuard};
use tidegate_nat::{Event, ExpectationEvent, Stats, Tuple};
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

    /// The same, with all that packets have counted in the rules' counters.
    pub fn settled(&self) -> MutexGuard<'_, Engine> {
        let mut engine = self.engine();
        engine.settle(false);
        engine
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
        // What packets have counted belongs to the rules that they met.
        engine.settle(true);
        let result = work(&mut engine);
        for shard in 0..self.shards() {
            drop(Lent::new(&mut engine, shard));
        }
        result
    }

    /// A command has changed a set: what was decided about flows may be wrong now.
    pub fn sets_changed(&self) {
        self.engine().sets_changed();
    }

    /// All counters, of the engine and of the shards.
    pub fn counters(&self) -> Counters {
        self.settled().counters()
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

    /// What has happened to connections and to expectations since the last call, oldest first, and
    /// how many events more there would have been.
    pub fn take_events(&self) -> (Vec<Event>, Vec<ExpectationEvent>, u64) {
        let (mut events, mut expected, mut lost) = (Vec::new(), Vec::new(), 0);
        self.each(|lent| {
            let table = lent.conntrack_mut();
            let (some, missing) = table.take_events();
            events.extend(some);
            expected.extend(table.take_expectation_events());
            lost += missing;
        });
        // Those of one shard are in order.
        events.sort_by_key(|event| event.at);
        expected.sort_by_key(|event| event.at);
        (events, expected, lost)
    }

    /// Whether something waits for the manager.
    pub fn has_news(&self) -> bool {
        self.each(|lent| lent.has_news()).contains(&true)
    }

    /// Leases flows of a shard that have sent many packets.
    pub fn lease_wanted(&self, shard: usize, now: Instant) {
        let mut shard = self.shards.lock(shard);
        shard.set_time(now);
        shard.lease_wanted();
    }

    /// A burst of frames that the worker of a shard has received.
    pub fn burst(&self, shard: usize, now: Instant, unix_nanos: u64) -> Burst<'_> {
        let mut held = self.shards.lock(shard);
        held.set_time(now);
        let (held, at_hand) = (Held::Shard(held), AtHand::default());
        Burst { gateway: self, held, number: shard, at_hand, now, unix_nanos, news: false }
    }
}

/// What a worker holds while a burst goes through: its shard, and from the first packet on that has
/// no short way the engine instead.
pub struct Burst<'a> {
    gateway: &'a Gateway,
    held: Held<'a>,
    number: usize,
    at_hand: AtHand,
    now: Instant,
    unix_nanos: u64,
    news: bool,
}

enum Held<'a> {
    Shard(MutexGuard<'a, Shard>),
    Engine(MutexGuard<'a, Engine>),
    /// Between the two.
    Nothing,
}

impl Burst<'_> {
    /// Takes in a frame that a port has received.
    #[inline]
    pub fn input(&mut self, port: PortId, mut frame: Frame<'_>) -> Fate {
        if let Held::Shard(shard) = &mut self.held {
            if let Some(fate) = shard.receive(port, &mut frame, &mut self.at_hand) {
                return fate;
            }
            let mut at_hand = std::mem::take(&mut self.at_hand);
            let number = self.number;
            let engine = self.engine();
            engine.lend(number);
            let fate = engine.go_on(port, frame, &mut at_hand);
            self.news |= self.engine().has_news();
            return fate;
        }
        let len = frame.bytes().len();
        let engine = self.engine();
        let fate = engine.input(port, frame);
        engine.counters_mut().received[usize::from(port.0)].count(len);
        let news = engine.has_news();
        self.news |= news;
        fate
    }

    /// Lets time pass ([`Engine::tick`]).
    pub fn tick(&mut self) {
        self.news |= self.engine().tick();
    }

    /// Whether something waits for the manager.
    pub fn has_news(&self) -> bool {
        self.news || matches!(&self.held, Held::Shard(shard) if shard.has_news())
    }

    /// Whether there are flows for [`Gateway::lease_wanted`].
    pub fn wants_leases(&self) -> bool {
        matches!(&self.held, Held::Shard(shard) if shard.wants_leases())
    }

    /// The engine.
    pub fn engine(&mut self) -> &mut Engine {
        if !matches!(self.held, Held::Engine(_)) {
            self.news = self.has_news();
            // Nobody waits for the engine who holds a shard.
            self.held = Held::Nothing;
            let mut engine = lock(&self.gateway.engine);
            engine.set_time(self.now, self.unix_nanos);
            self.held = Held::Engine(engine);
        }
        match &mut self.held {
            Held::Engine(engine) => engine,
            Held::Shard(_) | Held::Nothing => unreachable!("the engine is locked"),
        }
    }

    /// What is counted outside.
    pub fn counters(&mut self) -> &mut Counters {
        match &mut self.held {
            Held::Shard(shard) => &mut shard.counters,
            Held::Engine(engine) => engine.counters_mut(),
            Held::Nothing => unreachable!("something is locked"),
        }
    }

    /// What is to be sent besides the frames of the burst.
    pub fn take_outbox(&mut self) -> Vec<(PortId, OwnedFrame)> {
        match &mut self.held {
            Held::Engine(engine) => std::mem::take(engine.outbox()),
            Held::Shard(_) | Held::Nothing => Vec::new(),
        }
    }
}

impl Drop for Burst<'_> {
    fn drop(&mut self) {
        if let Held::Engine(engine) = &mut self.held {
            engine.give_back();
        }
    }
}
