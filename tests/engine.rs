//! Packets through the whole engine, in memory: what comes out, field by field.

mod common;

use common::{addr, arriving, gateway_mac, host_mac, page_with_neighbours};
use std::time::Duration;
use tidegate::engine::Drop;
use tidegate::sim::Sim;
use tidegate_packet::arp::{Arp, Operation};
use tidegate_packet::builder::{self, Ip, Tcp};
use tidegate_packet::{MacAddr, Parsed, Transport, checksum, icmp, protocol, tcp};

/// The page's gateway: two LANs, an uplink, neighbours known.
fn gateway() -> Sim {
    Sim::new(&page_with_neighbours()).unwrap()
}

/// Sends one packet and returns what left, as (port, packet).
fn pass(sim: &mut Sim, port: &str, packet: &[u8]) -> Vec<(String, Vec<u8>)> {
    sim.inject(port, arriving(port, packet)).unwrap();
    sim.collect().into_iter().map(|(p, f)| (p, f.bytes[14..].to_vec())).collect()
}

fn checksum_is_right(packet: &[u8]) -> bool {
    let p = Parsed::parse(packet).unwrap();
    match p.protocol {
        protocol::ICMP => checksum::of(p.segment(packet)) == 0,
        _ => checksum::verify_transport(p.src, p.dst, p.protocol, p.segment(packet)),
    }
}

#[test]
fn udp_is_masqueraded_and_its_answer_comes_back() {
    let mut sim = gateway();
    let ask = builder::udp(Ip::new(addr("192.168.0.2"), addr("198.51.100.10"), 17), 4000, 53, b"q");
    let out = pass(&mut sim, "eth0", &ask);
    assert_eq!(out.len(), 1, "{:?}", sim.counters().drops().collect::<Vec<_>>());
    let (port, packet) = &out[0];
    let p = Parsed::parse(packet).unwrap();
    assert_eq!((port.as_str(), p.src, p.hop_limit), ("ppp0", addr("203.0.113.1"), 63));
    assert_eq!(p.ports(), Some((4000, 53)));
    assert!(checksum_is_right(packet));

    let answer =
        builder::udp(Ip::new(addr("198.51.100.10"), addr("203.0.113.1"), 17), 53, 4000, b"a");
    let out = pass(&mut sim, "ppp0", &answer);
    let (port, packet) = &out[0];
    let p = Parsed::parse(packet).unwrap();
    assert_eq!((port.as_str(), p.dst), ("eth0", addr("192.168.0.2")));
    assert!(checksum_is_right(packet));
}

#[test]
fn a_port_forward_reaches_the_web_server() {
    let mut sim = gateway();
    let syn =
        Tcp { sport: 5000, dport: 8000, seq: 1, flags: tcp::SYN, window: 1000, ..Tcp::default() };
    let out = pass(
        &mut sim,
        "ppp0",
        &builder::tcp(Ip::new(addr("192.0.2.66"), addr("203.0.113.1"), 6), syn, &[]),
    );
    let (port, packet) = &out[0];
    let p = Parsed::parse(packet).unwrap();
    assert_eq!((port.as_str(), p.dst, p.ports()), ("eth0", addr("192.168.0.6"), Some((5000, 80))));
    assert!(checksum_is_right(packet));
}

#[test]
fn a_closed_port_is_refused_with_a_reset() {
    let mut sim = gateway();
    let syn =
        Tcp { sport: 5000, dport: 81, seq: 7, flags: tcp::SYN, window: 1000, ..Tcp::default() };
    let out = pass(
        &mut sim,
        "eth0",
        &builder::tcp(Ip::new(addr("192.168.0.2"), addr("192.168.0.1"), 6), syn, &[]),
    );
    assert_eq!(out.len(), 1, "{:?}", sim.counters().drops().collect::<Vec<_>>());
    let p = Parsed::parse(&out[0].1).unwrap();
    let reset = Transport::Tcp { sport: 81, dport: 5000, flags: tcp::RST | tcp::ACK };
    assert_eq!((p.src, p.dst, p.transport), (addr("192.168.0.1"), addr("192.168.0.2"), reset));
    let header = tcp::Header::new_checked(p.segment(&out[0].1)).unwrap();
    assert_eq!((header.seq(), header.ack()), (0, 8));
    assert!(checksum_is_right(&out[0].1));
}

