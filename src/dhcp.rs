//! A DHCP client for an uplink (RFC 2131), without socket, thread or clock.
//!
//! smoltcp's state machine does the protocol: discover, request, renew at T1, rebind at T2, start
//! again when the lease ends or a server says no. Frames for it are taken before the rules see
//! them, as a DHCP client with a packet socket takes them on a kernel, and its own frames go
//! straight to the uplink. It never resolves a neighbour: a renewal goes to the link address that
//! the server's last answer came from.

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, Checksum, Device, DeviceCapabilities, Medium};
use smoltcp::socket::dhcpv4;
use smoltcp::time::{Duration as SmolDuration, Instant as SmolInstant};
use smoltcp::wire::{
    DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress, HardwareAddress, IpCidr, Ipv4Address,
};
use std::collections::VecDeque;
use std::time::Duration;
use tidegate_packet::builder::{self, Ip};
use tidegate_packet::{Addr, Instant, MacAddr, Prefix, arp, ethernet, ipv4, protocol, udp};

const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
/// RFC 2132 section 3.5.
const OPTION_ROUTER: u8 = 3;
/// Time between two DISCOVERs that nobody answers.
const DISCOVER_INTERVAL: Duration = Duration::from_secs(4);
/// Largest frame that is sent or taken.
const FRAME_MAX: usize = 1514;

/// What a server has granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The address with its network's prefix.
    pub address: Prefix,
    /// The first router, for a default route.
    pub router: Option<Addr>,
    /// Name servers.
    pub dns: Vec<Addr>,
    /// The server, as it identifies itself.
    pub server: Addr,
}

/// A change that the uplink has to follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// There is a lease, or it says something else than before.
    Configured(Lease),
    /// The lease has ended; the address must not be used any more.
    Deconfigured,
}

/// The client of one uplink.
pub struct DhcpClient {
    mac: MacAddr,
    interface: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
    wire: Wire,
    lease: Option<Lease>,
    server_mac: MacAddr,
    events: VecDeque<Event>,
    xid: u32,
}

