//! Elements as commands write them.

use std::ops::RangeInclusive;

use tidegate_packet::{Addr, Family, MacAddr, protocol};

use super::element::{Element, Iface, MAX_IFACE, mask, network, v4, write_element};
use super::fault::{Fault, Result};
use super::kind::{Kind, Part};
use super::{Body, icmp};
use crate::lex::Word;
use crate::values::parse_number;
use crate::{names, services};

/// A range that would keep the gateway busy for too long.
const MAX_RANGE: u128 = 1 << 24;

/// Takes the words of a command one by one.
pub(super) struct Reader<'a> {
    words: std::slice::Iter<'a, Word<'a>>,
    seen: Vec<&'a str>,
}

impl<'a> Reader<'a> {
    pub fn new(words: &'a [Word<'a>]) -> Self {
        Self { words: words.iter(), seen: Vec::new() }
    }

    pub fn next(&mut self) -> Option<&'a Word<'a>> {
        self.words.next()
    }

    /// Refuses an option that was there already.
    pub fn once(&mut self, option: &'a str) -> Result<()> {
        if self.seen.contains(&option) {
            return Err(Fault::syntax(format!("{option} already specified")));
        }
        self.seen.push(option);
        Ok(())
    }

    pub fn value(&mut self, option: &str) -> Result<&'a Word<'a>> {
        let missing = || Fault::usage(format!("Missing mandatory argument of option `{option}'"));
        self.words.next().ok_or_else(missing)
    }

    pub fn number(&mut self, option: &str, range: RangeInclusive<u64>) -> Result<u64> {
        let word = self.value(option)?;
        number(&word.text, range).map_err(|fault| fault.at(word))
    }
}

/// A number within bounds.
pub(super) fn number(text: &str, range: RangeInclusive<u64>) -> Result<u64> {
    let outside = || {
        let (low, high) = (range.start(), range.end());
        Fault::syntax(format!("'{text}' is out of range {low}-{high}"))
    };
    let digits = text.strip_prefix('-').unwrap_or(text);
    match parse_number(digits) {
        Some(n) if digits.len() == text.len() && range.contains(&n) => Ok(n),
        Some(_) => Err(outside()),
        // Digits that no number of 64 bits has.
        None if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => Err(outside()),
        None => Err(Fault::syntax(format!("'{text}' is invalid as number"))),
    }
}

/// One address. Names are not resolved.
pub(super) fn address(text: &str, family: Family) -> Result<Addr> {
    let found = match family {
        Family::V4 => text.parse::<std::net::Ipv4Addr>().ok().map(Addr::from),
        Family::V6 => {
            text.parse::<std::net::Ipv6Addr>().ok().map(Addr::from).filter(|a| !a.is_v4())
        }
    };
    let version = if family == Family::V4 { "IPv4" } else { "IPv6" };
    let fault =
        || Fault::syntax(format!("cannot parse {text}: resolving to {version} address failed"));
    found.ok_or_else(fault)
}

/// Addresses from a first to a last one.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub low: Addr,
    pub high: Addr,
    /// What was written: an address, a network, a range.
    pub form: Form,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Single,
    Network(u8),
    Range,
}

impl Span {
    fn single(addr: Addr) -> Self {
        Self { low: addr, high: addr, form: Form::Single }
    }

    fn family(&self) -> Family {
        self.low.family()
    }
}

/// `address`, `address/length` or `address-address`. The low end of a network is as it was written.
pub(super) fn span(text: &str, family: Family) -> Result<Span> {
    if let Some((addr, len)) = text.split_once('/') {
        let len = number(len, 0..=family.bits().into())? as u8;
        let addr = address(addr, family)?;
        if len == family.bits() {
            return Ok(Span::single(addr));
        }
        let high = Addr::from_bits(addr.bits() | !mask(family, len));
        return Ok(Span { low: addr, high, form: Form::Network(len) });
    }
    if let Some((low, high)) = text.split_once('-') {
        let (low, high) = (address(low, family)?, address(high, family)?);
        let (low, high) = if low.bits() <= high.bits() { (low, high) } else { (high, low) };
        return Ok(Span { low, high, form: Form::Range });
    }
    address(text, family).map(Span::single)
}

/// A port of a protocol that has ports.
pub(super) fn port(text: &str, number_of: u8) -> Result<u16> {
    let by_name = || services::port(text, Some(number_of));
    let plain = number(text, 0..=65_535);
    match plain {
        Ok(port) => Ok(port as u16),
        Err(fault) => by_name().ok_or_else(|| {
            let name = names::protocol_name(number_of).unwrap_or_default();
            let first = fault.message;
            Fault::syntax(format!(
                "{first}\nSyntax error: '{name}' is invalid as number\ncannot parse '{text}' as a \
                 {name} port"
            ))
        }),
    }
}

