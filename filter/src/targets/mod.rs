//! Targets: one file each, and this list of them.

mod checksum;
mod dnat;
mod log;
mod mark;
mod masquerade;
mod netmap;
mod nflog;
mod notrack;
mod redirect;
mod reject;
mod snat;
mod tcpmss;

use tidegate_packet::Family;

use crate::extension::TargetSpec;

/// Every target there is.
static ALL: &[&TargetSpec] = &[
    &checksum::SPEC,
    &dnat::SPEC,
    &log::SPEC,
    &mark::SPEC,
    &masquerade::SPEC,
    &netmap::SPEC,
    &nflog::SPEC,
    &notrack::CT,
    &notrack::NOTRACK,
    &redirect::SPEC,
    &reject::V4,
    &reject::V6,
    &snat::SPEC,
    &tcpmss::SPEC,
];

/// The target of that name in a family.
pub(crate) fn find(name: &str, family: Family) -> Option<&'static TargetSpec> {
    ALL.iter().copied().find(|spec| spec.answers_to(name, family))
}
