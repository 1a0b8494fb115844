//! TCP, UDP and ICMP layers.

use super::{Around, Builder, Words, hex};
use tidegate_packet::{Parsed, checksum, protocol};

impl Builder<'_, '_> {
    /// Source and destination port: given, or those of the packet that is answered.
    fn ports(&mut self, words: &mut Words<'_>, around: Around) -> Result<(u16, u16), String> {
        if let Some((sport, dport)) = words.pair()? {
            let (s, d) = (self.number(&sport)?, self.number(&dport)?);
            for (text, port) in [(sport, s), (dport, d)] {
                if !text.starts_with('$') || text.starts_with("$n") {
                    self.context.known.insert(port);
                }
            }
            return Ok((s, d));
        }
        if !around.turned {
            return Err("ports: S > D".into());
        }
        let name = self.interface.name.clone();
        let sport = self.context.field(&name, "dport")?;
        let dport = self.context.field(&name, "sport")?;
        Ok((self.number(&sport)?, self.number(&dport)?))
    }

    pub(super) fn tcp(
        &mut self,
        mut words: Words<'_>,
        inner: &[Vec<String>],
        around: Around,
    ) -> Result<Vec<u8>, String> {
        let (sport, dport) = self.ports(&mut words, around)?;
        let flags = tcp_flags(words.next()?)?;
        let (mut seq, mut ack) = (1000u32, 0u32);
        if around.turned {
            let packet = &self.context.emitted[&self.interface.name];
            let parsed = Parsed::parse(packet).map_err(|e| e.to_string())?;
            if parsed.protocol == protocol::TCP {
                ack = next_sequence(parsed.segment(packet))?;
                seq = word(parsed.segment(packet), 8)?;
            }
        }
        let (mut window, mut urgent, mut reserved) = (64240u16, 0u16, 0u8);
        let (mut offset, mut sum, mut options) = (None, Sum::Right, Vec::new());
        let mut short = None;
        while let Ok(key) = words.next() {
            match key {
                "seq" => seq = self.number(words.next()?)?,
                "ack" => ack = self.number(words.next()?)?,
                "win" => window = self.number(words.next()?)?,
                "urg" => urgent = self.number(words.next()?)?,
                "res" => reserved = self.number(words.next()?)?,
                "doff" => offset = Some(self.number::<u8>(words.next()?)?),
                "mss" => {
                    options.extend([2, 4]);
                    options.extend(self.number::<u16>(words.next()?)?.to_be_bytes());
                }
                "ws" => options.extend([1, 3, 3, self.number(words.next()?)?]),
                "sackok" => options.extend([1, 1, 4, 2]),
                "ts" => {
                    let (a, b) = words.next()?.split_once(':').ok_or("ts A:B")?;
                    options.extend([1, 1, 8, 10]);
                    options.extend(self.number::<u32>(a)?.to_be_bytes());
                    options.extend(self.number::<u32>(b)?.to_be_bytes());
                }
                "sack" => {
                    let blocks: Vec<&str> = words.next()?.split(',').collect();
                    options.extend([1, 1, 5, 2 + 8 * blocks.len() as u8]);
                    for block in blocks {
                        let (from, to) = block.split_once('-').ok_or("sack A-B")?;
                        options.extend(self.number::<u32>(from)?.to_be_bytes());
                        options.extend(self.number::<u32>(to)?.to_be_bytes());
                    }
                }
                "opts" => options.extend(hex(words.next()?)?),
                "short" => short = Some(self.number::<u32>(words.next()?)? as usize),
                "cksum" => sum = self.sum(words.next()?)?,
                other => return Err(format!("tcp {other}?")),
            }
        }
        options.resize(options.len().next_multiple_of(4), 0);
        let mut segment = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
        segment.extend(seq.to_be_bytes());
        segment.extend(ack.to_be_bytes());
        segment.push(offset.unwrap_or((5 + options.len() / 4) as u8) << 4 | reserved);
        segment.push(flags);
        segment.extend(window.to_be_bytes());
        segment.extend([0, 0]);
        segment.extend(urgent.to_be_bytes());
        segment.extend(options);
        segment.extend(self.layer(inner, Some(around))?);
        let mut segment = summed(segment, 16, around, protocol::TCP, sum);
        segment.truncate(short.unwrap_or(segment.len()));
        Ok(segment)
    }

    pub(super) fn udp(
        &mut self,
        mut words: Words<'_>,
        inner: &[Vec<String>],
        around: Around,
    ) -> Result<Vec<u8>, String> {
        let (sport, dport) = self.ports(&mut words, around)?;
        let payload = self.layer(inner, Some(around))?;
        let (mut len, mut sum) = (8 + payload.len() as u16, Sum::Right);
        while let Ok(key) = words.next() {
            match key {
                "len" => len = self.number(words.next()?)?,
                "cksum" => sum = self.sum(words.next()?)?,
                other => return Err(format!("udp {other}?")),
            }
        }
        let mut datagram = [sport.to_be_bytes(), dport.to_be_bytes(), len.to_be_bytes()].concat();
        datagram.extend([0, 0]);
        datagram.extend(payload);
        Ok(summed(datagram, 6, around, protocol::UDP, sum))
    }