/// A protocol and ports, or type and code.
fn ports(text: &str, family: Family) -> Result<(u8, u16, u16)> {
    let (number_of, rest) = match text.split_once(':') {
        Some((name, rest)) => (protocol_number(name)?, rest),
        None => (protocol::TCP, text),
    };
    match number_of {
        protocol::TCP | protocol::UDP | protocol::SCTP | protocol::UDPLITE => {
            let (low, high) = match (port(rest, number_of), rest.split_once('-')) {
                (Ok(single), _) => (single, single),
                // The name of a service may have a hyphen.
                (Err(_), Some((low, high))) => (port(low, number_of)?, port(high, number_of)?),
                (Err(fault), None) => return Err(fault),
            };
            Ok((number_of, low.min(high), low.max(high)))
        }
        protocol::ICMP | protocol::ICMPV6 => {
            let v6 = number_of == protocol::ICMPV6;
            if v6 != (family == Family::V6) {
                let (name, only) = if v6 { ("ICMPv6", "inet6") } else { ("ICMP", "inet") };
                return Err(Fault::syntax(format!(
                    "Protocol {name} can be used with family {only} only"
                )));
            }
            let (kind, code) = icmp_type(rest, v6)?;
            let port = u16::from_be_bytes([kind, code]);
            Ok((number_of, port, port))
        }
        _ if rest != "0" => {
            let name = text.split(':').next().unwrap_or_default();
            Err(Fault::syntax(format!(
                "Protocol {name} can be used with pseudo port value 0 only."
            )))
        }
        0 => Err(Fault::refused("Invalid protocol specified")),
        _ => Ok((number_of, 0, 0)),
    }
}

fn protocol_number(name: &str) -> Result<u8> {
    let found = match parse_number(name) {
        Some(number) => u8::try_from(number).ok(),
        None => names::protocol_number(&name.to_ascii_lowercase()),
    };
    found.ok_or_else(|| Fault::syntax(format!("cannot parse '{name}' as a protocol")))
}

fn icmp_type(text: &str, v6: bool) -> Result<(u8, u8)> {
    if let Some(found) = icmp::number(text, v6) {
        return Ok(found);
    }
    let Some((kind, code)) = text.split_once('/') else {
        let name = if v6 { "ICMPv6" } else { "ICMP" };
        return Err(Fault::refused(format!("Cannot parse {text} as an {name} type/code.")));
    };
    Ok((number(kind, 0..=255)? as u8, number(code, 0..=255)? as u8))
}

/// An element as it was written: one, or many at a time.
#[derive(Clone, Debug)]
pub(super) struct Written {
    first: Span,
    second: Span,
    /// The parts that are single ones.
    rest: Element,
    ports: (u16, u16),
    pub mac: Option<MacAddr>,
}

/// Reads an element of a set.
pub(super) fn element(word: &Word, body: &Body) -> Result<Written> {
    let (kind, family) = (body.kind, body.options.family);
    let parts = split(&word.text, kind)?;
    let any = Span::single(Addr::unspecified(family));
    let mut written = Written {
        first: any,
        second: Span::single(Addr::UNSPECIFIED_V4),
        rest: Element::none(),
        ports: (0, 0),
        mac: None,
    };
    for (n, (part, text)) in kind.parts.iter().zip(parts).enumerate() {
        match part {
            Part::Ip | Part::Net if n == 0 => written.first = addresses(text, kind, family, n)?,
            Part::Ip | Part::Net => written.second = addresses(text, kind, family, n)?,
            Part::Port => {
                let (number, low, high) = ports(text, family)?;
                written.ports = (low, high);
                // A bitmap of ports doesn't know of protocols.
                written.rest.protocol = if kind.is_bitmap() { 0 } else { number };
            }
            Part::Mark => {
                let mark = number(text, 0..=u32::MAX.into())? as u32;
                written.rest.mark = mark & body.options.mark_mask;
            }
            Part::Mac => {
                let wrong = || Fault::syntax(format!("cannot parse '{text}' as ethernet address"));
                let mac: MacAddr = text.parse().map_err(|_| wrong())?;
                match kind.is_bitmap() {
                    true => written.mac = Some(mac),
                    false => written.rest.mac = mac,
                }
            }
            Part::Iface => {
                let (physdev, name) = match text.strip_prefix("physdev:") {
                    Some(name) => (true, name),
                    None => (false, text),
                };
                written.rest.physdev = physdev;
                written.rest.iface = Iface::new(name).ok_or_else(|| {
                    Fault::syntax(format!(
                        "interface name '{name}' is longer than {MAX_IFACE} characters"
                    ))
                })?;
            }
            Part::Set => {}
        }
    }
    Ok(written)
}

