//! What a program in classic BPF has to keep to (`bpf_check_classic`), and its translation.

use super::program::{
    Ancillary, Instruction, LINK_OFFSET, MEMORY, NETWORK_OFFSET, Operand, Operation, Program, Step,
    Test, Value,
};

/// Offsets from here on ask for what Linux knows beside the bytes.
const ANCILLARY_OFFSET: u32 = 0xffff_f000;

/// The program, or what is wrong with it.
pub(super) fn check(instructions: &[Instruction]) -> Result<Program, String> {
    let mut steps = Vec::new();
    for (n, instruction) in instructions.iter().enumerate() {
        let step = step(*instruction).map_err(|why| format!("instruction {n}: {why}"))?;
        let behind = instructions.len() - n - 1;
        let inside = match step {
            Step::Jump(distance) => distance < behind,
            Step::Branch { yes, no, .. } => yes < behind && no < behind,
            _ => true,
        };
        if !inside {
            return Err(format!("instruction {n}: jumps out of the program"));
        }
        steps.push(step);
    }
    if !matches!(steps.last(), Some(Step::Return(_) | Step::ReturnA)) {
        return Err("the program doesn't end with a return".to_owned());
    }
    memory_is_written_first(&steps)?;
    Ok(Program(steps))
}

/// Whatever way leads to a load from memory, the word must have been stored.
fn memory_is_written_first(steps: &[Step]) -> Result<(), String> {
    // A bit for each word that is written on every way to a step.
    let mut on_all_ways = vec![u16::MAX; steps.len()];
    let mut written = 0u16;
    for (n, step) in steps.iter().enumerate() {
        written &= on_all_ways[n];
        let mut leads = |distance: usize| {
            if let Some(there) = on_all_ways.get_mut(n + 1 + distance) {
                *there &= written;
            }
        };
        match *step {
            Step::StoreA(at) | Step::StoreX(at) => written |= 1 << at,
            Step::LoadA(Value::Memory(at)) | Step::LoadX(Value::Memory(at))
                if written >> at & 1 == 0 =>
            {
                return Err(format!("instruction {n}: reads memory that wasn't written"));
            }
            Step::Jump(distance) => {
                leads(distance);
                written = u16::MAX;
            }
            Step::Branch { yes, no, .. } => {
                leads(yes);
                leads(no);
                written = u16::MAX;
            }
            Step::Return(_) | Step::ReturnA => written = u16::MAX,
            _ => {}
        }
    }
    Ok(())
}

fn step(instruction: Instruction) -> Result<Step, String> {
    let Instruction { code, jt, jf, k } = instruction;
    let unknown = || format!("unknown code {code}");
    let by_x = code & 0x08 != 0;
    let operand = if by_x { Operand::X } else { Operand::Constant(k) };
    let memory = || usize::try_from(k).ok().filter(|at| *at < MEMORY).ok_or("no such memory");
    Ok(match code {
        0x00 => Step::LoadA(Value::Constant(k)),
        0x01 => Step::LoadX(Value::Constant(k)),
        0x60 => Step::LoadA(Value::Memory(memory()?)),
        0x61 => Step::LoadX(Value::Memory(memory()?)),
        0x80 => Step::LoadA(Value::Length),
        0x81 => Step::LoadX(Value::Length),
        0x20 | 0x28 | 0x30 if k >= ANCILLARY_OFFSET => {
            Step::LoadA(Value::Ancillary(ancillary(k - ANCILLARY_OFFSET)?))
        }
        0x20 => Step::LoadA(Value::Absolute(offset(k)?, 4)),
        0x28 => Step::LoadA(Value::Absolute(offset(k)?, 2)),
        0x30 => Step::LoadA(Value::Absolute(offset(k)?, 1)),
        0x40 => Step::LoadA(Value::Indexed(offset(k)?, 4)),
        0x48 => Step::LoadA(Value::Indexed(offset(k)?, 2)),
        0x50 => Step::LoadA(Value::Indexed(offset(k)?, 1)),
        0xb1 => Step::LoadX(Value::HeaderLength(offset(k)?)),
        0x02 => Step::StoreA(memory()?),
        0x03 => Step::StoreX(memory()?),
        0x06 => Step::Return(k),
        0x16 => Step::ReturnA,
        0x07 => Step::CopyAToX,
        0x87 => Step::CopyXToA,
        0x84 => Step::Negate,
        0x05 => Step::Jump(usize::try_from(k).map_err(|_| unknown())?),
        _ if code > 0xff => return Err(unknown()),
        _ if code & 0x07 == 0x04 => {
            let operation = operation(code).ok_or_else(unknown)?;
            match (operation, by_x, k) {
                (Operation::Divide | Operation::Modulo, false, 0) => {
                    return Err("divides by zero".to_owned());
                }
                (Operation::Left | Operation::Right, false, 32..) => {
                    return Err("shifts by more than 31".to_owned());
                }
                _ => Step::Compute(operation, operand),
            }
        }
        _ if code & 0x07 == 0x05 => {
            let test = match code & 0xf0 {
                0x10 => Test::Equal,
                0x20 => Test::Greater,
                0x30 => Test::GreaterOrEqual,
                0x40 => Test::AnyBit,
                _ => return Err(unknown()),
            };
            Step::Branch { test, operand, yes: jt.into(), no: jf.into() }
        }
        _ => return Err(unknown()),
    })
}

fn operation(code: u16) -> Option<Operation> {
    Some(match code & 0xf0 {
        0x00 => Operation::Add,
        0x10 => Operation::Subtract,
        0x20 => Operation::Multiply,
        0x30 => Operation::Divide,
        0x40 => Operation::Or,
        0x50 => Operation::And,
        0x60 => Operation::Left,
        0x70 => Operation::Right,
        0x90 => Operation::Modulo,
        0xa0 => Operation::Xor,
        _ => return None,
    })
}

/// Rules have nothing of the link header but its addresses.
fn offset(k: u32) -> Result<u32, String> {
    match k {
        LINK_OFFSET..NETWORK_OFFSET => {
            Err("reads the link header, which rules don't see".to_owned())
        }
        _ => Ok(k),
    }
}

/// By `SKF_AD_*`.
fn ancillary(at: u32) -> Result<Ancillary, String> {
    Ok(match at {
        0 => Ancillary::Protocol,
        4 => Ancillary::PacketType,
        20 => Ancillary::Mark,
        36 => Ancillary::Cpu,
        40 => Ancillary::Xor,
        56 => Ancillary::Random,
        8 | 12 | 16 | 24 | 28 | 32 | 44 | 48 | 52 | 60 => {
            return Err(format!("what Linux keeps of a packet at {at} isn't there here"));
        }
        _ => return Err(format!("unknown ancillary value {at}")),
    })
}
