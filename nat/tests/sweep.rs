//! Many connections that end at once go a few at a time, and are gone for everybody before that.

mod common;

use common::{Gateway, Rules, addr, ip, to};
use tidegate_nat::{ConnId, Direction, Order, Settings, Stats};
use tidegate_packet::builder::{Tcp, tcp, udp};
use tidegate_packet::tcp::{ACK, SYN};
use tidegate_packet::{Family, protocol};

const WAN: &str = "203.0.113.1";

fn question(n: u16) -> Vec<u8> {
    udp(ip("192.168.0.2", "8.8.8.8", protocol::UDP), n + 1, 53, b"?")
}

/// As many connections as that, masqueraded for interface 1.
fn masqueraded(settings: Settings, count: u16) -> Gateway {
    let mut gw = Gateway::with(settings);
    for n in 0..count {
        add(&mut gw, n, WAN);
    }
    gw
}

fn add(gw: &mut Gateway, n: u16, address: &str) {
    let bytes = question(n);
    let mut packet = tidegate_packet::Parsed::parse(&bytes).unwrap();
    let mut tracked = gw.table.track(&packet, &bytes, true, gw.now);
    let (range, manip) = (to(address), tidegate_nat::Manip::Source);
    gw.table.set_nat(&mut tracked, manip, Some(&range), gw.now, &mut || 7).unwrap();
    gw.table.set_masqueraded(&mut tracked, 1);
    let mut bytes = bytes;
    let field = tidegate_packet::checksum::Field::Complete;
    gw.table.translate(&tracked, manip, &mut packet, &mut bytes, field).unwrap();
    gw.table.confirm(&mut tracked, gw.now).unwrap();
}

fn listed(gw: &Gateway) -> usize {
    let mut count = 0;
    gw.table.page(0, gw.table.places(), gw.now, |_, _| count += 1);
    count
}

#[test]
fn many_ends_at_once_are_spread() {
    let mut gw = masqueraded(Settings::default(), 1000);
    gw.wait(31);
    let mut left = 1000;
    while left > 0 {
        assert_eq!(listed(&gw), 0);
        for (_, conn) in gw.table.iter() {
            for tuple in [conn.original(), conn.reply()] {
                assert_eq!(gw.table.find(&tuple, gw.now), None);
                assert_eq!(gw.table.tcp_state_of(&tuple, [0; 2], gw.now), None);
                let way = Direction::Original;
                assert_eq!(gw.table.find_exactly(&tuple, [0; 2], way, gw.now), None);
            }
        }
        let ended = gw.table.sweep(gw.now, 300);
        assert_eq!(ended, left.min(300));
        left -= ended;
        assert_eq!((gw.table.len(), gw.table.is_behind()), (left, left > 0));
        // Who asks when to come again is told at once.
        assert_eq!(gw.table.next_expiry().is_some_and(|at| at <= gw.now), left > 0);
    }
    assert_eq!(gw.table.next_expiry(), None);
}

/// A packet of a flow that is over and still in its slot begins it anew, with the same port.
#[test]
fn what_is_over_begins_anew() {
    let mut gw = masqueraded(Settings::default(), 1000);
    let names: Vec<ConnId> = gw.table.iter().map(|(id, _)| id).collect();
    gw.wait(31);
    gw.table.sweep(gw.now, 10);
    for n in (0..1000).rev() {
        add(&mut gw, n, WAN);
    }
    assert_eq!(listed(&gw), 1000);
    assert!(gw.table.iter().all(|(id, _)| !names.contains(&id)));
    assert!(gw.table.iter().all(|(_, conn)| conn.reply().dport == conn.original().sport));
}

