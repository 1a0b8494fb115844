//! Values as they stand in rules: numbers, ports, addresses, masks.

use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use tidegate_packet::{Addr, Family};

use crate::diagnostic::{Outcome, Told};
use crate::extension::Listing;
use crate::lex::Word;
use crate::services;

/// An unsigned number as C's `strtoul` with base 0 reads it: decimal, `0x` hexadecimal, or octal
/// with a leading zero.
pub(crate) fn parse_number(text: &str) -> Option<u64> {
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return plain(hex, 16);
    }
    match text.strip_prefix('0') {
        Some(octal) if !octal.is_empty() => plain(octal, 8),
        _ => plain(text, 10),
    }
}

fn plain(digits: &str, radix: u32) -> Option<u64> {
    // from_str_radix would take a plus sign.
    digits.chars().all(|c| c.is_digit(radix)).then(|| u64::from_str_radix(digits, radix).ok())?
}

impl Word<'_> {
    /// A number within bounds.
    pub fn number(&self, range: RangeInclusive<u64>) -> Outcome<u64> {
        parse_number(&self.text).filter(|n| range.contains(n)).ok_or_else(|| {
            let (low, high) = (*range.start(), *range.end());
            self.wrong(format!("bad number `{}`", self.text))
                .help(format!("expected {low} to {high}"))
                .told(Told::Number(low, high))
        })
    }

    /// A part of this word, with its place where that can be told.
    pub fn part<'p>(&self, text: &'p str) -> Word<'p> {
        // A piece of the word itself, as it nearly always is, tells its place by its address.
        let at = (text.as_ptr() as usize).wrapping_sub(self.text.as_ptr() as usize);
        let inside = at.checked_add(text.len()).is_some_and(|end| end <= self.text.len());
        let at = if inside { Some(at) } else { self.text.find(text) };
        let span = match at {
            // Only a word without quotes and escapes stands in the file as it reads.
            Some(at) if self.span.len() == self.text.len() => {
                self.span.start + at..self.span.start + at + text.len()
            }
            _ => self.span.clone(),
        };
        Word { text: text.into(), span, quoted: self.quoted }
    }

    /// The comma-separated parts.
    pub fn list(&self) -> impl Iterator<Item = Word<'_>> {
        self.text.split(',').map(|part| self.part(part))
    }

    /// A port by number or service name.
    pub fn port(&self, protocol: Option<u8>) -> Outcome<u16> {
        match parse_number(&self.text) {
            Some(n) => u16::try_from(n).ok(),
            None => services::port(&self.text, protocol),
        }
        .ok_or_else(|| {
            self.wrong(format!("unknown port or service `{}`", self.text))
                .words(format!("invalid port/service `{}' specified", self.text))
                .help("expected a number of 0 to 65535 or a service name such as ssh")
                .nearest(&self.text, services::names())
        })
    }

    /// `port` or `low:high`, either end of which may be left out.
    pub fn port_range(&self, protocol: Option<u8>) -> Outcome<(u16, u16)> {
        let Some((low, high)) = self.text.split_once(':') else {
            return self.port(protocol).map(|p| (p, p));
        };
        let end = |text: &str, default| match text {
            "" => Ok(default),
            text => self.part(text).port(protocol),
        };
        let (low, high) = (end(low, 0)?, end(high, u16::MAX)?);
        if low > high {
            return Err(self
                .wrong(format!("port range `{}` runs backwards", self.text))
                .words("invalid portrange (min > max)"));
        }
        Ok((low, high))
    }

    /// `n` or `low:high` of 32 bits, either end of which may be left out.
    pub fn u32_range(&self) -> Outcome<(u32, u32)> {
        let end = |text: &str, default| match text {
            "" => Ok(default),
            text => self.part(text).number(0..=u64::from(u32::MAX)).map(|n| n as u32),
        };
        match self.text.split_once(':') {
            Some((low, high)) => Ok((end(low, 0)?, end(high, u32::MAX)?)),
            None => {
                let n = self.number(0..=u64::from(u32::MAX))? as u32;
                Ok((n, n))
            }
        }
    }

    /// One address of the family, in full.
    pub fn address(&self, family: Family) -> Outcome<Addr> {
        let found = match family {
            Family::V4 => self.text.parse::<std::net::Ipv4Addr>().ok().map(Addr::from),
            // An IPv4-mapped address stands for IPv4 in this program and is never on the wire.
            Family::V6 => {
                self.text.parse::<std::net::Ipv6Addr>().ok().map(Addr::from).filter(|a| !a.is_v4())
            }
        };
        found.ok_or_else(|| {
            let version = if family == Family::V4 { "IPv4" } else { "IPv6" };
            self.wrong(format!("`{}` is no {version} address", self.text))
                .words(format!("host/network `{}' not found", self.text))
                .help("host names are not resolved: rules must mean the same at every load")
        })
    }

    /// `address[/mask]`, the mask as a length or an address.
    pub fn network(&self, family: Family) -> Outcome<Network> {
        let (addr, mask) = match self.text.split_once('/') {
            Some((addr, mask)) => (addr, Some(mask)),
            None => (&*self.text, None),
        };
        let mask = match mask {
            Some(mask) => self.part(mask).mask(family)?,
            None => u128::MAX,
        };
        // "any/0" and the like: with an empty mask the name is not looked at.
        if mask == family_head(family) {
            return Ok(Network { family, addr: Addr::unspecified(family), mask });
        }
        let word = self.part(addr);
        let addr = match (family, addr) {
            (Family::V4, "localhost") => Addr::from_v4_bytes([127, 0, 0, 1]),
            (Family::V4, short) => match short_v4(short) {
                Some(addr) => addr,
                None => word.address(family)?,
            },
            (Family::V6, text) => match text.parse::<std::net::Ipv6Addr>() {
                // Mapped addresses too: rules that drop ::ffff:0:0/96 are common.
                Ok(addr) => addr.into(),
                Err(_) => word.address(family)?,
            },
        };
        Ok(Network { family, addr: Addr::from_bits(addr.bits() & mask), mask })
    }

    /// The same as the `conntrack` match takes it: the address keeps the bits outside of its mask
    /// (it is printed so), and a mask with holes counts as a full one (xtopt_parse_hostmask).
    pub fn unmasked_network(&self, family: Family) -> Outcome<Network> {
        let masked = self.network(family)?;
        let full = self.text.split('/').next().unwrap_or_default();
        let addr = self.part(full).network(family).map_or(masked.addr, |n| n.addr);
        let mask = if masked.prefix_len().is_some() { masked.mask } else { u128::MAX };
        Ok(Network { family, addr, mask })
    }

    /// A mask: a prefix length or an address.
    pub fn mask(&self, family: Family) -> Outcome<u128> {
        let bits = u64::from(family.bits());
        if let Some(len) = parse_number(&self.text) {
            if len > bits {
                return Err(self
                    .wrong(format!("bad mask `{}`", self.text))
                    .help(format!("expected a length of 0 to {bits} or a mask as an address"))
                    .words(format!("invalid mask `{}' specified", self.text)));
            }
            let host = (bits - len) as u32;
            return Ok(if host == 128 { 0 } else { u128::MAX << host });
        }
        Ok(self.address(family)?.bits() | family_head(family))
    }

    /// `value[/mask]`, both 32-bit numbers.
    pub fn masked_u32(&self) -> Outcome<(u32, u32)> {
        let (value, mask) = match self.text.split_once('/') {
            Some((value, mask)) => (value, Some(mask)),
            None => (&*self.text, None),
        };
        let number = |text: &str| self.part(text).number(0..=u64::from(u32::MAX)).map(|n| n as u32);
        Ok((number(value)?, mask.map_or(Ok(u32::MAX), number)?))
    }
}

