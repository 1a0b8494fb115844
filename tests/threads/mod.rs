//! Worker threads with devices in memory around one gateway.

use crate::common::addr;
use crate::common::uplink::{framed, lan_and_uplink};
use std::collections::HashMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tidegate::conntrack::{Action, Ask, Filter, Hub, Moment, Tell, gateway};
use tidegate::engine::{Drop, PortId, steer};
use tidegate::gateway::Gateway;
use tidegate::handover::{Bell, HandOver};
use tidegate::io::channel::{ChannelReceive, Flying, Wire};
use tidegate::io::{Frame, Outgoing, Receive};
use tidegate::sim::{self, SimConfig};
use tidegate::worker::{Clock, Device, News, Worker, unix_nanos};
use tidegate_filter::{Ruleset, Sets, Source, load_with};
use tidegate_nat::{Update, home};
use tidegate_packet::builder::{self, Ip};
use tidegate_packet::{Addr, Family, Parsed, ethernet, protocol};

const PORTS: [&str; 2] = ["lan0", "wan0"];
/// So long a test waits for what has to come; it is there long before.
const PATIENCE: Duration = Duration::from_secs(120);

/// A LAN and an uplink, where nothing ends while a slow machine is at it.
pub fn config(rules: &str, sysctls: &str) -> SimConfig {
    let sysctls = format!(
        "net.netfilter.nf_conntrack_udp_timeout = 900\n\
         net.netfilter.nf_conntrack_udp_timeout_stream = 900\n{sysctls}"
    );
    lan_and_uplink(rules, &sysctls)
}

pub fn rules(text: &str, family: Family) -> Ruleset {
    load_with(Source { name: "rules", text }, family, &Sets::new()).unwrap().ruleset
}

/// Everything that is there.
pub fn list() -> Ask {
    Ask::Walk { filter: Box::new(Filter::default()), action: Action::List, cursor: 0 }
}

/// A datagram with a number.
pub fn datagram(src: Addr, dst: Addr, (sport, dport): (u16, u16), number: u32) -> Vec<u8> {
    builder::udp(Ip::new(src, dst, protocol::UDP), sport, dport, &number.to_be_bytes())
}

/// A datagram of a host to the far end.
pub fn question(host: Addr, sport: u16, dport: u16, number: u32) -> Vec<u8> {
    datagram(host, addr("198.51.100.1"), (sport, dport), number)
}

/// An answer to the uplink's address.
pub fn answer(sport: u16, dport: u16, number: u32) -> Vec<u8> {
    datagram(addr("198.51.100.1"), addr("203.0.113.1"), (dport, sport), number)
}

/// Who gets the frames that nobody is named for.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Wires {
    /// The worker where the flow is at home.
    Home,
    /// The one that the sum of the ports says.
    Scattered,
}

/// A frame that a worker has sent.
#[derive(Clone, Debug)]
pub struct Sent {
    pub worker: usize,
    pub port: &'static str,
    pub frame: Vec<u8>,
}

impl Sent {
    pub fn ports(&self) -> (u16, u16) {
        Parsed::parse(&self.frame[ethernet::HEADER_LEN..]).unwrap().ports().unwrap()
    }
}

/// The number in a datagram.
pub fn number(sent: &Sent) -> u32 {
    u32::from_be_bytes(*sent.frame.last_chunk().unwrap())
}

/// How many there are of each kind.
pub fn count_of<K: std::hash::Hash + Eq>(
    all: &[Sent],
    kind: impl Fn(&Sent) -> K,
) -> HashMap<K, u32> {
    all.iter().fold(HashMap::new(), |mut counts, sent| {
        *counts.entry(kind(sent)).or_default() += 1;
        counts
    })
}

/// What a device does when it is asked for frames.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
enum Mood {
    #[default]
    Well,
    /// It doesn't come back, from the next time on.
    Hangs,
    /// It doesn't come back.
    Hung,
    Gone,
}

#[derive(Debug, Default)]
struct Gate {
    /// By worker and port.
    moods: Mutex<HashMap<(usize, usize), Mood>>,
    changed: Condvar,
}

/// A device that can be made to hang, or to be gone.
struct Moody {
    inner: ChannelReceive,
    place: (usize, usize),
    gate: Arc<Gate>,
}

impl Receive for Moody {
    fn receive(&mut self) -> io::Result<usize> {
        let mut moods = self.gate.moods.lock().unwrap();
        loop {
            match moods.get(&self.place).copied().unwrap_or_default() {
                Mood::Well => return self.inner.receive(),
                Mood::Gone => return Err(io::ErrorKind::NotFound.into()),
                Mood::Hangs => {
                    moods.insert(self.place, Mood::Hung);
                    self.gate.changed.notify_all();
                }
                Mood::Hung => moods = self.gate.changed.wait(moods).unwrap(),
            }
        }
    }

    fn frame(&mut self, index: usize) -> Frame<'_> {
        self.inner.frame(index)
    }

    fn sent(&self, index: usize) -> Outgoing<'_> {
        self.inner.sent(index)
    }

    fn release(&mut self) {
        self.inner.release();
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.fd()
    }
}

