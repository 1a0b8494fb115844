//! `conntrack` against a running gateway.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tidegate::lab::traffic::service::Service;

use super::harness::{
    DEADLINE, Gateway, LASTING, Outcome, TWO, Tried, ask_tcp, ask_udp, ask_udp_from, ping,
    two_hosts, wait,
};
use super::names::Names;

const RULES: &str = "*nat
-A POSTROUTING -o wan0 -j SNAT --to-source 203.0.113.9
COMMIT
*mangle
-A PREROUTING -i lan0 -p udp -j CONNMARK --set-mark 5
COMMIT
";

pub(super) const SHOWN: &str = "conntrack v1.4.7 (conntrack-tools): ";

fn gateway(network: &tidegate::lab::topology::Network, sysctls: &str) -> Tried<Gateway> {
    let toml = format!("{TWO}\n[rules]\nipv4 = \"r\"\n\n[sysctl]\nfile = \"s\"\n");
    let toml = toml.replace("\"203.0.113.1/24\"", "\"203.0.113.1/24\", \"203.0.113.9/24\"");
    Gateway::start(network.host("gw"), &toml, &[("r", RULES), ("s", sysctls)])
}

/// The lines without what changes from run to run: seconds left, ports, identifiers, sizes.
fn bare(text: &str) -> Vec<String> {
    let word = |(index, word): (usize, &str)| match word.split_once('=') {
        _ if index == 2 && word.parse::<u32>().is_ok() => "*".to_owned(),
        Some((key, value)) if matches!(key, "sport" | "id" | "packets" | "bytes") => {
            format!("{key}={}", if matches!(value, "7" | "0") { value } else { "*" })
        }
        Some(("dport", value)) if value != "7" => "dport=*".to_owned(),
        _ => word.to_owned(),
    };
    let mut lines: Vec<String> = text
        .lines()
        .map(|line| line.split_whitespace().enumerate().map(word).collect::<Vec<_>>().join(" "))
        .collect();
    lines.sort();
    lines
}

const TCP: &str = "tcp 6 * TIME_WAIT src=192.168.0.2 dst=203.0.113.2 sport=* dport=7 \
                   src=203.0.113.2 dst=203.0.113.9 sport=7 dport=* [ASSURED] mark=0 use=1";
const UDP: &str = "udp 17 * src=192.168.0.2 dst=203.0.113.2 sport=* dport=7 src=203.0.113.2 \
                   dst=203.0.113.9 sport=7 dport=* mark=5 use=1";
const PING: &str = "icmp 1 * src=192.168.0.2 dst=203.0.113.2 type=8 code=0 id=* src=203.0.113.2 \
                    dst=203.0.113.9 type=0 code=0 id=* mark=0 use=1";

pub fn connections_are_listed_changed_and_deleted() -> Outcome {
    let network = two_hosts().build()?;
    let (client, gw) = (network.host("client"), network.host("gw"));
    let _service = Service::start(network.host("server"), "server", 7)?;
    let gateway = gateway(&network, LASTING)?;
    let names = Names::install(&gateway, gw)?;
    assert_eq!(ask_udp(client, "203.0.113.2:7")?, "server sees 203.0.113.9");
    assert_eq!(ask_tcp(client, "203.0.113.2:7")?, "server sees 203.0.113.9");
    ping(client, "203.0.113.2")?;
    // The client may still be saying goodbye.
    wait("the end of the TCP connection", || {
        names.done("conntrack -L -p tcp --state TIME_WAIT", "").is_ok_and(|out| !out.is_empty())
    })?;
    let (status, out, err) = names.call("conntrack -L", "")?;
    assert_eq!((status, bare(&out)), (0, vec![PING.into(), TCP.into(), UDP.into()]));
    assert_eq!(err, format!("{SHOWN}3 flow entries have been shown.\n"));
    for (filter, want) in [
        ("-p udp", vec![UDP]),
        ("-s 192.168.0.0/24 --dst 203.0.113.2 -p tcp --dport 7", vec![TCP]),
        ("-q 203.0.113.9 -p icmp --icmp-type 8", vec![PING]),
        ("-n 203.0.113.9 -m 5", vec![UDP]),
        ("-u ASSURED", vec![TCP]),
        ("-g", vec![]),
        ("-f ipv6", vec![]),
        ("dying", vec![]),
        ("expect", vec![]),
    ] {
        let (status, out, err) = names.call(&format!("conntrack -L {filter}"), "")?;
        assert_eq!((status, bare(&out)), (0, want.iter().map(|l| l.to_string()).collect()));
        let what = if filter == "expect" { "expectations" } else { "flow entries" };
        assert_eq!(err, format!("{SHOWN}{} {what} have been shown.\n", want.len()), "{filter}");
    }
    assert_eq!(names.done("conntrack -C", "")?, "3\n");
    assert!(names.done("conntrack -S", "")?.starts_with("cpu=0   \tfound=0 invalid=0 insert=0 "));
    changes(&names)
}