/// The parts of an element, as many as its kind has.
fn split<'a>(text: &'a str, kind: &Kind) -> Result<Vec<&'a str>> {
    let parts: Vec<&str> = text.split(',').collect();
    let optional = kind.is_bitmap() && kind.dimensions() == 2;
    let name = kind.name;
    let fault = match (kind.dimensions(), parts.len()) {
        (wanted, found) if wanted == found && !parts.contains(&"") => return Ok(parts),
        (2, 2) => format!("Second element is missing from {text}."),
        (3, 3) => format!("Third element is missing from {text}."),
        (2, 1) if optional => return Ok(parts),
        (1, _) => format!("Elem separator in {text}, but settype {name} supports none."),
        (_, 1) => format!("Second element is missing from {text}."),
        (3, 2) => format!("Third element is missing from {text}."),
        (2, _) => format!("Two elem separators in {text}, but settype {name} supports one."),
        _ => format!("Three elem separators in {text}, but settype {name} supports two."),
    };
    Err(Fault::syntax(fault))
}

/// Addresses of one part. Which forms it may have depends on the part and the family.
fn addresses(text: &str, kind: &Kind, family: Family, n: usize) -> Result<Span> {
    let part = kind.parts[n];
    let station = kind.is_bitmap() && kind.has(Part::Mac);
    let plain = part == Part::Ip && (n > 0 || family == Family::V6 || station);
    let host = format!("/{}", family.bits());
    if plain && text.contains(['/', '-']) && !text.ends_with(&host) {
        return Err(Fault::syntax(format!("plain IP address must be supplied: {text}")));
    }
    if family == Family::V6 && text.contains('-') {
        return Err(Fault::syntax(format!("IP address or IP/cidr must be specified: {text}")));
    }
    span(text, family)
}

