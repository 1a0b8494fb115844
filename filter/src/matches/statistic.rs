//! `-m statistic`: a share of the packets, at random or every so many.
//!
//! The count of packets belongs to the rule, as what is left of a [`super::quota`] does: it starts when
//! the rule is loaded and goes on when rules around it change.

use std::sync::{Mutex, PoisonError};

use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, value};
use crate::values::{list_saved, save_option};

pub(crate) static SPEC: MatchSpec = MatchSpec {
    options: &[
        value(&["mode"]),
        value(&["probability"]).inverts(),
        value(&["every"]).inverts(),
        value(&["packet"]),
    ],
    ..Spec::new("statistic", build)
};

/// Certainty, in the kernel's units.
const ALWAYS: u32 = 0x8000_0000;

#[derive(Debug)]
enum Mode {
    Random {
        probability: u32,
    },
    Nth {
        every: u32,
        packet: u32,
        /// Packets since the last that was taken.
        count: Mutex<u32>,
    },
}

#[derive(Debug)]
struct Statistic {
    mode: Mode,
    inverted: bool,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    let (mode, _) = given.required("mode")?;
    let only =
        |other: &[&str]| match other.iter().find_map(|name| given.get(name)) {
            Some(option) => Err(mode
                .wrong(format!("--{} doesn't go with --mode {}", option.opt.names[0], mode.text))),
            None => Ok(()),
        };
    match &*mode.text {
        "random" => {
            only(&["every", "packet"])?;
            let (word, inverted) = given.required("probability")?;
            let share: Option<f64> = word.text.trim_start().parse().ok();
            let Some(share) = share.filter(|p| (0.0..=1.0).contains(p)) else {
                return Err(word
                    .wrong(format!("bad probability `{}`", word.text))
                    .help("expected 0 to 1"));
            };
            let probability = (share * f64::from(ALWAYS)).round() as u32;
            Ok(Box::new(Statistic { mode: Mode::Random { probability }, inverted }))
        }
        "nth" => {
            only(&["probability"])?;
            let (word, inverted) = given.required("every")?;
            let every = word.number(1..=u64::from(u32::MAX))? as u32;
            let packet = match given.value("packet") {
                Some((word, _)) => word.number(0..=u64::from(every - 1))? as u32,
                None => 0,
            };
            // So that the packet of that number, counted from zero, is the first to be taken.
            let mode = Mode::Nth { every, packet, count: Mutex::new(every - 1 - packet) };
            Ok(Box::new(Statistic { mode, inverted }))
        }
        other => Err(mode.wrong(format!("unknown mode `{other}`")).help("expected random or nth")),
    }
}

impl Match for Statistic {
    fn matches(&self, context: &mut Context<'_>) -> bool {
        let taken = match &self.mode {
            Mode::Random { probability } => (context.random() >> 33) < u64::from(*probability),
            Mode::Nth { every, count, .. } => {
                let mut count = count.lock().unwrap_or_else(PoisonError::into_inner);
                let next = if *count + 1 >= *every { 0 } else { *count + 1 };
                if !context.dry {
                    *count = next;
                }
                next == 0
            }
        };
        taken != self.inverted
    }

    fn list(&self, out: &mut String, _: Listing) {
        out.push_str(" statistic");
        list_saved(out, |out| self.save_as(out, false));
    }

    fn save(&self, out: &mut String) {
        self.save_as(out, true);
    }
}

impl Statistic {
    /// The options; the number of the first packet perhaps only where it isn't zero.
    fn save_as(&self, out: &mut String, with_zero: bool) {
        match self.mode {
            Mode::Random { probability } => {
                save_option(out, "mode", false, "random");
                let share = f64::from(probability) / f64::from(ALWAYS);
                save_option(out, "probability", self.inverted, format_args!("{share:.11}"));
            }
            Mode::Nth { every, packet, .. } => {
                save_option(out, "mode", false, "nth");
                save_option(out, "every", self.inverted, every);
                if packet != 0 || with_zero {
                    save_option(out, "packet", false, packet);
                }
            }
        }
    }
}
