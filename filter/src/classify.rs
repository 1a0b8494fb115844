//! Which rules of a long chain a packet can match at all.
//!
//! Rules are put into groups that look at the same things: so many leading bits of the addresses, of
//! the ports and of the interfaces' names, and the protocol. In a group the rules that want the same
//! of a packet stand together under a hash of that, so a packet finds those that it can match by one
//! look-up a group, however many rules there are. Where networks or port ranges have many lengths,
//! and so groups are many, the packet first asks which lengths there are at all around its own
//! addresses and ports ([`Lengths`]); the other groups it leaves out.
//!
//! The interpreter then asks just these rules, in the order of the chain; which of them match it
//! decides itself, so a hash shared by strangers does no harm, and a range may be taken for a
//! somewhat larger one.
//!
//! A rule may be passed over only if asking it would have changed nothing: so what a match wants is
//! taken from it only if every match before it in the rule remembers nothing
//! ([`Match::is_pure`](crate::extension::Match::is_pure)).

mod lengths;
mod wants;

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use tidegate_packet::protocol;

use crate::query::Query;
use crate::ruleset::Rule;
use lengths::{Length, Lengths};
use wants::wants;
pub(crate) use wants::{AddressesWanted, PortsWanted, Ranges};

/// Shorter chains are as quickly walked.
const WORTH: usize = 16;
/// Groups of a chain at most.
const MOST_GROUPS: usize = 192;

/// The groups of a chain.
#[derive(Clone, Debug, Default)]
pub(crate) struct Classifier {
    pairs: Vec<Pair>,
    /// The lengths around an address or port, for each of the four; asked for only if many.
    lengths: [Option<Lengths>; 4],
    /// Where in `numbers` the rules stand that want the same.
    lists: HashMap<u64, (u32, u32), BuildHasherDefault<Passing>>,
    /// Numbers of rules, ascending in each list.
    numbers: Vec<u32>,
    /// Rules that came or went since the groups were made.
    changes: usize,
}

/// Groups that look at addresses alike.
#[derive(Clone, Debug)]
struct Pair {
    source: u8,
    destination: u8,
    masks: Vec<Mask>,
}

/// What a group looks at: leading bits, and whether at the protocol.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Mask {
    source: u8,
    destination: u8,
    sport: u8,
    dport: u8,
    input: u8,
    output: u8,
    protocol: bool,
}

/// What a packet has, or a rule wants, of what masks may look at.
#[derive(Copy, Clone, Debug, Default)]
pub(crate) struct Facts {
    source: u128,
    destination: u128,
    /// Names, filled up with zeros.
    input: u128,
    output: u128,
    sport: u16,
    dport: u16,
    protocol: u8,
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
            input: name_bits(query.input.unwrap_or("")),
            output: name_bits(query.output.unwrap_or("")),
        })
    }

    /// The hash under which rules stand that want this, as far as the mask looks.
    fn key(&self, mask: Mask) -> u64 {
        let kind = [mask.source, mask.destination, mask.sport, mask.dport, mask.input, mask.output];
        let kind = kind.iter().fold(u64::from(mask.protocol), |k, len| k << 8 | u64::from(*len));
        let mut hash = mix(kind, 0);
        let mut add = |looked: bool, value: u64| {
            if looked {
                hash = mix(hash, value);
            }
        };
        for (value, len) in [
            (self.source, mask.source),
            (self.destination, mask.destination),
            (self.input, mask.input),
            (self.output, mask.output),
        ] {
            let head = value.head(len);
            add(len > 0, head as u64 ^ (head >> 64) as u64);
        }
        let (sport, dport) = (self.sport.head(mask.sport), self.dport.head(mask.dport));
        add(mask.sport > 0 || mask.dport > 0, u64::from(sport) << 16 | u64::from(dport));
        add(mask.protocol, self.protocol.into());
        hash
    }
}

impl Mask {
    /// Whether it looks at no more than another.
    fn is_within(&self, other: &Self) -> bool {
        self.source <= other.source
            && self.destination <= other.destination
            && self.sport <= other.sport
            && self.dport <= other.dport
            && self.input <= other.input
            && self.output <= other.output
            && self.protocol <= other.protocol
    }

