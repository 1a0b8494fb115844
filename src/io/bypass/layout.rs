//! What the programs and we share: the maps' keys and values. Numbers are the machine's own;
//! addresses, ports and link headers are bytes as they stand in a packet.

use super::asm::{Asm, Label, Reg};
use std::cell::UnsafeCell;
use std::mem::offset_of;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use tidegate_nat::lease::PeerWindow;

/// What makes a packet one of a flow's direction. No padding.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Key {
    /// The kernel's number of the interface that it came by.
    pub interface: u32,
    /// See [`kind`].
    pub kind: u32,
    pub src: [u8; 16],
    pub dst: [u8; 16],
    /// Source and destination.
    pub ports: [u8; 4],
}

/// IP version (4 or 6) and transport protocol in one number.
pub(super) const fn kind(version: u8, protocol: u8) -> i32 {
    (version as i32) << 8 | protocol as i32
}

impl Key {
    /// As the map has it.
    pub fn bytes(&self) -> [u8; size_of::<Self>()] {
        let mut bytes = [0; size_of::<Self>()];
        bytes[..4].copy_from_slice(&self.interface.to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.kind.to_ne_bytes());
        bytes[8..24].copy_from_slice(&self.src);
        bytes[24..40].copy_from_slice(&self.dst);
        bytes[40..].copy_from_slice(&self.ports);
        bytes
    }
}

/// What the map of keys says: the flow's slot and the direction.
#[derive(Copy, Clone, Debug)]
#[repr(C)]
pub(super) struct Target {
    pub slot: u32,
    pub direction: u32,
}

impl Target {
    /// As the map has it.
    pub fn bytes(&self) -> [u8; size_of::<Self>()] {
        let mut bytes = [0; size_of::<Self>()];
        bytes[..4].copy_from_slice(&self.slot.to_ne_bytes());
        bytes[4..].copy_from_slice(&self.direction.to_ne_bytes());
        bytes
    }
}

/// What holds for all flows.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Header {
    /// Flows of any other are not forwarded.
    pub generation: AtomicU64,
}

/// All that `forward` has to know.
#[derive(Copy, Clone, Debug, Default)]
#[repr(C, align(8))]
pub(super) struct Rewrite {
    /// The kernel's number of the interface that the packet leaves by.
    pub egress: u32,
    /// IPv6: by how much a sum over the whole packet that the device has computed
    /// (`CHECKSUM_COMPLETE`) would be wrong.
    pub complete: u32,
    /// The new link header, and two bytes of nothing.
    pub link: [u8; 16],
    pub src: [u8; 16],
    pub dst: [u8; 16],
    pub ports: [u8; 4],
    /// What changes in the sum over the IPv4 header, the TTL included; 16 bits.
    pub header_diff: u32,
    /// What the addresses change in the transport header's sum.
    pub address_diff: u32,
    /// What the ports do.
    pub port_diff: u32,
    /// See [`kind`].
    pub kind: u32,
    pub unused: u32,
}

/// One direction.
#[derive(Copy, Clone, Debug, Default)]
#[repr(C, align(8))]
pub(super) struct Way {
    /// Its packets' key; the map's may have become another's since it was looked up.
    pub key: Key,
    /// The longest IP packet for the egress.
    pub mtu: u32,
    /// Two bytes of nothing, and the link address that its packets are sent to.
    pub to: [u8; 8],
    pub packets: u64,
    pub bytes: u64,
    /// Bytes of the frames, the link's padding included.
    pub frames: u64,
    pub rewrite: Rewrite,
}

/// [`PeerWindow`].
#[derive(Copy, Clone, Debug, Default)]
#[repr(C)]
pub(super) struct Peer {
    pub end: u32,
    pub max_end: u32,
    pub max_window: u32,
    pub max_ack: u32,
    pub scale: u16,
    pub flags: u16,
}

