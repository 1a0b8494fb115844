//! A packet as nf_log_syslog describes it. Every field is looked at where the headers say it stands,
//! and what isn't there is said, since packets are logged for being odd.

use std::fmt::Write as _;
use tidegate_filter::{LogFlags, LogRecord, Query};
use tidegate_packet::{Family, icmp, icmpv6, ipv4, ipv6, protocol, tcp};

/// Ends a description early: what follows can't be read.
struct Cut;
type Written = Result<(), Cut>;

/// Writing to a string can't fail.
macro_rules! put {
    ($out:expr, $($text:tt)*) => { { let _ = write!($out, $($text)*); } };
}

/// Appends everything behind the prefix.
pub(super) fn write(out: &mut String, record: &LogRecord<'_>) {
    let LogRecord { query, flags, mark, .. } = *record;
    let name = |name: Option<&str>| name.unwrap_or_default().to_owned();
    put!(out, "IN={} OUT={} ", name(query.input), name(query.output));
    if let Some(port) = query.port.filter(|port| query.input.is_some_and(|input| input != *port)) {
        put!(out, "PHYSIN={port} ");
    }
    if query.input.is_some() {
        write_link(out, query, flags);
    }
    let bytes = query.bytes.get(..query.packet.len as usize).unwrap_or(query.bytes);
    let whole = match query.packet.family {
        Family::V4 => write_v4(out, bytes, flags, true),
        Family::V6 => write_v6(out, bytes, flags, true),
    };
    // Packets that came from elsewhere have no user, and those of the namespace's own programs come
    // through a TUN device without one: --log-uid adds nothing, as on a forwarding kernel.
    if whole.is_ok() && mark != 0 {
        put!(out, "MARK={mark:#x} ");
    }
}

/// Destination, source and type of the frame that a packet came in; loopback's is all zeros.
pub(super) fn link_header(query: &Query<'_>) -> Option<[u8; 14]> {
    let (dst, src) = match query.link {
        Some(link) => (link.dst.0, link.src.0),
        None if query.input == Some("lo") => Default::default(),
        None => return None,
    };
    let ethertype: u16 = match query.packet.family {
        Family::V4 => 0x0800,
        Family::V6 => 0x86dd,
    };
    let mut header = [0; 14];
    header[..6].copy_from_slice(&dst);
    header[6..12].copy_from_slice(&src);
    header[12..].copy_from_slice(&ethertype.to_be_bytes());
    Some(header)
}

fn write_link(out: &mut String, query: &Query<'_>, flags: LogFlags) {
    let header = link_header(query);
    let colons =
        |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":");
    match header {
        Some(h) if flags.mac_decode && query.link.is_some() => {
            let (dst, src) = (colons(&h[..6]), colons(&h[6..12]));
            put!(out, "MACSRC={src} MACDST={dst} MACPROTO={:02x}{:02x} ", h[12], h[13]);
        }
        // A device without link headers has none to show.
        _ => put!(out, "MAC={} ", header.map(|h| colons(&h)).unwrap_or_default()),
    }
}

/// The caller has looked that they are there.
fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from(be16(bytes, at)) << 16 | u32::from(be16(bytes, at + 2))
}

/// What `%u` makes of a length that may be negative.
fn rest(bytes: &[u8], from: usize) -> u32 {
    (bytes.len() as u32).wrapping_sub(from as u32)
}

fn incomplete(out: &mut String, bytes: &[u8], from: usize) -> Cut {
    put!(out, "INCOMPLETE [{} bytes] ", rest(bytes, from));
    Cut
}

fn hex(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        put!(out, "{byte:02X}");
    }
}

