//! As much data as fits through TCP in a given time.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use super::super::netns::Netns;
use super::{Failure, PATIENCE, tcp};

/// Bytes handed to the kernel at once.
const CHUNK: usize = 128 << 10;

/// Distance of the marks in the stream.
const PAGE: usize = 4096;

/// Who sends.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The side that connected.
    Forward,
    /// The side that accepted.
    Reverse,
}

/// A transfer to be made.
#[derive(Copy, Clone, Debug)]
pub struct Bulk<'a> {
    /// The host that connects.
    pub client: &'a Netns,
    /// The host that listens.
    pub server: &'a Netns,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where the client finds it.
    pub connect: SocketAddr,
    /// Who sends.
    pub direction: Direction,
    /// Connections at once.
    pub streams: usize,
    /// How long the sender sends.
    pub time: Duration,
}

/// What a transfer achieved.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Throughput {
    /// Bytes that arrived.
    pub bytes: u64,
    /// Whether everything that was sent arrived, and arrived as it was sent.
    pub intact: bool,
    /// From the first byte to the last.
    pub took: Duration,
}

impl Throughput {
    /// Bits per second.
    pub fn rate(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.took.as_secs_f64().max(1e-9)
    }
}

impl Bulk<'_> {
    /// Makes it.
    pub fn run(&self) -> Result<Throughput, Failure> {
        let listener = self.server.run(|| listen(self.listen))?;
        let pairs =
            (0..self.streams).map(|_| self.open(&listener)).collect::<Result<Vec<_>, _>>()?;
        let started = Instant::now();
        let end = started + self.time;
        let results = thread::scope(|s| {
            let streams: Vec<_> = pairs
                .into_iter()
                .map(|(client, server)| match self.direction {
                    Direction::Forward => (client, server),
                    Direction::Reverse => (server, client),
                })
                .map(|(from, to)| (s.spawn(move || send(from, end)), s.spawn(move || receive(to))))
                .collect();
            streams.into_iter().map(|(a, b)| (joined(a), joined(b))).collect::<Vec<_>>()
        });
        let took = started.elapsed();
        let mut total = Throughput { bytes: 0, intact: true, took };
        for (sent, received) in results {
            let (sent, (bytes, in_order)) = (sent?, received?);
            total.bytes += bytes;
            total.intact &= in_order && sent == bytes;
        }
        Ok(total)
    }

    fn open(&self, listener: &TcpListener) -> Result<(TcpStream, TcpStream), Failure> {
        let client = self.client.run(|| tcp::connect(None, self.connect, PATIENCE))?;
        let (server, _) = listener.accept()?;
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
        }
        Ok((client, server))
    }
}

fn joined<T>(thread: thread::ScopedJoinHandle<'_, io::Result<T>>) -> io::Result<T> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(16)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket.into())
}

/// Writes its own place into the stream at every [`PAGE`], so that what is lost, doubled or swapped
/// shows without costing much.
fn mark(chunk: &mut [u8], at: u64) {
    for (i, page) in chunk.chunks_exact_mut(PAGE).enumerate() {
        page[..8].copy_from_slice(&(at + (i * PAGE) as u64).to_be_bytes());
    }
}

/// Whether all marks that lie wholly in `chunk`, which begins at place `at`, are right.
fn marked(chunk: &[u8], at: u64) -> bool {
    let mut place = at.next_multiple_of(PAGE as u64);
    while let Some(found) = chunk.get((place - at) as usize..).and_then(|c| c.first_chunk::<8>()) {
        if u64::from_be_bytes(*found) != place {
            return false;
        }
        place += PAGE as u64;
    }
    true
}

fn send(mut stream: TcpStream, end: Instant) -> io::Result<u64> {
    let mut chunk = vec![0; CHUNK];
    let mut sent = 0;
    // Something at least, also where nothing ran meanwhile.
    loop {
        mark(&mut chunk, sent);
        stream.write_all(&chunk)?;
        sent += CHUNK as u64;
        if Instant::now() >= end {
            break;
        }
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    // The receiver closes when it has everything.
    match stream.read(&mut [0]) {
        Ok(_) => Ok(sent),
        Err(e) if e.kind() == ErrorKind::ConnectionReset => Ok(sent),
        Err(e) => Err(e),
    }
}

/// Takes everything and says how much it was and whether the marks were right.
fn receive(mut stream: TcpStream) -> io::Result<(u64, bool)> {
    let mut buffer = vec![0; 256 << 10];
    let (mut received, mut intact) = (0, true);
    loop {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            return Ok((received, intact));
        }
        intact &= marked(&buffer[..n], received);
        received += n as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_show_loss_and_disorder() {
        let mut chunk = vec![0; CHUNK];
        mark(&mut chunk, 3 * CHUNK as u64);
        let at = 3 * CHUNK as u64;
        assert!(marked(&chunk, at));
        assert!(marked(&chunk[100..], at + 100));
        assert!(!marked(&chunk[100..], at), "100 bytes are lost");
        assert!(!marked(&chunk, 2 * CHUNK as u64), "a chunk came twice");
        chunk[PAGE] ^= 1;
        assert!(!marked(&chunk, at), "a byte is damaged");
    }
}
