//! The command line, read as the original reads it: getopt_long with options that end with their
//! protocol's, a table of which option goes with which command, and the original's complaints.

use super::filter::{Filter, Nat};
use super::protocols::{self, Part, Protocol};
use super::text::Show;
use super::wire::Change;
use super::{Entry, Expected, Side, What};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use tidegate_nat::{Status, Tuple};
use tidegate_packet::Addr;

mod scan;
mod values;

pub use values::number;
use values::{addr, addr_and_port, family_of, label_list, mark_of, nat_target, netmask, words};

/// What is to be done.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    /// `-L`
    List,
    /// `-I`
    Create,
    /// `-A`: make it, or change it if it is there.
    Add,
    /// `-U`
    Update,
    /// `-D`
    Delete,
    /// `-G`
    Get,
    /// `-F`
    Flush,
    /// `-E`
    Event,
    /// `-C`
    Count,
    /// `-S`
    Stats,
    /// `-V`
    Version,
    /// `-h`
    Help,
}

/// To what.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum Table {
    /// Connections.
    #[default]
    Conntrack,
    /// Expectations.
    Expect,
    /// Connections that are no longer in the table and still held.
    Dying,
    /// Connections that aren't in the table yet.
    Unconfirmed,
}

/// How entries are printed.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// A line each.
    #[default]
    Plain,
    /// XML.
    Xml,
    /// Command lines.
    Save,
    /// An object each.
    Json,
}

/// A complaint, and the exit status that goes with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Wrong {
    /// The complaint.
    pub text: String,
    /// 2 for the command line itself, 1 for anything else.
    pub status: u8,
}

impl Wrong {
    pub(super) fn usage(text: String) -> Self {
        Self { text, status: 2 }
    }

    pub(super) fn other(text: String) -> Self {
        Self { text, status: 1 }
    }
}

/// A command line.
#[derive(Clone, Debug, Default)]
pub struct Command {
    /// What is to be done; nothing is help.
    pub verb: Option<Verb>,
    /// To what.
    pub table: Table,
    /// The protocol whose options were added.
    pub protocol: Option<(&'static Protocol, u8)>,
    /// 4 or 6, if given or seen in an address.
    pub family: Option<u8>,
    /// Which connections.
    pub filter: Filter,
    /// What becomes of them, for `-U`.
    pub change: Change,
    /// How they are printed.
    pub form: Form,
    /// What is printed besides.
    pub show: Show,
    /// Counters become zero (`-z`).
    pub zero: bool,
    /// Which events (`-e`).
    pub events: Vec<What>,
    /// Bytes that may wait (`-b`).
    pub buffer: Option<u64>,
    /// Lines of complaint that end nothing.
    pub warnings: Vec<String>,
    /// Letters of the options that were given.
    given: String,
    parts: Vec<Part>,
    timeout: Option<u64>,
    status: u16,
    mark: Option<(u32, u32)>,
    labels: Vec<String>,
    change_labels: Vec<String>,
    masks: [Option<IpAddr>; 2],
    tuple: [Option<IpAddr>; 2],
    /// Ports of the mask and of the tuple that `-I expect` has, source then destination.
    ports: [[Option<u16>; 2]; 2],
}

/// The options' letters in the original's order, with the names that its complaints use.
const NAMES: [(char, &str); 29] = [
    ('s', "src"),
    ('d', "dst"),
    ('r', "reply-src"),
    ('q', "reply-dst"),
    ('p', "protonum"),
    ('t', "timeout"),
    ('u', "status"),
    ('z', "zero"),
    ('e', "event-mask"),
    ('[', "tuple-src"),
    (']', "tuple-dst"),
    ('{', "mask-src"),
    ('}', "mask-dst"),
    ('a', "nat-range"),
    ('m', "mark"),
    ('i', "id"),
    ('f', "family"),
    ('n', "src-nat"),
    ('g', "dst-nat"),
    ('o', "output"),
    ('c', "secmark"),
    ('b', "buffer-size"),
    ('j', "any-nat"),
    ('w', "zone"),
    ('l', "label"),
    ('<', "label-add"),
    ('>', "label-del"),
    ('(', "orig-zone"),
    (')', "reply-zone"),
];

/// The options that a command needs, and those that it takes besides.
fn legal(verb: Verb, table: Table) -> (&'static str, &'static str) {
    match (verb, table) {
        (Verb::List, Table::Expect) => ("", "fo"),
        (Verb::List, _) => ("", "sdrqpuz{}mfngocjwl()"),
        (Verb::Create, Table::Expect) => ("sdpt[]{}", "rqu"),
        (Verb::Create | Verb::Add, _) => ("pt", "sdrqumngw<()"),
        (Verb::Update, _) => ("", "sdrqptu{}mfngol<>"),
        (Verb::Delete, Table::Expect) | (Verb::Get, Table::Expect) => ("sdp", "rq"),
        (Verb::Delete, _) => ("", "sdrqptu{}mfngowl()"),
        (Verb::Get, _) => ("p", "sdrqol"),
        (Verb::Flush, Table::Expect) => ("", ""),
        (Verb::Flush, _) => ("", "f"),
        (Verb::Event, Table::Expect) => ("", "o"),
        (Verb::Event, _) => ("", "sdrqpe{}mfngocbjwl()"),
        (Verb::Help, _) => ("", "p"),
        (Verb::Count | Verb::Stats | Verb::Version, _) => ("", ""),
    }
}

impl Command {
    /// Reads arguments without the program's name. `label` gives a label's number.
    pub fn read(args: &[String], label: &dyn Fn(&str) -> Option<u8>) -> Result<Self, Wrong> {
        let mut command = Self::default();
        scan::scan(args, &mut command)?;
        command.complete(label)?;
        Ok(command)
    }