fn write_v4(out: &mut String, p: &[u8], flags: LogFlags, outer: bool) -> Written {
    if p.len() < ipv4::MIN_HEADER_LEN {
        out.push_str("TRUNCATED");
        return Err(Cut);
    }
    let address = |at: usize| format!("{}.{}.{}.{}", p[at], p[at + 1], p[at + 2], p[at + 3]);
    put!(out, "SRC={} DST={} ", address(12), address(16));
    let (tos, precedence) = (p[1] & 0x1e, p[1] & 0xe0);
    put!(out, "LEN={} TOS=0x{tos:02X} PREC=0x{precedence:02X} ", be16(p, 2));
    put!(out, "TTL={} ID={} ", p[8], be16(p, 4));
    let flagged = be16(p, 6);
    for (bit, name) in [(0x8000, "CE "), (0x4000, "DF "), (0x2000, "MF ")] {
        if flagged & bit != 0 {
            out.push_str(name);
        }
    }
    let offset = flagged & 0x1fff;
    if offset != 0 {
        put!(out, "FRAG:{offset} ");
    }
    let l4 = usize::from(p[0] & 0x0f) * 4;
    if flags.ip_options && l4 > ipv4::MIN_HEADER_LEN {
        let Some(options) = p.get(ipv4::MIN_HEADER_LEN..l4) else {
            out.push_str("TRUNCATED");
            return Err(Cut);
        };
        out.push_str("OPT (");
        hex(out, options);
        out.push_str(") ");
    }
    let later = offset != 0;
    match p[9] {
        protocol::TCP => write_tcp(out, p, l4, later, flags),
        number @ (protocol::UDP | protocol::UDPLITE) => write_udp(out, p, l4, later, number),
        protocol::ICMP => {
            out.push_str("PROTO=ICMP ");
            if !later {
                write_icmp(out, p, l4, flags, outer);
            }
            Ok(())
        }
        protocol::AH => {
            out.push_str("PROTO=AH ");
            write_spi(out, p, l4, later, (12, 4));
            Ok(())
        }
        protocol::ESP => {
            out.push_str("PROTO=ESP ");
            write_spi(out, p, l4, later, (8, 0));
            Ok(())
        }
        number => {
            put!(out, "PROTO={number} ");
            Ok(())
        }
    }
}

/// `(length, at)`: of the header, and where in it the index stands.
fn write_spi(out: &mut String, p: &[u8], l4: usize, later: bool, (len, at): (usize, usize)) {
    if later {
        return;
    }
    match p.get(l4..l4 + len) {
        Some(header) => put!(out, "SPI={:#x} ", be32(header, at)),
        None => {
            let _ = incomplete(out, p, l4);
        }
    }
}

fn write_tcp(out: &mut String, p: &[u8], l4: usize, later: bool, flags: LogFlags) -> Written {
    out.push_str("PROTO=TCP ");
    if later {
        return Ok(());
    }
    let Some(h) = p.get(l4..l4 + tcp::MIN_HEADER_LEN) else { return Err(incomplete(out, p, l4)) };
    put!(out, "SPT={} DPT={} ", be16(h, 0), be16(h, 2));
    if flags.tcp_sequence {
        put!(out, "SEQ={} ACK={} ", be32(h, 4), be32(h, 8));
    }
    // The last of the reserved bits is accurate ECN's (Linux 6.18; before, it counted as reserved).
    put!(out, "WINDOW={} RES=0x{:02x} ", be16(h, 14), (h[12] & 0x0e) << 2);
    if h[12] & 1 != 0 {
        out.push_str("AE ");
    }
    for (bit, name) in [
        (tcp::CWR, "CWR "),
        (tcp::ECE, "ECE "),
        (tcp::URG, "URG "),
        (tcp::ACK, "ACK "),
        (tcp::PSH, "PSH "),
        (tcp::RST, "RST "),
        (tcp::SYN, "SYN "),
        (tcp::FIN, "FIN "),
    ] {
        if h[13] & bit != 0 {
            out.push_str(name);
        }
    }
    put!(out, "URGP={} ", be16(h, 18));
    let len = usize::from(h[12] >> 4) * 4;
    if flags.tcp_options && len > tcp::MIN_HEADER_LEN {
        let Some(options) = p.get(l4 + tcp::MIN_HEADER_LEN..l4 + len) else {
            out.push_str("OPT (TRUNCATED)");
            return Err(Cut);
        };
        out.push_str("OPT (");
        hex(out, options);
        out.push_str(") ");
    }
    Ok(())
}

