//! A plain model of reassembly, and sequences of pieces to try it with. The fuzz target `fragments`
//! runs this as well.
//!
//! The model keeps every piece that was taken and asks, byte by byte, which are there. What comes out
//! has to be made of those and nothing else.

use std::collections::BTreeMap;
use std::time::Duration;

use tidegate_nat::{
    FragmentDrop, FragmentSettings, Pieces, Pushed, Reassembler, Scope, refragment,
};
use tidegate_packet::builder::{self, Ip};
use tidegate_packet::{Addr, Family, Instant, Parsed, ipv4, ipv6, protocol};

/// Takes the beginning of what a fuzzer gives; past the end come zeros.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }
}

type Key = (Scope, Addr, Addr, u32, u8);

/// A piece that was taken: where it begins, its header and its payload.
struct Taken {
    at: usize,
    head: Vec<u8>,
    payload: Vec<u8>,
    number: u32,
}

struct Queue {
    since: Instant,
    taken: Vec<Taken>,
    end: Option<usize>,
    ecn: Vec<u8>,
}

/// A reassembler and what is known of it.
struct Pair {
    real: Reassembler<u32>,
    /// Pieces so far; each carries its number.
    pieces: u32,
    settings: FragmentSettings,
    model: BTreeMap<Key, Queue>,
    now: Instant,
    /// First pieces of queues that time has ended.
    expired: Vec<Vec<u8>>,
}

/// Plays the sequence that `data` spells.
pub fn play(data: &[u8]) {
    let mut input = Input(data);
    let kind = input.byte();
    let family = if kind & 1 == 0 { Family::V4 } else { Family::V6 };
    let base = if kind & 1 == 0 { FragmentSettings::V4 } else { FragmentSettings::V6 };
    let max_bytes = if kind & 2 == 0 { base.max_bytes } else { usize::from(input.byte()) * 100 };
    let settings = FragmentSettings { max_bytes, ..base };
    let mut pair = Pair {
        real: Reassembler::new(settings),
        pieces: 0,
        settings,
        model: BTreeMap::new(),
        now: Instant::from_secs(1000),
        expired: Vec::new(),
    };
    for _ in 0..300 {
        if input.0.is_empty() {
            break;
        }
        pair.step(family, &mut input);
    }
    pair.wait(Duration::from_secs(100));
    assert!(pair.real.is_empty() && pair.real.bytes() == 0);
    assert_eq!(pair.real.next_expiry(), None);
}

impl Pair {
    fn step(&mut self, family: Family, input: &mut Input<'_>) {
        let what = input.byte();
        if what & 0x80 != 0 {
            self.wait(Duration::from_millis(u64::from(input.byte()) * 50));
        }
        let scope = Scope { zone: u16::from(what & 0x60 == 0x60), link: 0 };
        let bytes = piece(family, what, input);
        let Ok(packet) = Parsed::parse(&bytes) else { return };
        if packet.fragment.is_none() {
            return;
        }
        self.push(scope, &packet, &bytes);
        assert!(self.real.bytes() <= self.settings.max_bytes);
        let kept: usize = self.model.values().flat_map(|q| &q.taken).map(|t| t.payload.len()).sum();
        assert!(kept <= self.real.bytes());
        assert_eq!(self.real.len(), self.model.len());
    }

    fn wait(&mut self, by: Duration) {
        self.now = self.now + by;
        let (now, life) = (self.now, self.settings.timeout);
        let over: Vec<Key> = self
            .model
            .iter()
            .filter(|(_, queue)| queue.since + life <= now)
            .map(|(key, _)| *key)
            .collect();
        assert_eq!(self.real.expire(now), over.len());
        for queue in over.iter().filter_map(|key| self.model.remove(key)) {
            self.expired.extend(queue.taken.into_iter().find(|t| t.at == 0).map(|t| t.head));
        }
        // What an error will quote is what came first in the datagram.
        let mut quotes = self.real.take_expired();
        assert_eq!(quotes.len(), self.expired.len());
        quotes.sort();
        self.expired.sort();
        for (quote, head) in quotes.iter().zip(&self.expired) {
            assert!(quote.len() <= 1280 && quote.starts_with(&head[..head.len().min(1280)]));
        }
        self.expired.clear();
    }

