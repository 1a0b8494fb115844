//! The gateway's interfaces and the ports (devices) behind them.
//!
//! An *interface* is what rules name (`-i eth0`) and what carries addresses. A *port* is a device
//! that frames come from and go to. A routed interface has one port, a bridge has several, the
//! loopback interface has none.

use tidegate_packet::{Addr, Family, MacAddr, Prefix, ndp};

/// Index of an interface in [`Interfaces`].
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceId(pub u16);

/// Index of a port in [`Interfaces`] and in a worker's devices.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub u16);

/// The loopback interface: the gateway's packets to itself pass `lo`.
pub const LOOPBACK: InterfaceId = InterfaceId(0);

/// What an interface is made of.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One Ethernet device.
    Ethernet,
    /// Several Ethernet devices that form one LAN.
    Bridge,
    /// `lo`.
    Loopback,
}

/// An interface that rules can name.
#[derive(Clone, Debug)]
pub struct Interface {
    /// The name that `-i` and `-o` match.
    pub name: String,
    /// What it is made of.
    pub kind: Kind,
    /// Its link address.
    pub mac: MacAddr,
    /// Longest IP packet it takes, in bytes.
    pub mtu: u32,
    /// Its addresses with their networks; the first of a family is its primary address.
    pub addresses: Vec<Prefix>,
    /// Its ports.
    pub ports: Vec<PortId>,
}

impl Interface {
    /// An Ethernet interface without addresses; [`Interfaces::add`] gives it its port.
    pub fn new(name: impl Into<String>, mac: MacAddr, mtu: u32) -> Self {
        Self {
            name: name.into(),
            kind: Kind::Ethernet,
            mac,
            mtu,
            addresses: Vec::new(),
            ports: Vec::new(),
        }
    }

    /// The address for packets that leave by this interface, as Linux's `inet_select_addr` and
    /// the common cases of RFC 6724 choose it: on the next hop's network if there is one, else
    /// the first; IPv6 link-local only towards link-local.
    pub fn source_address(&self, towards: Addr) -> Option<Addr> {
        let fits = |addr: Addr| {
            addr.family() == towards.family()
                && addr.is_v6_link_local() == towards.is_v6_link_local()
        };
        let mut first = None;
        for prefix in self.addresses.iter().filter(|p| fits(p.addr())) {
            if prefix.contains(towards) {
                return Some(prefix.addr());
            }
            first = first.or(Some(prefix.addr()));
        }
        first
    }

    /// The first global address of a family.
    pub fn primary(&self, family: Family) -> Option<Addr> {
        self.addresses
            .iter()
            .map(Prefix::addr)
            .find(|a| a.family() == family && !a.is_v6_link_local())
    }

    /// Whether the interface itself carries the address.
    pub fn has(&self, addr: Addr) -> bool {
        self.addresses.iter().any(|p| p.addr() == addr)
    }

    /// Whether the interface has joined the group: all-hosts and all-nodes, all-routers, and the
    /// solicited-node groups of its addresses (RFC 4291 section 2.8).
    pub fn joined(&self, group: Addr) -> bool {
        if group.is_v4() {
            return group.v4_bytes() == [224, 0, 0, 1];
        }
        let o = group.octets();
        // ff01::1, ff02::1, ff02::2 and, for a router, ff05::2 and ff01::2.
        let well_known = o[2..15] == [0; 13] && matches!((o[1], o[15]), (1 | 2, 1 | 2) | (5, 2));
        well_known
            || self
                .addresses
                .iter()
                .any(|p| !p.addr().is_v4() && ndp::solicited_node(p.addr()) == group)
    }
}

/// All interfaces and ports of a gateway.
#[derive(Clone, Debug)]
pub struct Interfaces {
    interfaces: Vec<Interface>,
    /// The interface each port belongs to, and the port's own name.
    ports: Vec<(InterfaceId, String)>,
}

impl Default for Interfaces {
    fn default() -> Self {
        Self::new()
    }
}

