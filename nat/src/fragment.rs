//! Reassembly of fragments before tracking, so that every piece meets the same rules.
//!
//! Terms: a *piece* is one fragment, a *queue* collects the pieces of one datagram, a *whole* is
//! the datagram put together, with the memory of how it came ([`Pieces`]) so that
//! [`crate::refragment()`] can send it on in the same pieces. Queues are bounded in bytes and live
//! for a fixed time from their first piece; what is over either bound is dropped without a word
//! (only an end host reports a reassembly timeout, RFC 1122 section 3.3.2).

mod queue;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use queue::{Piece, QUEUE_COST, Queue};
use tidegate_packet::{Addr, Instant, Parsed, ipv6};

/// `net.ipv4.ipfrag_*` and `net.netfilter.nf_conntrack_frag6_*`.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct FragmentSettings {
    /// Bytes that all queues together may hold (`ipfrag_high_thresh`).
    pub max_bytes: usize,
    /// Life of a queue (`ipfrag_time`; 60 s for IPv6 in the kernel).
    pub timeout: Duration,
}

impl FragmentSettings {
    /// The kernel's defaults for IPv4.
    pub const V4: Self = Self { max_bytes: 4 << 20, timeout: Duration::from_secs(30) };
    /// The kernel's defaults for IPv6.
    pub const V6: Self = Self { max_bytes: 4 << 20, timeout: Duration::from_secs(60) };
}

/// How a datagram came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pieces {
    /// Payload bytes of each piece, in the datagram's order.
    pub sizes: Vec<u16>,
    /// Length of the longest piece, IP header included.
    pub largest: u16,
    /// The longest piece asked not to be fragmented further (the whole has the bit set then).
    pub dont_fragment: bool,
    /// The old boundaries can't be kept: see [`Pieces::header_was_written`].
    pub(crate) boundaries_lost: bool,
    /// IPv6: where the fragment header stood, and so where it goes again.
    pub(crate) header_at: u16,
    /// IPv6: the byte that named it.
    pub(crate) named_at: u16,
}

impl Pieces {
    /// Notes that the first `len` payload bytes were written to. If they end off the eight-byte
    /// grid beyond the first piece, Linux has joined pieces to write there and cuts anew.
    pub fn header_was_written(&mut self, len: usize) {
        let first = self.sizes.first().map_or(0, |s| usize::from(*s));
        self.boundaries_lost |= first < len;
    }

    /// The pieces of a host's own IPv6 packet that is too long for its link; the fragment header
    /// goes before the upper layer at `l4`.
    pub fn of_own(packet: &[u8], l4: usize, mtu: usize) -> Self {
        let named_at = ipv6::Extensions::new(packet).last().map_or(6, |e| e.at);
        let payload = packet.len().saturating_sub(l4);
        Self {
            // Two sizes that don't fit: it is cut into the largest that do.
            sizes: vec![payload.min(usize::from(u16::MAX)) as u16, 0],
            largest: mtu.min(usize::from(u16::MAX)) as u16,
            dont_fragment: false,
            boundaries_lost: true,
            header_at: l4.min(usize::from(u16::MAX)) as u16,
            named_at: named_at as u16,
        }
    }

    /// Whether the datagram can't be sent on and frag-needed or packet-too-big has to be answered:
    /// a piece doesn't fit and must not be cut.
    pub fn too_big(&self, mtu: usize) -> bool {
        self.dont_fragment && usize::from(self.largest) > mtu
    }
}

/// What became of a piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// Kept; more are missing.
    Kept,
    /// The last one missing: the datagram, and how it came.
    Whole(Vec<u8>, Pieces),
    /// Dropped.
    Dropped(FragmentDrop),
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
    /// An IPv6 piece that isn't the last and ends off the eight-byte grid; its datagram is given up. Linux
    /// hands such a piece on as it is (`-EPROTO` of `nf_ct_frag6_queue`).
    #[error("fragment off the grid")]
    Unfit,
    /// Pieces with and without ECN in one datagram (RFC 3168 section 5.3); it is given up.
    #[error("fragments with contradicting ECN")]
    Ecn,
    /// No room for more.
    #[error("fragment queues full")]
    Full,
}

/// Whose pieces belong together besides those of equal addresses and identification.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Scope {
    /// The zone, where it is known before pieces are put together: netfilter has a queue for each
    /// (`nf_ct_defrag_user`).
    pub zone: u16,
    /// The interface, where addresses mean something on one link only: IPv6 pieces to link-local
    /// and multicast addresses.
    pub link: u32,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    scope: Scope,
    src: Addr,
    dst: Addr,
    id: u32,
    /// IPv4 only: RFC 8200 section 4.5 leaves it out.
    protocol: u8,
}

/// Collects pieces. One for each family, as each has its own bounds. `C` is what a packet carries
/// besides its bytes; the whole has it from the first piece, as in netfilter.
#[derive(Debug)]
pub struct Reassembler<C = ()> {
    settings: FragmentSettings,
    queues: BTreeMap<Key, Queue<C>>,
    /// Queues by age; all live equally long.
    order: VecDeque<(Instant, Key, u64)>,
    serial: u64,
    bytes: usize,
    expired: Vec<Vec<u8>>,
}