    fn has(&self, letter: char) -> bool {
        self.given.contains(letter)
    }

    /// One option.
    fn option(&mut self, letter: char, long: &str, value: Option<&str>) -> Result<(), Wrong> {
        let text = value.unwrap_or_default();
        if letter != 'a' {
            self.given.push(letter);
        }
        match letter {
            's' | 'd' | 'r' | 'q' | '[' | ']' | '{' | '}' => self.end(letter, long, text)?,
            'p' => {
                let found = protocols::find(text);
                let found =
                    found.ok_or_else(|| Wrong::usage(format!("`{text}' unsupported protocol")))?;
                self.protocol = Some(found);
                self.filter.protocol = Some(found.1);
            }
            't' => self.timeout = Some(number(text).ok_or_else(|| values::unexpected(text, 't'))?),
            'u' => values::status(text, &mut self.status, &mut self.filter, &mut self.warnings)?,
            'e' => words(text, &mut |word| values::event(word, &mut self.events))?,
            'o' => {
                let (form, show) = (&mut self.form, &mut self.show);
                words(text, &mut |word| values::output(word, form, show))?;
                if self.form == Form::Save && self.show != Show::default() || values::mixed(text) {
                    return Err(Wrong::other(values::MIXED.to_owned()));
                }
            }
            'z' => self.zero = true,
            'n' | 'g' | 'j' => {
                let nat = match value {
                    Some(text) => self.translation(text, long)?,
                    None => Nat::default(),
                };
                let place = match letter {
                    'n' => &mut self.filter.src_nat,
                    'g' => &mut self.filter.dst_nat,
                    _ => &mut self.filter.any_nat,
                };
                *place = Some(nat);
            }
            'w' | '(' | ')' => {
                let zone = number(text).and_then(|n| u16::try_from(n).ok());
                let zone = Some(zone.ok_or_else(|| values::unexpected(text, letter))?);
                match letter {
                    'w' => self.filter.zone = zone,
                    '(' => self.filter.original.zone = zone,
                    _ => self.filter.reply.zone = zone,
                }
            }
            'c' => {
                let mark = number(text).and_then(|n| u32::try_from(n).ok());
                self.filter.secmark = Some(mark.ok_or_else(|| values::unexpected(text, 'c'))?);
            }
            'm' => self.mark = Some(mark_of(text).ok_or_else(|| values::unexpected(text, 'm'))?),
            'l' => self.labels.push(text.to_owned()),
            '<' | '>' => {
                if self.has('<') && self.has('>') {
                    let why = "cannot use --label-add and --label-del at the same time";
                    return Err(Wrong::other(why.to_owned()));
                }
                self.change_labels.extend(value.map(str::to_owned));
            }
            'a' => self.warnings.push("WARNING: ignoring -a, deprecated option.".to_owned()),
            'f' => self.set_family(family_of(text)?)?,
            'b' => self.buffer = Some(number(text).ok_or_else(|| values::unexpected(text, 'b'))?),
            _ => {}
        }
        Ok(())
    }

