//! `add`, `del` and `test`: the words behind an element, and what becomes of the set.

use std::sync::OnceLock;

use tidegate_packet::Instant;

use super::content::{Found, Member, Refused, Scope};
use super::element::{Entry, SkbInfo};
use super::fault::{Fault, Result};
use super::kind::{Kind, Part};
use super::words::{Reader, element};
use super::{Body, MAX_TIMEOUT, Set, Sets};
use crate::lex::Word;

/// Longest comment.
const MAX_COMMENT: usize = 255;
/// More that `del -exist` is asked to look for than this is refused: it would take too long.
const MAX_VAIN: u128 = 1 << 20;

const THERE: &str = "Element cannot be added to the set: it's already added";
const BESIDE: &str = "The set to which you referred with 'before' or 'after'";
const MISSING: &str = "Element cannot be deleted from the set: it's not added";

/// A command about an element of a set.
pub(super) struct Change<'a> {
    pub sets: &'a Sets,
    pub set: &'a Set,
    pub exist: bool,
    pub now: Instant,
}

/// The words behind an element.
#[derive(Default)]
struct Extras<'a> {
    timeout: Option<u32>,
    packets: Option<u64>,
    bytes: Option<u64>,
    comment: Option<&'a str>,
    skb: Option<SkbInfo>,
    nomatch: bool,
    wildcard: bool,
    /// Before or after which member of a list.
    beside: Option<(bool, &'a Word<'a>)>,
}

/// What the words belong to.
#[derive(Copy, Clone, PartialEq, Eq)]
enum Act {
    Add,
    Del,
    Test,
}

impl<'a> Extras<'a> {
    fn read(kind: &Kind, act: Act, words: &'a [Word<'a>]) -> Result<Self> {
        let mut extras = Self::default();
        let mut reader = Reader::new(words);
        while let Some(word) = reader.next() {
            let option = word.text.trim_start_matches("--");
            extras.option(kind, act, word, option, &mut reader).map_err(|fault| fault.at(word))?;
        }
        Ok(extras)
    }

    fn option(
        &mut self,
        kind: &Kind,
        act: Act,
        word: &'a Word<'a>,
        option: &'a str,
        reader: &mut Reader<'a>,
    ) -> Result<()> {
        let add = act == Act::Add;
        reader.once(option)?;
        match option {
            "nomatch" if kind.has_networks() && act != Act::Del => self.nomatch = true,
            "wildcard" if kind.has(Part::Iface) && add => self.wildcard = true,
            "before" | "after" if kind.is_list() => {
                self.beside = Some((option == "before", reader.value(option)?));
            }
            "timeout" if add => {
                self.timeout = Some(reader.number(option, 0..=MAX_TIMEOUT)? as u32);
            }
            "packets" if add => self.packets = Some(reader.number(option, 0..=u64::MAX)?),
            "bytes" if add => self.bytes = Some(reader.number(option, 0..=u64::MAX)?),
            "comment" if add => self.comment = Some(comment(reader.value(option)?)?),
            "skbmark" if add => {
                let (mark, mask) = skb_mark(reader.value(option)?)?;
                let skb = self.skb.get_or_insert_default();
                (skb.mark, skb.mask) = (mark, mask);
            }
            "skbprio" if add => {
                let priority = skb_priority(reader.value(option)?)?;
                self.skb.get_or_insert_default().priority = priority;
            }
            "skbqueue" if add => {
                let queue = reader.number(option, 0..=u16::MAX.into())? as u16;
                self.skb.get_or_insert_default().queue = queue;
            }
            _ => return Err(Fault::usage(format!("Unknown argument: `{}'", word.text))),
        }
        Ok(())
    }

    /// Refuses what the set has no room for (ip_set_get_extensions).
    fn entry(self, body: &Body, now: Instant) -> Result<Entry> {
        let options = &body.options;
        let refuse = |what: &str, support: &str| {
            let what = format!("{what} cannot be used: set was created without {support} support");
            Err(Fault::refused(what))
        };
        if self.timeout.is_some() && options.timeout.is_none() {
            return refuse("Timeout", "timeout");
        }
        if (self.packets.is_some() || self.bytes.is_some()) && !options.counters {
            return refuse("Packet/byte counters", "counter");
        }
        if self.comment.is_some() && !options.comments {
            return refuse("Comment", "comment");
        }
        if self.skb.is_some() && !options.skbinfo {
            return refuse("Skbinfo mapping", "skbinfo");
        }
        Ok(Entry {
            expires: body.expiry(self.timeout, now),
            packets: self.packets.unwrap_or(0).into(),
            bytes: self.bytes.unwrap_or(0).into(),
            nomatch: self.nomatch,
            wildcard: self.wildcard,
            mac: OnceLock::new(),
            comment: self.comment.filter(|text| !text.is_empty()).map(Into::into),
            skb: self.skb.map(Box::new),
        })
    }
}

