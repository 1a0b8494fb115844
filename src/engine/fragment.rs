//! Fragments: put together on the way in while the family is tracked, cut on the way out.

use super::counters::Drop;
use super::link_out::Hop;
use super::packet::{OwnedFrame, Packet};
use super::{Engine, Fate};
use crate::io::Checksum;
use tidegate_packet::{Family, ipv4, ipv6, protocol};

impl Engine {
    /// Whether a packet has to wait for its other fragments: while rules of its family use
    /// tracking, every fragment does, as in Linux (`nf_defrag`).
    pub(crate) fn must_reassemble(&self, packet: &Packet<'_>) -> bool {
        packet.parsed.fragment.is_some()
            && packet.fragments.is_none()
            && self.policy.tracks(packet.parsed.family)
    }

    /// Adds a fragment to its datagram; the last one to come sends the whole on its way.
    pub(crate) fn defragment(&mut self, packet: &Packet<'_>) -> Result<Fate, Drop> {
        let input = packet.input.map_or(0, |id| u32::from(id.0));
        let whole = match self.reassembler.push(&packet.parsed, packet.bytes(), input, self.now) {
            Ok(Some(whole)) => whole,
            Ok(None) => return Ok(Fate::Consumed),
            Err(_) => return Err(Drop::Fragment),
        };
        let mut frame = OwnedFrame::new(&whole.bytes);
        let l3 = frame.meta.start;
        let mut again = Packet::decode(frame.frame(), l3)?;
        again.input = packet.input;
        again.port = packet.port;
        again.link = packet.link;
        again.fragments = Some(whole.sizes.into());
        let fate = self.forward(again)?;
        if let Fate::Transmit(port) = fate {
            self.outbox.push((port, frame));
        }
        Ok(Fate::Consumed)
    }

    /// Cuts a packet that is too long for its egress, or that came in fragments: those keep their
    /// boundaries where they fit (RFC 791 section 3.2, RFC 8200 section 4.5).
    pub(crate) fn fragment_out(&mut self, mut packet: Packet<'_>, hop: Hop) -> Result<Fate, Drop> {
        if packet.frame.meta.offload.gso.is_some() {
            return Err(Drop::TooBig);
        }
        if let Checksum::Partial { offset, .. } = packet.frame.meta.offload.checksum {
            let l4 = usize::from(packet.parsed.l4);
            tidegate_packet::checksum::complete_partial(packet.bytes_mut(), l4, offset.into());
        }
        let mtu = self.interfaces.get(hop.egress).mtu as usize;
        let header = packet.fragment_header_len();
        let payload = packet.parsed.len as usize - usize::from(packet.parsed.l4);
        let room = mtu.checked_sub(header).map(|r| r & !7).filter(|r| *r > 0).ok_or(Drop::TooBig)?;
        let sizes = match packet.fragments.take() {
            Some(sizes) if sizes.iter().all(|s| usize::from(*s) + header <= mtu) => sizes.to_vec(),
            _ => even_sizes(payload, room),
        };
        let id = self.next_fragment_id();
        let mut at = 0;
        for size in sizes {
            let size = usize::from(size).min(payload - at);
            let last = at + size >= payload;
            let bytes = match packet.parsed.family {
                Family::V4 => cut_v4(&packet, at, size, last),
                Family::V6 => cut_v6(&packet, at, size, last, id),
            };
            self.send_fragment(bytes, &packet, hop)?;
            at += size;
        }
        Ok(Fate::Consumed)
    }

    fn send_fragment(
        &mut self,
        bytes: Vec<u8>,
        whole: &Packet<'_>,
        hop: Hop,
    ) -> Result<(), Drop> {
        let mut frame = OwnedFrame::new(&bytes);
        let l3 = frame.meta.start;
        let mut fragment = Packet::decode(frame.frame(), l3)?;
        fragment.input = whole.input;
        if let Fate::Transmit(port) = self.link_out(fragment, hop)? {
            self.outbox.push((port, frame));
        }
        Ok(())
    }
}

/// Pieces as long as they can be.
fn even_sizes(payload: usize, room: usize) -> Vec<u16> {
    (0..payload.div_ceil(room)).map(|n| (payload - n * room).min(room) as u16).collect()
}

fn cut_v4(packet: &Packet<'_>, at: usize, size: usize, last: bool) -> Vec<u8> {
    let l4 = usize::from(packet.parsed.l4);
    let whole = packet.bytes();
    let mut bytes = whole[..l4].to_vec();
    bytes.extend_from_slice(&whole[l4 + at..l4 + at + size]);
    // The packet may be a fragment itself, in the middle of its datagram or at its end.
    let outer = packet.parsed.fragment;
    let offset = usize::from(outer.map_or(0, |f| f.offset)) + at;
    let more = !last || outer.is_some_and(|f| f.more);
    bytes[2..4].copy_from_slice(&((l4 + size) as u16).to_be_bytes());
    let word = (offset / 8) as u16 | u16::from(more) << 13;
    bytes[6..8].copy_from_slice(&word.to_be_bytes());
    ipv4::write_checksum(&mut bytes);
    bytes
}

fn cut_v6(packet: &Packet<'_>, at: usize, size: usize, last: bool, id: u32) -> Vec<u8> {
    let l4 = usize::from(packet.parsed.l4);
    let whole = packet.bytes();
    let mut bytes = whole[..l4].to_vec();
    let place = next_header_place(whole);
    let next = std::mem::replace(&mut bytes[place], protocol::FRAGMENT);
    let word = at as u16 | u16::from(!last);
    bytes.extend([next, 0]);
    bytes.extend(word.to_be_bytes());
    bytes.extend(id.to_be_bytes());
    bytes.extend_from_slice(&whole[l4 + at..l4 + at + size]);
    let len = (bytes.len() - ipv6::HEADER_LEN) as u16;
    bytes[4..6].copy_from_slice(&len.to_be_bytes());
    bytes
}

/// Where the next-header field stands that names the upper layer.
pub(crate) fn next_header_place(bytes: &[u8]) -> usize {
    ipv6::Extensions::new(bytes).last().map_or(6, |extension| extension.at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_multiples_of_eight_but_the_last() {
        assert_eq!(even_sizes(3000, 1480), [1480, 1480, 40]);
        assert_eq!(even_sizes(1480, 1480), [1480]);
        assert_eq!(even_sizes(8, 8), [8]);
    }
}
