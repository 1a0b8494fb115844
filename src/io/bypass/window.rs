//! TCP's windows: `nat/src/tcp_window.rs` for a plain acknowledgment that fits. Whatever doesn't goes up
//! and changes nothing.

use super::asm::{Alu::*, Asm, If::*, Label, Reg, Reg::*, Size::*};
use super::decide::{Exits, stack};
use super::layout as at;
use tidegate_nat::lease::PeerWindow;
use tidegate_packet::protocol;

/// The least tolerance of equation 4.
const LEAST_ACK_WINDOW: i32 = 66_000;

/// Goes on at the label if `a > b` in sequence space; `spare` is spoiled.
fn jump_after(asm: &mut Asm, a: Reg, b: Reg, spare: Reg, to: Label) {
    // As `b < a`, which is what differs at exactly half of the space.
    jump_before(asm, b, a, spare, to);
}

/// Goes on at the label if not.
pub(super) fn jump_unless_after(asm: &mut Asm, a: Reg, b: Reg, spare: Reg, to: Label) {
    asm.alu32(Mov, spare, b);
    asm.alu32(Sub, spare, a);
    asm.jump_if32(spare, SGe, 0, to);
}

/// Goes on at the label if `a < b` in sequence space; `spare` is spoiled.
fn jump_before(asm: &mut Asm, a: Reg, b: Reg, spare: Reg, to: Label) {
    asm.alu32(Mov, spare, a);
    asm.alu32(Sub, spare, b);
    asm.jump_if32(spare, SLt, 0, to);
}

/// A packet of TCP is judged and learnt from; one of UDP passes. The slot's lock is held, `R7` is the
/// slot.
pub(super) fn judge_and_learn(a: &mut Asm, exits: &Exits) {
    let done = a.label();
    a.load(Word, R0, FP, stack::KEY + at::KEY_KIND);
    a.alu(And, R0, 0xff);
    a.jump_if(R0, Ne, i32::from(protocol::TCP), done);
    find_peers(a);
    judge(a, exits);
    learn(a);
    note(a);
    a.bind(done);
}

/// `R1` becomes the sender, `R2` the receiver.
fn find_peers(a: &mut Asm) {
    a.load(Word, R0, FP, stack::NUMBER);
    a.alu(And, R0, 1);
    for (reg, other) in [(R1, 0), (R2, 1)] {
        a.mov(R3, R0);
        a.alu(Xor, R3, other);
        a.alu(Mul, R3, i32::from(at::PEER_LEN));
        a.mov(reg, R7);
        a.alu(Add, reg, R3);
        a.alu(Add, reg, i32::from(at::SLOT_PEERS));
    }
    // Only what a receiver with SACK says is looked at.
    let permitted = a.label();
    a.load(Half, R0, R2, at::PEER_FLAGS);
    a.jump_if(R0, Set, i32::from(PeerWindow::SACK), permitted);
    a.load(Word, R0, FP, stack::ACK);
    a.store(Word, FP, stack::SACK, R0);
    a.bind(permitted);
}

/// The four equations.
fn judge(a: &mut Asm, exits: &Exits) {
    // Nothing was seen of one of them.
    a.load(Word, R4, R1, at::PEER_MAX_WINDOW);
    a.jump_if(R4, Eq, 0, exits.unlock);
    a.load(Word, R5, R2, at::PEER_MAX_WINDOW);
    a.jump_if(R5, Eq, 0, exits.unlock);
    // 1. seq <= S.max_end
    a.load(Word, R0, FP, stack::SEQ);
    a.load(Word, R3, R1, at::PEER_MAX_END);
    jump_after(a, R0, R3, SPARE, exits.unlock);
    // 2. end >= S.end - R.max_window
    a.load(Word, R3, R1, at::PEER_END);
    a.alu32(Sub, R3, R5);
    a.load(Word, R0, FP, stack::END);
    jump_before(a, R0, R3, SPARE, exits.unlock);
    // 3. sack <= R.end
    a.load(Word, R0, FP, stack::SACK);
    a.load(Word, R3, R2, at::PEER_END);
    jump_after(a, R0, R3, SPARE, exits.unlock);
    // 4. sack >= R.end - max(S.max_window, 66000)
    let wide = a.label();
    a.jump_if(R4, Gt, LEAST_ACK_WINDOW, wide);
    a.mov(R4, LEAST_ACK_WINDOW);
    a.bind(wide);
    a.alu32(Sub, R3, R4);
    jump_before(a, R0, R3, SPARE, exits.unlock);
}

/// A register that `judge` and `learn` may spoil: the context isn't needed any more.
const SPARE: Reg = R6;

