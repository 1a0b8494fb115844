//! Which port a connection gets, and what happens when none is left.

mod common;

use common::{Gateway, Rules, addr, ip, show, to, to_range};
use tidegate_nat::{ConfirmDrop, Conntrack, Manip, Order, Range, Settings, Tracked, Tuple};
use tidegate_packet::builder::{self, Tcp, echo, tcp, udp};
use tidegate_packet::{Parsed, protocol};

const WAN: &str = "203.0.113.1";

fn masquerade() -> Rules {
    Rules { snat: Some(to(WAN)), dnat: None }
}

fn datagram(src: &str, sport: u16, dst: &str, dport: u16) -> Vec<u8> {
    udp(ip(src, dst, protocol::UDP), sport, dport, b"data")
}

fn segment(src: &str, sport: u16, dst: &str, dport: u16, flags: u8, seq: u32, ack: u32) -> Vec<u8> {
    let fields = Tcp { sport, dport, seq, ack, flags, window: 5000, options: &[] };
    tcp(ip(src, dst, protocol::TCP), fields, b"")
}

fn source_port(bytes: &[u8]) -> u16 {
    Parsed::parse(bytes).unwrap().ports().unwrap().0
}

#[test]
fn a_free_port_is_kept_and_answers_come_back() {
    let mut gw = Gateway::new();
    let out = gw.pass(&datagram("192.168.0.5", 5000, "8.8.8.8", 53), masquerade()).unwrap();
    assert_eq!(show(&out), "203.0.113.1:5000 > 8.8.8.8:53");
    let back = gw.pass(&datagram("8.8.8.8", 53, WAN, 5000), Rules::default()).unwrap();
    assert_eq!(show(&back), "8.8.8.8:53 > 192.168.0.5:5000");
}

/// Ports stay in their class: below 512, 600 to 1023, the rest.
#[test]
fn a_taken_port_is_replaced_by_one_of_its_class() {
    for (port, class) in [
        (1, 1..=511),
        (511, 1..=511),
        (512, 600..=1023),
        (1023, 600..=1023),
        (1024, 1024..=65535),
        (65535, 1024..=65535),
    ] {
        let mut gw = Gateway::new();
        gw.pass(&datagram("192.168.0.5", port, "8.8.8.8", 53), masquerade()).unwrap();
        let out = gw.pass(&datagram("192.168.0.6", port, "8.8.8.8", 53), masquerade()).unwrap();
        let got = source_port(&out);
        assert!(got != port && class.contains(&got), "{port} became {got}");
        let back = gw.pass(&datagram("8.8.8.8", 53, WAN, got), Rules::default()).unwrap();
        assert_eq!(show(&back), format!("8.8.8.8:53 > 192.168.0.6:{port}"));
        // Towards another server the first client's port would be free, but the mapping stays.
        let more = gw.pass(&datagram("192.168.0.6", port, "9.9.9.9", 53), masquerade()).unwrap();
        assert_eq!(source_port(&more), got);
    }
}

#[test]
fn echo_identifiers_are_told_apart() {
    let mut gw = Gateway::new();
    let ping = |src| echo(ip(src, "8.8.8.8", protocol::ICMP), true, 77, 1, b"ping");
    let first = gw.pass(&ping("192.168.0.5"), masquerade()).unwrap();
    assert_eq!(show(&first), "203.0.113.1 > 8.8.8.8 id 77");
    let second = Parsed::parse(&gw.pass(&ping("192.168.0.6"), masquerade()).unwrap()).unwrap();
    let tidegate_packet::Transport::Icmp { id, .. } = second.transport else { panic!() };
    assert_ne!(id, 77);
    let answer = echo(ip("8.8.8.8", WAN, protocol::ICMP), false, id, 1, b"ping");
    let back = gw.pass(&answer, Rules::default()).unwrap();
    assert_eq!(show(&back), "8.8.8.8 > 192.168.0.6 id 77");
}

