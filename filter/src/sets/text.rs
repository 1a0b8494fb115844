//! Sets as text: the lines of `ipset save` and `ipset restore`.

use std::fmt::Write as _;
use std::ops::RangeInclusive;
use std::sync::{Arc, PoisonError};

use tidegate_packet::{Addr, Family, Instant, protocol};

use super::element::network;
use super::lookup::{seconds_left, v4};
use super::{Element, Entry, Kind, Options, Refused, Set, Sets};
use crate::diagnostic::{Diagnostic, Outcome, Problem};
use crate::lex::{self, Word};
use crate::names;
use crate::parse::command;
use crate::values::parse_number;

/// `IPSET_MAXNAMELEN` less the final zero.
const MAX_NAME: usize = 31;
const MAX_TIMEOUT: u64 = u32::MAX as u64 / 1000;
/// A bitmap has no more places than this.
const MAX_BITMAP: u32 = 65_536;

impl Sets {
    /// Carries out the lines of a text in the form of `ipset save`: `create`, `add`, `del`, `flush`,
    /// `destroy`. Lines up to the first that is refused stay done, as with `ipset restore`; all that
    /// is wrong is told.
    pub fn restore(&self, text: &str, now: Instant) -> Result<(), Vec<Diagnostic>> {
        let mut problems = Vec::new();
        let mut start = 0;
        for line in text.split_inclusive('\n') {
            let body = line.trim_end_matches(['\n', '\r']);
            if !body.is_empty() && !body.starts_with('#') && body != "COMMIT" {
                let done = lex::split(body, start).and_then(|words| self.line(&words, now));
                problems.extend(done.err());
            }
            start += line.len();
        }
        if problems.is_empty() { Ok(()) } else { Err(Diagnostic::all(text, problems)) }
    }

    fn line(&self, words: &[Word], now: Instant) -> Outcome<()> {
        let (flags, words): (Vec<&Word>, Vec<&Word>) =
            words.iter().partition(|w| matches!(w.text.as_str(), "-exist" | "-!" | "--exist"));
        let exist = !flags.is_empty();
        let Some((command, rest)) = words.split_first() else { return Ok(()) };
        let name = || rest.first().copied().ok_or_else(|| command.wrong("which set?"));
        match command.text.as_str() {
            "create" | "-N" | "--create" => self.create(name()?, &rest[1..], exist),
            "add" | "-A" | "--add" => self.add(name()?, &rest[1..], exist, now),
            "del" | "-D" | "--del" => self.delete(name()?, &rest[1..], exist, now),
            "flush" | "-F" | "--flush" => {
                for set in self.those(rest.first().copied())? {
                    *set.content() = super::Content::default();
                }
                Ok(())
            }
            "destroy" | "-X" | "--destroy" => self.destroy(rest.first().copied()),
            other => Err(command
                .wrong(format!("unknown command `{other}`"))
                .help("expected create, add, del, flush or destroy")),
        }
    }

    fn known(&self, name: &Word) -> Outcome<Arc<Set>> {
        self.get(&name.text).ok_or_else(|| name.wrong(format!("there is no set `{}`", name.text)))
    }

    /// The named set, or all.
    fn those(&self, name: Option<&Word>) -> Outcome<Vec<Arc<Set>>> {
        match name {
            Some(name) => Ok(vec![self.known(name)?]),
            None => Ok(self.names().iter().filter_map(|name| self.get(name)).collect()),
        }
    }

