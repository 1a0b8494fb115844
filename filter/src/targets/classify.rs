//! `CLASSIFY`: the packet's queueing class, which nothing here looks at.

use std::fmt::Write as _;

use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Next, Spec, Target, TargetSpec, value};
use crate::query::Hook;
use crate::values::save_option;

pub(crate) static SPEC: TargetSpec = TargetSpec {
    options: &[value(&["set-class"])],
    hooks: &[Hook::Output, Hook::Forward, Hook::Postrouting],
    ..Spec::new("CLASSIFY", build)
};

#[derive(Debug)]
struct Classify {
    major: u16,
    minor: u16,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Target>> {
    let (word, _) = given.required("set-class")?;
    let half = |text: &str| {
        let text = text.strip_prefix("0x").unwrap_or(text);
        // What is longer than four digits loses its first ones, as in iptables.
        u32::from_str_radix(text, 16).ok().filter(|_| !text.starts_with('+')).map(|n| n as u16)
    };
    let class = word.text.split_once(':').and_then(|(a, b)| half(a).zip(half(b)));
    let Some((major, minor)) = class else {
        return Err(word
            .wrong(format!("bad class `{}`", word.text))
            .help("expected MAJOR:MINOR, both hexadecimal"));
    };
    given.warn("the gateway has no queueing classes: this changes nothing");
    Ok(Box::new(Classify { major, minor }))
}

impl Target for Classify {
    fn apply(&self, _: &mut Context<'_>) -> Next {
        Next::Continue
    }

    fn flow_only(&self) -> bool {
        true
    }

    fn list(&self, out: &mut String, _: Listing) {
        let _ = write!(out, " CLASSIFY set {:x}:{:x}", self.major, self.minor);
    }

    fn save(&self, out: &mut String) {
        let Self { major, minor } = self;
        save_option(out, "set-class", false, format_args!("{major:04x}:{minor:04x}"));
    }
}
