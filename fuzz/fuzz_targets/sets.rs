//! Sets as `ipset save` prints them: whatever the text says, it is taken or refused with a place in
//! it, and what is printed reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_filter::Sets;
use tidegate_packet::Instant;

fuzz_target!(|text: &str| {
    let now = Instant::from_secs(1000);
    let sets = Sets::new();
    if let Err(errors) = sets.restore(text, now) {
        assert!(!errors.is_empty());
        for error in errors {
            assert!(error.span.end <= text.len());
        }
    }
    let printed = sets.call(&["save".to_owned()], "", now);
    let again = Sets::new();
    if let Err(errors) = again.restore(&printed.out, now) {
        panic!("{}\n{errors:?}", printed.out);
    }
});
