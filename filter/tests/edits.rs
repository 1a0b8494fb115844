//! Targets that change the packet: what comes out, and that later rules see it.

mod common;

use common::*;
use tidegate_filter::*;
use tidegate_packet::builder::{self, Ip, Tcp};
use tidegate_packet::{Parsed, checksum, protocol, tcp as flags};

const A: &str = "10.0.0.2";
const B: &str = "192.0.2.9";
const A6: &str = "fd00:1:2:3::2";
const B6: &str = "2001:db8::9";

/// The packet after mangle FORWARD, with all its checksums looked at.
fn through(lines: &str, bytes: &[u8]) -> (Verdict, Vec<u8>, Parsed) {
    let rules = rules_for(&format!("*mangle\n{lines}\nCOMMIT\n"), bytes);
    let packet = Parsed::parse(bytes).unwrap();
    let mut counters = rules.zero_counters();
    let (table, hook) = (TableName::Mangle, Hook::Forward);
    let query = query(&packet, bytes);
    let (verdict, edited) =
        evaluate_edited(&rules, table, hook, &query, &mut counters, &Memory::new(), &mut NoEffects);
    let after = Parsed::parse(&edited.bytes).unwrap();
    let segment = after.segment(&edited.bytes);
    assert!(checksum::verify_transport(after.src, after.dst, after.protocol, segment), "{lines}");
    (verdict, edited.bytes, after)
}

fn rules_for(text: &str, bytes: &[u8]) -> Ruleset {
    let family = Parsed::parse(bytes).unwrap().family;
    load(Source { name: "test", text }, family).unwrap_or_else(|e| panic!("{e:?}")).ruleset
}

#[test]
fn the_type_of_service_changes() {
    let ip = |src: &str, dst: &str| Ip {
        tos: 0x2e,
        ..Ip::new(src.parse().unwrap(), dst.parse().unwrap(), protocol::UDP)
    };
    for (src, dst) in [(A, B), (A6, B6)] {
        let bytes = builder::udp(ip(src, dst), 1, 2, b"x");
        for (target, want) in [
            ("TOS --set-tos 0x55", 0x55),
            ("TOS --set-tos 0xf0/0xf0", 0xfe),
            ("TOS --set-tos Minimize-Delay", 0x10),
            ("TOS --and-tos 0x0f", 0x0e),
            ("TOS --or-tos 0x11", 0x3f),
            ("TOS --xor-tos 0x0f", 0x21),
            ("DSCP --set-dscp 1", 0x06),
            ("DSCP --set-dscp-class EF", 0xba),
        ] {
            let (_, _, after) = through(&format!("-A FORWARD -j {target}"), &bytes);
            assert_eq!(after.tos, want, "{src} {target}");
        }
        let seen = "-A FORWARD -j DSCP --set-dscp 9\n-A FORWARD -m dscp --dscp 9 -j DROP";
        assert_eq!(through(seen, &bytes).0, Verdict::Drop);
    }
}

#[test]
fn the_hop_limit_changes() {
    for (src, dst, name) in [(A, B, "ttl"), (A6, B6, "hl")] {
        let bytes = udp(src, dst, 1, 2);
        let target = name.to_uppercase();
        for (change, want) in [
            ("set 9", 9),
            ("set 0", 0),
            ("inc 200", 255),
            ("inc 1", 65),
            ("dec 1", 63),
            ("dec 65", 0),
        ] {
            let (_, _, after) =
                through(&format!("-A FORWARD -j {target} --{name}-{change}"), &bytes);
            assert_eq!(after.hop_limit, want, "{target} {change}");
        }
        let seen = format!(
            "-A FORWARD -j {target} --{name}-set 3\n-A FORWARD -m {name} --{name}-lt 4 -j DROP"
        );
        assert_eq!(through(&seen, &bytes).0, Verdict::Drop);
    }
}

