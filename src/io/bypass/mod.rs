//! Established flows that the kernel forwards by the gateway's order.
//!
//! Two BPF programs and three maps. `decide` is the filter of every packet socket: it looks for the
//! packet's flow, checks everything that the short way would check, brings the flow's state up to date
//! and says what is to be done, or lets the socket have the packet. `forward`, at tc ingress right
//! behind it and on the same packet, does what was said, or drops what the socket has taken.

//!
//! In the kernel a packet meets the packet sockets' filters and then tc ingress, on one processor and
//! with nothing between. So `decide` leaves its verdict in a place of that processor (`layout::Verdict`),
//! clears it for every packet that it sees, and `forward` takes it away. Without sockets there is no
//! verdict: what belongs to a process that is gone isn't forwarded.
//!
//! A flow is a *slot*: what is to be done with its packets and what has been counted, in memory that the
//! programs and we share, under a lock that both take. A map leads from a packet's key to its slot. Who
//! holds a lock in a program is never interrupted; who finds it taken for long lets the packet go up.

mod asm;
mod decide;
mod entry;
mod forward;
mod layout;
mod maps;
mod parse;
#[cfg(test)]
mod tests;
mod window;

use super::bpf::{self, ProgramKind, Shared};
use super::sys;
use layout::{Header, Key, Slot, Target};
use maps::Maps;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use tidegate_nat::lease::{Report, Windows};
use tidegate_nat::{Counters, Tuple};
use tidegate_packet::{Family, Instant, MacAddr, ethernet};

/// Flows that can be forwarded at the same time.
pub const MOST: u32 = 4096;

/// One direction of a flow.
#[derive(Clone, Debug)]
pub struct Way {
    /// Its packets as they arrive.
    pub tuple: Tuple,
    /// The kernel's number of the interface that they arrive by.
    pub input: u32,
    /// The link address that they are sent to.
    pub to: MacAddr,
    /// Their addresses and ports when they leave.
    pub rewritten: Tuple,
    /// The kernel's number of the interface that they leave by.
    pub egress: u32,
    /// Their link header then.
    pub header: [u8; ethernet::HEADER_LEN],
    /// The longest IP packet for that link, in bytes.
    pub mtu: u32,
}

/// A flow and all that `decide` has to know of it. TCP or UDP.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Of both directions.
    pub family: Family,
    /// The original direction and the reply; one may be the gateway's alone.
    pub ways: [Option<Way>; 2],
    /// TCP: the windows so far.
    pub windows: Option<Windows>,
    /// Whether transport checksums are verified (`nf_conntrack_checksum`), of packets about whose
    /// checksum the device says nothing.
    pub checksum: bool,
    /// It is forwarded while [`Bypass::set_generation`] says this number.
    pub generation: u64,
    /// And until then.
    pub until: Instant,
}

