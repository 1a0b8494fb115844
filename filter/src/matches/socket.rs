//! `-m socket`: whether a local socket waits for the packet. The gateway has none, and those of the
//! host device are its kernel's.

use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, flag};
use crate::query::Hook;
use crate::values::save_name;

pub(crate) static SPEC: MatchSpec = MatchSpec {
    options: &[flag(&["transparent"]), flag(&["nowildcard"]), flag(&["restore-skmark"])],
    hooks: &[Hook::Prerouting, Hook::Input],
    ..Spec::new("socket", build)
};

#[derive(Debug)]
struct Socket([bool; 3]);

const NAMES: [&str; 3] = ["transparent", "nowildcard", "restore-skmark"];

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    given.warn("no packet here has a socket: this never matches");
    Ok(Box::new(Socket(NAMES.map(|name| given.has(name)))))
}

impl Match for Socket {
    fn matches(&self, _: &mut Context<'_>) -> bool {
        false
    }

    fn list(&self, out: &mut String, _: Listing) {
        out.push_str(" socket");
        self.save(out);
    }

    fn save(&self, out: &mut String) {
        for (name, _) in NAMES.iter().zip(self.0).filter(|(_, given)| *given) {
            save_name(out, name, false);
        }
    }
}
