//! Links, addresses, routes and neighbours of a network namespace over rtnetlink, synchronously.
//!
//! A [`Netlink`] socket belongs for ever to the namespace it was opened in, so one process can
//! hold sockets into several. Errors keep the kernel's error number
//! ([`io::Error::raw_os_error`]); callers add what they were about to do.

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
    RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sched::{CloneFlags, setns};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use tidegate_packet::{Addr, MacAddr, Prefix};

/// A socket to one namespace's links, addresses, routes and neighbours.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Its index in its namespace.
    pub index: u32,
    /// Its link address, if it is of an Ethernet kind.
    pub mac: Option<MacAddr>,
    /// Largest packet (without the link header) that it carries.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Has a carrier.
    pub running: bool,
    /// The kernel's name of its kind (`veth`, `tun`, …), where it has one.
    pub kind: Option<String>,
    /// Index of the bridge, bond or VRF it belongs to.
    pub controller: Option<u32>,
}

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The interface's index.
    pub index: u32,
    /// The address with the length of its on-link prefix.
    pub prefix: Prefix,
    /// The far end of a point-to-point address.
    pub peer: Option<Addr>,
    /// The label, as in `eth0:1`.
    pub label: Option<String>,
    /// The kernel's scope: 0 global, 253 link, 254 host.
    pub scope: u8,
    /// `IFA_F_*`.
    pub flags: u32,
}

/// A unicast route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination.
    pub to: Prefix,
    /// Next hop; absent if the destination is on the link.
    pub via: Option<Addr>,
    /// Index of the interface it leads out of; absent for unreachable routes and multipath.
    pub device: Option<u32>,
    /// Metric.
    pub metric: u32,
    /// Made by the kernel for an address (`proto kernel`).
    pub connected: bool,
}

/// An entry of the neighbour table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The interface's index.
    pub index: u32,
    /// The neighbour's address.
    pub addr: Addr,
    /// Its link address, if it is known.
    pub mac: Option<MacAddr>,
    /// Never expires.
    pub permanent: bool,
}

/// One end of a veth pair to be made.
#[derive(Copy, Clone, Debug)]
pub struct VethEnd<'a> {
    /// The interface's name.
    pub name: &'a str,
    /// The namespace it is to live in; absent: the socket's own.
    pub namespace: Option<BorrowedFd<'a>>,
    /// Its link address; absent: the kernel makes one up.
    pub mac: Option<MacAddr>,
    /// Its MTU; absent: 1500.
    pub mtu: Option<u32>,
}

impl<'a> VethEnd<'a> {
    /// An end with this name in the socket's own namespace.
    pub fn new(name: &'a str) -> Self {
        Self { name, namespace: None, mac: None, mtu: None }
    }

    fn message(&self) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(self.name.to_owned()));
        message.attributes.extend(self.mac.map(|m| LinkAttribute::Address(m.0.to_vec())));
        message.attributes.extend(self.mtu.map(LinkAttribute::Mtu));
        message.attributes.extend(self.namespace.map(|n| LinkAttribute::NetNsFd(n.as_raw_fd())));
        message
    }
}

impl Netlink {
    /// A socket into the calling thread's namespace.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// A socket into another network namespace. Needs `CAP_SYS_ADMIN` over it.
    pub fn open_in(namespace: BorrowedFd<'_>) -> io::Result<Self> {
        // A thread of its own, because a failed way back would leave the caller abroad.
        std::thread::scope(|scope| {
            let opened = scope.spawn(|| {
                setns(namespace, CloneFlags::CLONE_NEWNET)?;
                Self::open()
            });
            opened.join().unwrap_or_else(|_| Err(io::Error::other("the helper thread panicked")))
        })
    }

