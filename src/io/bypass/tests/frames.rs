//! Single frames: what is taken, and what becomes of it.

use super::*;
use tidegate_packet::checksum::{Delta, Field};
use tidegate_packet::{checksum, ipv4, ipv6, protocol, tcp, udp};

/// Where the transport header begins in a frame.
fn l4(frame: &[u8]) -> usize {
    ethernet::HEADER_LEN + if frame[14] >> 4 == 4 { ipv4::MIN_HEADER_LEN } else { ipv6::HEADER_LEN }
}

fn checksum_at(flow: &Flow, frame: &[u8]) -> usize {
    l4(frame) + if is_tcp(flow) { tcp::CHECKSUM_AT } else { udp::CHECKSUM_AT }
}

/// The frame as the gateway would send it.
fn rewritten(flow: &Flow, direction: usize, frame: &[u8]) -> Vec<u8> {
    let way = way(flow, direction);
    let (old, new) = (&way.tuple, &way.rewritten);
    let (start, field) = (l4(frame), checksum_at(flow, frame));
    let mut frame = frame.to_vec();
    let mut addresses = Delta::default();
    if old.src != new.src {
        addresses.replace_addr(old.src, new.src);
    }
    if old.dst != new.dst {
        addresses.replace_addr(old.dst, new.dst);
    }
    let mut all = addresses;
    for (at, old, new) in [(start, old.sport, new.sport), (start + 2, old.dport, new.dport)] {
        if old != new {
            all.replace16(old, new);
        }
        frame[at..at + 2].copy_from_slice(&new.to_be_bytes());
    }
    let absent = !is_tcp(flow) && frame[field..field + 2] == [0, 0];
    if !absent && !all.is_zero() {
        all.update(&mut frame, field, Field::Complete);
        if !is_tcp(flow) && frame[field..field + 2] == [0, 0] {
            frame[field..field + 2].fill(0xff);
        }
    }
    let packet = &mut frame[ethernet::HEADER_LEN..];
    match flow.family {
        Family::V4 => {
            packet[12..16].copy_from_slice(new.src.wire());
            packet[16..20].copy_from_slice(new.dst.wire());
            if !addresses.is_zero() {
                addresses.update(packet, 10, Field::Complete);
            }
            ipv4::decrement_ttl(packet);
        }
        Family::V6 => {
            packet[8..24].copy_from_slice(new.src.wire());
            packet[24..40].copy_from_slice(new.dst.wire());
            packet[7] -= 1;
        }
    }
    frame[..ethernet::HEADER_LEN].copy_from_slice(&way.header);
    frame
}

/// Writes the transport checksum anew.
fn finish(frame: &mut [u8]) {
    builder::finish_transport(&mut frame[ethernet::HEADER_LEN..]);
}

/// Writes the IPv4 header's checksum anew.
fn finish_header(frame: &mut [u8]) {
    ipv4::write_checksum(&mut frame[ethernet::HEADER_LEN..]);
}

fn assert_valid(frame: &[u8], what: &str) {
    let packet = &frame[ethernet::HEADER_LEN..];
    let parsed = tidegate_packet::Parsed::parse(packet).expect(what);
    let segment = parsed.segment(packet);
    assert!(checksum::verify_transport(parsed.src, parsed.dst, parsed.protocol, segment), "{what}");
}

#[test]
fn plain_packets_leave_as_the_gateway_would_send_them() {
    let Some(bypass) = bypass() else { return };
    for (what, flow) in flows() {
        let number = bypass.lease(&flow).expect(what);
        for direction in [0, 1] {
            let (mut packets, mut bytes, mut frames) = (0, 0, 0);
            for len in [0, 1, 2, 18, 63, 64, 65, 1000, 1399, 1400] {
                let payload: Vec<u8> = (0..len).map(|n| (n * 7 + len) as u8).collect();
                let packet = packet(&flow, direction, &payload);
                let frame = frame(direction, &packet);
                assert_eq!(decide(&bypass, &frame), TAKEN, "{what} {direction} {len}");
                let (action, left) = forward(&bypass, &frame);
                assert_eq!(action, REDIRECT, "{what} {direction} {len}");
                assert_eq!(left, rewritten(&flow, direction, &frame), "{what} {direction} {len}");
                assert_valid(&left, what);
                packets += 1;
                bytes += packet.len() as u64;
                frames += frame.len() as u64;
            }
            let report = bypass.report(number, false);
            let mut counted = [Counters::default(); 2];
            counted[direction] = Counters { packets, bytes };
            assert_eq!(report.counted, counted, "{what}");
            assert_eq!(report.frames[direction], frames, "{what}");
            assert_eq!(report.windows.is_some(), is_tcp(&flow), "{what}");
        }
        bypass.report(number, true);
    }
}

