//! Random packets, damaged and not, through the whole way; the table's promises are checked after
//! each.

mod common;

use std::collections::HashSet;

use common::{Gateway, Rules, to_range};
use proptest::prelude::*;
use tidegate_nat::{Direction, Range, Settings, Status};
use tidegate_packet::builder::{self, Ip, Tcp};
use tidegate_packet::checksum::Field;
use tidegate_packet::{Addr, Parsed, protocol};

#[derive(Clone, Debug)]
struct Step {
    kind: u8,
    ends: (u8, u8),
    ports: (u8, u8),
    flags: u8,
    seq: u32,
    body: Vec<u8>,
    damage: Option<(u16, u8)>,
    quote: bool,
    wait: u16,
    range: (bool, bool, u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (
        (0u8..8, (0u8..6, 0u8..6), (0u8..4, 0u8..4), any::<u8>(), any::<u32>()),
        proptest::collection::vec(any::<u8>(), 0..60),
        proptest::option::weighted(0.2, any::<(u16, u8)>()),
        any::<bool>(),
        prop_oneof![3 => Just(0u16), 1 => any::<u16>()],
        (any::<bool>(), any::<bool>(), any::<u8>()),
    )
        .prop_map(|((kind, ends, ports, flags, seq), body, damage, quote, wait, range)| Step {
            kind,
            ends,
            ports,
            flags,
            seq,
            body,
            damage,
            quote,
            wait,
            range,
        });
    proptest::collection::vec(step, 1..120)
}

fn host(v4: bool, n: u8) -> Addr {
    if v4 {
        Addr::from_v4_bytes([10, 0, 0, n])
    } else {
        Addr::from_v6_bytes([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n])
    }
}

fn build(step: &Step, last: &[u8]) -> Vec<u8> {
    let v4 = step.flags & 0x40 == 0 || step.kind == 6;
    let header = |protocol| Ip::new(host(v4, step.ends.0), host(v4, step.ends.1), protocol);
    let (sport, dport) = (u16::from(step.ports.0) + 1, u16::from(step.ports.1) + 1);
    let icmp = if v4 { protocol::ICMP } else { protocol::ICMPV6 };
    let mut packet = match step.kind {
        0 | 1 => {
            let flags = if step.kind == 0 {
                [2, 0x12, 0x10, 0x11, 4, 0x14][usize::from(step.flags) % 6]
            } else {
                step.flags
            };
            let (seq, ack) = (step.seq % 3, step.seq % 5);
            let fields = Tcp { sport, dport, seq, ack, flags, window: 999, options: &[] };
            builder::tcp(header(protocol::TCP), fields, &step.body)
        }
        2 => builder::udp(header(protocol::UDP), sport, dport, &step.body),
        3 => builder::echo(header(icmp), step.flags & 1 == 0, sport, dport, &step.body),
        4 => {
            let kind = if v4 { 3 } else { 1 };
            let quote = if step.quote { last } else { &step.body };
            builder::icmp(header(icmp), kind, 1, [0; 4], quote)
        }
        5 => builder::ip(header(protocol::ESP), &step.body),
        6 => builder::ip(header(protocol::GRE), &step.body),
        _ => builder::ip(header(step.flags), &step.body),
    };
    if let Some((at, value)) = step.damage {
        let at = usize::from(at) % packet.len();
        packet[at] ^= value;
        if v4 && packet.len() >= 20 && packet[0] == 0x45 {
            tidegate_packet::ipv4::write_checksum(&mut packet);
        }
    }
    packet
}

/// No tuple twice, each findable, the bound held.
fn check(gw: &Gateway, max: u32) {
    assert!(gw.table.len() <= max as usize);
    let mut seen = HashSet::new();
    let mut count = 0;
    for (id, conn) in gw.table.iter() {
        count += 1;
        assert!(conn.status().has(Status::CONFIRMED));
        for direction in [Direction::Original, Direction::Reply] {
            // One who talks to itself from the port it talks to has but one tuple.
            if conn.original() == conn.reply() && direction == Direction::Reply {
                continue;
            }
            let tuple = conn.tuple(direction);
            assert!(seen.insert(tuple), "{tuple:?} twice");
            if conn.time_left(gw.now).as_nanos() > 0 {
                assert_eq!(gw.table.find(&tuple, gw.now).unwrap().0, id);
            }
        }
        assert_eq!(conn.original().inverse() != Some(conn.reply()), conn.is_translated());
    }
    assert_eq!(count, gw.table.len());
}

proptest! {
    #![proptest_config(common::proptest(300))]

    #[test]
    fn promises_are_kept(steps in steps(), max in 1u32..40) {
        let mut gw = Gateway::with(Settings { max, acct: true, ..Settings::default() });
        let mut last = Vec::new();
        for step in &steps {
            gw.now = gw.now + std::time::Duration::from_millis(u64::from(step.wait));
            if step.flags & 0x0f == 0 {
                gw.table.expire(gw.now);
            }
            let bytes = build(step, &last);
            if Parsed::parse(&bytes).is_err() {
                continue;
            }
            let v4 = bytes[0] >> 4 == 4;
            let (snat, dnat, how) = step.range;
            let range = |on: bool, low: u8| {
                let ports = (how & 1 != 0).then_some((u16::from(how) % 5, 6));
                let (first, last) = (host(v4, low), host(v4, low + how % 3));
                on.then(|| Range {
                    ports,
                    random: how & 2 != 0,
                    base_port: (how & 4 != 0).then_some(3),
                    ..to_range(&first.to_string(), &last.to_string())
                })
            };
            let rules = Rules { snat: range(snat, 20), dnat: range(dnat, 2) };
            let field = if how & 8 != 0 { Field::Complete } else { Field::Partial };
            if let Ok((out, _)) = gw.pass_as(&bytes, rules, field) {
                prop_assert_eq!(out.len(), bytes.len());
                last = out;
            }
            check(&gw, max);
        }
        gw.now = gw.now + std::time::Duration::from_secs(600_000);
        gw.table.expire(gw.now);
        prop_assert!(gw.table.is_empty());
        prop_assert_eq!(gw.table.next_expiry(), None);
    }
}