    fn push(&mut self, scope: Scope, packet: &Parsed, bytes: &[u8]) {
        let before = self.real.bytes();
        self.pieces += 1;
        let (pushed, carried) = self.real.push_in(scope, self.pieces, packet, bytes, self.now);
        assert_eq!(carried.is_some(), matches!(pushed, Pushed::Whole(..)));
        let fragment = packet.fragment.expect("a piece");
        let v4 = packet.src.is_v4();
        let number = if v4 { packet.protocol } else { 0 };
        let key = (scope, packet.src, packet.dst, fragment.id, number);
        if pushed == Pushed::Dropped(FragmentDrop::Full) {
            assert!(before + bytes.len() * 2 + 2048 > self.settings.max_bytes);
            assert_eq!(self.real.bytes(), before);
            return;
        }
        let (now, head_len) =
            (self.now, usize::from(if v4 { packet.l4 } else { fragment.header_at }));
        let payload = &bytes[head_len + if v4 { 0 } else { 8 }..packet.len as usize];
        // What a router on the way has cut off the grid ends at the last point on it (IPv4).
        let payload = if v4 && fragment.more { &payload[..payload.len() & !7] } else { payload };
        let at = usize::from(fragment.offset);
        let queue = self.model.entry(key).or_insert_with(|| Queue {
            since: now,
            taken: Vec::new(),
            end: None,
            ecn: Vec::new(),
        });
        let judged = queue.judge(at, payload.len(), head_len, fragment.more);
        match (judged, &pushed) {
            (Judged::Malformed, Pushed::Dropped(FragmentDrop::Malformed))
            | (Judged::Unfit, Pushed::Dropped(FragmentDrop::Unfit))
            | (Judged::PartlyThere | Judged::There, Pushed::Dropped(FragmentDrop::Overlap)) => {
                self.model.remove(&key);
            }
            (Judged::There, Pushed::Dropped(FragmentDrop::Duplicate)) => {}
            (Judged::New, Pushed::Kept | Pushed::Whole(..) | Pushed::Dropped(_)) => {
                let head = bytes[..head_len].to_vec();
                queue.taken.push(Taken {
                    at,
                    head,
                    payload: payload.to_vec(),
                    number: self.pieces,
                });
                queue.ecn.push(packet.tos & 3);
                if !fragment.more {
                    queue.end = Some(at + payload.len());
                }
                if queue.is_whole() {
                    let queue = self.model.remove(&key).expect("this one");
                    let first = queue.taken.iter().find(|t| t.at == 0).map(|t| t.number);
                    assert!(carried.is_none() || carried == first);
                    queue.compare(v4, &pushed);
                } else {
                    assert_eq!(pushed, Pushed::Kept);
                }
            }
            (judged, pushed) => panic!("{judged:?}, but {pushed:?}"),
        }
    }
}

#[derive(Debug)]
enum Judged {
    Malformed,
    Unfit,
    New,
    There,
    PartlyThere,
}

impl Queue {
    fn judge(&self, at: usize, len: usize, head: usize, more: bool) -> Judged {
        let (end, reach) = (at + len, self.taken.iter().map(Taken::end).max().unwrap_or(0));
        let contradicts = match self.end {
            Some(known) => end > known || !more && end != known,
            None => !more && end < reach,
        };
        if head + end <= 65_535 && more && !len.is_multiple_of(8) {
            return Judged::Unfit;
        }
        if len == 0 || head + end > 65_535 || contradicts {
            return Judged::Malformed;
        }
        let there = (at..end).filter(|byte| self.taken.iter().any(|t| t.covers(*byte))).count();
        match there {
            0 => Judged::New,
            n if n == len => Judged::There,
            _ => Judged::PartlyThere,
        }
    }

    fn is_whole(&self) -> bool {
        let there: usize = self.taken.iter().map(|t| t.payload.len()).sum();
        self.end == Some(there) && self.taken.iter().any(|t| t.at == 0)
    }

    /// What came out is what went in.
    fn compare(mut self, v4: bool, pushed: &Pushed) {
        self.taken.sort_by_key(|t| t.at);
        let head = &self.taken[0].head;
        let payload: Vec<u8> = self.taken.iter().flat_map(|t| t.payload.clone()).collect();
        let contradicts = self.ecn.contains(&0) && self.ecn.iter().any(|e| *e != 0);
        if head.len() + payload.len() > 65_535 {
            return assert_eq!(*pushed, Pushed::Dropped(FragmentDrop::Malformed));
        }
        if contradicts {
            return assert_eq!(*pushed, Pushed::Dropped(FragmentDrop::Ecn));
        }
        let Pushed::Whole(bytes, pieces) = pushed else { panic!("{pushed:?}") };
        assert_eq!(bytes.len(), head.len() + payload.len());
        assert_eq!(bytes[head.len()..], payload);
        let sizes: Vec<usize> = pieces.sizes.iter().map(|s| usize::from(*s)).collect();
        assert_eq!(sizes, self.taken.iter().map(|t| t.payload.len()).collect::<Vec<_>>());
        let parsed = whole_of(v4, bytes);
        let met = self.ecn.contains(&3);
        assert_eq!(parsed.is_some_and(|p| p.tos & 3 == 3), parsed.is_some() && met);
        if parsed.is_some() {
            there_and_back(bytes, pieces);
        }
    }
}

impl Taken {
    fn end(&self) -> usize {
        self.at + self.payload.len()
    }

    fn covers(&self, byte: usize) -> bool {
        (self.at..self.end()).contains(&byte)
    }
}