#[test]
fn a_port_range_is_used_up_then_exhausted() {
    let snat = Some(Range { ports: Some((4000, 4003)), ..to(WAN) });
    let rules = Rules { snat, dnat: None };
    let mut gw = Gateway::new();
    let mut ports: Vec<u16> = (0..4)
        .map(|i| {
            source_port(&gw.pass(&datagram("192.168.0.5", 100 + i, "8.8.8.8", 53), rules).unwrap())
        })
        .collect();
    ports.sort_unstable();
    assert_eq!(ports, [4000, 4001, 4002, 4003]);
    let fifth = gw.pass(&datagram("192.168.0.5", 200, "8.8.8.8", 53), rules);
    assert_eq!(fifth, Err(tidegate_nat::Exhausted.to_string()));
    // Another server is another matter.
    assert!(gw.pass(&datagram("192.168.0.5", 200, "9.9.9.9", 53), rules).is_ok());
    gw.wait(31);
    assert!(gw.pass(&datagram("192.168.0.5", 200, "8.8.8.8", 53), rules).is_ok());
}

#[test]
fn a_single_port_keeps_to_itself() {
    let rules = Rules { snat: Some(Range { ports: Some((4000, 4000)), ..to(WAN) }), dnat: None };
    let mut gw = Gateway::new();
    let out = gw.pass(&datagram("192.168.0.5", 100, "8.8.8.8", 53), rules).unwrap();
    assert_eq!(source_port(&out), 4000);
    assert!(gw.pass(&datagram("192.168.0.6", 100, "8.8.8.8", 53), rules).is_err());
}

#[test]
fn destination_ports() {
    let range = |ports, base_port| Range { ports: Some(ports), base_port, ..to("192.168.0.6") };
    for (want, range, port) in [
        ("one port", range((80, 80), None), (8000, 80)),
        ("the first of a range", range((90, 99), None), (8000, 90)),
        ("one that is in the range already", range((90, 99), None), (95, 95)),
        ("shifted", range((2000, 2999), Some(8000)), (8007, 2007)),
        ("shifted beyond, and round", range((2000, 2009), Some(8000)), (8013, 2003)),
    ] {
        let rules = Rules { dnat: Some(range), snat: None };
        let out = Gateway::new().pass(&datagram("198.51.100.7", 999, WAN, port.0), rules).unwrap();
        assert_eq!(show(&out), format!("198.51.100.7:999 > 192.168.0.6:{}", port.1), "{want}");
    }
}

/// The next free one from the bottom; the second packet comes from the same port, to another
/// address of the gateway.
#[test]
fn destination_ports_in_order() {
    let dnat = Some(Range { ports: Some((90, 99)), ..to("192.168.0.6") });
    let rules = Rules { dnat, snat: None };
    let mut gw = Gateway::new();
    for (dst, port) in [(WAN, 90), ("203.0.113.2", 91), ("203.0.113.3", 92)] {
        let out = gw.pass(&datagram("198.51.100.7", 999, dst, 8000), rules).unwrap();
        assert_eq!(show(&out), format!("198.51.100.7:999 > 192.168.0.6:{port}"));
    }
}

/// Two addresses forwarded to one server: the same outsider from the same port would be two flows
/// with one reply tuple. The null binding of the source gives the second another port.
#[test]
fn a_clash_behind_a_port_forward_moves_the_source() {
    let rules = Rules { dnat: Some(to("192.168.0.6")), snat: None };
    let mut gw = Gateway::new();
    gw.pass(&datagram("198.51.100.7", 999, WAN, 80), rules).unwrap();
    let out = gw.pass(&datagram("198.51.100.7", 999, "203.0.113.2", 80), rules).unwrap();
    let port = source_port(&out);
    assert!(port != 999 && (600..=1023).contains(&port));
    let back = gw.pass(&datagram("192.168.0.6", 80, "198.51.100.7", port), Rules::default());
    assert_eq!(show(&back.unwrap()), "203.0.113.2:80 > 198.51.100.7:999");
}

/// A stranger's packet to the gateway occupies its tuple; a client that mirrors it is remapped.
#[test]
fn a_stranger_occupies_a_tuple() {
    let mut gw = Gateway::new();
    gw.pass(&datagram("8.8.8.8", 53, WAN, 5000), Rules::default()).unwrap();
    let out = gw.pass(&datagram("192.168.0.5", 5000, "8.8.8.8", 53), masquerade()).unwrap();
    assert_ne!(source_port(&out), 5000);
}