impl Interfaces {
    /// Loopback alone.
    pub fn new() -> Self {
        let mut lo = Interface::new("lo", MacAddr::default(), 65536);
        lo.kind = Kind::Loopback;
        lo.addresses = ["127.0.0.1/8", "::1/128"].iter().flat_map(|a| a.parse()).collect();
        Self { interfaces: vec![lo], ports: Vec::new() }
    }

    /// Adds an interface with its ports, named; an Ethernet interface has one of its own name.
    /// IPv6's link-local address is added unless the interface has one (RFC 4862 section 5.3).
    pub fn add(&mut self, mut interface: Interface, port_names: &[&str]) -> InterfaceId {
        let id = InterfaceId(self.interfaces.len() as u16);
        for name in port_names {
            interface.ports.push(PortId(self.ports.len() as u16));
            self.ports.push((id, (*name).to_owned()));
        }
        add_link_local(&mut interface);
        self.interfaces.push(interface);
        id
    }

    /// Adds the port of the host device, which belongs to no interface that rules can name.
    pub fn add_host_port(&mut self, name: &str) -> PortId {
        let port = PortId(self.ports.len() as u16);
        self.ports.push((LOOPBACK, name.to_owned()));
        port
    }

    /// Replaces an interface's addresses.
    pub fn set_addresses(&mut self, id: InterfaceId, addresses: Vec<Prefix>) {
        let interface = &mut self.interfaces[usize::from(id.0)];
        interface.addresses = addresses;
        add_link_local(interface);
    }

    /// Replaces an interface's link address and MTU.
    pub fn set_link(&mut self, id: InterfaceId, mac: MacAddr, mtu: u32) {
        let interface = &mut self.interfaces[usize::from(id.0)];
        (interface.mac, interface.mtu) = (mac, mtu);
    }

    /// An interface by its index.
    #[inline]
    pub fn get(&self, id: InterfaceId) -> &Interface {
        &self.interfaces[usize::from(id.0)]
    }

    /// An interface by its name.
    pub fn by_name(&self, name: &str) -> Option<InterfaceId> {
        self.iter().find(|(_, i)| i.name == name).map(|(id, _)| id)
    }

    /// All of them, loopback first.
    pub fn iter(&self) -> impl Iterator<Item = (InterfaceId, &Interface)> {
        self.interfaces.iter().enumerate().map(|(n, i)| (InterfaceId(n as u16), i))
    }

    /// The interface that a port belongs to.
    #[inline]
    pub fn of_port(&self, port: PortId) -> InterfaceId {
        self.ports[usize::from(port.0)].0
    }

    /// The name of a bridge's port; an interface that is its own only port isn't one.
    pub fn bridge_port_name(&self, port: PortId) -> Option<&str> {
        let (id, name) = &self.ports[usize::from(port.0)];
        (self.get(*id).kind == Kind::Bridge).then_some(name.as_str())
    }

    /// A port's own name.
    pub fn port_name(&self, port: PortId) -> &str {
        &self.ports[usize::from(port.0)].1
    }

    /// How many ports there are.
    pub fn port_count(&self) -> usize {
        self.ports.len()
    }

    /// A port by its name.
    pub fn port_by_name(&self, name: &str) -> Option<PortId> {
        self.ports.iter().position(|(_, n)| n == name).map(|n| PortId(n as u16))
    }

    /// Whether an address is the subnet-router anycast address of one of the gateway's networks
    /// (RFC 4291 section 2.6.1): all routers on a link share it.
    pub fn is_anycast(&self, addr: Addr) -> bool {
        !addr.is_v4()
            && self
                .interfaces
                .iter()
                .flat_map(|i| &i.addresses)
                .any(|p| p.len() < 127 && p.network().addr() == addr && p.addr() != addr)
    }

    /// The interface that carries an address.
    pub fn owner(&self, addr: Addr) -> Option<InterfaceId> {
        self.iter().find(|(_, i)| i.has(addr)).map(|(id, _)| id)
    }
}

fn add_link_local(interface: &mut Interface) {
    let has = interface.addresses.iter().any(|p| p.addr().is_v6_link_local());
    if interface.kind != Kind::Loopback && !has {
        let addr = ndp::link_local(interface.mac);
        interface.addresses.extend(Prefix::new(addr, 64));
    }
}
