//! What the link layer, neighbours and local packets must not be talked into, in memory.

mod common;

use common::addr;
use common::uplink::{HOST, LAN, ROUTER, UPLINK, lan_and_uplink};
use std::time::Duration;
use tidegate::engine::Drop;
use tidegate::sim::Sim;
use tidegate_packet::builder::{self, Ip, Tcp};
use tidegate_packet::ndp::{self, Ndp};
use tidegate_packet::{MacAddr, Parsed, ethernet, protocol, tcp};

/// A bridge of three ports as LAN, an uplink, and these rules.
fn gateway(rules_v4: &str, rules_v6: &str) -> Sim {
    let mut config = lan_and_uplink(rules_v4, "");
    let lan = &mut config.interfaces[0];
    lan.name = "br0".into();
    lan.ports = ["tap0", "tap1", "tap2"].map(str::to_owned).to_vec();
    lan.addresses.push("fd00:1::1/64".parse().unwrap());
    // Only the router: the hosts have to be asked for.
    config.neighbours.truncate(1);
    config.rules_v6 = rules_v6.into();
    Sim::new(&config).unwrap()
}

fn frame(dst: MacAddr, src: MacAddr, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 14];
    ethernet::write(&mut frame, dst, src, ethertype);
    frame.extend_from_slice(payload);
    frame
}

/// Sends a frame and returns the ports that frames left by.
fn pass(sim: &mut Sim, port: &str, frame: Vec<u8>) -> Vec<String> {
    sim.inject(port, frame).unwrap();
    sim.collect().into_iter().map(|(port, _)| port).collect()
}

fn udp(src: &str, dst: &str) -> Vec<u8> {
    builder::udp(Ip::new(addr(src), addr(dst), protocol::UDP), 4000, 53, b"q")
}

fn icmpv6_type(frame: &[u8]) -> Option<u8> {
    Parsed::parse(&frame[14..]).ok()?.icmp().map(|(kind, _)| kind)
}

#[test]
fn a_bridge_keeps_what_belongs_to_one_link() {
    let group = |last| MacAddr([0x01, 0x80, 0xc2, 0, 0, last]);
    let rows = [
        ("spanning tree, which this bridge doesn't run", group(0), HOST, 2, None),
        ("pause", group(1), HOST, 0, Some(Drop::BridgeReserved)),
        ("LLDP", group(0x0e), HOST, 0, Some(Drop::BridgeReserved)),
        ("beyond the reserved groups", group(0x10), HOST, 2, None),
        ("from a group", MacAddr::BROADCAST, group(3), 0, Some(Drop::BridgeSource)),
        ("from nobody", MacAddr::BROADCAST, MacAddr::default(), 0, Some(Drop::BridgeSource)),
    ];
    for (what, dst, src, copies, reason) in rows {
        let mut sim = gateway("", "");
        let out = pass(&mut sim, "tap0", frame(dst, src, 0x88cc, &[0; 46]));
        assert_eq!(out.len(), copies, "{what}");
        if let Some(reason) = reason {
            assert_eq!(sim.counters().dropped(reason), 1, "{what}");
        }
    }
}

#[test]
fn a_priority_tag_hides_no_vlan() {
    let tagged = |tags: &[u16]| {
        let mut payload: Vec<u8> =
            tags.iter().flat_map(|tci| [tci.to_be_bytes(), [0x81, 0]].concat()).collect();
        let at = payload.len() - 2;
        payload[at..].copy_from_slice(&ethernet::IPV4.to_be_bytes());
        payload.extend(udp("203.0.113.2", "203.0.113.1"));
        frame(UPLINK, ROUTER, ethernet::VLAN, &payload)
    };
    for (tags, refused) in [(&[0xa000][..], 0), (&[5], 1), (&[0, 5], 1), (&[0, 0], 1)] {
        let mut sim = gateway("", "");
        let out = pass(&mut sim, "wan0", tagged(tags));
        assert_eq!(sim.counters().dropped(Drop::LinkVlan), refused, "{tags:x?}");
        assert_eq!(out.is_empty(), refused == 1, "{tags:x?}");
    }
}

#[test]
fn tcp_in_a_broadcast_frame_gets_no_reset() {
    let syn = Tcp { sport: 5000, dport: 81, flags: tcp::SYN, ..Tcp::default() };
    let header = Ip::new(addr("203.0.113.2"), addr("203.0.113.1"), protocol::TCP);
    let syn = builder::tcp(header, syn, &[]);
    for (dst, answers) in [(UPLINK, 1), (MacAddr::BROADCAST, 0)] {
        let mut sim = gateway("", "");
        let out = pass(&mut sim, "wan0", frame(dst, ROUTER, ethernet::IPV4, &syn));
        assert_eq!(out.len(), answers, "to {dst}");
    }
}

