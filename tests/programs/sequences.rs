//! Calls as programs make them that are too much to be run here, and rules as they load them.
//!
//! A line of `sequences/*.txt` is a line for the shell; `<<END` at its end takes the lines up to
//! `END` as its input. `@` looks at the rules.

use std::fs;
use std::path::{Path, PathBuf};

use tidegate::lab::netns::Netns;
use tidegate::lab::traffic::service::Service;

use super::harness::{Gateway, Outcome, TWO, Tried, knock, two_hosts};
use super::room::{Names, Room, same_start, settled};

const OPEN: &str = "*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
COMMIT
";

const LOOK: &str = "iptables-save; ip6tables-save";

/// A line for the shell, and its input if it has any.
struct Step {
    line: String,
    input: Option<String>,
}

fn steps(text: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut lines = text.lines().filter(|l| !l.is_empty());
    while let Some(line) = lines.next() {
        let step = match line.strip_suffix("<<END") {
            _ if line.starts_with('#') => continue,
            _ if line == "@" => Step { line: LOOK.to_owned(), input: None },
            Some(line) => {
                let input = lines.by_ref().take_while(|l| *l != "END");
                let input = input.map(|l| format!("{l}\n")).collect();
                Step { line: format!("{line} <input"), input: Some(input) }
            }
            None => Step { line: line.to_owned(), input: None },
        };
        steps.push(step);
    }
    steps.push(Step { line: LOOK.to_owned(), input: None });
    steps
}

/// What a step gives, as it is compared.
fn outcome(room: &mut Room, step: &Step) -> Tried<(i32, String)> {
    if let Some(input) = &step.input {
        fs::write(room.path("input"), input)?;
    }
    let done = room.run(&step.line)?;
    let saved = done.out.contains("\n*") || done.out.starts_with("# Generated");
    Ok((done.status, if saved { settled(&done.out) } else { done.out }))
}

pub fn leave_what_iptables_leaves() -> Outcome {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/sequences");
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
    files.sort();
    assert!(files.len() >= 6, "{files:?}");
    let network = two_hosts().build()?;
    let mut wrong = String::new();
    for file in &files {
        let toml = format!("{TWO}\n[rules]\nipv4 = \"r\"\nipv6 = \"r\"\n");
        let gateway = Gateway::start(network.host("gw"), &toml, &[("r", OPEN)])?;
        let mut ours = Room::new(network.host("gw"), Names::Gateway(&gateway))?;
        let mut kernel = Room::new(&Netns::new()?, Names::Kernel)?;
        same_start(&mut kernel, OPEN)?;
        for step in steps(&fs::read_to_string(file)?) {
            let theirs = outcome(&mut kernel, &step)?;
            let ours = outcome(&mut ours, &step)?;
            // Ours may say more behind what iptables says.
            if ours.0 != theirs.0 || !ours.1.starts_with(&theirs.1) {
                let name = file.file_name().unwrap_or_default().to_string_lossy();
                wrong += &format!(
                    "{name}: {}\n{} with iptables\n{}{} here\n{}",
                    step.line, theirs.0, theirs.1, ours.0, ours.1
                );
            }
        }
        gateway.stop()?;
    }
    assert!(wrong.is_empty(), "{wrong}");
    Ok(())
}

/// The server is a pod's host, and kube-proxy's rules lead to its services.
pub fn services_are_reached() -> Outcome {
    let network = two_hosts().build()?;
    let (client, server) = (network.host("client"), network.host("server"));
    let _services = [8001, 8002].map(|port| Service::start(server, "server", port));
    let toml = format!("{TWO}\n[rules]\nipv4 = \"r\"\nipv6 = \"r\"\n");
    let gateway = Gateway::start(network.host("gw"), &toml, &[("r", OPEN)])?;
    let mut room = Room::new(network.host("gw"), Names::Gateway(&gateway))?;
    fs::write(room.path("batch"), BATCH)?;
    room.done("iptables -t nat -N KUBE-SERVICES; iptables -t nat -N KUBE-POSTROUTING")?;
    room.done("iptables -t nat -I PREROUTING -j KUBE-SERVICES")?;
    room.done("iptables -t nat -I POSTROUTING -j KUBE-POSTROUTING")?;
    room.done("iptables-restore --noflush --counters <batch")?;
    let ask = || knock(client, "10.96.0.10:80");
    for _ in 0..40 {
        // Which one is chance; each is there, and the client sees the service's address only.
        assert_eq!(ask()?, "reply from 10.96.0.10");
    }
    let counts = room.done("iptables -t nat -S KUBE-SVC-A -v")?;
    for end in ["KUBE-SEP-1", "KUBE-SEP-2"] {
        let rule = counts.lines().find(|l| l.contains(end)).ok_or("no rule")?;
        assert!(!rule.contains("-c 0 0"), "{counts}");
    }
    assert_eq!(knock(client, "10.96.0.11:80")?, "reset");
    // An endpoint goes.
    room.done(
        "printf '*nat\\n:KUBE-SVC-A - [0:0]\\n-A KUBE-SVC-A -j KUBE-MARK-MASQ\\n-A KUBE-SVC-A -j KUBE-SEP-2\\n:KUBE-SEP-1 - [0:0]\\n-X KUBE-SEP-1\\nCOMMIT\\n' \
         | iptables-restore --noflush --counters",
    )?;
    assert_eq!(ask()?, "reply from 10.96.0.10");
    gateway.stop()?;
    Ok(())
}

const BATCH: &str = "*filter
:KUBE-FORWARD - [0:0]
-I FORWARD -j KUBE-FORWARD
-A KUBE-FORWARD -m comment --comment \"default/empty has no endpoints\" -p tcp -d 10.96.0.11 --dport 80 -j REJECT --reject-with tcp-reset
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
COMMIT
*nat
:KUBE-SERVICES - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-SVC-A - [0:0]
:KUBE-SEP-1 - [0:0]
:KUBE-SEP-2 - [0:0]
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -m comment --comment \"service traffic requiring SNAT\" -j MASQUERADE --random-fully
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-SERVICES -m comment --comment \"default/web cluster IP\" -m tcp -p tcp -d 10.96.0.10 --dport 80 -j KUBE-SVC-A
-A KUBE-SVC-A ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ
-A KUBE-SVC-A -m statistic --mode random --probability 0.5000000000 -j KUBE-SEP-1
-A KUBE-SVC-A -j KUBE-SEP-2
-A KUBE-SEP-1 -m tcp -p tcp -j DNAT --to-destination 203.0.113.2:8001
-A KUBE-SEP-2 -m tcp -p tcp -j DNAT --to-destination 203.0.113.2:8002
COMMIT
";
