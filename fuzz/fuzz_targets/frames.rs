//! Frames through the whole engine. The input is a walk: which ruleset, then steps, each a frame
//! of the catalogue with some bytes replaced, or a frame of the fuzzer's own.
#![no_main]

#[path = "../../tests/common/mod.rs"]
mod common;

use common::frames::{Arrival, catalogue};
use common::mutate;
use common::watch::{Watch, gateways};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use std::time::Duration;
use tidegate::io::channel::Flying;
use tidegate::io::{Checksum, Gso, GsoKind, Offload};
use tidegate::sim::SimConfig;

static CATALOGUE: LazyLock<Vec<Arrival>> = LazyLock::new(catalogue);
static GATEWAYS: LazyLock<Vec<(&'static str, SimConfig)>> = LazyLock::new(gateways);
const PORTS: [&str; 3] = ["eth0", "eth1", "ppp0"];

/// Reads the input from its beginning; past its end come zeros.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken.to_vec()
    }

    fn offload(&mut self) -> Offload {
        let checksum = match self.byte() % 3 {
            0 => Checksum::Unverified,
            1 => Checksum::Valid,
            _ => Checksum::Partial { start: self.word(), offset: self.word() },
        };
        let kinds = [GsoKind::Tcp4, GsoKind::Tcp6, GsoKind::UdpL4];
        let kind = self.byte();
        let gso =
            kinds.get(usize::from(kind)).map(|&kind| Gso { kind, size: self.word(), ecn: false });
        Offload { checksum, gso }
    }

    fn step(&mut self) -> (&'static str, Flying, Duration) {
        let what = self.byte();
        let mut arrival = if what & 1 == 0 {
            CATALOGUE[usize::from(self.byte()) % CATALOGUE.len()].clone()
        } else {
            let port = PORTS[usize::from(what >> 1) % 3];
            let len = usize::from(self.word() % 2048);
            Arrival { port, frame: self.take(len).into() }
        };
        let bytes = &mut arrival.frame.bytes;
        for _ in 0..what >> 6 {
            let (at, value) = (usize::from(self.word()), self.byte());
            if !bytes.is_empty() {
                let at = at % bytes.len();
                bytes[at] = value;
            }
        }
        if what & 2 != 0 {
            arrival.frame.offload = self.offload();
        }
        if what & 4 != 0 {
            mutate::mend(&mut arrival.frame);
        }
        let wait = if what & 8 != 0 { u64::from(self.byte()) * 20 } else { 0 };
        (arrival.port, arrival.frame, Duration::from_millis(wait))
    }
}

fuzz_target!(|data: &[u8]| {
    let mut bytes = Bytes(data);
    let (name, config) = &GATEWAYS[usize::from(bytes.byte()) % GATEWAYS.len()];
    let mut watch = Watch::new(config);
    for _ in 0..64 {
        if bytes.0.is_empty() {
            break;
        }
        let (port, frame, wait) = bytes.step();
        let held = watch.step(port, frame).and_then(|()| watch.wait(wait));
        held.unwrap_or_else(|why| panic!("{name}: {why}"));
    }
});