/// The bits of a mask that every address of the family shares.
fn family_head(family: Family) -> u128 {
    match family {
        Family::V4 => u128::MAX << 32,
        Family::V6 => 0,
    }
}

/// `10` or `10.1`: missing parts of an IPv4 network are zero.
fn short_v4(text: &str) -> Option<Addr> {
    let mut bytes = [0; 4];
    let mut parts = text.split('.');
    for byte in &mut bytes {
        match parts.next() {
            Some(part) => *byte = u8::try_from(parse_number(part)?).ok()?,
            None => break,
        }
    }
    parts.next().is_none().then(|| Addr::from_v4_bytes(bytes))
}

/// An address under a mask, which need not be contiguous.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    pub family: Family,
    pub addr: Addr,
    pub mask: u128,
}

impl Network {
    /// The network of all addresses.
    pub fn any(family: Family) -> Self {
        Self { family, addr: Addr::unspecified(family), mask: family_head(family) }
    }

    /// Whether every address is inside.
    pub fn is_any(&self) -> bool {
        *self == Self::any(self.family)
    }

    #[inline]
    pub fn contains(&self, addr: Addr) -> bool {
        (addr.bits() ^ self.addr.bits()) & self.mask == 0
    }

    /// The address as its family writes it, IPv4-mapped ones in an IPv6 rule included.
    pub fn shown(&self) -> String {
        match self.family {
            Family::V6 if self.addr.is_v4() => IpAddr::V6(self.addr.octets().into()).to_string(),
            _ => self.addr.to_string(),
        }
    }

