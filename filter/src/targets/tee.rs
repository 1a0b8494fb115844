//! `TEE`: a copy of the packet to another station on a link, and on to the next rule.

use std::fmt::Write as _;

use tidegate_packet::Addr;

use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Next, Spec, Target, TargetSpec, value};
use crate::values::save_option;

pub(crate) static SPEC: TargetSpec =
    TargetSpec { options: &[value(&["gateway"]), value(&["oif"])], ..Spec::new("TEE", build) };

/// `IFNAMSIZ` less the final zero.
const MAX_INTERFACE: usize = 15;

#[derive(Debug)]
struct Tee {
    gateway: Addr,
    interface: Option<String>,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Target>> {
    let (word, _) = given.required("gateway")?;
    let gateway = word.address(given.family)?;
    if gateway == Addr::unspecified(given.family) {
        return Err(word.wrong("copies need a station to go to"));
    }
    let interface = match given.value("oif") {
        Some((word, _)) if word.text.is_empty() || word.text.len() > MAX_INTERFACE => {
            return Err(word.wrong(format!("bad interface name `{}`", word.text)));
        }
        Some((word, _)) => Some(word.text.to_string()),
        None => None,
    };
    Ok(Box::new(Tee { gateway, interface }))
}

impl Target for Tee {
    fn apply(&self, context: &mut Context<'_>) -> Next {
        context.effects.tee(context.query, self.gateway, self.interface.as_deref());
        Next::Continue
    }

    fn list(&self, out: &mut String, _: Listing) {
        let _ = write!(out, " TEE gw:{}", self.gateway);
        if let Some(interface) = &self.interface {
            let _ = write!(out, " oif={interface}");
        }
    }

    fn save(&self, out: &mut String) {
        save_option(out, "gateway", false, self.gateway);
        if let Some(interface) = &self.interface {
            save_option(out, "oif", false, interface);
        }
    }
}
