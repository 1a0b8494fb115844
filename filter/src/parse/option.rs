//! iptables' own options, and finding an option by its spelling as `getopt_long` does.

use crate::extension::Opt;

/// iptables' own options.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Own {
    Append,
    Delete,
    Check,
    Insert,
    Replace,
    Flush,
    Zero,
    New,
    DeleteChain,
    Rename,
    Policy,
    Source,
    Destination,
    Protocol,
    Input,
    Output,
    Jump,
    Goto,
    Match,
    Fragment,
    Counters,
    Verbose,
    Exact,
    Ipv4,
    Ipv6,
    Table,
    List,
    ListRules,
    Numeric,
    Wait,
    WaitInterval,
    LineNumbers,
    Modprobe,
    Version,
    Help,
}

/// Long spelling, short spelling, meaning, whether a value must follow.
#[rustfmt::skip]
const OWN: &[(&str, char, Own, bool)] = &[
    ("append", 'A', Own::Append, true),
    ("delete", 'D', Own::Delete, true),
    ("check", 'C', Own::Check, true),
    ("insert", 'I', Own::Insert, true),
    ("replace", 'R', Own::Replace, true),
    ("list", 'L', Own::List, false),
    ("list-rules", 'S', Own::ListRules, false),
    ("flush", 'F', Own::Flush, false),
    ("zero", 'Z', Own::Zero, false),
    ("new-chain", 'N', Own::New, true),
    ("delete-chain", 'X', Own::DeleteChain, false),
    ("rename-chain", 'E', Own::Rename, true),
    ("policy", 'P', Own::Policy, true),
    ("source", 's', Own::Source, true),
    ("src", 's', Own::Source, true),
    ("destination", 'd', Own::Destination, true),
    ("dst", 'd', Own::Destination, true),
    ("protocol", 'p', Own::Protocol, true),
    ("in-interface", 'i', Own::Input, true),
    ("out-interface", 'o', Own::Output, true),
    ("jump", 'j', Own::Jump, true),
    ("goto", 'g', Own::Goto, true),
    ("match", 'm', Own::Match, true),
    ("table", 't', Own::Table, true),
    ("fragments", 'f', Own::Fragment, false),
    ("set-counters", 'c', Own::Counters, true),
    ("verbose", 'v', Own::Verbose, false),
    ("exact", 'x', Own::Exact, false),
    ("numeric", 'n', Own::Numeric, false),
    ("wait", 'w', Own::Wait, false),
    ("wait-interval", 'W', Own::WaitInterval, false),
    ("line-numbers", '0', Own::LineNumbers, false),
    ("modprobe", 'M', Own::Modprobe, true),
    ("version", 'V', Own::Version, false),
    ("help", 'h', Own::Help, false),
    ("ipv4", '4', Own::Ipv4, false),
    ("ipv6", '6', Own::Ipv6, false),
];

/// An option that was found.
#[derive(Copy, Clone, Debug)]
pub(super) enum Found {
    Own {
        own: Own,
        value: bool,
    },
    /// An option of the extension with this number in the rule.
    Extension {
        index: usize,
        opt: &'static Opt,
    },
}

/// What looking for a long option gave.
pub(super) enum Lookup {
    One(Found),
    None,
    Ambiguous(String),
}

/// A short option: its meaning and whether a value must follow.
pub(crate) fn short(letter: char) -> Option<(Own, bool)> {
    OWN.iter()
        .find(|(_, short, ..)| *short == letter && letter != '0')
        .map(|(_, _, own, value)| (*own, *value))
}

impl Own {
    /// The letter, as messages name an option.
    pub fn letter(self) -> char {
        OWN.iter().find(|(_, _, own, _)| *own == self).map_or('?', |(_, letter, ..)| *letter)
    }
}

/// A long option by its full name or an unambiguous beginning. `extensions` are the option lists
/// of the rule's extensions, the latest first: of two equal names the later one's counts.
pub(super) fn long(
    name: &str,
    extensions: impl Iterator<Item = (usize, &'static [Opt])> + Clone,
) -> Lookup {
    // A file has them in full, so that is tried first.
    if let Some((_, _, own, value)) = OWN.iter().find(|(long, ..)| *long == name) {
        return Lookup::One(Found::Own { own: *own, value: *value });
    }
    for (index, opts) in extensions.clone() {
        if let Some(opt) = opts.iter().find(|opt| opt.names.contains(&name)) {
            return Lookup::One(Found::Extension { index, opt });
        }
    }
    let own = OWN.iter().map(|&(long, _, own, value)| (long, Found::Own { own, value }));
    let extended = extensions.flat_map(|(index, opts)| {
        opts.iter().flat_map(move |opt| {
            opt.names.iter().map(move |name| (*name, Found::Extension { index, opt }))
        })
    });
    let mut partial: Option<(&str, Found)> = None;
    let mut ambiguous = None;
    for (candidate, found) in own.chain(extended) {
        if !candidate.starts_with(name) {
            continue;
        }
        match partial {
            Some((other, earlier)) if !same(earlier, found) => {
                ambiguous.get_or_insert(format!("--{other} or --{candidate}"));
            }
            Some(_) => {}
            None => partial = Some((candidate, found)),
        }
    }
    match (partial, ambiguous) {
        (_, Some(which)) => Lookup::Ambiguous(which),
        (Some((_, found)), None) => Lookup::One(found),
        (None, None) => Lookup::None,
    }
}

/// All spellings of long options, for finding one that is near.
pub(super) fn spellings(extensions: impl Iterator<Item = (usize, &'static [Opt])>) -> Vec<String> {
    let own = OWN.iter().map(|(long, ..)| *long);
    let extended = extensions.flat_map(|(_, opts)| opts.iter().flat_map(|opt| opt.names));
    own.chain(extended.copied()).map(|name| format!("--{name}")).collect()
}

/// Whether two spellings mean the same option.
fn same(a: Found, b: Found) -> bool {
    match (a, b) {
        (Found::Own { own: a, .. }, Found::Own { own: b, .. }) => a == b,
        (Found::Extension { index: i, opt: a }, Found::Extension { index: j, opt: b }) => {
            i == j && std::ptr::eq(a, b)
        }
        _ => false,
    }
}