/// A gateway at work.
pub struct Lab {
    pub gateway: Gateway,
    pub clock: Clock,
    /// Devices that workers have missed.
    pub gone: Receiver<PortId>,
    wires: Vec<[Wire; 2]>,
    steering: u32,
    how: Wires,
    pushed: usize,
    assured: bool,
    /// Days that have passed for connections.
    days: u32,
    /// Frames that were dropped before the last [`Lab::forget`].
    dropped: HashMap<&'static str, u64>,
    out: Vec<Sent>,
    gate: Arc<Gate>,
    stop: Arc<AtomicBool>,
    threads: Vec<(JoinHandle<io::Result<()>>, Arc<Bell>)>,
}

impl Lab {
    pub fn new(config: &SimConfig, workers: usize, how: Wires) -> Self {
        let clock = Clock::start();
        let mut engine = sim::engine(config, &Sets::new()).unwrap();
        engine.set_time(clock.now(), unix_nanos());
        let steering = engine.steering();
        let gateway = Gateway::new(engine, workers);
        let (stop, gate) = (Arc::new(AtomicBool::new(false)), Arc::new(Gate::default()));
        let (tell, gone) = mpsc::channel();
        let (mut wires, mut parts, mut bells) = (Vec::new(), Vec::new(), Vec::new());
        for shard in 0..workers {
            let mut devices = Vec::new();
            wires.push([0, 1].map(|port| {
                let (wire, inner, transmit) = Wire::new().unwrap();
                let receive = Moody { inner, place: (shard, port), gate: gate.clone() };
                let (receive, transmit) = (Box::new(receive), Box::new(transmit));
                devices.push(Device { receive, transmit });
                wire
            }));
            let tell = tell.clone();
            let worker = Worker {
                gateway: gateway.clone(),
                shard,
                devices,
                clock,
                stop: stop.clone(),
                news: News::new(Box::new(|| {})),
                sent: Vec::new(),
                inbox: mpsc::channel().1,
                handover: HandOver::default(),
                gone: Box::new(move |port| tell.send(port).unwrap_or_default()),
            };
            let (poll, bell) = worker.poll().unwrap();
            parts.push((worker, poll));
            bells.push(bell);
        }
        let ends = HandOver::between(&bells);
        let start = |(((mut worker, poll), end), bell): (((Worker, mio::Poll), _), Arc<Bell>)| {
            worker.handover = end;
            let own = bell.clone();
            (std::thread::spawn(move || worker.run(poll, &own)), bell)
        };
        let threads = parts.into_iter().zip(ends).zip(bells).map(start).collect();
        let (dropped, out) = (HashMap::new(), Vec::new());
        let (pushed, days, assured) = (0, 0, false);
        Self {
            gateway,
            clock,
            gone,
            wires,
            steering,
            how,
            pushed,
            assured,
            days,
            dropped,
            out,
            gate,
            stop,
            threads,
        }
    }

    /// Gives a frame to a worker.
    pub fn push(&mut self, port: &str, packet: &[u8]) {
        let bytes = framed(port, packet);
        let flow = steer::flow(&bytes).unwrap();
        let worker = match self.how {
            Wires::Home => home(self.steering, self.wires.len(), &flow),
            Wires::Scattered => usize::from(flow.sport ^ flow.dport) % self.wires.len(),
        };
        self.push_to(worker, port, packet);
    }

    /// Gives a frame to this worker.
    pub fn push_to(&mut self, worker: usize, port: &str, packet: &[u8]) {
        let place = PORTS.iter().position(|name| *name == port).unwrap();
        self.wires[worker][place].push(framed(port, packet));
        self.pushed += 1;
    }

    /// The worker where a host's datagrams to the far end are at home.
    pub fn home(&self, host: Addr, sport: u16, dport: u16) -> usize {
        let flow = steer::flow(&framed("lan0", &question(host, sport, dport, 0))).unwrap();
        home(self.steering, self.wires.len(), &flow)
    }

    fn collect(&mut self) {
        for (worker, wires) in self.wires.iter().enumerate() {
            for (wire, port) in wires.iter().zip(PORTS) {
                while let Some(Flying { bytes: frame, .. }) = wire.pop() {
                    self.out.push(Sent { worker, port, frame });
                }
            }
        }
    }

