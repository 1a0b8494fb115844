//! Packet → verdict, a row per case.

mod common;

use common::*;
use tidegate_filter::*;
use tidegate_packet::{Parsed, builder, tcp as flags};

const A: &str = "10.0.0.2";
const B: &str = "192.0.2.9";

/// A rule matches a packet exactly if FORWARD's DROP rule behind it takes the packet.
fn takes(rule: &str, bytes: &[u8]) -> bool {
    let text = filter(&format!("-A FORWARD {rule} -j DROP"));
    match walk(&rules(&text), Hook::Forward, bytes).0 {
        Verdict::Drop => true,
        Verdict::Accept => false,
        other => panic!("{other:?}"),
    }
}

#[test]
fn base_matches_and_ports() {
    let syn = tcp(A, B, 4000, 22, flags::SYN);
    let dns = udp(A, B, 53, 1024);
    for (rule, packet, want) in [
        ("", &syn, true),
        ("-s 10.0.0.0/8", &syn, true),
        ("! -s 10.0.0.0/8", &syn, false),
        ("-s 10.0.0.2", &syn, true),
        ("-s 10.0.0.3,10.0.0.2", &syn, true),
        ("-s 10.9.0.2/255.0.255.255", &syn, true),
        ("-d 192.0.2.0/24", &syn, true),
        ("-d 192.0.3.0/24", &syn, false),
        ("-i lan0", &syn, true),
        ("-i lan", &syn, false),
        ("-i lan+", &syn, true),
        ("! -i lan+", &syn, false),
        ("-i +", &syn, true),
        ("! -i +", &syn, false),
        ("-o wan0", &syn, true),
        ("-i lan0 ! -o wan0", &syn, false),
        ("-p tcp", &syn, true),
        ("-p tcp", &dns, false),
        ("! -p tcp", &dns, true),
        ("-f", &syn, false),
        ("! -f", &syn, true),
        ("-p tcp --dport 22", &syn, true),
        ("-p tcp --dport ssh", &syn, true),
        ("-p tcp --dport 23", &syn, false),
        ("-p tcp ! --dport 23", &syn, true),
        ("-p tcp --dport ! 22", &syn, false),
        ("-p tcp --sport 4000:5000 --dport :22", &syn, true),
        ("-p tcp --syn", &syn, true),
        ("-p tcp ! --syn", &syn, false),
        ("-p tcp --tcp-flags SYN,ACK SYN,ACK", &syn, false),
        ("-p tcp --tcp-flags ALL SYN", &syn, true),
        ("-p tcp --tcp-option 2", &syn, false),
        ("-p tcp ! --tcp-option 2", &syn, true),
        ("-p udp --sport domain", &dns, true),
        ("-p udp --dport 53", &dns, false),
        ("-p tcp -m multiport --dports 80,20:25", &syn, true),
        ("-p tcp -m multiport --sports 80,20:25", &syn, false),
        ("-p tcp -m multiport --ports 4000", &syn, true),
        ("-p tcp -m multiport ! --ports 22", &syn, false),
        ("-m length --length 40", &syn, true),
        ("-m length ! --length 40:60", &syn, false),
        ("-m ttl --ttl-eq 64", &syn, true),
        ("-m ttl --ttl-lt 64", &syn, false),
        ("-m ttl --ttl-gt 63", &syn, true),
        ("-m tos --tos 0", &syn, true),
        ("-m dscp ! --dscp 0", &syn, false),
        ("-m iprange --src-range 10.0.0.1-10.0.0.3", &syn, true),
        ("-m iprange ! --dst-range 192.0.2.9", &syn, false),
        ("-m addrtype --src-type UNICAST --dst-type UNICAST", &syn, true),
        ("-m addrtype --dst-type LOCAL", &syn, false),
        ("-m mark --mark 0", &syn, true),
        ("-m mark --mark 1/1", &syn, false),
        ("-m pkttype --pkt-type unicast", &syn, true),
        ("-m mac ! --mac-source 00:00:00:00:00:01", &syn, false),
        ("-m physdev --physdev-in tap0", &syn, false),
        ("-m physdev ! --physdev-in tap0", &syn, true),
        ("-m string --algo bm --hex-string |0016|", &syn, true),
        ("-m string --algo kmp --hex-string |0016| --to 22", &syn, false),
        ("-m string --algo kmp --hex-string |0016| --from 23", &syn, false),
        ("-m string --algo kmp --hex-string |0016| --from 22 --to 24", &syn, true),
        ("-m string --algo bm --string X", &dns, false),
        ("-m string --algo bm --string X --icase", &dns, true),
        ("-m string --algo bm ! --string x", &dns, false),
        ("-p tcp -m tcpmss --mss 536:65535", &syn, false),
        ("-p tcp -m tcpmss ! --mss 536:65535", &syn, true),
        ("-m comment --comment \"takes all\"", &syn, true),
    ] {
        assert_eq!(takes(rule, packet), want, "{rule}");
    }
}

