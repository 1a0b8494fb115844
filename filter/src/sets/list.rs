//! Sets as text: `ipset list` and `ipset save`, plain, as commands, or in XML.

use std::fmt::{Display, Write as _};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tidegate_packet::{Addr, Family, Instant};

use super::element::{Element, Entry, iface_order, order, write_element};
use super::kind::{MaskPlace, Part};
use super::{Body, Mask, Set};

/// `-output`.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Plain,
    Save,
    Xml,
}

/// How much of a set is listed.
#[derive(Copy, Clone, Debug, Default)]
pub(super) struct Style {
    /// `-name`.
    pub names: bool,
    /// `-terse`.
    pub terse: bool,
}

/// A text that grows, and the form it has.
struct Writer<'a> {
    out: &'a mut String,
    mode: Mode,
}

impl Writer<'_> {
    fn option(&mut self, name: &str, value: impl Display) {
        // Writing to a string can't fail.
        let _ = match self.mode {
            Mode::Xml => write!(self.out, "<{name}>{value}</{name}>"),
            Mode::Plain | Mode::Save => write!(self.out, " {name} {value}"),
        };
    }

    fn flag(&mut self, name: &str, given: bool) {
        let _ = match self.mode {
            _ if !given => Ok(()),
            Mode::Xml => write!(self.out, "<{name}/>"),
            Mode::Plain | Mode::Save => write!(self.out, " {name}"),
        };
    }
}

/// All of these sets as commands that make them.
pub(super) fn save(sets: &[Arc<Set>], now: Instant) -> String {
    list(sets, Mode::Save, Style::default(), now)
}

/// Lists sets.
pub(super) fn list(sets: &[Arc<Set>], mode: Mode, style: Style, now: Instant) -> String {
    // Commands are always whole.
    let style = if mode == Mode::Save { Style::default() } else { style };
    let mut out = String::new();
    if mode == Mode::Xml {
        out.push_str("<ipsets>\n");
    }
    for (n, set) in sets.iter().enumerate() {
        let name = &set.name;
        if style.names {
            let _ = match mode {
                Mode::Xml => writeln!(out, "<ipset name=\"{}\"/>", escaped(name)),
                Mode::Plain | Mode::Save => writeln!(out, "{name}"),
            };
            continue;
        }
        if mode == Mode::Plain && n > 0 {
            out.push('\n');
        }
        one(&mut out, set, mode, style, now);
    }
    if mode == Mode::Xml {
        out.push_str("</ipsets>\n");
    }
    out
}

/// A name may have characters that mean something in XML.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn one(out: &mut String, set: &Set, mode: Mode, style: Style, now: Instant) {
    let body = set.read();
    let name = &set.name;
    let (kind, revision) = (body.kind.name, body.kind.revision);
    let _ = match mode {
        Mode::Plain => write!(out, "Name: {name}\nType: {kind}\nRevision: {revision}\nHeader:"),
        Mode::Save => write!(out, "create {name} {kind}"),
        Mode::Xml => write!(
            out,
            "<ipset name=\"{}\">\n<type>{kind}</type>\n<revision>{revision}</revision>\n<header>",
            escaped(name)
        ),
    };
    header(&mut Writer { out, mode }, &body);
    let entries = body.sorted(now);
    let members: Vec<_> = body.content.members.iter().filter(|m| m.entry.is_alive(now)).collect();
    let (size, references) = (body.memory(), set.references());
    let count = entries.len() + members.len();
    let _ = match mode {
        Mode::Plain => write!(
            out,
            "\nSize in memory: {size}\nReferences: {references}\nNumber of entries: {count}\n"
        ),
        Mode::Save => writeln!(out),
        Mode::Xml => write!(
            out,
            "\n<memsize>{size}</memsize>\n<references>{references}</references>\n<numentries>\
             {count}</numentries>\n</header>\n"
        ),
    };
    if !style.terse {
        out.push_str(match mode {
            Mode::Plain => "Members:\n",
            Mode::Save => "",
            Mode::Xml => "<members>\n",
        });
        let line = |out: &mut String, text: &str, entry: &Entry| {
            let _ = match mode {
                Mode::Plain => write!(out, "{text}"),
                Mode::Save => write!(out, "add {name} {text}"),
                Mode::Xml => write!(out, "<member><elem>{}</elem>", escaped(text)),
            };
            body.extras(&mut Writer { out, mode }, entry, now);
            out.push_str(if mode == Mode::Xml { "</member>\n" } else { "\n" });
        };
        for member in members {
            line(out, &member.set.name, &member.entry);
        }
        let mut text = String::new();
        for (element, entry) in entries {
            text.clear();
            write_element(&mut text, body.kind, element, entry.mac.get().copied());
            line(out, &text, entry);
        }
        out.push_str(if mode == Mode::Xml { "</members>\n" } else { "" });
    }
    out.push_str(if mode == Mode::Xml { "</ipset>\n" } else { "" });
}

