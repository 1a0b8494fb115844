//! `-m cgroup`: the control group of the local socket that a packet belongs to. As for `owner`, no
//! packet here has a socket.

use std::fmt::Write as _;

use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, value};
use crate::query::Hook;
use crate::values::save_option;

pub(crate) static SPEC: MatchSpec = MatchSpec {
    options: &[value(&["cgroup"]).inverts(), value(&["path"]).inverts()],
    hooks: &[Hook::Output, Hook::Postrouting, Hook::Input],
    ..Spec::new("cgroup", build)
};

#[derive(Debug)]
struct Cgroup {
    class: u32,
    inverted: bool,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    if let Some((word, _)) = given.value("path") {
        return Err(word.wrong("control groups are those of a kernel; there are none here"));
    }
    let (word, inverted) = given.required("cgroup")?;
    let class = word.number(0..=u64::from(u32::MAX))? as u32;
    given.warn("no packet here has a socket: this never matches");
    Ok(Box::new(Cgroup { class, inverted }))
}

impl Match for Cgroup {
    /// xt_cgroup: without a socket it doesn't match, negated or not.
    fn matches(&self, _: &mut Context<'_>) -> bool {
        false
    }

    fn list(&self, out: &mut String, _: Listing) {
        let _ = write!(out, " cgroup {}{}", if self.inverted { "! " } else { "" }, self.class);
    }

    fn save(&self, out: &mut String) {
        save_option(out, "cgroup", self.inverted, self.class);
    }
}
