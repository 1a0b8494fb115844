//! The values of options.

use super::{Form, Wrong};
use crate::conntrack::What;
use crate::conntrack::filter::{Filter, Nat};
use crate::conntrack::text::Show;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use tidegate_nat::Status;

/// What is said about `-o save` together with others.
pub(super) const MIXED: &str =
    "cannot combine save output with any other output type, use -o save only";

pub(super) fn unexpected(text: &str, letter: char) -> Wrong {
    Wrong::other(format!("unexpected value '{text}' with -{letter} option"))
}

fn bad(text: &str) -> Wrong {
    Wrong::usage(format!("Bad parameter `{text}'"))
}

/// A number as `strtoul` reads it with base 0, and nothing after it.
pub fn number(text: &str) -> Option<u64> {
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return u64::from_str_radix(hex, 16).ok();
    }
    if text.len() > 1 && text.starts_with('0') {
        return u64::from_str_radix(text, 8).ok();
    }
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

/// A mark and its mask: `value` or `value/mask`.
pub(super) fn mark_of(text: &str) -> Option<(u32, u32)> {
    let part = |text: &str| u32::try_from(number(text)?).ok();
    match text.split_once('/') {
        Some((value, mask)) => Some((part(value)?, part(mask)?)),
        None => Some((part(text)?, u32::MAX)),
    }
}

/// An address with the prefix length behind it.
pub(super) fn addr(text: &str) -> Result<(IpAddr, Option<u8>), Wrong> {
    let (address, len) = match text.split_once('/') {
        Some((address, len)) => (address, Some(len)),
        None => (text, None),
    };
    let address: IpAddr =
        address.parse().map_err(|_| Wrong::usage(format!("Invalid IP address `{text}'")))?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let len = match len {
        None => None,
        Some(len) => {
            let len: Option<u8> = len.parse().ok().filter(|len| *len <= most);
            Some(len.ok_or_else(|| Wrong::usage("Invalid netmask".to_owned()))?)
        }
    };
    Ok((address, len))
}

/// The mask of a prefix length, in the address's family.
pub(super) fn netmask(address: IpAddr, len: u8) -> IpAddr {
    let zeros = |width: u8| u32::from(width - len.min(width));
    match address {
        IpAddr::V4(_) => Ipv4Addr::from_bits(u32::MAX.checked_shl(zeros(32)).unwrap_or(0)).into(),
        IpAddr::V6(_) => Ipv6Addr::from_bits(u128::MAX.checked_shl(zeros(128)).unwrap_or(0)).into(),
    }
}

/// `address`, `address:port` or `[address]:port`.
pub(super) fn addr_and_port(text: &str) -> Result<(String, Option<u16>), Wrong> {
    let usage = |why: &str| Wrong::usage(why.to_owned());
    let (address, port) = if let Some(rest) = text.strip_prefix('[') {
        let closing = rest.split_once(']');
        let (address, rest) = closing.ok_or_else(|| usage("No closing ']' around IPv6 address"))?;
        if address.is_empty() {
            return Err(usage("No IPv6 address specified"));
        }
        (address, rest.strip_prefix(':'))
    } else {
        match text.split_once(':') {
            Some((address, port)) if !port.contains(':') => (address, Some(port)),
            _ => (text, None),
        }
    };
    let port = match port {
        None => None,
        Some("") => return Err(usage("No port specified after `:'")),
        Some(port) => {
            let value = port.bytes().all(|b| b.is_ascii_digit()).then(|| port.parse().ok());
            let value = value.flatten();
            Some(value.ok_or_else(|| Wrong::usage(format!("Invalid port `{port}'")))?)
        }
    };
    Ok((address.to_owned(), port))
}

/// Where a translation leads.
pub(super) fn nat_target(nat: Option<Nat>, addr: &mut IpAddr, port: &mut u16) {
    if let Some(nat) = nat {
        *addr = nat.addr.unwrap_or(*addr);
        *port = nat.port.unwrap_or(*port);
    }
}

pub(super) fn family_of(text: &str) -> Result<u8, Wrong> {
    match text {
        _ if text.starts_with("ipv4") => Ok(4),
        _ if text.starts_with("ipv6") => Ok(6),
        _ => Err(Wrong::usage(format!("`{text}' unsupported protocol"))),
    }
}

pub(super) fn byte(value: u16, text: &str, long: &str) -> Result<u8, Wrong> {
    u8::try_from(value)
        .map_err(|_| Wrong::usage(format!("unexpected value '{text}' with --{long} option")))
}

