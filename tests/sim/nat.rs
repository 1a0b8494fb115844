//! The page's gateway at work: out through MASQUERADE, in through the port forwards.

use crate::common::page;
use crate::faults::Faults;
use crate::world::PageWorld;
use smoltcp::socket::tcp;
use std::time::Duration;

/// Data that is different everywhere, so that nothing can be exchanged unseen.
fn data(len: u32) -> Vec<u8> {
    (0..len).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn a_transfer_out_and_back() {
    let PageWorld { mut world, client, server, .. } = PageWorld::new(&page());
    let listening = world.listen(server, 80);
    let socket = world.connects(client, 40_000, ("203.0.113.2", 80)).expect("a connection");
    let remote = world.tcp(server, listening).remote_endpoint().expect("a peer");
    assert_eq!(remote.to_string(), "203.0.113.1:40000", "masqueraded, its port kept");
    world.transfer((client, socket), (server, listening), &data(1_000_000), MINUTE);
    world.transfer((server, listening), (client, socket), &data(1_000_000), MINUTE);
}

/// Loss, doubles, disorder and damage on both links, whatever the dice: everything arrives, once,
/// in order, unchanged.
#[test]
fn a_transfer_over_bad_links() {
    for seed in 0..4 {
        let PageWorld { mut world, client, server, .. } = PageWorld::new(&page());
        let listening = world.listen(server, 80);
        world.set_faults(client, Faults::new(seed, [2, 2, 4, 2]));
        world.set_faults(server, Faults::new(seed + 100, [2, 2, 4, 2]));
        let socket = world.connect(client, 40_000, ("203.0.113.2", 80));
        let stands = world.run_until(MINUTE, |w| {
            w.is_established(client, socket) && w.is_established(server, listening)
        });
        assert!(stands, "no connection with seed {seed}");
        let (up, down) = (data(150_000), data(100_000));
        world.transfer((client, socket), (server, listening), &up, 20 * MINUTE);
        world.transfer((server, listening), (client, socket), &down, 20 * MINUTE);
        for host in [client, server] {
            let faults = world.faults(host);
            assert!(faults.happened > 10, "{faults:?}");
        }
    }
}

#[test]
fn a_port_forward_answers_as_the_gateway() {
    let PageWorld { mut world, web, server, .. } = PageWorld::new(&page());
    let listening = world.listen(web, 80);
    let socket = world.connects(server, 50_000, ("203.0.113.1", 8000)).expect("a connection");
    let seen = world.tcp(web, listening).remote_endpoint().expect("a peer");
    assert_eq!(seen.to_string(), "203.0.113.2:50000", "the web server sees who asks");
    world.transfer((server, socket), (web, listening), &data(5_000), MINUTE);
    world.transfer((web, listening), (server, socket), &data(200_000), MINUTE);
}

#[test]
fn a_udp_port_forward() {
    let PageWorld { mut world, web, server, .. } = PageWorld::new(&page());
    let service = world.udp_bind(web, 80);
    let asker = world.udp_bind(server, 5000);
    world.udp_send(server, asker, ("203.0.113.1", 8000), b"question");
    let (from, port, question) = world.udp_recv(web, service).expect("the question");
    assert_eq!((from.as_str(), port, question.as_slice()), ("203.0.113.2", 5000, &b"question"[..]));
    world.udp_send(web, service, (&from, port), b"answer");
    let answer = world.udp_recv(server, asker).expect("the answer");
    assert_eq!(answer, ("203.0.113.1".into(), 8000, b"answer".to_vec()));
}

#[test]
fn two_clients_on_one_source_port() {
    let PageWorld { mut world, client, other, server, .. } = PageWorld::new(&page());
    let (one, two) = (world.listen(server, 80), world.listen(server, 80));
    let first = world.connects(client, 40_000, ("203.0.113.2", 80)).expect("the first");
    let second = world.connects(other, 40_000, ("203.0.113.2", 80)).expect("the second");
    let remotes: Vec<_> = [one, two]
        .into_iter()
        .map(|handle| world.tcp(server, handle).remote_endpoint().expect("a peer"))
        .collect();
    assert_eq!(remotes[0].to_string(), "203.0.113.1:40000");
    assert_eq!(remotes[0].addr, remotes[1].addr);
    assert_ne!(remotes[0].port, remotes[1].port);
    world.transfer((server, one), (client, first), &data(20_000), MINUTE);
    world.transfer((server, two), (other, second), &data(30_000), MINUTE);
    world.transfer((client, first), (server, one), &data(10_000), MINUTE);
    world.transfer((other, second), (server, two), &data(40_000), MINUTE);
}

#[test]
fn pings_pass_and_are_answered() {
    let PageWorld { mut world, client, other, server, .. } = PageWorld::new(&page());
    for (n, to) in ["192.168.0.1", "203.0.113.1", "203.0.113.2", "10.3.0.9"].iter().enumerate() {
        assert!(world.ping(client, to, 7 + n as u16), "{to}");
    }
    // Two hosts ask with one identifier.
    assert!(world.ping(other, "203.0.113.2", 7));
    assert!(world.ping(server, "203.0.113.1", 9), "the page lets pings in");
    assert!(!world.ping(client, "203.0.113.77", 20), "nobody is there");
}

#[test]
fn a_closed_port_refuses_at_once() {
    let PageWorld { mut world, client, server, .. } = PageWorld::new(&page());
    for (host, to, port) in [
        (client, "192.168.0.1", 81),
        (server, "203.0.113.1", 81),
        // No program listens on the server: its own reset comes back through NAT.
        (client, "203.0.113.2", 81),
    ] {
        let socket = world.connect(host, 41_000 + port, (to, port));
        let over = world.run_until(Duration::from_millis(100), |w| {
            w.tcp(host, socket).state() == tcp::State::Closed
        });
        assert!(over, "{to}:{port}");
    }
}
