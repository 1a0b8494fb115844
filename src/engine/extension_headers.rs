//! IPv6 extension headers (RFC 8200 section 4): hop-by-hop options as a packet comes in, before
//! any rule; destination options, routing headers and the order of headers when INPUT has let it
//! through to the gateway. Packets that are forwarded are looked at no further.

use super::Engine;
use super::counters::Drop;
use super::icmp::Message;
use super::packet::Packet;
use tidegate_filter::LinkType;
use tidegate_packet::ipv6::{self, Extension};
use tidegate_packet::{icmpv6, protocol};

/// Option types (IANA "Destination Options and Hop-by-Hop Options").
const PAD1: u8 = 0;
const PADN: u8 = 1;
const ROUTER_ALERT: u8 = 5;
const CALIPSO: u8 = 7;
const IOAM: u8 = 0x31;
const JUMBO: u8 = 0xc2;

/// Codes of parameter problem (RFC 4443 section 3.4).
const ERRONEOUS_FIELD: u8 = 0;
const UNKNOWN_HEADER: u8 = 1;
const UNKNOWN_OPTION: u8 = 2;

/// Options besides padding that one header may hold (Linux: `max_hbh_opts_number`,
/// `max_dst_opts_number`).
const MAX_OPTIONS: u32 = 8;
/// Octets of padding in a row; more never align anything (RFC 4942 section 2.1.9.5).
const MAX_PADDING: usize = 7;

/// Routing header types that need state which the gateway never has (RFC 6554, RFC 8754).
const RPL: u8 = 3;
const SEGMENTS: u8 = 4;

/// Why a packet goes no further.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Refusal {
    /// Nobody hears of it.
    Silent,
    /// Parameter problem with this code and pointer.
    Problem(u8, usize),
}

/// Checks the options of one header.
fn check_options(packet: &[u8], header: Extension) -> Result<(), Refusal> {
    let end = header.at + header.len;
    let mut at = header.at + 2;
    let (mut padding, mut count) = (0, 0);
    while at < end {
        if packet[at] == PAD1 {
            padding += 1;
            if padding > MAX_PADDING {
                return Err(Refusal::Silent);
            }
            at += 1;
            continue;
        }
        let len = packet[..end].get(at + 1).map(|l| usize::from(*l) + 2);
        let option = len.and_then(|len| packet[..end].get(at..at + len)).ok_or(Refusal::Silent)?;
        if option[0] == PADN {
            padding += option.len();
            if padding > MAX_PADDING || option[2..].iter().any(|b| *b != 0) {
                return Err(Refusal::Silent);
            }
        } else {
            padding = 0;
            count += 1;
            if count > MAX_OPTIONS {
                return Err(Refusal::Silent);
            }
            match header.kind {
                protocol::HOPOPTS => hop_by_hop_option(packet, at, option)?,
                _ => unknown_option(packet, at)?,
            }
        }
        at += option.len();
    }
    Ok(())
}

fn hop_by_hop_option(packet: &[u8], at: usize, option: &[u8]) -> Result<(), Refusal> {
    match option[0] {
        // RFC 2711 section 2.1.
        ROUTER_ALERT if option.len() == 4 => Ok(()),
        // No label is configured, so none is known (RFC 5570).
        ROUTER_ALERT | CALIPSO => Err(Refusal::Silent),
        // RFC 9486 section 3: aligned to four octets; otherwise it is not looked at.
        IOAM if at.is_multiple_of(4) => Ok(()),
        IOAM => Err(Refusal::Silent),
        JUMBO => Err(jumbo(packet, at, option)),
        _ => unknown_option(packet, at),
    }
}