fn header(writer: &mut Writer<'_>, body: &Body) {
    let options = &body.options;
    let kind = body.kind;
    let mask = |writer: &mut Writer<'_>, place| match options.mask {
        Some(Mask::Len(len)) if kind.mask == Some(place) => writer.option("netmask", len),
        Some(Mask::Bits(bits)) if kind.mask == Some(place) => writer.option("bitmask", bits),
        _ => {}
    };
    if kind.is_hash() {
        if kind.chooses_family() {
            let family = if options.family == Family::V4 { "inet" } else { "inet6" };
            writer.option("family", family);
        }
        if kind.has(Part::Mark) {
            writer.option("markmask", format_args!("0x{:08x}", options.mark_mask));
        }
        writer.option("hashsize", options.hash_size);
        writer.option("maxelem", options.max);
    } else if kind.is_list() {
        writer.option("size", options.size);
    } else {
        let (low, high) = options.range;
        let addr = |n: u32| Addr::from_v4_bytes(n.to_be_bytes());
        match kind.has(Part::Ip) {
            true => writer.option("range", format_args!("{}-{}", addr(low), addr(high))),
            false => writer.option("range", format_args!("{low}-{high}")),
        }
    }
    mask(writer, MaskPlace::Early);
    if let Some(seconds) = options.timeout {
        writer.option("timeout", seconds);
    }
    writer.flag("counters", options.counters);
    writer.flag("comment", options.comments);
    writer.flag("forceadd", options.force);
    writer.flag("skbinfo", options.skbinfo);
    if kind.is_hash() {
        writer.option("bucketsize", options.bucket_size);
        writer.option("initval", format_args!("0x{:08x}", options.initval));
    }
    mask(writer, MaskPlace::Late);
}

impl Body {
    /// The elements in order. The order of a hash means nothing, so every listing has this one.
    fn sorted(&self, now: Instant) -> Vec<(&Element, &Entry)> {
        let mut entries: Vec<_> =
            self.content.iter().filter(|(_, entry)| entry.is_alive(now)).collect();
        if entries.iter().all(|(e, _)| e.protocol == 0) {
            // No words to compare: the order in place is the same and much faster.
            entries.sort_unstable_by_key(|(e, entry)| plain_order(e, entry.wildcard));
        } else {
            entries.sort_by_cached_key(|(e, entry)| order(e, entry.wildcard));
        }
        entries
    }

    /// About how many bytes the set takes.
    fn memory(&self) -> usize {
        let each = size_of::<(Element, Entry)>() + 1;
        size_of::<Set>() + self.content.len() * each
    }

    /// What is listed behind an element.
    fn extras(&self, writer: &mut Writer<'_>, entry: &Entry, now: Instant) {
        let options = &self.options;
        if options.timeout.is_some() {
            writer.option("timeout", entry.seconds_left(now));
        }
        writer.flag("nomatch", entry.nomatch);
        writer.flag("wildcard", entry.wildcard);
        if options.counters {
            writer.option("packets", entry.packets.load(Ordering::Relaxed));
            writer.option("bytes", entry.bytes.load(Ordering::Relaxed));
        }
        if let Some(comment) = &entry.comment {
            let comment =
                if writer.mode == Mode::Xml { escaped(comment) } else { comment.to_string() };
            writer.option("comment", format_args!("\"{comment}\""));
        }
        let Some(skb) = entry.skb.as_deref().filter(|_| options.skbinfo) else { return };
        match (skb.mark, skb.mask) {
            (0, 0) => {}
            (mark, u32::MAX) => writer.option("skbmark", format_args!("0x{mark:x}")),
            (mark, mask) => writer.option("skbmark", format_args!("0x{mark:x}/0x{mask:x}")),
        }
        if skb.priority != 0 {
            let (major, minor) = (skb.priority >> 16, skb.priority & 0xffff);
            writer.option("skbprio", format_args!("{major:x}:{minor:x}"));
        }
        if skb.queue != 0 {
            writer.option("skbqueue", skb.queue);
        }
    }
}

/// The order of elements without protocols; the same as [`order`] gives.
fn plain_order(element: &Element, wildcard: bool) -> impl Ord + use<> {
    let Element { addr, len, second, second_len, port, mark, mac, iface, physdev, .. } = *element;
    // The longer network first.
    let first = (addr, std::cmp::Reverse(len), port);
    (first, second, std::cmp::Reverse(second_len), mark, mac, iface_order(iface, physdev, wildcard))
}
