//! Super-packets cut into their segments, for an egress that doesn't take even one of these whole:
//! then they have to be fragmented, and a fragment is cut from a packet as the wire has it.
//!
//! Everywhere else a super-packet stays what it is, and the egress device or its receiver cuts.

use super::packet::Packet;
use crate::io::{Checksum, Gso, GsoKind};
use tidegate_packet::{Family, checksum, ipv4, tcp, udp};

/// The segments, each a packet with finished checksums, as Linux's `skb_gso_segment` makes them.
/// `None` if its TCP header isn't one.
pub(crate) fn segments(packet: &Packet<'_>, gso: Gso) -> Option<Vec<Vec<u8>>> {
    let whole = packet.parsed.segment(packet.bytes());
    if gso.kind != GsoKind::UdpL4 {
        tcp::Header::new_checked(whole)?;
    }
    let headers = packet.segment_header_len();
    let payload = packet.bytes().get(headers..).unwrap_or_default();
    let size = usize::from(gso.size).max(1);
    let last = payload.len().div_ceil(size).saturating_sub(1);
    let cut = |(n, piece): (usize, &[u8])| {
        let mut bytes = packet.bytes()[..headers].to_vec();
        bytes.extend_from_slice(piece);
        let edges = Edges { index: n, first: n == 0, last: n == last };
        write_ip_header(&mut bytes, packet.parsed.family, edges);
        write_transport_header(&mut bytes, packet, gso, edges);
        bytes
    };
    Some(payload.chunks(size).enumerate().map(cut).collect())
}

/// Which of the segments it is.
#[derive(Copy, Clone)]
struct Edges {
    index: usize,
    first: bool,
    last: bool,
}

/// Length and, as one after the other would have been sent, identification.
fn write_ip_header(bytes: &mut [u8], family: Family, Edges { index, .. }: Edges) {
    let len = bytes.len();
    match family {
        Family::V4 => {
            bytes[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            let id = u16::from_be_bytes([bytes[4], bytes[5]]).wrapping_add(index as u16);
            bytes[4..6].copy_from_slice(&id.to_be_bytes());
            ipv4::write_checksum(bytes);
        }
        Family::V6 => bytes[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes()),
    }
}

fn write_transport_header(bytes: &mut [u8], packet: &Packet<'_>, gso: Gso, edges: Edges) {
    let parsed = &packet.parsed;
    let segment = &mut bytes[usize::from(parsed.l4)..];
    let at = match gso.kind {
        GsoKind::UdpL4 => {
            let len = segment.len() as u16;
            segment[4..6].copy_from_slice(&len.to_be_bytes());
            let partial = matches!(packet.frame.meta.offload.checksum, Checksum::Partial { .. });
            // A sender that computes none has none (RFC 768).
            if !partial && segment[udp::CHECKSUM_AT..][..2] == [0, 0] {
                return;
            }
            udp::CHECKSUM_AT
        }
        GsoKind::Tcp4 | GsoKind::Tcp6 => {
            let before = edges.index as u32 * u32::from(gso.size);
            let seq = u32::from_be_bytes([segment[4], segment[5], segment[6], segment[7]]);
            segment[4..8].copy_from_slice(&seq.wrapping_add(before).to_be_bytes());
            // What ends or pushes does so at the end, and CWR is said once (RFC 3168 section 6.1.2).
            if !edges.last {
                segment[13] &= !(tcp::FIN | tcp::PSH);
            }
            if !edges.first {
                segment[13] &= !tcp::CWR;
            }
            tcp::CHECKSUM_AT
        }
    };
    segment[at..at + 2].copy_from_slice(&[0, 0]);
    let sum = checksum::transport(parsed.src, parsed.dst, parsed.protocol, segment);
    let sum = if at == udp::CHECKSUM_AT && sum == 0 { 0xffff } else { sum };
    segment[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}
