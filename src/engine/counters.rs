//! What the engine counts: one named counter for every reason a packet can be lost.

/// Declares the reasons with their counter names and help texts in one place.
macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why a packet went no further. The name is the counter's name.
        #[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
        pub enum Drop {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Drop {
            /// Every reason, in the order of the declaration.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The counter's name.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// What it means, for people.
            pub const fn help(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc,)+),)+
                }
            }
        }
    };
}

reasons! {
    /// Frame shorter than an Ethernet header or its tags.
    LinkRunt = "link_runt",
    /// Frame for another station.
    LinkOtherHost = "link_other_host",
    /// Frame of a VLAN that no interface carries.
    LinkVlan = "link_vlan",
    /// Checksum or segmentation request of the device that doesn't fit the frame.
    Offload = "offload",
    /// EtherType that the gateway doesn't handle.
    LinkProtocol = "link_protocol",
    /// A bridge knows the destination on the port the frame came in by.
    BridgeSamePort = "bridge_same_port",
    /// Frame to a bridge with a source address that no station has.
    BridgeSource = "bridge_source",
    /// Frame to a group that no bridge passes on (01:80:c2:00:00:01 to 0f).
    BridgeReserved = "bridge_reserved",
    /// Damaged ARP message, or one with a group address as sender.
    ArpMalformed = "arp_malformed",
    /// ARP for an address that isn't the gateway's.
    ArpNotForUs = "arp_not_for_us",
    /// Shorter than an IP header.
    IpTruncated = "ip_truncated",
    /// IP version isn't what the EtherType says.
    IpVersion = "ip_version",
    /// IPv4 header length below 20 or beyond the packet.
    IpHeaderLength = "ip_header_length",
    /// IP length field shorter than the header or longer than the frame.
    IpLength = "ip_length",
    /// IPv4 header checksum wrong.
    IpHeaderChecksum = "ip_header_checksum",
    /// IPv4 options damaged, or source routing.
    IpOptions = "ip_options",
    /// IPv6 extension header beyond the packet.
    Ip6ExtensionHeader = "ip6_extension_header",
    /// IPv6 address that must not appear on a wire (RFC 4291 sections 2.5.3, 2.7).
    Ip6BadAddress = "ip6_bad_address",
    /// Source address that can't be (multicast, broadcast, loopback, the gateway's own).
    MartianSource = "martian_source",
    /// Destination address that can't be (loopback, zero).
    MartianDestination = "martian_destination",
    /// Reverse path check: an answer would leave by another interface (RFC 3704).
    ReversePath = "reverse_path",
    /// No route to the destination.
    NoRoute = "no_route",
    /// A blackhole, unreachable or prohibit route covers the destination.
    RouteRefused = "route_refused",
    /// Forwarding is switched off.
    ForwardingOff = "forwarding_off",
    /// To be forwarded, but it came as link broadcast or multicast.
    NotForwardable = "not_forwardable",
    /// Multicast group that the gateway hasn't joined.
    MulticastNotJoined = "multicast_not_joined",
    /// TTL or hop limit used up.
    HopLimit = "hop_limit",
    /// Too long for the egress and not to be fragmented.
    TooBig = "too_big",
    /// IPv6 source address that must not be forwarded.
    Ip6Scope = "ip6_scope",
    /// A fragment that doesn't fit its datagram, or a queue over its bound.
    Fragment = "fragment",
    /// A DROP rule or policy.
    RuleDrop = "rule_drop",
    /// A REJECT rule.
    RuleReject = "rule_reject",
    /// Segment of a handshake that the SYN proxy answers itself.
    SynProxyTaken = "synproxy_taken",
    /// Connection table full, or the new connection's tuple was taken meanwhile.
    ConnectionTable = "connection_table",
    /// Control message of a protocol with a helper that can't be read, rewritten or expected.
    Helper = "helper",
    /// Segment to a SYN proxy that no cookie goes with, or with a wrong checksum.
    SynProxy = "synproxy",
    /// No free port or address left for a translation.
    NatExhausted = "nat_exhausted",
    /// Translation impossible (no address on the egress, header not translatable).
    NatImpossible = "nat_impossible",
    /// INVALID or untracked packet that a source NAT rule covers; it would leave untranslated.
    NatBypass = "nat_bypass",
    /// Neighbour didn't answer.
    NeighbourFailed = "neighbour_failed",
    /// Queue for an unresolved neighbour full.
    NeighbourQueue = "neighbour_queue",
    /// Egress interface has no working device.
    EgressDown = "egress_down",
    /// For the gateway, and nothing to answer.
    HostIgnored = "host_ignored",
    /// For the gateway, damaged.
    HostMalformed = "host_malformed",
    /// An error message that the rate limit held back.
    ErrorRateLimited = "error_rate_limited",
    /// The device refused the frame (queue full, link down).
    DeviceRefused = "device_refused",
    /// The device's queue overflowed before the gateway could read it.
    DeviceOverrun = "device_overrun",
    /// The queue of the worker that the frame's flow belongs to was full.
    HandoverFull = "handover_full",
    /// The device handed over a frame that was cut short or has an offload that nobody here knows.
    DeviceDiscard = "device_discard",
}

/// Packets and bytes.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets (a super-packet counts once).
    pub packets: u64,
    /// Bytes of the frames.
    pub bytes: u64,
}

impl Traffic {
    /// Counts one packet.
    #[inline]
    pub fn count(&mut self, bytes: usize) {
        self.packets += 1;
        self.bytes += bytes as u64;
    }
}

/// All counters of one engine.
#[derive(Clone, Debug)]
pub struct Counters {
    drops: Vec<u64>,
    /// Received, by port.
    pub received: Vec<Traffic>,
    /// Sent, by port.
    pub sent: Vec<Traffic>,
}

impl Counters {
    /// All zero, for this many ports.
    pub fn new(ports: usize) -> Self {
        Self {
            drops: vec![0; Drop::ALL.len()],
            received: vec![Traffic::default(); ports],
            sent: vec![Traffic::default(); ports],
        }
    }

    /// Adds what others have counted.
    pub fn add(&mut self, other: &Self) {
        let Self { drops, received, sent } = other;
        for (sum, n) in self.drops.iter_mut().zip(drops) {
            *sum += n;
        }
        let sums = self.received.iter_mut().chain(&mut self.sent);
        for (sum, n) in sums.zip(received.iter().chain(sent)) {
            sum.packets += n.packets;
            sum.bytes += n.bytes;
        }
    }

    /// Counts a drop.
    #[inline]
    pub fn drop(&mut self, reason: Drop) {
        self.drops[reason as usize] += 1;
    }

    /// Counts several drops of one reason.
    pub fn drop_many(&mut self, reason: Drop, times: u64) {
        self.drops[reason as usize] += times;
    }

    /// How often a packet was dropped for this reason.
    pub fn dropped(&self, reason: Drop) -> u64 {
        self.drops[reason as usize]
    }

    /// The reasons that occurred, with their counts.
    pub fn drops(&self) -> impl Iterator<Item = (Drop, u64)> {
        Drop::ALL.iter().map(|&d| (d, self.dropped(d))).filter(|&(_, n)| n > 0)
    }
}