#[test]
fn random_fully_does_not_keep_the_port() {
    for range in [Range { random: true, ..to(WAN) }, Range { random_fully: true, ..to(WAN) }] {
        let mut gw = Gateway::new();
        gw.seed = 99;
        let rules = Rules { snat: Some(range), dnat: None };
        let out = gw.pass(&datagram("192.168.0.5", 5000, "8.8.8.8", 53), rules).unwrap();
        assert!(source_port(&out) != 5000 && source_port(&out) >= 1024);
    }
}

#[test]
fn netmap_keeps_the_host_bits() {
    let netmap = Some(Range { netmap: Some("10.9.0.0/16".parse().unwrap()), ..Range::default() });
    let mut gw = Gateway::new();
    let rules = Rules { snat: netmap, dnat: None };
    let out = gw.pass(&datagram("192.168.3.4", 5000, "8.8.8.8", 53), rules).unwrap();
    assert_eq!(show(&out), "10.9.3.4:5000 > 8.8.8.8:53");
    let rules = Rules { snat: None, dnat: netmap };
    let out = gw.pass(&datagram("8.8.8.8", 1, "172.16.7.8", 2), rules).unwrap();
    assert_eq!(show(&out), "8.8.8.8:1 > 10.9.7.8:2");
}

/// A range of addresses: with all ports of the hashed one taken, the flow is dropped rather than
/// moved; an address alone decides nothing about ports.
#[test]
fn protocols_without_ports_have_one_client_per_server() {
    let esp = |src: &str| builder::ip(ip(src, "8.8.8.8", protocol::ESP), &[0; 16]);
    let mut gw = Gateway::new();
    assert!(gw.pass(&esp("192.168.0.5"), masquerade()).is_ok());
    assert!(gw.pass(&esp("192.168.0.5"), masquerade()).is_ok());
    assert!(gw.pass(&esp("192.168.0.6"), masquerade()).is_err());
    let many = Rules { snat: Some(to_range("203.0.113.1", "203.0.113.2")), dnat: None };
    assert!(gw.pass(&builder::ip(ip("192.168.0.6", "9.9.9.9", 99), &[0; 4]), many).is_ok());
}

/// When the search comes to its end, a closed connection gives up its port to a SYN that is
/// beyond its sequence numbers.
#[test]
fn closed_connections_give_way() {
    const SYN: u8 = 2;
    const ACK: u8 = 0x10;
    const FIN_ACK: u8 = 0x11;
    let rules = Rules { snat: Some(Range { ports: Some((4000, 4001)), ..to(WAN) }), dnat: None };
    let server = "8.8.8.8";
    let mut gw = Gateway::new();
    for (client, port) in [(100, 0), (101, 1)] {
        let syn =
            gw.pass(&segment("192.168.0.5", client, server, 80, SYN, 1000, 0), rules).unwrap();
        let nat = source_port(&syn);
        let mut say = |out: bool, flags, seq, ack| {
            let bytes = match out {
                true => segment("192.168.0.5", client, server, 80, flags, seq, ack),
                false => segment(server, 80, WAN, nat, flags, seq, ack),
            };
            gw.pass(&bytes, rules).unwrap();
        };
        say(false, SYN | ACK, 7000, 1001);
        say(true, ACK, 1001, 7001);
        if port == 1 {
            say(true, FIN_ACK, 1001, 7001);
            say(false, FIN_ACK, 7001, 1002);
            say(true, ACK, 1002, 7002);
        }
    }
    let late = segment("192.168.0.6", 50, server, 80, SYN, 900, 0);
    assert!(gw.pass(&late, rules).is_err(), "its numbers overlap the old connection's");
    let late = segment("192.168.0.6", 50, server, 80, SYN, 5000, 0);
    assert!(gw.pass(&late, rules).is_ok());
    assert_eq!(gw.table.len(), 2);
}

#[test]
fn a_full_table_drops_what_is_not_assured() {
    let mut gw = Gateway::with(Settings { max: 2, ..Settings::default() });
    let send = |gw: &mut Gateway, port| {
        gw.pass(&datagram("192.168.0.5", port, "8.8.8.8", 53), Rules::default())
    };
    let answer = |gw: &mut Gateway, port| {
        gw.pass(&datagram("8.8.8.8", 53, "192.168.0.5", port), Rules::default()).unwrap();
    };
    for port in [1, 2] {
        send(&mut gw, port).unwrap();
        answer(&mut gw, port);
    }
    gw.wait(3);
    // Streams now, and assured.
    for port in [1, 2] {
        send(&mut gw, port).unwrap();
    }
    assert_eq!(send(&mut gw, 3), Err(ConfirmDrop::TableFull.to_string()));
    gw.table.flush();
    for port in 1..10 {
        send(&mut gw, port).unwrap();
        assert!(gw.table.len() <= 2);
    }
}

