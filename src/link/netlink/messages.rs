//! What is asked and answered, between rtnetlink's attributes and our own types.

use super::{InterfaceAddress, Link, Neighbour, Route};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
    RouteVia,
};
use std::net::IpAddr;
use tidegate_packet::{Addr, MacAddr, Prefix};

pub(super) fn family_of(addr: Addr) -> AddressFamily {
    if addr.is_v4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

pub(super) fn address_message(index: u32, prefix: Prefix) -> AddressMessage {
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

pub(super) fn route_message(
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

pub(super) fn read_link(message: &LinkMessage) -> Option<Link> {
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

pub(super) fn read_neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
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
