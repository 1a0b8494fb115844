//! The parameters that are known: their names, what values they take, the kernel's defaults, and
//! whether the gateway acts on them.

use super::Value;

/// A row of the table.
#[derive(Debug)]
pub struct Parameter {
    /// The name, components joined by `/`. `{if}` stands for `all`, `default` or an interface; a
    /// final `*` for any rest.
    pub pattern: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// Whether it does anything here.
    pub support: Support,
}

/// What values a parameter takes.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A number, with its unit for messages.
    Number {
        /// Smallest value.
        min: i64,
        /// Largest value.
        max: i64,
        /// The kernel's default (forwarding: Tidegate's).
        default: i64,
        /// "seconds", "entries"…; empty for flags and modes.
        unit: &'static str,
    },
    /// Numbers from 0 to 255 and ranges of them, separated by commas.
    Set([u64; 4]),
    /// Not looked at.
    Any,
}

/// Whether a parameter does anything here.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Support {
    /// The gateway acts on it.
    Honoured,
    /// The gateway doesn't act on it; said once when it is set.
    Ignored(&'static str),
}

use Support::{Honoured, Ignored};

impl Parameter {
    /// The value when nobody has set one; none for parameters that are ignored.
    pub fn default_value(&self) -> Option<Value> {
        match self.kind {
            Kind::Number { default, .. } => Some(Value::Number(default)),
            Kind::Set(words) => Some(Value::Set(words)),
            Kind::Any => None,
        }
    }

    /// Whether `key` is an instance of the pattern.
    pub fn matches(&self, key: &str) -> bool {
        let mut have = key.split('/');
        for want in self.pattern.split('/') {
            let Some(part) = have.next() else { return false };
            let hit = match want.strip_suffix('*') {
                Some(head) if part.starts_with(head) => return true,
                Some(_) => false,
                None => want == part || want == "{if}" && !part.is_empty(),
            };
            if !hit {
                return false;
            }
        }
        have.next().is_none()
    }
}

/// The first row that a key matches.
pub fn find(key: &str) -> Option<&'static Parameter> {
    PARAMETERS.iter().find(|p| p.matches(key))
}

const fn number(
    pattern: &'static str,
    min: i64,
    max: i64,
    default: i64,
    unit: &'static str,
    support: Support,
) -> Parameter {
    Parameter { pattern, kind: Kind::Number { min, max, default, unit }, support }
}

const fn flag(pattern: &'static str, default: i64, support: Support) -> Parameter {
    number(pattern, 0, 1, default, "", support)
}

/// A time-out of connection tracking. The kernel multiplies by HZ into an `int`, and stops
/// where that could overflow.
const fn timeout(pattern: &'static str, default: i64) -> Parameter {
    number(pattern, 0, 2_147_483, default, "seconds", Honoured)
}

const fn any(pattern: &'static str, why: &'static str) -> Parameter {
    Parameter { pattern, kind: Kind::Any, support: Ignored(why) }
}

const HOST: &str = "it concerns a host's own sockets, and the gateway has none";
const KERNEL: &str = "it concerns the kernel, which doesn't handle the gateway's packets";
const NO_REDIRECTS: &str = "the gateway neither sends nor believes redirects";
const ARP: &str = "the gateway answers ARP for its own addresses on the interface that has them";
const NO_MULTICAST: &str = "multicast isn't routed";
const NO_RA: &str = "the gateway takes no address or route from router advertisements";
const SIZING: &str = "the gateway sizes its own tables";

