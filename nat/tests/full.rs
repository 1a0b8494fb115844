//! The table under floods, and what is told of it: assured connections live on, the table keeps its
//! bound, the counters say what happened.

mod common;

use std::time::Duration;

use common::{Gateway, Rules, addr, ip};
use tidegate_nat::{Changes, EventKind, Settings, Stats, Status, Tuple, Update};
use tidegate_packet::builder::{Ip, Tcp, tcp, udp};
use tidegate_packet::tcp::{ACK, SYN};
use tidegate_packet::{Addr, protocol};

const MAX: u32 = 600;
const ASSURED: u16 = 200;
const FLOOD: u32 = 20_000;
const SERVER: &str = "203.0.113.9";

fn segment(src: Addr, dst: Addr, ports: (u16, u16), flags: u8, seq: u32, ack: u32) -> Vec<u8> {
    let fields = Tcp { sport: ports.0, dport: ports.1, flags, seq, ack, ..Tcp::default() };
    tcp(Ip::new(src, dst, protocol::TCP), fields, &[])
}

/// A gateway with a bound on connections and some that stand.
fn with_connections(settings: Settings) -> Gateway {
    let mut gw = Gateway::with(Settings { max: MAX, ..settings });
    let (client, server) = (addr("192.168.0.5"), addr(SERVER));
    for port in 1..=ASSURED {
        for (from, to, ports, flags, seq, ack) in [
            (client, server, (port, 80), SYN, 100, 0),
            (server, client, (80, port), SYN | ACK, 500, 101),
            (client, server, (port, 80), ACK, 101, 501),
        ] {
            gw.pass(&segment(from, to, ports, flags, seq, ack), Rules::default()).unwrap();
        }
    }
    gw
}

fn standing(gw: &Gateway) -> usize {
    gw.table.iter().filter(|(_, c)| c.status().has(Status::ASSURED)).count()
}

/// The `n`th packet of a flood.
type Packet = fn(u32) -> Vec<u8>;

fn from_anywhere(n: u32) -> Vec<u8> {
    let [a, b, c, d] = (n.wrapping_mul(2_654_435_761)).to_be_bytes();
    let source = Addr::from_v4_bytes([100 + a % 50, b, c, d]);
    segment(source, addr(SERVER), (1024 + (n % 60_000) as u16, 80), SYN, n, 0)
}

fn from_one(n: u32) -> Vec<u8> {
    segment(
        addr("198.51.100.66"),
        addr(SERVER),
        ((n % 65_000) as u16 + 1, (n >> 16) as u16 + 80),
        SYN,
        n,
        0,
    )
}

fn scan(n: u32) -> Vec<u8> {
    udp(ip("198.51.100.66", SERVER, protocol::UDP), 40_000, n as u16 + 1, b"?")
}

#[test]
fn floods_leave_standing_connections_alone() {
    for (name, packet) in
        [("anywhere", from_anywhere as Packet), ("one source", from_one), ("UDP scan", scan)]
    {
        let mut gw = with_connections(Settings::default());
        let mut refused = 0;
        for n in 0..FLOOD {
            if gw.pass(&packet(n), Rules::default()).is_err() {
                refused += 1;
            }
            assert!(gw.table.len() <= MAX as usize, "{name}");
        }
        assert_eq!(standing(&gw), usize::from(ASSURED), "{name}");
        // No more places than the bound were ever needed, in whole pages.
        assert!(gw.table.places() <= (MAX as usize).next_multiple_of(256), "{name}");
        let Stats { early_drop, drop, table_full, .. } = *gw.table.stats();
        let room = u64::from(MAX) - u64::from(ASSURED);
        assert_eq!(early_drop + table_full, u64::from(FLOOD) - room, "{name}");
        assert_eq!((drop, table_full), (refused, refused), "{name}");
        // And a standing connection still works.
        let more = segment(addr("192.168.0.5"), addr(SERVER), (7, 80), ACK, 101, 501);
        gw.pass(&more, Rules::default()).unwrap();
    }
}

#[test]
fn a_table_of_standing_connections_takes_no_more() {
    let mut gw = with_connections(Settings::default());
    gw.table.settings_mut().max = u32::from(ASSURED);
    for n in 0..100 {
        assert_eq!(
            gw.pass(&from_anywhere(n), Rules::default()).unwrap_err(),
            "connection table full"
        );
    }
    assert_eq!(standing(&gw), usize::from(ASSURED));
    let Stats { early_drop, drop, .. } = *gw.table.stats();
    assert_eq!((early_drop, drop), (0, 100));
}

/// What happens to connections is kept for who listens, up to a bound.
#[test]
fn events_have_a_bound_and_cost_nothing_unheard() {
    let mut gw = with_connections(Settings::default());
    for n in 0..FLOOD {
        let _ = gw.pass(&from_anywhere(n), Rules::default());
    }
    assert!(!gw.table.has_events());
    gw.table.listen(true, gw.now);
    // Each makes a connection and throws one out.
    for n in 0..2 * FLOOD {
        let _ = gw.pass(&from_anywhere(FLOOD + n), Rules::default());
    }
    let (events, lost) = gw.table.take_events();
    assert!(events.len() < 40_000, "{}", events.len());
    assert!(lost > 30_000, "{lost}");
    assert!(events.iter().any(|e| e.kind == EventKind::New));
    assert!(events.iter().any(|e| e.kind == EventKind::Destroy));
    gw.table.listen(false, gw.now);
    let _ = gw.pass(&from_anywhere(9 * FLOOD), Rules::default());
    assert!(!gw.table.has_events());
}

