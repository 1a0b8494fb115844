//! Rules text: whatever it says, it loads or is refused with a place inside the text; and what
//! loads prints as text that loads as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_filter::{SaveStyle, Source, load};
use tidegate_packet::Family;

fuzz_target!(|text: &str| {
    for family in [Family::V4, Family::V6] {
        let style = SaveStyle { stamp: "now", rule_counters: false };
        match load(Source { name: "fuzz", text }, family) {
            Ok(loaded) => {
                let printed = loaded.ruleset.save(None, style);
                let reload = |text: &str| {
                    load(Source { name: "printed", text }, family)
                        .unwrap_or_else(|e| panic!("{text}\n{e:?}"))
                        .ruleset
                        .save(None, style)
                };
                // Each round turns the tables' order round, as the kernel does.
                assert_eq!(printed, reload(&reload(&printed)));
            }
            Err(errors) => {
                assert!(!errors.is_empty());
                let rendered = tidegate::rules::parse(
                    &tidegate::diagnostic::Source::new("fuzz", text),
                    family,
                    &tidegate_filter::Sets::new(),
                );
                let report = rendered.expect_err("the same text");
                assert!(!report.render(tidegate::diagnostic::Style::PLAIN).is_empty());
            }
        }
    }
});
