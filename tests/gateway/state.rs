//! What a gateway keeps from one run to the next, and rules restored while it runs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;

use nix::sys::signal::Signal;
use tidegate_packet::Family;

use super::harness::{
    DEADLINE, Gateway, Outcome, Tried, ping, run, state_of, text, tidegate, two_hosts,
};

const RULES: &str = "*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -p icmp -m recent --set --name SEEN --mask 255.255.255.255 --rsource -j ACCEPT
COMMIT
";

const FLAGS: [&str; 2] =
    ["--lan=lan0=192.168.0.1/24", "--uplink=wan0=203.0.113.1/24,via=203.0.113.2"];

/// Calls the command against a gateway: exit status, output, complaints.
fn call(gateway: &Gateway, args: &[&str]) -> Tried<(Option<i32>, String, String)> {
    let done = tidegate().env("TIDEGATE_CONTROL", gateway.control()).args(args).output()?;
    Ok((done.status.code(), text(&done.stdout), text(&done.stderr)))
}

fn well(gateway: &Gateway, args: &[&str]) -> Tried<String> {
    match call(gateway, args)? {
        (Some(0), out, _) => Ok(out),
        other => Err(format!("{args:?}: {other:?}").into()),
    }
}

pub fn rules_outlive_a_restart() -> Outcome {
    let network = two_hosts().build()?;
    let (client, gw) = (network.host("client"), network.host("gw"));
    let dir = tempfile::tempdir()?;
    let (rules, state) = (dir.path().join("r"), dir.path().join("state"));
    fs::write(&rules, RULES)?;
    let own = [format!("--rules={}", rules.display()), format!("--state={}", state.display())];
    let flags: Vec<&str> = FLAGS.into_iter().chain(own.iter().map(String::as_str)).collect();
    let start = || Gateway::start_flags(gw, &flags, &[]);
    const BAN: [&str; 6] = ["-s", "192.168.0.66/32", "-j", "DROP", "-m", "comment"];
    let counted = |gateway: &Gateway| -> Tried<Vec<String>> {
        let saved = gateway.rules(Family::V4)?;
        Ok(saved.lines().filter(|l| l.contains("-A INPUT")).map(str::to_owned).collect())
    };

    let gateway = start()?;
    let ban = [&["iptables", "-A", "INPUT"][..], &BAN, &["--comment", "ban"]].concat();
    well(&gateway, &ban)?;
    ping(client, "192.168.0.1")?;
    let before = counted(&gateway)?;
    assert!(before[0].contains(":84] ") || before[0].contains(":168] "), "{before:?}");
    assert!(before[1].contains("ban"), "{before:?}");
    let seen = well(&gateway, &["recent", "SEEN"])?;
    assert!(seen.contains("192.168.0.2"), "{seen}");
    gateway.stop()?;
    assert_eq!(fs::metadata(&state)?.permissions().mode() & 0o777, 0o600);

    // Rules changed by command, their counters and the list are there again, and a state that is saved
    // again is the same.
    let gateway = start()?;
    assert_eq!(counted(&gateway)?, before);
    assert!(well(&gateway, &["recent", "SEEN"])?.contains("192.168.0.2"));
    // A reload reads the files, and says what that costs.
    let (status, _, err) =
        call(&gateway, &["reload", "--control", &gateway.control().display().to_string()])?;
    assert!(status == Some(0) && err.contains("changed by command are dropped"), "{err}");
    assert_eq!(counted(&gateway)?.len(), 1);
    let (_, _, err) = call(&gateway, &["reload"])?;
    assert_eq!(err, "", "there was nothing to drop");
    well(&gateway, &ban)?;
    gateway.stop()?;

    // A rules file that was changed meanwhile wins; that is said.
    fs::write(&rules, RULES.replace("FORWARD ACCEPT", "FORWARD DROP"))?;
    let gateway = start()?;
    gateway.wait_for_log("the rules file has changed since the state was saved")?;
    assert_eq!(counted(&gateway)?.len(), 1);
    assert!(gateway.rules(Family::V4)?.contains(":FORWARD DROP"));
    assert!(well(&gateway, &["recent", "SEEN"])?.contains("192.168.0.2"));
    gateway.stop()?;
    Ok(())
}

