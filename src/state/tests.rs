use super::*;
use crate::diagnostic::Style;
use crate::sim::{Sim, SimConfig};
use std::os::unix::fs::PermissionsExt;

const RULES: &str = "*filter\n:INPUT ACCEPT [1:2]\n:FORWARD DROP [3:4]\n:OUTPUT ACCEPT [0:0]\n\
    [5:6] -A INPUT -m recent --set --name scan --mask 255.255.255.255 --rsource -j ACCEPT\nCOMMIT\n";
const SECOND: u64 = 1_000_000_000;

fn engine(rules: &str) -> Sim {
    Sim::new(&SimConfig { rules_v4: rules.to_owned(), ..SimConfig::default() }).unwrap()
}

fn moment(sim: &Sim, unix: u64) -> Moment {
    Moment { now: sim.now(), unix_nanos: unix * SECOND }
}

fn parse(text: &str) -> Result<State, String> {
    State::parse(&Source::new("state", text), &Sets::new(), Instant::ZERO)
        .map_err(|report| report.render(Style::PLAIN))
}

/// Without the comments, which have the time in them.
fn bare(text: &str) -> String {
    text.lines().filter(|l| !l.starts_with('#')).map(|l| format!("{l}\n")).collect()
}

#[test]
fn what_is_saved_comes_back() {
    let mut first = engine(RULES);
    first.engine_mut().restore_rules([Some(parse_rules(RULES)), None], true);
    let now = first.now();
    let memory = first.engine().rules_in_force().memory();
    memory.write("scan", "+192.0.2.1", now).unwrap().unwrap();
    memory.write("scan", "+2001:db8::1", now).unwrap().unwrap();
    let at = moment(&first, 5000);
    let text = Snapshot::take(first.engine(), [7, 8], String::new(), at).text("NOW");
    assert!(text.starts_with("%tidegate state 1\n%ipv4 0000000000000007 edited\n"), "{text}");

    // Another run, whose clock started elsewhere, ten minutes later.
    let mut second = engine(RULES);
    second.advance(std::time::Duration::from_secs(1));
    let later = moment(&second, 5600);
    let dropped = parse(&text).unwrap().restore(second.engine_mut(), [7, 8], later);
    assert_eq!(dropped, []);
    assert!(second.engine().rules_in_force().edited());
    let again = Snapshot::take(second.engine(), [7, 8], String::new(), later).text("NOW");
    assert_eq!(bare(&again), bare(&text));
    assert!(again.contains("[5:6] -A INPUT") && again.contains(":FORWARD DROP [3:4]"), "{again}");
    let stamp = 5000 * SECOND;
    assert!(again.contains(&format!("192.0.2.1 0 1 {stamp}\n")), "{again}");
}

fn parse_rules(text: &str) -> Ruleset {
    rules::parse(&Source::new("r", text), Family::V4, &Sets::new()).unwrap().0
}

#[test]
fn a_changed_rules_file_wins() {
    let text = format!("{HEAD}\n%ipv4 7 edited\n{RULES}%recent scan\n192.0.2.1 64 1 9\n%end\n");
    let other = RULES.replace("FORWARD DROP", "FORWARD ACCEPT");
    let mut sim = engine(&other);
    let at = moment(&sim, 5000);
    let dropped = parse(&text).unwrap().restore(sim.engine_mut(), [6, 0], at);
    assert_eq!(dropped, [Family::V4]);
    let rules = sim.engine().rules_in_force();
    let saved = rules.of(Family::V4).save(None, SaveStyle { stamp: "", rule_counters: false });
    assert!(saved.contains(":FORWARD ACCEPT") && !rules.edited(), "{saved}");
    // What rules remember has nothing to do with their file.
    assert!(rules.memory().text("scan").unwrap().contains("192.0.2.1"));
    // Rules that no command had changed are no loss.
    let dropped =
        parse(&text.replace(" edited", "")).unwrap().restore(sim.engine_mut(), [6, 0], at);
    assert_eq!(dropped, []);
}

#[test]
fn a_damaged_state_is_refused() {
    let whole = format!("{HEAD}\n%ipv4 7\n{RULES}%recent scan\n192.0.2.1 64 1 9\n%end\n");
    parse(&whole).unwrap();
    for (from, to, want) in [
        (HEAD, "*filter", "state:1:1"),
        ("%end\n", "", "state:11:1"),
        ("%ipv4 7", "%ipv4 x", "state:2:1"),
        ("%ipv4 7", "%ipv5 7", "state:2:1"),
        ("%ipv4 7", "%ipv4", "state:2:1"),
        ("-j ACCEPT", "-j NOWHERE", "state:7:"),
        ("COMMIT\n", "", "state:"),
        ("192.0.2.1 64 1 9", "192.0.2.1 64 1", "state:10:1"),
        ("192.0.2.1 64 1 9", "192.0.2.1 64 2 9", "state:10:1"),
        ("192.0.2.1 64 1 9", "192.0.2 64 1 9", "state:10:1"),
        ("192.0.2.1 64 1 9", "", "state:10:1"),
    ] {
        let text = whole.replace(from, to);
        let error = parse(&text).expect_err(&text);
        assert!(error.contains(want), "{want}: {error}");
    }
}

#[test]
fn lists_are_bounded() {
    let entries: String = (0..300)
        .map(|n| format!("10.0.{}.{} 64 40{}\n", n / 256, n % 256, " 9".repeat(40)))
        .collect();
    let text = format!("{HEAD}\n%ipv4 7\n{RULES}%recent scan\n{entries}%recent other\n%end\n");
    let mut sim = engine(RULES);
    let at = moment(&sim, 5000);
    parse(&text).unwrap().restore(sim.engine_mut(), [7, 0], at);
    let memory = sim.engine().rules_in_force().memory();
    assert_eq!(memory.names(), ["scan"]);
    let list = memory.text("scan").unwrap();
    assert_eq!(list.lines().count(), 100);
    assert!(list.starts_with("src=10.0.0.200 ttl: 64 last_seen: "), "{list}");
    assert!(list.contains("oldest_pkt: 32 "), "{list}");
}

#[test]
fn files_are_written_whole_and_private() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    fs::write(&path, "old").unwrap();
    write(&path, "new\n").unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "new\n");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    assert!(write(&folder.path().join("no/state"), "x").is_err());
    assert!(
        State::read(&folder.path().join("none"), &Sets::new(), Instant::ZERO).unwrap().is_none()
    );
}

#[test]
fn sets_come_back_before_the_rules_that_name_them() {
    let now = Instant::from_secs(100);
    let sets = Sets::new();
    sets.restore("create bad hash:net timeout 0\nadd bad 10.9.0.0/16 timeout 50\n", now).unwrap();
    let rules = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n\
                 -A INPUT -m set --match-set bad src -j DROP\nCOMMIT\n";
    let mut sim = engine("");
    let ruleset = rules::parse(&Source::new("r", rules), Family::V4, &sets).unwrap().0;
    sim.engine_mut().restore_rules([Some(ruleset), None], true);
    let at = moment(&sim, 5000);
    let text = Snapshot::take(sim.engine(), [0, 0], sets.save(now), at).text("NOW");
    let again = Sets::new();
    State::parse(&Source::new("state", text.clone()), &again, now).unwrap();
    assert_eq!(again.save(now), sets.save(now));
    assert!(again.save(now).contains("add bad 10.9.0.0/16 timeout 50"), "{}", again.save(now));
    let error = parse(&text.replace("add bad 10.9", "add bad 10.x.9")).expect_err("no address");
    assert!(error.contains("state:4:9"), "{error}");
}
