//! The programs that people know, against a running gateway.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tidegate::control::{Reply, Request};
use tidegate::lab::traffic::service::Service;
use tidegate::lab::traffic::tcp;
use tidegate_packet::Family;

use super::harness::{
    DEADLINE, Gateway, Outcome, TWO, Tried, at, knock, run, text, two_hosts, wait,
};

const RULES: &str = "*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -i lan0 -j ACCEPT
COMMIT
*nat
-A POSTROUTING -s 192.168.0.0/24 -o wan0 -j MASQUERADE
COMMIT
";

/// Links to the program, and the gateway that they speak to.
pub(super) struct Names {
    pub(super) folder: tempfile::TempDir,
    pub(super) control: PathBuf,
}

impl Names {
    pub(super) fn install(gateway: &Gateway, from: &tidegate::lab::netns::Netns) -> Tried<Self> {
        let folder = tempfile::tempdir()?;
        let made = run(from, &["install-names", &folder.path().to_string_lossy()])?;
        assert!(made.status.success(), "{}", text(&made.stderr));
        Ok(Self { folder, control: gateway.control() })
    }

    /// Exit status, standard output, standard error.
    pub(super) fn call(&self, line: &str, input: &str) -> Tried<(i32, String, String)> {
        let mut words = line.split_whitespace();
        let name = words.next().ok_or("no program")?;
        let mut child = Command::new(self.folder.path().join(name))
            .args(words)
            .env("TIDEGATE_CONTROL", &self.control)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        child.stdin.take().ok_or("no input")?.write_all(input.as_bytes())?;
        let done = child.wait_with_output()?;
        let status = done.status.code().ok_or("killed")?;
        Ok((status, text(&done.stdout), text(&done.stderr)))
    }

    /// A call that does what it is told, and what it writes.
    pub(super) fn done(&self, line: &str, input: &str) -> Tried<String> {
        match self.call(line, input)? {
            (0, out, _) => Ok(out),
            (status, _, err) => Err(format!("{line}: {status}: {err}").into()),
        }
    }
}

pub fn rules_change_under_traffic() -> Outcome {
    let network = two_hosts().build()?;
    let client = network.host("client");
    let _service = Service::start(network.host("server"), "server", 7)?;
    let toml = format!("{TWO}\n[rules]\nipv4 = \"r\"\n");
    let gateway = Gateway::start(network.host("gw"), &toml, &[("r", RULES)])?;
    let names = Names::install(&gateway, network.host("gw"))?;
    let stop = AtomicBool::new(false);
    let stream = client.run(|| tcp::connect(None, at("203.0.113.2:7"), DEADLINE));
    let mut stream = stream.map_err(|e| e.to_string())?;
    thread::scope(|s| -> Outcome {
        // Echoes run all the time.
        let traffic = s.spawn(|| -> std::io::Result<u64> {
            let mut rounds = 0;
            while rounds <= 10 || !stop.load(Ordering::Relaxed) {
                let block = [rounds as u8; 1024];
                stream.write_all(&block)?;
                let mut back = [0; 1024];
                stream.read_exact(&mut back)?;
                assert!(back == block, "round {rounds}");
                rounds += 1;
            }
            Ok(rounds)
        });
        let tried = changes(&names, client);
        stop.store(true, Ordering::Relaxed);
        let rounds = traffic.join().map_err(|_| "the traffic panicked")??;
        tried?;
        assert!(rounds > 10, "{rounds}");
        Ok(())
    })?;
    gateway.stop()?;
    // Nobody is there any more.
    let (status, _, err) = names.call("iptables -S", "")?;
    assert_eq!(status, 3, "{err}");
    assert!(err.starts_with("iptables: no gateway runs with the control socket"), "{err}");
    assert_eq!(
        names.done("ip6tables-restore --version", "")?,
        "ip6tables-restore v1.8.9 (legacy)\n"
    );
    Ok(())
}

