//! The same packets through gateways with 1, 2, 3 and 8 shards: what is sent, logged, counted and
//! listed has to be the same, whatever the flows' homes are.

mod common;

use common::addr;
use common::uplink::{framed, lan_and_uplink};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::time::Duration;
use tidegate::conntrack::Entry;
use tidegate::conntrack::gateway::entries;
use tidegate::sim::{Arrival, Sim, SimConfig};
use tidegate_filter::{SaveStyle, Sets};
use tidegate_packet::builder::{self, Ip, Tcp};
use tidegate_packet::{Addr, Family, protocol, tcp};

const SHARDS: [usize; 4] = [1, 2, 3, 8];

/// Ports that clash and run out, forwards that change the port, mappings, and rules that remember.
const RULES: &str = "*raw
:PREROUTING ACCEPT [0:0]
-A PREROUTING -p tcp -m tcp --dport 21 -j CT --helper ftp
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -i wan0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 192.168.0.3:80
-A PREROUTING -i wan0 -p udp -m udp --dport 8000:8010 -j DNAT --to-destination 192.168.0.4:53
-A PREROUTING -d 203.0.113.1/32 -i lan0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 192.168.0.3:80
-A POSTROUTING -s 192.168.0.0/24 -d 192.168.0.0/24 -j MASQUERADE
-A POSTROUTING -o wan0 -p udp -m udp --dport 53 -j MASQUERADE --to-ports 2000-2007
-A POSTROUTING -o wan0 -p udp -m udp --dport 3478 -j MASQUERADE --mapping endpoint-independent --filtering endpoint-independent
-A POSTROUTING -o wan0 -p tcp -m tcp --dport 81 -j MASQUERADE --random
-A POSTROUTING -o wan0 -j SNAT --to-source 203.0.113.1
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
-A FORWARD -p tcp -m tcp --dport 80 -m connlimit --connlimit-above 9 --connlimit-mask 0 -j REJECT --reject-with tcp-reset
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -m conntrack --ctstate INVALID -j LOG --log-prefix \"invalid \"
-A FORWARD -i lan0 -p udp -m limit --limit 100/sec --limit-burst 200 -j ACCEPT
-A FORWARD -i lan0 -p tcp -j ACCEPT
-A FORWARD -p icmp -j ACCEPT
-A FORWARD -m conntrack --ctstate DNAT -j ACCEPT
-A FORWARD -p udp -m udp --sport 3478 -j ACCEPT
COMMIT
";

fn config(max: u32) -> SimConfig {
    let sysctls = format!(
        "net.netfilter.nf_conntrack_max = {max}\nnet.netfilter.nf_conntrack_acct = 1\n\
         net.netfilter.nf_conntrack_tcp_timeout_established = 200\n"
    );
    lan_and_uplink(RULES, &sysctls)
}

/// A number of shards, and which of their workers gets a frame.
const WAYS: [(usize, Arrival); 7] = [
    (1, Arrival::Home),
    (2, Arrival::Home),
    (3, Arrival::Home),
    (8, Arrival::Home),
    (2, Arrival::Scattered),
    (3, Arrival::Scattered),
    (8, Arrival::Scattered),
];

/// Gateways that must not differ.
struct Alike {
    sims: Vec<Sim>,
    rng: StdRng,
    /// Frames that were sent, to be answered and quoted.
    sent: Vec<(String, Vec<u8>)>,
}

impl Alike {
    fn new(seed: u64, max: u32) -> Self {
        let sim = |(shards, arrival)| {
            let mut sim = Sim::with_shards(&config(max), &Sets::new(), shards).unwrap();
            sim.set_arrival(arrival);
            sim
        };
        let sims = WAYS.into_iter().map(sim).collect();
        Self { sims, rng: StdRng::seed_from_u64(seed), sent: Vec::new() }
    }

    fn pick(&mut self, below: u16) -> u16 {
        (self.rng.next_u32() % u32::from(below)) as u16
    }

    fn inject(&mut self, port: &str, frame: &[u8]) {
        let mut first = None;
        for (sim, shards) in self.sims.iter_mut().zip(WAYS) {
            sim.inject(port, frame.to_vec()).unwrap();
            let sent = sim.collect();
            match &first {
                None => first = Some(sent),
                Some(first) => assert_eq!(first, &sent, "{shards:?}, {frame:02x?}"),
            }
        }
        let sent = first.unwrap().into_iter().map(|(port, flying)| (port, flying.bytes));
        self.sent.extend(sent);
        let surplus = self.sent.len().saturating_sub(40);
        self.sent.drain(..surplus);
    }

    fn advance(&mut self, by: Duration) {
        let sent = self.sims.iter_mut().map(|sim| {
            sim.advance(by);
            sim.collect()
        });
        let sent: Vec<_> = sent.collect();
        assert!(sent.iter().all(|other| *other == sent[0]), "{sent:02x?}");
    }

