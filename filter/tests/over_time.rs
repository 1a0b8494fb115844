//! Matches that remember: `recent` lists and `limit` buckets.

mod common;

use common::*;
use tidegate_filter::*;
use tidegate_packet::{Instant, Parsed};

const A: &str = "10.0.0.2";
const B: &str = "192.0.2.9";

/// Packets at given seconds, and which of them a rule takes.
fn over_time(lines: &str, times: &[(u64, &[u8])]) -> Vec<bool> {
    let rules = rules(&filter(lines));
    let memory = Memory::new();
    memory.adopt(&[&rules]);
    let mut counters = rules.zero_counters();
    let one = |&(secs, bytes): &(u64, &[u8])| {
        let packet = Parsed::parse(bytes).unwrap();
        let query = Query { now: Instant::from_secs(secs), ..query(&packet, bytes) };
        let (table, hook) = (TableName::Filter, Hook::Forward);
        evaluate(&rules, table, hook, &query, &mut counters, &memory, &mut NoEffects)
            == Verdict::Drop
    };
    times.iter().map(one).collect()
}

#[test]
fn recent_as_the_page_uses_it() {
    let a = udp(A, B, 1, 2);
    let c = udp("10.0.0.3", B, 1, 2);
    // Brute force: the fourth within ten seconds is refused.
    let brute = "-A FORWARD -m recent --name x --rttl --rcheck --hitcount 3 --seconds 10 -j DROP\n\
                 -A FORWARD -m recent --name x --set -j ACCEPT";
    let times = [(0, &a[..]), (1, &a), (2, &a), (3, &a), (3, &c), (10, &a), (11, &a)];
    // At 10 s the stamp of 0 s still counts; at 11 s two are left.
    assert_eq!(over_time(brute, &times), [false, false, false, true, false, true, false]);
    // Port scan: every further try starts the sixty seconds anew.
    let scan = "-A FORWARD -m recent --update --seconds 60 --name x -j DROP\n\
                -A FORWARD -m recent --set --name x -j ACCEPT";
    let times = [(0, &a[..]), (50, &a), (110, &a), (171, &a), (171, &c)];
    assert_eq!(over_time(scan, &times), [false, true, true, false, false]);
    let remove = "-A FORWARD -m recent --remove --name x -j DROP\n\
                  -A FORWARD -m recent --set --name x -j ACCEPT";
    assert_eq!(over_time(remove, &[(0, &a), (1, &a), (2, &a)]), [false, true, false]);
    let negated = "-A FORWARD -m recent ! --rcheck --name x -j DROP";
    assert_eq!(over_time(negated, &[(0, &a)]), [true]);
}

/// An entry keeps 32 stamps, or the power of two that the largest `--hitcount` needs. (The figures
/// are the kernel's, for seventy packets at once.)
#[test]
fn recent_keeps_as_many_stamps_as_the_kernel() {
    let a = udp(A, B, 1, 2);
    let times = vec![(1, &a[..]); 70];
    for (hitcount, want) in [(20, 51), (32, 39), (33, 38)] {
        let lines = format!(
            "-A FORWARD -m recent --set --name a\n\
             -A FORWARD -m recent --rcheck --hitcount {hitcount} --name a -j DROP"
        );
        let hits = over_time(&lines, &times).into_iter().filter(|hit| *hit).count();
        assert_eq!(hits, want, "{hitcount}");
    }
}

/// A list holds a hundred addresses; the one not seen for longest gives way.
#[test]
fn recent_lists_are_bounded() {
    let lines = "-A FORWARD -p tcp -m recent --rcheck --name x -j DROP\n\
                 -A FORWARD -p udp -m recent --set --name x";
    let mut packets: Vec<Vec<u8>> =
        (0..101).map(|n| udp(&format!("10.0.1.{n}"), B, 1, 2)).collect();
    packets.push(tcp("10.0.1.0", B, 1, 2, 0));
    packets.push(tcp("10.0.1.1", B, 1, 2, 0));
    packets.push(tcp("10.0.1.100", B, 1, 2, 0));
    let times: Vec<_> = packets.iter().map(|p| (1, p.as_slice())).collect();
    assert_eq!(over_time(lines, &times)[101..], [false, true, true]);
}

#[test]
fn recent_lists_outlive_a_reload_while_they_are_named() {
    let set = rules(&filter("-A FORWARD -m recent --set --name x"));
    let check = rules(&filter("-A FORWARD -m recent --rcheck --name x -j DROP"));
    let none = rules(&filter("-A FORWARD -j ACCEPT"));
    let memory = Memory::new();
    let bytes = udp(A, B, 1, 2);
    let packet = Parsed::parse(&bytes).unwrap();
    let run = |rules: &Ruleset| {
        memory.adopt(&[rules]);
        let (table, hook) = (TableName::Filter, Hook::Forward);
        let mut counters = rules.zero_counters();
        let query = query(&packet, &bytes);
        evaluate(rules, table, hook, &query, &mut counters, &memory, &mut NoEffects)
    };
    run(&set);
    assert_eq!(run(&check), Verdict::Drop);
    run(&none);
    assert_eq!(run(&check), Verdict::Accept);
}

