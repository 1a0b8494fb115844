//! Devices: where frames come from and go to. All unsafe code of the project lives in this folder.
//!
//! A burst goes: [`Receive::receive`] makes frames available, the engine edits them in place
//! through [`Receive::frame`], [`Transmit::send`] hands the edited frames (still in the receiving
//! device's memory) to another device, [`Receive::release`] gives the memory back. So a packet is
//! copied once in and once out, by the kernel, and never between.

use std::io;
use std::os::fd::BorrowedFd;

pub mod af_packet;
mod bpf;
pub mod bypass;
pub mod channel;
pub mod ethtool;
mod fanout;
pub mod ingress;
mod merge;
pub mod pcap;
mod ring;
mod sys;
pub mod tap;
pub mod transmit;
mod vnet;

/// Most frames that [`Receive::receive`] offers at once.
pub const BURST: usize = 64;

/// A burst ends when it holds so many bytes: a few super-packets. What is received is read again
/// when it is sent, and should be in the core's own cache still: with 64 super-packets at once, each
/// costs three times as much (docs/PERFORMANCE.md).
pub(crate) const BURST_BYTES: usize = 256 << 10;

/// Free bytes that every receiving device keeps in front of a frame, so that a VLAN tag or a
/// longer link header can be put there.
pub const HEADROOM: usize = 32;

/// What is known of a transport checksum.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
pub enum Checksum {
    /// Nobody has looked.
    #[default]
    Unverified,
    /// Device or kernel has verified it.
    Valid,
    /// `CHECKSUM_PARTIAL`: the field holds the pseudo-header sum, the sender's device was to do
    /// the rest. `start` counts from the first byte of the frame, `offset` from `start`.
    Partial {
        /// Where the covered bytes begin.
        start: u16,
        /// The field's place.
        offset: u16,
    },
}

/// How a super-packet is to be cut into segments.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum GsoKind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP datagrams of equal size (`UDP_SEGMENT`).
    UdpL4,
}

/// A super-packet: many segments in one frame with one header.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Gso {
    /// What the segments are.
    pub kind: GsoKind,
    /// Payload bytes of each segment but the last.
    pub size: u16,
    /// CWR is to be set on the first segment only (RFC 3168 with TSO).
    pub ecn: bool,
}

/// What a device says about a frame besides its bytes, and must be told when it sends one.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
pub struct Offload {
    /// State of the transport checksum.
    pub checksum: Checksum,
    /// Set for a super-packet.
    pub gso: Option<Gso>,
}

/// A frame in a device's receive memory, to be edited in place.
#[derive(Debug)]
pub struct Frame<'a> {
    /// The whole slot; the frame is `slot[meta.start..meta.end]`. At least [`HEADROOM`] bytes in
    /// front of the frame as it was received are free.
    pub slot: &'a mut [u8],
    /// Where the frame stands and what is known of it; edits are seen by [`Receive::sent`].
    pub meta: &'a mut Meta,
}

/// Place and offload state of a frame in its slot.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
pub struct Meta {
    /// First byte of the frame (its Ethernet header).
    pub start: usize,
    /// One past its last byte.
    pub end: usize,
    /// Checksum and segmentation state.
    pub offload: Offload,
    /// A VLAN tag that the device took out of the frame: TPID and control word. Put it back with
    /// [`Frame::restore_vlan`] before the frame is sent on.
    pub vlan: Option<(u16, u16)>,
}

impl Frame<'_> {
    /// The frame's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.slot[self.meta.start..self.meta.end]
    }

    /// The frame's bytes, to be edited.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.slot[self.meta.start..self.meta.end]
    }

    /// Puts a tag that the device took out back between the addresses and the EtherType.
    pub fn restore_vlan(&mut self) {
        let Some((tpid, tci)) = self.meta.vlan.take() else { return };
        let start = self.meta.start;
        self.slot.copy_within(start..start + 12, start - 4);
        self.slot[start + 8..start + 10].copy_from_slice(&tpid.to_be_bytes());
        self.slot[start + 10..start + 12].copy_from_slice(&tci.to_be_bytes());
        self.meta.start -= 4;
        if let Checksum::Partial { start, .. } = &mut self.meta.offload.checksum {
            *start = start.saturating_add(4);
        }
    }
}

/// A frame to be sent: the bytes and what the device has to know.
#[derive(Copy, Clone, Debug)]
pub struct Outgoing<'a> {
    /// The frame, from its Ethernet header on.
    pub bytes: &'a [u8],
    /// Checksum and segmentation state.
    pub offload: Offload,
}

/// The receiving half of a device, owned by one worker.
pub trait Receive: Send {
    /// Makes up to [`BURST`] frames available and says how many; zero if none wait. Never blocks.
    ///
    /// [`io::ErrorKind::NetworkDown`]: the link has gone down. This is said once; the device stays
    /// usable, and frames come again when the link is up. [`io::ErrorKind::NotFound`]: the device
    /// doesn't exist any more, and every later call will say so. After neither is there anything
    /// to wait for at once, so a worker that polls the descriptor doesn't spin, if it stops
    /// polling a device that is gone.
    fn receive(&mut self) -> io::Result<usize>;

    /// Frame `index` of the current burst.
    fn frame(&mut self, index: usize) -> Frame<'_>;

    /// Frame `index` as it stands now, to be handed to [`Transmit::send`].
    fn sent(&self, index: usize) -> Outgoing<'_>;

    /// Gives all frames of the burst back.
    fn release(&mut self);

    /// Becomes readable when frames wait; absent for a device that nobody can wait for.
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// Whether a frame waits, told without asking the kernel; `false` where that can't be told.
    fn ready(&self) -> bool {
        false
    }

    /// Frames that the kernel dropped because this device's queue was full, since the last call.
    fn overruns(&mut self) -> u64 {
        0
    }

    /// Frames that arrived but can't be handed over (cut short, or with an offload that nobody
    /// here knows), since the last call.
    fn discards(&mut self) -> u64 {
        0
    }
}

/// What became of a batch.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
pub struct Sent {
    /// Taken by the device.
    pub frames: usize,
    /// Their bytes, from the Ethernet header on.
    pub bytes: usize,
    /// Refused (queue full, link down, too long); they are lost, as in a kernel's queue.
    pub refused: usize,
}

/// The sending half of a device, owned by one worker.
pub trait Transmit: Send {
    /// Sends a batch in order. A frame that the device refuses doesn't stop those behind it.
    fn send<'a>(&mut self, frames: &mut dyn Iterator<Item = Outgoing<'a>>) -> io::Result<Sent>;
}

/// Hands frames on in bursts of at most [`BURST`].
fn in_bursts<'a>(
    frames: &mut dyn Iterator<Item = Outgoing<'a>>,
    mut send: impl FnMut(&[Outgoing<'a>]),
) {
    let empty = Outgoing { bytes: &[], offload: Offload::default() };
    loop {
        let mut burst = [empty; BURST];
        let mut n = 0;
        // The burst first: a frame that was taken from the iterator has its place.
        for (to, from) in burst.iter_mut().zip(&mut *frames) {
            *to = from;
            n += 1;
        }
        if n > 0 {
            send(&burst[..n]);
        }
        if n < BURST {
            return;
        }
    }
}

/// The error of a device that doesn't exist any more.
fn gone(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("interface {name} is gone"))
}