pub fn a_damaged_state_touches_nothing() -> Outcome {
    let network = two_hosts().build()?;
    let dir = tempfile::tempdir()?;
    let state = dir.path().join("state");
    fs::write(&state, "%tidegate state 1\n%ipv4 0\n*filter\n-A INPUT -j NOWHERE\nCOMMIT\n%end\n")?;
    let before = state_of(&network, "gw", "lan0")?;
    let (flag, control) = (format!("--state={}", state.display()), dir.path().join("c.sock"));
    let control = format!("--control={}", control.display());
    let said = run(network.host("gw"), &[&["run"], &FLAGS[..], &[&flag, &control]].concat())?;
    let told = text(&said.stderr);
    assert_eq!(said.status.code(), Some(1), "{told}");
    assert!(
        told.contains(&format!("{}:4:", state.display())) && told.contains("NOWHERE"),
        "{told}"
    );
    assert_eq!(state_of(&network, "gw", "lan0")?, before);
    assert!(fs::read_to_string(&state)?.contains("NOWHERE"), "it is still there to be looked at");
    Ok(())
}

pub fn restore_is_all_or_nothing() -> Outcome {
    let network = two_hosts().build()?;
    let gateway = Gateway::start_flags(network.host("gw"), &FLAGS, &[])?;
    let file = |name: &str, content: &str| -> Tried<String> {
        fs::write(gateway.path(name), content)?;
        Ok(gateway.path(name).display().to_string())
    };
    let rules = || {
        Ok::<_, Box<dyn std::error::Error>>([
            gateway.rules(Family::V4)?,
            gateway.rules(Family::V6)?,
        ])
    };
    let bare = |rules: [String; 2]| {
        rules
            .map(|text| text.lines().filter(|l| !l.starts_with('#')).collect::<Vec<_>>().join("\n"))
    };
    let before = well(&gateway, &["save"])?;
    let before_bare = bare(rules()?);
    let saved = file("saved", &before)?;
    let v4 = file("rules.v4", RULES)?;
    let bad = file("bad.v6", "*filter\n-A INPUT --dprot 1 -j DROP\nCOMMIT\n")?;
    let (status, _, err) = call(&gateway, &["restore", &v4, &bad])?;
    assert_eq!(status, Some(1));
    assert!(err.contains(&format!("{bad}:2:")) && err.contains("─"), "{err}");
    assert_eq!(bare(rules()?), before_bare);

    let v6 = file("good.v6", "*filter\n[3:4] -A FORWARD -p tcp -j DROP\nCOMMIT\n")?;
    well(&gateway, &["restore", "--counters", &v4, &v6])?;
    let [four, six] = rules()?;
    assert!(
        four.contains("--name SEEN") && six.contains("[3:4] -A FORWARD -p tcp -j DROP"),
        "{six}"
    );
    let more = file("more.v6", "*filter\n-A FORWARD -p udp -j DROP\nCOMMIT\n")?;
    well(&gateway, &["restore", "--noflush", &more])?;
    let [_, six] = rules()?;
    assert!(six.contains("-p tcp -j DROP") && six.contains("-p udp -j DROP"), "{six}");

    // And everything back.
    well(&gateway, &["restore", &saved])?;
    let [four, six] = rules()?;
    assert!(!four.contains("SEEN") && !six.contains("-p udp -j DROP"), "{four}{six}");
    gateway.stop()?;
    Ok(())
}

pub fn the_service_manager_is_told() -> Outcome {
    let network = two_hosts().build()?;
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("notify");
    let manager = UnixDatagram::bind(&path)?;
    manager.set_read_timeout(Some(DEADLINE))?;
    let hear = || -> Tried<String> {
        let mut buffer = [0; 256];
        let n = manager.recv(&mut buffer)?;
        Ok(text(&buffer[..n]).lines().next().unwrap_or_default().to_owned())
    };
    let path = path.display().to_string();
    let told = ("NOTIFY_SOCKET", path.as_str());
    let gateway = Gateway::start_told(network.host("gw"), &FLAGS, told)?;
    assert_eq!(hear()?, "READY=1");
    // It is ready indeed.
    assert!(gateway.control().exists());
    gateway.signal(Signal::SIGHUP)?;
    assert_eq!([hear()?, hear()?], ["RELOADING=1", "READY=1"]);
    gateway.stop()?;
    assert_eq!(hear()?, "STOPPING=1");
    Ok(())
}
