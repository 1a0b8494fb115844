//! States and lifetimes of everything that isn't TCP.

mod common;

use std::time::Duration;

use common::{Gateway, Rules, addr, ip};
use tidegate_nat::{Connection, Conntrack, InvalidReason, Settings, State, Status, Tracked};
use tidegate_packet::builder::{self, echo, icmp, udp};
use tidegate_packet::{Instant, Parsed, icmpv6, protocol};

fn track(gw: &mut Gateway, bytes: &[u8]) -> Tracked {
    let packet = Parsed::parse(bytes).unwrap();
    let mut tracked = gw.table.track(&packet, bytes, true, gw.now);
    gw.table.confirm(&mut tracked, gw.now).unwrap();
    tracked
}

fn state(gw: &mut Gateway, bytes: &[u8]) -> State {
    track(gw, bytes).state()
}

fn only(table: &Conntrack) -> &Connection {
    table.iter().next().unwrap().1
}

const CLIENT: &str = "192.168.0.5";
const SERVER: &str = "203.0.113.9";

#[test]
fn a_datagram_flow() {
    let out = udp(ip(CLIENT, SERVER, protocol::UDP), 5000, 53, b"x");
    let back = udp(ip(SERVER, CLIENT, protocol::UDP), 53, 5000, b"x");
    let mut gw = Gateway::new();
    // Seconds to wait, packet, its state, whether the flow is assured then, and its time left.
    for (wait, bytes, want, assured, left) in [
        (0, &out, State::New, false, 30),
        (1, &out, State::New, false, 30),
        (0, &back, State::Established, false, 30),
        (1, &back, State::Established, false, 30),
        (0, &out, State::Established, false, 30),
        (1, &out, State::Established, true, 120),
        (100, &back, State::Established, true, 120),
        (121, &back, State::New, false, 30),
    ] {
        gw.wait(wait);
        assert_eq!(state(&mut gw, bytes), want);
        let conn = only(&gw.table);
        assert_eq!(conn.status().has(Status::ASSURED), assured);
        assert_eq!(conn.time_left(gw.now), Duration::from_secs(left));
    }
}

#[test]
fn datagrams_with_faults() {
    use InvalidReason::*;
    let good = udp(ip(CLIENT, SERVER, protocol::UDP), 5000, 53, b"abcdef");
    type Edit = fn(&mut [u8]);
    let rows: [(&str, Edit, State); 6] = [
        ("length zero", |p| p[25] = 0, State::Invalid(UdpLength)),
        ("length 7", |p| p[25] = 7, State::Invalid(UdpLength)),
        ("length beyond the packet", |p| p[25] = 15, State::Invalid(UdpLength)),
        // The field is summed up too, so the sum has to follow.
        ("length shorter than the packet", shorter, State::New),
        ("checksum", |p| p[26] ^= 1, State::Invalid(Checksum)),
        ("no checksum", |p| p[26..28].fill(0), State::New),
    ];
    fn shorter(p: &mut [u8]) {
        p[25] = 10;
        builder::finish_transport(p);
    }
    for (what, edit, want) in rows {
        let mut bytes = good.clone();
        edit(&mut bytes);
        assert_eq!(state(&mut Gateway::new(), &bytes), want, "{what}");
    }
    // Whoever has verified, or doesn't want to, takes a wrong one.
    let mut bytes = good;
    bytes[26] ^= 1;
    let packet = Parsed::parse(&bytes).unwrap();
    let mut gw = Gateway::new();
    assert_eq!(gw.table.track(&packet, &bytes, false, gw.now).state(), State::New);
    gw.table.settings_mut().checksum = false;
    assert_eq!(gw.table.track(&packet, &bytes, true, gw.now).state(), State::New);
}