/// Takes over what the segment says.
fn learn(a: &mut Asm) {
    // R5: the window, R4: ack, R3: sack.
    a.load(Half, R0, R1, at::PEER_SCALE);
    a.load(Word, R5, FP, stack::WINDOW);
    a.alu32(Lsh, R5, R0);
    a.load(Word, R4, FP, stack::ACK);
    a.load(Word, R3, FP, stack::SACK);
    largest_window(a);
    let (not_beyond, known, inside) = (a.label(), a.label(), a.label());
    // Data beyond all that were sent.
    a.load(Word, R0, FP, stack::END);
    a.load(Word, R6, R1, at::PEER_END);
    a.alu32(Sub, R6, R0);
    a.jump_if32(R6, SGe, 0, not_beyond);
    a.store(Word, R1, at::PEER_END, R0);
    set(a, R1, PeerWindow::UNACKNOWLEDGED);
    a.bind(not_beyond);
    // The highest acknowledgment.
    let higher = a.label();
    a.load(Half, R0, R1, at::PEER_FLAGS);
    a.alu(And, R0, i32::from(PeerWindow::MAXACK_SET));
    a.jump_if(R0, Eq, 0, higher);
    a.load(Word, R0, R1, at::PEER_MAX_ACK);
    jump_unless_after(a, R4, R0, R6, known);
    a.bind(higher);
    a.store(Word, R1, at::PEER_MAX_ACK, R4);
    set(a, R1, PeerWindow::MAXACK_SET);
    a.bind(known);
    // Data beyond the window: it must have been larger.
    a.load(Word, R0, FP, stack::END);
    a.load(Word, R6, R1, at::PEER_MAX_END);
    a.alu32(Sub, R6, R0);
    a.jump_if32(R6, SGe, 0, inside);
    a.load(Word, R0, R2, at::PEER_MAX_WINDOW);
    a.alu32(Sub, R0, R6);
    a.store(Word, R2, at::PEER_MAX_WINDOW, R0);
    a.bind(inside);
    move_edge(a);
}

/// `R1`'s largest window: `window + sack - ack`, if that is more.
fn largest_window(a: &mut Asm) {
    let larger = a.label();
    a.alu32(Mov, R0, R3);
    a.alu32(Sub, R0, R4);
    a.alu32(Add, R0, R5);
    a.load(Word, R6, R1, at::PEER_MAX_WINDOW);
    a.jump_if(R0, Le, R6, larger);
    a.store(Word, R1, at::PEER_MAX_WINDOW, R0);
    a.bind(larger);
}

/// Up to where `R2` may send, and whether all of that is acknowledged.
fn move_edge(a: &mut Asm) {
    let (lower, open, waiting) = (a.label(), a.label(), a.label());
    a.alu32(Mov, R0, R3);
    a.alu32(Add, R0, R5);
    a.load(Word, R6, R2, at::PEER_MAX_END);
    jump_before(a, R0, R6, R3, lower);
    // A closed window may be probed with one byte (RFC 9293 section 3.8.6.1).
    a.jump_if(R5, Ne, 0, open);
    a.alu32(Add, R0, 1);
    a.bind(open);
    a.store(Word, R2, at::PEER_MAX_END, R0);
    a.bind(lower);
    a.load(Word, R0, R2, at::PEER_END);
    a.jump_if32(R0, Ne, R4, waiting);
    a.load(Half, R0, R2, at::PEER_FLAGS);
    a.alu(And, R0, 0xffff ^ i32::from(PeerWindow::UNACKNOWLEDGED));
    a.store(Half, R2, at::PEER_FLAGS, R0);
    a.bind(waiting);
}

fn set(a: &mut Asm, peer: Reg, flag: u8) {
    a.load(Half, R6, peer, at::PEER_FLAGS);
    a.alu(Or, R6, i32::from(flag));
    a.store(Half, peer, at::PEER_FLAGS, R6);
}

/// Whether it is the last segment once more, and else that it is the last one now.
fn note(a: &mut Asm) {
    let (other, done) = (a.label(), a.label());
    let words = [
        (Word, at::LAST_SEQ, stack::SEQ),
        (Word, at::LAST_ACK, stack::ACK),
        (Word, at::LAST_END, stack::END),
        (Half, at::LAST_WINDOW, stack::WINDOW),
        (Byte, at::LAST_DIRECTION, stack::NUMBER),
    ];
    for (size, last, now) in words {
        a.load(size, R0, R7, last);
        a.load(Word, R1, FP, now);
        a.jump_if(R0, Ne, R1, other);
    }
    a.load(Byte, R0, R7, at::LAST_RETRANSMISSIONS);
    a.jump_if(R0, Eq, 255, done);
    a.alu(Add, R0, 1);
    a.store(Byte, R7, at::LAST_RETRANSMISSIONS, R0);
    a.jump(done);
    a.bind(other);
    for (size, last, now) in words {
        a.load(Word, R0, FP, now);
        a.store(size, R7, last, R0);
    }
    a.store(Byte, R7, at::LAST_RETRANSMISSIONS, 0);
    a.bind(done);
}