    /// How many bits it looks at.
    fn bits(&self) -> u32 {
        let lens = [self.source, self.destination, self.sport, self.dport];
        let names = [self.input, self.output].map(|len| len / 8);
        let protocol = if self.protocol { 4 } else { 0 };
        lens.iter().chain(&names).map(|len| u32::from(*len)).sum::<u32>() + protocol
    }

    /// The lengths that are looked up in [`Lengths`].
    fn looked_up(&self) -> [u8; 4] {
        [self.source, self.destination, self.sport, self.dport]
    }
}

impl Classifier {
    /// For a chain's rules; `None` if walking them is as quick.
    pub fn new(rules: &[Rule]) -> Option<Self> {
        if rules.len() < WORTH || u32::try_from(rules.len()).is_err() {
            return None;
        }
        let mut counts: HashMap<Mask, usize, foldhash::fast::FixedState> = HashMap::default();
        let mut last = (Mask::default(), 0);
        for rule in rules {
            wants(rule, |mask, _| {
                // Neighbours are often alike.
                if mask == last.0 {
                    last.1 += 1;
                    return;
                }
                let (mask, count) = std::mem::replace(&mut last, (mask, 1));
                *counts.entry(mask).or_default() += count;
            });
        }
        *counts.entry(last.0).or_default() += last.1;
        counts.retain(|_, count| *count > 0);
        let settled = settle(counts.into_iter().collect());
        let mut masks: Vec<Mask> = settled.values().copied().collect();
        masks.sort_unstable();
        masks.dedup();
        // All rules in one group would be a walk with a detour.
        if masks == [Mask::default()] {
            return None;
        }
        let mut this = Self { lengths: Lengths::needed(&masks), ..Self::default() };
        this.group(&masks);
        let mut keyed = Vec::with_capacity(rules.len());
        let mut prefixes: [Vec<(u128, u8)>; 4] = Default::default();
        for (number, rule) in rules.iter().enumerate() {
            wants(rule, |wanted, facts| {
                let mask = settled.get(&wanted).copied().unwrap_or_default();
                keyed.push((facts.key(mask), number as u32));
                this.note(&mut prefixes, mask, &facts);
            });
        }
        keyed.sort_unstable();
        keyed.dedup();
        for (lengths, prefixes) in this.lengths.iter_mut().zip(prefixes) {
            if let Some(lengths) = lengths {
                lengths.fill(prefixes);
            }
        }
        this.numbers.reserve(keyed.len());
        this.lists.reserve(keyed.chunk_by(|a, b| a.0 == b.0).count());
        for list in keyed.chunk_by(|a, b| a.0 == b.0) {
            this.add_list(list[0].0, list.iter().map(|(_, number)| *number));
        }
        Some(this)
    }

    fn group(&mut self, masks: &[Mask]) {
        let alike = |a: &Mask, b: &Mask| a.source == b.source && a.destination == b.destination;
        self.pairs = masks
            .chunk_by(alike)
            .map(|masks| Pair {
                source: masks[0].source,
                destination: masks[0].destination,
                masks: masks.to_vec(),
            })
            .collect();
    }

    /// Gathers what `lengths` has to know of a rule.
    fn note(&self, prefixes: &mut [Vec<(u128, u8)>; 4], mask: Mask, facts: &Facts) {
        let values = facts.looked_up();
        for (n, len) in mask.looked_up().into_iter().enumerate() {
            let value = values[n] & u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
            if len > 0 && self.lengths[n].is_some() && prefixes[n].last() != Some(&(value, len)) {
                prefixes[n].push((value, len));
            }
        }
    }

    fn add_list(&mut self, key: u64, list: impl Iterator<Item = u32>) {
        let start = self.numbers.len() as u32;
        self.numbers.extend(list);
        self.lists.insert(key, (start, self.numbers.len() as u32));
    }

