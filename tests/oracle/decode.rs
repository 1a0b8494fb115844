//! Takes frames apart into named fields, without the code under test: it has to read what a
//! faulty gateway sends, too, and be a second opinion on the rest.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// A field's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Has to be the same on both sides.
    Text(String),
    /// A port or ICMP identifier; the protocol, too, since each has its own numbers.
    Port(u8, u16),
    /// An IPv4 identification.
    IpId {
        /// The number.
        id: u16,
        /// The packet's TTL, which tells one that was forwarded.
        ttl: u8,
        /// Whether it mustn't be fragmented: then a kernel's own packets carry zero.
        df: bool,
    },
    /// An IPv6 fragment's identification.
    FragmentId(u32),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Port(_, port) => write!(f, "{port}"),
            Self::IpId { id, .. } => write!(f, "{id:#06x}"),
            Self::FragmentId(id) => write!(f, "{id:#x}"),
        }
    }
}

/// A frame's fields in order, and the frame in one line in the notation of case files.
#[derive(Clone, Debug, Default)]
pub struct Decoded {
    /// Names and values.
    pub fields: Vec<(String, Value)>,
    /// For people.
    pub summary: String,
}

/// Where the decoder stands: the frame's own packet or one quoted by it.
struct Decoder {
    out: Decoded,
    prefix: &'static str,
}

/// Takes `frame` apart.
pub fn decode(frame: &[u8]) -> Decoded {
    let mut d = Decoder { out: Decoded::default(), prefix: "" };
    if frame.len() < 14 {
        d.text("frame", hex(frame));
        return d.out;
    }
    d.text("eth.dst", mac(&frame[..6]));
    d.text("eth.src", mac(&frame[6..12]));
    let mut at = 12;
    while frame[at..].len() >= 6 && matches!(frame[at..at + 2], [0x81, 0] | [0x88, 0xa8]) {
        d.text("eth.tag", hex(&frame[at..at + 4]));
        at += 4;
    }
    d.text("eth.type", hex(&frame[at..at + 2]));
    let packet = &frame[at + 2..];
    match [frame[at], frame[at + 1]] {
        [0x08, 0x00] => d.ipv4(packet),
        [0x86, 0xdd] => d.ipv6(packet),
        [0x08, 0x06] if packet.len() >= 28 => d.arp(packet),
        _ => d.text("payload", hex(packet)),
    }
    d.out
}

impl Decoder {
    fn put(&mut self, name: &str, value: Value) {
        let name = format!("{}{name}", self.prefix);
        let again = self.out.fields.iter().filter(|(n, _)| n.split('#').next() == Some(&name));
        let name = match again.count() {
            0 => name,
            n => format!("{name}#{}", n + 1),
        };
        self.out.fields.push((name, value));
    }

    fn text(&mut self, name: &str, value: impl ToString) {
        self.put(name, Value::Text(value.to_string()));
    }

    fn say(&mut self, words: impl fmt::Display) {
        if !self.out.summary.is_empty() && !self.out.summary.ends_with(' ') {
            self.out.summary.push(' ');
        }
        self.out.summary.push_str(&words.to_string());
    }

    fn arp(&mut self, p: &[u8]) {
        self.text("arp.header", hex(&p[..6]));
        self.text("arp.operation", p[7]);
        self.text("arp.sha", mac(&p[8..14]));
        self.text("arp.spa", v4(&p[14..18]));
        self.text("arp.tha", mac(&p[18..24]));
        self.text("arp.tpa", v4(&p[24..28]));
        let operation = if p[7] == 1 { "request" } else { "reply" };
        self.say(format_args!("arp {operation} {} > {}", v4(&p[14..18]), v4(&p[24..28])));
    }

