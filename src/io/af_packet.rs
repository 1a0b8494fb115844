//! Frames of an existing interface through packet sockets (packet(7)): received in a `TPACKET_V2`
//! ring, edited there, sent with `sendmmsg` straight from there.
//!
//! Each frame comes and goes with a `virtio_net_hdr`, so super-packets stay whole and partial
//! checksums stay partial. Receiving and sending use a socket each: the sender is bound to no
//! protocol, so the kernel never queues anything to it.
//!
//! Two ways in. Ordinary frames come in the ring, whose slots are just long enough for them.
//! What is longer (super-packets, jumbo frames) the kernel queues to the socket as well
//! (`PACKET_COPY_THRESH`), and it is read from there into one of a few long buffers; the slot keeps
//! its place in the order. A ring whose slots all hold 64 KiB would do without that, but the kernel
//! walks through all slots in turn, a page or more of its own for each small frame: measured with
//! `examples/plumb.rs`, a small frame then costs about twice as much.
//!
//! The socket's queue needs room for a burst of super-packets. Where we may not have that much (in
//! a user namespace), the ring gets long slots after all. Slots are an odd number of cache lines
//! apart, so that the headers of all slots don't compete for the same few cache sets.

use super::fanout;
use super::ring::{Layout, Ring, SLOT_HEADER, Taken};
use super::sys::{self, PacketStatistics};
use super::transmit::PacketTransmit;
use super::{BURST, BURST_BYTES, Checksum, Frame, HEADROOM, Meta, Outgoing, Receive, vnet};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Slots of a ring unless [`Options::slots`] says otherwise, in seven megabytes. On a machine with
/// few cores the worker may have to share one with a sender, whose time slice of some milliseconds
/// must fit: a million frames a second for four.
pub const DEFAULT_SLOTS: usize = 4096;

/// Bytes from one slot to the next: the kernel's headers, our headroom and a frame of 1,500 bytes
/// with its tags.
const SLOT_LEN: usize = 27 * 64;
/// A block is what the kernel allocates in one piece if it can.
const BLOCK_LEN: usize = 128 << 10;

/// The same where every slot must hold a super-packet of 65,536 bytes.
const LONG_SLOT_LEN: usize = 65_536 + 17 * 64;
const LONG_BLOCK_LEN: usize = 2 << 20;
/// Most slots of that length: 16 MiB.
const LONG_SLOTS: usize = 248;

/// A buffer for one long frame.
const LONG_FRAME_LEN: usize = HEADROOM + 65_536 + 160;

/// Bytes that the kernel may queue to the socket: four bursts of super-packets.
const RECEIVE_BUFFER: libc::c_int = 32 << 20;

/// `PACKET_RESERVE`: the kernel puts the network header at `align16(52 + 16) + reserve + 10`. With
/// 38 that is byte 128 of the slot, the beginning of a cache line, and in front of the frame there
/// are 52 bytes of ours and 10 of the virtio header (free once it is read).
const RESERVE: libc::c_int = 38;
const _: () = assert!(RESERVE as usize >= HEADROOM);

/// Bytes that a socket may have queued in the kernel before `sendmmsg` says `EAGAIN`: a burst of
/// super-packets. The kernel charges nearly twice a packet's length.
const SEND_BUFFER: libc::c_int = 16 << 20;

/// A group takes no notice of its members' `PACKET_IGNORE_OUTGOING`, but has this flag of its own
/// (linux/if_packet.h), which older kernels ignore.
const FANOUT_FLAG_IGNORE_OUTGOING: libc::c_uint = 0x4000;

/// So a program in front of each socket of a group says the same: none of an outgoing frame, all
/// of any other.
const NOT_OUTGOING: [libc::sock_filter; 4] = {
    const fn step(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
        libc::sock_filter { code: code as u16, jt, jf, k }
    }
    let kind = (libc::SKF_AD_OFF + libc::SKF_AD_PKTTYPE) as u32;
    [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, kind),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::PACKET_OUTGOING as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
    ]
};

/// The group of rings that share an interface's frames (`PACKET_FANOUT_CBPF`). The ring that joined as
/// number n gets those of the flows that are at home in shard n ([`tidegate_nat::home`]).
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Fanout {
    /// The group's number. It must not be in use by other programs in the namespace.
    pub group: u16,
    /// The engine's secret for that.
    pub steering: u32,
}

/// How a packet device is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Take frames to other link addresses too: needed by the ports of a bridge.
    pub promiscuous: bool,
    /// Share the interface's frames with other rings.
    pub fanout: Option<Fanout>,
    /// Slots of the ring, rounded up to whole blocks (and fewer where slots are long).
    pub slots: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { promiscuous: false, fanout: None, slots: DEFAULT_SLOTS }
    }
}

