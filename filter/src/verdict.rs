//! What a table decides about a packet.

use tidegate_packet::Addr;

/// A table's decision. Edits (marks, TTL, …) have been made on the way, through [`crate::Effects`].
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// On to the next table.
    Accept,
    /// Gone, silently.
    Drop,
    /// Gone, with an answer to the sender.
    Reject(RejectWith),
    /// A target of the nat table: translate the connection.
    Nat(NatAction),
    /// `SYNPROXY`: a segment of a handshake that the gateway itself answers.
    SynProxy(SynProxy),
}

/// What `SYNPROXY` offers to clients in the servers' name.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
pub struct SynProxy {
    /// `--sack-perm`: selective acknowledgments.
    pub sack: bool,
    /// `--timestamp`: time stamps; without them neither scaling nor SACK can be remembered.
    pub timestamp: bool,
    /// `--wscale`: the servers' window scale.
    pub window_scale: Option<u8>,
    /// `--mss`: the servers' maximum segment size.
    pub mss: Option<u16>,
    /// `--ecn`: congestion notification.
    pub ecn: bool,
}

/// The kinds of `REJECT`.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum RejectWith {
    /// ICMP destination unreachable with this code.
    Icmp(u8),
    /// ICMPv6 destination unreachable with this code.
    Icmpv6(u8),
    /// A TCP reset.
    TcpReset,
}

/// What a nat target asks for.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum NatAction {
    /// `SNAT`: change the source.
    Source(NatRange),
    /// `DNAT`: change the destination.
    Destination(NatRange),
    /// `MASQUERADE`: the source becomes the egress interface's address; the range has no address.
    Masquerade(NatRange),
    /// `REDIRECT`: the destination becomes the ingress interface's address (loopback for the
    /// gateway's own packets); the range has no address.
    Redirect(NatRange),
    /// `NETMAP`: the prefix bits are replaced, the host bits kept.
    Netmap {
        /// The new network, host bits zero.
        network: Addr,
        /// Its prefix length.
        len: u8,
    },
}

/// The addresses and ports a translation may choose from.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
pub struct NatRange {
    /// First and last address; absent: the address stays.
    pub addrs: Option<(Addr, Addr)>,
    /// First and last port (ICMP: identifier); absent: any, the packet's own first.
    pub ports: Option<(u16, u16)>,
    /// `--to-destination A:P-Q/BASE`: the port is shifted by its distance from this base.
    pub base_port: Option<u16>,
    /// `--random`: start the search for a port at a hash of the flow.
    pub random: bool,
    /// `--random-fully`: start it anywhere.
    pub random_fully: bool,
    /// `--persistent`: a client keeps its address.
    pub persistent: bool,
    /// `--mapping endpoint-independent`, an option of Tidegate's: one outside port for each inside
    /// one; and `--filtering`, who may come in by it.
    pub mapping: Option<Filtering>,
    /// `--port-block-size` and `--port-blocks`: ports come out of blocks of this size, of which a
    /// host has so many at most.
    pub blocks: Option<(u16, u16)>,
}

/// Whose packets an endpoint-independent mapping lets in (RFC 4787 section 5).
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Filtering {
    /// Anybody's.
    EndpointIndependent,
    /// Those of addresses that the inside has sent to.
    AddressDependent,
    /// Those of addresses and ports that the inside has sent to.
    AddressAndPortDependent,
}
