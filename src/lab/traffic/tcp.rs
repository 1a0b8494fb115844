//! Questions over TCP.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use super::{Answer, Asked, Exchange, Failure, PATIENCE, errors, service};

/// A connection, or what the network answered to the attempt.
pub fn connect(
    from_port: Option<u16>,
    to: SocketAddr,
    wait: Duration,
) -> Result<TcpStream, Failure> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    errors::keep_errors(&socket, to.is_ipv4())?;
    if let Some(port) = from_port {
        errors::bind_port(&socket, port, to)?;
    }
    match socket.connect_timeout(&SockAddr::from(to), wait) {
        Ok(()) => {
            let stream = TcpStream::from(socket);
            stream.set_read_timeout(Some(wait))?;
            stream.set_write_timeout(Some(wait))?;
            stream.set_nodelay(true)?;
            Ok(stream)
        }
        Err(e) => Err(Failure::Answer(errors::answer(&socket, e)?)),
    }
}

/// Says how an attempt to connect is answered.
pub fn knock(to: SocketAddr, wait: Duration) -> io::Result<Answer> {
    let started = Instant::now();
    match connect(None, to, wait) {
        Ok(_) => Ok(Answer::Reply { from: to.ip(), ttl: None, took: started.elapsed() }),
        Err(Failure::Answer(answer)) => Ok(answer),
        Err(Failure::Io(e)) => Err(e),
    }
}

/// Connects and asks a [`service`] whom it sees.
pub fn ask(from_port: Option<u16>, to: SocketAddr) -> Asked {
    let mut stream = connect(from_port, to, PATIENCE)?;
    let started = Instant::now();
    let mut buffer = [0; 128];
    stream.write_all(service::WHO)?;
    let n = stream.read(&mut buffer)?;
    let took = started.elapsed();
    let (by, seen) = service::read_who(&buffer[..n])?;
    Ok(Exchange { local: stream.local_addr()?, by, seen, took })
}

/// Times of request and response over one connection.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Latency {
    /// Half of them took no longer.
    pub p50: Duration,
    /// 99 of 100 took no longer.
    pub p99: Duration,
}

impl Latency {
    /// Sorts the samples; `None` without any.
    pub fn of(mut samples: Vec<Duration>) -> Option<Self> {
        samples.sort_unstable();
        let at = |percent: usize| {
            let index = (samples.len() * percent).div_ceil(100).saturating_sub(1);
            samples.get(index).copied()
        };
        Some(Self { p50: at(50)?, p99: at(99)? })
    }
}

/// Sends one byte and waits for its echo, `rounds` times.
pub fn latency(to: SocketAddr, rounds: usize) -> Result<Latency, Failure> {
    let mut stream = connect(None, to, PATIENCE)?;
    let mut samples = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let started = Instant::now();
        let mut byte = [b'x'];
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)?;
        samples.push(started.elapsed());
    }
    Latency::of(samples).ok_or_else(|| Failure::Io(io::ErrorKind::InvalidInput.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles() {
        let ms = Duration::from_millis;
        let of = |n: u64| Latency::of((1..=n).rev().map(ms).collect());
        for (n, p50, p99) in [(1, 1, 1), (2, 1, 2), (100, 50, 99), (200, 100, 198)] {
            assert_eq!(of(n), Some(Latency { p50: ms(p50), p99: ms(p99) }), "{n}");
        }
        assert_eq!(of(0), None);
    }
}
