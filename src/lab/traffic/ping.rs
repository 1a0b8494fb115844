//! Echo requests over raw sockets, which need no `ping_group_range`.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use socket2::{Protocol, Socket, Type};
use tidegate_packet::{checksum, icmp, icmpv6};

use super::{Answer, PATIENCE, errors};

/// Every pinger of this process has its own identifier.
static NEXT_ID: AtomicU16 = AtomicU16::new(1);

/// Sends echo requests until one is answered, but not for longer than [`PATIENCE`].
pub fn ping(to: IpAddr) -> io::Result<Answer> {
    let end = Instant::now() + PATIENCE;
    let mut pinger = Pinger::new(to)?;
    loop {
        let answer = pinger.once(PATIENCE / 3)?;
        if answer != Answer::Silence || Instant::now() >= end {
            return Ok(answer);
        }
    }
}

/// Echo requests to one address.
#[derive(Debug)]
pub struct Pinger {
    socket: Socket,
    to: IpAddr,
    id: u16,
    seq: u16,
}

impl Pinger {
    /// A raw socket in the calling thread's namespace.
    pub fn new(to: IpAddr) -> io::Result<Self> {
        let protocol = if to.is_ipv4() { Protocol::ICMPV4 } else { Protocol::ICMPV6 };
        let to_any_port = SocketAddr::new(to, 0);
        let socket = errors::connected(Type::RAW, Some(protocol), None, to_any_port, PATIENCE)?;
        let id = (std::process::id() as u16) ^ NEXT_ID.fetch_add(1, Ordering::Relaxed).swap_bytes();
        Ok(Self { socket, to, id, seq: 0 })
    }

    /// Sends one request and waits for its answer.
    pub fn once(&mut self, wait: Duration) -> io::Result<Answer> {
        self.seq = self.seq.wrapping_add(1);
        let started = Instant::now();
        (&self.socket).write_all(&self.request())?;
        let mut buffer = [0; 2048];
        loop {
            let left = wait.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Ok(Answer::Silence);
            }
            self.socket.set_read_timeout(Some(left))?;
            match (&self.socket).read(&mut buffer) {
                Ok(n) => {
                    if let Some(ttl) = self.reply(&buffer[..n]) {
                        return Ok(Answer::Reply { from: self.to, ttl, took: started.elapsed() });
                    }
                }
                Err(e) => return errors::answer(&self.socket, e),
            }
        }
    }

    fn request(&self) -> Vec<u8> {
        let kind = if self.to.is_ipv4() { icmp::ECHO_REQUEST } else { icmpv6::ECHO_REQUEST };
        let mut message = vec![kind, 0, 0, 0];
        message.extend(self.id.to_be_bytes());
        message.extend(self.seq.to_be_bytes());
        message.extend([b't'; 56]);
        // The kernel writes the checksum of ICMPv6 itself (RFC 3542, 3.1).
        if self.to.is_ipv4() {
            let sum = checksum::of(&message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        message
    }

    /// The TTL (known of IPv4 only) if `packet` is the answer to the last request.
    fn reply(&self, packet: &[u8]) -> Option<Option<u8>> {
        let (ttl, message, kind) = if self.to.is_ipv4() {
            let header = tidegate_packet::ipv4::Header::new_checked(packet)?;
            (Some(header.ttl()), packet.get(header.header_len()..)?, icmp::ECHO_REPLY)
        } else {
            (None, packet, icmpv6::ECHO_REPLY)
        };
        let (id, seq) = (self.id.to_be_bytes(), self.seq.to_be_bytes());
        let ours =
            message.get(..8)? == [kind, 0, message[2], message[3], id[0], id[1], seq[0], seq[1]];
        ours.then_some(ttl)
    }
}