    /// A set that a rule or a list holds on to stays.
    fn destroy(&self, name: Option<&Word>) -> Outcome<()> {
        for set in self.those(name)? {
            // One is the map's, the other ours.
            if Arc::strong_count(&set) > 2 {
                let message = format!("set `{}` is in use", set.name);
                return Err(
                    name.map_or_else(|| Problem::new(0..0, &message), |name| name.wrong(&message))
                );
            }
            self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&set.name);
        }
        Ok(())
    }

    fn create(&self, name: &Word, rest: &[&Word], exist: bool) -> Outcome<()> {
        if name.text.is_empty() || name.text.len() > MAX_NAME {
            return Err(name.wrong(format!("bad set name `{}`", name.text)));
        }
        let kind_word = rest.first().ok_or_else(|| name.wrong("which type?"))?;
        let kind = Kind::ALL.iter().find(|(text, _)| *text == kind_word.text).map(|(_, k)| *k);
        let Some(kind) = kind else {
            let names: Vec<_> = Kind::ALL.iter().map(|(name, _)| *name).collect();
            return Err(kind_word
                .wrong(format!("unknown set type `{}`", kind_word.text))
                .help(format!("expected {}", names.join(", "))));
        };
        let options = options(kind, kind_word, &rest[1..])?;
        let mut sets = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match sets.get(&name.text) {
            Some(old) if exist && old.kind == kind && old.options.family == options.family => {
                Ok(())
            }
            Some(_) => Err(name.wrong(format!("there is a set `{}` already", name.text))),
            None => {
                sets.insert(name.text.clone(), Arc::new(Set::new(&name.text, kind, options)));
                Ok(())
            }
        }
    }

    fn add(&self, name: &Word, rest: &[&Word], exist: bool, now: Instant) -> Outcome<()> {
        let set = self.known(name)?;
        let word = rest.first().ok_or_else(|| name.wrong("which element?"))?;
        let entry = entry(&set, &rest[1..], now)?;
        if set.kind == Kind::List {
            let member = self.known(word)?;
            if member.kind == Kind::List {
                return Err(word.wrong("a list can't hold a list"));
            }
            let mut content = set.content();
            if content.members.iter().any(|m| m.name == member.name) {
                return if exist { Ok(()) } else { Err(word.wrong("it is there already")) };
            }
            content.members.push(member);
            return Ok(());
        }
        for element in elements(&set, word)? {
            set.add(element, entry.clone(), exist, now).map_err(|refused| match refused {
                Refused::Exists => word.wrong("it is there already").help("-exist lets that pass"),
                Refused::Full => word.wrong(format!("set `{}` is full", set.name)),
            })?;
        }
        Ok(())
    }

    fn delete(&self, name: &Word, rest: &[&Word], exist: bool, now: Instant) -> Outcome<()> {
        let set = self.known(name)?;
        let word = rest.first().ok_or_else(|| name.wrong("which element?"))?;
        let missing = || word.wrong("it isn't there").help("-exist lets that pass");
        if set.kind == Kind::List {
            let mut content = set.content();
            let before = content.members.len();
            content.members.retain(|member| member.name != word.text);
            let found = content.members.len() < before;
            return if found || exist { Ok(()) } else { Err(missing()) };
        }
        for element in elements(&set, word)? {
            if !set.delete(&element, now) && !exist {
                return Err(missing());
            }
        }
        Ok(())
    }

    /// All sets in the form of `ipset save`, lists last, entries in order.
    pub fn save(&self, now: Instant) -> String {
        let mut out = String::new();
        let sets = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let (lists, others): (Vec<_>, Vec<_>) =
            sets.values().partition(|set| set.kind == Kind::List);
        for set in others.into_iter().chain(lists) {
            set.save(&mut out, now);
        }
        out
    }
}