    fn all_drops(&self) -> HashMap<&'static str, u64> {
        let counters = self.gateway.counters();
        counters.drops().map(|(reason, count)| (reason.name(), count)).collect()
    }

    /// Frames that were dropped for a reason since the last [`Lab::forget`].
    pub fn drops(&self, reason: Drop) -> u64 {
        let before = self.dropped.get(reason.name()).copied().unwrap_or(0);
        self.all_drops().get(reason.name()).copied().unwrap_or(0) - before
    }

    /// Waits until every frame since the last [`Lab::forget`] was sent or dropped, and gives those that
    /// were sent.
    pub fn settle(&mut self) -> Vec<Sent> {
        self.wait("frames to be sent or dropped", |lab| {
            let before: u64 = lab.dropped.values().sum();
            let dropped = lab.all_drops().values().sum::<u64>() - before;
            lab.out.len() + dropped as usize >= lab.pushed
        });
        assert!(self.out.len() <= self.pushed);
        self.out.clone()
    }

    /// Waits until so many frames were sent since the last [`Lab::forget`].
    pub fn wait_for_sent(&mut self, count: usize) {
        self.wait("frames to be sent", |lab| lab.out.len() >= count);
    }

    /// Whether so many frames are sent in that time. It doesn't touch the gateway.
    pub fn sent_within(&mut self, count: usize, time: Duration) -> bool {
        let began = std::time::Instant::now();
        while self.out.len() < count && began.elapsed() < time {
            self.collect();
            std::thread::yield_now();
        }
        self.out.len() >= count
    }

    /// Whether all flows are assured.
    pub fn is_assured(&self) -> bool {
        self.assured
    }

    /// What was sent since the last [`Lab::forget`].
    pub fn sent(&self) -> &[Sent] {
        &self.out
    }

    fn wait(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let began = std::time::Instant::now();
        loop {
            self.collect();
            if done(self) {
                return;
            }
            let seen = (self.pushed, self.out.len(), self.all_drops());
            assert!(began.elapsed() < PATIENCE, "waiting for {what}: {seen:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Begins to count anew.
    pub fn forget(&mut self) {
        (self.pushed, self.dropped) = (0, self.all_drops());
        self.out.clear();
    }

    /// Answers what was sent until all flows are assured.
    pub fn assure(&mut self) {
        for sent in self.out.clone() {
            let packet = &sent.frame[ethernet::HEADER_LEN..];
            let parsed = Parsed::parse(packet).unwrap();
            let (sport, dport) = parsed.ports().unwrap();
            let back = datagram(parsed.dst, parsed.src, (dport, sport), 0);
            self.push(sent.port, &back);
        }
        self.settle();
        let mut all = self.gateway.each(gateway::entries).into_iter().flatten();
        assert!(all.all(|entry| entry.status & 2 != 0), "every flow has seen an answer");
        // By hand what would take two seconds; and they last.
        let (status, timeout) = (Some(Update::STATUS.bits()), Some(Duration::from_secs(50_000)));
        let assured = Update { status, timeout, ..Update::default() };
        let now = self.clock.now();
        self.assured = true;
        self.gateway.each(|lent| {
            let ids: Vec<_> = lent.conntrack().iter().map(|(id, _)| id).collect();
            for id in ids {
                lent.conntrack_mut().update(id, &assured, now).unwrap();
            }
        });
    }

    /// Lets a day pass for connections.
    pub fn expire(&mut self) {
        self.days += 1;
        let later = self.clock.now() + self.days * Duration::from_secs(86_400);
        self.gateway.finish_sweep(later, unix_nanos());
    }

    /// Connections, tuples in the registry, signs: nothing is left when nothing is there.
    pub fn left(&self) -> [usize; 3] {
        let tuples = self.gateway.with(0, |lent| lent.conntrack().tuples());
        [self.gateway.connections(), tuples, self.gateway.engine().signs()]
    }

    /// What a command is told.
    pub fn ask(&self, ask: Ask) -> Tell {
        self.ask_at(ask, Duration::ZERO)
    }

    /// The same some time later.
    pub fn ask_at(&self, ask: Ask, later: Duration) -> Tell {
        let moment = Moment { now: self.clock.now() + later, unix_nanos: unix_nanos() };
        let peer = &mut gateway::Peer::default();
        gateway::answer(&self.gateway, &Arc::new(Hub::default()), peer, ask, moment)
    }

    fn set_mood(&self, place: (usize, usize), mood: Mood) {
        self.gate.moods.lock().unwrap().insert(place, mood);
        self.gate.changed.notify_all();
        // It asks its devices when it is woken.
        self.threads[place.0].1.wake().unwrap();
    }

    /// A worker hangs from now on.
    pub fn hang(&self, worker: usize) {
        let place = (worker, 0);
        self.set_mood(place, Mood::Hangs);
        let moods = self.gate.moods.lock().unwrap();
        let hangs = |moods: &mut HashMap<_, Mood>| moods[&place] != Mood::Hung;
        let waited = self.gate.changed.wait_timeout_while(moods, PATIENCE, hangs).unwrap();
        assert!(!waited.1.timed_out());
    }

    /// It goes on.
    pub fn go_on(&self, worker: usize) {
        self.set_mood((worker, 0), Mood::Well);
    }

    /// A worker's device is gone.
    pub fn lose(&self, worker: usize, port: &str) {
        let place = PORTS.iter().position(|name| *name == port).unwrap();
        self.set_mood((worker, place), Mood::Gone);
    }
}

impl std::ops::Drop for Lab {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Who hangs has to be told first.
        if let Ok(mut moods) = self.gate.moods.lock() {
            moods.clear();
        }
        self.gate.changed.notify_all();
        for (thread, bell) in self.threads.drain(..) {
            bell.wake().unwrap();
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.unwrap().unwrap();
            }
        }
    }
}
