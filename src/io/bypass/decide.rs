//! `decide`, the filter of packet sockets: whether a packet is forwarded, and what that changes in its
//! flow's state.
//!
//! It is at least as strict as `engine/short`, and what it does to TCP's windows is what
//! `nat/src/tcp_window.rs` does with a segment that fits. Everything else goes up, unchanged and
//! uncounted.

use super::asm::{Alu::*, Asm, Helper, If::*, Label, Reg::*, Size::*};
use super::layout::{self as at, context, fold, look_up};
use super::maps::Maps;
use super::parse;
use crate::io::bpf::Instruction;
use std::os::fd::AsFd;
use tidegate_packet::{ethernet, ipv4, ipv6, protocol, udp};

/// What lies on the stack, down from its end.
pub(super) mod stack {
    /// The frame's length.
    pub const LEN: i16 = -4;
    /// The IP packet's.
    pub const TOTAL: i16 = -8;
    /// From the transport header on.
    pub const SEGMENT: i16 = -12;
    /// IP and transport header.
    pub const HEADERS: i16 = -16;
    /// TCP: the segment's numbers.
    pub const SEQ: i16 = -20;
    pub const ACK: i16 = -24;
    pub const END: i16 = -28;
    pub const SACK: i16 = -32;
    pub const WINDOW: i16 = -36;
    /// The transport checksum as it stands there.
    pub const FIELD: i16 = -40;
    /// The longest IP packet that leaves because of this one.
    pub const WIRE: i16 = -44;
    /// Keys of arrays, and then the direction.
    pub const NUMBER: i16 = -48;
    pub const NOW: i16 = -56;
    /// Whether the transport checksum was verified, if there was one to verify.
    pub const VERIFIED: i16 = -60;
    /// [`super::at::Key`].
    pub const KEY: i16 = -112;
    /// The frame's beginning, so that the IP header is aligned.
    pub const FRAME: i16 = -240 + 2;
    pub const IP: i16 = -240 + 16;
    /// How much of it may be loaded: all headers that a packet can have.
    pub const ROOM: i16 = 128;
}

/// How often the lock is tried: its holder needs less.
const TRIES: usize = 100;

pub(super) const LINK: i32 = ethernet::HEADER_LEN as i32;
pub(super) const TCP: i32 = protocol::TCP as i32;
pub(super) const UDP: i32 = protocol::UDP as i32;

/// Where the program ends.
pub(super) struct Exits {
    /// The socket gets the packet.
    pub up: Label,
    /// The same, but the slot's lock is held.
    pub unlock: Label,
    /// The socket gets nothing.
    pub none: Label,
}

/// The program. Registers: `R6` the context, `R7` the slot (before it is found: the protocol),
/// `R8` the verdict, `R9` the direction's part of the slot (before: the IP packet's length).
pub(super) fn program(maps: &Maps) -> Vec<Instruction> {
    let mut asm = Asm::default();
    let a = &mut asm;
    let exits = Exits { up: a.label(), unlock: a.label(), none: a.label() };
    let (v4, v6, found) = (a.label(), a.label(), a.label());
    begin(a, maps, &exits);
    parse::load_headers(a, &exits);
    a.load(Half, R0, FP, stack::FRAME + 12);
    a.jump_if(R0, Eq, network(ethernet::IPV4), v4);
    a.jump_if(R0, Eq, network(ethernet::IPV6), v6);
    a.jump(exits.up);
    a.bind(v4);
    parse::v4(a, &exits);
    parse::transport(a, ipv4::MIN_HEADER_LEN as i16, found, &exits);
    a.bind(v6);
    parse::v6(a, &exits);
    parse::transport(a, ipv6::HEADER_LEN as i16, found, &exits);
    a.bind(found);
    wire_len(a, &exits);
    find_slot(a, maps, &exits);
    verify(a, &exits);
    a.call(Helper::CoarseTime);
    a.store(Double, FP, stack::NOW, R0);
    lock(a, &exits);
    find_way(a, maps, &exits);
    super::window::judge_and_learn(a, &exits);
    give_order(a);
    end(a, &exits);
    asm.finish()
}

