//! A random case in parts that can be taken out one by one, and its text.

use crate::case::{self, Case};
use std::fmt::Write as _;
use std::path::Path;

/// A case before it is text.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// Its number: the same one makes the same case.
    pub seed: u64,
    /// IPv4's and IPv6's tables.
    pub rules: [Vec<Table>; 2],
    /// Sysctls besides the one that every case has.
    pub sysctls: Vec<String>,
    /// Frames, in order.
    pub steps: Vec<Step>,
    /// What `scripts/oracle` is told besides the seed.
    pub mode: &'static str,
    /// Connections are compared after every step.
    pub listed: bool,
}

/// One table.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// Built-in chains and whether they drop.
    pub policies: Vec<(&'static str, bool)>,
    /// One's own chains.
    pub chains: Vec<String>,
    /// Rules of all chains, in order.
    pub rules: Vec<Rule>,
}

/// One rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Where it stands.
    pub chain: String,
    /// Conditions; each can be left out by itself.
    pub parts: Vec<String>,
    /// `-j …`, `-g …`, or empty.
    pub target: String,
}

/// A frame, so many times.
#[derive(Clone, Debug)]
pub struct Step {
    /// How many times.
    pub times: u32,
    /// Where it arrives.
    pub interface: &'static str,
    /// Its layers, from the outside in.
    pub layers: Vec<Layer>,
    /// A line that belongs behind it: a variable, or a while that passes.
    pub then: Option<String>,
}

/// A layer of a frame.
#[derive(Clone, Debug)]
pub struct Layer {
    /// What must be said of it.
    pub head: String,
    /// What else is said of it; each can be left out by itself.
    pub options: Vec<String>,
}

impl Layer {
    /// A layer without options.
    pub fn new(head: impl Into<String>) -> Self {
        Self { head: head.into(), options: Vec::new() }
    }

    /// The same with an option more.
    pub fn with(mut self, option: impl Into<String>) -> Self {
        self.options.push(option.into());
        self
    }
}

impl Model {
    /// The case, as a file would have it.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(
            text,
            "== seed_{}: found by scripts/oracle{} --seed {0}",
            self.seed, self.mode
        );
        for (name, tables) in ["rules4", "rules6"].into_iter().zip(&self.rules) {
            if !tables.is_empty() {
                let _ = writeln!(text, "{name} <<");
                tables.iter().for_each(|table| table.write(&mut text));
                text.push_str("end\n");
            }
        }
        // The one difference that is there on purpose for every rule with source NAT.
        text.push_str("lenient\nsysctl tidegate.invalid_bypasses_nat=1\n");
        if self.listed {
            text.push_str("listed\n");
        }
        for sysctl in &self.sysctls {
            let _ = writeln!(text, "sysctl {sysctl}");
        }
        for step in &self.steps {
            step.write(&mut text);
        }
        text
    }

    /// The case.
    pub fn case(&self) -> Result<Case, String> {
        let cases = case::parse(Path::new("random.case"), &self.text(), Path::new(""))?;
        cases.into_iter().next().ok_or_else(|| "no case".to_owned())
    }
}

impl Table {
    fn write(&self, text: &mut String) {
        let _ = writeln!(text, "*{}", self.name);
        for (chain, drops) in &self.policies {
            let _ = writeln!(text, ":{chain} {} [0:0]", if *drops { "DROP" } else { "ACCEPT" });
        }
        for chain in &self.chains {
            let _ = writeln!(text, ":{chain} - [0:0]");
        }
        for rule in &self.rules {
            text.push_str(&format!("-A {}", rule.chain));
            for part in rule.parts.iter().chain(Some(&rule.target)).filter(|p| !p.is_empty()) {
                let _ = write!(text, " {part}");
            }
            text.push('\n');
        }
        text.push_str("COMMIT\n");
    }
}

impl Step {
    fn write(&self, text: &mut String) {
        if self.times > 1 {
            let _ = write!(text, "{}x ", self.times);
        }
        let _ = write!(text, "{}: ", self.interface);
        for (at, layer) in self.layers.iter().enumerate() {
            text.push_str(if at > 0 { " | " } else { "" });
            text.push_str(&layer.head);
            for option in &layer.options {
                let _ = write!(text, " {option}");
            }
        }
        text.push('\n');
        if let Some(then) = &self.then {
            let _ = writeln!(text, "{then}");
        }
    }
}
