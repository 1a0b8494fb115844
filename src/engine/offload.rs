//! What the device says of a frame beside its bytes, checked before anything relies on it.
//!
//! Kernel and hypervisor are believed no more than a wire: a TAP's guest writes these numbers.

use super::counters::Drop;
use super::packet::Packet;
use crate::io::{Checksum, Frame, GsoKind};
use tidegate_packet::{Family, Transport, checksum, protocol, tcp, udp};

/// Checks what any frame must fulfil, also one that a bridge only passes on: the checksum's place
/// lies in the frame, and segments have a size.
pub(crate) fn check_frame(frame: &Frame<'_>) -> Result<(), Drop> {
    let offload = frame.meta.offload;
    if let Checksum::Partial { start, offset } = offload.checksum
        && usize::from(start) + usize::from(offset) + 2 > frame.bytes().len()
    {
        return Err(Drop::Offload);
    }
    if offload.gso.is_some_and(|gso| gso.size == 0) {
        return Err(Drop::Offload);
    }
    Ok(())
}

/// Checks what a packet's translation relies on: a partial checksum is the one of the transport
/// header that was decoded, and a super-packet is of the kind that its headers say.
///
/// A partial checksum elsewhere (inside a tunnel, in a fragment) is finished here, so that all
/// later edits meet finished ones.
pub(crate) fn check_packet(packet: &mut Packet<'_>) -> Result<(), Drop> {
    check_gso(packet)?;
    let Checksum::Partial { start, offset } = packet.frame.meta.offload.checksum else {
        return Ok(());
    };
    let base = packet.l3 - packet.frame.meta.start;
    let (start, offset) = (usize::from(start), usize::from(offset));
    if start == base + usize::from(packet.parsed.l4) && Some(offset) == checksum_at(packet) {
        return Ok(());
    }
    if packet.frame.meta.offload.gso.is_some() || start < base {
        return Err(Drop::Offload);
    }
    let done = checksum::complete_partial(packet.bytes_mut(), start - base, offset);
    // It lay in the link padding, or its field in a header that has been decoded by now.
    if !done || start - base + offset < usize::from(packet.parsed.l4) {
        return Err(Drop::Offload);
    }
    packet.frame.meta.offload.checksum = Checksum::Unverified;
    // The field may have been one of those that were decoded: ports, or an ICMP type.
    packet.parsed.transport = match packet.parsed.transport {
        later @ Transport::LaterFragment => later,
        _ => Transport::parse(packet.parsed.protocol, packet.parsed.segment(packet.bytes())),
    };
    Ok(())
}

/// A super-packet is what its headers say it is, and longer than one segment.
fn check_gso(packet: &mut Packet<'_>) -> Result<(), Drop> {
    let Some(gso) = packet.frame.meta.offload.gso else { return Ok(()) };
    let fits = match (gso.kind, packet.parsed.transport) {
        (GsoKind::Tcp4, Transport::Tcp { .. }) => packet.parsed.family == Family::V4,
        (GsoKind::Tcp6, Transport::Tcp { .. }) => packet.parsed.family == Family::V6,
        (GsoKind::UdpL4, Transport::Udp { .. }) => packet.parsed.protocol == protocol::UDP,
        _ => false,
    };
    if !fits || packet.parsed.fragment.is_some() {
        return Err(Drop::Offload);
    }
    // Linux takes such a packet for an ordinary one too (`virtio_net_hdr_to_skb`).
    if packet.parsed.len <= packet.wire_len() {
        packet.frame.meta.offload.gso = None;
    }
    Ok(())
}

/// Where the checksum field stands in the transport header.
fn checksum_at(packet: &Packet<'_>) -> Option<usize> {
    if packet.parsed.fragment.is_some() {
        return None;
    }
    match (packet.parsed.transport, packet.parsed.protocol) {
        (Transport::Tcp { .. }, _) => Some(tcp::CHECKSUM_AT),
        (Transport::Udp { .. }, _) => Some(udp::CHECKSUM_AT),
        (Transport::Icmpv6 { .. }, _) => Some(2),
        // CRC32c (RFC 9260): the device's business as well.
        (Transport::Ports { .. }, protocol::SCTP) => Some(8),
        _ => None,
    }
}
