//! `forward`, at tc ingress: does with a packet what `decide` has just said of it, and drops every
//! other, which the sockets have or nobody wants.

use super::asm::{Alu::*, Asm, Helper, If::*, Label, Reg::*, Size::*};
use super::layout::{self as at, context, fold, look_up};
use super::maps::Maps;
use crate::io::bpf::Instruction;
use std::os::fd::AsFd;
use tidegate_packet::{ethernet, ipv4, ipv6, protocol, tcp, udp};

const LINK: i16 = ethernet::HEADER_LEN as i16;

/// The program. Registers: `R6` the context, `R8` the verdict.
pub(super) fn program(maps: &Maps) -> Vec<Instruction> {
    let mut asm = Asm::default();
    let a = &mut asm;
    let (drop, v4) = (a.label(), a.label());
    take_order(a, maps, drop);
    trim(a, drop);
    a.load(Word, R0, R8, at::ORDER_KIND);
    a.alu(Rsh, R0, 8);
    a.jump_if(R0, Eq, 4, v4);
    reach_headers(a, ipv6::HEADER_LEN as i16, drop);
    write_v6(a);
    mend_transport(a, ipv6::HEADER_LEN as i16, drop);
    mend_complete(a);
    leave(a);
    a.bind(v4);
    reach_headers(a, ipv4::MIN_HEADER_LEN as i16, drop);
    write_v4(a);
    mend_transport(a, ipv4::MIN_HEADER_LEN as i16, drop);
    leave(a);
    a.bind(drop);
    const TC_ACT_SHOT: i32 = 2;
    a.mov(R0, TC_ACT_SHOT);
    a.exit();
    asm.finish()
}

/// What was said is good for one packet, and for the one that it was said of.
fn take_order(a: &mut Asm, maps: &Maps, drop: Label) {
    const NUMBER: i16 = -8;
    a.mov(R6, R1);
    a.store(Word, FP, NUMBER, 0);
    look_up(a, maps.verdict.as_fd(), NUMBER, drop);
    a.mov(R8, R0);
    a.load(Word, R1, R8, at::VERDICT_PRESENT);
    a.store(Word, R8, at::VERDICT_PRESENT, 0);
    a.jump_if(R1, Eq, 0, drop);
    for (field, said) in
        [(context::LEN, at::VERDICT_LEN), (context::INTERFACE, at::VERDICT_INTERFACE)]
    {
        a.load(Word, R0, R6, field);
        a.load(Word, R1, R8, said);
        a.jump_if(R0, Ne, R1, drop);
    }
}

/// Cuts the link's padding off: the next link has its own.
fn trim(a: &mut Asm, drop: Label) {
    let whole = a.label();
    a.load(Word, R0, R6, context::LEN);
    a.load(Word, R2, R8, at::VERDICT_TRIMMED);
    a.jump_if(R0, Eq, R2, whole);
    a.mov(R1, R6);
    a.mov(R3, 0);
    a.call(Helper::ChangeTail);
    a.jump_if(R0, Ne, 0, drop);
    a.bind(whole);
}

/// `R2` becomes the frame's beginning, in memory of which link and IP header and the ports can be
/// written to.
fn reach_headers(a: &mut Asm, ip: i16, drop: Label) {
    let reached = a.label();
    let wanted = i32::from(LINK + ip + 4);
    let load = |a: &mut Asm| {
        a.load(Word, R2, R6, context::DATA);
        a.load(Word, R3, R6, context::DATA_END);
        a.mov(R1, R2);
        a.alu(Add, R1, wanted);
    };
    load(a);
    a.jump_if(R1, Le, R3, reached);
    // The kernel leaves it to us to have them in one piece.
    a.mov(R1, R6);
    a.mov(R2, wanted);
    a.call(Helper::PullData);
    a.jump_if(R0, Ne, 0, drop);
    load(a);
    a.jump_if(R1, Gt, R3, drop);
    a.bind(reached);
    a.load(Double, R0, R8, at::ORDER_LINK);
    a.store(Double, R2, 0, R0);
    a.load(Word, R0, R8, at::ORDER_LINK + 8);
    a.store(Word, R2, 8, R0);
    a.load(Half, R0, R8, at::ORDER_LINK + 12);
    a.store(Half, R2, 12, R0);
}