/// The words behind a type, in any order.
fn options(kind: Kind, kind_word: &Word, words: &[&Word]) -> Outcome<Options> {
    let mut options = Options {
        family: Family::V4,
        hash_size: 1024,
        max: 65_536,
        timeout: None,
        counters: false,
        comments: false,
        netmask: None,
        force: false,
        range: (0, 0),
        size: 8,
    };
    let mut range = None;
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut value =
            || words.next().ok_or_else(|| word.wrong(format!("{} needs a value", word.text)));
        match word.text.as_str() {
            "family" if kind.is_hash() => {
                let family = value()?;
                options.family = match family.text.as_str() {
                    "inet" | "ipv4" | "-4" => Family::V4,
                    "inet6" | "ipv6" | "-6" => Family::V6,
                    _ => return Err(family.wrong("expected inet or inet6")),
                };
            }
            "hashsize" if kind.is_hash() => {
                options.hash_size = number(value()?, 1..=u32::MAX.into())?
            }
            "maxelem" if kind.is_hash() => {
                options.max = number::<u32>(value()?, 1..=u32::MAX.into())? as usize;
            }
            // How the kernel's table is laid out.
            "bucketsize" | "initval" if kind.is_hash() => {
                number::<u32>(value()?, 0..=u32::MAX.into())?;
            }
            "netmask" => options.netmask = Some(number(value()?, 1..=128)?),
            "timeout" => options.timeout = Some(number(value()?, 0..=MAX_TIMEOUT)?),
            "counters" => options.counters = true,
            "comment" => options.comments = true,
            "forceadd" if kind.is_hash() => options.force = true,
            "range" => range = Some(value()?),
            "size" if kind == Kind::List => options.size = number(value()?, 1..=u32::MAX.into())?,
            other => {
                return Err(word.wrong(format!("`{other}` is not supported for {}", kind.name())));
            }
        }
    }
    match (kind, range) {
        (Kind::BitmapIp, Some(word)) => {
            let (low, high) = address_range(word, Family::V4)?;
            options.range = (v4(low), v4(high));
        }
        (Kind::BitmapPort, Some(word)) => {
            let (low, high) = word.text.split_once('-').unwrap_or((&word.text, &word.text));
            options.range = (word.part(low).port(None)?.into(), word.part(high).port(None)?.into());
        }
        (Kind::BitmapIp | Kind::BitmapPort, None) => {
            return Err(kind_word.wrong("a bitmap needs a range"));
        }
        (_, Some(word)) => return Err(word.wrong("only bitmaps have a range")),
        (_, None) => {}
    }
    let (low, high) = options.range;
    if low > high || high - low >= MAX_BITMAP {
        return Err(kind_word.wrong(format!("a range of 1 to {MAX_BITMAP} places is needed")));
    }
    if options.netmask.is_some_and(|len| len > options.family.bits()) {
        return Err(kind_word.wrong("the netmask is longer than an address"));
    }
    Ok(options)
}

fn number<T: TryFrom<u64>>(word: &Word, range: RangeInclusive<u64>) -> Outcome<T> {
    let number = word.number(range)?;
    T::try_from(number).map_err(|_| word.wrong(format!("bad number `{number}`")))
}

/// The words behind an element.
fn entry(set: &Set, words: &[&Word], now: Instant) -> Outcome<Entry> {
    let mut entry = Entry { expires: set.expiry(None, now), ..Entry::default() };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut value =
            || words.next().ok_or_else(|| word.wrong(format!("{} needs a value", word.text)));
        match word.text.as_str() {
            "timeout" if set.options.timeout.is_some() => {
                entry.expires = set.expiry(Some(number(value()?, 0..=MAX_TIMEOUT)?), now);
            }
            "packets" if set.options.counters => entry.packets = number(value()?, 0..=u64::MAX)?,
            "bytes" if set.options.counters => entry.bytes = number(value()?, 0..=u64::MAX)?,
            "comment" if set.options.comments => entry.comment.clone_from(&value()?.text),
            "nomatch" if set.kind.has_networks() => entry.nomatch = true,
            other => {
                return Err(word
                    .wrong(format!("`{other}` doesn't go with set `{}`", set.name))
                    .help("a set must have been created with timeout, counters or comment"));
            }
        }
    }
    Ok(entry)
}

