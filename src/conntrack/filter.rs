//! Which connections are meant.

use super::entry::Entry;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// What a connection has to be like. What is absent doesn't matter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// 4 or 6.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub family: Option<u8>,
    /// Transport protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u8>,
    /// The original direction.
    pub original: Ends,
    /// The reply direction.
    pub reply: Ends,
    /// Status bits that must be set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Status bits that must not be set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unset: Option<u16>,
    /// The mark's value under a mask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mark: Option<(u32, u32)>,
    /// The protocol's state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// The zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<u16>,
    /// Labels that must all be set.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<u8>,
    /// Translation of the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub src_nat: Option<Nat>,
    /// Translation of the destination.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dst_nat: Option<Nat>,
    /// Translation of either.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub any_nat: Option<Nat>,
    /// A security context's number: no connection has one here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secmark: Option<u32>,
}

/// What the ends of a direction have to be like.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ends {
    /// Source address and its mask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub src: Option<(IpAddr, IpAddr)>,
    /// Destination address and its mask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dst: Option<(IpAddr, IpAddr)>,
    /// Source port; ICMP's identifier; GRE's source key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sport: Option<u16>,
    /// Destination port; GRE's key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dport: Option<u16>,
    /// ICMP's type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<u8>,
    /// ICMP's code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp_code: Option<u8>,
    /// The direction's own zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<u16>,
}

/// What a translation has to lead to; absent: anywhere else.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Nat {
    /// The address.
    pub addr: Option<IpAddr>,
    /// The port.
    pub port: Option<u16>,
}

impl Nat {
    fn fits(self, changed: [bool; 2], to: (IpAddr, u16)) -> bool {
        let [addr_changed, port_changed] = changed;
        match (self.addr, self.port) {
            (None, None) => addr_changed || port_changed,
            (addr, port) => {
                addr.is_none_or(|addr| addr_changed && addr == to.0)
                    && port.is_none_or(|port| port_changed && port == to.1)
            }
        }
    }
}

fn bits(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn within(addr: IpAddr, want: Option<(IpAddr, IpAddr)>) -> bool {
    want.is_none_or(|(network, mask)| {
        network.is_ipv4() == addr.is_ipv4() && (bits(addr) ^ bits(network)) & bits(mask) == 0
    })
}

fn same<T: PartialEq>(have: T, want: Option<T>) -> bool {
    want.is_none_or(|want| want == have)
}

impl Ends {
    fn fits(&self, side: &super::entry::Side) -> bool {
        let Self { src, dst, sport, dport, icmp_type, icmp_code, zone } = self;
        let [kind, code] = side.dport.to_be_bytes();
        within(side.src, *src)
            && within(side.dst, *dst)
            && same(side.sport, *sport)
            && same(side.dport, *dport)
            && same(kind, *icmp_type)
            && same(code, *icmp_code)
            && same(side.zone.unwrap_or(0), *zone)
    }
}

impl Filter {
    /// Whether a connection is meant.
    pub fn fits(&self, entry: &Entry) -> bool {
        let Self {
            family,
            protocol,
            original,
            reply,
            status,
            unset,
            mark,
            state,
            zone,
            labels,
            src_nat,
            dst_nat,
            any_nat,
            secmark,
        } = self;
        let to = |nat: &Nat, source: bool| {
            let r = &entry.reply;
            if source {
                nat.fits([entry.is_snat(), entry.is_spat()], (r.dst, r.dport))
            } else {
                nat.fits([entry.is_dnat(), entry.is_dpat()], (r.src, r.sport))
            }
        };
        same(if entry.is_v4() { 4 } else { 6 }, *family)
            && same(entry.protocol, *protocol)
            && original.fits(&entry.original)
            && reply.fits(&entry.reply)
            && status.is_none_or(|bits| entry.status & bits == bits)
            && unset.is_none_or(|bits| entry.status & bits == 0)
            && mark.is_none_or(|(value, mask)| entry.mark.unwrap_or(0) & mask == value)
            && state.as_ref().is_none_or(|want| entry.state.as_ref() == Some(want))
            && same(entry.zone.unwrap_or(0), *zone)
            && labels.iter().all(|label| entry.labels.contains(label))
            && src_nat.as_ref().is_none_or(|nat| to(nat, true))
            && dst_nat.as_ref().is_none_or(|nat| to(nat, false))
            && any_nat.as_ref().is_none_or(|nat| to(nat, true) || to(nat, false))
            && secmark.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::example;
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn every_part_can_decide() {
        let all = || Ends::default();
        let nat = |addr: &str, port| {
            let addr = (!addr.is_empty()).then(|| ip(addr));
            Some(Nat { addr, port })
        };
        let none = Filter::default;
        let net = |a, m| Some((ip(a), ip(m)));
        for (filter, want) in [
            (none(), true),
            (Filter { family: Some(4), ..none() }, true),
            (Filter { family: Some(6), ..none() }, false),
            (Filter { protocol: Some(6), ..none() }, true),
            (Filter { protocol: Some(17), ..none() }, false),
            (
                Filter {
                    original: Ends { src: net("10.1.0.0", "255.255.0.0"), ..all() },
                    ..none()
                },
                true,
            ),
            (
                Filter {
                    original: Ends { src: net("10.1.0.1", "255.255.255.255"), ..all() },
                    ..none()
                },
                false,
            ),
            (Filter { original: Ends { src: net("::", "::"), ..all() }, ..none() }, false),
            (Filter { original: Ends { dport: Some(80), ..all() }, ..none() }, true),
            (Filter { original: Ends { sport: Some(80), ..all() }, ..none() }, false),
            (Filter { reply: Ends { sport: Some(80), ..all() }, ..none() }, true),
            (
                Filter {
                    reply: Ends { dst: net("10.1.0.2", "255.255.255.255"), ..all() },
                    ..none()
                },
                false,
            ),
            (Filter { status: Some(4), ..none() }, true),
            (Filter { status: Some(1 << 10), ..none() }, false),
            (Filter { unset: Some(2), ..none() }, false),
            (Filter { unset: Some(1), ..none() }, true),
            (Filter { mark: Some((0, u32::MAX)), ..none() }, true),
            (Filter { mark: Some((1, 1)), ..none() }, false),
            (Filter { state: Some("ESTABLISHED".into()), ..none() }, true),
            (Filter { state: Some("CLOSE".into()), ..none() }, false),
            (Filter { zone: Some(0), ..none() }, true),
            (Filter { zone: Some(1), ..none() }, false),
            (Filter { labels: vec![3], ..none() }, false),
            (Filter { src_nat: nat("", None), ..none() }, true),
            (Filter { src_nat: nat("10.2.0.1", None), ..none() }, true),
            (Filter { src_nat: nat("10.2.0.9", None), ..none() }, false),
            // The address is translated, the port isn't.
            (Filter { src_nat: nat("10.2.0.1", Some(41480)), ..none() }, false),
            (Filter { dst_nat: nat("", None), ..none() }, false),
            (Filter { any_nat: nat("", None), ..none() }, true),
            (Filter { any_nat: nat("10.2.0.2", None), ..none() }, false),
            (Filter { secmark: Some(0), ..none() }, false),
        ] {
            assert_eq!(filter.fits(&example()), want, "{filter:?}");
        }
    }
}