#[test]
fn icmp_types_and_codes() {
    let ping = icmp(A, B, 8, 0);
    let needed = icmp(A, B, 3, 4);
    for (rule, packet, want) in [
        ("-p icmp --icmp-type 8", &ping, true),
        ("-p icmp --icmp-type ping", &needed, false),
        ("-p icmp --icmp-type any", &needed, true),
        ("-p icmp ! --icmp-type any", &needed, false),
        ("-p icmp --icmp-type fragmentation-needed", &needed, true),
        ("-p icmp --icmp-type 3", &needed, true),
        ("-p icmp --icmp-type 3/3", &needed, false),
    ] {
        assert_eq!(takes(rule, packet), want, "{rule}");
    }
    let echo = icmp("fd00::2", "2001:db8::9", 128, 0);
    for (rule, want) in [("128", true), ("echo-reply", false), ("128/1", false)] {
        let text = filter(&format!("-A FORWARD -p ipv6-icmp --icmpv6-type {rule} -j DROP"));
        let verdict = walk(&rules(&text), Hook::Forward, &echo).0;
        assert_eq!(verdict == Verdict::Drop, want, "{rule}");
    }
}

/// xt_tcp: later fragments don't match, one at offset 8 is dropped whatever the rule says, and so
/// is a header that is cut short.
#[test]
fn headers_that_are_not_there() {
    let text = filter("-A FORWARD -p tcp --dport 1 -j ACCEPT\n-A FORWARD -j REJECT");
    let rules = rules(&text);
    let verdict = |bytes: &[u8]| walk(&rules, Hook::Forward, bytes).0;
    let rejected = Verdict::Reject(RejectWith::Icmp(3));
    assert_eq!(verdict(&fragment(A, B, 1)), Verdict::Drop);
    assert_eq!(verdict(&fragment(A, B, 2)), rejected);
    assert_eq!(verdict(&other(A, B, 6, &[0; 19])), Verdict::Drop);
    assert_eq!(verdict(&other(A, B, 17, &[0; 3])), rejected);
    // A damaged data offset doesn't hide the ports.
    let mut damaged = [0; 20];
    damaged[3] = 1;
    assert_eq!(verdict(&other(A, B, 6, &damaged)), Verdict::Accept);
}

