//! What must hold of any bytes: the views agree with a plain decoder, the checksum helpers with
//! RFC 1071 word by word, and nothing panics. The fuzz target `decode` runs this as well.

use tidegate_packet::arp::Arp;
use tidegate_packet::checksum::{self, Delta, Field};
use tidegate_packet::ndp::Ndp;
use tidegate_packet::{
    Addr, Parsed, Transport, builder, ethernet, icmp, icmpv6, ipv4, ipv6, protocol, tcp, udp,
};

/// Looks at `bytes` as a frame, as a packet, as a segment and as words. `start` and `offset` are
/// what a device may say of the checksum's place.
pub fn look(bytes: &[u8], start: u16, offset: u16) {
    let _ = Arp::parse(bytes);
    let _ = Ndp::parse(bytes);
    if let Some(header) = ethernet::Header::parse(bytes) {
        assert!(header.len <= bytes.len());
        packet(&bytes[header.len..]);
        let _ = Arp::parse(&bytes[header.len..]);
    }
    packet(bytes);
    transport_views(bytes);
    sums(bytes);
    partial(bytes, start.into(), offset.into());
    for cut in [usize::from(start), usize::from(offset), 20, 28, 40, 48] {
        let quote = &bytes[..cut.min(bytes.len())];
        if let Ok(parsed) = Parsed::parse_quote(quote) {
            assert!(parsed.len as usize <= quote.len());
        }
    }
}

/// Bytes from the IP header on.
fn packet(bytes: &[u8]) {
    let parsed = Parsed::parse(bytes);
    assert_eq!(parsed.as_ref().ok().map(place), plain_place(bytes), "{bytes:02x?}");
    let Ok(parsed) = parsed else { return };
    let len = parsed.len as usize;
    // What the link has added behind it makes no difference.
    let mut own = bytes[..len].to_vec();
    assert_eq!(Parsed::parse(&own).as_ref(), Ok(&parsed));
    let padded = [&own, &[0x45; 7][..]].concat();
    assert_eq!(Parsed::parse(&padded).as_ref(), Ok(&parsed));
    let segment = parsed.segment(bytes);
    transport_views(segment);
    assert_eq!(parsed.ports().is_some(), ports_of(&parsed, segment).is_some());
    if let Some(ports) = parsed.ports() {
        assert_eq!(Some(ports), ports_of(&parsed, segment));
    }
    if let Some((kind, code)) = parsed.icmp() {
        assert_eq!([kind, code], segment[..2]);
        let v4 = parsed.protocol == protocol::ICMP;
        let error = if v4 { icmp::is_error(kind) } else { icmpv6::is_error(kind) };
        assert_eq!(parsed.is_icmp_error(), error);
    }
    if let Some(f) = parsed.fragment {
        assert!(f.offset.is_multiple_of(8));
        assert!(usize::from(f.header_at) < len);
        assert_eq!(parsed.is_later_fragment(), f.offset != 0);
    }
    let want = plain_transport(parsed.src, parsed.dst, parsed.protocol, segment);
    let got = checksum::transport(parsed.src, parsed.dst, parsed.protocol, segment);
    assert_eq!(got, want, "{bytes:02x?}");
    readdressed(&parsed, segment);
    hop(&mut own, &parsed);
    finished(own, &parsed);
}

/// One hop further, the header is still right.
fn hop(own: &mut [u8], parsed: &Parsed) {
    if parsed.src.is_v4() && parsed.hop_limit > 0 {
        ipv4::decrement_ttl(own);
        let again = Parsed::parse(own).expect("a right header checksum");
        assert_eq!(again.hop_limit, parsed.hop_limit - 1);
        ipv4::write_checksum(own);
        assert!(Parsed::parse(own).is_ok());
    }
}

/// A finished checksum is a right one. (`finish_transport` is for packets without extension headers.)
fn finished(mut own: Vec<u8>, parsed: &Parsed) {
    let extended = !parsed.src.is_v4() && usize::from(parsed.l4) != ipv6::HEADER_LEN;
    if parsed.fragment.is_some() || extended {
        return;
    }
    builder::finish_transport(&mut own);
    let again = Parsed::parse(&own).expect("the same packet");
    let segment = again.segment(&own);
    match (again.transport, again.protocol) {
        (Transport::Icmp { .. }, _) => assert_eq!(plain(segment), 0),
        (Transport::Udp { .. }, protocol::UDPLITE) => {}
        (Transport::Tcp { .. } | Transport::Udp { .. } | Transport::Icmpv6 { .. }, number) => {
            assert_eq!(plain_transport(again.src, again.dst, number, segment), 0, "{own:02x?}");
        }
        _ => {}
    }
}

/// Another source: the sum mended is the sum made anew.
fn readdressed(parsed: &Parsed, segment: &[u8]) {
    let number = parsed.protocol;
    let mut delta = Delta::default();
    delta.replace_addr(parsed.src, parsed.dst);
    let old = plain_transport(parsed.src, parsed.dst, number, segment);
    let new = plain_transport(parsed.dst, parsed.dst, number, segment);
    // Ones' complement has two zeros.
    let same = |a: u16, b: u16| a == b || a ^ b == 0xffff && (a == 0 || b == 0);
    assert!(same(delta.apply(old), new), "{:04x} {new:04x}", delta.apply(old));
    let mut field = (!old).to_be_bytes();
    delta.update(&mut field, 0, Field::Partial);
    assert!(same(!u16::from_be_bytes(field), new));
}

