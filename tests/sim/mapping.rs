//! What kind of NAT it is: the behaviour tests of RFC 5780, and what those behaviours are good for.

use crate::nat_world::{ALICE, CAROL, DOOR, Nat, port};
use std::collections::BTreeSet;
use tidegate::engine::Drop;

/// A STUN server with two addresses and two ports.
const PRIMARY: &str = "198.51.100.1:3478";
const OTHER_PORT: &str = "198.51.100.1:3479";
const OTHER_ADDRESS: &str = "198.51.100.2:3478";
const OTHER_BOTH: &str = "198.51.100.2:3479";

const INDEPENDENT: &str = "endpoint-independent";
const ADDRESS: &str = "address-dependent";
const BOTH: &str = "address-and-port-dependent";

/// RFC 5780 section 4.3: where two servers see the same, the mapping doesn't depend on them.
fn mapping_of(nat: &mut Nat) -> &'static str {
    let [one, two, three] = [PRIMARY, OTHER_ADDRESS, OTHER_BOTH]
        .map(|server| nat.out(ALICE, server).expect("a way out"));
    match (one == two, two == three) {
        (true, _) => INDEPENDENT,
        (_, true) => ADDRESS,
        _ => BOTH,
    }
}

/// RFC 5780 section 4.4: the server answers from elsewhere.
fn filtering_of(nat: &mut Nat, inside: &str) -> &'static str {
    let seen = nat.out(inside, PRIMARY).expect("a way out");
    // From the one end that was addressed there is always a way back.
    if nat.comes_in(OTHER_BOTH, &seen, inside) {
        INDEPENDENT
    } else if nat.comes_in(OTHER_PORT, &seen, inside) {
        ADDRESS
    } else {
        BOTH
    }
}

/// (What the rule says, whether another host inside has the port already, mapping, filtering.)
const BEHAVIOURS: &[(&str, bool, &str, &str)] = &[
    // netfilter's: a port that is free is kept, so it looks the same everywhere …
    ("", false, INDEPENDENT, BOTH),
    // … but where it is taken it isn't kept.
    ("", true, ADDRESS, BOTH),
    ("--random-fully", false, BOTH, BOTH),
    ("--mapping endpoint-independent", false, INDEPENDENT, BOTH),
    ("--mapping endpoint-independent", true, INDEPENDENT, BOTH),
    ("--mapping endpoint-independent --filtering address-dependent", true, INDEPENDENT, ADDRESS),
    (
        "--mapping endpoint-independent --filtering address-and-port-dependent",
        true,
        INDEPENDENT,
        BOTH,
    ),
    (
        "--mapping endpoint-independent --filtering endpoint-independent",
        true,
        INDEPENDENT,
        INDEPENDENT,
    ),
    (
        "--random-fully --mapping endpoint-independent --filtering endpoint-independent",
        true,
        INDEPENDENT,
        INDEPENDENT,
    ),
];

#[test]
fn behaviour_as_stun_sees_it() {
    for &(options, taken, mapping, filtering) in BEHAVIOURS {
        for target in ["-j MASQUERADE", "-j SNAT --to-source 203.0.113.1"] {
            for tcp in [false, true] {
                let rule = format!("{target} {options}");
                let mut nat = Nat::new(113, &rule, DOOR);
                if tcp {
                    nat = nat.tcp();
                }
                if taken {
                    let carol = nat.out(CAROL, OTHER_ADDRESS).expect("a way out");
                    let kept = !options.contains("random-fully");
                    assert_eq!(carol == "203.0.113.1:4000", kept, "{carol}");
                }
                let what = format!("{rule}, TCP {tcp}, port taken {taken}");
                assert_eq!(mapping_of(&mut nat), mapping, "mapping of {what}");
                // Another of the host's ports, which has sent to one server only.
                let fresh = "192.168.0.2:4321";
                assert_eq!(filtering_of(&mut nat, fresh), filtering, "filtering of {what}");
            }
        }
    }
}

