//! Reassembly of fragments before tracking, so that every piece meets the same rules.
//!
//! Terms: a *piece* is one fragment, a *queue* collects the pieces of one datagram, a *whole* is
//! the datagram put together, with the memory of how it came so that it can be sent on in the same
//! pieces. Queues are bounded in bytes and live
//! for a fixed time from their first piece; what is over either bound is dropped without a word
//! (only an end host reports a reassembly timeout, RFC 1122 section 3.3.2).

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tidegate_packet::{Addr, Fragment, Instant, Parsed, ipv4, ipv6, protocol};

/// `net.ipv4.ipfrag_*` and `net.netfilter.nf_conntrack_frag6_*`.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct FragmentSettings {
    /// Bytes that all queues together may hold (`ipfrag_high_thresh`).
    pub max_bytes: usize,
    /// Life of an IPv4 queue (`ipfrag_time`).
    pub timeout_v4: Duration,
    /// Life of an IPv6 queue (`nf_conntrack_frag6_timeout`).
    pub timeout_v6: Duration,
}

impl Default for FragmentSettings {
    fn default() -> Self {
        Self {
            max_bytes: 4 << 20,
            timeout_v4: Duration::from_secs(30),
            timeout_v6: Duration::from_secs(60),
        }
    }
}

/// A datagram put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    /// From the IP header on, as if it had never been cut: TTL and TOS are the first piece's, the
    /// don't-fragment bit is set if the longest piece had it.
    pub bytes: Vec<u8>,
    /// Payload bytes of each piece, in the datagram's order.
    pub sizes: Vec<u16>,
}

/// Why a piece was dropped. Each is a drop reason.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum FragmentDrop {
    /// It holds nothing that wasn't there already.
    #[error("duplicate fragment")]
    Duplicate,
    /// It overlaps others in part; its datagram is given up (RFC 5722).
    #[error("overlapping fragment")]
    Overlap,
    /// Its length or place is impossible; its datagram is given up.
    #[error("malformed fragment")]
    Malformed,
    /// Pieces with and without ECN in one datagram (RFC 3168 section 5.3); it is given up.
    #[error("fragments with contradicting ECN")]
    Ecn,
    /// No room for more.
    #[error("fragment queues full")]
    Full,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    src: Addr,
    dst: Addr,
    id: u32,
    /// IPv4 only: RFC 8200 section 4.5 leaves it out.
    protocol: u8,
    /// The interface, where addresses mean something on their own link only.
    link: u32,
}

#[derive(Debug, Default)]
struct Queue {
    serial: u64,
    /// By offset; no two overlap.
    pieces: BTreeMap<u32, Vec<u8>>,
    /// Stretches of pieces that came in order: from, to.
    runs: BTreeMap<u32, u32>,
    /// Everything before the payload of the first piece, the IPv6 fragment header left out.
    head: Option<Vec<u8>>,
    /// Where the datagram ends, once known.
    end: Option<u32>,
    /// Where the known part ends.
    reach: u32,
    received: u32,
    largest: u16,
    largest_unsplittable: u16,
    ecn: u8,
    cost: usize,
}

/// Collects pieces.
#[derive(Debug, Default)]
pub struct Reassembler {
    settings: FragmentSettings,
    queues: BTreeMap<Key, Queue>,
    /// IPv4's and IPv6's queues by age; all of a family live equally long.
    order: [VecDeque<(Instant, Key, u64)>; 2],
    serial: u64,
    bytes: usize,
}

/// What a piece or a queue costs besides its bytes.
const OVERHEAD: usize = 128;
/// The longest IP packet.
const MAX_LEN: u32 = 65_535;

impl Reassembler {
    /// Without queues.
    pub fn new(settings: FragmentSettings) -> Self {
        Self { settings, ..Self::default() }
    }

    /// The bounds, to be changed.
    pub fn settings_mut(&mut self) -> &mut FragmentSettings {
        &mut self.settings
    }

    /// Queues under way.
    pub fn len(&self) -> usize {
        self.queues.len()
    }

    /// Whether no queue is under way.
    pub fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    /// Gives up the queues whose time is over and says how many there were.
    pub fn expire(&mut self, now: Instant) -> usize {
        let mut ended = 0;
        for family in 0..2 {
            while let Some(&(deadline, key, serial)) = self.order[family].front() {
                let live = self.queues.get(&key).is_some_and(|q| q.serial == serial);
                if live && deadline > now {
                    break;
                }
                self.order[family].pop_front();
                if live {
                    self.give_up(&key);
                    ended += 1;
                }
            }
        }
        ended
    }