#[test]
fn limit_lets_a_burst_pass_and_then_the_rate() {
    let a = udp(A, B, 1, 2);
    let lines = "-A FORWARD -m limit --limit 1/s --limit-burst 2 -j DROP";
    let times: Vec<_> = [0, 0, 0, 1, 1, 5, 5, 5].into_iter().map(|t| (t, &a[..])).collect();
    let want = [true, true, false, true, false, true, true, false];
    assert_eq!(over_time(lines, &times), want);
}

#[test]
fn hashlimit_has_a_bucket_for_each_key() {
    let a = udp(A, B, 1, 2);
    let c = udp("10.0.0.3", B, 1, 2);
    let far = udp("10.0.1.3", B, 1, 3);
    let text = |rest: &str| format!("-A FORWARD -m hashlimit --hashlimit-name x {rest} -j DROP");
    let times = [(0, &a[..]), (0, &a), (0, &c), (0, &far), (1, &a), (9, &a), (9, &a)];
    for (rest, want) in [
        ("--hashlimit-upto 1/s --hashlimit-burst 1", "1000110"),
        ("--hashlimit-upto 1/s --hashlimit-burst 1 --hashlimit-mode srcip", "1011110"),
        ("--hashlimit-above 1/s --hashlimit-burst 1 --hashlimit-mode srcip", "0100001"),
        (
            "--hashlimit-upto 1/s --hashlimit-burst 1 --hashlimit-mode srcip --hashlimit-srcmask 24",
            "1001110",
        ),
        ("--hashlimit-upto 1/s --hashlimit-burst 1 --hashlimit-mode dstport", "1001110"),
        ("--hashlimit-upto 1/s --hashlimit-burst 1 --hashlimit-mode dstip,srcport", "1000110"),
        // Two in a second, and then none in the next.
        (
            "--hashlimit-upto 1/s --hashlimit-burst 1 --hashlimit-rate-match --hashlimit-htable-expire 9999",
            "1100011",
        ),
    ] {
        let got = over_time(&text(rest), &times);
        let got: String = got.into_iter().map(|hit| if hit { '1' } else { '0' }).collect();
        assert_eq!(got, want, "{rest}");
    }
}

/// A packet of 29 bytes is two chunks of 16; a second's credits are 64 bytes' worth.
#[test]
fn hashlimit_counts_bytes() {
    let a = udp(A, B, 1, 2);
    let rule = "-A FORWARD -m hashlimit --hashlimit-name x --hashlimit-upto 64b/s";
    let times: Vec<_> = [0, 0, 0, 0, 1, 1, 1].into_iter().map(|t| (t, &a[..])).collect();
    let want = [true, true, false, false, true, true, false];
    assert_eq!(over_time(&format!("{rule} -j DROP"), &times), want);
    let want = [true, true, true, true, true, true, false];
    let burst = format!("{rule} --hashlimit-burst 64b -j DROP");
    assert_eq!(over_time(&burst, &times), want);
}

/// Rules that name the same table share its buckets, and its rate is the first one's.
#[test]
fn hashlimit_tables_belong_to_their_names() {
    let a = udp(A, B, 1, 2);
    let rule = |rate: &str| format!("-m hashlimit --hashlimit-name x --hashlimit-upto {rate}");
    let lines = format!(
        "-A FORWARD {} --hashlimit-burst 2\n-A FORWARD {} -j DROP",
        rule("1/min"),
        rule("10000/s")
    );
    assert_eq!(
        over_time(&lines, &[(0, &a), (0, &a), (59, &a), (60, &a)]),
        [true, false, false, false]
    );
}

#[test]
fn statistic_takes_every_nth_and_a_share() {
    let a = udp(A, B, 1, 2);
    let times = vec![(0, &a[..]); 7];
    let nth = |rest: &str| {
        let hits = over_time(&format!("-A FORWARD -m statistic --mode nth {rest} -j DROP"), &times);
        hits.into_iter().map(|hit| if hit { '1' } else { '0' }).collect::<String>()
    };
    assert_eq!(nth("--every 3 --packet 0"), "1001001");
    assert_eq!(nth("--every 3 --packet 2"), "0010010");
    assert_eq!(nth("! --every 3 --packet 0"), "0110110");
    let rules = rules(&filter("-A FORWARD -m statistic --mode random --probability 0.25 -j DROP"));
    let packet = Parsed::parse(&a).unwrap();
    let mut counters = rules.zero_counters();
    let memory = Memory::new();
    let hit = |random| {
        let query = Query { random, ..query(&packet, &a) };
        let (table, hook) = (TableName::Filter, Hook::Forward);
        evaluate(&rules, table, hook, &query, &mut counters, &memory, &mut NoEffects)
            == Verdict::Drop
    };
    let hits = (0..10_000).map(hit).filter(|hit| *hit).count();
    assert!((2_300..2_700).contains(&hits), "{hits}");
}