/// The mapping doesn't overrule the filter table: a stranger's packet is NEW in FORWARD.
#[test]
fn rules_have_the_last_word() {
    let rule = "-j MASQUERADE --mapping endpoint-independent --filtering endpoint-independent";
    let doors = [
        ("", false),
        (DOOR, true),
        ("-A FORWARD -d 192.168.0.2/32 -p udp -m udp --dport 4000 -j ACCEPT\n", true),
        ("-A FORWARD -m conntrack --ctstate NEW --ctorigdstport 4000 -j ACCEPT\n", true),
        ("-A FORWARD -d 192.168.0.5/32 -j ACCEPT\n", false),
    ];
    for (door, open) in doors {
        let mut nat = Nat::new(113, rule, door);
        let seen = nat.out(ALICE, PRIMARY).expect("a way out");
        assert_eq!(nat.comes_in(OTHER_BOTH, &seen, ALICE), open, "{door}");
        assert_eq!(nat.dropped(Drop::RuleDrop), u64::from(!open), "{door}");
    }
}

/// Nobody comes in by a port that nobody inside has opened.
#[test]
fn only_mapped_ports_lead_inside() {
    let rule = "-j MASQUERADE --mapping endpoint-independent --filtering endpoint-independent";
    let mut nat = Nat::new(113, rule, DOOR);
    assert!(!nat.comes_in(PRIMARY, "203.0.113.1:4000", ALICE));
    nat.out(ALICE, PRIMARY).expect("a way out");
    assert!(!nat.comes_in(PRIMARY, "203.0.113.1:4001", ALICE));
    // UDP's 4000 is not TCP's.
    let mut nat = nat.tcp();
    assert!(!nat.comes_in(PRIMARY, "203.0.113.1:4000", ALICE));
}

/// Two hosts behind two gateways that send to what a server told each about the other (RFC 5128).
#[test]
fn hole_punching() {
    for (options, works) in [
        ("--random-fully", false),
        ("--random-fully --mapping endpoint-independent", true),
        ("--mapping endpoint-independent --filtering address-dependent", true),
    ] {
        let rule = format!("-j MASQUERADE {options}");
        let (mut one, mut two) = (Nat::new(113, &rule, ""), Nat::new(114, &rule, ""));
        let bob = "192.168.0.2:5000";
        let alice_seen = one.out(ALICE, PRIMARY).expect("a way out");
        let bob_seen = two.out(bob, PRIMARY).expect("a way out");
        // Alice's first packet finds the other gateway shut; it opens her own.
        let mut came = false;
        for _ in 0..2 {
            let sent = one.out(ALICE, &bob_seen).expect("a way out");
            let heard = two.comes_in(&sent, &bob_seen, bob);
            let answer = two.out(bob, &alice_seen).expect("a way out");
            came = heard && one.comes_in(&answer, &alice_seen, ALICE);
        }
        assert_eq!(came, works, "{options}");
    }
}

/// RFC 4787 REQ-5 and REQ-6.
#[test]
fn a_mapping_lasts_two_minutes_and_traffic_prolongs_it() {
    let rule = "-j MASQUERADE --random-fully --mapping endpoint-independent \
                --filtering endpoint-independent";
    let mut nat = Nat::new(113, rule, DOOR);
    let seen = nat.out(ALICE, PRIMARY).expect("a way out");
    for n in 0..10 {
        nat.wait(119);
        // Other servers, so that no connection is left of those before.
        let server = format!("198.51.100.{}:3478", 10 + n);
        assert_eq!(nat.out(ALICE, &server).as_ref(), Some(&seen));
    }
    nat.wait(119);
    assert_eq!((nat.connections(), nat.mappings()), (0, 1));
    assert!(nat.comes_in(OTHER_BOTH, &seen, ALICE), "it is there without a connection");
    nat.wait(200);
    assert_eq!((nat.connections(), nat.mappings()), (0, 0));
    assert!(!nat.comes_in(OTHER_BOTH, &seen, ALICE));
    assert_ne!(nat.out(ALICE, PRIMARY), Some(seen));
}

/// Who comes in by a mapping keeps it: outbound packets of that connection refresh it (REQ-6).
#[test]
fn connections_from_outside_hold_the_mapping() {
    let rule = "-j MASQUERADE --mapping endpoint-independent --filtering endpoint-independent";
    let mut nat = Nat::new(113, rule, DOOR);
    let seen = nat.out(ALICE, PRIMARY).expect("a way out");
    assert!(nat.comes_in(OTHER_BOTH, &seen, ALICE));
    for _ in 0..20 {
        assert_eq!(nat.out(ALICE, OTHER_BOTH).as_ref(), Some(&seen), "answers have its port");
        nat.wait(25);
    }
    assert!(nat.comes_in(OTHER_PORT, &seen, ALICE));
}

