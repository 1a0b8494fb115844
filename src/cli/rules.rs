//! `tidegate rules`: the built-in rules, to look at or to start from.

use super::{DONE, FamilyArgs, GatewayArgs};
use crate::rules_builtin::{Topology, text};
use clap::Args;
use std::io::{self, Write};
use tidegate_packet::Family;

const EXAMPLES: &str = "\
Examples:
  tidegate rules --lan lan0=192.168.0.1/24 --uplink wan0=dhcp > iptables.rules
  tidegate rules -6 --config gateway.toml";

/// Print the built-in rules for these interfaces
///
/// The rules that `tidegate run` uses with the same flags when it is given no rules file, as
/// iptables-save would print them. Networks of interfaces whose addresses come from the kernel or
/// from DHCP aren't known yet and are left out.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct RulesArgs {
    #[command(flatten)]
    family: FamilyArgs,

    #[command(flatten)]
    gateway: GatewayArgs,
}

pub(super) fn main(args: &RulesArgs, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    match args.gateway.load(err)? {
        Ok(config) => {
            let family = args.family.family().unwrap_or(Family::V4);
            out.write_all(text(family, &Topology::of(&config)).as_bytes())?;
            Ok(DONE)
        }
        Err(status) => Ok(status),
    }
}