#[test]
fn congestion_notification_is_taken_out() {
    let all = flags::SYN | flags::ECE | flags::CWR;
    let bytes = tcp(A, B, 1, 2, all);
    let remove = "-A FORWARD -p tcp -j ECN --ecn-tcp-remove";
    let (_, after, _) = through(remove, &bytes);
    assert_eq!(after[33], flags::SYN);
    let seen =
        format!("{remove}\n-A FORWARD -p tcp -m ecn ! --ecn-tcp-ece ! --ecn-tcp-cwr -j DROP");
    assert_eq!(through(&seen, &bytes).0, Verdict::Drop);
    let ip = Ip { tos: 3, ..Ip::new(A.parse().unwrap(), B.parse().unwrap(), protocol::TCP) };
    let bytes = builder::tcp(ip, Tcp { flags: flags::ACK | flags::ECE, ..Tcp::default() }, b"");
    for (rule, want) in [
        ("-p tcp -m ecn --ecn-tcp-ece", true),
        ("-p tcp -m ecn --ecn-tcp-cwr", false),
        ("-m ecn --ecn-ip-ect 3", true),
        ("-m ecn ! --ecn-ip-ect 3", false),
        ("-p tcp -m ecn --ecn-ip-ect 3 --ecn-tcp-ece ! --ecn-tcp-cwr", true),
    ] {
        let verdict = through(&format!("-A FORWARD {rule} -j DROP"), &bytes).0;
        assert_eq!(verdict == Verdict::Drop, want, "{rule}");
    }
}

