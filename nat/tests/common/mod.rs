//! A gateway reduced to tracking and translation: every packet goes PREROUTING, POSTROUTING.
#![allow(dead_code)]

use std::time::Duration;

use proptest::test_runner::{Config as ProptestConfig, RngSeed};
use tidegate_nat::{Conntrack, Manip, Range, Settings, Tracked};
use tidegate_packet::builder::Ip;
use tidegate_packet::checksum::Field;
use tidegate_packet::{Addr, Instant, Parsed};

/// A property test's settings: always the same cases.
pub fn proptest(cases: u32) -> ProptestConfig {
    let rng_seed = RngSeed::Fixed(7);
    ProptestConfig { cases, rng_seed, failure_persistence: None, ..ProptestConfig::default() }
}

pub fn addr(text: &str) -> Addr {
    text.parse().unwrap()
}

pub fn ip(src: &str, dst: &str, protocol: u8) -> Ip {
    Ip::new(addr(src), addr(dst), protocol)
}

/// A range of one address.
pub fn to(address: &str) -> Range {
    to_range(address, address)
}

pub fn to_range(first: &str, last: &str) -> Range {
    Range { addrs: Some((addr(first), addr(last))), ..Range::default() }
}

/// What the nat table says to a new connection, by its untranslated packet.
#[derive(Copy, Clone, Default)]
pub struct Rules {
    pub dnat: Option<Range>,
    pub snat: Option<Range>,
}

pub struct Gateway {
    pub table: Conntrack,
    pub now: Instant,
    pub seed: u32,
}

impl Gateway {
    pub fn new() -> Self {
        Self::with(Settings::default())
    }

    pub fn with(settings: Settings) -> Self {
        Self { table: Conntrack::new(settings, [3, 4]), now: Instant::from_secs(100), seed: 1 }
    }

    pub fn wait(&mut self, seconds: u64) {
        self.now = self.now + Duration::from_secs(seconds);
    }

    /// Sends a packet through; the answer is what leaves, or why nothing does.
    pub fn pass(&mut self, bytes: &[u8], rules: Rules) -> Result<Vec<u8>, String> {
        self.pass_as(bytes, rules, Field::Complete).map(|(bytes, _)| bytes)
    }

    pub fn pass_as(
        &mut self,
        bytes: &[u8],
        rules: Rules,
        field: Field,
    ) -> Result<(Vec<u8>, Tracked), String> {
        let mut bytes = bytes.to_vec();
        let mut packet = Parsed::parse(&bytes).map_err(|e| e.to_string())?;
        let verify = field == Field::Complete;
        let mut tracked = self.table.track(&packet, &bytes, verify, self.now);
        for (manip, range) in [(Manip::Destination, rules.dnat), (Manip::Source, rules.snat)] {
            if self.table.needs_nat(&tracked, manip) {
                let seed = &mut self.seed;
                let mut random = || {
                    *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    *seed >> 8
                };
                self.table
                    .set_nat(&mut tracked, manip, range.as_ref(), self.now, &mut random)
                    .map_err(|e| e.to_string())?;
            }
            self.table
                .translate(&tracked, manip, &mut packet, &mut bytes, field)
                .map_err(|e| e.to_string())?;
            if let Ok(again) = Parsed::parse(&bytes) {
                assert_eq!(packet, again, "the decoded headers are in step with the bytes");
            } else {
                panic!("translation broke the packet");
            }
        }
        self.table.confirm(&mut tracked, self.now).map_err(|e| e.to_string())?;
        Ok((bytes, tracked))
    }
}

/// `src:port > dst:port` of a packet; for ICMP the identifier.
pub fn show(bytes: &[u8]) -> String {
    let p = Parsed::parse(bytes).unwrap();
    match (p.ports(), p.transport) {
        (Some((s, d)), _) => format!("{}:{s} > {}:{d}", p.src, p.dst),
        (
            None,
            tidegate_packet::Transport::Icmp { id, .. }
            | tidegate_packet::Transport::Icmpv6 { id, .. },
        ) => format!("{} > {} id {id}", p.src, p.dst),
        _ => format!("{} > {}", p.src, p.dst),
    }
}