#[test]
fn checksums_stay_right_whatever_is_in_them() {
    let Some(bypass) = bypass() else { return };
    for (what, flow) in flows() {
        let number = bypass.lease(&flow).expect(what);
        // Every value of a word of payload, in strides: the checksum takes all values, zero and
        // all ones among them.
        for word in (0..=u16::MAX).step_by(257).chain([0, 1, 2, 0xfffe, 0xffff]) {
            let mut frame = frame(0, &packet(&flow, 0, &[0, 0]));
            let at = frame.len() - 2;
            let field = checksum_at(&flow, &frame);
            let sum = u16::from_be_bytes([frame[field], frame[field + 1]]);
            // So that the checksum would become this.
            let delta = u32::from(sum) + u32::from(!word);
            let value = (delta % 0xffff) as u16;
            frame[at..].copy_from_slice(&value.to_be_bytes());
            finish(&mut frame);
            assert_eq!(decide(&bypass, &frame), TAKEN, "{what} {word:#x}");
            let (_, left) = forward(&bypass, &frame);
            assert_eq!(left, rewritten(&flow, 0, &frame), "{what} {word:#x}");
            assert_valid(&left, what);
        }
        bypass.report(number, true);
    }
}

#[test]
fn sums_of_whole_packets_stay_true() {
    let Some(bypass) = bypass() else { return };
    let context = context_bytes(&context());
    for (what, flow) in flows() {
        let number = bypass.lease(&flow).expect(what);
        for direction in [0, 1] {
            let frame = frame(direction, &packet(&flow, direction, b"payload"));
            assert_eq!(decide(&bypass, &frame), TAKEN, "{what}");
            let flags = test_run::CHECKSUM_COMPLETE;
            match test_run::run(bypass.program(), &frame, &context, flags) {
                Ok(left) => {
                    let rewritten = rewritten(&flow, direction, &frame);
                    assert_eq!(left, (REDIRECT, rewritten), "{what}");
                }
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                    eprintln!("SKIPPED: this kernel can't compute such sums for test runs");
                    return;
                }
                Err(error) => panic!("{what} {direction}: {error}"),
            }
        }
        bypass.report(number, true);
    }
}

type Change = fn(&Flow, &mut Vec<u8>);

/// What makes any flow's packet one for the gateway.
const UNCOMMON: &[(&str, Change)] = &[
    ("another's MAC", |_, f| f[5] ^= 1),
    ("another's MAC, its beginning", |_, f| f[0] ^= 4),
    ("broadcast", |_, f| f[..6].fill(0xff)),
    ("a tag", |_, f| {
        f.splice(12..12, [0x81, 0, 0, 5]);
    }),
    ("another ethertype", |_, f| f[13] ^= 7),
    ("another version", |_, f| f[14] ^= 0x10),
    ("cut short", |_, f| {
        f.pop();
    }),
    ("half a header", |_, f| f.truncate(l4(f) + 4)),
    ("too long for the egress", |_, f| {
        let more = 1501 - (f.len() - 14);
        f.extend(std::iter::repeat_n(1, more));
        grow(f, more);
    }),
    ("another port", |_, f| {
        let at = l4(f);
        f[at] ^= 1;
        finish(f);
    }),
    ("another transport protocol", |_, f| {
        let at = if f[14] >> 4 == 4 { 14 + 9 } else { 14 + 6 };
        f[at] ^= 0x80;
        if f[14] >> 4 == 4 {
            finish_header(f);
        }
    }),
    ("its last hop", |_, f| set_hop_limit(f, 1)),
    ("beyond its last hop", |_, f| set_hop_limit(f, 0)),
];