    fn ipv4(&mut self, p: &[u8]) {
        let header_len = p.first().map_or(0, |b| usize::from(b & 15) * 4);
        if header_len < 20 || p.len() < header_len {
            self.text("ip.bytes", hex(p));
            return self.say("ip cut short");
        }
        let quoted = !self.prefix.is_empty();
        let total = usize::from(be16(p, 2));
        self.text("ip.version", p[0] >> 4);
        self.text("ip.tos", p[1]);
        self.text("ip.len", total);
        let (id, ttl, word) = (be16(p, 4), p[8], be16(p, 6));
        if quoted {
            self.text("ip.id", format!("{id:#06x}"));
        } else {
            self.put("ip.id", Value::IpId { id, ttl, df: word & 0x4000 != 0 });
        }
        self.text("ip.evil", word >> 15);
        self.text("ip.df", word >> 14 & 1);
        self.text("ip.mf", word >> 13 & 1);
        self.text("ip.offset", (word & 0x1fff) * 8);
        self.text("ip.ttl", ttl);
        self.text("ip.protocol", p[9]);
        self.text("ip.checksum", verdict(sum(0, &p[..header_len])));
        self.text("ip.src", v4(&p[12..16]));
        self.text("ip.dst", v4(&p[16..20]));
        self.text("ip.options", timeless(&p[20..header_len]));
        self.say(format_args!("ip {} > {} ttl {ttl}", v4(&p[12..16]), v4(&p[16..20])));
        for (name, value) in [("tos", u16::from(p[1])), ("off", (word & 0x1fff) * 8)] {
            if value != 0 {
                self.say(format_args!("{name} {value}"));
            }
        }
        for (bit, name) in [(0x4000, "df"), (0x2000, "mf")] {
            if word & bit != 0 {
                self.say(name);
            }
        }
        if header_len > 20 {
            self.say(format_args!("opts {}", hex(&p[20..header_len])));
        }
        let payload = &p[header_len..total.clamp(header_len, p.len())];
        let behind = &p[header_len + payload.len()..];
        let whole = header_len + payload.len() == total && word & 0x3fff == 0;
        let pseudo = sum(0, &p[12..20]) + u64::from(p[9]) + (total - header_len.min(total)) as u64;
        if word & 0x1fff == 0 {
            self.transport(p[9], payload, whole.then_some(pseudo), true);
        } else {
            self.payload(payload);
        }
        self.text("trailer", hex(behind));
    }

    fn ipv6(&mut self, p: &[u8]) {
        if p.len() < 40 {
            self.text("ip.bytes", hex(p));
            return self.say("ip cut short");
        }
        let total = 40 + usize::from(be16(p, 4));
        self.text("ip.version", p[0] >> 4);
        self.text("ip.class", p[0] << 4 | p[1] >> 4);
        self.text("ip.label", u32::from(p[1] & 15) << 16 | u32::from(be16(p, 2)));
        self.text("ip.len", total);
        self.text("ip.ttl", p[7]);
        self.text("ip.src", v6(&p[8..24]));
        self.text("ip.dst", v6(&p[24..40]));
        self.say(format_args!("ip {} > {} ttl {}", v6(&p[8..24]), v6(&p[24..40]), p[7]));
        let end = total.min(p.len());
        let (mut next, mut at, mut whole, mut later) = (p[6], 40, total == end, false);
        while !later && matches!(next, 0 | 43 | 44 | 51 | 60) && at + 8 <= end {
            let len = match next {
                44 => 8,
                51 => (usize::from(p[at + 1]) + 2) * 4,
                _ => (usize::from(p[at + 1]) + 1) * 8,
            };
            let len = len.min(end - at);
            if next == 44 {
                let word = be16(p, at + 2);
                self.text("frag.next", p[at]);
                self.text("frag.offset", word & 0xfff8);
                self.text("frag.more", word & 7);
                let id = [p[at + 4], p[at + 5], p[at + 6], p[at + 7]];
                self.put("frag.id", Value::FragmentId(u32::from_be_bytes(id)));
                let mf = if word & 1 == 1 { " mf" } else { "" };
                self.say(format_args!("off {}{mf}", word & 0xfff8));
                whole = false;
                later = word & 0xfff8 != 0;
            } else {
                self.text(&format!("extension.{next}"), hex(&p[at..at + len]));
                self.say(format_args!("ext {next}"));
            }
            next = p[at];
            at += len;
        }
        self.text("ip.protocol", next);
        let payload = &p[at..end];
        let pseudo = sum(0, &p[8..40]) + u64::from(next) + payload.len() as u64;
        if later {
            self.payload(payload);
        } else {
            self.transport(next, payload, whole.then_some(pseudo), false);
        }
        self.text("trailer", hex(&p[end..]));
    }