/// A number of 16 bits as a load finds it in a packet.
pub(super) const fn network(n: u16) -> i32 {
    n.to_be() as i32
}

/// Whatever was said of an earlier packet is over.
fn begin(a: &mut Asm, maps: &Maps, exits: &Exits) {
    a.mov(R6, R1);
    // UDP has none of TCP's numbers, and the verifier must see that nothing unknown is read.
    for numbers in [stack::ACK, stack::SACK, stack::FIELD] {
        a.store(Double, FP, numbers, 0);
    }
    a.store(Word, FP, stack::NUMBER, 0);
    look_up(a, maps.verdict.as_fd(), stack::NUMBER, exits.up);
    a.mov(R8, R0);
    a.store(Word, R8, at::VERDICT_PRESENT, 0);
    // What is sent is nobody's business: a fanout group gets it on kernels that don't know its flag
    // for that (`af_packet.rs`, whose filter this one replaces).
    a.load(Word, R0, R6, context::PACKET_TYPE);
    a.jump_if(R0, Eq, i32::from(libc::PACKET_OUTGOING), exits.none);
    a.load(Word, R0, R6, context::VLAN_PRESENT);
    a.jump_if(R0, Ne, 0, exits.up);
}

/// How long an IP packet leaves because of this one: a super-packet is cut into segments of
/// `gso_size` bytes. One that isn't what its headers say goes up.
fn wire_len(a: &mut Asm, exits: &Exits) {
    let (cut, done) = (a.label(), a.label());
    a.load(Word, R0, R6, context::GSO_SIZE);
    a.jump_if(R0, Ne, 0, cut);
    a.store(Word, FP, stack::WIRE, R9);
    a.jump(done);
    a.bind(cut);
    // More than one segment, and no padding.
    a.load(Word, R1, FP, stack::HEADERS);
    a.mov(R2, R0);
    a.alu(Add, R2, R1);
    a.store(Word, FP, stack::WIRE, R2);
    a.jump_if(R9, Le, R2, exits.up);
    a.load(Word, R2, FP, stack::LEN);
    a.alu(Sub, R2, LINK);
    a.jump_if(R2, Ne, R9, exits.up);
    a.jump_if(R7, Eq, TCP, done);
    // UDP: tunnels have super-packets too, which consist of other segments than these.
    a.load(Word, R3, R6, context::GSO_SEGMENTS);
    a.alu(Mul, R3, R0);
    a.mov(R2, R9);
    a.alu(Sub, R2, R1);
    a.jump_if(R2, Gt, R3, exits.up);
    a.alu(Sub, R3, R0);
    a.jump_if(R2, Le, R3, exits.up);
    a.bind(done);
}

/// `R7` becomes the slot.
fn find_slot(a: &mut Asm, maps: &Maps, exits: &Exits) {
    a.load(Word, R0, R6, context::INTERFACE);
    a.store(Word, FP, stack::KEY + at::KEY_INTERFACE, R0);
    look_up(a, maps.keys.as_fd(), stack::KEY, exits.up);
    a.load(Word, R1, R0, at::TARGET_SLOT);
    a.store(Word, FP, stack::NUMBER, R1);
    a.load(Word, R9, R0, at::TARGET_DIRECTION);
    look_up(a, maps.slots.as_fd(), stack::NUMBER, exits.up);
    a.mov(R7, R0);
    a.alu(And, R9, 1);
    a.store(Word, FP, stack::NUMBER, R9);
}

