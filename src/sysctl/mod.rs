//! Kernel parameters that mean something to a gateway, with the kernel's defaults.
//!
//! A parameter is named as in `/proc/sys` (the table of [`Parameter`]s lists those that are known), comes from
//! sysctl.d text ([`Assignments`]) or from `[sysctl]` in `gateway.toml`, and is read by the engine
//! through typed accessors that combine `all`, `default` and the interface as the kernel does.
//!
//! One default differs from the kernel's: forwarding is on, for a gateway that doesn't forward
//! is none. `net.ipv4.ip_forward = 0` still turns it off.

use std::collections::BTreeMap;
use std::time::Duration;
use tidegate_packet::Family;

mod table;
mod text;

pub use table::{Kind, Parameter, Support};
pub use text::{Assignments, Unknown};

/// A parameter's value.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A number; flags are 0 and 1.
    Number(i64),
    /// A set of numbers from 0 to 255, bit `n % 64` of word `n / 64` standing for `n`.
    Set([u64; 4]),
}

/// Values of all parameters: those that were set, the kernel's defaults for the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sysctls {
    /// By the canonical name, components joined by `/` (an interface's name may hold dots).
    set: BTreeMap<String, Value>,
}

/// The reverse path check of an interface (RFC 3704).
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum RpFilter {
    /// No check.
    Off,
    /// The route back to the source must leave by the interface the packet came from.
    Strict,
    /// There must be a route back.
    Loose,
}

impl Sysctls {
    /// Whether IPv4 packets are forwarded at all (`net.ipv4.ip_forward`).
    pub fn ip_forward(&self) -> bool {
        self.flag("net/ipv4/ip_forward")
    }

    /// Whether packets that arrive on `interface` are forwarded. In IPv4 that is the interface's
    /// own value; in IPv6 `conf.all.forwarding` alone decides.
    pub fn forwarding(&self, family: Family, interface: &str) -> bool {
        match family {
            Family::V4 => self.conf(Family::V4, interface, "forwarding") != 0,
            Family::V6 => self.flag("net/ipv6/conf/all/forwarding"),
        }
    }

    /// The reverse path check of IPv4 packets that arrive on `interface`: the larger of the
    /// interface's value and that of `all`.
    pub fn rp_filter(&self, interface: &str) -> RpFilter {
        match self.conf_max(Family::V4, interface, "rp_filter") {
            0 => RpFilter::Off,
            1 => RpFilter::Strict,
            _ => RpFilter::Loose,
        }
    }

    /// Whether packets to and from 127.0.0.0/8 are routed on `interface`.
    pub fn route_localnet(&self, interface: &str) -> bool {
        self.conf_max(Family::V4, interface, "route_localnet") != 0
    }

    /// Whether senders are told of a better first hop on their own link; `all` or the interface
    /// turns it on.
    pub fn send_redirects(&self, interface: &str) -> bool {
        self.conf_max(Family::V4, interface, "send_redirects") != 0
    }

    /// Whether IPv4 packets that arrive on `interface` may name routers on their way; both `all`
    /// and the interface have to allow it.
    pub fn accept_source_route(&self, interface: &str) -> bool {
        let allowed = |name| self.conf(Family::V4, name, "accept_source_route") != 0;
        allowed(interface) && allowed("all")
    }

    /// Whether echo requests to the gateway stay unanswered.
    pub fn icmp_echo_ignore_all(&self, family: Family) -> bool {
        match family {
            Family::V4 => self.flag("net/ipv4/icmp_echo_ignore_all"),
            Family::V6 => self.flag("net/ipv6/icmp/echo_ignore_all"),
        }
    }

    /// Whether echo and timestamp requests to a broadcast (IPv6: multicast) address stay
    /// unanswered.
    pub fn icmp_echo_ignore_broadcasts(&self, family: Family) -> bool {
        match family {
            Family::V4 => self.flag("net/ipv4/icmp_echo_ignore_broadcasts"),
            Family::V6 => self.flag("net/ipv6/icmp/echo_ignore_multicast"),
        }
    }

    /// Time between two limited ICMP messages to one destination; zero lifts the limit.
    pub fn icmp_ratelimit(&self, family: Family) -> Duration {
        let millis = match family {
            Family::V4 => self.number("net/ipv4/icmp_ratelimit"),
            Family::V6 => self.number("net/ipv6/icmp/ratelimit"),
        };
        Duration::from_millis(u64::try_from(millis).unwrap_or(0))
    }

    /// The ICMP message types that fall under [`Sysctls::icmp_ratelimit`], a bit each.
    pub fn icmp_ratemask(&self, family: Family) -> [u64; 4] {
        match family {
            Family::V4 => [self.number("net/ipv4/icmp_ratemask") as u64 & 0xffff_ffff, 0, 0, 0],
            Family::V6 => match self.value("net/ipv6/icmp/ratemask") {
                Value::Set(words) => words,
                _ => [0; 4],
            },
        }
    }