fn changes(names: &Names, client: &tidegate::lab::netns::Netns) -> Outcome {
    let packets = || -> Tried<u64> {
        let listed = names.done("iptables -S FORWARD -v", "")?;
        let rule = listed.lines().find(|l| l.contains("ESTABLISHED")).ok_or("no rule")?;
        let count = rule.split(" -c ").nth(1).and_then(|c| c.split(' ').next());
        Ok(count.ok_or("no count")?.parse()?)
    };
    // The first rules to be counted are those of the connection that is there.
    wait("packets of the connection", || packets().is_ok_and(|n| n >= 10))?;
    assert_eq!(knock(client, "203.0.113.2:7")?, "reply from 203.0.113.2");
    let before = packets()?;
    names.done(
        "iptables -w -I FORWARD -p tcp --dport 7 --syn -j REJECT --reject-with tcp-reset",
        "",
    )?;
    assert_eq!(knock(client, "203.0.113.2:7")?, "reset");
    assert!(packets()? >= before, "counters were lost");
    let check = "iptables -C FORWARD -p tcp --dport 7 --syn -j REJECT --reject-with tcp-reset";
    names.done(check, "")?;
    // One packet, unless its sender has lost patience.
    let listed = names.done("iptables -nvL FORWARD 1", "")?;
    let counted = |n: u64| format!("{n:5} {:5} REJECT     6    --  *      *", 60 * n);
    assert!((1..10).any(|n| listed.contains(&counted(n))), "{listed}");
    names.done("iptables -D FORWARD 1", "")?;
    let (status, _, err) = names.call(check, "")?;
    let want = "iptables: No chain/target/match by that name.\n";
    assert_eq!((status, err.as_str()), (1, want));
    assert_eq!(knock(client, "203.0.113.2:7")?, "reply from 203.0.113.2");
    // Whole tables, and what a failure leaves.
    let saved = names.done("iptables-save", "")?;
    let (status, _, err) = names
        .call("iptables-restore", "*filter\n-A FORWARD -j DROP\n-A FORWARD -j NOWHERE\nCOMMIT\n")?;
    assert_eq!(status, 2, "{err}");
    let settled = |text: &str| -> Vec<String> {
        let cut = |line: &str| line.split(" [").next().unwrap_or(line).to_owned();
        text.lines().filter(|l| !l.starts_with('#')).map(cut).collect()
    };
    assert_eq!(settled(&names.done("iptables-save", "")?), settled(&saved));
    names.done("iptables-restore -n", "*filter\n:f2b - [0:0]\n-I FORWARD -j f2b\n-A f2b -s 192.168.0.2 -p tcp --dport 7 --syn -j DROP\nCOMMIT\n")?;
    names.done("iptables -R f2b 1 -p tcp --dport 7 --syn -j REJECT --reject-with tcp-reset", "")?;
    assert_eq!(knock(client, "203.0.113.2:7")?, "reset");
    names.done("iptables-restore --counters", &saved)?;
    assert_eq!(knock(client, "203.0.113.2:7")?, "reply from 203.0.113.2");
    names.done("ip6tables -t mangle -A PREROUTING -j MARK --set-mark 1", "")?;
    assert!(names.done("ip6tables-save -t mangle", "")?.contains("--set-xmark 0x1/0xffffffff"));
    Ok(())
}

pub fn many_writers_at_a_time() -> Outcome {
    let network = two_hosts().build()?;
    let toml = format!("{TWO}\n[rules]\nipv4 = \"r\"\n");
    let gateway = Gateway::start(network.host("gw"), &toml, &[("r", RULES)])?;
    let names = Names::install(&gateway, network.host("gw"))?;
    // More than the socket serves at a time.
    thread::scope(|s| -> Outcome {
        let writers: Vec<_> = (0..24)
            .map(|n| {
                let names = &names;
                s.spawn(move || {
                    let call = |what| {
                        names.done(&format!("iptables -w {what}"), "").map_err(|e| e.to_string())
                    };
                    call(format!("-A INPUT -s 10.0.{n}.1 -j DROP"))?;
                    call(format!("-A INPUT -s 10.0.{n}.2 -j DROP"))?;
                    call(format!("-D INPUT -s 10.0.{n}.1 -j DROP"))
                })
            })
            .collect();
        for writer in writers {
            writer.join().map_err(|_| "a writer panicked")??;
        }
        Ok(())
    })?;
    let rules = gateway.rules(Family::V4)?;
    let count =
        |end: &str| rules.lines().filter(|l| l.contains(&format!(".{end}/32 -j DROP"))).count();
    assert_eq!((count("1"), count("2")), (0, 24), "{rules}");
    gateway.stop()?;
    Ok(())
}

