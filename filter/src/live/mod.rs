//! Rules changed while they are in force, in the words of iptables' own programs.
//!
//! A [`Call`] is one run of `iptables`, `iptables-save` or `iptables-restore`. It is answered from
//! the rules in force; what it changes is a new [`Ruleset`] in which every rule that stays is the
//! old one, with its place in the counters. Nothing is changed unless all of it can be.

mod edit;
pub(crate) mod list;
mod program;
mod restore;
mod words;

use crate::counters::{Adjust, Counters};
use crate::query::TableName;
use crate::ruleset::Ruleset;
use tidegate_packet::Family;

pub use program::Program;
pub use words::{Files, files};

/// One run of a program.
#[derive(Copy, Clone, Debug)]
pub struct Call<'a> {
    /// Which program.
    pub program: Program,
    /// The family that its name stands for.
    pub family: Family,
    /// Its arguments, its own name not among them.
    pub args: &'a [String],
    /// What `iptables-restore` reads.
    pub input: &'a str,
    /// The time for the comments of `iptables-save`, as `ctime` writes it.
    pub stamp: &'a str,
}

/// What a run gives.
#[derive(Debug, Default)]
pub struct Answer {
    /// Its exit status.
    pub status: u8,
    /// What it writes to standard output.
    pub out: String,
    /// And to standard error.
    pub err: String,
    /// The rules that are to be in force from now on.
    pub change: Option<Change>,
}

/// Rules to be put in force, and what becomes of the counters.
#[derive(Debug)]
pub struct Change {
    /// The rules.
    pub ruleset: Ruleset,
    adjust: Vec<(usize, Adjust)>,
}

/// Rules as a call finds them.
#[derive(Copy, Clone, Debug)]
pub struct Present<'a> {
    /// The rules in force.
    pub ruleset: &'a Ruleset,
    /// Their counters.
    pub counters: &'a Counters,
}

impl Counters {
    /// Follows a change of the rules: rules that stay go on counting. `seen` are the counters that
    /// the change was made from; what they don't have yet stays when a counter is set to zero.
    pub fn follow(&mut self, change: &Change, seen: &Self) {
        self.resize(change.ruleset.places.len());
        for (slot, adjust) in &change.adjust {
            self.adjust(*slot, *adjust, seen.get(*slot));
        }
    }
}

/// Answers a call.
pub fn run(call: Call<'_>, present: Present<'_>) -> Answer {
    let done = match call.program {
        Program::Iptables => edit::run(call, present),
        Program::Save => program::save(call, present),
        Program::Restore => restore::run(call, present),
    };
    done.unwrap_or_else(|failed| failed.answer(call))
}

/// The table that `-t` names, or `None` if there is none of that name.
fn table(name: &str) -> Option<TableName> {
    TableName::from_name(name)
}
