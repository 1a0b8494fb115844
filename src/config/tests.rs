//! Tables of configurations and what is said of them.

use super::*;
use crate::diagnostic::Style;

fn flags(lan: &[&str], uplink: &[&str]) -> Flags {
    let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
    Flags { lan: own(lan), uplink: own(uplink), ..Flags::default() }
}

fn load(text: &str, flags: &Flags) -> Result<Loaded, Report> {
    let source = Source::new("g.toml", text);
    Config::from_parts(Some((&source, Path::new("/etc/tidegate"))), flags)
}

/// One line for each thing that is said.
fn said(result: Result<Loaded, Report>) -> Vec<String> {
    let diagnostics = match result {
        Ok(loaded) => loaded.warnings,
        Err(report) => report.diagnostics,
    };
    diagnostics.iter().map(ToString::to_string).collect()
}

fn good(result: Result<Loaded, Report>) -> Config {
    match result {
        Ok(loaded) => {
            assert_eq!(loaded.warnings, []);
            loaded.config
        }
        Err(report) => panic!("{}", report.render(Style::PLAIN)),
    }
}

fn names<'a>(interfaces: impl Iterator<Item = &'a Interface>) -> Vec<&'a str> {
    interfaces.map(|i| i.name.as_str()).collect()
}

const EXAMPLE: &str = r#"# gateway.toml
workers = 2                                # default: one per core
control = "/run/tidegate/control.sock"     # appears when packets are being forwarded

[[interface]]
name = "lan0"                              # the name that -i and -o match
kind = "af-packet"                         # or "tap"
address = ["192.168.0.1/24", "fd00:1::1/64"]

[[interface]]
name = "wan0"
kind = "af-packet"
address = ["203.0.113.1/24", "2001:db8:1::1/64"]     # or ["dhcp"]; absent: adopt

[[route]]
to = "0.0.0.0/0"
via = "203.0.113.2"

[rules]
ipv4 = "iptables.rules"                    # absent: the built-in gateway rules
ipv6 = "/srv/ip6tables.rules"

[sysctl]                                   # or file = "90-firewall.conf"
"net.ipv4.ip_forward" = 1
"net.ipv4.conf.all.rp_filter" = 1
"#;

#[test]
fn the_design_example_is_read() {
    let config = good(load(EXAMPLE, &Flags::default()));
    assert_eq!(config.workers, 2);
    assert_eq!(config.control, Path::new("/run/tidegate/control.sock"));
    assert_eq!(names(config.lans()), ["lan0"]);
    assert_eq!(names(config.uplinks()), ["wan0"]);
    let lan = config.interface("lan0").unwrap();
    assert_eq!(lan.kind, Kind::AfPacket);
    assert_eq!(lan.addresses.prefixes().len(), 2);
    assert_eq!(config.routes.len(), 1);
    assert_eq!(config.routes[0].via, Some("203.0.113.2".parse().unwrap()));
    assert_eq!(config.rules.ipv4.as_deref(), Some(Path::new("/etc/tidegate/iptables.rules")));
    assert_eq!(config.rules.ipv6.as_deref(), Some(Path::new("/srv/ip6tables.rules")));
    assert_eq!(config.sysctls.rp_filter("lan0"), crate::sysctl::RpFilter::Strict);
}

