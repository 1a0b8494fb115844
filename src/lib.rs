//! Tidegate: a userspace router, NAT gateway and stateful firewall that runs iptables rules.

pub mod io;
pub mod lab;
pub mod link;
