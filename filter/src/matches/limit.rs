//! `-m limit`: a token bucket per rule.
//!
//! The bucket belongs to the rule, as what is left of a [`super::quota`] does: full when the rule is
//! loaded, kept when rules around it change.

use std::fmt::{self, Write as _};
use std::sync::{Mutex, PoisonError};

use tidegate_packet::Instant;

use crate::diagnostic::{Outcome, Refusal};
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, value};
use crate::lex::Word;
use crate::values::{parse_number, save_option};

pub(crate) static SPEC: MatchSpec = MatchSpec {
    options: &[value(&["limit"]), value(&["limit-burst"])],
    ..Spec::new("limit", build)
};

/// Periods are in ten-thousandths of a second, in the kernel and so in what is printed.
const SCALE: u64 = 10_000;
const NANOS_PER_UNIT: u64 = 100_000;
const DEFAULT_BURST: u64 = 5;
const UNITS: [(&str, u64); 4] =
    [("day", SCALE * 86_400), ("hour", SCALE * 3_600), ("min", SCALE * 60), ("sec", SCALE)];
/// The kernel counts credits in 32 bits, 128 for a jiffy of 4 ms, so that a bucket holds no more
/// than about a day and a half.
const CREDITS_PER_UNIT: (u64, u64) = (32_000, SCALE);

#[derive(Debug)]
struct Limit {
    /// Time between two packets.
    period: u64,
    burst: u64,
    bucket: Mutex<Option<Bucket>>,
}

#[derive(Copy, Clone, Debug)]
struct Bucket {
    /// In nanoseconds: a packet costs one period.
    credit: u64,
    at: Instant,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    let period = match given.value("limit") {
        Some((word, _)) => period(word)?,
        None => SCALE * 3_600 / 3,
    };
    let burst = match given.value("limit-burst") {
        Some((word, _)) => word.number(0..=10_000)?,
        None => DEFAULT_BURST,
    };
    let (credits, per) = CREDITS_PER_UNIT;
    if burst == 0 || period * burst * credits / per > u64::from(u32::MAX) {
        return Err(given
            .wrong("the burst is zero or too large for this rate")
            .help("expected a smaller --limit-burst or a faster --limit")
            .refused(Refusal::Invalid));
    }
    Ok(Box::new(Limit { period, burst, bucket: Mutex::new(None) }))
}

/// `N[/unit]`, the unit by any beginning of its name.
fn period(word: &Word<'_>) -> Outcome<u64> {
    let bad = || {
        word.wrong(format!("bad rate `{}`", word.text))
            .help("expected N/second, N/minute, N/hour or N/day, at most 10000/second")
            .words(format!("bad rate \"{}\"'", word.text))
    };
    let (number, unit) = match word.text.split_once('/') {
        Some((number, unit)) => (number, unit.to_ascii_lowercase()),
        None => (&*word.text, "second".to_owned()),
    };
    let names = [
        ("second", SCALE),
        ("minute", SCALE * 60),
        ("hour", SCALE * 3_600),
        ("day", SCALE * 86_400),
    ];
    let (_, length) = names
        .into_iter()
        .find(|(name, _)| !unit.is_empty() && name.starts_with(&unit))
        .ok_or_else(bad)?;
    let rate = parse_number(number).filter(|n| *n > 0).ok_or_else(bad)?;
    match length / rate {
        0 => Err(bad()),
        period => Ok(period),
    }
}

/// A period as the rate it came from, in the largest unit that shows it well.
struct Rate(u64);

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let period = self.0;
        let rough = |length: u64| period > length || length / period < length % period;
        let next = UNITS.iter().skip(1).position(|(_, length)| rough(*length));
        let (name, length) = UNITS[next.unwrap_or(UNITS.len() - 1)];
        write!(f, "{}/{name}", length / period)
    }
}

impl Match for Limit {
    fn matches(&self, context: &mut Context<'_>) -> bool {
        let cost = self.period * NANOS_PER_UNIT;
        let cap = cost * self.burst;
        let now = context.query.now;
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let Bucket { credit, at } = bucket.unwrap_or(Bucket { credit: cap, at: now });
        let earned = u64::try_from(now.saturating_since(at).as_nanos()).unwrap_or(u64::MAX);
        let credit = credit.saturating_add(earned).min(cap);
        let passes = credit >= cost;
        if !context.dry {
            let credit = if passes { credit - cost } else { credit };
            *bucket = Some(Bucket { credit, at: at.max(now) });
        }
        passes
    }

    fn list(&self, out: &mut String, _style: Listing) {
        let Self { period, burst, .. } = self;
        // Writing to a string can't fail.
        let _ = write!(out, " limit: avg {} burst {burst}", Rate(*period));
    }

    fn save(&self, out: &mut String) {
        save_option(out, "limit", false, Rate(self.period));
        if self.burst != DEFAULT_BURST {
            save_option(out, "limit-burst", false, self.burst);
        }
    }
}
