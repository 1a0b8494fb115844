//! Rules that change while connections stand.

use crate::common::{PAGE_V4, PAGE_V6, page};
use crate::world::PageWorld;
use std::time::Duration;
use tidegate_filter::{Ruleset, Sets, Source, load};
use tidegate_packet::Family;

const MINUTE: Duration = Duration::from_secs(60);

fn rules(text: &str, family: Family) -> Ruleset {
    load(Source { name: "new rules", text }, family).expect("good rules").ruleset
}

#[test]
fn a_connection_outlives_new_rules() {
    let PageWorld { mut world, client, other, server, .. } = PageWorld::new(&page());
    let (one, two) = (world.listen(server, 80), world.listen(server, 80));
    let old = world.connects(client, 40_000, ("203.0.113.2", 80)).expect("a connection");
    world.transfer((client, old), (server, one), b"before", MINUTE);

    // eth1 is no longer trusted, and nobody new is translated.
    let stricter: String = PAGE_V4
        .lines()
        .filter(|line| !line.contains("-i eth1") && !line.contains("MASQUERADE"))
        .map(|line| format!("{line}\n"))
        .collect();
    let v4 = rules(&stricter, Family::V4);
    world.sim.engine_mut().replace_rules(v4, rules(PAGE_V6, Family::V6));

    let data = vec![5; 50_000];
    world.transfer((server, one), (client, old), &data, MINUTE);
    world.transfer((client, old), (server, one), &data, MINUTE);
    let peer = world.tcp(server, one).remote_endpoint().expect("a peer").to_string();
    assert_eq!(peer, "203.0.113.1:40000", "still translated");
    assert!(world.connects(other, 40_001, ("203.0.113.2", 80)).is_none(), "the new rules count");
    assert!(world.tcp(server, two).is_listening());
}

/// Without any rule the families aren't tracked; a connection that stood goes on when the rules
/// come back.
#[test]
fn rules_that_go_and_come_back() {
    let PageWorld { mut world, client, server, .. } = PageWorld::new(&page());
    let listening = world.listen(server, 80);
    let socket = world.connects(client, 40_000, ("2001:db8:1::2", 80)).expect("a connection");
    let none =
        || (Ruleset::empty(Family::V4, &Sets::new()), Ruleset::empty(Family::V6, &Sets::new()));
    let (v4, v6) = none();
    world.sim.engine_mut().replace_rules(v4, v6);
    world.transfer((client, socket), (server, listening), b"in the open", MINUTE);
    let (v4, v6) = (rules(PAGE_V4, Family::V4), rules(PAGE_V6, Family::V6));
    world.sim.engine_mut().replace_rules(v4, v6);
    world.transfer((server, listening), (client, socket), b"and behind rules", MINUTE);
}