#[test]
fn every_rejection() {
    let packet = tcp(A, B, 1, 2, flags::SYN);
    for (with, want) in [
        ("", RejectWith::Icmp(3)),
        (" --reject-with icmp-net-unreachable", RejectWith::Icmp(0)),
        (" --reject-with icmp-host-unreachable", RejectWith::Icmp(1)),
        (" --reject-with icmp-proto-unreachable", RejectWith::Icmp(2)),
        (" --reject-with port-unreach", RejectWith::Icmp(3)),
        (" --reject-with icmp-net-prohibited", RejectWith::Icmp(9)),
        (" --reject-with host-prohib", RejectWith::Icmp(10)),
        (" --reject-with icmp-admin-prohibited", RejectWith::Icmp(13)),
        (" --reject-with tcp-reset", RejectWith::TcpReset),
    ] {
        let text = filter(&format!("-A FORWARD -p tcp -j REJECT{with}"));
        assert_eq!(walk(&rules(&text), Hook::Forward, &packet).0, Verdict::Reject(want), "{with}");
    }
    let packet = udp("fd00::2", "fd00::9", 1, 2);
    for (with, code) in [
        ("no-route", 0),
        ("icmp6-adm-prohibited", 1),
        ("addr-unreach", 3),
        ("icmp6-port-unreachable", 4),
        ("policy-fail", 5),
        ("icmp6-reject-route", 6),
    ] {
        let text = filter(&format!("-A FORWARD -s ::/0 -j REJECT --reject-with {with}"));
        let want = Verdict::Reject(RejectWith::Icmpv6(code));
        assert_eq!(walk(&rules(&text), Hook::Forward, &packet).0, want, "{with}");
    }
}

/// Jumps return, gotos return to the last jump, RETURN in a built-in chain is its policy.
#[test]
fn walks_and_what_they_count() {
    let packet = udp(A, B, 1, 2);
    let len = packet.len();
    for (lines, verdict, counts) in [
        ("-A FORWARD -j T\n-A FORWARD -j DROP\n-A T -j RETURN", Verdict::Drop, "1 1 1 0"),
        ("-A FORWARD -g T\n-A FORWARD -j DROP\n-A T -j RETURN", Verdict::Accept, "1 0 1 1"),
        ("-A FORWARD -j RETURN\n-A FORWARD -j DROP\n-A T", Verdict::Accept, "1 0 0 1"),
        (
            ":U -\n-A FORWARD -j T\n-A FORWARD -j DROP\n-A T -g U\n-A T -j ACCEPT\n-A U",
            Verdict::Drop,
            "1 1 1 0 1 0",
        ),
        ("-P FORWARD DROP\n-A FORWARD -p tcp -j ACCEPT\n-A T", Verdict::Drop, "0 0 1"),
        ("-A FORWARD\n-A FORWARD -j LOG\n-A FORWARD -j DROP", Verdict::Drop, "1 1 1 0"),
    ] {
        let rules = rules(&filter(lines));
        let (got, counters, _) = walk(&rules, Hook::Forward, &packet);
        assert_eq!(got, verdict, "{lines}");
        let saved = rules.save(Some(&counters), style());
        let mut seen: Vec<String> = Vec::new();
        let of = |line: &str| {
            let at = line.find('[').unwrap();
            let (packets, bytes) =
                line[at + 1..].split_once(']').unwrap().0.split_once(':').unwrap();
            let (packets, bytes): (usize, usize) =
                (packets.parse().unwrap(), bytes.parse().unwrap());
            assert_eq!(bytes, packets * len);
            packets.to_string()
        };
        seen.extend(saved.lines().filter(|l| l.starts_with('[')).map(of));
        seen.extend(saved.lines().filter(|l| l.starts_with(":FORWARD")).map(of));
        assert_eq!(seen.join(" "), counts, "{lines}\n{saved}");
    }
}

/// Chains may nest deeper than the walk has room for at hand.
#[test]
fn deep_nesting_returns_all_the_way() {
    let depth = 40;
    let mut text = String::from("*filter\n");
    for n in 0..depth {
        text += &format!(":C{n} -\n");
    }
    for n in 1..depth {
        text += &format!("-A C{} -j C{n}\n-A C{} -j MARK --set-xmark 1/0\n", n - 1, n - 1);
    }
    text += "-A FORWARD -j C0\n-A FORWARD -m mark --mark 1 -j DROP\nCOMMIT\n";
    let (verdict, _, seen) = walk(&rules(&text), Hook::Forward, &udp(A, B, 1, 2));
    // Every chain but the last flips the mark's bit on the way back: an odd number of flips.
    assert_eq!((verdict, seen.len()), (Verdict::Drop, depth - 1));
}

