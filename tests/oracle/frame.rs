//! Builds frames from their description.
//!
//! Layers, from the outside in; a value is a decimal or `0x` number or a variable, or several of
//! them joined by `+`; `$n` counts repetitions from zero.
//!
//! ```text
//! eth SRC > DST [type N] [vlan N]      default: the sender's and the gateway's link address
//! arp request|reply SPA > TPA          arp from the sender's link address
//! ip SRC > DST [ttl N] [tos N] [id N] [df] [mf] [off N] [proto N] [len N] [ihl N] [ver N]
//!              [opts HEX] [flow N] [cksum bad|N]
//! reply [the same keys]                the last packet that left by this interface, turned round
//! hop|dst|route|ah [HEX]               IPv6 extension header with these bytes behind the length
//! tcp [S > D] FLAGS [seq N] [ack N] [win N] [urg N] [mss N] [ws N] [sackok] [ts A:B]
//!              [sack A-B[,C-D…]] [opts HEX] [doff N] [res N] [short N] [cksum bad|N]
//!              FLAGS: of SAFRPUEC, or none; N bytes of it are there if it is short
//! udp [S > D] [len N] [cksum bad|N]
//! icmp KIND[/CODE] [id N] [seq N] [mtu N] [ptr N] [gw A] [rest HEX] [target A] [slla]
//!              [cksum bad|N]           ICMPv6 inside IPv6; KIND a number, echo, pong
//! proto N                              any protocol, its bytes follow
//! data N · zeros N · text WORD · hex HEX    payload
//! message NAME                         payload: a message of the case's
//! quote [IFACE] [first N] [edit AT=HEX]  the last packet that left by IFACE (this one by default)
//! raw HEX                              a whole frame
//! slice A..B                           last: the fragment with these bytes of the IP payload
//! cut N · pad N · poke AT=HEX          last: shorten, lengthen, overwrite the packet
//! ```

mod edit;
mod transport;

pub use edit::hex;

use crate::topology::{Interface, Topology};
use edit::{edited, overwrite};
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use tidegate_packet::{Addr, MacAddr, Parsed, Transport, checksum, ethernet, protocol};
use transport::{Sum, next_sequence, word};

/// What a frame's description may refer to.
pub struct Context<'a> {
    /// The network.
    pub topology: &'a Topology,
    /// The last IP packet that left by each interface.
    pub emitted: HashMap<String, Vec<u8>>,
    /// Messages with their names.
    pub messages: &'a [(String, String)],
    /// Variables.
    pub variables: HashMap<String, String>,
    /// Ports and ICMP identifiers that the case spells out: nobody may rename these.
    pub known: BTreeSet<u16>,
    /// The IP identification of the next packet, where the case gives none.
    pub next_id: u16,
}

/// A description being turned into bytes.
struct Builder<'a, 'b> {
    context: &'a mut Context<'b>,
    interface: &'a Interface,
    repetition: u32,
}

/// One layer's words, read from left to right.
struct Words<'a>(&'a [String]);

/// Addresses of the packet around a transport header.
#[derive(Copy, Clone)]
struct Around {
    src: Addr,
    dst: Addr,
    turned: bool,
}

impl Context<'_> {
    /// The frame that `layers` describe, as it arrives at `interface`.
    pub fn frame(
        &mut self,
        interface: &str,
        layers: &[Vec<String>],
        repetition: u32,
    ) -> Result<Vec<u8>, String> {
        let topology = self.topology;
        let interface =
            topology.interface(interface).ok_or_else(|| format!("no interface {interface}"))?;
        Builder { context: self, interface, repetition }.frame(layers)
    }

    /// A field of the last packet that left by `interface`.
    pub fn field(&self, interface: &str, field: &str) -> Result<String, String> {
        let packet = self.emitted.get(interface).ok_or(format!("nothing left by {interface}"))?;
        let parsed = Parsed::parse(packet).map_err(|e| e.to_string())?;
        let (sport, dport) = parsed.ports().unwrap_or_default();
        let segment = parsed.segment(packet);
        Ok(match field {
            "src" => parsed.src.to_string(),
            "dst" => parsed.dst.to_string(),
            "sport" => sport.to_string(),
            "dport" => dport.to_string(),
            "id" => match parsed.transport {
                Transport::Icmp { id, .. } | Transport::Icmpv6 { id, .. } => id.to_string(),
                _ => return Err("not an ICMP message".into()),
            },
            "seq" => word(segment, 4)?.to_string(),
            "ack" => word(segment, 8)?.to_string(),
            "next" => next_sequence(segment)?.to_string(),
            other => return Err(format!("no field {other}")),
        })
    }
}

