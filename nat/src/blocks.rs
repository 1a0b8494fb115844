//! Blocks of outside ports, given to inside hosts as they need them (RFC 6888 REQ-4 and REQ-14,
//! RFC 7422): one line in the log for a block says whose a port was, instead of one for each flow.
//!
//! A block is a host's with the first mapping in it, and nobody's again with the last one's end. It
//! counts for UDP and TCP alike.

use std::collections::BTreeMap;

use tidegate_packet::{Addr, protocol};

/// What a rule says about blocks.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct BlockRule {
    /// Ports of a block.
    pub size: u16,
    /// Blocks of a host at most.
    pub most: u16,
}

/// A block has become a host's, or is so no longer.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct BlockEvent {
    /// Given, or taken back.
    pub given: bool,
    /// The host.
    pub inside: Addr,
    /// The address that the ports belong to.
    pub outside: Addr,
    /// First and last port.
    pub ports: (u16, u16),
}

/// Events that wait to be taken at most; more are lost and counted.
const MOST_EVENTS: usize = 4096;

#[derive(Clone, Debug)]
struct Block {
    inside: Addr,
    interface: u32,
    last: u16,
    /// Mappings in it: UDP, TCP.
    used: [u16; 2],
}

/// All blocks.
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    /// By outside address and first port.
    blocks: BTreeMap<(Addr, u16), Block>,
    /// The blocks of a host on an interface.
    hosts: BTreeMap<(Addr, u32), Vec<(Addr, u16)>>,
    events: Vec<BlockEvent>,
    lost: u64,
}

fn index(protocol: u8) -> usize {
    usize::from(protocol == protocol::TCP)
}

impl Blocks {
    /// The blocks of a host at an outside address that have room for a protocol.
    pub(crate) fn with_room(
        &self,
        host: (Addr, u32),
        outside: Addr,
        protocol: u8,
    ) -> Vec<(u16, u16)> {
        let own = self.hosts.get(&host).map_or(&[][..], Vec::as_slice);
        let blocks = own.iter().filter(|(addr, _)| *addr == outside);
        let blocks = blocks.filter_map(|key| Some((key.1, self.blocks.get(key)?)));
        blocks
            .filter(|(first, block)| block.used[index(protocol)] <= block.last - first)
            .map(|(first, block)| (first, block.last))
            .collect()
    }

    /// A new block for a host, of the ports of a range. `None`: it has as many as it may have, or all
    /// are given away.
    pub(crate) fn give(
        &mut self,
        host: (Addr, u32),
        outside: Addr,
        rule: BlockRule,
        (first, last): (u16, u16),
        random: u32,
    ) -> Option<(u16, u16)> {
        let own = self.hosts.get(&host).map_or(0, Vec::len);
        let size = u32::from(rule.size.max(1));
        let count = (u32::from(last) - u32::from(first) + 1) / size;
        if own >= usize::from(rule.most) || count == 0 {
            return None;
        }
        let start = random % count;
        let place = |n: u32| {
            let at = u32::from(first) + (start + n) % count * size;
            (at as u16, (at + size - 1) as u16)
        };
        let ports = (0..count).map(place).find(|&ports| self.is_free(outside, ports))?;
        let (inside, interface) = host;
        let block = Block { inside, interface, last: ports.1, used: [0; 2] };
        self.blocks.insert((outside, ports.0), block);
        self.hosts.entry(host).or_default().push((outside, ports.0));
        self.tell(BlockEvent { given: true, inside, outside, ports });
        Some(ports)
    }

    /// Whether no block has any of these ports; those of other rules may have another size.
    fn is_free(&self, outside: Addr, (first, last): (u16, u16)) -> bool {
        let before = self.blocks.range((outside, 0)..=(outside, last)).next_back();
        before.is_none_or(|(_, block)| block.last < first)
    }

    fn of_port(&self, outside: Addr, port: u16) -> Option<(Addr, u16)> {
        let (key, block) = self.blocks.range((outside, 0)..=(outside, port)).next_back()?;
        (block.last >= port).then_some(*key)
    }

    /// A mapping has this port from now on.
    pub(crate) fn take(&mut self, outside: Addr, port: u16, protocol: u8) {
        let Some(key) = self.of_port(outside, port) else { return };
        if let Some(block) = self.blocks.get_mut(&key) {
            block.used[index(protocol)] += 1;
        }
    }

    /// The mapping that had it is over.
    pub(crate) fn put_back(&mut self, outside: Addr, port: u16, protocol: u8) {
        let Some(key) = self.of_port(outside, port) else { return };
        let Some(block) = self.blocks.get_mut(&key) else { return };
        block.used[index(protocol)] = block.used[index(protocol)].saturating_sub(1);
        if block.used != [0; 2] {
            return;
        }
        let host = (block.inside, block.interface);
        let event =
            BlockEvent { given: false, inside: host.0, outside, ports: (key.1, block.last) };
        self.blocks.remove(&key);
        if let Some(own) = self.hosts.get_mut(&host) {
            own.retain(|other| *other != key);
            if own.is_empty() {
                self.hosts.remove(&host);
            }
        }
        self.tell(event);
    }

    fn tell(&mut self, event: BlockEvent) {
        if self.events.len() < MOST_EVENTS {
            self.events.push(event);
        } else {
            self.lost += 1;
        }
    }

    /// What has happened since the last call, and how much more that was lost.
    pub(crate) fn events(&mut self) -> (Vec<BlockEvent>, u64) {
        (std::mem::take(&mut self.events), std::mem::take(&mut self.lost))
    }

    #[inline]
    pub(crate) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> Addr {
        text.parse().unwrap()
    }

    #[test]
    fn blocks_are_given_and_taken_back() {
        let mut all = Blocks::default();
        let rule = BlockRule { size: 10, most: 2 };
        let (outside, range) = (addr("192.0.2.1"), (1000, 1039));
        let [a, b, c] = ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(|host| (addr(host), 7));
        assert_eq!(all.give(a, outside, rule, range, 1), Some((1010, 1019)));
        assert_eq!(all.give(a, outside, rule, range, 1), Some((1020, 1029)));
        assert_eq!(all.give(a, outside, rule, range, 1), None, "no third");
        assert_eq!(all.give(b, outside, rule, range, 1), Some((1030, 1039)));
        // Half of a block of another size is taken.
        let large = BlockRule { size: 20, most: 2 };
        assert_eq!(all.give(c, outside, large, range, 0), None);
        assert_eq!(all.give(c, outside, rule, range, 0), Some((1000, 1009)));
        assert_eq!(all.give(b, outside, rule, range, 0), None, "none is left");
        for port in 1010..1020 {
            all.take(outside, port, protocol::UDP);
        }
        assert_eq!(all.with_room(a, outside, protocol::UDP), [(1020, 1029)]);
        assert_eq!(all.with_room(a, outside, protocol::TCP).len(), 2);
        assert_eq!(all.with_room(a, addr("192.0.2.2"), protocol::TCP), []);
        all.take(outside, 1010, protocol::TCP);
        assert_eq!(all.events().0.len(), 4);
        for port in 1010..1020 {
            all.put_back(outside, port, protocol::UDP);
        }
        assert!(!all.has_events(), "TCP still has it");
        all.put_back(outside, 1010, protocol::TCP);
        let back = BlockEvent { given: false, inside: a.0, outside, ports: (1010, 1019) };
        assert_eq!(all.events(), (vec![back], 0));
        assert_eq!(all.give(b, outside, rule, range, 0), Some((1010, 1019)));
    }
}
