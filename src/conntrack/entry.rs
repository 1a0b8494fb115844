//! A connection as it goes over the control socket.

use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use tidegate_nat::{ConnId, Connection, Counters, Status, Tuple};
use tidegate_packet::{Instant, protocol};

/// A point in time on both clocks: with it, an [`Instant`] becomes a time of day.
#[derive(Copy, Clone, Debug)]
pub struct Moment {
    /// Monotonic.
    pub now: Instant,
    /// Nanoseconds since 1970.
    pub unix_nanos: u64,
}

impl Moment {
    /// The time of day at an instant not far from this moment.
    pub fn unix(self, at: Instant) -> u64 {
        let at = i128::from(at.as_nanos()) - i128::from(self.now.as_nanos());
        u64::try_from(i128::from(self.unix_nanos) + at).unwrap_or(0)
    }
}

/// One direction of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Side {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Source port; the identifier of an ICMP query.
    pub sport: u16,
    /// Destination port; the key of GRE; type and code of an ICMP query.
    pub dport: u16,
    /// Packets and bytes, where they are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counters: Option<(u64, u64)>,
    /// Its zone, where that is this direction's alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<u16>,
}

impl Side {
    pub(super) fn of(tuple: &Tuple, counters: Option<Counters>) -> Self {
        Self {
            src: tuple.src.to_ip(),
            dst: tuple.dst.to_ip(),
            sport: tuple.sport,
            dport: tuple.dport,
            counters: counters.map(|c| (c.packets, c.bytes)),
            zone: None,
        }
    }
}

/// A connection. What is absent isn't told: the mark in most events, counters that don't count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// A number of its own.
    pub id: u32,
    /// Transport protocol.
    pub protocol: u8,
    /// The direction of its first packet.
    pub original: Side,
    /// The other one, as answers arrive.
    pub reply: Side,
    /// Status bits, `IPS_*` of the kernel.
    pub status: u16,
    /// Seconds that it lives if no packet comes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u64>,
    /// The protocol's state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// SCTP's verification tags, original then reply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<[u32; 2]>,
    /// The mark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<u32>,
    /// The zone, if it isn't 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<u16>,
    /// The helper's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub helper: Option<String>,
    /// Numbers of the labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<u8>,
    /// When it began, nanoseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<u64>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<u64>,
    /// How many hold it; listings say 1, and 2 of one that was asked for by its tuple.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses: Option<u32>,
}

impl Entry {
    /// All that is known of a connection.
    pub fn of(id: ConnId, conn: &Connection, moment: Moment) -> Self {
        let counted = conn.counted().map_or([None; 2], |c| c.map(Some));
        let zones = conn.zones();
        // A zone of one direction is shown with that direction.
        let own = |zone: u16| (zones[0] != zones[1] && zone != 0).then_some(zone);
        let side = |tuple, counters, zone| Side { zone: own(zone), ..Side::of(tuple, counters) };
        Self {
            id: id.number(),
            protocol: conn.original().protocol,
            original: side(&conn.original(), counted[0], zones[0]),
            reply: side(&conn.reply(), counted[1], zones[1]),
            status: conn.status().bits(),
            timeout: Some(conn.time_left(moment.now).as_secs()),
            state: conn
                .tcp_state()
                .map(|state| state.name())
                .or_else(|| conn.sctp_state().map(|state| state.name()))
                .map(str::to_owned),
            tags: conn.sctp_tags(),
            mark: Some(conn.mark()),
            zone: (zones[0] == zones[1] && zones[0] != 0).then_some(zones[0]),
            helper: conn.helper().map(|helper| helper.name().to_owned()),
            labels: numbers(conn.labels()),
            start: conn.started().map(|at| moment.unix(at)),
            stop: None,
            uses: Some(1),
        }
    }

    /// Whether all bits of a status are set.
    pub fn has(&self, status: Status) -> bool {
        Status::from_bits(self.status).has(status)
    }

    /// Whether it is IPv4.
    pub fn is_v4(&self) -> bool {
        self.original.src.is_ipv4()
    }

    /// Whether the source is translated: answers go to another address.
    pub fn is_snat(&self) -> bool {
        self.reply.dst != self.original.src
    }

    /// Whether the destination is translated: answers come from another address.
    pub fn is_dnat(&self) -> bool {
        self.reply.src != self.original.dst
    }

    /// Whether the source port is translated.
    pub fn is_spat(&self) -> bool {
        has_ports(self.protocol) && self.reply.dport != self.original.sport
    }

    /// Whether the destination port is translated.
    pub fn is_dpat(&self) -> bool {
        has_ports(self.protocol) && self.reply.sport != self.original.dport
    }
}

/// The numbers of the bits that are set.
fn numbers(bits: u128) -> Vec<u8> {
    if bits == 0 {
        return Vec::new();
    }
    (0..128).filter(|bit| bits >> bit & 1 == 1).collect()
}

/// A bit for each number.
pub fn bits(numbers: &[u8]) -> u128 {
    numbers.iter().filter(|bit| **bit < 128).fold(0, |bits, bit| bits | 1 << bit)
}

/// The names that libnetfilter_conntrack has for protocols.
pub fn protocol_name(number: u8) -> &'static str {
    match number {
        protocol::TCP => "tcp",
        protocol::UDP => "udp",
        protocol::UDPLITE => "udplite",
        protocol::ICMP => "icmp",
        protocol::ICMPV6 => "icmpv6",
        protocol::SCTP => "sctp",
        protocol::GRE => "gre",
        protocol::DCCP => "dccp",
        _ => "unknown",
    }
}

/// Protocols whose tuples are printed with ports.
pub fn has_ports(number: u8) -> bool {
    matches!(
        number,
        protocol::TCP | protocol::UDP | protocol::UDPLITE | protocol::SCTP | protocol::DCCP
    )
}

/// ICMP of either family.
pub fn is_icmp(number: u8) -> bool {
    matches!(number, protocol::ICMP | protocol::ICMPV6)
}

/// An example for tests of the forms.
#[cfg(test)]
pub(super) fn example() -> Entry {
    let side = |src: &str, dst: &str, sport, dport| Side {
        src: src.parse().unwrap(),
        dst: dst.parse().unwrap(),
        sport,
        dport,
        counters: None,
        zone: None,
    };
    Entry {
        id: 477345646,
        protocol: protocol::TCP,
        original: side("10.1.0.2", "10.2.0.2", 41480, 80),
        reply: side("10.2.0.2", "10.2.0.1", 80, 41480),
        status: 0x19e,
        timeout: Some(431_999),
        state: Some("ESTABLISHED".into()),
        tags: None,
        mark: Some(0),
        zone: None,
        helper: None,
        labels: Vec::new(),
        start: None,
        stop: None,
        uses: Some(1),
    }
}
