//! Links, addresses, routes and neighbours of a network namespace over rtnetlink, synchronously.
//!
//! A [`Netlink`] socket belongs for ever to the namespace it was opened in, so one process can
//! hold sockets into several. Errors keep the kernel's error number
//! ([`io::Error::raw_os_error`]); callers add what they were about to do.

mod messages;
mod transport;

pub(crate) use messages::{read_address, read_route, route_table};

use messages::{address_message, family_of, read_link, read_neighbour, route_message};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{RouteMessage, RouteType};
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

/// Tells when links of a namespace are made, changed or deleted.
#[derive(Debug)]
pub struct LinkChanges {
    socket: Socket,
}

impl LinkChanges {
    /// Of the calling thread's namespace.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, libc::RTMGRP_LINK as u32))?;
        Ok(Self { socket })
    }

    /// Waits for the next change. What it was is to be asked for: changes may be missed in between.
    pub fn wait(&mut self) -> io::Result<()> {
        loop {
            return match self.socket.recv(&mut &mut [0; 64][..], 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // More changes than the socket holds are changes.
                Err(error) if error.raw_os_error() != Some(libc::ENOBUFS) => Err(error),
                _ => Ok(()),
            };
        }
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
}
