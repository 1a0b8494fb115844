//! A broken file names every broken line and the place in it.

use proptest::prelude::*;
use tidegate_filter::{SaveStyle, Source, load};
use tidegate_packet::Family;

/// Line, column and marked text of every complaint.
fn complaints(text: &str) -> Vec<(usize, usize, String)> {
    match load(Source { name: "test", text }, Family::V4) {
        Ok(_) => Vec::new(),
        Err(errors) => errors
            .into_iter()
            .map(|e| {
                assert!(!e.message.is_empty());
                (e.line, e.column, text[e.span].to_owned())
            })
            .collect(),
    }
}

#[test]
fn the_place_is_told() {
    let at = |line, column, text: &str| vec![(line, column, text.to_owned())];
    for (text, want) in [
        ("*filter\n-A INPUT -j DROPP\nCOMMIT\n", at(2, 13, "DROPP")),
        ("*filter\n-A INPUTT -j DROP\nCOMMIT\n", at(2, 4, "INPUTT")),
        ("*filter\n-A INPUT -s 1.2.3.4,1.2.3.500 -j DROP\nCOMMIT\n", at(2, 21, "1.2.3.500")),
        ("*filter\n-A INPUT -s 1.2.3.4/40\nCOMMIT\n", at(2, 21, "40")),
        ("*filter\n-A INPUT -p tcp --dport 22:7777777\nCOMMIT\n", at(2, 28, "7777777")),
        ("*filter\n-A INPUT -m conntrack --ctstate NEW,OLD\nCOMMIT\n", at(2, 37, "OLD")),
        ("*filter\n-A INPUT --foo\nCOMMIT\n", at(2, 10, "--foo")),
        ("*filter\n-A INPUT -m comment --comment \"x\nCOMMIT\n", at(2, 31, "\"x")),
        ("*filter\n-A INPUT -j MASQUERADE\nCOMMIT\n", at(2, 13, "MASQUERADE")),
        ("*nat\n-A PREROUTING -j MASQUERADE\nCOMMIT\n", at(2, 18, "MASQUERADE")),
        ("*nat\n-A POSTROUTING -j DROP\nCOMMIT\n", at(2, 19, "DROP")),
        ("*filter\n:X -\n:Y -\n-A INPUT -j X\n-A X -j Y\n-A Y -j X\nCOMMIT\n", at(6, 9, "X")),
        ("*filter\n-A INPUT -j QUEUE\nCOMMIT\n", at(2, 13, "QUEUE")),
        ("*fitler\nCOMMIT\n", at(1, 1, "*fitler")),
        ("-A INPUT -j DROP\n", at(1, 1, "-A INPUT -j DROP")),
        ("*filter\n-A INPUT -j DROP\n", at(3, 1, "")),
        ("*filter\nCOMMIT", vec![(2, 1, "COMMIT".into()), (2, 7, String::new())]),
        ("*filter\r\nCOMMIT\r\n", vec![(1, 8, "\r".into()), (2, 7, "\r".into())]),
        ("-A INPUT -j DROP\n-A INPUT -j ACCEPT\n", at(1, 1, "-A INPUT -j DROP")),
        ("*filter\n:INPUT DENY [0:0]\nCOMMIT\n", at(2, 8, "DENY")),
        ("*filter\n-A INPUT ! -j DROP\nCOMMIT\n", at(2, 10, "!")),
        ("*filter\n-A INPUT -m comment --comment ééé -j X\nCOMMIT\n", at(2, 38, "X")),
        (
            "*filter\n-A INPUT -j A\n# fine\n-A INPUT -j B\nCOMMIT\n",
            vec![(2, 13, "A".into()), (4, 13, "B".into())],
        ),
    ] {
        assert_eq!(complaints(text), want, "{text}");
    }
}

fn print(text: &str) -> Option<String> {
    let loaded = load(Source { name: "test", text }, Family::V4).ok()?;
    Some(loaded.ruleset.save(None, SaveStyle { stamp: "now", rule_counters: false }))
}

