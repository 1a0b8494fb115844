//! The gateway as a host: what becomes of packets that INPUT has accepted.
//!
//! Without a host device the gateway answers pings and refuses everything else as a kernel
//! without listeners does. With one, packets go to the namespace's own kernel; neighbour
//! discovery stays here, since the links are ours.

use super::counters::Drop;
use super::fragment::next_header_place;
use super::icmp::Message;
use super::packet::Packet;
use super::reject::{Origin, transport_checksum_is_right};
use super::{Engine, Fate};
use crate::io::Checksum;
use tidegate_filter::LinkType;
use tidegate_packet::builder::{self, Ip};
use tidegate_packet::{Addr, Family, Transport, checksum, icmp, icmpv6, protocol};

impl Engine {
    /// Hands a packet to the host.
    pub(crate) fn host(&mut self, packet: &mut Packet<'_>) -> Result<Fate, Drop> {
        let neighbour_discovery = matches!(
            packet.parsed.transport,
            Transport::Icmpv6 {
                kind: icmpv6::NEIGHBOUR_SOLICITATION | icmpv6::NEIGHBOUR_ADVERTISEMENT,
                ..
            }
        );
        // The host's own kernel looks at what is for it.
        if self.host_port.is_none() || neighbour_discovery {
            self.extension_headers(packet)?;
        }
        if neighbour_discovery {
            if !transport_checksum_is_right(packet) {
                return Err(Drop::HostMalformed);
            }
            return self.ndp_in(packet);
        }
        if let Some(port) = self.host_port {
            return Ok(to_host_device(packet, port));
        }
        // A fragment that is all there is of its packet is none (RFC 6946).
        let in_part = packet.parsed.fragment.is_some_and(|f| f.offset != 0 || f.more);
        if in_part && packet.pieces.is_none() {
            return Err(Drop::HostIgnored);
        }
        // A datagram is looked at below.
        let knows = !matches!(
            packet.parsed.transport,
            Transport::Other | Transport::Ports { .. } | Transport::Udp { .. }
        );
        if knows && !transport_checksum_is_right(packet) {
            return Err(Drop::HostMalformed);
        }
        match packet.parsed.transport {
            Transport::Icmp { kind, code, .. } => self.host_icmp(packet, kind, code),
            Transport::Icmpv6 { kind, .. } => self.host_icmpv6(packet, kind),
            // Nobody here would look into these.
            Transport::Malformed
                if !matches!(packet.parsed.protocol, protocol::SCTP | protocol::DCCP) =>
            {
                Err(Drop::HostMalformed)
            }
            // TCP is between two stations (RFC 9293 section 3.9.2.3).
            Transport::Tcp { .. } if packet.link.is_some_and(|l| l.kind != LinkType::Unicast) => {
                Err(Drop::HostIgnored)
            }
            Transport::Tcp { .. } => {
                self.send_reset(packet, Origin::Host);
                Err(Drop::HostIgnored)
            }
            Transport::Udp { .. } if packet.parsed.protocol == protocol::UDP => {
                if !datagram_is_right(packet) {
                    return Err(Drop::HostMalformed);
                }
                // The kernel forgets the connection before it answers (__udp4_lib_rcv).
                packet.tracked = None;
                self.send_error(packet, Message::port_unreachable(packet.parsed.family));
                Err(Drop::HostIgnored)
            }
            // IGMP is understood by every Linux host, so it isn't refused.
            _ if packet.parsed.protocol == protocol::IGMP && packet.parsed.family == Family::V4 => {
                Err(Drop::HostIgnored)
            }
            _ => {
                self.refuse_protocol(packet);
                Err(Drop::HostIgnored)
            }
        }
    }

    /// Protocol unreachable (RFC 1122 section 3.2.2.1), or for IPv6 unrecognized next header
    /// (RFC 4443 section 3.4) with a pointer to the field that named it.
    fn refuse_protocol(&mut self, packet: &Packet<'_>) {
        let message = match packet.parsed.family {
            Family::V4 => Message::new(icmp::DEST_UNREACHABLE, icmp::unreachable::PROTOCOL),
            Family::V6 => {
                if packet.parsed.protocol == protocol::NO_NEXT {
                    return;
                }
                Message {
                    kind: icmpv6::PARAMETER_PROBLEM,
                    code: 1,
                    rest: (next_header_place(packet.bytes()) as u32).to_be_bytes(),
                }
            }
        };
        self.send_error(packet, message);
    }