#[test]
fn icmp_messages() {
    use InvalidReason::*;
    for (kind, code, want) in [
        (8, 0, State::New),
        (8, 3, State::New),
        (13, 0, State::New),
        (15, 0, State::New),
        (17, 0, State::New),
        (0, 0, State::Invalid(IcmpNew)),
        (14, 0, State::Invalid(IcmpNew)),
        (9, 0, State::Invalid(IcmpNew)),
        (10, 0, State::Invalid(IcmpNew)),
        (1, 0, State::Invalid(IcmpNew)),
        (19, 0, State::Invalid(IcmpType)),
        (255, 0, State::Invalid(IcmpType)),
    ] {
        let bytes = icmp(ip(SERVER, CLIENT, protocol::ICMP), kind, code, [0, 1, 0, 1], &[0; 12]);
        assert_eq!(state(&mut Gateway::new(), &bytes), want, "type {kind} code {code}");
    }
    let mut gw = Gateway::new();
    let ask = echo(ip(CLIENT, SERVER, protocol::ICMP), true, 7, 1, b"ping");
    let answer = echo(ip(SERVER, CLIENT, protocol::ICMP), false, 7, 1, b"ping");
    let other = echo(ip(SERVER, CLIENT, protocol::ICMP), false, 8, 1, b"ping");
    assert_eq!(state(&mut gw, &ask), State::New);
    assert_eq!(state(&mut gw, &answer), State::Established);
    assert_eq!(state(&mut gw, &ask), State::Established);
    assert_eq!(state(&mut gw, &other), State::Invalid(IcmpNew));
}

#[test]
fn icmpv6_messages() {
    for (kind, want) in [
        (icmpv6::ECHO_REQUEST, State::New),
        (icmpv6::NODE_INFO_QUERY, State::New),
        (icmpv6::ECHO_REPLY, State::Invalid(InvalidReason::IcmpNew)),
        (200, State::Invalid(InvalidReason::IcmpNew)),
        (icmpv6::DEST_UNREACHABLE, State::Invalid(InvalidReason::IcmpQuote)),
        (icmpv6::NEIGHBOUR_SOLICITATION, State::Untracked),
        (icmpv6::NEIGHBOUR_ADVERTISEMENT, State::Untracked),
        (icmpv6::ROUTER_SOLICITATION, State::Untracked),
        (icmpv6::ROUTER_ADVERTISEMENT, State::Untracked),
        (icmpv6::MLD_QUERY, State::Untracked),
        (icmpv6::MLD2_REPORT, State::Untracked),
    ] {
        let header = ip("fe80::1", "ff02::1", protocol::ICMPV6);
        let bytes = icmp(header, kind, 0, [0; 4], &[0; 16]);
        assert_eq!(state(&mut Gateway::new(), &bytes), want, "type {kind}");
    }
}

#[test]
fn icmp_in_the_other_family_is_malformed() {
    let v4 = builder::ip(ip(CLIENT, SERVER, protocol::ICMPV6), &[128, 0, 0, 0, 0, 0, 0, 0]);
    let v6 = builder::ip(ip("fd00::1", "fd00::2", protocol::ICMP), &[8, 0, 0xf7, 0xff, 0, 0, 0, 0]);
    for bytes in [v4, v6] {
        let want = State::Invalid(InvalidReason::Malformed);
        assert_eq!(state(&mut Gateway::new(), &bytes), want);
    }
}

#[test]
fn other_protocols() {
    // Protocol, payload, time left after the first packet, and after both sides have spoken.
    for (protocol, payload, first, then) in [
        (protocol::ESP, &[1; 16][..], 600, 600),
        (99, &[], 600, 600),
        (protocol::GRE, &[0, 0, 8, 0], 30, 180),
        (protocol::DCCP, &[0; 4], 600, 600),
    ] {
        let mut gw = Gateway::new();
        let out = builder::ip(ip(CLIENT, SERVER, protocol), payload);
        let back = builder::ip(ip(SERVER, CLIENT, protocol), payload);
        assert_eq!(state(&mut gw, &out), State::New);
        assert_eq!(only(&gw.table).time_left(gw.now).as_secs(), first);
        assert_eq!(state(&mut gw, &back), State::Established);
        assert_eq!(state(&mut gw, &out), State::Established);
        assert_eq!(only(&gw.table).time_left(gw.now).as_secs(), then);
        assert_eq!(gw.table.len(), 1);
    }
}

#[test]
fn pptp_is_told_apart_by_call_id() {
    let gre = |call: u8| {
        let header = [0x30, 1, 0x88, 0x0b, 0, 4, 0, call, 0, 0, 0, 0];
        builder::ip(ip(CLIENT, SERVER, protocol::GRE), &header)
    };
    let mut gw = Gateway::new();
    assert_eq!(track(&mut gw, &gre(1)).state(), State::New);
    assert_eq!(track(&mut gw, &gre(2)).state(), State::New);
    assert_eq!(gw.table.len(), 2);
}