/// TTL, addresses and ports; the header's sum by what they change (RFC 1624).
fn write_v4(a: &mut Asm) {
    let header = |offset: usize| LINK + offset as i16;
    count_down(a, header(8));
    a.load(Half, R0, R2, header(10));
    a.alu(Xor, R0, 0xffff);
    a.load(Word, R1, R8, at::ORDER_HEADER_DIFF);
    a.alu(Add, R0, R1);
    fold(a, R0, R1);
    a.alu(Xor, R0, 0xffff);
    a.store(Half, R2, header(10), R0);
    write(a, header(12), at::ORDER_SRC, 4);
    write(a, header(16), at::ORDER_DST, 4);
    write(a, header(ipv4::MIN_HEADER_LEN), at::ORDER_PORTS, 4);
}

fn write_v6(a: &mut Asm) {
    let header = |offset: usize| LINK + offset as i16;
    count_down(a, header(7));
    write(a, header(8), at::ORDER_SRC, 16);
    write(a, header(24), at::ORDER_DST, 16);
    write(a, header(ipv6::HEADER_LEN), at::ORDER_PORTS, 4);
}

/// `decide` has seen that it is above one.
fn count_down(a: &mut Asm, hop_limit: i16) {
    a.load(Byte, R0, R2, hop_limit);
    a.alu(Sub, R0, 1);
    a.store(Byte, R2, hop_limit, R0);
}

fn write(a: &mut Asm, to: i16, from: i16, bytes: i16) {
    a.copy((R2, to), (R8, from), bytes);
}

/// The transport header's sum: the kernel's helper knows whether it covers the whole segment or,
/// where the device is to do the rest, the pseudo-header alone.
fn mend_transport(a: &mut Asm, ip: i16, drop: Label) {
    const PSEUDO_HEADER: i32 = 1 << 4;
    /// UDP: no checksum stays none, and a computed zero becomes all ones (RFC 768).
    const MANGLED_ZERO: i32 = 1 << 5;
    let (is_tcp, done) = (a.label(), a.label());
    a.load(Word, R0, R8, at::ORDER_KIND);
    a.alu(And, R0, 0xff);
    a.jump_if(R0, Eq, i32::from(protocol::TCP), is_tcp);
    let kinds = [(udp::CHECKSUM_AT, MANGLED_ZERO), (tcp::CHECKSUM_AT, 0)];
    for (checksum_at, flags) in kinds {
        if flags == 0 {
            a.bind(is_tcp);
        }
        let field = i32::from(LINK + ip) + checksum_at as i32;
        mend(a, field, at::ORDER_ADDRESS_DIFF, flags | PSEUDO_HEADER, drop);
        mend(a, field, at::ORDER_PORT_DIFF, flags, drop);
        a.jump(done);
    }
    a.bind(done);
}

fn mend(a: &mut Asm, field: i32, diff: i16, flags: i32, drop: Label) {
    let same = a.label();
    a.load(Word, R4, R8, diff);
    a.jump_if(R4, Eq, 0, same);
    a.mov(R1, R6);
    a.mov(R2, field);
    a.mov(R3, 0);
    a.mov(R5, flags);
    a.call(Helper::L4ChecksumReplace);
    a.jump_if(R0, Ne, 0, drop);
    a.bind(same);
}

/// Where the device has computed a sum over all of an IPv6 packet, that stays true. Else this does
/// nothing.
fn mend_complete(a: &mut Asm) {
    a.mov(R1, R6);
    a.load(Word, R2, R8, at::ORDER_COMPLETE);
    a.call(Helper::ChecksumUpdate);
}

/// Sends it.
fn leave(a: &mut Asm) {
    a.load(Word, R1, R8, at::ORDER_EGRESS);
    a.mov(R2, 0);
    a.call(Helper::Redirect);
    a.exit();
}