    pub(super) fn icmp(
        &mut self,
        mut words: Words<'_>,
        inner: &[Vec<String>],
        around: Around,
    ) -> Result<Vec<u8>, String> {
        let v4 = around.src.is_v4();
        let (kind, code) = self.icmp_kind(words.next()?, v4)?;
        let (mut rest, mut extra, mut sum) = ([0u8; 4], Vec::new(), Sum::Right);
        let name = self.interface.name.clone();
        let answered = around.turned.then(|| self.context.emitted[&name].clone());
        if let Some(packet) = &answered {
            let parsed = Parsed::parse(packet).map_err(|e| e.to_string())?;
            rest.copy_from_slice(parsed.segment(packet).get(4..8).ok_or("nothing to answer")?);
            if inner.is_empty() {
                extra = parsed.segment(packet)[8..].to_vec();
            }
        }
        while let Ok(key) = words.next() {
            match key {
                "id" => {
                    let text = words.next()?;
                    let id: u16 = self.number(text)?;
                    if !text.starts_with('$') || text == "$n" {
                        self.context.known.insert(id);
                    }
                    rest[..2].copy_from_slice(&id.to_be_bytes());
                }
                "seq" => {
                    rest[2..].copy_from_slice(&self.number::<u16>(words.next()?)?.to_be_bytes());
                }
                "mtu" => rest = self.number::<u32>(words.next()?)?.to_be_bytes(),
                "ptr" if v4 => rest[0] = self.number(words.next()?)?,
                "ptr" => rest = self.number::<u32>(words.next()?)?.to_be_bytes(),
                "gw" => rest = self.address(words.next()?)?.v4_bytes(),
                "rest" => rest = hex(words.next()?)?.try_into().map_err(|_| "rest: four bytes")?,
                "target" => extra.extend(self.address(words.next()?)?.octets()),
                "slla" => {
                    extra.extend([1, 1]);
                    let src = Some(around.src.to_ip());
                    extra.extend(self.context.topology.sender(self.interface, src).0);
                }
                "cksum" => sum = self.sum(words.next()?)?,
                other => return Err(format!("icmp {other}?")),
            }
        }
        let mut message = vec![kind, code, 0, 0];
        message.extend(rest);
        message.extend(extra);
        message.extend(self.layer(inner, None)?);
        let protocol = if v4 { protocol::ICMP } else { protocol::ICMPV6 };
        Ok(summed(message, 2, around, protocol, sum))
    }

    /// `KIND` or `KIND/CODE`.
    fn icmp_kind(&self, text: &str, v4: bool) -> Result<(u8, u8), String> {
        let (kind, code) = text.split_once('/').unwrap_or((text, "0"));
        let kind = match (kind, v4) {
            ("echo", true) => 8,
            ("echo", false) => 128,
            ("pong", true) => 0,
            ("pong", false) => 129,
            (number, _) => self.number(number)?,
        };
        Ok((kind, self.number(code)?))
    }

    pub(super) fn sum(&self, text: &str) -> Result<Sum, String> {
        Ok(if text == "bad" { Sum::Wrong } else { Sum::Is(self.number(text)?) })
    }
}

/// What goes into a checksum field.
#[derive(Copy, Clone)]
pub enum Sum {
    Right,
    Wrong,
    Is(u16),
}

impl Sum {
    pub fn apply(self, right: u16) -> u16 {
        match self {
            Self::Right => right,
            Self::Wrong => right ^ 0x5a5a,
            Self::Is(value) => value,
        }
    }
}

/// `segment` with its checksum written at `at`.
fn summed(mut segment: Vec<u8>, at: usize, around: Around, protocol: u8, sum: Sum) -> Vec<u8> {
    let right = match protocol {
        protocol::ICMP => checksum::of(&segment),
        _ => checksum::transport(around.src, around.dst, protocol, &segment),
    };
    let right = if right == 0 && protocol == protocol::UDP { 0xffff } else { right };
    segment[at..at + 2].copy_from_slice(&sum.apply(right).to_be_bytes());
    segment
}

fn tcp_flags(text: &str) -> Result<u8, String> {
    if text == "none" {
        return Ok(0);
    }
    text.chars().try_fold(0, |flags, c| {
        let bit = "FSRPAUEC".find(c).ok_or(format!("{text:?} are no TCP flags"))?;
        Ok(flags | 1 << bit)
    })
}

pub fn word(segment: &[u8], at: usize) -> Result<u32, String> {
    let bytes = segment.get(at..at + 4).ok_or("no TCP header")?;
    Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// The sequence number after a TCP segment.
pub fn next_sequence(segment: &[u8]) -> Result<u32, String> {
    let seq = word(segment, 4)?;
    let header = tidegate_packet::tcp::Header::new_checked(segment).ok_or("no TCP header")?;
    let flags = header.flags();
    let counted = u32::from(flags & 2 != 0) + u32::from(flags & 1 != 0);
    Ok(seq.wrapping_add(counted + (segment.len() - header.header_len()) as u32))
}
