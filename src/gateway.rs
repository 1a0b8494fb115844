//! The engine and its shards, to be shared by threads.

use crate::engine::{
    AtHand, Counters, Engine, Fate, Lent, Onward, OwnedFrame, Place, PortId, Read, Shard, Shards,
    TOGETHER, lock,
};
use crate::io::{Frame, Receive};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tidegate_nat::{Event, ExpectationEvent, Sought, Stats, Tuple};
use tidegate_packet::Instant;

/// What packets have at least to themselves between two steps of something long.
const TURN: Duration = Duration::from_micros(200);

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

    /// An engine that has its shards already.
    pub fn of(engine: Engine, shards: Shards) -> Self {
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

    /// Lets `work` count in a shard what happens outside.
    pub fn count(&self, shard: usize, work: impl FnOnce(&mut Counters)) {
        work(&mut self.shards.lock(shard).counters);
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

    /// Removes all connections whose time is over and carries out all orders, in steps between which
    /// packets pass. For whoever wants to know exactly what is there.
    pub fn finish_sweep(&self, now: Instant, unix_nanos: u64) {
        let step = || {
            let mut engine = self.engine();
            engine.set_time(now, unix_nanos);
            engine.sweep();
            engine.give_back();
            engine.is_behind()
        };
        while step() {
            // Whoever waits for the lock gets it.
            std::thread::sleep(TURN);
        }
    }

    /// How many connections there are, those included whose time is over.
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
        let handed = Vec::new();
        Burst { gateway: self, held, number: shard, at_hand, handed, now, unix_nanos, news: false }
    }
}

/// A frame that another worker is to have.
#[derive(Debug)]
pub struct Handed {
    /// Who.
    pub onward: Onward,
    /// The port that it came in by.
    pub port: PortId,
    /// The frame, as it was received.
    pub frame: OwnedFrame,
}

/// What a worker holds while a burst goes through: its shard, and from the first packet on that has
/// no short way the engine instead.
pub struct Burst<'a> {
    gateway: &'a Gateway,
    held: Held<'a>,
    number: usize,
    at_hand: AtHand,
    handed: Vec<Handed>,
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
    /// Takes in the first frames of a burst that a port has received.
    pub fn inputs(&mut self, port: PortId, receive: &mut dyn Receive, fates: &mut [Fate]) {
        for (group, fates) in fates.chunks_mut(TOGETHER).enumerate() {
            let first = group * TOGETHER;
            let ahead = match &self.held {
                Held::Shard(shard) => shard.look_ahead(receive, first..first + fates.len()),
                Held::Engine(_) | Held::Nothing => None,
            };
            for (index, fate) in (first..).zip(fates) {
                let found = ahead.as_ref().and_then(|ahead| ahead.get(index));
                *fate = self.take_in(port, receive.frame(index), found);
            }
        }
    }

    /// Takes in a frame that a port has received.
    pub fn input(&mut self, port: PortId, frame: Frame<'_>) -> Fate {
        self.take_in(port, frame, None)
    }

    #[inline]
    fn take_in(&mut self, port: PortId, frame: Frame<'_>, ahead: Option<(Read, Sought)>) -> Fate {
        let len = frame.bytes().len();
        self.counters().received[usize::from(port.0)].count(len);
        self.pass(port, frame, ahead, false)
    }

    /// Takes in a frame that another worker has received and handed over.
    pub fn input_handed(&mut self, port: PortId, frame: &mut OwnedFrame, last: bool) -> Fate {
        self.pass(port, frame.frame(), None, last)
    }

    #[inline]
    fn pass(
        &mut self,
        port: PortId,
        mut frame: Frame<'_>,
        ahead: Option<(Read, Sought)>,
        last: bool,
    ) -> Fate {
        let mut place = match &mut self.held {
            Held::Shard(shard) => shard.receive(port, &mut frame, ahead, last, &mut self.at_hand),
            Held::Engine(_) | Held::Nothing => Place::Unknown,
        };
        if let Place::Done(fate) = place {
            return fate;
        }
        let number = self.number;
        let mut at_hand = std::mem::take(&mut self.at_hand);
        if let Place::Unknown = place {
            place = self.engine().receive(number, port, &mut frame, last, &mut at_hand);
        }
        let fate = match place {
            Place::Done(fate) => fate,
            Place::Elsewhere(onward) => {
                self.handed.push(Handed { onward, port, frame: frame.to_owned_frame() });
                Fate::Consumed
            }
            Place::Here | Place::Unknown => {
                let engine = self.engine();
                engine.lend(number);
                let fate = engine.go_on(port, frame, &mut at_hand);
                let news = engine.has_news();
                self.news |= news;
                fate
            }
        };
        // What was found out about this frame is of no use for the next.
        at_hand.missed = None;
        self.at_hand = at_hand;
        fate
    }

    /// What other workers have to be given once the frames of the burst are sent: before, those that
    /// came after them could overtake them.
    pub fn take_handed(&mut self) -> Vec<Handed> {
        std::mem::take(&mut self.handed)
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
        match &self.held {
            Held::Shard(shard) => shard.wants_leases(),
            Held::Engine(engine) => engine.wants_leases(),
            Held::Nothing => false,
        }
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
