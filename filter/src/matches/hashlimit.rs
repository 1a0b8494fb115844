//! `-m hashlimit`: a rate for each address, port or combination. The buckets are in
//! [`crate::memory::hashlimit`].

use std::fmt::{self, Write as _};
use std::time::Duration;

use tidegate_packet::{Addr, Family, protocol};

use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, flag, value};
use crate::lex::Word;
use crate::memory::hashlimit::{Config, Key, Pace, Packet, Use};
use crate::values::{parse_number, save_name, save_option};

pub(crate) static SPEC: MatchSpec = MatchSpec {
    options: &[
        value(&["hashlimit-upto", "hashlimit"]).inverts(),
        value(&["hashlimit-above"]).inverts(),
        value(&["hashlimit-srcmask"]),
        value(&["hashlimit-dstmask"]),
        value(&["hashlimit-burst"]),
        value(&["hashlimit-htable-size"]),
        value(&["hashlimit-htable-max"]),
        value(&["hashlimit-htable-gcinterval"]),
        value(&["hashlimit-htable-expire"]),
        value(&["hashlimit-mode"]),
        value(&["hashlimit-name"]),
        flag(&["hashlimit-rate-match"]),
        value(&["hashlimit-rate-interval"]),
    ],
    ..Spec::new("hashlimit", build)
};

/// Periods between packets are in microseconds.
const SCALE: u64 = 1_000_000;
const NANOS_PER_UNIT: u128 = 1000;
const UNITS: [(&str, u64); 4] = [("day", 86_400), ("hour", 3_600), ("min", 60), ("sec", 1)];
const DEFAULT_BURST: u64 = 5;
const MAX_BURST: u64 = 1_000_000;
const DEFAULT_COLLECT: u32 = 1000;
/// Milliseconds that a bucket of bytes is kept, without and with a burst.
const BYTE_EXPIRE: u32 = 15_000;
const BYTE_EXPIRE_BURST: u32 = 60_000;
/// Bytes are counted in chunks of 16.
const BYTE_SHIFT: u32 = 4;
/// The kernel's table on a machine with more than a gigabyte of memory.
const DEFAULT_MAX: usize = 8 * 8192;
/// The longest `--hashlimit-rate-interval`, in seconds.
const MAX_INTERVAL: u64 = i32::MAX as u64;
/// `NAME_MAX`.
const MAX_NAME: usize = 255;
const MODES: [&str; 4] = ["srcip", "srcport", "dstip", "dstport"];

#[derive(Debug)]
struct HashLimit {
    family: Family,
    above: bool,
    rate: Rate,
    burst: u64,
    /// A bit for each of [`MODES`].
    mode: u8,
    name: String,
    size: u32,
    max: u32,
    collect: u32,
    expire: u32,
    masks: [u8; 2],
    rate_match: bool,
    /// Seconds. Without `rate_match` nothing but the listing looks at it.
    interval: u32,
    config: Config,
}

/// The limit as it is kept and printed.
#[derive(Copy, Clone, Debug)]
enum Rate {
    /// Microseconds between packets.
    Packets(u64),
    /// The share of 32 bits that a chunk costs.
    Bytes(u64),
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    let option = given.one_of(&["hashlimit-upto", "hashlimit-above"])?;
    let [word] = option.values.as_slice() else {
        return Err(given.wrong("a value is missing"));
    };
    let above = (option.opt.names[0] == "hashlimit-above") != option.inverted;
    let (rate, unit) = rate(word)?;
    let number = |name: &str, default: u32| match given.value(name) {
        Some((word, _)) => word.number(0..=u64::from(u32::MAX)).map(|n| n as u32),
        None => Ok(default),
    };
    let (burst, with_burst) = burst(given, rate)?;
    let expire = match rate {
        Rate::Packets(_) => unit * 1000,
        Rate::Bytes(_) if with_burst => BYTE_EXPIRE_BURST,
        Rate::Bytes(_) => BYTE_EXPIRE,
    };
    let bits = given.family.bits();
    let mask = |name: &str| match given.value(name) {
        Some((word, _)) => word.number(0..=u64::from(bits)).map(|n| n as u8),
        None => Ok(bits),
    };
    let rate_match = given.has("hashlimit-rate-match");
    let (interval, rate) = match (given.value("hashlimit-rate-interval"), rate) {
        (Some((word, _)), _) => (word.number(1..=MAX_INTERVAL)? as u32, rate),
        (None, Rate::Packets(_)) if rate_match => (unit, rate),
        (None, _) => (1, rate),
    };
    let rate = match rate {
        // So many packets in an interval, whatever the unit was.
        Rate::Packets(period) if rate_match => Rate::Packets(period / u64::from(unit.max(1))),
        rate => rate,
    };
    let (name, _) = given.required("hashlimit-name")?;
    // It becomes a file name under /proc.
    if name.text.is_empty() || name.text.len() > MAX_NAME || name.text.contains('/') {
        return Err(name.wrong(format!("bad table name `{}`", name.text)));
    }
    let mut this = HashLimit {
        family: given.family,
        above,
        rate,
        burst,
        mode: mode(given)?,
        name: name.text.to_string(),
        size: number("hashlimit-htable-size", 0)?,
        max: number("hashlimit-htable-max", 0)?,
        collect: number("hashlimit-htable-gcinterval", DEFAULT_COLLECT)?,
        expire: number("hashlimit-htable-expire", expire)?,
        masks: [mask("hashlimit-srcmask")?, mask("hashlimit-dstmask")?],
        rate_match,
        interval,
        config: Config {
            pace: Pace::Packets { cost: 0, cap: 0 },
            expire: Duration::ZERO,
            collect: Duration::ZERO,
            max: 0,
        },
    };
    if this.collect == 0 || this.expire == 0 {
        return Err(given.wrong("an interval of zero"));
    }
    this.config = this.config();
    Ok(Box::new(this))
}

