//! Sets: their text, what packets are found in them, and what rules put there.

mod common;

use common::*;
use tidegate_filter::*;
use tidegate_packet::{Family, Instant, Parsed};

const A: &str = "10.0.0.2";
const B: &str = "192.0.2.9";

const SETS: &str = "\
create ips hash:ip family inet hashsize 1024 maxelem 65536 bucketsize 12 initval 0x1
add ips 10.0.0.1-10.0.0.3
create nets hash:net family inet hashsize 1024 maxelem 65536 timeout 0 counters
add nets 10.0.0.0/8
add nets 10.0.0.0/24 nomatch
add nets 10.0.0.3 timeout 30 packets 5 bytes 500
create ipport hash:ip,port family inet
add ipport 192.0.2.9,80-81
add ipport 192.0.2.9,udp:53
add ipport 192.0.2.9,icmp:echo-request
create netport hash:net,port family inet
add netport 192.0.2.0/24,tcp:443
create three hash:ip,port,ip family inet
add three 192.0.2.9,80,10.0.0.2
create netiface hash:net,iface family inet
add netiface 10.0.0.0/8,lan0
create bits bitmap:ip range 10.0.0.0-10.0.0.255
add bits 10.0.0.2
create ports bitmap:port range 1-1000
add ports 80
create sixes hash:net family inet6
add sixes fd00::/8
create all list:set size 8
add all ips
add all sixes
";

fn sets(text: &str) -> Sets {
    let sets = Sets::new();
    sets.restore(text, Instant::ZERO).unwrap_or_else(|e| panic!("{e:?}"));
    sets
}

fn rules_with(text: &str, sets: &Sets) -> Ruleset {
    load_with(Source { name: "test", text }, guess_family("", text), sets)
        .unwrap_or_else(|e| panic!("{e:?}"))
        .ruleset
}

/// What becomes of packets at given seconds.
fn run(rules: &Ruleset, times: &[(u64, &[u8])]) -> Vec<bool> {
    let (mut counters, memory) = (rules.zero_counters(), Memory::new());
    let one = |&(secs, bytes): &(u64, &[u8])| {
        let packet = Parsed::parse(bytes).unwrap();
        let query = Query { now: Instant::from_secs(secs), ..query(&packet, bytes) };
        let (table, hook) = (TableName::Filter, Hook::Forward);
        evaluate(rules, table, hook, &query, &mut counters, &memory, &mut NoEffects)
            == Verdict::Drop
    };
    times.iter().map(one).collect()
}

#[test]
fn packets_are_found() {
    let web = tcp(A, B, 4000, 80, 2);
    let dns = udp(A, B, 4000, 53);
    let tls = tcp(A, B, 4000, 443, 2);
    let ping = icmp(A, B, 8, 0);
    let other = udp("10.0.9.9", "10.0.0.3", 80, 80);
    for (rule, packet, want) in [
        ("--match-set ips src", &web, true),
        ("--match-set ips dst", &web, false),
        ("! --match-set ips dst", &web, true),
        ("--match-set ips src,dst", &web, true),
        // A larger network, an exception from it, and an exception from that.
        ("--match-set nets src", &other, true),
        ("--match-set nets src", &web, false),
        ("--match-set nets src --return-nomatch", &web, true),
        ("--match-set nets src --return-nomatch", &other, false),
        ("--match-set nets dst", &other, true),
        ("--match-set nets dst --packets-eq 6 --bytes-gt 500", &other, true),
        ("--match-set nets dst ! --update-counters --packets-eq 6", &other, false),
        ("--match-set nets dst ! --packets-eq 6", &other, false),
        ("--match-set nets dst --packets-lt 6", &other, false),
        ("--match-set ipport dst,dst", &web, true),
        ("--match-set ipport dst,src", &web, false),
        ("--match-set ipport dst", &web, false),
        ("! --match-set ipport dst", &web, true),
        ("--match-set ipport dst,dst", &dns, true),
        ("--match-set ipport dst,dst", &ping, true),
        ("--match-set netport dst,dst", &tls, true),
        ("--match-set netport dst,dst", &web, false),
        ("--match-set three dst,dst,src", &web, true),
        ("--match-set three dst,dst,dst", &web, false),
        ("--match-set netiface src,src", &web, true),
        ("--match-set netiface src,dst", &web, false),
        ("--match-set bits src", &web, true),
        ("--match-set bits dst", &web, false),
        ("--match-set ports dst", &web, true),
        ("--match-set ports dst", &tls, false),
        ("--match-set ports dst", &ping, false),
        ("--match-set all src", &web, true),
    ] {
        let text = filter(&format!("-A FORWARD -m set {rule} -j DROP"));
        assert_eq!(run(&rules_with(&text, &sets(SETS)), &[(1, packet)]), [want], "{rule}");
    }
    let six = udp("fd00::1", "fd00::2", 1, 2);
    let text = "*filter\n-A FORWARD -s ::/0 -m set --match-set all src -j DROP\nCOMMIT\n";
    assert_eq!(run(&rules_with(text, &sets(SETS)), &[(1, &six)]), [true]);
}

