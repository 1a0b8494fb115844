//! A worker's part of the gateway's state: what its packets change and no other worker's do.
//!
//! A shard holds connections. An established packet needs nothing else; everything else is in the
//! one [`Engine`], to which a shard *lends* its connections for as long as the engine works for it.
//! Both change places by a pointer each ([`Shard::lend`]), so the engine's code knows one table.
//!
//! What all tables share (mappings, expectations) is with the engine and goes into the table that is
//! lent. So it is only there while the engine is held.

use super::{Counters, Engine, Fate, PortId};
use crate::io::Frame;
use std::ops::{Deref, DerefMut};
use tidegate_nat::Conntrack;

/// One worker's connections and counters.
#[derive(Debug)]
pub struct Shard {
    conntrack: Box<Conntrack>,
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
            counters: Counters::new(engine.interfaces().port_count()),
            instructed: 0,
        }
    }

    /// Lets the engine work on this shard's connections until the guard is dropped.
    pub fn lend<'a>(&'a mut self, engine: &'a mut Engine) -> Lent<'a> {
        exchange(self, engine);
        engine.instruct(&mut self.instructed);
        Lent { engine, shard: self }
    }

    /// How many connections it has.
    pub fn connections(&self) -> usize {
        self.conntrack.len()
    }

    /// Takes in a frame that a port has received.
    #[inline]
    pub fn input(&mut self, engine: &mut Engine, port: PortId, frame: Frame<'_>) -> Fate {
        self.counters.received[usize::from(port.0)].count(frame.bytes().len());
        self.lend(engine).input(port, frame)
    }
}

/// Puts the shard's connections into the engine, or takes them out.
#[inline]
fn exchange(shard: &mut Shard, engine: &mut Engine) {
    std::mem::swap(&mut shard.conntrack, &mut engine.conntrack);
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