/// Two packets of one flow on their way at once: the second to leave finds the first's entry.
#[test]
fn the_second_of_two_new_packets_clashes() {
    let mut gw = Gateway::new();
    let bytes = datagram("192.168.0.5", 1, "8.8.8.8", 53);
    let packet = Parsed::parse(&bytes).unwrap();
    let mut first = gw.table.track(&packet, &bytes, true, gw.now);
    let mut second = gw.table.track(&packet, &bytes, true, gw.now);
    assert!(gw.table.confirm(&mut first, gw.now).is_ok());
    assert_eq!(gw.table.confirm(&mut second, gw.now), Err(ConfirmDrop::Clash));
}

/// The same of two flows that have chosen one outside port, neither of which was in the table then.
#[test]
fn what_was_free_when_it_was_chosen_may_be_taken_when_it_is_confirmed() {
    let mut gw = Gateway::new();
    let mut begin = |host: &str| {
        let bytes = datagram(host, 5000, "8.8.8.8", 53);
        let packet = Parsed::parse(&bytes).unwrap();
        let mut tracked = gw.table.track(&packet, &bytes, true, gw.now);
        for (manip, range) in [(Manip::Destination, None), (Manip::Source, Some(to(WAN)))] {
            let mut random = || 0;
            gw.table.set_nat(&mut tracked, manip, range.as_ref(), gw.now, &mut random).unwrap();
        }
        tracked
    };
    let [mut first, mut second] = ["192.168.0.5", "192.168.0.6"].map(&mut begin);
    let reply = |table: &Conntrack, tracked: &Tracked| table.view(tracked).unwrap().reply();
    assert_eq!(reply(&gw.table, &first), reply(&gw.table, &second));
    assert!(gw.table.confirm(&mut first, gw.now).is_ok());
    assert_eq!(gw.table.confirm(&mut second, gw.now), Err(ConfirmDrop::Clash));
    // And what was taken may be free by then.
    gw.table.flush();
    assert!(gw.table.confirm(&mut second, gw.now).is_ok());
    assert_eq!(gw.table.len(), 1);
}

#[test]
fn masqueraded_connections_go_with_their_address() {
    let mut gw = Gateway::new();
    for (port, interface) in [(1, 0), (2, 8)] {
        let bytes = datagram("192.168.0.5", port, "8.8.8.8", 53);
        let packet = Parsed::parse(&bytes).unwrap();
        let mut tracked = gw.table.track(&packet, &bytes, true, gw.now);
        gw.table.set_masqueraded(&mut tracked, interface);
        gw.table.confirm(&mut tracked, gw.now).unwrap();
        assert!(gw.table.check_egress(&tracked, interface));
    }
    // The address that the first was masqueraded to is gone.
    let kept = vec![addr("203.0.113.9")];
    gw.table.order(Order::ForgetMasqueraded { interface: 0, kept });
    assert_eq!((gw.table.expire(gw.now), gw.table.len()), (0, 1));
    // That of the second is not.
    let kept = vec![addr("192.168.0.5")];
    gw.table.order(Order::ForgetMasqueraded { interface: 8, kept });
    assert_eq!((gw.table.expire(gw.now), gw.table.len()), (0, 1));
    let bytes = datagram("192.168.0.5", 2, "8.8.8.8", 53);
    let packet = Parsed::parse(&bytes).unwrap();
    let tracked = gw.table.track(&packet, &bytes, true, gw.now);
    assert!(!gw.table.check_egress(&tracked, 9), "its route moved to another interface");
    assert!(gw.table.is_empty());
    let tuple = Tuple {
        src: addr("192.168.0.5"),
        dst: addr("8.8.8.8"),
        sport: 2,
        dport: 53,
        protocol: protocol::UDP,
    };
    assert_eq!(gw.table.find(&tuple, gw.now), None);
}