    fn compare(&mut self) {
        let style = SaveStyle { stamp: "", rule_counters: true };
        let mut views = self.sims.iter_mut().map(|sim| {
            let mut list: Vec<Entry> = sim.each(entries).into_iter().flatten().collect();
            list.iter_mut().for_each(|entry| entry.id = 0);
            let mut list: Vec<String> = list.iter().map(|entry| format!("{entry:?}")).collect();
            list.sort();
            let rules = sim.engine().rules_in_force();
            let rules = rules.of(Family::V4).save(Some(rules.counters(Family::V4)), style);
            let drops: Vec<_> = sim.counters().drops().collect();
            let (connections, mappings) = (sim.connections(), sim.engine().mappings());
            let lines = sim.engine_mut().take_log().lines;
            let lines: Vec<String> = lines.into_iter().map(|line| line.text).collect();
            (list, rules, drops, connections, mappings, lines, sim.stats())
        });
        let first = views.next().unwrap();
        for (view, shards) in views.zip(&WAYS[1..]) {
            assert_eq!(first.0, view.0, "{shards:?}: connections");
            assert_eq!(first.1, view.1, "{shards:?}: rules");
            assert_eq!(
                (&first.2, &first.3, &first.4, &first.5, &first.6),
                (&view.2, &view.3, &view.4, &view.5, &view.6),
                "{shards:?}"
            );
        }
    }

    /// Something that a host does.
    fn step(&mut self) {
        match self.pick(20) {
            0..6 => {
                let host = addr(&format!("192.168.0.{}", 2 + self.pick(6)));
                let far = addr(&format!("198.51.100.{}", 1 + self.pick(3)));
                let dport = [53, 53, 3478, 3478, 123][usize::from(self.pick(5))];
                let sport = 1024 + self.pick(12);
                let ip = Ip::new(host, far, protocol::UDP);
                self.inject("lan0", &framed("lan0", &builder::udp(ip, sport, dport, b"question")));
            }
            6..9 => {
                let host = addr(&format!("192.168.0.{}", 2 + self.pick(6)));
                let far = [addr("198.51.100.1"), addr("203.0.113.1")][usize::from(self.pick(2))];
                let dport = [80, 81, 8080, 443][usize::from(self.pick(4))];
                let sport = 1024 + self.pick(12);
                self.inject("lan0", &framed("lan0", &syn(host, far, sport, dport)));
            }
            9..11 => {
                let far = addr(&format!("198.51.100.{}", 1 + self.pick(3)));
                let (sport, gateway) = (1024 + self.pick(12), addr("203.0.113.1"));
                let packet = if self.pick(2) == 0 {
                    syn(far, gateway, sport, 8080)
                } else {
                    let dport = 8000 + self.pick(11);
                    builder::udp(Ip::new(far, gateway, protocol::UDP), sport, dport, b"hello")
                };
                self.inject("wan0", &framed("wan0", &packet));
            }
            11 => {
                let host = addr(&format!("192.168.0.{}", 2 + self.pick(6)));
                let ip = Ip::new(host, addr("198.51.100.1"), protocol::ICMP);
                let id = self.pick(3);
                self.inject("lan0", &framed("lan0", &builder::echo(ip, true, id, 1, b"ping")));
            }
            12..18 => self.answer(),
            18 => self.quote(),
            _ => {
                let by = self.pick(9000);
                self.advance(Duration::from_millis(by.into()));
            }
        }
    }

    /// Answers one of the latest frames from where it went.
    fn answer(&mut self) {
        if self.sent.is_empty() {
            return;
        }
        let at = usize::from(self.pick(self.sent.len() as u16));
        let (port, frame) = self.sent[at].clone();
        let packet = &frame[14..];
        if frame[12..14] != [8, 0] || packet.len() < 28 {
            return;
        }
        let [src, dst] = ends(packet);
        let word = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
        let answer = match packet[9] {
            protocol::UDP => {
                builder::udp(Ip::new(dst, src, protocol::UDP), word(22), word(20), b"answer")
            }
            protocol::TCP => {
                let seq = u32::from_be_bytes([packet[24], packet[25], packet[26], packet[27]]);
                let flags = match packet[33] {
                    tcp::SYN => tcp::SYN | tcp::ACK,
                    _ if self.pick(4) == 0 => tcp::RST,
                    _ => tcp::ACK,
                };
                let ack = u32::from_be_bytes([packet[28], packet[29], packet[30], packet[31]]);
                let fields = Tcp {
                    sport: word(22),
                    dport: word(20),
                    seq: if flags & tcp::SYN != 0 { 500 } else { ack },
                    ack: seq.wrapping_add(u32::from(packet[33] & tcp::SYN != 0)),
                    flags,
                    window: 8192,
                    options: &[],
                };
                builder::tcp(Ip::new(dst, src, protocol::TCP), fields, b"")
            }
            protocol::ICMP if packet[20] == 8 => {
                let ip = Ip::new(dst, src, protocol::ICMP);
                builder::echo(ip, false, word(24), word(26), &packet[28..])
            }
            _ => return,
        };
        self.inject(&port, &framed(&port, &answer));
    }

