//! Which rules of a long chain a packet can match at all.
//!
//! Rules are put into groups that look at the same things: so many bits of the addresses, so many
//! of the ports, the protocol, the interfaces. In a group the rules that want the same of a packet
//! stand together under a hash of that, so a packet finds those that it can match by one look-up a
//! group, however many rules there are. The interpreter then asks just these, in the order of the
//! chain; which of them match it decides itself, so a hash shared by strangers does no harm.
//!
//! A rule may be passed over only if asking it would have changed nothing: so ports are taken from a
//! match only if every match before it in the rule remembers nothing
//! ([`Match::is_pure`](crate::extension::Match::is_pure)).

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use tidegate_packet::protocol;

use crate::base::{Address, Interface};
use crate::query::Query;
use crate::ruleset::Rule;

/// Shorter chains are as quickly walked.
const WORTH: usize = 16;
/// Look-ups that a packet makes at most in a chain.
const MOST_GROUPS: usize = 16;
/// Places that a rule with many ports takes at most.
const MOST_PLACES: usize = 16;

/// The groups of a chain.
#[derive(Debug)]
pub(crate) struct Classifier {
    masks: Vec<Mask>,
    /// Where in `numbers` the rules stand that want the same.
    lists: HashMap<u64, (u32, u32), BuildHasherDefault<Passing>>,
    /// Numbers of rules, ascending in each list.
    numbers: Vec<u32>,
}

/// What a group looks at: leading bits of addresses and ports, and whether at the rest.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Mask {
    source: u8,
    destination: u8,
    sport: u8,
    dport: u8,
    protocol: bool,
    input: bool,
    output: bool,
}

/// What a packet has, or a rule wants, of what masks may look at.
#[derive(Copy, Clone, Debug, Default)]
pub(crate) struct Facts {
    source: u128,
    destination: u128,
    sport: u16,
    dport: u16,
    protocol: u8,
    input: u64,
    output: u64,
}

/// The ports that a packet must have so that a match can be true, as ranges; none: any.
#[derive(Clone, Debug, Default)]
pub(crate) struct PortsWanted {
    pub source: Vec<(u16, u16)>,
    pub destination: Vec<(u16, u16)>,
}

impl Facts {
    /// A packet's. `None` if its ports should be there and can't be read: then a match that meets
    /// the damage may drop the packet, and all have to be asked.
    pub fn of(query: &Query<'_>) -> Option<Self> {
        let packet = query.packet;
        let (sport, dport) = match packet.ports() {
            Some(ports) => ports,
            None if has_ports(packet.protocol) => return None,
            None => (0, 0),
        };
        Some(Self {
            source: packet.src.bits(),
            destination: packet.dst.bits(),
            sport,
            dport,
            protocol: packet.protocol,
            input: name_hash(query.input.unwrap_or("")),
            output: name_hash(query.output.unwrap_or("")),
        })
    }

    /// The hash under which rules stand that want this, as far as the mask looks.
    fn key(&self, mask: Mask) -> u64 {
        let kind = [mask.source, mask.destination, mask.sport, mask.dport];
        let switches = u64::from(mask.protocol) | u64::from(mask.input) << 1;
        let kind = u64::from(u32::from_be_bytes(kind)) << 8 | switches << 1;
        let mut hash = mix(kind | u64::from(mask.output), 0);
        let mut add = |looked: bool, value: u64| {
            if looked {
                hash = mix(hash, value);
            }
        };
        let (source, destination) =
            (head(self.source, mask.source), head(self.destination, mask.destination));
        add(mask.source > 0, source as u64 ^ (source >> 64) as u64);
        add(mask.destination > 0, destination as u64 ^ (destination >> 64) as u64);
        let ports = u64::from(port_head(self.sport, mask.sport)) << 16
            | u64::from(port_head(self.dport, mask.dport));
        add(mask.sport > 0 || mask.dport > 0, ports);
        add(mask.protocol, self.protocol.into());
        add(mask.input, self.input);
        add(mask.output, self.output);
        hash
    }
}

