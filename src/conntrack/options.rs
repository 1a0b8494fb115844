//! The command line, read as the original reads it: getopt_long with options that end with their
//! protocol's, a table of which option goes with which command, and the original's complaints.

use super::What;
use super::filter::{Filter, Nat};
use super::protocols::{self, Part, Protocol};
use super::text::Show;
use super::wire::Change;
use std::net::IpAddr;

mod asked;
mod fit;
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
        let mask = netmask(address, prefix.unwrap_or(128));
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
}

#[cfg(test)]
mod tests;
