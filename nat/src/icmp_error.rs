//! ICMP errors: which connection they are about, and where their quote lies.

use tidegate_packet::checksum::Field;
use tidegate_packet::{Addr, Instant, Parsed, Transport, icmpv6, ipv6, protocol};

use crate::Tuple;
use crate::icmp::REDIRECT_LEN;
use crate::rewrite::Place;
use crate::table::Conntrack;
use crate::tracked::{Entry, InvalidReason, Role, State, Tracked};

/// Bytes of an ICMP or ICMPv6 error before its quote.
const ERROR_HEADER_LEN: usize = 8;

/// Finds the connection of the quoted packet.
///
/// The quote is a packet that passed here, so as a tuple it is what its receiver saw; the error
/// goes against it, in the direction whose tuple is its inverse.
pub(crate) fn track(
    table: &mut Conntrack,
    packet: &Parsed,
    bytes: &[u8],
    zones: [u16; 2],
    now: Instant,
) -> Result<Tracked, InvalidReason> {
    let tuple = quoted(table, packet, bytes).ok_or(InvalidReason::IcmpQuote)?;
    // A quoted ICMP message that is no query has no inverse and no connection.
    let answer = tuple.inverse().ok_or(InvalidReason::IcmpNoConnection)?;
    let (id, direction) =
        table.lookup(table.hashed(&answer), zones, now).ok_or(InvalidReason::IcmpNoConnection)?;
    let conn = table.get(id).ok_or(InvalidReason::IcmpNoConnection)?;
    // RFC 5927 section 4: an error goes to the sender of what it quotes.
    if conn.tuple(direction).dst != packet.dst {
        return Err(InvalidReason::IcmpAddress);
    }
    Ok(Tracked { state: State::Related, direction, entry: Entry::Known(id), role: Role::Error })
}

fn quoted(table: &Conntrack, packet: &Parsed, bytes: &[u8]) -> Option<Tuple> {
    let quote = quote(packet, bytes)?;
    let mut tuple = quote_tuple(quote, bytes)?;
    table.complete(&mut tuple, bytes.get(quote.l4..quote.end).unwrap_or_default());
    Some(tuple)
}

/// The tuple of answers to the quoted packet.
pub(crate) fn answer(table: &Conntrack, packet: &Parsed, bytes: &[u8]) -> Option<Tuple> {
    quoted(table, packet, bytes)?.inverse()
}

/// Where the quoted packet lies; `None` if it is too short, has an impossible header length, or is
/// a later fragment. Its version, length, TTL and checksums are nobody's business (routers on the
/// way have changed them).
pub(crate) fn quote(packet: &Parsed, bytes: &[u8]) -> Option<Place> {
    let header = match packet.transport {
        // The packet is in an option with a header of eight bytes.
        Transport::Icmpv6 { kind: icmpv6::REDIRECT, .. } => REDIRECT_LEN + 8,
        _ => ERROR_HEADER_LEN,
    };
    let ip = usize::from(packet.l4) + header;
    let end = packet.len as usize;
    let inner = bytes.get(ip..end)?;
    let (header_len, protocol) = if packet.src.is_v4() {
        let header_len = usize::from(inner.first()? & 0x0f) * 4;
        let offset = u16::from_be_bytes([*inner.get(6)?, *inner.get(7)?]) & 0x1fff;
        if header_len < 20 || header_len > inner.len() || offset != 0 {
            return None;
        }
        (header_len, inner[9])
    } else {
        if inner.len() < ipv6::HEADER_LEN {
            return None;
        }
        let mut chain = ipv6::Extensions::new(inner);
        for extension in &mut chain {
            let later = extension.kind == protocol::FRAGMENT
                && u16::from_be_bytes([inner[extension.at + 2], inner[extension.at + 3]]) >= 8;
            if later {
                return None;
            }
        }
        if chain.truncated() {
            return None;
        }
        (chain.offset(), chain.protocol())
    };
    Some(Place {
        ip,
        l4: ip + header_len,
        end,
        protocol,
        v4: packet.src.is_v4(),
        field: Field::Complete,
        cut: true,
    })
}

fn quote_tuple(quote: Place, bytes: &[u8]) -> Option<Tuple> {
    let ip = &bytes[quote.ip..quote.end];
    let (src, dst) = if quote.v4 {
        (
            Addr::from_v4_bytes(ip[12..16].try_into().ok()?),
            Addr::from_v4_bytes(ip[16..20].try_into().ok()?),
        )
    } else {
        (
            Addr::from_v6_bytes(ip[8..24].try_into().ok()?),
            Addr::from_v6_bytes(ip[24..40].try_into().ok()?),
        )
    };
    Tuple::of_quote(src, dst, quote.protocol, bytes.get(quote.l4..quote.end)?)
}
