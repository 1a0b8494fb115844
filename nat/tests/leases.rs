//! A table whose connections are leased, beside one that sees every packet itself: whoever looks at a
//! connection sees the same in both.

mod common;

use common::{Gateway, Rules, ip, proptest, to};
use proptest::prelude::*;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tidegate_nat::lease::{Holder, Report, Windows};
use tidegate_nat::{ConnId, Counters, Direction, Settings, State, Status, TcpState, Tuple, Update};
use tidegate_packet::builder::{Tcp, tcp, udp};
use tidegate_packet::tcp::{ACK, FIN, PSH, RST, SYN};
use tidegate_packet::{Instant, Parsed, protocol};

/// What the holder has of a connection.
#[derive(Clone, Debug, Default)]
struct Held {
    paused: bool,
    report: Report,
}

#[derive(Clone, Debug, Default)]
struct Book(Arc<Mutex<HashMap<u32, Held>>>);

impl Book {
    fn with<R>(&self, number: u32, work: impl FnOnce(&mut Held) -> R) -> R {
        work(self.0.lock().unwrap().get_mut(&number).expect("a lease that there is"))
    }

    fn take(&self, number: u32, pause: bool) -> Report {
        self.with(number, |held| {
            assert!(!held.paused || !pause, "paused once");
            held.paused |= pause;
            let counted = std::mem::take(&mut held.report.counted);
            Report { counted, ..held.report }
        })
    }
}

impl Holder for Book {
    fn report(&self, number: u32, end: bool) -> Report {
        let report = self.take(number, false);
        if end {
            self.0.lock().unwrap().remove(&number);
        }
        report
    }

    fn pause(&self, number: u32) -> Report {
        self.take(number, true)
    }

    fn resume(&self, number: u32, windows: Option<Windows>) {
        self.with(number, |held| {
            assert!(held.paused);
            held.paused = false;
            held.report.windows = windows;
        });
    }
}

/// The two, and the holder of the first's leases.
struct Pair {
    leasing: Gateway,
    plain: Gateway,
    book: Book,
    next: u32,
    forwarded: usize,
}

const RULES: Rules = Rules { dnat: None, snat: None };

impl Pair {
    fn new() -> Self {
        let settings = Settings { acct: true, ..Settings::default() };
        let (mut leasing, plain) = (Gateway::with(settings), Gateway::with(settings));
        let book = Book::default();
        leasing.table.set_holder(Arc::new(book.clone()));
        Self { leasing, plain, book, next: 0, forwarded: 0 }
    }

    fn ids(&self, tuple: &Tuple) -> [Option<ConnId>; 2] {
        [&self.leasing, &self.plain]
            .map(|g| g.table.find_exactly(tuple, [0; 2], Direction::Original, g.now))
    }

    /// Leases the connection if it can be.
    fn lease(&mut self, tuple: &Tuple) {
        let [Some(id), _] = self.ids(tuple) else { return };
        let Some(terms) = self.leasing.table.terms(id) else { return };
        let number = self.next;
        self.next += 1;
        let report = Report { windows: terms.windows, ..Report::default() };
        self.book.0.lock().unwrap().insert(number, Held { paused: false, report });
        self.leasing.table.lease(id, number, terms.paths);
    }

    /// A packet. The holder takes it if it is one of those that a holder may take.
    fn packet(&mut self, tuple: &Tuple, bytes: &[u8], direction: Direction) {
        let before = self.ids(tuple)[1].map(|id| self.counted(id, direction));
        let state = self.tcp_state(tuple);
        let there = self.plain.pass_as(bytes, RULES, tidegate_packet::checksum::Field::Complete);
        let after = self.ids(tuple)[1].map(|id| self.counted(id, direction));
        let steady = state == self.tcp_state(tuple)
            && matches!(state, None | Some(TcpState::Established))
            && matches!((before, after), (Some(b), Some(a)) if b.packets + 1 == a.packets)
            && is_plain(bytes);
        let leased = self.leasing.table.leased() == 1 && steady;
        if leased && self.ids(tuple)[0].is_some() {
            let (id, now) = (self.ids(tuple)[1].unwrap(), self.plain.now);
            let windows = self.plain.table.windows(id);
            let number = *self.book.0.lock().unwrap().keys().next().expect("one");
            self.book.with(number, |held| {
                let counted = &mut held.report.counted[direction as usize];
                counted.packets += 1;
                counted.bytes += bytes.len() as u64;
                held.report.seen = now;
                held.report.windows = windows;
            });
            self.forwarded += 1;
            return;
        }
        let here = self.leasing.pass_as(bytes, RULES, tidegate_packet::checksum::Field::Complete);
        let state = |result: &Result<(Vec<u8>, tidegate_nat::Tracked), String>| match result {
            Ok((_, tracked)) => format!("{:?}", tracked.state()),
            Err(error) => error.clone(),
        };
        assert_eq!(state(&here), state(&there));
    }

