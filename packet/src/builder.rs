//! Builds packets: for the gateway's own errors, resets and replies, and for tests.

use crate::{Addr, checksum, ipv4, ipv6, protocol, put16, tcp, udp};

/// What goes into an IP header.
#[derive(Copy, Clone, Debug)]
pub struct Ip {
    /// Source; its family decides the header.
    pub src: Addr,
    /// Destination.
    pub dst: Addr,
    /// Protocol of the payload.
    pub protocol: u8,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// Type of service or traffic class.
    pub tos: u8,
    /// IPv4 identification.
    pub id: u16,
    /// IPv4 don't-fragment bit.
    pub dont_fragment: bool,
}

impl Ip {
    /// Hop limit 64, everything else zero.
    pub fn new(src: Addr, dst: Addr, protocol: u8) -> Self {
        Self { src, dst, protocol, hop_limit: 64, tos: 0, id: 0, dont_fragment: false }
    }
}

/// A packet with this header and `payload`, which must be shorter than 65,000 bytes.
pub fn ip(header: Ip, payload: &[u8]) -> Vec<u8> {
    let mut p;
    if header.src.is_v4() {
        p = Vec::with_capacity(ipv4::MIN_HEADER_LEN + payload.len());
        p.resize(ipv4::MIN_HEADER_LEN, 0);
        p[0] = 0x45;
        p[1] = header.tos;
        put16(&mut p, 2, (ipv4::MIN_HEADER_LEN + payload.len()) as u16);
        put16(&mut p, 4, header.id);
        p[6] = u8::from(header.dont_fragment) << 6;
        p[8] = header.hop_limit;
        p[9] = header.protocol;
        p[12..16].copy_from_slice(&header.src.v4_bytes());
        p[16..20].copy_from_slice(&header.dst.v4_bytes());
        ipv4::write_checksum(&mut p);
    } else {
        p = Vec::with_capacity(ipv6::HEADER_LEN + payload.len());
        p.resize(ipv6::HEADER_LEN, 0);
        p[0] = 0x60 | header.tos >> 4;
        p[1] = header.tos << 4;
        put16(&mut p, 4, payload.len() as u16);
        p[6] = header.protocol;
        p[7] = header.hop_limit;
        p[8..24].copy_from_slice(&header.src.octets());
        p[24..40].copy_from_slice(&header.dst.octets());
    }
    p.extend_from_slice(payload);
    p
}

/// Writes the transport checksum of a packet without IPv4 options or IPv6 extension headers.
/// Protocols without one are left alone.
pub fn finish_transport(packet: &mut [u8]) {
    let (at, protocol, src, dst) = if packet[0] >> 4 == 4 {
        let Some(h) = ipv4::Header::new_checked(packet) else { return };
        (h.header_len(), h.protocol(), h.src(), h.dst())
    } else {
        let Some(h) = ipv6::Header::new_checked(packet) else { return };
        (ipv6::HEADER_LEN, h.next_header(), h.src(), h.dst())
    };
    let field = at
        + match protocol {
            protocol::TCP => tcp::CHECKSUM_AT,
            protocol::UDP | protocol::UDPLITE => udp::CHECKSUM_AT,
            protocol::ICMP | protocol::ICMPV6 => 2,
            _ => return,
        };
    if field + 2 > packet.len() {
        return;
    }
    put16(packet, field, 0);
    let sum = match protocol {
        protocol::ICMP => checksum::of(&packet[at..]),
        _ => checksum::transport(src, dst, protocol, &packet[at..]),
    };
    let sum = if sum == 0 && protocol == protocol::UDP { 0xffff } else { sum };
    put16(packet, field, sum);
}

/// A UDP packet.
pub fn udp(header: Ip, sport: u16, dport: u16, payload: &[u8]) -> Vec<u8> {
    let mut d = Vec::with_capacity(udp::HEADER_LEN + payload.len());
    d.extend(sport.to_be_bytes());
    d.extend(dport.to_be_bytes());
    d.extend(((udp::HEADER_LEN + payload.len()) as u16).to_be_bytes());
    d.extend([0, 0]);
    d.extend_from_slice(payload);
    let mut p = ip(Ip { protocol: protocol::UDP, ..header }, &d);
    finish_transport(&mut p);
    p
}

/// What goes into a TCP header.
#[derive(Copy, Clone, Debug, Default)]
pub struct Tcp<'a> {
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number.
    pub ack: u32,
    /// Flag bits.
    pub flags: u8,
    /// Window, unscaled.
    pub window: u16,
    /// Options, padded by the builder to a multiple of four bytes.
    pub options: &'a [u8],
}

/// A TCP packet.
pub fn tcp(header: Ip, fields: Tcp<'_>, payload: &[u8]) -> Vec<u8> {
    let header_len = tcp::MIN_HEADER_LEN + fields.options.len().div_ceil(4) * 4;
    let mut s = vec![0; header_len];
    put16(&mut s, 0, fields.sport);
    put16(&mut s, 2, fields.dport);
    s[4..8].copy_from_slice(&fields.seq.to_be_bytes());
    s[8..12].copy_from_slice(&fields.ack.to_be_bytes());
    s[12] = (header_len as u8 / 4) << 4;
    s[13] = fields.flags;
    put16(&mut s, 14, fields.window);
    s[20..20 + fields.options.len()].copy_from_slice(fields.options);
    s.extend_from_slice(payload);
    let mut p = ip(Ip { protocol: protocol::TCP, ..header }, &s);
    finish_transport(&mut p);
    p
}

/// An ICMP or ICMPv6 message: type, code, the four bytes after the checksum, and the rest. The
/// header's family decides which.
pub fn icmp(header: Ip, kind: u8, code: u8, rest: [u8; 4], body: &[u8]) -> Vec<u8> {
    let mut m = Vec::with_capacity(8 + body.len());
    m.extend([kind, code, 0, 0]);
    m.extend(rest);
    m.extend_from_slice(body);
    let protocol = if header.src.is_v4() { protocol::ICMP } else { protocol::ICMPV6 };
    let mut p = ip(Ip { protocol, ..header }, &m);
    finish_transport(&mut p);
    p
}

/// An echo request or reply.
pub fn echo(header: Ip, request: bool, id: u16, seq: u16, body: &[u8]) -> Vec<u8> {
    let kind = match (header.src.is_v4(), request) {
        (true, true) => crate::icmp::ECHO_REQUEST,
        (true, false) => crate::icmp::ECHO_REPLY,
        (false, true) => crate::icmpv6::ECHO_REQUEST,
        (false, false) => crate::icmpv6::ECHO_REPLY,
    };
    let (i, s) = (id.to_be_bytes(), seq.to_be_bytes());
    icmp(header, kind, 0, [i[0], i[1], s[0], s[1]], body)
}