/// The segment that was looked at last.
#[derive(Copy, Clone, Debug, Default)]
#[repr(C)]
pub(super) struct Last {
    pub seq: u32,
    pub ack: u32,
    pub end: u32,
    pub window: u16,
    pub direction: u8,
    pub retransmissions: u8,
}

/// What stands under a slot's lock.
#[derive(Copy, Clone, Debug, Default)]
#[repr(C, align(8))]
pub(super) struct State {
    /// Packets may be forwarded.
    pub active: u32,
    /// Transport checksums are verified.
    pub verify: u32,
    pub generation: u64,
    /// On the kernel's monotonic clock, in nanoseconds.
    pub until: u64,
    /// When the last packet came, on the same.
    pub seen: u64,
    pub peers: [Peer; 2],
    pub last: Last,
    pub ways: [Way; 2],
}

/// A flow.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Slot {
    /// 1: somebody is at it. Whoever of the programs finds it so lets the packet go up.
    lock: AtomicU32,
    state: UnsafeCell<State>,
}

// SAFETY: `state` is only touched by who holds the lock, here and in the programs.
unsafe impl Sync for Slot {}

impl Slot {
    /// Waits for the lock. The programs hold it for some hundred instructions, which nothing
    /// interrupts; other threads for a few lines that call nothing.
    pub fn lock(&self) -> Locked<'_> {
        let mut tries = 0u32;
        while self.lock.compare_exchange_weak(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
            tries += 1;
            if tries.is_multiple_of(128) {
                // Its holder may need this processor.
                std::thread::yield_now();
            }
            std::hint::spin_loop();
        }
        Locked(self)
    }
}

/// A slot whose lock we hold.
pub(super) struct Locked<'a>(&'a Slot);

impl Deref for Locked<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        // SAFETY: we hold the lock, so nobody else writes to it while the borrow lasts.
        unsafe { &*self.0.state.get() }
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        // SAFETY: we hold the lock, so nobody else touches it while the borrow lasts.
        unsafe { &mut *self.0.state.get() }
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.0.lock.store(0, Ordering::Release);
    }
}

/// The longest transport header and payload whose checksum `decide` verifies; longer ones go up.
pub(super) const MOST_SUMMED: usize = 9216;
/// It sums so many bytes at once.
pub(super) const SUMMED_AT_ONCE: usize = 64;

/// What `decide` leaves behind for `forward`, for each processor: between the two nothing else runs
/// there.
#[derive(Debug)]
#[repr(C, align(8))]
pub(super) struct Verdict {
    /// There is one.
    pub present: u32,
    /// The packet's length and interface, by which `forward` knows it again.
    pub len: u32,
    pub interface: u32,
    /// How long it is without the link's padding.
    pub trimmed: u32,
    pub rewrite: Rewrite,
    /// Where `decide` sums.
    pub scratch: [u8; MOST_SUMMED + SUMMED_AT_ONCE],
}

/// Offsets in [`Slot`], [`Way`] and so on, as the assembler takes them.
macro_rules! offsets {
    ($($name:ident = $($offset:expr),+;)*) => {
        $(pub(super) const $name: i16 = (0 $(+ $offset)+) as i16;)*
    };
}

