//! `-m quota`: so many bytes, and no more.
//!
//! What is left belongs to the rule: it stays when rules around it change by command, and starts anew
//! when the rule itself is loaded again, be it the same text by iptables-restore or a reload. (A kernel
//! under iptables-legacy starts all of a table's rules anew with every change of the table, since the
//! command replaces the whole; no rule means that.)

use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, value};
use crate::values::save_option;

pub(crate) static SPEC: MatchSpec =
    MatchSpec { options: &[value(&["quota"]).inverts()], ..Spec::new("quota", build) };

#[derive(Debug)]
struct Quota {
    quota: u64,
    left: Mutex<u64>,
    inverted: bool,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    let (word, inverted) = given.required("quota")?;
    let quota = word.number(0..=u64::MAX)?;
    Ok(Box::new(Quota { quota, left: Mutex::new(quota), inverted }))
}

impl Match for Quota {
    fn matches(&self, context: &mut Context<'_>) -> bool {
        let len = u64::from(context.query.packet.len);
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let within = *left >= len;
        if !context.dry {
            // A packet that doesn't fit uses up what is left (xt_quota).
            *left = if within { *left - len } else { 0 };
        }
        within != self.inverted
    }

    fn list(&self, out: &mut String, _: Listing) {
        let _ = write!(out, " quota: {} bytes", self.quota);
    }

    fn save(&self, out: &mut String) {
        save_option(out, "quota", self.inverted, self.quota);
    }
}
