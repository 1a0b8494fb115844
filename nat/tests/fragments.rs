//! Reassembly, and the way back into pieces.

mod common;
mod fragment_model;

use std::time::Duration;

use common::{addr, ip};
use proptest::prelude::*;
use tidegate_nat::{
    FragmentDrop, FragmentSettings, Pieces, Pushed, Reassembler, Scope, refragment,
};
use tidegate_packet::builder::{self, Ip};
use tidegate_packet::{Instant, Parsed, ipv4, protocol};

const NOW: Instant = Instant::from_secs(5);

fn reassembler() -> Reassembler {
    Reassembler::new(FragmentSettings::V4)
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

fn push(queues: &mut Reassembler, bytes: &[u8]) -> Pushed {
    queues.push(&Parsed::parse(bytes).unwrap(), bytes, NOW)
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
            Pushed::Kept => Self::Kept,
            Pushed::Whole(bytes, _) => Self::Whole(bytes.len() - 20),
            Pushed::Dropped(why) => Self::Dropped(why),
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
    push(&mut queues, &piece(16, 20, false, |b| (b[1], b[8]) = (0, 3)));
    let first = piece(0, 16, true, |b| (b[1], b[8]) = (0x20, 9));
    let Pushed::Whole(bytes, pieces) = push(&mut queues, &first) else { panic!() };
    let p = Parsed::parse(&bytes).unwrap();
    assert_eq!((p.tos, p.hop_limit, p.len, p.fragment), (0x20, 9, 40, None));
    assert_eq!(&bytes[20..], (0..20).collect::<Vec<u8>>());
    assert_eq!((&pieces.sizes[..], pieces.largest), (&[16, 4][..], 36));
    assert!(queues.is_empty());
    let out = refragment(&bytes, &pieces, 1500, 0).unwrap();
    assert_eq!(out[0], first);
    assert_eq!(out[1], piece(16, 20, false, |b| (b[1], b[8]) = (0x20, 9)));
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
        push(&mut queues, &piece(0, 16, true, |b| b[1] = codepoints[0]));
        let got = push(&mut queues, &piece(16, 20, false, |b| b[1] = codepoints[1]));
        match want {
            Some(ecn) => {
                let Pushed::Whole(bytes, _) = got else { panic!("{codepoints:?}") };
                assert_eq!(bytes[1] & 3, ecn);
            }
            None => assert_eq!(got, Pushed::Dropped(FragmentDrop::Ecn)),
        }
    }
}

#[test]
fn dont_fragment() {
    // DF on the longest piece, on the other, on both: whether the whole has it.
    for (bits, df) in [([0x40, 0], true), ([0, 0x40], false), ([0x40, 0x40], true), ([0, 0], false)]
    {
        let mut queues = reassembler();
        push(&mut queues, &piece(0, 16, true, |b| b[6] |= bits[0]));
        let got = push(&mut queues, &piece(16, 20, false, |b| b[6] |= bits[1]));
        let Pushed::Whole(bytes, pieces) = got else { panic!() };
        assert_eq!(Parsed::parse(&bytes).unwrap().dont_fragment, df);
        assert_eq!((pieces.too_big(36), pieces.too_big(35)), (false, df));
        // Lost on the way out.
        for out in refragment(&bytes, &pieces, 36, 0).unwrap() {
            assert!(!Parsed::parse(&out).unwrap().dont_fragment);
        }
    }
}

#[test]
fn smaller_pieces_for_a_smaller_mtu() {
    let mut queues = reassembler();
    push(&mut queues, &piece(0, 64, true, |_| ()));
    let Pushed::Whole(bytes, pieces) = push(&mut queues, &piece(64, 100, false, |_| ())) else {
        panic!()
    };
    let sizes = |mtu| -> Option<Vec<usize>> {
        Some(refragment(&bytes, &pieces, mtu, 0)?.iter().map(|p| p.len() - 20).collect())
    };
    assert_eq!(sizes(1500), Some(vec![64, 36]));
    assert_eq!(sizes(84), Some(vec![64, 36]));
    assert_eq!(sizes(83), Some(vec![56, 44]));
    assert_eq!(sizes(28), Some(vec![8; 12].into_iter().chain([4]).collect()));
    assert_eq!(sizes(27), None);
}

#[test]
fn options_go_into_later_pieces_if_they_say_so() {
    let options = [7, 7, 4, 0, 0, 0, 0, 1, 0x82, 3, 9, 0];
    let header = |more: u8| {
        move |b: &mut Vec<u8>| {
            b.splice(20..20, options);
            b[0] = 0x48;
            let len = b.len() as u16;
            b[2..4].copy_from_slice(&len.to_be_bytes());
            b[6] |= more;
        }
    };
    let mut queues = reassembler();
    push(&mut queues, &piece(0, 16, true, header(0)));
    let got = push(&mut queues, &piece(16, 20, false, header(0)));
    let Pushed::Whole(bytes, pieces) = got else { panic!() };
    let out = refragment(&bytes, &pieces, 1500, 0).unwrap();
    assert_eq!(out[0][20..32], options);
    assert_eq!(out[1][20..32], [1, 1, 1, 1, 1, 1, 1, 1, 0x82, 3, 9, 0]);
}