impl Classifier {
    /// For a chain's rules; `None` if walking them is as quick.
    pub fn new(rules: &[Rule]) -> Option<Self> {
        if rules.len() < WORTH {
            return None;
        }
        let mut places: Vec<(u32, Mask, Facts)> = Vec::with_capacity(rules.len());
        for (number, rule) in rules.iter().enumerate() {
            let number = u32::try_from(number).ok()?;
            places.extend(wants(rule).into_iter().map(|(mask, facts)| (number, mask, facts)));
        }
        let masks = settle(&mut places);
        // All rules in one group would be a walk with a detour.
        if masks == [Mask::default()] {
            return None;
        }
        let mut lists: HashMap<u64, Vec<u32>, BuildHasherDefault<Passing>> = HashMap::default();
        for (number, mask, facts) in &places {
            let list = lists.entry(facts.key(*mask)).or_default();
            if list.last() != Some(number) {
                list.push(*number);
            }
        }
        let mut numbers = Vec::with_capacity(places.len());
        let lists = lists
            .into_iter()
            .map(|(key, list)| {
                let start = numbers.len() as u32;
                numbers.extend(list);
                (key, (start, numbers.len() as u32))
            })
            .collect();
        Some(Self { masks, lists, numbers })
    }

    /// The rules that a packet can match.
    pub fn candidates(&self, facts: &Facts) -> Candidates<'_> {
        let mut candidates = Candidates { lists: [&[]; MOST_GROUPS], len: 0 };
        for mask in &self.masks {
            let Some(&(start, end)) = self.lists.get(&facts.key(*mask)) else { continue };
            if let Some(slot) = candidates.lists.get_mut(candidates.len) {
                *slot = &self.numbers[start as usize..end as usize];
                candidates.len += 1;
            }
        }
        candidates
    }
}

/// The rules of a chain that a packet can match, to be taken in order.
#[derive(Copy, Clone)]
pub(crate) struct Candidates<'a> {
    lists: [&'a [u32]; MOST_GROUPS],
    len: usize,
}

impl Candidates<'_> {
    /// The first of them that isn't before this number.
    pub fn next(&mut self, from: usize) -> Option<usize> {
        let mut next: Option<u32> = None;
        for list in &mut self.lists[..self.len] {
            while let Some((&first, rest)) = list.split_first() {
                if first as usize >= from {
                    next = Some(next.map_or(first, |n| n.min(first)));
                    break;
                }
                *list = rest;
            }
        }
        next.map(|n| n as usize)
    }
}

/// What a rule wants, once for each of its ports.
fn wants(rule: &Rule) -> Vec<(Mask, Facts)> {
    let base = &rule.base;
    let (mut mask, mut facts) = (Mask::default(), Facts::default());
    (mask.source, facts.source) = network(&base.source);
    (mask.destination, facts.destination) = network(&base.destination);
    (mask.input, facts.input) = interface(base.input.as_ref());
    (mask.output, facts.output) = interface(base.output.as_ref());
    if let Some(protocol) = base.protocol.filter(|p| !p.inverted) {
        (mask.protocol, facts.protocol) = (true, protocol.number);
    }
    let Some(ports) = ports(rule) else { return vec![(mask, facts)] };
    let (mut sources, mut destinations) = (prefixes(&ports.source), prefixes(&ports.destination));
    if sources.len() * destinations.len() > MOST_PLACES {
        sources = vec![(0, 0)];
    }
    if destinations.len() > MOST_PLACES {
        destinations = vec![(0, 0)];
    }
    let pairs = sources.iter().flat_map(|s| destinations.iter().map(move |d| (*s, *d)));
    pairs
        .map(|((sport, source_len), (dport, destination_len))| {
            let mask = Mask { sport: source_len, dport: destination_len, ..mask };
            (mask, Facts { sport, dport, ..facts })
        })
        .collect()
}

fn network(address: &Address) -> (u8, u128) {
    if address.inverted {
        return (0, 0);
    }
    // What a mask with gaps has behind the first gap isn't looked at here.
    (address.network.mask.leading_ones() as u8, address.network.addr.bits())
}

