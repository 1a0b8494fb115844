//! Classic BPF (McCanne and Jacobson 1993) as Linux runs it: an accumulator A, an index register X,
//! sixteen words of memory. Only [`super::check`] makes a program, so running it can't go wrong: jumps
//! lead forward and inside, the last step returns, memory is written before it is read.

use tidegate_packet::{Family, ethernet};

use crate::extension::Context;
use crate::query::LinkType;

/// An instruction as written.
#[derive(Copy, Clone, Debug)]
pub(super) struct Instruction {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

/// `BPF_MEMWORDS`.
pub(super) const MEMORY: usize = 16;
/// Offsets from here on count from the network header, where packets start anyway.
pub(super) const NETWORK_OFFSET: u32 = 0xfff0_0000;
/// Offsets from here on count from the link header.
pub(super) const LINK_OFFSET: u32 = 0xffe0_0000;

/// A program that has been checked.
#[derive(Debug)]
pub(super) struct Program(pub Vec<Step>);

/// What an instruction does.
#[derive(Copy, Clone, Debug)]
pub(super) enum Step {
    LoadA(Value),
    LoadX(Value),
    StoreA(usize),
    StoreX(usize),
    Compute(Operation, Operand),
    Negate,
    /// So many steps further.
    Jump(usize),
    Branch {
        test: Test,
        operand: Operand,
        yes: usize,
        no: usize,
    },
    Return(u32),
    ReturnA,
    CopyAToX,
    CopyXToA,
}

/// What can be loaded.
#[derive(Copy, Clone, Debug)]
pub(super) enum Value {
    Constant(u32),
    Memory(usize),
    /// The packet's length.
    Length,
    /// So many bytes of the packet, in network order.
    Absolute(u32, usize),
    /// The same, X further on.
    Indexed(u32, usize),
    /// Four times the lower half of a byte: the length of an IPv4 header.
    HeaderLength(u32),
    Ancillary(Ancillary),
}

/// What Linux knows of a packet beside its bytes.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Ancillary {
    /// EtherType.
    Protocol,
    /// To whom the frame was addressed.
    PacketType,
    Mark,
    Cpu,
    Random,
    /// A exclusive-or X.
    Xor,
}

#[derive(Copy, Clone, Debug)]
pub(super) enum Operation {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
    Or,
    And,
    Xor,
    Left,
    Right,
}

#[derive(Copy, Clone, Debug)]
pub(super) enum Test {
    Equal,
    Greater,
    GreaterOrEqual,
    AnyBit,
}

#[derive(Copy, Clone, Debug)]
pub(super) enum Operand {
    Constant(u32),
    X,
}

/// The registers.
struct Machine {
    a: u32,
    x: u32,
    memory: [u32; MEMORY],
}

impl Program {
    /// What the program returns; zero is no match. Loads from outside of the packet and divisions by
    /// zero end it with zero.
    pub fn run(&self, context: &mut Context<'_>) -> u32 {
        let mut machine = Machine { a: 0, x: 0, memory: [0; MEMORY] };
        let mut at = 0;
        while let Some(step) = self.0.get(at) {
            at += 1;
            match *step {
                Step::LoadA(value) => match machine.load(value, context) {
                    Some(value) => machine.a = value,
                    None => return 0,
                },
                Step::LoadX(value) => match machine.load(value, context) {
                    Some(value) => machine.x = value,
                    None => return 0,
                },
                Step::StoreA(to) => machine.memory[to] = machine.a,
                Step::StoreX(to) => machine.memory[to] = machine.x,
                Step::Compute(operation, operand) => {
                    match operation.on(machine.a, machine.value(operand)) {
                        Some(result) => machine.a = result,
                        None => return 0,
                    }
                }
                Step::Negate => machine.a = machine.a.wrapping_neg(),
                Step::Jump(distance) => at += distance,
                Step::Branch { test, operand, yes, no } => {
                    let holds = test.holds(machine.a, machine.value(operand));
                    at += if holds { yes } else { no };
                }
                Step::Return(value) => return value,
                Step::ReturnA => return machine.a,
                Step::CopyAToX => machine.x = machine.a,
                Step::CopyXToA => machine.a = machine.x,
            }
        }
        0
    }
}

impl Machine {
    fn value(&self, operand: Operand) -> u32 {
        match operand {
            Operand::Constant(k) => k,
            Operand::X => self.x,
        }
    }

    fn load(&self, value: Value, context: &mut Context<'_>) -> Option<u32> {
        let query = context.query;
        let bytes = query.bytes.get(..query.packet.len as usize).unwrap_or(query.bytes);
        Some(match value {
            Value::Constant(k) => k,
            Value::Memory(at) => self.memory[at],
            Value::Length => query.packet.len,
            Value::Absolute(at, width) => read(bytes, at, width)?,
            Value::Indexed(at, width) => read(bytes, self.x.wrapping_add(at), width)?,
            Value::HeaderLength(at) => (read(bytes, at, 1)? & 0xf) * 4,
            Value::Ancillary(what) => match what {
                Ancillary::Protocol => u32::from(match query.packet.family {
                    Family::V4 => ethernet::IPV4,
                    Family::V6 => ethernet::IPV6,
                }),
                Ancillary::PacketType => match query.link.map(|link| link.kind) {
                    None | Some(LinkType::Unicast) => 0,
                    Some(LinkType::Broadcast) => 1,
                    Some(LinkType::Multicast) => 2,
                },
                Ancillary::Mark => context.mark,
                Ancillary::Cpu => query.cpu,
                Ancillary::Random => context.random() as u32,
                Ancillary::Xor => self.a ^ self.x,
            },
        })
    }
}

fn read(bytes: &[u8], offset: u32, width: usize) -> Option<u32> {
    let offset = match offset {
        0..=0x7fff_ffff => offset,
        NETWORK_OFFSET.. => offset - NETWORK_OFFSET,
        _ => return None,
    };
    let at = usize::try_from(offset).ok()?;
    let found = bytes.get(at..at.checked_add(width)?)?;
    Some(found.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)))
}

impl Operation {
    fn on(self, a: u32, b: u32) -> Option<u32> {
        Some(match self {
            Self::Add => a.wrapping_add(b),
            Self::Subtract => a.wrapping_sub(b),
            Self::Multiply => a.wrapping_mul(b),
            Self::Divide => a.checked_div(b)?,
            Self::Modulo => a.checked_rem(b)?,
            Self::Or => a | b,
            Self::And => a & b,
            Self::Xor => a ^ b,
            // Only the lower five bits of X count.
            Self::Left => a.wrapping_shl(b),
            Self::Right => a.wrapping_shr(b),
        })
    }
}

impl Test {
    fn holds(self, a: u32, b: u32) -> bool {
        match self {
            Self::Equal => a == b,
            Self::Greater => a > b,
            Self::GreaterOrEqual => a >= b,
            Self::AnyBit => a & b != 0,
        }
    }
}