/// What a word of `add` stands for: one element or a range of them.
fn elements(set: &Set, word: &Word) -> Outcome<Vec<Element>> {
    let family = set.options.family;
    if set.kind == Kind::BitmapPort {
        let (_, low, high) = ports(&word.part(&word.text))?;
        let (first, last) = set.options.range;
        if u32::from(low) < first || u32::from(high) > last {
            return Err(word.wrong("outside of the set's range"));
        }
        return Ok((low..=high).map(Element::port).collect());
    }
    let parts = word.list();
    if parts.len() != set.kind.dimensions() {
        return Err(word.wrong(format!("expected {} parts", set.kind.dimensions())));
    }
    let mut elements: Vec<Element> = match set.kind.has_networks() {
        true => networks(&parts[0], family)?
            .into_iter()
            .map(|(addr, len)| Element { len, ..Element::host(addr) })
            .collect(),
        false => addresses(set, &parts[0])?,
    };
    if set.kind.has_ports() {
        let (protocol, low, high) = ports(&parts[1])?;
        elements = elements
            .iter()
            .flat_map(|e| (low..=high).map(move |port| Element { protocol, port, ..e.clone() }))
            .collect();
    }
    match set.kind {
        Kind::HashIpPortIp => {
            let second = Some(parts[2].address(family)?);
            elements.iter_mut().for_each(|e| e.second = second);
        }
        Kind::HashNetIface => {
            elements.iter_mut().for_each(|e| e.interface.clone_from(&parts[1].text));
        }
        _ => {}
    }
    Ok(elements)
}

/// `addr`, `addr-addr` or `addr/len`, both ends included.
fn address_range(word: &Word, family: Family) -> Outcome<(Addr, Addr)> {
    if let Some((low, high)) = word.text.split_once('-')
        && family == Family::V4
    {
        let (low, high) = (word.part(low).address(family)?, word.part(high).address(family)?);
        if low.bits() > high.bits() {
            return Err(word.wrong("the range runs backwards"));
        }
        return Ok((low, high));
    }
    let found = word.network(family)?;
    let head = if family == Family::V4 { u128::MAX << 32 } else { 0 };
    Ok((found.addr, Addr::from_bits(found.addr.bits() | !found.mask & !head)))
}

/// The addresses that a word names, as the set keeps them.
fn addresses(set: &Set, word: &Word) -> Outcome<Vec<Element>> {
    let (low, high) = address_range(word, set.options.family)?;
    if set.kind == Kind::BitmapIp {
        let (first, last) = set.options.range;
        if v4(low) < first || v4(high) > last {
            return Err(word.wrong("outside of the set's range"));
        }
    }
    let step = match set.options.netmask {
        Some(len) => 1u128 << (set.options.family.bits() - len).min(127),
        None => 1,
    };
    let low = set.cut(low);
    let count = (high.bits() - low.bits()) / step + 1;
    if count > set.options.max as u128 {
        return Err(word.wrong(format!("more addresses than set `{}` has room for", set.name)));
    }
    Ok((0..count).map(|n| Element::host(Addr::from_bits(low.bits() + n * step))).collect())
}

