//! Fragments: put together on the way in while the family is tracked, cut on the way out.

use super::counters::Drop;
use super::icmp::Message;
use super::link_out::Hop;
use super::packet::{OwnedFrame, Packet};
use super::segment::segments;
use super::{Engine, Fate, track};
use crate::io::Checksum;
use tidegate_filter::Tracking;
use tidegate_nat::{FragmentDrop, Pieces, Pushed, Scope, blank_uncopied_options, refragment};
use tidegate_packet::{Family, ipv4, ipv6};

/// What rules have said of a fragment before it met the others (`raw_before_defrag`).
#[derive(Debug)]
pub(crate) struct Carried {
    mark: u32,
    tracking: Option<Tracking>,
    trace: bool,
}

impl Engine {
    /// Whether a packet has to wait for its other fragments: while rules of its family use
    /// tracking, every fragment does, as in Linux (`nf_defrag`), unless a rule has said before
    /// that it isn't tracked.
    pub(crate) fn must_reassemble(&self, packet: &Packet<'_>) -> bool {
        packet.parsed.fragment.is_some()
            && packet.pieces.is_none()
            && packet.tracked.is_none()
            && self.policy.tracks(packet.parsed.family)
    }

    /// Time exceeded in reassembly (RFC 792, RFC 8200 section 4.5). For IPv4 only an end host says
    /// so, as in Linux: a gateway on the way isn't where the datagram should have become whole.
    pub(crate) fn report_expired_fragments(&mut self) {
        for family in [Family::V4, Family::V6] {
            for first in self.reassemblers[family as usize].take_expired() {
                let mut frame = OwnedFrame::new(&first);
                let l3 = frame.meta.start;
                // The quote may be cut, so its length field needn't be right.
                let Ok(packet) = Packet::decode_quote(frame.frame(), l3) else { continue };
                if family == Family::V4 && !self.routes.is_local(packet.parsed.dst) {
                    continue;
                }
                self.send_error(&packet, Message::reassembly_time(family));
            }
        }
    }

    /// Adds a fragment to its datagram; the last one to come sends the whole on its way. `None`: the
    /// fragment goes on as it is.
    pub(crate) fn defragment(&mut self, packet: &Packet<'_>) -> Result<Option<Fate>, Drop> {
        let scope = scope(packet);
        let Packet { mark, tracking, trace, .. } = *packet;
        let carried = Carried { mark, tracking, trace };
        let reassembler = &mut self.reassemblers[packet.parsed.family as usize];
        let pushed = reassembler.push_in(scope, carried, &packet.parsed, packet.bytes(), self.now);
        let (whole, pieces, carried) = match pushed {
            (Pushed::Whole(whole, pieces), carried) => (whole, pieces, carried),
            (Pushed::Kept, _) => return Ok(Some(Fate::Consumed)),
            (Pushed::Dropped(FragmentDrop::Unfit), _) => return Ok(None),
            (Pushed::Dropped(_), _) => return Err(Drop::Fragment),
        };
        let mut frame = OwnedFrame::new(&whole);
        let l3 = frame.meta.start;
        let mut again = Packet::decode(frame.frame(), l3)?;
        again.input = packet.input;
        again.port = packet.port;
        again.link = packet.link;
        again.pieces = Some(Box::new(pieces));
        if let Some(Carried { mark, tracking, trace }) = carried {
            (again.mark, again.tracking, again.trace) = (mark, tracking, trace);
        }
        let fate = self.forward(&mut again)?;
        if let Fate::Transmit(port) = fate {
            self.outbox.push((port, frame));
        }
        Ok(Some(Fate::Consumed))
    }

