//! The maps, and the slots in our memory.

use super::MOST;
use super::layout::{Header, Key, Slot, Target, Verdict};
use crate::io::bpf::{Map, MapKind, Shared};
use std::io;

/// What both programs work on.
#[derive(Debug)]
pub(super) struct Maps {
    /// From a packet's key to its flow's slot and direction.
    pub keys: Map,
    pub slots: Map,
    pub header: Map,
    pub verdict: Map,
}

impl Maps {
    pub fn new() -> io::Result<Self> {
        let most = MOST as usize;
        let key = [size_of::<Key>(), size_of::<Target>(), 2 * most];
        let slot = [size_of::<u32>(), size_of::<Slot>(), most];
        let header = [size_of::<u32>(), size_of::<Header>(), 1];
        let verdict = [size_of::<u32>(), size_of::<Verdict>(), 1];
        Ok(Self {
            keys: Map::new(MapKind::Hash, "tidegate_keys", key, false)?,
            slots: Map::new(MapKind::Array, "tidegate_slots", slot, true)?,
            header: Map::new(MapKind::Array, "tidegate_header", header, true)?,
            verdict: Map::new(MapKind::PerCpuArray, "tidegate_order", verdict, false)?,
        })
    }

    pub fn share(&self) -> io::Result<(Shared<Slot>, Shared<Header>)> {
        // SAFETY: a slot is a lock word and integers under it, which the programs touch under the
        // lock only; the header consists of atomic integers.
        unsafe { Ok((Shared::map(&self.slots)?, Shared::map(&self.header)?)) }
    }
}