    fn set_family(&mut self, family: u8) -> Result<(), Wrong> {
        match self.family {
            Some(old) if old != family => Err(Wrong::usage("mismatched address family".to_owned())),
            _ => {
                self.family = Some(family);
                Ok(())
            }
        }
    }

    fn family_of(&mut self, addr: IpAddr) -> Result<(), Wrong> {
        self.set_family(if addr.is_ipv4() { 4 } else { 6 })
    }

    /// An address, of those that may have a prefix length with one.
    fn end(&mut self, letter: char, long: &str, text: &str) -> Result<(), Wrong> {
        let (address, prefix) = addr(text)?;
        self.family_of(address)?;
        if prefix.is_some() && !matches!(letter, 's' | 'd' | '[' | ']') {
            return Err(Wrong::usage(format!("CIDR notation unavailable for `--{long}'")));
        }
        let mask =
            netmask(address, prefix.unwrap_or(128).min(if address.is_ipv4() { 32 } else { 128 }));
        let (original, reply) = (&mut self.filter.original, &mut self.filter.reply);
        match letter {
            's' => original.src = Some((address, mask)),
            'd' => original.dst = Some((address, mask)),
            'r' => reply.src = Some((address, mask)),
            'q' => reply.dst = Some((address, mask)),
            '{' => self.masks[0] = Some(address),
            '}' => self.masks[1] = Some(address),
            '[' => self.tuple[0] = Some(address),
            ']' => self.tuple[1] = Some(address),
            _ => {}
        }
        Ok(())
    }

    fn translation(&mut self, text: &str, long: &str) -> Result<Nat, Wrong> {
        let (address, port) = addr_and_port(text)?;
        let (address, prefix) = addr(&address)?;
        if prefix.is_some() {
            return Err(Wrong::usage(format!("CIDR notation unavailable for `--{long}'")));
        }
        self.family_of(address)?;
        Ok(Nat { addr: Some(address), port })
    }

    /// An option of the protocol.
    fn part(&mut self, part: Part, long: &str, text: &str) -> Result<(), Wrong> {
        let Some((protocol, number_of)) = self.protocol else { return Ok(()) };
        self.parts.push(part);
        if part == Part::State {
            if !protocol.states.contains(&text) {
                let name = protocol.name.to_ascii_uppercase();
                return Err(Wrong::usage(format!("unknown {name} state `{text}'")));
            }
            self.filter.state = Some(text.to_owned());
            return Ok(());
        }
        let wide = matches!(part, Part::OrigTag | Part::ReplyTag | Part::Role);
        let value = number(text);
        let Some(value) = value.filter(|v| wide || u16::try_from(*v).is_ok()) else {
            return Err(Wrong::usage(format!("unexpected value '{text}' with --{long} option")));
        };
        let value = value as u16;
        let (original, reply) = (&mut self.filter.original, &mut self.filter.reply);
        if super::entry::is_icmp(number_of) {
            match part {
                Part::OrigSrc => original.icmp_type = Some(values::byte(value, text, long)?),
                Part::OrigDst => original.icmp_code = Some(values::byte(value, text, long)?),
                _ => original.sport = Some(value),
            }
            return Ok(());
        }
        match part {
            Part::OrigSrc => original.sport = Some(value),
            Part::OrigDst => original.dport = Some(value),
            Part::ReplySrc => reply.sport = Some(value),
            Part::ReplyDst => reply.dport = Some(value),
            Part::MaskSrc => self.ports[0][0] = Some(value),
            Part::MaskDst => self.ports[0][1] = Some(value),
            Part::TupleSrc => self.ports[1][0] = Some(value),
            Part::TupleDst => self.ports[1][1] = Some(value),
            _ => {}
        }
        Ok(())
    }

