//! What is measured on each system.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use tidegate::lab::traffic::bulk::{Bulk, Direction};
use tidegate::lab::traffic::flood::Flood;
use tidegate::lab::traffic::tcp;

use crate::Outcome;
use crate::systems::{ECHO, System};

/// Bytes of payload that make a frame of 60 bytes over IPv4.
const SMALL: usize = 18;
/// Clients that connect at the same time.
const CALLERS: usize = 4;
/// Questions of the request and response cell for each second of a cell's time.
const QUESTIONS_PER_SECOND: f64 = 5000.0;

/// A measurement.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    /// TCP, as much as goes through.
    Bulk(Direction, usize),
    /// Datagrams in frames of 60 bytes that arrive while the sender sends as many as it can.
    Small,
    /// TCP connections made, one after the other by several clients.
    Connections,
    /// One byte there and back over a connection that stands.
    Echo,
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
    pub const ALL: [Self; 7] = [
        Self::Bulk(Direction::Forward, 1),
        Self::Bulk(Direction::Forward, 4),
        Self::Bulk(Direction::Reverse, 1),
        Self::Bulk(Direction::Reverse, 4),
        Self::Small,
        Self::Connections,
        Self::Echo,
    ];

    /// What it is called.
    pub fn name(self) -> String {
        let s = |n| if n == 1 { "" } else { "s" };
        match self {
            Self::Bulk(Direction::Forward, n) => format!("TCP bulk, {n} stream{}", s(n)),
            Self::Bulk(Direction::Reverse, n) => format!("TCP bulk reverse, {n} stream{}", s(n)),
            Self::Small => "UDP 60 bytes, delivered".into(),
            Self::Connections => "new TCP connections".into(),
            Self::Echo => "request/response".into(),
        }
    }

    /// The figures that it gives.
    pub fn figures(self) -> Vec<Figure> {
        let figure = |name: String, unit, more| Figure { name, unit, more };
        match self {
            Self::Bulk(..) => vec![figure(self.name(), "Gbit/s", true)],
            Self::Small => vec![
                figure(self.name(), "Mpps", true),
                figure("UDP 60 bytes, sent".into(), "Mpps", true),
            ],
            Self::Connections => vec![figure(self.name(), "k/s", true)],
            Self::Echo => vec![
                figure(format!("{} p50", self.name()), "µs", false),
                figure(format!("{} p99", self.name()), "µs", false),
            ],
        }
    }

    /// Measures it once.
    pub fn measure(self, system: &System, time: Duration) -> Outcome {
        let (cpu, started) = (system.cpu(), Instant::now());
        let values = match self {
            Self::Bulk(direction, streams) => bulk(system, direction, streams, time),
            Self::Small => small(system, time),
            Self::Connections => connections(system, time),
            Self::Echo => echo(system, time),
        }?;
        let took = started.elapsed().as_secs_f64();
        let cpu = cpu.zip(system.cpu()).map(|(a, b)| b.saturating_sub(a).as_secs_f64() / took);
        Ok(Measured { values, cpu })
    }
}

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
    let sent = done.sent as f64 / done.took.as_secs_f64();
    Ok(vec![done.rate() / 1e6, sent / 1e6])
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
