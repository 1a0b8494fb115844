//! What a rule wants of a packet, as far as groups can look at it.

use tidegate_packet::Addr;

use super::{Facts, Mask, has_ports, name_bits};
use crate::base::{Address, Interface};
use crate::ruleset::Rule;

/// Places that a rule takes at most.
const MOST_PLACES: usize = 32;

/// The ports that a packet must have so that a match can be true.
#[derive(Copy, Clone, Debug)]
pub(crate) struct PortsWanted<'a> {
    pub source: Ranges<'a>,
    pub destination: Ranges<'a>,
}

/// Ranges of ports, both ends of which belong to them.
#[derive(Copy, Clone, Debug)]
pub(crate) enum Ranges<'a> {
    Any,
    One((u16, u16)),
    Of(&'a [(u16, u16)]),
}

/// The same of addresses.
#[derive(Copy, Clone, Debug, Default)]
pub(crate) struct AddressesWanted {
    pub source: Option<(Addr, Addr)>,
    pub destination: Option<(Addr, Addr)>,
}

/// Leading bits: a value that has them, and how many of them count.
type Prefix = (u128, u8);

/// Prefixes of which a packet has to have one.
enum Wanted {
    One(Prefix),
    Of(Vec<Prefix>),
}

impl Wanted {
    const ANY: Self = Self::One((0, 0));

    fn as_slice(&self) -> &[Prefix] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Of(list) => list,
        }
    }

    /// The same if a rule can afford so many places more, otherwise anything.
    fn affordable(self, places: &mut usize) -> Self {
        match *places * self.as_slice().len() {
            sum if sum <= MOST_PLACES => {
                *places = sum;
                self
            }
            _ => Self::ANY,
        }
    }
}

/// Tells what a rule wants, once for each of its places.
pub(super) fn wants(rule: &Rule, mut tell: impl FnMut(Mask, Facts)) {
    let base = &rule.base;
    let (mut mask, mut facts) = (Mask::default(), Facts::default());
    (facts.input, mask.input) = interface(base.input.as_ref());
    (facts.output, mask.output) = interface(base.output.as_ref());
    if let Some(protocol) = base.protocol.filter(|p| !p.inverted) {
        (mask.protocol, facts.protocol) = (true, protocol.number);
    }
    let (addresses, ports) = of_matches(rule);
    // What takes too many places isn't looked at.
    let mut places = 1;
    let source = network(&base.source, addresses.source).affordable(&mut places);
    let destination = network(&base.destination, addresses.destination).affordable(&mut places);
    let (sport, dport) = ports.map_or((Wanted::ANY, Wanted::ANY), |ports| {
        let dport = port_prefixes(ports.destination).affordable(&mut places);
        (port_prefixes(ports.source).affordable(&mut places), dport)
    });
    for &(source, source_len) in source.as_slice() {
        for &(destination, destination_len) in destination.as_slice() {
            for &(sport, sport_len) in sport.as_slice() {
                for &(dport, dport_len) in dport.as_slice() {
                    let (sport, dport) = (sport as u16, dport as u16);
                    (facts.source, facts.destination) = (source, destination);
                    (mask.source, mask.destination) = (source_len, destination_len);
                    (mask.sport, mask.dport) = (sport_len, dport_len);
                    tell(mask, Facts { sport, dport, ..facts });
                }
            }
        }
    }
}

/// The network of a rule, or else the range of a match: few rules have both.
fn network(address: &Address, range: Option<(Addr, Addr)>) -> Wanted {
    let network = &address.network;
    // What a mask with gaps has behind the first gap isn't looked at here.
    let len = if address.inverted { 0 } else { network.mask.leading_ones() as u8 };
    match range {
        Some((first, last)) if address.inverted || network.is_any() => {
            prefixes(first.bits(), last.bits(), 128, 4).map_or(Wanted::ANY, Wanted::Of)
        }
        _ if len == 0 => Wanted::ANY,
        _ => Wanted::One((network.addr.bits(), len)),
    }
}

fn interface(interface: Option<&Interface>) -> Prefix {
    match interface.filter(|i| !i.inverted && i.name.len() < 16) {
        Some(i) if i.prefix => (name_bits(&i.name), i.name.len() as u8 * 8),
        // With the zero behind it.
        Some(i) => (name_bits(&i.name), 128),
        None => (0, 0),
    }
}