fn write_udp(out: &mut String, p: &[u8], l4: usize, later: bool, number: u8) -> Written {
    out.push_str(if number == protocol::UDP { "PROTO=UDP " } else { "PROTO=UDPLITE " });
    if later {
        return Ok(());
    }
    let Some(h) = p.get(l4..l4 + 8) else { return Err(incomplete(out, p, l4)) };
    put!(out, "SPT={} DPT={} LEN={} ", be16(h, 0), be16(h, 2), be16(h, 4));
    Ok(())
}

fn write_icmp(out: &mut String, p: &[u8], l4: usize, flags: LogFlags, outer: bool) {
    let Some(h) = p.get(l4..l4 + 8) else {
        let _ = incomplete(out, p, l4);
        return;
    };
    let (kind, code) = (h[0], h[1]);
    put!(out, "TYPE={kind} CODE={code} ");
    let required = match kind {
        icmp::DEST_UNREACHABLE
        | icmp::SOURCE_QUENCH
        | icmp::REDIRECT
        | icmp::TIME_EXCEEDED
        | icmp::PARAMETER_PROBLEM => 8 + ipv4::MIN_HEADER_LEN,
        // Time stamps and address masks.
        13 | 14 => 20,
        17 | 18 => 12,
        _ => 0,
    };
    if p.len() < l4 + required {
        let _ = incomplete(out, p, l4);
        return;
    }
    match kind {
        icmp::ECHO_REPLY | icmp::ECHO_REQUEST => {
            put!(out, "ID={} SEQ={} ", be16(h, 4), be16(h, 6));
        }
        icmp::PARAMETER_PROBLEM => put!(out, "PARAMETER={} ", h[4]),
        icmp::REDIRECT => put!(out, "GATEWAY={}.{}.{}.{} ", h[4], h[5], h[6], h[7]),
        _ => {}
    }
    if matches!(
        kind,
        icmp::DEST_UNREACHABLE | icmp::SOURCE_QUENCH | icmp::REDIRECT | icmp::TIME_EXCEEDED
    ) {
        // Quotes within quotes aren't followed.
        if outer {
            out.push('[');
            let _ = write_v4(out, &p[l4 + 8..], flags, false);
            out.push_str("] ");
        }
        // Fragmentation needed (RFC 1191).
        if (kind, code) == (icmp::DEST_UNREACHABLE, 4) {
            put!(out, "MTU={} ", be16(h, 6));
        }
    }
}

fn write_v6(out: &mut String, p: &[u8], flags: LogFlags, outer: bool) -> Written {
    if p.len() < ipv6::HEADER_LEN {
        out.push_str("TRUNCATED");
        return Err(Cut);
    }
    // The kernel's log spells IPv6 addresses in full.
    let address = |at: usize| {
        let groups = (0..8).map(|n| format!("{:04x}", be16(p, at + 2 * n)));
        groups.collect::<Vec<_>>().join(":")
    };
    put!(out, "SRC={} DST={} ", address(8), address(24));
    let first = be32(p, 0);
    put!(out, "LEN={} TC={} ", usize::from(be16(p, 4)) + ipv6::HEADER_LEN, first >> 20 & 0xff);
    put!(out, "HOPLIMIT={} FLOWLBL={} ", p[7], first & 0xf_ffff);
    let (number, l4, later) = write_extensions(out, p, flags)?;
    match number {
        protocol::TCP => write_tcp(out, p, l4, later, flags),
        number @ (protocol::UDP | protocol::UDPLITE) => write_udp(out, p, l4, later, number),
        protocol::ICMPV6 => {
            out.push_str("PROTO=ICMPv6 ");
            if later { Ok(()) } else { write_icmpv6(out, p, l4, flags, outer) }
        }
        number => {
            put!(out, "PROTO={number} ");
            Ok(())
        }
    }
}

