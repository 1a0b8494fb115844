//! TCP's windows, against conntrack's own.

use super::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tidegate_nat::lease::PeerWindow;
use tidegate_nat::{Conntrack, Direction, Settings, State};
use tidegate_packet::{Parsed, protocol, tcp};

/// Of a connection that stands, and has sent nothing yet.
pub(super) fn established() -> Windows {
    let peer = |end: u32, sent: u32| PeerWindow {
        end,
        max_end: end.wrapping_add(50_000),
        max_window: 50_000,
        max_ack: sent,
        scale: 3,
        flags: PeerWindow::SACK | PeerWindow::MAXACK_SET,
    };
    Windows { peers: [peer(1000, 5000), peer(5000, 1000)], ..Windows::default() }
}

/// Sequence number and acknowledgment of a direction's first segment.
pub(super) fn numbers(direction: usize) -> (u32, u32) {
    if direction == 0 { (1000, 5000) } else { (5000, 1000) }
}

const DIRECTIONS: [Direction; 2] = [Direction::Original, Direction::Reply];

/// A side's numbers as a simple sender has them.
#[derive(Copy, Clone, Debug)]
struct Side {
    next: u32,
    acked: u32,
    scale: u8,
}

struct Conversation {
    rng: StdRng,
    flow: Flow,
    sides: [Side; 2],
    /// The last segments, and whether their options are read.
    last: [(Vec<u8>, bool); 2],
}

impl Conversation {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let (c, s) = match rng.random_bool(0.5) {
            true => ("192.168.0.5", "203.0.113.9"),
            false => ("fd00::5", "2001:db8::9"),
        };
        let t = |src, sport, dst, dport| tuple(protocol::TCP, src, sport, dst, dport);
        let flow = flow(t(c, 4000, s, 80), t(s, 80, c, 4000));
        let sides = [0, 1].map(|_| {
            // Often close to where sequence numbers wrap around or change their sign.
            let near = [0u32, 0x7fff_ffff, rng.random()][rng.random_range(0..3)];
            let next = near.wrapping_sub(rng.random_range(0..20_000));
            Side { next, acked: 0, scale: rng.random_range(0..=15) }
        });
        Self { rng, flow, sides, last: Default::default() }
    }

    fn packet(&self, direction: usize, fields: Tcp<'_>, payload: usize) -> Vec<u8> {
        let Tuple { src, dst, sport, dport, .. } = way(&self.flow, direction).tuple;
        let ip = Ip::new(src, dst, protocol::TCP);
        builder::tcp(ip, Tcp { sport, dport, ..fields }, &vec![0x55; payload])
    }

    /// The three segments that open it.
    fn opening(&mut self) -> [(usize, Vec<u8>); 3] {
        let options = |side: Side, sack: bool| {
            let sack = if sack { [4, 2] } else { [1, 1] };
            [[2, 4, 5, 180], [3, 3, side.scale, 1], [sack[0], sack[1], 1, 1]].concat()
        };
        let [a, b] = self.sides;
        let sacks = [0, 1].map(|_| self.rng.random_bool(0.8));
        let windows = [0, 1].map(|_| self.rng.random_range(1000..=65_535));
        let syn = Tcp { seq: a.next, flags: tcp::SYN, window: windows[0], ..Tcp::default() };
        let syn = self.packet(0, Tcp { options: &options(a, sacks[0]), ..syn }, 0);
        let (seq, ack) = (b.next, a.next.wrapping_add(1));
        let flags = tcp::SYN | tcp::ACK;
        let syn_ack = Tcp { seq, ack, flags, window: windows[1], ..Tcp::default() };
        let syn_ack = self.packet(1, Tcp { options: &options(b, sacks[1]), ..syn_ack }, 0);
        for (n, acked) in [b.next, a.next].into_iter().enumerate() {
            self.sides[n].next = self.sides[n].next.wrapping_add(1);
            self.sides[n].acked = acked.wrapping_add(1);
        }
        let [a, _] = self.sides;
        let ack = Tcp { seq: a.next, ack: a.acked, flags: tcp::ACK, window: 500, ..Tcp::default() };
        [(0, syn), (1, syn_ack), (0, self.packet(0, ack, 0))]
    }

    /// Some segment, and whether its options are among those that `decide` reads.
    fn segment(&mut self) -> (usize, Vec<u8>, bool) {
        let rng = &mut self.rng;
        let direction = rng.random_range(0..2);
        if rng.random_bool(0.1) && !self.last[direction].0.is_empty() {
            let (packet, readable) = self.last[direction].clone();
            return (direction, packet, readable);
        }
        let (me, other) = (self.sides[direction], self.sides[1 - direction]);
        let payload = [0, 0, 1, rng.random_range(0..1400)][rng.random_range(0..4)];
        let off = |rng: &mut StdRng, base: u32| match rng.random_range(0..20) {
            0 => base.wrapping_sub(rng.random_range(0..3000)),
            1 => base.wrapping_add(rng.random_range(0..3000)),
            2 => base.wrapping_sub(rng.random_range(0..200_000)),
            3 => base.wrapping_add(rng.random_range(0..200_000)),
            4 => rng.random(),
            _ => base,
        };
        let seq = off(rng, me.next);
        let ack = if rng.random_bool(0.5) { other.next } else { me.acked };
        let ack = off(rng, ack);
        let window = match rng.random_range(0..10) {
            0 => 0,
            1 => rng.random(),
            _ => rng.random_range(100..4000),
        };
        let (options, readable) = self.options(ack);
        let more = [0, tcp::PSH, tcp::ECE, tcp::CWR][self.rng.random_range(0..4)];
        let fields =
            Tcp { seq, ack, flags: tcp::ACK | more, window, options: &options, ..Tcp::default() };
        let bytes = self.packet(direction, fields, payload);
        (direction, bytes, readable)
    }

    fn options(&mut self, ack: u32) -> (Vec<u8>, bool) {
        let rng = &mut self.rng;
        let stamp = [1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];
        let blocks = |rng: &mut StdRng, most: u8| {
            let n = rng.random_range(1..=most);
            let mut option = vec![1, 1, 5, 2 + 8 * n];
            for _ in 0..n {
                let left = ack.wrapping_add(rng.random_range(0..5000)).wrapping_sub(500);
                option.extend(left.to_be_bytes());
                option.extend(left.wrapping_add(rng.random_range(0..3000)).to_be_bytes());
            }
            option
        };
        match rng.random_range(0..9) {
            0..3 => (Vec::new(), true),
            3 | 4 => (stamp.to_vec(), true),
            5 => (blocks(rng, 4), true),
            6 => ([stamp.to_vec(), blocks(rng, 3)].concat(), true),
            7 => {
                // Half a block more: such an option says nothing.
                let mut option = blocks(rng, 2);
                option[3] += 4;
                option.extend(ack.to_be_bytes());
                (option, false)
            }
            _ => {
                let mut odd = [stamp.to_vec(), blocks(rng, 3)].concat();
                odd.truncate(rng.random_range(1..=odd.len()));
                let at = rng.random_range(0..odd.len());
                odd[at] = rng.random();
                // The builder pads with ends of the list.
                (odd, false)
            }
        }
    }

    /// What the gateway took the segment for.
    fn note(&mut self, direction: usize, packet: &[u8], readable: bool) {
        let parsed = Parsed::parse(packet).unwrap();
        let header = tcp::Header::new_checked(parsed.segment(packet)).unwrap();
        let payload = parsed.segment(packet).len() - header.header_len();
        let end = header.seq().wrapping_add(payload as u32);
        let side = &mut self.sides[direction];
        if (end.wrapping_sub(side.next) as i32) > 0 {
            side.next = end;
        }
        if (header.ack().wrapping_sub(side.acked) as i32) > 0 {
            side.acked = header.ack();
        }
        self.last[direction] = (packet.to_vec(), readable);
    }
}

