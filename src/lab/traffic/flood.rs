//! As many small datagrams as a host can send in a given time, and how many arrive.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;
use socket2::{Domain, SockAddr, Socket, Type};

use super::super::netns::Netns;
use super::Failure;

/// The clock is looked at once in so many datagrams.
const BURST: usize = 64;

/// What has been silent for so long has received everything.
const QUIET: Duration = Duration::from_millis(100);

/// Room for what arrives faster than it is counted.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Datagrams to be sent.
#[derive(Copy, Clone, Debug)]
pub struct Flood<'a> {
    /// The sender.
    pub client: &'a Netns,
    /// The receiver.
    pub server: &'a Netns,
    /// Where the receiver listens.
    pub listen: SocketAddr,
    /// Where the sender finds it.
    pub connect: SocketAddr,
    /// Bytes of payload; 18 make a frame of 60 bytes over IPv4.
    pub size: usize,
    /// How long the sender sends.
    pub time: Duration,
}

/// What became of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams received.
    pub received: u64,
    /// The address of the last sender that the receiver saw, and whether there were others.
    pub from: Option<(IpAddr, bool)>,
    /// How long the sender sent.
    pub took: Duration,
}

impl Delivered {
    /// Datagrams received per second of sending.
    pub fn rate(&self) -> f64 {
        self.received as f64 / self.took.as_secs_f64().max(1e-9)
    }
}

impl Flood<'_> {
    /// Sends and counts.
    pub fn run(&self) -> Result<Delivered, Failure> {
        let receiver = self.server.run(|| listen(self.listen))?;
        let sender = self.client.run(|| {
            let any = SocketAddr::new(unspecified(self.connect), 0);
            let socket = UdpSocket::bind(any)?;
            socket.connect(self.connect).map(|()| socket)
        })?;
        let over = AtomicBool::new(false);
        let (sent, took, counted) = thread::scope(|s| {
            let counter = s.spawn(|| count(&receiver, &over));
            let (sent, took) = send(&sender, self.size, self.time);
            over.store(true, Ordering::Relaxed);
            let counted = counter.join().unwrap_or_else(|p| std::panic::resume_unwind(p));
            (sent, took, counted)
        });
        let (received, from) = counted?;
        Ok(Delivered { sent, received, from, took })
    }
}

fn unspecified(like: SocketAddr) -> IpAddr {
    if like.is_ipv4() {
        std::net::Ipv4Addr::UNSPECIFIED.into()
    } else {
        std::net::Ipv6Addr::UNSPECIFIED.into()
    }
}

fn listen(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    // Beyond the system's limit where we may, else up to it.
    if setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER).is_err() {
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    }
    socket.set_read_timeout(Some(QUIET))?;
    socket.bind(&SockAddr::from(address))?;
    Ok(socket.into())
}

/// What the sender's own kernel refuses (a full queue) isn't sent.
fn send(socket: &UdpSocket, size: usize, time: Duration) -> (u64, Duration) {
    let payload = vec![b't'; size];
    let (mut sent, started) = (0, Instant::now());
    while started.elapsed() < time {
        sent += (0..BURST).filter(|_| socket.send(&payload).is_ok()).count() as u64;
    }
    (sent, started.elapsed())
}

type Counted = (u64, Option<(IpAddr, bool)>);

fn count(socket: &UdpSocket, over: &AtomicBool) -> io::Result<Counted> {
    let (mut received, mut from) = (0, None::<(IpAddr, bool)>);
    let mut buffer = [0; 2048];
    loop {
        match socket.recv_from(&mut buffer) {
            Ok((_, peer)) => {
                received += 1;
                let others = from.is_some_and(|(seen, others)| others || seen != peer.ip());
                from = Some((peer.ip(), others));
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if over.load(Ordering::Relaxed) {
                    return Ok((received, from));
                }
            }
            Err(e) => return Err(e),
        }
    }
}