fn transport_views(segment: &[u8]) {
    if let Some(h) = tcp::Header::new_checked(segment) {
        assert!((20..=60).contains(&h.header_len()) && h.header_len() <= segment.len());
        let all: usize = h.options().map(|o| o.data.len() + 2).sum();
        assert!(all <= h.option_bytes().len());
        let _ = (h.seq(), h.ack(), h.flags(), h.reserved(), h.window(), h.checksum(), h.urgent());
    }
    if let Some(h) = udp::Header::new_checked(segment) {
        let _ = (h.len_field(), h.checksum());
    }
}

fn ports_of(parsed: &Parsed, segment: &[u8]) -> Option<(u16, u16)> {
    let long_enough = match parsed.protocol {
        protocol::TCP => tcp::Header::new_checked(segment).is_some(),
        protocol::UDP | protocol::UDPLITE => segment.len() >= 8,
        protocol::SCTP | protocol::DCCP => segment.len() >= 12,
        _ => false,
    };
    let word = |at: usize| u16::from_be_bytes([segment[at], segment[at + 1]]);
    (long_enough && !parsed.is_later_fragment()).then(|| (word(0), word(2)))
}

/// Where the upper layer begins and ends, and which it is.
type Place = (usize, usize, u8);

fn place(parsed: &Parsed) -> Place {
    (usize::from(parsed.l4), parsed.len as usize, parsed.protocol)
}

/// The same by a decoder that knows nothing else; `None`: refused.
fn plain_place(bytes: &[u8]) -> Option<Place> {
    let word =
        |at: usize| Some(usize::from(*bytes.get(at)?) << 8 | usize::from(*bytes.get(at + 1)?));
    if bytes.first()? >> 4 == 4 {
        let head = usize::from(bytes[0] & 15) * 4;
        let len = word(2)?;
        let fits = head >= 20 && head <= len && len <= bytes.len();
        return (fits && plain(&bytes[..head]) == 0).then(|| (head, len, bytes[9]));
    }
    if bytes.first()? >> 4 != 6 || bytes.len() < 40 {
        return None;
    }
    let len = 40 + word(4)?;
    let bytes = bytes.get(..len)?;
    let (mut at, mut next) = (40, bytes[6]);
    loop {
        let size = match next {
            0 | 43 | 60 => (usize::from(*bytes.get(at + 1)?) + 1) * 8,
            44 => 8,
            51 => (usize::from(*bytes.get(at + 1)?) + 2) * 4,
            _ => return Some((at, len, next)),
        };
        let header = bytes.get(at..at + size.max(8))?;
        let later = next == 44 && (header[2] != 0 || header[3] & 0xf8 != 0);
        (at, next) = (at + size, header[0]);
        if later {
            return Some((at, len, next));
        }
    }
}

fn sums(bytes: &[u8]) {
    assert_eq!(checksum::of(bytes), plain(bytes));
    let middle = bytes.len() / 4 * 2;
    let halves = checksum::add(checksum::add(0, &bytes[..middle]), &bytes[middle..]);
    assert_eq!(!checksum::fold(halves), plain(bytes));
    if bytes.len() >= 37 {
        let octets = |at: usize| Addr::from_v6_bytes(bytes[at..at + 16].try_into().expect("16"));
        let (src, dst, number) = (octets(0), octets(16), bytes[32]);
        let want = plain_transport(src, dst, number, &bytes[33..]);
        assert_eq!(checksum::transport(src, dst, number, &bytes[33..]), want, "{bytes:02x?}");
    }
}

fn partial(bytes: &[u8], start: usize, offset: usize) {
    let mut own = bytes.to_vec();
    let done = checksum::complete_partial(&mut own, start, offset);
    assert_eq!(done, start + offset + 2 <= bytes.len());
    if done {
        let sum = match plain(&bytes[start..]) {
            0 => 0xffff,
            sum => sum,
        };
        let at = start + offset;
        assert_eq!(own[at..at + 2], sum.to_be_bytes());
        own[at..at + 2].copy_from_slice(&bytes[at..at + 2]);
    }
    assert_eq!(own, bytes, "nothing else is touched");
}

/// RFC 1071 as it is written.
fn plain(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0)));
    !words.fold(0u32, |sum, word| (sum + word) % 0x10000 + (sum + word) / 0x10000) as u16
}

fn plain_transport(src: Addr, dst: Addr, number: u8, segment: &[u8]) -> u16 {
    let len = segment.len() as u32;
    let mut all = [src.wire(), dst.wire(), &len.to_be_bytes(), &[0, 0, 0, number]].concat();
    all.extend_from_slice(segment);
    plain(&all)
}

/// Makes the IP header's length and checksum fit, so that what stands behind it is looked at.
pub fn mended(mut bytes: Vec<u8>) -> Vec<u8> {
    let len = bytes.len().min(65_535);
    if len >= 40 && bytes[0] >> 4 == 6 {
        bytes[4..6].copy_from_slice(&((len - ipv6::HEADER_LEN) as u16).to_be_bytes());
    } else if len >= 20 {
        let words = bytes[0] & 15;
        bytes[0] = 0x40 | if (5..=len / 4).contains(&words.into()) { words } else { 5 };
        bytes[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        ipv4::write_checksum(&mut bytes);
    }
    bytes
}