#[test]
fn everything_that_can_be_written_is_read() {
    let text = r#"
host = { device = "tide0" }
sysctl."net.ipv4.icmp_echo_ignore_all" = true
sysctl.net.ipv4.ip_default_ttl = "0x20"
[[interface]]
name = "br0"
kind = "bridge"
ports = ["tap0", "tap1"]
port_kind = "tap"
address = "192.168.0.1/24"
mac = "02:00:00:00:00:01"
mtu = 9000
[[interface]]
name = "wan0"
address = ["dhcp", "2001:db8::1/64"]
metric = 5
[[interface]]
name = "eth2"
[[route]]
to = "2001:db8:1::/48"
via = "fe80::1"
dev = "wan0"
metric = 7
[[route]]
to = "10.0.0.0/8"
kind = "unreachable"
[[route]]
to = "10.9.0.0/16"
dev = "br0"
"#;
    let config = good(load(text, &Flags::default()));
    let br0 = config.interface("br0").unwrap();
    let port = |name: &str| Port { name: name.to_owned(), kind: PortKind::Tap };
    assert_eq!(br0.kind, Kind::Bridge(vec![port("tap0"), port("tap1")]));
    assert_eq!((br0.mtu, br0.mac), (Some(9000), Some(MacAddr([2, 0, 0, 0, 0, 1]))));
    let wan0 = config.interface("wan0").unwrap();
    assert!(wan0.addresses.dhcp() && wan0.dhcp_metric == 5 && config.is_uplink(wan0));
    assert_eq!(config.interface("eth2").unwrap().addresses, Addresses::Adopt);
    assert_eq!(config.routes[0].metric, 7);
    assert_eq!(config.routes[1].kind, RouteKind::Unreachable);
    assert_eq!(config.routes[2].dev.as_deref(), Some("br0"));
    assert_eq!(config.host.as_ref().unwrap().device, "tide0");
    assert!(config.sysctls.icmp_echo_ignore_all(Family::V4));
    assert_eq!(config.sysctls.ip_default_ttl(), 32);
    assert_eq!(config.control, Path::new(DEFAULT_CONTROL));
    assert!(config.workers >= 1);
}

#[test]
fn flags_alone_make_a_gateway() {
    let flags = flags(
        &["lan0=192.168.0.1/24,fd00:1::1/64", "tap0=10.3.0.1/16,kind=tap", "eth9"],
        &["wan0=203.0.113.1/24,2001:db8::1/64,via=203.0.113.2,via=2001:db8::2", "wan1=dhcp"],
    );
    let config = good(Config::from_parts(None, &flags));
    assert_eq!(names(config.lans()), ["lan0", "tap0", "eth9"]);
    assert_eq!(names(config.uplinks()), ["wan0", "wan1"]);
    assert_eq!(config.interface("tap0").unwrap().kind, Kind::Tap);
    assert_eq!(config.interface("eth9").unwrap().addresses, Addresses::Adopt);
    assert_eq!(config.interface("wan1").unwrap().dhcp_metric, 1);
    let to: Vec<String> = config.routes.iter().map(|r| r.to.to_string()).collect();
    assert_eq!(to, ["0.0.0.0/0", "::/0"]);
    assert!(config.routes.iter().all(|r| r.dev.as_deref() == Some("wan0") && r.metric == 0));
}

#[test]
fn flags_win_over_the_file() {
    let mut flags = flags(
        &["lan0=10.0.0.1/8", "lan1=172.16.0.1/12"],
        &["wan0=198.51.100.1/24,via=198.51.100.2"],
    );
    flags.workers = Some(4);
    flags.control = Some("c.sock".into());
    flags.rules = Some("other.rules".into());
    let config = good(load(EXAMPLE, &flags));
    assert_eq!(names(config.lans()), ["lan0", "lan1"]);
    let prefixes = config.interface("lan0").unwrap().addresses.prefixes();
    assert_eq!(prefixes, ["10.0.0.1/8".parse().unwrap()]);
    assert_eq!(config.routes.len(), 1);
    assert_eq!(config.routes[0].via, Some("198.51.100.2".parse().unwrap()));
    assert_eq!((config.workers, config.control.as_path()), (4, Path::new("c.sock")));
    assert_eq!(config.rules.ipv4.as_deref(), Some(Path::new("other.rules")));
    assert_eq!(config.rules.ipv6.as_deref(), Some(Path::new("/srv/ip6tables.rules")));
}

