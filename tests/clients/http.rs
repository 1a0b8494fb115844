//! curl.

use super::stage::{Outcome, Stage, Tried};

fn get(stage: &Stage, from: &str, url: &str) -> Tried<String> {
    let said = stage.run(from, &["curl", "-sS", "--max-time", "30", "--noproxy", "*", url])?;
    // Which port the asker used is chance.
    let said = said.trim_end().trim_end_matches('.');
    Ok(said.rsplit_once(':').map_or(said, |(text, _)| text).to_owned())
}

/// Out through MASQUERADE, in through the port forward, and back in again.
pub fn curl(stage: &Stage) -> Outcome {
    let public = "http://203.0.113.1:8000/";
    for (from, url, want) in [
        ("client", "http://198.51.100.10/", "This is server. You are 203.0.113.1"),
        ("client2", "http://198.51.100.10/", "This is server. You are 203.0.113.1"),
        ("client", "http://[2001:db8:2::10]/", "This is server. You are [fd00:1::2]"),
        ("outsider", public, "This is web. You are 192.0.2.66"),
        ("server", public, "This is web. You are 198.51.100.10"),
        // Between the LANs nothing is translated.
        ("client2", "http://192.168.0.6/", "This is web. You are 10.3.0.2"),
    ] {
        assert_eq!(get(stage, from, url)?, want, "{from}: {url}");
    }
    // The page forwards what comes by the uplink; its own hosts find the port closed.
    let refused = get(stage, "client", public).expect_err("the page forwards nothing from inside");
    assert!(refused.to_string().contains("(7)"), "{refused}");
    stage.iptables("-t nat -A PREROUTING -d 203.0.113.1 -p tcp --dport 8000 -j DNAT --to-destination 192.168.0.6:80")?;
    assert_eq!(get(stage, "client2", public)?, "This is web. You are 10.3.0.2");
    // In the same network the answer has to take the way by the gateway, too.
    stage.iptables(
        "-t nat -A POSTROUTING -s 192.168.0.0/24 -d 192.168.0.6 -p tcp --dport 80 -j MASQUERADE",
    )?;
    assert_eq!(get(stage, "client", public)?, "This is web. You are 192.168.0.1");
    Ok(())
}
