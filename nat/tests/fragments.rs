//! Reassembly.

mod common;

use std::time::Duration;

use common::{addr, ip};
use proptest::prelude::*;
use tidegate_nat::{FragmentDrop, FragmentSettings, Reassembler, Whole};
use tidegate_packet::builder::{self, Ip};
use tidegate_packet::{Instant, Parsed, ipv4, protocol};

const NOW: Instant = Instant::from_secs(5);

fn reassembler() -> Reassembler {
    Reassembler::default()
}

/// One piece of an IPv4 datagram: payload bytes `from..to` of a counting pattern.
fn piece(from: usize, to: usize, more: bool, edit: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let payload: Vec<u8> = (from..to).map(|i| i as u8).collect();
    let mut bytes = builder::ip(
        Ip { id: 77, tos: 0x10, ..ip("10.0.0.1", "10.0.0.2", protocol::UDP) },
        &payload,
    );
    let word = (from / 8) as u16 | u16::from(more) << 13;
    bytes[6..8].copy_from_slice(&word.to_be_bytes());
    edit(&mut bytes);
    ipv4::write_checksum(&mut bytes);
    bytes
}

type Pushed = Result<Option<Whole>, FragmentDrop>;

fn push(queues: &mut Reassembler, bytes: &[u8]) -> Pushed {
    queues.push(&Parsed::parse(bytes).unwrap(), bytes, 0, NOW)
}

#[derive(Debug, PartialEq)]
enum Want {
    Kept,
    Whole(usize),
    Dropped(FragmentDrop),
}

impl From<Pushed> for Want {
    fn from(p: Pushed) -> Self {
        match p {
            Ok(None) => Self::Kept,
            Ok(Some(whole)) => Self::Whole(whole.bytes.len() - 20),
            Err(why) => Self::Dropped(why),
        }
    }
}

/// Rows of pieces: from, to, more follow, what comes of it.
#[test]
fn sequences() {
    use FragmentDrop::*;
    use Want::*;
    type Row = (usize, usize, bool, Want);
    let cases: Vec<(&str, Vec<Row>)> = vec![
        ("in order", vec![(0, 16, true, Kept), (16, 24, true, Kept), (24, 30, false, Whole(30))]),
        ("backwards", vec![(24, 30, false, Kept), (16, 24, true, Kept), (0, 16, true, Whole(30))]),
        (
            "twice the same",
            vec![
                (0, 16, true, Kept),
                (0, 16, true, Dropped(Duplicate)),
                (16, 20, false, Whole(20)),
            ],
        ),
        (
            "inside what is there",
            vec![
                (0, 32, true, Kept),
                (8, 16, true, Dropped(Duplicate)),
                (32, 40, false, Whole(40)),
            ],
        ),
        (
            "overlap kills",
            vec![(0, 16, true, Kept), (8, 24, true, Dropped(Overlap)), (16, 24, false, Kept)],
        ),
        (
            "inside two that came in order",
            vec![
                (0, 8, true, Kept),
                (8, 16, true, Kept),
                (0, 16, true, Dropped(Duplicate)),
                (16, 20, false, Whole(20)),
            ],
        ),
        (
            "over two that came out of order",
            vec![(8, 16, true, Kept), (0, 8, true, Kept), (0, 16, true, Dropped(Overlap))],
        ),
        ("between", vec![(0, 8, true, Kept), (16, 20, false, Kept), (8, 16, true, Whole(20))]),
        (
            "over a gap",
            vec![(0, 8, true, Kept), (16, 20, false, Kept), (8, 20, false, Dropped(Overlap))],
        ),
        ("overlap from below", vec![(8, 24, true, Kept), (0, 16, true, Dropped(Overlap))]),
        ("around", vec![(8, 16, true, Kept), (0, 24, true, Dropped(Overlap))]),
        ("beyond the end", vec![(8, 16, false, Kept), (16, 24, true, Dropped(Malformed))]),
        ("another end", vec![(8, 16, false, Kept), (16, 20, false, Dropped(Malformed))]),
        ("an end before data", vec![(16, 24, true, Kept), (0, 8, false, Dropped(Malformed))]),
        ("nothing in it", vec![(8, 8, true, Dropped(Malformed))]),
        ("off the grid, cut", vec![(0, 21, true, Kept), (16, 20, false, Whole(20))]),
        ("less than the grid", vec![(0, 7, true, Dropped(Malformed))]),
    ];
    for (what, rows) in cases {
        let mut queues = reassembler();
        for (n, (from, to, more, want)) in rows.into_iter().enumerate() {
            let got: Want = push(&mut queues, &piece(from, to, more, |_| ())).into();
            assert_eq!(got, want, "{what}, piece {n}");
        }
    }
}

