//! What is measured on each system.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use tidegate::lab::traffic::bulk::{Bulk, Direction};
use tidegate::lab::traffic::flood::Flood;
use tidegate::lab::traffic::tcp;

use crate::systems::{Contestant, ECHO, System, Without};

/// Bytes of payload that make a frame of 60 bytes over IPv4.
const SMALL: usize = 18;
/// Clients that connect at the same time.
const CALLERS: usize = 4;
/// Questions of the request and response cell for each second of a cell's time.
const QUESTIONS_PER_SECOND: f64 = 5000.0;

/// For how long nothing has happened when idling is measured.
const SETTLE: Duration = Duration::from_millis(300);

/// A measurement.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    /// TCP, as much as goes through.
    Bulk(Direction, usize),
    /// The same in frames of the MTU, as from a wire.
    Wire(Direction, usize),
    /// The same from ends that can only send such frames to a gateway whose devices take more.
    Ends(Direction, usize),
    /// Datagrams in frames of 60 bytes that arrive while the sender sends as many as it can.
    Small,
    /// The same behind [`crate::systems::MANY`] rules.
    SmallManyRules,
    /// TCP connections made, one after the other by several clients.
    Connections,
    /// One byte there and back over a connection that stands.
    Echo,
    /// Nothing.
    Idle,
}

/// What came out of a cell.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The figures, as many as [`Cell::figures`].
    pub values: Vec<f64>,
    /// Processor time of the forwarding process for each second of the cell.
    pub cpu: Option<f64>,
}

/// One figure of a cell.
pub struct Figure {
    /// What it is.
    pub name: String,
    /// Its unit.
    pub unit: &'static str,
    /// More is better.
    pub more: bool,
}

impl Cell {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 14] = [
        Self::Small,
        Self::SmallManyRules,
        Self::Bulk(Direction::Forward, 1),
        Self::Bulk(Direction::Forward, 4),
        Self::Bulk(Direction::Reverse, 1),
        Self::Bulk(Direction::Reverse, 4),
        Self::Wire(Direction::Forward, 1),
        Self::Wire(Direction::Forward, 4),
        Self::Wire(Direction::Reverse, 1),
        Self::Ends(Direction::Forward, 1),
        Self::Ends(Direction::Forward, 4),
        Self::Connections,
        Self::Echo,
        Self::Idle,
    ];

    /// What it is called.
    pub fn name(self) -> String {
        let tcp = |what, direction, n| {
            let direction = if direction == Direction::Reverse { " reverse" } else { "" };
            format!("{what}{direction}, {n} stream{}", if n == 1 { "" } else { "s" })
        };
        match self {
            Self::Bulk(direction, n) => tcp("TCP bulk", direction, n),
            Self::Wire(direction, n) => tcp("TCP bulk in MTU-sized frames", direction, n),
            Self::Ends(direction, n) => tcp("TCP bulk of ends without offloads", direction, n),
            Self::Small => "60-byte UDP delivered".into(),
            Self::SmallManyRules => "the same with 10,000 rules".into(),
            Self::Connections => "new TCP connections".into(),
            Self::Echo => "request/response".into(),
            Self::Idle => "idle gateway".into(),
        }
    }

    /// The figures that it gives.
    pub fn figures(self) -> Vec<Figure> {
        let figure = |name: String, unit, more| Figure { name, unit, more };
        match self {
            Self::Bulk(..) | Self::Wire(..) | Self::Ends(..) => {
                vec![figure(self.name(), "Gbit/s", true)]
            }
            Self::Small | Self::SmallManyRules => vec![figure(self.name(), "Mpps", true)],
            Self::Connections => vec![figure(self.name(), "k/s", true)],
            Self::Echo => vec![
                figure(format!("{}, p50", self.name()), "µs", false),
                figure(format!("{}, p99", self.name()), "µs", false),
            ],
            Self::Idle => vec![figure(self.name(), "% of a core", false)],
        }
    }

    /// Whether it is measured with many rules.
    pub fn has_many_rules(self) -> bool {
        self == Self::SmallManyRules
    }

    /// Measures it once; `None` where that says nothing about the contestant.
    pub fn measure(self, contestant: &Contestant, time: Duration) -> Option<Outcome> {
        let system =
            if self.has_many_rules() { contestant.many.as_ref()? } else { &contestant.page };
        if self == Self::Idle {
            thread::sleep(SETTLE);
        }
        let (cpu, started) = (system.cpu(), Instant::now());
        let busy = || {
            let took = started.elapsed().as_secs_f64();
            cpu.zip(system.cpu()).map(|(a, b)| b.saturating_sub(a).as_secs_f64() / took)
        };
        let values = match self {
            Self::Bulk(direction, streams) => bulk(system, direction, streams, time),
            Self::Wire(direction, streams) => system
                .frame_by_frame(Without::Any, || bulk(system, direction, streams, time))
                .map_err(|e| e.to_string())
                .flatten(),
            Self::Ends(direction, streams) => system
                .frame_by_frame(Without::Ends, || bulk(system, direction, streams, time))
                .map_err(|e| e.to_string())
                .flatten(),
            Self::Small | Self::SmallManyRules => small(system, time),
            Self::Connections => connections(system, time),
            Self::Echo => echo(system, time),
            Self::Idle => {
                thread::sleep(time.max(Duration::from_secs(1)));
                Ok(vec![busy()? * 100.0])
            }
        };
        Some(values.map(|values| Measured { values, cpu: busy() }))
    }
}