impl Builder<'_, '_> {
    fn frame(&mut self, layers: &[Vec<String>]) -> Result<Vec<u8>, String> {
        let mut layers = layers;
        let mut edits = Vec::new();
        while let Some((last, rest)) = layers.split_last() {
            if !matches!(last.first().map(String::as_str), Some("cut" | "pad" | "poke" | "slice")) {
                break;
            }
            edits.push(last);
            layers = rest;
        }
        let first = layers.first().and_then(|l| l.first()).ok_or("an empty frame")?;
        if first == "raw" {
            return hex(layers[0].get(1).ok_or("raw HEX")?);
        }
        let link = (first == "eth").then(|| {
            let link = &layers[0];
            layers = &layers[1..];
            link
        });
        let (mut packet, mut ethertype) = self.network(layers)?;
        for edit in edits.into_iter().rev() {
            packet = edited(packet, edit, self.repetition)?;
        }
        let (src, dst) = addresses(&packet, ethertype);
        let mut to = match dst {
            Some(IpAddr::V4(a)) if a.is_broadcast() => MacAddr::BROADCAST,
            Some(a) if a.is_multicast() => MacAddr::of_multicast(Addr::from(a)),
            None if ethertype == ethernet::ARP => MacAddr::BROADCAST,
            _ => self.interface.mac,
        };
        let mut from = self.context.topology.sender(self.interface, src);
        let mut tag = Vec::new();
        if let Some(link) = link {
            let mut words = Words(&link[1..]);
            if words.peek(1) == Some(">") {
                from = mac(words.next()?)?;
                words.next()?;
                to = mac(words.next()?)?;
            }
            while let Ok(key) = words.next() {
                match key {
                    "type" => ethertype = self.number(words.next()?)?,
                    "vlan" => {
                        tag.extend(ethernet::VLAN.to_be_bytes());
                        tag.extend(self.number::<u16>(words.next()?)?.to_be_bytes());
                    }
                    other => return Err(format!("eth {other}?")),
                }
            }
        }
        let mut frame = [to.0, from.0].concat();
        frame.extend(tag);
        frame.extend(ethertype.to_be_bytes());
        frame.extend(packet);
        Ok(frame)
    }

    /// What is behind the link header, and its EtherType.
    fn network(&mut self, layers: &[Vec<String>]) -> Result<(Vec<u8>, u16), String> {
        if layers.first().is_some_and(|l| l[0] == "arp") {
            return Ok((self.arp(&layers[0])?, ethernet::ARP));
        }
        let packet = self.layer(layers, None)?;
        let ethertype = match packet.first().map(|b| b >> 4) {
            Some(6) => ethernet::IPV6,
            _ => ethernet::IPV4,
        };
        Ok((packet, ethertype))
    }

    fn arp(&mut self, layer: &[String]) -> Result<Vec<u8>, String> {
        let mut words = Words(&layer[1..]);
        let operation = if words.next()? == "request" { 1u16 } else { 2 };
        let (sender, target) = words.pair()?.ok_or("arp request SPA > TPA")?;
        let (sender, target) = (self.address(&sender)?, self.address(&target)?);
        let mut packet = vec![0, 1, 8, 0, 6, 4];
        packet.extend(operation.to_be_bytes());
        packet.extend(self.context.topology.sender(self.interface, Some(sender.to_ip())).0);
        packet.extend(sender.v4_bytes());
        packet.extend(if operation == 1 { [0; 6] } else { self.interface.mac.0 });
        packet.extend(target.v4_bytes());
        Ok(packet)
    }

