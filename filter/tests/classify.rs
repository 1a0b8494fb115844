//! Long chains: a packet finds its rules by look-up, and has to find just those that it would meet
//! by asking one after the other.

mod common;

use common::chains::*;
use common::*;
use proptest::prelude::*;
use tidegate_filter::*;
use tidegate_packet::builder::{self, Ip, Tcp};
use tidegate_packet::{Addr, Family, Parsed, tcp};

/// Hands a rule's parts out, each from a small world in which much collides.
fn rule(family: Family) -> BoxedStrategy<String> {
    let v4 = prop_oneof![
        Just(String::new()),
        (0u8..4, 0u8..4, prop_oneof![Just(8u8), Just(16), Just(24), Just(32), 9u8..32])
            .prop_map(|(b, d, len)| format!("10.{b}.0.{d}/{len}")),
        (0u8..4).prop_map(|d| format!("10.0.0.{d}/255.0.0.255")),
    ];
    let v6 = prop_oneof![
        Just(String::new()),
        (0u8..4, 0u8..4, prop_oneof![Just(64u8), Just(128), 8u8..128])
            .prop_map(|(b, d, len)| format!("fd0{b}::{d}/{len}")),
    ];
    let address = if family == Family::V4 { v4.boxed() } else { v6.boxed() };
    let side = move |option: &'static str| {
        (any::<bool>(), address.clone()).prop_map(move |(not, address)| match address.as_str() {
            "" => String::new(),
            _ if not && address.ends_with("/32") => format!(" ! {option} {address}"),
            _ => format!(" {option} {address}"),
        })
    };
    let interface = prop_oneof![
        3 => Just(""),
        1 => Just(" -i eth0"),
        1 => Just(" -i eth+"),
        1 => Just(" -i et+"),
        1 => Just(" ! -i eth+"),
        1 => Just(" ! -i eth0"),
        1 => Just(" -i a-name-of-more-"),
    ];
    let end = move |(b, d): (u8, u8)| match family {
        Family::V4 => format!("10.{b}.0.{d}"),
        Family::V6 => format!("fd0{b}::{d}"),
    };
    let range =
        ((0u8..4, 0u8..4), (0u8..4, 0u8..4), any::<bool>()).prop_map(move |(a, b, source)| {
            let side = if source { "--src-range" } else { "! --dst-range" };
            format!(" -m iprange {side} {}-{}", end(a.min(b)), end(a.max(b)))
        });
    let ports = (any::<u16>(), any::<u16>(), 0u8..3).prop_map(|(a, b, how)| {
        let (low, high) = (a.min(b), a.max(b));
        match how {
            0 => format!(" -p tcp --sport {low}:{high}"),
            1 => format!(" -p udp -m udp --dport {low}:{high}"),
            _ => format!(
                " -p tcp -m multiport --dports 80,{low}:{}",
                high.max(low.saturating_add(1))
            ),
        }
    });
    let protocol = prop_oneof![
        10 => prop::sample::select(vec![
            "",
            " -p 1",
            " ! -p tcp",
            " -p tcp --dport 80",
            " -p tcp ! --dport 80",
            " -p tcp --dport 80:90 --sport 1024:65535",
            " -p tcp -m limit --limit 2/hour --limit-burst 3 -m tcp --dport 443",
            " -p tcp -m comment --comment x -m multiport --dports 22,80,8000:8100",
            " -p tcp -m multiport --ports 443,1",
            " -p udp -m multiport ! --sports 53",
            " -p udp --sport 53",
            " -p udp -m mark --mark 1 -m udp --dport 53",
            " -p udp -m statistic --mode nth --every 3 -m udp --dport 443",
            " -p tcp --tcp-option 5 --dport 80",
        ])
        .prop_map(str::to_owned),
        3 => ports,
        2 => range,
        1 => Just(" -m limit --limit 2/hour --limit-burst 3 -m iprange --src-range ".to_owned())
            .prop_map(move |text| text + &end((0, 1)) + "-" + &end((2, 2))),
    ];
    let hops = if family == Family::V4 { " -j TTL --ttl-set 9" } else { " -j HL --hl-set 9" };
    let target = prop_oneof![
        6 => Just(""),
        2 => Just(" -j ACCEPT"),
        2 => Just(" -j DROP"),
        2 => Just(" -j one"),
        1 => Just(" -g two"),
        1 => Just(" -j RETURN"),
        1 => Just(" -j LOG"),
        1 => Just(" -j MARK --set-mark 1"),
        1 => Just(hops),
    ];
    (side("-s"), side("-d"), interface, protocol, target)
        .prop_map(|(s, d, i, p, t)| format!("{s}{d}{i}{p}{t}"))
        .boxed()
}