/// What matches want, as long as those before them may be left out: the addresses of the first that
/// names some, and the ports.
fn of_matches(rule: &Rule) -> (AddressesWanted, Option<PortsWanted<'_>>) {
    let mut addresses = None;
    for m in &rule.matches {
        if addresses.is_none() {
            addresses = m.test.addresses();
        }
        if let Some(ports) = m.test.ports() {
            let with_ports = rule.base.protocol.is_some_and(|p| !p.inverted && has_ports(p.number));
            return (addresses.unwrap_or_default(), Some(ports).filter(|_| with_ports));
        }
        if !m.test.is_pure() {
            break;
        }
    }
    (addresses.unwrap_or_default(), None)
}

/// Ports as prefixes: ranges somewhat larger, if they would be too many otherwise.
fn port_prefixes(ranges: Ranges<'_>) -> Wanted {
    let ranges = match &ranges {
        Ranges::Any => return Wanted::ANY,
        Ranges::One((port, last)) if port == last => return Wanted::One(((*port).into(), 16)),
        Ranges::One(one) => std::slice::from_ref(one),
        Ranges::Of(ranges) => ranges,
    };
    for parts in [4, 1] {
        let mut all = Vec::new();
        for &(first, last) in ranges {
            match prefixes(first.into(), last.into(), 16, parts) {
                Some(some) => all.extend(some),
                None => return Wanted::ANY,
            }
        }
        if all.len() <= MOST_PLACES {
            return Wanted::Of(all);
        }
    }
    Wanted::ANY
}

/// Prefixes that hold a range of values of so many bits, and not much else: the range is cut in some
/// `parts` of a power of two, and what sticks out of it at both ends is less than one. None: any
/// value.
fn prefixes(first: u128, last: u128, bits: u8, parts: u128) -> Option<Vec<Prefix>> {
    let top = u128::MAX >> (128 - u32::from(bits));
    // No value lies in a range that runs backwards; the rule itself says so.
    let len = last.checked_sub(first)?.checked_add(1)?;
    let part = (len / parts).checked_ilog2().unwrap_or(0);
    let (mut at, end) = (first >> part << part, last | ((1 << part) - 1));
    let mut list = Vec::new();
    loop {
        // The largest block that begins here and doesn't go beyond the end.
        let room = (end - at).checked_add(1).map_or(127, u128::ilog2);
        let block = room.min(if at == 0 { room } else { at.trailing_zeros() });
        if block >= u32::from(bits) {
            return None;
        }
        list.push((at, bits - block as u8));
        match at.checked_add(1 << block) {
            Some(next) if next <= end.min(top) => at = next,
            _ => return Some(list),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_hold_their_range_and_little_else() {
        let ranges = [(80, 80), (0, 1), (1, 6), (2000, 2999), (1024, 65535), (65534, 65535)];
        for (first, last) in ranges.into_iter().chain([(1, 65534), (0, 65534), (32767, 32768)]) {
            for parts in [1, 4] {
                let list = prefixes(first, last, 16, parts).unwrap_or_else(|| vec![(0, 0)]);
                let holds = |port: u128| {
                    list.iter()
                        .any(|(p, len)| (p ^ port).checked_shr(16 - u32::from(*len)) == Some(0))
                };
                let wrong: Vec<u128> = (first..=last).filter(|port| !holds(*port)).collect();
                assert!(wrong.is_empty(), "{first}..{last}: {list:?} without {wrong:?}");
                let held = (0..=65535).filter(|port| holds(*port)).count() as u128;
                let most = (last - first + 1) * (parts + 2) / parts;
                assert!(held <= most, "{first}..{last}: {list:?}");
                assert!(list.len() <= 9, "{first}..{last}: {list:?}");
            }
        }
        assert_eq!(prefixes(0, 65535, 16, 4), None);
        assert_eq!(prefixes(2, 1, 16, 4), None);
        assert_eq!(prefixes(0, u128::MAX, 128, 4), None);
        assert_eq!(prefixes(u128::MAX - 1, u128::MAX, 128, 4), Some(vec![(u128::MAX - 1, 127)]));
    }
}