    /// All links.
    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        Ok(self.link_messages()?.iter().filter_map(read_link).collect())
    }

    /// The link of this name, if there is one.
    pub fn link(&mut self, name: &str) -> io::Result<Option<Link>> {
        Ok(self.links()?.into_iter().find(|l| l.name == name))
    }

    /// The link of this name; `ENODEV` if there is none.
    pub fn require_link(&mut self, name: &str) -> io::Result<Link> {
        self.link(name)?.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
    }

    /// All addresses, of all interfaces.
    pub fn addresses(&mut self) -> io::Result<Vec<InterfaceAddress>> {
        Ok(self.address_messages()?.iter().filter_map(read_address).collect())
    }

    /// The unicast routes of the main table, both families.
    pub fn routes(&mut self) -> io::Result<Vec<Route>> {
        Ok(self.route_messages()?.iter().filter_map(read_route).collect())
    }

    /// The neighbour tables, both families.
    pub fn neighbours(&mut self) -> io::Result<Vec<Neighbour>> {
        let dump = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
        let found = self.dump(&dump)?;
        Ok(found
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewNeighbour(m) => read_neighbour(&m),
                _ => None,
            })
            .collect())
    }

    /// Makes a veth pair, each end in its namespace.
    pub fn create_veth(&mut self, near: VethEnd<'_>, far: VethEnd<'_>) -> io::Result<()> {
        let mut message = near.message();
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(far.message()))),
        ]));
        self.request(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Makes a bridge (for tests and labs).
    pub fn create_bridge(&mut self, name: &str) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]));
        self.request(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Puts a link into a bridge; `None` takes it out.
    pub fn set_controller(&mut self, index: u32, controller: Option<u32>) -> io::Result<()> {
        self.change_link(index, LinkAttribute::Controller(controller.unwrap_or(0)))
    }

    /// Removes a link (and a veth's peer).
    pub fn delete_link(&mut self, index: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.request(RouteNetlinkMessage::DelLink(message), 0)
    }

    /// Brings a link up or down.
    pub fn set_up(&mut self, index: u32, up: bool) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.change_mask = LinkFlags::Up;
        message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        self.request(RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Sets a link's address.
    pub fn set_mac(&mut self, index: u32, mac: MacAddr) -> io::Result<()> {
        self.change_link(index, LinkAttribute::Address(mac.0.to_vec()))
    }

    /// Sets a link's MTU.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> io::Result<()> {
        self.change_link(index, LinkAttribute::Mtu(mtu))
    }

    /// Renames a link, which older kernels allow only while it is down.
    pub fn rename(&mut self, index: u32, name: &str) -> io::Result<()> {
        self.change_link(index, LinkAttribute::IfName(name.to_owned()))
    }

    /// Moves a link into another namespace.
    pub fn set_netns(&mut self, index: u32, namespace: BorrowedFd<'_>) -> io::Result<()> {
        self.change_link(index, LinkAttribute::NetNsFd(namespace.as_raw_fd()))
    }

    /// Gives a link an address. IPv6 addresses are usable at once, without the second that
    /// duplicate address detection would take.
    pub fn add_address(&mut self, index: u32, prefix: Prefix) -> io::Result<()> {
        self.request(
            RouteNetlinkMessage::NewAddress(address_message(index, prefix)),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }

    /// Takes an address away from a link.
    pub fn delete_address(&mut self, index: u32, prefix: Prefix) -> io::Result<()> {
        self.request(RouteNetlinkMessage::DelAddress(address_message(index, prefix)), 0)
    }

    /// Adds a route to the main table, through a next hop, a device, or both.
    pub fn add_route(
        &mut self,
        to: Prefix,
        via: Option<Addr>,
        device: Option<u32>,
        metric: Option<u32>,
    ) -> io::Result<()> {
        let message = route_message(to, via, device, metric);
        self.request(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Removes a route of the main table.
    pub fn delete_route(
        &mut self,
        to: Prefix,
        via: Option<Addr>,
        device: Option<u32>,
        metric: Option<u32>,
    ) -> io::Result<()> {
        let mut message = route_message(to, via, device, metric);
        message.header.scope = RouteScope::NoWhere;
        message.header.protocol = RouteProtocol::Unspec;
        self.request(RouteNetlinkMessage::DelRoute(message), 0)
    }

    /// Adds or replaces a neighbour entry that never expires.
    pub fn add_neighbour(&mut self, index: u32, addr: Addr, mac: MacAddr) -> io::Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = family_of(addr);
        message.header.ifindex = index;
        message.header.state = NeighbourState::Permanent;
        message.header.kind = RouteType::Unicast;
        let destination = match addr.to_ip() {
            IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
            IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
        };
        message.attributes.push(NeighbourAttribute::Destination(destination));
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        self.request(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    fn change_link(&mut self, index: u32, attribute: LinkAttribute) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(attribute);
        self.request(RouteNetlinkMessage::SetLink(message), 0)
    }

    fn link_messages(&mut self) -> io::Result<Vec<LinkMessage>> {
        let dump = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let found = self.dump(&dump)?;
        Ok(found
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewLink(m) => Some(m),
                _ => None,
            })
            .collect())
    }

    /// All addresses with everything the kernel says about them.
    pub(crate) fn address_messages(&mut self) -> io::Result<Vec<AddressMessage>> {
        let dump = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let found = self.dump(&dump)?;
        Ok(found
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewAddress(m) => Some(m),
                _ => None,
            })
            .collect())
    }

    /// All routes of all tables with everything the kernel says about them.
    pub(crate) fn route_messages(&mut self) -> io::Result<Vec<RouteMessage>> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            for found in self.dump(&RouteNetlinkMessage::GetRoute(message))? {
                if let RouteNetlinkMessage::NewRoute(route) = found {
                    routes.push(route);
                }
            }
        }
        Ok(routes)
    }

    /// Sends a change and waits for the kernel's answer.
    pub(crate) fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(message, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        loop {
            for answer in self.receive()? {
                if answer.header.sequence_number != self.sequence {
                    continue;
                }
                if let NetlinkPayload::Error(error) = answer.payload {
                    return error.code.map_or(Ok(()), |code| {
                        Err(io::Error::from_raw_os_error(code.get().saturating_neg()))
                    });
                }
            }
        }
    }

    /// Asks for a table. A dump that a change cut across is asked for again.
    fn dump(&mut self, message: &RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        const TRIES: usize = 16;
        for _ in 0..TRIES {
            if let Some(found) = self.dump_once(message.clone())? {
                return Ok(found);
            }
        }
        Err(io::Error::other("the kernel's tables change faster than they can be read"))
    }

    fn dump_once(
        &mut self,
        message: RouteNetlinkMessage,
    ) -> io::Result<Option<Vec<RouteNetlinkMessage>>> {
        self.send(message, NLM_F_REQUEST | NLM_F_DUMP)?;
        let mut found = Vec::new();
        let mut interrupted = false;
        loop {
            for answer in self.receive()? {
                if answer.header.sequence_number != self.sequence {
                    continue;
                }
                interrupted |= answer.header.flags & NLM_F_DUMP_INTR != 0;
                match answer.payload {
                    NetlinkPayload::InnerMessage(inner) => found.push(inner),
                    NetlinkPayload::Done(_) => return Ok((!interrupted).then_some(found)),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => {}
                }
            }
        }
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut packet = NetlinkMessage::from(message);
        packet.header.flags = flags;
        packet.header.sequence_number = self.sequence;
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(|_| ())
    }

    /// One datagram's messages.
    fn receive(&mut self) -> io::Result<Vec<NetlinkMessage<RouteNetlinkMessage>>> {
        let (datagram, _) = self.socket.recv_from_full()?;
        let mut rest = datagram.as_slice();
        let mut messages = Vec::new();
        while rest.len() >= 16 {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))?;
            let length = (message.header.length as usize).next_multiple_of(4).max(16);
            rest = rest.get(length..).unwrap_or_default();
            messages.push(message);
        }
        Ok(messages)
    }
}