/// A length beyond 65,535 comes from no link of ours, so each of these is wrong (RFC 2675
/// section 3).
fn jumbo(packet: &[u8], at: usize, option: &[u8]) -> Refusal {
    if option.len() != 6 || at % 4 != 2 {
        Refusal::Silent
    } else if option[2..4] == [0, 0] {
        Refusal::Problem(ERRONEOUS_FIELD, at + 2)
    } else if packet[4..6] != [0, 0] {
        Refusal::Problem(ERRONEOUS_FIELD, at)
    } else {
        Refusal::Silent
    }
}

/// The two highest bits of its type say what becomes of the packet (RFC 8200 section 4.2).
fn unknown_option(packet: &[u8], at: usize) -> Result<(), Refusal> {
    let to_group = packet[24] == 0xff;
    match packet[at] >> 6 {
        0 => Ok(()),
        1 => Err(Refusal::Silent),
        3 if to_group => Err(Refusal::Silent),
        _ => Err(Refusal::Problem(UNKNOWN_OPTION, at)),
    }
}

/// Whether a message is about an option whose type asks to be told even of packets to a group.
pub(crate) fn asks_for_answer(packet: &[u8], message: Message) -> bool {
    let pointer = u32::from_be_bytes(message.rest) as usize;
    message.kind == icmpv6::PARAMETER_PROBLEM
        && message.code == UNKNOWN_OPTION
        && packet.get(pointer).is_some_and(|kind| kind >> 6 == 2)
}

/// Walks the headers of a packet for the gateway, as far as the upper layer.
fn check_chain(packet: &[u8], unicast: bool) -> Result<(), Refusal> {
    // Where the field stands that has named the header.
    let mut named_at = 6;
    for (n, header) in ipv6::Extensions::new(packet).enumerate() {
        match header.kind {
            // Checked as the packet came in; anywhere else it isn't known.
            protocol::HOPOPTS if n == 0 => {}
            protocol::DSTOPTS => check_options(packet, header)?,
            protocol::ROUTING => check_routing(packet, header, unicast)?,
            protocol::FRAGMENT => {}
            _ => return Err(Refusal::Problem(UNKNOWN_HEADER, named_at)),
        }
        named_at = header.at;
    }
    Ok(())
}

/// RFC 8200 section 4.4, and section 3 of RFC 5095: no routing header leads on from here.
fn check_routing(packet: &[u8], header: Extension, unicast: bool) -> Result<(), Refusal> {
    let (kind, segments_left) = (packet[header.at + 2], packet[header.at + 3]);
    if !unicast || matches!(kind, RPL | SEGMENTS) {
        Err(Refusal::Silent)
    } else if segments_left != 0 {
        Err(Refusal::Problem(ERRONEOUS_FIELD, header.at + 2))
    } else {
        Ok(())
    }
}

impl Engine {
    /// The hop-by-hop options of a packet that has come in, if it has any.
    pub(crate) fn hop_by_hop(&mut self, packet: &Packet<'_>) -> Result<(), Drop> {
        let first = ipv6::Extensions::new(packet.bytes()).next();
        let Some(header) = first.filter(|h| h.kind == protocol::HOPOPTS) else { return Ok(()) };
        let result = check_options(packet.bytes(), header);
        self.refuse(packet, result)
    }

    /// The other extension headers of a packet for the gateway.
    pub(crate) fn extension_headers(&mut self, packet: &Packet<'_>) -> Result<(), Drop> {
        if !packet.has_extension_headers() {
            return Ok(());
        }
        let unicast = !packet.parsed.dst.is_multicast()
            && packet.link.is_none_or(|l| l.kind == LinkType::Unicast);
        let result = check_chain(packet.bytes(), unicast);
        self.refuse(packet, result)
    }

    fn refuse(&mut self, packet: &Packet<'_>, result: Result<(), Refusal>) -> Result<(), Drop> {
        match result {
            Ok(()) => return Ok(()),
            Err(Refusal::Silent) => {}
            Err(Refusal::Problem(code, pointer)) => {
                let rest = (pointer as u32).to_be_bytes();
                let message = Message::new(icmpv6::PARAMETER_PROBLEM, code);
                self.send_error(packet, Message { rest, ..message });
            }
        }
        Err(Drop::Ip6ExtensionHeader)
    }
}