    /// For rules of which most were in the chain before, `old` being all that were.
    pub fn follow(before: Option<&Self>, old: &[Rule], rules: &[Rule]) -> Option<Self> {
        let Some(before) = before.filter(|_| rules.len() >= WORTH) else { return Self::new(rules) };
        let head = old.iter().zip(rules).take_while(|(a, b)| a.is(b)).count();
        let tails = old[head..].iter().rev().zip(rules[head..].iter().rev());
        let tail = tails.take_while(|(a, b)| a.is(b)).count();
        let (gone, new) = (old.len() - head - tail, &rules[head..rules.len() - tail]);
        let changes = before.changes + gone + new.len();
        // Groups that were made for other rules get worse.
        if changes > rules.len() / 4 {
            return Self::new(rules);
        }
        before.spliced(head, gone, new, changes).or_else(|| Self::new(rules))
    }

    /// The same with other rules in the place of some. `None` if a new rule has no group.
    fn spliced(&self, at: usize, gone: usize, new: &[Rule], changes: usize) -> Option<Self> {
        let mut masks: Vec<Mask> =
            self.pairs.iter().flat_map(|pair| &pair.masks).copied().collect();
        let mut lengths = self.lengths.clone();
        let mut keyed = Vec::new();
        let mut fits = true;
        for (n, rule) in new.iter().enumerate() {
            wants(rule, |wanted, facts| {
                let Some(mask) = place_for(wanted, &mut masks) else {
                    fits = false;
                    return;
                };
                keyed.push((facts.key(mask), (at + n) as u32));
                let values = facts.looked_up();
                for (n, len) in mask.looked_up().into_iter().enumerate() {
                    if let Some(lengths) = &mut lengths[n] {
                        lengths.add(values[n], len);
                    }
                }
            });
        }
        if !fits {
            return None;
        }
        keyed.sort_unstable();
        keyed.dedup();
        let (first, end, moved) = (at as u32, (at + gone) as u32, new.len() as u32);
        let renumbered = |n: &u32| match *n {
            n if n < first => Some(n),
            n if n < end => None,
            n => Some(n - (end - first) + moved),
        };
        let mut this = Self { lengths, changes, ..Self::default() };
        this.numbers.reserve(self.numbers.len() + keyed.len());
        this.lists.reserve(self.lists.len() + keyed.len());
        for (key, &(start, end)) in &self.lists {
            let stay = self.numbers[start as usize..end as usize].iter().filter_map(renumbered);
            let from = keyed.partition_point(|(k, _)| k < key);
            let come: Vec<u32> =
                keyed[from..].iter().take_while(|(k, _)| k == key).map(|(_, n)| *n).collect();
            let start = this.numbers.len();
            this.add_list(*key, stay.chain(come.iter().copied()));
            if !come.is_empty() {
                this.numbers[start..].sort_unstable();
            }
        }
        for list in keyed.chunk_by(|a, b| a.0 == b.0).filter(|l| !self.lists.contains_key(&l[0].0))
        {
            this.add_list(list[0].0, list.iter().map(|(_, number)| *number));
        }
        masks.sort_unstable();
        this.group(&masks);
        Some(this)
    }

    /// The rules that a packet can match.
    pub fn candidates(&self, facts: &Facts) -> Candidates<'_> {
        let mut candidates = Candidates { near: [&[]; NEAR], len: 0, far: Vec::new() };
        let values = facts.looked_up();
        let there = |n: usize| {
            let lengths: Option<&Lengths> = self.lengths[n].as_ref();
            lengths.map_or(Length::ALL, |lengths| lengths.around(values[n]))
        };
        let (source, destination) = (there(0), there(1));
        // Ports are looked up only when a group is left that looks at them.
        let mut ports = None;
        for of in &self.pairs {
            if !source.has(of.source) || !destination.has(of.destination) {
                continue;
            }
            for mask in &of.masks {
                if mask.sport | mask.dport > 0 {
                    let (sport, dport) = *ports.get_or_insert_with(|| (there(2), there(3)));
                    if !sport.has(mask.sport) || !dport.has(mask.dport) {
                        continue;
                    }
                }
                if let Some(&(start, end)) = self.lists.get(&facts.key(*mask)) {
                    candidates.push(&self.numbers[start as usize..end as usize]);
                }
            }
        }
        candidates
    }
}

impl Facts {
    /// What is looked up in [`Lengths`]: its leading bits count.
    fn looked_up(&self) -> [u128; 4] {
        let port = |port: u16| u128::from(port) << 112;
        [self.source, self.destination, port(self.sport), port(self.dport)]
    }
}

