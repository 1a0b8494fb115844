//! Networks of namespaces, described first and built at once.
//!
//! ```no_run
//! use std::net::TcpListener;
//! use tidegate::lab::topology::{End, Topology};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! tidegate::lab::privilege::acquire()?; // before the first thread; nothing to do for root
//! let network = Topology::new()
//!     .host("client")
//!     .router("middle")
//!     .host("server")
//!     .link(
//!         End::new("client", "eth0").address("10.0.0.2/24").address("fd00:a::2/64"),
//!         End::new("middle", "lan0").address("10.0.0.1/24").address("fd00:a::1/64"),
//!     )
//!     .link(
//!         End::new("middle", "wan0").address("198.51.100.1/24").mtu(1400),
//!         End::new("server", "eth0").address("198.51.100.10/24").mtu(1400),
//!     )
//!     .route("client", "default", "10.0.0.1")
//!     .route("server", "default", "198.51.100.1")
//!     .build()?;
//!
//! // A socket belongs to the namespace that it was made in, for ever.
//! let listener = network.host("server").run(|| TcpListener::bind("198.51.100.10:80"))?;
//! network.host("client").run(|| std::net::TcpStream::connect("198.51.100.10:80"))?;
//! let (_, peer) = listener.accept()?;
//! assert_eq!(peer.ip().to_string(), "10.0.0.2");
//! # Ok(())
//! # }
//! ```
//!
//! A *node* is a namespace: a *host*, or a *router*, which is a host that forwards. A *link* is a
//! veth pair with an [`End`] in each of two nodes. Everything vanishes when the [`Network`] and
//! the sockets made in it are gone, or when the process is.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use tidegate_packet::{Addr, MacAddr, Prefix};

use super::error::{Doing, LabError, Result};
use super::netns::Netns;
use crate::io::ethtool;
use crate::link::netlink::{Netlink, VethEnd};

/// IFNAMSIZ without its terminating zero.
const LONGEST_NAME: usize = 15;

/// Longer than any link takes to get its carrier.
const CARRIER_WAIT: Duration = Duration::from_secs(5);

/// One end of a link: an interface of a node.
#[derive(Clone, Debug)]
pub struct End {
    node: String,
    name: String,
    addresses: Vec<String>,
    mtu: Option<u32>,
    mac: Option<MacAddr>,
    frame_by_frame: bool,
}

impl End {
    /// Interface `name` of `node`.
    pub fn new(node: &str, name: &str) -> Self {
        let (node, name) = (node.to_owned(), name.to_owned());
        Self { node, name, addresses: Vec::new(), mtu: None, mac: None, frame_by_frame: false }
    }

    /// Gives it an address with the length of its on-link prefix: `192.168.0.2/24`, `fd00::2/64`.
    /// Without any the kernel of that node handles no packets of this interface.
    #[must_use]
    pub fn address(mut self, prefix: &str) -> Self {
        self.addresses.push(prefix.to_owned());
        self
    }

    /// Sets the MTU; 1500 otherwise.
    #[must_use]
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = Some(mtu);
        self
    }

    /// Sets the link address; otherwise one that depends only on the description.
    #[must_use]
    pub fn mac(mut self, mac: MacAddr) -> Self {
        self.mac = Some(mac);
        self
    }

    /// Switches off all that makes super-packets (`ethtool -K … tso off gso off gro off sg off`):
    /// with this at both ends frames come one by one, as from a wire.
    #[must_use]
    pub fn frame_by_frame(mut self) -> Self {
        self.frame_by_frame = true;
        self
    }

    fn prefixes(&self) -> Result<Vec<Prefix>> {
        self.addresses.iter().map(|a| prefix(a)).collect()
    }

    fn veth<'a>(&'a self, namespace: &'a Netns) -> VethEnd<'a> {
        VethEnd {
            name: &self.name,
            namespace: Some(namespace.as_fd()),
            mac: self.mac,
            mtu: self.mtu,
        }
    }
}

#[derive(Clone, Debug)]
struct Node {
    name: String,
    forwards: bool,
}

#[derive(Clone, Debug)]
struct Bridge {
    end: End,
    ports: Vec<String>,
}

#[derive(Clone, Debug)]
struct StaticRoute {
    node: String,
    to: String,
    via: String,
}

/// The description of a network; see the [module](self).
#[derive(Clone, Debug, Default)]
#[must_use = "nothing exists before build()"]
pub struct Topology {
    nodes: Vec<Node>,
    links: Vec<(End, End)>,
    bridges: Vec<Bridge>,
    routes: Vec<StaticRoute>,
    sysctls: Vec<(String, String, String)>,
}