    /// Checks that everything fits together.
    fn complete(&mut self, label: &dyn Fn(&str) -> Option<u8>) -> Result<(), Wrong> {
        self.filter.labels = label_list(&self.labels, label)?;
        let changed = label_list(&self.change_labels, label)?;
        if self.has('j') && (self.has('n') || self.has('g')) {
            let why = "cannot specify `--src-nat' or `--dst-nat' with `--any-nat'";
            return Err(Wrong::usage(why.to_owned()));
        }
        let Some(verb) = self.verb else { return Ok(()) };
        self.check_options(verb)?;
        if let Some((protocol, _)) = self.protocol.filter(|_| verb != Verb::Help) {
            protocol.check(verb, self.table == Table::Expect, &self.parts)?;
        }
        self.apply_masks()?;
        self.filter.family = self.family;
        if verb == Verb::Update {
            // What else would be a filter is what to set.
            self.change = Change {
                mark: self.mark.map(|(value, mask)| (mask, value)),
                timeout: self.timeout,
                status: self.has('u').then_some(self.status),
                state: self.filter.state.take(),
                add_labels: if self.has('<') { changed.clone() } else { Vec::new() },
                // Without a name it is all of them.
                del_labels: match (self.has('>'), changed.is_empty()) {
                    (false, _) => Vec::new(),
                    (true, true) => (0..128).collect(),
                    (true, false) => changed,
                },
            };
            self.filter.unset = None;
            return Ok(());
        }
        self.change.add_labels = changed;
        self.filter.mark = self.mark;
        if self.has('u') && self.status != 0 {
            self.filter.status = Some(self.status);
        }
        let comparing = "pdsrqmcuiwl()".chars().any(|letter| self.has(letter));
        if verb == Verb::List && self.zero && comparing {
            return Err(Wrong::usage("Can't use -z with filtering parameters".to_owned()));
        }
        Ok(())
    }

    fn check_options(&self, verb: Verb) -> Result<(), Wrong> {
        let (needed, taken) = legal(verb, self.table);
        for (letter, name) in NAMES {
            let given = self.has(letter);
            if !given && needed.contains(letter) {
                return Err(Wrong::usage(format!(
                    "You need to supply the `--{name}' option for this command"
                )));
            }
            if given && !needed.contains(letter) && !taken.contains(letter) {
                return Err(Wrong::usage(format!("Illegal option `--{name}' with this command")));
            }
        }
        let exact = matches!(verb, Verb::Create | Verb::Add | Verb::Get);
        if !exact || self.table == Table::Expect {
            return Ok(());
        }
        let (original, reply) = (self.has('s') && self.has('d'), self.has('r') && self.has('q'));
        if original || reply {
            return Ok(());
        }
        let one = !self.has('s') && !self.has('d') && (self.has('r') || self.has('q'));
        let which = if one { "`--reply-src' and `--reply-dst'" } else { "`--src' and `--dst'" };
        Err(Wrong::usage(format!("you have to specify {which}")))
    }

    fn apply_masks(&mut self) -> Result<(), Wrong> {
        let Filter { original, .. } = &mut self.filter;
        let ends = [("src", &mut original.src), ("dst", &mut original.dst)];
        for ((name, end), mask) in ends.into_iter().zip(self.masks) {
            match (mask, end) {
                (None, _) => {}
                (Some(mask), Some(end)) => end.1 = mask,
                (Some(_), None) => {
                    let why = format!("Can't use --mask-{name} without --{name}");
                    return Err(Wrong::usage(why));
                }
            }
        }
        Ok(())
    }

