//! Tidegate: a userspace router, NAT gateway and stateful firewall that runs iptables rules.

pub mod config;
pub mod dhcp;
pub mod diagnostic;
pub mod io;
pub mod lab;
pub mod link;
pub mod rules_builtin;
pub mod sysctl;