/// The size of a Kubernetes node's rules: loading must not take time quadratic in chains.
#[test]
fn thousands_of_chains_load() {
    let n = 5000;
    let mut text = String::from("*filter\n");
    for chain in 0..n {
        text += &format!(":SVC-{chain} -\n");
    }
    for chain in 0..n {
        text += &format!("-A FORWARD -p tcp --dport {} -j SVC-{chain}\n", chain + 1);
        text +=
            &format!("-A SVC-{chain} -s 10.0.0.0/8 -m comment --comment \"n {chain}\" -j DROP\n");
    }
    text += "COMMIT\n";
    let rules = rules(&text);
    assert_eq!(walk(&rules, Hook::Forward, &tcp(A, B, 1, n, 0)).0, Verdict::Drop);
    assert_eq!(walk(&rules, Hook::Forward, &tcp(A, B, 1, n + 1, 0)).0, Verdict::Accept);
    assert_eq!(rules.save(None, style()).lines().count(), 3 * usize::from(n) + 7);
}

#[test]
fn effects_are_told_and_later_rules_see_the_mark() {
    let packet = tcp(A, B, 1, 2, flags::SYN);
    let text = filter(
        "-A FORWARD -j MARK --set-mark 5\n-A FORWARD -j MARK --or-mark 0x10\n\
         -A FORWARD -m mark --mark 0x15 -j LOG --log-prefix \"it is \" --log-level info\n\
         -A FORWARD -p tcp --syn -j TCPMSS --set-mss 1400\n-A FORWARD -m mark --mark 0x15 -j DROP",
    );
    let (verdict, _, seen) = walk(&rules(&text), Hook::Forward, &packet);
    assert_eq!(verdict, Verdict::Drop);
    assert_eq!(seen, ["mark 0x5", "mark 0x15", "log 6 it is ", "Mss(Set(1400))"]);
}

#[test]
fn states_and_connections() {
    let bytes = tcp(A, B, 4000, 80, flags::ACK);
    let packet = Parsed::parse(&bytes).unwrap();
    let reply = Flow {
        src: "10.9.9.9".parse().unwrap(),
        dst: packet.src,
        sport: 8080,
        dport: 4000,
        protocol: 6,
    };
    let connection =
        Connection { reply, assured: false, dnat: true, expires: 100, ..connection(&packet) };
    let known = &connection;
    let takes = |rule: &str, state, connection| {
        let rules = rules(&filter(&format!("-A FORWARD {rule} -j DROP")));
        let query = Query { state, connection, ..query(&packet, &bytes) };
        let mut counters = rules.zero_counters();
        let memory = Memory::new();
        let (table, hook) = (TableName::Filter, Hook::Forward);
        evaluate(&rules, table, hook, &query, &mut counters, &memory, &mut NoEffects)
            == Verdict::Drop
    };
    for (rule, want) in [
        ("--ctstate ESTABLISHED", true),
        ("--ctstate NEW", false),
        ("! --ctstate NEW", true),
        ("--ctstate NEW,DNAT", true),
        ("--ctstate SNAT", false),
        ("! --ctstate DNAT", false),
        ("--ctproto tcp", true),
        ("! --ctproto tcp", false),
        ("--ctorigsrc 10.0.0.0/8 --ctorigdst 192.0.2.9", true),
        ("--ctreplsrc 10.9.9.9 --ctreplsrcport 8080", true),
        ("! --ctreplsrc 10.9.9.9", false),
        ("--ctorigdstport 80:81 --ctorigsrcport 4000", true),
        ("--ctrepldstport 4001", false),
        ("--ctstatus SEEN_REPLY", true),
        ("--ctstatus ASSURED,EXPECTED", false),
        ("! --ctstatus ASSURED", true),
        ("--ctstatus NONE", false),
        ("--ctexpire 50:100", true),
        ("! --ctexpire 100", false),
        ("--ctdir ORIGINAL", true),
        ("--ctdir REPLY", false),
    ] {
        let rule = format!("-m conntrack {rule}");
        assert_eq!(takes(&rule, CtState::Established, Some(&known)), want, "{rule}");
    }
    for (rule, state, want) in [
        ("-m conntrack --ctstate INVALID", CtState::Invalid, true),
        ("-m conntrack --ctstate INVALID --ctproto udp", CtState::Invalid, true),
        ("-m conntrack --ctproto tcp", CtState::Invalid, false),
        ("-m conntrack --ctstate UNTRACKED", CtState::Untracked, true),
        ("-m state --state UNTRACKED,NEW", CtState::Untracked, true),
        ("-m state ! --state INVALID", CtState::Invalid, false),
        ("-m state --state RELATED,ESTABLISHED", CtState::Related, true),
    ] {
        assert_eq!(takes(rule, state, None), want, "{rule}");
    }
}

