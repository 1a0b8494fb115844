//! Tables of configurations and what they make.

use super::*;
use crate::diagnostic::Style;

mod refused;

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
