//! `-m bpf`: a program in classic BPF that looks at the packet from its IP header on.

mod check;
mod program;

use std::fmt::Write as _;

use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, value};
use crate::lex::Word;
use crate::values::save_option;
use check::check;
use program::{Instruction, Program};

pub(crate) static SPEC: MatchSpec = MatchSpec {
    options: &[value(&["bytecode"]), value(&["object-pinned"])],
    ..Spec::new("bpf", build)
};

/// `XT_BPF_MAX_NUM_INSTR`.
const MAX_INSTRUCTIONS: usize = 64;

#[derive(Debug)]
struct Bpf {
    instructions: Vec<Instruction>,
    program: Program,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    if let Some((word, _)) = given.value("object-pinned") {
        return Err(word
            .wrong("programs that live in a kernel can't be run here")
            .help("expected --bytecode"));
    }
    let (word, _) = given.required("bytecode")?;
    let instructions = read(word)?;
    let program = check(&instructions).map_err(|why| word.wrong(why))?;
    Ok(Box::new(Bpf { instructions, program }))
}

/// `N,code jt jf k,code jt jf k…`, N of them, as `nfbpf_compile` and `tcpdump -ddd` write it. Numbers
/// too large for their field lose their upper bits, as sscanf has it.
fn read(word: &Word<'_>) -> Outcome<Vec<Instruction>> {
    let bad = |what: String| word.wrong(what).help("expected N,CODE JT JF K,… with N instructions");
    let mut parts = word.text.split(',');
    let len = parts.next().and_then(|mut text| number(&mut text).filter(|_| text.is_empty()));
    let Some(len) = len.filter(|len| (1..=MAX_INSTRUCTIONS as u64).contains(len)) else {
        return Err(bad(format!("expected a length of 1 to {MAX_INSTRUCTIONS}")));
    };
    let mut parts: Vec<_> = parts.collect();
    // A comma may stand behind the last one.
    if parts.last().is_some_and(|part| part.is_empty()) {
        parts.pop();
    }
    let mut instructions = Vec::new();
    for (n, mut part) in parts.into_iter().enumerate() {
        let mut next = || number(&mut part);
        let (Some(code), Some(jt), Some(jf), Some(k)) = (next(), next(), next(), next()) else {
            return Err(bad(format!("can't read instruction {n}")));
        };
        let (code, k) = (code as u16, k as u32);
        instructions.push(Instruction { code, jt: jt as u8, jf: jf as u8, k });
    }
    if instructions.len() as u64 != len {
        return Err(bad(format!("{} instructions where {len} were told", instructions.len())));
    }
    Ok(instructions)
}

/// Takes a decimal number off the front; one with a minus counts from the top.
fn number(text: &mut &str) -> Option<u64> {
    let rest = text.trim_start();
    let (negative, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest.strip_prefix('+').unwrap_or(rest)),
    };
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = rest[..digits].parse().ok()?;
    *text = &rest[digits..];
    Some(if negative { number.wrapping_neg() } else { number })
}

impl Bpf {
    fn text(&self) -> String {
        let mut out = String::new();
        for Instruction { code, jt, jf, k } in &self.instructions {
            let between = if out.is_empty() { "" } else { "," };
            let _ = write!(out, "{between}{code} {jt} {jf} {k}");
        }
        out
    }
}

impl Match for Bpf {
    fn matches(&self, context: &mut Context<'_>) -> bool {
        self.program.run(context) != 0
    }

    fn list(&self, out: &mut String, _: Listing) {
        let _ = write!(out, "match bpf {}", self.text());
    }

    fn save(&self, out: &mut String) {
        let text = format_args!("\"{},{}\"", self.instructions.len(), self.text()).to_string();
        save_option(out, "bytecode", false, text);
    }
}