fn changes(names: &Names) -> Outcome {
    let (status, out, err) = names.call("conntrack -U -p udp -m 9 -t 1000 -u ASSURED", "")?;
    assert_eq!((status, err), (0, format!("{SHOWN}1 flow entries have been updated.\n")));
    assert!(out.contains("[ASSURED] mark=9 use=2") && out.starts_with("udp      17 "), "{out}");
    // It is so already.
    let (status, _, err) = names.call("conntrack -U -p udp -m 9", "")?;
    assert_eq!((status, err), (1, format!("{SHOWN}0 flow entries have been updated.\n")));
    let made = "-p tcp -s 10.9.0.1 -d 10.9.0.2 --sport 1000 --dport 80";
    let line = format!("conntrack -I {made} --state ESTABLISHED -t 90 -u SEEN_REPLY,ASSURED -m 3");
    let (status, out, err) = names.call(&line, "")?;
    assert_eq!((status, out.as_str()), (0, ""));
    assert_eq!(err, format!("{SHOWN}1 flow entries have been created.\n"));
    let (status, _, err) = names.call(&line, "")?;
    let why = "Operation failed: Such conntrack exists, try -U to update";
    assert_eq!((status, err), (1, format!("{SHOWN}{why}\n")));
    let out = names.done(&format!("conntrack -G {made}"), "")?;
    assert!(out.contains(" ESTABLISHED src=10.9.0.1 dst=10.9.0.2 sport=1000 dport=80 src="));
    assert!(out.ends_with("[ASSURED] mark=3 use=2\n"), "{out}");
    let (status, _, err) =
        names.call("conntrack -G -p tcp -s 1.1.1.1 -d 2.2.2.2 --sport 1 --dport 2", "")?;
    let why = "Operation failed: such conntrack doesn't exist";
    assert_eq!((status, err), (1, format!("{SHOWN}{why}\n")));
    // What is saved can be loaded again.
    let saved = names.done("conntrack -L -s 10.9.0.1 -o save", "")?;
    let (status, _, err) = names.call("conntrack -D -s 10.9.0.1", "")?;
    assert_eq!((status, err), (0, format!("{SHOWN}1 flow entries have been deleted.\n")));
    let (status, _, err) = names.call("conntrack -D -s 10.9.0.1", "")?;
    assert_eq!((status, err), (1, format!("{SHOWN}0 flow entries have been deleted.\n")));
    names.done("conntrack -R -", &saved)?;
    assert!(names.done(&format!("conntrack -G {made}"), "")?.contains(" ESTABLISHED "));
    assert_eq!(names.done("conntrack -L -o json", "")?.lines().count(), 4);
    let (status, _, err) = names.call("conntrack -F", "")?;
    let done = "connection tracking table has been emptied.";
    assert_eq!((status, err), (0, format!("{SHOWN}{done}\n")));
    assert_eq!(names.done("conntrack -C", "")?, "0\n");
    Ok(())
}

/// A `conntrack -E` and where it writes to.
pub(super) struct Listener {
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Listener {
    pub(super) fn start(names: &Names, file: &str, arguments: &[&str]) -> Tried<Self> {
        let at = |end: &str| names.folder.path().join(format!("{file}.{end}"));
        let (out, err) = (at("out"), at("err"));
        let child = Command::new(names.folder.path().join("conntrack"))
            .arg("-E")
            .args(arguments)
            .env("TIDEGATE_CONTROL", &names.control)
            .stdin(Stdio::null())
            .stdout(File::create(&out)?)
            .stderr(File::create(&err)?)
            .spawn()?;
        Ok(Self { child, out, err })
    }

    pub(super) fn said(&self) -> String {
        fs::read_to_string(&self.out).unwrap_or_default()
    }

    pub(super) fn wait_for(&self, text: &str) -> Outcome {
        wait(&format!("{text:?} among the events"), || self.said().contains(text))
            .map_err(|e| format!("{e}\n{}", self.said()).into())
    }

    /// Ends it as Ctrl-C does. What it has printed and what it says at the end.
    pub(super) fn stop(mut self) -> Tried<(String, String)> {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGINT)?;
        let started = std::time::Instant::now();
        let status = loop {
            match self.child.try_wait()? {
                Some(status) => break status,
                None if started.elapsed() > DEADLINE => {
                    self.child.kill()?;
                    return Err("conntrack -E doesn't end".into());
                }
                None => std::thread::sleep(std::time::Duration::from_millis(5)),
            }
        };
        assert_eq!(status.code(), Some(0));
        Ok((self.said(), fs::read_to_string(&self.err)?))
    }
}