/// Given-up datagrams that wait for [`Reassembler::take_expired`].
const MAX_EXPIRED: usize = 256;
/// Places of queues that are over, kept in the order of ages at most.
const MAX_STALE: usize = 1024;
impl<C> Reassembler<C> {
    /// Without queues.
    pub fn new(settings: FragmentSettings) -> Self {
        let (queues, order) = (BTreeMap::new(), VecDeque::new());
        Self { settings, queues, order, serial: 0, bytes: 0, expired: Vec::new() }
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

    /// Memory that queues and pieces use, as it is counted against the bound.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives up the queues whose time is over and says how many there were.
    pub fn expire(&mut self, now: Instant) -> usize {
        let mut ended = 0;
        while let Some(&(deadline, key, serial)) = self.order.front() {
            let live = self.queues.get(&key).is_some_and(|q| q.serial == serial);
            if live && deadline > now {
                break;
            }
            self.order.pop_front();
            if live {
                let first = self.give_up(&key).and_then(|queue| queue.first);
                let room = self.expired.len() < MAX_EXPIRED;
                self.expired.extend(first.filter(|_| room));
                ended += 1;
            }
        }
        ended
    }

    /// The first pieces of datagrams that were given up for time since the last call, cut after
    /// what an ICMP error may quote (RFC 792: time exceeded, code 1, is sent only if the first
    /// piece has come).
    pub fn take_expired(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.expired)
    }

    /// When [`Reassembler::expire`] should be called next.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.order.front().map(|(deadline, ..)| *deadline)
    }

    /// Takes a packet with [`Parsed::fragment`]; it belongs to others of its scope only. `bytes` starts
    /// at its IP header. With the whole comes what its first piece carried.
    pub fn push_in(
        &mut self,
        scope: Scope,
        carried: C,
        packet: &Parsed,
        bytes: &[u8],
        now: Instant,
    ) -> (Pushed, Option<C>) {
        let dropped = |why| (Pushed::Dropped(why), None);
        self.expire(now);
        let Some(fragment) = packet.fragment else { return dropped(FragmentDrop::Malformed) };
        let v4 = packet.src.is_v4();
        // Behind an IPv6 fragment header with an offset the protocol isn't known.
        let protocol = if v4 { packet.protocol } else { 0 };
        let key = Key { scope, src: packet.src, dst: packet.dst, id: fragment.id, protocol };
        let piece = Piece::new(packet, bytes, fragment);
        let is_new = !self.queues.contains_key(&key);
        let more = piece.cost() + if is_new { QUEUE_COST } else { 0 };
        if self.bytes + more > self.settings.max_bytes {
            return dropped(FragmentDrop::Full);
        }
        if is_new {
            self.open(key, now);
        }
        let Some(queue) = self.queues.get_mut(&key) else { return dropped(FragmentDrop::Full) };
        match queue.add(&piece) {
            Ok(()) => {}
            Err(FragmentDrop::Duplicate) => return dropped(FragmentDrop::Duplicate),
            Err(why) => {
                self.give_up(&key);
                return dropped(why);
            }
        }
        if fragment.offset == 0 {
            queue.carried = Some(carried);
        }
        queue.cost += piece.cost();
        self.bytes += piece.cost();
        if queue.end != Some(queue.received) || queue.head.is_none() {
            return (Pushed::Kept, None);
        }
        let Some(mut queue) = self.give_up(&key) else { return dropped(FragmentDrop::Malformed) };
        let carried = queue.carried.take();
        match queue.join() {
            Ok((bytes, pieces)) => (Pushed::Whole(bytes, pieces), carried),
            Err(why) => dropped(why),
        }
    }

    fn open(&mut self, key: Key, now: Instant) {
        self.serial += 1;
        let queue = Queue::new(self.serial);
        self.bytes += queue.cost;
        self.queues.insert(key, queue);
        // Datagrams that became whole leave their places behind; a queue that stays open must not
        // make those pile up.
        if self.order.len() > 2 * self.queues.len() + MAX_STALE {
            let queues = &self.queues;
            self.order
                .retain(|(_, key, serial)| queues.get(key).is_some_and(|q| q.serial == *serial));
        }
        self.order.push_back((now + self.settings.timeout, key, self.serial));
    }

    fn give_up(&mut self, key: &Key) -> Option<Queue<C>> {
        let queue = self.queues.remove(key)?;
        self.bytes -= queue.cost;
        Some(queue)
    }
}

impl Reassembler {
    /// Takes a piece that carries nothing, in the only scope there is.
    pub fn push(&mut self, packet: &Parsed, bytes: &[u8], now: Instant) -> Pushed {
        self.push_in(Scope::default(), (), packet, bytes, now).0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_packet::builder::{self, Ip};
    use tidegate_packet::{ipv4, protocol};

    fn piece(id: u16, from: u16, more: bool) -> Vec<u8> {
        let (src, dst) = (Addr::from_v4_bytes([10, 0, 0, 1]), Addr::from_v4_bytes([10, 0, 0, 2]));
        let mut bytes = builder::ip(Ip { id, ..Ip::new(src, dst, protocol::UDP) }, &[0; 8]);
        bytes[6..8].copy_from_slice(&((from / 8) | (u16::from(more) << 13)).to_be_bytes());
        ipv4::write_checksum(&mut bytes);
        bytes
    }

    #[test]
    fn an_open_queue_does_not_make_the_places_of_others_pile_up() {
        let mut reassembler = Reassembler::new(FragmentSettings::V4);
        let mut push = |id, from, more| {
            let bytes = piece(id, from, more);
            let parsed = Parsed::parse(&bytes).unwrap();
            let pushed = reassembler.push(&parsed, &bytes, Instant::from_secs(5));
            (pushed, reassembler.order.len())
        };
        assert_eq!(push(0, 0, true).0, Pushed::Kept);
        for id in 1..5000 {
            push(id, 0, true);
            let (pushed, places) = push(id, 8, false);
            assert!(matches!(pushed, Pushed::Whole(..)));
            assert!(places <= MAX_STALE + 8, "{places}");
        }
        assert!(matches!(push(0, 8, false).0, Pushed::Whole(..)));
    }
}
