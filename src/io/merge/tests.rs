use super::*;
use crate::io::{Gso, GsoKind, Offload};
use proptest::prelude::*;
use tidegate_packet::builder::{self, Ip};
use tidegate_packet::{MacAddr, checksum, ipv4, protocol, tcp, udp};

const VALID: Offload = Offload { checksum: Checksum::Valid, gso: None };

/// A packet on a wire, to be varied.
#[derive(Copy, Clone, Debug)]
struct Row {
    kind: Kind,
    v6: bool,
    port: u16,
    mac: u8,
    ttl: u8,
    tos: u8,
    dont_fragment: bool,
    id: u16,
    payload: usize,
    seq: u32,
    ack: u32,
    flags: u8,
    window: u16,
    stamp: u32,
    urgent: u16,
    /// The checksum is left to the device, or nobody has looked at it.
    partial: bool,
    unverified: bool,
    /// It is a super-packet already.
    gso: bool,
}

const UDP: Row = Row {
    kind: Kind::Udp,
    v6: false,
    port: 9,
    mac: 4,
    ttl: 63,
    tos: 0,
    dont_fragment: true,
    id: 7,
    payload: 18,
    seq: 1000,
    ack: 5,
    flags: tcp::ACK,
    window: 500,
    stamp: 77,
    urgent: 0,
    partial: false,
    unverified: false,
    gso: false,
};
const TCP: Row = Row { kind: Kind::Tcp, ..UDP };

fn frame(row: &Row) -> Vec<u8> {
    let [src, dst] = if row.v6 { ["fd00::1", "fd00::2"] } else { ["10.0.0.1", "10.0.0.2"] };
    let addr = |text: &str| text.parse().expect("an address");
    let Row { ttl: hop_limit, tos, id, dont_fragment, .. } = *row;
    let ip = Ip { hop_limit, tos, id, dont_fragment, ..Ip::new(addr(src), addr(dst), 0) };
    // The same bytes at the same sequence numbers, as in a stream.
    let payload: Vec<u8> = (0..row.payload).map(|n| row.seq.wrapping_add(n as u32) as u8).collect();
    let mut packet = match row.kind {
        Kind::Udp => builder::udp(Ip { protocol: protocol::UDP, ..ip }, 1, row.port, &payload),
        Kind::Tcp => {
            let [a, b, c, d] = row.stamp.to_be_bytes();
            let fields = builder::Tcp {
                sport: 1,
                dport: row.port,
                seq: row.seq,
                ack: row.ack,
                flags: row.flags,
                window: row.window,
                // RFC 7323 appendix A.
                options: &[1, 1, 8, 10, a, b, c, d, 0, 0, 0, 9],
            };
            builder::tcp(Ip { protocol: protocol::TCP, ..ip }, fields, &payload)
        }
    };
    if row.kind == Kind::Tcp && row.urgent != 0 {
        let at = l4(row.v6) - L3;
        packet[at + 18..at + 20].copy_from_slice(&row.urgent.to_be_bytes());
        let sum = &mut packet[at + tcp::CHECKSUM_AT..][..2];
        let old = u16::from_be_bytes([sum[0], sum[1]]);
        sum.copy_from_slice(&checksum_without(old, row.urgent).to_be_bytes());
    }
    let mut bytes = vec![0; L3];
    let ethertype = if row.v6 { ethernet::IPV6 } else { ethernet::IPV4 };
    ethernet::write(&mut bytes, MacAddr([2; 6]), MacAddr([row.mac; 6]), ethertype);
    bytes.extend_from_slice(&packet);
    if row.partial {
        // As a sender leaves it (`virtio_net_hdr`): the sum over the pseudo header.
        let sum = pseudo(&bytes, row.kind);
        let at = l4(row.v6) + row.kind.checksum_at();
        bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
    bytes
}

/// A checksum after a word that was zero has become `word` (RFC 1624).
fn checksum_without(sum: u16, word: u16) -> u16 {
    let sum = u32::from(!sum) + u32::from(word);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

fn l4(v6: bool) -> usize {
    L3 + if v6 { 40 } else { 20 }
}

fn pseudo(frame: &[u8], kind: Kind) -> u16 {
    let parsed = tidegate_packet::Parsed::parse(&frame[L3..]).expect("a packet");
    let len = frame.len() - l4(!is_v4(frame));
    let protocol = if kind == Kind::Udp { protocol::UDP } else { protocol::TCP };
    checksum::fold(checksum::pseudo_header(parsed.src, parsed.dst, protocol, len as u32))
}

fn offload(row: &Row) -> Offload {
    let checksum = match row {
        Row { unverified: true, .. } => Checksum::Unverified,
        Row { partial: true, kind, v6, .. } => {
            Checksum::Partial { start: l4(*v6) as u16, offset: kind.checksum_at() as u16 }
        }
        _ => Checksum::Valid,
    };
    let gso = row.gso.then_some(Gso { kind: GsoKind::Tcp4, size: 5, ecn: false });
    Offload { checksum, gso }
}

fn outgoing<'a>(bytes: &'a [Vec<u8>], rows: &[Row]) -> Vec<Outgoing<'a>> {
    let rows = rows.iter().map(offload);
    bytes.iter().zip(rows).map(|(bytes, offload)| Outgoing { bytes, offload }).collect()
}

