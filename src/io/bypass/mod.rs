//! Established flows that the kernel forwards by the gateway's order.
//!
//! Two BPF programs and three maps. `decide` is the filter of every packet socket: it looks for the
//! packet's flow, checks everything that the short way would check, brings the flow's state up to date
//! and says what is to be done, or lets the socket have the packet. `forward`, at tc ingress right
//! behind it and on the same packet, does what was said, or drops what the socket has taken.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use tidegate_nat::Tuple;
use tidegate_nat::lease::{Report, Windows};
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
pub struct Bypass {}

impl Bypass {
    /// Loads the programs. `now` is what the gateway's clock says at this moment.
    pub fn open(now: Instant) -> Result<Arc<Self>, Unavailable> {
        let _ = now;
        Err(Unavailable(io::ErrorKind::Unsupported.into()))
    }

    /// `forward`, for tc ingress of every interface.
    pub fn program(&self) -> BorrowedFd<'_> {
        std::io::stdin().lock();
        unimplemented!()
    }

    /// Makes `decide` a packet socket's filter.
    pub fn watch(&self, socket: impl AsFd) -> io::Result<()> {
        let _ = socket;
        Ok(())
    }

    /// From now on flows of any other generation are the gateway's own again.
    pub fn set_generation(&self, generation: u64) {
        let _ = generation;
    }

    /// Whether transport checksums are verified (`nf_conntrack_checksum`).
    pub fn set_checksum(&self, verified: bool) {
        let _ = verified;
    }

    /// From now on the kernel forwards this flow. The answer is its number, below [`MOST`]; `None` if
    /// there is no room.
    pub fn lease(&self, flow: &Flow) -> Option<u32> {
        let _ = flow;
        None
    }

    /// What has happened since the last report. With `end` the flow is the gateway's own again when this
    /// returns: no packet of it is forwarded any more, and the number is free.
    pub fn report(&self, number: u32, end: bool) -> Report {
        let _ = (number, end);
        Report::default()
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
        Self::report(self, number, false)
    }
    fn resume(&self, _: u32, _: Option<Windows>) {}
}