#[test]
fn headers_of_the_whole() {
    let mut queues = reassembler();
    // The first piece's TTL and TOS count, wherever it comes.
    push(&mut queues, &piece(16, 20, false, |b| (b[1], b[8]) = (0, 3))).unwrap();
    let first = piece(0, 16, true, |b| (b[1], b[8]) = (0x20, 9));
    let Ok(Some(Whole { bytes, sizes })) = push(&mut queues, &first) else { panic!() };
    let p = Parsed::parse(&bytes).unwrap();
    assert_eq!((p.tos, p.hop_limit, p.len, p.fragment), (0x20, 9, 40, None));
    assert_eq!(&bytes[20..], (0..20).collect::<Vec<u8>>());
    assert_eq!(sizes, [16, 4]);
    assert!(queues.is_empty());
}

#[test]
fn ecn_of_the_pieces() {
    for (codepoints, want) in [
        ([0, 0], Some(0)),
        ([1, 2], Some(1)),
        ([2, 3], Some(3)),
        ([3, 1], Some(3)),
        ([0, 2], None),
        ([3, 0], None),
    ] {
        let mut queues = reassembler();
        push(&mut queues, &piece(0, 16, true, |b| b[1] = codepoints[0])).unwrap();
        let got = push(&mut queues, &piece(16, 20, false, |b| b[1] = codepoints[1]));
        match want {
            Some(ecn) => {
                let Ok(Some(Whole { bytes, .. })) = got else { panic!("{codepoints:?}") };
                assert_eq!(bytes[1] & 3, ecn);
            }
            None => assert_eq!(got, Err(FragmentDrop::Ecn)),
        }
    }
}

#[test]
fn dont_fragment() {
    // DF on the longest piece, on the other, on both: whether the whole has it.
    for (bits, df) in [([0x40, 0], true), ([0, 0x40], false), ([0x40, 0x40], true), ([0, 0], false)]
    {
        let mut queues = reassembler();
        push(&mut queues, &piece(0, 16, true, |b| b[6] |= bits[0])).unwrap();
        let got = push(&mut queues, &piece(16, 20, false, |b| b[6] |= bits[1]));
        let Ok(Some(Whole { bytes, .. })) = got else { panic!() };
        assert_eq!(Parsed::parse(&bytes).unwrap().dont_fragment, df);
    }
}

#[test]
fn bounds_in_time_and_bytes() {
    let mut queues = reassembler();
    push(&mut queues, &piece(0, 16, true, |_| ())).unwrap();
    assert_eq!(queues.next_expiry(), Some(NOW + Duration::from_secs(30)));
    assert_eq!(queues.expire(NOW + Duration::from_secs(29)), 0);
    assert_eq!(queues.expire(NOW + Duration::from_secs(30)), 1);
    assert!(queues.is_empty());

    let mut queues = Reassembler::new(FragmentSettings { max_bytes: 5000, ..Default::default() });
    let mut full = 0;
    for id in 0..100 {
        let bytes = piece(0, 400, true, |b| b[5] = id);
        full += u32::from(push(&mut queues, &bytes) == Err(FragmentDrop::Full));
    }
    assert!(full > 85 && queues.len() < 15);
    assert!(queues.expire(NOW + Duration::from_secs(31)) > 0);
    assert_eq!(push(&mut queues, &piece(0, 400, true, |_| ())), Ok(None));
}