fn family_of(addr: Addr) -> AddressFamily {
    if addr.is_v4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn address_message(index: u32, prefix: Prefix) -> AddressMessage {
    let mut message = AddressMessage::default();
    let ip = prefix.addr().to_ip();
    message.header.family = family_of(prefix.addr());
    message.header.index = index;
    message.header.prefix_len = prefix.len();
    message.attributes.push(AddressAttribute::Address(ip));
    message.attributes.push(AddressAttribute::Local(ip));
    if let Some(IpAddr::V4(broadcast)) = prefix.broadcast().map(Addr::to_ip) {
        message.attributes.push(AddressAttribute::Broadcast(broadcast));
    }
    if ip.is_ipv6() {
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    message
}

fn route_message(
    to: Prefix,
    via: Option<Addr>,
    device: Option<u32>,
    metric: Option<u32>,
) -> RouteMessage {
    let mut message = RouteMessage::default();
    let to = to.network();
    message.header.address_family = family_of(to.addr());
    message.header.destination_prefix_length = to.len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.kind = RouteType::Unicast;
    message.header.scope = match via {
        None if to.addr().is_v4() => RouteScope::Link,
        _ => RouteScope::Universe,
    };
    if !to.is_empty() {
        message.attributes.push(RouteAttribute::Destination(to.addr().to_ip().into()));
    }
    message.attributes.extend(via.map(|via| match (to.addr().is_v4(), via.to_ip()) {
        // An IPv4 route through an IPv6 next hop (RFC 5549).
        (true, IpAddr::V6(ip)) => RouteAttribute::Via(RouteVia::Inet6(ip)),
        (_, ip) => RouteAttribute::Gateway(ip.into()),
    }));
    message.attributes.extend(device.map(RouteAttribute::Oif));
    message.attributes.extend(metric.map(RouteAttribute::Priority));
    message
}

fn read_link(message: &LinkMessage) -> Option<Link> {
    let flags = message.header.flags;
    let mut link = Link {
        name: String::new(),
        index: message.header.index,
        mac: None,
        mtu: 0,
        up: flags.contains(LinkFlags::Up),
        running: flags.contains(LinkFlags::Running),
        kind: None,
        controller: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(mac) => link.mac = mac.as_slice().try_into().ok().map(MacAddr),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Controller(index) => link.controller = Some(*index),
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

/// Reads an address as rtnetlink has it: `IFA_LOCAL` is ours and `IFA_ADDRESS` the far end's if
/// they differ; IPv6 has `IFA_ADDRESS` alone, unless there is a far end.
pub(crate) fn read_address(message: &AddressMessage) -> Option<InterfaceAddress> {
    let (mut address, mut local, mut label) = (None, None, None);
    let mut flags = u32::from(message.header.flags.bits());
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Address(ip) => address = Some(Addr::from(*ip)),
            AddressAttribute::Local(ip) => local = Some(Addr::from(*ip)),
            AddressAttribute::Label(text) => label = Some(text.clone()),
            AddressAttribute::Flags(f) => flags = f.bits(),
            _ => {}
        }
    }
    let own = local.or(address)?;
    Some(InterfaceAddress {
        index: message.header.index,
        prefix: Prefix::new(own, message.header.prefix_len)?,
        peer: address.filter(|a| *a != own),
        label,
        scope: message.header.scope.into(),
        flags,
    })
}

/// The table a route is in: the attribute has the whole number, the header eight bits of it.
pub(crate) fn route_table(message: &RouteMessage) -> u32 {
    message
        .attributes
        .iter()
        .find_map(|a| match a {
            RouteAttribute::Table(table) => Some(*table),
            _ => None,
        })
        .unwrap_or(u32::from(message.header.table))
}

pub(crate) fn read_route(message: &RouteMessage) -> Option<Route> {
    let cloned = message.header.flags.contains(netlink_packet_route::route::RouteFlags::Cloned);
    if cloned
        || message.header.kind != RouteType::Unicast
        || route_table(message) != u32::from(RouteHeader::RT_TABLE_MAIN)
    {
        return None;
    }
    let any: IpAddr = match message.header.address_family {
        AddressFamily::Inet => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let (mut to, mut via, mut device, mut metric) = (Addr::from(any), None, None, 0);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(a) => to = read_route_address(a)?,
            RouteAttribute::Gateway(a) => via = read_route_address(a),
            RouteAttribute::Via(RouteVia::Inet6(a)) => via = Some((*a).into()),
            RouteAttribute::Oif(index) => device = Some(*index),
            RouteAttribute::Priority(priority) => metric = *priority,
            _ => {}
        }
    }
    Some(Route {
        to: Prefix::new(to, message.header.destination_prefix_length)?,
        via,
        device,
        metric,
        connected: message.header.protocol == RouteProtocol::Kernel,
    })
}

fn read_route_address(address: &RouteAddress) -> Option<Addr> {
    match address {
        RouteAddress::Inet(a) => Some((*a).into()),
        RouteAddress::Inet6(a) => Some((*a).into()),
        _ => None,
    }
}

fn read_neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    let (mut addr, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => addr = Some((*a).into()),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => addr = Some((*a).into()),
            NeighbourAttribute::LinkLayerAddress(a) => {
                mac = a.as_slice().try_into().ok().map(MacAddr);
            }
            _ => {}
        }
    }
    Some(Neighbour {
        index: message.header.ifindex,
        addr: addr?,
        mac,
        permanent: message.header.state == NeighbourState::Permanent,
    })
}
