//! More than the gateway has room for: floods from one and from a million sources, scans, ports that
//! run out. Connections that stand live on, the table keeps its bound, others get their share where
//! rules give them one, and the counters say what happened.

mod common;

use common::{addr, arriving, page_with_neighbours};
use std::time::Duration;
use tidegate::engine::Drop;
use tidegate::sim::{Sim, SimConfig};
use tidegate_nat::{Connection, Stats, Status};
use tidegate_packet::builder::{self, Ip, Tcp};
use tidegate_packet::tcp::{ACK, PSH, SYN};
use tidegate_packet::{Addr, Parsed, ethernet, icmp, protocol};

const CLIENT: &str = "192.168.0.2";

const GATEWAY: &str = "203.0.113.1";
const SERVER: &str = "198.51.100.10";

/// Who sent what to whom: addresses and ports.
type Ends = (Addr, u16, Addr, u16);

/// A gateway, and what was given to it and came from it.
struct Scene {
    sim: Sim,
    given: u64,
    sent: u64,
}

impl Scene {
    fn new(config: &SimConfig) -> Self {
        Self { sim: Sim::new(config).expect("a configuration"), given: 0, sent: 0 }
    }

    /// The page's gateway with a bound on connections.
    fn with_room_for(max: u32) -> Self {
        let sysctls = format!("net.netfilter.nf_conntrack_max = {max}\n");
        Self::new(&SimConfig { sysctls, ..page_with_neighbours() })
    }

    /// The packets that leave for this one.
    fn pass(&mut self, port: &str, packet: &[u8]) -> Vec<(String, Vec<u8>)> {
        self.sim.inject(port, arriving(port, packet)).expect("a port");
        self.given += 1;
        let out = self.sim.collect();
        self.sent += out.len() as u64;
        let body = |bytes: &[u8]| bytes[ethernet::HEADER_LEN..].to_vec();
        out.into_iter().map(|(port, frame)| (port, body(&frame.bytes))).collect()
    }

    /// A segment that has to get through: how it leaves.
    fn segment(&mut self, port: &str, ends: Ends, flags: u8, seq: u32, ack: u32) -> Option<Ends> {
        let out = self.pass(port, &segment(ends, flags, seq, ack));
        let [(_, packet)] = out.as_slice() else { return None };
        let parsed = Parsed::parse(packet).expect("a packet");
        let (sport, dport) = parsed.ports()?;
        Some((parsed.src, sport, parsed.dst, dport))
    }

    /// A handshake: how the connection looks behind the gateway.
    fn shake(&mut self, (near, far): (&str, &str), ends: Ends) -> Option<Ends> {
        let beyond = self.segment(near, ends, SYN, 100, 0)?;
        let back = self.segment(far, turned(beyond), SYN | ACK, 500, 101)?;
        assert_eq!(back, turned(ends));
        (self.segment(near, ends, ACK, 101, 501)? == beyond).then_some(beyond)
    }

    /// Data both ways on a connection that stands.
    fn works(&mut self, (near, far): (&str, &str), ends: Ends, beyond: Ends) {
        assert_eq!(self.segment(near, ends, ACK | PSH, 101, 501), Some(beyond));
        assert_eq!(self.segment(far, turned(beyond), ACK | PSH, 501, 101), Some(turned(ends)));
    }

    fn connections(&self) -> usize {
        self.sim.connections()
    }

    fn stats(&mut self) -> Stats {
        self.sim.stats()
    }

    fn dropped(&self, reason: Drop) -> u64 {
        self.sim.counters().dropped(reason)
    }

    /// Every frame is accounted for: it was sent, or it was dropped with a reason. (Only where no
    /// frame is answered, kept or sent on twice.)
    fn account(&self) {
        let counters = self.sim.counters();
        let received: u64 = counters.received.iter().map(|t| t.packets).sum();
        let drops: u64 = counters.drops().map(|(_, n)| n).sum();
        assert_eq!((received, self.sent + drops), (self.given, self.given));
    }
}

fn turned((src, sport, dst, dport): Ends) -> Ends {
    (dst, dport, src, sport)
}