#[test]
fn nat_targets_say_what_to_do() {
    let text = "*nat\n-A PREROUTING -i lan0 -p tcp --dport 8000 -j DNAT --to 192.168.0.6:80\n\
                -A PREROUTING -p udp -j REDIRECT --to-ports 53\n\
                -A POSTROUTING -s 10.0.0.0/8 -o wan0 -j MASQUERADE\n\
                -A POSTROUTING -s 192.168.0.0/16 -p tcp -j SNAT --to-source 1.2.3.4-1.2.3.5:1024-2047 --random\n\
                -A POSTROUTING -s 172.16.0.0/24 -j NETMAP --to 10.1.0.0/24\nCOMMIT\n";
    let rules = rules(text);
    let verdict = |hook, bytes: &[u8]| {
        let packet = Parsed::parse(bytes).unwrap();
        let mut counters = rules.zero_counters();
        let query = query(&packet, bytes);
        let memory = Memory::new();
        let answer =
            evaluate(&rules, TableName::Nat, hook, &query, &mut counters, &memory, &mut NoEffects);
        (answer, rules.covers_source(&query, &memory))
    };
    let addr = |a: &str| a.parse().unwrap();
    let to = NatRange {
        addrs: Some((addr("192.168.0.6"), addr("192.168.0.6"))),
        ports: Some((80, 80)),
        ..NatRange::default()
    };
    let web = tcp(A, B, 1, 8000, flags::SYN);
    let want = Verdict::Nat(NatAction::Destination(to));
    assert_eq!(verdict(Hook::Prerouting, &web), (want, true));
    let want = Verdict::Nat(NatAction::Masquerade(NatRange::default()));
    assert_eq!(verdict(Hook::Postrouting, &web), (want, true));
    let redirect = NatRange { ports: Some((53, 53)), ..NatRange::default() };
    let foreign = udp("8.8.8.8", B, 1, 2);
    let want = Verdict::Nat(NatAction::Redirect(redirect));
    assert_eq!(verdict(Hook::Prerouting, &foreign), (want, false));
    let range = NatRange {
        addrs: Some((addr("1.2.3.4"), addr("1.2.3.5"))),
        ports: Some((1024, 2047)),
        random: true,
        ..NatRange::default()
    };
    let home = tcp("192.168.9.9", B, 1, 2, 0);
    assert_eq!(verdict(Hook::Postrouting, &home).0, Verdict::Nat(NatAction::Source(range)));
    let netmap = NatAction::Netmap { network: addr("10.1.0.0"), len: 24 };
    let mapped = udp("172.16.0.7", B, 1, 2);
    assert_eq!(verdict(Hook::Postrouting, &mapped), (Verdict::Nat(netmap), true));
    assert!(rules.uses_conntrack());
}