impl DhcpClient {
    /// A client that has no lease. `seed` makes its transaction numbers; it should differ from
    /// one start to the next.
    pub fn new(mac: MacAddr, seed: u64, now: Instant) -> Self {
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(mac.0)));
        config.random_seed = seed;
        let mut wire = Wire::default();
        let interface = Interface::new(config, &mut wire, smol(now));
        let mut socket = dhcpv4::Socket::new();
        let mut retry = socket.get_retry_config();
        retry.discover_timeout = smol_duration(DISCOVER_INTERVAL);
        socket.set_retry_config(retry);
        // The first thing that the socket says is that there is no lease; that isn't news.
        let _ = socket.poll();
        let mut sockets = SocketSet::new(Vec::new());
        let socket = sockets.add(socket);
        Self {
            mac,
            interface,
            sockets,
            socket,
            wire,
            lease: None,
            server_mac: MacAddr::BROADCAST,
            events: VecDeque::new(),
            xid: seed as u32,
        }
    }

    /// Whether a frame is an answer of a DHCP server to some client, for [`DhcpClient::input`]
    /// and not for the rules.
    pub fn wants(frame: &[u8]) -> bool {
        answer(frame).is_some()
    }

    /// The current lease.
    pub fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    /// Takes a frame. The UDP checksum isn't looked at: a server on the same machine leaves it
    /// to the device.
    pub fn input(&mut self, frame: &[u8], now: Instant) {
        let Some(answer) = answer(frame) else { return };
        // A renewal is sent to the answer's source, which therefore has to be somebody.
        if answer.source.is_unspecified()
            || answer.source.is_multicast()
            || answer.source.is_limited_broadcast()
            || frame.len() > FRAME_MAX
        {
            return;
        }
        self.wire.received = Some(frame.to_vec());
        self.interface.poll_ingress_single(smol(now), &mut self.wire, &mut self.sockets);
        self.wire.received = None;
        self.take_event(Some(&answer));
    }

    /// Sends what is due and says what has changed. To be called after [`DhcpClient::input`] and
    /// whenever [`DhcpClient::next_poll`] has come, until it returns `None`.
    pub fn poll(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) -> Option<Event> {
        self.egress(now, out);
        self.take_event(None);
        self.events.pop_front()
    }

    /// When [`DhcpClient::poll`] has something to do next.
    pub fn next_poll(&mut self, now: Instant) -> Option<Instant> {
        if !self.events.is_empty() {
            return Some(now);
        }
        let at = self.interface.poll_at(smol(now), &self.sockets)?;
        let micros = u64::try_from(at.total_micros()).unwrap_or(0);
        Some(Instant::from_nanos(micros.saturating_mul(1000)).max(now))
    }

    /// Gives the lease back, and with it the address; a client that goes on being polled asks
    /// for a new one.
    pub fn release(&mut self, out: &mut Vec<Vec<u8>>) {
        let Some(lease) = self.lease.take() else { return };
        out.extend(self.release_frame(&lease));
        self.sockets.get_mut::<dhcpv4::Socket<'_>>(self.socket).reset();
        let _ = self.sockets.get_mut::<dhcpv4::Socket<'_>>(self.socket).poll();
        self.forget();
    }

    /// Runs the sending half until it has nothing to say. smoltcp asks for the server's link
    /// address before it renews; that question is answered here.
    fn egress(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) {
        for _ in 0..4 {
            self.interface.poll_egress(smol(now), &mut self.wire, &mut self.sockets);
            let mut asked = false;
            for frame in std::mem::take(&mut self.wire.sent) {
                match arp_reply(&frame, self.mac, self.server_mac) {
                    Some(reply) => {
                        self.wire.received = Some(reply);
                        let (wire, sockets) = (&mut self.wire, &mut self.sockets);
                        self.interface.poll_ingress_single(smol(now), wire, sockets);
                        asked = true;
                    }
                    None => out.push(frame),
                }
            }
            self.wire.received = None;
            let due = self.interface.poll_at(smol(now), &self.sockets);
            if !asked && due.is_none_or(|at| at > smol(now)) {
                return;
            }
        }
    }

    fn take_event(&mut self, answer: Option<&Answer<'_>>) {
        let socket = self.sockets.get_mut::<dhcpv4::Socket<'_>>(self.socket);
        match socket.poll() {
            None => {}
            Some(dhcpv4::Event::Deconfigured) => {
                self.lease = None;
                self.forget();
                self.events.push_back(Event::Deconfigured);
            }
            Some(dhcpv4::Event::Configured(config)) => {
                let listed = answer.and_then(Answer::first_router);
                let router = config.router.or(listed).filter(|r| {
                    !r.is_unspecified()
                        && !r.is_multicast()
                        && !r.is_broadcast()
                        && !r.is_loopback()
                });
                let address = config.address;
                let Some(prefix) = Prefix::new(address.address().into(), address.prefix_len())
                else {
                    return;
                };
                let lease = Lease {
                    address: prefix,
                    router: router.map(Addr::from),
                    dns: config.dns_servers.iter().map(|a| Addr::from(*a)).collect(),
                    server: config.server.identifier.into(),
                };
                if let Some(answer) = answer {
                    self.server_mac = answer.mac;
                }
                self.interface.update_ip_addrs(|list| {
                    list.clear();
                    // One of one: there is room.
                    let _ = list.push(IpCidr::Ipv4(address));
                });
                let gateway = neighbour(prefix);
                let _ = self.interface.routes_mut().add_default_ipv4_route(gateway);
                self.lease = Some(lease.clone());
                self.events.push_back(Event::Configured(lease));
            }
        }
    }

    fn forget(&mut self) {
        self.interface.update_ip_addrs(|list| list.clear());
        self.interface.routes_mut().remove_default_ipv4_route();
    }

    /// DHCPRELEASE (RFC 2131 section 4.4.6): unicast to the server, never answered.
    fn release_frame(&mut self, lease: &Lease) -> Option<Vec<u8>> {
        self.xid = self.xid.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let client_ip = Ipv4Address::from(lease.address.addr().v4_bytes());
        let repr = DhcpRepr {
            message_type: DhcpMessageType::Release,
            transaction_id: self.xid,
            secs: 0,
            client_hardware_address: EthernetAddress(self.mac.0),
            client_ip,
            your_ip: Ipv4Address::UNSPECIFIED,
            server_ip: Ipv4Address::UNSPECIFIED,
            router: None,
            subnet_mask: None,
            relay_agent_ip: Ipv4Address::UNSPECIFIED,
            broadcast: false,
            requested_ip: None,
            client_identifier: Some(EthernetAddress(self.mac.0)),
            server_identifier: Some(Ipv4Address::from(lease.server.v4_bytes())),
            parameter_request_list: None,
            dns_servers: None,
            max_size: None,
            lease_duration: None,
            renew_duration: None,
            rebind_duration: None,
            additional_options: &[],
        };
        let mut payload = vec![0; repr.buffer_len()];
        repr.emit(&mut DhcpPacket::new_unchecked(&mut payload)).ok()?;
        let header = Ip::new(lease.address.addr(), lease.server, protocol::UDP);
        let packet = builder::udp(header, CLIENT_PORT, SERVER_PORT, &payload);
        let mut frame = vec![0; ethernet::HEADER_LEN];
        ethernet::write(&mut frame, self.server_mac, self.mac, ethernet::IPV4);
        frame.extend_from_slice(&packet);
        Some(frame)
    }
}

