//! `TCPMSS`: the largest segment that a SYN announces (RFC 9293 section 3.7.1), lowered so that
//! full segments fit the path.

use super::packet::Packet;
use tidegate_filter::MssClamp;
use tidegate_packet::checksum::{Delta, Field};
use tidegate_packet::{Family, Transport, tcp};

/// Edits the MSS option of a TCP packet in place. A present value is only ever lowered. A SYN
/// without the option gets one, as in Linux (xt_TCPMSS), of at most what its sender would assume.
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
    let Some(at) = mss_place(segment) else {
        if packet.pieces.is_none() && packet.frame.meta.offload.gso.is_none() {
            insert(packet, wanted, field);
        }
        return;
    };
    let old = u16::from_be_bytes([segment[at], segment[at + 1]]);
    if old <= wanted {
        return;
    }
    // The option may stand at an odd offset, so the words around it are what changes.
    let words = at & !1..(at + 3) & !1;
    let mut before = [0; 4];
    let before = &mut before[..words.len()];
    before.copy_from_slice(&segment[words.clone()]);
    segment[at..at + 2].copy_from_slice(&wanted.to_be_bytes());
    let mut delta = Delta::default();
    delta.replace(before, &segment[words]);
    if field == Field::Complete {
        delta.update(segment, tcp::CHECKSUM_AT, field);
    }
}

/// Where the value of the MSS option stands.
fn mss_place(segment: &[u8]) -> Option<usize> {
    let header = tcp::Header::new_checked(segment)?;
    let options = header.option_bytes();
    let found = header.options().find(|o| o.kind == tcp::OPT_MSS && o.data.len() == 2)?;
    let inside = found.data.as_ptr() as usize - options.as_ptr() as usize;
    // The header is a multiple of four bytes long, so the word around an odd end is there, too.
    Some(tcp::MIN_HEADER_LEN + inside)
}

/// Puts the option into a SYN that has none and carries no data, right behind the fixed header. What
/// stands before moves towards the front of the slot.
fn insert(packet: &mut Packet<'_>, wanted: u16, field: Field) -> Option<()> {
    /// What link headers and the device may still need in front.
    const RESERVED: usize = 16;
    const LEN: usize = 4;
    let (l4, len) = (usize::from(packet.parsed.l4), packet.parsed.len as usize);
    let header = tcp::Header::new_checked(&packet.bytes()[l4..len])?;
    let header_len = header.header_len();
    let (start, l3) = (packet.frame.meta.start, packet.l3);
    if l4 + header_len != len || header_len >= 60 || start < RESERVED + LEN {
        return None;
    }
    // Who doesn't say takes 536 bytes (RFC 1122 section 4.2.2.6), or what IPv6's least MTU leaves.
    let mss = match packet.parsed.family {
        Family::V4 => wanted.min(536),
        Family::V6 => wanted.min(1220),
    };
    let slot = &mut packet.frame.slot;
    slot.copy_within(start..l3 + l4 + tcp::MIN_HEADER_LEN, start - LEN);
    (packet.frame.meta.start, packet.l3) = (start - LEN, l3 - LEN);
    packet.parsed.len += LEN as u32;
    let bytes = &mut slot[packet.l3..packet.frame.meta.end];
    let option = [tcp::OPT_MSS, 4, (mss >> 8) as u8, mss as u8];
    let mut delta = Delta::default();
    let at = l4 + tcp::MIN_HEADER_LEN;
    bytes[at..at + LEN].copy_from_slice(&option);
    let offset = [bytes[l4 + 12], bytes[l4 + 13]];
    bytes[l4 + 12] += 0x10;
    if field == Field::Complete {
        delta.replace(&[0; LEN], &option);
        delta.replace(&offset, &[bytes[l4 + 12], bytes[l4 + 13]]);
    }
    // The pseudo-header has the segment's length.
    delta.replace16(header_len as u16, (header_len + LEN) as u16);
    delta.update(&mut bytes[l4..], tcp::CHECKSUM_AT, field);
    match packet.parsed.family {
        Family::V4 => {
            let (old, new) = (len as u16, (len + LEN) as u16);
            let mut header = Delta::default();
            header.replace16(old, new);
            bytes[2..4].copy_from_slice(&new.to_be_bytes());
            header.update(bytes, 10, Field::Complete);
        }
        Family::V6 => bytes[4..6].copy_from_slice(&((len + LEN - 40) as u16).to_be_bytes()),
    }
    Some(())
}