/// Pieces that make rules, mostly sensible.
fn piece() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "-s 10.0.0.0/8",
        "! -d 1.2.3.4",
        "-i eth0",
        "! -o ppp+",
        "-p tcp",
        "-p udp",
        "-p icmp",
        "! -p gre",
        "-f",
        "-m tcp",
        "--dport 22",
        "--sport 1:1023",
        "--syn",
        "-m conntrack",
        "--ctstate NEW,RELATED",
        "-m recent",
        "--set",
        "--update",
        "--seconds 60",
        "--name a",
        "-m limit",
        "--limit 7/min",
        "--limit-burst 9",
        "-m comment",
        "--comment \"a 'b' \\\\ c\"",
        "-m multiport",
        "--dports 1,2:3",
        "-j DROP",
        "-j T",
        "-g T",
        "-j LOG",
        "--log-prefix \"x y\"",
        "--log-level 7",
        "-j REJECT",
        "--reject-with tcp-reset",
        "-m mark",
        "--mark 1/2",
        "-j MARK",
        "--set-mark 9",
        "!",
        "-m icmp",
        "--icmp-type ping",
        "-m addrtype",
        "--dst-type LOCAL",
        "-m mac",
        "--mac-source 0:1:2:3:4:5",
        "-m ttl",
        "--ttl-lt 5",
        "-m tos",
        "--tos 16",
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_text_makes_it_panic(text in "\\PC*(\n\\PC*)*") {
        let _ = print(&text);
        let _ = print(&format!("*filter\n{text}\nCOMMIT\n"));
    }

    #[test]
    fn no_mixture_of_words_makes_it_panic(
        words in prop::collection::vec(
            prop_oneof![piece().prop_map(str::to_owned), "[-!\"\\\\a-z0-9:,/. ]{0,9}"],
            0..12,
        ),
    ) {
        let _ = print(&format!("*filter\n:T -\n-A INPUT {}\nCOMMIT\n", words.join(" ")));
    }

    #[test]
    fn what_is_printed_reads_the_same(rules in prop::collection::vec(
        prop::collection::vec(piece(), 0..6), 0..4,
    )) {
        // Lines that are refused alone are left out.
        let fine: Vec<String> = rules
            .iter()
            .map(|r| format!("-A FORWARD {}", r.join(" ")))
            .filter(|r| print(&format!("*filter\n:T -\n{r}\nCOMMIT\n")).is_some())
            .collect();
        let once = print(&format!("*filter\n:T -\n{}\nCOMMIT\n", fine.join("\n")).replace("\n\n", "\n"));
        let once = once.expect("each line was taken alone");
        prop_assert_eq!(print(&once), Some(once.clone()));
    }
}

