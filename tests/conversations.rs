//! Random conversations through a gateway that translates, and those that once went wrong; and random
//! frames of a few flows through gateways with and without the short way.

mod common;

use common::conversation::play;
use common::lockstep;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};

/// The same walks each time; `PROPTEST_RNG_SEED` and `PROPTEST_CASES` try others.
fn config() -> Config {
    let number = |name| std::env::var(name).ok().and_then(|s| s.parse::<u64>().ok());
    Config {
        cases: number("PROPTEST_CASES").map_or(600, |n| n as u32),
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(number("PROPTEST_RNG_SEED").unwrap_or(0x7469_6465)),
        ..Config::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn conversations(walk in proptest::collection::vec(any::<u8>(), 1..700)) {
        if let Err(why) = play(&walk) {
            return Err(TestCaseError::fail(why));
        }
    }
}

proptest! {
    #![proptest_config(Config { cases: config().cases / 3, ..config() })]

    #[test]
    fn the_short_way_is_the_long_one(walk in proptest::collection::vec(any::<u8>(), 1..700)) {
        if let Err(why) = lockstep::play(&walk) {
            return Err(TestCaseError::fail(why));
        }
    }
}

/// Packets of a flow both ways, again and again: most of them have a short way.
#[test]
fn most_packets_have_a_short_way() {
    for flow in 0..6 {
        // Three segments or datagrams that begin it, then what goes on in either direction.
        let mut walk = vec![0, 0, 18, flow << 1, 99, 99, 99];
        (0..30).for_each(|n| walk.extend([0, flow << 1 | n & 1, 2, 99]));
        let [taken, forwarded] = lockstep::play(&walk).unwrap();
        assert!(taken > 20 && forwarded > 20, "flow {flow}: {taken}, {forwarded}");
    }
}

/// What the fuzzer has found, or thought it had.
#[test]
fn once_wrong() {
    // Pieces of an answer to somebody who had named the inside address himself, by a forged source.
    let walk = [
        64, 62, 52, 10, 10, 10, 10, 10, 10, 10, 0, 0, 0, 0, 0, 0, 0, 11, 242, 245, 245, 104, 245,
        10, 10, 10, 10, 10, 10, 0, 0, 0, 0, 0, 0, 0, 0, 10, 10, 10, 10, 10, 10, 169, 10, 10, 10,
    ];
    assert_eq!(play(&walk), Ok(()));
}
