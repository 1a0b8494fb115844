//! A bad link: frames are lost, doubled, held back behind later ones, and damaged.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tidegate_packet::ethernet;

/// What happens to frames, each with its probability in percent.
#[derive(Debug)]
pub struct Faults {
    lose: u32,
    double: u32,
    hold_back: u32,
    damage: u32,
    rng: StdRng,
    held: Option<Vec<u8>>,
    /// How many frames met a fault.
    pub happened: u32,
}

impl Faults {
    /// A good link.
    pub fn none() -> Self {
        Self::new(0, [0, 0, 0, 0])
    }

    /// Percentages of loss, doubling, reordering and damage.
    pub fn new(seed: u64, [lose, double, hold_back, damage]: [u32; 4]) -> Self {
        let rng = StdRng::seed_from_u64(seed);
        Self { lose, double, hold_back, damage, rng, held: None, happened: 0 }
    }

    /// What comes out at the other end.
    pub fn pass(&mut self, frames: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        let mut out = Vec::with_capacity(frames.len());
        for frame in frames {
            self.pass_one(frame, &mut out);
        }
        out
    }

    fn pass_one(&mut self, mut frame: Vec<u8>, out: &mut Vec<Vec<u8>>) {
        if self.happens(self.lose) {
            return;
        }
        if self.happens(self.damage) {
            self.damage_payload(&mut frame);
        }
        if self.held.is_none() && self.happens(self.hold_back) {
            self.held = Some(frame);
            return;
        }
        if self.happens(self.double) {
            out.push(frame.clone());
        }
        out.push(frame);
        // What was held back comes behind the frame that overtook it.
        out.extend(self.held.take());
    }

    fn happens(&mut self, percent: u32) -> bool {
        let hit = percent > 0 && self.rng.random_range(0..100) < percent;
        self.happened += u32::from(hit);
        hit
    }

    /// Behind the link header alone: that is covered by a check sequence which no frame here has,
    /// and ARP by nothing.
    fn damage_payload(&mut self, frame: &mut [u8]) {
        let header = ethernet::HEADER_LEN;
        if frame.len() > header && frame[12..14] != ethernet::ARP.to_be_bytes() {
            let at = self.rng.random_range(header..frame.len());
            frame[at] ^= 1 << self.rng.random_range(0..8);
        }
    }
}