/// RFC 4787 REQ-9: hosts behind one gateway find each other by their outside ends, and see them.
#[test]
fn hairpinning() {
    for filtering in [INDEPENDENT, ADDRESS, BOTH] {
        let rule = format!(
            "-j MASQUERADE --random-fully --mapping endpoint-independent --filtering {filtering}"
        );
        for other in ["192.168.0.5:4000", "10.3.0.9:4000"] {
            let mut nat = Nat::new(113, &rule, DOOR);
            let alice = nat.out(ALICE, PRIMARY).expect("a way out");
            let seen = nat.out(other, PRIMARY).expect("a way out");
            let (here, there) = match other.starts_with("10.") {
                true => ("eth0", "eth1"),
                false => ("eth0", "eth0"),
            };
            let there_in = format!("{there} {alice} > {other}");
            assert_eq!(nat.send(here, ALICE, &seen), Some(there_in));
            let back = format!("{here} {seen} > {ALICE}");
            assert_eq!(nat.send(there, other, &alice), Some(back));
        }
    }
    // A host that has never sent outside is a stranger, and gets its mapping when it is let in.
    let rule = "-j MASQUERADE --mapping endpoint-independent --filtering address-dependent";
    let mut nat = Nat::new(113, rule, DOOR);
    let seen = nat.out(CAROL, PRIMARY).expect("a way out");
    assert_eq!(nat.send("eth0", "192.168.0.2:7000", &seen), None);
    let rule = "-j MASQUERADE --mapping endpoint-independent --filtering endpoint-independent";
    let mut nat = Nat::new(113, rule, DOOR);
    let seen = nat.out(CAROL, PRIMARY).expect("a way out");
    let came = nat.send("eth0", "192.168.0.2:7000", &seen);
    assert_eq!(came.as_deref(), Some("eth0 203.0.113.1:7000 > 192.168.0.5:4000"));
    assert_eq!(nat.out("192.168.0.2:7000", PRIMARY).as_deref(), Some("203.0.113.1:7000"));
}

/// RFC 4787 REQ-2 to REQ-4: one address a host, no port twice, the parity kept.
#[test]
fn ports_of_mappings() {
    let rule =
        "-p udp -j SNAT --to-source 203.0.113.10-203.0.113.13 --mapping endpoint-independent";
    let mut nat = Nat::new(113, rule, DOOR);
    for host in [2, 5, 6] {
        let address = |seen: &str| seen.split(':').next().map(str::to_owned);
        let seen: BTreeSet<_> = (1..40)
            .filter_map(|n| {
                let server = format!("198.51.100.{n}:{}", 3000 + n);
                nat.out(&format!("192.168.0.{host}:{}", 4000 + n), &server)
            })
            .map(|seen| address(&seen))
            .collect();
        assert_eq!(seen.len(), 1, "{seen:?}");
    }
    let rule = "-j MASQUERADE --mapping endpoint-independent";
    let mut nat = Nat::new(113, rule, DOOR);
    let mut seen = BTreeSet::new();
    for host in ["192.168.0.2", "192.168.0.5", "192.168.0.6", "10.3.0.9"] {
        for own in [4000, 4001, 500, 700] {
            let end = nat.out(&format!("{host}:{own}"), PRIMARY).expect("a way out");
            assert_eq!(port(&end) & 1, own & 1, "{end} for {own}");
            assert_eq!(port(&end) < 1024, own < 1024, "{end} for {own}");
            assert!(seen.insert(end.clone()), "{end} twice");
        }
    }
}

/// A rule without the option doesn't give away what a mapping has, nor the gateway itself.
#[test]
fn a_mapped_port_is_nobody_elses() {
    let rule = "-s 192.168.0.2 -j MASQUERADE --mapping endpoint-independent\n\
                -A POSTROUTING -o ppp0 -j MASQUERADE";
    let mut nat = Nat::new(113, rule, DOOR);
    assert_eq!(nat.out(ALICE, PRIMARY).as_deref(), Some("203.0.113.1:4000"));
    // The server is another one, so netfilter would keep the port.
    let carol = nat.out(CAROL, OTHER_BOTH).expect("a way out");
    assert_ne!(carol, "203.0.113.1:4000");
    assert_eq!(nat.out(ALICE, OTHER_BOTH).as_deref(), Some("203.0.113.1:4000"));
}

