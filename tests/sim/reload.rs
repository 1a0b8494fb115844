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

/// A new port forward takes over the UDP flows that it covers, and leaves the others alone; the
/// kernel would need `conntrack -D` for that.
#[test]
fn udp_flows_follow_a_new_port_forward() {
    let PageWorld { mut world, client, other, server, .. } = PageWorld::new(&page());
    let (there, elsewhere) = (world.udp_bind(server, 5000), world.udp_bind(server, 5001));
    let here = world.udp_bind(other, 80);
    let (one, two) = (world.udp_bind(client, 4000), world.udp_bind(client, 4001));
    for _ in 0..2 {
        world.udp_send(client, one, ("203.0.113.2", 5000), b"one");
        world.udp_send(client, two, ("203.0.113.2", 5001), b"two");
        assert!(world.udp_recv(server, there).is_some());
        assert!(world.udp_recv(server, elsewhere).is_some());
    }
    let kept = |world: &mut crate::world::World| {
        world.sim.each(|lent| {
            let table = lent.conntrack();
            let flow = table.iter().find(|(_, c)| c.original().dport == 5001);
            flow.map(|(id, _)| id)
        })
    };
    let before = kept(&mut world);
    let forward =
        "-A PREROUTING -i eth0 -p udp --dport 5000 -j DNAT --to-destination 10.3.0.9:80\n";
    let at = PAGE_V4.find("*nat").expect("a nat table");
    let at = at + PAGE_V4[at..].find("-A PREROUTING").expect("a rule");
    let text = format!("{}{forward}{}", &PAGE_V4[..at], &PAGE_V4[at..]);
    // Twice: the second time nothing is left to take over.
    for _ in 0..2 {
        let (v4, v6) = (rules(&text, Family::V4), rules(PAGE_V6, Family::V6));
        world.sim.engine_mut().replace_rules(v4, v6);
        world.udp_send(client, one, ("203.0.113.2", 5000), b"one");
        world.udp_send(client, two, ("203.0.113.2", 5001), b"two");
        let (_, port, question) = world.udp_recv(other, here).expect("the forwarded flow");
        assert_eq!((port, question.as_slice()), (4000, &b"one"[..]));
        assert!(world.udp_recv(server, there).is_none());
        assert!(world.udp_recv(server, elsewhere).is_some());
    }
    assert_eq!(kept(&mut world), before, "a flow that no rule covers is the same as before");
}