    fn counted(&self, id: ConnId, direction: Direction) -> Counters {
        self.plain.table.get(id).unwrap().accounting()[direction as usize]
    }

    fn tcp_state(&self, tuple: &Tuple) -> Option<TcpState> {
        self.plain.table.get(self.ids(tuple)[1]?)?.tcp_state()
    }

    fn wait(&mut self, time: Duration) {
        for gateway in [&mut self.leasing, &mut self.plain] {
            gateway.now = gateway.now + time;
        }
        self.leasing.table.settle_leases(|_| false);
        let now = self.leasing.now;
        assert_eq!(self.leasing.table.expire(now), self.plain.table.expire(now));
    }

    fn compare(&mut self, tuple: &Tuple) {
        self.leasing.table.settle_leases(|_| false);
        let [here, there] = self.ids(tuple);
        assert_eq!(here.is_some(), there.is_some());
        let (Some(here), Some(there)) = (here, there) else { return };
        let now = self.leasing.now;
        let show = |gateway: &Gateway, id: ConnId| {
            let conn = gateway.table.get(id).unwrap();
            let windows = gateway.table.windows(id);
            let (left, counted) = (conn.time_left(now), conn.accounting());
            format!("{:?} {left:?} {counted:?} {:?} {windows:?}", conn.status(), conn.tcp_state())
        };
        assert_eq!(show(&self.leasing, here), show(&self.plain, there));
    }
}

fn is_plain(bytes: &[u8]) -> bool {
    match Parsed::parse(bytes).unwrap().transport {
        tidegate_packet::Transport::Tcp { flags, .. } => flags & !PSH == ACK,
        _ => true,
    }
}

fn tuple(protocol: u8) -> Tuple {
    let [src, dst] = ["192.168.0.5", "203.0.113.9"].map(|a| a.parse().unwrap());
    Tuple { src, dst, sport: 4000, dport: 80, protocol }
}

#[derive(Clone, Debug)]
enum Step {
    /// Distance of the sequence number from what is next, of the acknowledgment from what was sent.
    Segment {
        reply: bool,
        seq: i32,
        ack: i32,
        len: u16,
        window: u16,
        flags: u8,
    },
    Wait(u64),
    Lease,
    Compare,
    Mark(u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let near = || prop_oneof![8 => Just(0), 3 => -3000i32..3000, 1 => any::<i32>()];
    let flags = prop_oneof![
        30 => Just(ACK), 10 => Just(ACK | PSH), 1 => Just(FIN | ACK), 1 => Just(RST), 1 => Just(SYN)
    ];
    let window = prop_oneof![5 => 200u16..=u16::MAX, 1 => Just(0)];
    let segment = (any::<bool>(), near(), near(), 0u16..1400, window, flags).prop_map(
        |(reply, seq, ack, len, window, flags)| Step::Segment {
            reply,
            seq,
            ack,
            len,
            window,
            flags,
        },
    );
    let step = prop_oneof![
        20 => segment, 2 => (1u64..400).prop_map(Step::Wait), 4 => Just(Step::Lease),
        2 => Just(Step::Compare), 1 => (0u32..2).prop_map(Step::Mark),
    ];
    proptest::collection::vec(step, 10..80)
}

/// What the two ends would send next.
struct Ends {
    next: [u32; 2],
}

impl Ends {
    fn segment(&mut self, step: &Step) -> (Vec<u8>, Direction) {
        let Step::Segment { reply, seq, ack, len, window, flags } = *step else { unreachable!() };
        let me = usize::from(reply);
        let from = self.next[me].wrapping_add(seq as u32);
        let ack = self.next[1 - me].wrapping_add(ack as u32);
        if seq == 0 {
            self.next[me] = from.wrapping_add(u32::from(len));
        }
        (self.build(reply, flags, from, ack, window, len), direction(reply))
    }