fn comment<'a>(word: &'a Word<'_>) -> Result<&'a str> {
    if word.text.len() > MAX_COMMENT {
        let what = format!("Comment is longer than the maximum allowed {MAX_COMMENT} characters");
        return Err(Fault::syntax(what).at(word));
    }
    // It couldn't be read back.
    if word.text.contains('"') {
        return Err(Fault::syntax("\" character is not permitted in comments").at(word));
    }
    Ok(&word.text)
}

fn hex(text: &str) -> Option<u32> {
    text.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u32::from_str_radix(text, 16).ok())?
}

fn skb_mark(word: &Word) -> Result<(u32, u32)> {
    let part = |text: &str| text.strip_prefix("0x").and_then(hex);
    let (mark, mask) = word.text.split_once('/').unwrap_or((&word.text, "0xffffffff"));
    part(mark).zip(part(mask)).ok_or_else(|| {
        let what = "Invalid skbmark format, it should be:  MARK/MASK or MARK (see manpage)";
        Fault::syntax(what).at(word)
    })
}

fn skb_priority(word: &Word) -> Result<u32> {
    let half = |text: &str| hex(text).and_then(|n| u16::try_from(n).ok()).map(u32::from);
    let halves = word.text.split_once(':').and_then(|(a, b)| half(a).zip(half(b)));
    let (major, minor) = halves.ok_or_else(|| {
        let what = "Invalid skbprio format, it should be:MAJOR:MINOR (see manpage)";
        Fault::syntax(what).at(word)
    })?;
    Ok(major << 16 | minor)
}

