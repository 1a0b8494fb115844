//! A forwarder in memory: what the kernel does for a gateway with packet sockets, so that everything
//! that holds for a simulated gateway can be tried with leases, too.

use crate::engine::PortId;
use crate::engine::plain::Plain;
use crate::io::bypass::{Flow, Forwarder, Way};
use crate::io::{Checksum, Frame};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tidegate_nat::lease::{Report, Windows};
use tidegate_nat::{Counters, Direction, Tuple};
use tidegate_packet::checksum::{self, Delta, Field};
use tidegate_packet::{self as packet, Addr, Instant, ethernet, ipv4, protocol, tcp, udp};

/// See the module. The kernel's number of a port's interface is the port's, plus one.
#[derive(Debug, Default)]
pub(crate) struct InMemory {
    flows: Mutex<BTreeMap<u32, Leased>>,
    generation: AtomicU64,
}

#[derive(Debug)]
struct Leased {
    flow: Flow,
    paused: bool,
    counted: [Counters; 2],
    frames: [u64; 2],
    seen: Instant,
}

impl InMemory {
    /// Forwards a frame: the answer is the port that it leaves by. `None`: the frame is as it was, and
    /// the gateway's.
    pub fn forward(
        &self,
        PortId(port): PortId,
        frame: &mut Frame<'_>,
        now: Instant,
    ) -> Option<PortId> {
        match Plain::<false>::read(frame) {
            Some(plain) => self.forward_plain(port, &plain, frame, now),
            None => self.forward_plain(port, &Plain::<true>::read(frame)?, frame, now),
        }
    }

    fn forward_plain<const V6: bool>(
        &self,
        port: u16,
        plain: &Plain<V6>,
        frame: &mut Frame<'_>,
        now: Instant,
    ) -> Option<PortId> {
        let headers = &plain.packet;
        let packet = &frame.bytes()[ethernet::HEADER_LEN..];
        let ([src, dst], segment) = (headers.addrs(packet), headers.segment(packet));
        let packet::Plain { sport, dport, protocol, .. } = *headers;
        let tuple = Tuple { src, dst, sport, dport, protocol };
        let mut flows = self.flows();
        let generation = self.generation.load(Ordering::SeqCst);
        let (leased, direction) = flows.values_mut().find_map(|leased| {
            let wanted = |way: &&Way| way.tuple == tuple && way.input == link(port);
            let direction =
                leased.flow.ways.iter().position(|w| w.as_ref().is_some_and(|w| wanted(&w)));
            direction.map(|direction| (leased, direction))
        })?;
        let Flow { ways, windows, generation: own, until, checksum, .. } = &mut leased.flow;
        let way = ways[direction].as_ref()?;
        if leased.paused || *own != generation || *until < now || frame.bytes()[..6] != way.to.0 {
            return None;
        }
        if plain.wire_len(frame) > way.mtu {
            return None;
        }
        // As conntrack does (`udp_error`): a length field that no datagram has, or a longer one.
        let udp_len = || usize::from(u16::from_be_bytes([segment[4], segment[5]]));
        if protocol == protocol::UDP && !(udp::HEADER_LEN..=segment.len()).contains(&udp_len()) {
            return None;
        }
        let mut verified = false;
        if *checksum && frame.meta.offload.checksum == Checksum::Unverified {
            let absent = protocol == protocol::UDP && segment[6..8] == [0, 0];
            if !absent && !checksum::verify_transport(src, dst, protocol, segment) {
                return None;
            }
            verified = true;
        }
        let side = if direction == 0 { Direction::Original } else { Direction::Reply };
        if let Some(windows) = windows
            && !windows.accept(side, segment)
        {
            return None;
        }
        leased.counted[direction].packets += 1;
        leased.counted[direction].bytes += u64::from(headers.len);
        leased.frames[direction] += frame.bytes().len() as u64;
        leased.seen = now;
        if verified {
            frame.meta.offload.checksum = Checksum::Valid;
        }
        rewrite(frame, plain, way);
        Some(PortId(way.egress as u16 - 1))
    }

