//! Frames of a few flows through gateways with and without the short way, with leases and in shards:
//! none may differ from the others.
#![no_main]

#[path = "../../tests/common/mod.rs"]
mod common;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Err(why) = common::lockstep::play(data) {
        panic!("{why}");
    }
});
