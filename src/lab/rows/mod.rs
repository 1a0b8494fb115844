//! What the lab tries, and what the rules say must come of it.
//!
//! Both are told in the same words, so a row is right if the two texts are equal. With
//! `--reference` the kernel's own netfilter is the gateway: that all rows hold there too shows
//! that what they expect is the kernel's behaviour and not ours.

use std::fmt::Display;
use std::io;
use std::time::Duration;

use super::scene::Scene;
use super::traffic::{Answer, Asked};

mod errors;
mod inbound;
mod ipv6;
mod outbound;
mod refused;
mod speed;

/// Something to try.
pub struct Row {
    /// Rows of one section stand together.
    pub section: &'static str,
    /// What is tried.
    pub tried: String,
    /// Why the outcome must be so: the rules that decide.
    pub why: &'static str,
    /// The outcome.
    pub expected: String,
    act: Box<dyn Fn(&Scene) -> Seen + Send + Sync>,
}

/// What happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The outcome, in the words of [`Row::expected`].
    pub happened: String,
    /// What was measured, if anything was.
    pub figure: String,
}

impl Row {
    fn new(
        section: &'static str,
        tried: impl Into<String>,
        why: &'static str,
        expected: impl Into<String>,
        act: impl Fn(&Scene) -> Seen + Send + Sync + 'static,
    ) -> Self {
        let (tried, expected) = (tried.into(), expected.into());
        Self { section, tried, why, expected, act: Box::new(act) }
    }

    /// Tries it.
    pub fn run(&self, scene: &Scene) -> Seen {
        if let Some(status) = scene.gateway.exited() {
            return Seen::new(format!("the gateway is gone: {status}"));
        }
        (self.act)(scene)
    }
}

impl Seen {
    fn new(happened: impl Display) -> Self {
        Self { happened: happened.to_string(), figure: String::new() }
    }

    fn figure(mut self, figure: impl Display) -> Self {
        self.figure = figure.to_string();
        self
    }
}

impl From<io::Result<Answer>> for Seen {
    fn from(answer: io::Result<Answer>) -> Self {
        match answer {
            Ok(answer @ Answer::Reply { took, .. }) => Self::new(answer).figure(brief(took)),
            Ok(answer) => Self::new(answer),
            Err(e) => Self::new(format!("error: {e}")),
        }
    }
}

impl From<Asked> for Seen {
    fn from(asked: Asked) -> Self {
        match asked {
            Ok(exchange) => Self::new(&exchange).figure(brief(exchange.took)),
            Err(failure) => Self::new(failure),
        }
    }
}

/// A time as the table shows it.
fn brief(time: Duration) -> String {
    if time < Duration::from_millis(1) {
        format!("{} µs", time.as_micros())
    } else {
        format!("{:.1} ms", time.as_secs_f64() * 1e3)
    }
}

/// All rows in the order in which they are tried. Those that use up something (a `recent` list,
/// a path MTU that kernels remember) don't stand before those that need it.
pub fn all() -> Vec<Row> {
    let mut rows = outbound::rows();
    rows.extend(inbound::rows());
    rows.extend(refused::rows());
    rows.extend(errors::rows());
    rows.extend(ipv6::rows());
    rows.extend(speed::rows());
    rows
}