    /// `layers`, as the payload of a packet with the addresses `around`.
    fn layer(&mut self, layers: &[Vec<String>], around: Option<Around>) -> Result<Vec<u8>, String> {
        let Some((layer, inner)) = layers.split_first() else { return Ok(Vec::new()) };
        let words = Words(&layer[1..]);
        let need = || around.ok_or(format!("{} outside of ip", layer[0]));
        match layer[0].as_str() {
            "ip" => self.ip(words, inner, false),
            "reply" => self.ip(words, inner, true),
            "tcp" => self.tcp(words, inner, need()?),
            "udp" => self.udp(words, inner, need()?),
            "icmp" => self.icmp(words, inner, need()?),
            "hop" | "dst" | "route" | "ah" => self.extension(layer, inner, need()?),
            "proto" => self.layer(inner, around),
            "data" => {
                let len: u32 = self.number(layer.get(1).ok_or("data N")?)?;
                let mut bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
                bytes.extend(self.layer(inner, around)?);
                Ok(bytes)
            }
            "zeros" => {
                let len: u16 = self.number(layer.get(1).ok_or("zeros N")?)?;
                Ok([vec![0; usize::from(len)], self.layer(inner, around)?].concat())
            }
            "message" => {
                let name = layer.get(1).ok_or("message NAME")?;
                let found = self.context.messages.iter().rev().find(|(n, _)| n == name);
                let (_, text) = found.ok_or_else(|| format!("no message {name}"))?;
                Ok([text.clone().into_bytes(), self.layer(inner, around)?].concat())
            }
            "text" | "hex" => {
                let argument = layer.get(1).ok_or_else(|| format!("{} what?", layer[0]))?;
                let bytes =
                    if layer[0] == "hex" { hex(argument)? } else { argument.clone().into_bytes() };
                Ok([bytes, self.layer(inner, around)?].concat())
            }
            "quote" => self.quote(words),
            other => Err(format!("no layer {other}")),
        }
    }

    fn ip(
        &mut self,
        mut words: Words<'_>,
        inner: &[Vec<String>],
        turned: bool,
    ) -> Result<Vec<u8>, String> {
        let (src, dst) = if turned {
            let name = self.interface.name.clone();
            (self.context.field(&name, "dst")?, self.context.field(&name, "src")?)
        } else {
            words.pair()?.ok_or("ip SRC > DST")?
        };
        let around = Around { src: self.address(&src)?, dst: self.address(&dst)?, turned };
        if around.src.is_v4() != around.dst.is_v4() {
            return Err("addresses of two families".into());
        }
        let payload = self.layer(inner, Some(around))?;
        let protocol = protocol_of(inner, around.src.is_v4())?;
        if around.src.is_v4() {
            self.ipv4(words, around, protocol, &payload)
        } else {
            self.ipv6(words, around, protocol, &payload)
        }
    }