pub fn events_are_told_as_they_happen() -> Outcome {
    let network = two_hosts().build()?;
    let (client, gw) = (network.host("client"), network.host("gw"));
    let _service = Service::start(network.host("server"), "server", 7)?;
    let gateway = gateway(&network, "net.netfilter.nf_conntrack_acct = 1\n")?;
    let names = Names::install(&gateway, gw)?;
    let all = Listener::start(&names, "all", &[])?;
    let gone = Listener::start(&names, "gone", &["-e", "DESTROY", "-o", "xml,timestamp"])?;
    // Both listen once they tell of a connection that was made after they began.
    let probe = "-p udp -s 10.9.0.1 -d 10.9.0.2 --sport 1 --dport 2";
    wait("listeners", || {
        let _ = names.done(&format!("conntrack -A {probe} -t 90"), "");
        let _ = names.done(&format!("conntrack -D {probe}"), "");
        all.said().contains("[DESTROY]") && gone.said().contains("destroy")
    })?;
    ask_udp(client, "203.0.113.2:7")?;
    ask_tcp(client, "203.0.113.2:7")?;
    all.wait_for("TIME_WAIT")?;
    names.done("conntrack -D -p tcp", "")?;
    all.wait_for("[DESTROY] tcp")?;
    gone.wait_for("protoname=\"tcp\"")?;
    let (said, end) = all.stop()?;
    let from_traffic: Vec<String> = said
        .lines()
        .filter(|line| !line.contains("10.9.0.1"))
        .map(|line| {
            let (kind, rest) = line.split_at(10);
            let rest = rest.split(" [USERSPACE]").next().unwrap_or_default();
            format!("{kind}{}", bare(rest).concat())
        })
        .collect();
    let tcp = |kind: &str, state: &str, more: &str| {
        format!(
            "{kind}tcp 6 * {state}src=192.168.0.2 dst=203.0.113.2 sport=* dport=7 {more}\
             src=203.0.113.2 dst=203.0.113.9 sport=7 dport=*"
        )
    };
    let udp = "udp 17 * src=192.168.0.2 dst=203.0.113.2 sport=* dport=7 ";
    let back = "src=203.0.113.2 dst=203.0.113.9 sport=7 dport=* mark=5";
    assert_eq!(
        from_traffic[..5],
        [
            format!("    [NEW] {udp}[UNREPLIED] {back}"),
            format!(" [UPDATE] {udp}{back}"),
            tcp("    [NEW] ", "SYN_SENT ", "[UNREPLIED] "),
            tcp(" [UPDATE] ", "SYN_RECV ", ""),
            tcp(" [UPDATE] ", "ESTABLISHED ", "") + " [ASSURED]",
        ],
        "{said}"
    );
    let last = from_traffic.last().ok_or("no events")?;
    assert!(last.starts_with("[DESTROY] tcp 6 * TIME_WAIT src=192.168.0.2"), "{last}");
    assert!(last.contains("packets=* bytes=* src=") && !last.contains("use="), "{last}");
    let count = said.lines().count();
    assert_eq!(end, format!("{SHOWN}{count} flow events have been shown.\n"));
    assert!(said.lines().all(|l| l.contains("10.9.0.1") == l.contains("sport=1 ")), "{said}");
    assert!(said.contains(" [USERSPACE] portid="), "{said}");
    let (xml, _) = gone.stop()?;
    assert!(xml.starts_with("<?xml") && xml.ends_with("</conntrack>\n"), "{xml}");
    assert!(!xml.contains("type=\"new\"") && xml.contains("</when></flow>\n"), "{xml}");
    Ok(())
}

pub fn sysctls_act_on_a_running_gateway() -> Outcome {
    let network = two_hosts().build()?;
    let (client, gw) = (network.host("client"), network.host("gw"));
    let _service = Service::start(network.host("server"), "server", 7)?;
    let gateway = gateway(&network, "")?;
    let names = Names::install(&gateway, gw)?;
    ask_udp(client, "203.0.113.2:7")?;
    let line = names.done("conntrack -L -p udp", "")?;
    assert!(!line.contains("packets="), "{line}");
    let sysctls = "net.netfilter.nf_conntrack_acct = 1\n\
                   net.netfilter.nf_conntrack_timestamp = 1\n\
                   net.netfilter.nf_conntrack_udp_timeout = 5000\n\
                   net.netfilter.nf_conntrack_max = 2\n";
    fs::write(gateway.path("s"), sysctls)?;
    super::harness::run(gw, &["reload", "--control", &gateway.control().to_string_lossy()])?;
    names.done("conntrack -F", "")?;
    for port in 20_000..20_003 {
        ask_udp_from(client, port, "203.0.113.2:7")?;
    }
    let out = names.done("conntrack -L -p udp -o ktimestamp", "")?;
    assert_eq!(out.lines().count(), 2, "{out}");
    for line in out.lines() {
        let left: u32 = line.split_whitespace().nth(2).ok_or("no time")?.parse()?;
        assert!((4900..=5000).contains(&left), "{line}");
        assert!(line.contains(" packets=1 bytes=") && line.contains(" delta-time="), "{line}");
        assert!(line.contains(" [start="), "{line}");
    }
    let stats = names.done("conntrack -S", "")?;
    assert!(stats.contains(" early_drop=1 "), "{stats}");
    Ok(())
}