/// All parameters; of several rows that match a key the first counts.
pub static PARAMETERS: &[Parameter] = &[
    flag("tidegate/invalid_bypasses_nat", 0, Honoured),
    flag("tidegate/ftp_loose", 0, Honoured),
    flag("tidegate/short_way", 1, Honoured),
    flag("tidegate/bypass", 1, Honoured),
    flag("tidegate/raw_before_defrag", 0, Honoured),
    // The gateway's own default, see the module's head.
    flag("net/ipv4/ip_forward", 1, Honoured),
    flag("net/ipv4/conf/{if}/forwarding", 1, Honoured),
    number("net/ipv4/conf/{if}/rp_filter", 0, 2, 0, "", Honoured),
    any(
        "net/ipv4/conf/{if}/log_martians",
        "packets with impossible addresses are counted, not logged",
    ),
    flag("net/ipv4/conf/all/accept_source_route", 0, Honoured),
    flag("net/ipv4/conf/{if}/accept_source_route", 1, Honoured),
    any(
        "net/ipv4/conf/{if}/accept_local",
        "packets with the gateway's own source are always refused",
    ),
    flag("net/ipv4/conf/{if}/route_localnet", 0, Honoured),
    flag("net/ipv4/conf/{if}/send_redirects", 1, Honoured),
    any("net/ipv4/conf/{if}/accept_redirects", NO_REDIRECTS),
    any("net/ipv4/conf/{if}/secure_redirects", NO_REDIRECTS),
    any("net/ipv4/conf/{if}/shared_media", NO_REDIRECTS),
    any("net/ipv4/conf/{if}/arp_*", ARP),
    any("net/ipv4/conf/{if}/proxy_arp*", ARP),
    any("net/ipv4/conf/{if}/drop_gratuitous_arp", ARP),
    any("net/ipv4/conf/{if}/mc_forwarding", NO_MULTICAST),
    any("net/ipv4/conf/{if}/igmp*", NO_MULTICAST),
    any("net/ipv4/conf/{if}/force_igmp_version", NO_MULTICAST),
    any("net/ipv4/conf/{if}/bc_forwarding", "directed broadcasts aren't forwarded"),
    any("net/ipv4/conf/{if}/bootp_relay", KERNEL),
    any("net/ipv4/conf/{if}/disable_policy", KERNEL),
    any("net/ipv4/conf/{if}/disable_xfrm", KERNEL),
    any("net/ipv4/conf/{if}/drop_unicast_in_l2_multicast", KERNEL),
    any("net/ipv4/conf/{if}/ignore_routes_with_linkdown", KERNEL),
    any("net/ipv4/conf/{if}/medium_id", KERNEL),
    any("net/ipv4/conf/{if}/promote_secondaries", KERNEL),
    any("net/ipv4/conf/{if}/src_valid_mark", KERNEL),
    any("net/ipv4/conf/{if}/tag", KERNEL),
    flag("net/ipv4/icmp_echo_ignore_all", 0, Honoured),
    flag("net/ipv4/icmp_echo_ignore_broadcasts", 1, Honoured),
    number("net/ipv4/icmp_ratelimit", 0, 2_147_483_647, 1000, "milliseconds", Honoured),
    number("net/ipv4/icmp_ratemask", i32::MIN as i64, i32::MAX as i64, 6168, "", Honoured),
    number("net/ipv4/icmp_msgs_per_sec", 0, 2_147_483_647, 1000, "messages", Honoured),
    number("net/ipv4/icmp_msgs_burst", 0, 2_147_483_647, 50, "messages", Honoured),
    any("net/ipv4/icmp_ignore_bogus_error_responses", "such answers are never logged"),
    any("net/ipv4/icmp_echo_enable_probe", KERNEL),
    any("net/ipv4/icmp_errors_use_inbound_ifaddr", KERNEL),
    number("net/ipv4/ip_default_ttl", 1, 255, 64, "", Honoured),
    any("net/ipv4/ip_autobind_reuse", HOST),
    any("net/ipv4/ip_dynaddr", HOST),
    any("net/ipv4/ip_early_demux", HOST),
    any("net/ipv4/ip_local_*", HOST),
    any("net/ipv4/ip_no_pmtu_disc", HOST),
    any("net/ipv4/ip_nonlocal_bind", HOST),
    any("net/ipv4/ip_unprivileged_port_start", HOST),
    any("net/ipv4/ip_forward_update_priority", KERNEL),
    any("net/ipv4/ip_forward_use_pmtu", KERNEL),
    number("net/ipv4/ipfrag_time", 0, 86_400, 30, "seconds", Honoured),
    number("net/ipv4/ipfrag_high_thresh", 0, 1 << 40, 4 << 20, "bytes", Honoured),
    any("net/ipv4/ipfrag_*", SIZING),
    any("net/ipv4/inet_peer_*", SIZING),
    any("net/ipv4/fib_*", KERNEL),
    any("net/ipv4/igmp_*", NO_MULTICAST),
    any("net/ipv4/neigh/*", SIZING),
    any("net/ipv4/route/*", SIZING),
    any("net/ipv4/tcp_*", HOST),
    any("net/ipv4/udp_*", HOST),
    any("net/ipv4/cipso_*", HOST),
    any("net/ipv4/nexthop_compat_mode", KERNEL),
    any("net/ipv4/raw_l3mdev_accept", HOST),
    any("net/ipv4/xfrm4_gc_thresh", KERNEL),
    any("net/ipv4/ping_group_range", HOST),
    any("net/ipv4/fwmark_reflect", HOST),
    flag("net/ipv6/conf/{if}/forwarding", 1, Honoured),
    any("net/ipv6/conf/{if}/accept_ra*", NO_RA),
    any("net/ipv6/conf/{if}/autoconf", NO_RA),
    any("net/ipv6/conf/{if}/temp_*", NO_RA),
    any("net/ipv6/conf/{if}/router_*", NO_RA),
    any("net/ipv6/conf/{if}/accept_redirects", NO_REDIRECTS),
    any("net/ipv6/conf/{if}/accept_source_route", "source routes of IPv6 are never followed"),
    any("net/ipv6/conf/{if}/mc_forwarding", NO_MULTICAST),
    any("net/ipv6/conf/{if}/accept_dad", KERNEL),
    any("net/ipv6/conf/{if}/accept_untracked_na", KERNEL),
    any("net/ipv6/conf/{if}/addr_gen_mode", KERNEL),
    any("net/ipv6/conf/{if}/dad_transmits", KERNEL),
    any("net/ipv6/conf/{if}/disable_ipv6", KERNEL),
    any("net/ipv6/conf/{if}/disable_policy", KERNEL),
    any("net/ipv6/conf/{if}/drop_*", KERNEL),
    any("net/ipv6/conf/{if}/enhanced_dad", KERNEL),
    any("net/ipv6/conf/{if}/force_*", KERNEL),
    any("net/ipv6/conf/{if}/hop_limit", KERNEL),
    any("net/ipv6/conf/{if}/ignore_routes_with_linkdown", KERNEL),
    any("net/ipv6/conf/{if}/ioam6_*", KERNEL),
    any("net/ipv6/conf/{if}/keep_addr_on_down", KERNEL),
    any("net/ipv6/conf/{if}/max_*", KERNEL),
    any("net/ipv6/conf/{if}/mldv*", KERNEL),
    any("net/ipv6/conf/{if}/mtu", KERNEL),
    any("net/ipv6/conf/{if}/ndisc_*", KERNEL),
    any("net/ipv6/conf/{if}/optimistic_dad", KERNEL),
    any("net/ipv6/conf/{if}/proxy_ndp", KERNEL),
    any("net/ipv6/conf/{if}/ra_*", KERNEL),
    any("net/ipv6/conf/{if}/regen_*", KERNEL),
    any("net/ipv6/conf/{if}/rpl_seg_enabled", KERNEL),
    any("net/ipv6/conf/{if}/seg6_*", KERNEL),
    any("net/ipv6/conf/{if}/stable_secret", KERNEL),
    any("net/ipv6/conf/{if}/suppress_frag_ndisc", KERNEL),
    any("net/ipv6/conf/{if}/use_*", KERNEL),
    flag("net/ipv6/icmp/echo_ignore_all", 0, Honoured),
    flag("net/ipv6/icmp/echo_ignore_multicast", 0, Honoured),
    number("net/ipv6/icmp/ratelimit", 0, 2_147_483_647, 100, "milliseconds", Honoured),
    // 0-1,3-127: all errors but "packet too big" (RFC 4443 section 2.4 (f)).
    Parameter {
        pattern: "net/ipv6/icmp/ratemask",
        kind: Kind::Set([!0b100, !0, 0, 0]),
        support: Honoured,
    },
    any("net/ipv6/icmp/echo_ignore_anycast", KERNEL),
    any("net/ipv6/icmp/error_anycast_as_unicast", KERNEL),
    any("net/ipv6/bindv6only", HOST),
    any("net/ipv6/ip_nonlocal_bind", HOST),
    any("net/ipv6/ip6frag_*", SIZING),
    any("net/ipv6/neigh/*", SIZING),
    any("net/ipv6/route/*", SIZING),
    any("net/ipv6/anycast_src_echo_reply", KERNEL),
    any("net/ipv6/auto_flowlabels", KERNEL),
    any("net/ipv6/calipso_*", KERNEL),
    any("net/ipv6/fib_*", KERNEL),
    any("net/ipv6/flowlabel_*", KERNEL),
    any("net/ipv6/fwmark_reflect", KERNEL),
    any("net/ipv6/idgen_*", KERNEL),
    any("net/ipv6/ioam6_*", KERNEL),
    any("net/ipv6/max_*", KERNEL),
    any("net/ipv6/mld_*", KERNEL),
    any("net/ipv6/seg6_flowlabel", KERNEL),
    any("net/ipv6/xfrm6_gc_thresh", KERNEL),
    number("net/netfilter/nf_conntrack_max", 1, 2_147_483_647, 262_144, "entries", Honoured),
    flag("net/netfilter/nf_conntrack_checksum", 1, Honoured),
    any(
        "net/netfilter/nf_conntrack_log_invalid",
        "INVALID packets are counted, and logged by LOG rules only",
    ),
    timeout("net/netfilter/nf_conntrack_generic_timeout", 600),
    timeout("net/netfilter/nf_conntrack_icmp_timeout", 30),
    timeout("net/netfilter/nf_conntrack_icmpv6_timeout", 30),
    timeout("net/netfilter/nf_conntrack_udp_timeout", 30),
    timeout("net/netfilter/nf_conntrack_udp_timeout_stream", 120),
    flag("net/netfilter/nf_conntrack_tcp_be_liberal", 0, Honoured),
    flag("net/netfilter/nf_conntrack_tcp_loose", 1, Honoured),
    flag("net/netfilter/nf_conntrack_tcp_ignore_invalid_rst", 0, Honoured),
    number("net/netfilter/nf_conntrack_tcp_max_retrans", 0, 255, 3, "packets", Honoured),
    timeout("net/netfilter/nf_conntrack_tcp_timeout_syn_sent", 120),
    timeout("net/netfilter/nf_conntrack_tcp_timeout_syn_recv", 60),
    timeout("net/netfilter/nf_conntrack_tcp_timeout_established", 432_000),
    timeout("net/netfilter/nf_conntrack_tcp_timeout_fin_wait", 120),
    timeout("net/netfilter/nf_conntrack_tcp_timeout_close_wait", 60),
    timeout("net/netfilter/nf_conntrack_tcp_timeout_last_ack", 30),
    timeout("net/netfilter/nf_conntrack_tcp_timeout_time_wait", 120),
    timeout("net/netfilter/nf_conntrack_tcp_timeout_close", 10),
    timeout("net/netfilter/nf_conntrack_tcp_timeout_max_retrans", 300),
    timeout("net/netfilter/nf_conntrack_tcp_timeout_unacknowledged", 300),
    timeout("net/netfilter/nf_conntrack_gre_timeout", 30),
    timeout("net/netfilter/nf_conntrack_gre_timeout_stream", 180),
    timeout("net/netfilter/nf_conntrack_sctp_timeout_closed", 10),
    timeout("net/netfilter/nf_conntrack_sctp_timeout_established", 210),
    timeout("net/netfilter/nf_conntrack_sctp_timeout_cookie_wait", 3),
    timeout("net/netfilter/nf_conntrack_sctp_timeout_cookie_echoed", 3),
    timeout("net/netfilter/nf_conntrack_sctp_timeout_shutdown_sent", 3),
    timeout("net/netfilter/nf_conntrack_sctp_timeout_shutdown_recd", 3),
    timeout("net/netfilter/nf_conntrack_sctp_timeout_shutdown_ack_sent", 3),
    timeout("net/netfilter/nf_conntrack_sctp_timeout_heartbeat_sent", 30),
    any("net/netfilter/nf_conntrack_dccp_*", "DCCP is followed with the generic time-out"),
    flag("net/netfilter/nf_conntrack_acct", 0, Honoured),
    flag("net/netfilter/nf_conntrack_timestamp", 0, Honoured),
    // 2, the kernel's default, tells those that listen, as 1 does.
    number("net/netfilter/nf_conntrack_events", 0, 2, 2, "", Honoured),
    any("net/netfilter/nf_conntrack_events_retry_timeout", "events are never sent again"),
    any("net/netfilter/nf_conntrack_helper", "helpers are attached by rules only"),
    any("net/netfilter/nf_conntrack_count", "it can only be read"),
    any("net/netfilter/nf_conntrack_buckets", SIZING),
    number("net/netfilter/nf_conntrack_expect_max", 1, 65_536, 4096, "entries", Honoured),
    number("net/netfilter/nf_conntrack_frag6_timeout", 0, 86_400, 60, "seconds", Honoured),
    number("net/netfilter/nf_conntrack_frag6_high_thresh", 0, 1 << 40, 4 << 20, "bytes", Honoured),
    any("net/netfilter/nf_conntrack_frag6_*", SIZING),
    any("net/netfilter/nf_log*", KERNEL),
    any("net/netfilter/nf_hooks_lwtunnel", KERNEL),
    any("net/nf_conntrack_max", "write net.netfilter.nf_conntrack_max"),
    any("net/bridge/*", KERNEL),
    any("net/core/*", KERNEL),
    any("net/unix/*", HOST),
    any("net/mptcp/*", HOST),
    any("kernel/*", KERNEL),
    any("vm/*", KERNEL),
    any("fs/*", KERNEL),
    any("dev/*", KERNEL),
    any("user/*", KERNEL),
    any("abi/*", KERNEL),
    any("debug/*", KERNEL),
    any("sunrpc/*", KERNEL),
    any("crypto/*", KERNEL),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_components() {
        for (pattern, key, hit) in [
            ("net/ipv4/conf/{if}/rp_filter", "net/ipv4/conf/eth0.7/rp_filter", true),
            ("net/ipv4/conf/{if}/rp_filter", "net/ipv4/conf//rp_filter", false),
            ("net/ipv4/conf/{if}/rp_filter", "net/ipv4/conf/eth0/rp_filter/x", false),
            ("net/ipv4/conf/{if}/rp_filter", "net/ipv4/conf/eth0", false),
            ("net/ipv4/tcp_*", "net/ipv4/tcp_syncookies", true),
            ("net/ipv4/tcp_*", "net/ipv4/udp_mem", false),
            ("vm/*", "vm/a/b", true),
        ] {
            assert_eq!(any(pattern, "").matches(key), hit, "{pattern} {key}");
        }
    }

    /// What this kernel offers is known: a typo is told from a parameter that does nothing here.
    #[test]
    fn every_network_parameter_of_a_kernel_is_known() {
        let names = include_str!("kernel-6.18-net.txt");
        let unknown: Vec<&str> = names.lines().filter(|name| find(name).is_none()).collect();
        assert_eq!(unknown, Vec::<&str>::new());
    }

    #[test]
    fn defaults_lie_in_their_ranges() {
        for p in PARAMETERS {
            if let Kind::Number { min, max, default, .. } = p.kind {
                assert!((min..=max).contains(&default), "{}", p.pattern);
            } else {
                assert!(p.kind != Kind::Any || p.support != Honoured, "{}", p.pattern);
            }
        }
    }
}
