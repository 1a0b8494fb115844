//! `NFLOG`: the packet to a listener, and on to the next rule.

use crate::diagnostic::Outcome;
use crate::effects::NflogRecord;
use crate::extension::{Context, Given, Listing, Next, Spec, Target, TargetSpec, value};
use crate::values::{cut, list_saved, save_name, save_option, save_string};

pub(crate) static SPEC: TargetSpec = TargetSpec {
    options: &[
        value(&["nflog-group"]),
        value(&["nflog-prefix"]),
        value(&["nflog-range"]),
        value(&["nflog-size"]),
        value(&["nflog-threshold"]),
    ],
    ..Spec::new("NFLOG", build)
};

/// What fits in a rule; the rest of a longer prefix is cut off.
const MAX_PREFIX: usize = 63;

#[derive(Debug)]
struct Nflog {
    group: u16,
    prefix: String,
    /// `--nflog-range`, which the kernel has never looked at.
    range: u32,
    size: Option<u32>,
    threshold: u16,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Target>> {
    given.exclusive(&["nflog-range", "nflog-size"])?;
    let number = |name: &str, max: u64| match given.value(name) {
        Some((word, _)) => word.number(0..=max).map(Some),
        None => Ok(None),
    };
    let prefix = match given.value("nflog-prefix") {
        Some((word, _)) if word.text.is_empty() => return Err(word.wrong("an empty prefix")),
        Some((word, _)) => cut(&word.text, MAX_PREFIX).to_owned(),
        None => String::new(),
    };
    Ok(Box::new(Nflog {
        group: number("nflog-group", u16::MAX.into())?.unwrap_or(0) as u16,
        prefix,
        range: number("nflog-range", u32::MAX.into())?.unwrap_or(0) as u32,
        size: number("nflog-size", u32::MAX.into())?.map(|n| n as u32),
        threshold: number("nflog-threshold", u16::MAX.into())?.unwrap_or(0) as u16,
    }))
}

impl Target for Nflog {
    fn apply(&self, context: &mut Context<'_>) -> Next {
        context.effects.nflog(NflogRecord {
            hook: context.hook,
            group: self.group,
            prefix: &self.prefix,
            size: self.size,
            threshold: self.threshold,
            query: context.query,
            mark: context.mark,
        });
        Next::Continue
    }

    fn list(&self, out: &mut String, _: Listing) {
        list_saved(out, |out| self.save(out));
    }

    fn save(&self, out: &mut String) {
        let Self { group, prefix, range, size, threshold } = self;
        if !prefix.is_empty() {
            save_name(out, "nflog-prefix", false);
            save_string(out, prefix);
        }
        if *group != 0 {
            save_option(out, "nflog-group", false, group);
        }
        match size {
            Some(size) => save_option(out, "nflog-size", false, size),
            None if *range != 0 => save_option(out, "nflog-range", false, range),
            None => {}
        }
        if *threshold != 0 {
            save_option(out, "nflog-threshold", false, threshold);
        }
    }
}