    /// Appends it as it is displayed. Saved rules hold little else, so what is most frequent in them
    /// doesn't take the way of formatting.
    pub fn save(&self, out: &mut String) {
        match self.prefix_len() {
            Some(len) if self.family == Family::V4 => {
                for (n, byte) in self.addr.v4_bytes().into_iter().enumerate() {
                    out.push_str(if n == 0 { "" } else { "." });
                    push_number(out, byte);
                }
                out.push('/');
                push_number(out, len);
            }
            // Writing to a string can't fail.
            _ => {
                let _ = write!(out, "{self}");
            }
        }
    }

    /// The prefix length, if the mask is contiguous.
    pub fn prefix_len(&self) -> Option<u8> {
        prefix_len(self.mask, self.family)
    }
}

/// The length of a contiguous mask, in the family's own bits.
pub(crate) fn prefix_len(mask: u128, family: Family) -> Option<u8> {
    let ones = mask.leading_ones();
    (mask.count_ones() == ones).then(|| (ones as u8).saturating_sub(128 - family.bits()))
}

/// A mask as an address, for printing.
pub(crate) fn mask_addr(mask: u128, family: Family) -> Addr {
    match family {
        Family::V4 => Addr::from_v4_bytes((mask as u32).to_be_bytes()),
        Family::V6 => Addr::from_bits(mask),
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix_len() {
            Some(len) => write!(f, "{}/{len}", self.shown()),
            None => write!(f, "{}/{}", self.shown(), mask_addr(self.mask, self.family)),
        }
    }
}

/// Appends a number.
fn push_number(out: &mut String, number: u8) {
    let digits = [number / 100, number / 10 % 10, number % 10];
    let blank = digits.iter().take(2).take_while(|digit| **digit == 0).count();
    digits[blank..].iter().for_each(|digit| out.push(char::from(b'0' + digit)));
}

/// The beginning of a text, at most so many bytes of it.
pub(crate) fn cut(text: &str, max: usize) -> &str {
    let end = (0..=max.min(text.len())).rev().find(|&n| text.is_char_boundary(n)).unwrap_or(0);
    &text[..end]
}

/// Appends ` text`, in quotes if it holds anything but letters, digits, `_` and `-`, as
/// iptables-save does.
pub(crate) fn save_string(out: &mut String, text: &str) {
    let simple = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !text.is_empty() && text.chars().all(simple) {
        out.push(' ');
        out.push_str(text);
        return;
    }
    out.push_str(" \"");
    for c in text.chars() {
        if matches!(c, '"' | '\\' | '\'') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
}

/// Appends ` ! --name` or ` --name`.
pub(crate) fn save_name(out: &mut String, name: &str, inverted: bool) {
    out.push_str(if inverted { " ! --" } else { " --" });
    out.push_str(name);
}

/// Appends ` [! ]--name value`.
pub(crate) fn save_option(out: &mut String, name: &str, inverted: bool, value: impl fmt::Display) {
    save_name(out, name, inverted);
    // Writing to a string can't fail.
    let _ = write!(out, " {value}");
}

/// `!` for what is negated.
pub(crate) fn bang(inverted: bool) -> &'static str {
    if inverted { "!" } else { "" }
}

/// Appends what `save` writes, without the dashes of its options: so some extensions are listed.
pub(crate) fn list_saved(out: &mut String, save: impl FnOnce(&mut String)) {
    let mut saved = String::new();
    save(&mut saved);
    out.push_str(&saved.replace(" --", " "));
}

/// Appends `name:n` or `names:low:high` without a blank before it, as some extensions are listed.
pub(crate) fn list_range(out: &mut String, name: &str, (low, high): (u32, u32), inverted: bool) {
    let s = if low == high { "" } else { "s" };
    let _ = write!(out, "{name}{s}:{}{}", bang(inverted), Span(low, high, ':'));
}

/// A port as `iptables -L` shows it.
pub(crate) fn shown_port(port: u16, style: Listing) -> String {
    let name = style.protocol.filter(|_| !style.numeric).and_then(|p| services::name(port, p));
    name.map_or_else(|| port.to_string(), str::to_owned)
}

/// `n` or `low:high`.
pub(crate) struct Span<T>(pub T, pub T, pub char);

impl<T: fmt::Display + PartialEq> fmt::Display for Span<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(low, high, between) = self;
        if low == high { write!(f, "{low}") } else { write!(f, "{low}{between}{high}") }
    }
}