/// The group for a rule that wants this: one of its own, if there may be more, or one that looks at
/// less.
fn place_for(wanted: Mask, masks: &mut Vec<Mask>) -> Option<Mask> {
    if !masks.contains(&wanted) {
        if masks.len() >= MOST_GROUPS {
            return masks.iter().filter(|m| m.is_within(&wanted)).max_by_key(|m| m.bits()).copied();
        }
        masks.push(wanted);
    }
    Some(wanted)
}

/// Lists that a packet seldom has more of.
const NEAR: usize = 16;

/// The rules of a chain that a packet can match, to be taken in order.
pub(crate) struct Candidates<'a> {
    near: [&'a [u32]; NEAR],
    len: usize,
    far: Vec<&'a [u32]>,
}

impl<'a> Candidates<'a> {
    fn push(&mut self, list: &'a [u32]) {
        match self.near.get_mut(self.len) {
            Some(slot) => {
                *slot = list;
                self.len += 1;
            }
            None => self.far.push(list),
        }
    }

    /// The first of them that isn't before this number.
    pub fn next(&mut self, from: usize) -> Option<usize> {
        let mut next: Option<u32> = None;
        for list in self.near[..self.len].iter_mut().chain(&mut self.far) {
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

/// Makes the masks few enough, by looking at fewer bits, and tells what becomes of each.
fn settle(masks: Vec<(Mask, usize)>) -> HashMap<Mask, Mask, foldhash::fast::FixedState> {
    let coarser = |step: u8| {
        let down = move |len: u8| len / step * step;
        move |m: Mask| Mask {
            source: down(m.source),
            destination: down(m.destination),
            sport: down(m.sport),
            dport: down(m.dport),
            ..m
        }
    };
    let mut to: Vec<(Mask, Mask, usize)> = masks.into_iter().map(|(m, n)| (m, m, n)).collect();
    let few = |to: &[(Mask, Mask, usize)]| {
        let mut masks: Vec<Mask> = to.iter().map(|(_, m, _)| *m).collect();
        masks.sort_unstable();
        masks.dedup();
        masks.len() <= MOST_GROUPS
    };
    for step in [2, 4, 8] {
        if !few(&to) {
            to.iter_mut().for_each(|(from, to, _)| *to = coarser(step)(*from));
        }
    }
    if !few(&to) {
        // The groups with the fewest rules are asked always.
        let mut rules: HashMap<Mask, usize> = HashMap::new();
        to.iter().for_each(|(_, m, n)| *rules.entry(*m).or_default() += n);
        let mut by_size: Vec<_> = rules.into_iter().collect();
        by_size.sort_unstable_by_key(|(mask, rules)| (std::cmp::Reverse(*rules), *mask));
        let kept: Vec<Mask> = by_size[..MOST_GROUPS - 1].iter().map(|(mask, _)| *mask).collect();
        for (_, m, _) in to.iter_mut().filter(|(_, m, _)| !kept.contains(m)) {
            let within = kept.iter().filter(|k| k.is_within(m)).max_by_key(|k| k.bits());
            *m = within.copied().unwrap_or_default();
        }
    }
    to.into_iter().map(|(from, to, _)| (from, to)).collect()
}

fn has_ports(number: u8) -> bool {
    use protocol::{DCCP, SCTP, TCP, UDP, UDPLITE};
    matches!(number, TCP | UDP | UDPLITE | SCTP | DCCP)
}

/// A name's first bytes, the first of them on top.
fn name_bits(name: &str) -> u128 {
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(name.as_bytes()).for_each(|(to, from)| *to = *from);
    u128::from_be_bytes(bytes)
}

/// Leading bits.
trait Head {
    fn head(self, len: u8) -> Self;
}

impl Head for u128 {
    fn head(self, len: u8) -> Self {
        self.checked_shr(128 - u32::from(len)).unwrap_or(0)
    }
}

impl Head for u16 {
    fn head(self, len: u8) -> Self {
        self.checked_shr(16 - u32::from(len)).unwrap_or(0)
    }
}

/// One step of a hash that spreads well (the finaliser of SplitMix64).
fn mix(hash: u64, value: u64) -> u64 {
    let mut z = (hash ^ value).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
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
