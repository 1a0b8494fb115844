//! IPv6 under the page's ip6tables rules and the FORWARD rules that go with them.

use crate::common::page;
use crate::world::PageWorld;
use smoltcp::socket::tcp;
use std::time::Duration;
use tidegate_packet::protocol;

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn a_transfer_from_the_lan() {
    let PageWorld { mut world, client, server, .. } = PageWorld::new(&page());
    let listening = world.listen(server, 80);
    let socket = world.connects(client, 40_000, ("2001:db8:1::2", 80)).expect("a connection");
    let remote = world.tcp(server, listening).remote_endpoint().expect("a peer");
    assert_eq!(remote.to_string(), "fd00:1::2:40000", "not translated");
    let data: Vec<u8> = (0..300_000_u32).map(|n| ((n * 7) >> 5) as u8).collect();
    world.transfer((client, socket), (server, listening), &data, MINUTE);
    world.transfer((server, listening), (client, socket), &data, MINUTE);
}

#[test]
fn between_two_lans() {
    let PageWorld { mut world, client, other, .. } = PageWorld::new(&page());
    let listening = world.listen(other, 22);
    let socket = world.connects(client, 40_000, ("fd00:2::9", 22)).expect("a connection");
    world.transfer((other, listening), (client, socket), b"SSH-2.0-hello", MINUTE);
}

/// From outside nothing new comes in: prohibited by an administrator (code 1).
#[test]
fn nothing_new_from_outside() {
    let PageWorld { mut world, client, server, .. } = PageWorld::new(&page());
    let listening = world.listen(client, 80);
    let socket = world.connect(server, 40_000, ("fd00:1::2", 80));
    world.run(Duration::from_secs(2));
    assert_eq!(world.tcp(client, listening).state(), tcp::State::Listen);
    assert_eq!(world.tcp(server, socket).state(), tcp::State::SynSent);
    let heard = world.heard(server);
    let prohibited = heard
        .iter()
        .any(|f| f[12..14] == [0x86, 0xdd] && f[20] == protocol::ICMPV6 && f[54..56] == [1, 1]);
    assert!(prohibited, "{:?} {heard:02x?}", world.sim.counters().drops().collect::<Vec<_>>());
}

/// The gateway's own closed port resets, as for IPv4.
#[test]
fn a_closed_port_of_the_gateway() {
    let PageWorld { mut world, client, .. } = PageWorld::new(&page());
    let socket = world.connect(client, 40_000, ("fd00:1::1", 81));
    let over = world.run_until(Duration::from_millis(100), |w| {
        w.tcp(client, socket).state() == tcp::State::Closed
    });
    assert!(over);
}