/// A datagram of either family, cut up by hand. IPv6 gets a hop-by-hop header before the cut and,
/// inside the payload, a destination options header.
fn cut(v4: bool, payload: &[u8], cuts: &[usize]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let mut places: Vec<usize> = cuts.iter().map(|c| c % payload.len().div_ceil(8) * 8).collect();
    places.extend([0, payload.len()]);
    places.sort_unstable();
    places.dedup();
    let parts = places.windows(2).map(|w| (w[0], &payload[w[0]..w[1]], w[1] < payload.len()));
    if v4 {
        let header = Ip { id: 4242, ..ip("10.0.0.1", "10.0.0.2", 200) };
        let make = |(at, part, more): (usize, &[u8], bool)| {
            let mut b = builder::ip(header, part);
            b[6..8].copy_from_slice(&((at / 8) as u16 | u16::from(more) << 13).to_be_bytes());
            ipv4::write_checksum(&mut b);
            b
        };
        (builder::ip(header, payload), parts.map(make).collect())
    } else {
        let header = Ip::new(addr("fd00::1"), addr("fd00::2"), protocol::HOPOPTS);
        let with = |next: u8, rest: &[u8]| {
            builder::ip(header, &[&[next, 0, 1, 4, 0, 0, 0, 0], rest].concat())
        };
        let make = |(at, part, more): (usize, &[u8], bool)| {
            let mut f = vec![200, 0];
            f.extend((at as u16 | u16::from(more)).to_be_bytes());
            f.extend(9u32.to_be_bytes());
            f.extend(part);
            with(protocol::FRAGMENT, &f)
        };
        (with(200, payload), parts.map(make).collect())
    }
}

proptest! {
    #![proptest_config(common::proptest(300))]

    #[test]
    fn any_order_and_back(
        v4: bool,
        payload in proptest::collection::vec(any::<u8>(), 9..3000),
        cuts in proptest::collection::vec(1usize..400, 1..12),
        order in any::<u64>(),
    ) {
        let (whole, parts) = cut(v4, &payload, &cuts);
        prop_assume!(parts.len() > 1);
        let mut shuffled = parts.clone();
        let mut seed = order;
        for i in (1..shuffled.len()).rev() {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            shuffled.swap(i, (seed >> 33) as usize % (i + 1));
        }
        let mut queues = reassembler();
        let last = shuffled.pop().unwrap();
        for bytes in &shuffled {
            prop_assert_eq!(push(&mut queues, bytes), Ok(None));
            prop_assert_eq!(push(&mut queues, bytes), Err(FragmentDrop::Duplicate));
        }
        let Ok(Some(Whole { bytes, sizes })) = push(&mut queues, &last) else { panic!() };
        prop_assert_eq!(&bytes, &whole);
        prop_assert!(Parsed::parse(&bytes).unwrap().fragment.is_none());
        let head = if v4 { 20 } else { 56 };
        let want: Vec<u16> = parts.iter().map(|p| (p.len() - head) as u16).collect();
        prop_assert_eq!(sizes, want);
        prop_assert!(queues.is_empty());
    }

    #[test]
    fn random_pieces(
        pieces in proptest::collection::vec(
            (0usize..9, 0usize..70, any::<bool>(), 0u8..3, proptest::option::of(any::<(u8, u8)>())),
            1..80,
        ),
        max_bytes in 0usize..8000,
    ) {
        let settings = FragmentSettings { max_bytes, ..Default::default() };
        let mut queues = Reassembler::new(settings);
        for (n, (at, len, more, id, damage)) in pieces.into_iter().enumerate() {
            let bytes = piece(at * 8, at * 8 + len, more, |b| {
                b[5] = id;
                if let Some((at, value)) = damage {
                    // The header's length stays, or there is no header to sum up.
                    let at = 1 + usize::from(at) % (b.len() - 1);
                    b[at] ^= value;
                }
            });
            let Ok(packet) = Parsed::parse(&bytes) else { continue };
            let now = NOW + Duration::from_secs(n as u64);
            if let Ok(Some(Whole { bytes, sizes })) = queues.push(&packet, &bytes, 0, now) {
                prop_assert!(Parsed::parse(&bytes).is_ok_and(|p| p.fragment.is_none()));
                let payload: usize = sizes.iter().map(|&s| usize::from(s)).sum();
                prop_assert_eq!(payload + 20, bytes.len());
            }
        }
        queues.expire(NOW + Duration::from_secs(1000));
        prop_assert!(queues.is_empty());
        prop_assert_eq!(queues.next_expiry(), None);
    }
}
