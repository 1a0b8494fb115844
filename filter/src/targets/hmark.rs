//! `HMARK`: a mark from a hash of addresses, ports and protocol, the same for both directions and the
//! same as the kernel's.

use std::fmt::Write as _;

use tidegate_packet::jhash::{jhash2, scale};
use tidegate_packet::{Addr, Family, icmp, ipv6, protocol};

use crate::ast::OptionAst;
use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Next, Spec, Target, TargetSpec, value};
use crate::query::Query;
use crate::values::{prefix_len, save_option};

pub(crate) static SPEC: TargetSpec = TargetSpec {
    options: &[
        value(&["hmark-tuple"]),
        value(&["hmark-src-prefix"]),
        value(&["hmark-dst-prefix"]),
        value(&["hmark-sport-mask"]),
        value(&["hmark-dport-mask"]),
        value(&["hmark-spi-mask"]),
        value(&["hmark-sport"]),
        value(&["hmark-dport"]),
        value(&["hmark-spi"]),
        value(&["hmark-proto-mask"]),
        value(&["hmark-rnd"]),
        value(&["hmark-mod"]),
        value(&["hmark-offset"]),
    ],
    ..Spec::new("HMARK", build)
};

/// What `--hmark-tuple` names, and the option that each part stands for. A part may be cut short: the
/// first that fits counts.
const PARTS: [(&str, &str); 7] = [
    ("ct", ""),
    ("src", "hmark-src-prefix"),
    ("dst", "hmark-dst-prefix"),
    ("sport", "hmark-sport-mask"),
    ("dport", "hmark-dport-mask"),
    ("spi", "hmark-spi-mask"),
    ("proto", "hmark-proto-mask"),
];

/// Options that were given, or that a part of the tuple stands for, have a value.
#[derive(Debug, Default)]
struct Asked {
    source: Option<u128>,
    destination: Option<u128>,
    sport_mask: Option<u16>,
    dport_mask: Option<u16>,
    spi_mask: Option<u32>,
    sport: Option<u16>,
    dport: Option<u16>,
    spi: Option<u32>,
    proto_mask: Option<u16>,
    seed: Option<u32>,
    modulus: Option<u32>,
    offset: Option<u32>,
    connection: bool,
}

#[derive(Debug)]
struct HashMark {
    family: Family,
    asked: Asked,
    /// Ports, source above destination, under this mask, and with these bits set.
    port_mask: u32,
    port_set: u32,
    seed: u32,
    modulus: u32,
}