/// Only where transport checksums are verified.
const UNCOMMON_SUMS: &[(&str, Change)] = &[
    ("a wrong transport checksum", |flow, f| {
        let at = checksum_at(flow, f);
        f[at] ^= 0x40;
    }),
    ("a payload that doesn't fit its checksum", |_, f| *f.last_mut().unwrap() ^= 1),
];

/// Only IPv4's.
const UNCOMMON_V4: &[(&str, Change)] = &[
    ("a wrong header checksum", |_, f| f[24] ^= 1),
    ("a length beyond the frame", |_, f| {
        f[17] += 1;
        finish_header(f);
    }),
    ("a length within the header", |_, f| {
        (f[16], f[17]) = (0, 19);
        finish_header(f);
    }),
    ("a first fragment", |_, f| {
        f[20] = 0x20;
        finish_header(f);
    }),
    ("a later fragment", |_, f| {
        (f[20], f[21]) = (0, 5);
        finish_header(f);
    }),
    ("options", |_, f| {
        f.splice(34..34, [1, 1, 1, 1]);
        f[14] = 0x46;
        grow(f, 4);
        finish_header(f);
    }),
];

/// Only IPv6's.
const UNCOMMON_V6: &[(&str, Change)] = &[
    ("hop-by-hop options", |_, f| {
        f.splice(54..54, [f[20], 0, 1, 4, 0, 0, 0, 0]);
        f[20] = 0;
        grow(f, 8);
    }),
    ("a fragment header", |_, f| {
        f.splice(54..54, [f[20], 0, 0, 0, 0, 0, 0, 0]);
        f[20] = 44;
        grow(f, 8);
    }),
    ("no payload", |_, f| (f[18], f[19]) = (0, 0)),
];

const UNCOMMON_TCP: &[(&str, Change)] = &[
    ("SYN", |_, f| set_flags(f, tcp::SYN)),
    ("SYN and ACK", |_, f| set_flags(f, tcp::SYN | tcp::ACK)),
    ("FIN", |_, f| set_flags(f, tcp::FIN | tcp::ACK)),
    ("RST", |_, f| set_flags(f, tcp::RST)),
    ("RST and ACK", |_, f| set_flags(f, tcp::RST | tcp::ACK)),
    ("URG", |_, f| set_flags(f, tcp::URG | tcp::ACK)),
    ("no flags", |_, f| set_flags(f, 0)),
    ("PSH alone", |_, f| set_flags(f, tcp::PSH)),
    ("a header shorter than there is", |_, f| set_offset(f, 4)),
    ("a header longer than the segment", |_, f| set_offset(f, 15)),
    ("a header that ends in the padding", |_, f| {
        let end = l4(f) + tcp::MIN_HEADER_LEN;
        f.truncate(end);
        f.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
        grow(f, 0);
        let len = end - 14 - if f[14] >> 4 == 4 { 0 } else { ipv6::HEADER_LEN };
        let at = if f[14] >> 4 == 4 { 16 } else { 18 };
        f[at..at + 2].copy_from_slice(&(len as u16).to_be_bytes());
        if f[14] >> 4 == 4 {
            finish_header(f);
        }
        let at = l4(f) + 12;
        f[at] = 8 << 4;
        let mut packet = f[14..end].to_vec();
        builder::finish_transport(&mut packet);
        f[14..end].copy_from_slice(&packet);
    }),
    ("far beyond the window", |_, f| {
        let at = l4(f) + 4;
        f[at..at + 4].copy_from_slice(&900_000_u32.to_be_bytes());
        finish(f);
    }),
];

