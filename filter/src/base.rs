//! The matches that every rule has room for: addresses, interfaces, protocol, fragments.

use std::sync::Arc;

use tidegate_packet::{Addr, Family};

use crate::query::Query;
use crate::values::Network;

/// An interface's name, or the beginning of names if it ended in `+`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    /// Shared by the copies of its rule.
    pub name: Arc<str>,
    pub prefix: bool,
    pub inverted: bool,
}

impl Interface {
    /// From `-i NAME`; `+` at the end stands for any ending.
    pub fn new(text: &str, inverted: bool) -> Self {
        let (name, prefix) = match text.strip_suffix('+') {
            Some(name) => (name, true),
            None => (text, false),
        };
        Self { name: name.into(), prefix, inverted }
    }

    /// Whether it says nothing: `+` alone. Negated it matches no packet, and still isn't printed.
    pub fn is_any(&self) -> bool {
        self.prefix && self.name.is_empty()
    }

    /// An absent interface is compared as the empty name.
    #[inline]
    pub fn matches(&self, name: Option<&str>) -> bool {
        let name = name.unwrap_or("");
        let same = if self.prefix { name.starts_with(&*self.name) } else { name == &*self.name };
        same != self.inverted
    }

    /// As `-i` prints it.
    pub fn text(&self) -> String {
        format!("{}{}", self.name, if self.prefix { "+" } else { "" })
    }
}

/// An address match.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub network: Network,
    pub inverted: bool,
}

impl Address {
    pub fn any(family: Family) -> Self {
        Self { network: Network::any(family), inverted: false }
    }

    /// Whether it says nothing.
    pub fn is_any(&self) -> bool {
        self.network.is_any() && !self.inverted
    }

    #[inline]
    fn matches(&self, addr: Addr) -> bool {
        self.network.contains(addr) != self.inverted
    }
}

/// A protocol match.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Protocol {
    pub number: u8,
    pub inverted: bool,
}

impl Protocol {
    #[inline]
    pub fn matches(self, number: u8) -> bool {
        (self.number == number) != self.inverted
    }
}

/// The base matches of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Base {
    pub source: Address,
    pub destination: Address,
    pub input: Option<Interface>,
    pub output: Option<Interface>,
    pub protocol: Option<Protocol>,
    /// `-f`: later fragments only; negated: everything else.
    pub fragment: Option<bool>,
    /// Whether it says nothing about addresses.
    anywhere: bool,
}

impl Base {
    /// Of addresses alone.
    pub fn new(source: Address, destination: Address) -> Self {
        let anywhere = source.is_any() && destination.is_any();
        let (input, output, protocol, fragment) = Default::default();
        Self { source, destination, input, output, protocol, fragment, anywhere }
    }

    /// Whether both say the same: `-i +` is like none.
    pub fn same(&self, other: &Self) -> bool {
        let says = |i: &Option<Interface>| i.clone().filter(|i| !i.is_any() || i.inverted);
        let plain = |base: &Self| {
            let (input, output) = (says(&base.input), says(&base.output));
            Self { input, output, ..base.clone() }
        };
        self.source == other.source
            && self.destination == other.destination
            && plain(self) == plain(other)
    }

    /// Whether it says nothing.
    pub fn is_any(&self) -> bool {
        let Self { input, output, protocol, fragment, anywhere, .. } = self;
        *anywhere && input.is_none() && output.is_none() && protocol.is_none() && fragment.is_none()
    }

    #[inline]
    pub fn matches(&self, query: &Query<'_>) -> bool {
        let packet = query.packet;
        self.protocol.is_none_or(|p| p.matches(packet.protocol))
            && (self.anywhere
                || self.source.matches(packet.src) && self.destination.matches(packet.dst))
            && self.input.as_ref().is_none_or(|i| i.matches(query.input))
            && self.output.as_ref().is_none_or(|o| o.matches(query.output))
            && self.fragment.is_none_or(|wanted| packet.is_later_fragment() == wanted)
    }
}