    /// The ends that `-G` asks for, and whether they are the reply direction's.
    pub fn exact_side(&self) -> Option<(u8, Side, bool)> {
        let (_, number) = self.protocol?;
        let Filter { original, reply, .. } = &self.filter;
        let asked = original.src.is_some() && original.dst.is_some();
        let ends = if asked { original } else { reply };
        let dport = match (ends.icmp_type, ends.icmp_code) {
            (None, None) => ends.dport.unwrap_or(0),
            (kind, code) => u16::from_be_bytes([kind.unwrap_or(0), code.unwrap_or(0)]),
        };
        let side = Side {
            src: ends.src?.0,
            dst: ends.dst?.0,
            sport: ends.sport.unwrap_or(0),
            dport,
            counters: None,
            zone: ends.zone,
        };
        Some((number, side, !asked))
    }

    /// What `-I expect` is to have expected.
    pub fn expected(&self) -> Option<Expected> {
        let (protocol, master, _) = self.exact_side()?;
        let side = |ends: [Option<IpAddr>; 2], ports: [Option<u16>; 2]| {
            let [sport, dport] = ports.map(|port| port.unwrap_or(0));
            Some(Side { src: ends[0]?, dst: ends[1]?, sport, dport, counters: None, zone: None })
        };
        Some(Expected {
            timeout: self.timeout.unwrap_or(0),
            protocol,
            tuple: side(self.tuple, self.ports[1])?,
            mask: side(self.masks, self.ports[0])?,
            master,
            master_protocol: protocol,
            permanent: false,
            inactive: false,
            class: 0,
            helper: String::new(),
        })
    }

    /// The connection that `-I` and `-A` are to make. `None`: the ends can't be turned around.
    pub fn entry(&self) -> Option<Entry> {
        let (number, side, reversed) = self.exact_side()?;
        let [src, dst] = [side.src, side.dst].map(Addr::from);
        let tuple = Tuple { src, dst, sport: side.sport, dport: side.dport, protocol: number };
        let inverse = tuple.inverse()?;
        let other = Side {
            src: inverse.src.to_ip(),
            dst: inverse.dst.to_ip(),
            sport: inverse.sport,
            dport: inverse.dport,
            counters: None,
            zone: None,
        };
        let (original, mut reply) = if reversed { (other, side) } else { (side, other) };
        let ends = &self.filter.reply;
        if !reversed {
            if let (Some((src, _)), Some((dst, _))) = (ends.src, ends.dst) {
                (reply.src, reply.dst) = (src, dst);
            }
            reply.sport = ends.sport.unwrap_or(reply.sport);
            reply.dport = ends.dport.unwrap_or(reply.dport);
        }
        nat_target(self.filter.src_nat, &mut reply.dst, &mut reply.dport);
        nat_target(self.filter.dst_nat, &mut reply.src, &mut reply.sport);
        Some(Entry {
            id: 0,
            protocol: number,
            original,
            reply,
            status: self.status & !Status::CONFIRMED.bits(),
            timeout: self.timeout,
            state: self.filter.state.clone(),
            tags: None,
            mark: self.mark.map(|(value, _)| value),
            zone: self.filter.zone,
            helper: None,
            labels: self.change.add_labels.clone(),
            start: None,
            stop: None,
            uses: None,
        })
    }
}

/// All ones up to a prefix length.
fn ones(len: u8, width: u8) -> u128 {
    let zeros = u32::from(width - len.min(width));
    u128::MAX.checked_shl(zeros).unwrap_or(0) & (u128::MAX >> (128 - u32::from(width)))
}

fn mask_of(family_v4: bool, len: u8) -> IpAddr {
    match family_v4 {
        true => IpAddr::V4(Ipv4Addr::from_bits(ones(len, 32) as u32)),
        false => IpAddr::V6(Ipv6Addr::from_bits(ones(len, 128))),
    }
}

#[cfg(test)]
mod tests;
