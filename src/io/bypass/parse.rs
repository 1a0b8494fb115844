//! What `decide` reads in a packet's headers, onto its stack: at least as strict as `engine/short/plain`.

use super::asm::{Alu::*, Asm, Helper, If::*, Label, Reg::*, Size::*};
use super::decide::{Exits, LINK, TCP, UDP, network, stack};
use super::layout::{self as at, context, fold, kind};
use super::window;
use tidegate_packet::{ethernet, ipv4, ipv6, protocol, tcp, udp};

/// Link, IPv6 and TCP header with options.
const MOST_HEADERS: i32 = (ethernet::HEADER_LEN + ipv6::HEADER_LEN + 60) as i32;
/// Link, IPv4 and UDP header.
const LEAST_HEADERS: i32 = (ethernet::HEADER_LEN + ipv4::MIN_HEADER_LEN + udp::HEADER_LEN) as i32;
pub(super) fn load_headers(a: &mut Asm, exits: &Exits) {
    let whole = a.label();
    a.load(Word, R4, R6, context::LEN);
    a.store(Word, FP, stack::LEN, R4);
    a.jump_if(R4, Lt, LEAST_HEADERS, exits.up);
    a.jump_if(R4, Le, MOST_HEADERS, whole);
    a.mov(R4, MOST_HEADERS);
    a.bind(whole);
    // The verifier wants to know what is there where a packet is shorter.
    for offset in (0..stack::ROOM).step_by(8) {
        a.store(Double, FP, stack::IP - 16 + offset, 0);
    }
    a.mov(R1, R6);
    a.mov(R2, 0);
    a.mov(R3, FP);
    a.alu(Add, R3, i32::from(stack::FRAME));
    a.call(Helper::LoadBytes);
    a.jump_if(R0, Ne, 0, exits.up);
}

/// `ip_rcv_core`'s checks, and nothing uncommon.
pub(super) fn v4(a: &mut Asm, exits: &Exits) {
    a.load(Byte, R0, FP, stack::IP);
    a.jump_if(R0, Ne, 0x45, exits.up);
    a.load(Half, R0, FP, stack::IP + 6);
    a.jump_if(R0, Set, network(0x3fff), exits.up);
    a.load(Byte, R0, FP, stack::IP + 8);
    a.jump_if(R0, Le, 1, exits.up);
    a.mov(R0, 0);
    for word in 0..5 {
        a.load(Word, R1, FP, stack::IP + 4 * word);
        a.alu(Add, R0, R1);
    }
    fold(a, R0, R1);
    a.jump_if(R0, Ne, 0xffff, exits.up);
    a.load(Byte, R7, FP, stack::IP + 9);
    a.load(Half, R9, FP, stack::IP + 2);
    a.network(R9, 16);
    for (to, from) in [(at::KEY_SRC, 12), (at::KEY_DST, 16)] {
        let to = stack::KEY + to;
        a.load(Word, R0, FP, stack::IP + from);
        a.store(Word, FP, to, R0);
        a.store(Word, FP, to + 4, 0);
        a.store(Double, FP, to + 8, 0);
    }
}

/// `ip6_rcv_core`'s checks, and nothing uncommon: the protocol's own header comes next.
pub(super) fn v6(a: &mut Asm, exits: &Exits) {
    a.load(Byte, R0, FP, stack::IP);
    a.alu(Rsh, R0, 4);
    a.jump_if(R0, Ne, 6, exits.up);
    a.load(Byte, R0, FP, stack::IP + 7);
    a.jump_if(R0, Le, 1, exits.up);
    a.load(Byte, R7, FP, stack::IP + 6);
    a.load(Half, R9, FP, stack::IP + 4);
    a.network(R9, 16);
    a.alu(Add, R9, ipv6::HEADER_LEN as i32);
    a.copy((FP, stack::KEY + at::KEY_SRC), (FP, stack::IP + 8), 32);
}

/// What stands behind an IP header of this length.
pub(super) fn transport(a: &mut Asm, header: i16, found: Label, exits: &Exits) {
    let version = if usize::from(header as u16) == ipv4::MIN_HEADER_LEN { 4 } else { 6 };
    let (is_tcp, is_udp) = (a.label(), a.label());
    a.store(Word, FP, stack::TOTAL, R9);
    // The link's padding may follow, but all of the packet must be there.
    a.load(Word, R0, FP, stack::LEN);
    a.alu(Sub, R0, LINK);
    a.jump_if(R9, Gt, R0, exits.up);
    a.mov(R5, R9);
    a.alu(Sub, R5, i32::from(header));
    a.store(Word, FP, stack::SEGMENT, R5);
    a.load(Word, R0, FP, stack::IP + header);
    a.store(Word, FP, stack::KEY + at::KEY_PORTS, R0);
    a.jump_if(R7, Eq, TCP, is_tcp);
    a.jump_if(R7, Eq, UDP, is_udp);
    a.jump(exits.up);
    a.bind(is_tcp);
    a.store(Word, FP, stack::KEY + at::KEY_KIND, kind(version, protocol::TCP));
    tcp_header(a, header, found, exits);
    a.bind(is_udp);
    a.store(Word, FP, stack::KEY + at::KEY_KIND, kind(version, protocol::UDP));
    udp_header(a, header, found, exits);
}