#[test]
fn entries_expire_and_rules_make_and_remove_them() {
    let a = udp(A, B, 1, 2);
    let stop = tcp(A, B, 1, 2, 2);
    let text = filter(
        "-A FORWARD -p tcp -j SET --del-set seen src\n\
         -A FORWARD -m set --match-set seen src -j DROP\n\
         -A FORWARD -p udp -j SET --add-set seen src --timeout 10",
    );
    let rules = rules_with(&text, &sets("create seen hash:ip timeout 5\n"));
    let times = [(0, &a[..]), (9, &a), (10, &a), (11, &a), (12, &stop), (13, &a)];
    assert_eq!(run(&rules, &times), [false, true, false, true, false, false]);
    // Without --exist an entry keeps its time.
    let again = |exist: &str| {
        let add = format!("-A FORWARD -p udp -j SET --add-set seen src {exist}");
        let text = filter(&format!(
            "-A FORWARD -m set --match-set seen src -j LOG\n{add}\n-A FORWARD -p tcp -m set --match-set seen src -j DROP"
        ));
        let rules = rules_with(&text, &sets("create seen hash:ip timeout 5\n"));
        run(&rules, &[(0, &a[..]), (3, &a), (6, &stop)])
    };
    assert_eq!(again(""), [false, false, false]);
    assert_eq!(again("--exist"), [false, false, true]);
}

#[test]
fn a_set_lives_while_rules_hold_it() {
    let sets = sets(SETS);
    let rules = rules_with(&filter("-A FORWARD -m set --match-set ips src -j DROP"), &sets);
    let web = tcp(A, B, 1, 2, 2);
    assert!(sets.restore("destroy ips\n", Instant::ZERO).is_err());
    assert_eq!(run(&rules, &[(1, &web)]), [true]);
    sets.restore("del ips 10.0.0.2\nadd ips 192.0.2.9\n", Instant::ZERO).unwrap();
    assert_eq!(run(&rules, &[(1, &web)]), [false]);
    sets.restore("flush\n", Instant::ZERO).unwrap();
    drop(rules);
    sets.restore("destroy all\ndestroy ips\n", Instant::ZERO).unwrap();
    let text = filter("-A FORWARD -m set --match-set ips src -j DROP");
    let errors = load_with(Source { name: "test", text: &text }, Family::V4, &sets).unwrap_err();
    assert_eq!((errors[0].line, errors[0].message.as_str()), (3, "there is no set `ips`"));
}

#[test]
fn a_set_of_the_other_family_is_refused() {
    let text = filter("-A FORWARD -m set --match-set sixes src -j DROP");
    let source = Source { name: "test", text: &text };
    let errors = load_with(source, Family::V4, &sets(SETS)).unwrap_err();
    assert_eq!(errors[0].message, "set `sixes` is for IPv6");
}

#[test]
fn what_is_saved_restores_the_same() {
    let first = sets(SETS).save(Instant::from_secs(1));
    assert!(first.contains(
        "create nets hash:net family inet hashsize 1024 maxelem 65536 timeout 0 counters bucketsize \
         12 initval 0x"
    ));
    assert!(first.contains("add nets 10.0.0.0/24 timeout 0 nomatch packets 0 bytes 0\n"));
    assert!(first.contains("add nets 10.0.0.3 timeout 29 packets 5 bytes 500\n"));
    assert!(first.contains("add ipport 192.0.2.9,icmp:echo-request\n"));
    assert!(first.ends_with("create all list:set size 8\nadd all ips\nadd all sixes\n"));
    assert_eq!(sets(&first).save(Instant::ZERO), first);
    let range = sets("create r hash:net\nadd r 10.0.0.1-10.0.0.6\n").save(Instant::ZERO);
    let adds: Vec<_> = range.lines().skip(1).collect();
    assert_eq!(
        adds,
        ["add r 10.0.0.1", "add r 10.0.0.2/31", "add r 10.0.0.4/31", "add r 10.0.0.6"]
    );
}

