//! Frames with some bytes changed: `decide` takes exactly those about which the decoder and the checks of
//! the short way say nothing else.

use super::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tidegate_nat::Direction;
use tidegate_packet::{Parsed, Transport, checksum, ipv4, ipv6, protocol, tcp, udp};

/// Whether the short way would take it; `None`: `decide` needn't, because of its options.
fn is_plain(flow: &Flow, frame: &[u8]) -> Option<bool> {
    let way = way(flow, 0);
    let packet = &frame[ethernet::HEADER_LEN..];
    let ethertype = match flow.family {
        Family::V4 => ethernet::IPV4,
        Family::V6 => ethernet::IPV6,
    };
    let Ok(parsed) = Parsed::parse(packet) else { return Some(false) };
    let segment = parsed.segment(packet);
    let l4 = match parsed.family {
        Family::V4 => ipv4::MIN_HEADER_LEN,
        Family::V6 => ipv6::HEADER_LEN,
    };
    let to_us = frame[..6] == way.to.0 && frame[12..14] == ethertype.to_be_bytes();
    let whole = parsed.fragment.is_none() && usize::from(parsed.l4) == l4;
    let ours = to_us
        && parsed.family == flow.family
        && whole
        && parsed.hop_limit > 1
        && Tuple::of(&parsed, segment) == Some(way.tuple)
        && parsed.len <= way.mtu;
    if !ours {
        return Some(false);
    }
    let sum =
        checksum::pseudo_header(parsed.src, parsed.dst, parsed.protocol, segment.len() as u32);
    let (field, well_formed) = match parsed.transport {
        Transport::Tcp { flags, .. } => {
            let data = !(tcp::PSH | tcp::ECE | tcp::CWR);
            (tcp::Header::new_checked(segment)?.checksum(), flags & data == tcp::ACK)
        }
        _ => {
            let header = udp::Header::new_checked(segment)?;
            let len = usize::from(header.len_field());
            (header.checksum(), (udp::HEADER_LEN..=segment.len()).contains(&len))
        }
    };
    let verified = checksum::verify_transport(parsed.src, parsed.dst, parsed.protocol, segment)
        || field == checksum::fold(sum)
        || field == 0 && parsed.protocol == protocol::UDP;
    if !verified || !well_formed {
        return Some(false);
    }
    let fits = flow.windows.is_none_or(|mut w| w.accept(Direction::Original, segment));
    let options = is_tcp(flow) && segment[12] >> 4 != 5;
    if fits && options { None } else { Some(fits) }
}

/// Changes a frame, and often its checksums so that nobody sees it by them.
fn damage(rng: &mut StdRng, flow: &Flow, frame: &mut Vec<u8>) {
    for _ in 0..rng.random_range(0..3) {
        // Mostly the headers.
        let most = if rng.random_bool(0.9) { 75.min(frame.len()) } else { frame.len() };
        let at = rng.random_range(0..most);
        match rng.random_range(0..4) {
            0 => frame[at] = rng.random(),
            1 => frame[at] ^= 1 << rng.random_range(0..8),
            2 => frame[at] = frame[at].wrapping_add(1),
            _ => frame[at] = 0,
        }
    }
    match rng.random_range(0..8) {
        0 => frame.truncate(rng.random_range(60..=frame.len())),
        1 => frame.resize(frame.len() + rng.random_range(1..20), 0),
        _ => {}
    }
    if flow.family == Family::V4 && rng.random_bool(0.8) && frame[14] >> 4 == 4 {
        let header = usize::from(frame[14] & 15) * 4;
        if (ipv4::MIN_HEADER_LEN..frame.len() - 14).contains(&header) {
            ipv4::write_checksum(&mut frame[14..]);
        }
    }
    if rng.random_bool(0.8)
        && let Ok(parsed) = Parsed::parse(&frame[14..])
    {
        builder::finish_transport(&mut frame[14..14 + parsed.len as usize]);
    }
}

#[test]
fn damaged_frames_are_taken_only_if_they_are_plain_still() {
    let Some(bypass) = bypass() else { return };
    let (mut taken, mut up) = (0, 0);
    for (seed, (what, flow)) in flows().into_iter().enumerate() {
        let mut rng = StdRng::seed_from_u64(seed as u64);
        let number = bypass.lease(&flow).expect(what);
        for _ in 0..1500 {
            let payload = vec![0x33; rng.random_range(40..200)];
            let mut frame = frame(0, &packet(&flow, 0, &payload));
            damage(&mut rng, &flow, &mut frame);
            let is_taken = decide(&bypass, &frame) == TAKEN;
            let plain = is_plain(&flow, &frame);
            assert!(plain.is_none_or(|plain| plain == is_taken), "{what}: {is_taken} {frame:02x?}");
            let (action, _) = forward(&bypass, &frame);
            assert_eq!(action, if is_taken { REDIRECT } else { SHOT }, "{what}: {frame:02x?}");
            bypass.resume(number, flow.windows);
            taken += usize::from(is_taken);
            up += usize::from(!is_taken);
        }
        bypass.report(number, true);
    }
    assert!(taken > 2000 && up > 2000, "{taken} {up}");
}
