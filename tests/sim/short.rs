//! The short way: four gateways get the same frames, one without it, one with it, one that takes
//! packets both ways and compares, and one that leases every flow that it can. Nothing may tell them
//! apart, whatever changes between two packets.

use crate::common::{addr, frame, gateway_mac, host_mac, page_with_neighbours};
use std::time::Duration;
use tidegate::diagnostic::{Report, Source};
use tidegate::engine::{Engine, ShortWay};
use tidegate::sim::{Sim, SimConfig};
use tidegate::sysctl::Assignments;
use tidegate_filter::live::{self, Call, Present, Program};
use tidegate_filter::{SaveStyle, Sets};
use tidegate_nat::{ConnId, Conntrack, Update};
use tidegate_packet::builder::{self, Ip, Tcp};
use tidegate_packet::{Family, Instant, MacAddr, ethernet, protocol, tcp};

const STYLE: SaveStyle<'_> = SaveStyle { stamp: "now", rule_counters: true };
const SETS: &str = "create blocked hash:ip\ncreate timed hash:ip timeout 60\n";

/// Ends of a flow: the port frames come in by, the station they come from, and the gateway's.
type End = (&'static str, u8, u8);
const LAN: End = ("eth0", 2, 0);
const UPLINK: End = ("ppp0", 99, 2);

/// The four.
struct Four([(Sim, Sets); 4]);

impl Four {
    fn new(config: &SimConfig) -> Self {
        let modes = [ShortWay::Off, ShortWay::On, ShortWay::Compared, ShortWay::On];
        let mut four = Self(modes.map(|mode| {
            let sets = Sets::new();
            sets.restore(SETS, Instant::from_secs(3600)).expect("sets");
            let mut sim = Sim::with_sets(config, &sets).expect("a gateway");
            sim.engine_mut().set_short_way(mode);
            (sim, sets)
        }));
        four.0[3].0.lease_all();
        four
    }

    fn each(&mut self, mut change: impl FnMut(&mut Sim)) {
        self.0.iter_mut().for_each(|(sim, _)| change(sim));
    }

    fn engines(&mut self, mut change: impl FnMut(&mut Engine)) {
        self.each(|sim| change(sim.engine_mut()));
    }

    /// Does something to each connection.
    fn connections(&mut self, act: impl Fn(&mut Conntrack, ConnId, Instant)) {
        self.each(|sim| {
            let now = sim.now();
            sim.each(|lent| {
                let ids: Vec<_> = lent.conntrack().iter().map(|(id, _)| id).collect();
                ids.into_iter().for_each(|id| act(lent.conntrack_mut(), id, now));
            });
        });
    }

    /// Sends a frame and says what came of it.
    fn send(&mut self, (port, from, to): End, packet: &[u8]) -> Vec<(String, Vec<u8>)> {
        self.inject(port, frame(host_mac(from), gateway_mac(to), packet))
    }

    fn inject(&mut self, port: &str, bytes: Vec<u8>) -> Vec<(String, Vec<u8>)> {
        self.each(|sim| sim.inject(port, bytes.clone()).expect("a port"));
        self.same()
    }

    fn advance(&mut self, millis: u64) -> Vec<(String, Vec<u8>)> {
        self.each(|sim| sim.advance(Duration::from_millis(millis)));
        self.same()
    }

    /// All that can be seen of the four is the same; what they have sent.
    fn same(&mut self) -> Vec<(String, Vec<u8>)> {
        let seen = self.0.each_mut().map(|(sim, _)| {
            let sent: Vec<_> =
                sim.collect().into_iter().map(|(port, frame)| (port, frame.bytes)).collect();
            let rules = [Family::V4, Family::V6].map(|family| {
                let rules = sim.engine().rules_in_force();
                rules.of(family).save(Some(rules.counters(family)), STYLE)
            });
            // How long each flow lives, what it carried and whether it is assured.
            let now = sim.now();
            let connections: Vec<Vec<String>> = sim.each(|lent| {
                let told = |c: &tidegate_nat::Connection| {
                    let state = (c.accounting(), c.mark(), c.tcp_state(), c.time_left(now));
                    format!("{:?} {:?} {:?} {state:?}", c.original(), c.reply(), c.status())
                };
                lent.conntrack().iter().map(|(_, c)| told(c)).collect()
            });
            let counters = sim.counters();
            let drops: Vec<_> = counters.drops().collect();
            (sent, rules, connections, drops, counters.received)
        });
        let [off, on, compared, leasing] = seen;
        assert_eq!(off, on);
        assert_eq!(off, compared);
        assert_eq!(off, leasing);
        off.0
    }

    /// How many packets have taken the short way, where there is one.
    fn taken(&self) -> [u64; 2] {
        [1, 2].map(|n: usize| self.0[n].0.taken_short_way())
    }

    /// How many packets the gateway that leases has never seen.
    fn forwarded(&mut self) -> u64 {
        self.0[3].0.forwarded()
    }

    fn iptables(&mut self, args: &str) {
        let args: Vec<String> = args.split(' ').map(str::to_owned).collect();
        self.engines(|engine| {
            let (ruleset, counters) = engine.rules_in_force().snapshot(Family::V4);
            let program = Program::Iptables;
            let call = Call { program, family: Family::V4, args: &args, input: "", stamp: "now" };
            let answer = live::run(call, Present { ruleset: &ruleset, counters: &counters });
            assert_eq!(answer.err, "");
            if let Some(change) = answer.change {
                assert!(engine.change_rules(&ruleset, change, &counters).is_ok());
            }
        });
    }

    fn ipset(&mut self, args: &str) {
        let args: Vec<String> = args.split(' ').map(str::to_owned).collect();
        for (sim, sets) in &self.0 {
            assert_eq!(sets.call(&args, "", sim.now()).status, 0);
            sim.engine().sets_changed();
        }
    }

    fn sysctl(&mut self, text: &str) {
        let (mut report, mut assignments) = (Report::default(), Assignments::default());
        assignments.read(&Source::new("sysctls", text), &mut report);
        assert!(!report.has_errors());
        self.engines(|engine| {
            let mode = assignments.sysctls.short_way();
            engine.replace_sysctls(assignments.sysctls.clone());
            assert!(mode);
        });
        // The sysctl's default is not to the first one's taste.
        self.0[0].0.engine_mut().set_short_way(ShortWay::Off);
    }
}

fn config(rules: &str) -> SimConfig {
    let nat = "*nat\n-A POSTROUTING -o ppp0 -j MASQUERADE\nCOMMIT\n";
    SimConfig { rules_v4: format!("{rules}{nat}"), ..page_with_neighbours() }
}

/// What most people have.
const USUAL: &str = "*filter\n:FORWARD DROP\n-A FORWARD -m conntrack --ctstate INVALID -j DROP\n\
    -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
    -A FORWARD -i eth0 -j ACCEPT\nCOMMIT\n";

fn outward(n: u16, payload: &[u8]) -> Vec<u8> {
    let ip = Ip::new(addr("192.168.0.2"), addr("203.0.113.2"), protocol::UDP);
    builder::udp(ip, 4000 + n, 53, payload)
}

fn inward(n: u16, payload: &[u8]) -> Vec<u8> {
    let ip = Ip::new(addr("203.0.113.2"), addr("203.0.113.1"), protocol::UDP);
    builder::udp(ip, 53, 4000 + n, payload)
}

/// Two datagrams each way; the first decide.
fn warm(four: &mut Four, n: u16) {
    for _ in 0..3 {
        assert_eq!(four.send(LAN, &outward(n, b"out")).len(), 1);
        assert_eq!(four.send(UPLINK, &inward(n, b"back")).len(), 1);
    }
}

#[test]
fn datagrams_both_ways() {
    let mut four = Four::new(&config(USUAL));
    warm(&mut four, 0);
    let before = four.taken();
    for len in [0, 1, 100, 1400] {
        assert_eq!(four.send(LAN, &outward(0, &vec![7; len])).len(), 1);
        assert_eq!(four.send(UPLINK, &inward(0, &vec![8; len])).len(), 1);
    }
    assert_eq!(four.taken(), before.map(|n| n + 8));
    assert!(four.forwarded() >= 8);
    // Other flows decide for themselves, and have the same way.
    for n in 1..20 {
        warm(&mut four, n);
    }
    assert!(four.taken()[0] >= before[0] + 8 + 19 * 2);
}

/// Anything uncommon goes the long way, and is what it ever was.
#[test]
fn what_is_not_plain() {
    let mut four = Four::new(&config(USUAL));
    warm(&mut four, 0);
    let before = four.taken();
    let mut packets: Vec<Vec<u8>> = Vec::new();
    let ip = |hop_limit| Ip {
        hop_limit,
        ..Ip::new(addr("192.168.0.2"), addr("203.0.113.2"), protocol::UDP)
    };
    packets.push(builder::udp(ip(1), 4000, 53, b"at its end"));
    packets.push(builder::udp(ip(0), 4000, 53, b"over"));
    packets.push(builder::udp(ip(64), 4000, 53, &[1; 1480]));
    let mut damaged = outward(0, b"damaged");
    damaged[27] ^= 1;
    packets.push(damaged);
    let mut header = outward(0, b"damaged");
    header[10] ^= 1;
    packets.push(header);
    let mut short = outward(0, b"shorter than it says");
    short[25] = 200;
    packets.push(short);
    let mut fragment = outward(0, b"a fragment");
    fragment[6] = 0x20;
    tidegate_packet::ipv4::write_checksum(&mut fragment);
    packets.push(fragment);
    for packet in &packets {
        four.send(LAN, packet);
    }
    // Not for the gateway's station; with link padding; by another port.
    four.inject("eth0", frame(host_mac(2), host_mac(3), &outward(0, b"elsewhere")));
    four.inject("eth0", frame(host_mac(2), MacAddr::BROADCAST, &outward(0, b"everywhere")));
    assert_eq!(four.taken(), before);
    four.send(("eth1", 9, 1), &outward(0, b"by another port"));
    let mut padded = frame(host_mac(2), gateway_mac(0), &outward(0, b"padded"));
    padded.extend([0xaa; 9]);
    assert_eq!(four.inject("eth0", padded).len(), 1);
    // Its checksum is absent (RFC 768).
    let mut absent = outward(0, b"no checksum");
    absent[26..28].fill(0);
    assert_eq!(four.send(LAN, &absent)[0].1[40..42], [0, 0]);
}

/// Rules that look at more than the flow are asked about every packet.
#[test]
fn rules_that_look_at_packets() {
    for (rule, short) in [
        ("-m length --length 100:200 -j DROP", false),
        ("-m limit --limit 1/hour --limit-burst 7", false),
        ("-m statistic --mode nth --every 3 -j DROP", false),
        ("-m ttl --ttl-eq 64", false),
        ("-m recent --set --name seen", false),
        ("-j LOG", false),
        ("-p tcp -m limit --limit 1/hour --limit-burst 7 -j DROP", true),
        ("-s 10.0.0.0/8 -m length --length 0:9000 -j DROP", true),
        ("-m conntrack --ctstate NEW -m limit --limit 1/hour", true),
        ("-m comment --comment x -m mark --mark 0 -j MARK --set-mark 5", true),
        ("-m set --match-set blocked src -j DROP", true),
        ("-m set ! --match-set timed src", false),
        ("-m conntrack --ctstatus ASSURED -j ACCEPT", true),
        ("-m conntrack --ctexpire 1:1000 -j ACCEPT", false),
    ] {
        let text = USUAL.replace(":FORWARD DROP\n", &format!(":FORWARD DROP\n-A FORWARD {rule}\n"));
        let mut four = Four::new(&config(&text));
        for round in 0..6 {
            for len in [10, 150] {
                four.send(LAN, &outward(0, &vec![round; len]));
                four.send(UPLINK, &inward(0, &vec![round; len]));
            }
        }
        assert_eq!(four.taken().map(|n| n > 5), [short; 2], "{rule}");
    }
}

/// Each change counts for the very next packet.
#[test]
fn what_changes_counts_at_once() {
    type Change = (&'static str, fn(&mut Four), bool);
    let gone = |four: &mut Four| {
        four.connections(|table, id, _| assert!(table.delete(id)));
    };
    let changes: &[Change] = &[
        ("a rule", |t| t.iptables("-I FORWARD -p udp --dport 53 -j DROP"), false),
        ("a rule that only counts", |t| t.iptables("-I FORWARD 1 -p udp"), true),
        ("a rule that goes", |t| t.iptables("-D FORWARD 1"), true),
        ("counters at zero", |t| t.iptables("-Z FORWARD"), true),
        ("a rule in raw", |t| t.iptables("-t raw -A PREROUTING -s 192.168.0.2 -j DROP"), false),
        ("untracked", |t| t.iptables("-t raw -A PREROUTING -p udp -j NOTRACK"), false),
        ("forwarding off", |t| t.sysctl("net.ipv4.ip_forward = 0\n"), false),
        ("a set", |t| t.ipset("add blocked 192.168.0.2"), false),
        ("no route", |t| t.engines(|e| e.replace_routes(Vec::new())), true),
        ("connections gone", gone, true),
    ];
    for (what, change, passes) in changes {
        let rules = USUAL.replace(
            ":FORWARD DROP\n",
            ":FORWARD DROP\n-A FORWARD -m set --match-set blocked src -j DROP\n",
        );
        let mut four = Four::new(&config(&rules));
        warm(&mut four, 0);
        let before = four.taken();
        assert!(before[0] >= 2 && before[0] == before[1], "{what}: {before:?}");
        change(&mut four);
        four.same();
        let sent = four.send(LAN, &outward(0, b"after"));
        assert_eq!(sent.iter().any(|(port, _)| port == "ppp0"), *passes, "{what}");
        for _ in 0..3 {
            four.send(UPLINK, &inward(0, b"and back"));
            four.send(LAN, &outward(0, b"and out"));
        }
    }
}

#[test]
fn another_station_at_the_next_hop() {
    let mut config = config(USUAL);
    config.neighbours.clear();
    let mut four = Four::new(&config);
    let arp =
        |operation: u8, sender: u8, sender_ip: [u8; 4], target: MacAddr, target_ip: [u8; 4]| {
            let mut bytes = vec![0; ethernet::HEADER_LEN];
            ethernet::write(&mut bytes, MacAddr::BROADCAST, host_mac(sender), ethernet::ARP);
            bytes.extend([0, 1, 8, 0, 6, 4, 0, operation]);
            bytes.extend(host_mac(sender).0);
            bytes.extend(sender_ip);
            bytes.extend(target.0);
            bytes.extend(target_ip);
            bytes
        };
    let (router, wan) = ([203, 0, 113, 2], [203, 0, 113, 1]);
    let (client, lan) = ([192, 168, 0, 2], [192, 168, 0, 1]);
    four.send(LAN, &outward(0, b"first"));
    four.inject("ppp0", arp(2, 99, router, gateway_mac(2), wan));
    four.send(UPLINK, &inward(0, b"answer"));
    four.inject("eth0", arp(2, 2, client, gateway_mac(0), lan));
    warm(&mut four, 0);
    let taken = four.taken();
    assert!(taken[0] > 0);
    // The router has another card now.
    four.inject("ppp0", arp(1, 77, router, MacAddr::default(), router));
    let sent = four.send(LAN, &outward(0, b"to the new one"));
    assert_eq!(sent[0].1[..6], host_mac(77).0);
    // For a lease addresses are asked for sooner (`leases.rs`).
    four.engines(|engine| engine.leases().into_iter().for_each(|leases| leases.allow(false)));
    four.inject("ppp0", arp(1, 99, router, MacAddr::default(), router));
    // Minutes of packets: each address is asked for again when its time is over, not before, and
    // forgotten where nobody answers.
    for second in 0..100u8 {
        for _ in 0..3 {
            four.send(LAN, &outward(0, &[second; 5]));
            four.send(UPLINK, &inward(0, &[second; 5]));
        }
        let asked = four.advance(1000);
        for (port, _) in asked.iter().filter(|_| second < 70) {
            match port.as_str() {
                "ppp0" => four.inject("ppp0", arp(2, 99, router, gateway_mac(2), wan)),
                _ => four.inject("eth0", arp(2, 2, client, gateway_mac(0), lan)),
            };
        }
    }
    assert!(four.taken()[0] > taken[0] + 100, "{:?}", four.taken());
}

#[test]
fn marks_and_status_of_the_connection() {
    let rules = "*mangle\n-A PREROUTING -j CONNMARK --restore-mark\n\
        -A FORWARD -m connmark --mark 9 -j DROP\n-A FORWARD -m mark --mark 3\n\
        -A FORWARD -m conntrack --ctstatus ASSURED\nCOMMIT\n";
    let mut four = Four::new(&config(&format!("{rules}{USUAL}")));
    warm(&mut four, 0);
    // A stream after two seconds: the status changes under way.
    four.advance(2500);
    warm(&mut four, 0);
    let taken = four.taken();
    assert!(taken[0] > 4);
    for (mark, passes) in [(3, true), (9, false), (0, true)] {
        let update = Update { mark: Some((u32::MAX, mark)), ..Update::default() };
        four.connections(|table, id, now| {
            table.update(id, &update, now).expect("a connection");
        });
        for _ in 0..3 {
            assert_eq!(four.send(LAN, &outward(0, b"marked")).len(), usize::from(passes));
            four.send(UPLINK, &inward(0, b"marked"));
        }
    }
}

/// A whole TCP conversation, and segments that don't belong to it.
#[test]
fn segments() {
    let rules = USUAL.replace(
        ":FORWARD DROP\n",
        ":FORWARD DROP\n-A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1200\n\
         -A FORWARD -p tcp -m tcp ! --syn\n-A FORWARD -p tcp -m tcp --tcp-flags PSH PSH\n",
    );
    for (rules, short) in [
        (rules.replace("-A FORWARD -p tcp -m tcp --tcp-flags PSH PSH\n", ""), true),
        (rules, false),
    ] {
        let mut four = Four::new(&config(&rules));
        let (client, server) = (addr("192.168.0.2"), addr("203.0.113.2"));
        let send = |four: &mut Four, out: bool, seq, ack, flags, payload: &[u8]| {
            let (src, dst, sport, dport) = match out {
                true => (client, server, 40_000, 80),
                false => (server, addr("203.0.113.1"), 80, 40_000),
            };
            let options: &[u8] = if flags & tcp::SYN != 0 { &[2, 4, 5, 0xb4] } else { &[] };
            let fields = Tcp { sport, dport, seq, ack, flags, window: 60_000, options };
            let packet = builder::tcp(Ip::new(src, dst, protocol::TCP), fields, payload);
            four.send(if out { LAN } else { UPLINK }, &packet)
        };
        const PUSH: u8 = tcp::ACK | tcp::PSH;
        send(&mut four, true, 100, 0, tcp::SYN, b"");
        send(&mut four, false, 500, 101, tcp::SYN | tcp::ACK, b"");
        send(&mut four, true, 101, 501, tcp::ACK, b"");
        for n in 0..10 {
            let flags = if n % 2 == 0 { tcp::ACK } else { PUSH | tcp::ECE };
            assert_eq!(
                send(&mut four, true, 101 + n * 100, 501 + n * 10, flags, &[1; 100]).len(),
                1
            );
            assert_eq!(
                send(&mut four, false, 501 + n * 10, 201 + n * 100, flags, &[2; 10]).len(),
                1
            );
        }
        assert_eq!(four.taken().map(|n| n > 10), [short; 2]);
        assert_eq!(four.forwarded() > 10, short);
        // Far beyond the window, and twice the same.
        assert!(send(&mut four, true, 900_000_000, 601, tcp::ACK, b"far").is_empty());
        // To the outside address it is for the gateway then.
        send(&mut four, false, 601, 900_000_000, tcp::ACK, b"far");
        assert_eq!(send(&mut four, true, 101, 501, tcp::ACK, &[1; 100]).len(), 1);
        // One side ends, the other goes on for a while.
        send(&mut four, true, 1101, 601, tcp::FIN | tcp::ACK, b"");
        for n in 0..5 {
            send(&mut four, false, 601 + n * 10, 1102, PUSH, &[2; 10]);
            send(&mut four, true, 1102, 611 + n * 10, tcp::ACK, b"");
        }
        send(&mut four, false, 651, 1102, tcp::FIN | tcp::ACK, b"");
        send(&mut four, true, 1102, 652, tcp::ACK, b"");
        send(&mut four, true, 1102, 652, tcp::ACK, b"late");
        send(&mut four, false, 652, 1102, tcp::RST, b"");
        four.advance(20_000);
        send(&mut four, true, 1102, 652, tcp::ACK, b"too late");
    }
}

/// On a bridge a station's port is learnt from what it sends, and followed where it moves.
#[test]
fn stations_on_a_bridge() {
    let mut config = config(&USUAL.replace("-i eth0", "-i br0"));
    config.interfaces[0].name = "br0".into();
    config.interfaces[0].ports = ["tap0", "tap1"].map(String::from).to_vec();
    for (name, ..) in &mut config.neighbours {
        if name == "eth0" {
            *name = "br0".into();
        }
    }
    let mut four = Four::new(&config);
    let at = |port| (port, 2, 0);
    for port in ["tap0", "tap1", "tap0"] {
        for _ in 0..4 {
            assert_eq!(four.send(at(port), &outward(0, b"out")).len(), 1);
            let back = four.send(UPLINK, &inward(0, b"back"));
            assert_eq!(back[0].0, port);
        }
    }
    assert!(four.taken()[0] > 6, "{:?}", four.taken());
    // Nothing but the server's packets for longer than a bridge remembers.
    for _ in 0..310 {
        four.advance(1000);
        four.send(UPLINK, &inward(0, b"back"));
    }
    four.send(at("tap1"), &outward(0, b"out"));
    assert_eq!(four.send(UPLINK, &inward(0, b"back"))[0].0, "tap1");
}

#[test]
fn ipv6_and_the_switch() {
    let mut four = Four::new(&page_with_neighbours());
    let datagram = |out: bool| {
        let (client, server) = (addr("fd00:1::2"), addr("2001:db8:1::2"));
        let (src, dst) = if out { (client, server) } else { (server, client) };
        let (sport, dport) = if out { (5000, 53) } else { (53, 5000) };
        builder::udp(Ip::new(src, dst, protocol::UDP), sport, dport, b"six")
    };
    let rounds = |four: &mut Four| {
        for _ in 0..5 {
            four.send(LAN, &datagram(true));
            four.send(UPLINK, &datagram(false));
        }
    };
    rounds(&mut four);
    let taken = four.taken();
    assert!(taken[0] > 4, "{taken:?}");
    four.engines(|engine| engine.set_short_way(ShortWay::Off));
    rounds(&mut four);
    assert_eq!(four.taken(), taken);
}

#[test]
fn the_sysctl() {
    let off = SimConfig { sysctls: "tidegate.short_way = 0\n".into(), ..config(USUAL) };
    for (config, short) in [(config(USUAL), true), (off, false)] {
        let mut sim = Sim::new(&config).expect("a gateway");
        if std::env::var_os("TIDEGATE_SHORT_WAY").is_some() {
            return;
        }
        for _ in 0..5 {
            sim.inject("eth0", frame(host_mac(2), gateway_mac(0), &outward(0, b"out")))
                .expect("eth0");
        }
        assert_eq!(sim.taken_short_way() > 0, short);
    }
}
