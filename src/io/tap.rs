//! TAP and TUN devices (<https://docs.kernel.org/networking/tuntap.html>).
//!
//! Each frame comes and goes with a `virtio_net_hdr`, so a TAP carries super-packets and partial
//! checksums as a packet socket does. The ioctls are made here rather than by a crate: what
//! matters is exactly the flags, the header's size and the offload bits, and the crates for it
//! either don't let one ask for them or bring an async runtime and an interface configuration of
//! their own.
//!
//! A TUN device carries IP packets without a link header. It is what `[host] device` uses: the
//! namespace's own kernel sits at the other end.

use super::merge::{Group, Groups, Header, Kinds};
use super::sys::{self, check};
use super::{BURST, BURST_BYTES, Frame, HEADROOM, Meta, Outgoing, Receive, Sent, Transmit, vnet};
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

/// The longest frame: a super-packet of 64 KiB behind a link header with two tags, and a byte to
/// see that a frame was longer.
const FRAME_MAX: usize = 65_536 + 22 + 1;

/// A slot, filled up to an odd number of cache lines (see `af_packet`).
const SLOT_LEN: usize = 65_536 + 3 * 64;
const _: () = assert!(HEADROOM + FRAME_MAX <= SLOT_LEN);

/// What the device carries.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Layer {
    /// Ethernet frames.
    Tap,
    /// IP packets.
    Tun,
}

/// How a device is made or attached to.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// TAP or TUN.
    pub layer: Layer,
    /// Open one of several queues: every worker opens the same name. The kernel spreads what it
    /// sends by flow.
    pub multi_queue: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { layer: Layer::Tap, multi_queue: false }
    }
}

/// The receiving half: frames that the kernel sends out of the device.
#[derive(Debug)]
pub struct TapReceive {
    file: Arc<File>,
    name: String,
    slots: Vec<u8>,
    /// Slot and state of the burst's frames.
    burst: Vec<(usize, Meta)>,
    discards: u64,
    gone: bool,
}

/// The sending half: frames that the kernel receives from the device.
#[derive(Debug)]
pub struct TapTransmit {
    file: Arc<File>,
    /// What is joined: in a TAP, all that the kernel hasn't refused for not knowing it
    /// (`VIRTIO_NET_HDR_GSO_UDP_L4`, Linux 6.2).
    joins: Kinds,
}

/// Makes a device in the calling thread's namespace, or attaches to one that is there. A device
/// that was made goes away with its last half. The name may hold a `%d` for the kernel to number;
/// [`TapReceive::name`] has what it became.
pub fn open(name: &str, options: Options) -> io::Result<(TapReceive, TapTransmit)> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")?;
    let mut flags = libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    flags |= match options.layer {
        Layer::Tap => libc::IFF_TAP,
        Layer::Tun => libc::IFF_TUN,
    };
    if options.multi_queue {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    let mut request = sys::interface_request(name)?;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes the `ifreq` it is given (tuntap.rst, 3.1), which outlives
    // the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    let header_len = vnet::LEN as libc::c_int;
    // SAFETY: TUNSETVNETHDRSZ reads the `int` it is given the address of (linux/if_tun.h).
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const header_len) })?;
    set_offloads(&file)?;
    let file = Arc::new(file);
    let receive = TapReceive {
        file: Arc::clone(&file),
        name: sys::request_name(&request),
        slots: vec![0; BURST * SLOT_LEN],
        burst: Vec::with_capacity(BURST),
        discards: 0,
        gone: false,
    };
    // Packets without a link header are few: those for the gateway itself.
    let joins = if options.layer == Layer::Tap { Kinds::ALL } else { Kinds::NONE };
    Ok((receive, TapTransmit { file, joins }))
}

/// Tells the kernel what it may leave to us: all that a `virtio_net_hdr` can say. UDP
/// segmentation is known since Linux 6.2.
fn set_offloads(file: &File) -> io::Result<()> {
    let tcp = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    let set = |offloads: libc::c_uint| {
        // SAFETY: TUNSETOFFLOAD takes the bits themselves, no pointer (linux/if_tun.h).
        let result = unsafe {
            libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(offloads))
        };
        check(result).map(|_| ())
    };
    set(tcp | libc::TUN_F_USO4 | libc::TUN_F_USO6).or_else(|_| set(tcp))
}

impl TapReceive {
    /// The interface's name as it was when it was opened.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads a frame into a slot: its header ends where the frame begins. `Ok(None)` for a frame
    /// that can't be handed over.
    fn read(&mut self, slot: usize) -> io::Result<Option<Meta>> {
        const BEFORE: usize = HEADROOM - vnet::LEN;
        let slot = &mut self.slots[slot * SLOT_LEN..(slot + 1) * SLOT_LEN];
        let n = (&*self.file).read(&mut slot[BEFORE..HEADROOM + FRAME_MAX])?;
        let Some(len) = n.checked_sub(vnet::LEN).filter(|&len| len < FRAME_MAX) else {
            return Ok(None);
        };
        let header = slot[BEFORE..HEADROOM].first_chunk();
        let offload = header.and_then(|header| vnet::parse(header, len).ok());
        let (start, end) = (HEADROOM, HEADROOM + len);
        Ok(offload.map(|offload| Meta { start, end, offload, vlan: None }))
    }
}