fn ends(src: &str, sport: u16, dst: &str, dport: u16) -> Ends {
    (addr(src), sport, addr(dst), dport)
}

fn segment((src, sport, dst, dport): Ends, flags: u8, seq: u32, ack: u32) -> Vec<u8> {
    let fields = Tcp { sport, dport, flags, seq, ack, window: 60_000, ..Tcp::default() };
    builder::tcp(Ip::new(src, dst, protocol::TCP), fields, &[])
}

const OUT: (&str, &str) = ("eth0", "ppp0");
const IN: (&str, &str) = ("ppp0", "eth0");

/// The `n`th of sixteen million strangers, none of them twice.
fn stranger(n: u32) -> Addr {
    let [_, b, c, d] = (n.wrapping_mul(2_654_435_761) & 0xff_ffff).to_be_bytes();
    Addr::from_v4_bytes([77, b, c, d])
}

/// Connections that stand before the flood begins: near side and far side of each.
fn stand(scene: &mut Scene, count: u16) -> Vec<(Ends, Ends)> {
    (0..count)
        .map(|n| {
            let near = ends(CLIENT, 2000 + n, SERVER, 80);
            (near, scene.shake(OUT, near).expect("a connection"))
        })
        .collect()
}

/// SYNs from everywhere: the table is full of them, and nobody who stands or comes suffers.
fn flooded(max: u32, sources: u32) {
    const STANDING: u16 = 300;
    let mut scene = Scene::with_room_for(max);
    let standing = stand(&mut scene, STANDING);
    let mut visitors = Vec::new();
    for n in 0..sources {
        let flood = (stranger(n), 1024 + (n % 60_000) as u16, addr(GATEWAY), 8000);
        assert_eq!(scene.pass("ppp0", &segment(flood, SYN, n, 0)).len(), 1, "{n}");
        if n % (sources / 20) == 0 {
            // Somebody with honest intentions.
            let visitor = ends("198.51.100.99", 3000 + visitors.len() as u16, GATEWAY, 8000);
            visitors.push((visitor, scene.shake(IN, visitor).expect("a visitor gets in")));
        }
        if n % 1024 == 0 {
            assert!(scene.connections() <= max as usize);
        }
    }
    assert!(scene.connections() <= max as usize);
    let assured = scene.sim.each(|lent| {
        let assured = |c: &Connection| c.status().has(Status::ASSURED);
        lent.conntrack().iter().filter(|(_, c)| assured(c)).count()
    });
    assert_eq!(assured.iter().sum::<usize>(), standing.len() + visitors.len());
    // Who had to go is told: for every newcomer beyond the bound one that nobody has answered.
    let newcomers = u64::from(sources) + standing.len() as u64 + visitors.len() as u64;
    let Stats { early_drop, table_full, drop, .. } = scene.stats();
    assert_eq!(early_drop, newcomers - u64::from(max));
    assert_eq!((table_full, drop, scene.dropped(Drop::ConnectionTable)), (0, 0, 0));
    for (near, far) in &standing {
        scene.works(OUT, *near, *far);
    }
    for (near, far) in &visitors {
        scene.works(IN, *near, *far);
    }
    scene.account();
    // The flood is over, and two minutes later forgotten (nf_conntrack_tcp_timeout_syn_sent).
    scene.sim.advance(Duration::from_secs(121));
    assert_eq!(scene.connections(), standing.len() + visitors.len());
    scene.shake(OUT, ends(CLIENT, 1999, SERVER, 80)).expect("room again");
    for (near, far) in &standing {
        scene.works(OUT, *near, *far);
    }
}

#[test]
fn a_million_sources() {
    flooded(65_536, 1_000_000);
}

/// The default bound, which the flood goes beyond as well.
#[test]
fn a_larger_table() {
    flooded(262_144, 300_000);
}

