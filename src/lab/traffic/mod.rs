//! Real traffic through real sockets, with a bound on every wait, and what came of it in words.
//!
//! Everything here uses the network namespace of the calling thread: call it inside
//! [`Netns::run`](super::netns::Netns::run).

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

pub mod bulk;
mod errors;
pub mod flood;
pub mod ping;
pub mod raw;
pub mod service;
pub mod tcp;
pub mod udp;

/// Long enough for any answer that will come, on a machine that has much else to do.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Long enough to be sure of silence, and shorter than a SYN's first retransmission.
pub const SILENCE: Duration = Duration::from_millis(600);

/// What an attempt was answered with.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A reply.
    Reply {
        /// Who sent it.
        from: IpAddr,
        /// Time to live as it arrived, where it was looked at.
        ttl: Option<u8>,
        /// Time from question to answer.
        took: Duration,
    },
    /// A TCP reset.
    Reset,
    /// An ICMP error.
    Error(IcmpError),
    /// Nothing at all.
    Silence,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reply { from, ttl: None, .. } => write!(f, "reply from {from}"),
            Self::Reply { from, ttl: Some(ttl), .. } => write!(f, "reply from {from}, TTL {ttl}"),
            Self::Reset => f.write_str("reset"),
            Self::Error(error) => error.fmt(f),
            Self::Silence => f.write_str("no answer"),
        }
    }
}

/// An ICMP error as the socket that it was meant for saw it.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// Who sent it; its family decides what the numbers mean.
    pub from: IpAddr,
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// The MTU that it names, of those kinds that do.
    pub mtu: Option<u32>,
}

impl fmt::Display for IcmpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, kind, code, mtu } = *self;
        let name = match (from.is_ipv4(), kind, code) {
            (true, 3, 0) => "net unreachable",
            (true, 3, 1) => "host unreachable",
            (true, 3, 2) => "protocol unreachable",
            (true, 3, 3) | (false, 1, 4) => "port unreachable",
            (true, 3, 4) => "frag needed",
            (true, 3, 9) => "net prohibited",
            (true, 3, 10) => "host prohibited",
            (true, 3, 13) | (false, 1, 1) => "admin prohibited",
            (true, 11, 0) => "TTL exceeded",
            (false, 1, 0) => "no route",
            (false, 1, 3) => "address unreachable",
            (false, 2, _) => "too big",
            (false, 3, 0) => "hop limit exceeded",
            _ => return write!(f, "ICMP {kind}/{code} from {from}"),
        };
        f.write_str(name)?;
        if let Some(mtu) = mtu {
            write!(f, " (MTU {mtu})")?;
        }
        write!(f, " from {from}")
    }
}

/// What both ends of an exchange saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// The asker's own address.
    pub local: SocketAddr,
    /// The host that answered.
    pub by: String,
    /// The address that the other end saw.
    pub seen: SocketAddr,
    /// Time from question to answer, without the time to connect.
    pub took: Duration,
}

impl Exchange {
    /// Whether the other end saw the port that the asker uses.
    pub fn port_kept(&self) -> bool {
        self.local.port() == self.seen.port()
    }
}

impl fmt::Display for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = if self.port_kept() { "port kept" } else { "another port" };
        write!(f, "{} sees {}, {port}", self.by, self.seen.ip())
    }
}

/// An exchange, or what came instead.
pub type Asked = Result<Exchange, Failure>;

/// Why there was no exchange.
#[derive(Debug)]
pub enum Failure {
    /// The network's answer.
    Answer(Answer),
    /// A call failed for another reason.
    Io(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Self::Answer(Answer::Silence),
            io::ErrorKind::ConnectionReset => Self::Answer(Answer::Reset),
            _ => Self::Io(error),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer(answer) => answer.fmt(f),
            Self::Io(error) => error.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_in_words() {
        let v4: IpAddr = "203.0.113.1".parse().expect("an address");
        let v6: IpAddr = "2001:db8::1".parse().expect("an address");
        let error = |from, kind, code, mtu| Answer::Error(IcmpError { from, kind, code, mtu });
        let reply = |ttl| Answer::Reply { from: v4, ttl, took: Duration::ZERO };
        for (answer, want) in [
            (reply(None), "reply from 203.0.113.1"),
            (reply(Some(63)), "reply from 203.0.113.1, TTL 63"),
            (Answer::Reset, "reset"),
            (Answer::Silence, "no answer"),
            (error(v4, 3, 1, None), "host unreachable from 203.0.113.1"),
            (error(v4, 3, 4, Some(1400)), "frag needed (MTU 1400) from 203.0.113.1"),
            (error(v4, 1, 1, None), "ICMP 1/1 from 203.0.113.1"),
            (error(v6, 1, 1, None), "admin prohibited from 2001:db8::1"),
            (error(v6, 2, 0, Some(1280)), "too big (MTU 1280) from 2001:db8::1"),
        ] {
            assert_eq!(answer.to_string(), want);
        }
    }
}