#[test]
fn a_packet_nobody_asked_for_is_refused_with_host_unreachable() {
    let mut sim = gateway();
    let ask = builder::udp(Ip::new(addr("192.0.2.66"), addr("192.168.0.2"), 17), 4000, 53, b"q");
    let out = pass(&mut sim, "ppp0", &ask);
    let p = Parsed::parse(&out[0].1).unwrap();
    assert_eq!((out[0].0.as_str(), p.src), ("ppp0", addr("203.0.113.1")));
    assert_eq!(p.icmp(), Some((icmp::DEST_UNREACHABLE, icmp::unreachable::HOST)));
    assert!(checksum_is_right(&out[0].1));
    assert_eq!(sim.counters().dropped(Drop::RuleReject), 1);
}

#[test]
fn the_gateway_answers_pings_and_arp() {
    let mut sim = gateway();
    let ping =
        builder::echo(Ip::new(addr("192.168.0.2"), addr("192.168.0.1"), 1), true, 7, 1, b"hi");
    let out = pass(&mut sim, "eth0", &ping);
    let p = Parsed::parse(&out[0].1).unwrap();
    assert_eq!(p.icmp(), Some((icmp::ECHO_REPLY, 0)));
    assert!(checksum_is_right(&out[0].1));

    let who_has = Arp {
        operation: Operation::Request,
        sender_mac: host_mac(2),
        sender: addr("192.168.0.77"),
        target_mac: MacAddr::default(),
        target: addr("192.168.0.1"),
    };
    sim.inject("eth0", who_has.to_frame(MacAddr::BROADCAST)).unwrap();
    let out = sim.collect();
    let reply = Arp::parse(&out[0].1.bytes[14..]).unwrap();
    assert_eq!((reply.operation, reply.sender_mac), (Operation::Reply, gateway_mac(0)));
}

#[test]
fn a_silent_neighbour_is_reported_after_three_questions() {
    let mut sim = gateway();
    let ask = builder::udp(Ip::new(addr("10.3.0.9"), addr("192.168.0.200"), 17), 4000, 53, b"q");
    let out = pass(&mut sim, "eth1", &ask);
    assert_eq!(out.len(), 1, "an ARP request");
    sim.advance(Duration::from_millis(2900));
    assert_eq!(sim.collect().len(), 2, "two more");
    sim.advance(Duration::from_secs(1));
    assert_eq!(sim.counters().dropped(Drop::NeighbourFailed), 1);
    // The error is for 10.3.0.9, which has to be asked for in turn.
    assert_eq!(sim.collect().len(), 1);
}

#[test]
fn rules_without_a_nat_table_leave_translated_connections_translated() {
    let mut sim = gateway();
    let ask = |sport| {
        builder::udp(Ip::new(addr("192.168.0.2"), addr("198.51.100.10"), 17), sport, 53, b"q")
    };
    assert_eq!(pass(&mut sim, "eth0", &ask(4000)).len(), 1);
    let empty = || {
        tidegate_filter::Ruleset::empty(tidegate_packet::Family::V4, &tidegate_filter::Sets::new())
    };
    let v6 =
        tidegate_filter::Ruleset::empty(tidegate_packet::Family::V6, &tidegate_filter::Sets::new());
    sim.engine_mut().replace_rules(empty(), v6);
    for (sport, src) in [(4000, "203.0.113.1"), (4001, "192.168.0.2")] {
        let out = pass(&mut sim, "eth0", &ask(sport));
        assert_eq!(Parsed::parse(&out[0].1).unwrap().src, addr(src), "port {sport}");
    }
}
