//! Long chains: a packet finds its rules by look-up, and has to find just those that it would meet
//! by asking one after the other.

mod common;

use common::{Seen, query};
use proptest::prelude::*;
use tidegate_filter::*;
use tidegate_packet::builder::{self, Ip, Tcp};
use tidegate_packet::{Addr, Family, Parsed, tcp};

/// Hands a rule's parts out, each from a small world in which much collides.
fn rule() -> impl Strategy<Value = String> {
    let address = prop_oneof![
        Just(String::new()),
        (0u8..4, 0u8..4, prop_oneof![Just(8u8), Just(16), Just(24), Just(32), 9u8..32])
            .prop_map(|(b, d, len)| format!("10.{b}.0.{d}/{len}")),
        (0u8..4).prop_map(|d| format!("10.0.0.{d}/255.0.0.255")),
    ];
    let side = |option: &'static str| {
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
        1 => Just(" ! -i eth0"),
        1 => Just(" -i a-name-of-more-"),
    ];
    let protocol = prop_oneof![
        Just(""),
        Just(" -p icmp"),
        Just(" ! -p tcp"),
        Just(" -p tcp --dport 80"),
        Just(" -p tcp ! --dport 80"),
        Just(" -p tcp --dport 80:90 --sport 1024:65535"),
        Just(" -p tcp -m limit --limit 2/hour --limit-burst 3 -m tcp --dport 443"),
        Just(" -p tcp -m comment --comment x -m multiport --dports 22,80,8000:8100"),
        Just(" -p tcp -m multiport --ports 443,1"),
        Just(" -p udp -m multiport ! --sports 53"),
        Just(" -p udp --sport 53"),
        Just(" -p udp -m mark --mark 1 -m udp --dport 53"),
        Just(" -p udp -m statistic --mode nth --every 3 -m udp --dport 443"),
        Just(" -p tcp --tcp-option 5 --dport 80"),
    ];
    let target = prop_oneof![
        6 => Just(""),
        2 => Just(" -j ACCEPT"),
        2 => Just(" -j DROP"),
        2 => Just(" -j one"),
        1 => Just(" -g two"),
        1 => Just(" -j RETURN"),
        1 => Just(" -j LOG"),
        1 => Just(" -j MARK --set-mark 1"),
        1 => Just(" -j TTL --ttl-set 9"),
    ];
    (side("-s"), side("-d"), interface, protocol, target)
        .prop_map(|(s, d, i, p, t)| format!("{s}{d}{i}{p}{t}"))
}

fn ruleset() -> impl Strategy<Value = String> {
    let rules = |n| prop::collection::vec(rule(), n);
    (rules(0..60usize), rules(0..40usize), rules(0..40usize)).prop_map(|(main, one, two)| {
        let mut text =
            String::from("*mangle\n:PREROUTING DROP [0:0]\n:one - [0:0]\n:two - [0:0]\n");
        // A chain jumps only further down, so there are no loops.
        for (chain, rules) in [("PREROUTING", main), ("one", one), ("two", two)] {
            for rule in rules {
                let rule = match chain {
                    "one" => rule.replace("-j one", "-j two"),
                    "two" => rule.replace("-j one", "").replace("-g two", ""),
                    _ => rule,
                };
                text.push_str(&format!("-A {chain}{rule}\n"));
            }
        }
        text + "COMMIT\n"
    })
}

fn packet() -> impl Strategy<Value = Vec<u8>> {
    let addr = || (0u8..4, 0u8..4).prop_map(|(b, d)| Addr::from_v4_bytes([10, b, 0, d]));
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

/// Where a packet's walk leads, what it does on the way and what it counts.
fn outcome(rules: &Ruleset, packets: &[Vec<u8>], plainly: bool) -> Vec<String> {
    let (mut counters, memory) = (rules.zero_counters(), Memory::new());
    let mut told = Vec::new();
    for bytes in packets {
        let (mut bytes, mut packet) = (bytes.clone(), Parsed::parse(bytes).unwrap());
        let mut seen = Seen::default();
        let hook = Hook::Prerouting;
        let mut walk = match plainly {
            true => rules.walk_plainly(TableName::Mangle, hook),
            false => rules.walk(TableName::Mangle, hook),
        };
        let verdict = loop {
            let query = Query { trace: true, input: Some("eth0"), ..query(&packet, &bytes) };
            match walk.resume(&query, &mut counters, &memory, &mut seen) {
                Step::Done(verdict) => break verdict,
                Step::Edit(Edit::Header(edit)) => {
                    edit.make(&mut packet, &mut bytes, tidegate_packet::checksum::Field::Complete);
                }
                Step::Edit(edit) => seen.0.push(format!("{edit:?}")),
            }
        };
        told.push(format!("{verdict:?} {:?}", seen.0));
    }
    let style = SaveStyle { stamp: "", rule_counters: true };
    told.push(rules.save(Some(&counters), style));
    told
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn what_is_saved_loads_as_itself(text in ruleset()) {
        let save = |text: &str| {
            let loaded = load(Source { name: "rules", text }, Family::V4).unwrap();
            loaded.ruleset.save(None, SaveStyle { stamp: "", rule_counters: true })
        };
        let saved = save(&text);
        prop_assert_eq!(save(&saved), saved);
    }

    #[test]
    fn the_same_rules_are_met(text in ruleset(), packets in prop::collection::vec(packet(), 1..12)) {
        // `limit` and `nth` remember, so each way has rules of its own.
        let load = || load(Source { name: "rules", text: &text }, Family::V4).unwrap().ruleset;
        prop_assert_eq!(outcome(&load(), &packets, false), outcome(&load(), &packets, true));
    }
}
