//! Sends a reassembled datagram on in the pieces it came in.

use tidegate_packet::{ipv4, ipv6, protocol};

use crate::fragment::Pieces;

/// Cuts a whole (its headers may have been rewritten meanwhile) into fragments that fit `mtu`: at
/// the old places if all those pieces fit, else into the largest that do, but none larger than the
/// largest that came.
///
/// The pieces carry the whole's TTL, TOS and (IPv4) identification; `id` is for IPv6, where the
/// kernel chooses a new one too. The caller has asked [`Pieces::too_big`]. `None` if the MTU is
/// too small for any piece.
pub fn refragment(whole: &[u8], pieces: &Pieces, mtu: usize, id: u32) -> Option<Vec<Vec<u8>>> {
    let v4 = whole.first()? >> 4 == 4;
    // IPv4 leaves in pieces even if the whole would fit; IPv6 only if it is longer than they were.
    let short = pieces.sizes.len() < 2 || !v4 && whole.len() <= usize::from(pieces.largest);
    if short && whole.len() <= mtu {
        return Some(vec![whole.to_vec()]);
    }
    let head_len = if v4 {
        ipv4::Header::new_checked(whole)?.header_len()
    } else {
        usize::from(pieces.header_at)
    };
    if !v4 && (head_len < ipv6::HEADER_LEN || usize::from(pieces.named_at) >= head_len) {
        return None;
    }
    let extra = if v4 { 0 } else { ipv6::FRAGMENT_LEN };
    let payload = whole.get(head_len..)?;
    let fits = |size: usize| head_len + extra + size <= mtu;
    let as_it_came = !pieces.boundaries_lost
        && pieces.sizes.iter().map(|&s| usize::from(s)).sum::<usize>() == payload.len()
        && pieces.sizes.iter().all(|&s| fits(usize::from(s)));
    let mut sizes: Vec<usize> = pieces.sizes.iter().map(|&s| usize::from(s)).collect();
    if !as_it_came {
        let most = mtu.min(usize::from(pieces.largest)).checked_sub(head_len + extra)? & !7;
        if most == 0 {
            return None;
        }
        sizes = payload.chunks(most).map(<[u8]>::len).collect();
    }
    let mut out = Vec::with_capacity(sizes.len());
    let mut offset = 0;
    for (n, &size) in sizes.iter().enumerate() {
        let part = payload.get(offset..offset + size)?;
        let more = n + 1 < sizes.len();
        let head = &whole[..head_len];
        out.push(match v4 {
            true => piece_v4(head, part, offset, more),
            false => piece_v6(head, part, offset, more, id, pieces.named_at),
        });
        offset += size;
    }
    Some(out)
}

/// DF is lost on the way, as in the kernel.
fn piece_v4(head: &[u8], part: &[u8], offset: usize, more: bool) -> Vec<u8> {
    let mut bytes = [head, part].concat();
    let len = bytes.len() as u16;
    bytes[2..4].copy_from_slice(&len.to_be_bytes());
    let word = (offset / 8) as u16 | u16::from(more) << 13;
    bytes[6..8].copy_from_slice(&word.to_be_bytes());
    if offset != 0 {
        blank_uncopied_options(&mut bytes[20..head.len()]);
    }
    ipv4::write_checksum(&mut bytes);
    bytes
}

/// RFC 791 section 3.1: only options with the copied flag go into later fragments; the rest is
/// overwritten by no-operations, so that all headers are equally long.
pub fn blank_uncopied_options(options: &mut [u8]) {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    let mut at = 0;
    while at < options.len() {
        let len = match options[at] {
            END => return,
            NO_OPERATION => 1,
            _ => match options.get(at + 1) {
                Some(&len) if len >= 2 && at + usize::from(len) <= options.len() => {
                    usize::from(len)
                }
                _ => return,
            },
        };
        if options[at] & 0x80 == 0 {
            options[at..at + len].fill(NO_OPERATION);
        }
        at += len;
    }
}

fn piece_v6(
    head: &[u8],
    part: &[u8],
    offset: usize,
    more: bool,
    id: u32,
    named_at: u16,
) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(head.len() + ipv6::FRAGMENT_LEN + part.len());
    bytes.extend_from_slice(head);
    let next = std::mem::replace(&mut bytes[usize::from(named_at)], protocol::FRAGMENT);
    bytes.extend([next, 0]);
    bytes.extend((offset as u16 | u16::from(more)).to_be_bytes());
    bytes.extend(id.to_be_bytes());
    bytes.extend_from_slice(part);
    let len = (bytes.len() - ipv6::HEADER_LEN) as u16;
    bytes[4..6].copy_from_slice(&len.to_be_bytes());
    bytes
}
