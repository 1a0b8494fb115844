//! What an interface had before it was adopted, kept in a file so that a crash loses nothing.
//!
//! Addresses and routes are kept as the kernel's own netlink messages, so that every attribute
//! comes back, known to us or not; the text beside each is for people.

use super::netlink::{read_address, read_route, route_table};
use netlink_packet_core::NetlinkMessage;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage,
};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteMessage, RouteNextHopFlags, RouteProtocol, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

/// The state to go back to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The interface's name.
    pub name: String,
    /// Its index and link address: with them and the boot another interface of the same name in a
    /// later namespace isn't taken for this one.
    pub index: u32,
    pub mac: Option<String>,
    pub boot: String,
    /// Seconds since 1970, from which lifetimes of addresses count.
    pub taken: u64,
    pub was_up: bool,
    /// What `disable_ipv6` said; absent if it wasn't changed.
    pub disable_ipv6: Option<String>,
    pub addresses: Vec<Saved>,
    pub routes: Vec<Saved>,
}

/// One address or route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Saved {
    /// For people.
    pub what: String,
    /// The netlink message in hexadecimal.
    pub message: String,
}

impl Saved {
    /// An address as it can be handed back to the kernel.
    pub fn address(message: &AddressMessage) -> Self {
        let what = read_address(message).map_or_else(String::new, |a| a.prefix.to_string());
        let message = RouteNetlinkMessage::NewAddress(restorable_address(message));
        Self { what, message: to_hex(message) }
    }

    /// A route as it can be handed back to the kernel.
    pub fn route(message: &RouteMessage) -> Self {
        let what = read_route(message).map_or_else(
            || format!("{:?} route of table {}", message.header.kind, route_table(message)),
            |route| {
                let via = route.via.map_or_else(String::new, |via| format!(" via {via}"));
                format!("{}{via} metric {}", route.to, route.metric)
            },
        );
        Self { what, message: to_hex(RouteNetlinkMessage::NewRoute(restorable_route(message))) }
    }

    /// The message, unless the file was damaged.
    pub fn message(&self) -> Option<RouteNetlinkMessage> {
        let bytes = from_hex(&self.message)?;
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&bytes).ok()?;
        match message.payload {
            netlink_packet_core::NetlinkPayload::InnerMessage(inner) => Some(inner),
            _ => None,
        }
    }
}

/// Whether a route leads out of this interface, is in a table of its own making and wouldn't come
/// back with the addresses by itself.
pub(super) fn is_worth_keeping(message: &RouteMessage, index: u32) -> bool {
    const RT_TABLE_LOCAL: u32 = 255;
    let ours = message.attributes.iter().any(|attribute| match attribute {
        RouteAttribute::Oif(oif) => *oif == index,
        RouteAttribute::MultiPath(hops) => hops.iter().any(|hop| hop.interface_index == index),
        _ => false,
    });
    ours && message.header.protocol != RouteProtocol::Kernel
        && !message.header.flags.contains(RouteFlags::Cloned)
        && route_table(message) != RT_TABLE_LOCAL
        && !matches!(
            message.header.kind,
            RouteType::Local | RouteType::Broadcast | RouteType::Anycast | RouteType::Multicast
        )
}

/// The order in which routes can be added: a next hop must be reachable first.
pub(super) fn needs_next_hop(message: &RouteMessage) -> bool {
    message.attributes.iter().any(|attribute| {
        matches!(
            attribute,
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) | RouteAttribute::MultiPath(_)
        )
    })
}

/// Leaves out what the kernel reports but doesn't take, and spares IPv6 addresses, which nobody
/// else has claimed meanwhile, another second of duplicate detection: routes that prefer such an
/// address as their source couldn't be added during it.
fn restorable_address(message: &AddressMessage) -> AddressMessage {
    let kept = AddressFlags::Nodad
        | AddressFlags::Homeaddress
        | AddressFlags::Managetempaddr
        | AddressFlags::Noprefixroute
        | AddressFlags::Mcautojoin;
    let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
    let mut out = message.clone();
    out.attributes.retain(|attribute| match attribute {
        AddressAttribute::Flags(all) => {
            flags = *all;
            false
        }
        AddressAttribute::Address(_)
        | AddressAttribute::Local(_)
        | AddressAttribute::Label(_)
        | AddressAttribute::Broadcast(_)
        | AddressAttribute::CacheInfo(_)
        | AddressAttribute::RoutePriority(_)
        | AddressAttribute::Protocol(_) => true,
        _ => false,
    });
    flags &= kept;
    if out.header.family == AddressFamily::Inet6 {
        flags |= AddressFlags::Nodad;
    }
    out.header.flags = AddressHeaderFlags::empty();
    out.attributes.push(AddressAttribute::Flags(flags));
    out
}

/// Takes the time that has passed from an address's lifetimes. False if it has expired.
pub(super) fn age(message: &mut AddressMessage, seconds: u32) -> bool {
    for attribute in &mut message.attributes {
        if let AddressAttribute::CacheInfo(info) = attribute {
            for lifetime in [&mut info.ifa_preferred, &mut info.ifa_valid] {
                if *lifetime != u32::MAX {
                    *lifetime = lifetime.saturating_sub(seconds);
                }
            }
            return info.ifa_valid > 0;
        }
    }
    true
}

/// Leaves out what the kernel reports but doesn't take: the state of next hops, and beside the
/// number of a next-hop object what that object stands for.
fn restorable_route(message: &RouteMessage) -> RouteMessage {
    /// The kernel's tick as it shows it to programs (USER_HZ).
    const TICKS: u32 = 100;
    let mut out = message.clone();
    out.header.flags &= RouteFlags::Onlink;
    let object = out.attributes.iter().any(|a| matches!(a, RouteAttribute::NhId(_)));
    let mut expires = None;
    out.attributes.retain_mut(|attribute| match attribute {
        RouteAttribute::CacheInfo(info) => {
            expires = Some(info.expires / TICKS).filter(|seconds| *seconds > 0);
            false
        }
        RouteAttribute::Gateway(_)
        | RouteAttribute::Via(_)
        | RouteAttribute::Oif(_)
        | RouteAttribute::Encap(_)
        | RouteAttribute::EncapType(_) => !object,
        RouteAttribute::MultiPath(hops) => {
            for hop in hops {
                hop.flags &= RouteNextHopFlags::Onlink;
            }
            !object
        }
        _ => true,
    });
    out.attributes.extend(expires.map(RouteAttribute::Expires));
    out
}

fn to_hex(message: RouteNetlinkMessage) -> String {
    let mut packet = NetlinkMessage::from(message);
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let pairs = digits.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }
    let byte = |pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok();
    pairs.map(byte).collect()
}