    fn build(&self, reply: bool, flags: u8, seq: u32, ack: u32, window: u16, len: u16) -> Vec<u8> {
        let (sport, dport) = if reply { (80, 4000) } else { (4000, 80) };
        let header = match reply {
            false => ip("192.168.0.5", "203.0.113.9", protocol::TCP),
            true => ip("203.0.113.9", "192.168.0.5", protocol::TCP),
        };
        let options: &[u8] = if flags & SYN != 0 { &[4, 2, 3, 3, 7, 1] } else { &[] };
        let fields = Tcp { sport, dport, seq, ack, flags, window, options };
        tcp(header, fields, &vec![0; usize::from(len)])
    }
}

fn direction(reply: bool) -> Direction {
    if reply { Direction::Reply } else { Direction::Original }
}

fn open(pair: &mut Pair, tuple: &Tuple) -> Ends {
    // Numbers begin anew on the way.
    let mut ends = Ends { next: [0xffff_f000, 5000] };
    for (reply, flags) in [(false, SYN), (true, SYN | ACK), (false, ACK)] {
        let me = usize::from(reply);
        let (seq, ack) = (ends.next[me], ends.next[1 - me]);
        let bytes = ends.build(reply, flags, seq, ack, 30000, 0);
        ends.next[me] = seq.wrapping_add(u32::from(flags & SYN != 0));
        pair.packet(tuple, &bytes, direction(reply));
    }
    ends
}

#[test]
fn a_lease_changes_nothing_that_can_be_seen() {
    let forwarded = std::cell::Cell::new(0);
    let mut runner = proptest::test_runner::TestRunner::new(proptest(400));
    let conversation = runner.run(&steps(), |steps| {
        forwarded.set(forwarded.get() + converse(&steps));
        Ok(())
    });
    conversation.unwrap();
    assert!(forwarded.get() > 2000, "the holder has seen {} packets only", forwarded.get());
}

/// Goes through the steps, and says how many packets the holder has seen.
fn converse(steps: &[Step]) -> usize {
    let (mut pair, tuple) = (Pair::new(), tuple(protocol::TCP));
    let mut ends = open(&mut pair, &tuple);
    for step in steps {
        match step {
            Step::Segment { .. } => {
                let (bytes, direction) = ends.segment(step);
                pair.packet(&tuple, &bytes, direction);
            }
            Step::Wait(seconds) => pair.wait(Duration::from_secs(*seconds)),
            Step::Lease => pair.lease(&tuple),
            Step::Compare => pair.compare(&tuple),
            Step::Mark(mark) => {
                let update = Update { mark: Some((u32::MAX, *mark)), ..Update::default() };
                let [here, there] = pair.ids(&tuple);
                let now = pair.plain.now;
                if let (Some(here), Some(there)) = (here, there) {
                    pair.leasing.table.update(here, &update, now).unwrap();
                    pair.plain.table.update(there, &update, now).unwrap();
                    assert_eq!(pair.leasing.table.leased(), 0);
                }
            }
        }
    }
    pair.compare(&tuple);
    pair.forwarded
}

#[test]
fn a_leased_connection_lives_by_what_the_holder_sees() {
    let (mut pair, tuple) = (Pair::new(), tuple(protocol::TCP));
    let mut ends = open(&mut pair, &tuple);
    pair.lease(&tuple);
    assert_eq!(pair.leasing.table.leased(), 1);
    let data = Step::Segment { reply: false, seq: 0, ack: 0, len: 100, window: 500, flags: ACK };
    let answer = Step::Segment { reply: true, seq: 0, ack: 0, len: 0, window: 500, flags: ACK };
    for _ in 0..20 {
        // Longer altogether than the five days of an established connection.
        pair.wait(Duration::from_secs(86_400));
        for step in [&data, &answer] {
            let (bytes, direction) = ends.segment(step);
            pair.packet(&tuple, &bytes, direction);
        }
        pair.compare(&tuple);
    }
    assert_eq!(pair.forwarded, 40);
    // FIN is not for the holder, and after it nothing is.
    let fin = Step::Segment { reply: false, seq: 0, ack: 0, len: 0, window: 500, flags: FIN | ACK };
    let (bytes, way) = ends.segment(&fin);
    pair.packet(&tuple, &bytes, way);
    assert_eq!((pair.leasing.table.leased(), pair.book.0.lock().unwrap().len()), (0, 0));
    pair.lease(&tuple);
    assert_eq!(pair.leasing.table.leased(), 0, "not in FIN_WAIT");
    pair.compare(&tuple);
}

#[test]
fn a_connection_that_goes_takes_its_lease_along() {
    let (mut pair, tuple) = (Pair::new(), tuple(protocol::TCP));
    open(&mut pair, &tuple);
    pair.lease(&tuple);
    let far = Duration::from_secs(6 * 86_400);
    pair.wait(far);
    assert_eq!(pair.ids(&tuple), [None, None]);
    assert_eq!((pair.leasing.table.leased(), pair.book.0.lock().unwrap().len()), (0, 0));
}

#[test]
fn a_one_way_flow_is_leased_until_it_is_answered() {
    let (mut pair, tuple) = (Pair::new(), tuple(protocol::UDP));
    let there = udp(ip("192.168.0.5", "203.0.113.9", protocol::UDP), 4000, 80, b"x");
    let back = udp(ip("203.0.113.9", "192.168.0.5", protocol::UDP), 80, 4000, b"x");
    pair.packet(&tuple, &there, Direction::Original);
    pair.lease(&tuple);
    for _ in 0..20 {
        pair.wait(Duration::from_secs(25));
        pair.packet(&tuple, &there, Direction::Original);
    }
    pair.compare(&tuple);
    assert_eq!((pair.forwarded, pair.leasing.table.leased()), (20, 1));
    // The first answer makes it another: rules see ESTABLISHED from now on. It comes by the gateway.
    let answered = pair.leasing.pass(&back, RULES).is_ok() && pair.plain.pass(&back, RULES).is_ok();
    assert!(answered && pair.leasing.table.leased() == 0);
    pair.compare(&tuple);
    // Answered, it is a stream two seconds after its start: the next packet says so.
    pair.packet(&tuple, &there, Direction::Original);
    let [id, _] = pair.ids(&tuple);
    let conn = pair.leasing.table.get(id.unwrap()).unwrap();
    assert!(conn.status().has(Status::SEEN_REPLY.with(Status::ASSURED)), "{:?}", conn.status());
}

#[test]
fn a_translated_flow_is_described_by_its_two_tuples() {
    let mut gateway = Gateway::new();
    gateway.table.set_holder(Arc::new(Book::default()));
    let there = udp(ip("192.168.0.5", "203.0.113.9", protocol::UDP), 4000, 80, b"x");
    let rules = Rules { snat: Some(to("198.51.100.1")), dnat: None };
    let (_, tracked) =
        gateway.pass_as(&there, rules, tidegate_packet::checksum::Field::Complete).unwrap();
    assert_eq!(tracked.state(), State::New);
    let terms = gateway.table.terms(tracked.id().unwrap()).expect("can be leased");
    assert_eq!(terms.tuples[0], tuple(protocol::UDP));
    assert_eq!(terms.tuples[1].inverse().unwrap().src, "198.51.100.1".parse().unwrap());
    assert_eq!((terms.windows, terms.until), (None, None));
    // Answered, it becomes a stream after two seconds: until then.
    let back = udp(ip("203.0.113.9", "198.51.100.1", protocol::UDP), 80, 4000, b"x");
    gateway.pass(&back, rules).unwrap();
    let terms = gateway.table.terms(tracked.id().unwrap()).expect("can be leased");
    assert_eq!(terms.until, Some(Instant::from_secs(102)));
}
