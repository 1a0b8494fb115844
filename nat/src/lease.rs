//! Connections whose packets somebody else handles for a time: the *holder* of the lease.
//!
//! A holder decides nothing that isn't plain: it takes packets of established connections that change
//! nothing but counters, deadlines and TCP's windows, and hands every other packet on as it came, which
//! ends the lease ([`Conntrack::track`] takes the state back first). Until then what stands in the table
//! may be old, and [`Conntrack::settle_leases`] brings it up to date.

use tidegate_packet::Instant;

use crate::Counters;

/// What is known of one side of a TCP connection (see `tcp_window.rs`).
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerWindow {
    /// Highest sequence number sent, plus one.
    pub end: u32,
    /// Highest that the other side has room for.
    pub max_end: u32,
    /// Largest window it has announced, in bytes.
    pub max_window: u32,
    /// Highest acknowledgment it has sent.
    pub max_ack: u32,
    /// Its window's scale.
    pub scale: u8,
    /// [`PeerWindow::SACK`] and the like; the rest is to be kept.
    pub flags: u8,
}

impl PeerWindow {
    /// It permits SACK.
    pub const SACK: u8 = 1 << 1;
    /// It sent data that wait for their acknowledgment.
    pub const UNACKNOWLEDGED: u8 = 1 << 4;
    /// `max_ack` holds something.
    pub const MAXACK_SET: u8 = 1 << 5;
}

/// The windows of an established TCP connection and the segment that was looked at last.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Windows {
    /// Of the original direction's sender and of the reply's.
    pub peers: [PeerWindow; 2],
    /// Sequence number of the last segment.
    pub seq: u32,
    /// Its acknowledgment.
    pub ack: u32,
    /// The sequence number behind it.
    pub end: u32,
    /// Its window as it stands in the header.
    pub window: u16,
    /// Its direction: 0 is the original one, 1 the reply.
    pub direction: u8,
    /// How often it was repeated; stays at 255.
    pub retransmissions: u8,
}

/// What has happened to a leased connection since the last report.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Packets and bytes (from the IP header on) of both directions.
    pub counted: [Counters; 2],
    /// When the last packet came. Means something only if there was one.
    pub seen: Instant,
    /// TCP: what they are now.
    pub windows: Option<Windows>,
}