    fn flows(&self) -> MutexGuard<'_, BTreeMap<u32, Leased>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, number: u32, change: impl FnOnce(&mut Leased)) -> Report {
        let mut flows = self.flows();
        let Some(leased) = flows.get_mut(&number) else { return Report::default() };
        change(leased);
        let counted = std::mem::take(&mut leased.counted);
        let frames = std::mem::take(&mut leased.frames);
        Report { counted, frames, seen: leased.seen, windows: leased.flow.windows }
    }
}

/// The number of a port's interface.
pub(super) fn link(port: u16) -> u32 {
    u32::from(port) + 1
}

fn rewrite<const V6: bool>(frame: &mut Frame<'_>, plain: &Plain<V6>, way: &Way) {
    let l3 = frame.meta.start + ethernet::HEADER_LEN;
    let (l4, end) = (l3 + packet::Plain::<V6>::L4, l3 + plain.packet.len as usize);
    let packet = &mut frame.slot[l3..end];
    let (mut addresses, mut ports) = (Delta::default(), Delta::default());
    addresses.replace_addr(way.tuple.src, way.rewritten.src);
    addresses.replace_addr(way.tuple.dst, way.rewritten.dst);
    ports.replace16(way.tuple.sport, way.rewritten.sport);
    ports.replace16(way.tuple.dport, way.rewritten.dport);
    let at = if V6 { [8, 24] } else { [12, 16] };
    for (at, address) in at.into_iter().zip([way.rewritten.src, way.rewritten.dst]) {
        let wire = Addr::wire(&address);
        packet[at..at + wire.len()].copy_from_slice(wire);
    }
    if V6 {
        packet[7] -= 1;
    } else {
        addresses.update(packet, 10, Field::Complete);
        ipv4::decrement_ttl(packet);
    }
    let segment = &mut frame.slot[l4..end];
    segment[..2].copy_from_slice(&way.rewritten.sport.to_be_bytes());
    segment[2..4].copy_from_slice(&way.rewritten.dport.to_be_bytes());
    let is_udp = !plain.packet.is_tcp();
    let at = if is_udp { udp::CHECKSUM_AT } else { tcp::CHECKSUM_AT };
    let absent = is_udp && segment[at..at + 2] == [0, 0] && plain.field == Field::Complete;
    if !absent {
        if plain.field == Field::Complete {
            addresses.add(ports);
        }
        addresses.update(segment, at, plain.field);
        if is_udp && plain.field == Field::Complete && segment[at..at + 2] == [0, 0] {
            segment[at..at + 2].fill(0xff);
        }
    }
    frame.slot[l3 - ethernet::HEADER_LEN..l3].copy_from_slice(&way.header);
    frame.meta.end = end;
}

impl Forwarder for InMemory {
    fn lease(&self, flow: &Flow) -> Option<u32> {
        let mut flows = self.flows();
        let number = (0..).find(|number| !flows.contains_key(number))?;
        let leased = Leased {
            flow: flow.clone(),
            paused: false,
            counted: Default::default(),
            frames: [0; 2],
            seen: Instant::ZERO,
        };
        flows.insert(number, leased);
        Some(number)
    }

    fn set_generation(&self, generation: u64) {
        self.generation.store(generation, Ordering::SeqCst);
    }

    fn report(&self, number: u32, end: bool) -> Report {
        let report = self.take(number, |_| ());
        if end {
            self.flows().remove(&number);
        }
        report
    }

    fn pause(&self, number: u32) -> Report {
        self.take(number, |leased| leased.paused = true)
    }

    fn resume(&self, number: u32, windows: Option<Windows>) {
        if let Some(leased) = self.flows().get_mut(&number) {
            (leased.paused, leased.flow.windows) = (false, windows);
        }
    }

    fn prolong(&self, number: u32, until: Instant) {
        if let Some(leased) = self.flows().get_mut(&number) {
            leased.flow.until = until;
        }
    }
}
