//! What the gateway tells the rules about a packet, and what rules may ask of the gateway.
//!
//! Everything here is plain data: `filter` knows neither connections nor routes, it is handed what
//! matches look at.

use std::ops::Deref;

use tidegate_packet::{Addr, Instant, MacAddr, Parsed};

use crate::tracking::Helper;

/// The five places where a packet meets chains, as netfilter numbers them.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// Arrived, not yet routed.
    Prerouting,
    /// Routed to the gateway itself.
    Input,
    /// Routed to another interface.
    Forward,
    /// Sent by the gateway itself.
    Output,
    /// About to leave.
    Postrouting,
}

/// The tables, in the order a hook visits them (nat's place depends on the hook).
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TableName {
    /// Before connection tracking.
    Raw,
    /// Header edits and marks.
    Mangle,
    /// Translation; sees only the first packet of a connection.
    Nat,
    /// Accept or refuse.
    Filter,
    /// Mandatory access control marks; visited after filter.
    Security,
}

/// A packet's relation to its connection (`--ctstate`).
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum CtState {
    /// The first packets, before an answer was seen.
    New,
    /// Packets of a connection that was answered.
    Established,
    /// An error about a connection, or a connection that was expected.
    Related,
    /// Belongs to no connection and can't start one.
    Invalid,
    /// Exempt from tracking.
    Untracked,
}

/// Which way of a connection a packet goes.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// As the first packet.
    Original,
    /// Against it.
    Reply,
}

/// Addresses and ports of one direction of a connection.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port, or the identifier of an ICMP query.
    pub sport: u16,
    /// Destination port, or type and code of an ICMP query.
    pub dport: u16,
    /// Transport protocol.
    pub protocol: u8,
}

/// What matches can see of a packet's connection.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The original direction as the first packet had it, before translation.
    pub original: Flow,
    /// The reply direction: what answers look like on the wire.
    pub reply: Flow,
    /// The zones of the original direction and of the reply.
    pub zones: [u16; 2],
    /// The packet's direction.
    pub direction: Direction,
    /// Answers were seen (`--ctstatus SEEN_REPLY`).
    pub seen_reply: bool,
    /// Never dropped early (`--ctstatus ASSURED`).
    pub assured: bool,
    /// In the table (`--ctstatus CONFIRMED`).
    pub confirmed: bool,
    /// Was expected by a helper (`--ctstatus EXPECTED`).
    pub expected: bool,
    /// The source was translated (`--ctstate SNAT`).
    pub snat: bool,
    /// The destination was translated (`--ctstate DNAT`).
    pub dnat: bool,
    /// The connection's mark.
    pub mark: u32,
    /// The connection's labels, a bit each (`--label`).
    pub labels: u128,
    /// The helper of the connection that announced this one (`-m helper`).
    pub helper: Option<Helper>,
    /// Whole seconds until it expires (`--ctexpire`); zero before its first packet has left.
    pub expires: u32,
    /// Packets and bytes, original then reply.
    pub accounting: [(u64, u64); 2],
}

/// To whom a frame was addressed on its link (`-m pkttype`).
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum LinkType {
    /// The interface's own address.
    Unicast,
    /// All stations.
    Broadcast,
    /// A group.
    Multicast,
}

/// The link layer of a packet that arrived on an Ethernet interface.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The frame's destination.
    pub dst: MacAddr,
    /// The frame's source.
    pub src: MacAddr,
    /// To whom it was addressed.
    pub kind: LinkType,
}

/// A packet at a hook.
#[derive(Clone, Copy)]
pub struct Query<'a> {
    /// The decoded headers, as they stand now.
    pub packet: &'a Parsed,
    /// The packet from its IP header on; may be followed by link padding (see `packet.len`).
    pub bytes: &'a [u8],
    /// The interface it came in by; absent for the gateway's own packets.
    pub input: Option<&'a str>,
    /// The interface it will leave by; absent before routing and in INPUT.
    pub output: Option<&'a str>,
    /// The bridge port it came in by (`-m physdev`).
    pub port: Option<&'a str>,
    /// The link layer, where there is one.
    pub link: Option<Link>,
    /// Relation to its connection.
    pub state: CtState,
    /// The connection, unless the state is invalid or untracked. Few rules look at it, so it may be
    /// made up when one does.
    pub connection: Option<&'a dyn Deref<Target = Connection>>,
    /// The packet's mark (`fwmark`).
    pub mark: u32,
    /// Monotonic time.
    pub now: Instant,
    /// Wall-clock time in nanoseconds since 1970-01-01 UTC.
    pub unix_nanos: u64,
    /// Random bits, fresh for each walk (`statistic`).
    pub random: u64,
    /// The packet met `TRACE`.
    pub trace: bool,
    /// The worker's number (`-m cpu`).
    pub cpu: u32,
    /// Answers questions about routes and addresses.
    pub gateway: &'a dyn Gateway,
}

/// What `-m addrtype` calls an address.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum AddrType {
    /// The unspecified address.
    Unspec,
    /// Reachable by a route through a gateway or on a link.
    Unicast,
    /// One of the gateway's own.
    Local,
    /// A broadcast address.
    Broadcast,
    /// An anycast address.
    Anycast,
    /// A multicast group.
    Multicast,
    /// Covered by a blackhole route.
    Blackhole,
    /// No route.
    Unreachable,
    /// Covered by a prohibit route.
    Prohibit,
}

/// A reverse path question (`-m rpfilter`).
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct ReversePath<'a> {
    /// The source address in question.
    pub src: Addr,
    /// The packet's destination, which policy routing may look at.
    pub dst: Addr,
    /// The interface the packet came in by.
    pub input: &'a str,
    /// Any interface will do (`--loose`).
    pub loose: bool,
    /// The gateway's own addresses are fine as a source (`--accept-local`).
    pub accept_local: bool,
    /// Use this mark for the look-up (`--validmark`), else zero.
    pub mark: u32,
}

/// A flow as the connection table knows it.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum FlowState {
    /// Not in the table.
    Unknown,
    /// In the table and open.
    Open,
    /// Still in the table and over: TCP in TIME_WAIT or CLOSE.
    Closed,
}

/// Questions that rules ask about the gateway's routes and addresses.
pub trait Gateway {
    /// Whether an answer to the packet would leave by the interface it came in by, decided as
    /// netfilter's `rpfilter` does.
    fn reverse_path(&self, question: ReversePath<'_>) -> bool;

    /// The type of an address; with `interface`, as seen from that interface.
    fn addr_type(&self, addr: Addr, interface: Option<&str>) -> AddrType;

    /// What became of the connection whose original direction is this flow, in these zones
    /// (`-m connlimit`).
    fn flow(&self, flow: &Flow, zones: [u16; 2]) -> FlowState;
}