#[test]
fn tracking_is_needed_only_by_rules_that_look_at_connections() {
    for (lines, want) in [
        ("-A FORWARD -p tcp --dport 22 -j ACCEPT", false),
        ("-A FORWARD -m recent --set", false),
        ("-A FORWARD -m conntrack --ctstate NEW", true),
        ("-A FORWARD -m state --state NEW", true),
    ] {
        assert_eq!(rules(&filter(lines)).uses_conntrack(), want, "{lines}");
    }
    assert!(!rules("*nat\nCOMMIT\n").uses_conntrack());
    assert!(rules("*nat\n-A POSTROUTING -j MASQUERADE\nCOMMIT\n").uses_conntrack());
    assert!(rules("*raw\n-A PREROUTING -j CT --zone 1\nCOMMIT\n").uses_conntrack());
    // xt_ct_tg_check asks for tracking only behind its look at --notrack.
    assert!(!rules("*raw\n-A PREROUTING -j NOTRACK\nCOMMIT\n").uses_conntrack());
    assert!(!Ruleset::empty(V4, &Sets::new()).uses_conntrack());
    assert!(rules("*raw\nCOMMIT\n").has_rules(TableName::Raw, Hook::Prerouting));
    assert!(!rules("*raw\nCOMMIT\n").has_rules(TableName::Raw, Hook::Forward));
    assert!(!Ruleset::empty(V4, &Sets::new()).has_rules(TableName::Filter, Hook::Input));
}

#[test]
fn reverse_path_and_notrack() {
    let bytes = udp(A, B, 1, 2);
    let packet = Parsed::parse(&bytes).unwrap();
    let run = |rule: &str, input| {
        let rules = rules(&format!("*raw\n-A PREROUTING {rule}\nCOMMIT\n"));
        let query = Query { input: Some(input), output: None, ..query(&packet, &bytes) };
        let mut counters = rules.zero_counters();
        let mut seen = Seen::default();
        let (table, hook) = (TableName::Raw, Hook::Prerouting);
        let memory = Memory::new();
        let (verdict, edited) =
            evaluate_edited(&rules, table, hook, &query, &mut counters, &memory, &mut seen);
        (verdict, edited.seen)
    };
    assert_eq!(run("-m rpfilter --invert -j DROP", "lan0").0, Verdict::Accept);
    assert_eq!(run("-m rpfilter --invert -j DROP", "wan0").0, Verdict::Drop);
    assert_eq!(run("-m rpfilter --loose --invert -j DROP", "wan0").0, Verdict::Accept);
    assert_eq!(run("-m rpfilter -j DROP", "lan0").0, Verdict::Drop);
    assert_eq!(run("-j CT --notrack", "lan0").1, ["Untrack"]);
    assert_eq!(run("-j NOTRACK", "lan0").1, ["Untrack"]);
    assert_eq!(run("-j CT", "lan0").1.len(), 1);
    assert!(run("-j CT --zone 7", "lan0").1[0].contains("Zone { id: 7, from_mark: false,"));
    assert_eq!(run("-j CT --notrack --zone 7", "lan0").1, ["Untrack"]);
}

#[test]
fn link_and_bridge_port() {
    let bytes = builder::udp(
        builder::Ip::new(A.parse().unwrap(), "224.0.0.5".parse().unwrap(), 17),
        1,
        2,
        b"",
    );
    let packet = Parsed::parse(&bytes).unwrap();
    let mac = |n| tidegate_packet::MacAddr([2, 0, 0, 0, 0, n]);
    let link = Link { dst: mac(1), src: mac(2), kind: LinkType::Multicast };
    for (rule, want) in [
        ("-m mac --mac-source 02:00:00:00:00:02", true),
        ("-m mac ! --mac-source 2:0:0:0:0:2", false),
        ("-m pkttype --pkt-type multicast", true),
        ("-m pkttype --pkt-type otherhost", false),
        ("-m physdev --physdev-in tap+", true),
        ("-m physdev --physdev-is-in", true),
        ("-m physdev --physdev-is-bridged", false),
        ("-m physdev ! --physdev-in tap3", false),
        ("-m physdev --physdev-out tap3", false),
    ] {
        let rules = rules(&filter(&format!("-A FORWARD {rule} -j DROP")));
        let query = Query { link: Some(link), port: Some("tap3"), ..query(&packet, &bytes) };
        let mut counters = rules.zero_counters();
        let (table, hook) = (TableName::Filter, Hook::Forward);
        let verdict =
            evaluate(&rules, table, hook, &query, &mut counters, &Memory::new(), &mut NoEffects);
        assert_eq!(verdict == Verdict::Drop, want, "{rule}");
    }
}