/// Where everybody in the table stands, newcomers are dropped and counted, and nobody else is.
#[test]
fn a_table_full_of_those_that_stand() {
    let mut scene = Scene::with_room_for(200);
    let standing = stand(&mut scene, 200);
    for n in 0..1000 {
        let flood = (stranger(n), 1024, addr(GATEWAY), 8000);
        assert!(scene.pass("ppp0", &segment(flood, SYN, n, 0)).is_empty());
    }
    let Stats { early_drop, table_full, drop, .. } = scene.stats();
    assert_eq!((early_drop, table_full, drop), (0, 1000, 1000));
    assert_eq!(scene.dropped(Drop::ConnectionTable), 1000);
    for (near, far) in &standing {
        scene.works(OUT, *near, *far);
    }
    scene.account();
}

/// The page's rules with one before all others of FORWARD.
fn with_rule(rule: &str, max: u32) -> Scene {
    let mut config = page_with_neighbours();
    let at = config.rules_v4.find("-A FORWARD").expect("a rule");
    config.rules_v4.insert_str(at, &format!("{rule}\n"));
    config.sysctls = format!("net.netfilter.nf_conntrack_max = {max}\n");
    Scene::new(&config)
}

/// One source takes what its limit gives, and no more; who comes meanwhile gets as much.
#[test]
fn one_source_under_a_limit_of_its_own() {
    const LIMIT: usize = 32;
    for (limit, refills) in [
        ("connlimit --connlimit-above 32 --connlimit-mask 32", false),
        (
            "hashlimit --hashlimit-above 4/min --hashlimit-burst 32 --hashlimit-mode srcip \
             --hashlimit-name each",
            true,
        ),
    ] {
        let rule = format!("-A FORWARD -i ppp0 -p tcp --syn -m {limit} -j DROP");
        let mut scene = with_rule(&rule, 4096);
        let standing = stand(&mut scene, 100);
        let attempts = 20_000;
        for n in 0..attempts {
            let flood = (addr("198.51.100.66"), 1024 + n, addr(GATEWAY), 8000);
            scene.pass("ppp0", &segment(flood, SYN, 1, 0));
        }
        assert_eq!(scene.connections(), standing.len() + LIMIT, "{limit}");
        assert_eq!(scene.dropped(Drop::RuleDrop), u64::from(attempts) - LIMIT as u64);
        for n in 0..1000 {
            let visitor = (stranger(n), 1024, addr(GATEWAY), 8000);
            scene.shake(IN, visitor).unwrap_or_else(|| panic!("{limit}: visitor {n}"));
        }
        // Everybody has the same share, the one from before included once its own is given back.
        scene.sim.advance(Duration::from_secs(130));
        let again = ends("198.51.100.66", 60_000, GATEWAY, 8000);
        assert!(scene.shake(IN, again).is_some(), "{limit} {refills}");
        for (near, far) in &standing {
            scene.works(OUT, *near, *far);
        }
        scene.account();
    }
}

/// A limit for each source, and more sources than there is room for: those that come still get in.
#[test]
fn limits_for_each_of_very_many_sources() {
    let rule = "-A FORWARD -i ppp0 -p tcp --syn -m connlimit --connlimit-above 4 -j DROP";
    let mut scene = with_rule(rule, 4096);
    let standing = stand(&mut scene, 50);
    for n in 0..100_000 {
        let flood = (stranger(n), 1024, addr(GATEWAY), 8000);
        assert_eq!(scene.pass("ppp0", &segment(flood, SYN, n, 0)).len(), 1, "{n}");
        if n % 10_000 == 9_999 {
            let visitor = ends("198.51.100.99", 3000 + (n / 10_000) as u16 / 4, GATEWAY, 8000);
            scene.shake(IN, visitor).expect("a visitor gets in");
        }
    }
    for (near, far) in &standing {
        scene.works(OUT, *near, *far);
    }
    scene.account();
}

fn datagram((src, sport, dst, dport): Ends) -> Vec<u8> {
    builder::udp(Ip::new(src, dst, protocol::UDP), sport, dport, b"?")
}

