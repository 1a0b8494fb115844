//! Matches: one file each, and this list of them.

mod addrtype;
mod bpf;
mod cgroup;
mod cluster;
mod comment;
mod connbytes;
mod connlabel;
mod connlimit;
mod connmark;
mod conntrack;
mod cpu;
mod dccp;
pub(crate) mod dscp;
mod ecn;
mod eui64;
mod frag;
mod group;
mod hashlimit;
mod helper;
pub(crate) mod icmp;
mod ipcomp;
mod iprange;
mod ipv6header;
mod length;
mod limit;
mod mac;
mod mark;
mod mh;
mod multiport;
mod options;
mod owner;
mod physdev;
mod pkttype;
mod policy;
mod quota;
mod recent;
mod rpfilter;
mod rt;
mod sctp;
pub(crate) mod set;
mod socket;
mod spi;
mod state;
mod statistic;
mod string;
mod tcp;
mod tcpmss;
mod time;
pub(crate) mod tos;
mod ttl;
mod u32;
mod udp;

use tidegate_packet::Family;

use crate::extension::{Context, MatchSpec};

/// Every match there is.
static ALL: &[&MatchSpec] = &[
    &addrtype::SPEC,
    &bpf::SPEC,
    &cgroup::SPEC,
    &cluster::SPEC,
    &comment::SPEC,
    &connbytes::SPEC,
    &connlabel::SPEC,
    &connlimit::SPEC,
    &connmark::SPEC,
    &conntrack::SPEC,
    &cpu::SPEC,
    &dccp::SPEC,
    &dscp::SPEC,
    &ecn::SPEC,
    &eui64::SPEC,
    &frag::SPEC,
    &group::REALM,
    &group::DEVGROUP,
    &hashlimit::SPEC,
    &helper::SPEC,
    &icmp::V4,
    &icmp::V6,
    &ipcomp::SPEC,
    &iprange::SPEC,
    &ipv6header::SPEC,
    &length::SPEC,
    &limit::SPEC,
    &mac::SPEC,
    &mark::SPEC,
    &mh::SPEC,
    &multiport::SPEC,
    &options::HBH,
    &options::DST,
    &owner::SPEC,
    &physdev::SPEC,
    &pkttype::SPEC,
    &policy::SPEC,
    &quota::SPEC,
    &recent::SPEC,
    &rpfilter::SPEC,
    &rt::SPEC,
    &sctp::SPEC,
    &set::SPEC,
    &socket::SPEC,
    &spi::ESP,
    &spi::AH4,
    &spi::AH6,
    &state::SPEC,
    &statistic::SPEC,
    &string::SPEC,
    &tcp::SPEC,
    &tcpmss::SPEC,
    &time::SPEC,
    &tos::SPEC,
    &ttl::TTL,
    &ttl::HL,
    &u32::SPEC,
    &udp::SPEC,
];

/// Why a match that iptables has is not one here.
pub(crate) fn refused(name: &str) -> Option<&'static str> {
    Some(match name {
        "ipvs" => "asks about a kernel's virtual servers, and there are none here",
        "nfacct" => "counts in objects of a kernel; rules' own counters do that here",
        "osf" => "needs fingerprints that a kernel was told",
        "rateest" => "needs the rates that RATEEST measures, which is not a target here",
        "srh" => "asks about segment routing, which nothing here does",
        _ => return None,
    })
}

/// The match of that name in a family.
pub(crate) fn find(name: &str, family: Family) -> Option<&'static MatchSpec> {
    ALL.iter().copied().find(|spec| spec.answers_to(name, family))
}

/// The names of the matches of a family.
pub(crate) fn names(family: Family) -> impl Iterator<Item = &'static str> {
    ALL.iter().filter(move |spec| spec.families.contains(&family)).map(|spec| spec.name)
}

/// The first `N` bytes of the upper-layer header. A later fragment has none and doesn't match; a
/// packet that is too short for it is dropped, since no rule can judge it.
fn header<'a, const N: usize>(context: &mut Context<'a>) -> Option<&'a [u8; N]> {
    let query = context.query;
    if query.packet.is_later_fragment() {
        return None;
    }
    let found = query.packet.segment(query.bytes).first_chunk();
    context.hotdrop |= found.is_none();
    found
}