fn groups(rows: &[Row]) -> Vec<Vec<usize>> {
    let bytes: Vec<_> = rows.iter().map(frame).collect();
    let groups = Groups::of(&outgoing(&bytes, rows), Kinds::ALL);
    groups.as_slice().iter().map(|g| groups.frames(g).collect()).collect()
}

/// So many segments of a stream.
fn stream(count: usize, payload: usize) -> Vec<Row> {
    let row = |n: usize| Row {
        seq: TCP.seq.wrapping_add((n * payload) as u32),
        id: TCP.id.wrapping_add(n as u16),
        payload,
        ..TCP
    };
    (0..count).map(row).collect()
}

/// What a burst is about, its packets, and which of them are joined.
type Want = (&'static str, Vec<Row>, Vec<Vec<usize>>);

/// Every burst, in both families.
fn joined_as_wanted(bursts: &[Want]) {
    for (what, rows, want) in bursts {
        for v6 in [false, true] {
            let rows: Vec<_> = rows.iter().map(|row| Row { v6, ..*row }).collect();
            assert_eq!(&groups(&rows), want, "{what}, IPv6: {v6}");
        }
    }
}

#[test]
fn only_what_leaves_no_trace_is_joined_and_flows_stay_in_order() {
    let other = Row { port: 8, ..UDP };
    let rows: Vec<Want> = vec![
        ("alike", vec![UDP, UDP, UDP], vec![vec![0, 1, 2]]),
        ("two flows", vec![UDP, other, UDP, other], vec![vec![0, 2], vec![1, 3]]),
        (
            "a shorter one is the last",
            vec![UDP, Row { payload: 7, ..UDP }, UDP],
            vec![vec![0, 1], vec![2]],
        ),
        ("a longer one begins anew", vec![UDP, Row { payload: 19, ..UDP }], vec![vec![0], vec![1]]),
        ("another TTL", vec![UDP, Row { ttl: 9, ..UDP }, UDP], vec![vec![0], vec![1], vec![2]]),
        ("another neighbour", vec![UDP, Row { mac: 6, ..UDP }], vec![vec![0], vec![1]]),
        (
            "a checksum that nobody looked at closes",
            vec![UDP, Row { unverified: true, ..UDP }, UDP],
            vec![vec![0], vec![1], vec![2]],
        ),
        (
            "of another flow it doesn't",
            vec![UDP, Row { unverified: true, ..other }, UDP],
            vec![vec![0, 2], vec![1]],
        ),
        ("TCP beside UDP", vec![UDP, TCP, UDP], vec![vec![0, 2], vec![1]]),
        (
            "without payload",
            vec![Row { payload: 0, ..UDP }, Row { payload: 0, ..UDP }],
            vec![vec![0], vec![1]],
        ),
    ];
    joined_as_wanted(&rows);
}

#[test]
fn segments_of_a_stream_are_joined_while_only_the_sequence_number_moves() {
    let with = |change: &dyn Fn(&mut Row)| {
        let mut rows = stream(3, 1448);
        change(&mut rows[1]);
        rows
    };
    let rows: Vec<Want> = vec![
        ("alike", stream(3, 1448), vec![vec![0, 1, 2]]),
        ("PSH is the last", with(&|r| r.flags |= tcp::PSH), vec![vec![0, 1], vec![2]]),
        ("a gap", with(&|r| r.seq += 1), vec![vec![0], vec![1], vec![2]]),
        ("sent again", with(&|r| r.seq -= 1448), vec![vec![0], vec![1], vec![2]]),
        ("another acknowledgment", with(&|r| r.ack += 1), vec![vec![0], vec![1], vec![2]]),
        ("another window", with(&|r| r.window += 1), vec![vec![0], vec![1], vec![2]]),
        ("another time stamp", with(&|r| r.stamp += 1), vec![vec![0], vec![1], vec![2]]),
        ("another class", with(&|r| r.tos = 3), vec![vec![0], vec![1], vec![2]]),
        ("FIN", with(&|r| r.flags |= tcp::FIN), vec![vec![0], vec![1], vec![2]]),
        ("CWR", with(&|r| r.flags |= tcp::CWR), vec![vec![0], vec![1], vec![2]]),
        ("ECE on one", with(&|r| r.flags |= tcp::ECE), vec![vec![0], vec![1], vec![2]]),
        (
            "urgent",
            with(&|r| (r.flags, r.urgent) = (tcp::ACK | tcp::URG, 9)),
            vec![vec![0], vec![1], vec![2]],
        ),
        ("a stale urgent pointer", with(&|r| r.urgent = 9), vec![vec![0], vec![1], vec![2]]),
        ("nobody looked", with(&|r| r.unverified = true), vec![vec![0], vec![1], vec![2]]),
        ("left to the device", with(&|r| r.partial = true), vec![vec![0, 1, 2]]),
        ("a super-packet", with(&|r| r.gso = true), vec![vec![0], vec![1], vec![2]]),
        ("shorter", with(&|r| r.payload = 9), vec![vec![0, 1], vec![2]]),
        (
            "ECE on all",
            stream(2, 5).into_iter().map(|r| Row { flags: tcp::ACK | tcp::ECE, ..r }).collect(),
            vec![vec![0, 1]],
        ),
        (
            "acknowledgments",
            vec![Row { payload: 0, ..TCP }, Row { payload: 0, ack: 9, ..TCP }],
            vec![vec![0], vec![1]],
        ),
    ];
    joined_as_wanted(&rows);
}

#[test]
fn identifications_count_on_unless_they_mean_nothing() {
    for (row, dont_fragment, ids, want) in [
        (UDP, true, [7, 7, 90], 1),
        (UDP, false, [7, 8, 9], 1),
        (UDP, false, [0xffff, 0, 1], 1),
        (UDP, false, [7, 7, 7], 3),
        (UDP, false, [7, 8, 10], 2),
        (TCP, true, [7, 8, 9], 1),
        (TCP, true, [0xffff, 0, 1], 1),
        (TCP, true, [7, 7, 7], 3),
        (TCP, false, [7, 8, 10], 2),
    ] {
        let mut seq = row.seq;
        let rows = ids.map(|id| {
            let row = Row { id, dont_fragment, seq, ..row };
            seq += row.payload as u32;
            row
        });
        assert_eq!(groups(&rows).len(), want, "{row:?} {dont_fragment} {ids:?}");
    }
}

#[test]
fn limits_hold() {
    assert_eq!(groups(&[UDP; BURST]).len(), 1);
    let sizes = |rows: &[Row]| groups(rows).iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(sizes(&[Row { payload: 1472, ..UDP }; BURST]), [44, 20]);
    assert_eq!(sizes(&stream(BURST, 1448)), [44, 20]);
    assert_eq!(sizes(&stream(3, 32_000)), [2, 1]);
}

#[test]
fn a_kind_that_a_device_refused_goes_one_by_one() {
    let rows = [UDP, TCP, UDP, Row { seq: TCP.seq + 18, id: 8, ..TCP }];
    let bytes: Vec<_> = rows.iter().map(frame).collect();
    let frames = outgoing(&bytes, &rows);
    let groups = |kinds| Groups::of(&frames, kinds).as_slice().len();
    let without = |refused: &[Kind]| {
        let mut kinds = Kinds::ALL;
        refused.iter().for_each(|kind| kinds.refuse(*kind));
        groups(kinds)
    };
    assert_eq!(without(&[]), 2);
    assert_eq!(without(&[Kind::Udp]), 3);
    assert_eq!(without(&[Kind::Tcp]), 3);
    assert_eq!(without(&[Kind::Udp, Kind::Tcp]), 4);
    assert_eq!(groups(Kinds::NONE), 4);
}

/// A group as the device gets it: the headers, and behind them the payloads.
fn joined(groups: &Groups, group: &Group, frames: &[Outgoing<'_>]) -> (Vec<u8>, Offload) {
    let first = &frames[group.first()];
    if group.frames == 1 {
        return (first.bytes.to_vec(), first.offload);
    }
    let header = Header::of(group, first);
    let head = header.outgoing();
    let mut whole = head.bytes.to_vec();
    for index in groups.frames(group) {
        whole.extend_from_slice(&frames[index].bytes[head.bytes.len()..]);
    }
    (whole, head.offload)
}

/// A super-packet cut as the wire has it, written from RFC 9293 and RFC 768 rather than from what
/// joins.
fn cut(whole: &[u8], offload: Offload) -> Vec<Vec<u8>> {
    let Some(gso) = offload.gso else {
        let mut only = whole.to_vec();
        complete(&mut only, offload.checksum);
        return vec![only];
    };
    let Checksum::Partial { start, offset } = offload.checksum else { panic!("not partial") };
    let (start, v6) = (usize::from(start), !is_v4(whole));
    assert_eq!(start, l4(v6));
    let is_tcp = gso.kind != GsoKind::UdpL4;
    let headers = start + if is_tcp { usize::from(whole[start + 12] >> 4) * 4 } else { 8 };
    let pieces: Vec<_> = whole[headers..].chunks(gso.size.into()).collect();
    let mut cut = Vec::new();
    for (n, piece) in pieces.iter().enumerate() {
        let mut bytes = [&whole[..headers], piece].concat();
        let len = bytes.len() - L3;
        if v6 {
            bytes[L3 + 4..L3 + 6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
        } else {
            bytes[L3 + 2..L3 + 4].copy_from_slice(&(len as u16).to_be_bytes());
            let id = be16(&bytes, L3 + 4).wrapping_add(n as u16);
            bytes[L3 + 4..L3 + 6].copy_from_slice(&id.to_be_bytes());
            ipv4::write_checksum(&mut bytes[L3..start]);
        }
        if is_tcp {
            let seq = u32::from_be_bytes(bytes[start + 4..start + 8].try_into().expect("four"));
            let seq = seq.wrapping_add((n * usize::from(gso.size)) as u32);
            bytes[start + 4..start + 8].copy_from_slice(&seq.to_be_bytes());
            if n + 1 < pieces.len() {
                bytes[start + 13] &= !tcp::PSH;
            }
        } else {
            let len = (bytes.len() - start) as u16;
            bytes[start + 4..start + 6].copy_from_slice(&len.to_be_bytes());
        }
        let sum = pseudo(&bytes, if is_tcp { Kind::Tcp } else { Kind::Udp });
        bytes[start + usize::from(offset)..][..2].copy_from_slice(&sum.to_be_bytes());
        complete(&mut bytes, offload.checksum);
        cut.push(bytes);
    }
    cut
}

fn complete(frame: &mut [u8], sum: Checksum) {
    if let Checksum::Partial { start, offset } = sum {
        assert!(checksum::complete_partial(frame, start.into(), offset.into()));
    }
}

#[test]
fn the_header_covers_all_segments() {
    for (row, v6) in [(UDP, false), (UDP, true), (TCP, false), (TCP, true)] {
        let mut rows = if row.kind == Kind::Udp { vec![UDP; 3] } else { stream(3, 18) };
        rows.iter_mut().for_each(|row| row.v6 = v6);
        let bytes: Vec<_> = rows.iter().map(frame).collect();
        let frames = outgoing(&bytes, &rows);
        let groups = Groups::of(&frames, Kinds::ALL);
        let group = groups.as_slice()[0];
        let (mut whole, offload) = joined(&groups, &group, &frames);
        // What the device is to do with the whole, were it not cut.
        complete(&mut whole, offload.checksum);
        let parsed = tidegate_packet::Parsed::parse(&whole[L3..]).expect("a packet");
        assert_eq!(parsed.len as usize, whole.len() - L3);
        let segment = &whole[l4(v6)..];
        let protocol = parsed.protocol;
        assert!(checksum::verify_transport(parsed.src, parsed.dst, protocol, segment));
        assert_eq!(group.bytes, 3 * bytes[0].len());
        let gso = offload.gso.expect("a super-packet");
        let kind = match (row.kind, v6) {
            (Kind::Udp, _) => GsoKind::UdpL4,
            (Kind::Tcp, false) => GsoKind::Tcp4,
            (Kind::Tcp, true) => GsoKind::Tcp6,
        };
        assert_eq!((gso.kind, gso.size), (kind, 18));
    }
}

/// A burst of a few flows, of which most packets follow each other as a sender sends them and some
/// are in some way different.
fn burst() -> impl Strategy<Value = Vec<Row>> {
    let change = prop_oneof![12 => Just(0_u8), 8 => 1..20_u8];
    let packet = (0..3_u16, any::<bool>(), any::<bool>(), change, 1..40_usize);
    let flows = (any::<bool>(), any::<u32>(), any::<u16>(), 1..1500_usize);
    (proptest::collection::vec(packet, 1..BURST), flows).prop_map(|(packets, flows)| {
        let (dont_fragment, seq, id, payload) = flows;
        let mut next = [(seq, id); 6];
        let mut rows = Vec::new();
        for (port, is_tcp, v6, change, other) in packets {
            let base = if is_tcp { TCP } else { UDP };
            let (seq, id) = &mut next[usize::from(port) + if is_tcp { 3 } else { 0 }];
            let mut row = Row { port, v6, dont_fragment, payload, seq: *seq, id: *id, ..base };
            match change {
                1 => row.payload = other.min(payload),
                2 => row.payload = payload + other,
                3 => row.flags |= tcp::PSH,
                4 => row.flags |= tcp::FIN | tcp::PSH,
                5 => row.flags |= tcp::CWR,
                6 => row.flags = tcp::ACK | tcp::ECE,
                7 => row.ack += 1,
                8 => row.window += 1,
                9 => row.stamp += 1,
                10 => row.ttl -= 1,
                11 => row.tos = 1,
                12 => row.id = row.id.wrapping_add(1),
                13 => row.seq = row.seq.wrapping_add(1),
                14 => row.partial = true,
                15 => row.unverified = true,
                16 => row.payload = 0,
                17 => row.mac = 6,
                18 => row.dont_fragment = !dont_fragment,
                19 => row.urgent = 3,
                _ => {}
            }
            *seq = row.seq.wrapping_add(row.payload as u32);
            *id = row.id.wrapping_add(1);
            rows.push(row);
        }
        rows
    })
}

/// What must stay in order among itself.
fn flow(frame: &[u8]) -> (bool, u8, u16) {
    let v4 = is_v4(frame);
    let at = l4(!v4);
    (v4, if v4 { frame[L3 + 9] } else { frame[L3 + 6] }, be16(frame, at + 2))
}

fn by_flow(mut frames: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    frames.sort_by_key(|frame| flow(frame));
    frames
}

proptest! {
    #[test]
    fn joined_and_cut_again_every_flow_is_what_it_was(rows in burst()) {
        let bytes: Vec<_> = rows.iter().map(frame).collect();
        let frames = outgoing(&bytes, &rows);
        let groups = Groups::of(&frames, Kinds::ALL);
        let mut got = Vec::new();
        for group in groups.as_slice() {
            let (whole, offload) = joined(&groups, group, &frames);
            got.extend(cut(&whole, offload));
        }
        let mut want = Vec::new();
        for (bytes, row) in bytes.iter().zip(&rows) {
            let mut bytes = bytes.clone();
            complete(&mut bytes, offload(row).checksum);
            want.push(bytes);
        }
        // An identification that means nothing may be another.
        for frame in got.iter_mut().chain(&mut want) {
            if is_v4(frame) && frame[L3 + 9] == protocol::UDP && frame[L3 + 6] & 0x40 != 0 {
                frame[L3 + 4..L3 + 6].fill(0);
                ipv4::write_checksum(&mut frame[L3..L3 + 20]);
            }
        }
        prop_assert_eq!(by_flow(got), by_flow(want));
    }

    #[test]
    fn nothing_that_comes_from_a_wire_disturbs(
        frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..120), 1..9),
        rows in burst(),
        cut_at in 0..150_usize,
    ) {
        let mut bytes: Vec<_> = rows.iter().take(BURST - 9).map(frame).collect();
        let at = cut_at % bytes.len();
        bytes[at].truncate(cut_at);
        bytes.extend(frames);
        let frames: Vec<_> =
            bytes.iter().map(|bytes| Outgoing { bytes, offload: VALID }).collect();
        let groups = Groups::of(&frames, Kinds::ALL);
        let mut seen: Vec<_> = groups.as_slice().iter().flat_map(|g| groups.frames(g)).collect();
        seen.sort_unstable();
        prop_assert!(seen.into_iter().eq(0..frames.len()));
        for group in groups.as_slice().iter().filter(|group| group.frames > 1) {
            let (whole, offload) = joined(&groups, group, &frames);
            prop_assert_eq!(cut(&whole, offload).len(), group.frames);
        }
    }
}

#[test]
fn a_udp_checksum_of_none_stays_none() {
    let mut bytes = frame(&UDP);
    let at = l4(false) + udp::CHECKSUM_AT;
    bytes[at..at + 2].fill(0);
    let frames = [Outgoing { bytes: &bytes, offload: VALID }; 2];
    assert_eq!(Groups::of(&frames, Kinds::ALL).as_slice().len(), 2);
}
