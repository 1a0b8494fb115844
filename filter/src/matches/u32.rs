//! `-m u32`: comparisons of words anywhere in the packet, in a small language of their own.

use std::fmt::Write as _;

use crate::diagnostic::{Outcome, Problem};
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, value};
use crate::lex::Word;
use crate::values::{parse_number, save_name};

pub(crate) static SPEC: MatchSpec =
    MatchSpec { options: &[value(&["u32"]).inverts()], ..Spec::new("u32", build) };

/// `XT_U32_MAXSIZE`: tests, steps of a location, ranges of a value.
const MAX: usize = 10;

#[derive(Debug)]
struct U32 {
    tests: Vec<Test>,
    inverted: bool,
}

/// `location = value`.
#[derive(Debug)]
struct Test {
    start: u32,
    steps: Vec<(Step, u32)>,
    ranges: Vec<(u32, u32)>,
}

#[derive(Copy, Clone, Debug)]
enum Step {
    And,
    Left,
    Right,
    /// Move on by the value so far and read there.
    At,
}

const STEPS: [(&str, Step); 4] =
    [("<<", Step::Left), (">>", Step::Right), ("&", Step::And), ("@", Step::At)];

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    let (word, inverted) = given.required("u32")?;
    let mut reader = Reader { word, rest: word.text.trim_start() };
    let mut tests = Vec::new();
    loop {
        tests.push(reader.test()?);
        if tests.len() > MAX {
            return Err(word.wrong(format!("at most {MAX} tests")));
        }
        if reader.rest.is_empty() {
            return Ok(Box::new(U32 { tests, inverted }));
        }
        if !reader.takes("&&") {
            return Err(reader.wrong());
        }
    }
}

struct Reader<'a> {
    word: &'a Word<'a>,
    rest: &'a str,
}

impl Reader<'_> {
    fn wrong(&self) -> Problem {
        self.word
            .wrong(format!("can't read on at `{}`", self.rest))
            .help("expected tests such as 6&0xFF=1 && 4&0x1FFF=0")
    }

    fn takes(&mut self, token: &str) -> bool {
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest.trim_start();
                true
            }
            None => false,
        }
    }

    fn number(&mut self) -> Outcome<u32> {
        let len = self.rest.bytes().take_while(u8::is_ascii_alphanumeric).count();
        let (text, rest) = self.rest.split_at(len);
        let number = parse_number(text).filter(|_| len > 0).and_then(|n| u32::try_from(n).ok());
        let number = number.ok_or_else(|| self.wrong())?;
        self.rest = rest.trim_start();
        Ok(number)
    }

    fn test(&mut self) -> Outcome<Test> {
        let start = self.number()?;
        let mut steps = Vec::new();
        while !self.takes("=") {
            let token = STEPS.iter().find(|(token, _)| self.rest.starts_with(token));
            // Two ampersands would end a test that has no value yet.
            let Some((token, step)) = token.filter(|_| !self.rest.starts_with("&&")) else {
                return Err(self.wrong());
            };
            self.takes(token);
            steps.push((*step, self.number()?));
        }
        let mut ranges = Vec::new();
        loop {
            let low = self.number()?;
            let high = if self.takes(":") { self.number()? } else { low };
            ranges.push((low, high));
            if !self.takes(",") {
                break;
            }
        }
        if steps.len() >= MAX || ranges.len() > MAX {
            return Err(self.word.wrong(format!("at most {MAX} numbers or ranges in a test")));
        }
        Ok(Test { start, steps, ranges })
    }
}

impl Test {
    /// Reading outside of the packet is no match (xt_u32).
    fn holds(&self, bytes: &[u8]) -> bool {
        let read = |at: u64| -> Option<u32> {
            let at = usize::try_from(at).ok()?;
            let word = bytes.get(at..at.checked_add(4)?)?;
            Some(u32::from_be_bytes([word[0], word[1], word[2], word[3]]))
        };
        let mut base = 0u64;
        let Some(mut value) = read(self.start.into()) else { return false };
        for &(step, number) in &self.steps {
            value = match step {
                Step::And => value & number,
                Step::Left => value.checked_shl(number).unwrap_or(0),
                Step::Right => value.checked_shr(number).unwrap_or(0),
                Step::At => {
                    base += u64::from(value);
                    match read(base + u64::from(number)) {
                        Some(value) => value,
                        None => return false,
                    }
                }
            };
        }
        self.ranges.iter().any(|&(low, high)| low <= value && value <= high)
    }
}

impl Match for U32 {
    fn matches(&self, context: &mut Context<'_>) -> bool {
        let query = context.query;
        let bytes = query.bytes.get(..query.packet.len as usize).unwrap_or(query.bytes);
        self.tests.iter().all(|test| test.holds(bytes)) != self.inverted
    }

    fn list(&self, out: &mut String, _: Listing) {
        out.push_str(if self.inverted { " u32 !" } else { " u32" });
        self.write(out);
    }

    fn save(&self, out: &mut String) {
        save_name(out, "u32", self.inverted);
        self.write(out);
    }
}

impl U32 {
    /// The tests in quotes.
    fn write(&self, out: &mut String) {
        out.push_str(" \"");
        for (n, test) in self.tests.iter().enumerate() {
            let between = if n > 0 { "&&" } else { "" };
            let _ = write!(out, "{between}{:#x}", test.start);
            for (step, number) in &test.steps {
                let token = match step {
                    Step::And => "&",
                    Step::Left => "<<",
                    Step::Right => ">>",
                    Step::At => "@",
                };
                let _ = write!(out, "{token}{number:#x}");
            }
            out.push('=');
            for (n, (low, high)) in test.ranges.iter().enumerate() {
                let between = if n > 0 { "," } else { "" };
                let _ = write!(out, "{between}{low:#x}");
                if high != low {
                    let _ = write!(out, ":{high:#x}");
                }
            }
        }
        out.push('"');
    }
}
