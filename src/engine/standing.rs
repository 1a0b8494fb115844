//! What every shard's connection table has to know and be told: settings, the number of the rules in
//! force, whether somebody listens, and orders to all connections.
//!
//! A table learns of it when it is lent to the engine next, and nothing is done with connections in
//! between: [`crate::gateway::Gateway::change`] lends them all at once, and whatever else changes
//! ends what packets could do without the engine. Orders reach connections one after the other
//! (`nat/src/sweep.rs`), at the latest before the next command looks at them.

use super::interface::InterfaceId;
use super::{Engine, SWEPT_AT_ONCE};
use crate::sysctl::Sysctls;
use std::time::Duration;
use tidegate_nat::{Conntrack, Settings};
use tidegate_packet::{Family, Prefix};

/// Something to be done once to all connections.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// [`tidegate_nat::Order::ForgetWindows`].
    ForgetWindows(Family),
    /// [`tidegate_nat::Order::ForgetMasqueraded`].
    ForgetMasqueraded(InterfaceId),
}

/// What tables have to be told.
#[derive(Debug)]
pub(super) struct Standing {
    pub settings: Settings,
    pub listen: bool,
    rules: u32,
    key: [u64; 2],
    /// Grows with every change.
    number: u64,
    /// With the number that each has, the oldest first.
    orders: Vec<(u64, Order)>,
}

impl Standing {
    pub fn new(settings: Settings, key: [u64; 2]) -> Self {
        Self { settings, listen: false, rules: 0, key, number: 0, orders: Vec::new() }
    }

    pub fn changed(&mut self) {
        self.number += 1;
    }

    /// An order that is given again counts once, at its last place: so there are never more than
    /// there are interfaces and families.
    pub fn order(&mut self, order: Order) {
        self.changed();
        self.orders.retain(|(_, other)| *other != order);
        self.orders.push((self.number, order));
    }
}

impl Engine {
    pub(super) fn new_table(&self, shard: u8) -> Conntrack {
        let Standing { settings, key, .. } = self.standing;
        let mut table = Conntrack::of_shard(shard, settings, key);
        table.set_rules(self.standing.rules);
        table.listen(self.standing.listen, self.now);
        table
    }

    pub(super) fn rules_changed(&mut self) {
        self.standing.rules = self.standing.rules.wrapping_add(1);
        self.standing.changed();
    }

    /// Tells the table that has just been lent what has changed since it knew everything up to
    /// `known`, and gives the number that it knows of now.
    #[inline]
    pub(super) fn instruct(&mut self, known: u64) -> u64 {
        self.conntrack.set_event_time(self.now);
        if known != self.standing.number {
            self.instruct_anew(known);
        }
        self.standing.number
    }

    #[cold]
    fn instruct_anew(&mut self, known: u64) {
        self.short.follow(self.short_way, &self.generation);
        let Self { conntrack, standing, interfaces, now, behind, .. } = self;
        *conntrack.settings_mut() = standing.settings;
        conntrack.set_rules(standing.rules);
        conntrack.listen(standing.listen, *now);
        for (_, order) in standing.orders.iter().filter(|(number, _)| *number > known) {
            conntrack.order(match *order {
                Order::ForgetWindows(family) => tidegate_nat::Order::ForgetWindows(family),
                Order::ForgetMasqueraded(id) => {
                    let kept = interfaces.get(id).addresses.iter().map(Prefix::addr).collect();
                    let interface = u32::from(id.0);
                    tidegate_nat::Order::ForgetMasqueraded { interface, kept }
                }
            });
        }
        // Where there are few connections that is all.
        conntrack.sweep(*now, SWEPT_AT_ONCE);
        *behind |= conntrack.is_behind();
    }
}

/// The `nf_conntrack_*` parameters in the form that the table wants.
pub(super) fn conntrack_settings(sysctls: &Sysctls) -> Settings {
    let secs = |name: &str, default: Duration| {
        let value = sysctls.conntrack(name).and_then(|n| u64::try_from(n).ok());
        value.map_or(default, Duration::from_secs)
    };
    let flag = |name: &str, default: bool| sysctls.conntrack(name).map_or(default, |n| n != 0);
    let base = Settings::default();
    let tcp = base.tcp;
    Settings {
        max: sysctls.conntrack("max").and_then(|n| u32::try_from(n).ok()).unwrap_or(base.max),
        expect_max: sysctls
            .conntrack("expect_max")
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(base.expect_max),
        ftp_loose: sysctls.ftp_loose(),
        checksum: flag("checksum", base.checksum),
        acct: flag("acct", base.acct),
        timestamp: flag("timestamp", base.timestamp),
        events: flag("events", base.events),
        generic: secs("generic_timeout", base.generic),
        icmp: secs("icmp_timeout", base.icmp),
        icmpv6: secs("icmpv6_timeout", base.icmpv6),
        udp: secs("udp_timeout", base.udp),
        udp_stream: secs("udp_timeout_stream", base.udp_stream),
        gre: secs("gre_timeout", base.gre),
        gre_stream: secs("gre_timeout_stream", base.gre_stream),
        sctp_closed: secs("sctp_timeout_closed", base.sctp_closed),
        sctp_cookie_wait: secs("sctp_timeout_cookie_wait", base.sctp_cookie_wait),
        sctp_cookie_echoed: secs("sctp_timeout_cookie_echoed", base.sctp_cookie_echoed),
        sctp_established: secs("sctp_timeout_established", base.sctp_established),
        sctp_shutdown_sent: secs("sctp_timeout_shutdown_sent", base.sctp_shutdown_sent),
        sctp_shutdown_recd: secs("sctp_timeout_shutdown_recd", base.sctp_shutdown_recd),
        sctp_shutdown_ack_sent: secs("sctp_timeout_shutdown_ack_sent", base.sctp_shutdown_ack_sent),
        sctp_heartbeat_sent: secs("sctp_timeout_heartbeat_sent", base.sctp_heartbeat_sent),
        tcp: tidegate_nat::TcpTimeouts {
            syn_sent: secs("tcp_timeout_syn_sent", tcp.syn_sent),
            syn_recv: secs("tcp_timeout_syn_recv", tcp.syn_recv),
            established: secs("tcp_timeout_established", tcp.established),
            fin_wait: secs("tcp_timeout_fin_wait", tcp.fin_wait),
            close_wait: secs("tcp_timeout_close_wait", tcp.close_wait),
            last_ack: secs("tcp_timeout_last_ack", tcp.last_ack),
            time_wait: secs("tcp_timeout_time_wait", tcp.time_wait),
            close: secs("tcp_timeout_close", tcp.close),
            max_retrans: secs("tcp_timeout_max_retrans", tcp.max_retrans),
            unacknowledged: secs("tcp_timeout_unacknowledged", tcp.unacknowledged),
        },
        tcp_loose: flag("tcp_loose", base.tcp_loose),
        tcp_be_liberal: flag("tcp_be_liberal", base.tcp_be_liberal),
        tcp_max_retrans: sysctls
            .conntrack("tcp_max_retrans")
            .and_then(|n| u8::try_from(n).ok())
            .unwrap_or(base.tcp_max_retrans),
        tcp_ignore_invalid_rst: flag("tcp_ignore_invalid_rst", base.tcp_ignore_invalid_rst),
    }
}