/// The networks that a word names: one, or those that a range is made of.
fn networks(word: &Word, family: Family) -> Outcome<Vec<(Addr, u8)>> {
    if !word.text.contains('-') {
        let found = word.network(family)?;
        return match found.prefix_len() {
            Some(0) => Err(word.wrong("a network of length 0 can't be in a set")),
            Some(len) => Ok(vec![(found.addr, len)]),
            None => Err(word.wrong("the mask has holes")),
        };
    }
    let (low, high) = address_range(word, family)?;
    let (mut at, high) = (u64::from(v4(low)), u64::from(v4(high)));
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

/// `[protocol:]port[-port]`; ICMP has types instead.
fn ports(word: &Word) -> Outcome<(u8, u16, u16)> {
    let (number, rest) = match word.text.split_once(':') {
        Some((name, rest)) => (command::protocol(&word.part(name))?, rest),
        None => (protocol::TCP, word.text.as_str()),
    };
    let rest_word = word.part(rest);
    if matches!(number, protocol::ICMP | protocol::ICMPV6) {
        let (kind, code) =
            crate::matches::icmp::kind_and_code(&rest_word, number == protocol::ICMPV6)?;
        let port = u16::from_be_bytes([kind, code.unwrap_or(0)]);
        return Ok((number, port, port));
    }
    let port = |text: &str| match parse_number(text) {
        Some(_) => rest_word.part(text).port(None),
        None => rest_word.part(text).port(Some(number)),
    };
    match (port(rest), rest.split_once('-')) {
        (Ok(single), _) => Ok((number, single, single)),
        (Err(_), Some((low, high))) => {
            let (low, high) = (port(low)?, port(high)?);
            if low > high {
                return Err(rest_word.wrong("the range runs backwards"));
            }
            Ok((number, low, high))
        }
        (Err(problem), None) => Err(problem),
    }
}

impl Set {
    // Writing to a string can't fail.
    fn save(&self, out: &mut String, now: Instant) {
        let Options {
            family,
            hash_size,
            max,
            timeout,
            counters,
            comments,
            netmask,
            force,
            range,
            size,
        } = &self.options;
        let _ = write!(out, "create {} {}", self.name, self.kind.name());
        match self.kind {
            Kind::List => {
                let _ = write!(out, " size {size}");
            }
            Kind::BitmapIp => {
                let addr = |n: u32| Addr::from_v4_bytes(n.to_be_bytes());
                let _ = write!(out, " range {}-{}", addr(range.0), addr(range.1));
            }
            Kind::BitmapPort => {
                let _ = write!(out, " range {}-{}", range.0, range.1);
            }
            _ => {
                let family = if *family == Family::V4 { "inet" } else { "inet6" };
                let _ = write!(out, " family {family} hashsize {hash_size} maxelem {max}");
            }
        }
        if let Some(len) = netmask {
            let _ = write!(out, " netmask {len}");
        }
        if let Some(seconds) = timeout {
            let _ = write!(out, " timeout {seconds}");
        }
        for (given, name) in [(counters, "counters"), (comments, "comment"), (force, "forceadd")] {
            if *given {
                let _ = write!(out, " {name}");
            }
        }
        out.push('\n');
        let content = self.content();
        for member in &content.members {
            let _ = writeln!(out, "add {} {}", self.name, member.name);
        }
        let mut entries: Vec<_> =
            content.entries.iter().filter(|(_, entry)| entry.is_alive(now)).collect();
        entries.sort_by(|a, b| a.0.cmp(b.0));
        for (element, entry) in entries {
            let _ = write!(out, "add {} ", self.name);
            self.save_element(out, element);
            if timeout.is_some() {
                let _ = write!(out, " timeout {}", seconds_left(entry, now));
            }
            if entry.nomatch {
                out.push_str(" nomatch");
            }
            if *counters {
                let _ = write!(out, " packets {} bytes {}", entry.packets, entry.bytes);
            }
            if !entry.comment.is_empty() {
                let _ = write!(out, " comment \"{}\"", entry.comment);
            }
            out.push('\n');
        }
    }

    fn save_element(&self, out: &mut String, element: &Element) {
        let Element { addr, len, protocol, port, second, interface } = element;
        if self.kind == Kind::BitmapPort {
            let _ = write!(out, "{port}");
            return;
        }
        let _ = write!(out, "{addr}");
        if *len < addr.family().bits() {
            let _ = write!(out, "/{len}");
        }
        if self.kind.has_ports() {
            match names::protocol_name(*protocol) {
                Some(name) => drop(write!(out, ",{name}:")),
                None => drop(write!(out, ",{protocol}:")),
            }
            let [kind, code] = port.to_be_bytes();
            let icmp = matches!(*protocol, protocol::ICMP | protocol::ICMPV6);
            let named = icmp
                .then(|| crate::matches::icmp::name(kind, code, *protocol == protocol::ICMPV6))
                .flatten();
            match named {
                Some(name) => out.push_str(name),
                None if icmp => drop(write!(out, "{kind}/{code}")),
                None => drop(write!(out, "{port}")),
            }
        }
        if let Some(second) = second {
            let _ = write!(out, ",{second}");
        }
        if !interface.is_empty() {
            let _ = write!(out, ",{interface}");
        }
    }
}
