//! The page's tricks with the recent match, on a clock that the test moves.

use crate::common::{addr, arriving, page_with_neighbours};
use std::time::Duration;
use tidegate::sim::{Sim, SimConfig};
use tidegate_filter::SaveStyle;
use tidegate_packet::builder::{self, Ip, Tcp};
use tidegate_packet::{Family, Parsed, Transport, tcp};

/// What a SYN from outside to a port of the gateway is answered with.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Reset,
    Silence,
}
use Answer::{Reset, Silence};

struct Scanner {
    sim: Sim,
    source: &'static str,
    sport: u16,
}

impl Scanner {
    fn new(config: &SimConfig) -> Self {
        let sim = Sim::new(config).expect("a configuration");
        Self { sim, source: "198.51.100.66", sport: 20_000 }
    }

    fn syn(&mut self, port: u16) -> Answer {
        self.sport += 1;
        let fields =
            Tcp { sport: self.sport, dport: port, flags: tcp::SYN, window: 1000, ..Tcp::default() };
        let header = Ip::new(addr(self.source), addr("203.0.113.1"), 6);
        let packet = builder::tcp(header, fields, &[]);
        self.sim.inject("ppp0", arriving("ppp0", &packet)).expect("a port");
        match self.sim.collect().as_slice() {
            [] => Silence,
            [(port, frame)] => {
                assert_eq!(port, "ppp0");
                let p = Parsed::parse(&frame.bytes[14..]).expect("a packet");
                assert!(
                    matches!(p.transport, Transport::Tcp { flags, .. } if flags & tcp::RST != 0)
                );
                Reset
            }
            more => panic!("{more:?}"),
        }
    }

    fn wait(&mut self, seconds: u64) {
        self.sim.advance(Duration::from_secs(seconds));
        self.sim.collect();
    }

    /// The packet counter of the n-th rule of a chain of the filter table.
    fn hits(&self, chain: &str, index: usize) -> u64 {
        let rules = self.sim.engine().rules_in_force();
        let style = SaveStyle { stamp: "now", rule_counters: true };
        let text = rules.of(Family::V4).save(Some(rules.counters(Family::V4)), style);
        let wanted = format!("-A {chain} ");
        let line = text.lines().filter(|l| l.contains(&wanted)).nth(index).expect("the rule");
        line.trim_start_matches('[')
            .split(':')
            .next()
            .and_then(|n| n.parse().ok())
            .expect("a counter")
    }
}

/// Three SSH connections in ten seconds, then silence; after a pause again.
#[test]
fn ssh_attempts_are_limited() {
    let mut config = page_with_neighbours();
    // Port 22 of the gateway itself: without the port forward.
    config.rules_v4 = config
        .rules_v4
        .lines()
        .filter(|l| !l.contains("--dport 22 -j DNAT"))
        .map(|l| format!("{l}\n"))
        .collect();
    let mut scanner = Scanner::new(&config);
    // The built-in host has no SSH server, so what is accepted is reset.
    let answers: Vec<_> = (0..5).map(|_| scanner.syn(22)).collect();
    assert_eq!(answers, [Reset, Reset, Reset, Silence, Silence]);
    assert_eq!(scanner.sim.engine_mut().take_log().lines.len(), 2, "both were logged");
    scanner.wait(11);
    assert_eq!(scanner.syn(22), Reset, "a fourth in half an hour");
    scanner.wait(11);
    assert_eq!(scanner.syn(22), Silence, "four in half an hour are enough");
    scanner.wait(1800);
    assert_eq!(scanner.syn(22), Reset);
    scanner.source = "198.51.100.67";
    assert_eq!(scanner.syn(22), Reset, "somebody else isn't concerned");
}

/// Who has knocked on a closed port sees open ones closed for a minute, from the last try on.
#[test]
fn port_scanners_are_misled() {
    let mut scanner = Scanner::new(&page_with_neighbours());
    let misled = |s: &Scanner| s.hits("TCP", 0);
    assert_eq!((scanner.syn(443), misled(&scanner)), (Reset, 0), "open, but nobody listens");
    assert_eq!((scanner.syn(81), misled(&scanner)), (Reset, 0));
    assert_eq!((scanner.syn(443), misled(&scanner)), (Reset, 1));
    scanner.wait(59);
    assert_eq!((scanner.syn(443), misled(&scanner)), (Reset, 2), "which starts the minute anew");
    scanner.wait(59);
    assert_eq!((scanner.syn(443), misled(&scanner)), (Reset, 3));
    scanner.wait(61);
    assert_eq!((scanner.syn(443), misled(&scanner)), (Reset, 3), "forgiven");
    scanner.source = "198.51.100.67";
    assert_eq!((scanner.syn(443), misled(&scanner)), (Reset, 3));
}

const KNOCKING: &str = "*filter
:INPUT DROP [0:0]
-A INPUT -p tcp -m tcp --dport 7000 -m recent --set --name K1 --rsource -j DROP
-A INPUT -p tcp -m tcp --dport 8000 -m recent --rcheck --seconds 10 --name K1 --rsource -m recent --set --name K2 --rsource -j DROP
-A INPUT -p tcp -m tcp --dport 9000 -m recent --rcheck --seconds 10 --name K2 --rsource -m recent --set --name K3 --rsource -j DROP
-A INPUT -p tcp -m tcp --dport 22 -m recent --rcheck --seconds 30 --name K3 --rsource -j ACCEPT
COMMIT
";

#[test]
fn the_right_knocks_open_the_door() {
    let config = SimConfig { rules_v4: KNOCKING.into(), ..page_with_neighbours() };
    let knock = |ports: &[u16], pause: u64| {
        let mut scanner = Scanner::new(&config);
        for port in ports {
            assert_eq!(scanner.syn(*port), Silence);
            scanner.wait(pause);
        }
        scanner.syn(22)
    };
    let rows: [(&str, &[u16], u64, Answer); 6] = [
        ("no knock", &[], 0, Silence),
        ("the right ones", &[7000, 8000, 9000], 1, Reset),
        ("in the wrong order", &[8000, 7000, 9000], 1, Silence),
        ("one left out", &[7000, 9000], 1, Silence),
        ("too slowly", &[7000, 8000, 9000], 11, Silence),
        ("just in time", &[7000, 8000, 9000], 9, Reset),
    ];
    for (what, ports, pause, answer) in rows {
        assert_eq!(knock(ports, pause), answer, "{what}");
    }
    let mut scanner = Scanner::new(&config);
    for port in [7000, 8000, 9000] {
        assert_eq!(scanner.syn(port), Silence);
    }
    scanner.source = "198.51.100.67";
    assert_eq!(scanner.syn(22), Silence, "the door is open for the one who knocked");
    scanner.source = "198.51.100.66";
    assert_eq!(scanner.syn(22), Reset);
    scanner.wait(31);
    assert_eq!(scanner.syn(22), Silence, "and closes again");
}