impl Change<'_> {
    pub fn add(&self, word: &Word, extras: &[Word<'_>]) -> Result<()> {
        let mut body = self.set.write();
        let body = &mut *body;
        if body.kind.is_list() {
            let extras = Extras::read(body.kind, Act::Add, extras)?;
            return self.add_member(body, word, extras).map_err(|fault| fault.at(word));
        }
        let written = element(word, body).map_err(|fault| fault.at(word))?;
        let extras = Extras::read(body.kind, Act::Add, extras)?;
        let mut entry = extras.entry(body, self.now).map_err(|fault| fault.at(word))?;
        entry.mac = written.mac.map(Into::into).unwrap_or_default();
        let room = body.room();
        // The elements are read from the options, while the content changes.
        let mut content = std::mem::take(&mut body.content);
        let done = written.each(body, &mut |element| {
            content.add(element, entry.clone(), self.exist, room, self.now).map_err(|refused| {
                Fault::refused(match refused {
                    Refused::Exists => THERE,
                    Refused::Full => "Hash is full, cannot add more elements",
                })
            })
        });
        body.content = content;
        done.map_err(|fault| fault.at(word))
    }

    pub fn delete(&self, word: &Word, extras: &[Word<'_>]) -> Result<()> {
        let mut body = self.set.write();
        let body = &mut *body;
        if body.kind.is_list() {
            let extras = Extras::read(body.kind, Act::Del, extras)?;
            return self.delete_member(body, word, extras).map_err(|fault| fault.at(word));
        }
        let written = element(word, body).map_err(|fault| fault.at(word))?;
        Extras::read(body.kind, Act::Del, extras)?;
        if self.exist && written.count(body) > MAX_VAIN {
            let what = "The range you specified exceeds the size limit of the set type";
            return Err(Fault::refused(what).at(word));
        }
        let mut content = std::mem::take(&mut body.content);
        let done = written.each(body, &mut |element| match content.delete(&element, self.now)
            || self.exist
        {
            true => Ok(()),
            false => Err(Fault::refused(MISSING)),
        });
        body.content = content;
        done.map_err(|fault| fault.at(word))
    }

    /// Whether an element is there, and how the answer names it.
    pub fn test(&self, word: &Word, extras: &[Word<'_>]) -> Result<(bool, String)> {
        let body = self.set.read();
        if body.kind.is_list() {
            let extras = Extras::read(body.kind, Act::Test, extras)?;
            return self.test_member(&body, word, extras).map_err(|fault| fault.at(word));
        }
        let written = element(word, &body).map_err(|fault| fault.at(word))?;
        let extras = Extras::read(body.kind, Act::Test, extras)?;
        let Some(element) = written.single(&body).map_err(|fault| fault.at(word))? else {
            return Ok((false, written.text(body.kind)));
        };
        let content = &body.content;
        let bits = (element.addr.family().bits(), element.second.family().bits());
        // A host is looked for in networks, a network only as it is.
        let host = element.lengths() == bits;
        let mac = |entry: &Entry| match (written.mac, entry.mac.get()) {
            (Some(asked), Some(known)) => asked == *known,
            _ => true,
        };
        let found = if body.kind.has_networks() && host {
            content.find(&element, Scope::of(body.kind), self.now, &mut |_| true)
        } else {
            match content.get(&element, self.now).filter(|entry| mac(entry)) {
                None => Found::No,
                Some(entry) if entry.nomatch => Found::Exception,
                Some(_) => Found::Yes,
            }
        };
        let found = found == Found::Yes || found == Found::Exception && extras.nomatch;
        Ok((found, written.text(body.kind)))
    }

    /// The set of that name, to be an element of a list.
    fn member(&self, name: &str) -> Result<super::Reference> {
        self.sets.hold(name).ok_or_else(|| {
            Fault::refused("Set to be added/deleted/tested as element does not exist.")
        })
    }

    /// The set beside which a member is to stand has to be there.
    fn check_beside(&self, beside: Option<(bool, &Word)>) -> Result<()> {
        match beside {
            Some((_, word)) if self.sets.get(&word.text).is_none() => {
                Err(Fault::refused(format!("{BESIDE} does not exist.")).at(word))
            }
            _ => Ok(()),
        }
    }

    /// The place of the member that another is to stand beside.
    fn beside(&self, body: &Body, word: &Word) -> Result<usize> {
        let fault = || Fault::refused(format!("{BESIDE} is not added to the set.")).at(word);
        body.position(&word.text, self.now).ok_or_else(fault)
    }

    fn add_member(&self, body: &mut Body, word: &Word, extras: Extras<'_>) -> Result<()> {
        // The list itself is locked already.
        if word.text == self.set.name {
            return Err(list_in_list());
        }
        let set = self.member(&word.text)?;
        if set.read().kind.is_list() {
            return Err(list_in_list());
        }
        body.content.sweep(self.now);
        let beside = extras.beside;
        self.check_beside(beside)?;
        let entry = extras.entry(body, self.now)?;
        if let Some(at) = body.position(&word.text, self.now) {
            return match self.exist {
                true => {
                    body.content.members[at].entry = entry;
                    Ok(())
                }
                false => Err(Fault::refused(THERE)),
            };
        }
        let at = match beside {
            Some((before, other)) => self.beside(body, other)? + usize::from(!before),
            None => body.content.members.len(),
        };
        if self.set.is_written_by_rules() {
            set.written_by_rules();
        }
        body.content.members.insert(at, Member { set, entry });
        Ok(())
    }

    fn delete_member(&self, body: &mut Body, word: &Word, extras: Extras<'_>) -> Result<()> {
        self.member(&word.text)?;
        let at = body.position(&word.text, self.now);
        self.check_beside(extras.beside)?;
        match at.filter(|at| self.stands(body, *at, &extras)) {
            Some(at) => drop(body.content.members.remove(at)),
            None if self.exist => {}
            None => {
                return Err(match extras.beside {
                    Some((_, other)) => {
                        Fault::refused(format!("{BESIDE} is not added to the set.")).at(other)
                    }
                    None => Fault::refused(MISSING),
                });
            }
        }
        Ok(())
    }

    fn test_member(&self, body: &Body, word: &Word, extras: Extras<'_>) -> Result<(bool, String)> {
        self.member(&word.text)?;
        self.check_beside(extras.beside)?;
        let at = body.position(&word.text, self.now);
        let found = at.is_some_and(|at| self.stands(body, at, &extras));
        // The original has both in one word.
        let text = match extras.beside {
            Some((_, other)) => format!("{} after {}", word.text, other.text),
            None => word.text.to_string(),
        };
        Ok((found, text))
    }

    /// Whether a member stands where it is said to stand.
    fn stands(&self, body: &Body, at: usize, extras: &Extras<'_>) -> bool {
        let Some((before, other)) = extras.beside else { return true };
        let Some(other) = body.position(&other.text, self.now) else { return false };
        if before { at + 1 == other } else { other + 1 == at }
    }
}

fn list_in_list() -> Fault {
    Fault::refused("Sets with list:set type cannot be added to the set.")
}

impl Body {
    fn position(&self, name: &str, now: Instant) -> Option<usize> {
        let members = &self.content.members;
        members.iter().position(|m| m.set.name == name && m.entry.is_alive(now))
    }
}
