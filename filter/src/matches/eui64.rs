//! `-m eui64`: whether an IPv6 source was made from the sender's link address (RFC 4291 appendix A).

use tidegate_packet::Family;

use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec};
use crate::query::Hook;

pub(crate) static SPEC: MatchSpec = MatchSpec {
    families: &[Family::V6],
    hooks: &[Hook::Prerouting, Hook::Input, Hook::Forward],
    ..Spec::new("eui64", build)
};

#[derive(Debug)]
struct Eui64;

fn build(_: &Given<'_>) -> Outcome<Box<dyn Match>> {
    Ok(Box::new(Eui64))
}

impl Match for Eui64 {
    fn matches(&self, context: &mut Context<'_>) -> bool {
        let Some(link) = context.query.link else { return false };
        let [a, b, c, d, e, f] = link.src.0;
        context.query.packet.src.octets()[8..] == [a ^ 2, b, c, 0xff, 0xfe, d, e, f]
    }

    fn list(&self, out: &mut String, _: Listing) {
        out.push_str("eui64 ");
    }

    fn save(&self, _: &mut String) {}
}