    /// `pseudo` is the sum of the pseudo-header, if the segment is there in full.
    fn transport(&mut self, protocol: u8, s: &[u8], pseudo: Option<u64>, v4: bool) {
        self.say("|");
        match protocol {
            6 if s.len() >= 8 => self.tcp(s, pseudo),
            17 if s.len() >= 8 => self.udp(s, pseudo),
            1 if v4 && s.len() >= 8 => self.icmp(s, pseudo.map(|_| 0), true),
            58 if !v4 && s.len() >= 8 => self.icmp(s, pseudo, false),
            _ => {
                self.say(format_args!("proto {protocol}"));
                self.payload(s);
            }
        }
    }

    fn tcp(&mut self, s: &[u8], pseudo: Option<u64>) {
        let (sport, dport) = (be16(s, 0), be16(s, 2));
        self.put("tcp.sport", Value::Port(6, sport));
        self.put("tcp.dport", Value::Port(6, dport));
        self.text("tcp.seq", be32(s, 4));
        self.say(format_args!("tcp {sport} > {dport}"));
        if s.len() < 20 {
            self.text("tcp.bytes", hex(&s[8..]));
            return self.say("cut short");
        }
        let flags = s[13];
        let letters: String = "FSRPAUEC"
            .chars()
            .enumerate()
            .filter(|(i, _)| flags >> i & 1 == 1)
            .map(|x| x.1)
            .collect();
        self.text("tcp.ack", be32(s, 8));
        self.text("tcp.offset", s[12] >> 4);
        self.text("tcp.reserved", s[12] & 15);
        self.text("tcp.flags", &letters);
        self.text("tcp.window", be16(s, 14));
        self.checksum("tcp.checksum", s, 16, pseudo, &[sport, dport]);
        self.text("tcp.urgent", be16(s, 18));
        let header_len = (usize::from(s[12] >> 4) * 4).clamp(20, s.len());
        self.text("tcp.options", hex(&s[20..header_len]));
        self.say(format_args!("{letters} seq {} ack {}", be32(s, 4), be32(s, 8)));
        self.say(format_args!("win {}", be16(s, 14)));
        self.payload(&s[header_len..]);
    }

    fn udp(&mut self, s: &[u8], pseudo: Option<u64>) {
        let (sport, dport) = (be16(s, 0), be16(s, 2));
        self.put("udp.sport", Value::Port(17, sport));
        self.put("udp.dport", Value::Port(17, dport));
        self.text("udp.len", be16(s, 4));
        if be16(s, 6) == 0 {
            self.text("udp.checksum", "none");
        } else {
            self.checksum("udp.checksum", s, 6, pseudo, &[sport, dport]);
        }
        self.say(format_args!("udp {sport} > {dport}"));
        self.payload(&s[8..]);
    }

