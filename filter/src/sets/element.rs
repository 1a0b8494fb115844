//! What elements of a set are made of.

use tidegate_packet::{Addr, Family};

/// The kinds of set.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    HashIp,
    HashNet,
    HashIpPort,
    HashNetPort,
    HashIpPortIp,
    HashNetIface,
    BitmapIp,
    BitmapPort,
    List,
}

impl Kind {
    pub const ALL: [(&'static str, Self); 9] = [
        ("hash:ip", Self::HashIp),
        ("hash:net", Self::HashNet),
        ("hash:ip,port", Self::HashIpPort),
        ("hash:net,port", Self::HashNetPort),
        ("hash:ip,port,ip", Self::HashIpPortIp),
        ("hash:net,iface", Self::HashNetIface),
        ("bitmap:ip", Self::BitmapIp),
        ("bitmap:port", Self::BitmapPort),
        ("list:set", Self::List),
    ];

    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }

    /// How many parts an element has.
    pub fn dimensions(self) -> usize {
        match self {
            Self::HashIp | Self::HashNet | Self::BitmapIp | Self::BitmapPort | Self::List => 1,
            Self::HashIpPort | Self::HashNetPort | Self::HashNetIface => 2,
            Self::HashIpPortIp => 3,
        }
    }

    pub fn is_hash(self) -> bool {
        !matches!(self, Self::BitmapIp | Self::BitmapPort | Self::List)
    }

    pub fn has_networks(self) -> bool {
        matches!(self, Self::HashNet | Self::HashNetPort | Self::HashNetIface)
    }

    pub fn has_ports(self) -> bool {
        matches!(self, Self::HashIpPort | Self::HashNetPort | Self::HashIpPortIp)
    }
}

/// An element; parts that its kind doesn't have are empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Element {
    pub addr: Addr,
    /// The length of the network, all of the address for a host.
    pub len: u8,
    pub protocol: u8,
    pub port: u16,
    pub second: Option<Addr>,
    pub interface: String,
}

impl Element {
    /// One that has an address and nothing else.
    pub fn host(addr: Addr) -> Self {
        let len = addr.family().bits();
        Self { addr, len, protocol: 0, port: 0, second: None, interface: String::new() }
    }

    /// One that is a port and nothing else.
    pub fn port(port: u16) -> Self {
        Self { port, ..Self::host(Addr::unspecified(Family::V4)) }
    }
}

/// The network of this length that an address is in.
pub(super) fn network(addr: Addr, len: u8) -> Addr {
    let host = u32::from(addr.family().bits() - len.min(addr.family().bits()));
    Addr::from_bits(if host == 128 { 0 } else { addr.bits() & u128::MAX << host })
}
