//! Neighbours: asked for, kept waiting for, given up.

use crate::common::{host_mac, page};
use crate::world::PageWorld;
use std::time::Duration;
use tidegate::engine::Drop;
use tidegate_packet::arp::{Arp, Operation};
use tidegate_packet::{Addr, ethernet};

const SECOND: Duration = Duration::from_secs(1);

fn requests_for(frames: &[Vec<u8>], target: Addr) -> usize {
    let asks = |f: &&Vec<u8>| {
        f[12..14] == ethernet::ARP.to_be_bytes()
            && Arp::parse(&f[14..])
                .is_some_and(|a| a.operation == Operation::Request && a.target == target)
    };
    frames.iter().filter(asks).count()
}

#[test]
fn nobody_knows_anybody_at_first() {
    let PageWorld { mut world, client, server, .. } = PageWorld::new(&page());
    assert_eq!(world.sim.engine().neighbours().count(), 0);
    assert!(world.ping(client, "203.0.113.2", 1));
    let mut known: Vec<_> =
        world.sim.engine().neighbours().map(|(_, addr, mac)| (addr.to_string(), mac)).collect();
    known.sort();
    let want = [("192.168.0.2", 2), ("203.0.113.2", 99)];
    assert_eq!(known, want.map(|(addr, n)| (addr.to_owned(), Some(host_mac(n)))));
    assert_eq!(requests_for(&world.heard(server), crate::common::addr("203.0.113.2")), 1);
}

/// A pulled cable: three questions, then host unreachable for the one who asked, through NAT.
#[test]
fn a_silent_neighbour_is_reported() {
    let PageWorld { mut world, client, server, .. } = PageWorld::new(&page());
    world.unplug(server, true);
    let asker = world.udp_bind(client, 4000);
    world.udp_send(client, asker, ("203.0.113.2", 53), b"anybody?");
    world.heard(client);
    world.run(2 * SECOND);
    assert!(world.heard(client).is_empty(), "too early to say");
    world.run(2 * SECOND);
    let heard = world.heard(client);
    let unreachable = heard.iter().find(|f| f[23] == 1 && f[34..36] == [3, 1]).expect("the error");
    let quoted = tidegate_packet::ipv4::Header::new_checked(&unreachable[42..]).expect("a quote");
    assert_eq!(quoted.src().to_string(), "192.168.0.2", "as the client sent it");
    assert_eq!(world.sim.counters().dropped(Drop::NeighbourFailed), 1);

    // Back again: what is sent while the question is open arrives with the answer.
    world.unplug(server, false);
    let service = world.udp_bind(server, 53);
    world.udp_send(client, asker, ("203.0.113.2", 53), b"and now?");
    assert_eq!(world.udp_recv(server, service).expect("the datagram").2, b"and now?");
}

#[test]
fn at_most_sixteen_packets_wait() {
    let PageWorld { mut world, client, server, .. } = PageWorld::new(&page());
    world.unplug(server, true);
    let asker = world.udp_bind(client, 4000);
    for n in 0..20_u8 {
        world.udp_send(client, asker, ("203.0.113.2", 53), &[n]);
    }
    assert_eq!(world.sim.counters().dropped(Drop::NeighbourQueue), 4);
    world.unplug(server, false);
    let service = world.udp_bind(server, 53);
    world.run(2 * SECOND);
    let got: Vec<u8> =
        std::iter::from_fn(|| world.udp_recv(server, service)).map(|(_, _, d)| d[0]).collect();
    assert_eq!(got, (4..20).collect::<Vec<_>>(), "the oldest went first");
}

/// A neighbour that moves to another card is found again: the stale entry is probed, fails, and
/// is asked for anew.
#[test]
fn a_neighbour_with_a_new_card() {
    let PageWorld { mut world, client, server, .. } = PageWorld::new(&page());
    assert!(world.ping(client, "203.0.113.2", 1));
    world.unplug(server, true);
    let new = world.host("ppp0", host_mac(98), &["203.0.113.2/24"], &["203.0.113.1"]);
    let service = world.udp_bind(new, 53);
    let asker = world.udp_bind(client, 4000);
    let mut arrived = false;
    for _ in 0..60 {
        world.udp_send(client, asker, ("203.0.113.2", 53), b"anybody?");
        world.run(SECOND);
        arrived |= world.udp_recv(new, service).is_some();
    }
    assert!(arrived);
}