#[test]
fn fragments_and_stumps() {
    let mut later = builder::ip(ip(CLIENT, SERVER, protocol::UDP), &[0; 16]);
    later[7] = 2;
    tidegate_packet::ipv4::write_checksum(&mut later);
    let want = State::Invalid(InvalidReason::Fragment);
    assert_eq!(state(&mut Gateway::new(), &later), want);
    for protocol in [protocol::TCP, protocol::UDP, protocol::ICMP, protocol::SCTP] {
        let stump = builder::ip(ip(CLIENT, SERVER, protocol), &[0; 6]);
        let want = State::Invalid(InvalidReason::Malformed);
        assert_eq!(state(&mut Gateway::new(), &stump), want, "{protocol}");
    }
}

#[test]
fn untracked_packets_have_no_connection() {
    let mut gw = Gateway::new();
    let mut tracked = Tracked::untracked();
    assert_eq!(tracked.state(), State::Untracked);
    assert!(gw.table.view(&tracked).is_none());
    assert!(!gw.table.needs_nat(&tracked, tidegate_nat::Manip::Source));
    assert!(gw.table.confirm(&mut tracked, gw.now).is_ok());
    assert!(gw.table.is_empty());
    assert!(gw.table.attach_reply(&tracked).is_none());
}

#[test]
fn packets_and_bytes_are_counted_when_asked() {
    let out = udp(ip(CLIENT, SERVER, protocol::UDP), 5000, 53, b"x");
    let back = udp(ip(SERVER, CLIENT, protocol::UDP), 53, 5000, b"xyz");
    for acct in [false, true] {
        let mut gw = Gateway::with(Settings { acct, ..Settings::default() });
        for bytes in [&out, &back, &out] {
            track(&mut gw, bytes);
        }
        let [original, reply] = only(&gw.table).accounting();
        let want = if acct { [(2, 58), (1, 31)] } else { [(0, 0); 2] };
        assert_eq!([(original.packets, original.bytes), (reply.packets, reply.bytes)], want);
    }
}

#[test]
fn marks_stay_with_the_connection() {
    let mut gw = Gateway::new();
    let out = udp(ip(CLIENT, SERVER, protocol::UDP), 5000, 53, b"x");
    let packet = Parsed::parse(&out).unwrap();
    let mut tracked = gw.table.track(&packet, &out, true, gw.now);
    gw.table.set_mark(&mut tracked, 42);
    gw.table.confirm(&mut tracked, gw.now).unwrap();
    let tracked = track(&mut gw, &udp(ip(SERVER, CLIENT, protocol::UDP), 53, 5000, b""));
    assert_eq!(gw.table.view(&tracked).unwrap().mark(), 42);
}

/// Time begins to run when the first packet leaves.
#[test]
fn an_entry_expires_when_its_time_is_over_and_not_before() {
    let mut table = Conntrack::new(Settings::default(), [0, 0]);
    let start = Instant::from_secs(50);
    for port in 0..100u16 {
        let bytes = udp(ip(CLIENT, SERVER, protocol::UDP), 5000 + port, 53, b"x");
        let packet = Parsed::parse(&bytes).unwrap();
        let mut tracked = table.track(&packet, &bytes, true, Instant::from_secs(1));
        table.confirm(&mut tracked, start + Duration::from_millis(u64::from(port) * 100)).unwrap();
    }
    assert!(table.next_expiry().unwrap() <= start + Duration::from_secs(31));
    let mut left = 100;
    for step in 0..600u64 {
        let now = start + Duration::from_millis(step * 100);
        left -= table.expire(now);
        assert_eq!(left, table.len());
        // Entry n ends 30 s after its start; the wheel's tick is below 0.1 s.
        let due = step.saturating_sub(300).min(100);
        assert!((due.saturating_sub(1)..=due + 1).contains(&(100 - left as u64)), "{step} {left}");
    }
    assert!(table.is_empty());
    assert_eq!(table.next_expiry(), None);
}

#[test]
fn a_late_packet_finds_nothing_even_before_the_wheel_turns() {
    let mut gw = Gateway::new();
    let out = udp(ip(CLIENT, SERVER, protocol::UDP), 5000, 53, b"x");
    state(&mut gw, &out);
    gw.wait(30);
    let back = udp(ip(SERVER, CLIENT, protocol::UDP), 53, 5000, b"x");
    let tracked = track(&mut gw, &back);
    assert_eq!(tracked.state(), State::New);
    assert_eq!(gw.table.view(&tracked).unwrap().original().src, addr(SERVER));
    assert!(gw.pass(&back, Rules::default()).is_ok());
    assert_eq!(gw.table.len(), 1);
}

