//! `gateway.toml` and sysctl.d text: read, or refused with something to say.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::path::Path;
use tidegate::config::{Config, Flags};
use tidegate::diagnostic::{Report, Source, Style};
use tidegate::sysctl::Assignments;

fuzz_target!(|text: &str| {
    let source = Source::new("fuzz", text);
    if let Err(report) =
        Config::from_parts(Some((&source, Path::new("/nowhere"))), &Flags::default())
    {
        assert!(report.has_errors());
        assert!(!report.render(Style::PLAIN).is_empty());
    }
    let (mut assignments, mut report) = (Assignments::default(), Report::default());
    assignments.read(&source, &mut report);
    assert_eq!(report.has_errors(), report.render(Style::PLAIN).contains("error"));
});
