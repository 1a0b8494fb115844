//! Real sockets at both ends.

use crate::Topology;
use crate::devices::{boxed, packet};
use crate::netns::{Device, Namespace, PATIENCE, Plumb, collect, may_skip};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;
use tidegate::io::{Checksum, Receive, ingress, tap};

pub fn local_checksums_are_partial() {
    let net = Topology::new();
    net.client.address("c0", "10.1.0.1/24");
    let (mut lan, _) = packet(&net.gateway, "lan0");
    let index = net.client.index("c0");
    let neighbour = "10.1.0.2".parse().expect("an address");
    net.client.netlink().add_neighbour(index, neighbour, net.lan.far_mac).expect("a neighbour");
    let socket = net.client.run(|| UdpSocket::bind("10.1.0.1:7").expect("a socket"));
    socket.send_to(b"payload", "10.1.0.2:9").expect("sending");
    let is_udp = |bytes: &[u8]| bytes.get(23) == Some(&17);
    let (bytes, meta) = collect(&mut lan, 1, is_udp).remove(0);
    assert_eq!(meta.offload.checksum, Checksum::Partial { start: 34, offset: 6 });
    // The field holds the sum over the pseudo header (RFC 768), not yet inverted.
    let words = [0x0a01, 0x0001, 0x0a01, 0x0002, 17, 8 + 7_u32];
    let sum = words.iter().sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    assert_eq!(u32::from(u16::from_be_bytes([bytes[40], bytes[41]])), folded);
}

pub fn tcp_over_packet_sockets() {
    let net = Topology::new();
    let lan = boxed(packet(&net.gateway, "lan0"));
    let wan = boxed(packet(&net.gateway, "wan0"));
    tcp_both_families((&net.client, "c0"), (&net.server, "s0"), lan, wan);
}

pub fn tcp_over_taps() {
    let (client, server) = (Namespace::new(), Namespace::new());
    let (a, b) = (open_tap(&client), open_tap(&server));
    tcp_both_families((&client, "tap0"), (&server, "tap0"), a, b);
}

pub fn tcp_from_packet_socket_to_tap() {
    let net = Topology::new();
    let server = Namespace::new();
    let (lan, tap) = (boxed(packet(&net.gateway, "lan0")), open_tap(&server));
    tcp_both_families((&net.client, "c0"), (&server, "tap0"), lan, tap);
}

fn open_tap(namespace: &Namespace) -> Device {
    let tap = namespace.run(|| tap::open("tap0", tap::Options::default()).expect("a TAP"));
    namespace.netlink().set_up(namespace.index("tap0"), true).expect("up");
    boxed(tap)
}

/// Transfers in both directions over IPv4 and IPv6 arrive whole, in super-packets.
fn tcp_both_families(client: (&Namespace, &str), server: (&Namespace, &str), a: Device, b: Device) {
    for ((namespace, name), host) in [(client, 1), (server, 2)] {
        namespace.address(name, &format!("10.2.0.{host}/24"));
        namespace.address(name, &format!("fd00:2::{host}/64"));
    }
    let plumb = Plumb::new(a, b);
    for address in ["10.2.0.2", "fd00:2::2"] {
        let before = plumb.supers();
        transfer(client.0, server.0, address);
        assert!(plumb.supers() > before + 20, "no super-packets towards {address}");
    }
    assert_eq!(plumb.refused(), 0);
}

/// Eight megabytes there, and the same back.
pub fn transfer(client: &Namespace, server: &Namespace, address: &str) {
    const LEN: usize = 8 << 20;
    let mut seed = 1_u32;
    let data: Vec<u8> = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 24) as u8
    })
    .take(LEN)
    .collect();
    let listener = server.run(|| TcpListener::bind((address, 0)).expect("listening"));
    let port = listener.local_addr().expect("its address").port();
    thread::scope(|scope| {
        let echo = scope.spawn(|| {
            let (mut stream, _) = listener.accept().expect("accepting");
            patient(&stream);
            let mut got = vec![0; LEN];
            stream.read_exact(&mut got).expect("the whole of it");
            stream.write_all(&got).expect("sending it back");
            got
        });
        let mut stream = client.run(|| {
            let to = (address, port);
            let to = std::net::ToSocketAddrs::to_socket_addrs(&to).expect("numbers").next();
            TcpStream::connect_timeout(&to.expect("one"), PATIENCE).expect("connecting")
        });
        patient(&stream);
        stream.write_all(&data).expect("sending");
        let mut back = vec![0; LEN];
        stream.read_exact(&mut back).expect("the whole of it back");
        let there = echo.join().expect("the server");
        assert!(there == data, "what arrived there differs");
        assert!(back == data, "what came back differs");
    });
}

fn patient(stream: &TcpStream) {
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    stream.set_write_timeout(Some(PATIENCE)).expect("a time-out");
}

pub fn the_kernel_is_held_off() {
    let net = Topology::new();
    net.client.address("c0", "10.3.0.1/24");
    net.gateway.address("lan0", "10.3.0.2/24");
    let index = net.gateway.index("lan0");
    let neighbour = "10.3.0.2".parse().expect("an address");
    let client_index = net.client.index("c0");
    net.client.netlink().add_neighbour(client_index, neighbour, net.lan.far_mac).expect("known");
    let (mut lan, _) = packet(&net.gateway, "lan0");
    // A kernel that handles the packet refuses the closed port.
    let answers = |patience| {
        let socket = net.client.run(|| UdpSocket::bind("10.3.0.1:0").expect("a socket"));
        socket.connect("10.3.0.2:9").expect("an address");
        socket.set_read_timeout(Some(patience)).expect("a time-out");
        socket.send(b"anybody?").expect("sending");
        match socket.recv(&mut [0; 10]) {
            Err(e) if e.kind() == ErrorKind::ConnectionRefused => true,
            Err(e) if e.kind() == ErrorKind::WouldBlock => false,
            other => panic!("neither refused nor silent: {other:?}"),
        }
    };
    for (method, kind) in [(ingress::Method::Best, None), (ingress::Method::Clsact, Some("clsact"))]
    {
        assert!(answers(PATIENCE), "the kernel isn't there in the first place");
        let hold = match net.gateway.run(|| ingress::hold(index, method, None)) {
            Ok(hold) => hold,
            // In a user namespace. The daemon says so and goes on.
            Err(error @ ingress::Unavailable::NoBpf(_)) if may_skip() => {
                eprintln!("SKIPPED: the_kernel_is_held_off: {error}");
                return;
            }
            Err(error) => panic!("{error}"),
        };
        assert!(kind.is_none_or(|kind| kind == hold.kind()));
        lan.receive().expect("receiving");
        lan.release();
        assert!(!answers(Duration::from_millis(300)), "{} lets packets through", hold.kind());
        let is_udp = |bytes: &[u8]| bytes.get(23) == Some(&17);
        assert_eq!(collect(&mut lan, 1, is_udp).len(), 1, "{} stands before us", hold.kind());
        drop(hold);
        assert!(answers(PATIENCE), "still held off");
    }
}