#[cfg(test)]
mod tests {
    use super::Refusal::{Problem, Silent};
    use super::*;

    /// A packet to `dst` whose headers behind the fixed one are these octets.
    fn packet(first: u8, group: bool, headers: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 40];
        bytes[0] = 0x60;
        bytes[5] = headers.len() as u8;
        bytes[6] = first;
        bytes[24] = if group { 0xff } else { 0xfd };
        bytes.extend_from_slice(headers);
        bytes
    }

    #[test]
    fn options() {
        const HOP: u8 = protocol::HOPOPTS;
        const DST: u8 = protocol::DSTOPTS;
        for (kind, group, octets, want) in [
            (DST, false, "3a00010400000000", Ok(())),
            (DST, false, "3a00000000000000", Ok(())),
            (DST, false, "3a00010400000100", Err(Silent)),
            (DST, false, "3a00010500000000", Err(Silent)),
            (DST, false, "3a01000104000000 0000010300000000", Err(Silent)),
            (DST, false, "3a00070400000000", Ok(())),
            (DST, false, "3a00470400000000", Err(Silent)),
            (DST, false, "3a00870400000000", Err(Problem(2, 42))),
            (DST, true, "3a00870400000000", Err(Problem(2, 42))),
            (DST, false, "3a00c70400000000", Err(Problem(2, 42))),
            (DST, true, "3a00c70400000000", Err(Silent)),
            (DST, false, "3a000000 87020000", Err(Problem(2, 44))),
            (DST, false, "3a00c204ffffffff", Err(Problem(2, 42))),
            (HOP, false, "3a00050200000100", Ok(())),
            (HOP, false, "3a00050300000000", Err(Silent)),
            (HOP, false, "3a00070400000000", Err(Silent)),
            (HOP, false, "3a00310400000000", Err(Silent)),
            (HOP, false, "3a00000031020000", Ok(())),
            (HOP, false, "3a00c2040000000a", Err(Problem(0, 44))),
            (HOP, false, "3a00c20400010000", Err(Problem(0, 42))),
            (HOP, false, "3a00c203000100 00", Err(Silent)),
            (DST, false, "3a02 0200 0200 0200 0200 0200 0200 0200 0200 010400000000", Ok(())),
            (DST, false, "3a02 0200 0200 0200 0200 0200 0200 0200 0200 0200 01020000", Err(Silent)),
        ] {
            let bytes = packet(kind, group, &hex(octets));
            let header = ipv6::Extensions::new(&bytes).next().unwrap();
            assert_eq!(check_options(&bytes, header), want, "{kind} {octets}");
        }
    }

    #[test]
    fn chains() {
        for (first, unicast, octets, want) in [
            (0, true, "3c00010400000000 3a00010400000000", Ok(())),
            (60, true, "0000010400000000 3a00010400000000", Err(Problem(1, 40))),
            (0, true, "0000010400000000 3a00010400000000", Err(Problem(1, 40))),
            (51, true, "3a01000000000000 00000000", Err(Problem(1, 6))),
            (43, true, "3a00000000000000", Ok(())),
            (43, true, "3a00000100000000", Err(Problem(0, 42))),
            (43, true, "3a00030000000000", Err(Silent)),
            (43, true, "3a00040000000000", Err(Silent)),
            (43, false, "3a00000000000000", Err(Silent)),
            (60, true, "2b00010400000000 3a00fd0100000000", Err(Problem(0, 50))),
            (58, true, "80000000", Ok(())),
        ] {
            let bytes = packet(first, false, &hex(octets));
            assert_eq!(check_chain(&bytes, unicast), want, "{first} {octets}");
        }
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
        digits.chunks(2).map(|d| (d[0] * 16 + d[1]) as u8).collect()
    }
}
