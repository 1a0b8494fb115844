//! fail2ban: its chains come and go, and who is banned is blocked.

use tidegate::lab::netns::Netns;
use tidegate::lab::traffic::service::Service;

use super::harness::{DEADLINE, Gateway, Outcome, TWO, Tried, knock, two_hosts};
use super::room::{Names, Room, same_start};

const RULES: &str = "*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
*nat
-A POSTROUTING -o wan0 -j MASQUERADE
COMMIT
";

const FILTER: &str = "[Definition]
failregex = failure from <HOST>$
";

/// A jail, with the action's name and its options.
fn jail(action: &str) -> String {
    format!(
        "[DEFAULT]\nbackend = polling\nusedns = no\nbantime = 600\nfindtime = 600\nmaxretry = 2\n\
         [sshd]\nenabled = false\n\
         [knock]\nenabled = true\nfilter = knock\nlogpath = /var/log/knock.log\naction = {action}\n"
    )
}

fn prepare(room: &mut Room, action: &str) -> Outcome {
    std::fs::write(room.path("jail.local"), jail(action))?;
    std::fs::write(room.path("knock.conf"), FILTER)?;
    room.done("cp jail.local /etc/fail2ban/; cp knock.conf /etc/fail2ban/filter.d/")?;
    room.done(": >/var/log/knock.log")?;
    Ok(())
}