    fn ipv4(
        &mut self,
        mut words: Words<'_>,
        around: Around,
        protocol: u8,
        payload: &[u8],
    ) -> Result<Vec<u8>, String> {
        let mut header = vec![0x45, 0, 0, 0];
        header.extend(self.context.next_id.to_be_bytes());
        self.context.next_id += 1;
        header.extend([0, 0, 64, protocol, 0, 0]);
        header.extend(around.src.v4_bytes());
        header.extend(around.dst.v4_bytes());
        let (mut len, mut sum, mut first, mut flags) = (None, Sum::Right, None, 0u16);
        while let Ok(key) = words.next() {
            match key {
                "ttl" => header[8] = self.number(words.next()?)?,
                "tos" => header[1] = self.number(words.next()?)?,
                "id" => {
                    header[4..6].copy_from_slice(&self.number::<u16>(words.next()?)?.to_be_bytes());
                }
                "df" => flags |= 0x4000,
                "mf" => flags |= 0x2000,
                "evil" => flags |= 0x8000,
                "off" => flags |= self.number::<u16>(words.next()?)? / 8,
                "proto" => header[9] = self.number(words.next()?)?,
                "len" => len = Some(self.number::<u16>(words.next()?)?),
                "ihl" => first = Some((0x0f, self.number::<u8>(words.next()?)?)),
                "ver" => first = Some((0xf0, self.number::<u8>(words.next()?)? << 4)),
                "opts" => {
                    header.extend(hex(words.next()?)?);
                    header.resize(header.len().div_ceil(4) * 4, 0);
                    header[0] = 0x40 | (header.len() / 4) as u8;
                }
                "cksum" => sum = self.sum(words.next()?)?,
                other => return Err(format!("ip {other}?")),
            }
        }
        let len = len.unwrap_or((header.len() + payload.len()) as u16);
        header[2..4].copy_from_slice(&len.to_be_bytes());
        header[6..8].copy_from_slice(&flags.to_be_bytes());
        if let Some((mask, bits)) = first {
            header[0] = header[0] & !mask | bits;
        }
        let right = checksum::of(&header);
        header[10..12].copy_from_slice(&sum.apply(right).to_be_bytes());
        header.extend(payload);
        Ok(header)
    }

    fn ipv6(
        &mut self,
        mut words: Words<'_>,
        around: Around,
        protocol: u8,
        payload: &[u8],
    ) -> Result<Vec<u8>, String> {
        let mut header = vec![0x60, 0, 0, 0];
        header.extend((payload.len() as u16).to_be_bytes());
        header.extend([protocol, 64]);
        header.extend(around.src.octets());
        header.extend(around.dst.octets());
        while let Ok(key) = words.next() {
            match key {
                "ttl" => header[7] = self.number(words.next()?)?,
                "tos" => {
                    let class: u8 = self.number(words.next()?)?;
                    header[0] = 0x60 | class >> 4;
                    header[1] = header[1] & 0x0f | class << 4;
                }
                "flow" => {
                    let label: u32 = self.number(words.next()?)?;
                    header[1] = header[1] & 0xf0 | (label >> 16) as u8;
                    header[2..4].copy_from_slice(&(label as u16).to_be_bytes());
                }
                "proto" => header[6] = self.number(words.next()?)?,
                "len" => {
                    header[4..6].copy_from_slice(&self.number::<u16>(words.next()?)?.to_be_bytes());
                }
                "ver" => {
                    header[0] = header[0] & 0x0f | self.number::<u8>(words.next()?)? << 4;
                }
                other => return Err(format!("ip {other}? (IPv6)")),
            }
        }
        header.extend(payload);
        Ok(header)
    }

    /// An IPv6 extension header: the next header's number, its length, and the given bytes or
    /// padding.
    fn extension(
        &mut self,
        layer: &[String],
        inner: &[Vec<String>],
        around: Around,
    ) -> Result<Vec<u8>, String> {
        let mut content = layer.get(1).map_or(Ok(Vec::new()), |h| hex(h))?;
        let ah = layer[0] == "ah";
        if ah {
            content.resize(content.len().max(10).div_ceil(4) * 4 - 2, 0);
        } else {
            let padding = (content.len() + 2).next_multiple_of(8) - 2 - content.len();
            let padding = if content.is_empty() { 6 } else { padding };
            match padding {
                0 => {}
                1 => content.push(0),
                n => {
                    content.extend([1, n as u8 - 2]);
                    content.resize(content.len() + n - 2, 0);
                }
            }
        }
        let len = content.len() + 2;
        let mut bytes = vec![protocol_of(inner, false)?];
        bytes.push(if ah { len / 4 - 2 } else { len / 8 - 1 } as u8);
        bytes.extend(content);
        bytes.extend(self.layer(inner, Some(around))?);
        Ok(bytes)
    }

