//! The sending half of a packet device: `sendmmsg` from wherever the frames are.
//!
//! Not with `PACKET_QDISC_BYPASS`: that way the kernel loses every super-packet that the device
//! can't cut itself (it cuts it, and then takes only a single frame), passes by the queue that an
//! administrator may shape traffic with (`tc`), and hides what is sent from `tcpdump`.

use super::merge::{Group, Groups, Header, Kinds};
use super::sys;
use super::{BURST, Outgoing, Sent, Transmit, vnet};
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// How long a burst waits, once, for a full send buffer to drain. A kernel's queue would hold the
/// frames; we would lose them.
const PATIENCE_MS: libc::c_int = 1;

/// The sending half.
#[derive(Debug)]
pub struct PacketTransmit {
    socket: OwnedFd,
    /// What is joined: all that the kernel hasn't refused for not knowing it
    /// (`VIRTIO_NET_HDR_GSO_UDP_L4`, Linux 6.2).
    joins: Kinds,
    /// Headers that go in front of the frames' own memory, reused by every burst.
    virtio: Box<[[u8; vnet::LEN]; BURST]>,
    headers: Box<[Header; BURST]>,
}

/// A message with joined packets was refused because of its kind.
struct KindUnknown {
    /// Its place among the groups; all in front of it are dealt with.
    group: usize,
}

impl PacketTransmit {
    /// A sender on an interface of the calling thread's namespace.
    pub(super) fn open(name: &str, send_buffer: libc::c_int) -> io::Result<Self> {
        let socket = sys::packet_socket()?;
        let fd = socket.as_fd();
        let index = sys::interface_index(fd, name)?;
        sys::set_option(fd, libc::SOL_PACKET, libc::PACKET_VNET_HDR, &1_i32)?;
        // Beyond the system's limit where we may, else up to it.
        if sys::set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &send_buffer).is_err() {
            sys::set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, &send_buffer)?;
        }
        // Protocol 0: bound to the device, but never sent a frame by it.
        sys::bind_packet(fd, index, 0)?;
        let virtio = Box::new([[0; vnet::LEN]; BURST]);
        let headers = Box::new([Header::NONE; BURST]);
        Ok(Self { socket, joins: Kinds::ALL, virtio, headers })
    }

    /// Sends up to [`BURST`] frames.
    fn send_burst(&mut self, frames: &[Outgoing<'_>], sent: &mut Sent) {
        let groups = Groups::of(frames, self.joins);
        let Err(KindUnknown { group }) = self.send_groups(frames, &groups, sent) else { return };
        // Once in a device's life for each kind: the rest again, without it.
        let left = &groups.as_slice()[group..];
        self.joins.refuse(left[0].kind);
        let rest: Vec<_> =
            left.iter().flat_map(|g| groups.frames(g)).map(|index| frames[index]).collect();
        self.send_burst(&rest, sent);
    }

    /// Sends each group as one message.
    fn send_groups(
        &mut self,
        frames: &[Outgoing<'_>],
        groups: &Groups,
        sent: &mut Sent,
    ) -> Result<(), KindUnknown> {
        // SAFETY: `iovec` and `mmsghdr` are C structs of integers and raw pointers (sendmmsg(2)),
        // for which all bits zero is a value.
        let (mut vectors, mut messages): ([libc::iovec; 2 * BURST], [libc::mmsghdr; BURST]) =
            unsafe { (mem::zeroed(), mem::zeroed()) };
        // A frame by itself takes two vectors; several take two and one each, which is no more.
        let mut free = vectors.as_mut_slice();
        let groups_list = groups.as_slice();
        for (n, group) in groups_list.iter().enumerate() {
            let used = if group.frames == 1 { 2 } else { 2 + group.frames };
            let (own, rest) = free.split_at_mut(used);
            free = rest;
            let first = &frames[group.first()];
            if group.frames == 1 {
                self.virtio[n] = vnet::emit(first);
                own[1] = vector(first.bytes);
            } else {
                self.headers[n] = Header::of(group, first);
                let head = self.headers[n].outgoing();
                self.virtio[n] = vnet::emit(&head);
                own[1] = vector(head.bytes);
                for (to, index) in own[2..].iter_mut().zip(groups.frames(group)) {
                    *to = vector(&frames[index].bytes[head.bytes.len()..]);
                }
            }
            own[0] = vector(&self.virtio[n]);
            messages[n].msg_hdr.msg_iov = own.as_mut_ptr();
            messages[n].msg_hdr.msg_iovlen = own.len() as _;
        }
        self.drain(&mut messages[..groups_list.len()], groups_list, sent)
    }

    fn drain(
        &self,
        messages: &mut [libc::mmsghdr],
        groups: &[Group],
        sent: &mut Sent,
    ) -> Result<(), KindUnknown> {
        let frames = |groups: &[Group]| groups.iter().map(|g| g.frames).sum::<usize>();
        let mut waited = false;
        let mut at = 0;
        while at < groups.len() {
            // SAFETY: every message's vectors point to memory that outlives `send_groups` (the
            // headers of `self` and the frames that it borrows), and are themselves its array;
            // the kernel only reads them (sendmmsg(2)) and writes `msg_len` of the messages,
            // which are borrowed mutably.
            let n = unsafe {
                libc::sendmmsg(
                    self.socket.as_raw_fd(),
                    messages[at..].as_mut_ptr(),
                    messages[at..].len() as libc::c_uint,
                    libc::MSG_DONTWAIT,
                )
            };
            if let Ok(n @ 1..) = usize::try_from(n) {
                sent.frames += frames(&groups[at..at + n]);
                sent.bytes += groups[at..at + n].iter().map(|g| g.bytes).sum::<usize>();
                at += n;
                continue;
            }
            // The error belongs to the first message: errors of later ones are kept for the next
            // call (sendmmsg(2), "Return value").
            match io::Error::last_os_error().raw_os_error() {
                Some(libc::EINTR) => {}
                Some(libc::EAGAIN) if !waited => {
                    waited = true;
                    self.wait();
                }
                // Down or gone: what is true for one frame is for all behind it. The receiving
                // half reports it.
                Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV) => {
                    sent.refused += frames(&groups[at..]);
                    return Ok(());
                }
                Some(libc::EINVAL) if groups[at].frames > 1 => {
                    return Err(KindUnknown { group: at });
                }
                // ENOBUFS (the device's queue is full), EMSGSIZE, EINVAL (a frame that
                // contradicts its header): this one is lost, as it would be in the kernel.
                _ => {
                    sent.refused += groups[at].frames;
                    at += 1;
                }
            }
        }
        Ok(())
    }

    /// Waits for the send buffer to drain, for [`PATIENCE_MS`] at most.
    fn wait(&self) {
        let mut poll =
            libc::pollfd { fd: self.socket.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
        // SAFETY: one `pollfd` that outlives the call (poll(2)). Its result doesn't matter: the
        // next `sendmmsg` says how things are.
        unsafe { libc::poll(&raw mut poll, 1, PATIENCE_MS) };
    }
}

fn vector(bytes: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}

impl Transmit for PacketTransmit {
    fn send<'a>(&mut self, frames: &mut dyn Iterator<Item = Outgoing<'a>>) -> io::Result<Sent> {
        let mut total = Sent::default();
        super::in_bursts(frames, |burst| self.send_burst(burst, &mut total));
        Ok(total)
    }
}
