//! What is said of configurations that are wrong, or that do nothing.

use super::*;

/// Each row is put behind `[[interface]]\nname = "a"\naddress = "10.0.0.1/8"\n`, so its first
/// line is line 4.
#[test]
fn what_is_wrong_in_the_file_is_said_with_its_place() {
    for (text, want) in [
        ("mut = 9", "4:1: unknown key `mut` in [[interface]] (did you mean `mtu`?)"),
        ("[rulez]\n", "4:2: unknown key `rulez` in the top level (did you mean `rules`?)"),
        (
            "[rules]\nfoo = 1",
            "5:1: unknown key `foo` in [rules] ([rules] has `ipv4`, `ipv6` and `sets`)",
        ),
        (
            "[log]\nto = \"sysloq\"",
            "5:7: `sysloq` is no place for the log; expected stderr, syslog or a file (did you mean \
             `syslog`?)",
        ),
        (
            "[log]\nto = { path = \"x\", file = \"y\" }",
            "5:8: unknown key `path` in `to` (`to` has `file` and `syslog`)",
        ),
        (
            "[log]\nto = { file = \"x\", syslog = \"y\" }",
            "5:6: one place is wanted; expected \"stderr\", \"syslog\", { file = \"…\" } or { syslog = \
             \"SOCKET\" }",
        ),
        (
            "[log]\nto = 3",
            "5:6: a number can't stand here; expected \"stderr\", \"syslog\", { file = \"…\" } or { \
             syslog = \"SOCKET\" }",
        ),
        ("[log]\nfile = \"x\"", "5:1: unknown key `file` in [log] ([log] has `to` and `nflog`)"),
        (
            "[log]\nnflog = { 70000 = \"x\" }",
            "5:11: `70000` is no group of NFLOG; expected a number from 0 to 65535",
        ),
        (
            "[log]\nnflog = { 1 = \"x\", 2 = \"x\" }",
            "5:25: /etc/tidegate/x is written to already (groups that share a file need no number)",
        ),
        ("[state]\nevery = 5", "4:1: [state] has no `file`"),
        (
            "[state]\nfile = \"s\"\nevery = -1",
            "6:9: bad value for `every`; expected a number of seconds from 0 to 604800",
        ),
        ("mtu = 67", "4:7: bad value for `mtu`; expected a number of bytes from 68 to 65535"),
        ("mtu = \"1500\"", "4:8: bad value for `mtu`; expected a number of bytes from 68 to 65535"),
        (
            "mac = \"ff:00:00:00:00:00\"",
            "4:8: `ff:00:00:00:00:00` is no link address of an interface; expected six bytes as \
             in 02:00:00:00:00:01, not zero and not a group",
        ),
        (
            "kind = \"afpacket\"",
            "4:9: `afpacket` is no kind; expected `af-packet`, `tap` or `bridge` (did you mean \
             `af-packet`?)",
        ),
        ("kind = 3", "4:8: a number can't stand here; expected a string"),
        ("kind = \"bridge\"", "2:9: the bridge `a` has no ports (add ports = [\"tap0\", …])"),
        ("kind = \"bridge\"\nports = []", "5:9: a bridge has at least one port"),
        (
            "ports = [\"b\"]",
            "4:9: `a` is no bridge and has no `ports` (did you mean kind = \"bridge\"?)",
        ),
        (
            "kind = \"bridge\"\nports = [\"b\", \"b\"]",
            "5:16: the name `b` is used twice (the first is at g.toml:5:11)",
        ),
        (
            "metric = 3",
            "4:10: `a` gets no route by DHCP (the metric of a fixed route is written in its \
             [[route]])",
        ),
        ("[[interface]]", "4:1: [[interface]] has no `name`"),
        (
            "[[interface]]\nname = \"a\"",
            "5:9: the name `a` is used twice (the first is at g.toml:2:9)",
        ),
        (
            "[[interface]]\nname = \"averyveryverylong\"",
            "5:9: `averyveryverylong` is too long for an interface's name; expected at most 15 \
             bytes",
        ),
        (
            "[[interface]]\nname = \"b c\"",
            "5:9: `b c` is no name of an interface; expected a name without spaces, quotes, `/`, \
             `:` and a final `+`",
        ),
        (
            "[[interface]]\nname = \"lo\"",
            "5:9: the name `lo` is taken (`lo` is the gateway's own loopback)",
        ),
        (
            "[[interface]]\nname = \"b\"\nkind = \"tap\"",
            "5:9: `b` has no addresses (only an af-packet interface can keep those that the \
             kernel has given it)",
        ),
        (
            "[[interface]]\nname = \"b\"\naddress = [\"dhcp\", \"192.168.0.1/33\"]",
            "6:33: `192.168.0.1/33` has no good prefix length; expected a prefix length from 0 \
             to 32",
        ),
        (
            "[[interface]]\nname = \"b\"\naddress = \"192.168.0/24\"",
            "6:12: `192.168.0/24` is no address; expected an address as in 192.168.0.1/24, or \
             dhcp",
        ),
        (
            "[[interface]]\nname = \"b\"\naddress = \"192.168.0.1\"",
            "6:12: `192.168.0.1` doesn't say how large its network is; expected an address with \
             a prefix length, as in 192.168.0.1/24 (write 192.168.0.1/32 if it stands alone)",
        ),
        (
            "[[interface]]\nname = \"b\"\naddress = \"192.168.0.0/24\"",
            "6:12: 192.168.0.0 is the network of 192.168.0.0/24; expected an address of a host, \
             as in 192.168.0.1/24",
        ),
        (
            "[[interface]]\nname = \"b\"\naddress = \"ff02::1/64\"",
            "6:12: ff02::1 is an address of many; expected an address of a host",
        ),
        (
            "[[interface]]\nname = \"b\"\naddress = [\"dhcp\", \"dhcp\"]",
            "6:21: `dhcp` is said twice",
        ),
        (
            "[[interface]]\nname = \"b\"\naddress = \"fd00::1/64\"\nmtu = 1000",
            "7:7: `b` has an IPv6 address; expected an MTU of at least 1280 bytes",
        ),
        (
            "[[interface]]\nname = \"b\"\naddress = \"10.0.0.1/24\"",
            "6:12: the address 10.0.0.1 is used twice (the first is at g.toml:3:12)",
        ),
        (
            "[[interface]]\nname = \"b\"\naddress = \"10.0.0.2/8\"",
            "6:12: `a` and `b` have the same network 10.0.0.0/8 (join them with kind = \
             \"bridge\" if they are one link)",
        ),
        ("[[route]]\nvia = \"10.0.0.2\"", "4:1: [[route]] has no `to`"),
        (
            "[[route]]\nto = \"default\"",
            "5:7: `default` is no address; expected a prefix as in 10.0.0.0/8 (all of IPv4: \
             0.0.0.0/0, of IPv6: ::/0)",
        ),
        (
            "[[route]]\nto = \"0.0.0.0/0\"",
            "4:1: the route to 0.0.0.0/0 leads nowhere (add `via`, or `dev` for destinations on \
             the link itself)",
        ),
        (
            "[[route]]\nto = \"0.0.0.0/0\"\nvia = \"192.0.2.1\"",
            "6:8: 192.0.2.1 isn't on any interface; expected an address of one of their networks",
        ),
        (
            "[[route]]\nto = \"0.0.0.0/0\"\nvia = \"192.0.2.1\"\ndev = \"a\"",
            "6:8: 192.0.2.1 isn't on `a`; expected an address of one of its networks",
        ),
        (
            "[[route]]\nto = \"::/0\"\nvia = \"10.0.0.2\"",
            "6:8: 10.0.0.2 is of another family than ::/0; expected an IPv6 address",
        ),
        (
            "[[route]]\nto = \"0.0.0.0/0\"\nvia = \"10.0.0.1\"",
            "6:8: 10.0.0.1 is the gateway's own address; expected a router's address",
        ),
        (
            "[[route]]\nto = \"::/0\"\nvia = \"fe80::1\"",
            "6:8: fe80::1 is on every link (say which with `dev`)",
        ),
        (
            "[[route]]\nto = \"192.0.2.0/24\"\ndev = \"b\"",
            "6:8: no interface is named `b` (did you mean `a`?)",
        ),
        (
            "[[route]]\nto = \"10.1.2.3/16\"\ndev = \"a\"",
            "5:7: 10.1.2.3/16 has bits set behind its prefix (did you mean 10.1.0.0/16?)",
        ),
        (
            "[[route]]\nto = \"1.0.0.0/8\"\nkind = \"blackhole\"\nvia = \"10.0.0.2\"",
            "7:8: a route of kind `blackhole` leads nowhere",
        ),
        (
            "[[route]]\nto = \"1.0.0.0/8\"\ndev = \"a\"\n[[route]]\nto = \"1.0.0.0/8\"\ndev = \"a\"",
            "8:7: a second route to 1.0.0.0/8 with metric 0 (the first is at g.toml:5:7)",
        ),
        ("[host]\n", "4:1: [host] has no `device`"),
        (
            "[sysctl]\n\"net.ipv4.ip_fowrard\" = 1",
            "5:1: unknown kernel parameter `net.ipv4.ip_fowrard` (did you mean \
             `net.ipv4.ip_forward`?)",
        ),
        (
            "[sysctl]\nnet.ipv4.conf.all.rp_filter = 7",
            "5:31: `7` is no value for `net.ipv4.conf.all.rp_filter`; expected a number from 0 \
             to 2",
        ),
        (
            "[sysctl]\nfile = \"no.conf\"",
            "5:9: /etc/tidegate/no.conf: No such file or directory (os error 2)",
        ),
        ("[[interface]\nname = \"b\"", "4:13: unclosed array table, expected `]`"),
        ("mtu = \n", "4:7: string values must be quoted, expected literal string"),
        ("mtu = 1500\nmtu = 1500", "5:1: duplicate key"),
    ] {
        let text = format!("[[interface]]\nname = \"a\"\naddress = \"10.0.0.1/8\"\n{text}");
        let want = format!("error: g.toml:{want}");
        assert_eq!(said(load(&text, &Flags::default())), [want], "{text}");
    }
}