/// What is hashed.
#[derive(Debug, Default)]
struct Tuple {
    source: u32,
    destination: u32,
    ports: u32,
    protocol: u8,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Target>> {
    let mut asked = Asked::default();
    let mut implied: Vec<&str> = Vec::new();
    for option in &given.extension.options {
        if implied.contains(&option.opt.names[0]) {
            let name = option.opt.names[0];
            return Err(given.wrong(format!(
                "--{name} may be given only once, and --hmark-tuple means it too"
            )));
        }
        asked.add(given, option, &mut implied)?;
    }
    let missing = |name: &str| given.wrong(format!("--{name} must be given"));
    let Asked { sport_mask, dport_mask, spi_mask, sport, dport, spi, .. } = asked;
    let seed = asked.seed.ok_or_else(|| missing("hmark-rnd"))?;
    let modulus = asked.modulus.ok_or_else(|| missing("hmark-mod"))?;
    if spi_mask.is_some() && (sport_mask.is_some() || dport_mask.is_some())
        || spi.is_some() && (sport.is_some() || dport.is_some())
    {
        return Err(given.wrong("either ports or the index of IPsec, not both"));
    }
    let something = asked.connection
        || asked.source.is_some()
        || asked.destination.is_some()
        || asked.proto_mask.is_some()
        || [sport_mask, dport_mask, sport, dport].iter().any(Option::is_some)
        || [spi_mask, spi].iter().any(Option::is_some);
    if !something {
        return Err(missing("hmark-tuple"));
    }
    let both = |source: Option<u16>, destination: Option<u16>| {
        u32::from(source.unwrap_or(0)) << 16 | u32::from(destination.unwrap_or(0))
    };
    Ok(Box::new(HashMark {
        family: given.family,
        port_mask: spi_mask.unwrap_or_else(|| both(sport_mask, dport_mask)),
        port_set: spi.unwrap_or_else(|| both(sport, dport)),
        seed,
        modulus,
        asked,
    }))
}

impl Asked {
    fn add(
        &mut self,
        given: &Given<'_>,
        option: &OptionAst<'_>,
        implied: &mut Vec<&'static str>,
    ) -> Outcome<()> {
        let Some(word) = option.values.first() else { return Ok(()) };
        let number = |least: u64| word.number(least..=u64::from(u32::MAX)).map(|n| n as u32);
        let short = || word.number(0..=u64::from(u16::MAX)).map(|n| n as u16);
        let mask = || {
            let mask = word.mask(given.family)?;
            match prefix_len(mask, given.family) {
                Some(_) => Ok(mask),
                None => Err(word.wrong("iptables would lose a mask with holes")),
            }
        };
        match option.opt.names[0] {
            "hmark-tuple" => {
                for part in word.list() {
                    let named = PARTS.iter().find(|(name, _)| {
                        let cut = name.get(..part.text.len());
                        !part.text.is_empty()
                            && cut.is_some_and(|cut| cut.eq_ignore_ascii_case(&part.text))
                    });
                    let Some((name, stands_for)) = named else {
                        return Err(part
                            .wrong(format!("`{}` is no part of a tuple", part.text))
                            .help("expected src, dst, sport, dport, spi, proto or ct"));
                    };
                    self.whole(name);
                    implied.push(stands_for);
                }
            }
            "hmark-src-prefix" => self.source = Some(mask()?),
            "hmark-dst-prefix" => self.destination = Some(mask()?),
            "hmark-sport-mask" => self.sport_mask = Some(short()?),
            "hmark-dport-mask" => self.dport_mask = Some(short()?),
            "hmark-spi-mask" => self.spi_mask = Some(number(0)?),
            "hmark-sport" => self.sport = Some(short()?),
            "hmark-dport" => self.dport = Some(short()?),
            "hmark-spi" => self.spi = Some(number(0)?),
            "hmark-proto-mask" => self.proto_mask = Some(short()?),
            "hmark-rnd" => self.seed = Some(number(0)?),
            "hmark-mod" => self.modulus = Some(number(1)?),
            _ => self.offset = Some(number(0)?),
        }
        Ok(())
    }

    /// A part of the tuple: all of its bits.
    fn whole(&mut self, part: &str) {
        match part {
            "src" => self.source = Some(u128::MAX),
            "dst" => self.destination = Some(u128::MAX),
            "sport" => self.sport_mask = Some(u16::MAX),
            "dport" => self.dport_mask = Some(u16::MAX),
            "spi" => self.spi_mask = Some(u32::MAX),
            "proto" => self.proto_mask = Some(u16::MAX),
            _ => self.connection = true,
        }
    }
}

impl HashMark {
    /// An address under its mask, IPv6's words folded into one.
    fn address(&self, addr: Addr, mask: Option<u128>) -> u32 {
        let bits = addr.bits() & mask.unwrap_or(0);
        match self.family {
            Family::V4 => bits as u32,
            Family::V6 => [96, 64, 32, 0].into_iter().fold(0, |sum, at| sum ^ (bits >> at) as u32),
        }
    }

    /// Ports in an order that doesn't depend on the direction.
    fn ports(&self, ports: u32) -> u32 {
        let ports = ports & self.port_mask | self.port_set;
        let (source, destination) = (ports >> 16, ports & 0xffff);
        source.max(destination) << 16 | source.min(destination)
    }

    fn hash(&self, tuple: &Tuple) -> u32 {
        let Tuple { source, destination, ports, protocol } = *tuple;
        let (low, high) = (source.min(destination), source.max(destination));
        let mask = u32::from(self.asked.proto_mask.unwrap_or(0));
        let hash = jhash2(&[low, high, ports], self.seed) ^ (u32::from(protocol) & mask);
        scale(hash, self.modulus).wrapping_add(self.asked.offset.unwrap_or(0))
    }