/// The gateway learns a neighbour from its answer, asks it again half a minute later by its own
/// address, and takes an answer without link address, which is what Linux gives then.
#[test]
fn a_probed_neighbour_needs_no_link_address_in_its_answer() {
    let mut sim = gateway("", "");
    let (host, own) = (addr("fd00:1::22"), addr("fd00:1::1"));
    let ping = builder::echo(Ip::new(host, own, protocol::ICMPV6), true, 1, 1, b"");
    let ping = frame(LAN, HOST, ethernet::IPV6, &ping);
    let answer = |mac: Option<MacAddr>, to| {
        let solicited = true;
        let overrides = mac.is_some();
        let target_mac = mac;
        let answer =
            Ndp::Advertisement { target: host, target_mac, router: false, solicited, overrides };
        frame(LAN, HOST, ethernet::IPV6, &answer.to_packet(host, to))
    };
    let kinds = |sim: &mut Sim| -> Vec<_> {
        sim.collect().iter().filter_map(|(_, f)| icmpv6_type(&f.bytes)).collect()
    };
    sim.inject("tap0", ping.clone()).unwrap();
    // On a bridge the question goes to all three ports.
    assert_eq!(kinds(&mut sim), [135; 3]);
    sim.inject("tap0", answer(Some(HOST), addr("fe80::ff:fe00:100"))).unwrap();
    assert_eq!(kinds(&mut sim), [129], "the reply that waited");
    sim.advance(Duration::from_secs(31));
    sim.inject("tap0", ping.clone()).unwrap();
    assert_eq!(kinds(&mut sim), [129, 135], "the reply and a probe");
    sim.inject("tap0", answer(None, addr("fe80::ff:fe00:100"))).unwrap();
    sim.advance(Duration::from_secs(10));
    assert!(kinds(&mut sim).is_empty(), "no more questions");
    sim.inject("tap0", ping).unwrap();
    assert_eq!(kinds(&mut sim), [129]);
}

#[test]
fn a_mark_in_output_does_not_stop_neighbour_discovery() {
    let mark =
        "*mangle\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -j MARK --set-xmark 0x1/0xffffffff\nCOMMIT\n";
    let mut sim = gateway("", mark);
    let question = Ndp::Solicitation { target: addr("fd00:1::1"), source_mac: Some(HOST) };
    let from = addr("fe80::22");
    let packet = question.to_packet(from, ndp::solicited_node(addr("fd00:1::1")));
    let group = MacAddr::of_multicast(ndp::solicited_node(addr("fd00:1::1")));
    sim.inject("tap0", frame(group, HOST, ethernet::IPV6, &packet)).unwrap();
    let out = sim.collect();
    let answers = out.iter().filter(|(_, f)| icmpv6_type(&f.bytes) == Some(136));
    assert_eq!(answers.count(), 1, "{:?}", sim.counters().drops().collect::<Vec<_>>());
}

#[test]
fn many_neighbours_are_asked_again_at_once() {
    let mut sim = gateway("", "");
    for n in 1..=200 {
        let src = addr("2001:db8::1");
        let dst = addr(&format!("fd00:1::1:{n:x}"));
        let packet = builder::udp(Ip::new(src, dst, protocol::UDP), 4000, 53, b"q");
        sim.inject("wan0", frame(UPLINK, ROUTER, ethernet::IPV6, &packet)).unwrap();
    }
    assert_eq!(sim.collect().len(), 3 * 200);
    sim.advance(Duration::from_millis(1100));
    assert_eq!(sim.collect().len(), 3 * 200);
}

#[test]
fn dhcp_answers_that_nobody_takes_do_not_pile_up() {
    let mut sim = gateway("", "");
    let wan = sim.engine().interfaces().by_name("wan0").unwrap();
    sim.engine_mut().divert_dhcp(wan);
    let header = Ip::new(addr("203.0.113.2"), addr("255.255.255.255"), protocol::UDP);
    let offer = builder::udp(header, 67, 68, b"offer");
    for _ in 0..1000 {
        let offer = frame(MacAddr::BROADCAST, ROUTER, ethernet::IPV4, &offer);
        assert_eq!(pass(&mut sim, "wan0", offer), [""; 0]);
    }
    let taken = sim.engine_mut().take_dhcp();
    assert_eq!(taken.len(), 64);
    assert_eq!(taken[0].1, frame(MacAddr::BROADCAST, ROUTER, ethernet::IPV4, &offer));
}

/// A header cut short is INVALID, and a port match drops what it can't read. An exception for a
/// port in front of the translation must not let it out with the inside address.
#[test]
fn a_header_cut_short_does_not_leave_untranslated() {
    let rules = "*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n\
                 :POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -p tcp -m tcp --dport 25 -j ACCEPT\n\
                 -A POSTROUTING -o wan0 -j MASQUERADE\nCOMMIT\n";
    let mut sim = gateway(rules, "");
    let header = Ip::new(addr("192.168.0.2"), addr("198.51.100.10"), protocol::TCP);
    let cut = frame(LAN, HOST, ethernet::IPV4, &builder::ip(header, &[0; 10]));
    assert_eq!(pass(&mut sim, "tap0", cut), [""; 0]);
    assert_eq!(sim.counters().dropped(Drop::NatBypass), 1);
}
