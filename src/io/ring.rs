//! A `TPACKET_V2` receive ring: memory shared with the kernel, cut into slots. See
//! <https://docs.kernel.org/networking/packet_mmap.html>.
//!
//! A slot's status word says whose it is. The kernel fills slots in order and hands each over by
//! setting `TP_STATUS_USER`; we *take* slots in order, *hold* them for the length of a burst, and
//! give all of them back at once by clearing the word. Nothing but held slots is ever borrowed.

use std::alloc::{Layout as Allocation, dealloc};
use std::io;
use std::mem::offset_of;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// The kernel's header (`tpacket2_hdr` and the `sockaddr_ll` behind it) at the front of a slot;
/// what follows is ours to edit.
pub(super) const SLOT_HEADER: usize = libc::TPACKET2_HDRLEN;

/// Where the slots are: `slots_per_block` of `slot_len` bytes in each of `blocks` blocks of
/// `block_len` bytes.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub slot_len: usize,
    pub slots_per_block: usize,
    pub block_len: usize,
    pub blocks: usize,
}

impl Layout {
    /// At least `slots` slots of `slot_len` bytes in blocks of `block_len`.
    pub fn new(slots: usize, slot_len: usize, block_len: usize) -> Self {
        let slots_per_block = block_len / slot_len;
        let blocks = slots.div_ceil(slots_per_block).max(1);
        Self { slot_len, slots_per_block, block_len, blocks }
    }

    pub fn slots(&self) -> usize {
        self.slots_per_block * self.blocks
    }

    pub fn bytes(&self) -> usize {
        self.block_len * self.blocks
    }

    fn offset(&self, slot: usize) -> usize {
        slot / self.slots_per_block * self.block_len + slot % self.slots_per_block * self.slot_len
    }
}

/// What the kernel says of a taken slot.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    /// The slot.
    pub slot: usize,
    /// `TP_STATUS_*`.
    pub status: u32,
    /// Length of the frame on the wire.
    pub len: usize,
    /// Bytes of it that are in the slot.
    pub captured: usize,
    /// Where it begins, counted from the slot's first byte after the kernel's header.
    pub start: usize,
    /// VLAN control word, if the status says so.
    pub vlan_tci: u16,
    /// VLAN TPID, if the status says so.
    pub vlan_tpid: u16,
}

/// The ring.
#[derive(Debug)]
pub(super) struct Ring {
    memory: Memory,
    layout: Layout,
    /// Oldest slot that isn't given back.
    head: usize,
    /// Slots taken from there on.
    held: usize,
}

impl Ring {
    /// Maps the ring that `PACKET_RX_RING` has made for this socket.
    pub fn map(socket: BorrowedFd<'_>, layout: Layout) -> io::Result<Self> {
        Ok(Self { memory: Memory::map(socket, layout.bytes())?, layout, head: 0, held: 0 })
    }

    /// A ring without a kernel.
    #[cfg(test)]
    pub fn heap(layout: Layout) -> Self {
        Self { memory: Memory::heap(layout.bytes()), layout, head: 0, held: 0 }
    }

    /// Takes the next slot if the kernel has filled it.
    #[inline]
    pub fn take(&mut self) -> Option<Taken> {
        if self.held == self.layout.slots() {
            return None;
        }
        let slot = self.wrap(self.head + self.held);
        // Acquire pairs with the kernel's write barrier before it sets the word: what else is in
        // the slot was written before.
        let status = self.status(slot).load(Ordering::Acquire);
        if status & libc::TP_STATUS_USER == 0 {
            return None;
        }
        self.held += 1;
        // SAFETY: the slot begins with a `tpacket2_hdr` (packet_mmap, "TPACKET_V2"), is aligned
        // to TPACKET_ALIGNMENT, lies inside the mapping, and is ours while TP_STATUS_USER is set.
        let header = unsafe { self.base(slot).cast::<libc::tpacket2_hdr>().as_ptr().read() };
        Some(Taken {
            slot,
            status,
            len: header.tp_len as usize,
            captured: header.tp_snaplen as usize,
            start: usize::from(header.tp_mac).wrapping_sub(SLOT_HEADER),
            vlan_tci: header.tp_vlan_tci,
            vlan_tpid: header.tp_vlan_tpid,
        })
    }