    fn quote(&mut self, mut words: Words<'_>) -> Result<Vec<u8>, String> {
        let mut interface = self.interface.name.clone();
        let (mut first, mut edits) = (usize::MAX, Vec::new());
        while let Ok(key) = words.next() {
            match key {
                "first" => first = self.number(words.next()?)?,
                "edit" => edits.push(words.next()?.to_owned()),
                name => interface = name.to_owned(),
            }
        }
        let packet = self.context.emitted.get(&interface);
        let mut bytes = packet.ok_or(format!("nothing left by {interface}"))?.clone();
        for edit in edits {
            overwrite(&mut bytes, &edit)?;
        }
        bytes.truncate(first);
        Ok(bytes)
    }

    /// Numbers and variables, joined by `+`.
    fn number<T: TryFrom<i64>>(&self, text: &str) -> Result<T, String> {
        let mut total = 0i64;
        for term in text.split('+') {
            let term = match term.strip_prefix('$') {
                Some("n") => self.repetition.to_string(),
                Some(name) => {
                    self.context.variables.get(name).ok_or(format!("${name} isn't set"))?.clone()
                }
                None => term.to_owned(),
            };
            let value = match term.strip_prefix("0x") {
                Some(digits) => i64::from_str_radix(digits, 16),
                None => term.parse(),
            };
            total += value.map_err(|_| format!("{text:?} is no number"))?;
        }
        T::try_from(total).map_err(|_| format!("{text:?} is too large"))
    }

    fn address(&self, text: &str) -> Result<Addr, String> {
        let text = match text.strip_prefix('$') {
            Some(name) => self.context.variables.get(name).ok_or(format!("${name} isn't set"))?,
            None => text,
        };
        text.parse::<IpAddr>().map(Addr::from).map_err(|_| format!("{text:?} is no address"))
    }
}

/// The protocol number of what comes next.
fn protocol_of(layers: &[Vec<String>], v4: bool) -> Result<u8, String> {
    let Some(layer) = layers.first() else { return Ok(protocol::NO_NEXT) };
    Ok(match layer[0].as_str() {
        "tcp" => protocol::TCP,
        "udp" => protocol::UDP,
        "icmp" if v4 => protocol::ICMP,
        "icmp" => protocol::ICMPV6,
        "ip" if layer.iter().any(|w| w.contains(':')) => 41,
        "ip" => 4,
        "hop" => protocol::HOPOPTS,
        "dst" => protocol::DSTOPTS,
        "route" => protocol::ROUTING,
        "ah" => protocol::AH,
        "proto" => {
            let number = layer.get(1).and_then(|n| n.parse().ok());
            number.ok_or("proto N")?
        }
        _ => 253,
    })
}

/// Source and destination, as far as the bytes have them.
fn addresses(packet: &[u8], ethertype: u16) -> (Option<IpAddr>, Option<IpAddr>) {
    let v4 = |at: usize| {
        let bytes: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
        Some(IpAddr::from(bytes))
    };
    let v6 = |at: usize| {
        let bytes: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
        Some(IpAddr::from(bytes))
    };
    match ethertype {
        ethernet::ARP => (v4(14), None),
        ethernet::IPV6 => (v6(8), v6(24)),
        _ => (v4(12), v4(16)),
    }
}

fn mac(text: &str) -> Result<MacAddr, String> {
    text.parse().map_err(|()| format!("{text:?} is no link address"))
}

impl<'a> Words<'a> {
    fn next(&mut self) -> Result<&'a str, String> {
        let (first, rest) = self.0.split_first().ok_or("something is missing")?;
        self.0 = rest;
        Ok(first)
    }

    fn peek(&self, at: usize) -> Option<&'a str> {
        self.0.get(at).map(String::as_str)
    }

    /// `A > B`, if that comes next.
    fn pair(&mut self) -> Result<Option<(String, String)>, String> {
        if self.peek(1) != Some(">") {
            return Ok(None);
        }
        let a = self.next()?.to_owned();
        self.next()?;
        Ok(Some((a, self.next()?.to_owned())))
    }
}
