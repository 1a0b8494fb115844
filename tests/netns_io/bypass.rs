//! Flows that the kernel forwards by our order, between real sockets.

use crate::Topology;
use crate::devices::packet;
use crate::netns::{Namespace, PATIENCE, may_skip, wait_for};
use crate::traffic::transfer;
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use tidegate::io::af_packet::PacketReceive;
use tidegate::io::bypass::{Bypass, Flow, Forwarder, Way};
use tidegate::io::transmit::PacketTransmit;
use tidegate::io::{Checksum, Frame, Offload, Outgoing, Receive, Transmit, ingress};
use tidegate_nat::lease::{Holder, Report, Windows};
use tidegate_nat::{ConnId, Conntrack, Counters, Manip, Range, Settings, Tuple};
use tidegate_packet::builder::{self, Ip};
use tidegate_packet::checksum::Field;
use tidegate_packet::{Addr, Family, Instant, MacAddr, Parsed, ethernet, ipv4, protocol};

const NOW: Instant = Instant::from_secs(100);

/// The client thinks that the server is on its link, and the server that the gateway's outside address
/// is.
struct Sides {
    net: Topology,
    bypass: Arc<Bypass>,
    devices: [(PacketReceive, PacketTransmit); 2],
    holds: Vec<ingress::Hold>,
    indices: [u32; 2],
    /// The gateway's interfaces and the hosts behind them.
    macs: [[MacAddr; 2]; 2],
}

/// Client, server, and the gateway's address outside.
const ADDRESSES: [[&str; 3]; 2] =
    [["10.4.0.1", "10.4.1.2", "10.4.1.1"], ["fd00:4::1", "fd00:4:1::2", "fd00:4:1::1"]];

impl Sides {
    /// `None` where programs can't be loaded.
    fn new(name: &str) -> Option<Self> {
        let bypass = match Bypass::open(NOW) {
            Ok(bypass) => bypass,
            Err(error) => {
                assert!(may_skip(), "{error}");
                eprintln!("SKIPPED: {name}: {error}");
                return None;
            }
        };
        bypass.set_generation(1);
        let net = Topology::new();
        for [client, server, outside] in ADDRESSES {
            let len = if client.contains(':') { 32 } else { 16 };
            net.client.address("c0", &format!("{client}/{len}"));
            net.server.address("s0", &format!("{server}/{len}"));
            neighbour(&net.client, "c0", server, mac(&net.gateway, "lan0"));
            neighbour(&net.server, "s0", outside, mac(&net.gateway, "wan0"));
        }
        let names = ["lan0", "wan0"];
        let devices = names.map(|name| packet(&net.gateway, name));
        let indices = names.map(|name| net.gateway.index(name));
        // Both ways of attaching it.
        let methods = [ingress::Method::Best, ingress::Method::Clsact];
        let holds = indices.into_iter().zip(methods).map(|(index, method)| {
            let program = Some(bypass.program());
            net.gateway.run(|| ingress::hold(index, method, program)).expect("tc ingress")
        });
        let holds = holds.collect();
        for (receive, _) in &devices {
            bypass.watch(receive.fd().expect("a socket")).expect("its filter");
        }
        let macs = [
            [mac(&net.gateway, "lan0"), mac(&net.client, "c0")],
            [mac(&net.gateway, "wan0"), mac(&net.server, "s0")],
        ];
        Some(Self { net, bypass, devices, holds, indices, macs })
    }

    fn header(&self, side: usize, family: Family) -> [u8; ethernet::HEADER_LEN] {
        let [own, far] = self.macs[side];
        let mut header = [0; ethernet::HEADER_LEN];
        let v4 = family == Family::V4;
        let ethertype = if v4 { ethernet::IPV4 } else { ethernet::IPV6 };
        ethernet::write(&mut header, far, own, ethertype);
        header
    }

