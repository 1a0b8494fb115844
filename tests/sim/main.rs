//! Hosts around the engine, in memory, on a clock that the tests move: no devices, no privileges.

#[path = "../common/mod.rs"]
mod common;

mod bridge;
mod drops;
mod faults;
mod fragments;
mod ipv6;
mod leases;
mod link;
mod mapping;
mod nat;
mod nat_world;
mod offload;
mod recent;
mod reload;
mod short;
mod timeouts;
mod world;