impl Topology {
    /// A network without nodes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a host.
    pub fn host(self, name: &str) -> Self {
        self.node(name, false)
    }

    /// Adds a host whose kernel forwards packets, IPv4 and IPv6.
    pub fn router(self, name: &str) -> Self {
        self.node(name, true)
    }

    fn node(mut self, name: &str, forwards: bool) -> Self {
        self.nodes.push(Node { name: name.to_owned(), forwards });
        self
    }

    /// Connects two nodes.
    pub fn link(mut self, one: End, other: End) -> Self {
        self.links.push((one, other));
        self
    }

    /// Makes a kernel bridge at `end` out of interfaces of the same node.
    pub fn bridge(mut self, end: End, ports: &[&str]) -> Self {
        self.bridges.push(Bridge { end, ports: ports.iter().map(|&p| p.to_owned()).collect() });
        self
    }

    /// Adds a route at `node`: `to` is a prefix, `default` (every address of the next hop's
    /// family), or a lone address.
    pub fn route(mut self, node: &str, to: &str, via: &str) -> Self {
        let (node, to, via) = (node.to_owned(), to.to_owned(), via.to_owned());
        self.routes.push(StaticRoute { node, to, via });
        self
    }

    /// Sets a sysctl at `node` before its interfaces come up.
    pub fn sysctl(mut self, node: &str, name: &str, value: &str) -> Self {
        self.sysctls.push((node.to_owned(), name.to_owned(), value.to_owned()));
        self
    }

    /// Builds it. A description that makes no sense is refused before anything is made.
    pub fn build(mut self) -> Result<Network> {
        self.check()?;
        self.name_link_addresses();
        let Self { nodes, links, bridges, routes, sysctls } = self;
        let mut network = Network { order: Vec::new(), nodes: HashMap::new() };
        for node in nodes {
            let namespace = make_node(&node)?;
            network.order.push(node.name.clone());
            network.nodes.insert(node.name, namespace);
        }
        for (node, name, value) in &sysctls {
            network.find(node)?.set_sysctl(name, value)?;
        }
        for (one, other) in &links {
            let (here, there) = (network.find(&one.node)?, network.find(&other.node)?);
            here.netlink()
                .and_then(|mut n| n.create_veth(one.veth(here), other.veth(there)))
                .doing(|| format!("veth pair {} – {}", one.name, other.name))?;
            network.configure(one)?;
            network.configure(other)?;
        }
        for bridge in &bridges {
            network.make_bridge(bridge)?;
        }
        for (one, other) in &links {
            network.wait_for_carrier(one)?;
            network.wait_for_carrier(other)?;
        }
        for route in &routes {
            network.add_route(&route.node, &route.to, &route.via)?;
        }
        Ok(network)
    }

    /// Finds everything that can be known to be wrong without asking the kernel.
    fn check(&self) -> Result<()> {
        let invalid = |text: String| Err(LabError::Invalid(text));
        let mut interfaces: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for node in &self.nodes {
            if interfaces.insert(&node.name, vec!["lo"]).is_some() {
                return invalid(format!("node {} is described twice", node.name));
            }
        }
        let ends = self.links.iter().flat_map(|(a, b)| [a, b]);
        for end in ends.chain(self.bridges.iter().map(|b| &b.end)) {
            let Some(names) = interfaces.get_mut(end.node.as_str()) else {
                return invalid(format!("interface {}: no node {}", end.name, end.node));
            };
            if names.contains(&end.name.as_str()) {
                return invalid(format!("{} has two interfaces {}", end.node, end.name));
            }
            if !is_interface_name(&end.name) {
                return invalid(format!("{:?} cannot be the name of an interface", end.name));
            }
            names.push(&end.name);
            end.prefixes()?;
        }
        for Bridge { end, ports } in &self.bridges {
            let names = &interfaces[end.node.as_str()];
            if let Some(port) = ports.iter().find(|p| !names.contains(&p.as_str())) {
                return invalid(format!("bridge {}: {} has no {port}", end.name, end.node));
            }
        }
        for StaticRoute { node, to, via } in &self.routes {
            destination(to, address(via)?)?;
            if !interfaces.contains_key(node.as_str()) {
                return invalid(format!("route to {to}: no node {node}"));
            }
        }
        match self.sysctls.iter().find(|(node, _, _)| !interfaces.contains_key(node.as_str())) {
            Some((node, name, _)) => invalid(format!("sysctl {name}: no node {node}")),
            None => Ok(()),
        }
    }