/// A host inside tries every port of some hosts outside. What is answered comes back, a stream that
/// stands goes on, and the scan takes the place of its own beginnings only.
#[test]
fn a_scan_through_the_gateway() {
    const MAX: u32 = 4096;
    let mut scene = Scene::with_room_for(MAX);
    let stream = ends(CLIENT, 5060, SERVER, 5060);
    // A stream is assured two seconds after its first answer.
    for _ in 0..4 {
        scene.pass("eth0", &datagram(stream));
        scene.pass("ppp0", &datagram(ends(SERVER, 5060, GATEWAY, 5060)));
        scene.sim.advance(Duration::from_secs(1));
    }
    for n in 0..100_000_u32 {
        let target = Addr::from_v4_bytes([198, 51, 100, 100 + (n / 65_000) as u8]);
        let probe = (addr("192.168.0.5"), 40_000, target, (n % 65_000) as u16 + 1);
        let out = scene.pass("eth0", &datagram(probe));
        let [(_, left)] = out.as_slice() else { panic!("{n}") };
        assert!(scene.connections() <= MAX as usize);
        if n % 1000 == 0 {
            // The port is closed, and the scanner hears of it.
            let header = Ip::new(target, addr(GATEWAY), protocol::ICMP);
            let unreachable = builder::icmp(header, icmp::DEST_UNREACHABLE, 3, [0; 4], left);
            let back = scene.pass("ppp0", &unreachable);
            let [(port, told)] = back.as_slice() else { panic!("{n}") };
            let told = Parsed::parse(told).expect("a packet");
            assert_eq!((port.as_str(), told.dst), ("eth0", addr("192.168.0.5")));
        }
    }
    let Stats { early_drop, table_full, .. } = scene.stats();
    assert_eq!((early_drop, table_full), (100_001 - u64::from(MAX), 0));
    assert_eq!(scene.pass("ppp0", &datagram(ends(SERVER, 5060, GATEWAY, 5060))).len(), 1);
    scene.account();
}

/// MASQUERADE with few ports. They are unique per destination, so who has taken them all has taken
/// those towards one; the rest is told by a counter.
#[test]
fn ports_that_run_out() {
    let masquerade = |more: &str| SimConfig {
        rules_v4: format!(
            "*nat\n-A POSTROUTING -s 192.168.0.0/24 -o ppp0 -p udp -j MASQUERADE \
             --to-ports 2000-2127{more}\nCOMMIT\n"
        ),
        ..page_with_neighbours()
    };
    let mut scene = Scene::new(&masquerade(""));
    let left = |scene: &mut Scene, host: &str, sport: u16, dst: &str| {
        let out = scene.pass("eth0", &datagram(ends(host, sport, dst, 53)));
        out.first().map(|(_, packet)| Parsed::parse(packet).expect("a packet").src)
    };
    for sport in 0..1000 {
        let src = left(&mut scene, CLIENT, 10_000 + sport, SERVER);
        assert!(src.is_none_or(|src| src == addr(GATEWAY)));
    }
    // All 128 are gone, and nothing left untranslated.
    assert_eq!(scene.connections(), 128);
    assert_eq!(scene.dropped(Drop::NatExhausted), 1000 - 128);
    assert_eq!(left(&mut scene, "192.168.0.5", 9, SERVER), None);
    assert_eq!(left(&mut scene, "192.168.0.5", 9, "198.51.100.11"), Some(addr(GATEWAY)));
    scene.account();
    scene.sim.advance(Duration::from_secs(31));
    assert_eq!(left(&mut scene, "192.168.0.5", 9, SERVER), Some(addr(GATEWAY)));

    // With blocks a host has its own, and another still gets one.
    let blocks = " --mapping endpoint-independent --port-block-size 32 --port-blocks 2";
    let mut scene = Scene::new(&masquerade(blocks));
    for sport in 0..1000 {
        left(&mut scene, CLIENT, 10_000 + sport, SERVER);
    }
    assert_eq!(scene.connections(), 64);
    assert_eq!(scene.dropped(Drop::NatExhausted), 1000 - 64);
    for sport in 0..64 {
        assert_eq!(left(&mut scene, "192.168.0.5", 9 + sport, SERVER), Some(addr(GATEWAY)));
    }
    assert_eq!(left(&mut scene, "192.168.0.6", 9, SERVER), None, "no block is left");
    scene.account();
}