    /// Echo and timestamp (RFC 1122 sections 3.2.2.6 and 3.2.2.8).
    fn host_icmp(&mut self, packet: &Packet<'_>, kind: u8, code: u8) -> Result<Fate, Drop> {
        let family = Family::V4;
        let group = packet.parsed.dst.is_multicast() || !self.routes.is_local(packet.parsed.dst);
        if group && self.policy.echo_ignore_broadcasts(family) {
            return Err(Drop::HostIgnored);
        }
        let message = packet.parsed.segment(packet.bytes());
        let rest = [message[4], message[5], message[6], message[7]];
        let (answer, code, body) = match kind {
            icmp::ECHO_REQUEST if !self.policy.echo_ignore_all(family) => {
                (icmp::ECHO_REPLY, code, message[8..].to_vec())
            }
            icmp::TIMESTAMP_REQUEST if message.len() >= 20 => {
                let now = self.milliseconds_since_midnight().to_be_bytes();
                let body = [&message[8..12], &now, &now].concat();
                (icmp::TIMESTAMP_REPLY, 0, body)
            }
            _ => return Err(Drop::HostIgnored),
        };
        let header = Ip { id: self.next_ip_id(), ..self.answer_header(packet, protocol::ICMP)? };
        let options =
            self.turn_round(packet.options.as_deref(), packet.bytes()).ok_or(Drop::HostIgnored)?;
        let reply = options.put_into(builder::icmp(header, answer, code, rest, &body));
        self.originate(reply, packet.input);
        Ok(Fate::Consumed)
    }

    fn host_icmpv6(&mut self, packet: &Packet<'_>, kind: u8) -> Result<Fate, Drop> {
        let family = Family::V6;
        if kind != icmpv6::ECHO_REQUEST || self.policy.echo_ignore_all(family) {
            return Err(Drop::HostIgnored);
        }
        if packet.parsed.dst.is_multicast() && self.policy.echo_ignore_broadcasts(family) {
            return Err(Drop::HostIgnored);
        }
        let message = packet.parsed.segment(packet.bytes());
        let rest = [message[4], message[5], message[6], message[7]];
        let body = message[8..].to_vec();
        let header = self.answer_header(packet, protocol::ICMPV6)?;
        let reply = builder::icmp(header, icmpv6::ECHO_REPLY, 0, rest, &body);
        self.originate(reply, packet.input);
        Ok(Fate::Consumed)
    }

    /// From the address that was asked, or for a group from one on the way back.
    fn answer_header(&self, packet: &Packet<'_>, protocol: u8) -> Result<Ip, Drop> {
        let (asked, asker) = (packet.parsed.dst, packet.parsed.src);
        let src = if self.routes.is_local(asked) {
            asked
        } else {
            let input = packet.input.ok_or(Drop::HostIgnored)?;
            self.source_for(input, asker).ok_or(Drop::HostIgnored)?
        };
        if asker.is_unspecified()
            || packet.link.is_some_and(|l| l.kind == LinkType::Broadcast && asker.is_multicast())
        {
            return Err(Drop::HostIgnored);
        }
        // IPv6 has a default of its own.
        let hop_limit = match packet.parsed.family {
            Family::V4 => self.policy.default_ttl,
            Family::V6 => 64,
        };
        Ok(Ip { tos: packet.parsed.tos, hop_limit, ..Ip::new(src, asker, protocol) })
    }

    /// The source address for packets that leave by an interface: one of its own, else any.
    pub(crate) fn source_for(
        &self,
        egress: super::interface::InterfaceId,
        towards: Addr,
    ) -> Option<Addr> {
        self.interfaces.get(egress).source_address(towards).or_else(|| {
            self.interfaces
                .iter()
                .filter(|(id, _)| *id != super::interface::LOOPBACK)
                .find_map(|(_, i)| i.primary(towards.family()))
        })
    }

    pub(crate) fn milliseconds_since_midnight(&self) -> u32 {
        (self.unix_nanos / 1_000_000 % 86_400_000) as u32
    }
}

/// The packet goes to the kernel without a link header.
fn to_host_device(packet: &mut Packet<'_>, port: super::interface::PortId) -> Fate {
    if let Some(options) = packet.options.take() {
        options.undo(packet.bytes_mut());
    }
    packet.frame.meta.start = packet.l3;
    if let Checksum::Partial { start, .. } = &mut packet.frame.meta.offload.checksum {
        *start = packet.parsed.l4;
    }
    Fate::Transmit(port)
}

/// Whether a datagram's length is possible, and its checksum right for that length: what lies behind
/// it isn't part of it (RFC 768; zero stands for a jumbogram in IPv6, RFC 2675).
fn datagram_is_right(packet: &Packet<'_>) -> bool {
    let parsed = &packet.parsed;
    let segment = parsed.segment(packet.bytes());
    let Some(&[_, _, _, _, high, low, sum_high, sum_low]) = segment.first_chunk::<8>() else {
        return false;
    };
    let len = match u16::from_be_bytes([high, low]) {
        0 if parsed.family == Family::V6 => segment.len(),
        len => usize::from(len),
    };
    let Some(datagram) = segment.get(..len).filter(|d| d.len() >= 8) else { return false };
    packet.frame.meta.offload.checksum != Checksum::Unverified
        || parsed.family == Family::V4 && (sum_high, sum_low) == (0, 0)
        || checksum::verify_transport(parsed.src, parsed.dst, parsed.protocol, datagram)
}