#[test]
fn sysctl_files_are_read_in_order() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.conf"), "net.ipv4.ip_default_ttl = 1\n").unwrap();
    std::fs::write(folder.path().join("b.conf"), "net.ipv4.icmp_ratelimit = 9x\n").unwrap();
    let text = "[sysctl]\n\"net.ipv4.ip_default_ttl\" = 2\nfile = \"a.conf\"\n\
                [[interface]]\nname = \"a\"\n";
    let source = Source::new("g.toml", text);
    let config = good(Config::from_parts(Some((&source, folder.path())), &Flags::default()));
    assert_eq!(config.sysctls.ip_default_ttl(), 2);
    let a = folder.path().join("a.conf");
    let flags = Flags { sysctl: vec![a], ..Flags::default() };
    let config = good(Config::from_parts(Some((&source, folder.path())), &flags));
    assert_eq!(config.sysctls.ip_default_ttl(), 1);
    let b = folder.path().join("b.conf");
    let flags = Flags { sysctl: vec![b.clone(), "/nowhere/c.conf".into()], ..Flags::default() };
    let report = Config::from_parts(Some((&source, folder.path())), &flags).unwrap_err();
    assert!(report.is_usage());
    let lines: Vec<String> = report.diagnostics.iter().map(ToString::to_string).collect();
    assert!(lines[0].starts_with(&format!("error: {}:1:27: `9x` is no value", b.display())));
    assert!(lines[1].starts_with("error: command line:2:10: /nowhere/c.conf: No such file"));
}

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
            "lan0",
            "wan0,via=203.0.113.2",
            "2:14: a comma follows the name `wan0`; expected `=` before the first item (write \
             wan0=via=203.0.113.2)",
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

#[test]
fn the_log_and_the_state() {
    let base = "[[interface]]\nname = \"a\"\naddress = \"10.0.0.1/8\"\n";
    let config = |text: &str, flags: Flags| good(load(&format!("{base}{text}"), &flags));
    let file = |path: &str| LogTo::File(PathBuf::from(path));
    let nflog = |list: &[(Option<u16>, &str)]| {
        list.iter().map(|(group, path)| (*group, PathBuf::from(path))).collect()
    };
    let plain = config("", Flags::default());
    assert_eq!((plain.log, plain.state), (Log::default(), None));
    let text = "[log]\nto = { file = \"l\" }\nnflog = { 5 = \"five\", 0 = \"/nil\" }\n\
                [state]\nfile = \"s\"\n";
    let written = config(text, Flags::default());
    assert_eq!(written.log.to, file("/etc/tidegate/l"));
    let groups = nflog(&[(Some(5), "/etc/tidegate/five"), (Some(0), "/nil")]);
    assert_eq!(written.log.nflog, groups);
    let state = |every| Some(State { file: "/etc/tidegate/s".into(), every });
    assert_eq!(written.state, state(Some(DEFAULT_STATE_INTERVAL)));
    assert_eq!(config(&format!("{text}every = 0\n"), Flags::default()).state, state(None));
    let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
    // Flags win; those that name no group stand for all.
    let flags = Flags {
        log: Some("syslog".into()),
        nflog: own(&["all=x", "7=seven"]),
        state: Some("here".into()),
        ..Flags::default()
    };
    let over = config(text, flags);
    assert_eq!(over.log.to, LogTo::Syslog(SYSLOG.into()));
    assert_eq!(over.log.nflog, nflog(&[(None, "all=x"), (Some(7), "seven")]));
    assert_eq!(over.state.unwrap().file, Path::new("here"));
    for (log, to) in [
        ("stderr", LogTo::Stderr),
        ("file=a=b", file("a=b")),
        ("syslog=/run/log", LogTo::Syslog("/run/log".into())),
    ] {
        let flags = Flags { log: Some(log.into()), ..Flags::default() };
        assert_eq!(config("", flags).log.to, to);
    }
    for (log, nflog, want) in [
        (
            Some("files=x"),
            &[][..],
            "error: command line:1:7: `files=x` is no place for the log; expected stderr, syslog or \
             a file (a file is written { file = \"…\" }, with --log file=…)",
        ),
        (
            None,
            &["a", "99999=b"],
            "error: command line:2:9: `99999` is no group of NFLOG; expected a number from 0 to 65535",
        ),
        (None, &["a", "b"], "error: command line:2:9: a second file for all groups"),
        (
            Some("file=a"),
            &["a"],
            "error: command line:2:9: a is written to already (groups that share \
             a file need no number)",
        ),
    ] {
        let flags = Flags { log: log.map(str::to_owned), nflog: own(nflog), ..Flags::default() };
        assert_eq!(said(load(base, &flags)), [want]);
    }
}
