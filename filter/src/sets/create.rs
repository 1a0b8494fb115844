//! `create`: the words behind a set's type.

use tidegate_packet::{Addr, Family};

use super::content::Content;
use super::element::v4;
use super::fault::{Fault, Result};
use super::kind::{Kind, Part};
use super::words::{self, Reader, address, number};
use super::{Body, Mask, Options};
use crate::lex::Word;

/// Longest that an entry may stay: milliseconds of 31 bits.
pub(crate) const MAX_TIMEOUT: u64 = i32::MAX as u64 / 1000;
/// A bitmap has no more places than this.
const MAX_BITMAP: u64 = 65_536;
const MIN_HASH_SIZE: u32 = 64;
const MIN_LIST_SIZE: u32 = 4;
const MAX_BUCKET: u64 = 12;

impl Options {
    /// What a set of that kind has unless it is told otherwise.
    pub fn of(_: &Kind) -> Self {
        Self {
            family: Family::V4,
            hash_size: 1024,
            bucket_size: MAX_BUCKET as u8,
            initval: 0,
            max: 65_536,
            timeout: None,
            counters: false,
            comments: false,
            skbinfo: false,
            force: false,
            mask: None,
            mark_mask: u32::MAX,
            range: (0, 0),
            size: 8,
        }
    }
}

/// What is read of a command before it is known to fit together.
#[derive(Default)]
struct Draft<'a> {
    range: Option<(&'a Word<'a>, (u64, u64))>,
    /// The old way to say it.
    from: Option<u64>,
    to: Option<u64>,
    mask: Option<&'a Word<'a>>,
    initval: Option<u32>,
    ignored: Vec<String>,
}

/// Reads the words behind the type; besides, what is to be warned of.
pub(super) fn body(
    name: &str,
    kind: &'static Kind,
    words: &[Word<'_>],
) -> Result<(Body, Vec<String>)> {
    let mut options = Options::of(kind);
    let mut draft = Draft::default();
    let mut reader = Reader::new(words);
    while let Some(word) = reader.next() {
        let option = word.text.trim_start_matches("--");
        if !flag(&mut options, kind, option) {
            reader.once(option)?;
            value(&mut options, &mut draft, kind, word, option, &mut reader)
                .map_err(|fault| fault.at(word))?;
        }
    }
    if let Some(word) = draft.mask {
        options.mask = Some(mask(word, &options).map_err(|fault| fault.at(word))?);
    }
    // Only shown; one that the name decides is the same at every start.
    options.initval = draft.initval.unwrap_or_else(|| scatter(name));
    if kind.is_bitmap() {
        range(&mut options, kind, &draft)?;
    }
    Ok((Body { kind, options, content: Content::default() }, draft.ignored))
}

/// Options without a value; whether it is one.
fn flag(options: &mut Options, kind: &Kind, option: &str) -> bool {
    match option {
        "counters" => options.counters = true,
        "comment" => options.comments = true,
        "skbinfo" => options.skbinfo = true,
        "forceadd" if kind.is_hash() => options.force = true,
        "-4" if kind.chooses_family() => options.family = Family::V4,
        "-6" if kind.chooses_family() => options.family = Family::V6,
        _ => return false,
    }
    true
}

fn value<'a>(
    options: &mut Options,
    draft: &mut Draft<'a>,
    kind: &Kind,
    word: &'a Word<'a>,
    option: &str,
    reader: &mut Reader<'a>,
) -> Result<()> {
    const U32: u64 = u32::MAX as u64;
    let hash = kind.is_hash();
    match option {
        "family" if kind.chooses_family() => {
            let family = reader.value(option)?;
            options.family = match &*family.text {
                "inet" | "ipv4" | "-4" => Family::V4,
                "inet6" | "ipv6" | "-6" => Family::V6,
                other => {
                    return Err(Fault::syntax(format!("unknown inet family {other}")).at(family));
                }
            };
        }
        "hashsize" if hash => {
            let size = reader.number(option, 0..=U32)? as u32;
            let size = size.max(MIN_HASH_SIZE).checked_next_power_of_two();
            options.hash_size = size.unwrap_or(1 << 31);
        }
        "maxelem" if hash => options.max = reader.number(option, 0..=U32)? as u32,
        "bucketsize" if hash => {
            let size = reader.number(option, 0..=255)?.clamp(2, MAX_BUCKET);
            options.bucket_size = size.next_multiple_of(2) as u8;
        }
        "initval" if hash => draft.initval = Some(reader.number(option, 0..=U32)? as u32),
        "netmask" | "bitmask" if kind.mask.is_some() && (hash || option == "netmask") => {
            let mask = reader.value(option)?;
            if draft.mask.replace(mask).is_some() {
                return Err(Fault::syntax(
                    "bitmask and netmask are mutually exclusive, provide only one",
                ));
            }
            // The option tells how its value is to be read.
            options.mask = (option == "bitmask").then_some(Mask::Len(0));
        }
        "markmask" if kind.has(Part::Mark) => {
            options.mark_mask = reader.number(option, 0..=U32)? as u32;
        }
        "timeout" => options.timeout = Some(reader.number(option, 0..=MAX_TIMEOUT)? as u32),
        "range" | "network" if kind.is_bitmap() => {
            let range = reader.value(option)?;
            draft.range = Some((range, bitmap_range(range, kind).map_err(|f| f.at(range))?));
        }
        "from" | "to" if kind.is_bitmap() => {
            let end = reader.value(option)?;
            let at = bitmap_end(end, kind).map_err(|f| f.at(end))?;
            *(if option == "from" { &mut draft.from } else { &mut draft.to }) = Some(at);
        }
        "size" if kind.is_list() => {
            options.size = (reader.number(option, 0..=U32)? as u32).max(MIN_LIST_SIZE);
        }
        // What ipset 4 had.
        "probes" | "resize" | "gc" if hash => {
            let value = reader.value(option)?;
            draft.ignored.push(format!("--{option} {}", value.text));
        }
        _ => return Err(Fault::usage(format!("Unknown argument: `{}'", word.text)).at(word)),
    }
    Ok(())
}