pub fn lists_of_recent() -> Outcome {
    let network = two_hosts().build()?;
    let client = network.host("client");
    let _service = Service::start(network.host("server"), "server", 7)?;
    let toml = format!("{TWO}\n[rules]\nipv4 = \"r\"\n");
    let gateway = Gateway::start(network.host("gw"), &toml, &[("r", RULES)])?;
    let names = Names::install(&gateway, network.host("gw"))?;
    let socket = gateway.control().to_string_lossy().into_owned();
    let recent = |args: &[&str]| -> Tried<(bool, String)> {
        let done = run(client, &[&["recent", "--control", &socket], args].concat())?;
        Ok((done.status.success(), text(&done.stdout)))
    };
    assert_eq!(recent(&[])?, (true, String::new()));
    assert!(!recent(&["SCAN", "+192.168.0.2"])?.0, "no rule names it");
    names.done("iptables -I FORWARD -m recent --name SCAN --rcheck -j REJECT", "")?;
    assert_eq!(recent(&[])?, (true, "SCAN\n".to_owned()));
    assert_eq!(knock(client, "203.0.113.2:7")?, "reply from 203.0.113.2");
    assert!(recent(&["SCAN", "+192.168.0.2"])?.0);
    assert_ne!(knock(client, "203.0.113.2:7")?, "reply from 203.0.113.2");
    // A change of other rules leaves the list.
    names.done("iptables -A INPUT -j ACCEPT", "")?;
    let (_, listed) = recent(&["SCAN"])?;
    assert!(listed.starts_with("src=192.168.0.2 ttl: 0 last_seen: "), "{listed}");
    assert!(recent(&["SCAN", "-192.168.0.2"])?.0);
    assert_eq!(recent(&["SCAN"])?, (true, String::new()));
    assert_eq!(knock(client, "203.0.113.2:7")?, "reply from 203.0.113.2");
    gateway.stop()?;
    Ok(())
}

/// A set from a file, changed and exchanged under its rule, kept over a reload.
pub fn sets_that_rules_name() -> Outcome {
    let network = two_hosts().build()?;
    let client = network.host("client");
    let _service = Service::start(network.host("server"), "server", 7)?;
    let toml = format!("{TWO}\n[rules]\nipv4 = \"r\"\nsets = \"s\"\n");
    let rule = "-A FORWARD -m set --match-set blocked src -j REJECT\n";
    let rules = RULES.replace(":OUTPUT ACCEPT [0:0]\n", &format!(":OUTPUT ACCEPT [0:0]\n{rule}"));
    let sets = "create blocked hash:net\nadd blocked 10.0.0.0/8\n";
    let gateway = Gateway::start(network.host("gw"), &toml, &[("r", &rules), ("s", sets)])?;
    let names = Names::install(&gateway, network.host("gw"))?;
    let open = || knock(client, "203.0.113.2:7").map(|said| said == "reply from 203.0.113.2");
    assert!(open()?);
    names.done("ipset add blocked 192.168.0.0/24", "")?;
    assert!(!open()?);
    let reload = names.done("ipset list -t blocked", "")?;
    assert!(reload.contains("References: 1\nNumber of entries: 2\n"), "{reload}");
    let Reply::Reloaded(_) = gateway.ask(Request::Reload {})? else { return Err("reload".into()) };
    assert!(!open()?, "a reload keeps the sets");
    names.done("ipset restore", "create other hash:net\nadd other 198.51.100.0/24\n")?;
    names.done("ipset swap other blocked", "")?;
    assert!(open()?, "the rule follows the name");
    names.done("ipset destroy other", "")?;
    let (status, _, err) = names.call("ipset destroy blocked", "")?;
    let words = "ipset v7.17: Set cannot be destroyed: it is in use by a kernel component\n";
    assert_eq!((status, err.as_str()), (1, words));
    assert_eq!(names.call("ipset test blocked 198.51.100.9", "")?.0, 0);
    gateway.stop()?;
    Ok(())
}
