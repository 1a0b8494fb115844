//! Something to talk to: a server on TCP and UDP that says who asks.
//!
//! `who` is answered with the server's name and the asker's address as it sees it, an HTTP request with a
//! page that says the same, anything else with itself.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use super::super::netns::Netns;

/// The question that is answered with names.
pub const WHO: &[u8] = b"who\n";

/// How often a waiting thread looks whether it is to end.
const LOOK_UP: Duration = Duration::from_millis(100);

/// A silent connection is closed after this time.
const IDLE: Duration = Duration::from_secs(60);

/// Servers on one port, TCP and UDP, IPv4 and IPv6. They end when this is dropped.
#[derive(Debug)]
pub struct Service {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Service {
    /// Starts servers on `port` of a host that introduces itself as `name`.
    pub fn start(host: &Netns, name: &str, port: u16) -> io::Result<Self> {
        let mut service = Self { stop: Arc::default(), threads: Vec::new() };
        for any in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
            let address = SocketAddr::new(any, port);
            let (tcp, udp) = host.run(|| {
                io::Result::Ok((bind(Type::STREAM, address)?, bind(Type::DGRAM, address)?))
            })?;
            tcp.listen(128)?;
            let (stop, me) = (Arc::clone(&service.stop), name.to_owned());
            let listener = TcpListener::from(tcp);
            service.threads.push(thread::spawn(move || accept(&listener, &me, &stop)));
            let (stop, me) = (Arc::clone(&service.stop), name.to_owned());
            let socket = UdpSocket::from(udp);
            service.threads.push(thread::spawn(move || answer_datagrams(&socket, &me, &stop)));
        }
        Ok(service)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn bind(kind: Type, address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    // Bounds accept() too.
    socket.set_read_timeout(Some(LOOK_UP))?;
    socket.bind(&SockAddr::from(address))?;
    Ok(socket)
}

fn accept(listener: &TcpListener, name: &str, stop: &Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let Ok((stream, peer)) = listener.accept() else { continue };
        let (name, stop) = (name.to_owned(), Arc::clone(stop));
        thread::spawn(move || converse(stream, peer, &name, &stop));
    }
}

/// Answers until the asker closes, fails, or has been silent for [`IDLE`].
fn converse(mut stream: TcpStream, peer: SocketAddr, name: &str, stop: &AtomicBool) {
    let mut buffer = vec![0; 1 << 16];
    let mut silent = Duration::ZERO;
    if stream.set_nodelay(true).and(stream.set_read_timeout(Some(LOOK_UP))).is_err() {
        return;
    }
    while silent < IDLE && !stop.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(n) => {
                silent = Duration::ZERO;
                let page = http(&buffer[..n], peer, name);
                let sent = match &page {
                    Some(page) => stream.write_all(page.as_bytes()),
                    None => stream.write_all(&answer(&buffer[..n], peer, name)),
                };
                if page.is_some() || sent.is_err() {
                    return;
                }
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                silent += LOOK_UP;
            }
            Err(_) => return,
        }
    }
}

fn answer_datagrams(socket: &UdpSocket, name: &str, stop: &AtomicBool) {
    let mut buffer = vec![0; 1 << 16];
    while !stop.load(Ordering::Relaxed) {
        // An error is one that an earlier answer met.
        if let Ok((n, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&answer(&buffer[..n], peer, name), peer);
        }
    }
}

fn answer(question: &[u8], peer: SocketAddr, name: &str) -> Vec<u8> {
    if question == WHO { format!("{name} {peer}\n").into_bytes() } else { question.to_vec() }
}

fn http(request: &[u8], peer: SocketAddr, name: &str) -> Option<String> {
    request.starts_with(b"GET ").then(|| {
        let body = format!("This is {name}. You are {peer}.\n");
        format!(
            "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    })
}

/// Reads the answer to [`WHO`]: the server's name and the address that it saw.
pub fn read_who(answer: &[u8]) -> io::Result<(String, SocketAddr)> {
    let text = String::from_utf8_lossy(answer);
    text.trim_end()
        .split_once(' ')
        .and_then(|(name, peer)| Some((name.to_owned(), peer.parse().ok()?)))
        .ok_or_else(|| {
            let text = format!("unexpected answer {:?}", text.trim_end());
            io::Error::new(ErrorKind::InvalidData, text)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let peer: SocketAddr = "203.0.113.1:40000".parse().expect("an address");
        assert_eq!(answer(WHO, peer, "web"), b"web 203.0.113.1:40000\n");
        assert_eq!(answer(b"anything", peer, "web"), b"anything");
        let read = read_who(&answer(WHO, peer, "web")).expect("a name and an address");
        assert_eq!(read, ("web".to_owned(), peer));
        assert!(read_who(b"who\n").is_err());
        assert!(read_who(b"web nobody\n").is_err());
        let page = http(b"GET / HTTP/1.1\r\n\r\n", peer, "web").expect("a page");
        let body = "This is web. You are 203.0.113.1:40000.\n";
        let end = format!("Content-Length: {}\r\n\r\n{body}", body.len());
        assert!(page.ends_with(&end), "{page}");
        assert_eq!(http(b"who\n", peer, "web"), None);
    }
}
