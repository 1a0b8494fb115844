//! `TCPMSS`: the largest segment that a SYN announces (RFC 9293 section 3.7.1), lowered so that
//! full segments fit the path.

use super::packet::Packet;
use tidegate_filter::MssClamp;
use tidegate_packet::checksum::Delta;
use tidegate_packet::{Family, Transport, tcp};

/// Edits the MSS option of a TCP packet in place. A present value is only ever lowered. A SYN
/// without the option is left alone: its sender assumes 536 (IPv4) or 1220 bytes, which fits
/// every path that IP allows.
pub(crate) fn clamp(packet: &mut Packet<'_>, clamp: MssClamp, path_mtu: u32) {
    if !matches!(packet.parsed.transport, Transport::Tcp { .. }) {
        return;
    }
    let headers = match packet.parsed.family {
        Family::V4 => 40,
        Family::V6 => 60,
    };
    let wanted = match clamp {
        MssClamp::Set(mss) => mss,
        MssClamp::PathMtu if path_mtu <= headers => return,
        MssClamp::PathMtu => (path_mtu - headers).min(0xffff) as u16,
    };
    let field = packet.checksum_field();
    let (l4, end) = (usize::from(packet.parsed.l4), packet.parsed.len as usize);
    let segment = &mut packet.bytes_mut()[l4..end];
    let Some(at) = mss_place(segment) else { return };
    let old = u16::from_be_bytes([segment[at], segment[at + 1]]);
    if old <= wanted {
        return;
    }
    // The option may stand at an odd offset, so the words around it are what changes.
    let even = at & !1;
    let mut before = [0; 4];
    before.copy_from_slice(&segment[even..even + 4]);
    segment[at..at + 2].copy_from_slice(&wanted.to_be_bytes());
    let mut delta = Delta::default();
    delta.replace(&before, &segment[even..even + 4]);
    if field == tidegate_packet::checksum::Field::Complete {
        delta.update(segment, tcp::CHECKSUM_AT, field);
    }
}

/// Where the value of the MSS option stands.
fn mss_place(segment: &[u8]) -> Option<usize> {
    let header = tcp::Header::new_checked(segment)?;
    let options = header.option_bytes();
    let found = header.options().find(|o| o.kind == tcp::OPT_MSS && o.data.len() == 2)?;
    let inside = found.data.as_ptr() as usize - options.as_ptr() as usize;
    let at = tcp::MIN_HEADER_LEN + inside;
    // Four bytes around it must be there; options are padded to a multiple of four.
    ((at & !1) + 4 <= segment.len()).then_some(at)
}
