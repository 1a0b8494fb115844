//! Tidegate: a userspace router, NAT gateway and stateful firewall that runs iptables rules.

pub mod cli;
pub mod config;
pub mod conntrack;
pub mod control;
pub mod ctime;
pub mod daemon;
pub mod dhcp;
pub mod diagnostic;
pub mod engine;
pub mod gateway;
pub mod handover;
pub mod io;
pub mod lab;
pub mod link;
pub mod log;
pub mod notify;
pub mod rules;
pub mod rules_builtin;
pub mod setup;
pub mod sim;
pub mod state;
pub mod sysctl;
pub mod worker;
