//! `-m policy`: whether IPsec has handled or will handle a packet. Nothing here does IPsec.

use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, value};
use crate::query::Hook;
use crate::values::{list_saved, save_option};

pub(crate) static SPEC: MatchSpec =
    MatchSpec { options: &[value(&["dir"]), value(&["pol"])], ..Spec::new("policy", build) };

#[derive(Debug)]
struct Policy {
    outgoing: bool,
    none: bool,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    let (dir, _) = given.required("dir")?;
    let outgoing = match dir.text.as_str() {
        "in" => false,
        "out" => true,
        _ => return Err(dir.wrong("expected in or out")),
    };
    let none = match given.value("pol") {
        None => false,
        Some((word, _)) => match word.text.as_str() {
            "none" => true,
            "ipsec" => false,
            _ => return Err(word.wrong("expected none or ipsec")),
        },
    };
    if !none {
        given.warn("no packet here has an IPsec policy: this never matches");
    }
    Ok(Box::new(Policy { outgoing, none }))
}

impl Match for Policy {
    fn matches(&self, _: &mut Context<'_>) -> bool {
        self.none
    }

    fn list(&self, out: &mut String, _: Listing) {
        out.push_str(" policy match");
        list_saved(out, |out| self.save(out));
    }

    fn save(&self, out: &mut String) {
        save_option(out, "dir", false, if self.outgoing { "out" } else { "in" });
        save_option(out, "pol", false, if self.none { "none" } else { "ipsec" });
    }

    fn check_hooks(&self, hooks: u8) -> Result<(), &'static str> {
        let arriving = Hook::Prerouting.bit() | Hook::Input.bit();
        let leaving = Hook::Output.bit() | Hook::Postrouting.bit();
        match self.outgoing {
            true if hooks & arriving != 0 => Err("--dir out doesn't work in PREROUTING and INPUT"),
            false if hooks & leaving != 0 => Err("--dir in doesn't work in OUTPUT and POSTROUTING"),
            _ => Ok(()),
        }
    }
}