/// What addresses are cut to: a length (`netmask`) or any bits (`bitmask`).
fn mask(word: &Word, options: &Options) -> Result<Mask> {
    let bits = options.family.bits();
    if options.mask.is_some() {
        return address(&word.text, options.family).map(Mask::Bits);
    }
    let length = number(&word.text, 1..=bits.into()).map_err(|fault| {
        let what = "netmask is out of the inclusive range of 1-";
        Fault::syntax(format!("{}\nSyntax error: {what}{bits}", fault.message))
    })?;
    Ok(Mask::Len(length as u8))
}

fn bitmap_end(word: &Word, kind: &Kind) -> Result<u64> {
    match kind.has(Part::Ip) {
        true => address(&word.text, Family::V4).map(|addr| v4(addr).into()),
        false => number(&word.text, 0..=65_535),
    }
}

fn bitmap_range(word: &Word, kind: &Kind) -> Result<(u64, u64)> {
    let text = &*word.text;
    if kind.has(Part::Ip) {
        if !text.contains(['-', '/']) {
            let what = "IP/cidr or IP-IP range must be specified";
            return Err(Fault::syntax(format!("{what}: {text}")));
        }
        let span = words::span(text, Family::V4)?;
        return Ok((v4(span.low).into(), v4(span.high).into()));
    }
    let port = |text: &str| words::port(text, tidegate_packet::protocol::TCP).map(u64::from);
    match text.split_once('-') {
        Some((low, high)) => Ok((port(low)?, port(high)?)),
        None => port(text).and(Err(Fault::usage("Mandatory option `to' is missing"))),
    }
}

fn range(options: &mut Options, kind: &Kind, draft: &Draft<'_>) -> Result<()> {
    let (word, (low, high)) = match (draft.range, draft.from, draft.to) {
        (Some((word, range)), ..) => (Some(word), range),
        (None, Some(from), Some(to)) => (None, (from, to)),
        (None, Some(_), None) => return Err(Fault::usage("Mandatory option `to' is missing")),
        (None, None, _) => return Err(Fault::usage("Mandatory option `range' is missing")),
    };
    let (low, high) = (low.min(high), low.max(high));
    // With a netmask there is a place for each network.
    let each = match options.mask {
        Some(Mask::Len(len)) if kind.has(Part::Ip) => 1u64 << (32 - len.min(32)),
        _ => 1,
    };
    if (high - low + 1).div_ceil(each) > MAX_BITMAP {
        let fault =
            Fault::refused("The range you specified exceeds the size limit of the set type");
        return Err(match word {
            Some(word) => fault.at(word),
            None => fault,
        });
    }
    options.range = (low as u32, high as u32);
    Ok(())
}

/// Thirty-two bits that depend on the whole text (FNV-1a).
fn scatter(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// An address of a bitmap is one of its places.
pub(super) fn in_range(options: &Options, addr: Addr) -> bool {
    let (low, high) = options.range;
    (low..=high).contains(&v4(addr))
}
