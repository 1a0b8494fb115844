//! A small world: smoltcp hosts on the ports of a simulated gateway.
//!
//! Frames cross a link in no time, so all that can happen at one moment happens in
//! [`World::settle`]; [`World::run`] moves the clock on from there, step by step.

use crate::faults::Faults;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{icmp, tcp, udp};
use smoltcp::wire::{
    EthernetAddress, HardwareAddress, Icmpv4Packet, Icmpv4Repr, IpAddress, IpCidr, IpEndpoint,
};
use std::collections::VecDeque;
use std::time::Duration;
use tidegate::io::channel::Flying;
use tidegate::sim::{Sim, SimConfig};
use tidegate_packet::MacAddr;

/// The host's end of a link.
#[derive(Default)]
struct Link {
    to_host: VecDeque<Vec<u8>>,
    from_host: VecDeque<Vec<u8>>,
}

struct Received(Vec<u8>);
struct Sending<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut bytes = vec![0; len];
        let result = f(&mut bytes);
        self.0.push_back(bytes);
        result
    }
}

impl Device for Link {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Received, Sending<'_>)> {
        let frame = self.to_host.pop_front()?;
        Some((Received(frame), Sending(&mut self.from_host)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Sending<'_>> {
        Some(Sending(&mut self.from_host))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

/// Which host.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct HostId(usize);

struct Host {
    port: String,
    link: Link,
    interface: Interface,
    sockets: SocketSet<'static>,
    /// What happens to frames on its link.
    faults: Faults,
    /// While unplugged it neither sends nor hears.
    unplugged: bool,
    /// Frames that have reached it, for tests that look at them.
    heard: Vec<Vec<u8>>,
}

/// A gateway and the hosts around it.
pub struct World {
    /// The gateway.
    pub sim: Sim,
    hosts: Vec<Host>,
}

fn moment(sim: &Sim) -> smoltcp::time::Instant {
    smoltcp::time::Instant::from_micros((sim.now().as_nanos() / 1000) as i64)
}

impl World {
    /// A gateway alone.
    pub fn new(config: &SimConfig) -> Self {
        Self { sim: Sim::new(config).expect("a configuration"), hosts: Vec::new() }
    }

    /// Adds a host to a port of the gateway; its default routes lead to the routers named.
    pub fn host(
        &mut self,
        port: &str,
        mac: MacAddr,
        addresses: &[&str],
        routers: &[&str],
    ) -> HostId {
        let mut link = Link::default();
        let hardware = HardwareAddress::Ethernet(EthernetAddress(mac.0));
        let mut config = Config::new(hardware);
        config.random_seed = 0x7469_6465 + self.hosts.len() as u64;
        let mut interface = Interface::new(config, &mut link, moment(&self.sim));
        interface.update_ip_addrs(|list| {
            for address in addresses {
                let cidr: IpCidr = address.parse().expect("an address with its length");
                list.push(cidr).expect("room for an address");
            }
        });
        for router in routers {
            match router.parse().expect("an address") {
                IpAddress::Ipv4(a) => interface.routes_mut().add_default_ipv4_route(a),
                IpAddress::Ipv6(a) => interface.routes_mut().add_default_ipv6_route(a),
            }
            .expect("room for a route");
        }
        self.hosts.push(Host {
            port: port.into(),
            link,
            interface,
            sockets: SocketSet::new(Vec::new()),
            faults: Faults::none(),
            unplugged: false,
            heard: Vec::new(),
        });
        HostId(self.hosts.len() - 1)
    }

    /// Lets faults happen on a host's link, in both directions.
    pub fn set_faults(&mut self, host: HostId, faults: Faults) {
        self.hosts[host.0].faults = faults;
    }

    /// The faults on a host's link.
    pub fn faults(&self, host: HostId) -> &Faults {
        &self.hosts[host.0].faults
    }

    /// Pulls a host's cable, or puts it back.
    pub fn unplug(&mut self, host: HostId, unplugged: bool) {
        self.hosts[host.0].unplugged = unplugged;
    }

    /// The frames that reached a host since the last call.
    pub fn heard(&mut self, host: HostId) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.hosts[host.0].heard)
    }

    /// Sends a frame from a host's link, past its stack.
    pub fn send_raw(&mut self, host: HostId, frame: impl Into<Flying>) {
        let port = self.hosts[host.0].port.clone();
        self.sim.inject(&port, frame).expect("the host's port");
        self.deliver();
    }

    /// Lets everything happen that can happen now.
    pub fn settle(&mut self) {
        for _ in 0..100_000 {
            let moved = self.poll_hosts();
            if !self.deliver() && !moved {
                return;
            }
        }
        panic!("the world doesn't come to rest");
    }

    fn poll_hosts(&mut self) -> bool {
        let now = moment(&self.sim);
        let mut moved = false;
        for n in 0..self.hosts.len() {
            let host = &mut self.hosts[n];
            host.interface.poll(now, &mut host.link, &mut host.sockets);
            let sent: Vec<_> = host.link.from_host.drain(..).collect();
            moved |= !sent.is_empty();
            let passed = if host.unplugged { Vec::new() } else { host.faults.pass(sent) };
            let port = host.port.clone();
            for frame in passed {
                self.sim.inject(&port, frame).expect("the host's port");
            }
        }
        moved
    }

    /// Takes the gateway's frames to the hosts.
    fn deliver(&mut self) -> bool {
        let frames = self.sim.collect();
        let moved = !frames.is_empty();
        for (port, frame) in frames {
            for host in self.hosts.iter_mut().filter(|h| h.port == port && !h.unplugged) {
                let passed = host.faults.pass(vec![frame.bytes.clone()]);
                host.heard.extend(passed.iter().cloned());
                host.link.to_host.extend(passed);
            }
        }
        moved
    }

    /// Runs for this long.
    pub fn run(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    /// Runs until the condition holds, at most this long; says whether it came to hold.
    pub fn run_until(&mut self, time: Duration, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        const STEP: Duration = Duration::from_millis(10);
        let end = self.sim.now() + time;
        loop {
            self.settle();
            if done(self) {
                return true;
            }
            let left = end - self.sim.now();
            if left.is_zero() {
                return false;
            }
            self.sim.advance(STEP.min(left));
        }
    }

    /// Moves the clock by a long time in which the hosts do nothing.
    pub fn sleep(&mut self, time: Duration) {
        self.settle();
        self.sim.advance(time);
        self.sim.collect();
    }
}

fn ip(text: &str) -> IpAddress {
    text.parse().expect("an address")
}

/// TCP.
impl World {
    fn tcp_socket(&mut self, host: HostId) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 65_535]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_ack_delay(None);
        self.hosts[host.0].sockets.add(socket)
    }

