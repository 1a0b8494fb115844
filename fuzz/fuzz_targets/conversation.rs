//! Whole conversations through a gateway that translates, with packets of both sides, time, rules
//! and connections changed by command, and addresses that come and go.
#![no_main]

#[path = "../../tests/common/mod.rs"]
mod common;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Err(why) = common::conversation::play(data) {
        panic!("{why}");
    }
});
