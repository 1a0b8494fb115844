//! Three ports that form one LAN behind one interface name.

use crate::common::{gateway_mac, host_mac, page};
use crate::world::{HostId, World};
use std::time::Duration;
use tidegate::io::channel::Flying;
use tidegate::io::{Checksum, Gso, GsoKind, Offload};
use tidegate::sim::SimConfig;
use tidegate_packet::MacAddr;

fn config() -> SimConfig {
    let mut config = page();
    config.interfaces[0].name = "br0".into();
    config.interfaces[0].ports = ["tap0", "tap1", "tap2"].map(String::from).to_vec();
    config.rules_v4 = config.rules_v4.replace("-i eth0", "-i br0");
    config.rules_v6 = config.rules_v6.replace("-i eth0", "-i br0");
    config
}

fn world() -> (World, [HostId; 3], HostId) {
    let mut world = World::new(&config());
    let guests = [(0, 11), (1, 12), (2, 13)].map(|(tap, n): (u8, u8)| {
        let address = format!("192.168.0.{n}/24");
        world.host(&format!("tap{tap}"), host_mac(n), &[&address], &["192.168.0.1"])
    });
    let server = world.host("ppp0", host_mac(99), &["203.0.113.2/24"], &["203.0.113.1"]);
    (world, guests, server)
}

#[test]
fn guests_reach_each_other_the_gateway_and_the_world() {
    let (mut world, guests, server) = world();
    for (n, guest) in guests.into_iter().enumerate() {
        for to in ["192.168.0.11", "192.168.0.12", "192.168.0.13", "192.168.0.1", "203.0.113.2"] {
            if to != format!("192.168.0.{}", 11 + n) {
                assert!(world.ping(guest, to, 5), "guest {n} to {to}");
            }
        }
    }
    let listening = world.listen(server, 80);
    let socket = world.connects(guests[2], 40_000, ("203.0.113.2", 80)).expect("a connection");
    let data = vec![7; 100_000];
    world.transfer((server, listening), (guests[2], socket), &data, Duration::from_secs(60));
}

#[test]
fn a_known_station_is_not_flooded() {
    let (mut world, [a, b, c], _) = world();
    assert!(world.ping(a, "192.168.0.12", 5));
    for guest in [a, b, c] {
        world.heard(guest);
    }
    assert!(world.ping(a, "192.168.0.12", 6));
    assert_eq!(world.heard(b).len(), 1);
    assert!(world.heard(c).is_empty());
}

/// A guest that moves to another port is found there as soon as it speaks.
#[test]
fn a_guest_that_moves() {
    let (mut world, [a, b, _], _) = world();
    assert!(world.ping(a, "192.168.0.12", 5));
    world.unplug(b, true);
    let moved = world.host("tap2", host_mac(12), &["192.168.0.12/24"], &["192.168.0.1"]);
    assert!(world.ping(moved, "192.168.0.11", 6));
    assert!(world.ping(a, "192.168.0.12", 7));
}

/// Frames that the bridge only passes on are left as they are: tags, padding, unknown protocols,
/// what is left to do for the device.
#[test]
fn foreign_frames_pass_untouched() {
    let (mut world, [a, b, c], _) = world();
    assert!(world.ping(a, "192.168.0.12", 5));
    let to = |dst: MacAddr, rest: &[u8]| [&dst.0[..], &host_mac(11).0, rest].concat();
    let tagged = to(host_mac(12), &[0x81, 0, 0x20, 7, 8, 6, 1, 2, 3]);
    let strange = to(host_mac(12), &[0x88, 0xb5, 9, 9, 9]);
    for frame in [tagged, strange] {
        world.heard(b);
        world.heard(c);
        world.send_raw(a, frame.clone());
        assert_eq!(world.heard(b), [frame]);
        assert!(world.heard(c).is_empty());
    }
    let unknown = to(host_mac(77), &[0x88, 0xb5, 9]);
    world.send_raw(a, unknown.clone());
    assert_eq!((world.heard(b), world.heard(c)), (vec![unknown.clone()], vec![unknown]));

    // A super-packet between two guests.
    let mut sim = world.sim;
    let offload = Offload {
        checksum: Checksum::Partial { start: 34, offset: 16 },
        gso: Some(Gso { kind: GsoKind::Tcp4, size: 1448, ecn: false }),
    };
    let flying = Flying { bytes: to(host_mac(12), &[8; 9000]), offload };
    sim.inject("tap0", flying.clone()).expect("a port");
    assert_eq!(sim.collect(), [("tap1".to_owned(), flying)]);
    // One whose checksum lies outside of it would be refused by the device, or worse.
    let mut wild = Flying::from(to(host_mac(12), &[8; 100]));
    wild.offload.checksum = Checksum::Partial { start: 65_535, offset: 65_535 };
    sim.inject("tap0", wild).expect("a port");
    assert_eq!(sim.collect(), []);
}

#[test]
fn the_gateways_own_frames_do_not_loop() {
    let (mut world, [a, ..], _) = world();
    let from_gateway = [&MacAddr::BROADCAST.0[..], &gateway_mac(0).0, &[0x88, 0xb5]].concat();
    world.send_raw(a, from_gateway);
    assert!(world.ping(a, "192.168.0.1", 5), "the gateway is still there");
}