    /// Limited ICMP messages a second to all destinations together.
    pub fn icmp_msgs_per_sec(&self) -> u32 {
        self.u32("net/ipv4/icmp_msgs_per_sec")
    }

    /// How many limited ICMP messages may go at once before
    /// [`Sysctls::icmp_msgs_per_sec`] holds them back.
    pub fn icmp_msgs_burst(&self) -> u32 {
        self.u32("net/ipv4/icmp_msgs_burst")
    }

    /// How long an incomplete datagram is kept (`ipfrag_time`, `nf_conntrack_frag6_timeout`).
    pub fn fragment_time(&self, family: Family) -> Duration {
        let seconds = match family {
            Family::V4 => self.number("net/ipv4/ipfrag_time"),
            Family::V6 => self.number("net/netfilter/nf_conntrack_frag6_timeout"),
        };
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    }

    /// How many bytes incomplete datagrams may hold together (`…_high_thresh`).
    pub fn fragment_bytes(&self, family: Family) -> usize {
        let bytes = match family {
            Family::V4 => self.number("net/ipv4/ipfrag_high_thresh"),
            Family::V6 => self.number("net/netfilter/nf_conntrack_frag6_high_thresh"),
        };
        usize::try_from(bytes).unwrap_or(0)
    }

    /// TTL of the gateway's own IPv4 packets.
    pub fn ip_default_ttl(&self) -> u8 {
        u8::try_from(self.number("net/ipv4/ip_default_ttl")).unwrap_or(64)
    }

    /// A connection tracking parameter, named without `nf_conntrack_`: `tcp_timeout_syn_sent`,
    /// `udp_timeout`, `max`, … `None` for a name that the kernel
    /// doesn't have or the gateway ignores.
    pub fn conntrack(&self, name: &str) -> Option<i64> {
        let key = format!("net/netfilter/nf_conntrack_{name}");
        match self.lookup(&key)? {
            Value::Number(n) => Some(n),
            _ => None,
        }
    }

    /// All connection tracking parameters that are honoured, names without `nf_conntrack_`.
    pub fn conntrack_all(&self) -> impl Iterator<Item = (&'static str, i64)> {
        table::PARAMETERS.iter().filter_map(|p| {
            let name = p.pattern.strip_prefix("net/netfilter/nf_conntrack_")?;
            Some((name, self.conntrack(name)?))
        })
    }

    /// Whether INVALID packets that a source NAT rule covers leave untranslated, as they do from
    /// the kernel; off, they are dropped.
    pub fn invalid_bypasses_nat(&self) -> bool {
        self.flag("tidegate/invalid_bypasses_nat")
    }

    /// Whether packets of flows about which everything is decided are spared the rules.
    pub fn short_way(&self) -> bool {
        self.flag("tidegate/short_way")
    }

    /// Whether the kernel may forward flows of many packets about which everything is decided.
    pub fn bypass(&self) -> bool {
        self.flag("tidegate/bypass")
    }

    /// Whether the FTP helper expects connections to addresses that aren't the announcer's, as with
    /// `loose=1` of nf_conntrack_ftp.
    pub fn ftp_loose(&self) -> bool {
        self.flag("tidegate/ftp_loose")
    }

    /// Whether fragments meet the raw table one by one, before they are put together, as with
    /// `raw_before_defrag=1` of iptable_raw. Then `CT --zone` keeps those of different zones apart.
    pub fn raw_before_defrag(&self) -> bool {
        self.flag("tidegate/raw_before_defrag")
    }

    /// An interface's own value: what was set for it, else for `default`.
    fn conf(&self, family: Family, interface: &str, name: &str) -> i64 {
        let version = if family == Family::V4 { 4 } else { 6 };
        let own = format!("net/ipv{version}/conf/{interface}/{name}");
        match self.set.get(&own) {
            Some(Value::Number(n)) => *n,
            _ if interface == "all" => self.number(&own),
            _ => self.number(&format!("net/ipv{version}/conf/default/{name}")),
        }
    }

    fn conf_max(&self, family: Family, interface: &str, name: &str) -> i64 {
        self.conf(family, interface, name).max(self.conf(family, "all", name))
    }

    /// What was set, else the default. `None` if there is no such parameter or it is ignored.
    pub fn lookup(&self, key: &str) -> Option<Value> {
        self.set.get(key).copied().or_else(|| table::find(key)?.default_value())
    }

    fn value(&self, key: &str) -> Value {
        self.lookup(key).unwrap_or(Value::Number(0))
    }

    fn number(&self, key: &str) -> i64 {
        match self.value(key) {
            Value::Number(n) => n,
            _ => 0,
        }
    }

    fn u32(&self, key: &str) -> u32 {
        u32::try_from(self.number(key)).unwrap_or(0)
    }

    fn flag(&self, key: &str) -> bool {
        self.number(key) != 0
    }
}