    /// Link addresses that are the same in every run: locally administered, `tg`, then the link's
    /// number and the end's.
    fn name_link_addresses(&mut self) {
        for (number, (one, other)) in self.links.iter_mut().enumerate() {
            let [high, low] = (number as u16).to_be_bytes();
            one.mac.get_or_insert(MacAddr([0x02, b't', b'g', high, low, 1]));
            other.mac.get_or_insert(MacAddr([0x02, b't', b'g', high, low, 2]));
        }
    }
}

fn make_node(node: &Node) -> Result<Netns> {
    let namespace = Netns::new()?;
    // Without this a link-local address is tentative for its first second (RFC 4862, 5.4).
    // A kernel without IPv6 doesn't have it.
    let _ = namespace.set_sysctl("net.ipv6.conf.default.accept_dad", "0");
    if node.forwards {
        namespace.set_sysctl("net.ipv4.ip_forward", "1")?;
        let _ = namespace.set_sysctl("net.ipv6.conf.all.forwarding", "1");
    }
    Ok(namespace)
}

/// A network that exists.
#[derive(Debug)]
pub struct Network {
    order: Vec<String>,
    nodes: HashMap<String, Netns>,
}

impl Network {
    /// The namespace of a node.
    ///
    /// # Panics
    /// If the topology had no node of this name.
    pub fn host(&self, name: &str) -> &Netns {
        self.nodes.get(name).unwrap_or_else(|| panic!("this network has no node {name}"))
    }

    /// The namespace of a node, if there is such a node.
    pub fn get(&self, name: &str) -> Option<&Netns> {
        self.nodes.get(name)
    }