#[test]
fn what_is_wrong_at_the_top_is_said_with_its_place() {
    for (text, want) in [
        (
            "",
            "1:1: there is no interface to forward between (write an [[interface]], or use --lan)",
        ),
        ("workers = 0", "1:11: bad value for `workers`; expected a number from 1 to 256"),
        ("interface = 3", "1:13: a number can't stand here; expected tables, as in [[interface]]"),
        ("rules = 3", "1:9: a number can't stand here; expected a table, as in [rules]"),
    ] {
        let want = format!("error: g.toml:{want}");
        assert_eq!(said(load(text, &Flags::default())), [want], "{text}");
    }
}

#[test]
fn what_is_wrong_in_flags_is_said_with_its_place() {
    for (lan, uplink, want) in [
        (
            "lan0=192.168.0.1/33",
            "wan0=dhcp",
            "1:24: `192.168.0.1/33` has no good prefix length; expected a prefix length from 0 \
             to 32",
        ),
        (
            "lan0=dhcp",
            "wan0=dhcp",
            "1:12: a LAN can't get its address by DHCP; expected an address as in 192.168.0.1/24 \
             (an interface with a DHCP server behind it is an --uplink)",
        ),
        (
            "lan0=10.0.0.1/8",
            "wan0=dhcp,vai=10.0.0.2",
            "2:20: unknown item `vai` in --uplink (did you mean `via`?)",
        ),
        (
            "lan0=10.0.0.1/8,via=10.0.0.2",
            "wan0=dhcp",
            "1:23: unknown item `via` in --lan (items are ADDRESS/LEN and kind=)",
        ),
        (
            "lan0=10.0.0.1/8",
            "wan0=203.0.113.1/24,via=203.0.114.2",
            "2:34: 203.0.114.2 isn't on `wan0`; expected an address of one of its networks",
        ),
        (
            "lan0=10.0.0.1/8",
            "lan0=dhcp",
            "2:10: the name `lan0` is used twice (the first is at command line:1:7)",
        ),
        (
            "lan0=10.0.0.1/8,kind=bridge",
            "wan0=dhcp",
            "1:28: a bridge's ports can't be said with flags (write an [[interface]] with kind = \
             \"bridge\" in gateway.toml)",
        ),
        ("=10.0.0.1/8", "wan0=dhcp", "1:7: a name is missing; expected the name of an interface"),
        (
            "lan0=",
            "wan0=dhcp",
            "1:12: `` is no address; expected an address as in 192.168.0.1/24, or dhcp",
        ),
        (
            "lan0=10.0.0.1/8",
            "wan0=dhcp,metric=-1",
            "2:27: `-1` is no metric; expected a number from 0 to 4294967295",
        ),
    ] {
        let result = Config::from_parts(None, &flags(&[lan], &[uplink]));
        assert!(result.as_ref().is_err_and(Report::is_usage), "{lan} {uplink}");
        assert_eq!(said(result), [format!("error: command line:{want}")], "{lan} {uplink}");
    }
    assert_eq!(
        said(Config::from_parts(None, &Flags::default())),
        ["error: there is no interface to forward between (name them with --lan and --uplink, or \
          in a file with --config)"]
    );
}