#[test]
fn wrong_lines_are_told() {
    for (text, message) in [
        ("create x hash:foo\n", "typename 'hash:foo' is unknown"),
        (
            "create x hash:ip\ncreate x hash:ip\n",
            "Set cannot be created: set with the same name already exists",
        ),
        ("add x 1.2.3.4\n", "The set with the given name does not exist"),
        (
            "create x hash:ip\nadd x 1.2.3.4\nadd x 1.2.3.4.5\n",
            "cannot parse 1.2.3.4.5: resolving to IPv4 address failed",
        ),
        (
            "create x hash:ip\nadd x 1.2.3.4\nadd x 1.2.3.4\n",
            "Element cannot be added to the set: it's already added",
        ),
        (
            "create x hash:ip maxelem 2\nadd x 1.2.3.0/24\n",
            "Hash is full, cannot add more elements",
        ),
        ("create x bitmap:ip\n", "Mandatory option `range' is missing"),
        ("create x hash:ip,port\nadd x 1.2.3.4\n", "Second element is missing from 1.2.3.4."),
        (
            "create x hash:ip\nadd x 1.2.3.4 timeout 5\n",
            "Timeout cannot be used: set was created without timeout support",
        ),
        ("create x hash:net netmask 24\n", "Unknown argument: `netmask'"),
        ("list\n", "`list` has no place in a file of sets"),
    ] {
        let errors = Sets::new().restore(text, Instant::ZERO).unwrap_err();
        assert_eq!(errors[0].message, message, "{text}");
    }
}

/// Blocklists are filled aside, exchanged with what rules name, and thrown away.
#[test]
fn rules_follow_the_name_of_an_exchanged_set() {
    let sets = sets("create live hash:ip\nadd live 192.0.2.77\n");
    let rules = rules_with(&filter("-A FORWARD -m set --match-set live src -j DROP"), &sets);
    let web = tcp(A, B, 1, 2, 2);
    let mut list = "create tmp hash:ip maxelem 100000\n".to_owned();
    for n in 0..50_000u32 {
        list += &format!("add tmp 10.{}.{}.{}\n", n >> 16, n >> 8 & 255, n & 255);
    }
    let call = |line: &str, input: &str| {
        let args: Vec<String> = line.split(' ').map(str::to_owned).collect();
        sets.call(&args, input, Instant::ZERO)
    };
    let done = call("restore", &list);
    assert_eq!((done.status, done.err.as_str()), (0, ""));
    assert_eq!(run(&rules, &[(1, &web)]), [false]);
    assert_eq!(call("swap tmp live", "").status, 0);
    assert_eq!(run(&rules, &[(1, &web)]), [true]);
    assert_eq!(call("destroy tmp", "").status, 0);
    let listed = call("list -t live", "").out;
    assert!(listed.contains("References: 1\nNumber of entries: 50000\n"), "{listed}");
    let busy = call("destroy live", "");
    let words = "ipset v7.17: Set cannot be destroyed: it is in use by a kernel component\n";
    assert_eq!((busy.status, busy.err.as_str()), (1, words));
    assert_eq!(call("rename live other", "").status, 1);
    drop(rules);
    assert_eq!(call("rename live other", "").status, 0);
    assert_eq!(call("destroy other", "").status, 0);
}

/// A reload makes what isn't there, and takes it back when the rules turn out to be wrong.
#[test]
fn missing_sets_are_added_and_withdrawn() {
    let own = sets("create a hash:ip\nadd a 192.0.2.1\n");
    let fresh = sets(
        "create a hash:ip\nadd a 192.0.2.2\ncreate b hash:ip\nadd b 192.0.2.3\ncreate l list:set\nadd l a\nadd l b\n",
    );
    let added = own.add_missing(&fresh);
    assert_eq!(added, ["b", "l"]);
    let rules = rules_with(&filter("-A FORWARD -m set --match-set l src -j DROP"), &own);
    let packets = ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(|from| udp(from, B, 1, 2));
    assert_eq!(packets.each_ref().map(|p| run(&rules, &[(1, p)])[0]), [true, false, true]);
    drop(rules);
    own.withdraw(&added);
    assert_eq!(own.names(), ["a"]);
}

/// What has expired makes room, and isn't listed.
#[test]
fn expired_entries_make_room() {
    let sets =
        sets("create s hash:ip timeout 5 maxelem 2\nadd s 10.0.0.1\nadd s 10.0.0.2 timeout 0\n");
    let at = |secs, line: &str| {
        let args: Vec<String> = line.split(' ').map(str::to_owned).collect();
        sets.call(&args, "", Instant::from_secs(secs))
    };
    assert_eq!(at(1, "add s 10.0.0.3").status, 1);
    assert_eq!(at(6, "test s 10.0.0.1").status, 1);
    assert!(at(6, "list s").out.ends_with("Number of entries: 1\nMembers:\n10.0.0.2 timeout 0\n"));
    assert_eq!(at(6, "add s 10.0.0.3").status, 0);
    assert_eq!(at(6, "del s 10.0.0.1").status, 1);
}