impl Written {
    /// Whether it means more than one, other than as a network.
    fn is_range(&self) -> Option<&'static str> {
        match (self.first.form, self.second.form) {
            (Form::Range, _) | (_, Form::Range) => Some("IP"),
            _ if self.ports.0 != self.ports.1 => Some("port"),
            _ => None,
        }
    }

    /// The one element that `test` asks for; none if a bitmap has no place for it.
    pub fn single(&self, body: &Body) -> Result<Option<Element>> {
        let kind = body.kind;
        if let Some(what) = self.is_range() {
            let family = kind.family_name(body.options.family);
            return Err(Fault::refused(format!(
                "FROM-TO {what} range is not allowed in command test with set type {} and family \
                 {family}",
                kind.name
            )));
        }
        let mut first = None;
        self.each(body, &mut |element| {
            first.get_or_insert(element);
            Err(Fault::refused(""))
        })
        .or_else(|fault| if first.is_some() || kind.is_bitmap() { Ok(()) } else { Err(fault) })?;
        Ok(first)
    }

    /// How many there are at most.
    pub fn count(&self, body: &Body) -> u128 {
        let count = |span: &Span, part: Option<&Part>| match part {
            Some(Part::Ip) => (span.high.bits().wrapping_sub(span.low.bits())).saturating_add(1),
            _ => 1,
        };
        let ports = u128::from(self.ports.1 - self.ports.0) + 1;
        count(&self.first, body.kind.parts.first()).saturating_mul(ports)
    }

    /// Each element that it means, until one is refused.
    pub fn each(&self, body: &Body, act: &mut dyn FnMut(Element) -> Result<()>) -> Result<()> {
        if matches!(self.first.form, Form::Network(0)) && !body.kind.has(Part::Iface) {
            return Err(invalid_length());
        }
        if self.count(body) > MAX_RANGE {
            let what = "The range you specified exceeds the size limit of the set type";
            return Err(Fault::refused(what));
        }
        let kind = body.kind;
        let first_part = kind.parts.first();
        let firsts = match first_part {
            Some(Part::Net) => networks(&self.first, kind)?,
            Some(Part::Ip) => return self.each_address(body, act),
            _ => vec![(Addr::UNSPECIFIED_V4, 32)],
        };
        for (addr, len) in firsts {
            self.each_port(body, Element { addr, len, ..self.rest }, act)?;
        }
        Ok(())
    }

    fn each_address(&self, body: &Body, act: &mut dyn FnMut(Element) -> Result<()>) -> Result<()> {
        let family = self.first.family();
        let low = match self.first.form {
            Form::Network(len) => network(self.first.low, len),
            Form::Single | Form::Range => self.first.low,
        };
        if body.kind.is_bitmap()
            && !(super::create::in_range(&body.options, low)
                && super::create::in_range(&body.options, self.first.high))
        {
            return Err(Fault::refused("Element is out of the range of the set"));
        }
        let step = match body.options.mask {
            Some(super::Mask::Len(len)) => 1u128 << u32::from(family.bits() - len).min(127),
            _ => 1,
        };
        // What any bits are cut to isn't in order, so the addresses themselves are gone through.
        let networks = matches!(body.options.mask, Some(super::Mask::Len(_)));
        let mut at = if networks { body.cut(low).bits() } else { low.bits() };
        let mut before = None;
        loop {
            let addr = body.cut(Addr::from_bits(at));
            if body.kind.is_hash() && addr.is_unspecified() {
                return Err(Fault::refused(
                    "Null-valued element, cannot be stored in a hash type of set",
                ));
            }
            if before.replace(addr) != Some(addr) {
                let element = Element { addr, len: family.bits(), ..self.rest };
                self.each_port(body, element, act)?;
            }
            at = match at.checked_add(step) {
                Some(next) if next <= self.first.high.bits() => next,
                _ => return Ok(()),
            };
        }
    }

    fn each_port(
        &self,
        body: &Body,
        element: Element,
        act: &mut dyn FnMut(Element) -> Result<()>,
    ) -> Result<()> {
        let seconds =
            match body.kind.parts.iter().skip(1).find(|p| matches!(p, Part::Ip | Part::Net)) {
                Some(Part::Net) => networks(&self.second, body.kind)?,
                Some(_) => vec![(self.second.low, self.second.family().bits())],
                None => vec![(Addr::UNSPECIFIED_V4, 32)],
            };
        if body.kind.is_hash()
            && body.kind.parts.first() == Some(&Part::Mac)
            && element.mac.is_zero()
        {
            let what = "Null-valued element, cannot be stored in a hash type of set";
            return Err(Fault::refused(what));
        }
        for port in self.ports.0..=self.ports.1 {
            if body.kind.is_bitmap() && body.kind.has(Part::Port) {
                let (low, high) = body.options.range;
                if !(low..=high).contains(&port.into()) || u32::from(self.ports.1) > high {
                    return Err(Fault::refused("Element is out of the range of the set"));
                }
            }
            for (second, second_len) in &seconds {
                act(Element { port, second: *second, second_len: *second_len, ..element })?;
            }
        }
        Ok(())
    }

    /// As `ipset test` repeats it.
    pub fn text(&self, kind: &Kind) -> String {
        let len = |span: &Span| match span.form {
            Form::Network(len) => len,
            Form::Single | Form::Range => span.family().bits(),
        };
        let element = Element {
            addr: self.first.low,
            len: len(&self.first),
            second: self.second.low,
            second_len: len(&self.second),
            port: self.ports.0,
            ..self.rest
        };
        let mut out = String::new();
        write_element(&mut out, kind, &element, self.mac);
        out
    }
}

fn invalid_length() -> Fault {
    Fault::refused("The value of the CIDR parameter of the IP address is invalid")
}

/// The networks that are meant: one, or those that a range is made of.
fn networks(span: &Span, kind: &Kind) -> Result<Vec<(Addr, u8)>> {
    match span.form {
        // Only with an interface does everywhere make a difference.
        Form::Network(0) if !kind.has(Part::Iface) => Err(invalid_length()),
        Form::Network(len) => Ok(vec![(network(span.low, len), len)]),
        Form::Single => Ok(vec![(span.low, span.family().bits())]),
        Form::Range => {
            let (mut at, high) = (u64::from(v4(span.low)), u64::from(v4(span.high)));
            let mut found = Vec::new();
            while at <= high {
                // As large as its place and what is left allow.
                let place = if at == 0 { 32 } else { at.trailing_zeros().min(32) };
                let room = (high - at + 1).ilog2();
                let host = place.min(room);
                let addr = Addr::from_v4_bytes((at as u32).to_be_bytes());
                found.push((network(addr, 32 - host as u8), 32 - host as u8));
                at += 1 << host;
            }
            Ok(found)
        }
    }
}