/// fail2ban does things when it gets to them.
fn until(room: &mut Room, what: &str, so: impl Fn(&str) -> bool) -> Outcome {
    let started = std::time::Instant::now();
    loop {
        let rules = room.rules()?;
        if so(&rules) {
            return Ok(());
        }
        if started.elapsed() > DEADLINE {
            let log = room.done("cat /var/log/fail2ban.log")?;
            return Err(format!("not within {DEADLINE:?}: {what}\n{rules}\n{log}").into());
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

struct Lab {
    _network: tidegate::lab::topology::Network,
    gateway: Gateway,
    client: Netns,
    place: Netns,
    _service: Service,
}

fn lab() -> Tried<Lab> {
    let network = two_hosts().build()?;
    let (client, place) = (network.host("client").clone(), network.host("gw").clone());
    let service = Service::start(network.host("server"), "server", 7)?;
    let toml = format!("{TWO}\n[rules]\nipv4 = \"r\"\nipv6 = \"r\"\n");
    let gateway = Gateway::start(&place, &toml, &[("r", RULES)])?;
    Ok(Lab { _network: network, gateway, client, place, _service: service })
}

const SERVER: &str = "203.0.113.2:7";
const SERVER6: &str = "[2001:db8:1::2]:7";
const REPLY: &str = "reply from 203.0.113.2";
const REPLY6: &str = "reply from 2001:db8:1::2";
const BANNED: &str = "-A f2b-knock -s 192.168.0.2/32 -j REJECT --reject-with icmp-port-unreachable";
const BANNED6: &str =
    "-A f2b-knock -s fd00:1::2/128 -j REJECT --reject-with icmp6-port-unreachable";

pub fn bans_by_the_log_and_by_hand() -> Outcome {
    let lab = lab()?;
    let mut room = Room::new(&lab.place, Names::Gateway(&lab.gateway))?;
    prepare(
        &mut room,
        r#"iptables-multiport[name=knock, port="7,9", protocol=tcp, chain=FORWARD]"#,
    )?;
    room.done("fail2ban-client start")?;
    let free = || knock(&lab.client, SERVER);
    assert_eq!(free()?, REPLY);
    // By what stands in the log, once it stands there often enough.
    let failure = "echo $(date '+%Y-%m-%d %H:%M:%S') failure from 192.168.0.2 >>/var/log/knock.log";
    room.done(&format!("{failure}; {failure}"))?;
    until(&mut room, "the ban", |rules| rules.contains(BANNED))?;
    let jump = "-A FORWARD -p tcp -m multiport --dports 7,9 -j f2b-knock";
    assert!(room.rules()?.contains(jump));
    let refused = free()?;
    assert_ne!(refused, REPLY);
    assert!(refused.contains("unreachable") || refused.contains("203.0.113"), "{refused}");
    // By hand.
    assert_eq!(room.done("fail2ban-client set knock unbanip 192.168.0.2")?, "1\n");
    until(&mut room, "no ban", |rules| !rules.contains(BANNED))?;
    assert_eq!(free()?, REPLY);
    room.done("fail2ban-client set knock banip 192.168.0.2 fd00:1::2")?;
    until(&mut room, "both bans", |rules| rules.contains(BANNED) && rules.contains(BANNED6))?;
    assert_eq!(free()?, refused);
    assert_ne!(knock(&lab.client, SERVER6)?, REPLY6);
    restarts(&mut room, &free, &refused)?;
    room.done("fail2ban-client unban --all")?;
    until(&mut room, "no bans", |rules| !rules.contains("-j REJECT"))?;
    assert_eq!(free()?, REPLY);
    assert_eq!(knock(&lab.client, SERVER6)?, REPLY6);
    room.done("fail2ban-client stop")?;
    until(&mut room, "nothing left", |rules| !rules.contains("f2b-"))?;
    assert_eq!(free()?, REPLY);
    lab.gateway.stop()?;
    Ok(())
}

fn restarts(room: &mut Room, free: &dyn Fn() -> Tried<String>, refused: &str) -> Outcome {
    // Bans outlive both: they are in fail2ban's own database.
    for how in ["reload", "restart", "reload --restart knock"] {
        room.done(&format!("fail2ban-client {how}"))?;
        until(room, how, |rules| {
            [BANNED, BANNED6].iter().all(|ban| rules.matches(ban).count() == 1)
        })?;
        assert_eq!(free()?, refused, "{how}");
    }
    // Somebody's flush takes the chain away; the next ban puts it back.
    room.done("iptables -F; iptables -X")?;
    room.done("fail2ban-client set knock banip 192.0.2.99")?;
    until(room, "the chain again", |rules| rules.contains("-A f2b-knock -s 192.0.2.99/32"))?;
    Ok(())
}

/// Every action that is made of iptables' calls, with the kernel and with the gateway.
const ACTIONS: &[&str] = &[
    "iptables[name=knock, port=ssh, protocol=tcp]",
    r#"iptables-multiport[name=knock, port="domain,80,8000:8010", protocol="tcp,udp"]"#,
    "iptables-allports[name=knock]",
    "iptables-new[name=knock, port=http, chain=FORWARD]",
    r#"iptables[type=multiport, name=knock, port="ssh,http", blocktype=DROP]"#,
    "iptables[type=allports, name=knock, protocol=all, returntype=ACCEPT]",
    r#"iptables-multiport-log[name=knock, port="ssh", protocol=tcp]"#,
];
/// Those that need `ipset` as well.
const WITH_SETS: &[&str] = &[
    "iptables-ipset-proto4[name=knock, port=ssh, protocol=tcp]",
    "iptables-ipset-proto6[name=knock, port=ssh, protocol=tcp]",
    "iptables-ipset-proto6-allports[name=knock]",
];

pub fn every_action() -> Outcome {
    let lab = lab()?;
    let mut ours = Room::new(&lab.place, Names::Gateway(&lab.gateway))?;
    let mut kernel = Room::new(&Netns::new()?, Names::Kernel)?;
    same_start(&mut kernel, RULES)?;
    let with_sets = if ours.has_name("ipset") { WITH_SETS } else { &[] };
    for action in ACTIONS.iter().chain(with_sets) {
        let (theirs, ours) = (life(&mut kernel, action)?, life(&mut ours, action)?);
        assert_eq!(ours, theirs, "{action}");
        // A set's members are no rules.
        let in_rules = ours.iter().any(|text| text.contains("192.0.2.7"));
        assert_eq!(in_rules, !action.contains("ipset"), "{ours:?}");
    }
    let sorted = |room: &Room| {
        let calls = room.calls();
        let mut calls: Vec<String> = calls.lines().map(str::to_owned).collect();
        // Looked at until something is so, which may take longer here or there.
        calls.retain(|call| !call.contains("-save"));
        calls
    };
    assert_eq!(sorted(&ours), sorted(&kernel));
    lab.gateway.stop()?;
    Ok(())
}

/// The rules at the stations of a jail's life.
fn life(room: &mut Room, action: &str) -> Tried<Vec<String>> {
    prepare(room, action)?;
    let mut seen = Vec::new();
    room.done("rm -f /var/lib/fail2ban/*; fail2ban-client start")?;
    room.done("fail2ban-client set knock banip 192.0.2.7 2001:db8::7")?;
    // A set is no rule, but the rule that names it is.
    let sets = action.contains("ipset");
    let banned = |rules: &str| {
        sets && rules.contains("--match-set")
            || rules.contains("192.0.2.7") && rules.contains("2001:db8::7")
    };
    until(room, action, banned)?;
    seen.push(room.rules()?);
    room.done("fail2ban-client set knock unbanip 192.0.2.7")?;
    until(room, action, |rules| sets || !rules.contains("192.0.2.7"))?;
    seen.push(room.rules()?);
    room.done("fail2ban-client stop")?;
    let name = if sets { "match-set" } else { "f2b-" };
    until(room, action, |rules| !rules.contains(name))?;
    seen.push(room.rules()?);
    Ok(seen)
}