/// A transport checksum that is wrong is for the gateway to judge.
fn verify(a: &mut Asm, exits: &Exits) {
    let right = a.label();
    a.load(Word, R0, R7, at::SLOT_VERIFY);
    a.store(Word, FP, stack::VERIFIED, R0);
    a.jump_if(R0, Eq, 0, right);
    // Whoever made a super-packet has verified it, or is to compute it.
    a.load(Word, R0, R6, context::GSO_SIZE);
    a.jump_if(R0, Ne, 0, right);
    a.load(Word, R5, FP, stack::FIELD);
    a.load(Word, R4, FP, stack::KEY + at::KEY_KIND);
    a.alu(And, R4, 0xff);
    let computed = a.label();
    a.jump_if(R4, Ne, UDP, computed);
    // RFC 768: zero is no checksum. netfilter doesn't ask which family it is.
    a.jump_if(R5, Eq, 0, right);
    a.bind(computed);
    // R0: the pseudo-header's sum.
    a.mov(R0, R4);
    a.network(R0, 16);
    a.load(Word, R2, FP, stack::SEGMENT);
    a.mov(R1, R2);
    a.network(R1, 16);
    a.alu(Add, R0, R1);
    for word in 0..8 {
        a.load(Word, R1, FP, stack::KEY + at::KEY_SRC + 4 * word);
        a.alu(Add, R0, R1);
    }
    // What a local sender leaves to its device has nothing but that in the field
    // (CHECKSUM_PARTIAL, which the context doesn't tell).
    a.mov(R1, R0);
    fold(a, R1, R3);
    a.jump_if(R1, Eq, R5, right);
    a.mov(R9, R0);
    sum_segment(a, exits);
    fold(a, R9, R1);
    a.jump_if(R9, Ne, 0xffff, exits.up);
    a.bind(right);
}

/// Adds the segment's bytes to `R9`. `R2` is its length.
fn sum_segment(a: &mut Asm, exits: &Exits) {
    a.jump_if(R2, Lt, udp::HEADER_LEN as i32, exits.up);
    a.jump_if(R2, Gt, at::MOST_SUMMED as i32, exits.up);
    a.store(Double, FP, stack::NOW, R2);
    a.mov(R4, R2);
    // Where it begins.
    a.load(Word, R2, FP, stack::TOTAL);
    a.alu(Sub, R2, R4);
    a.alu(Add, R2, LINK);
    a.mov(R1, R6);
    a.mov(R3, R8);
    a.alu(Add, R3, i32::from(at::VERDICT_SCRATCH));
    a.call(Helper::LoadBytes);
    a.jump_if(R0, Ne, 0, exits.up);
    // Zeros behind it, so that it can be added up in whole strides.
    a.load(Double, R2, FP, stack::NOW);
    a.mov(R1, R8);
    a.alu(Add, R1, R2);
    for offset in (0..at::SUMMED_AT_ONCE as i16).step_by(8) {
        a.store(Double, R1, at::VERDICT_SCRATCH + offset, 0);
    }
    a.mov(R1, R8);
    let stride = a.here();
    for offset in (0..at::SUMMED_AT_ONCE as i16).step_by(4) {
        a.load(Word, R3, R1, at::VERDICT_SCRATCH + offset);
        a.alu(Add, R9, R3);
    }
    a.alu(Add, R1, at::SUMMED_AT_ONCE as i32);
    a.alu(Sub, R2, at::SUMMED_AT_ONCE as i32);
    a.jump_if(R2, SGt, 0, stride);
}

/// Whoever can't have the lock soon goes up: its holder may be a thread that doesn't run.
///
/// No loop: without CAP_PERFMON the verifier follows what a processor might run ahead of a comparison,
/// and sees no end there.
fn lock(a: &mut Asm, exits: &Exits) {
    let locked = a.label();
    a.mov(R2, 1);
    for _ in 0..TRIES {
        a.mov(R0, 0);
        a.compare_exchange(R7, at::SLOT_LOCK, R2);
        a.jump_if32(R0, Eq, 0, locked);
    }
    a.jump(exits.up);
    a.bind(locked);
}