/// `N[/unit]`, or `N[k|m]b/s`; and the seconds of the unit.
fn rate(word: &Word<'_>) -> Outcome<(Rate, u32)> {
    let bad = || {
        word.wrong(format!("bad rate `{}`", word.text))
            .help("expected N/second, N/minute, N/hour, N/day, or Nb/s, Nkb/s, Nmb/s")
    };
    let digits = word.text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = word.text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| bad())?;
    let bytes = match unit.to_ascii_lowercase().as_str() {
        "b/s" => Some(1),
        "kb/s" => Some(1024),
        "mb/s" => Some(1024 * 1024),
        _ => None,
    };
    if let Some(factor) = bytes {
        let bytes = number.checked_mul(factor).ok_or_else(bad)?;
        return match bytes_to_cost(bytes) {
            // The kernel's credits can't tell a cost of one from none.
            0 | 1 => Err(bad()),
            cost => Ok((Rate::Bytes(cost), 0)),
        };
    }
    let length = match unit.strip_prefix('/') {
        Some(unit) if !unit.is_empty() => {
            let unit = unit.to_ascii_lowercase();
            let names = ["second", "minute", "hour", "day"];
            let at = names.iter().position(|name| name.starts_with(&unit)).ok_or_else(bad)?;
            [1, 60, 3_600, 86_400][at]
        }
        None if unit.is_empty() => 1,
        _ => return Err(bad()),
    };
    match (SCALE * length).checked_div(number) {
        None | Some(0) => Err(bad()),
        Some(period) => Ok((Rate::Packets(period), length as u32)),
    }
}

fn bytes_to_cost(bytes: u64) -> u64 {
    u64::from(u32::MAX) / ((bytes >> BYTE_SHIFT) + 1)
}

fn cost_to_bytes(cost: u64) -> u64 {
    let chunks = u64::from(u32::MAX).checked_div(cost).unwrap_or(u64::from(u32::MAX));
    chunks.saturating_sub(1) << BYTE_SHIFT
}

/// The burst, in packets or in seconds' worth of bytes, and whether it was given.
fn burst(given: &Given<'_>, rate: Rate) -> Outcome<(u64, bool)> {
    let Some((word, _)) = given.value("hashlimit-burst") else {
        return Ok((if matches!(rate, Rate::Bytes(_)) { 0 } else { DEFAULT_BURST }, false));
    };
    let bad = || {
        word.wrong(format!("bad burst `{}`", word.text))
            .help(format!("expected 1 to {MAX_BURST}, or bytes such as 64kb for a rate of bytes"))
    };
    let text = &*word.text;
    let digits = text.bytes().take_while(u8::is_ascii_alphanumeric).count();
    let split = text[..digits].find(|c: char| !c.is_ascii_hexdigit() && c != 'x').unwrap_or(digits);
    let (number, unit) = match text.strip_suffix('b') {
        Some(_) => text.split_at(text.bytes().take_while(u8::is_ascii_digit).count()),
        None => text.split_at(split),
    };
    let number = parse_number(number).filter(|n| *n > 0).ok_or_else(bad)?;
    let factor = match unit {
        "" if number > MAX_BURST => return Err(bad()),
        "" | "b" => 1,
        "k" | "kb" => 1024,
        "m" | "mb" => 1024 * 1024,
        _ => return Err(bad()),
    };
    let burst = number.checked_mul(factor).filter(|n| *n <= u64::from(u32::MAX)).ok_or_else(bad)?;
    match rate {
        Rate::Packets(_) if burst > MAX_BURST => Err(bad()),
        Rate::Packets(_) => Ok((burst, true)),
        Rate::Bytes(cost) => {
            let second = cost_to_bytes(cost);
            if burst < second {
                return Err(word.wrong(format!("the burst can't be smaller than {second}b")));
            }
            Ok((burst.div_ceil(second.max(1)), true))
        }
    }
}