    /// A flow from the client's side to the server's.
    fn flow(&self, tuples: [Tuple; 2], windows: Option<Windows>) -> Flow {
        let family = if tuples[0].src.is_v4() { Family::V4 } else { Family::V6 };
        let ways = [0, 1].map(|direction| {
            let other = 1 - direction;
            Some(Way {
                tuple: tuples[direction],
                input: self.indices[direction],
                to: self.macs[direction][0],
                rewritten: tuples[other].inverse().expect("TCP or UDP"),
                egress: self.indices[other],
                header: self.header(other, family),
                mtu: 1500,
            })
        });
        let until = NOW + Duration::from_secs(100_000);
        Flow { family, ways, windows, checksum: true, generation: 1, until }
    }
}

fn mac(namespace: &Namespace, name: &str) -> MacAddr {
    namespace.netlink().require_link(name).expect("the link").mac.expect("its address")
}

fn neighbour(namespace: &Namespace, name: &str, address: &str, mac: MacAddr) {
    let address = address.parse().expect("an address");
    let index = namespace.index(name);
    namespace.netlink().add_neighbour(index, address, mac).expect("a neighbour");
}

fn addr(text: &str) -> Addr {
    text.parse().expect("an address")
}

fn udp_socket(namespace: &Namespace, address: &str, port: u16) -> UdpSocket {
    let socket =
        wait_for("the address", || namespace.run(|| UdpSocket::bind((address, port))).ok());
    socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    socket
}

/// What arrives, and from where.
fn receive(socket: &UdpSocket) -> (Vec<u8>, String) {
    let mut buffer = [0; 2000];
    let (n, from) = socket.recv_from(&mut buffer).expect("a datagram");
    (buffer[..n].to_vec(), from.to_string())
}

fn is_silent(socket: &UdpSocket) -> bool {
    socket.set_read_timeout(Some(Duration::from_millis(300))).expect("a time-out");
    let silent = match socket.recv(&mut [0; 10]) {
        Ok(_) => false,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    };
    socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    silent
}

pub fn the_kernel_forwards_a_leased_flow() {
    let Some(mut sides) = Sides::new("the_kernel_forwards_a_leased_flow") else { return };
    for [client_address, server_address, outside_address] in ADDRESSES {
        let t = |src: &str, sport, dst: &str, dport| {
            let (src, dst) = (addr(src), addr(dst));
            Tuple { src, dst, sport, dport, protocol: protocol::UDP }
        };
        let out = t(client_address, 4000, server_address, 9);
        let tuples = [out, t(server_address, 9, outside_address, 61_000)];
        let client = udp_socket(&sides.net.client, client_address, 4000);
        let server = udp_socket(&sides.net.server, server_address, 9);
        let number = sides.bypass.lease(&sides.flow(tuples, None)).expect("room");
        // The sender's kernel leaves the checksum to the device.
        for text in [&b"hello"[..], b"", &[7; 1400]] {
            client.send_to(text, (server_address, 9)).expect("sending");
            let (got, from) = receive(&server);
            assert_eq!((&got[..], from), (text, endpoint(outside_address, 61_000)));
            server.send_to(&got, (outside_address, 61_000)).expect("sending");
            let (got, from) = receive(&client);
            assert_eq!((&got[..], from), (text, endpoint(server_address, 9)));
        }
        let counted = sides.bypass.report(number, false).counted;
        assert_eq!(counted.map(|c| c.packets), [3, 3]);
        finished_frames(&mut sides, out, &server, number);
        sides.bypass.report(number, true);
        client.send_to(b"and now?", (server_address, 9)).expect("sending");
        assert!(is_silent(&server), "forwarded without a lease");
        assert!(came_up(&mut sides, 0, b"and now?"), "nobody has it");
    }
}

