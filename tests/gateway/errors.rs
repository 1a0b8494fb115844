//! Everything that keeps a gateway from starting is said, and leaves interfaces as they were.

use std::fs;

use tidegate::lab::topology::{End, Topology};

use super::harness::{Outcome, run, settled_state_of, state_of, text};

struct Case {
    config: &'static str,
    flags: &'static [&'static str],
    status: i32,
    says: &'static str,
}

const LAN: &str = "[[interface]]\nname = \"lan0\"\n";

fn cases() -> Vec<Case> {
    let case = |config, flags, status, says| Case { config, flags, status, says };
    vec![
        case("", &[], 2, "there is no interface to forward between"),
        case(LAN, &["--lan=eth7"], 1, "error: there is no interface eth7"),
        case(LAN, &["--uplink=wan0", "--lan=eth7"], 1, "error: there is no interface eth7"),
        case(
            "[[interface]]\nname = \"br0\"\nkind = \"bridge\"\nports = [\"lan0\"]\naddress = []\n\
             [[interface]]\nname = \"br1\"\nkind = \"bridge\"\nports = [\"wan0\", \"lan0\"]\n\
             address = []\n",
            &[],
            1,
            "gateway.toml:9:19]",
        ),
        case(
            "[[interface]]\nname = \"br0\"\nkind = \"bridge\"\nports = [\"lan0\", \"eth7\"]\n\
             address = []\n",
            &[],
            1,
            "error: there is no interface eth7",
        ),
        case(LAN, &["--rules=/nonexistent/r"], 1, "/nonexistent/r: No such file"),
        case(LAN, &["--sysctl=/nonexistent/s"], 2, "/nonexistent/s: No such file"),
        case(LAN, &["--config=/nonexistent/c"], 1, "/nonexistent/c: No such file"),
        case(LAN, &["--rules={}"], 1, "Is a directory"),
        case(LAN, &["--rules={}/bad.rules"], 1, "bad.rules:2:4]"),
        case(LAN, &["--sysctl={}/bad.conf"], 1, "bad.conf:1:29]"),
        case(LAN, &["--control={}/bad.rules"], 1, "there is a file of another kind"),
        case(LAN, &["--control={}/bad.rules/c.sock"], 1, "bad.rules/c.sock: not a directory"),
        case(LAN, &["--state=/nonexistent/s"], 1, "kept in /nonexistent/s: No such file"),
        case(LAN, &["--workers=0"], 2, "error: 0 workers can't be had"),
        case(LAN, &["--lan=wan0=192.168.0.300/24"], 2, "192.168.0.300"),
        case(
            "[[interface]]\nname = \"lan0\"\n[[route]]\nto = \"10.0.0.0/8\"\nvia = \"10.9.9.9\"\n",
            &[],
            1,
            "error: route to 10.0.0.0/8: next hop 10.9.9.9 is on no interface's network",
        ),
        case("[[interface]]\nname = \"lan0\"\n[host]\ndevice = \"wan0\"\n", &[], 1, "wan0: "),
        case("[[interface]]\nname = \"lo\"\n", &[], 1, "error: the name `lo` is taken"),
        case("[[interface]]\nname = \"lan0\"\ncolour = 1\n", &[], 1, "unknown key `colour`"),
    ]
}

pub fn nothing_is_touched_by_a_start_that_fails() -> Outcome {
    let network = Topology::new()
        .host("gw")
        .host("far")
        .link(
            End::new("gw", "lan0").address("192.168.0.1/24").address("fd00:1::1/64"),
            End::new("far", "a"),
        )
        .link(End::new("gw", "wan0").address("203.0.113.1/24"), End::new("far", "b"))
        .route("gw", "default", "203.0.113.2")
        .build()?;
    let state = || -> Result<_, Box<dyn std::error::Error>> {
        Ok([state_of(&network, "gw", "lan0")?, state_of(&network, "gw", "wan0")?])
    };
    settled_state_of(&network, "gw", "wan0")?;
    settled_state_of(&network, "gw", "lan0")?;
    let before = state()?;
    let dir = tempfile::tempdir()?;
    let folder = dir.path().to_string_lossy().into_owned();
    fs::write(dir.path().join("bad.rules"), "*filter\n-A NOWHERE -j ACCEPT\nCOMMIT\n")?;
    fs::write(dir.path().join("bad.conf"), "net.ipv4.conf.all.rp_filter=seven\n")?;
    let mut wrong = Vec::new();
    for (n, case) in cases().into_iter().enumerate() {
        let config = format!("{folder}/gateway.toml");
        let control = format!("--control={folder}/c.sock");
        let flags: Vec<String> = case.flags.iter().map(|f| f.replace("{}", &folder)).collect();
        let mut arguments = vec!["run"];
        let says = |flag: &str| flags.iter().any(|f| f.starts_with(flag));
        if !says("--control") && !case.config.is_empty() {
            arguments.push(&control);
        }
        fs::write(&config, case.config)?;
        let with_config = ["--config", &config];
        if !says("--config") && !case.config.is_empty() {
            arguments.extend(with_config);
        }
        arguments.extend(flags.iter().map(String::as_str));
        let done = run(network.host("gw"), &arguments)?;
        let said = text(&done.stderr);
        if done.status.code() != Some(case.status) || !said.contains(case.says) {
            wrong.push(format!(
                "{n} {arguments:?}: {}, {said}\ninstead of {}, {}",
                done.status, case.status, case.says
            ));
        }
        assert_eq!(state()?, before, "{arguments:?}");
        assert!(!dir.path().join("c.sock").exists(), "{arguments:?}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    Ok(())
}