fn interface(interface: Option<&Interface>) -> (bool, u64) {
    match interface.filter(|i| !i.prefix && !i.inverted) {
        Some(interface) => (true, name_hash(&interface.name)),
        None => (false, 0),
    }
}

/// The ports of the first match that names some, if what comes before may be left out.
fn ports(rule: &Rule) -> Option<PortsWanted> {
    rule.base.protocol.filter(|p| !p.inverted && has_ports(p.number))?;
    for m in &*rule.matches {
        if let Some(ports) = m.test.ports() {
            return Some(ports);
        }
        if !m.test.is_pure() {
            return None;
        }
    }
    None
}

/// Port ranges as (port, leading bits that count), of 16 bits, 8 or none.
fn prefixes(ranges: &[(u16, u16)]) -> Vec<(u16, u8)> {
    let prefix = |&(low, high): &(u16, u16)| match (low ^ high).leading_zeros() {
        16 => (low, 16),
        8.. => (low & 0xff00, 8),
        _ => (0, 0),
    };
    let all: Vec<_> = ranges.iter().map(prefix).collect();
    // A range that may be any port makes the others needless.
    if all.is_empty() || all.iter().any(|(_, len)| *len == 0) { vec![(0, 0)] } else { all }
}

/// Makes the masks few enough, by looking at fewer bits, and tells those that are left.
fn settle(places: &mut [(u32, Mask, Facts)]) -> Vec<Mask> {
    let masks = masks_of(places);
    if masks.len() <= MOST_GROUPS {
        return masks.into_iter().map(|(mask, _)| mask).collect();
    }
    for (_, mask, _) in &mut *places {
        (mask.source, mask.destination) = (mask.source & !7, mask.destination & !7);
        if mask.sport == 8 {
            mask.sport = 0;
        }
    }
    let mut masks = masks_of(places);
    if masks.len() > MOST_GROUPS {
        // The groups with the fewest rules are asked always.
        masks.sort_by_key(|(mask, rules)| (std::cmp::Reverse(*rules), *mask));
        let few: Vec<Mask> = masks[MOST_GROUPS - 1..].iter().map(|(mask, _)| *mask).collect();
        for (_, mask, _) in places.iter_mut().filter(|(_, mask, _)| few.contains(mask)) {
            *mask = Mask::default();
        }
        masks = masks_of(places);
    }
    masks.into_iter().map(|(mask, _)| mask).collect()
}

/// The masks there are and how many rules have each.
fn masks_of(places: &[(u32, Mask, Facts)]) -> Vec<(Mask, usize)> {
    let mut counts: HashMap<Mask, usize> = HashMap::new();
    for (_, mask, _) in places {
        *counts.entry(*mask).or_default() += 1;
    }
    let mut masks: Vec<_> = counts.into_iter().collect();
    masks.sort();
    masks
}

fn has_ports(number: u8) -> bool {
    use protocol::{DCCP, SCTP, TCP, UDP, UDPLITE};
    matches!(number, TCP | UDP | UDPLITE | SCTP | DCCP)
}

fn head(bits: u128, len: u8) -> u128 {
    bits.checked_shr(128 - u32::from(len)).unwrap_or(0)
}

fn port_head(port: u16, len: u8) -> u16 {
    port.checked_shr(16 - u32::from(len)).unwrap_or(0)
}

/// One step of a hash that spreads well (the finaliser of SplitMix64).
fn mix(hash: u64, value: u64) -> u64 {
    let mut z = (hash ^ value).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn name_hash(name: &str) -> u64 {
    let (words, rest) = name.as_bytes().as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let hash = words.iter().fold(name.len() as u64, |h, word| mix(h, u64::from_ne_bytes(*word)));
    mix(hash, u64::from_ne_bytes(last))
}

/// Keys are hashes already.
#[derive(Default)]
struct Passing(u64);

impl Hasher for Passing {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = mix(self.0, (*byte).into());
        }
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}
