//! An assembler for eBPF
//! (<https://docs.kernel.org/bpf/standardization/instruction-set.html>): instructions are appended
//! by methods, jumps go to labels.

use super::super::bpf::Instruction;
use Reg::*;
use std::os::fd::{AsRawFd, BorrowedFd};

/// A register. `R0` is for results, `R1` to `R5` for arguments (a call spoils them), `R6` to `R9`
/// stay, and `FP` is the end of the stack.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Reg {
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    FP,
}

/// How much is loaded or stored.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Size {
    Word = 0x00,
    Half = 0x08,
    Byte = 0x10,
    Double = 0x18,
}

/// A register or a number.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Operand {
    Reg(Reg),
    Immediate(i32),
}

impl From<Reg> for Operand {
    fn from(reg: Reg) -> Self {
        Self::Reg(reg)
    }
}

impl From<i32> for Operand {
    fn from(n: i32) -> Self {
        Self::Immediate(n)
    }
}

/// Arithmetic.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Alu {
    Add = 0x00,
    Sub = 0x10,
    Mul = 0x20,
    Or = 0x40,
    And = 0x50,
    Lsh = 0x60,
    Rsh = 0x70,
    Xor = 0xa0,
    Mov = 0xb0,
}

/// Comparisons; `S` of signed numbers.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum If {
    Eq = 0x10,
    Gt = 0x20,
    /// Bits in common.
    Set = 0x40,
    Ne = 0x50,
    SGt = 0x60,
    SGe = 0x70,
    Lt = 0xa0,
    Le = 0xb0,
    SLt = 0xc0,
}

/// Functions of the kernel (`enum bpf_func_id`).
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum Helper {
    MapLookup = 1,
    L4ChecksumReplace = 11,
    Redirect = 23,
    LoadBytes = 26,
    ChangeTail = 38,
    PullData = 39,
    ChecksumUpdate = 40,
    CoarseTime = 160,
}

/// A place in the program.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct Label(usize);

/// A program in the making.
#[derive(Debug, Default)]
pub(super) struct Asm {
    code: Vec<Instruction>,
    labels: Vec<Option<usize>>,
    jumps: Vec<(usize, Label)>,
}

const ALU32: u8 = 0x04;
const JUMP: u8 = 0x05;
const JUMP32: u8 = 0x06;
const ALU64: u8 = 0x07;
const MEMORY: u8 = 0x60;
const ATOMIC: u8 = 0xc0;

impl Asm {
    fn put(&mut self, code: u8, dst: Reg, src: Reg, offset: i16, immediate: i32) {
        let (dst, src) = (dst as u8, src as u8);
        // A C bit-field: the first lies low where the machine is little-endian.
        let registers =
            if cfg!(target_endian = "little") { src << 4 | dst } else { dst << 4 | src };
        self.code.push(Instruction { code, registers, offset, immediate });
    }

    /// `code` with the operand as its kind wants it.
    fn put_operand(&mut self, code: u8, dst: Reg, operand: Operand, offset: i16) {
        const REGISTER: u8 = 0x08;
        match operand {
            Operand::Reg(src) => self.put(code | REGISTER, dst, src, offset, 0),
            Operand::Immediate(n) => self.put(code, dst, R0, offset, n),
        }
    }

    /// `dst = operand`.
    pub fn mov(&mut self, dst: Reg, operand: impl Into<Operand>) {
        self.alu(Alu::Mov, dst, operand);
    }

    /// `dst op= operand`, 64 bits; a number is extended by its sign.
    pub fn alu(&mut self, op: Alu, dst: Reg, operand: impl Into<Operand>) {
        self.put_operand(ALU64 | op as u8, dst, operand.into(), 0);
    }

    /// `dst op= operand`, 32 bits; the upper half becomes zero.
    pub fn alu32(&mut self, op: Alu, dst: Reg, operand: impl Into<Operand>) {
        self.put_operand(ALU32 | op as u8, dst, operand.into(), 0);
    }

    /// Swaps between the machine's order and the network's; the bits above `bits` become zero.
    pub fn network(&mut self, dst: Reg, bits: i32) {
        const END_TO_BE: u8 = 0xd8;
        self.put(ALU32 | END_TO_BE, dst, R0, 0, bits);
    }

    /// `dst = base[offset]`; the bits above become zero.
    pub fn load(&mut self, size: Size, dst: Reg, base: Reg, offset: i16) {
        const LDX: u8 = 0x01;
        self.put(LDX | MEMORY | size as u8, dst, base, offset, 0);
    }

    /// `base[offset] = operand`.
    pub fn store(&mut self, size: Size, base: Reg, offset: i16, operand: impl Into<Operand>) {
        const ST: u8 = 0x02;
        const STX: u8 = 0x03;
        match operand.into() {
            Operand::Reg(src) => self.put(STX | MEMORY | size as u8, base, src, offset, 0),
            Operand::Immediate(n) => self.put(ST | MEMORY | size as u8, base, R0, offset, n),
        }
    }