/// A full table takes the places of those that are over, and of nobody else.
#[test]
fn a_full_table_has_the_places_of_those_that_are_over() {
    let mut gw = masqueraded(Settings { max: 1000, ..Settings::default() }, 500);
    gw.wait(31);
    for n in 500..1000 {
        add(&mut gw, n, WAN);
    }
    assert_eq!((gw.table.len(), listed(&gw)), (1000, 500));
    let young: Vec<ConnId> = gw.table.iter().map(|(id, _)| id).skip(500).collect();
    for n in 1000..1500 {
        add(&mut gw, n, WAN);
    }
    assert_eq!((gw.table.len(), listed(&gw)), (1000, 1000));
    assert!(young.iter().all(|id| gw.table.get(*id).is_some()));
    let Stats { early_drop, table_full, drop, .. } = *gw.table.stats();
    assert_eq!((early_drop, table_full, drop), (0, 0, 0));
    // From now on somebody has to be thrown out.
    add(&mut gw, 1500, WAN);
    assert_eq!((gw.table.len(), gw.table.stats().early_drop), (1000, 1));
}

/// An order reaches those that were there, step by step, and nobody who comes meanwhile.
#[test]
fn orders_go_round_in_steps() {
    let mut gw = masqueraded(Settings::default(), 5000);
    let order = |kept: &str| Order::ForgetMasqueraded { interface: 1, kept: vec![addr(kept)] };
    gw.table.order(order("203.0.113.2"));
    let mut steps = 0;
    let mut before = gw.table.len();
    while gw.table.is_behind() {
        assert_eq!(gw.table.sweep(gw.now, 100), 0, "nothing is over");
        assert!(before.saturating_sub(gw.table.len()) <= 100 + 16);
        // One that has the new address comes into a slot that may still be ahead.
        add(&mut gw, 10_000 + steps, "203.0.113.2");
        (before, steps) = (gw.table.len(), steps + 1);
    }
    assert!(steps >= 50);
    assert_eq!(gw.table.len(), usize::from(steps));
    let old = addr(WAN);
    assert!(gw.table.iter().all(|(_, conn)| conn.reply().dst != old));
    // The same order again is one order, and another interface isn't meant.
    for _ in 0..3 {
        gw.table.order(order("203.0.113.2"));
        gw.table.order(Order::ForgetMasqueraded { interface: 2, kept: Vec::new() });
    }
    gw.table.expire(gw.now);
    assert_eq!((gw.table.len(), gw.table.is_behind()), (usize::from(steps), false));
}

#[test]
fn windows_are_forgotten_in_steps() {
    let mut gw = Gateway::new();
    let [client, server] = ["192.168.0.2", "203.0.113.9"];
    let segment = |out: bool, port: u16, flags, seq, ack| {
        let [src, dst] = if out { [client, server] } else { [server, client] };
        let (sport, dport) = if out { (port, 80) } else { (80, port) };
        let fields = Tcp { sport, dport, flags, seq, ack, window: 1000, ..Tcp::default() };
        tcp(ip(src, dst, protocol::TCP), fields, b"")
    };
    for port in 1..600 {
        for bytes in [
            segment(true, port, SYN, 100, 0),
            segment(false, port, SYN | ACK, 500, 101),
            segment(true, port, ACK, 101, 501),
        ] {
            gw.pass(&bytes, Rules::default()).unwrap();
        }
    }
    // Far out of the window, as after a time in which nothing was tracked.
    let late = |port| segment(true, port, ACK, 1_000_000, 900_000);
    let believed = |gw: &mut Gateway, port| {
        let bytes = late(port);
        let packet = tidegate_packet::Parsed::parse(&bytes).unwrap();
        let tracked = gw.table.track(&packet, &bytes, true, gw.now);
        !matches!(tracked.state(), tidegate_nat::State::Invalid(_))
    };
    assert!(!believed(&mut gw, 1));
    gw.table.order(Order::ForgetWindows(Family::V6));
    gw.table.expire(gw.now);
    assert!(!believed(&mut gw, 2));
    gw.table.order(Order::ForgetWindows(Family::V4));
    let mut steps = 0;
    while gw.table.is_behind() {
        gw.table.sweep(gw.now, 4);
        steps += 1;
    }
    assert!(steps > 5);
    assert!((1..600).all(|port| believed(&mut gw, port)));
}
