//! Sequences of fragments against a plain model: any order, twice, over one another, tiny, damaged,
//! late, in too little memory.
#![no_main]

#[path = "../../nat/tests/fragment_model/mod.rs"]
mod fragment_model;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fragment_model::play(data));