    /// Copies `bytes` (a multiple of four) from one memory to another by way of `R0`.
    pub fn copy(&mut self, to: (Reg, i16), from: (Reg, i16), bytes: i16) {
        let mut at = 0;
        while at < bytes {
            let size = if bytes - at >= 8 { Size::Double } else { Size::Word };
            self.load(size, R0, from.0, from.1 + at);
            self.store(size, to.0, to.1 + at, R0);
            at += if bytes - at >= 8 { 8 } else { 4 };
        }
    }

    /// If the word `base[offset]` is `R0`, it becomes `src`; `R0` becomes what it was. Orders as a
    /// full barrier.
    pub fn compare_exchange(&mut self, base: Reg, offset: i16, src: Reg) {
        const CMPXCHG: i32 = 0xf1;
        self.put(ATOMIC | Size::Word as u8 | 0x03, base, src, offset, CMPXCHG);
    }

    /// Stores a word behind all that was loaded and stored before. Spoils `src`.
    pub fn store_release(&mut self, base: Reg, offset: i16, src: Reg) {
        const XCHG: i32 = 0xe1;
        if cfg!(target_arch = "x86_64") {
            // Every store is.
            self.store(Size::Word, base, offset, src);
        } else {
            self.put(ATOMIC | Size::Word as u8 | 0x03, base, src, offset, XCHG);
        }
    }

    /// `dst` becomes a map, for a helper.
    pub fn map(&mut self, dst: Reg, map: BorrowedFd<'_>) {
        const PSEUDO_MAP_FD: Reg = R1;
        self.wide(dst, PSEUDO_MAP_FD, map.as_raw_fd());
    }

    /// `dst` becomes the address of an array's only element.
    pub fn map_value(&mut self, dst: Reg, map: BorrowedFd<'_>) {
        const PSEUDO_MAP_VALUE: Reg = R2;
        self.wide(dst, PSEUDO_MAP_VALUE, map.as_raw_fd());
    }

    fn wide(&mut self, dst: Reg, kind: Reg, low: i32) {
        const LD_DOUBLE: u8 = 0x18;
        self.put(LD_DOUBLE, dst, kind, 0, low);
        self.put(0, R0, R0, 0, 0);
    }

    /// Calls a helper.
    pub fn call(&mut self, helper: Helper) {
        self.put(JUMP | 0x80, R0, R0, 0, helper as i32);
    }

    /// Ends the program; `R0` is the result.
    pub fn exit(&mut self) {
        self.put(JUMP | 0x90, R0, R0, 0, 0);
    }

    /// A label that is not bound yet.
    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// The label is here.
    pub fn bind(&mut self, label: Label) {
        assert!(self.labels[label.0].is_none(), "bound twice");
        self.labels[label.0] = Some(self.code.len());
    }

    /// A label that is here.
    pub fn here(&mut self) -> Label {
        let label = self.label();
        self.bind(label);
        label
    }

    /// Goes on at the label.
    pub fn jump(&mut self, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.put(JUMP, R0, R0, 0, 0);
    }

    /// Goes on at the label if all 64 bits compare so.
    pub fn jump_if(&mut self, dst: Reg, how: If, operand: impl Into<Operand>, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.put_operand(JUMP | how as u8, dst, operand.into(), 0);
    }

    /// Goes on at the label if the lower 32 bits compare so.
    pub fn jump_if32(&mut self, dst: Reg, how: If, operand: impl Into<Operand>, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.put_operand(JUMP32 | how as u8, dst, operand.into(), 0);
    }

    /// The program.
    pub fn finish(mut self) -> Vec<Instruction> {
        for (at, label) in self.jumps {
            let target = self.labels[label.0].expect("every label is bound");
            // Offsets count from the next instruction.
            let offset = target as isize - at as isize - 1;
            self.code[at].offset = offset.try_into().expect("programs are short");
        }
        self.code
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(code: u8, registers: u8, offset: i16, immediate: i32) -> Instruction {
        Instruction { code, registers, offset, immediate }
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn instructions_are_as_the_standard_has_them() {
        let mut a = Asm::default();
        let (back, end) = (a.here(), a.label());
        a.mov(R3, R1);
        a.mov(R0, -1);
        a.alu32(Alu::Add, R4, 7);
        a.load(Size::Half, R2, FP, -8);
        a.store(Size::Double, R6, 16, 5);
        a.store(Size::Byte, R6, 16, R7);
        a.network(R2, 16);
        a.jump_if32(R2, If::SLt, R3, back);
        a.jump_if(R2, If::Set, 4, end);
        a.call(Helper::LoadBytes);
        a.compare_exchange(R7, 4, R2);
        a.bind(end);
        a.exit();
        let want = [
            one(0xbf, 0x13, 0, 0),
            one(0xb7, 0x00, 0, -1),
            one(0x04, 0x04, 0, 7),
            one(0x69, 0xa2, -8, 0),
            one(0x7a, 0x06, 16, 5),
            one(0x73, 0x76, 16, 0),
            one(0xdc, 0x02, 0, 16),
            one(0xce, 0x32, -8, 0),
            one(0x45, 0x02, 2, 4),
            one(0x85, 0x00, 0, 26),
            one(0xc3, 0x27, 4, 0xf1),
            one(0x95, 0x00, 0, 0),
        ];
        assert_eq!(a.finish(), want);
    }
}
