//! Connections and translation: what netfilter calls conntrack and nat.
//!
//! Terms. A *tuple* is what identifies one direction of a flow on the wire. A *connection* has
//! two: the *original* one as its first packet had it, and the *reply* one, which is what answers
//! look like. Translation is nothing but a reply tuple that isn't the inverse of the original one
//! (RFC 4787 calls the pair a mapping); [`Conntrack::translate`] rewrites packets from the two.
//!
//! Life of a connection. [`Conntrack::track`] finds the packet's connection or makes a new one,
//! which travels with its packet in [`Tracked`] and is nobody else's: a packet that is dropped on
//! its way takes it along. The nat table decides through [`Conntrack::set_nat`] (always once for
//! the destination and once for the source; without a rule with `None`), and
//! [`Conntrack::confirm`] puts it into the table when its packet leaves. From then on it lives
//! until its deadline; [`Conntrack::expire`] removes it.
//!
//! Who owns what. A [`Conntrack`] is one shard's and holds its connections. What the tables of
//! several shards share is with the one that works ([`shared`]). Time and randomness are arguments.
#![forbid(unsafe_code)]

mod ahead;
mod blocks;
mod choice;
pub mod conn;
pub mod control;
mod early;
pub mod event;
pub mod expect;
mod expiry;
mod extra;
pub mod fragment;
mod generic;
mod gre;
mod hash;
pub mod helpers;
mod icmp;
mod icmp_error;
mod index;
mod known;
pub mod lease;
mod mapping;
mod pages;
mod pair;
mod ports;
pub mod refragment;
mod related;
mod rewrite;
mod sctp;
mod seqadj;
pub mod settings;
pub mod shared;
mod signs;
mod slots;
pub mod stats;
mod store;
mod sweep;
pub mod synproxy;
mod table;
pub mod tcp;
mod tcp_window;
mod tracked;
mod translate;
pub mod tuple;
mod udp;

pub use ahead::Sought;
pub use blocks::{BlockEvent, BlockRule};
pub use choice::MappingRule;
pub use conn::{Connection, Counters, Direction, Status};
pub use control::{Create, Refused, Update};
pub use event::{Changes, Event, EventKind, ExpectationEvent};
pub use expect::Expectation;
pub use extra::Template;
pub use fragment::{FragmentDrop, FragmentSettings, Pieces, Pushed, Reassembler, Scope};
pub use helpers::{HELP_ROOM, HelpDrop, Helper};
pub use known::{Judged, Known, Missed, NO_PATH};
pub use mapping::Filtering;
pub use ports::{Exhausted, Range};
pub use refragment::{blank_uncopied_options, refragment};
pub use sctp::SctpState;
pub use settings::{Settings, TcpTimeouts};
pub use shared::{Others, home};
pub use signs::{Sign, Signs};
pub use stats::Stats;
pub use sweep::Order;
pub use table::Conntrack;
pub use tcp::TcpState;
pub use tracked::{ConfirmDrop, Confirmed, ConnId, InvalidReason, State, Tracked};
pub use translate::TranslateError;
pub use tuple::Tuple;

/// Which end of a packet a translation changes.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Manip {
    /// The source: SNAT, MASQUERADE; at POSTROUTING and INPUT.
    Source,
    /// The destination: DNAT, REDIRECT; at PREROUTING and OUTPUT.
    Destination,
}
