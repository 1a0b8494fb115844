//! Fragments that meet the raw table before they are put together (`raw_before_defrag`).

use crate::common::frames::pieces_v4;
use crate::common::{addr, arriving, page_with_neighbours};
use tidegate::engine::Lent;
use tidegate::sim::{Sim, SimConfig};
use tidegate_filter::SaveStyle;
use tidegate_packet::builder::{self, Ip};
use tidegate_packet::{Family, Parsed, ethernet, protocol};

fn gateway(raw: &str, first: bool) -> Sim {
    let config = SimConfig {
        rules_v4: format!(
            "*raw\n{raw}\nCOMMIT\n\
             *filter\n-A FORWARD -m mark --mark 7\n-A FORWARD -m conntrack --ctstate NEW\nCOMMIT\n"
        ),
        sysctls: format!("tidegate.raw_before_defrag = {}\n", u8::from(first)),
        ..page_with_neighbours()
    };
    Sim::new(&config).expect("a gateway")
}

/// Both pieces of a datagram with one identification; `word` tells it from others.
fn pieces(word: u8) -> [Vec<u8>; 2] {
    let header =
        Ip { id: 77, ..Ip::new(addr("192.168.0.2"), addr("198.51.100.10"), protocol::UDP) };
    let whole = builder::udp(header, 1025, 53, &[word; 1200]);
    pieces_v4(&whole, 1000).try_into().expect("two pieces")
}

/// Payload bytes and length of each packet that leaves.
fn pass(sim: &mut Sim, port: &str, packet: &[u8]) -> Vec<(u8, u32)> {
    sim.inject(port, arriving(port, packet)).expect("a port");
    let look = |bytes: &[u8]| {
        let parsed = Parsed::parse(&bytes[ethernet::HEADER_LEN..]).expect("a packet");
        (bytes[bytes.len() - 1], parsed.len)
    };
    sim.collect().iter().map(|(_, frame)| look(&frame.bytes)).collect()
}

/// Two tenants with equal addresses, who even chose the same identification. Linux puts pieces together
/// before a rule has given them a zone, and so mixes them; with the switch each has its own.
#[test]
fn zones_are_kept_apart() {
    let zones = "-A PREROUTING -i eth0 -j CT --zone 1\n-A PREROUTING -i eth1 -j CT --zone 2";
    let (a, b) = (pieces(b'a'), pieces(b'b'));
    let mut sim = gateway(zones, false);
    assert!(pass(&mut sim, "eth0", &a[0]).is_empty());
    assert_eq!(pass(&mut sim, "eth1", &b[1]).len(), 2, "mixed");

    let mut sim = gateway(zones, true);
    assert!(pass(&mut sim, "eth0", &a[0]).is_empty());
    assert!(pass(&mut sim, "eth1", &b[1]).is_empty());
    let (len, rest) = (a[0].len() as u32, a[1].len() as u32);
    assert_eq!(pass(&mut sim, "eth0", &a[1]), [(b'a', len), (b'a', rest)]);
    assert_eq!(pass(&mut sim, "eth1", &b[0]), [(b'b', len), (b'b', rest)]);
    let zones = |lent: &mut Lent<'_>| -> Vec<_> {
        lent.conntrack().iter().map(|(_, c)| c.zones()).collect()
    };
    let zones = sim.each(zones).concat();
    assert_eq!(zones, [[1, 1], [2, 2]]);
}

#[test]
fn untracked_pieces_pass_one_by_one() {
    for (first, each) in [(false, [0, 2]), (true, [1, 1])] {
        let mut sim = gateway("-A PREROUTING -p udp -j CT --notrack", first);
        let left = pieces(b'c').map(|piece| pass(&mut sim, "eth0", &piece).len());
        assert_eq!(left, each);
        assert_eq!(sim.connections(), 0);
    }
}

/// Ports stand in the first piece only; what a rule says of it counts for all, whichever comes first.
#[test]
fn the_first_piece_decides() {
    for turned in [false, true] {
        let mut sim = gateway("-A PREROUTING -p udp --dport 53 -j MARK --set-mark 7", true);
        let mut pieces = pieces(b'd');
        if turned {
            pieces.reverse();
        }
        assert!(pass(&mut sim, "eth0", &pieces[0]).is_empty());
        assert_eq!(pass(&mut sim, "eth0", &pieces[1]).len(), 2);
        let rules = sim.engine().rules_in_force();
        let style = SaveStyle { stamp: "", rule_counters: true };
        let text = rules.of(Family::V4).save(Some(rules.counters(Family::V4)), style);
        let counted = text.lines().any(|l| l.starts_with("[1:") && l.contains("--mark 0x7"));
        assert!(counted, "{text}");
    }
}
