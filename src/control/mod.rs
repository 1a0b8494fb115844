//! The control socket: how a running gateway is asked and told.
//!
//! A Unix socket of mode 0600. One JSON object a line in each direction: a [`Request`], then its
//! [`Response`]; a connection may carry several. Only root and the user that the gateway runs as
//! are served. The socket's file is there exactly while the gateway forwards.

pub mod client;
pub mod protocol;
pub mod server;

pub use client::Client;
pub use protocol::{
    BypassStatus, InterfaceStatus, Program, Ran, Reply, Request, Response, Restore, Status,
};
pub use server::{Handler, Reserved, Server};