/// `R9` becomes the direction's part of the slot, if the flow may be forwarded at all and the packet
/// is one of that direction's that fits the egress.
fn find_way(a: &mut Asm, maps: &Maps, exits: &Exits) {
    a.load(Word, R0, R7, at::SLOT_ACTIVE);
    a.jump_if(R0, Ne, 1, exits.unlock);
    a.map_value(R1, maps.header.as_fd());
    a.load(Double, R0, R1, at::HEADER_GENERATION);
    a.load(Double, R1, R7, at::SLOT_GENERATION);
    a.jump_if(R0, Ne, R1, exits.unlock);
    a.load(Double, R0, FP, stack::NOW);
    a.load(Double, R1, R7, at::SLOT_UNTIL);
    a.jump_if(R0, Gt, R1, exits.unlock);
    a.load(Word, R1, FP, stack::NUMBER);
    a.alu(And, R1, 1);
    a.alu(Mul, R1, i32::from(at::WAY_LEN));
    a.mov(R9, R7);
    a.alu(Add, R9, R1);
    a.alu(Add, R9, i32::from(at::SLOT_WAYS));
    // The slot may have become another flow's since the look-up.
    a.load(Word, R0, FP, stack::VERIFIED);
    a.load(Word, R1, R7, at::SLOT_VERIFY);
    a.jump_if(R0, Ne, R1, exits.unlock);
    for offset in (0..at::KEY_LEN).step_by(8) {
        let size = if at::KEY_LEN - offset >= 8 { Double } else { Word };
        a.load(size, R0, FP, stack::KEY + offset);
        a.load(size, R1, R9, at::WAY_KEY + offset);
        a.jump_if(R0, Ne, R1, exits.unlock);
    }
    for (size, offset) in [(Half, 0), (Word, 2)] {
        a.load(size, R0, FP, stack::FRAME + offset);
        a.load(size, R1, R9, at::WAY_TO + 2 + offset);
        a.jump_if(R0, Ne, R1, exits.unlock);
    }
    a.load(Word, R0, FP, stack::WIRE);
    a.load(Word, R1, R9, at::WAY_MTU);
    a.jump_if(R0, Gt, R1, exits.unlock);
}

/// Counts the packet and tells `forward`.
fn give_order(a: &mut Asm) {
    a.load(Double, R0, R9, at::WAY_PACKETS);
    a.alu(Add, R0, 1);
    a.store(Double, R9, at::WAY_PACKETS, R0);
    a.load(Word, R1, FP, stack::TOTAL);
    a.load(Double, R0, R9, at::WAY_BYTES);
    a.alu(Add, R0, R1);
    a.store(Double, R9, at::WAY_BYTES, R0);
    a.load(Word, R2, FP, stack::LEN);
    a.load(Double, R0, R9, at::WAY_FRAMES);
    a.alu(Add, R0, R2);
    a.store(Double, R9, at::WAY_FRAMES, R0);
    a.load(Double, R0, FP, stack::NOW);
    a.store(Double, R7, at::SLOT_SEEN, R0);
    a.alu(Add, R1, LINK);
    a.store(Word, R8, at::VERDICT_TRIMMED, R1);
    a.copy((R8, at::VERDICT_REWRITE), (R9, at::WAY_REWRITE), at::REWRITE_LEN);
    a.load(Word, R0, FP, stack::LEN);
    a.store(Word, R8, at::VERDICT_LEN, R0);
    a.load(Word, R0, FP, stack::KEY + at::KEY_INTERFACE);
    a.store(Word, R8, at::VERDICT_INTERFACE, R0);
    a.store(Word, R8, at::VERDICT_PRESENT, 1);
}

fn end(a: &mut Asm, exits: &Exits) {
    a.mov(R0, 0);
    a.store_release(R7, at::SLOT_LOCK, R0);
    a.bind(exits.none);
    a.mov(R0, 0);
    a.exit();
    a.bind(exits.unlock);
    a.mov(R0, 0);
    a.store_release(R7, at::SLOT_LOCK, R0);
    a.bind(exits.up);
    a.mov(R0, -1);
    a.exit();
}