/// A frame from a DHCP server's port to a DHCP client's.
struct Answer<'a> {
    mac: MacAddr,
    source: Addr,
    message: &'a [u8],
}

impl Answer<'_> {
    /// smoltcp knows the router option only with one router in it; servers may list several.
    fn first_router(&self) -> Option<Ipv4Address> {
        let packet = DhcpPacket::new_checked(self.message).ok()?;
        let mut options = packet.options();
        let bytes = options.find(|o| o.kind == OPTION_ROUTER)?.data.get(..4)?;
        Some(Ipv4Address::from(<[u8; 4]>::try_from(bytes).ok()?))
    }
}

fn answer(frame: &[u8]) -> Option<Answer<'_>> {
    let link = ethernet::Header::parse(frame)?;
    // The state machine below knows no tags, and neither has an uplink any.
    if link.ethertype != ethernet::IPV4 || link.vlan.is_some() {
        return None;
    }
    let packet = &frame[link.len..];
    let ip = ipv4::Header::new_checked(packet)?;
    if ip.protocol() != protocol::UDP || ip.more_fragments() || ip.fragment_offset() != 0 {
        return None;
    }
    let datagram = packet.get(ip.header_len()..usize::from(ip.total_len()))?;
    let header = udp::Header::new_checked(datagram)?;
    if header.sport() != SERVER_PORT || header.dport() != CLIENT_PORT {
        return None;
    }
    Some(Answer { mac: link.src, source: ip.src(), message: &datagram[udp::HEADER_LEN..] })
}

/// Some address of the network that isn't ours. What isn't on the link is sent to the link
/// address that the server's answer came from, and smoltcp wants a neighbour's name for it; it
/// never leaves this file.
fn neighbour(own: Prefix) -> Ipv4Address {
    let first = own.network().addr().v4_u32().wrapping_add(1);
    let own = own.addr().v4_u32();
    Ipv4Address::from(if first == own { first.wrapping_add(1) } else { first })
}

/// The answer to an ARP request for anything.
fn arp_reply(frame: &[u8], mac: MacAddr, server: MacAddr) -> Option<Vec<u8>> {
    let link = ethernet::Header::parse(frame)?;
    if link.ethertype != ethernet::ARP {
        return None;
    }
    let request = arp::Arp::parse(&frame[link.len..])?;
    let reply = arp::Arp {
        operation: arp::Operation::Reply,
        sender_mac: server,
        sender: request.target,
        target_mac: mac,
        target: request.sender,
    };
    Some(reply.to_frame(mac))
}

fn smol(at: Instant) -> SmolInstant {
    SmolInstant::from_micros(i64::try_from(at.as_nanos() / 1000).unwrap_or(i64::MAX))
}

fn smol_duration(duration: Duration) -> SmolDuration {
    SmolDuration::from_micros(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}

/// smoltcp's device: at most one frame waits to be taken, those that were sent are collected.
#[derive(Default)]
struct Wire {
    received: Option<Vec<u8>>,
    sent: Vec<Vec<u8>>,
}

struct RxToken(Vec<u8>);
struct TxToken<'a>(&'a mut Vec<Vec<u8>>);

impl Device for Wire {
    type RxToken<'a> = RxToken;
    type TxToken<'a> = TxToken<'a>;

    fn receive(&mut self, _: SmolInstant) -> Option<(RxToken, TxToken<'_>)> {
        let frame = self.received.take()?;
        Some((RxToken(frame), TxToken(&mut self.sent)))
    }

    fn transmit(&mut self, _: SmolInstant) -> Option<TxToken<'_>> {
        Some(TxToken(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME_MAX;
        capabilities.checksum.udp = Checksum::Tx;
        capabilities
    }
}

impl phy::RxToken for RxToken {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl phy::TxToken for TxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push(frame);
        result
    }
}

#[cfg(test)]
mod tests;