/// A TCP connection's clock: `>` out, `<` back, the flags, the time left afterwards.
#[test]
fn tcp_lifetimes() {
    const SYN: u8 = 2;
    const RST: u8 = 4;
    const ACK: u8 = 0x10;
    const FIN: u8 = 1;
    type Row = (u64, char, u8, u32, u32, &'static [u8], u64);
    let open: [Row; 3] = [
        (0, '>', SYN, 100, 0, b"", 120),
        (1, '<', SYN | ACK, 500, 101, b"", 60),
        (1, '>', ACK, 101, 501, b"", 432_000),
    ];
    let cases: [(&str, &[Row]); 5] = [
        (
            "data wait for their acknowledgment",
            &[(1, '>', ACK, 101, 501, b"hello", 300), (1, '<', ACK, 501, 106, b"", 432_000)],
        ),
        (
            "the same acknowledgment again and again",
            &[
                (1, '<', ACK, 501, 101, b"", 432_000),
                (1, '<', ACK, 501, 101, b"", 432_000),
                (1, '<', ACK, 501, 101, b"", 432_000),
                (1, '<', ACK, 501, 101, b"", 300),
            ],
        ),
        (
            "closed from both ends",
            &[
                (9, '>', FIN | ACK, 101, 501, b"", 120),
                (1, '<', ACK, 501, 102, b"", 60),
                (1, '<', FIN | ACK, 501, 102, b"", 30),
                (1, '>', ACK, 102, 502, b"", 120),
            ],
        ),
        ("reset", &[(9, '<', RST, 501, 0, b"", 10)]),
        ("a reset that isn't exact", &[(9, '<', RST, 502, 0, b"", 10)]),
    ];
    for (what, rows) in cases {
        let mut gw = Gateway::new();
        for &(wait, direction, flags, seq, ack, payload, left) in open.iter().chain(rows) {
            gw.wait(wait);
            let (src, dst, sport, dport) = match direction {
                '>' => (CLIENT, SERVER, 5000, 80),
                _ => (SERVER, CLIENT, 80, 5000),
            };
            let fields = builder::Tcp { sport, dport, seq, ack, flags, window: 9000, options: &[] };
            let bytes = builder::tcp(ip(src, dst, protocol::TCP), fields, payload);
            let got = state(&mut gw, &bytes);
            assert!(!matches!(got, State::Invalid(_)), "{what}: {got:?}");
            let conn = only(&gw.table);
            assert_eq!(conn.time_left(gw.now).as_secs(), left, "{what}");
        }
        // The wheel follows deadlines that move forward, too.
        let left = only(&gw.table).time_left(gw.now);
        gw.now = gw.now + (left - Duration::from_millis(1));
        assert_eq!(gw.table.expire(gw.now), 0, "{what}");
        gw.now = gw.now + Duration::from_millis(80);
        assert_eq!(gw.table.expire(gw.now), 1, "{what}");
    }
}

#[test]
fn a_reset_that_answers_a_syn_ends_it_at_once() {
    let mut gw = Gateway::new();
    let fields = |flags, seq, ack| builder::Tcp {
        sport: if ack == 0 { 5000 } else { 80 },
        dport: if ack == 0 { 80 } else { 5000 },
        seq,
        ack,
        flags,
        window: 0,
        options: &[],
    };
    let syn = builder::tcp(ip(CLIENT, SERVER, protocol::TCP), fields(2, 100, 0), b"");
    let reset = builder::tcp(ip(SERVER, CLIENT, protocol::TCP), fields(0x14, 0, 101), b"");
    assert_eq!(state(&mut gw, &syn), State::New);
    let tracked = track(&mut gw, &reset);
    assert_eq!(tracked.state(), State::Established);
    assert!(gw.table.is_empty());
    // The packet itself still knows its connection, or it couldn't be translated back.
    assert_eq!(gw.table.view(&tracked).unwrap().original().src, addr(CLIENT));
    let want = State::Invalid(InvalidReason::TcpState);
    assert!(matches!(state(&mut gw, &reset), State::Invalid(_)), "{want:?}");
}