/// The extension headers; gives the upper-layer protocol, where it begins, and whether this is a
/// later fragment without its header.
fn write_extensions(out: &mut String, p: &[u8], flags: LogFlags) -> Result<(u8, usize, bool), Cut> {
    let (mut number, mut at, mut later) = (p[6], ipv6::HEADER_LEN, false);
    let options = flags.ip_options;
    loop {
        if !matches!(
            number,
            protocol::HOPOPTS
                | protocol::ROUTING
                | protocol::FRAGMENT
                | protocol::DSTOPTS
                | protocol::AH
                | protocol::ESP
        ) {
            return Ok((number, at, later));
        }
        let Some(h) = p.get(at..at + 2) else {
            out.push_str("TRUNCATED");
            return Err(Cut);
        };
        if options {
            out.push_str("OPT ( ");
        }
        let len = match number {
            protocol::FRAGMENT => {
                later |= write_fragment(out, p, at)?;
                8
            }
            protocol::AH => {
                if options {
                    out.push_str("AH ");
                    write_inner_spi(out, p, at, later, (12, 4))?;
                }
                (usize::from(h[1]) + 2) * 4
            }
            protocol::ESP => {
                if options {
                    out.push_str("ESP ");
                    write_inner_spi(out, p, at, later, (8, 0))?;
                    out.push(')');
                }
                return Err(Cut);
            }
            _ if later => {
                if options {
                    out.push(')');
                }
                return Err(Cut);
            }
            _ => (usize::from(h[1]) + 1) * 8,
        };
        if options {
            out.push_str(") ");
        }
        number = h[0];
        at += len;
    }
}

/// Whether it is a later fragment.
fn write_fragment(out: &mut String, p: &[u8], at: usize) -> Result<bool, Cut> {
    out.push_str("FRAG:");
    let Some(h) = p.get(at..at + 8) else {
        out.push_str("TRUNCATED ");
        return Err(Cut);
    };
    let offset = be16(h, 2) & 0xfff8;
    put!(out, "{offset} ");
    if be16(h, 2) & 1 != 0 {
        out.push_str("INCOMPLETE ");
    }
    put!(out, "ID:{:08x} ", be32(h, 4));
    Ok(offset != 0)
}

fn write_inner_spi(
    out: &mut String,
    p: &[u8],
    at: usize,
    later: bool,
    (len, index): (usize, usize),
) -> Written {
    if later {
        out.push(')');
        return Err(Cut);
    }
    let Some(h) = p.get(at..at + len) else {
        put!(out, "INCOMPLETE [{} bytes] )", rest(p, at));
        return Err(Cut);
    };
    put!(out, "SPI={:#x} ", be32(h, index));
    Ok(())
}

fn write_icmpv6(out: &mut String, p: &[u8], l4: usize, flags: LogFlags, outer: bool) -> Written {
    let Some(h) = p.get(l4..l4 + 8) else { return Err(incomplete(out, p, l4)) };
    let (kind, code) = (h[0], h[1]);
    put!(out, "TYPE={kind} CODE={code} ");
    match kind {
        icmpv6::ECHO_REQUEST | icmpv6::ECHO_REPLY => {
            put!(out, "ID={} SEQ={} ", be16(h, 4), be16(h, 6));
        }
        icmpv6::PARAMETER_PROBLEM => put!(out, "POINTER={:08x} ", be32(h, 4)),
        _ => {}
    }
    if matches!(
        kind,
        icmpv6::DEST_UNREACHABLE
            | icmpv6::PACKET_TOO_BIG
            | icmpv6::TIME_EXCEEDED
            | icmpv6::PARAMETER_PROBLEM
    ) {
        if outer {
            out.push('[');
            let _ = write_v6(out, &p[l4 + 8..], flags, false);
            out.push_str("] ");
        }
        if kind == icmpv6::PACKET_TOO_BIG {
            put!(out, "MTU={} ", be32(h, 4));
        }
    }
    Ok(())
}
