//! What sets are made of: elements, and what is kept of each.

use std::cmp::Reverse;
use std::fmt::Write as _;
use std::hash::{Hash, Hasher};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use tidegate_packet::{Addr, Family, Instant, MacAddr, protocol};

use super::kind::{Kind, Part};
use crate::names;

/// Bytes of an interface's name, without the zero behind it.
pub(super) const MAX_IFACE: usize = 15;

/// The name of an interface, in place: looking a packet up allocates nothing.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Iface {
    bytes: [u8; MAX_IFACE],
    len: u8,
}

impl Iface {
    /// A name, if it isn't too long to be one.
    pub fn new(name: &str) -> Option<Self> {
        let mut bytes = [0; MAX_IFACE];
        bytes.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        Some(Self { bytes, len: name.len() as u8 })
    }

    /// The first bytes of the name.
    pub fn cut(mut self, len: u8) -> Self {
        self.len = self.len.min(len);
        self.bytes[usize::from(self.len)..].fill(0);
        self
    }

    pub fn len(&self) -> u8 {
        self.len
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or("?")
    }
}

/// An element; parts that its kind doesn't have are zero.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Element {
    pub addr: Addr,
    /// The length of the network, all of the address for a host.
    pub len: u8,
    pub second: Addr,
    pub second_len: u8,
    pub protocol: u8,
    pub port: u16,
    pub mark: u32,
    pub mac: MacAddr,
    pub iface: Iface,
    /// The interface is a bridge's port.
    pub physdev: bool,
}

impl Element {
    /// One that has an address and nothing else.
    pub fn host(addr: Addr) -> Self {
        let len = addr.family().bits();
        Self {
            addr,
            len,
            second: Addr::UNSPECIFIED_V4,
            second_len: 32,
            protocol: 0,
            port: 0,
            mark: 0,
            mac: MacAddr::default(),
            iface: Iface::default(),
            physdev: false,
        }
    }

    /// One that has no address.
    pub fn none() -> Self {
        Self::host(Addr::UNSPECIFIED_V4)
    }

    /// The same in networks of these lengths.
    pub fn within(mut self, (len, second_len): (u8, u8)) -> Self {
        (self.addr, self.len) = (network(self.addr, len), len);
        (self.second, self.second_len) = (network(self.second, second_len), second_len);
        self
    }

    pub fn lengths(&self) -> (u8, u8) {
        (self.len, self.second_len)
    }
}

impl Hash for Element {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // A few words instead of many bytes: this runs for each packet.
        let Self { addr, len, second, second_len, protocol, port, mark, mac, iface, physdev } =
            self;
        state.write_u128(addr.bits());
        let small = u64::from(*len)
            | u64::from(*second_len) << 8
            | u64::from(*protocol) << 16
            | u64::from(*port) << 24
            | u64::from(*physdev) << 40;
        state.write_u64(small ^ u64::from(*mark) << 32);
        if *second != Addr::UNSPECIFIED_V4 {
            state.write_u128(second.bits());
        }
        if iface.len > 0 {
            state.write(&iface.bytes);
        }
        if !mac.is_zero() {
            state.write(&mac.0);
        }
    }
}

/// What `--map-set` hands to packets.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SkbInfo {
    pub mark: u32,
    pub mask: u32,
    /// Major and minor number of a queueing class.
    pub priority: u32,
    pub queue: u16,
}

/// What is kept of an element. Counters change while the set is only read.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    /// When it goes; absent: never.
    pub expires: Option<Instant>,
    pub packets: AtomicU64,
    pub bytes: AtomicU64,
    /// An exception from a larger network.
    pub nomatch: bool,
    /// The interface's name is only the beginning of one.
    pub wildcard: bool,
    /// What a bitmap of addresses knows of the station; the first packet from it tells, if nobody has.
    pub mac: OnceLock<MacAddr>,
    pub comment: Option<Box<str>>,
    pub skb: Option<Box<SkbInfo>>,
}

impl Clone for Entry {
    fn clone(&self) -> Self {
        Self {
            packets: self.packets.load(Ordering::Relaxed).into(),
            bytes: self.bytes.load(Ordering::Relaxed).into(),
            comment: self.comment.clone(),
            skb: self.skb.clone(),
            mac: self.mac.clone(),
            ..*self
        }
    }
}

impl Entry {
    pub fn is_alive(&self, now: Instant) -> bool {
        self.expires.is_none_or(|at| at > now)
    }