/// The same rule where it can't lead in a circle: a chain jumps only further down.
fn down(chain: &str, rule: &str) -> String {
    match chain {
        "one" => rule.replace("-j one", "-j two"),
        "two" => rule.replace("-j one", "").replace("-g two", ""),
        _ => rule.to_owned(),
    }
}

fn ruleset(family: Family) -> impl Strategy<Value = String> {
    let rules = |n| prop::collection::vec(rule(family), n);
    (rules(0..60usize), rules(0..40usize), rules(0..40usize)).prop_map(|(main, one, two)| {
        let mut text =
            String::from("*mangle\n:PREROUTING DROP [0:0]\n:one - [0:0]\n:two - [0:0]\n");
        for (chain, rules) in [("PREROUTING", main), ("one", one), ("two", two)] {
            for rule in rules {
                text.push_str(&format!("-A {chain}{}\n", down(chain, &rule)));
            }
        }
        text + "COMMIT\n"
    })
}

/// Commands that change the rules.
fn changes(family: Family) -> impl Strategy<Value = Vec<String>> {
    let chain = prop::sample::select(vec!["PREROUTING", "PREROUTING", "one", "two"]);
    let change = (chain, rule(family), 0u8..12, 1usize..40).prop_map(|(chain, rule, what, n)| {
        let rule = down(chain, &rule);
        match what {
            0..4 => format!("-A {chain}{rule}"),
            4..6 => format!("-I {chain} {n}{rule}"),
            6..9 => format!("-D {chain} {n}"),
            9 => format!("-R {chain} {n}{rule}"),
            10 => format!("-D {chain}{rule}"),
            _ => format!("-Z {chain} {n}"),
        }
    });
    prop::collection::vec(change, 0..30)
}

fn packet(family: Family) -> impl Strategy<Value = Vec<u8>> {
    let addr = move || {
        (0u8..4, 0u8..4).prop_map(move |(b, d)| match family {
            Family::V4 => Addr::from_v4_bytes([10, b, 0, d]),
            Family::V6 => format!("fd0{b}::{d}").parse().unwrap(),
        })
    };
    let port = prop_oneof![Just(80u16), Just(53), Just(443), Just(22), Just(8050), any::<u16>()];
    (addr(), addr(), port.clone(), port, 0u8..4, 0usize..60).prop_map(
        |(src, dst, s, d, kind, cut)| {
            match kind {
                0 => {
                    let tcp = Tcp { sport: s, dport: d, flags: tcp::SYN, ..Tcp::default() };
                    builder::tcp(Ip::new(src, dst, 6), tcp, &[])
                }
                1 => builder::udp(Ip::new(src, dst, 17), s, d, b"payload"),
                2 => builder::ip(Ip::new(src, dst, 1), &[8, 0, 0, 0, 0, 0, 0, 0]),
                // Headers that are cut short make matches drop the packet.
                _ => builder::ip(Ip::new(src, dst, 6), &vec![0; cut]),
            }
        },
    )
}

fn input() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["eth0", "eth1", "a-name-of-more-", "eno"])
}

fn any_family() -> impl Strategy<Value = Family> {
    prop::sample::select(vec![Family::V4, Family::V4, Family::V6])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn what_is_saved_loads_as_itself(
        (family, text) in any_family().prop_flat_map(|f| (Just(f), ruleset(f))),
    ) {
        let once = saved(&loaded(&text, family));
        prop_assert_eq!(saved(&loaded(&once, family)), once);
    }

    #[test]
    fn the_same_rules_are_met((family, text, changes, packets) in any_family().prop_flat_map(|f| {
        (Just(f), ruleset(f), changes(f), prop::collection::vec((packet(f), input()), 1..12))
    })) {
        check(&text, family, &changes, &packets);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]
    /// Who is taken past a chain would have met its policy alone.
    #[test]
    fn no_rule_is_passed_by((family, rules, packets) in any_family().prop_flat_map(|f| {
        let rules = prop::collection::vec(rule(f), 0..4);
        (Just(f), rules, prop::collection::vec(packet(f), 1..12))
    })) {
        let at = (TableName::Mangle, Hook::Prerouting);
        let rules: String = rules.iter().map(|r| format!("-A PREROUTING{r}\n")).collect();
        let chains = ":PREROUTING DROP [0:0]\n:one - [0:0]\n:two - [0:0]";
        let rules = loaded(&format!("*mangle\n{chains}\n{rules}COMMIT\n"), family);
        for (n, bytes) in packets.iter().enumerate() {
            let packet = Parsed::parse(bytes).unwrap();
            let input = [Some("eth0"), Some("eth1"), None][n % 3];
            let query = Query { input, output: None, ..query(&packet, bytes) };
            let (mut counters, mut trail) = (rules.zero_counters(), Trail::default());
            let names = [input, None];
            let chain = rules.entrance(at.0, at.1).unwrap();
            let passed = chain.pass_by(&packet, names, &mut counters, Some(&mut trail));
            let Some(verdict) = passed.map(Verdict::from) else { continue };
            let (mut walked, mut left) = (rules.zero_counters(), Trail::default());
            let (mut seen, memory) = (Seen::default(), Memory::new());
            let mut walk = rules.walk_plainly(at.0, at.1);
            let step = walk.resume_on_trail(&query, &mut walked, &memory, &mut seen, &mut left);
            prop_assert_eq!((step, walked, left), (Step::Done(verdict), counters, trail));
            prop_assert!(seen.0.is_empty());
        }
    }
}

