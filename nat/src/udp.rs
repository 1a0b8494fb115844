//! UDP and UDP-Lite.

use std::time::Duration;

use tidegate_packet::{Instant, Parsed, checksum, protocol, udp};

use crate::conn::{Connection, Proto, Status};
use crate::early;
use crate::settings::Settings;
use crate::tracked::InvalidReason;

/// A flow that is still alive after this time is a stream.
const STREAM_AFTER: Duration = Duration::from_secs(2);

/// The checks that come before any look-up.
pub(crate) fn check(packet: &Parsed, segment: &[u8], verify: bool) -> Result<(), InvalidReason> {
    let header = udp::Header::new_checked(segment).ok_or(InvalidReason::Malformed)?;
    // A length field below the packet's own length is fine.
    let len = usize::from(header.len_field());
    if len < udp::HEADER_LEN || len > segment.len() {
        return Err(InvalidReason::UdpLength);
    }
    // RFC 768: zero is no checksum. netfilter doesn't ask which family it is.
    early::checksum(packet, protocol::UDP, segment, verify && header.checksum() != 0)
}

/// RFC 3828: the length field is the checksum's coverage, and there must be a checksum.
pub(crate) fn check_lite(
    packet: &Parsed,
    segment: &[u8],
    verify: bool,
) -> Result<(), InvalidReason> {
    let header = udp::Header::new_checked(segment).ok_or(InvalidReason::Malformed)?;
    let covered = match usize::from(header.len_field()) {
        0 => segment.len(),
        n if n < udp::HEADER_LEN || n > segment.len() => return Err(InvalidReason::UdpLength),
        n => n,
    };
    if header.checksum() == 0 {
        return Err(InvalidReason::Checksum);
    }
    let len = segment.len() as u32;
    let sum = checksum::pseudo_header(packet.src, packet.dst, protocol::UDPLITE, len);
    if verify && checksum::fold(checksum::add(sum, &segment[..covered])) != 0xffff {
        return Err(InvalidReason::Checksum);
    }
    Ok(())
}

/// Until when packets change nothing but a flow's deadline; `None`: as long as they come.
pub(crate) fn steady_until(conn: &Connection, start: Instant) -> Option<Instant> {
    let steady = conn.status.has(Status::ASSURED) || !conn.status.has(Status::SEEN_REPLY);
    (!steady).then_some(start + STREAM_AFTER)
}

/// Answers alone (a DNS query) don't make a flow assured; traffic later than two seconds after its
/// start does, and gives it the longer timeout.
pub(crate) fn packet(conn: &mut Connection, settings: &Settings, now: Instant) {
    if !conn.status.has(Status::SEEN_REPLY) {
        conn.refresh(settings.udp, now);
        return;
    }
    match conn.proto {
        Proto::Udp { start, .. } if now > start + STREAM_AFTER => {
            conn.refresh(settings.udp_stream, now);
            conn.status.set(Status::ASSURED);
        }
        _ => conn.refresh(settings.udp, now),
    }
}

/// As [`packet`] if that changes nothing but the time; else nothing.
#[inline(always)]
pub(crate) fn steady(conn: &mut Connection, settings: &Settings, now: Instant) -> bool {
    let late = matches!(conn.proto, Proto::Udp { start, .. } if now > start + STREAM_AFTER);
    let timeout = match late && conn.status.has(Status::SEEN_REPLY) {
        true if !conn.status.has(Status::ASSURED) => return false,
        true => settings.udp_stream,
        false => settings.udp,
    };
    conn.refresh(timeout, now);
    true
}