/// The segment's way through the table.
fn track(table: &mut Conntrack, packet: &[u8]) -> State {
    let parsed = Parsed::parse(packet).unwrap();
    let mut tracked = table.track(&parsed, packet, true, NOW);
    let state = tracked.state();
    table.confirm(&mut tracked, NOW).unwrap();
    state
}

fn segment(packet: &[u8]) -> &[u8] {
    Parsed::parse(packet).unwrap().segment(packet)
}

#[derive(Debug, Default)]
struct Seen {
    taken: usize,
    up: usize,
    refused: usize,
}

/// Every segment goes through `decide` and through a table. What `decide` takes, the table believes, and
/// both know the same afterwards; whatever else fits, `decide` takes.
fn converse(bypass: &Bypass, seed: u64, settings: Settings, seen: &mut Seen) {
    let mut talk = Conversation::new(seed);
    let mut table = Conntrack::new(settings, [1, 2]);
    for (_, packet) in talk.opening() {
        assert!(!matches!(track(&mut table, &packet), State::Invalid(_)));
    }
    let (id, _) = table.find(&way(&talk.flow, 0).tuple, NOW).unwrap();
    let mut windows = table.windows(id).unwrap();
    let number = bypass.lease(&Flow { windows: Some(windows), ..talk.flow.clone() }).unwrap();
    for step in 0..150 {
        let (direction, packet, readable) = talk.segment();
        let mut accepted = windows;
        let fits = accepted.accept(DIRECTIONS[direction], segment(&packet));
        let taken = decide(bypass, &frame(direction, &packet)) == TAKEN;
        let context = format!("seed {seed}, step {step}: {packet:02x?} by {windows:?}");
        assert!(fits || !taken, "taken: {context}");
        assert!(taken || !fits || !readable, "not taken: {context}");
        let report = bypass.report(number, false);
        assert_eq!(report.windows, Some(if taken { accepted } else { windows }), "{context}");
        let counted = report.counted.map(|c| (c.packets, c.bytes));
        let mut expected = [(0, 0); 2];
        if taken {
            expected[direction] = (1, packet.len() as u64);
        }
        assert_eq!(counted, expected, "{context}");
        let state = track(&mut table, &packet);
        windows = table.windows(id).unwrap();
        if taken {
            assert_eq!(state, State::Established, "{context}");
            assert_eq!(windows, accepted, "{context}");
            seen.taken += 1;
        } else {
            bypass.pause(number);
            bypass.resume(number, Some(windows));
            seen.up += 1;
            seen.refused += usize::from(matches!(state, State::Invalid(_)));
        }
        if !matches!(state, State::Invalid(_)) {
            talk.note(direction, &packet, readable);
        }
    }
    bypass.report(number, true);
}

