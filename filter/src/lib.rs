//! iptables rules: text → AST → validated ruleset → verdict, and back to text.
#![forbid(unsafe_code)]

pub mod query;
pub mod verdict;

pub use query::*;
pub use verdict::*;
