//! In-memory devices: two ends of a link without a kernel. A worker that sleeps is woken by what is
//! put on the link, as by a device.

use super::{BURST, Frame, HEADROOM, Meta, Offload, Outgoing, Receive, Sent, Transmit};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

/// A frame in flight.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Flying {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its offload state.
    pub offload: Offload,
}

impl From<Vec<u8>> for Flying {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, offload: Offload::default() }
    }
}

type Queue = Arc<Mutex<VecDeque<Flying>>>;

/// The test's end of a link.
#[derive(Clone, Debug)]
pub struct Wire {
    to_device: Queue,
    from_device: Queue,
    /// Makes the device readable.
    ring: Arc<UnixStream>,
}

/// The device's receiving half.
#[derive(Debug)]
pub struct ChannelReceive {
    queue: Queue,
    rung: UnixStream,
    burst: Vec<(Vec<u8>, Meta)>,
}

/// The device's sending half.
#[derive(Debug)]
pub struct ChannelTransmit {
    queue: Queue,
}

impl Wire {
    /// A link and the device at its far end.
    pub fn new() -> io::Result<(Self, ChannelReceive, ChannelTransmit)> {
        let (ring, rung) = UnixStream::pair()?;
        ring.set_nonblocking(true)?;
        rung.set_nonblocking(true)?;
        let (to_device, from_device) = (Queue::default(), Queue::default());
        let receive = ChannelReceive { queue: to_device.clone(), rung, burst: Vec::new() };
        let transmit = ChannelTransmit { queue: from_device.clone() };
        Ok((Self { to_device, from_device, ring: Arc::new(ring) }, receive, transmit))
    }

    /// Puts a frame on the link towards the device.
    pub fn push(&self, frame: impl Into<Flying>) {
        lock(&self.to_device).push_back(frame.into());
        // Where there is no room it has been rung often enough, or the device is gone.
        let _ = (&*self.ring).write(&[0]);
    }

    /// Takes the next frame that the device has sent.
    pub fn pop(&self) -> Option<Flying> {
        lock(&self.from_device).pop_front()
    }
}

/// A panic elsewhere can't leave a queue of whole frames half-edited.
fn lock(queue: &Queue) -> std::sync::MutexGuard<'_, VecDeque<Flying>> {
    queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Receive for ChannelReceive {
    fn receive(&mut self) -> io::Result<usize> {
        // Before the queue: whatever is put there from now on rings again.
        let mut rings = [0; 256];
        while matches!((&self.rung).read(&mut rings), Ok(n) if n == rings.len()) {}
        let mut queue = lock(&self.queue);
        let n = queue.len().min(BURST);
        for frame in queue.drain(..n) {
            let mut slot = vec![0; HEADROOM];
            slot.extend_from_slice(&frame.bytes);
            let end = slot.len();
            self.burst
                .push((slot, Meta { start: HEADROOM, end, offload: frame.offload, vlan: None }));
        }
        Ok(self.burst.len())
    }

    fn frame(&mut self, index: usize) -> Frame<'_> {
        let (slot, meta) = &mut self.burst[index];
        Frame { slot, meta }
    }

    fn sent(&self, index: usize) -> Outgoing<'_> {
        let (slot, meta) = &self.burst[index];
        Outgoing { bytes: &slot[meta.start..meta.end], offload: meta.offload }
    }

    fn release(&mut self) {
        self.burst.clear();
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.rung.as_fd())
    }

    fn ready(&self) -> bool {
        !lock(&self.queue).is_empty()
    }
}

impl Transmit for ChannelTransmit {
    fn send<'a>(&mut self, frames: &mut dyn Iterator<Item = Outgoing<'a>>) -> io::Result<Sent> {
        let mut queue = lock(&self.queue);
        let before = queue.len();
        queue.extend(frames.map(|f| Flying { bytes: f.bytes.to_vec(), offload: f.offload }));
        let bytes = queue.iter().skip(before).map(|f| f.bytes.len()).sum();
        Ok(Sent { frames: queue.len() - before, bytes, refused: 0 })
    }
}