/// The receiving half.
#[derive(Debug)]
pub struct PacketReceive {
    socket: OwnedFd,
    ring: Ring,
    long: LongFrames,
    burst: Vec<(Place, Meta)>,
    discards: u64,
    /// Long frames that found the socket's queue full.
    lost: u64,
    name: String,
    index: libc::c_int,
    /// `ENETDOWN` was met, but not yet reported.
    went_down: bool,
    gone: bool,
    /// The link was down when the last frame, if any, had come.
    down: bool,
}

/// Where a frame of the burst is.
#[derive(Copy, Clone, Debug)]
enum Place {
    Ring(usize),
    Long(usize),
}

/// The buffers for long frames, used from the first on again in every burst, so that few of them
/// are hot (and of those that were never used there is no memory).
#[derive(Debug)]
struct LongFrames {
    memory: Vec<u8>,
    used: usize,
}

impl LongFrames {
    fn buffer(&self, index: usize) -> &[u8] {
        &self.memory[index * LONG_FRAME_LEN..(index + 1) * LONG_FRAME_LEN]
    }

    fn buffer_mut(&mut self, index: usize) -> &mut [u8] {
        &mut self.memory[index * LONG_FRAME_LEN..(index + 1) * LONG_FRAME_LEN]
    }
}

/// Opens an interface of the calling thread's namespace. Needs `CAP_NET_RAW` over it.
pub fn open(name: &str, options: &Options) -> io::Result<(PacketReceive, PacketTransmit)> {
    Ok((PacketReceive::open(name, options)?, PacketTransmit::open(name, SEND_BUFFER)?))
}

impl PacketReceive {
    fn open(name: &str, options: &Options) -> io::Result<Self> {
        let socket = sys::packet_socket()?;
        let fd = socket.as_fd();
        let index = sys::interface_index(fd, name)?;
        let option = |name, value: libc::c_int| sys::set_option(fd, libc::SOL_PACKET, name, &value);
        option(libc::PACKET_VERSION, libc::tpacket_versions::TPACKET_V2 as libc::c_int)?;
        option(libc::PACKET_VNET_HDR, 1)?;
        option(libc::PACKET_RESERVE, RESERVE)?;
        option(libc::PACKET_IGNORE_OUTGOING, 1)?;
        if options.fanout.is_some() {
            sys::attach_filter(fd, &NOT_OUTGOING)?;
        }
        let layout = Self::layout(fd, options.slots)?;
        let request = libc::tpacket_req {
            tp_block_size: layout.block_len as libc::c_uint,
            tp_block_nr: layout.blocks as libc::c_uint,
            tp_frame_size: layout.slot_len as libc::c_uint,
            tp_frame_nr: layout.slots() as libc::c_uint,
        };
        sys::set_option(fd, libc::SOL_PACKET, libc::PACKET_RX_RING, &request)?;
        let ring = Ring::map(fd, layout)?;
        // Nothing arrives before this, so no frame comes that the options above don't apply to.
        sys::bind_packet(fd, index, libc::ETH_P_ALL as u16)?;
        if options.promiscuous {
            let membership = libc::packet_mreq {
                mr_ifindex: index,
                mr_type: libc::PACKET_MR_PROMISC as libc::c_ushort,
                mr_alen: 0,
                mr_address: [0; 8],
            };
            sys::set_option(fd, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &membership)?;
        }
        let mut device = Self {
            socket,
            ring,
            long: LongFrames { memory: vec![0; BURST * LONG_FRAME_LEN], used: 0 },
            burst: Vec::with_capacity(BURST),
            discards: 0,
            lost: 0,
            name: name.to_owned(),
            index,
            went_down: false,
            gone: false,
            down: false,
        };
        if let Some(fanout) = options.fanout {
            device.join_fanout(fanout)?;
        }
        Ok(device)
    }