fn mode(given: &Given<'_>) -> Outcome<u8> {
    let Some((word, _)) = given.value("hashlimit-mode") else { return Ok(0) };
    let mut sum = 0;
    for part in word.list().filter(|part| !part.text.is_empty()) {
        let at = MODES.iter().position(|name| *name == part.text);
        sum |= 1
            << at.ok_or_else(|| {
                part.wrong(format!("unknown mode `{}`", part.text))
                    .help(format!("expected {}", MODES.join(", ")))
            })?;
    }
    Ok(sum)
}

impl HashLimit {
    fn config(&self) -> Config {
        let interval = u64::from(self.interval);
        let pace = match (self.rate, self.rate_match) {
            (Rate::Packets(period), false) => {
                let cost = u128::from(period) * NANOS_PER_UNIT;
                Pace::Packets { cost, cap: cost * u128::from(self.burst) }
            }
            (Rate::Packets(period), true) => {
                let rate = SCALE / period;
                Pace::Rate { rate, burst: self.burst + rate, interval, bytes: false }
            }
            (Rate::Bytes(cost), false) => {
                // A chunk's cost of 32 bits, as a share of a second's credits.
                let cost = (cost * 16_777_216 * 250) >> 32;
                Pace::Bytes { cost, burst: self.burst as u32 }
            }
            (Rate::Bytes(cost), true) => {
                let rate = cost_to_bytes(cost);
                Pace::Rate { rate, burst: rate * self.burst.max(1), interval, bytes: true }
            }
        };
        let max = match (self.max, self.size) {
            (0, 0) => DEFAULT_MAX,
            (0, size) => 8 * size as usize,
            (max, size) => max.max(size) as usize,
        };
        Config {
            pace,
            expire: Duration::from_millis(self.expire.into()),
            collect: Duration::from_millis(self.collect.into()),
            max,
        }
    }

    /// `None` if a port is wanted and can't be read.
    fn key(&self, context: &Context<'_>) -> Option<Key> {
        let packet = context.query.packet;
        let asked = |n: u8| self.mode >> n & 1 != 0;
        let masked = |addr: Addr, len: u8| {
            let host = u32::from(self.family.bits()) - u32::from(len);
            Addr::from_bits(if host == 128 { 0 } else { addr.bits() & u128::MAX << host })
        };
        let none = Addr::unspecified(self.family);
        let mut key = Key {
            src: if asked(0) { masked(packet.src, self.masks[0]) } else { none },
            dst: if asked(2) { masked(packet.dst, self.masks[1]) } else { none },
            sport: 0,
            dport: 0,
        };
        if !asked(1) && !asked(3) {
            return Some(key);
        }
        // Security headers have their index where others have ports (proto_ports_offset).
        let at = match packet.protocol {
            protocol::TCP
            | protocol::UDP
            | protocol::DCCP
            | protocol::ESP
            | protocol::SCTP
            | protocol::UDPLITE => 0,
            protocol::AH => 4,
            _ => return Some(key),
        };
        let ports = packet.segment(context.query.bytes).get(at..at + 4)?;
        if asked(1) {
            key.sport = u16::from_be_bytes([ports[0], ports[1]]);
        }
        if asked(3) {
            key.dport = u16::from_be_bytes([ports[2], ports[3]]);
        }
        Some(key)
    }
}

/// A rate in the largest unit that shows it well, and a bucket's usual time to live with it.
struct Shown(Rate);

