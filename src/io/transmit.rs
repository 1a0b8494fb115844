//! The sending half of a packet device: `sendmmsg` from wherever the frames are.

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
}

impl PacketTransmit {
    /// A sender on an interface of the calling thread's namespace.
    pub(super) fn open(name: &str, send_buffer: libc::c_int) -> io::Result<Self> {
        let socket = sys::packet_socket()?;
        let fd = socket.as_fd();
        let index = sys::interface_index(fd, name)?;
        sys::set_option(fd, libc::SOL_PACKET, libc::PACKET_VNET_HDR, &1_i32)?;
        sys::set_option(fd, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, &1_i32)?;
        // Beyond the system's limit where we may, else up to it.
        if sys::set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &send_buffer).is_err() {
            sys::set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, &send_buffer)?;
        }
        // Protocol 0: bound to the device, but never sent a frame by it.
        sys::bind_packet(fd, index, 0)?;
        Ok(Self { socket })
    }

    /// Sends up to [`BURST`] frames.
    fn send_burst(&mut self, frames: &[Outgoing<'_>]) -> Sent {
        let mut headers = [[0; vnet::LEN]; BURST];
        for (header, frame) in headers.iter_mut().zip(frames) {
            *header = vnet::emit(frame);
        }
        // SAFETY: `iovec` and `mmsghdr` are C structs of integers and raw pointers (sendmmsg(2)),
        // for which all bits zero is a value.
        let (mut vectors, mut messages): ([[libc::iovec; 2]; BURST], [libc::mmsghdr; BURST]) =
            unsafe { (mem::zeroed(), mem::zeroed()) };
        for (i, frame) in frames.iter().enumerate().take(BURST) {
            vectors[i] = [
                libc::iovec { iov_base: headers[i].as_ptr().cast_mut().cast(), iov_len: vnet::LEN },
                libc::iovec {
                    iov_base: frame.bytes.as_ptr().cast_mut().cast(),
                    iov_len: frame.bytes.len(),
                },
            ];
            messages[i].msg_hdr.msg_iov = vectors[i].as_mut_ptr();
            messages[i].msg_hdr.msg_iovlen = 2;
        }
        self.drain(&mut messages[..frames.len().min(BURST)])
    }

    fn drain(&self, messages: &mut [libc::mmsghdr]) -> Sent {
        let mut sent = Sent::default();
        let mut waited = false;
        let mut rest = messages;
        while !rest.is_empty() {
            // SAFETY: every message has two vectors over memory that outlives `send_burst` (its
            // own arrays and the frames it borrows); the kernel only reads them (sendmmsg(2)) and
            // writes `msg_len` of the messages, which are borrowed mutably.
            let n = unsafe {
                libc::sendmmsg(
                    self.socket.as_raw_fd(),
                    rest.as_mut_ptr(),
                    rest.len() as libc::c_uint,
                    libc::MSG_DONTWAIT,
                )
            };
            if let Ok(n @ 1..) = usize::try_from(n) {
                sent.frames += n;
                let bytes = |m: &libc::mmsghdr| (m.msg_len as usize).saturating_sub(vnet::LEN);
                sent.bytes += rest[..n].iter().map(bytes).sum::<usize>();
                rest = &mut rest[n..];
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
                    sent.refused += rest.len();
                    return sent;
                }
                // ENOBUFS (the device's queue is full), EMSGSIZE, EINVAL (a frame that
                // contradicts its header): this one is lost, as it would be in the kernel.
                _ => {
                    sent.refused += 1;
                    rest = &mut rest[1..];
                }
            }
        }
        sent
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

impl Transmit for PacketTransmit {
    fn send<'a>(&mut self, frames: &mut dyn Iterator<Item = Outgoing<'a>>) -> io::Result<Sent> {
        let mut total = Sent::default();
        let empty = Outgoing { bytes: &[], offload: super::Offload::default() };
        loop {
            let mut burst = [empty; BURST];
            let mut n = 0;
            for (to, from) in burst.iter_mut().zip(&mut *frames) {
                *to = from;
                n += 1;
            }
            let sent = if n == 0 { Sent::default() } else { self.send_burst(&burst[..n]) };
            total.frames += sent.frames;
            total.bytes += sent.bytes;
            total.refused += sent.refused;
            if n < BURST {
                return Ok(total);
            }
        }
    }
}
