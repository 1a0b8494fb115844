//! Protocols that are told apart by addresses, or by ports without states; and SCTP's checksum.

use tidegate_packet::{Instant, protocol};

use crate::conn::{Connection, Direction, Status};
use crate::rewrite::crc32c;
use crate::sctp;
use crate::settings::Settings;
use crate::tracked::InvalidReason;

/// SCTP's checksum (RFC 9260 section 6.8), which a packet from the wire must have.
pub(crate) fn check_sctp(segment: &[u8], verify: bool) -> Result<(), InvalidReason> {
    let (Some(head), Some(sum), Some(rest)) =
        (segment.get(..8), segment.get(8..12), segment.get(12..))
    else {
        return Err(InvalidReason::Malformed);
    };
    if verify && crc32c([head, &[0; 4], rest].into_iter().flatten()).to_le_bytes() != *sum {
        return Err(InvalidReason::Checksum);
    }
    Ok(())
}

/// Prolongs the connection, and says whether it did; GRE becomes assured when both sides have spoken.
pub(crate) fn packet(
    conn: &mut Connection,
    direction: Direction,
    segment: &[u8],
    settings: &Settings,
    now: Instant,
) -> Result<bool, InvalidReason> {
    let answered = conn.status.has(Status::SEEN_REPLY);
    let timeout = match (conn.protocol, answered) {
        (protocol::SCTP, _) => return sctp::packet(conn, direction, segment, settings, now),
        (protocol::GRE, false) => settings.gre,
        (protocol::GRE, true) => settings.gre_stream,
        _ => settings.generic,
    };
    conn.refresh(timeout, now);
    if answered && conn.protocol == protocol::GRE {
        conn.status.set(Status::ASSURED);
    }
    Ok(true)
}