#[test]
fn events_say_what_a_packet_has_changed() {
    let mut gw = Gateway::new();
    gw.table.listen(true, gw.now);
    let (client, server) = (addr("192.168.0.5"), addr(SERVER));
    let mut told = Vec::new();
    for (from, to, ports, flags, seq, ack) in [
        (client, server, (7, 80), SYN, 100, 0),
        (server, client, (80, 7), SYN | ACK, 500, 101),
        (client, server, (7, 80), ACK, 101, 501),
        (client, server, (7, 80), ACK, 101, 501),
    ] {
        gw.pass(&segment(from, to, ports, flags, seq, ack), Rules::default()).unwrap();
        let (events, lost) = gw.table.take_events();
        assert_eq!(lost, 0);
        told.push(events.iter().map(|e| (e.kind, e.changes)).collect::<Vec<_>>());
    }
    let state = Changes::STATE;
    assert_eq!(
        told,
        [
            vec![(EventKind::New, state)],
            vec![(EventKind::Update, state.with(Changes::REPLY))],
            vec![(EventKind::Update, state.with(Changes::ASSURED))],
            // A packet that changes nothing is no event.
            vec![],
        ]
    );
    gw.wait(432_001);
    gw.table.expire(gw.now);
    let (events, _) = gw.table.take_events();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].kind, EventKind::Destroy);
}

#[test]
fn events_tell_an_associations_states() {
    let mut gw = Gateway::with(Settings { checksum: false, ..Settings::default() });
    gw.table.listen(true, gw.now);
    let (client, server) = (addr("192.168.0.5"), addr(SERVER));
    let chunk = |kind: u8, len: u8| {
        let mut bytes = vec![kind, 0, 0, 4 + len];
        // Whoever begins says its tag, and some more.
        bytes.extend([0, 0, 0, 9, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1].iter().take(len.into()));
        bytes
    };
    let mut told = Vec::new();
    for (up, tag, chunk) in [
        (true, 0, chunk(1, 16)),
        (false, 9, chunk(2, 16)),
        (true, 9, chunk(10, 4)),
        (false, 9, chunk(11, 0)),
        (true, 9, chunk(4, 4)),
    ] {
        let (from, to, ports) = match up {
            true => (client, server, [0, 7, 0, 80]),
            false => (server, client, [0, 80, 0, 7]),
        };
        let segment = [&ports[..], &[0, 0, 0, tag], &[0; 4], &chunk].concat();
        let packet = tidegate_packet::builder::ip(Ip::new(from, to, protocol::SCTP), &segment);
        gw.pass(&packet, Rules::default()).unwrap();
        let (events, _) = gw.table.take_events();
        told.push(events.iter().map(|e| e.changes).collect::<Vec<_>>());
    }
    let state = Changes::STATE;
    assert_eq!(
        told,
        [
            vec![state],
            vec![state.with(Changes::REPLY)],
            vec![state],
            vec![state.with(Changes::ASSURED)],
            // A heartbeat changes nothing.
            vec![],
        ]
    );
}

/// A listing that goes on while connections come and go sees each that stays exactly once.
#[test]
fn slices_of_a_large_table() {
    let mut gw = Gateway::with(Settings { max: 0, ..Settings::default() });
    for n in 0..FLOOD {
        let _ = gw.pass(&from_anywhere(n), Rules::default());
    }
    let (mut seen, mut first, mut n) = (std::collections::HashSet::new(), 0, FLOOD);
    while first < gw.table.places() {
        gw.table.page(first, 512, gw.now, |id, conn| {
            assert!(seen.insert((id, conn.original())));
        });
        first += 512;
        // Between two slices: one more, and one of those seen is gone.
        let _ = gw.pass(&from_anywhere(n), Rules::default());
        n += 1;
        let gone = seen.iter().next().copied().unwrap();
        gw.table.delete(gone.0);
        seen.remove(&gone);
    }
    for (id, conn) in gw.table.iter().take(100) {
        assert!(seen.contains(&(id, conn.original())) || id.number() as usize >= first - 512);
    }
    assert!(seen.len() + 200 > FLOOD as usize);
}

#[test]
fn what_is_set_by_hand_holds() {
    let mut gw = Gateway::with(Settings { timestamp: true, ..Settings::default() });
    let out = udp(ip("192.168.0.5", SERVER, protocol::UDP), 5000, 53, b"x");
    gw.pass(&out, Rules::default()).unwrap();
    let (id, conn) = gw.table.iter().next().unwrap();
    assert_eq!(conn.started(), Some(gw.now));
    let fixed = Update {
        timeout: Some(Duration::from_secs(7)),
        status: Some(Status::FIXED_TIMEOUT.bits()),
        mark: Some((0xf0, 0x30)),
        add_labels: 0b1010,
        ..Update::default()
    };
    gw.table.update(id, &fixed, gw.now).unwrap();
    gw.wait(3);
    // The packet doesn't prolong it.
    gw.pass(&out, Rules::default()).unwrap();
    let conn = gw.table.get(id).unwrap();
    assert_eq!((conn.time_left(gw.now), conn.mark()), (Duration::from_secs(4), 0x30));
    assert_eq!(conn.labels(), 0b1010);
    gw.table.update(id, &Update { del_labels: 2, ..Update::default() }, gw.now).unwrap();
    assert_eq!(gw.table.get(id).unwrap().labels(), 0b1000);
    gw.wait(5);
    gw.table.expire(gw.now);
    assert!(gw.table.get(id).is_none());
    assert!(gw.table.update(id, &fixed, gw.now).is_err());
    let tuple = Tuple {
        src: addr("192.168.0.5"),
        dst: addr(SERVER),
        sport: 5000,
        dport: 53,
        protocol: protocol::UDP,
    };
    assert!(gw.table.find(&tuple, gw.now).is_none());
}