    /// When [`Reassembler::expire`] should be called next.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.order.iter().filter_map(|o| o.front()).map(|(deadline, ..)| *deadline).min()
    }

    /// Takes a packet with [`Parsed::fragment`]; the last missing piece gives the whole. `bytes`
    /// starts at its IP header, `input` is the interface it came in by.
    pub fn push(
        &mut self,
        packet: &Parsed,
        bytes: &[u8],
        input: u32,
        now: Instant,
    ) -> Result<Option<Whole>, FragmentDrop> {
        self.expire(now);
        let fragment = packet.fragment.ok_or(FragmentDrop::Malformed)?;
        let v4 = packet.src.is_v4();
        let Parsed { src, dst, .. } = *packet;
        let on_link = dst.is_v6_link_local() || dst.is_multicast();
        let key = Key {
            src,
            dst,
            id: fragment.id,
            // Behind an IPv6 fragment header with an offset the protocol isn't known.
            protocol: if v4 { packet.protocol } else { 0 },
            link: if !v4 && on_link { input } else { 0 },
        };
        let piece = Piece::new(packet, bytes, fragment);
        if self.bytes + piece.cost() + OVERHEAD > self.settings.max_bytes {
            return Err(FragmentDrop::Full);
        }
        if !self.queues.contains_key(&key) {
            self.open(key, now);
        }
        let Some(queue) = self.queues.get_mut(&key) else { return Ok(None) };
        let before = queue.cost;
        match queue.add(&piece) {
            Ok(()) => self.bytes += queue.cost - before,
            Err(FragmentDrop::Duplicate) => return Err(FragmentDrop::Duplicate),
            Err(why) => {
                self.give_up(&key);
                return Err(why);
            }
        }
        if queue.end != Some(queue.received) || queue.head.is_none() {
            return Ok(None);
        }
        self.give_up(&key).map(Queue::join).transpose()
    }

    fn open(&mut self, key: Key, now: Instant) {
        self.serial += 1;
        let queue = Queue { serial: self.serial, cost: OVERHEAD, ..Queue::default() };
        self.bytes += queue.cost;
        self.queues.insert(key, queue);
        let (family, timeout) = match key.src.is_v4() {
            true => (0, self.settings.timeout_v4),
            false => (1, self.settings.timeout_v6),
        };
        self.order[family].push_back((now + timeout, key, self.serial));
    }

    fn give_up(&mut self, key: &Key) -> Option<Queue> {
        let queue = self.queues.remove(key)?;
        self.bytes -= queue.cost;
        Some(queue)
    }
}

/// A fragment taken apart.
struct Piece<'a> {
    head: &'a [u8],
    /// IPv6: the fragment header's next-header value, for the byte that named it.
    next: u8,
    payload: &'a [u8],
    fragment: Fragment,
    v4: bool,
    len: u16,
    dont_fragment: bool,
    tos: u8,
    named_at: usize,
}

impl<'a> Piece<'a> {
    fn new(packet: &Parsed, bytes: &'a [u8], fragment: Fragment) -> Self {
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
                named_at = extension.at;
            }
        }
        let mut payload = &bytes[payload_at..];
        // Linux takes IPv4 pieces that break the eight-byte grid up to the last point on it.
        if v4 && fragment.more {
            payload = &payload[..payload.len() & !7];
        }
        Self {
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
}

impl Piece<'_> {
    /// What it adds to its queue at most.
    fn cost(&self) -> usize {
        self.head.len() + self.payload.len() + OVERHEAD
    }
}

impl Queue {
    fn add(&mut self, piece: &Piece<'_>) -> Result<(), FragmentDrop> {
        let start = u32::from(piece.fragment.offset);
        let end = start + piece.payload.len() as u32;
        // RFC 8200 section 4.5: all but the last are a multiple of eight long.
        let off_grid = piece.fragment.more && !piece.payload.len().is_multiple_of(8);
        let head = piece.head.len() as u32;
        if start == end || off_grid || head + end > MAX_LEN {
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
                head[piece.named_at] = piece.next;
            }
            self.cost += head.len();
            self.head = Some(head);
        }
        self.cost += piece.payload.len() + OVERHEAD;
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
    fn join(self) -> Result<Whole, FragmentDrop> {
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
        if v4 {
            let dont_fragment = self.largest_unsplittable == self.largest;
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
        Ok(Whole { bytes, sizes })
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
