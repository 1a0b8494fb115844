//! Where log lines and packets of NFLOG go.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::Command;

use nix::sys::signal::Signal;

use super::harness::{
    DEADLINE, Gateway, Outcome, TWO, Tried, ask_udp, ping, text, two_hosts, wait,
};

const RULES: &str = "*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -p icmp -j LOG --log-prefix \"ping: \"
-A FORWARD -p udp --dport 9 -j NFLOG --nflog-group 5 --nflog-prefix \"nine\" --nflog-threshold 1
-A FORWARD -p udp --dport 10 -j NFLOG --nflog-group 6 --nflog-prefix \"ten\" --nflog-size 24
-A FORWARD -p udp --dport 11 -j NFLOG --nflog-group 7 --nflog-prefix \"eleven \"
COMMIT
";

fn toml(log: &str) -> String {
    format!("{TWO}\n[rules]\nipv4 = \"r\"\n\n[log]\n{log}\n")
}

pub fn lines_go_to_a_file_that_is_rotated() -> Outcome {
    let network = two_hosts().build()?;
    let client = network.host("client");
    let toml = toml("to = { file = \"lines\" }");
    let gateway = Gateway::start(network.host("gw"), &toml, &[("r", RULES), ("lines", "old\n")])?;
    let read = |name: &str| fs::read_to_string(gateway.path(name)).unwrap_or_default();
    ping(client, "192.168.0.1")?;
    wait("a line", || read("lines").contains(" tidegate: ping: IN=lan0 OUT= MAC="))?;
    assert!(read("lines").starts_with("old\n"), "{}", read("lines"));
    fs::rename(gateway.path("lines"), gateway.path("lines.1"))?;
    gateway.signal(Signal::SIGHUP)?;
    wait("a new file", || gateway.path("lines").exists())?;
    gateway.wait_for_log("rules reloaded")?;
    let before = read("lines.1");
    ping(client, "192.168.0.1")?;
    wait("a line in the new file", || read("lines").contains("ping: IN=lan0"))?;
    assert_eq!(read("lines.1"), before);
    wait("the count", || gateway.status().is_ok_and(|s| s.logged >= 2 && s.log_lost == 0))?;
    let log = gateway.stop()?;
    assert!(!log.contains("ping: "), "{log}");
    Ok(())
}

pub fn lines_go_to_syslog() -> Outcome {
    let network = two_hosts().build()?;
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("log");
    let daemon = UnixDatagram::bind(&path)?;
    daemon.set_read_timeout(Some(DEADLINE))?;
    let toml = toml(&format!("to = {{ syslog = \"{}\" }}", path.display()));
    let gateway = Gateway::start(network.host("gw"), &toml, &[("r", RULES)])?;
    ping(network.host("client"), "192.168.0.1")?;
    let mut buffer = [0; 2048];
    let n = daemon.recv(&mut buffer)?;
    let line = text(&buffer[..n]);
    // Level warning of the kernel's facility.
    assert!(
        line.starts_with("<4>") && line.contains(" tidegate: ping: IN=lan0 OUT= MAC="),
        "{line}"
    );
    gateway.stop()?;
    Ok(())
}

/// What tcpdump makes of a file; with `-e` it shows the group.
fn dumped(gateway: &Gateway, name: &str) -> Tried<String> {
    // Debian's tcpdump becomes another user, who may not look into the folder.
    let user = nix::unistd::User::from_uid(nix::unistd::getuid())?.map(|u| u.name);
    let mut command = Command::new("tcpdump");
    if let Some(user) = user {
        command.args(["-Z", &user]);
    }
    let done = command.args(["-enr"]).arg(gateway.path(name)).output()?;
    if !done.status.success() {
        return Err(text(&done.stderr).into());
    }
    Ok(text(&done.stdout))
}

pub fn nflog_is_a_capture() -> Outcome {
    let network = two_hosts().build()?;
    let client = network.host("client");
    let toml = toml("nflog = { 5 = \"five.pcapng\", 6 = \"six.pcapng\" }");
    let gateway = Gateway::start(network.host("gw"), &toml, &[("r", RULES)])?;
    for port in [9, 10, 11] {
        ask_udp(client, &format!("203.0.113.2:{port}"))?;
    }
    // Nobody listens to group 7.
    gateway.wait_for_log("<5>eleven IN=lan0 OUT=wan0 MAC=")?;
    gateway.wait_for_log(" NFLOG=7 ")?;
    let shown = |name: &str, port: u16, group: u16| {
        let want = [format!("resource ID {group},"), format!("> 203.0.113.2.{port}: UDP")];
        let mut said = String::new();
        wait(name, || {
            said = dumped(&gateway, name).unwrap_or_else(|e| e.to_string());
            want.iter().all(|part| said.contains(part))
        })
        .map_err(|e| format!("{e}: {want:?}\n{said}"))
    };
    shown("five.pcapng", 9, 5)?;
    // The other is cut behind the ports.
    wait("group 6", || {
        fs::read(gateway.path("six.pcapng"))
            .is_ok_and(|bytes| bytes.windows(4).any(|part| part == b"ten\0"))
    })?;
    let bytes = fs::read(gateway.path("six.pcapng"))?;
    for name in [&b"lan0"[..], b"wan0"] {
        assert!(bytes.windows(4).any(|part| part == name), "{name:?} isn't described");
    }
    dumped(&gateway, "six.pcapng")?;
    wait("the count", || gateway.status().is_ok_and(|s| s.logged >= 3))?;
    gateway.stop()?;
    Ok(())
}

pub fn a_traced_packet_tells_every_rule() -> Outcome {
    let network = two_hosts().build()?;
    let client = network.host("client");
    let toml = format!("{TWO}\n[rules]\nipv4 = \"r\"\n");
    let gateway = Gateway::start(network.host("gw"), &toml, &[("r", RULES)])?;
    let control = gateway.control().display().to_string();
    let trace = ["iptables", "-t", "raw", "-I", "PREROUTING", "-p", "icmp", "-j", "TRACE"];
    let done = iptables(&control, &trace)?;
    assert!(done.is_empty(), "{done}");
    ping(client, "192.168.0.1")?;
    gateway.wait_for_log("TRACE: filter:INPUT:policy:2 ")?;
    let log = gateway.stop()?;
    let steps: Vec<&str> =
        log.lines().filter_map(|line| line.strip_prefix("<4>TRACE: ")?.split(' ').next()).collect();
    let want = ["raw:PREROUTING:policy:2", "filter:INPUT:rule:1", "filter:INPUT:policy:2"];
    assert_eq!(steps[..3], want, "{log}");
    Ok(())
}

/// Calls a program of the gateway; what it complains of.
fn iptables(control: &str, args: &[&str]) -> Tried<String> {
    let mut command = super::harness::tidegate();
    let done = command.env("TIDEGATE_CONTROL", control).args(args).output()?;
    Ok(text(&done.stderr))
}