const UNCOMMON_UDP: &[(&str, Change)] = &[
    ("a length field beyond the packet", |_, f| {
        let at = l4(f) + 5;
        f[at] += 1;
        finish(f);
    }),
    ("a length field within the header", |_, f| {
        let at = l4(f) + 4;
        f[at..at + 2].copy_from_slice(&[0, 7]);
        finish(f);
    }),
];

/// The packet has become longer.
fn grow(frame: &mut [u8], by: usize) {
    let at = if frame[14] >> 4 == 4 { 16 } else { 18 };
    let len = u16::from_be_bytes([frame[at], frame[at + 1]]) + by as u16;
    frame[at..at + 2].copy_from_slice(&len.to_be_bytes());
    if frame[14] == 0x45 {
        finish_header(frame);
        if frame[23] == protocol::UDP {
            let len = u16::from_be_bytes([frame[38], frame[39]]) + by as u16;
            frame[38..40].copy_from_slice(&len.to_be_bytes());
        }
    }
    finish(frame);
}

fn set_hop_limit(frame: &mut [u8], to: u8) {
    if frame[14] >> 4 == 4 {
        frame[22] = to;
        finish_header(frame);
    } else {
        frame[21] = to;
    }
}

fn set_flags(frame: &mut [u8], flags: u8) {
    let at = l4(frame) + 13;
    frame[at] = flags;
    finish(frame);
}

fn set_offset(frame: &mut [u8], words: u8) {
    let at = l4(frame) + 12;
    frame[at] = words << 4;
    finish(frame);
}

#[test]
fn what_is_not_plain_goes_up_and_leaves_no_trace() {
    let Some(bypass) = bypass() else { return };
    let each = flows().into_iter().flat_map(|(what, flow)| {
        [true, false].map(|checksum| (what, Flow { checksum, ..flow.clone() }))
    });
    for (what, flow) in each {
        let number = bypass.lease(&flow).expect(what);
        let before = bypass.report(number, false).windows;
        let sums = if flow.checksum { UNCOMMON_SUMS } else { &[] };
        let of_family = if flow.family == Family::V4 { UNCOMMON_V4 } else { UNCOMMON_V6 };
        let of_protocol = if is_tcp(&flow) { UNCOMMON_TCP } else { UNCOMMON_UDP };
        for (uncommon, change) in UNCOMMON.iter().chain(of_family).chain(of_protocol).chain(sums) {
            let mut frame = frame(0, &packet(&flow, 0, b"hello"));
            change(&flow, &mut frame);
            assert_eq!(decide(&bypass, &frame), UP, "{what}: {uncommon}");
            assert_eq!(forward(&bypass, &frame).0, SHOT, "{what}: {uncommon}");
            let report = bypass.report(number, false);
            assert_eq!(report.counted, [Counters::default(); 2], "{what}: {uncommon}");
            assert_eq!(report.windows, before, "{what}: {uncommon}");
        }
        bypass.report(number, true);
    }
}

#[test]
fn the_longest_packet_for_the_egress_is_taken() {
    let Some(bypass) = bypass() else { return };
    for (what, mut flow) in flows() {
        // A test run has room for one page.
        for mtu in [1280, 1500, 3000] {
            flow.ways[0].as_mut().unwrap().mtu = mtu;
            let number = bypass.lease(&flow).expect(what);
            let headers = packet(&flow, 0, b"").len();
            for (more, decision) in [(0, TAKEN), (1, UP)] {
                let payload = vec![0xab; mtu as usize - headers + more];
                let frame = frame(0, &packet(&flow, 0, &payload));
                assert_eq!(decide(&bypass, &frame), decision, "{what} {mtu} {more}");
            }
            bypass.report(number, true);
        }
    }
}

#[test]
fn padding_of_the_link_is_cut_off() {
    let Some(bypass) = bypass() else { return };
    for (what, flow) in flows() {
        let number = bypass.lease(&flow).expect(what);
        let frame = frame(0, &packet(&flow, 0, b"x"));
        for padding in [1, 3, 17, 100] {
            let mut padded = frame.clone();
            padded.resize(frame.len() + padding, 0xee);
            assert_eq!(decide(&bypass, &padded), TAKEN, "{what} {padding}");
            let (action, left) = forward(&bypass, &padded);
            assert_eq!((action, left), (REDIRECT, rewritten(&flow, 0, &frame)), "{what} {padding}");
            let report = bypass.report(number, false);
            assert_eq!(report.counted[0].bytes, frame.len() as u64 - 14);
            assert_eq!(report.frames[0], padded.len() as u64);
        }
        bypass.report(number, true);
    }
}