    /// Short slots and a long queue, or long slots.
    fn layout(socket: BorrowedFd<'_>, slots: usize) -> io::Result<Layout> {
        let size = &RECEIVE_BUFFER;
        if sys::set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, size).is_err() {
            return Ok(Layout::new(slots.min(LONG_SLOTS), LONG_SLOT_LEN, LONG_BLOCK_LEN));
        }
        sys::set_option(socket, libc::SOL_PACKET, libc::PACKET_COPY_THRESH, &1_i32)?;
        Ok(Layout::new(slots, SLOT_LEN, BLOCK_LEN))
    }

    /// A socket can only join a group once it is bound, and until then it gets every frame. Those
    /// the group's other members have as well, so they are thrown away.
    fn join_fanout(&mut self, fanout: Fanout) -> io::Result<()> {
        let kind = libc::PACKET_FANOUT_CBPF | FANOUT_FLAG_IGNORE_OUTGOING;
        let value = libc::c_int::from(fanout.group) | (kind << 16) as libc::c_int;
        let fd = self.socket.as_fd();
        sys::set_option(fd, libc::SOL_PACKET, libc::PACKET_FANOUT, &value)?;
        sys::set_fanout_program(fd, &fanout::program(fanout.steering))?;
        loop {
            self.fill();
            if self.burst.is_empty() {
                return Ok(());
            }
            self.release();
        }
    }

    /// Takes frames until the burst is full or none wait.
    fn fill(&mut self) {
        let mut bytes = 0;
        while self.burst.len() < BURST && bytes < BURST_BYTES {
            let Some(taken) = self.ring.take() else { return };
            bytes += taken.len;
            if taken.status & libc::TP_STATUS_COPY != 0 {
                match self.read_long(&taken) {
                    Some(meta) => {
                        self.burst.push((Place::Long(self.long.used), meta));
                        self.long.used += 1;
                    }
                    None => self.discards += 1,
                }
            } else if taken.captured < taken.len {
                // It should have been queued to the socket, but the queue is full.
                self.lost += 1;
            } else {
                match read(self.ring.slot(taken.slot), &taken) {
                    Some(meta) => self.burst.push((Place::Ring(taken.slot), meta)),
                    None => self.discards += 1,
                }
            }
        }
    }

    /// Reads the frame that belongs to a slot too short for it. The kernel queued it before it
    /// handed the slot over, so it is there, and they come in the same order.
    fn read_long(&mut self, taken: &Taken) -> Option<Meta> {
        let buffer = self.long.buffer_mut(self.long.used);
        let into = &mut buffer[HEADROOM - vnet::LEN..];
        let n = loop {
            match recv(self.socket.as_raw_fd(), into, MsgFlags::MSG_DONTWAIT) {
                Ok(n) => break n,
                Err(Errno::EINTR) => {}
                // A pending error comes before what is queued, and is cleared by that.
                Err(Errno::ENETDOWN) => self.went_down = true,
                Err(_) => return None,
            }
        };
        let taken = Taken { start: HEADROOM, captured: n.checked_sub(vnet::LEN)?, ..*taken };
        read(buffer, &taken)
    }

    /// What an idle socket has to report: the kernel leaves `ENETDOWN` when the link goes down or
    /// away. Reading it clears it, without which poll(2) would return at once for ever.
    fn pending_error(&mut self) -> io::Result<()> {
        if self.gone {
            return Err(self.gone_error());
        }
        let fd = self.socket.as_fd();
        let pending = sys::get_option::<libc::c_int>(fd, libc::SOL_SOCKET, libc::SO_ERROR)?;
        let went_down = std::mem::take(&mut self.went_down);
        match if went_down { libc::ENETDOWN } else { pending } {
            0 if self.down && self.is_gone() => Err(self.gone_error()),
            0 => Ok(()),
            libc::ENETDOWN if self.is_gone() => Err(self.gone_error()),
            libc::ENETDOWN => {
                self.down = true;
                Err(io::Error::from_raw_os_error(libc::ENETDOWN))
            }
            other => Err(io::Error::from_raw_os_error(other)),
        }
    }

    /// A link goes down before it goes away, and the kernel reports to a socket whose link is down
    /// nothing more: so that has to be looked up.
    fn is_gone(&mut self) -> bool {
        self.gone = sys::interface_name(self.socket.as_fd(), self.index).is_err();
        self.gone
    }

    fn gone_error(&self) -> io::Error {
        super::gone(&self.name)
    }
}

/// Reads what the kernel says of a frame. `None` if it can't be handed over.
#[inline]
fn read(slot: &[u8], taken: &Taken) -> Option<Meta> {
    let (start, end) = (taken.start, taken.start.checked_add(taken.captured)?);
    if taken.captured != taken.len || end > slot.len() || start < HEADROOM {
        return None;
    }
    let header = slot.get(start.checked_sub(vnet::LEN)?..start)?.try_into().ok()?;
    let mut offload = vnet::parse(header, taken.captured).ok()?;
    let valid = taken.status & libc::TP_STATUS_CSUM_VALID != 0;
    if valid && offload.checksum == Checksum::Unverified {
        offload.checksum = Checksum::Valid;
    }
    let vlan = (taken.status & libc::TP_STATUS_VLAN_VALID != 0).then(|| {
        // Kernels before 3.14 don't say which kind of tag it was.
        let told = taken.status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
        let tpid = if told { taken.vlan_tpid } else { libc::ETH_P_8021Q as u16 };
        (tpid, taken.vlan_tci)
    });
    Some(Meta { start, end, offload, vlan })
}