/// The message and the help of the only complaint.
fn only_complaint(text: &str) -> String {
    match load(Source { name: "test", text }, Family::V4) {
        Err(errors) if errors.len() == 1 => errors[0].to_string(),
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn what_was_meant_is_told() {
    for (rule, meant) in [
        ("-A INPUT -p tcp --dprot 22 -j ACCEPT", "--dport"),
        ("-A INPUT -p tcp --tcp-flag5 SYN,ACK SYN", "--tcp-flags"),
        ("-A INPUT --sorce 10.0.0.1", "--source"),
        ("-A INPUT -m contrack --ctstate NEW", "conntrack"),
        ("-A INPUT -m conntrack --ctstat3 NEW", "--ctstate"),
        ("-A INPUT -m conntrack --ctstate ESTABLISHD", "ESTABLISHED"),
        ("-A INPUT -m recent --rchek --name x", "--rcheck"),
        ("-A INPUT -j DROPP", "DROP"),
        ("-A INPUT -j accept", "ACCEPT"),
        ("-A INPUT -j REJET", "REJECT"),
        ("-A INPUT -j REJECT --reject-with icmp-port-unreachble", "icmp-port-unreachable"),
        ("-A INPUT -j LOG --log-level warnin", "warning"),
        ("-A INPTU -j DROP", "INPUT"),
        ("-A INPUT -j mychian", "mychain"),
        ("-A INPUT -p tpc", "tcp"),
        ("-A INPUT -p tcp --dport htpp", "http"),
        ("-A INPUT -p tcp --tcp-flags SYN,AKC SYN", "ACK"),
        ("-A INPUT -p icmp --icmp-type echo-requst", "echo-request"),
        ("-A INPUT -m pkttype --pkt-type brodcast", "broadcast"),
        ("-A INPUT -m addrtype --src-type LOACL", "LOCAL"),
    ] {
        let text = format!("*filter\n:mychain - [0:0]\n{rule}\nCOMMIT\n");
        let told = only_complaint(&text);
        assert!(told.contains(&format!("did you mean `{meant}`?")), "{rule}: {told}");
    }
    for (text, meant) in [("*fitler\nCOMMIT\n", "filter"), ("*mange\nCOMMIT\n", "mangle")] {
        assert!(only_complaint(text).contains(&format!("did you mean `{meant}`?")), "{text}");
    }
    // Nothing is near these.
    for rule in ["-A INPUT -j 8", "-A INPUT -m zzzzzzzzz", "-A INPUT --qqqqqqqq"] {
        let told = only_complaint(&format!("*filter\n{rule}\nCOMMIT\n"));
        assert!(!told.contains("did you mean"), "{rule}: {told}");
    }
}

#[test]
fn everything_wrong_is_told_at_once() {
    let text = "*filter\n-A INPUT -j DROPP\n-A INPUT --foo\n-A OUTPUT -j X\nCOMMIT\n";
    let lines: Vec<usize> = complaints(text).into_iter().map(|c| c.0).collect();
    assert_eq!(lines, [2, 3, 4]);
}

#[test]
fn what_never_comes_into_play_is_told() {
    let warned = |text: &str| -> Vec<(usize, String)> {
        let loaded = load(Source { name: "test", text }, Family::V4).expect("right rules");
        loaded.warnings.into_iter().map(|w| (w.line, w.message)).collect()
    };
    for (text, line, says) in [
        ("*filter\n-A INPUT -j ACCEPT\n-A INPUT -j DROP\nCOMMIT\n", 3, "`INPUT` decides"),
        (
            "*filter\n-A INPUT -m comment --comment x -j REJECT\n-A INPUT -p tcp -j DROP\nCOMMIT\n",
            3,
            "decides about all",
        ),
        ("*filter\n:X -\n-A X -j DROP\nCOMMIT\n", 3, "gets to chain `X`"),
        ("*filter\n:X -\n-A INPUT -j DROP\n-A INPUT -j X\n-A X -j DROP\nCOMMIT\n", 5, "chain `X`"),
        (
            "*nat\n-A POSTROUTING -m conntrack --ctstate ESTABLISHED -j MASQUERADE\nCOMMIT\n",
            2,
            "first packet",
        ),
        (
            "*nat\n-A PREROUTING -m conntrack --ctstate INVALID,UNTRACKED -j ACCEPT\nCOMMIT\n",
            2,
            "first packet",
        ),
    ] {
        let found = warned(text);
        assert!(found.iter().any(|(l, w)| *l == line && w.contains(says)), "{text}: {found:?}");
    }
    for text in [
        "*filter\n-A INPUT -p tcp -j ACCEPT\n-A INPUT -j DROP\nCOMMIT\n",
        "*filter\n-A INPUT -i lo -j ACCEPT\n-A INPUT -j DROP\nCOMMIT\n",
        "*filter\n-A INPUT\n-A INPUT -j DROP\nCOMMIT\n",
        "*filter\n-A INPUT -j LOG\n-A INPUT -j DROP\nCOMMIT\n",
        "*filter\n:EMPTY -\n-A INPUT -j DROP\nCOMMIT\n",
        "*filter\n:X -\n:Y -\n-A INPUT -j X\n-A INPUT -g Y\n-A X -j RETURN\n-A Y -j DROP\nCOMMIT\n",
        "*nat\n-A POSTROUTING -m conntrack --ctstate NEW -j MASQUERADE\nCOMMIT\n",
        "*nat\n-A POSTROUTING -m conntrack ! --ctstate INVALID -j MASQUERADE\nCOMMIT\n",
        "*nat\n-A POSTROUTING -m conntrack --ctstate DNAT -j MASQUERADE\nCOMMIT\n",
    ] {
        assert_eq!(warned(text), [], "{text}");
    }
}
