//! Any bytes at all, and those that were once too much.

mod common;

use common::{look, mended};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};

/// The same bytes each time; `PROPTEST_RNG_SEED` tries others.
fn config() -> Config {
    let seed = std::env::var("PROPTEST_RNG_SEED").ok().and_then(|s| s.parse().ok());
    Config {
        cases: 3000,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(seed.unwrap_or(0x7469_6465)),
        ..Config::default()
    }
}

/// The first byte of an IP header, and upper layers that have a decoder.
fn header() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![Just(0x45u8), Just(0x60), 0x40..0x50u8, any::<u8>()];
    let next = proptest::sample::select(&[6u8, 17, 1, 58, 44, 0, 43, 60, 51, 132, 33, 136, 59][..]);
    (first, next, proptest::collection::vec(any::<u8>(), 0..200)).prop_map(
        |(first, next, mut b)| {
            b.insert(0, first);
            let at = if first >> 4 == 6 { 6 } else { 9 };
            if let Some(byte) = b.get_mut(at) {
                *byte = next;
            }
            b
        },
    )
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300), start: u16, offset: u16) {
        look(&bytes, start, offset);
    }

    #[test]
    fn bytes_with_an_ip_header(bytes in header(), start in 0..100u16, offset in 0..30u16) {
        look(&bytes, start, offset);
        look(&mended(bytes), start, offset);
    }
}

/// The addresses of a packet can add up to all ones; what is added to that has to carry on.
#[test]
fn addresses_that_leave_no_room_for_a_carry() {
    let mut packet = vec![0; 48];
    packet[0] = 0x60;
    packet[6] = 17;
    packet[16..24].fill(0xff);
    look(&mended(packet), 40, 6);
}