impl Shown {
    fn unit(period: u64) -> (&'static str, u64) {
        let rough = |length: u64| period > length || length / period < length % period;
        let next = UNITS.iter().skip(1).position(|(_, secs)| rough(secs * SCALE));
        UNITS[next.unwrap_or(UNITS.len() - 1)]
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Rate::Packets(period) => {
                let (name, secs) = Self::unit(period);
                write!(f, "{}/{name}", secs * SCALE / period)
            }
            Rate::Bytes(cost) => {
                let bytes = cost_to_bytes(cost);
                // iptables' mask has 32 bits, so that rates beyond are never shown in a unit.
                let whole = |unit: u32| bytes & u64::from(!(unit - 1));
                let exact = |unit: u32| bytes >= unit.into() && bytes_to_cost(whole(unit)) == cost;
                match bytes {
                    n if exact(1 << 20) => write!(f, "{}mb/s", n >> 20),
                    n if exact(1 << 10) => write!(f, "{}kb/s", n >> 10),
                    n => write!(f, "{n}b/s"),
                }
            }
        }
    }
}

impl Match for HashLimit {
    fn matches(&self, context: &mut Context<'_>) -> bool {
        let Some(key) = self.key(context) else {
            context.hotdrop = true;
            return false;
        };
        let query = context.query;
        let packet = Packet { key, len: query.packet.len, now: query.now, dry: context.dry };
        let used = Use { family: self.family, name: &self.name, config: &self.config };
        match context.memory.spend(used, packet) {
            Some(within) => within != self.above,
            None => {
                context.hotdrop = true;
                false
            }
        }
    }

    fn list(&self, out: &mut String, _: Listing) {
        let side = if self.above { "above" } else { "up to" };
        // iptables lists a rate of packets as if it were one of as many of its intervals.
        let rate = match self.rate {
            Rate::Packets(period) => Rate::Packets(period.saturating_mul(self.interval.into())),
            bytes => bytes,
        };
        let _ = write!(out, " limit: {side} {}", Shown(rate));
        for (name, value) in self.shown(rate) {
            let _ = match name {
                "name" => Ok(()),
                "mode" => write!(out, " mode {}", value.replace(',', "-")),
                _ if value.is_empty() => write!(out, " {name}"),
                _ => write!(out, " {name} {value}"),
            };
        }
    }

    fn save(&self, out: &mut String) {
        let name = if self.above { "hashlimit-above" } else { "hashlimit-upto" };
        save_option(out, name, false, Shown(self.rate));
        for (name, value) in self.shown(self.rate) {
            save_name(out, &format!("hashlimit-{name}"), false);
            if !value.is_empty() {
                let _ = write!(out, " {value}");
            }
        }
    }

    fn hashlimit(&self) -> Option<Use<'_>> {
        Some(Use { family: self.family, name: &self.name, config: &self.config })
    }
}

impl HashLimit {
    /// What is printed of the options behind the rate, without their common beginning. A bucket's
    /// time to live is left out where it is usual for the rate.
    fn shown(&self, rate: Rate) -> Vec<(&'static str, String)> {
        let mut shown = Vec::new();
        let usual = match rate {
            Rate::Packets(period) => {
                shown.push(("burst", self.burst.to_string()));
                Shown::unit(period).1 as u32 * 1000
            }
            Rate::Bytes(_) if self.burst == 0 => BYTE_EXPIRE,
            Rate::Bytes(cost) => {
                let bytes = cost_to_bytes(cost) * self.burst;
                let burst = match bytes {
                    n if n >= 1 << 20 => format!("{}mb", n >> 20),
                    n if n >= 1 << 10 => format!("{}kb", n >> 10),
                    n => format!("{n}b"),
                };
                shown.push(("burst", burst));
                BYTE_EXPIRE_BURST
            }
        };
        if self.mode != 0 {
            let set = MODES.iter().enumerate().filter(|(n, _)| self.mode >> n & 1 != 0);
            let names: Vec<_> = set.map(|(_, name)| *name).collect();
            shown.push(("mode", names.join(",")));
        }
        shown.push(("name", self.name.clone()));
        for (name, given, default) in [
            ("htable-size", self.size, 0),
            ("htable-max", self.max, 0),
            ("htable-gcinterval", self.collect, DEFAULT_COLLECT),
            ("htable-expire", self.expire, usual),
            ("srcmask", self.masks[0].into(), self.family.bits().into()),
            ("dstmask", self.masks[1].into(), self.family.bits().into()),
        ] {
            if given != default {
                shown.push((name, given.to_string()));
            }
        }
        if self.rate_match {
            shown.push(("rate-match", String::new()));
            if self.interval != 1 {
                shown.push(("rate-interval", self.interval.to_string()));
            }
        }
        shown
    }
}