/// Why there is no bypass: BPF isn't allowed or lacks something here.
#[derive(Debug, thiserror::Error)]
#[error("the kernel lets us load no BPF program for established flows: {0}")]
pub struct Unavailable(#[from] io::Error);

/// The programs and their maps.
#[derive(Debug)]
pub struct Bypass {
    decide: OwnedFd,
    forward: OwnedFd,
    maps: Maps,
    slots: Shared<Slot>,
    header: Shared<Header>,
    leases: Mutex<Leases>,
    clock: Clock,
}

/// Which slots are whose.
#[derive(Debug)]
struct Leases {
    free: Vec<u32>,
    /// The keys of every slot that isn't free.
    keys: Vec<Vec<Key>>,
}

/// The gateway's clock and the kernel's monotonic one at the same moment, in nanoseconds.
#[derive(Copy, Clone, Debug)]
struct Clock {
    ours: u64,
    kernel: u64,
}

impl Bypass {
    /// Loads the programs. `now` is what the gateway's clock says at this moment.
    pub fn open(now: Instant) -> Result<Arc<Self>, Unavailable> {
        let clock = Clock::read(now)?;
        let maps = Maps::new()?;
        let (slots, header) = maps.share()?;
        let decide =
            bpf::load(ProgramKind::SocketFilter, "tidegate_decide", &decide::program(&maps))?;
        let forward = bpf::load(ProgramKind::Classifier, "tidegate_fwd", &forward::program(&maps))?;
        // The lowest are taken first: they are together in memory.
        let free = (0..MOST).rev().collect();
        let leases = Mutex::new(Leases { free, keys: vec![Vec::new(); MOST as usize] });
        Ok(Arc::new(Self { decide, forward, maps, slots, header, leases, clock }))
    }

    /// `forward`, for tc ingress of every interface.
    pub fn program(&self) -> BorrowedFd<'_> {
        self.forward.as_fd()
    }

    /// Makes `decide` a packet socket's filter.
    pub fn watch(&self, socket: impl AsFd) -> io::Result<()> {
        let program = self.decide.as_raw_fd();
        sys::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_BPF, &program)
    }

    /// From now on flows of any other generation are the gateway's own again.
    pub fn set_generation(&self, generation: u64) {
        self.header().generation.store(generation, Ordering::SeqCst);
    }

    /// From now on the kernel forwards this flow. The answer is its number, below [`MOST`]; `None` if
    /// there is no room, or if another flow has packets that look like this one's.
    pub fn lease(&self, flow: &Flow) -> Option<u32> {
        if !entry::is_possible(flow) {
            return None;
        }
        let mut leases = self.leases();
        let number = leases.free.pop()?;
        let slot = self.slot(number);
        *slot.lock() = entry::state(flow, self.clock.kernel(flow.until));
        let mut keys = Vec::with_capacity(2);
        for (direction, way) in (0..).zip(&flow.ways) {
            let Some(way) = way else { continue };
            let (key, target) = (entry::key(flow, way), Target { slot: number, direction });
            if self.maps.keys.insert(&key.bytes(), &target.bytes()).is_err() {
                self.forget(&keys);
                leases.free.push(number);
                return None;
            }
            keys.push(key);
        }
        leases.keys[number as usize] = keys;
        slot.lock().active = 1;
        Some(number)
    }

    /// What has happened since the last report. With `end` the flow is the gateway's own again when this
    /// returns, and the number is free: no packet of it is taken any more, though one that was taken
    /// just before may still be on its way.
    pub fn report(&self, number: u32, end: bool) -> Report {
        if !end {
            return self.take(number, true);
        }
        let mut leases = self.leases();
        let report = self.take(number, false);
        if let Some(keys) = leases.keys.get_mut(number as usize).map(std::mem::take)
            && !keys.is_empty()
        {
            self.forget(&keys);
            leases.free.push(number);
        }
        report
    }

    /// What has happened since the last report, and from now on no packet is forwarded.
    pub fn pause(&self, number: u32) -> Report {
        self.take(number, false)
    }

    /// It lasts until then.
    pub fn prolong(&self, number: u32, until: Instant) {
        if let Some(slot) = self.slots.get(number) {
            slot.lock().until = self.clock.kernel(until);
        }
    }

    /// It goes on, with these windows.
    pub fn resume(&self, number: u32, windows: Option<Windows>) {
        let Some(slot) = self.slots.get(number) else { return };
        let mut state = slot.lock();
        if let Some(windows) = windows {
            entry::set_windows(&mut state, &windows);
        }
        state.active = 1;
    }

    /// Takes what was counted out of a slot, whose flow stays active as before or isn't any more.
    fn take(&self, number: u32, stays: bool) -> Report {
        let Some(slot) = self.slots.get(number) else { return Report::default() };
        let mut state = slot.lock();
        let counted = state.ways.each_mut().map(|way| {
            let (packets, bytes) =
                (std::mem::take(&mut way.packets), std::mem::take(&mut way.bytes));
            Counters { packets, bytes }
        });
        let frames = state.ways.each_mut().map(|way| std::mem::take(&mut way.frames));
        if !stays {
            state.active = 0;
        }
        let seen = self.clock.ours(state.seen);
        Report { counted, frames, seen, windows: entry::windows(&state) }
    }

    fn forget(&self, keys: &[Key]) {
        for key in keys {
            // It is there, and nothing else can go wrong with an element's removal.
            let _ = self.maps.keys.remove(&key.bytes());
        }
    }

    fn leases(&self) -> std::sync::MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn header(&self) -> &Header {
        self.header.get(0).expect("the map has one element")
    }

    fn slot(&self, number: u32) -> &Slot {
        self.slots.get(number).expect("the map has as many elements as there are numbers")
    }
}

impl Clock {
    fn read(now: Instant) -> io::Result<Self> {
        let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?;
        let kernel = time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64;
        Ok(Self { ours: now.as_nanos(), kernel })
    }

    fn kernel(self, ours: Instant) -> u64 {
        let at = i128::from(ours.as_nanos()) - i128::from(self.ours) + i128::from(self.kernel);
        at.clamp(0, u64::MAX.into()) as u64
    }

    fn ours(self, kernel: u64) -> Instant {
        let at = i128::from(kernel) - i128::from(self.kernel) + i128::from(self.ours);
        Instant::from_nanos(at.clamp(0, u64::MAX.into()) as u64)
    }
}

/// Who forwards flows by the gateway's order.
pub trait Forwarder: std::fmt::Debug + Send + Sync {
    /// From now on this flow is forwarded while its generation lasts. The answer is its number, a small
    /// one; `None` if there is no room.
    fn lease(&self, flow: &Flow) -> Option<u32>;

    /// From now on flows of any other generation are the gateway's own again.
    fn set_generation(&self, generation: u64);

    /// What has happened since the last report. With `end` the flow is the gateway's own again when this
    /// returns: no packet of it is forwarded any more, and the number is free.
    fn report(&self, number: u32, end: bool) -> Report;

    /// What has happened since the last report. Until [`Forwarder::resume`] no packet is forwarded.
    fn pause(&self, number: u32) -> Report;

    /// It goes on, with these windows.
    fn resume(&self, number: u32, windows: Option<Windows>);

    /// It lasts until then.
    fn prolong(&self, number: u32, until: Instant);
}

impl Forwarder for Bypass {
    fn lease(&self, flow: &Flow) -> Option<u32> {
        Self::lease(self, flow)
    }

    fn set_generation(&self, generation: u64) {
        Self::set_generation(self, generation);
    }

    fn report(&self, number: u32, end: bool) -> Report {
        Self::report(self, number, end)
    }

    fn pause(&self, number: u32) -> Report {
        Self::pause(self, number)
    }

    fn resume(&self, number: u32, windows: Option<Windows>) {
        Self::resume(self, number, windows);
    }

    fn prolong(&self, number: u32, until: Instant) {
        Self::prolong(self, number, until);
    }
}