/// Ports of a mapping run out as others do: counted, and nothing leaves untranslated.
#[test]
fn no_port_left() {
    for (options, ends) in [("", 10), ("--mapping endpoint-independent", 10)] {
        for protocol in ["udp", "tcp"] {
            let rule = format!("-p {protocol} -j SNAT --to-source 203.0.113.1:1000-1009 {options}");
            let mut nat = Nat::new(113, &rule, DOOR);
            if protocol == "tcp" {
                nat = nat.tcp();
            }
            let mut seen = BTreeSet::new();
            for n in 0..ends {
                let end = nat.out(&format!("192.168.0.2:{}", 5000 + n), PRIMARY);
                let end = end.unwrap_or_else(|| panic!("{n} of {ends}: {rule}"));
                assert!((1000..1010).contains(&port(&end)), "{end}");
                assert!(seen.insert(end));
            }
            assert_eq!(nat.dropped(Drop::NatExhausted), 0);
            for n in 1..=3 {
                assert_eq!(nat.send("eth0", "192.168.0.5:6000", PRIMARY), None, "{rule}");
                assert_eq!(nat.dropped(Drop::NatExhausted), n);
            }
            assert_eq!(nat.connections(), ends);
            // Towards another server netfilter's have the same ports again; mappings haven't.
            let other = nat.send("eth0", "192.168.0.5:6000", OTHER_BOTH);
            assert_eq!(other.is_some(), options.is_empty(), "{rule}");
            nat.wait(400);
            assert!(nat.out(CAROL, PRIMARY).is_some(), "they come back: {rule}");
        }
    }
}

/// RFC 6888 REQ-4 and REQ-14: a host's ports come out of its blocks, and the log has a line for a
/// block only.
#[test]
fn blocks_of_ports() {
    let rule = "-p udp -j SNAT --to-source 203.0.113.1:2000-2127 \
                --mapping endpoint-independent --port-block-size 32 --port-blocks 2";
    let mut nat = Nat::new(113, rule, DOOR);
    let flow = |nat: &mut Nat, host: &str, n: u16| {
        nat.out(&format!("{host}:{}", 5000 + n), PRIMARY).map(|end| port(&end))
    };
    let ports: BTreeSet<u16> =
        (0..64).map(|n| flow(&mut nat, "192.168.0.2", n).expect("a port")).collect();
    assert_eq!(ports.len(), 64);
    let given = nat.log();
    let blocks: BTreeSet<u16> = ports.iter().map(|port| (port - 2000) / 32).collect();
    let line = |what: &str, host: &str, block: u16| {
        let (first, last) = (2000 + block * 32, 2031 + block * 32);
        format!("NAT ports {what}: inside={host} outside=203.0.113.1 ports={first}-{last}")
    };
    let lines = |what: &str, host: &str, blocks: &BTreeSet<u16>| -> BTreeSet<String> {
        blocks.iter().map(|&block| line(what, host, block)).collect()
    };
    assert_eq!(given.len(), 2);
    assert_eq!(given.into_iter().collect::<BTreeSet<_>>(), lines("given", "192.168.0.2", &blocks));
    // It has what it may have; others have theirs.
    assert_eq!(flow(&mut nat, "192.168.0.2", 64), None);
    assert_eq!(nat.dropped(Drop::NatExhausted), 1);
    for n in 0..64 {
        let port = flow(&mut nat, "192.168.0.5", n).expect("a port");
        assert!(!blocks.contains(&((port - 2000) / 32)), "{port}");
    }
    assert_eq!(nat.log().len(), 2);
    // Nothing is left for a third, until they have been silent for long enough.
    assert_eq!(flow(&mut nat, "192.168.0.6", 0), None);
    assert!(nat.log().is_empty());
    nat.wait(200);
    nat.wait(200);
    let back = nat.log();
    assert_eq!(back.len(), 4, "{back:?}");
    for line in lines("back", "192.168.0.2", &blocks) {
        assert!(back.contains(&line), "{line}");
    }
    assert!(flow(&mut nat, "192.168.0.6", 0).is_some());
    assert_eq!(nat.log().len(), 1);
}
