//! Sequence numbers of connections whose payload was rewritten: when a segment has grown by three
//! bytes, all that its side sends afterwards is three higher for the other side, and what the other
//! side acknowledges is three lower for this one (netfilter's `nf_conntrack_seqadj`).

use tidegate_packet::checksum::{Delta, Field};
use tidegate_packet::tcp::{ACK, Header, MIN_HEADER_LEN, OPT_SACK};
use tidegate_packet::{Parsed, Transport, tcp};

use crate::conn::Direction;
use crate::tcp_window::{after, before};

/// The option that ends the options, and the one that only pads.
const END: u8 = 0;
const NOP: u8 = 1;

/// One direction's shift.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct SeqAdjust {
    /// Where the last change was, as the sender counts.
    position: u32,
    /// What is added up to there.
    before: u32,
    /// What is added beyond.
    after: u32,
}

impl SeqAdjust {
    /// Notes that the segment at `seq` has become longer (or shorter, modulo 2^32) by `by`. A
    /// repetition of it changes nothing.
    pub(crate) fn note(&mut self, seq: u32, by: u32) {
        if self.before == self.after || before(self.position, seq) {
            self.position = seq;
            self.before = self.after;
            self.after = self.after.wrapping_add(by);
        }
    }

    /// Shifts everything by the same.
    pub(crate) fn shift_all(&mut self, by: u32) {
        (self.before, self.after) = (by, by);
    }

    /// The shift of a number as the sender counts.
    pub(crate) fn offset(&self, seq: u32) -> u32 {
        if after(seq, self.position) { self.after } else { self.before }
    }

    /// A number that the other side acknowledges, as this side counts.
    fn unshift(&self, seen: u32) -> u32 {
        let beyond = after(seen.wrapping_sub(self.before), self.position);
        seen.wrapping_sub(if beyond { self.after } else { self.before })
    }
}

fn put(bytes: &mut [u8], at: usize, new: u32, delta: &mut Delta) {
    let Some(place) = bytes.get_mut(at..at + 4) else { return };
    let new = new.to_be_bytes();
    // Options needn't stand at even places; the sum of a word at an odd one is byte-swapped.
    let old: [u8; 4] = [place[0], place[1], place[2], place[3]];
    if at.is_multiple_of(2) {
        delta.replace(&old, &new);
    } else {
        delta.replace(
            &[0, old[0], old[1], old[2], old[3], 0],
            &[0, new[0], new[1], new[2], new[3], 0],
        );
    }
    place.copy_from_slice(&new);
}

/// Shifts the numbers of a segment: its sequence number by its own way, what it acknowledges back
/// by the other. `field` says what the checksum field holds; a partial one doesn't cover them.
pub(crate) fn adjust(
    ways: &[SeqAdjust; 2],
    direction: Direction,
    packet: &Parsed,
    bytes: &mut [u8],
    field: Field,
) {
    let l4 = usize::from(packet.l4);
    let Transport::Tcp { flags, .. } = packet.transport else { return };
    let Some(header) = bytes.get(l4..).and_then(Header::new_checked) else { return };
    let (seq, ack, end) = (header.seq(), header.ack(), l4 + header.header_len());
    let (this, other) = (&ways[direction.index()], &ways[direction.other().index()]);
    // Everything is counted from the transport header, which stands at an even place for the sum.
    let segment = &mut bytes[l4..];
    let mut delta = Delta::default();
    put(segment, 4, seq.wrapping_add(this.offset(seq)), &mut delta);
    if flags & ACK != 0 {
        put(segment, 8, other.unshift(ack), &mut delta);
        for_each_sack_edge(segment, end - l4, |segment, at| {
            let edge = word(segment, at);
            put(segment, at, other.unshift(edge), &mut delta);
        });
    }
    if field == Field::Complete && !delta.is_zero() {
        delta.update(segment, tcp::CHECKSUM_AT, field);
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
}

/// Calls for the place of every edge of the SACK blocks (RFC 2018 section 3).
fn for_each_sack_edge(segment: &mut [u8], end: usize, mut call: impl FnMut(&mut [u8], usize)) {
    let mut at = MIN_HEADER_LEN;
    while at < end {
        let len = match segment[at] {
            END => return,
            NOP => {
                at += 1;
                continue;
            }
            _ if at + 1 < end => usize::from(segment[at + 1]),
            _ => return,
        };
        if len < 2 || at + len > end {
            return;
        }
        if segment[at] == OPT_SACK && len >= 10 && (len - 2) % 8 == 0 {
            for edge in (at + 2..at + len).step_by(4) {
                call(segment, edge);
            }
        }
        at += len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_packet::builder::{Ip, Tcp, tcp};
    use tidegate_packet::checksum;

    #[test]
    fn before_and_behind_a_change() {
        let mut way = SeqAdjust::default();
        way.note(1000, 5);
        let cases = [(900, 0), (1000, 0), (1001, 5), (1_000_000, 5)];
        for (seq, want) in cases {
            assert_eq!(way.offset(seq), want, "{seq}");
        }
        // The repetition of the changed segment isn't another change.
        way.note(1000, 5);
        assert_eq!(way.offset(1001), 5);
        way.note(2000, 0u32.wrapping_sub(8));
        assert_eq!(way.offset(2000), 5);
        assert_eq!(way.offset(2001), 0u32.wrapping_sub(3));
        assert_eq!(way.unshift(2005), 2000);
        assert_eq!(way.unshift(3000), 3003);
    }

    #[test]
    fn numbers_and_blocks_are_shifted_and_the_checksum_holds() {
        let mut ways = [SeqAdjust::default(); 2];
        ways[0].note(100, 7);
        ways[1].note(50, 0u32.wrapping_sub(2));
        let ip = Ip::new("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap(), 6);
        let mut options = vec![1, 5, 18];
        for edge in [60u32, 70, 80, 90] {
            options.extend(edge.to_be_bytes());
        }
        options.push(1);
        let fields = Tcp {
            sport: 1,
            dport: 2,
            seq: 200,
            ack: 58,
            flags: ACK,
            options: &options,
            ..Tcp::default()
        };
        let mut bytes = tcp(ip, fields, b"hello");
        let packet = Parsed::parse(&bytes).unwrap();
        adjust(&ways, Direction::Original, &packet, &mut bytes, Field::Complete);
        let segment = &bytes[20..];
        let header = Header::new_checked(segment).unwrap();
        assert_eq!((header.seq(), header.ack()), (207, 60));
        let blocks = header.options().find(|o| o.kind == OPT_SACK).unwrap().data;
        let edges: Vec<u32> =
            blocks.chunks(4).map(|b| u32::from_be_bytes(b.try_into().unwrap())).collect();
        assert_eq!(edges, [62, 72, 82, 92]);
        assert!(checksum::verify_transport(packet.src, packet.dst, 6, segment));
    }
}