#[test]
fn windows_are_judged_and_learned_as_conntrack_does() {
    let Some(bypass) = bypass() else { return };
    let mut seen = Seen::default();
    for seed in 0..120 {
        let settings = Settings { tcp_be_liberal: seed % 4 == 3, ..Settings::default() };
        converse(&bypass, seed, settings, &mut seen);
    }
    // Enough of each kind.
    let Seen { taken, up, refused } = seen;
    assert!(taken > 6000 && up > 2000 && refused > 500, "{seen:?}");
}

/// Windows as no connection need ever have had them, around a conversation's numbers.
fn arbitrary(talk: &mut Conversation) -> Windows {
    let sides = talk.sides;
    let rng = &mut talk.rng;
    let near = |rng: &mut StdRng, base: u32| match rng.random_range(0..4) {
        0 => base,
        1 => base.wrapping_add(rng.random_range(0..3)).wrapping_sub(1),
        2 => base.wrapping_add(rng.random_range(0..8000)).wrapping_sub(4000),
        _ => base.wrapping_add(rng.random_range(0..300_000)).wrapping_sub(150_000),
    };
    let peers = [0, 1].map(|n| PeerWindow {
        end: near(rng, sides[n].next),
        max_end: near(rng, sides[n].next),
        max_window: [0, 1, 65_999, 66_001, rng.random_range(1..100_000)][rng.random_range(0..5)],
        max_ack: near(rng, sides[n].acked),
        scale: rng.random_range(0..=14),
        flags: rng.random_range(0..64),
    });
    let (seq, ack, end) =
        (near(rng, sides[0].next), near(rng, sides[0].acked), near(rng, sides[0].next));
    let (window, direction, retransmissions) = (0, rng.random_range(0..2), rng.random());
    Windows { peers, seq, ack, end, window, direction, retransmissions }
}

#[test]
fn any_windows_are_judged_as_conntrack_does() {
    let Some(bypass) = bypass() else { return };
    let (mut taken, mut up) = (0, 0);
    for seed in 0..200 {
        let mut talk = Conversation::new(seed);
        talk.opening();
        let flow = Flow { windows: Some(Windows::default()), ..talk.flow.clone() };
        let number = bypass.lease(&flow).unwrap();
        for step in 0..100 {
            let windows = arbitrary(&mut talk);
            bypass.resume(number, Some(windows));
            let (direction, packet, readable) = talk.segment();
            let mut accepted = windows;
            let fits = accepted.accept(DIRECTIONS[direction], segment(&packet));
            let is_taken = decide(&bypass, &frame(direction, &packet)) == TAKEN;
            let context = format!("seed {seed}, step {step}: {packet:02x?} by {windows:?}");
            assert!(if readable { fits == is_taken } else { fits || !is_taken }, "{context}");
            let expected = if is_taken { accepted } else { windows };
            assert_eq!(bypass.report(number, false).windows, Some(expected), "{context}");
            taken += usize::from(is_taken);
            up += usize::from(!is_taken);
        }
        bypass.report(number, true);
    }
    assert!(taken > 1000 && up > 1000, "{taken} {up}");
}

#[test]
fn repetitions_are_counted_up_to_255() {
    let Some(bypass) = bypass() else { return };
    let (_, flow) = flows().swap_remove(0);
    let number = bypass.lease(&flow).unwrap();
    let frame = frame(0, &packet(&flow, 0, b"x"));
    for n in 0..300 {
        assert_eq!(decide(&bypass, &frame), TAKEN);
        let windows = bypass.report(number, false).windows.unwrap();
        assert_eq!(windows.retransmissions, n.min(255) as u8);
    }
    let other = super::frame(1, &packet(&flow, 1, b""));
    assert_eq!(decide(&bypass, &other), TAKEN);
    let windows = bypass.report(number, false).windows.unwrap();
    assert_eq!((windows.retransmissions, windows.direction), (0, 1));
}
