//! Questions over UDP.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use socket2::Type;

use super::{Answer, Asked, Exchange, Failure, PATIENCE, errors, service};

/// A datagram whose answer matters, whatever it is.
#[derive(Copy, Clone, Debug)]
pub struct Probe {
    /// Where it goes.
    pub to: SocketAddr,
    /// TTL or hop limit, unless the system's.
    pub ttl: Option<u8>,
    /// Bytes of payload.
    pub size: usize,
    /// How long to wait.
    pub wait: Duration,
}

impl Probe {
    /// Ten bytes to `to`.
    pub fn new(to: SocketAddr) -> Self {
        Self { to, ttl: None, size: 10, wait: PATIENCE }
    }

    /// Sends it and waits for what comes back. As long as the kernel knows no path MTU it sends
    /// whole packets with DF, so that the network has to say what doesn't fit.
    pub fn send(self) -> io::Result<Answer> {
        let socket = errors::connected(Type::DGRAM, None, None, self.to, self.wait)?;
        match self.ttl {
            Some(ttl) if self.to.is_ipv4() => socket.set_ttl_v4(ttl.into())?,
            Some(ttl) => socket.set_unicast_hops_v6(ttl.into())?,
            None => {}
        }
        let socket = UdpSocket::from(socket);
        let started = Instant::now();
        let mut buffer = [0; 2048];
        match socket.send(&vec![b'x'; self.size]).and_then(|_| socket.recv(&mut buffer)) {
            // The socket is connected, so it hears nobody else.
            Ok(_) => Ok(Answer::Reply { from: self.to.ip(), ttl: None, took: started.elapsed() }),
            Err(e) => errors::answer(&socket, e),
        }
    }
}

/// Asks a [`service`] whom it sees, a second time if the first question is lost.
pub fn ask(from_port: Option<u16>, to: SocketAddr) -> Asked {
    ask_within(from_port, to, PATIENCE)
}

/// As [`ask`], with a limit to the patience.
pub fn ask_within(from_port: Option<u16>, to: SocketAddr, wait: Duration) -> Asked {
    let socket = UdpSocket::from(errors::connected(Type::DGRAM, None, from_port, to, wait / 2)?);
    let mut buffer = [0; 128];
    let mut last = Answer::Silence;
    for _ in 0..2 {
        let started = Instant::now();
        match socket.send(service::WHO).and_then(|_| socket.recv(&mut buffer)) {
            Ok(n) => {
                let took = started.elapsed();
                let (by, seen) = service::read_who(&buffer[..n])?;
                return Ok(Exchange { local: socket.local_addr()?, by, seen, took });
            }
            Err(e) => last = errors::answer(&socket, e)?,
        }
    }
    Err(Failure::Answer(last))
}
