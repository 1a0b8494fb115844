//! The kernel's view of links: reading and changing it.

pub mod netlink;
