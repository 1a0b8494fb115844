//! Routes: longest-prefix match over what the gateway is, what it is connected to, and what it
//! was told.

use super::interface::{InterfaceId, Interfaces, LOOPBACK};
use prefix_trie::PrefixMap;
use tidegate_packet::{Addr, Family, Prefix};

/// Where a route leads.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The gateway's own address, on this interface.
    Local(InterfaceId),
    /// A broadcast address of this interface.
    Broadcast(InterfaceId),
    /// Out by this interface, through a next hop or, without one, on the link.
    Unicast {
        /// Egress.
        egress: InterfaceId,
        /// Next hop.
        via: Option<Addr>,
    },
    /// Dropped silently.
    Blackhole,
    /// Answered with host unreachable.
    Unreachable,
    /// Answered with administratively prohibited.
    Prohibit,
}

/// A route of the configuration.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct StaticRoute {
    /// Destinations.
    pub to: Prefix,
    /// Where to.
    pub target: Target,
    /// The lowest wins among routes to the same prefix.
    pub metric: u32,
    /// A DHCP lease brought it.
    pub leased: bool,
}

/// The answer to a look-up: the target and the length of the prefix that matched.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where the packet goes.
    pub target: Target,
    /// Prefix length of the route, in the family's own bits.
    pub prefix_len: u8,
}

type Trie<A> = PrefixMap<(A, u8), Target>;

/// The routing table. As in Linux's two tables, own and broadcast addresses are looked up before
/// everything else, whatever the prefix lengths.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    local: std::collections::HashMap<Addr, Target, foldhash::fast::RandomState>,
    v4: Trie<u32>,
    v6: Trie<u128>,
}

impl Routes {
    /// Builds the table from interface addresses and static routes.
    pub fn build(interfaces: &Interfaces, statics: &[StaticRoute]) -> Self {
        let mut routes = Self::default();
        for (id, interface) in interfaces.iter() {
            for prefix in &interface.addresses {
                routes.local.insert(prefix.addr(), Target::Local(id));
                if id == LOOPBACK || prefix.addr().is_v6_link_local() {
                    continue;
                }
                // A /31 and a /32 have no broadcast address (RFC 3021).
                if let Some(broadcast) = prefix.broadcast() {
                    routes.local.entry(broadcast).or_insert(Target::Broadcast(id));
                }
                routes.add(prefix.network(), Target::Unicast { egress: id, via: None });
            }
        }
        let mut sorted = statics.to_vec();
        sorted.sort_by_key(|r| r.metric);
        for route in sorted {
            routes.add(route.to.network(), route.target);
        }
        routes
    }

    /// Adds a route unless there is one to the same prefix.
    fn add(&mut self, to: Prefix, target: Target) {
        match to.addr().family() {
            Family::V4 => self.v4.entry((to.addr().v4_u32(), to.len())).or_insert(target),
            Family::V6 => self.v6.entry((to.addr().bits(), to.len())).or_insert(target),
        };
    }

    /// The best route to `dst`. For IPv6 link-local destinations, which every link has, `link` is
    /// the interface meant.
    pub fn lookup(&self, dst: Addr, link: Option<InterfaceId>) -> Option<Found> {
        let elsewhere = |target| {
            dst.is_v6_link_local()
                && matches!((target, link), (Target::Local(id), Some(link)) if id != link)
        };
        if let Some(&target) = self.local.get(&dst).filter(|t| !elsewhere(**t)) {
            return Some(Found { target, prefix_len: dst.family().bits() });
        }
        // All of 127.0.0.0/8 is here, as in Linux's local table; a default route must not have it.
        if dst.is_loopback() {
            let target = Target::Local(LOOPBACK);
            return Some(Found { target, prefix_len: if dst.is_v4() { 8 } else { 128 } });
        }
        if dst.is_v6_link_local() {
            let egress = link?;
            return Some(Found { target: Target::Unicast { egress, via: None }, prefix_len: 64 });
        }
        match dst.family() {
            Family::V4 => self.v4.get_lpm(&(dst.v4_u32(), 32)).map(|(k, t)| (k.1, *t)),
            Family::V6 => self.v6.get_lpm(&(dst.bits(), 128)).map(|(k, t)| (k.1, *t)),
        }
        .map(|(prefix_len, target)| Found { target, prefix_len })
    }

    /// Whether an address is one of the gateway's own.
    #[inline]
    pub fn is_local(&self, addr: Addr) -> bool {
        matches!(self.local.get(&addr), Some(Target::Local(_)))
    }
}

/// What the reverse path check found (RFC 3704; Linux's `fib_validate_source`).
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum SourceCheck {
    /// Go on.
    Fine,
    /// The address can't be a source.
    Martian,
    /// An answer would leave by another interface, or by none.
    ReversePath,
}