    /// The connection's ends as they are on the wire, or `None` without a connection: the kernel doesn't
    /// track for this rule's sake.
    fn of_connection(&self, query: &Query<'_>) -> Option<Tuple> {
        let connection = query.connection?;
        let (original, reply) = (&connection.original, &connection.reply);
        let ports = u32::from(original.sport) << 16 | u32::from(reply.sport);
        Some(Tuple {
            source: self.address(original.src, self.asked.source),
            destination: self.address(reply.src, self.asked.destination),
            ports: match original.protocol {
                protocol::ICMP => 0,
                _ => self.ports(ports),
            },
            protocol: original.protocol,
        })
    }

    /// The packet's own ends; of an ICMP error those of the packet it quotes, turned round by the sort
    /// above. `None` if that can't be read.
    fn of_packet(&self, query: &Query<'_>) -> Option<Tuple> {
        let bytes = query.bytes.get(..query.packet.len as usize)?;
        match self.family {
            Family::V4 => self.of_ipv4(bytes),
            Family::V6 => self.of_ipv6(bytes),
        }
    }

    fn of_ipv4(&self, bytes: &[u8]) -> Option<Tuple> {
        let header_len = |packet: &[u8]| usize::from(packet[0] & 0xf) * 4;
        let mut packet = bytes;
        if packet.get(9) == Some(&protocol::ICMP) {
            let behind = header_len(packet);
            let message =
                packet.get(behind..).and_then(|m| m.first_chunk::<{ icmp::HEADER_LEN }>());
            if message.is_some_and(|m| icmp::is_error(m[0])) {
                packet = packet.get(behind + icmp::HEADER_LEN..)?;
            }
        }
        let header = packet.first_chunk::<20>()?;
        let word = |at: usize| [header[at], header[at + 1], header[at + 2], header[at + 3]];
        let [_, _, _, _, _, _, high, low, ..] = *header;
        // Neither the first nor a later fragment: all of them have to get the same mark.
        let fragment = u16::from_be_bytes([high, low]) & 0x3fff != 0;
        let protocol = header[9];
        let ports = match protocol {
            protocol::ICMP => 0,
            _ if fragment => 0,
            _ => self.ports_at(packet, header_len(header), protocol),
        };
        Some(Tuple {
            source: self.address(Addr::from_v4_bytes(word(12)), self.asked.source),
            destination: self.address(Addr::from_v4_bytes(word(16)), self.asked.destination),
            ports,
            protocol,
        })
    }

    fn of_ipv6(&self, bytes: &[u8]) -> Option<Tuple> {
        let mut packet = bytes;
        let Some(mut end) = Chain::of(packet) else { return Some(Tuple::default()) };
        if !end.fragment && end.protocol == protocol::ICMPV6 {
            let message = packet.get(end.at..).and_then(|m| m.first_chunk::<8>());
            // Kinds below 128 are errors (RFC 4443 section 2.1), and 0 is reserved.
            if message.is_some_and(|m| (1..128).contains(&m[0])) {
                packet = packet.get(end.at + 8..)?;
                end = Chain::of(packet)?;
            }
        }
        let header = ipv6::Header::new_checked(packet)?;
        let ports = match end.protocol {
            protocol::ICMPV6 => 0,
            _ if end.fragment => 0,
            protocol => self.ports_at(packet, end.at, protocol),
        };
        Some(Tuple {
            source: self.address(header.src(), self.asked.source),
            destination: self.address(header.dst(), self.asked.destination),
            ports,
            protocol: end.protocol,
        })
    }

    /// Ports, or the index where IPsec has it; zero if the packet ends before.
    fn ports_at(&self, packet: &[u8], header: usize, protocol: u8) -> u32 {
        let at = match protocol {
            protocol::TCP
            | protocol::UDP
            | protocol::DCCP
            | protocol::ESP
            | protocol::SCTP
            | protocol::UDPLITE => header,
            protocol::AH => header + 4,
            _ => return 0,
        };
        let found = packet.get(at..).and_then(|rest| rest.first_chunk::<4>());
        found.map_or(0, |bytes| self.ports(u32::from_be_bytes(*bytes)))
    }