#[test]
fn checksums_that_nobody_has_to_verify() {
    let Some(bypass) = bypass() else { return };
    for (what, flow) in flows() {
        let wrong = |f: &mut Vec<u8>| {
            let at = checksum_at(&flow, f);
            f[at..at + 2].copy_from_slice(&[0x12, 0x34]);
        };
        // What a local sender leaves to its device.
        let partial = |f: &mut Vec<u8>| {
            let at = checksum_at(&flow, f);
            let Tuple { src, dst, protocol, .. } = way(&flow, 0).tuple;
            let len = (f.len() - l4(f)) as u32;
            let sum = checksum::fold(checksum::pseudo_header(src, dst, protocol, len));
            f[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        };
        let none = |f: &mut Vec<u8>| {
            let at = checksum_at(&flow, f);
            f[at..at + 2].fill(0);
        };
        type Changed<'a> = &'a dyn Fn(&mut Vec<u8>);
        let rows: [(Changed<'_>, bool, u32); 5] = [
            (&wrong, true, UP),
            (&wrong, false, TAKEN),
            (&partial, true, TAKEN),
            (&none, true, if is_tcp(&flow) { UP } else { TAKEN }),
            (&none, false, TAKEN),
        ];
        for (row, (change, verify, decision)) in rows.into_iter().enumerate() {
            let flow = Flow { checksum: verify, ..flow.clone() };
            let number = bypass.lease(&flow).expect(what);
            let mut frame = frame(0, &packet(&flow, 0, b"some payload"));
            change(&mut frame);
            assert_eq!(decide(&bypass, &frame), decision, "{what} {row}");
            if decision == TAKEN {
                assert_eq!(forward(&bypass, &frame).1, rewritten(&flow, 0, &frame), "{what} {row}");
            }
            bypass.report(number, true);
        }
    }
}

#[test]
fn super_packets_are_judged_by_their_segments() {
    let Some(bypass) = bypass() else { return };
    for (what, mut flow) in flows() {
        // A test run has room for one page.
        flow.ways[0].as_mut().unwrap().mtu = 600;
        let number = bypass.lease(&flow).expect(what);
        let headers = packet(&flow, 0, b"").len() as u32;
        let fits = 600 - headers;
        let rows = [
            ("fits", fits, 3, 3 * fits, TAKEN),
            ("a shorter last one", fits, 3, 2 * fits + 1, TAKEN),
            ("too long for the egress", fits + 1, 3, 3 * fits, UP),
            ("one segment", fits, 1, fits, UP),
            ("fewer than it says", fits, 3, 2 * fits, if is_tcp(&flow) { TAKEN } else { UP }),
        ];
        for (row, size, segments, len, decision) in rows {
            let mut frame = frame(0, &packet(&flow, 0, &vec![0; len as usize]));
            // Nobody has computed it.
            let at = checksum_at(&flow, &frame);
            frame[at] ^= 0xff;
            let context = SkBuff { gso_size: size, gso_segs: segments, ..context() };
            assert_eq!(decide_with(&bypass, &frame, &context), decision, "{what}: {row}");
            frame.push(0);
            assert_eq!(decide_with(&bypass, &frame, &context), UP, "{what}: {row}, padded");
        }
        // As of a tunnel: the segments have headers of their own.
        let frame = frame(0, &packet(&flow, 0, &vec![0; 62 + 3 * 500]));
        let context = SkBuff { gso_size: 500, gso_segs: 3, ..context() };
        let decision = if is_tcp(&flow) { TAKEN } else { UP };
        assert_eq!(decide_with(&bypass, &frame, &context), decision, "{what}");
        bypass.report(number, true);
    }
}
