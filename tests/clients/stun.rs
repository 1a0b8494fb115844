//! A STUN client's opinion of the gateway.

use super::stage::{Outcome, Stage, Tried, wait};

/// What `stun` says about the NAT that it is behind.
fn opinion(stage: &Stage, client: &str, port: &str) -> Tried<String> {
    // Its exit status is its opinion in another form.
    let done = stage.start(client, &["stun", "198.51.100.10", "-p", port])?.finish()?;
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    let line = said.lines().find_map(|l| l.strip_prefix("Primary: "));
    Ok(line.ok_or(said.clone())?.trim().to_owned())
}

/// RFC 3489's tests, by a server with two addresses.
pub fn behaviour(stage: &Stage) -> Outcome {
    stage.run("server", &["ip", "address", "add", "198.51.100.11/24", "dev", "eth0"])?;
    let _server =
        stage.start("server", &["stund", "-h", "198.51.100.10", "-a", "198.51.100.11"])?;
    wait("the STUN server", || {
        stage.scene.at("server", || {
            let table = std::fs::read_to_string("/proc/thread-self/net/udp");
            table.is_ok_and(|t| t.matches(":0D96 ").count() >= 2)
        })
    })?;
    const KEPT: &str = "preserves ports, no hairpin";
    let opinions = |port| opinion(stage, "client", port);
    let want = format!("Independent Mapping, Port Dependent Filter, {KEPT}");
    assert_eq!(opinions("4000")?, want, "as the page has it");
    let rule = "-s 192.168.0.0/24 -o ppp0 -j MASQUERADE --random-fully";
    stage.iptables(&format!("-t nat -I POSTROUTING {rule}"))?;
    assert_eq!(opinions("5000")?, "Dependent Mapping, random port, no hairpin");
    if stage.kernel {
        return Ok(());
    }
    // What netfilter hasn't got. A rule of the filter table has to let strangers in.
    stage.iptables("-A fw-open -i ppp0 -m conntrack --ctstate DNAT -j ACCEPT")?;
    for (port, filtering, opinion) in [
        ("5100", "address-and-port-dependent", "Port Dependent"),
        ("5200", "address-dependent", "Address Dependent"),
        ("5300", "endpoint-independent", "Independent"),
    ] {
        let mapping = format!("--mapping endpoint-independent --filtering {filtering}");
        stage.iptables(&format!("-t nat -R POSTROUTING 1 {rule} {mapping}"))?;
        let want = format!("Independent Mapping, {opinion} Filter, random port, will hairpin");
        assert_eq!(opinions(port)?, want, "{mapping}");
    }
    Ok(())
}
