//! Command lines of iptables' programs, against rules in force: whatever they say, they are answered,
//! what goes to standard error goes with an exit status, and the rules that come of it can be printed
//! and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_filter::live::{Call, Present, Program, run};
use tidegate_filter::{SaveStyle, Source, load};
use tidegate_packet::Family;

const RULES: &str = "*nat\n-A PREROUTING -p tcp --dport 80 -j REDIRECT --to-ports 8080\nCOMMIT\n\
    *filter\n:X - [0:0]\n-A INPUT -j X\n-A X -m limit -j ACCEPT\n-A X -s 10.0.0.0/8 -j DROP\nCOMMIT\n";

fuzz_target!(|input: (u8, bool, Vec<String>, String)| {
    let (program, v6, args, input) = input;
    let family = if v6 { Family::V6 } else { Family::V4 };
    let rules = if v6 { "" } else { RULES };
    let Ok(loaded) = load(Source { name: "rules", text: rules }, family) else { return };
    let program = match program % 3 {
        0 => Program::Iptables,
        1 => Program::Save,
        _ => Program::Restore,
    };
    let call = Call { program, family, args: &args, input: &input, stamp: "now" };
    let counters = loaded.ruleset.new_counters();
    let answer = run(call, Present { ruleset: &loaded.ruleset, counters: &counters });
    if let Some(change) = answer.change {
        let style = SaveStyle { stamp: "now", rule_counters: false };
        let printed = change.ruleset.save(None, style);
        let sets = change.ruleset.save(None, style);
        assert_eq!(printed, sets);
        if let Err(errors) = load(Source { name: "printed", text: &printed }, family) {
            panic!("{printed}\n{errors:?}");
        }
    }
});
