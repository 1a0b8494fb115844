//! The rules of a gateway that was given none: a stateful firewall with masquerading.
//!
//! The gateway answers pings and refuses the rest; hosts on the LANs may open connections to
//! anywhere, and nobody else may; what leaves by an uplink with a LAN's IPv4 source gets the
//! uplink's address. IPv6 is forwarded under the same rules without translation. The text is what
//! `iptables-save` would print, so that it can be kept as a file and worked on.

use crate::config::{Config, Interface};
use std::fmt::Write;
use tidegate_packet::{Family, Prefix};

/// An interface as far as rules speak of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    /// Its name.
    pub name: String,
    /// Networks behind it: its own, and those with a static route through it.
    pub networks: Vec<Prefix>,
}

/// What the rules are made for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// Interfaces with hosts that may open connections.
    pub lans: Vec<Side>,
    /// Interfaces that lead to the rest of the world.
    pub uplinks: Vec<Side>,
}

impl Topology {
    /// From a configuration, as far as addresses are known.
    pub fn of(config: &Config) -> Self {
        let side = |interface: &Interface| {
            let own = interface.addresses.prefixes().iter();
            let mut networks: Vec<Prefix> = own.map(Prefix::network).collect();
            networks.extend(config.routes.iter().filter_map(|r| {
                let behind = config.route_interface(r).is_some_and(|i| i.name == interface.name);
                (behind && !r.to.is_empty()).then_some(r.to)
            }));
            Side { name: interface.name.clone(), networks }
        };
        Self {
            lans: config.lans().map(side).collect(),
            uplinks: config.uplinks().map(side).collect(),
        }
    }
}

/// The rules of one family as `iptables-save` text.
pub fn text(family: Family, topology: &Topology) -> String {
    let mut out = String::new();
    let result = match family {
        Family::V4 => filter_v4(&mut out, topology).and_then(|()| nat_v4(&mut out, topology)),
        Family::V6 => filter_v6(&mut out, topology),
    };
    debug_assert!(result.is_ok(), "writing to a string can't fail");
    out
}

const CHAINS: &str = "*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:TCP - [0:0]
:UDP - [0:0]
:fw-interfaces - [0:0]
:fw-open - [0:0]
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -i lo -j ACCEPT
-A INPUT -m conntrack --ctstate INVALID -j DROP
";

const NEW_TO_CHAINS: &str = "-A INPUT -p udp -m conntrack --ctstate NEW -j UDP
-A INPUT -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -m conntrack --ctstate NEW -j TCP
";

const FORWARD: &str = "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -j fw-interfaces
-A FORWARD -j fw-open
";

fn filter_v4(out: &mut String, topology: &Topology) -> std::fmt::Result {
    out.push_str(CHAINS);
    out.push_str("-A INPUT -p icmp -m icmp --icmp-type 8 -m conntrack --ctstate NEW -j ACCEPT\n");
    out.push_str(NEW_TO_CHAINS);
    out.push_str("-A INPUT -p udp -j REJECT --reject-with icmp-port-unreachable\n");
    out.push_str("-A INPUT -p tcp -j REJECT --reject-with tcp-reset\n");
    out.push_str("-A INPUT -j REJECT --reject-with icmp-proto-unreachable\n");
    out.push_str(FORWARD);
    out.push_str("-A FORWARD -j REJECT --reject-with icmp-host-unreachable\n");
    fw_interfaces(out, topology)
}

/// Neighbour discovery isn't tracked, so that it must be let in whatever its state: from
/// link-local addresses, from the networks on the links, and from hosts that test an address
/// before they take it (RFC 4862 section 5.4.2).
fn filter_v6(out: &mut String, topology: &Topology) -> std::fmt::Result {
    out.push_str(CHAINS);
    out.push_str("-A INPUT -s fe80::/10 -p ipv6-icmp -j ACCEPT\n");
    let sides = topology.lans.iter().chain(&topology.uplinks);
    for network in sides.flat_map(|s| &s.networks) {
        if !network.addr().is_v4() && !network.addr().is_v6_link_local() {
            writeln!(out, "-A INPUT -s {network} -p ipv6-icmp -j ACCEPT")?;
        }
    }
    out.push_str("-A INPUT -s ::/128 -p ipv6-icmp -m icmp6 --icmpv6-type 135 -j ACCEPT\n");
    out.push_str(
        "-A INPUT -p ipv6-icmp -m icmp6 --icmpv6-type 128 -m conntrack --ctstate NEW -j ACCEPT\n",
    );
    out.push_str("-A INPUT -p udp -m udp --sport 547 --dport 546 -j ACCEPT\n");
    out.push_str(NEW_TO_CHAINS);
    out.push_str("-A INPUT -p udp -j REJECT --reject-with icmp6-adm-prohibited\n");
    out.push_str("-A INPUT -p tcp -j REJECT --reject-with tcp-reset\n");
    out.push_str("-A INPUT -j REJECT --reject-with icmp6-adm-prohibited\n");
    out.push_str(FORWARD);
    out.push_str("-A FORWARD -j REJECT --reject-with icmp6-adm-prohibited\n");
    fw_interfaces(out, topology)
}