#[test]
fn tcp_options_become_padding() {
    let options = [2, 4, 5, 180, 1, 3, 3, 7, 4, 2, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];
    for (src, dst) in [(A, B), (A6, B6)] {
        let ip = Ip::new(src.parse().unwrap(), dst.parse().unwrap(), protocol::TCP);
        let header = Tcp { flags: flags::SYN, options: &options, ..Tcp::default() };
        let bytes = builder::tcp(ip, header, b"data");
        for (kinds, want) in [
            ("mss", [1, 1, 1, 1, 1, 3, 3, 7, 4, 2, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]),
            ("wscale,4", [2, 4, 5, 180, 1, 1, 1, 1, 1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]),
            ("timestamp,5", [2, 4, 5, 180, 1, 3, 3, 7, 4, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        ] {
            let rule = format!("-A FORWARD -p tcp -j TCPOPTSTRIP --strip-options {kinds}");
            let (_, after, parsed) = through(&rule, &bytes);
            let at = usize::from(parsed.l4) + 20;
            assert_eq!(after[at..at + 20], want, "{kinds}");
            assert_eq!(after[at + 20..], *b"data");
        }
    }
}

/// RFC 6296 section 2.3's example, and back.
#[test]
fn prefixes_are_translated_without_state() {
    let bytes = udp("fd01:203:405:1::1234", B6, 1, 2);
    let packet = Parsed::parse(&bytes).unwrap();
    let text = "*mangle\n\
                -A POSTROUTING -j SNPT --src-pfx fd01:203:405::/48 --dst-pfx 2001:db8:1::/48\n\
                -A PREROUTING -j DNPT --src-pfx 2001:db8:1::/48 --dst-pfx fd01:203:405::/48\n\
                COMMIT\n";
    let rules = rules_for(text, &bytes);
    let run = |hook, packet: &Parsed, bytes: &[u8]| {
        let mut counters = rules.zero_counters();
        let query = query(packet, bytes);
        let (table, memory) = (TableName::Mangle, Memory::new());
        evaluate_edited(&rules, table, hook, &query, &mut counters, &memory, &mut NoEffects).1.bytes
    };
    let out = run(Hook::Postrouting, &packet, &bytes);
    let parsed = Parsed::parse(&out).unwrap();
    assert_eq!(parsed.src, "2001:db8:1:d550::1234".parse().unwrap());
    assert!(checksum::verify_transport(parsed.src, parsed.dst, 17, parsed.segment(&out)));
    let mut answer = udp(B6, "2001:db8:1:d550::1234", 2, 1);
    let parsed = Parsed::parse(&answer).unwrap();
    answer = run(Hook::Prerouting, &parsed, &answer);
    assert_eq!(Parsed::parse(&answer).unwrap().dst, packet.src);
}

#[test]
fn connections_carry_marks() {
    let bytes = tcp(A, B, 1, 2, flags::ACK);
    let packet = Parsed::parse(&bytes).unwrap();
    let connection = Connection { mark: 0x00f0, ..connection(&packet) };
    let known = &connection;
    let run = |lines: &str, connection| {
        let rules = rules_for(&format!("*mangle\n{lines}\nCOMMIT\n"), &bytes);
        let query = Query { connection, mark: 0x1234, ..query(&packet, &bytes) };
        let mut seen = Seen::default();
        let mut counters = rules.zero_counters();
        let (table, hook, memory) = (TableName::Mangle, Hook::Forward, Memory::new());
        let (verdict, edited) =
            evaluate_edited(&rules, table, hook, &query, &mut counters, &memory, &mut seen);
        (verdict, edited.connection.map(|c| c.mark), seen.0)
    };
    for (target, want) in [
        ("--set-mark 5", 5),
        ("--set-mark 0x5/0xf", 0xf5),
        ("--set-xmark 0x50/0xf", 0xa0),
        ("--and-mark 0x10", 0x10),
        ("--or-mark 0xf", 0xff),
        ("--xor-mark 0xff", 0x0f),
        ("--save-mark", 0x1234),
        ("--save-mark --mask 0xff", 0x34),
        ("--save-mark --nfmask 0xff00 --ctmask 0xf", 0x12f0),
    ] {
        let line = format!("-A FORWARD -j CONNMARK {target}");
        assert_eq!(run(&line, Some(&known)).1, Some(want), "{target}");
        assert_eq!(run(&line, None), (Verdict::Accept, None, vec![]), "{target}");
    }
    let restore = "-A FORWARD -j CONNMARK --restore-mark --mask 0xff";
    assert_eq!(run(restore, Some(&known)).2, ["mark 0x12f0"]);
    let seen = "-A FORWARD -j CONNMARK --set-mark 7\n-A FORWARD -m connmark --mark 7 -j DROP";
    assert_eq!(run(seen, Some(&known)).0, Verdict::Drop);
    assert_eq!(run("-A FORWARD -m connmark ! --mark 7 -j DROP", None).0, Verdict::Accept);
}

#[test]
fn a_traced_packet_tells_every_rule() {
    let text = "*raw\n:T -\n-A PREROUTING -j TRACE\n-A PREROUTING -p tcp -j ACCEPT\n\
                -A PREROUTING -j T\n-A T -p tcp\n-A T -p udp\nCOMMIT\n";
    let bytes = udp(A, B, 1, 2);
    let rules = rules_for(text, &bytes);
    let packet = Parsed::parse(&bytes).unwrap();
    let mut counters = rules.zero_counters();
    let mut seen = Seen::default();
    let query = query(&packet, &bytes);
    let (table, hook, memory) = (TableName::Raw, Hook::Prerouting, Memory::new());
    evaluate(&rules, table, hook, &query, &mut counters, &memory, &mut seen);
    let want =
        ["raw:PREROUTING:rule:3", "raw:T:rule:2", "raw:T:return:3", "raw:PREROUTING:policy:4"];
    assert_eq!(seen.0, want);
}

#[test]
fn copies_and_records_are_asked_for() {
    let text = filter(
        "-A FORWARD -j TEE --gateway 10.0.0.9 --oif lan1\n-A FORWARD -j AUDIT --type drop\n\
         -A FORWARD -j NFLOG --nflog-group 3 --nflog-prefix \"p \" --nflog-size 64",
    );
    let text = text.replace(
        "-A FORWARD -j TEE",
        "-A FORWARD -p udp -j AUDIT --type accept\n-A FORWARD -j TEE",
    );
    let mangle = "*mangle\n-A FORWARD -j TEE --gateway 10.0.0.9 --oif lan1\nCOMMIT\n";
    let bytes = udp(A, B, 1, 2);
    let packet = Parsed::parse(&bytes).unwrap();
    let rules = rules_for(mangle, &bytes);
    let mut seen = Seen::default();
    let mut counters = rules.zero_counters();
    let query = query(&packet, &bytes);
    evaluate(
        &rules,
        TableName::Mangle,
        Hook::Forward,
        &query,
        &mut counters,
        &Memory::new(),
        &mut seen,
    );
    assert_eq!(seen.0, ["tee 10.0.0.9 Some(\"lan1\")"]);
    let seen = walk(&rules_for(&text, &bytes), Hook::Forward, &bytes).2;
    assert_eq!(seen, ["audit", "tee 10.0.0.9 Some(\"lan1\")", "audit", "nflog 3 p "]);
}