impl Receive for TapReceive {
    fn receive(&mut self) -> io::Result<usize> {
        if self.gone {
            return Err(super::gone(&self.name));
        }
        let mut bytes = 0;
        // A discarded frame uses up a turn, so that a flood of them ends too.
        for _ in self.burst.len()..BURST {
            if bytes >= BURST_BYTES {
                break;
            }
            let slot = self.burst.len();
            match self.read(slot) {
                Ok(Some(meta)) => {
                    bytes += meta.end - meta.start;
                    self.burst.push((slot, meta));
                }
                Ok(None) => self.discards += 1,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // What was read so far goes first.
                Err(_) if !self.burst.is_empty() => break,
                Err(error) => return Err(self.explain(error)),
            }
        }
        Ok(self.burst.len())
    }

    fn frame(&mut self, index: usize) -> Frame<'_> {
        let (slot, meta) = &mut self.burst[index];
        Frame { slot: &mut self.slots[*slot * SLOT_LEN..(*slot + 1) * SLOT_LEN], meta }
    }

    fn sent(&self, index: usize) -> Outgoing<'_> {
        let (slot, meta) = &self.burst[index];
        let slot = &self.slots[slot * SLOT_LEN..(slot + 1) * SLOT_LEN];
        Outgoing { bytes: &slot[meta.start..meta.end], offload: meta.offload }
    }

    fn release(&mut self) {
        self.burst.clear();
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }

    fn discards(&mut self) -> u64 {
        std::mem::take(&mut self.discards)
    }
}

impl TapReceive {
    /// `EBADFD`: the device was deleted under us. `EFAULT`: its queue is shut because it is down.
    fn explain(&mut self, error: io::Error) -> io::Error {
        match error.raw_os_error() {
            Some(libc::EBADFD) => {
                self.gone = true;
                super::gone(&self.name)
            }
            Some(libc::EFAULT | libc::EIO) => io::Error::from_raw_os_error(libc::ENETDOWN),
            _ => error,
        }
    }
}

/// The most parts of a message: two headers and a burst's payloads.
const PARTS: usize = 2 + BURST;

impl TapTransmit {
    /// Sends up to [`BURST`] frames.
    fn send_burst(&mut self, frames: &[Outgoing<'_>], sent: &mut Sent) {
        let groups = Groups::of(frames, self.joins);
        for group in groups.as_slice() {
            let result = match group.frames {
                1 => self.write(&frames[group.first()]),
                _ => self.write_joined(frames, &groups, group),
            };
            match result {
                Ok(()) => {
                    sent.frames += group.frames;
                    sent.bytes += group.bytes;
                }
                // Once in a device's life for each kind.
                Err(error) if group.frames > 1 && error.raw_os_error() == Some(libc::EINVAL) => {
                    self.joins.refuse(group.kind);
                    for frame in groups.frames(group).map(|index| &frames[index]) {
                        match self.write(frame) {
                            Ok(()) => {
                                sent.frames += 1;
                                sent.bytes += frame.bytes.len();
                            }
                            Err(_) => sent.refused += 1,
                        }
                    }
                }
                // EIO (down), EBADFD (gone), EAGAIN (full), EINVAL (contradicts its header): the
                // frame is lost, as it would be in the kernel.
                Err(_) => sent.refused += group.frames,
            }
        }
    }

    fn write(&self, frame: &Outgoing<'_>) -> io::Result<()> {
        self.write_parts(&[IoSlice::new(&vnet::emit(frame)), IoSlice::new(frame.bytes)])
    }

    fn write_joined(
        &self,
        frames: &[Outgoing<'_>],
        groups: &Groups,
        group: &Group,
    ) -> io::Result<()> {
        let header = Header::of(group, &frames[group.first()]);
        let head = header.outgoing();
        let virtio = vnet::emit(&head);
        let mut parts = [IoSlice::new(&[]); PARTS];
        parts[0] = IoSlice::new(&virtio);
        parts[1] = IoSlice::new(head.bytes);
        for (part, index) in parts[2..].iter_mut().zip(groups.frames(group)) {
            *part = IoSlice::new(&frames[index].bytes[head.bytes.len()..]);
        }
        self.write_parts(&parts[..2 + group.frames])
    }

    /// One frame: the kernel takes it whole or not at all.
    fn write_parts(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let whole: usize = parts.iter().map(|part| part.len()).sum();
        match (&*self.file).write_vectored(parts)? {
            n if n == whole => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }
}

impl Transmit for TapTransmit {
    fn send<'a>(&mut self, frames: &mut dyn Iterator<Item = Outgoing<'a>>) -> io::Result<Sent> {
        let mut total = Sent::default();
        super::in_bursts(frames, |burst| self.send_burst(burst, &mut total));
        Ok(total)
    }
}