    /// Seconds that are left, as listings have them: those that are begun don't count, but zero
    /// would mean for ever.
    pub fn seconds_left(&self, now: Instant) -> u64 {
        self.expires.map_or(0, |at| at.saturating_since(now).as_secs().max(1))
    }
}

/// The network of this length that an address is in.
pub(super) fn network(addr: Addr, len: u8) -> Addr {
    Addr::from_bits(addr.bits() & mask(addr.family(), len))
}

/// The bits that a network of this length keeps.
pub(super) fn mask(family: Family, len: u8) -> u128 {
    u128::MAX.checked_shl(u32::from(family.bits() - len.min(family.bits()))).unwrap_or(0)
}

/// An IPv4 address as a number.
pub(super) fn v4(addr: Addr) -> u32 {
    addr.bits() as u32
}

pub(super) fn is_icmp(number: u8) -> bool {
    matches!(number, protocol::ICMP | protocol::ICMPV6)
}

fn protocol_text(number: u8) -> String {
    names::protocol_name(number).map_or_else(|| number.to_string(), str::to_owned)
}

fn port_text(number: u8, port: u16) -> String {
    if !is_icmp(number) {
        return port.to_string();
    }
    let [kind, code] = port.to_be_bytes();
    match super::icmp::name(kind, code, number == protocol::ICMPV6) {
        Some(name) => name.to_owned(),
        None => format!("{kind}/{code}"),
    }
}

/// Appends an element as its kind is written.
// Writing to a string can't fail.
pub(super) fn write_element(
    out: &mut String,
    kind: &Kind,
    element: &Element,
    mac: Option<MacAddr>,
) {
    let network = |out: &mut String, addr: Addr, len: u8| {
        let _ = write!(out, "{addr}");
        if len < addr.family().bits() {
            let _ = write!(out, "/{len}");
        }
    };
    let mut comma = false;
    for (n, part) in kind.parts.iter().enumerate() {
        // The station of a bitmap's address may be unknown.
        if kind.is_bitmap() && *part == Part::Mac && mac.is_none() {
            continue;
        }
        if std::mem::replace(&mut comma, true) {
            out.push(',');
        }
        match part {
            Part::Ip | Part::Net if n == 0 => network(out, element.addr, element.len),
            Part::Ip | Part::Net => network(out, element.second, element.second_len),
            Part::Port if kind.is_bitmap() => drop(write!(out, "{}", element.port)),
            Part::Port => {
                let Element { protocol, port, .. } = *element;
                let _ = write!(out, "{}:{}", protocol_text(protocol), port_text(protocol, port));
            }
            Part::Mark => drop(write!(out, "0x{:08x}", element.mark)),
            Part::Mac => {
                let [a, b, c, d, e, f] = mac.unwrap_or(element.mac).0;
                let _ = write!(out, "{a:02X}:{b:02X}:{c:02X}:{d:02X}:{e:02X}:{f:02X}");
            }
            Part::Iface => {
                out.push_str(if element.physdev { "physdev:" } else { "" });
                out.push_str(element.iface.text());
            }
            Part::Set => {}
        }
    }
}

/// A word of an element in the order of `ipset -sorted`: the shorter first, and then what begins
/// with hexadecimal digits by their value.
type Cell = (usize, u64, String);

fn cell(text: String) -> Cell {
    let digits: String = text.chars().take_while(char::is_ascii_hexdigit).take(15).collect();
    (text.len(), u64::from_str_radix(&digits, 16).unwrap_or(u64::MAX), text)
}

/// An element's place in a listing.
pub(super) fn order(element: &Element, wildcard: bool) -> impl Ord + use<> {
    let Element { addr, len, second, second_len, protocol, port, mark, mac, iface, physdev } =
        *element;
    let protocol_cell = match protocol {
        0 => cell(String::new()),
        number => cell(protocol_text(number)),
    };
    let port_cell = match is_icmp(protocol) {
        true => cell(port_text(protocol, port)),
        false => (port.into(), 0, String::new()),
    };
    (
        (addr, Reverse(len), protocol_cell, port_cell),
        (second, Reverse(second_len), mark, mac),
        iface_order(iface, physdev, wildcard),
    )
}

/// The shorter first, with what is written around the name.
pub(super) fn iface_order(iface: Iface, physdev: bool, wildcard: bool) -> impl Ord + use<> {
    let around = if wildcard { " wildcard".len() as u8 } else { 0 };
    let len = if physdev { "physdev".len() as u8 } else { iface.len() + around + 1 };
    (len, physdev, iface)
}
