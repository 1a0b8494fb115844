//! Which flows are worth a lease: those that have gone the short way often ([`OFTEN`]), and whose packets
//! are large or answered.

use super::lease::Leases;
use std::sync::Arc;
use tidegate_nat::{ConnId, Direction};

/// So many packets a flow of a gateway with devices has to have sent the short way, with few others
/// among them.
pub const OFTEN: u16 = 32;
/// Flows that are watched at the same time; of two at one place that with more packets stays.
const WATCHED: usize = 1024;
/// Shorter packets, in bytes, don't gain by being leased if nobody answers them: copying them costs
/// little, and a worker takes half of the work off the core that they come by, where a forwarder would
/// do it. Of answers, the sooner the better.
pub(super) const SMALL: u64 = 512;

/// Which flows of a shard are worth a lease.
#[derive(Debug)]
pub(crate) struct Heavy {
    pub(super) leases: Arc<Leases>,
    watched: Box<[Option<Watched>; WATCHED]>,
    pub(super) wanted: Vec<ConnId>,
}

/// A flow whose packets are counted until they are many.
#[derive(Copy, Clone, Debug)]
struct Watched {
    id: ConnId,
    /// In each direction.
    packets: [u16; 2],
    bytes: u64,
}

impl Heavy {
    pub fn new(leases: Arc<Leases>) -> Self {
        Self { leases, watched: Box::new([None; WATCHED]), wanted: Vec::new() }
    }

    /// A flow's packet of this many bytes has gone the short way.
    #[inline]
    pub fn note(&mut self, id: ConnId, direction: Direction, bytes: u32) {
        let place = &mut self.watched[id.number() as usize % WATCHED];
        let flow = match place {
            Some(flow) if flow.id == id => flow,
            Some(flow) if flow.packets != [0; 2] => {
                // One of each.
                flow.packets = flow.packets.map(|n| n.saturating_sub(1));
                return;
            }
            _ => place.insert(Watched { id, packets: [0; 2], bytes: 0 }),
        };
        flow.packets[direction as usize] += 1;
        flow.bytes += u64::from(bytes);
        let (often, [there, back]) = (self.leases.often, flow.packets);
        if there + back < often {
            return;
        }
        let worth_it = flow.bytes >= SMALL * u64::from(often) || there.min(back) >= often / 4;
        (flow.packets, flow.bytes) = ([0; 2], 0);
        if worth_it && self.wanted.len() < WATCHED {
            self.wanted.push(id);
        }
    }

    /// Whether there are flows to be leased.
    #[inline]
    pub fn is_wanted(&self) -> bool {
        !self.wanted.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::forwarder::InMemory;
    use tidegate_nat::{Conntrack, Settings};
    use tidegate_packet::builder::{Ip, udp};
    use tidegate_packet::{Instant, Parsed, protocol};

    fn connection(table: &mut Conntrack, port: u16) -> ConnId {
        let [src, dst] = ["10.0.0.1", "10.0.0.2"].map(|a| a.parse().unwrap());
        let bytes = udp(Ip::new(src, dst, protocol::UDP), port, 53, b"x");
        let packet = Parsed::parse(&bytes).unwrap();
        let mut tracked = table.track(&packet, &bytes, false, Instant::ZERO);
        table.confirm(&mut tracked, Instant::ZERO).unwrap();
        tracked.id().unwrap()
    }

    /// How often a flow is wanted of whose packets every so many-th is an answer.
    fn wanted(packets: usize, answers: usize, bytes: u32) -> usize {
        let mut table = Conntrack::new(Settings::default(), [1, 2]);
        let leases = Leases::new(Arc::new(InMemory::default()), 1, OFTEN);
        let (mut heavy, id) = (Heavy::new(Arc::new(leases)), connection(&mut table, 4000));
        for packet in 1..=packets {
            let answer = packet % answers == 0;
            let direction = if answer { Direction::Reply } else { Direction::Original };
            heavy.note(id, direction, bytes);
        }
        heavy.wanted.len()
    }

    #[test]
    fn large_packets_and_answered_ones_are_worth_a_lease() {
        assert_eq!(wanted(31, 2, 1500), 0, "too few");
        assert_eq!([wanted(32, 2, 60), wanted(64, 4, 60)], [1, 2]);
        assert_eq!([wanted(32, 99, 512), wanted(32, 99, 64_000)], [1, 1]);
        assert_eq!([wanted(320, 999, 60), wanted(320, 20, 511)], [0, 0], "a flood of small ones");
    }

    #[test]
    fn others_among_them_count_against_it() {
        let mut table = Conntrack::new(Settings::default(), [1, 2]);
        let leases = Leases::new(Arc::new(InMemory::default()), 1, OFTEN);
        let mut heavy = Heavy::new(Arc::new(leases));
        let ids: Vec<ConnId> = (0..WATCHED as u16 * 4).map(|n| connection(&mut table, n)).collect();
        // Four to a place, all with as many packets as the others.
        for _ in 0..100 {
            ids.iter().for_each(|id| heavy.note(*id, Direction::Original, 1500));
        }
        assert_eq!(heavy.wanted, []);
    }
}