    /// A listening socket.
    pub fn listen(&mut self, host: HostId, port: u16) -> SocketHandle {
        let handle = self.tcp_socket(host);
        self.tcp(host, handle).listen(port).expect("a free port");
        handle
    }

    /// A socket that connects.
    pub fn connect(&mut self, host: HostId, from: u16, to: (&str, u16)) -> SocketHandle {
        let handle = self.tcp_socket(host);
        let Host { interface, sockets, .. } = &mut self.hosts[host.0];
        let socket = sockets.get_mut::<tcp::Socket<'_>>(handle);
        socket.connect(interface.context(), (ip(to.0), to.1), from).expect("a route");
        handle
    }

    /// A TCP socket.
    pub fn tcp(&mut self, host: HostId, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.hosts[host.0].sockets.get_mut(handle)
    }

    /// Whether a connection stands.
    pub fn is_established(&mut self, host: HostId, handle: SocketHandle) -> bool {
        self.tcp(host, handle).state() == tcp::State::Established
    }

    /// Connects and waits until the connection stands, or the time is over.
    pub fn connects(&mut self, host: HostId, from: u16, to: (&str, u16)) -> Option<SocketHandle> {
        let handle = self.connect(host, from, to);
        let stands = self.run_until(Duration::from_secs(5), |w| w.is_established(host, handle));
        stands.then_some(handle)
    }

    /// Sends `data` from one socket to another and compares what arrives.
    pub fn transfer(
        &mut self,
        from: (HostId, SocketHandle),
        to: (HostId, SocketHandle),
        data: &[u8],
        time: Duration,
    ) {
        let (mut sent, mut got) = (0, Vec::new());
        let all = self.run_until(time, |w| {
            let socket = w.tcp(from.0, from.1);
            if sent < data.len() && socket.can_send() {
                sent += socket.send_slice(&data[sent..]).expect("an open connection");
            }
            let socket = w.tcp(to.0, to.1);
            while socket.can_recv() {
                let part = |bytes: &mut [u8]| {
                    got.extend_from_slice(bytes);
                    (bytes.len(), ())
                };
                socket.recv(part).expect("an open connection");
            }
            got.len() >= data.len()
        });
        assert!(all, "{} of {} bytes after {time:?}", got.len(), data.len());
        assert!(got == data, "the data has changed on its way");
    }
}

