//! `TCPMSS`: the maximum segment size that a SYN announces.

use std::fmt::Write as _;

use tidegate_packet::{Family, protocol};

use crate::diagnostic::Outcome;
use crate::edit::Edit;
use crate::effects::MssClamp;
use crate::extension::{Context, Given, Listing, Next, Spec, Target, TargetSpec, flag, value};
use crate::query::Hook;
use crate::values::{save_name, save_option};

pub(crate) static SPEC: TargetSpec = TargetSpec {
    options: &[value(&["set-mss"]), flag(&["clamp-mss-to-pmtu"])],
    protocols: &[protocol::TCP],
    ..Spec::new("TCPMSS", build)
};

#[derive(Debug)]
struct TcpMss(MssClamp);

fn build(given: &Given<'_>) -> Outcome<Box<dyn Target>> {
    // Without the header of the network layer, as the original reads it.
    let most = 65_535 - if given.family == Family::V4 { 20 } else { 40 };
    let set = match given.value("set-mss") {
        Some((word, _)) => Some(word.number(0..=most)? as u16),
        None => None,
    };
    let at = |name| given.get(name).map(|option| option.span.start);
    // Both have the same place in the rule: what comes last stays there.
    match set.filter(|_| at("set-mss") > at("clamp-mss-to-pmtu")) {
        Some(mss) => Ok(Box::new(TcpMss(MssClamp::Set(mss)))),
        None if given.has("clamp-mss-to-pmtu") => Ok(Box::new(TcpMss(MssClamp::PathMtu))),
        None => Err(given
            .wrong("--set-mss or --clamp-mss-to-pmtu must be given")
            .words("TCPMSS target: At least one parameter is required")),
    }
}

impl Target for TcpMss {
    fn apply(&self, context: &mut Context<'_>) -> Next {
        // Fragments after the first have no header to change.
        if !context.query.packet.is_later_fragment() {
            return Next::Edit(Edit::Mss(self.0));
        }
        Next::Continue
    }

    fn list(&self, out: &mut String, _style: Listing) {
        let _ = match self.0 {
            MssClamp::Set(mss) => write!(out, " TCPMSS set {mss}"),
            MssClamp::PathMtu => write!(out, " TCPMSS clamp to PMTU"),
        };
    }

    fn save(&self, out: &mut String) {
        match self.0 {
            MssClamp::Set(mss) => save_option(out, "set-mss", false, mss),
            MssClamp::PathMtu => save_name(out, "clamp-mss-to-pmtu", false),
        }
    }

    fn check_rule(&self, hooks: u8, only_syn: bool) -> Result<(), &'static str> {
        let routed = Hook::Forward.bit() | Hook::Output.bit() | Hook::Postrouting.bit();
        if self.0 == MssClamp::PathMtu && hooks & !routed != 0 {
            return Err("--clamp-mss-to-pmtu works only in FORWARD, OUTPUT and POSTROUTING");
        }
        if !only_syn {
            return Err(
                "the rule must match SYN packets only: add --syn or --tcp-flags SYN,RST SYN",
            );
        }
        Ok(())
    }
}
