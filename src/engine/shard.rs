//! A worker's part of the gateway's state: what its packets change and no other worker's do.
//!
//! A shard holds connections. An established packet needs nothing else; everything else is in the
//! one [`Engine`], to which a shard *lends* its connections for as long as the engine works for it.
//! Both change places by a pointer each ([`Shard::lend`]), so the engine's code knows one table.
//!
//! What all tables share (mappings, expectations) is with the engine and goes into the table that is
//! lent. So it is only there while the engine is held.

use super::short::Short;
use super::{Counters, Engine, Fate, PortId};
use crate::io::Frame;
use std::ops::{Deref, DerefMut};
use tidegate_nat::Conntrack;
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
    pub(super) instructed: u64,
}

impl Shard {
    /// An empty one for this gateway.
    pub fn new(engine: &Engine) -> Self {
        Self {
            conntrack: Box::new(engine.new_table()),
            short: Box::new(engine.new_short()),
            now: engine.now,
            counters: Counters::new(engine.interfaces().port_count()),
            instructed: 0,
        }
    }

    /// Lets the engine work on this shard's connections until the guard is dropped.
    pub fn lend<'a>(&'a mut self, engine: &'a mut Engine) -> Lent<'a> {
        exchange(self, engine);
        engine.settle();
        engine.instruct(&mut self.instructed);
        Lent { engine, shard: self }
    }

    /// How many connections it has.
    pub fn connections(&self) -> usize {
        self.conntrack.len()
    }

    /// Takes in a frame that a port has received.
    #[inline]
    pub fn input(&mut self, engine: &mut Engine, port: PortId, mut frame: Frame<'_>) -> Fate {
        self.set_time(engine.now);
        match self.receive(port, &mut frame) {
            Some(fate) => fate,
            None => self.go_on(engine, port, frame),
        }
    }

    /// The same as far as it goes without the engine: `None` means that the frame is as it was, is
    /// counted, and has to [`Shard::go_on`].
    #[inline]
    pub fn receive(&mut self, port: PortId, frame: &mut Frame<'_>) -> Option<Fate> {
        self.counters.received[usize::from(port.0)].count(frame.bytes().len());
        self.short.take(&mut self.conntrack, port, frame, self.now)
    }

    /// Takes a frame that has been received the long way.
    #[inline]
    pub fn go_on(&mut self, engine: &mut Engine, port: PortId, frame: Frame<'_>) -> Fate {
        self.lend(engine).input(port, frame)
    }

    /// Says what time it is for what happens without the engine.
    pub fn set_time(&mut self, now: Instant) {
        self.now = now;
        self.conntrack.set_event_time(now);
    }

    /// Whether something has happened to its connections that somebody wants to be told.
    #[inline]
    pub fn has_events(&self) -> bool {
        self.conntrack.has_events()
    }

    /// How many packets have taken the short way.
    pub fn taken_short_way(&self) -> u64 {
        self.short.taken
    }
}

/// Puts the shard's connections into the engine, or takes them out.
#[inline]
fn exchange(shard: &mut Shard, engine: &mut Engine) {
    std::mem::swap(&mut shard.conntrack, &mut engine.conntrack);
    std::mem::swap(&mut shard.short, &mut engine.short);
    engine.conntrack.exchange_shared(&mut shard.conntrack);
}

/// The engine while it has a shard's connections.
#[derive(Debug)]
pub struct Lent<'a> {
    engine: &'a mut Engine,
    shard: &'a mut Shard,
}

impl Lent<'_> {
    /// The shard's connections.
    pub fn conntrack(&self) -> &Conntrack {
        &self.engine.conntrack
    }

    /// The shard's connections, to change them by hand.
    pub fn conntrack_mut(&mut self) -> &mut Conntrack {
        &mut self.engine.conntrack
    }
}

impl Deref for Lent<'_> {
    type Target = Engine;

    fn deref(&self) -> &Engine {
        self.engine
    }
}

impl DerefMut for Lent<'_> {
    fn deref_mut(&mut self) -> &mut Engine {
        self.engine
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        exchange(self.shard, self.engine);
    }
}