    /// Whether the next slot is filled.
    #[inline]
    pub fn is_ready(&self) -> bool {
        let slot = self.wrap(self.head + self.held);
        self.held < self.layout.slots()
            && self.status(slot).load(Ordering::Relaxed) & libc::TP_STATUS_USER != 0
    }

    /// A held slot's bytes behind the kernel's header.
    #[inline]
    pub fn slot(&self, slot: usize) -> &[u8] {
        assert!(self.is_held(slot), "only held slots may be read");
        // SAFETY: the range lies inside the mapping (`Layout::offset`); the kernel doesn't touch
        // a slot between TP_STATUS_USER and our giving it back (packet_mmap, "Status field"), and
        // `release` needs `&mut self`, so it can't happen while this borrow lives.
        unsafe {
            let bytes = self.base(slot).as_ptr().add(SLOT_HEADER);
            std::slice::from_raw_parts(bytes, self.layout.slot_len - SLOT_HEADER)
        }
    }

    /// The same, to be edited.
    #[inline]
    pub fn slot_mut(&mut self, slot: usize) -> &mut [u8] {
        assert!(self.is_held(slot), "only held slots may be edited");
        // SAFETY: as in `slot`; the mapping is writable, and `&mut self` makes the borrow the
        // only one.
        unsafe {
            let bytes = self.base(slot).as_ptr().add(SLOT_HEADER);
            std::slice::from_raw_parts_mut(bytes, self.layout.slot_len - SLOT_HEADER)
        }
    }

    /// Gives all held slots back to the kernel.
    pub fn release(&mut self) {
        for i in 0..self.held {
            let slot = self.wrap(self.head + i);
            // Release: our edits are done before the kernel may overwrite them.
            self.status(slot).store(libc::TP_STATUS_KERNEL, Ordering::Release);
        }
        self.head = self.wrap(self.head + self.held);
        self.held = 0;
    }

    fn is_held(&self, slot: usize) -> bool {
        let slots = self.layout.slots();
        slot < slots && self.wrap(slot + slots - self.head) < self.held
    }

    /// Brings a number below twice the ring's length back into it, without a division.
    #[inline]
    fn wrap(&self, slot: usize) -> usize {
        let slots = self.layout.slots();
        if slot >= slots { slot - slots } else { slot }
    }

    #[inline]
    fn base(&self, slot: usize) -> NonNull<u8> {
        debug_assert!(slot < self.layout.slots());
        // SAFETY: `offset` of a slot below `slots()` is inside the `bytes()` long mapping.
        unsafe { self.memory.base.add(self.layout.offset(slot)) }
    }

    #[inline]
    fn status(&self, slot: usize) -> &AtomicU32 {
        let word = self.base(slot).as_ptr().wrapping_add(offset_of!(libc::tpacket2_hdr, tp_status));
        // SAFETY: the status word is a `u32` at a multiple of 16, inside the mapping, and both
        // the kernel and we access it only as a whole (packet_mmap, "Status field").
        unsafe { AtomicU32::from_ptr(word.cast()) }
    }
}

/// The ring's memory.
#[derive(Debug)]
struct Memory {
    base: NonNull<u8>,
    len: usize,
    /// Set where no kernel is at the other end (tests).
    heap: Option<Allocation>,
}

// SAFETY: the memory has one owner and is bound to no thread; the mapping outlives a change of
// thread.
unsafe impl Send for Memory {}