/// The kernel's figures: a rule counts the connections that have met it and are still open.
#[test]
fn connlimit_counts_open_connections() {
    let packets: Vec<_> = (1..5).map(|port| udp(A, B, port, 2)).collect();
    let times: Vec<_> =
        [0, 0, 1, 1, 2, 3].into_iter().map(|n: usize| (1, &packets[n][..])).collect();
    let lines = "-A FORWARD -m connlimit --connlimit-above 2 -j DROP";
    assert_eq!(over_time(lines, &times), [false, false, false, false, true, true]);
    let lines = "-A FORWARD -m connlimit --connlimit-upto 2 --connlimit-daddr -j DROP";
    assert_eq!(over_time(lines, &times), [true, true, true, true, false, false]);
    // The test gateway knows no flow to port 9: each is forgotten when the next one comes.
    let packets: Vec<_> = (1..5).map(|port| udp(A, B, port, 9)).collect();
    let times: Vec<_> = packets.iter().map(|p| (1, &p[..])).collect();
    let lines = "-A FORWARD -m connlimit --connlimit-above 1 -j DROP";
    assert_eq!(over_time(lines, &times), [false; 4]);
}

/// What a rule remembers stays when rules around it change by command, and starts anew when the same
/// text is restored or loaded again.
#[test]
fn memory_of_a_rule_outlives_changes_around_it() {
    // Each spares two packets of 29 bytes.
    let remembering = [
        "-m quota --quota 60 -j ACCEPT",
        "-m limit --limit 1/hour --limit-burst 2 -j ACCEPT",
        "-m connlimit --connlimit-upto 2 -j ACCEPT",
        "-m hashlimit --hashlimit-upto 1/hour --hashlimit-burst 2 --hashlimit-name x -j ACCEPT",
    ];
    for rule in remembering {
        let text = filter(&format!("-A FORWARD {rule}\n-A FORWARD -j DROP"));
        let mut now = rules(&text);
        let memory = Memory::new();
        let sent = std::cell::Cell::new(0);
        let spared = |rules: &Ruleset| {
            memory.adopt(&[rules]);
            let mut counters = rules.zero_counters();
            sent.set(sent.get() + 1);
            let bytes = udp(A, B, sent.get(), 2);
            let packet = Parsed::parse(&bytes).unwrap();
            let query = query(&packet, &bytes);
            let (table, hook) = (TableName::Filter, Hook::Forward);
            let verdict =
                evaluate(rules, table, hook, &query, &mut counters, &memory, &mut NoEffects);
            verdict == Verdict::Accept
        };
        let run = |rules: &Ruleset, program, line: &str, input: &str| {
            let args: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
            let call = live::Call {
                program,
                family: tidegate_packet::Family::V4,
                args: &args,
                input,
                stamp: "",
            };
            let counters = rules.zero_counters();
            let answer = live::run(call, live::Present { ruleset: rules, counters: &counters });
            answer.change.expect(&answer.err).ruleset
        };
        assert!(spared(&now), "{rule}");
        for change in ["-A FORWARD -p tcp", "-I FORWARD -p tcp -j DROP", "-D FORWARD 1", "-Z"] {
            now = run(&now, live::Program::Iptables, change, "");
        }
        let added = "*filter\n-A INPUT -j DROP\nCOMMIT\n";
        now = run(&now, live::Program::Restore, "--noflush", added);
        assert!(spared(&now), "{rule}");
        assert!(!spared(&now), "{rule}: the change has made it forget");
        now = run(&now, live::Program::Restore, "", &text);
        let anew = !rule.contains("hashlimit");
        assert_eq!(spared(&now), anew, "{rule}: restored");
        if anew {
            assert!(spared(&now) && !spared(&now), "{rule}: restored");
        }
        now = rules(&text);
        assert_eq!(spared(&now), anew, "{rule}: loaded");
    }
}

#[test]
fn statistic_counts_on_through_changes_around_it() {
    let text = filter("-A FORWARD -m statistic --mode nth --every 3 --packet 2 -j DROP");
    let a = udp(A, B, 1, 2);
    let packet = Parsed::parse(&a).unwrap();
    let hit = |rules: &Ruleset| {
        let (table, hook) = (TableName::Filter, Hook::Forward);
        let (mut counters, query) = (rules.zero_counters(), query(&packet, &a));
        evaluate(rules, table, hook, &query, &mut counters, &Memory::new(), &mut NoEffects)
            == Verdict::Drop
    };
    let first = rules(&text);
    assert!(!hit(&first) && !hit(&first));
    let args = ["-A", "INPUT", "-p", "tcp"].map(str::to_owned);
    let family = packet.family;
    let call =
        live::Call { program: live::Program::Iptables, family, args: &args, input: "", stamp: "" };
    let counters = first.zero_counters();
    let answer = live::run(call, live::Present { ruleset: &first, counters: &counters });
    assert!(hit(&answer.change.expect("a rule is added").ruleset), "the third packet");
    let anew = rules(&text);
    assert!(!hit(&anew) && !hit(&anew) && hit(&anew));
}