fn endpoint(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

/// Frames whose sender has computed their checksums, or has tried to.
fn finished_frames(sides: &mut Sides, tuple: Tuple, server: &UdpSocket, number: u32) {
    let Tuple { src, dst, sport, dport, .. } = tuple;
    let (_, mut client) = packet(&sides.net.client, "c0");
    let [own, far] = sides.macs[0];
    let mut frame = |payload: &[u8], padding: usize, change: fn(&mut Vec<u8>)| {
        let packet = builder::udp(Ip::new(src, dst, protocol::UDP), sport, dport, payload);
        let mut frame = vec![0; ethernet::HEADER_LEN];
        let ethertype = if src.is_v4() { ethernet::IPV4 } else { ethernet::IPV6 };
        ethernet::write(&mut frame, own, far, ethertype);
        frame.extend_from_slice(&packet);
        frame.resize(frame.len() + padding, 0);
        change(&mut frame);
        let offload = Offload { checksum: Checksum::Unverified, gso: None };
        let outgoing = Outgoing { bytes: &frame, offload };
        assert_eq!(client.send(&mut std::iter::once(outgoing)).expect("sending").frames, 1);
    };
    for (payload, padding) in [(&b"x"[..], 17), (b"", 18), (&[3; 1111], 0), (&[0xff; 1400], 0)] {
        frame(payload, padding, |_| {});
        assert_eq!(receive(server).0, payload);
    }
    assert_eq!(sides.bypass.report(number, false).counted[0].packets, 4);
    frame(b"wrong sum", 0, |frame| *frame.last_mut().expect("a byte") ^= 1);
    frame(b"a tag", 0, |frame| {
        frame.splice(12..12, [0x81, 0, 0, 5]);
    });
    assert!(came_up(sides, 0, b"a tag"), "a tagged frame is for the socket");
    assert_eq!(sides.bypass.report(number, false).counted, [Counters::default(); 2]);
    assert!(is_silent(server));
}

/// Whether a frame that ends so comes to the gateway's socket.
fn came_up(sides: &mut Sides, side: usize, end: &[u8]) -> bool {
    let device = &mut sides.devices[side].0;
    wait_for("a frame", || {
        let n = device.receive().expect("receiving");
        let found = (0..n).any(|i| device.frame(i).bytes().ends_with(end));
        device.release();
        found.then_some(true)
    })
}

pub fn without_sockets_nothing_is_forwarded() {
    let Some(mut sides) = Sides::new("without_sockets_nothing_is_forwarded") else { return };
    let [client_address, server_address, outside_address] = ADDRESSES[0];
    let (client, server, outside) =
        (addr(client_address), addr(server_address), addr(outside_address));
    let out = Tuple { src: client, dst: server, sport: 4000, dport: 9, protocol: protocol::UDP };
    let back = Tuple { src: server, dst: outside, sport: 9, dport: 4000, ..out };
    let number = sides.bypass.lease(&sides.flow([out, back], None)).expect("room");
    let client = udp_socket(&sides.net.client, client_address, 4000);
    let server = udp_socket(&sides.net.server, server_address, 9);
    let send = || client.send_to(b"hello", (server_address, 9)).expect("sending");
    send();
    assert_eq!(receive(&server).0, b"hello");
    let [lan, wan] = sides.devices;
    drop(wan);
    send();
    assert_eq!(receive(&server).0, b"hello", "the other socket isn't asked");
    drop(lan);
    for _ in 0..3 {
        send();
    }
    assert!(is_silent(&server), "forwarded though nobody has decided");
    assert_eq!(sides.bypass.report(number, true).counted[0].packets, 2);
    sides.holds.clear();
}

/// The table's holder.
#[derive(Debug)]
struct Lessee(Arc<Bypass>);

impl Holder for Lessee {
    fn report(&self, number: u32, end: bool) -> Report {
        self.0.report(number, end)
    }

    fn pause(&self, number: u32) -> Report {
        self.0.pause(number)
    }

    fn resume(&self, number: u32, windows: Option<Windows>) {
        Forwarder::resume(&*self.0, number, windows);
    }
}

/// A gateway that translates the client's address and leases whatever it can.
struct Masquerade {
    sides: Sides,
    table: Conntrack,
    seed: u32,
    /// Packets and bytes that it had to send itself.
    own: Counters,
    leases: usize,
}

impl Masquerade {
    fn new(sides: Sides) -> Self {
        let settings = Settings { acct: true, ..Settings::default() };
        let mut table = Conntrack::new(settings, [1, 2]);
        table.set_holder(Arc::new(Lessee(sides.bypass.clone())));
        Self { sides, table, seed: 1, own: Counters::default(), leases: 0 }
    }

    fn run(mut self, stop: &AtomicBool) -> Self {
        while !stop.load(Ordering::Relaxed) {
            let taken: usize = [0, 1].map(|side| self.take(side)).iter().sum();
            if taken == 0 {
                thread::sleep(Duration::from_micros(50));
            }
        }
        self
    }

    /// What one side has sent leaves by the other.
    fn take(&mut self, side: usize) -> usize {
        let Self { sides, table, seed, own, .. } = self;
        let headers = [Family::V4, Family::V6].map(|family| sides.header(1 - side, family));
        let [lan, wan] = &mut sides.devices;
        let (from, to) = if side == 0 { (lan, wan) } else { (wan, lan) };
        let n = from.0.receive().expect("receiving");
        let mut established = Vec::new();
        let mut going = Vec::new();
        for i in 0..n {
            let mut frame = from.0.frame(i);
            let header = headers[usize::from(frame.bytes().get(12) == Some(&0x86))];
            let Some(id) = pass(table, seed, &mut frame) else { continue };
            let len = frame.bytes().len() as u64 - 14;
            frame.bytes_mut()[..14].copy_from_slice(&header);
            *own = Counters { packets: own.packets + 1, bytes: own.bytes + len };
            established.extend(id);
            going.push(i);
        }
        to.1.send(&mut going.iter().map(|&i| from.0.sent(i))).expect("sending");
        from.0.release();
        established.dedup();
        established.into_iter().for_each(|id| self.lease(id));
        n
    }

    fn lease(&mut self, id: ConnId) {
        let Some(terms) = self.table.terms(id) else { return };
        let flow = self.sides.flow(terms.tuples, terms.windows);
        if let Some(number) = self.sides.bypass.lease(&flow) {
            self.table.lease(id, number, terms.paths);
            self.leases += 1;
        }
    }
}

/// Tracks, translates and counts down. `None`: it isn't sent on. The connection, if it is known.
fn pass(table: &mut Conntrack, seed: &mut u32, frame: &mut Frame<'_>) -> Option<Option<ConnId>> {
    let partial = matches!(frame.meta.offload.checksum, Checksum::Partial { .. });
    let field = if partial { Field::Partial } else { Field::Complete };
    let bytes = frame.bytes_mut().get_mut(14..)?;
    let mut packet = Parsed::parse(bytes).ok()?;
    if packet.protocol != protocol::TCP {
        return None;
    }
    let mut tracked = table.track(&packet, bytes, false, NOW);
    let outside = addr(if packet.src.is_v4() { ADDRESSES[0][2] } else { ADDRESSES[1][2] });
    let range = Range { addrs: Some((outside, outside)), ..Range::default() };
    let mut random = || {
        *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *seed >> 8
    };
    for (manip, range) in [(Manip::Destination, None), (Manip::Source, Some(&range))] {
        table.set_nat(&mut tracked, manip, range, NOW, &mut random).ok()?;
        table.translate(&tracked, manip, &mut packet, bytes, field).ok()?;
    }
    match packet.src.is_v4() {
        true => ipv4::decrement_ttl(bytes),
        false => bytes[7] -= 1,
    }
    table.confirm(&mut tracked, NOW).ok()?;
    Some(tracked.id())
}

/// Connections are opened and closed by the gateway; their data go by the bypass, translated.
pub fn bulk_bypasses_the_gateway() {
    let Some(sides) = Sides::new("bulk_bypasses_the_gateway") else { return };
    let stop = AtomicBool::new(false);
    let gateway = Masquerade::new(sides);
    // The namespaces stay with the gateway; the transfer needs names for them.
    let (client, server) = (gateway.sides.net.client.again(), gateway.sides.net.server.again());
    let mut gateway = thread::scope(|scope| {
        let running = scope.spawn(|| gateway.run(&stop));
        for [_, server_address, _] in ADDRESSES {
            transfer(&client, &server, server_address);
        }
        stop.store(true, Ordering::Relaxed);
        running.join().expect("the gateway")
    });
    assert!(gateway.leases >= 2, "{}", gateway.leases);
    gateway.table.settle_leases(|_| true);
    let counted = gateway.table.iter().filter_map(|(_, connection)| connection.counted());
    let bytes: u64 = counted.flatten().map(|counters| counters.bytes).sum();
    // Sixteen megabytes by each family.
    assert!(bytes > 32 << 20, "{bytes}");
    assert!(gateway.own.bytes < bytes / 4, "{:?} of {bytes}", gateway.own);
}
