//! The pieces of one datagram, until it is whole.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use tidegate_packet::{Fragment, Parsed, ipv4, ipv6, protocol};

use super::{FragmentDrop, Pieces};

/// What a queue costs in memory besides its pieces: itself, its maps' first nodes, two places in the
/// order of ages.
pub(super) const QUEUE_COST: usize = 1024;
/// What a piece costs besides its bytes: its share of the maps' nodes, half full, and of the heap's
/// rounding. So a flood of the smallest pieces keeps to the bound in memory as well.
const PIECE_COST: usize = 128;
/// The longest quote in an ICMP error (RFC 4443 section 2.4 c).
const QUOTE: usize = 1280;
/// The longest IP packet.
const MAX_LEN: u32 = 65_535;

/// A datagram's pieces. `C` is what came with the first besides its bytes.
#[derive(Debug)]
pub(super) struct Queue<C> {
    pub(super) serial: u64,
    /// By offset; no two overlap.
    pieces: BTreeMap<u32, Vec<u8>>,
    /// Stretches of pieces that came in order: from, to.
    runs: BTreeMap<u32, u32>,
    /// Everything before the payload of the first piece, the IPv6 fragment header left out.
    pub(super) head: Option<Vec<u8>>,
    /// Where the datagram ends, once known.
    pub(super) end: Option<u32>,
    /// Where the known part ends.
    reach: u32,
    pub(super) received: u32,
    largest: u16,
    largest_unsplittable: u16,
    ecn: u8,
    header_at: u16,
    named_at: u16,
    pub(super) cost: usize,
    /// The first piece as it came, as far as an error quotes it.
    pub(super) first: Option<Vec<u8>>,
    /// What came with the first piece besides its bytes.
    pub(super) carried: Option<C>,
}

/// A fragment taken apart.
pub(super) struct Piece<'a> {
    /// All of it.
    bytes: &'a [u8],
    head: &'a [u8],
    /// IPv6: the fragment header's next-header value, for the byte that named it.
    next: u8,
    payload: &'a [u8],
    fragment: Fragment,
    v4: bool,
    len: u16,
    dont_fragment: bool,
    tos: u8,
    named_at: u16,
}

impl<'a> Piece<'a> {
    pub(super) fn new(packet: &Parsed, bytes: &'a [u8], fragment: Fragment) -> Self {
        let v4 = packet.src.is_v4();
        let bytes = &bytes[..packet.len as usize];
        let (head_len, payload_at) = if v4 {
            (usize::from(packet.l4), usize::from(packet.l4))
        } else {
            let at = usize::from(fragment.header_at);
            (at, at + ipv6::FRAGMENT_LEN)
        };
        let (mut named_at, mut next) = (6, 0);
        if !v4 {
            next = bytes[head_len];
            for extension in ipv6::Extensions::new(bytes) {
                if extension.kind == protocol::FRAGMENT {
                    break;
                }
                named_at = extension.at as u16;
            }
        }
        let mut payload = &bytes[payload_at..];
        // Linux takes IPv4 pieces that break the eight-byte grid up to the last point on it.
        if v4 && fragment.more {
            payload = &payload[..payload.len() & !7];
        }
        Self {
            bytes,
            head: &bytes[..head_len],
            next,
            payload,
            fragment,
            v4,
            len: packet.len.min(MAX_LEN) as u16,
            dont_fragment: v4 && packet.dont_fragment,
            tos: packet.tos,
            named_at,
        }
    }

    /// The memory that it takes to keep it. The first is kept for a quote as well.
    pub(super) fn cost(&self) -> usize {
        let quoted = if self.fragment.offset == 0 {
            self.head.len() + self.bytes.len().min(QUOTE)
        } else {
            0
        };
        self.payload.len() + quoted + PIECE_COST
    }
}

impl<C> Queue<C> {
    pub(super) fn new(serial: u64) -> Self {
        Self {
            serial,
            pieces: BTreeMap::new(),
            runs: BTreeMap::new(),
            head: None,
            end: None,
            reach: 0,
            received: 0,
            largest: 0,
            largest_unsplittable: 0,
            ecn: 0,
            header_at: 0,
            named_at: 0,
            cost: QUEUE_COST,
            first: None,
            carried: None,
        }
    }

