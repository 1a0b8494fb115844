//! What the gateway is told to be: interfaces, routes, rules files, sysctls.
//!
//! Two sources speak: `gateway.toml` and the flags of `tidegate run` ([`Flags`]). Both
//! fill a draft in which every value still knows the place it was written at. Validation turns
//! the draft into a [`Config`] or into a list of everything that is wrong with it; a [`Config`]
//! has no places any more and no contradictions. Flags win over the file:
//!
//! - `--workers`, `--control`, `--rules`, `--rules6`, `--sets`, `--log`, `--nflog`, `--state` replace
//!   the file's value.
//! - `--lan NAME=…` and `--uplink NAME=…` replace the addresses of the file's interface of that
//!   name and keep its kind, ports, MAC address and MTU; an unknown name adds an interface.
//! - `--uplink NAME=…,via=A` replaces the file's default routes of A's family.
//! - `--sysctl FILE` is read after the file's `[sysctl]`, so its settings win key by key.

use crate::diagnostic::{Diagnostic, Report, Source};
use crate::sysctl::Sysctls;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tidegate_packet::{Addr, Family, MacAddr, Prefix};

mod draft;
mod file;
mod flags;
#[cfg(test)]
mod tests;
mod toml;
mod validate;

pub use flags::Flags;

/// Where the control socket appears unless told otherwise.
pub const DEFAULT_CONTROL: &str = "/run/tidegate/control.sock";

/// The socket of the host's syslog daemon.
pub const SYSLOG: &str = "/dev/log";

/// How often the state is saved unless told otherwise.
pub const DEFAULT_STATE_INTERVAL: Duration = Duration::from_secs(600);

/// Most workers that can be asked for.
pub const MAX_WORKERS: usize = 256;

/// A configuration without contradictions.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Workers, one thread each.
    pub workers: usize,
    /// Path of the control socket.
    pub control: PathBuf,
    /// The interfaces, in the order they were written. Never empty; names are unique, bridge
    /// ports included.
    pub interfaces: Vec<Interface>,
    /// Static routes. The routes to the interfaces' own networks aren't among them.
    pub routes: Vec<Route>,
    /// The rules files.
    pub rules: Rules,
    /// Kernel parameters that mean something to a gateway.
    pub sysctls: Sysctls,
    /// A TUN device that carries the gateway's addresses in the namespace's own kernel; absent,
    /// the built-in host stands behind the INPUT chain.
    pub host: Option<HostDevice>,
    /// Where log lines and packets of NFLOG go.
    pub log: Log,
    /// Where rules and what they remember are kept from one run to the next.
    pub state: Option<State>,
}

/// Where log lines and packets of NFLOG go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// Lines.
    pub to: LogTo,
    /// pcapng files of NFLOG's groups; that without a group is for all that have none of their own.
    /// Packets of groups without a file become lines.
    pub nflog: BTreeMap<Option<u16>, PathBuf>,
}

/// Where log lines go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LogTo {
    /// Standard error, each with `<LEVEL>` in front.
    #[default]
    Stderr,
    /// The socket of a syslog daemon.
    Syslog(PathBuf),
    /// A file, which is continued.
    File(PathBuf),
}

/// What is kept from one run to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The file.
    pub file: PathBuf,
    /// How often it is written besides at the end; absent: not at all.
    pub every: Option<Duration>,
}

/// One interface as rules see it with `-i` and `-o`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// The device behind it.
    pub kind: Kind,
    /// Its addresses.
    pub addresses: Addresses,
    /// Link address to use instead of the device's own (for a bridge: of a derived one).
    pub mac: Option<MacAddr>,
    /// Largest packet to send instead of the device's own MTU.
    pub mtu: Option<u32>,
    /// Metric of the default route that DHCP brings.
    pub dhcp_metric: u32,
    /// Named by `--uplink`. [`Config::is_uplink`] is the question to ask.
    pub uplink: bool,
}

/// What an interface is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An existing network device, driven through packet sockets.
    AfPacket,
    /// A TAP device, made when it isn't there.
    Tap,
    /// A learning bridge over at least one port.
    Bridge(Vec<Port>),
}

/// A bridge's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Name of the device.
    pub name: String,
    /// How it is driven.
    pub kind: PortKind,
}

/// How a bridge's port is driven.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum PortKind {
    /// An existing network device, through packet sockets.
    AfPacket,
    /// A TAP device, made when it isn't there.
    Tap,
}

/// Where an interface's addresses come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// From the kernel: what the device carries when the gateway starts, its routes too. Only for
    /// [`Kind::AfPacket`].
    Adopt,
    /// As configured.
    Given {
        /// Fixed addresses with the prefix of their network; may be empty.
        prefixes: Vec<Prefix>,
        /// Ask a DHCP server for an IPv4 address, and a default route, besides.
        dhcp: bool,
    },
}

impl Addresses {
    /// The fixed addresses.
    pub fn prefixes(&self) -> &[Prefix] {
        match self {
            Self::Adopt => &[],
            Self::Given { prefixes, .. } => prefixes,
        }
    }

