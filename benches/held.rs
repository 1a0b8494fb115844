//! How long a packet waits for the engine while rules are replaced or changed, rules and connections
//! are listed, and connections are removed: the longest wait of a thread that asks for it all the
//! time, in each of several rounds. On a machine that does other things as well it says more with
//! real-time priority: `chrt -f 50 cargo bench --bench held`.

mod common;

use common::{established, many_rules};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant as Clock};
use tidegate::conntrack::{Action, Ask, Filter, Hub, Moment, Tell, gateway};
use tidegate::gateway::Gateway;
use tidegate_filter::{Ruleset, Sets, Source, live, load};
use tidegate_packet::{Family, Instant};

const ROUNDS: usize = 15;
const CONNECTIONS: u32 = 1_000_000;
const NOW: Instant = Instant::from_secs(3600);

/// Does something while another thread asks for the engine, and says how long that had to wait at
/// most, and how long the whole took.
fn held(gateway: &Gateway, work: impl FnOnce()) -> [Duration; 2] {
    let stop = AtomicBool::new(false);
    let begun = AtomicBool::new(false);
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut longest = Duration::ZERO;
            while !stop.load(Ordering::Relaxed) {
                begun.store(true, Ordering::Relaxed);
                let asked = Clock::now();
                drop(gateway.engine());
                longest = longest.max(asked.elapsed());
                // Others want it, too.
                thread::sleep(Duration::from_micros(5));
            }
            longest
        });
        while !begun.load(Ordering::Relaxed) {
            thread::yield_now();
        }
        let began = Clock::now();
        work();
        let whole = began.elapsed();
        stop.store(true, Ordering::Relaxed);
        [asking.join().expect("nothing to panic about"), whole]
    })
}

fn tell(what: &str, mut rounds: Vec<[Duration; 2]>) {
    let mut line = format!("{what:<44}");
    for which in [0, 1] {
        rounds.sort_by_key(|round| round[which]);
        let [least, middle, most] =
            [0, rounds.len() / 2, rounds.len() - 1].map(|at| rounds[at][which].as_secs_f64() * 1e3);
        line += &format!("{middle:10.3} ms ({least:.3} to {most:.3})");
    }
    println!("{line}");
}

fn loaded(text: &str) -> Ruleset {
    load(Source { name: "bench", text }, Family::V4).expect("right rules").ruleset
}

fn empty() -> Ruleset {
    Ruleset::empty(Family::V6, &Sets::new())
}

fn rules(count: usize) {
    let text = many_rules(count);
    let gateway = common::gateway(&text).into_gateway();
    let reload = || {
        let fresh = loaded(&text);
        held(&gateway, || drop(gateway.change(|engine| engine.replace_rules(fresh, empty()))))
    };
    tell(&format!("reload, {count} rules"), (0..ROUNDS).map(|_| reload()).collect());
    let call = |line: &str| {
        let args: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let (program, family) = (live::Program::Iptables, Family::V4);
        let call = live::Call { program, family, args: &args, input: "", stamp: "" };
        // As `tidegate iptables` does it.
        let (ruleset, counters) = gateway.settled().rules_in_force().snapshot(family);
        let done = live::run(call, live::Present { ruleset: &ruleset, counters: &counters });
        let change = done.change.expect("a change");
        drop(gateway.change(|engine| engine.change_rules(&ruleset, change, &counters)));
    };
    for (what, line) in [
        ("append", "-A FORWARD -s 192.0.2.1 -p tcp --dport 80 -j ACCEPT"),
        ("insert", "-I FORWARD -s 192.0.2.1 -p tcp --dport 80 -j ACCEPT"),
        ("replace", "-R FORWARD 100 -s 192.0.2.1 -p tcp --dport 80 -j ACCEPT"),
        ("delete", "-D FORWARD 100"),
    ] {
        let change = |_| held(&gateway, || call(line));
        tell(&format!("{what} one of {count} rules"), (0..ROUNDS).map(change).collect());
    }
    let listing = |_| {
        held(&gateway, || {
            let (ruleset, counters) = gateway.settled().rules_in_force().snapshot(Family::V4);
            let style = tidegate_filter::SaveStyle { stamp: "", rule_counters: true };
            drop(ruleset.save(Some(&counters), style));
        })
    };
    tell(&format!("save {count} rules"), (0..ROUNDS).map(listing).collect());
}

fn connections() {
    let mut rounds: [Vec<[Duration; 2]>; 3] = Default::default();
    for _ in 0..3 {
        for (which, action) in [Action::List, Action::Delete].into_iter().enumerate() {
            let gateway = established(common::RULES, CONNECTIONS).into_gateway();
            let ask = |ask| {
                let moment = Moment { now: NOW, unix_nanos: 0 };
                gateway::answer(
                    &gateway,
                    &Arc::new(Hub::default()),
                    &mut Default::default(),
                    ask,
                    moment,
                )
            };
            // Page after page, as `conntrack -L` and `-D`.
            let walk = || {
                let mut cursor = 0;
                loop {
                    let filter = Box::new(Filter::default());
                    let page = ask(Ask::Walk { filter, action: action.clone(), cursor });
                    let Tell::Page { next, .. } = page else { panic!("no page") };
                    match next {
                        Some(next) => cursor = next,
                        None => break,
                    }
                }
            };
            rounds[which].push(held(&gateway, walk));
            if action == Action::List {
                let flush = || drop(ask(Ask::Flush { family: None }));
                rounds[2].push(held(&gateway, flush));
            }
            assert_eq!(gateway.connections(), 0);
        }
    }
    for (what, rounds) in ["-L", "-D", "-F"].into_iter().zip(rounds) {
        tell(&format!("conntrack {what} over {CONNECTIONS} connections"), rounds);
    }
}

/// What the machine itself takes.
fn nothing() {
    let gateway = common::gateway("").into_gateway();
    let idle = |_| held(&gateway, || thread::sleep(Duration::from_secs(1)));
    tell("nothing", (0..3).map(idle).collect());
}

fn main() {
    println!("{:<44}{:>13}{:>26}", "", "longest wait", "the whole");
    nothing();
    rules(10_000);
    rules(100_000);
    connections();
}