    /// What `save` and `list` print between the prefixes and the seed: name, value and the digits that
    /// it is saved with.
    fn numbers(&self) -> impl Iterator<Item = (&'static str, u32, usize)> {
        let Asked { sport_mask, dport_mask, spi_mask, sport, dport, spi, proto_mask, .. } =
            self.asked;
        [
            ("sport-mask", sport_mask.map(u32::from), 6),
            ("dport-mask", dport_mask.map(u32::from), 6),
            ("spi-mask", spi_mask, 10),
            ("sport", sport.map(u32::from), 6),
            ("dport", dport.map(u32::from), 6),
            ("spi", spi, 10),
            ("proto-mask", proto_mask.map(u32::from), 4),
        ]
        .into_iter()
        .filter_map(|(name, value, width)| value.map(|value| (name, value, width)))
    }

    fn prefixes(&self) -> impl Iterator<Item = (&'static str, u128)> {
        let prefixes = [("src-prefix", self.asked.source), ("dst-prefix", self.asked.destination)];
        prefixes.into_iter().filter_map(|(name, mask)| mask.map(|mask| (name, mask)))
    }

    fn prefix(&self, mask: u128) -> u8 {
        prefix_len(mask, self.family).unwrap_or(0)
    }
}

/// The end of an IPv6 packet's chain of headers; an authentication header ends it too.
struct Chain {
    protocol: u8,
    at: usize,
    fragment: bool,
}

impl Chain {
    fn of(packet: &[u8]) -> Option<Self> {
        ipv6::Header::new_checked(packet)?;
        let mut chain = ipv6::Extensions::new(packet);
        let mut fragment = false;
        loop {
            let (protocol, at) = (chain.protocol(), chain.offset());
            if protocol == protocol::AH {
                return Some(Self { protocol, at, fragment });
            }
            match chain.next() {
                Some(extension) => fragment |= extension.kind == protocol::FRAGMENT,
                None if chain.truncated() => return None,
                None => return Some(Self { protocol, at, fragment }),
            }
        }
    }
}

impl Target for HashMark {
    fn apply(&self, context: &mut Context<'_>) -> Next {
        let tuple = match self.asked.connection {
            true => self.of_connection(context.query),
            false => self.of_packet(context.query),
        };
        if let Some(tuple) = tuple {
            context.mark = self.hash(&tuple);
            context.effects.set_mark(context.mark);
        }
        Next::Continue
    }

    fn list(&self, out: &mut String, _: Listing) {
        let _ = write!(out, " HMARK mod {} ", self.modulus);
        if let Some(offset) = self.asked.offset {
            let _ = write!(out, "+ {offset:#x} ");
        }
        if self.asked.connection {
            out.push_str("ct, ");
        }
        for (name, mask) in self.prefixes() {
            // iptables finds no length for IPv6's longest.
            let full = self.family == Family::V6 && mask == u128::MAX;
            let prefix = if full { String::new() } else { self.prefix(mask).to_string() };
            let _ = write!(out, "{name} {prefix} ");
        }
        for (name, value, _) in self.numbers() {
            let _ = write!(out, "{name} {value:#x} ");
        }
        let _ = write!(out, "rnd {:#x} ", self.seed);
    }

    fn save(&self, out: &mut String) {
        for (name, mask) in self.prefixes() {
            save_option(out, &format!("hmark-{name}"), false, self.prefix(mask));
        }
        for (name, value, width) in self.numbers() {
            save_option(out, &format!("hmark-{name}"), false, format_args!("{value:#0width$x}"));
        }
        save_option(out, "hmark-rnd", false, format_args!("{:#010x}", self.seed));
        save_option(out, "hmark-mod", false, self.modulus);
        if let Some(offset) = self.asked.offset {
            save_option(out, "hmark-offset", false, offset);
        }
        if self.asked.connection {
            save_option(out, "hmark-tuple", false, "ct");
        }
    }
}
