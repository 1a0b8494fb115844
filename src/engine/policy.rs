//! What the packet path needs of the sysctls and rules, worked out once for each change.

use super::interface::{InterfaceId, Interfaces};
use crate::sysctl::{RpFilter, Sysctls};
use std::time::Duration;
use tidegate_filter::{Hook, Ruleset, TableName};
use tidegate_packet::Family;

/// Per-interface settings.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfacePolicy {
    /// Effective `rp_filter`: 0 off, 1 strict, 2 loose.
    pub rp_filter: u8,
    /// `route_localnet`.
    pub route_localnet: bool,
    /// `send_redirects`.
    pub send_redirects: bool,
    /// `accept_source_route`, here and for all.
    pub accept_source_route: bool,
    forwarding: [bool; 2],
}

/// Limits on ICMP errors of one family.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct IcmpLimits {
    /// Time between two messages to one destination; zero lifts the limit.
    pub interval: Duration,
    kinds: [u64; 4],
}

impl IcmpLimits {
    /// Whether messages of a type are limited.
    #[inline]
    pub fn covers(&self, kind: u8) -> bool {
        self.kinds[usize::from(kind / 64)] >> (kind % 64) & 1 == 1
    }
}

/// Settings of the packet path.
#[derive(Clone, Debug)]
pub struct Policy {
    interfaces: Vec<InterfacePolicy>,
    limits: [IcmpLimits; 2],
    echo_ignore_all: [bool; 2],
    echo_ignore_broadcasts: [bool; 2],
    tracks: [bool; 2],
    translates: [bool; 2],
    /// A bit for each table and hook: there is a chain.
    chains: [u32; 2],
    /// `icmp_msgs_per_sec`.
    pub icmp_per_second: u32,
    /// `icmp_msgs_burst`.
    pub icmp_burst: u32,
    /// `ip_default_ttl`.
    pub default_ttl: u8,
    /// `tidegate.invalid_bypasses_nat`.
    pub invalid_bypasses_nat: bool,
    /// `tidegate.raw_before_defrag`.
    pub raw_before_defrag: bool,
}

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

impl Policy {
    /// Reads everything out of the sysctls and the rules.
    pub fn new(sysctls: &Sysctls, interfaces: &Interfaces, rulesets: [&Ruleset; 2]) -> Self {
        let limits = |family| IcmpLimits {
            interval: sysctls.icmp_ratelimit(family),
            kinds: sysctls.icmp_ratemask(family),
        };
        let mut policy = Self {
            interfaces: interfaces
                .iter()
                .map(|(_, i)| InterfacePolicy {
                    rp_filter: match sysctls.rp_filter(&i.name) {
                        RpFilter::Off => 0,
                        RpFilter::Strict => 1,
                        RpFilter::Loose => 2,
                    },
                    route_localnet: sysctls.route_localnet(&i.name),
                    send_redirects: sysctls.send_redirects(&i.name),
                    accept_source_route: sysctls.accept_source_route(&i.name),
                    forwarding: FAMILIES.map(|f| sysctls.forwarding(f, &i.name)),
                })
                .collect(),
            limits: FAMILIES.map(limits),
            echo_ignore_all: FAMILIES.map(|f| sysctls.icmp_echo_ignore_all(f)),
            echo_ignore_broadcasts: FAMILIES.map(|f| sysctls.icmp_echo_ignore_broadcasts(f)),
            tracks: [false; 2],
            translates: [false; 2],
            chains: [0; 2],
            icmp_per_second: sysctls.icmp_msgs_per_sec(),
            icmp_burst: sysctls.icmp_msgs_burst(),
            default_ttl: sysctls.ip_default_ttl(),
            invalid_bypasses_nat: sysctls.invalid_bypasses_nat(),
            raw_before_defrag: sysctls.raw_before_defrag(),
        };
        policy.follow_rules(rulesets);
        policy
    }

    /// Reads the rules alone again.
    pub fn follow_rules(&mut self, rulesets: [&Ruleset; 2]) {
        self.translates = rulesets.map(has_nat_table);
        self.chains = rulesets.map(chains_of);
        self.tracks = rulesets.map(Ruleset::uses_conntrack);
    }

    /// An interface's settings.
    #[inline]
    pub fn interface(&self, id: InterfaceId) -> &InterfacePolicy {
        &self.interfaces[usize::from(id.0)]
    }

    /// Whether packets that came in by an interface are forwarded.
    #[inline]
    pub fn forwarding(&self, family: Family, input: InterfaceId) -> bool {
        self.interface(input).forwarding[family as usize]
    }

    /// Limits on a family's ICMP errors.
    pub fn icmp_limits(&self, family: Family) -> IcmpLimits {
        self.limits[family as usize]
    }

    /// Whether echo requests stay unanswered.
    pub fn echo_ignore_all(&self, family: Family) -> bool {
        self.echo_ignore_all[family as usize]
    }

    /// Whether echo requests to broadcast and multicast addresses stay unanswered.
    pub fn echo_ignore_broadcasts(&self, family: Family) -> bool {
        self.echo_ignore_broadcasts[family as usize]
    }

    /// Whether a family's packets are tracked: only while some rule needs it, as in Linux.
    #[inline]
    pub fn tracks(&self, family: Family) -> bool {
        self.tracks[family as usize]
    }

    /// Whether a family has a nat table.
    #[inline]
    pub fn translates(&self, family: Family) -> bool {
        self.translates[family as usize]
    }

    /// Whether a table of a family has a chain at a hook.
    #[inline]
    pub fn has_chain(&self, family: Family, table: TableName, hook: Hook) -> bool {
        self.chains[family as usize] & chain_bit(table, hook) != 0
    }
}

const HOOKS: [Hook; 5] =
    [Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output, Hook::Postrouting];

const fn chain_bit(table: TableName, hook: Hook) -> u32 {
    1 << (table as u32 * HOOKS.len() as u32 + hook as u32)
}

fn chains_of(ruleset: &Ruleset) -> u32 {
    let tables =
        [TableName::Raw, TableName::Mangle, TableName::Nat, TableName::Filter, TableName::Security];
    let places = tables.into_iter().flat_map(|table| HOOKS.map(|hook| (table, hook)));
    let there = places.filter(|(table, hook)| ruleset.has_rules(*table, *hook));
    there.fold(0, |bits, (table, hook)| bits | chain_bit(table, hook))
}

fn has_nat_table(ruleset: &Ruleset) -> bool {
    [Hook::Prerouting, Hook::Input, Hook::Output, Hook::Postrouting]
        .iter()
        .any(|hook| ruleset.has_rules(TableName::Nat, *hook))
}
