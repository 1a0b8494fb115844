//! Targets: one file each, and this list of them.

mod audit;
mod checksum;
mod classify;
mod connmark;
mod dnat;
mod dscp;
mod ecn;
mod hmark;
mod log;
mod mark;
mod masquerade;
mod netmap;
mod nflog;
mod notrack;
mod npt;
mod redirect;
mod reject;
mod set;
mod snat;
mod synproxy;
mod tcpmss;
mod tcpoptstrip;
mod tee;
mod tos;
mod trace;
mod ttl;

use tidegate_packet::Family;

use crate::extension::TargetSpec;

/// Every target there is.
static ALL: &[&TargetSpec] = &[
    &audit::SPEC,
    &checksum::SPEC,
    &classify::SPEC,
    &connmark::SPEC,
    &dnat::SPEC,
    &dscp::SPEC,
    &ecn::SPEC,
    &hmark::SPEC,
    &log::SPEC,
    &mark::SPEC,
    &masquerade::SPEC,
    &netmap::SPEC,
    &nflog::SPEC,
    &notrack::CT,
    &notrack::NOTRACK,
    &npt::SNPT,
    &npt::DNPT,
    &redirect::SPEC,
    &reject::V4,
    &reject::V6,
    &set::SPEC,
    &snat::SPEC,
    &synproxy::SPEC,
    &tcpmss::SPEC,
    &tcpoptstrip::SPEC,
    &tee::SPEC,
    &tos::SPEC,
    &trace::SPEC,
    &ttl::TTL,
    &ttl::HL,
];

/// Why a target that iptables has is not one here.
pub(crate) fn refused(name: &str) -> Option<&'static str> {
    Some(match name {
        "NFQUEUE" => "needs a program to ask, and there is none here",
        "TPROXY" => "needs a socket of the gateway's own to hand packets to",
        "CLUSTERIP" | "ULOG" => "is gone from the kernel too",
        "SECMARK" | "CONNSECMARK" => "needs a kernel's security contexts",
        "IDLETIMER" | "LED" => "tells a kernel's sysfs, and there is none here",
        "RATEEST" => "measures rates for a match that is not one here",
        _ => return None,
    })
}

/// The target of that name in a family.
pub(crate) fn find(name: &str, family: Family) -> Option<&'static TargetSpec> {
    ALL.iter().copied().find(|spec| spec.answers_to(name, family))
}

/// The names of the targets of a family, and of verdicts.
pub(crate) fn names(family: Family) -> impl Iterator<Item = &'static str> {
    let targets = ALL.iter().filter(move |spec| spec.families.contains(&family));
    targets.map(|spec| spec.name).chain(["ACCEPT", "DROP", "RETURN"])
}
