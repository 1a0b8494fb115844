//! What `net.netfilter.nf_conntrack_*` can set, with the kernel's defaults.

use std::time::Duration;

/// Timeouts of TCP connections, by state.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct TcpTimeouts {
    /// `nf_conntrack_tcp_timeout_syn_sent`; the simultaneous open's SYN_SENT2 shares it.
    pub syn_sent: Duration,
    /// `nf_conntrack_tcp_timeout_syn_recv`.
    pub syn_recv: Duration,
    /// `nf_conntrack_tcp_timeout_established`.
    pub established: Duration,
    /// `nf_conntrack_tcp_timeout_fin_wait`.
    pub fin_wait: Duration,
    /// `nf_conntrack_tcp_timeout_close_wait`.
    pub close_wait: Duration,
    /// `nf_conntrack_tcp_timeout_last_ack`.
    pub last_ack: Duration,
    /// `nf_conntrack_tcp_timeout_time_wait`.
    pub time_wait: Duration,
    /// `nf_conntrack_tcp_timeout_close`.
    pub close: Duration,
    /// `nf_conntrack_tcp_timeout_max_retrans`: after too many retransmissions.
    pub max_retrans: Duration,
    /// `nf_conntrack_tcp_timeout_unacknowledged`: while data waits for its acknowledgment.
    pub unacknowledged: Duration,
}

/// Limits, timeouts and switches of connection tracking.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `nf_conntrack_max`: most connections in the table; 0 is unlimited.
    pub max: u32,
    /// `nf_conntrack_expect_max`: most expectations.
    pub expect_max: u32,
    /// FTP: an address that isn't the sender's own is expected, too (`loose` of nf_conntrack_ftp).
    pub ftp_loose: bool,
    /// `nf_conntrack_checksum`: a wrong transport checksum makes a packet INVALID.
    pub checksum: bool,
    /// `nf_conntrack_acct`: count packets and bytes of each connection.
    pub acct: bool,
    /// `nf_conntrack_timestamp`: remember when each connection began.
    pub timestamp: bool,
    /// `nf_conntrack_events`: tell listeners what happens to connections.
    pub events: bool,
    /// `nf_conntrack_generic_timeout`.
    pub generic: Duration,
    /// `nf_conntrack_icmp_timeout`.
    pub icmp: Duration,
    /// `nf_conntrack_icmpv6_timeout`.
    pub icmpv6: Duration,
    /// `nf_conntrack_udp_timeout`: before an answer and in the first two seconds.
    pub udp: Duration,
    /// `nf_conntrack_udp_timeout_stream`.
    pub udp_stream: Duration,
    /// `nf_conntrack_gre_timeout`.
    pub gre: Duration,
    /// `nf_conntrack_gre_timeout_stream`.
    pub gre_stream: Duration,
    /// `nf_conntrack_sctp_timeout_closed`, here for every association without an answer.
    pub sctp_closed: Duration,
    /// `nf_conntrack_sctp_timeout_established`, here for every answered association.
    pub sctp_established: Duration,
    /// `nf_conntrack_tcp_timeout_*`.
    pub tcp: TcpTimeouts,
    /// `nf_conntrack_tcp_loose`: pick connections up in the middle.
    pub tcp_loose: bool,
    /// `nf_conntrack_tcp_be_liberal`: only resets out of the window are INVALID.
    pub tcp_be_liberal: bool,
    /// `nf_conntrack_tcp_max_retrans`.
    pub tcp_max_retrans: u8,
    /// `nf_conntrack_tcp_ignore_invalid_rst`: resets below the window pass.
    pub tcp_ignore_invalid_rst: bool,
}

impl Default for TcpTimeouts {
    fn default() -> Self {
        Self {
            syn_sent: Duration::from_secs(120),
            syn_recv: Duration::from_secs(60),
            established: Duration::from_secs(432_000),
            fin_wait: Duration::from_secs(120),
            close_wait: Duration::from_secs(60),
            last_ack: Duration::from_secs(30),
            time_wait: Duration::from_secs(120),
            close: Duration::from_secs(10),
            max_retrans: Duration::from_secs(300),
            unacknowledged: Duration::from_secs(300),
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max: 262_144,
            expect_max: 4096,
            ftp_loose: false,
            checksum: true,
            acct: false,
            timestamp: false,
            events: true,
            generic: Duration::from_secs(600),
            icmp: Duration::from_secs(30),
            icmpv6: Duration::from_secs(30),
            udp: Duration::from_secs(30),
            udp_stream: Duration::from_secs(120),
            gre: Duration::from_secs(30),
            gre_stream: Duration::from_secs(180),
            sctp_closed: Duration::from_secs(10),
            sctp_established: Duration::from_secs(210),
            tcp: TcpTimeouts::default(),
            tcp_loose: true,
            tcp_be_liberal: false,
            tcp_max_retrans: 3,
            tcp_ignore_invalid_rst: false,
        }
    }
}