/// Words between commas; a bad one is shown with all that follows it.
pub(super) fn words(text: &str, each: &mut dyn FnMut(&str) -> bool) -> Result<(), Wrong> {
    let mut rest = text;
    loop {
        let (word, after) = match rest.split_once(',') {
            Some((word, after)) => (word, Some(after)),
            None => (rest, None),
        };
        if word.is_empty() || !each(word) {
            return Err(bad(rest));
        }
        match after {
            Some(after) => rest = after,
            None => return Ok(()),
        }
    }
}

/// Whether a word is a name or its beginning, in either case.
fn is(word: &str, name: &str) -> bool {
    name.get(..word.len()).is_some_and(|head| head.eq_ignore_ascii_case(word))
}

pub(super) fn event(word: &str, to: &mut Vec<What>) -> bool {
    let all = [
        ("ALL", &What::ALL[..]),
        ("NEW", &[What::New]),
        ("UPDATES", &[What::Update]),
        ("DESTROY", &[What::Destroy]),
    ];
    let found = all.iter().find(|(name, _)| is(word, name));
    to.extend(found.map_or(&[][..], |(_, what)| what));
    found.is_some()
}

pub(super) fn output(word: &str, form: &mut Form, show: &mut Show) -> bool {
    const NAMES: [&str; 9] =
        ["xml", "extended", "timestamp", "id", "ktimestamp", "labels", "userspace", "save", "json"];
    match NAMES.iter().find(|name| is(word, name)) {
        Some(&"xml") => *form = Form::Xml,
        Some(&"save") => *form = Form::Save,
        Some(&"json") => *form = Form::Json,
        Some(&"extended") => show.extended = true,
        Some(&"timestamp") => show.timestamp = true,
        Some(&"id") => show.id = true,
        Some(&"ktimestamp") => show.ktimestamp = true,
        Some(&"labels") => show.labels = true,
        // Events that programs cause are marked in any case.
        Some(_) => {}
        None => return false,
    }
    true
}

/// Whether `-o` asks for command lines and another form at once.
pub(super) fn mixed(text: &str) -> bool {
    let asked = |names: &[&str]| text.split(',').any(|word| names.iter().any(|n| is(word, n)));
    asked(&["save"]) && asked(&["xml", "json"])
}

/// Status bits that must be set, and with `!` or as UNREPLIED those that must not be.
pub(super) fn status(
    text: &str,
    set: &mut u16,
    filter: &mut Filter,
    warnings: &mut Vec<String>,
) -> Result<(), Wrong> {
    let names = [
        ("ASSURED", Status::ASSURED.bits()),
        ("SEEN_REPLY", Status::SEEN_REPLY.bits()),
        ("UNSET", 0),
        ("FIXED_TIMEOUT", Status::FIXED_TIMEOUT.bits()),
        ("EXPECTED", Status::EXPECTED.bits()),
        // Nothing is offloaded here; the kernel's bits.
        ("OFFLOAD", 1 << 14),
        ("HW_OFFLOAD", 1 << 15),
    ];
    let mut unset = filter.unset.unwrap_or(0);
    words(text, &mut |word| {
        if word == "UNREPLIED" {
            unset |= Status::SEEN_REPLY.bits();
            return true;
        }
        let (negated, word) = match word.strip_prefix('!') {
            Some(word) => (true, word),
            None => (false, word),
        };
        for (name, option) in [("SRC_NAT", "--src-nat"), ("DST_NAT", "--dst-nat")] {
            if !word.is_empty() && is(word, name) {
                warnings.push(format!("WARNING: ignoring {name}, use {option} instead"));
                return true;
            }
        }
        let found = names.iter().find(|(name, _)| !word.is_empty() && is(word, name));
        if let Some((_, bits)) = found {
            *(if negated { &mut unset } else { &mut *set }) |= bits;
        }
        found.is_some()
    })?;
    filter.unset = (unset != 0).then_some(unset);
    Ok(())
}

/// The numbers of labels whose names are lists.
pub(super) fn label_list(
    texts: &[String],
    label: &dyn Fn(&str) -> Option<u8>,
) -> Result<Vec<u8>, Wrong> {
    let mut numbers = Vec::new();
    for name in texts.iter().flat_map(|text| text.split(',')) {
        let number = label(name);
        numbers.push(number.ok_or_else(|| Wrong::usage(format!("unknown label '{name}'")))?);
    }
    Ok(numbers)
}