#[test]
fn bounds_in_time_and_bytes() {
    let mut queues = reassembler();
    push(&mut queues, &piece(0, 16, true, |_| ()));
    assert_eq!(queues.next_expiry(), Some(NOW + Duration::from_secs(30)));
    assert_eq!(queues.expire(NOW + Duration::from_secs(29)), 0);
    assert_eq!(queues.expire(NOW + Duration::from_secs(30)), 1);
    assert!(queues.is_empty());

    let mut queues = Reassembler::new(FragmentSettings { max_bytes: 5000, ..FragmentSettings::V4 });
    let mut full = 0;
    for id in 0..100 {
        let bytes = piece(0, 400, true, |b| b[5] = id);
        full += u32::from(push(&mut queues, &bytes) == Pushed::Dropped(FragmentDrop::Full));
    }
    assert!(full > 85 && queues.len() < 15);
    assert!(queues.expire(NOW + Duration::from_secs(31)) > 0);
    assert_eq!(push(&mut queues, &piece(0, 400, true, |_| ())), Pushed::Kept);
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
            prop_assert_eq!(push(&mut queues, bytes), Pushed::Kept);
            prop_assert_eq!(push(&mut queues, bytes), Pushed::Dropped(FragmentDrop::Duplicate));
        }
        let Pushed::Whole(bytes, pieces) = push(&mut queues, &last) else { panic!() };
        prop_assert_eq!(&bytes, &whole);
        prop_assert!(Parsed::parse(&bytes).unwrap().fragment.is_none());
        let out = refragment(&bytes, &pieces, 65535, 9).unwrap();
        let whole_fits = !v4 && whole.len() <= usize::from(pieces.largest);
        prop_assert_eq!(out, if whole_fits { vec![whole] } else { parts });
        prop_assert!(queues.is_empty());
    }

    /// Pieces of few datagrams, in any order, twice, over one another, damaged, early and late.
    #[test]
    fn sequences_agree_with_the_model(data in proptest::collection::vec(any::<u8>(), 0..1200)) {
        fragment_model::play(&data);
    }

    #[test]
    fn random_pieces(
        pieces in proptest::collection::vec(
            (0usize..9, 0usize..70, any::<bool>(), 0u8..3, proptest::option::of(any::<(u8, u8)>())),
            1..80,
        ),
        max_bytes in 0usize..8000,
    ) {
        let settings = FragmentSettings { max_bytes, ..FragmentSettings::V4 };
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
            if let Pushed::Whole(bytes, pieces) = queues.push(&packet, &bytes, now) {
                prop_assert!(Parsed::parse(&bytes).is_ok());
                for mtu in [0, 30, 68, 1500] {
                    for out in refragment(&bytes, &pieces, mtu, 1).unwrap_or_default() {
                        prop_assert!(out.len() <= mtu && Parsed::parse(&out).is_ok());
                    }
                }
            }
        }
        queues.expire(NOW + Duration::from_secs(1000));
        prop_assert!(queues.is_empty());
        prop_assert_eq!(queues.next_expiry(), None);
    }
}

/// Equal in everything but their scope: two datagrams.
#[test]
fn scopes_are_kept_apart() {
    let mut queues = reassembler();
    let scopes =
        [Scope { zone: 1, link: 0 }, Scope { zone: 2, link: 0 }, Scope { zone: 1, link: 7 }];
    let (first, last) = (piece(0, 16, true, |_| ()), piece(16, 20, false, |_| ()));
    for scope in scopes {
        let parsed = Parsed::parse(&first).unwrap();
        assert_eq!(queues.push_in(scope, (), &parsed, &first, NOW).0, Pushed::Kept);
    }
    assert_eq!(push(&mut queues, &last), Pushed::Kept);
    assert_eq!(queues.len(), 4);
    for scope in scopes {
        let parsed = Parsed::parse(&last).unwrap();
        let got: Want = queues.push_in(scope, (), &parsed, &last, NOW).0.into();
        assert_eq!(got, Want::Whole(20));
    }
    assert_eq!(queues.len(), 1);
}

/// Without the memory of how it came there is nothing to cut by.
#[test]
fn nothing_to_cut() {
    let (_, parts) = cut(true, &[0; 40], &[2]);
    let mut queues = reassembler();
    push(&mut queues, &parts[0]);
    let Pushed::Whole(bytes, pieces) = push(&mut queues, &parts[1]) else { panic!() };
    let none: Option<Vec<Vec<u8>>> = refragment(&[], &pieces, 1500, 0);
    assert_eq!(none, None);
    let mut other: Pieces = pieces;
    other.sizes.truncate(1);
    assert_eq!(refragment(&bytes, &other, 1500, 0), Some(vec![bytes]));
}
