//! Any bytes through the views of the packet crate, with any place that a device may name for the
//! checksum.
#![no_main]

#[path = "../../packet/tests/common/mod.rs"]
mod common;

use libfuzzer_sys::fuzz_target;

// What the device says, whether the IP header is mended, and the bytes.
fuzz_target!(|input: (u8, u8, bool, &[u8])| {
    let (start, offset, mend, bytes) = input;
    let bytes = if mend { common::mended(bytes.to_vec()) } else { bytes.to_vec() };
    common::look(&bytes, start.into(), offset.into());
});
