//! What the checks before any look-up have in common, and all of them for packets whose headers have
//! been read already.

use tidegate_packet::tcp::{ACK, FIN, RST, SYN, URG};
use tidegate_packet::{Parsed, Plain, checksum, udp};

use crate::tracked::InvalidReason;

/// The transport checksum, where it is to be verified.
pub(crate) fn checksum(
    packet: &Parsed,
    protocol: u8,
    segment: &[u8],
    verify: bool,
) -> Result<(), InvalidReason> {
    match !verify || checksum::verify_transport(packet.src, packet.dst, protocol, segment) {
        true => Ok(()),
        false => Err(InvalidReason::Checksum),
    }
}

/// As `tcp::check` for a segment that carries ACK and at most such flags as go with anything, and as
/// `udp::check`.
#[inline(always)]
pub(crate) fn check_plain<const V6: bool>(
    plain: &Plain<V6>,
    packet: &[u8],
    mut verify: bool,
) -> Result<(), InvalidReason> {
    if plain.is_tcp() {
        debug_assert!(plain.flags & (FIN | SYN | RST | ACK | URG) == ACK);
    } else {
        let header = packet.get(Plain::<V6>::L4..).and_then(<[u8]>::first_chunk);
        let Some([_, _, _, _, len @ .., c0, c1]): Option<&[u8; udp::HEADER_LEN]> = header else {
            return Err(InvalidReason::Malformed);
        };
        let len = usize::from(u16::from_be_bytes(*len));
        if len < udp::HEADER_LEN || len + Plain::<V6>::L4 > plain.len as usize {
            return Err(InvalidReason::UdpLength);
        }
        // RFC 768: zero is no checksum.
        verify &= [*c0, *c1] != [0; 2];
    }
    match !verify || plain.verify(packet) {
        true => Ok(()),
        false => Err(InvalidReason::Checksum),
    }
}