    /// Cuts a packet that is too long for its egress, or that came in fragments: those keep their
    /// boundaries where they fit (RFC 791 section 3.2, RFC 8200 section 4.5).
    pub(crate) fn fragment_out(&mut self, packet: &mut Packet<'_>, hop: Hop) -> Result<Fate, Drop> {
        if let Some(gso) = packet.frame.meta.offload.gso {
            for segment in segments(packet, gso).ok_or(Drop::Offload)? {
                self.send_fragment(&segment, packet, hop)?;
            }
            return Ok(Fate::Consumed);
        }
        if let Checksum::Partial { offset, .. } = packet.frame.meta.offload.checksum {
            let l4 = usize::from(packet.parsed.l4);
            tidegate_packet::checksum::complete_partial(packet.bytes_mut(), l4, offset.into());
        }
        let mtu = self.interfaces.get(hop.egress).mtu as usize;
        let fragments = match (packet.pieces.take(), packet.parsed.family) {
            (Some(pieces), _) => {
                let id = self.next_fragment_id();
                refragment(packet.bytes(), &pieces, mtu, id).ok_or(Drop::TooBig)?
            }
            (None, Family::V4) => cut(packet, mtu).ok_or(Drop::TooBig)?,
            // Only the sender fragments IPv6 (RFC 8200 section 5).
            (None, Family::V6) if packet.input.is_some() => return Err(Drop::TooBig),
            (None, Family::V6) => {
                let id = self.next_fragment_id();
                let pieces = Pieces::of_own(packet.bytes(), usize::from(packet.parsed.l4), mtu);
                refragment(packet.bytes(), &pieces, mtu, id).ok_or(Drop::TooBig)?
            }
        };
        for fragment in fragments {
            self.send_fragment(&fragment, packet, hop)?;
        }
        Ok(Fate::Consumed)
    }

    fn send_fragment(&mut self, bytes: &[u8], whole: &Packet<'_>, hop: Hop) -> Result<(), Drop> {
        let mut frame = OwnedFrame::new(bytes);
        let l3 = frame.meta.start;
        let mut fragment = Packet::decode(frame.frame(), l3)?;
        fragment.input = whole.input;
        if let Fate::Transmit(port) = self.link_out(&mut fragment, hop)? {
            self.outbox.push((port, frame));
        }
        Ok(())
    }
}

/// Whose fragments a fragment may meet. netfilter keeps zones apart that are known by now, and links
/// where an address means something else on each (`nf_ct_frag6_gather`).
fn scope(packet: &Packet<'_>) -> Scope {
    let zone = match packet.tracking {
        Some(tracking) => track::template(tracking, packet.mark).zones[0],
        None => 0,
    };
    let dst = packet.parsed.dst;
    let of_link =
        packet.parsed.family == Family::V6 && (dst.is_v6_link_local() || dst.is_multicast());
    let link = packet.input.filter(|_| of_link).map_or(0, |id| u32::from(id.0) + 1);
    Scope { zone, link }
}

/// Cuts an IPv4 packet, which may be a fragment itself, into pieces as long as they can be.
fn cut(packet: &Packet<'_>, mtu: usize) -> Option<Vec<Vec<u8>>> {
    let l4 = usize::from(packet.parsed.l4);
    let payload = &packet.bytes()[l4..packet.parsed.len as usize];
    let room = mtu.checked_sub(l4)? & !7;
    if room == 0 {
        return None;
    }
    let outer = packet.parsed.fragment;
    let pieces = payload.chunks(room).enumerate().map(|(n, piece)| {
        let mut bytes = packet.bytes()[..l4].to_vec();
        // Pieces of a later fragment inherit what its first cutter left.
        if n > 0 && outer.is_none_or(|f| f.offset == 0) {
            blank_uncopied_options(&mut bytes[ipv4::MIN_HEADER_LEN..]);
        }
        bytes.extend_from_slice(piece);
        let offset = usize::from(outer.map_or(0, |f| f.offset)) + n * room;
        let more = (n + 1) * room < payload.len() || outer.is_some_and(|f| f.more);
        bytes[2..4].copy_from_slice(&((l4 + piece.len()) as u16).to_be_bytes());
        let word = (offset / 8) as u16 | u16::from(more) << 13;
        bytes[6..8].copy_from_slice(&word.to_be_bytes());
        ipv4::write_checksum(&mut bytes);
        bytes
    });
    Some(pieces.collect())
}

/// Where the next-header field stands that names the upper layer.
pub(crate) fn next_header_place(bytes: &[u8]) -> usize {
    ipv6::Extensions::new(bytes).last().map_or(6, |extension| extension.at)
}
