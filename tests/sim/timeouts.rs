//! What the passing of time does to connections.

use crate::common::{addr, page};
use crate::nat_world::{ALICE, Nat};
use crate::world::{HostId, PageWorld, World};
use smoltcp::iface::SocketHandle;
use std::time::Duration;
use tidegate_packet::builder::{Ip, echo};
use tidegate_packet::protocol;

const SECOND: Duration = Duration::from_secs(1);

/// A client's datagram has reached the server.
fn asked() -> (World, (HostId, SocketHandle), (HostId, SocketHandle)) {
    let PageWorld { mut world, client, server, .. } = PageWorld::new(&page());
    let (asker, service) = (world.udp_bind(client, 4000), world.udp_bind(server, 53));
    world.udp_send(client, asker, ("203.0.113.2", 53), b"question");
    let question = world.udp_recv(server, service).expect("the question");
    assert_eq!(question, ("203.0.113.1".into(), 4000, b"question".to_vec()));
    (world, (client, asker), (server, service))
}

/// Whether the server's datagram to the mapping reaches the client.
fn answer_arrives(
    world: &mut World,
    client: (HostId, SocketHandle),
    server: (HostId, SocketHandle),
) -> bool {
    world.udp_send(server.0, server.1, ("203.0.113.1", 4000), b"answer");
    world.udp_recv(client.0, client.1).is_some()
}

#[test]
fn an_unanswered_udp_mapping_lasts_thirty_seconds() {
    for (wait, open) in [(29, true), (31, false)] {
        let (mut world, client, server) = asked();
        world.sleep(wait * SECOND);
        world.heard(server.0);
        assert_eq!(answer_arrives(&mut world, client, server), open, "after {wait} s");
        // Refused as the page says, and not just lost: port unreachable.
        let refused = world.heard(server.0).iter().any(|f| f[23] == 1 && f[34..36] == [3, 3]);
        assert_eq!(refused, !open, "after {wait} s");
    }
}

#[test]
fn an_answer_alone_makes_no_stream() {
    let (mut world, client, server) = asked();
    world.sleep(SECOND);
    assert!(answer_arrives(&mut world, client, server));
    world.sleep(31 * SECOND);
    assert!(!answer_arrives(&mut world, client, server));
}

#[test]
fn a_used_udp_stream_stays_two_minutes() {
    let (mut world, client, server) = asked();
    for _ in 0..4 {
        world.sleep(SECOND);
        assert!(answer_arrives(&mut world, client, server));
    }
    for _ in 0..3 {
        world.sleep(119 * SECOND);
        assert!(answer_arrives(&mut world, client, server), "use keeps it");
    }
    world.sleep(121 * SECOND);
    assert!(!answer_arrives(&mut world, client, server));
}

#[test]
fn an_idle_tcp_connection_lives_five_days() {
    let PageWorld { mut world, client, server, .. } = PageWorld::new(&page());
    let listening = world.listen(server, 80);
    let socket = world.connects(client, 40_000, ("203.0.113.2", 80)).expect("a connection");
    world.sleep(432_000 * SECOND - 10 * SECOND);
    assert_eq!(world.sim.connections(), 1);
    world.transfer((server, listening), (client, socket), b"still here?", 5 * SECOND);
    world.sleep(432_000 * SECOND + 10 * SECOND);
    assert_eq!(world.sim.connections(), 0);
}

#[test]
fn a_closed_tcp_connection_is_gone_after_two_minutes() {
    let PageWorld { mut world, client, server, .. } = PageWorld::new(&page());
    let listening = world.listen(server, 80);
    let socket = world.connects(client, 40_000, ("203.0.113.2", 80)).expect("a connection");
    world.tcp(client, socket).close();
    world.run(SECOND);
    world.tcp(server, listening).close();
    world.run(SECOND);
    assert_eq!(world.sim.connections(), 1, "TIME_WAIT");
    world.sleep(120 * SECOND);
    assert_eq!(world.sim.connections(), 0);
}

/// netfilter's timers are shorter than RFC 4787, 5382 and 5508 want; these parameters make them long
/// enough. The answer to a SYN here is a SYN: the simultaneous open of RFC 5382 REQ-2.
#[test]
fn timers_as_the_rfcs_want_them() {
    let server = "198.51.100.1:3478";
    for (tcp, sysctls, seconds) in [
        (false, "", 30),
        (false, "net.netfilter.nf_conntrack_udp_timeout = 120", 120),
        (true, "", 120),
        (true, "net.netfilter.nf_conntrack_tcp_timeout_syn_sent = 240", 240),
    ] {
        for (wait, open) in [(seconds - 1, true), (seconds + 1, false)] {
            let mut nat = Nat::tuned(113, "-j MASQUERADE", "", sysctls);
            if tcp {
                nat = nat.tcp();
            }
            let seen = nat.out(ALICE, server).expect("a way out");
            nat.wait(wait);
            assert_eq!(nat.comes_in(server, &seen, ALICE), open, "{sysctls} after {wait} s");
        }
    }
    for (sysctls, seconds) in [("", 30), ("net.netfilter.nf_conntrack_icmp_timeout = 60", 60)] {
        for (wait, open) in [(seconds - 1, true), (seconds + 1, false)] {
            let mut nat = Nat::tuned(113, "-j MASQUERADE", "", sysctls);
            let [inside, there] = ["192.168.0.2", "198.51.100.1"].map(addr);
            let question = echo(Ip::new(inside, there, protocol::ICMP), true, 7, 1, b"ping");
            assert!(nat.pass("eth0", &question).is_some());
            nat.wait(wait);
            let header = Ip::new(there, addr("203.0.113.1"), protocol::ICMP);
            let answer = nat.pass("ppp0", &echo(header, false, 7, 1, b"ping"));
            assert_eq!(answer.is_some(), open, "{sysctls} after {wait} s");
        }
    }
}