const STATE: usize = offset_of!(Slot, state);
offsets! {
    KEY_INTERFACE = offset_of!(Key, interface);
    KEY_KIND = offset_of!(Key, kind);
    KEY_SRC = offset_of!(Key, src);
    KEY_DST = offset_of!(Key, dst);
    KEY_PORTS = offset_of!(Key, ports);
    KEY_LEN = size_of::<Key>();
    TARGET_SLOT = offset_of!(Target, slot);
    TARGET_DIRECTION = offset_of!(Target, direction);
    HEADER_GENERATION = offset_of!(Header, generation);
    SLOT_LOCK = offset_of!(Slot, lock);
    SLOT_ACTIVE = STATE, offset_of!(State, active);
    SLOT_VERIFY = STATE, offset_of!(State, verify);
    SLOT_GENERATION = STATE, offset_of!(State, generation);
    SLOT_UNTIL = STATE, offset_of!(State, until);
    SLOT_SEEN = STATE, offset_of!(State, seen);
    SLOT_PEERS = STATE, offset_of!(State, peers);
    SLOT_WAYS = STATE, offset_of!(State, ways);
    LAST_SEQ = STATE, offset_of!(State, last), offset_of!(Last, seq);
    LAST_ACK = STATE, offset_of!(State, last), offset_of!(Last, ack);
    LAST_END = STATE, offset_of!(State, last), offset_of!(Last, end);
    LAST_WINDOW = STATE, offset_of!(State, last), offset_of!(Last, window);
    LAST_DIRECTION = STATE, offset_of!(State, last), offset_of!(Last, direction);
    LAST_RETRANSMISSIONS = STATE, offset_of!(State, last), offset_of!(Last, retransmissions);
    PEER_LEN = size_of::<Peer>();
    PEER_END = offset_of!(Peer, end);
    PEER_MAX_END = offset_of!(Peer, max_end);
    PEER_MAX_WINDOW = offset_of!(Peer, max_window);
    PEER_MAX_ACK = offset_of!(Peer, max_ack);
    PEER_SCALE = offset_of!(Peer, scale);
    PEER_FLAGS = offset_of!(Peer, flags);
    WAY_LEN = size_of::<Way>();
    WAY_KEY = offset_of!(Way, key);
    WAY_TO = offset_of!(Way, to);
    WAY_MTU = offset_of!(Way, mtu);
    WAY_PACKETS = offset_of!(Way, packets);
    WAY_BYTES = offset_of!(Way, bytes);
    WAY_FRAMES = offset_of!(Way, frames);
    WAY_REWRITE = offset_of!(Way, rewrite);
    REWRITE_LEN = size_of::<Rewrite>();
    VERDICT_PRESENT = offset_of!(Verdict, present);
    VERDICT_LEN = offset_of!(Verdict, len);
    VERDICT_INTERFACE = offset_of!(Verdict, interface);
    VERDICT_TRIMMED = offset_of!(Verdict, trimmed);
    VERDICT_REWRITE = offset_of!(Verdict, rewrite);
    VERDICT_SCRATCH = offset_of!(Verdict, scratch);
    ORDER_EGRESS = offset_of!(Verdict, rewrite), offset_of!(Rewrite, egress);
    ORDER_COMPLETE = offset_of!(Verdict, rewrite), offset_of!(Rewrite, complete);
    ORDER_LINK = offset_of!(Verdict, rewrite), offset_of!(Rewrite, link);
    ORDER_SRC = offset_of!(Verdict, rewrite), offset_of!(Rewrite, src);
    ORDER_DST = offset_of!(Verdict, rewrite), offset_of!(Rewrite, dst);
    ORDER_PORTS = offset_of!(Verdict, rewrite), offset_of!(Rewrite, ports);
    ORDER_HEADER_DIFF = offset_of!(Verdict, rewrite), offset_of!(Rewrite, header_diff);
    ORDER_ADDRESS_DIFF = offset_of!(Verdict, rewrite), offset_of!(Rewrite, address_diff);
    ORDER_PORT_DIFF = offset_of!(Verdict, rewrite), offset_of!(Rewrite, port_diff);
    ORDER_KIND = offset_of!(Verdict, rewrite), offset_of!(Rewrite, kind);
}

// The programs copy and compare them by doubles, and load the word at its end by itself.
const _: () = assert!(size_of::<Key>() == 44 && size_of::<Rewrite>().is_multiple_of(8));
// Doubles are aligned, also in the other direction's.
const _: () = assert!(SLOT_WAYS % 8 == 0 && WAY_LEN % 8 == 0 && WAY_REWRITE % 8 == 0);
const _: () = assert!(ORDER_LINK % 8 == 0 && VERDICT_REWRITE % 8 == 0 && VERDICT_SCRATCH % 8 == 0);