/// Chains are closed to those whom all rules leave alone, and only to those.
#[test]
fn whom_chains_are_closed_to() {
    let packet = builder::udp(
        Ip::new(Addr::from_v4_bytes([10, 0, 0, 1]), Addr::from_v4_bytes([10, 0, 0, 2]), 17),
        1,
        53,
        b"",
    );
    let packet = Parsed::parse(&packet).unwrap();
    let at = (TableName::Mangle, Hook::Forward);
    for (rules, closed) in [
        ("", true),
        ("-A FORWARD -i wan0", true),
        ("-A FORWARD -i wan0\n-A FORWARD -i wan+ -p udp", true),
        ("-A FORWARD ! -i lan0", true),
        ("-A FORWARD -p tcp", true),
        ("-A FORWARD ! -p udp\n-A FORWARD -p icmp", true),
        ("-A FORWARD -o lan0\n-A FORWARD -o eth0", true),
        ("-A FORWARD -i a\n-A FORWARD -i b\n-A FORWARD -i c\n-A FORWARD -i d", true),
        // More than are remembered.
        (
            "-A FORWARD -i a\n-A FORWARD -i b\n-A FORWARD -i c\n-A FORWARD -i d\n-A FORWARD -i e",
            false,
        ),
        // No kind of thing that each rule wants.
        ("-A FORWARD -i wan0\n-A FORWARD -p tcp", false),
        ("-A FORWARD -i wan0\n-A FORWARD -i lan0 -p tcp", false),
        ("-A FORWARD -p tcp\n-A FORWARD -p udp --dport 1", false),
        ("-A FORWARD -s 10.9.0.0/16", false),
    ] {
        let rules = loaded(&format!("*mangle\n:FORWARD DROP [0:0]\n{rules}\nCOMMIT\n"), Family::V4);
        let (mut counters, names) = (rules.zero_counters(), [Some("lan0"), Some("wan0")]);
        let chain = rules.entrance(at.0, at.1).unwrap();
        let passed = chain.pass_by(&packet, names, &mut counters, None);
        assert_eq!(passed, closed.then_some(Policy::Drop), "{}", saved(&rules));
        assert_eq!(counters != rules.zero_counters(), closed);
    }
}

/// A thousand and more groups: networks of all lengths on both sides, ranges of ports. However many
/// rules there are, a packet is compared with few.
#[test]
fn few_rules_are_asked_of_many() {
    let mut state = 7_u64;
    let mut random = move |below: u64| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 33) % below
    };
    let mut text = String::from("*mangle\n");
    let mut packets = Vec::new();
    for n in 0..4000 {
        let [source, destination] = [0, 1].map(|_| {
            [10 + random(80) as u8, random(256) as u8, random(256) as u8, random(256) as u8]
        });
        let [source_len, destination_len] = [0, 1].map(|_| 12 + random(21));
        let (low, len) = (random(60_000), random(3000));
        let [a, b, c, d] = source;
        let [e, f, g, h] = destination;
        text.push_str(&format!(
            "-A PREROUTING -s {a}.{b}.{c}.{d}/{source_len} -d {e}.{f}.{g}.{h}/{destination_len} \
             -p udp --dport {low}:{}\n",
            low + len
        ));
        if n % 16 == 0 {
            let ip = Ip::new(Addr::from_v4_bytes(source), Addr::from_v4_bytes(destination), 17);
            packets.push((builder::udp(ip, 1, (low + len / 2) as u16, b""), "eth0"));
        }
    }
    let rules = loaded(&(text + "COMMIT\n"), Family::V4);
    assert!(outcome(&rules, &packets, false) == outcome(&rules, &packets, true));
    let mut most = 0;
    for (bytes, _) in &packets {
        let packet = Parsed::parse(bytes).unwrap();
        let at = (TableName::Mangle, Hook::Prerouting);
        let asked =
            |plainly| rules.rules_asked(at, &query(&packet, bytes), &Memory::new(), plainly);
        assert_eq!(asked(true), 4000);
        most = most.max(asked(false));
    }
    assert!(most <= 40, "{most}");
}
