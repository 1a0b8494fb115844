//! `-m ecn`: explicit congestion notification (RFC 3168) in IP and TCP headers.

use std::fmt::Write as _;

use tidegate_packet::{protocol, tcp};

use super::header;
use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, flag, value};
use crate::values::{bang, save_name, save_option};

pub(crate) static SPEC: MatchSpec = MatchSpec {
    options: &[
        flag(&["ecn-tcp-cwr"]).inverts(),
        flag(&["ecn-tcp-ece"]).inverts(),
        value(&["ecn-ip-ect"]).inverts(),
    ],
    ..Spec::new("ecn", build)
};

/// Each asked with its wanted answer.
#[derive(Debug)]
struct Ecn {
    cwr: Option<bool>,
    ece: Option<bool>,
    ect: Option<(u8, bool)>,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    given.not_empty()?;
    let asked = |name: &str| given.get(name).map(|option| !option.inverted);
    let this = Ecn {
        cwr: asked("ecn-tcp-cwr"),
        ece: asked("ecn-tcp-ece"),
        ect: match given.value("ecn-ip-ect") {
            Some((word, inverted)) => Some((word.number(0..=3)? as u8, inverted)),
            None => None,
        },
    };
    if (this.cwr.is_some() || this.ece.is_some()) && given.protocol != Some(protocol::TCP) {
        return Err(given.wrong("the rule's protocol doesn't fit").help("expected -p tcp"));
    }
    Ok(Box::new(this))
}

impl Match for Ecn {
    fn matches(&self, context: &mut Context<'_>) -> bool {
        let Self { cwr, ece, ect } = self;
        let tos = context.query.packet.tos;
        if ect.is_some_and(|(wanted, inverted)| (tos & 3 == wanted) == inverted) {
            return false;
        }
        if cwr.is_none() && ece.is_none() {
            return true;
        }
        let Some(flags) = header::<20>(context).map(|h| h[13]) else {
            // Too short to judge is no match here, and no reason to drop (xt_ecn).
            context.hotdrop = false;
            return false;
        };
        cwr.is_none_or(|wanted| (flags & tcp::CWR != 0) == wanted)
            && ece.is_none_or(|wanted| (flags & tcp::ECE != 0) == wanted)
    }

    fn list(&self, out: &mut String, _: Listing) {
        out.push_str(" ECN match");
        for (asked, name) in [(self.ece, "ECE"), (self.cwr, "CWR")] {
            if let Some(wanted) = asked {
                let _ = write!(out, " {}{name}", bang(!wanted));
            }
        }
        if let Some((wanted, inverted)) = self.ect {
            let _ = write!(out, " {}ECT={wanted}", bang(inverted));
        }
    }

    fn save(&self, out: &mut String) {
        if let Some(wanted) = self.ece {
            save_name(out, "ecn-tcp-ece", !wanted);
        }
        if let Some(wanted) = self.cwr {
            save_name(out, "ecn-tcp-cwr", !wanted);
        }
        if let Some((wanted, inverted)) = self.ect {
            save_option(out, "ecn-ip-ect", inverted, wanted);
        }
    }
}
