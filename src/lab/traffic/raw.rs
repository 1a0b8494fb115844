//! Packets that no ordinary socket would send.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tidegate_packet::builder::{self, Ip};
use tidegate_packet::{Addr, protocol, tcp};

use super::{Answer, errors};

/// From RFC 3692: for experiments.
pub const EXPERIMENTAL: u8 = 253;

/// Sends an IPv4 packet as it stands, header and all.
pub fn send_v4(packet: &[u8]) -> io::Result<()> {
    let header =
        tidegate_packet::ipv4::Header::new_checked(packet).ok_or(io::ErrorKind::InvalidInput)?;
    let dst = Ipv4Addr::from(header.dst().v4_bytes());
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
    socket.send_to(packet, &SockAddr::from(SocketAddrV4::new(dst, 0)))?;
    Ok(())
}

/// Sends a packet of protocol [`EXPERIMENTAL`] and says what comes back.
pub fn unknown_protocol(to: std::net::IpAddr, wait: Duration) -> io::Result<Answer> {
    let kind = Some(Protocol::from(i32::from(EXPERIMENTAL)));
    let to = SocketAddr::new(to, 0);
    let socket = errors::connected(Type::RAW, kind, None, to, wait)?;
    let started = Instant::now();
    // REJECT stays silent about a payload whose Internet checksum is wrong, whatever the
    // protocol; that of ff ff and zeros is right. The sender's kernel wants to see eight bytes of
    // payload in an error (icmp_socket_deliver).
    let answered = (&socket).write_all(&[0xff, 0xff, 0, 0, 0, 0, 0, 0]).and_then(|()| {
        let mut buffer = [0; 2048];
        (&socket).read(&mut buffer)
    });
    match answered {
        Ok(_) => Ok(Answer::Reply { from: to.ip(), ttl: None, took: started.elapsed() }),
        Err(e) => errors::answer(&socket, e),
    }
}

/// Sends a lone TCP segment with these flags and says what comes back; the sender's own kernel
/// knows nothing of it.
pub fn segment(
    from: SocketAddrV4,
    to: SocketAddrV4,
    flags: u8,
    wait: Duration,
) -> io::Result<Answer> {
    let kind = Some(Protocol::TCP);
    let socket =
        errors::connected(Type::RAW, kind, None, SocketAddrV4::new(*to.ip(), 0).into(), wait)?;
    let header = Ip::new(Addr::from(*from.ip()), Addr::from(*to.ip()), protocol::TCP);
    let fields = builder::Tcp {
        sport: from.port(),
        dport: to.port(),
        seq: 1000,
        ack: if flags & tcp::ACK != 0 { 2000 } else { 0 },
        flags,
        window: 1024,
        options: &[],
    };
    let started = Instant::now();
    send_v4(&builder::tcp(header, fields, &[]))?;
    let mut buffer = [0; 2048];
    loop {
        let left = wait.saturating_sub(started.elapsed());
        if left.is_zero() {
            return Ok(Answer::Silence);
        }
        socket.set_read_timeout(Some(left))?;
        let n = match (&socket).read(&mut buffer) {
            Ok(n) => n,
            Err(e) => return errors::answer(&socket, e),
        };
        let Some(flags) = answer_flags(&buffer[..n], from.port(), to.port()) else { continue };
        if flags & tcp::RST != 0 {
            return Ok(Answer::Reset);
        }
        return Ok(Answer::Reply { from: (*to.ip()).into(), ttl: None, took: started.elapsed() });
    }
}

/// The flags of a segment that comes from port `theirs` to port `ours`.
fn answer_flags(packet: &[u8], ours: u16, theirs: u16) -> Option<u8> {
    let ip = tidegate_packet::ipv4::Header::new_checked(packet)?;
    let header = tcp::Header::new_checked(packet.get(ip.header_len()..)?)?;
    ((header.sport(), header.dport()) == (theirs, ours)).then(|| header.flags())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_answers_to_the_question_count() {
        let (a, b) = ("192.0.2.66", "203.0.113.1");
        let address = |text: &str| text.parse::<Addr>().expect("an address");
        let header = Ip::new(address(b), address(a), protocol::TCP);
        let fields =
            builder::Tcp { sport: 81, dport: 40000, flags: tcp::RST, ..Default::default() };
        let packet = builder::tcp(header, fields, &[]);
        assert_eq!(answer_flags(&packet, 40000, 81), Some(tcp::RST));
        assert_eq!(answer_flags(&packet, 40001, 81), None);
        assert_eq!(answer_flags(&packet[..30], 40000, 81), None);
    }
}