fn fw_interfaces(out: &mut String, topology: &Topology) -> std::fmt::Result {
    for lan in &topology.lans {
        writeln!(out, "-A fw-interfaces -i {} -j ACCEPT", lan.name)?;
    }
    out.push_str("COMMIT\n");
    Ok(())
}

fn nat_v4(out: &mut String, topology: &Topology) -> std::fmt::Result {
    out.push_str("*nat\n");
    for chain in ["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"] {
        writeln!(out, ":{chain} ACCEPT [0:0]")?;
    }
    for network in topology.lans.iter().flat_map(|l| &l.networks) {
        for uplink in topology.uplinks.iter().filter(|_| network.addr().is_v4()) {
            writeln!(out, "-A POSTROUTING -s {network} -o {} -j MASQUERADE", uplink.name)?;
        }
    }
    out.push_str("COMMIT\n");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Flags;

    fn topology() -> Topology {
        let flags = Flags {
            lan: vec!["lan0=192.168.0.1/24,fd00:1::1/64".into(), "lan1=10.3.0.1/16".into()],
            uplink: vec!["wan0=203.0.113.1/24,2001:db8:1::1/64,via=203.0.113.2".into()],
            ..Flags::default()
        };
        let mut config = Config::from_parts(None, &flags).unwrap().config;
        config.routes.push(crate::config::Route {
            to: "172.16.0.0/12".parse().unwrap(),
            via: Some("10.3.0.9".parse().unwrap()),
            dev: None,
            metric: 0,
            kind: crate::config::RouteKind::Unicast,
        });
        Topology::of(&config)
    }

    #[test]
    fn ipv4_rules_are_the_pages_nat_gateway() {
        assert_eq!(
            text(Family::V4, &topology()),
            "*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:TCP - [0:0]
:UDP - [0:0]
:fw-interfaces - [0:0]
:fw-open - [0:0]
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -i lo -j ACCEPT
-A INPUT -m conntrack --ctstate INVALID -j DROP
-A INPUT -p icmp -m icmp --icmp-type 8 -m conntrack --ctstate NEW -j ACCEPT
-A INPUT -p udp -m conntrack --ctstate NEW -j UDP
-A INPUT -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -m conntrack --ctstate NEW -j TCP
-A INPUT -p udp -j REJECT --reject-with icmp-port-unreachable
-A INPUT -p tcp -j REJECT --reject-with tcp-reset
-A INPUT -j REJECT --reject-with icmp-proto-unreachable
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -j fw-interfaces
-A FORWARD -j fw-open
-A FORWARD -j REJECT --reject-with icmp-host-unreachable
-A fw-interfaces -i lan0 -j ACCEPT
-A fw-interfaces -i lan1 -j ACCEPT
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A POSTROUTING -s 192.168.0.0/24 -o wan0 -j MASQUERADE
-A POSTROUTING -s 10.3.0.0/16 -o wan0 -j MASQUERADE
-A POSTROUTING -s 172.16.0.0/12 -o wan0 -j MASQUERADE
COMMIT
"
        );
    }

    #[test]
    fn ipv6_rules_let_neighbour_discovery_in_before_anything_is_refused() {
        let text = text(Family::V6, &topology());
        let at = |line: &str| text.lines().position(|l| l == line).expect(line);
        let refused = at("-A INPUT -p udp -j REJECT --reject-with icmp6-adm-prohibited");
        for line in [
            "-A INPUT -s fe80::/10 -p ipv6-icmp -j ACCEPT",
            "-A INPUT -s fd00:1::/64 -p ipv6-icmp -j ACCEPT",
            "-A INPUT -s 2001:db8:1::/64 -p ipv6-icmp -j ACCEPT",
            "-A INPUT -s ::/128 -p ipv6-icmp -m icmp6 --icmpv6-type 135 -j ACCEPT",
            "-A INPUT -p ipv6-icmp -m icmp6 --icmpv6-type 128 -m conntrack --ctstate NEW -j ACCEPT",
        ] {
            assert!(at(line) < refused, "{line}");
        }
        assert!(!text.contains("*nat") && !text.contains("192.168"));
        assert!(text.ends_with("-A fw-interfaces -i lan1 -j ACCEPT\nCOMMIT\n"));
    }
}
