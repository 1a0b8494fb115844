//! What the REJECT target answers (netfilter's `nf_reject_ipv4` and `nf_reject_ipv6`).

use super::Engine;
use super::icmp::Message;
use super::packet::Packet;
use crate::io::Checksum;
use tidegate_filter::RejectWith;
use tidegate_packet::builder::{self, Ip, Tcp};
use tidegate_packet::{Family, checksum, icmp, icmpv6, protocol, tcp};

impl Engine {
    /// Answers a rejected packet, where an answer is allowed.
    pub(crate) fn reject(&mut self, packet: &Packet<'_>, with: RejectWith) {
        match with {
            RejectWith::TcpReset => self.send_reset(packet, Origin::Rule),
            RejectWith::Icmp(code) => {
                self.reject_icmp(packet, Message::new(icmp::DEST_UNREACHABLE, code));
            }
            RejectWith::Icmpv6(code) => {
                self.reject_icmp(packet, Message::new(icmpv6::DEST_UNREACHABLE, code));
            }
        }
    }

    /// A damaged packet gets no answer: its source may be damaged too.
    fn reject_icmp(&mut self, packet: &Packet<'_>, message: Message) {
        if packet.parsed.is_later_fragment()
            || !transport_checksum_is_right(packet)
            || options_were_written(packet)
        {
            return;
        }
        self.send_error(packet, message);
    }

    /// Answers a TCP segment with a reset (RFC 9293 section 3.5.2).
    pub(crate) fn send_reset(&mut self, packet: &Packet<'_>, origin: Origin) {
        let parsed = &packet.parsed;
        if parsed.fragment.is_some_and(|f| f.offset != 0) || self.refuses_reset(packet) {
            return;
        }
        let segment = parsed.segment(packet.bytes());
        let Some(question) = segment.first_chunk() else { return };
        // Linux's REJECT doesn't mind a header length that makes no sense; its host does.
        if origin == Origin::Host && tcp::Header::new_checked(segment).is_none()
            || question[13] & tcp::RST != 0
            || !transport_checksum_is_right(packet)
        {
            return;
        }
        let answer = builder::tcp(
            Ip {
                dont_fragment: true,
                // The question's, without its ECN bits (ip_send_unicast_reply).
                tos: if origin == Origin::Host { parsed.tos & !3 } else { 0 },
                hop_limit: match parsed.family {
                    Family::V4 => self.policy.default_ttl,
                    Family::V6 => 64,
                },
                ..Ip::new(parsed.dst, parsed.src, protocol::TCP)
            },
            reset_for(question, segment.len()),
            &[],
        );
        let (answer, attach) = match origin {
            Origin::Rule if options_were_written(packet) => return,
            Origin::Rule => {
                let question = packet.tracked.as_ref();
                if let Some(question) = question {
                    self.conntrack.set_closing(question, self.now);
                }
                (answer, question.and_then(|question| self.conntrack.attach_reply(question)))
            }
            Origin::Host => {
                let options = self.turn_round(packet.options.as_deref(), packet.bytes());
                let Some(options) = options else { return };
                (options.put_into(answer), None)
            }
        };
        self.originate_attached(answer, packet.input, attach);
    }

    /// Broadcasts, groups and IPv6 sources that no answer can reach.
    fn refuses_reset(&self, packet: &Packet<'_>) -> bool {
        let (src, dst) = (packet.parsed.src, packet.parsed.dst);
        src.is_multicast()
            || src.is_unspecified()
            || dst.is_multicast()
            || dst.is_limited_broadcast()
            || packet.parsed.family == Family::V4
                && matches!(
                    self.routes.lookup(dst, None).map(|f| f.target),
                    Some(super::route::Target::Broadcast(_))
                )
    }
}

/// Who resets: a rule, whose answer belongs to the rejected packet's connection, or the host,
/// whose answer is tracked like any other packet.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Rule,
    Host,
}

/// Sequence numbers of a reset: the acknowledged one if there is one, else an acknowledgment of
/// all that came.
fn reset_for(question: &[u8; tcp::MIN_HEADER_LEN], segment_len: usize) -> Tcp<'static> {
    let port = |at: usize| u16::from_be_bytes([question[at], question[at + 1]]);
    let number = |at: usize| u32::from(port(at)) << 16 | u32::from(port(at + 2));
    let flags = question[13];
    let ports = Tcp { sport: port(2), dport: port(0), ..Tcp::default() };
    if flags & tcp::ACK != 0 {
        return Tcp { seq: number(8), flags: tcp::RST, ..ports };
    }
    let control = u32::from(flags & tcp::SYN != 0) + u32::from(flags & tcp::FIN != 0);
    let data = (segment_len as u32).wrapping_sub(u32::from(question[12] >> 4) * 4);
    let ack = number(4).wrapping_add(control).wrapping_add(data);
    Tcp { ack, flags: tcp::RST | tcp::ACK, ..ports }
}

/// Linux's REJECT sums the IP header along with the rest, so it takes a packet for damaged whose
/// options have got an address or a time, and whose header checksum will be mended on the way out.
fn options_were_written(packet: &Packet<'_>) -> bool {
    packet.options.is_some() && checksum::of(&packet.bytes()[..usize::from(packet.parsed.l4)]) != 0
}

/// Whether the checksum over everything behind the IP header is right, as `nf_ip_checksum` sees
/// it: protocols it doesn't know are summed too, those with another kind of check are not.
pub(crate) fn transport_checksum_is_right(packet: &Packet<'_>) -> bool {
    if packet.frame.meta.offload.checksum != Checksum::Unverified {
        return true;
    }
    let parsed = &packet.parsed;
    let segment = parsed.segment(packet.bytes());
    match parsed.protocol {
        protocol::AH
        | protocol::ESP
        | protocol::SCTP
        | protocol::UDPLITE
        | protocol::DCCP
        | protocol::GRE => true,
        protocol::UDP if parsed.family == Family::V4 && segment.get(6..8) == Some(&[0, 0]) => true,
        protocol::TCP | protocol::UDP | protocol::ICMPV6 => {
            checksum::verify_transport(parsed.src, parsed.dst, parsed.protocol, segment)
        }
        // The kernel sums the IP header too, so no payload at all, or one of zeros, counts as right.
        _ if parsed.family == Family::V4 => matches!(checksum::of(segment), 0 | 0xffff),
        _ => checksum::verify_transport(parsed.src, parsed.dst, parsed.protocol, segment),
    }
}