impl Memory {
    fn map(socket: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        // SAFETY: a new shared mapping at an address that the kernel chooses, of the length that
        // PACKET_RX_RING was asked for (packet_mmap, "Mapping and use of the circular buffer").
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                socket.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { base, len, heap: None })
    }

    #[cfg(test)]
    fn heap(len: usize) -> Self {
        let layout = Allocation::from_size_align(len.max(1), 4096).expect("a sane length");
        // SAFETY: the layout's size isn't zero (`GlobalAlloc::alloc_zeroed`).
        let base = unsafe { std::alloc::alloc_zeroed(layout) };
        let base = NonNull::new(base).unwrap_or_else(|| std::alloc::handle_alloc_error(layout));
        Self { base, len, heap: Some(layout) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        match self.heap {
            // SAFETY: allocated with this layout in `heap`; no slot's borrow outlives the ring.
            Some(layout) => unsafe { dealloc(self.base.as_ptr(), layout) },
            // SAFETY: mapped with this length in `map`; no slot's borrow outlives the ring.
            None => unsafe {
                libc::munmap(self.base.as_ptr().cast(), self.len);
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays the kernel: fills a slot, whatever its state.
    fn fill(ring: &Ring, slot: usize, byte: u8, len: u32) {
        let header = libc::tpacket2_hdr {
            tp_status: libc::TP_STATUS_KERNEL,
            tp_len: len,
            tp_snaplen: len,
            tp_mac: 128,
            tp_net: 142,
            tp_sec: 0,
            tp_nsec: 0,
            tp_vlan_tci: 0,
            tp_vlan_tpid: 0,
            tp_padding: [0; 4],
        };
        // SAFETY: inside the heap memory of the test's ring, which nobody borrows meanwhile.
        unsafe {
            ring.base(slot).cast::<libc::tpacket2_hdr>().as_ptr().write(header);
            ring.base(slot).as_ptr().add(128).write_bytes(byte, len as usize);
        }
        ring.status(slot).store(libc::TP_STATUS_USER, Ordering::Release);
    }

    fn ring() -> Ring {
        // Three slots a block and a remainder that belongs to no slot.
        Ring::heap(Layout::new(5, 1040, 4096))
    }

    #[test]
    fn layout_leaves_no_slot_across_blocks() {
        let layout = Layout::new(5, 1040, 4096);
        assert_eq!((layout.slots_per_block, layout.blocks, layout.slots()), (3, 2, 6));
        let offsets: Vec<_> = (0..6).map(|s| layout.offset(s)).collect();
        assert_eq!(offsets, [0, 1040, 2080, 4096, 5136, 6176]);
        assert!(offsets.iter().all(|o| o % 4096 + 1040 <= 4096));
    }

    #[test]
    fn slots_are_taken_in_order_and_only_when_filled() {
        let mut ring = ring();
        assert_eq!(ring.take(), None);
        // The kernel may finish the second before the first.
        fill(&ring, 1, b'b', 60);
        assert_eq!(ring.take(), None);
        fill(&ring, 0, b'a', 50);
        let first = ring.take().expect("filled");
        assert_eq!((first.slot, first.len, first.captured), (0, 50, 50));
        assert_eq!(first.start, 128 - SLOT_HEADER);
        assert_eq!(ring.take().map(|t| t.slot), Some(1));
        assert_eq!(ring.take(), None);
        assert_eq!(&ring.slot(1)[first.start..][..60], [b'b'; 60]);
        ring.slot_mut(0)[first.start] = b'x';
        assert_eq!(&ring.slot(0)[first.start..][..2], b"xa");
    }

    #[test]
    fn released_slots_are_the_kernels_until_filled_again() {
        let mut ring = ring();
        for round in 0..5_u8 {
            for i in 0..4 {
                let slot = (usize::from(round) * 4 + i) % 6;
                assert_eq!(ring.status(slot).load(Ordering::Relaxed), libc::TP_STATUS_KERNEL);
                fill(&ring, slot, round, 60);
            }
            let taken: Vec<_> = std::iter::from_fn(|| ring.take()).collect();
            assert_eq!(taken.len(), 4, "round {round}");
            for t in &taken {
                assert_eq!(ring.slot(t.slot)[t.start], round);
            }
            ring.release();
            assert_eq!((ring.held, ring.take()), (0, None));
        }
    }

    #[test]
    fn a_full_ring_isnt_taken_twice() {
        let mut ring = ring();
        (0..6).for_each(|slot| fill(&ring, slot, 1, 60));
        assert_eq!(std::iter::from_fn(|| ring.take()).count(), 6);
        assert_eq!(ring.take(), None);
        ring.release();
        assert_eq!(ring.take(), None);
    }

    #[test]
    #[should_panic(expected = "only held slots")]
    fn a_slot_that_isnt_held_cannot_be_borrowed() {
        let mut ring = ring();
        fill(&ring, 0, 1, 60);
        ring.take().expect("filled");
        ring.slot(1);
    }
}