/// The whole as it decodes. An IPv6 one may not: its chain of headers is known only now.
fn whole_of(v4: bool, bytes: &[u8]) -> Option<Parsed> {
    let parsed = Parsed::parse(bytes);
    if v4 {
        assert!(parsed.is_ok_and(|p| p.fragment.is_none()), "{bytes:02x?}");
    }
    parsed.ok().filter(|p| p.fragment.is_none())
}

/// Cut for any way out, the pieces fit it and are the same datagram again.
fn there_and_back(bytes: &[u8], pieces: &Pieces) {
    for mtu in [0, 28, 68, 600, 1500, 65_535] {
        let out = refragment(bytes, pieces, mtu, 5).unwrap_or_default();
        let mut again = Reassembler::new(FragmentSettings::V4);
        for (n, piece) in out.iter().enumerate() {
            assert!(piece.len() <= mtu);
            let parsed = Parsed::parse(piece).expect("a right header");
            if out.len() == 1 {
                assert_eq!(piece, bytes);
                continue;
            }
            let pushed = again.push(&parsed, piece, Instant::from_secs(1));
            if n + 1 < out.len() {
                assert_eq!(pushed, Pushed::Kept);
                continue;
            }
            let Pushed::Whole(joined, _) = pushed else { panic!("{pushed:?}") };
            // The don't-fragment bit is lost, and with it the header checksum is another.
            let skip =
                |b: &[u8]| if b[0] >> 4 == 4 { [&b[..6], &b[12..]].concat() } else { b.to_vec() };
            assert_eq!(skip(&joined), skip(bytes));
        }
    }
}

/// One piece: of one of two hosts, three datagrams and two protocols, anywhere.
fn piece(family: Family, what: u8, input: &mut Input<'_>) -> Vec<u8> {
    let (which, place, size) = (input.byte(), input.byte(), input.byte());
    let (edge, looks) = (which & 0xc0 == 0xc0, input.byte());
    // Most often within some hundred bytes, so that pieces meet; sometimes at the far end.
    let at = if edge { 65_528 - usize::from(place) * 8 } else { usize::from(place & 31) * 8 };
    let len = match size & 0xc0 {
        0xc0 => usize::from(size & 63) * 33,
        _ => usize::from(size & 15) * 8 + usize::from(size >> 4 & 3),
    };
    let more = what & 1 != 0;
    let payload: Vec<u8> = (0..len).map(|n| (n as u8).wrapping_mul(7) ^ looks).collect();
    let ecn = if looks & 0x10 == 0 { 2 } else { looks & 3 };
    let number = if what & 2 == 0 { protocol::UDP } else { 200 };
    let id = u16::from(which & 3);
    let mut bytes = if family == Family::V4 {
        let [src, dst] = [[10, 0, 0, host_of(which)], [10, 0, 1, 1]].map(Addr::from_v4_bytes);
        let header = Ip { id, tos: ecn, hop_limit: 9 + (looks >> 6), ..Ip::new(src, dst, number) };
        let mut b = builder::ip(header, &payload);
        if looks & 0x20 != 0 {
            // Four bytes of options.
            b[0] += 1;
            b.splice(20..20, [0x94, 4, 0, 0]);
            let len = b.len() as u16;
            b[2..4].copy_from_slice(&len.to_be_bytes());
        }
        let word = (at / 8) as u16 | u16::from(more) << 13 | u16::from(looks & 4) << 12;
        b[6..8].copy_from_slice(&word.to_be_bytes());
        b
    } else {
        let host = |n: u8| Addr::from_v6_bytes([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n]);
        let mut rest = vec![number, 0];
        rest.extend((at as u16 | u16::from(more)).to_be_bytes());
        rest.extend([0, 0, 0, which & 3]);
        rest.extend(&payload);
        let optional = looks & 0x20 != 0;
        if optional {
            rest.splice(0..0, [protocol::FRAGMENT, 0, 1, 4, 0, 0, 0, 0]);
        }
        let first = if optional { protocol::HOPOPTS } else { protocol::FRAGMENT };
        let header = Ip { tos: ecn, ..Ip::new(host(host_of(which)), host(9), first) };
        builder::ip(header, &rest)
    };
    if what & 4 != 0 {
        // Something is wrong with it.
        let (at, value) = (usize::from(input.byte()), input.byte());
        let at = at % bytes.len();
        bytes[at] ^= value;
    }
    mend(&mut bytes);
    bytes
}

fn host_of(which: u8) -> u8 {
    1 + (which >> 2 & 1)
}

fn mend(bytes: &mut [u8]) {
    let len = bytes.len() as u16;
    if bytes[0] >> 4 == 4 && (5..=bytes.len() / 4).contains(&usize::from(bytes[0] & 15)) {
        bytes[2..4].copy_from_slice(&len.to_be_bytes());
        ipv4::write_checksum(bytes);
    } else if bytes[0] >> 4 == 6 && bytes.len() >= ipv6::HEADER_LEN {
        let payload = len - ipv6::HEADER_LEN as u16;
        bytes[4..6].copy_from_slice(&payload.to_be_bytes());
    }
}