/// `R5` is the segment's length.
fn udp_header(a: &mut Asm, header: i16, found: Label, exits: &Exits) {
    let start = stack::IP + header;
    a.jump_if(R5, SLt, udp::HEADER_LEN as i32, exits.up);
    a.load(Half, R0, FP, start + 4);
    a.network(R0, 16);
    a.jump_if(R0, Lt, udp::HEADER_LEN as i32, exits.up);
    a.jump_if(R0, Gt, R5, exits.up);
    a.load(Half, R0, FP, start + udp::CHECKSUM_AT as i16);
    a.store(Word, FP, stack::FIELD, R0);
    a.store(Word, FP, stack::HEADERS, i32::from(header) + udp::HEADER_LEN as i32);
    a.jump(found);
}

/// `R5` is the segment's length. Numbers, flags and options: what opens, ends or breaks a connection
/// goes up.
fn tcp_header(a: &mut Asm, header: i16, found: Label, exits: &Exits) {
    let start = stack::IP + header;
    a.jump_if(R5, SLt, tcp::MIN_HEADER_LEN as i32, exits.up);
    // R1: the header's length.
    a.load(Byte, R1, FP, start + 12);
    a.alu(Rsh, R1, 4);
    a.alu(Lsh, R1, 2);
    a.jump_if(R1, Lt, tcp::MIN_HEADER_LEN as i32, exits.up);
    a.jump_if(R1, Gt, R5, exits.up);
    const WITH_ANYTHING: u8 = tcp::PSH | tcp::ECE | tcp::CWR;
    a.load(Byte, R0, FP, start + 13);
    a.alu(And, R0, i32::from(!WITH_ANYTHING));
    a.jump_if(R0, Ne, i32::from(tcp::ACK), exits.up);
    a.mov(R0, R1);
    a.alu(Add, R0, i32::from(header));
    a.store(Word, FP, stack::HEADERS, R0);
    a.load(Word, R0, FP, start + 4);
    a.network(R0, 32);
    a.store(Word, FP, stack::SEQ, R0);
    a.alu32(Add, R0, R5);
    a.alu32(Sub, R0, R1);
    a.store(Word, FP, stack::END, R0);
    a.load(Word, R0, FP, start + 8);
    a.network(R0, 32);
    a.store(Word, FP, stack::ACK, R0);
    a.store(Word, FP, stack::SACK, R0);
    a.load(Half, R0, FP, start + 14);
    a.network(R0, 16);
    a.store(Word, FP, stack::WINDOW, R0);
    a.load(Half, R0, FP, start + tcp::CHECKSUM_AT as i16);
    a.store(Word, FP, stack::FIELD, R0);
    a.jump_if(R1, Eq, tcp::MIN_HEADER_LEN as i32, found);
    tcp_options(a, start + tcp::MIN_HEADER_LEN as i16, found, exits);
}

/// The layouts that are common once a connection stands: a time stamp, SACK blocks, or both, each
/// behind two NOPs. `R1` is the header's length.
fn tcp_options(a: &mut Asm, options: i16, found: Label, exits: &Exits) {
    /// NOP, NOP, time stamp, ten bytes; and two NOPs.
    const TIME_STAMP: u32 = u32::from_be_bytes([1, 1, 8, 10]).to_be();
    const NOPS: u16 = 0x0101_u16.to_be();
    let with_stamp = a.label();
    // As a register's lower half: the constant isn't sign-extended.
    a.load(Word, R0, FP, options);
    a.jump_if32(R0, Eq, TIME_STAMP as i32, with_stamp);
    for (stamp, blocks) in [(0, 4), (12, 3)] {
        if stamp != 0 {
            a.bind(with_stamp);
            a.jump_if(R1, Eq, tcp::MIN_HEADER_LEN as i32 + 12, found);
        }
        let option = options + stamp;
        a.load(Half, R0, FP, option);
        a.jump_if(R0, Ne, i32::from(NOPS), exits.up);
        a.load(Byte, R0, FP, option + 2);
        a.jump_if(R0, Ne, i32::from(tcp::OPT_SACK), exits.up);
        // R2: its length. Nothing follows it.
        a.load(Byte, R2, FP, option + 3);
        a.mov(R0, R2);
        a.alu(Add, R0, tcp::MIN_HEADER_LEN as i32 + i32::from(stamp) + 2);
        a.jump_if(R0, Ne, R1, exits.up);
        a.load(Word, R0, FP, stack::ACK);
        highest_edge(a, option + 4, blocks, exits);
        a.store(Word, FP, stack::SACK, R0);
        a.jump(found);
    }
}

/// `R0` becomes the right edge of the highest SACK block, if it is above `R0` (RFC 2018). `R2` is the
/// option's length.
fn highest_edge(a: &mut Asm, blocks_at: i16, blocks: i16, exits: &Exits) {
    let done = a.label();
    a.jump_if(R2, Le, 2, exits.up);
    a.mov(R3, R2);
    a.alu(Sub, R3, 2);
    a.jump_if(R3, Set, 7, exits.up);
    for block in 0..blocks {
        let lower = a.label();
        a.jump_if(R2, Lt, 2 + 8 * (i32::from(block) + 1), done);
        a.load(Word, R3, FP, blocks_at + 8 * block + 4);
        a.network(R3, 32);
        window::jump_unless_after(a, R3, R0, R4, lower);
        a.mov(R0, R3);
        a.bind(lower);
    }
    a.bind(done);
}