/// Fields of `struct __sk_buff`, the programs' context.
pub(super) mod context {
    use super::offset_of;

    /// Up to the last field of interest.
    #[derive(Copy, Clone, Debug, Default)]
    #[repr(C)]
    pub struct SkBuff {
        pub len: u32,
        pub packet_type: u32,
        pub mark: u32,
        pub queue_mapping: u32,
        pub protocol: u32,
        pub vlan_present: u32,
        pub vlan_tci: u32,
        pub vlan_proto: u32,
        pub priority: u32,
        pub ingress_ifindex: u32,
        pub ifindex: u32,
        pub tc_index: u32,
        pub cb: [u32; 5],
        pub hash: u32,
        pub tc_classid: u32,
        pub data: u32,
        pub data_end: u32,
        pub napi_id: u32,
        pub family: u32,
        pub remote_ip4: u32,
        pub local_ip4: u32,
        pub remote_ip6: [u32; 4],
        pub local_ip6: [u32; 4],
        pub remote_port: u32,
        pub local_port: u32,
        pub data_meta: u32,
        pub flow_keys: u64,
        pub tstamp: u64,
        pub wire_len: u32,
        pub gso_segs: u32,
        pub sk: u64,
        pub gso_size: u32,
    }

    pub const LEN: i16 = offset_of!(SkBuff, len) as i16;
    pub const PACKET_TYPE: i16 = offset_of!(SkBuff, packet_type) as i16;
    pub const VLAN_PRESENT: i16 = offset_of!(SkBuff, vlan_present) as i16;
    pub const INTERFACE: i16 = offset_of!(SkBuff, ifindex) as i16;
    pub const DATA: i16 = offset_of!(SkBuff, data) as i16;
    pub const DATA_END: i16 = offset_of!(SkBuff, data_end) as i16;
    pub const GSO_SEGMENTS: i16 = offset_of!(SkBuff, gso_segs) as i16;
    pub const GSO_SIZE: i16 = offset_of!(SkBuff, gso_size) as i16;
    const _: () = assert!(GSO_SIZE == 176 && DATA == 76 && INTERFACE == 40);
}

impl From<PeerWindow> for Peer {
    fn from(peer: PeerWindow) -> Self {
        let PeerWindow { end, max_end, max_window, max_ack, scale, flags } = peer;
        Self { end, max_end, max_window, max_ack, scale: scale.into(), flags: flags.into() }
    }
}

impl From<Peer> for PeerWindow {
    fn from(peer: Peer) -> Self {
        let Peer { end, max_end, max_window, max_ack, scale, flags } = peer;
        Self { end, max_end, max_window, max_ack, scale: scale as u8, flags: flags as u8 }
    }
}

/// `reg` (a sum of up to 2^32 words of 32 bits) becomes its 16-bit ones' complement sum; `spare` is
/// spoiled. RFC 1071.
pub(super) fn fold(a: &mut Asm, reg: Reg, spare: Reg) {
    use super::asm::Alu::{Add, And, Rsh};
    for half in [32, 32, 16, 16, 16] {
        a.mov(spare, reg);
        a.alu(Rsh, spare, half);
        match half {
            // The lower half, without a constant of 32 ones.
            32 => a.alu32(super::asm::Alu::Mov, reg, reg),
            _ => a.alu(And, reg, 0xffff),
        }
        a.alu(Add, reg, spare);
    }
}

/// Looks the key that lies on the stack up; `R0` is not null behind it.
pub(super) fn look_up(
    a: &mut Asm,
    map: std::os::fd::BorrowedFd<'_>,
    key_at: i16,
    otherwise: Label,
) {
    use super::asm::{Alu, Helper, If};
    a.map(Reg::R1, map);
    a.mov(Reg::R2, Reg::FP);
    a.alu(Alu::Add, Reg::R2, i32::from(key_at));
    a.call(Helper::MapLookup);
    a.jump_if(Reg::R0, If::Eq, 0, otherwise);
}
