use super::*;

fn read(line: &str) -> Result<Command, Wrong> {
    let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    Command::read(&args, &|name| match name {
        "one" => Some(1),
        "three" => Some(3),
        _ => None,
    })
}

/// What conntrack 1.4.7 says.
#[test]
fn complaints_are_the_originals() {
    for (line, status, want) in [
        ("-X", 2, "unknown option `-X'"),
        ("-L -D", 2, "Invalid commands combination"),
        ("-L foo", 2, "unknown type `foo'"),
        ("-L -t 5", 2, "Illegal option `--timeout' with this command"),
        ("-s", 2, "option `-s' requires an argument"),
        ("-L -s 1.2.3.4/33", 2, "Invalid netmask"),
        ("-L -s nowhere", 2, "Invalid IP address `nowhere'"),
        ("-L -r 1.2.3.4/24", 2, "CIDR notation unavailable for `--reply-src'"),
        ("-L -p foo", 2, "`foo' unsupported protocol"),
        ("-L -p tcp --state FOO", 2, "unknown TCP state `FOO'"),
        ("-L -p udp --state ESTABLISHED", 2, "unknown option `--state'"),
        ("-L --sport 5 -p tcp", 2, "unknown option `--sport'"),
        ("-L -f ipx", 2, "`ipx' unsupported protocol"),
        ("-L -o foo", 2, "Bad parameter `foo'"),
        ("-L -o xml,foo,id", 2, "Bad parameter `foo,id'"),
        ("-u FOO -L", 2, "Bad parameter `FOO'"),
        ("-L -e NEW", 2, "Illegal option `--event-mask' with this command"),
        ("-E -e FOO", 2, "Bad parameter `FOO'"),
        ("-L -l foo", 2, "unknown label 'foo'"),
        ("-F -s 1.2.3.4", 2, "Illegal option `--src' with this command"),
        ("-L -n -j", 2, "cannot specify `--src-nat' or `--dst-nat' with `--any-nat'"),
        ("-L --mask-src 255.0.0.0", 2, "Can't use --mask-src without --src"),
        ("-D dying", 2, "Can't do that command with tables `dying' and `unconfirmed'"),
        ("-U expect", 2, "Can't do --update on expectations"),
        ("-L -z -p tcp", 2, "Can't use -z with filtering parameters"),
        ("-L -o save,id", 1, MIXED_TEXT),
        ("-L -s fc00::1 -d 1.2.3.4", 2, "mismatched address family"),
        ("-L -p tcp --dport", 2, "option `--dport' requires an argument"),
        ("-L -p icmp --sport 5", 2, "unknown option `--sport'"),
        ("-L -i 5", 2, "Illegal option `--id' with this command"),
        ("-D expect", 2, "You need to supply the `--src' option for this command"),
        ("-G", 2, "You need to supply the `--protonum' option for this command"),
        ("-L -n 1.2.3.4:99999", 2, "Invalid port `99999'"),
        ("-L -n 1.2.3.4:", 2, "No port specified after `:'"),
        ("-L -p tcp --mask-port-src 5", 2, "Illegal option `--mask-port-src' with this command"),
        ("-L --sr 1.1.1.1", 2, "unknown option `--sr'"),
        (
            "-I -p udp -s 1.1.1.1 -d 2.2.2.2 --sport 1 -t 9",
            2,
            "you have to specify `--sport' and `--dport'",
        ),
        (
            "-I -p gre -s 1.1.1.1 -d 2.2.2.2 --srckey 1 -t 9",
            2,
            "you have to specify `--srckey' and `--dstkey'",
        ),
        (
            "-I -p udp -s 1.1.1.1 --sport 1 --dport 2 -t 9",
            2,
            "you have to specify `--src' and `--dst'",
        ),
        (
            "-I -p udp -s 1.1.1.1 -d 2.2.2.2 --sport 1 --dport 2",
            2,
            "You need to supply the `--timeout' option for this command",
        ),
        (
            "-I -p tcp -s 1.1.1.1 -d 2.2.2.2 --sport 1 --dport 2 -t 9",
            2,
            "You need to supply the `--state' option for this command",
        ),
        (
            "-I -p icmp -s 1.1.1.1 -d 2.2.2.2 -t 9",
            2,
            "You need to supply the `--icmp-type' option for this command",
        ),
        (
            "-U --label-add one --label-del three",
            1,
            "cannot use --label-add and --label-del at the same time",
        ),
        ("-L -w 99999", 1, "unexpected value '99999' with -w option"),
        ("-L -m x", 1, "unexpected value 'x' with -m option"),
    ] {
        let wrong = read(line).expect_err(line);
        assert_eq!((wrong.status, wrong.text.as_str()), (status, want), "{line}");
    }
}

const MIXED_TEXT: &str = "cannot combine save output with any other output type, use -o save only";

#[test]
fn commands_are_found_in_every_spelling() {
    for (line, verb, table) in [
        ("-L", Verb::List, Table::Conntrack),
        ("-L expect", Verb::List, Table::Expect),
        ("--dump=expect", Verb::List, Table::Expect),
        ("--dump dying", Verb::List, Table::Dying),
        ("-L unc", Verb::List, Table::Unconfirmed),
        ("-E -o id", Verb::Event, Table::Conntrack),
        ("--del -p tcp", Verb::Delete, Table::Conntrack),
        ("-p tcp -D", Verb::Delete, Table::Conntrack),
        ("-C expect", Verb::Count, Table::Expect),
        ("-S", Verb::Stats, Table::Conntrack),
        ("-L -p tcp extra", Verb::List, Table::Conntrack),
    ] {
        let command = read(line).expect(line);
        assert_eq!((command.verb, command.table), (Some(verb), table), "{line}");
    }
    assert_eq!(read("").unwrap().verb, None);
}