/// UDP and ICMP.
impl World {
    /// A UDP socket on a port.
    pub fn udp_bind(&mut self, host: HostId, port: u16) -> SocketHandle {
        let buffer =
            || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 16], vec![0; 16_384]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(port).expect("a free port");
        self.hosts[host.0].sockets.add(socket)
    }

    /// Sends a datagram.
    pub fn udp_send(&mut self, host: HostId, handle: SocketHandle, to: (&str, u16), data: &[u8]) {
        let socket = self.hosts[host.0].sockets.get_mut::<udp::Socket<'_>>(handle);
        let to = IpEndpoint { addr: ip(to.0), port: to.1 };
        socket.send_slice(data, to).expect("room in the queue");
        self.settle();
    }

    /// The next datagram that came: its sender and data.
    pub fn udp_recv(
        &mut self,
        host: HostId,
        handle: SocketHandle,
    ) -> Option<(String, u16, Vec<u8>)> {
        let socket = self.hosts[host.0].sockets.get_mut::<udp::Socket<'_>>(handle);
        let (data, meta) = socket.recv().ok()?;
        Some((meta.endpoint.addr.to_string(), meta.endpoint.port, data.to_vec()))
    }

    /// Pings an IPv4 address and says whether an answer came within a second.
    pub fn ping(&mut self, host: HostId, to: &str, id: u16) -> bool {
        let buffer =
            || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 4], vec![0; 1024]);
        let mut socket = icmp::Socket::new(buffer(), buffer());
        socket.bind(icmp::Endpoint::Ident(id)).expect("a free identifier");
        let repr = Icmpv4Repr::EchoRequest { ident: id, seq_no: 1, data: b"are you there" };
        let mut bytes = vec![0; repr.buffer_len()];
        let mut packet = Icmpv4Packet::new_unchecked(&mut bytes[..]);
        repr.emit(&mut packet, &smoltcp::phy::ChecksumCapabilities::default());
        socket.send_slice(&bytes, ip(to)).expect("room in the queue");
        let handle = self.hosts[host.0].sockets.add(socket);
        let answered = self.run_until(Duration::from_secs(1), |w| {
            w.hosts[host.0].sockets.get_mut::<icmp::Socket<'_>>(handle).can_recv()
        });
        let came = self.hosts[host.0].sockets.get_mut::<icmp::Socket<'_>>(handle).recv().ok();
        let echoed = came.is_some_and(|(bytes, from)| {
            bytes.first() == Some(&0) && bytes.ends_with(b"are you there") && from == ip(to)
        });
        self.hosts[host.0].sockets.remove(handle);
        answered && echoed
    }
}

/// The page's network: a client on each LAN, the two forwarded servers, a server beyond the
/// uplink. The server's router is the gateway, as if the Internet were one link.
pub struct PageWorld {
    /// The world.
    pub world: World,
    /// 192.168.0.2.
    pub client: HostId,
    /// 10.3.0.9.
    pub other: HostId,
    /// 192.168.0.6, the web server behind port 8000.
    pub web: HostId,
    /// 203.0.113.2.
    pub server: HostId,
}

impl PageWorld {
    /// Under this configuration (of the page's interfaces).
    ///
    /// Two hosts share `eth0`: its port stands for a switch that floods.
    pub fn new(config: &SimConfig) -> Self {
        let mut world = World::new(config);
        let mac = crate::common::host_mac;
        let client = world.host(
            "eth0",
            mac(2),
            &["192.168.0.2/24", "fd00:1::2/64", "fe80::ff:fe00:2/64"],
            &["192.168.0.1", "fd00:1::1"],
        );
        let web = world.host("eth0", mac(6), &["192.168.0.6/24"], &["192.168.0.1"]);
        let other = world.host(
            "eth1",
            mac(9),
            &["10.3.0.9/16", "fd00:2::9/64", "fe80::ff:fe00:9/64"],
            &["10.3.0.1", "fd00:2::1"],
        );
        let server = world.host(
            "ppp0",
            mac(99),
            &["203.0.113.2/24", "2001:db8:1::2/64"],
            &["203.0.113.1", "2001:db8:1::1"],
        );
        Self { world, client, other, web, server }
    }
}