impl Receive for PacketReceive {
    fn receive(&mut self) -> io::Result<usize> {
        self.fill();
        if self.burst.is_empty() {
            self.ring.release();
            self.pending_error()?;
        } else {
            self.down = false;
        }
        Ok(self.burst.len())
    }

    fn frame(&mut self, index: usize) -> Frame<'_> {
        let (place, meta) = &mut self.burst[index];
        let slot = match *place {
            Place::Ring(slot) => self.ring.slot_mut(slot),
            Place::Long(buffer) => self.long.buffer_mut(buffer),
        };
        Frame { slot, meta }
    }

    fn sent(&self, index: usize) -> Outgoing<'_> {
        let (place, meta) = &self.burst[index];
        let slot = match *place {
            Place::Ring(slot) => self.ring.slot(slot),
            Place::Long(buffer) => self.long.buffer(buffer),
        };
        Outgoing { bytes: &slot[meta.start..meta.end], offload: meta.offload }
    }

    fn release(&mut self) {
        self.burst.clear();
        self.long.used = 0;
        self.ring.release();
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }

    fn ready(&self) -> bool {
        self.ring.is_ready()
    }

    fn overruns(&mut self) -> u64 {
        // Asking resets the kernel's count (packet(7), PACKET_STATISTICS).
        let option = libc::PACKET_STATISTICS;
        let drops =
            sys::get_option::<PacketStatistics>(self.socket.as_fd(), libc::SOL_PACKET, option)
                .map_or(0, |statistics| statistics.drops.into());
        drops + std::mem::take(&mut self.lost)
    }

    fn discards(&mut self) -> u64 {
        std::mem::take(&mut self.discards)
    }
}

// The headroom that the trait promises is what lies between the kernel's slot header and the
// frame, for every length of link header up to 16 bytes.
const _: () =
    assert!((SLOT_HEADER + 16).next_multiple_of(16) + RESERVE as usize + vnet::LEN == 128);
const _: () = assert!(128 - 16 - SLOT_HEADER >= HEADROOM);
// The kernel wants slots aligned; both kinds hold what they are for.
const _: () = assert!(SLOT_LEN.is_multiple_of(libc::TPACKET_ALIGNMENT));
const _: () = assert!(LONG_SLOT_LEN.is_multiple_of(libc::TPACKET_ALIGNMENT));
const _: () = assert!(SLOT_LEN >= 128 + 1500 + 8 && (SLOT_LEN / 64) % 2 == 1);
const _: () = assert!(LONG_SLOT_LEN >= 128 + 65_536 + 18 && (LONG_SLOT_LEN / 64) % 2 == 1);
const _: () = assert!((LONG_FRAME_LEN / 64) % 2 == 1);

#[cfg(test)]
mod tests {
    use super::*;

    const TAKEN: Taken = Taken {
        slot: 0,
        status: libc::TP_STATUS_USER,
        len: 100,
        captured: 100,
        start: 62,
        vlan_tci: 7,
        vlan_tpid: 0x88a8,
    };

    fn status(more: u32) -> Taken {
        Taken { status: TAKEN.status | more, ..TAKEN }
    }

    #[test]
    fn what_the_kernel_says_is_read() {
        let rows = [
            ("plain", TAKEN, Checksum::Unverified, None),
            ("verified", status(libc::TP_STATUS_CSUM_VALID), Checksum::Valid, None),
            (
                "tag of an old kernel",
                status(libc::TP_STATUS_VLAN_VALID),
                Checksum::Unverified,
                Some((0x8100, 7)),
            ),
            (
                "service tag",
                status(libc::TP_STATUS_VLAN_VALID | libc::TP_STATUS_VLAN_TPID_VALID),
                Checksum::Unverified,
                Some((0x88a8, 7)),
            ),
        ];
        for (what, taken, checksum, vlan) in rows {
            let want = Meta {
                start: 62,
                end: 162,
                offload: super::super::Offload { checksum, gso: None },
                vlan,
            };
            assert_eq!(read(&[0; 1000], &taken), Some(want), "{what}");
        }
    }

    #[test]
    fn a_frame_that_is_not_whole_is_not_handed_over() {
        let mut unknown_gso = [0; 1000];
        unknown_gso[62 - vnet::LEN + 1] = 3;
        let rows = [
            ("cut short", Taken { len: 101, ..TAKEN }, [0; 1000]),
            ("beyond the slot", Taken { start: 950, ..TAKEN }, [0; 1000]),
            ("in front of the slot", Taken { start: usize::MAX - 3, ..TAKEN }, [0; 1000]),
            ("no headroom", Taken { start: HEADROOM - 1, ..TAKEN }, [0; 1000]),
            ("unknown segmentation", TAKEN, unknown_gso),
        ];
        for (what, taken, slot) in rows {
            assert_eq!(read(&slot, &taken), None, "{what}");
        }
    }
}
