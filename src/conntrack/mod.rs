//! `conntrack`: connections listed, changed and watched, in the words of conntrack-tools 1.4.7.
//!
//! An [`Entry`] is a connection as it goes over the control socket; `wire.rs` has what a client
//! asks and the gateway tells. On the gateway's side, `gateway.rs` walks the table a slice at a
//! time: the engine is locked while a few thousand places are copied, and is free while they are
//! filtered and sent. So a listing is no snapshot (the kernel's isn't either): what changes
//! meanwhile is seen as it was when its place was reached. The client pulls page after page with
//! a cursor, so that a client that reads slowly holds nothing in the gateway. `events.rs` has the
//! bounded queues of those who listen.
//!
//! On the client's side `options.rs` reads the command line, and `text.rs`, `xml.rs`, `save.rs`
//! and `json.rs` are the forms in which connections are printed.

pub mod entry;
pub mod events;
pub mod expected;
pub mod filter;
pub mod gateway;
pub mod json;
pub mod options;
pub mod protocols;
pub mod save;
pub mod text;
pub mod wire;
pub mod xml;

pub use entry::{Entry, Moment, Side};
pub use events::{About, Happened, HappenedExpected, Hub, What};
pub use expected::Expected;
pub use filter::Filter;
pub use wire::{Action, Ask, Fault, Tell};
