//! ICMP and ICMPv6 messages, apart from what errors quote.

use tidegate_packet::{Instant, Parsed, Transport, checksum, icmp, icmpv6, protocol};

use crate::conn::Connection;
use crate::settings::Settings;
use crate::tracked::InvalidReason;

/// Bytes of a redirect before its options: header, target and destination.
pub(crate) const REDIRECT_LEN: usize = 40;

/// What a message is to conntrack.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Untracked,
    Error,
    Query,
}

/// The checks that come before any look-up.
pub(crate) fn check(packet: &Parsed, segment: &[u8], verify: bool) -> Result<Kind, InvalidReason> {
    let (kind, v4) = match packet.transport {
        // An ICMP message inside the other family's header means nothing to anybody.
        Transport::Icmp { kind, .. } if packet.src.is_v4() => (kind, true),
        Transport::Icmpv6 { kind, .. } if !packet.src.is_v4() => (kind, false),
        _ => return Err(InvalidReason::Malformed),
    };
    let right = match v4 {
        true => checksum::of(segment) == 0,
        false => checksum::verify_transport(packet.src, packet.dst, protocol::ICMPV6, segment),
    };
    if verify && !right {
        return Err(InvalidReason::Checksum);
    }
    Ok(match v4 {
        true if kind > icmp::MAX_KNOWN => return Err(InvalidReason::IcmpType),
        true if icmp::is_error(kind) => Kind::Error,
        false if icmpv6::is_untracked(kind) => Kind::Untracked,
        false if kind == icmpv6::REDIRECT => redirect(packet, segment)?,
        false if icmpv6::is_error(kind) => Kind::Error,
        _ => Kind::Query,
    })
}

/// A redirect (RFC 4861 section 4.5) is about a connection if the packet that caused it is its first
/// option; otherwise it is a message that belongs to none (nf_conntrack_icmpv6_redirect).
fn redirect(packet: &Parsed, segment: &[u8]) -> Result<Kind, InvalidReason> {
    const REDIRECTED_HEADER: u8 = 4;
    let code = *segment.get(1).ok_or(InvalidReason::Malformed)?;
    if code != 0 {
        return Ok(Kind::Query);
    }
    if packet.hop_limit != 255 || !packet.src.is_v6_link_local() {
        return Err(InvalidReason::IcmpAddress);
    }
    match segment.get(REDIRECT_LEN..REDIRECT_LEN + 2) {
        None | Some([_, 0]) => Err(InvalidReason::Malformed),
        Some([REDIRECTED_HEADER, _]) => Ok(Kind::Error),
        Some(_) => Ok(Kind::Query),
    }
}

/// Only requests open a connection.
pub(crate) fn may_start(packet: &Parsed) -> Result<(), InvalidReason> {
    match packet.transport {
        Transport::Icmp { kind, .. } if icmp::is_query(kind) => Ok(()),
        Transport::Icmpv6 { kind, .. } if icmpv6::is_query(kind) => Ok(()),
        _ => Err(InvalidReason::IcmpNew),
    }
}

/// Each packet either way prolongs the connection; none makes it assured.
pub(crate) fn packet(conn: &mut Connection, settings: &Settings, now: Instant) {
    let v4 = conn.protocol == protocol::ICMP;
    conn.refresh(if v4 { settings.icmp } else { settings.icmpv6 }, now);
}