#[test]
fn filters_are_what_was_said() {
    let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
    let f = |line: &str| read(line).expect(line).filter;
    let all = "255.255.255.255";
    assert_eq!(f("-L -s 10.0.0.0/8").original.src, Some((ip("10.0.0.0"), ip("255.0.0.0"))));
    assert_eq!(f("-L -d 1.2.3.4").original.dst, Some((ip("1.2.3.4"), ip(all))));
    assert_eq!(f("-L --src fc00::/7").original.src, Some((ip("fc00::"), ip("fe00::"))),);
    assert_eq!(f("-L -s 0.0.0.0/0").original.src, Some((ip("0.0.0.0"), ip("0.0.0.0"))));
    assert_eq!(
        f("-L -s 10.1.2.3 --mask-src 255.255.0.0").original.src,
        Some((ip("10.1.2.3"), ip("255.255.0.0")))
    );
    assert_eq!(f("-L -q 1.2.3.4").reply.dst, Some((ip("1.2.3.4"), ip(all))));
    let tcp = f("-L -p tcp --sport 0x10 --dport 80 --reply-port-dst 7 --state ESTABLISHED");
    assert_eq!(
        (tcp.protocol, tcp.original.sport, tcp.original.dport),
        (Some(6), Some(16), Some(80))
    );
    assert_eq!((tcp.reply.dport, tcp.state.as_deref()), (Some(7), Some("ESTABLISHED")));
    let icmp = f("-L -p icmp --icmp-type 8 --icmp-code 0 --icmp-id 7").original;
    assert_eq!((icmp.icmp_type, icmp.icmp_code, icmp.sport), (Some(8), Some(0), Some(7)));
    assert_eq!(f("-L -m 0x10/0xf0").mark, Some((16, 240)));
    assert_eq!(f("-L -u ASSURED,!SEEN_REPLY"), {
        Filter { status: Some(4), unset: Some(2), ..Filter::default() }
    });
    assert_eq!(f("-D -u UNREPLIED").unset, Some(2));
    assert_eq!(f("-L -f ipv6").family, Some(6));
    assert_eq!(f("-L -n").src_nat, Some(Nat::default()));
    let to = |addr: &str, port| Some(Nat { addr: Some(ip(addr)), port });
    assert_eq!(f("-L -n 1.2.3.4:80").src_nat, to("1.2.3.4", Some(80)));
    assert_eq!(f("-L --dst-nat=1.2.3.4").dst_nat, to("1.2.3.4", None));
    assert_eq!(f("-L -g [::1]:5").dst_nat, to("::1", Some(5)));
    assert_eq!(f("-L -j 1.2.3.4").any_nat, to("1.2.3.4", None));
    assert_eq!(f("-L -l one,three -l one").labels, [1, 3, 1]);
    assert_eq!(f("-L -w 0x7").zone, Some(7));
}

#[test]
fn what_an_update_sets_is_no_filter() {
    let command = read("-U -p tcp --dport 80 --state CLOSE -m 3/0xf -t 60 -u ASSURED").unwrap();
    let Command { filter, change, .. } = command;
    assert_eq!((filter.protocol, filter.original.dport), (Some(6), Some(80)));
    assert_eq!((filter.mark, filter.status, filter.state), (None, None, None));
    let want = Change {
        mark: Some((15, 3)),
        timeout: Some(60),
        status: Some(4),
        state: Some("CLOSE".into()),
        ..Change::default()
    };
    assert_eq!(change, want);
    assert_eq!(read("-U --label-del").unwrap().change.del_labels.len(), 128);
    assert_eq!(read("-U --label-del three").unwrap().change.del_labels, [3]);
    assert_eq!(read("-U --label-add one").unwrap().change.add_labels, [1]);
}

#[test]
fn connections_to_make() {
    let entry = |line: &str| read(line).expect(line).entry().expect(line);
    let udp =
        entry("-I -p udp -s 10.0.0.1 -d 10.0.0.2 --sport 1000 --dport 80 -t 100 -n 1.2.3.4:77");
    assert_eq!(udp.reply.src.to_string(), "10.0.0.2");
    assert_eq!((udp.reply.dst.to_string().as_str(), udp.reply.dport), ("1.2.3.4", 77));
    assert_eq!((udp.reply.sport, udp.timeout), (80, Some(100)));
    let icmp =
        entry("-I -p icmp -s 1.1.1.1 -d 2.2.2.2 --icmp-type 8 --icmp-code 0 --icmp-id 7 -t 9");
    assert_eq!((icmp.reply.dport, icmp.reply.sport), (0, 7));
    let back = entry("-I -p udp -r 2.2.2.2 -q 1.1.1.1 --reply-port-src 2 --reply-port-dst 1 -t 9");
    assert_eq!((back.original.src.to_string().as_str(), back.original.sport), ("1.1.1.1", 1));
    // An ICMP error opens nothing.
    let error = read("-I -p icmp -s 1.1.1.1 -d 2.2.2.2 --icmp-type 3 --icmp-code 0 -t 9");
    assert_eq!(error.unwrap().entry(), None);
}

#[test]
fn forms() {
    let c = |line: &str| read(line).expect(line);
    assert_eq!(c("-L -o x").form, Form::Xml);
    assert_eq!(c("-L -o save").form, Form::Save);
    assert_eq!(c("-L -o json").form, Form::Json);
    let show = c("-E -o timestamp,id,extended,ktimestamp,labels,userspace").show;
    assert!(show.timestamp && show.id && show.extended && show.ktimestamp && show.labels);
    assert_eq!(c("-E -e NEW,destroy").events, [What::New, What::Destroy]);
    assert_eq!(c("-L -a 5").warnings, ["WARNING: ignoring -a, deprecated option."]);
}