    /// Whether DHCP is asked for one.
    pub fn dhcp(&self) -> bool {
        matches!(self, Self::Given { dhcp: true, .. })
    }
}

/// A static route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destinations; the host bits are zero.
    pub to: Prefix,
    /// The next hop, of the same family; absent, destinations are on the link.
    pub via: Option<Addr>,
    /// Name of the interface. A unicast route has this or a next hop on an interface's network;
    /// a next hop without it may also be on a network that only adoption or DHCP will bring.
    pub dev: Option<String>,
    /// Of equal prefixes the smallest metric wins.
    pub metric: u32,
    /// What happens to packets.
    pub kind: RouteKind,
}

/// What a route does with packets.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// Forwards them.
    Unicast,
    /// Drops them silently.
    Blackhole,
    /// Answers host unreachable (IPv6: no route to destination).
    Unreachable,
    /// Answers communication administratively prohibited.
    Prohibit,
}

/// The rules files; an absent one means the built-in gateway rules of that family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// `iptables-save` text.
    pub ipv4: Option<PathBuf>,
    /// `ip6tables-save` text.
    pub ipv6: Option<PathBuf>,
    /// `ipset save` text; absent: no sets at the start.
    pub sets: Option<PathBuf>,
}

/// The device that joins the gateway to the namespace's own kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostDevice {
    /// Name of the TUN device.
    pub device: String,
}

/// A configuration and what was left out of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Things that were written and do nothing.
    pub warnings: Vec<Diagnostic>,
}

impl Config {
    /// Reads a configuration file, if one is given, and puts the flags over it. Paths in the file
    /// are relative to its folder, paths in flags to the current one. In case of errors the report
    /// holds all of them.
    pub fn load(file: Option<&Path>, flags: &Flags) -> Result<Loaded, Report> {
        let Some(path) = file else { return Self::from_parts(None, flags) };
        let source = Source::read(path).map_err(|error| Report::from(*error))?;
        Self::from_parts(Some((&source, path.parent().unwrap_or(Path::new("")))), flags)
    }

    /// The same from a text in memory and the folder its relative paths start from.
    pub fn from_parts(
        file: Option<(&Arc<Source>, &Path)>,
        flags: &Flags,
    ) -> Result<Loaded, Report> {
        let mut report = Report::default();
        let mut draft = match file {
            Some((source, folder)) => file::read(source, folder, &mut report),
            None => draft::Draft::default(),
        };
        flags::apply(flags, &mut draft, &mut report);
        match validate::validate(draft, &mut report) {
            Some(config) => Ok(Loaded { config, warnings: report.diagnostics }),
            None => Err(report),
        }
    }

    /// The interface of that name; bridge ports aren't interfaces.
    pub fn interface(&self, name: &str) -> Option<&Interface> {
        self.interfaces.iter().find(|i| i.name == name)
    }

    /// The interface that a unicast route leaves by, as far as it can be told from `dev` and the
    /// configured addresses.
    pub fn route_interface(&self, route: &Route) -> Option<&Interface> {
        if let Some(dev) = &route.dev {
            return self.interface(dev);
        }
        let via = route.via?;
        self.interfaces.iter().find(|i| i.addresses.prefixes().iter().any(|p| p.contains(via)))
    }

    /// Whether an interface leads to the rest of the world: `--uplink` or DHCP or a default route.
    pub fn is_uplink(&self, interface: &Interface) -> bool {
        interface.uplink
            || interface.addresses.dhcp()
            || self.routes.iter().any(|r| {
                r.kind == RouteKind::Unicast
                    && r.to.is_empty()
                    && self.route_interface(r).is_some_and(|i| i.name == interface.name)
            })
    }

    /// How the port of this name is driven and whether it is a bridge's.
    pub fn port(&self, name: &str) -> Option<(PortKind, bool)> {
        self.interfaces.iter().find_map(|interface| match &interface.kind {
            Kind::AfPacket => (interface.name == name).then_some((PortKind::AfPacket, false)),
            Kind::Tap => (interface.name == name).then_some((PortKind::Tap, false)),
            Kind::Bridge(ports) => {
                ports.iter().find(|port| port.name == name).map(|port| (port.kind, true))
            }
        })
    }

    /// The interfaces that lead to the rest of the world.
    pub fn uplinks(&self) -> impl Iterator<Item = &Interface> {
        self.interfaces.iter().filter(|i| self.is_uplink(i))
    }

    /// All other interfaces.
    pub fn lans(&self) -> impl Iterator<Item = &Interface> {
        self.interfaces.iter().filter(|i| !self.is_uplink(i))
    }

    /// The rules file of a family.
    pub fn rules_file(&self, family: Family) -> Option<&PathBuf> {
        match family {
            Family::V4 => self.rules.ipv4.as_ref(),
            Family::V6 => self.rules.ipv6.as_ref(),
        }
    }
}