impl Routes {
    /// Checks an IPv4 source address. `rp_filter` is the effective value: 0 off, 1 strict, 2 loose.
    /// `turns_back` says that the packet will leave by the interface it came in by, which makes
    /// Linux look at the route even with the filter off.
    pub fn check_source(
        &self,
        src: Addr,
        input: InterfaceId,
        rp_filter: u8,
        turns_back: bool,
    ) -> SourceCheck {
        if rp_filter == 0 && !turns_back {
            return if self.is_local(src) { SourceCheck::Martian } else { SourceCheck::Fine };
        }
        match self.lookup(src, Some(input)).map(|f| f.target) {
            Some(Target::Unicast { egress, .. }) if egress == input || rp_filter != 1 => {
                SourceCheck::Fine
            }
            Some(Target::Unicast { .. }) => SourceCheck::ReversePath,
            Some(_) => SourceCheck::Martian,
            None if rp_filter == 0 => SourceCheck::Fine,
            None => SourceCheck::ReversePath,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::interface::Interface;
    use super::*;
    use tidegate_packet::MacAddr;

    fn table() -> (Interfaces, Routes) {
        let mut interfaces = Interfaces::new();
        for (name, addr) in
            [("eth0", "192.168.0.1/24"), ("eth1", "10.3.0.1/16"), ("ppp0", "203.0.113.1/24")]
        {
            let mut i = Interface::new(name, MacAddr([2, 0, 0, 0, 0, 1]), 1500);
            i.addresses.push(addr.parse().unwrap());
            interfaces.add(i, &[name]);
        }
        let ppp0 = interfaces.by_name("ppp0").unwrap();
        let via = |to: &str, via: &str, metric| StaticRoute {
            to: to.parse().unwrap(),
            target: Target::Unicast { egress: ppp0, via: Some(via.parse().unwrap()) },
            metric,
            leased: false,
        };
        let statics = [
            via("0.0.0.0/0", "203.0.113.3", 100),
            via("0.0.0.0/0", "203.0.113.2", 0),
            via("10.3.128.0/17", "203.0.113.9", 0),
            StaticRoute {
                to: "10.9.0.0/16".parse().unwrap(),
                target: Target::Blackhole,
                metric: 0,
                leased: false,
            },
        ];
        let routes = Routes::build(&interfaces, &statics);
        (interfaces, routes)
    }

    #[test]
    fn longest_prefix_wins() {
        let (interfaces, routes) = table();
        for (dst, egress, via) in [
            ("8.8.8.8", "ppp0", Some("203.0.113.2")),
            ("10.3.0.7", "eth1", None),
            ("10.3.200.7", "ppp0", Some("203.0.113.9")),
            ("192.168.0.77", "eth0", None),
        ] {
            let found = routes.lookup(dst.parse().unwrap(), None).unwrap().target;
            let want = Target::Unicast {
                egress: interfaces.by_name(egress).unwrap(),
                via: via.map(|v| v.parse().unwrap()),
            };
            assert_eq!(found, want, "{dst}");
        }
        let target = |dst: &str| routes.lookup(dst.parse().unwrap(), None).map(|f| f.target);
        assert_eq!(target("10.9.1.1"), Some(Target::Blackhole));
        assert!(matches!(target("192.168.0.1"), Some(Target::Local(_))));
        assert!(matches!(target("192.168.0.255"), Some(Target::Broadcast(_))));
        assert_eq!(target("127.9.9.9"), Some(Target::Local(LOOPBACK)));
        assert_eq!(target("2001:db8::1"), None);
    }

    #[test]
    fn sources_are_checked_as_linux_does() {
        let (interfaces, routes) = table();
        let eth0 = interfaces.by_name("eth0").unwrap();
        for (src, rp_filter, want) in [
            ("192.168.0.9", 1, SourceCheck::Fine),
            ("192.168.0.0", 1, SourceCheck::Fine),
            ("192.168.0.255", 1, SourceCheck::Martian),
            ("192.168.0.255", 0, SourceCheck::Fine),
            ("8.8.8.8", 1, SourceCheck::ReversePath),
            ("8.8.8.8", 2, SourceCheck::Fine),
            ("8.8.8.8", 0, SourceCheck::Fine),
            ("10.3.0.1", 0, SourceCheck::Martian),
            ("10.3.0.1", 2, SourceCheck::Martian),
        ] {
            assert_eq!(
                routes.check_source(src.parse().unwrap(), eth0, rp_filter, false),
                want,
                "{src} rp_filter {rp_filter}"
            );
        }
    }
}
