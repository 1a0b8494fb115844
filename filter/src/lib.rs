//! iptables rules: text → AST → validated ruleset → verdict, and back to text.
//!
//! Terms: a *rule* has base matches (addresses, interfaces, protocol), *extensions* (`-m name`) and
//! a *target*; a *chain* is a list of rules, built-in (it hangs on a hook and has a policy) or the
//! user's own; a *table* is a set of chains with one purpose. [`load`] turns text into a
//! [`Ruleset`], which only validation can make; [`Ruleset::walk`] begins a plain interpreter, the
//! specification of what rules mean. Every match and target is one file under `matches/` or
//! `targets/`, registered in one list there.
#![forbid(unsafe_code)]

mod ast;
mod base;
mod classify;
mod counters;
mod diagnostic;
mod edit;
mod effects;
mod extension;
mod gate;
mod interpret;
pub mod labels;
mod lex;
pub mod live;
mod load;
mod matches;
mod memory;
mod names;
mod parse;
mod print;
pub mod query;
mod ruleset;
mod services;
pub mod sets;
mod targets;
pub mod tracking;
mod trail;
mod validate;
mod values;
pub mod verdict;

pub use counters::{Count, Counters};
pub use diagnostic::Diagnostic;
pub use edit::{Edit, HeaderEdit};
pub use effects::{
    AuditRecord, Effects, LogFlags, LogRecord, MssClamp, NflogRecord, NoEffects, TraceRecord,
    TraceStep,
};
pub use gate::Entrance;
pub use interpret::{Step, Walk};
pub use load::{Loaded, Source, guess_family, load, load_with};
pub use memory::Memory;
pub use print::SaveStyle;
pub use query::*;
pub use ruleset::{Policy, Ruleset};
pub use sets::Sets;
pub use tracking::{Helper, Tracking, Zone};
pub use trail::Trail;
pub use verdict::*;
