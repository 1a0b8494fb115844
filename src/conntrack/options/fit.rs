//! Which options go with which command, and what they make together.

use super::{Command, Table, Verb, Wrong, label_list};
use crate::conntrack::filter::Filter;
use crate::conntrack::wire::Change;

/// The options' letters in the original's order, with the names that its complaints use.
const NAMES: [(char, &str); 29] = [
    ('s', "src"),
    ('d', "dst"),
    ('r', "reply-src"),
    ('q', "reply-dst"),
    ('p', "protonum"),
    ('t', "timeout"),
    ('u', "status"),
    ('z', "zero"),
    ('e', "event-mask"),
    ('[', "tuple-src"),
    (']', "tuple-dst"),
    ('{', "mask-src"),
    ('}', "mask-dst"),
    ('a', "nat-range"),
    ('m', "mark"),
    ('i', "id"),
    ('f', "family"),
    ('n', "src-nat"),
    ('g', "dst-nat"),
    ('o', "output"),
    ('c', "secmark"),
    ('b', "buffer-size"),
    ('j', "any-nat"),
    ('w', "zone"),
    ('l', "label"),
    ('<', "label-add"),
    ('>', "label-del"),
    ('(', "orig-zone"),
    (')', "reply-zone"),
];

/// The options that a command needs, and those that it takes besides.
fn legal(verb: Verb, table: Table) -> (&'static str, &'static str) {
    match (verb, table) {
        (Verb::List, Table::Expect) => ("", "fo"),
        (Verb::List, _) => ("", "sdrqpuz{}mfngocjwl()"),
        (Verb::Create, Table::Expect) => ("sdpt[]{}", "rqu"),
        (Verb::Create | Verb::Add, _) => ("pt", "sdrqumngw<()"),
        (Verb::Update, _) => ("", "sdrqptu{}mfngol<>"),
        (Verb::Delete, Table::Expect) | (Verb::Get, Table::Expect) => ("sdp", "rq"),
        (Verb::Delete, _) => ("", "sdrqptu{}mfngowl()"),
        (Verb::Get, _) => ("p", "sdrqol"),
        (Verb::Flush, Table::Expect) => ("", ""),
        (Verb::Flush, _) => ("", "f"),
        (Verb::Event, Table::Expect) => ("", "o"),
        (Verb::Event, _) => ("", "sdrqpe{}mfngocbjwl()"),
        (Verb::Help, _) => ("", "p"),
        (Verb::Count | Verb::Stats | Verb::Version, _) => ("", ""),
    }
}

impl Command {
    /// Checks that everything fits together.
    pub(super) fn complete(&mut self, label: &dyn Fn(&str) -> Option<u8>) -> Result<(), Wrong> {
        self.filter.labels = label_list(&self.labels, label)?;
        let changed = label_list(&self.change_labels, label)?;
        if self.has('j') && (self.has('n') || self.has('g')) {
            let why = "cannot specify `--src-nat' or `--dst-nat' with `--any-nat'";
            return Err(Wrong::usage(why.to_owned()));
        }
        let Some(verb) = self.verb else { return Ok(()) };
        self.check_options(verb)?;
        if let Some((protocol, _)) = self.protocol.filter(|_| verb != Verb::Help) {
            protocol.check(verb, self.table == Table::Expect, &self.parts)?;
        }
        self.apply_masks()?;
        self.filter.family = self.family;
        if verb == Verb::Update {
            // What else would be a filter is what to set.
            self.change = Change {
                mark: self.mark.map(|(value, mask)| (mask, value)),
                timeout: self.timeout,
                status: self.has('u').then_some(self.status),
                state: self.filter.state.take(),
                add_labels: if self.has('<') { changed.clone() } else { Vec::new() },
                // Without a name it is all of them.
                del_labels: match (self.has('>'), changed.is_empty()) {
                    (false, _) => Vec::new(),
                    (true, true) => (0..128).collect(),
                    (true, false) => changed,
                },
            };
            self.filter.unset = None;
            return Ok(());
        }
        self.change.add_labels = changed;
        self.filter.mark = self.mark;
        if self.has('u') && self.status != 0 {
            self.filter.status = Some(self.status);
        }
        let comparing = "pdsrqmcuiwl()".chars().any(|letter| self.has(letter));
        if verb == Verb::List && self.zero && comparing {
            return Err(Wrong::usage("Can't use -z with filtering parameters".to_owned()));
        }
        Ok(())
    }

    fn check_options(&self, verb: Verb) -> Result<(), Wrong> {
        let (needed, taken) = legal(verb, self.table);
        for (letter, name) in NAMES {
            let given = self.has(letter);
            if !given && needed.contains(letter) {
                return Err(Wrong::usage(format!(
                    "You need to supply the `--{name}' option for this command"
                )));
            }
            if given && !needed.contains(letter) && !taken.contains(letter) {
                return Err(Wrong::usage(format!("Illegal option `--{name}' with this command")));
            }
        }
        let exact = matches!(verb, Verb::Create | Verb::Add | Verb::Get);
        if !exact || self.table == Table::Expect {
            return Ok(());
        }
        let (original, reply) = (self.has('s') && self.has('d'), self.has('r') && self.has('q'));
        if original || reply {
            return Ok(());
        }
        let one = !self.has('s') && !self.has('d') && (self.has('r') || self.has('q'));
        let which = if one { "`--reply-src' and `--reply-dst'" } else { "`--src' and `--dst'" };
        Err(Wrong::usage(format!("you have to specify {which}")))
    }

    fn apply_masks(&mut self) -> Result<(), Wrong> {
        let Filter { original, .. } = &mut self.filter;
        let ends = [("src", &mut original.src), ("dst", &mut original.dst)];
        for ((name, end), mask) in ends.into_iter().zip(self.masks) {
            match (mask, end) {
                (None, _) => {}
                (Some(mask), Some(end)) => end.1 = mask,
                (Some(_), None) => {
                    let why = format!("Can't use --mask-{name} without --{name}");
                    return Err(Wrong::usage(why));
                }
            }
        }
        Ok(())
    }
}