    /// The nodes' names in the order in which they were described.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.order.iter().map(String::as_str)
    }

    /// Moves interface `device` of `node` to where `end` says and gives it that name and those
    /// addresses. So the network side of a TAP that a program holds at one node becomes the
    /// interface of another.
    pub fn adopt(&self, node: &str, device: &str, end: &End) -> Result<()> {
        let there = self.find(&end.node)?;
        let what = || format!("moving {device} of {node} to {}", end.node);
        let mut here = self.find(node)?.netlink().doing(what)?;
        let link = here.require_link(device).doing(what)?;
        here.set_up(link.index, false).doing(what)?;
        here.set_netns(link.index, there.as_fd()).doing(what)?;
        if device != end.name {
            let mut netlink = there.netlink().doing(what)?;
            // The index is another one if it was taken over there.
            let moved = netlink.require_link(device).doing(what)?;
            netlink.rename(moved.index, &end.name).doing(what)?;
        }
        self.configure(end)?;
        self.wait_for_carrier(end)
    }

    /// Adds a route at a node, as [`Topology::route`] does.
    pub fn add_route(&self, node: &str, to: &str, via: &str) -> Result<()> {
        let hop = address(via)?;
        let to = destination(to, hop)?;
        self.find(node)?
            .netlink()
            .and_then(|mut n| n.add_route(to, Some(hop), None, None))
            .doing(|| format!("route to {to} via {via} at {node}"))
    }

    fn find(&self, node: &str) -> Result<&Netns> {
        self.nodes.get(node).ok_or_else(|| LabError::Invalid(format!("no node {node}")))
    }

    /// Gives an existing interface what `end` says and brings it up.
    fn configure(&self, end: &End) -> Result<()> {
        let prefixes = end.prefixes()?;
        let set = |netlink: &mut Netlink| {
            let index = netlink.require_link(&end.name)?.index;
            if let Some(mac) = end.mac {
                netlink.set_mac(index, mac)?;
            }
            if let Some(mtu) = end.mtu {
                netlink.set_mtu(index, mtu)?;
            }
            for &prefix in &prefixes {
                netlink.add_address(index, prefix)?;
            }
            netlink.set_up(index, true)
        };
        let node = self.find(&end.node)?;
        let what = || format!("interface {} of {}", end.name, end.node);
        if end.frame_by_frame {
            node.run(|| ethtool::set_super_packets(&end.name, false)).doing(what)?;
        }
        node.netlink().and_then(|mut n| set(&mut n)).doing(what)
    }

    /// The kernel reports a new carrier, and lets packets out, up to a second late (link_watch.c);
    /// what is sent before is lost.
    fn wait_for_carrier(&self, end: &End) -> Result<()> {
        let what = || format!("carrier of {} at {}", end.name, end.node);
        let mut netlink = self.find(&end.node)?.netlink().doing(what)?;
        let started = Instant::now();
        while !netlink.require_link(&end.name).doing(what)?.running {
            if started.elapsed() > CARRIER_WAIT {
                return Err(std::io::Error::from(std::io::ErrorKind::TimedOut)).doing(what);
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    fn make_bridge(&self, bridge: &Bridge) -> Result<()> {
        let Bridge { end, ports } = bridge;
        let enslave = |netlink: &mut Netlink| {
            netlink.create_bridge(&end.name)?;
            let controller = netlink.require_link(&end.name)?.index;
            for port in ports {
                let index = netlink.require_link(port)?.index;
                netlink.set_controller(index, Some(controller))?;
            }
            Ok(())
        };
        self.find(&end.node)?
            .netlink()
            .and_then(|mut n| enslave(&mut n))
            .doing(|| format!("bridge {} of {}", end.name, end.node))?;
        self.configure(end)
    }
}

/// The kernel's rules (dev_valid_name).
fn is_interface_name(name: &str) -> bool {
    (1..=LONGEST_NAME).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace())
}

fn prefix(text: &str) -> Result<Prefix> {
    text.parse()
        .map_err(|_| LabError::Invalid(format!("{text:?} is not an address with a prefix length")))
}

fn address(text: &str) -> Result<Addr> {
    text.parse().map_err(|_| LabError::Invalid(format!("{text:?} is not an address")))
}

fn destination(to: &str, hop: Addr) -> Result<Prefix> {
    let prefix = match to {
        "default" if hop.is_v4() => prefix("0.0.0.0/0")?,
        "default" => prefix("::/0")?,
        _ => match to.parse::<Addr>() {
            Ok(address) => Prefix::host(address),
            Err(_) => prefix(to)?,
        },
    };
    if prefix.addr().is_v4() != hop.is_v4() {
        let text = format!("route to {prefix}: the next hop {hop} is of the other family");
        return Err(LabError::Invalid(text));
    }
    Ok(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Topology {
        Topology::new().host("a").host("b")
    }

    #[test]
    fn descriptions_that_make_no_sense() {
        let link = |t: Topology| t.link(End::new("a", "eth0"), End::new("b", "eth0"));
        let rows: Vec<(Topology, &str)> = vec![
            (two().host("a"), "node a is described twice"),
            (two().link(End::new("a", "eth0"), End::new("c", "eth0")), "no node c"),
            (link(link(two())), "a has two interfaces eth0"),
            (two().link(End::new("a", "lo"), End::new("b", "x")), "a has two interfaces lo"),
            (two().link(End::new("a", "a/b"), End::new("b", "x")), "cannot be the name"),
            (
                two().link(End::new("a", "x").address("10.0.0.300/8"), End::new("b", "x")),
                "not an address with a prefix length",
            ),
            (two().bridge(End::new("a", "br0"), &["p1"]), "bridge br0: a has no p1"),
            (two().route("a", "default", "10.0.0.x"), "\"10.0.0.x\" is not an address"),
            (two().route("a", "fd00::/64", "10.0.0.1"), "of the other family"),
            (two().route("c", "default", "10.0.0.1"), "no node c"),
            (two().sysctl("c", "net.ipv4.ip_forward", "1"), "no node c"),
        ];
        for (topology, want) in rows {
            let error = topology.check().expect_err(want).to_string();
            assert!(error.contains(want), "{error} instead of {want}");
        }
        link(two()).check().expect("nothing is wrong with this one");
    }

    #[test]
    fn destinations() {
        for (to, via, want) in [
            ("default", "10.0.0.1", "0.0.0.0/0"),
            ("default", "fd00::1", "::/0"),
            ("198.51.100.10", "10.0.0.1", "198.51.100.10/32"),
            ("192.0.2.0/24", "10.0.0.1", "192.0.2.0/24"),
        ] {
            let hop = address(via).expect("an address");
            assert_eq!(destination(to, hop).expect(to), prefix(want).expect(want));
        }
    }

    #[test]
    fn interface_names() {
        for name in ["eth0", "ppp0", "br-lan.10", "abcdefghijklmno"] {
            assert!(is_interface_name(name), "{name}");
        }
        for name in ["", ".", "..", "a b", "a:b", "abcdefghijklmnop"] {
            assert!(!is_interface_name(name), "{name}");
        }
    }
}