#[test]
fn all_errors_are_said_at_once() {
    let text = "workers = 0\n[[interface]]\nname = \"a/b\"\naddress = \"x\"\n\
                [[route]]\nto = \"1.2.3.4/8\"\n";
    let lines = said(load(text, &flags(&["b=y"], &[])));
    let places: Vec<&str> = lines.iter().map(|l| l.split(": ").nth(1).unwrap()).collect();
    assert_eq!(
        places,
        [
            "g.toml:1:11",
            "g.toml:4:12",
            "command line:1:9",
            "g.toml:3:9",
            "g.toml:6:7",
            "g.toml:5:1",
        ]
    );
}

#[test]
fn things_that_do_nothing_are_warned_of() {
    let text = "[[interface]]\nname = \"lan0\"\naddress = \"10.0.0.1/8\"\n[[interface]]\n\
                name = \"lan1\"\naddress = \"10.3.0.1/16\"\n[sysctl]\n\
                \"net.ipv4.tcp_syncookies\" = 1\n\"net.ipv4.conf.lan2.rp_filter\" = 1\n";
    assert_eq!(
        said(load(text, &Flags::default())),
        [
            "warning: g.toml:8:1: `net.ipv4.tcp_syncookies` is ignored: it concerns a host's own \
         sockets, and the gateway has none",
            "warning: g.toml:6:12: 10.3.0.0/16 of `lan1` lies inside 10.0.0.0/8 of `lan0`, and is \
         reached by `lan1`",
            "warning: g.toml:9:1: this does nothing: no interface is named `lan2` (did you mean \
         `lan0`?)",
        ]
    );
}

/// The drawing as a whole, as a person sees it.
#[test]
fn an_error_is_drawn_with_its_line_and_a_caret() {
    let text = "[[interface]]\nname = \"lan0\"\nadress = [\"10.0.0.1/8\"]\n";
    let report = load(text, &flags(&[], &["wan0=203.0.113.1/40"])).unwrap_err();
    assert_eq!(
        report.render(Style::PLAIN),
        "  error: unknown key `adress` in [[interface]]
   ╭─[g.toml:3:1]
 2 │ name = \"lan0\"
 3 │ adress = [\"10.0.0.1/8\"]
   · ──────
   ╰────
  help: did you mean `address`?
  error: `203.0.113.1/40` has no good prefix length
   ╭─[command line:1:27]
 1 │ --uplink wan0=203.0.113.1/40
   ·                           ─┬
   ·                            ╰── expected a prefix length from 0 to 32
   ╰────
"
    );
}