    fn icmp(&mut self, s: &[u8], pseudo: Option<u64>, v4: bool) {
        let (kind, code) = (s[0], s[1]);
        let name = if v4 { "icmp" } else { "icmp6" };
        let query = if v4 {
            matches!(kind, 0 | 8 | 13..=18)
        } else {
            matches!(kind, 128 | 129 | 139 | 140)
        };
        let error = if v4 { matches!(kind, 3 | 4 | 5 | 11 | 12) } else { kind < 128 };
        self.text(&format!("{name}.type"), kind);
        self.text(&format!("{name}.code"), code);
        self.say(format_args!("{name} {kind}/{code}"));
        if query {
            self.put(&format!("{name}.id"), Value::Port(s_protocol(v4), be16(s, 4)));
            self.text(&format!("{name}.seq"), be16(s, 6));
            self.say(format_args!("id {} seq {}", be16(s, 4), be16(s, 6)));
            self.checksum(&format!("{name}.checksum"), s, 2, pseudo, &[be16(s, 4)]);
        } else {
            self.text(&format!("{name}.rest"), hex(&s[4..8]));
            if s[4..8] != [0; 4] {
                self.say(format_args!("rest {}", hex(&s[4..8])));
            }
            self.checksum(&format!("{name}.checksum"), s, 2, pseudo, &[]);
        }
        if error && self.prefix.is_empty() {
            self.prefix = "quoted ";
            self.say("[");
            if v4 {
                self.ipv4(&s[8..])
            } else {
                self.ipv6(&s[8..])
            }
            self.prefix = "";
            self.say("]");
        } else if kind == 14 && v4 && s.len() >= 20 {
            // Receive and transmit time of day.
            self.text("icmp.originate", hex(&s[8..12]));
            self.text("icmp.times", if s[12..16] == s[16..20] { "equal" } else { "differ" });
        } else {
            self.payload(&s[8..]);
        }
    }

    /// A whole segment's checksum is right, or off by something; one that was cut is compared as
    /// it stands, with the ports taken out of it since these may differ between the sides.
    fn checksum(&mut self, name: &str, s: &[u8], at: usize, pseudo: Option<u64>, ports: &[u16]) {
        let text = match pseudo {
            Some(pseudo) => verdict(pseudo + sum(0, s)),
            None => {
                let ports: u64 = ports.iter().map(|p| u64::from(*p)).sum();
                format!("{:#06x} without ports", fold(u64::from(be16(s, at)) + ports))
            }
        };
        if text.starts_with("off") {
            self.say("cksum bad");
        }
        self.text(name, text);
    }

    fn payload(&mut self, bytes: &[u8]) {
        self.text("payload.len", bytes.len());
        self.text("payload", hex(bytes));
        if !bytes.is_empty() {
            self.say(format_args!("| data {}", bytes.len()));
        }
    }
}

/// IPv4 options in hexadecimal, without the times that a time stamp option (RFC 791) has got.
fn timeless(options: &[u8]) -> String {
    let mut text = String::new();
    let mut at = 0;
    while let Some(&kind) = options.get(at) {
        let len =
            if kind < 2 { 1 } else { options.get(at + 1).map_or(1, |l| usize::from(*l).max(2)) };
        let option = &options[at..options.len().min(at + len)];
        if kind == 68 && option.len() >= 4 && option[3] & 15 < 4 {
            text.push_str(&hex(&option[..4]));
            let with_address = option[3] & 15 != 0;
            for (cell, bytes) in option[4..].chunks(4).enumerate() {
                let is_time = !with_address || cell % 2 == 1;
                let filled = bytes.iter().any(|b| *b != 0);
                text += &if is_time && filled { " time ".to_owned() } else { hex(bytes) };
            }
        } else {
            text.push_str(&hex(option));
        }
        at += option.len();
    }
    text
}

fn s_protocol(v4: bool) -> u8 {
    if v4 { 1 } else { 58 }
}

fn verdict(total: u64) -> String {
    match fold(total) {
        0xffff => "right".to_owned(),
        wrong => format!("off by {wrong:#06x}"),
    }
}

/// The plain ones-complement sum (RFC 1071).
fn sum(start: u64, bytes: &[u8]) -> u64 {
    bytes.chunks(2).fold(start, |total, pair| {
        total + u64::from(pair[0]) * 256 + pair.get(1).map_or(0, |b| u64::from(*b))
    })
}

/// To sixteen bits; both spellings of zero become one.
fn fold(mut total: u64) -> u16 {
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    if total == 0 { 0xffff } else { total as u16 }
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn v4(bytes: &[u8]) -> Ipv4Addr {
    Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3])
}

fn v6(bytes: &[u8]) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&bytes[..16]);
    octets.into()
}

fn mac(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":")
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
