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
mod mapping;
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
    &tcpmss::SPEC,
    &tcpoptstrip::SPEC,
    &tee::SPEC,
    &tos::SPEC,
    &trace::SPEC,
    &ttl::TTL,
    &ttl::HL,
];

/// The target of that name in a family.
pub(crate) fn find(name: &str, family: Family) -> Option<&'static TargetSpec> {
    ALL.iter().copied().find(|spec| spec.answers_to(name, family))
}