    /// An error about one of the latest frames.
    fn quote(&mut self) {
        let Some((port, frame)) = self.sent.last().cloned() else { return };
        if frame[12..14] != [8, 0] {
            return;
        }
        let packet = &frame[14..];
        let ip = Ip::new(addr("198.51.100.77"), ends(packet)[0], protocol::ICMP);
        let body = &packet[..packet.len().min(28)];
        self.inject(&port, &framed(&port, &builder::icmp(ip, 3, 1, [0; 4], body)));
    }
}

fn ends(packet: &[u8]) -> [Addr; 2] {
    [12, 16]
        .map(|at| Addr::from_v4_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]]))
}

fn syn(src: Addr, dst: Addr, sport: u16, dport: u16) -> Vec<u8> {
    let fields =
        Tcp { sport, dport, seq: 100, ack: 0, flags: tcp::SYN, window: 8192, options: &[] };
    builder::tcp(Ip::new(src, dst, protocol::TCP), fields, b"")
}

#[test]
fn any_number_of_shards_does_the_same() {
    for seed in 0..6 {
        let mut alike = Alike::new(seed, 65536);
        for step in 0..1000 {
            alike.step();
            if step % 100 == 99 {
                alike.compare();
            }
        }
        assert!(alike.sims[0].connections() > 5);
        // Some flows live elsewhere than at home, and there are signs to them.
        assert!(alike.sims[1..].iter().all(|sim| sim.engine().signs() > 0));
        alike.advance(Duration::from_secs(400));
        alike.compare();
        // Wherever a frame arrived it had its short way.
        let taken: Vec<u64> = alike.sims.iter().map(Sim::taken_short_way).collect();
        assert!(taken.iter().all(|n| *n > 5) && taken[1..4] == taken[4..], "{taken:?}");
        for sim in &alike.sims {
            assert_eq!((sim.connections(), sim.engine().signs()), (0, 0));
        }
    }
}

/// Who has to go may differ; how many there are, and that the established ones stay, may not.
#[test]
fn the_bound_holds_over_all_shards() {
    for shards in SHARDS {
        let mut sim = Sim::with_shards(&config(50), &Sets::new(), shards).unwrap();
        let (host, far) = (addr("192.168.0.2"), addr("198.51.100.1"));
        // Three that are established.
        for port in 0..3 {
            sim.inject("lan0", framed("lan0", &syn(host, far, 5000 + port, 443))).unwrap();
            for (from, fields) in [("wan0", (443, 5000 + port)), ("lan0", (5000 + port, 443))] {
                let answer = from == "wan0";
                let (src, dst) = if answer { (far, addr("203.0.113.1")) } else { (host, far) };
                let fields = Tcp {
                    sport: fields.0,
                    dport: fields.1,
                    seq: if answer { 500 } else { 101 },
                    ack: if answer { 101 } else { 501 },
                    flags: if answer { tcp::SYN | tcp::ACK } else { tcp::ACK },
                    window: 8192,
                    options: &[],
                };
                let packet = builder::tcp(Ip::new(src, dst, protocol::TCP), fields, b"");
                sim.inject(from, framed(from, &packet)).unwrap();
            }
        }
        for n in 0..500u16 {
            let packet = syn(host, far, 6000 + n, 443);
            sim.inject("lan0", framed("lan0", &packet)).unwrap();
            assert!(sim.connections() <= 50, "{shards} shards");
        }
        let stats = sim.stats();
        assert_eq!((sim.connections(), stats.early_drop, stats.table_full), (50, 453, 0));
        let assured = sim.each(entries).into_iter().flatten();
        assert_eq!(assured.filter(|entry| entry.status & 4 != 0).count(), 3, "{shards} shards");
    }
}

/// Every packet of a forwarded flow whose port was changed has its short way, in both directions and
/// whoever receives it: its connection lives elsewhere than its answers are at home.
#[test]
fn flows_with_changed_ports_have_their_short_way() {
    let (host, far, gateway) = (addr("192.168.0.4"), addr("198.51.100.1"), addr("203.0.113.1"));
    for (shards, arrival) in WAYS {
        let mut sim = Sim::with_shards(&config(1000), &Sets::new(), shards).unwrap();
        sim.set_arrival(arrival);
        let mut way = |out: bool, far_port: u16| {
            let (port, src, dst, (sport, dport)) = match out {
                true => ("lan0", host, far, (53, far_port)),
                false => ("wan0", far, gateway, (far_port, 8005)),
            };
            let packet = builder::udp(Ip::new(src, dst, protocol::UDP), sport, dport, b"x");
            sim.inject(port, framed(port, &packet)).unwrap();
            assert_eq!(sim.collect().len(), 1);
            (sim.taken_short_way(), sim.engine().signs())
        };
        let mut signs = 0;
        for far_port in 5000..5040 {
            // Those that something is decided about.
            for out in [false, true, false, true] {
                way(out, far_port);
            }
            let (before, _) = way(false, far_port);
            for n in 1..=10 {
                let (taken, there) = way(n % 2 == 1, far_port);
                assert_eq!(taken - before, n, "{shards} {arrival:?} {far_port}");
                signs = there;
            }
        }
        // In two shards half of them are at home with both directions.
        assert_eq!(signs > 10, shards > 1, "{signs}");
        assert!(signs <= 40);
    }
}