    pub(super) fn add(&mut self, piece: &Piece<'_>) -> Result<(), FragmentDrop> {
        let start = u32::from(piece.fragment.offset);
        let end = start + piece.payload.len() as u32;
        // RFC 8200 section 4.5: all but the last are a multiple of eight long.
        let off_grid = piece.fragment.more && !piece.payload.len().is_multiple_of(8);
        let head = piece.head.len() as u32;
        // Linux looks at this before all else; for IPv4 the piece has been cut by now.
        if off_grid && head + end <= MAX_LEN {
            return Err(FragmentDrop::Unfit);
        }
        if start == end || head + end > MAX_LEN {
            return Err(FragmentDrop::Malformed);
        }
        match self.end {
            Some(known) if end > known => return Err(FragmentDrop::Malformed),
            Some(known) if !piece.fragment.more && end != known => {
                return Err(FragmentDrop::Malformed);
            }
            None if !piece.fragment.more && end < self.reach => {
                return Err(FragmentDrop::Malformed);
            }
            _ => {}
        }
        self.place(start, end)?;
        if !piece.fragment.more {
            self.end = Some(end);
        }
        self.reach = self.reach.max(end);
        self.received += end - start;
        self.ecn |= 1 << (piece.tos & 3);
        self.largest = self.largest.max(piece.len);
        if piece.dont_fragment {
            self.largest_unsplittable = self.largest_unsplittable.max(piece.len);
        }
        if start == 0 {
            let mut head = piece.head.to_vec();
            if !piece.v4 {
                head[usize::from(piece.named_at)] = piece.next;
            }
            let quote = piece.bytes[..piece.bytes.len().min(QUOTE)].to_vec();
            self.first = Some(quote);
            self.head = Some(head);
            self.header_at = piece.fragment.header_at;
            self.named_at = piece.named_at;
        }
        self.pieces.insert(start, piece.payload.to_vec());
        Ok(())
    }

    /// A piece inside what is there is ignored, one that overlaps it in part is an attack.
    ///
    /// Linux compares with *runs*: pieces that came one behind the other, at the far end of what
    /// was there. A piece inside two neighbouring runs overlaps each in part.
    fn place(&mut self, start: u32, end: u32) -> Result<(), FragmentDrop> {
        if let Some((&run, &until)) = self.runs.last_key_value()
            && end > until
        {
            match start.cmp(&until) {
                Ordering::Less => return Err(FragmentDrop::Overlap),
                Ordering::Equal => self.runs.insert(run, end),
                Ordering::Greater => self.runs.insert(start, end),
            };
            return Ok(());
        }
        // The last run that begins before the piece ends; if it doesn't reach it, none does.
        match self.runs.range(..end).next_back() {
            Some((&run, &until)) if run <= start && end <= until => Err(FragmentDrop::Duplicate),
            Some((_, &until)) if until > start => Err(FragmentDrop::Overlap),
            _ => {
                self.runs.insert(start, end);
                Ok(())
            }
        }
    }

    /// Puts the datagram together.
    pub(super) fn join(self) -> Result<(Vec<u8>, Pieces), FragmentDrop> {
        let mut bytes = self.head.ok_or(FragmentDrop::Malformed)?;
        let v4 = bytes[0] >> 4 == 4;
        let head_len = bytes.len();
        bytes.reserve(self.received as usize);
        let mut sizes = Vec::with_capacity(self.pieces.len());
        for payload in self.pieces.values() {
            sizes.push(payload.len() as u16);
            bytes.extend_from_slice(payload);
        }
        // The first piece's header may be longer than that of the piece that fixed the end.
        if bytes.len() > MAX_LEN as usize {
            return Err(FragmentDrop::Malformed);
        }
        let ce = congestion(self.ecn)?;
        let dont_fragment = self.largest_unsplittable == self.largest;
        if v4 {
            let len = bytes.len() as u16;
            bytes[2..4].copy_from_slice(&len.to_be_bytes());
            bytes[6] = u8::from(dont_fragment) << 6;
            bytes[7] = 0;
            bytes[1] |= ce;
            ipv4::write_checksum(&mut bytes);
        } else {
            let len = (head_len - ipv6::HEADER_LEN) + self.received as usize;
            bytes[4..6].copy_from_slice(&(len as u16).to_be_bytes());
            bytes[1] |= ce << 4;
        }
        let pieces = Pieces {
            sizes,
            largest: self.largest,
            // RFC 8200 section 5: routers never fragment, so a piece is as large as it may be.
            dont_fragment: dont_fragment || !v4,
            boundaries_lost: false,
            header_at: self.header_at,
            named_at: self.named_at,
        };
        Ok((bytes, pieces))
    }
}

/// RFC 3168 section 5.3: the whole has met congestion if a piece has. The argument has a bit for
/// each ECN codepoint seen; the answer is what is to be added to the first piece's.
fn congestion(seen: u8) -> Result<u8, FragmentDrop> {
    const NOT_ECT: u8 = 1;
    const CE: u8 = 1 << 3;
    if seen & NOT_ECT != 0 && seen != NOT_ECT {
        return Err(FragmentDrop::Ecn);
    }
    Ok(if seen & CE != 0 { 3 } else { 0 })
}