/// A cell's figures, or why there are none.
pub type Outcome = Result<Measured, String>;

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 2], port))
}

type Values = Result<Vec<f64>, String>;

fn bulk(system: &System, direction: Direction, streams: usize, time: Duration) -> Values {
    let (client, server, to) = (system.client(), system.server(), at(5001));
    let bulk = Bulk { client, server, listen: to, connect: to, direction, streams, time };
    let done = bulk.run().map_err(|e| e.to_string())?;
    match done.intact {
        true => Ok(vec![done.rate() / 1e9]),
        false => Err("bytes are lost or in disorder".into()),
    }
}

fn small(system: &System, time: Duration) -> Values {
    let (client, server, to) = (system.client(), system.server(), at(5002));
    let flood = Flood { client, server, listen: to, connect: to, size: SMALL, time };
    let done = flood.run().map_err(|e| e.to_string())?;
    Ok(vec![done.rate() / 1e6])
}

fn echo(system: &System, time: Duration) -> Values {
    let questions = (time.as_secs_f64() * QUESTIONS_PER_SECOND) as usize;
    let latency = system.client().run(|| tcp::latency(at(ECHO), questions));
    let tcp::Latency { p50, p99 } = latency.map_err(|e| e.to_string())?;
    Ok([p50, p99].map(|t| t.as_secs_f64() * 1e6).to_vec())
}

/// The client that closes with a reset keeps no port in TIME_WAIT, of which there would soon be
/// none left.
fn connections(system: &System, time: Duration) -> Values {
    let failed = |e: std::io::Error| e.to_string();
    let listener = system.server().run(|| listen(at(5003))).map_err(failed)?;
    let (over, made) = (AtomicBool::new(false), AtomicU64::new(0));
    let started = Instant::now();
    let result = thread::scope(|s| {
        s.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let _ = listener.accept();
            }
        });
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| s.spawn(|| system.client().run(|| call(started + time, &made))))
            .collect();
        let results: Vec<_> = callers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        over.store(true, Ordering::Relaxed);
        results.into_iter().try_for_each(|r| r.unwrap_or_else(|p| std::panic::resume_unwind(p)))
    });
    let took = started.elapsed();
    result.map_err(failed)?;
    Ok(vec![made.load(Ordering::Relaxed) as f64 / took.as_secs_f64() / 1e3])
}

fn call(end: Instant, made: &AtomicU64) -> std::io::Result<()> {
    while Instant::now() < end {
        let stream = TcpStream::connect(at(5003))?;
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        made.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(1024)?;
    Ok(socket.into())
}
