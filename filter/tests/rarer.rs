//! Matches that few rulesets have: packet → verdict, a row per case.

mod common;

use common::*;
use tidegate_filter::*;
use tidegate_packet::{Parsed, tcp as flags};

const A: &str = "10.0.0.2";
const B: &str = "192.0.2.9";
const A6: &str = "fe80::11:22ff:fe33:4455";
const B6: &str = "2001:db8::9";

fn takes_with(rule: &str, bytes: &[u8], change: impl Fn(Query<'_>) -> Query<'_>) -> bool {
    let packet = Parsed::parse(bytes).unwrap();
    let text = filter(&format!("-A FORWARD {rule} -j DROP"));
    let rules = load(Source { name: "test", text: &text }, packet.family)
        .unwrap_or_else(|e| panic!("{rule}: {e:?}"))
        .ruleset;
    let query = change(query(&packet, bytes));
    let (table, hook, memory) = (TableName::Filter, Hook::Forward, Memory::new());
    let mut counters = rules.zero_counters();
    evaluate(&rules, table, hook, &query, &mut counters, &memory, &mut NoEffects) == Verdict::Drop
}

fn takes_of(rule: &str, bytes: &[u8], connection: &Connection) -> bool {
    let packet = Parsed::parse(bytes).unwrap();
    let rules = rules(&filter(&format!("-A FORWARD {rule} -j DROP")));
    let query = Query { connection: Some(&connection), ..query(&packet, bytes) };
    let (table, hook, memory) = (TableName::Filter, Hook::Forward, Memory::new());
    let mut counters = rules.zero_counters();
    evaluate(&rules, table, hook, &query, &mut counters, &memory, &mut NoEffects) == Verdict::Drop
}

fn takes(rule: &str, bytes: &[u8]) -> bool {
    takes_with(rule, bytes, |q| q)
}

#[test]
fn time_of_day_and_calendar() {
    let bytes = udp(A, B, 1, 2);
    // 2024-02-29 was a Thursday, 2024-03-01 a Friday.
    let (leap, march) = (1_709_164_800, 1_709_251_200);
    let clock = |h: u64, m: u64| h * 3600 + m * 60;
    for (rule, at, want) in [
        ("--timestart 08:00 --timestop 17:30", leap + clock(8, 0), true),
        ("--timestart 08:00 --timestop 17:30", leap + clock(17, 30) + 1, false),
        ("--timestart 22:00 --timestop 06:00", leap + clock(23, 0), true),
        ("--timestart 22:00 --timestop 06:00", leap + clock(12, 0), false),
        ("--weekdays Thu", leap, true),
        ("--weekdays Thu", march, false),
        ("! --weekdays Fr,Sa", march, false),
        ("--monthdays 29", leap, true),
        ("--monthdays 1", march, true),
        ("! --monthdays 1", march, false),
        ("--datestart 2024-03", march - 1, false),
        ("--datestart 2024-03", march, true),
        ("--datestop 2024-02-29T10", leap + clock(10, 0), true),
        ("--datestop 2024-02-29T10", leap + clock(10, 0) + 1, false),
        // The small hours of Friday belong to Thursday's night.
        ("--weekdays Thu --timestart 22:00 --timestop 06:00", march + clock(3, 0), false),
        (
            "--weekdays Thu --timestart 22:00 --timestop 06:00 --contiguous",
            march + clock(3, 0),
            true,
        ),
        (
            "--weekdays Fri --timestart 22:00 --timestop 06:00 --contiguous",
            march + clock(3, 0),
            false,
        ),
    ] {
        let nanos = at * 1_000_000_000;
        let got =
            takes_with(&format!("-m time {rule}"), &bytes, |q| Query { unix_nanos: nanos, ..q });
        assert_eq!(got, want, "{rule} {at}");
    }
}

#[test]
fn a_quota_is_used_up() {
    let bytes = udp(A, B, 1, 2);
    assert_eq!(bytes.len(), 29);
    let run = |rule: &str| {
        let rules = rules(&filter(&format!("-A FORWARD -m quota {rule} -j DROP")));
        let packet = Parsed::parse(&bytes).unwrap();
        let (mut counters, memory) = (rules.zero_counters(), Memory::new());
        let mut one = || {
            let (table, hook) = (TableName::Filter, Hook::Forward);
            let query = query(&packet, &bytes);
            evaluate(&rules, table, hook, &query, &mut counters, &memory, &mut NoEffects)
                == Verdict::Drop
        };
        [one(), one(), one()]
    };
    assert_eq!(run("--quota 60"), [true, true, false]);
    assert_eq!(run("! --quota 29"), [false, true, true]);
    assert_eq!(run("--quota 28"), [false, false, false]);
}

#[test]
fn words_anywhere_in_the_packet() {
    let syn = tcp(A, B, 4000, 22, flags::SYN);
    for (test, want) in [
        ("6&0xFF=6", true),
        ("6&0xFF=1", false),
        ("12=0x0a000002&&16=0xc0000209", true),
        ("0>>22&0x3C@0>>16=4000", true),
        ("0>>22&0x3C@0&0xffff=1:21,23:99", false),
        ("0>>22&0x3C@12>>16&0xff=0:1,2", true),
        ("36&0xffff=0", true),
        ("37=0", false),
        ("0xffffffff=0", false),
        ("12@0=0", false),
    ] {
        assert_eq!(takes(&format!("-m u32 --u32 \"{test}\""), &syn), want, "{test}");
    }
    assert!(takes("-m u32 ! --u32 \"37=0\"", &syn));
}

#[test]
fn what_a_connection_has_carried() {
    let bytes = tcp(A, B, 1, 2, flags::ACK);
    let packet = Parsed::parse(&bytes).unwrap();
    let connection = Connection { accounting: [(10, 1000), (20, 30_000)], ..connection(&packet) };
    for (rule, want) in [
        ("--connbytes 10:10 --connbytes-mode packets --connbytes-dir original", true),
        ("--connbytes 21 --connbytes-mode packets --connbytes-dir reply", false),
        ("! --connbytes 21 --connbytes-mode packets --connbytes-dir reply", true),
        ("--connbytes 31000:31000 --connbytes-mode bytes --connbytes-dir both", true),
        ("--connbytes 1500:1500 --connbytes-mode avgpkt --connbytes-dir reply", true),
    ] {
        let rule = format!("-m connbytes {rule}");
        assert_eq!(takes_of(&rule, &bytes, &connection), want, "{rule}");
        let uncounted = Connection { accounting: [(0, 0); 2], ..connection };
        assert!(!takes_of(&rule, &bytes, &uncounted), "{rule}");
        assert!(!takes(&rule, &bytes), "{rule}");
    }
}

#[test]
fn what_packets_here_do_not_have() {
    let bytes = udp(A, B, 1, 2);
    for (rule, want) in [
        ("-m helper --helper ftp", false),
        ("-m helper ! --helper ftp", true),
        ("-m cpu --cpu 0", true),
        ("-m cpu ! --cpu 0", false),
        ("-m realm --realm 0", true),
        ("-m realm ! --realm 5", true),
        ("-m devgroup --src-group 0", true),
        ("-m devgroup --src-group 0 ! --dst-group 0", false),
        ("-m policy --dir in --pol none", true),
        ("-m policy --dir in --pol ipsec", false),
    ] {
        assert_eq!(takes(rule, &bytes), want, "{rule}");
    }
    // A packet without a socket: only what is denied holds.
    let text =
        |rule: &str| format!("*filter\n:INPUT ACCEPT\n-A OUTPUT -m owner {rule} -j DROP\nCOMMIT\n");
    for (rule, want) in [
        ("--uid-owner 0", Verdict::Accept),
        ("! --uid-owner 0", Verdict::Drop),
        ("! --uid-owner 0 --gid-owner 0", Verdict::Accept),
        ("! --socket-exists", Verdict::Drop),
    ] {
        assert_eq!(walk(&rules(&text(rule)), Hook::Output, &bytes).0, want, "{rule}");
    }
}

#[test]
fn security_associations() {
    let esp = other(A, B, 50, &[0, 0, 1, 0, 0, 0, 0, 1]);
    let ah = other(A, B, 51, &[17, 4, 0, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0, 0, 0, 0]);
    for (rule, packet, want) in [
        ("-p esp -m esp --espspi 256", &esp, true),
        ("-p esp -m esp --espspi 0:255", &esp, false),
        ("-p esp -m esp ! --espspi 0:255", &esp, true),
        ("-p esp -m esp", &esp, true),
        ("-p ah -m ah --ahspi 512", &ah, true),
        ("-p ah -m ah ! --ahspi 512", &ah, false),
    ] {
        assert_eq!(takes(rule, packet), want, "{rule}");
    }
}

#[test]
fn routing_headers() {
    // Type 0 by way of two addresses, the first of which it has been at.
    let mut header = vec![17, 4, 0, 1, 0, 0, 0, 0];
    let hops = ["fe80::1", "fe80::2"].map(|hop| hop.parse::<std::net::Ipv6Addr>().unwrap());
    header.extend(hops.iter().flat_map(std::net::Ipv6Addr::octets));
    header.extend([0, 1, 0, 2, 0, 8, 0, 0]);
    let mut packet = other(A6, B6, 43, &header);
    packet[6] = 43;
    for (rule, want) in [
        ("-m rt", true),
        ("-m rt --rt-type 0", true),
        ("-m rt ! --rt-type 0", false),
        ("-m rt --rt-segsleft 1:2 --rt-len 40", true),
        ("-m rt ! --rt-segsleft 1", false),
        ("-m rt --rt-segsleft 9:0", false),
        ("-m rt --rt-len 32", false),
        ("-m rt --rt-type 0 --rt-0-res", true),
        ("-m rt --rt-type 0 --rt-0-addrs fe80::1,fe80::2", true),
        ("-m rt --rt-type 0 --rt-0-addrs fe80::1", false),
        ("-m rt --rt-type 0 --rt-0-addrs fe80::2 --rt-0-not-strict", true),
        ("-m rt --rt-type 0 --rt-0-addrs fe80::2,fe80::1 --rt-0-not-strict", false),
    ] {
        assert_eq!(takes(rule, &packet), want, "{rule}");
    }
    assert!(!takes("-m rt", &udp(A6, B6, 1, 2)));
}

#[test]
fn ipv6_headers() {
    let mut fragment = other(A6, B6, 44, &[17, 0, 0, 1, 0, 0, 0, 7, 0, 1, 0, 2, 0, 9, 0, 0, 1]);
    fragment[6] = 44;
    for (rule, want) in [
        ("-m frag --fragid 7", true),
        ("-m frag ! --fragid 0:7", false),
        ("-m frag --fragfirst --fragmore --fragres", true),
        ("-m frag --fraglast", false),
        ("-m eui64", false),
    ] {
        assert_eq!(takes(rule, &fragment), want, "{rule}");
    }
    let plain = udp(A6, B6, 1, 2);
    assert!(!takes("-m frag", &plain));
    // The address's last half: 00:11:22 ff:fe 33:44:55, the second bit turned round.
    let made = udp("fe80::211:22ff:fe33:4455", B6, 1, 2);
    let link = |first| {
        let mac = tidegate_packet::MacAddr([first, 0x11, 0x22, 0x33, 0x44, 0x55]);
        Link { dst: mac, src: mac, kind: LinkType::Unicast }
    };
    assert!(takes_with("-m eui64", &made, |q| Query { link: Some(link(0)), ..q }));
    assert!(!takes_with("-m eui64", &made, |q| Query { link: Some(link(2)), ..q }));
    assert!(!takes("-m eui64", &made));
    let mobility = other(A6, B6, 135, &[59, 0, 5, 0, 0, 0, 0, 0]);
    assert!(takes("-p mh -m mh --mh-type bu", &mobility));
    assert!(!takes("-p mh -m mh --mh-type 0:4", &mobility));
    assert!(takes("-p mh -m mh ! --mh-type brr", &mobility));
}
