//! Reassembly.
use tidegate_packet::{Instant, Parsed};

/// Placeholder until reassembly lands.
#[derive(Debug, Default)]
pub struct Reassembler;

/// A whole datagram.
#[derive(Debug)]
pub struct Whole {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Payload sizes of its fragments.
    pub sizes: Vec<u16>,
}

impl Reassembler {
    /// Nothing yet.
    pub fn push(&mut self, _: &Parsed, _: &[u8], _: u32, _: Instant) -> Result<Option<Whole>, ()> {
        Ok(None)
    }

    /// Nothing yet.
    pub fn expire(&mut self, _: Instant) {}
}
