//! The state of a running gateway: saved at its end, now and then, and when asked; restored at its
//! start and when asked.

use crate::config;
use crate::control::Restore;
use crate::diagnostic::{Diagnostic, Report, Severity, Source, Style};
use crate::engine::Engine;
use crate::gateway::Gateway;
use crate::rules;
use crate::state::{self, Moment, Snapshot, State};
use crate::worker::{Clock, unix_nanos};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tidegate_filter::live::{self, Answer, Call, Change, Present};
use tidegate_filter::{Counters, Ruleset, Sets};
use tidegate_packet::{Family, Instant};

/// Knows what the rules in force came from, and keeps them.
#[derive(Clone)]
pub(super) struct Keeper {
    gateway: Gateway,
    clock: Clock,
    /// Of the rules files as they were read last. Taken while the engine is locked.
    fingerprints: Arc<Mutex<[u64; 2]>>,
    sets: Sets,
}

impl Keeper {
    pub fn new(gateway: Gateway, clock: Clock, fingerprints: [u64; 2], sets: Sets) -> Self {
        Self { gateway, clock, fingerprints: Arc::new(Mutex::new(fingerprints)), sets }
    }

    fn moment(&self) -> Moment {
        Moment { now: self.clock.now(), unix_nanos: unix_nanos() }
    }

    /// Rules files were read again; the engine is locked.
    pub fn loaded(&self, _: &Engine, fingerprints: [u64; 2]) {
        *self.fingerprints.lock().unwrap_or_else(PoisonError::into_inner) = fingerprints;
    }

    /// At the start, before packets come.
    pub fn restore(&self, state: State) {
        let fingerprints = *self.fingerprints.lock().unwrap_or_else(PoisonError::into_inner);
        let moment = self.moment();
        let dropped = self.gateway.change(|engine| state.restore(engine, fingerprints, moment));
        for family in dropped {
            tracing::warn!(
                ?family,
                "the rules file has changed since the state was saved: it wins, and rules that were \
                 changed by command are dropped"
            );
        }
    }

    /// The state as text.
    pub fn text(&self) -> String {
        let sets = self.sets.save(self.clock.now());
        let snapshot = {
            let engine = self.gateway.settled();
            let fingerprints = *self.fingerprints.lock().unwrap_or_else(PoisonError::into_inner);
            Snapshot::take(&engine, fingerprints, sets, self.moment())
        };
        snapshot.text(&crate::ctime::now())
    }

    /// Writes the file.
    pub fn save(&self, to: &config::State) {
        let path = to.file.display();
        match state::write(&to.file, &self.text()) {
            Ok(()) => tracing::debug!(%path, "state saved"),
            Err(error) => tracing::error!(%path, %error, "the state can't be saved"),
        }
    }

    /// `tidegate restore`: all rules or none. A state's sets are put among those in force first, since
    /// rules name them, and stay if the rules then fail. The caller lets nobody else change rules.
    pub fn restore_live(
        &self,
        inputs: &[Restore],
        options: RestoreOptions,
    ) -> Result<String, String> {
        let mut wanted = Wanted::default();
        for input in inputs {
            wanted
                .read(input, options, &self.sets)
                .map_err(|report| report.render(Style::PLAIN))?;
        }
        for family in [Family::V4, Family::V6] {
            let saved = wanted.states.iter().any(|state| state.rules_text(family).is_some());
            if saved && !wanted.texts[family as usize].is_empty() {
                return Err(format!("there are two sets of {family:?} rules"));
            }
        }
        for sets in wanted.states.iter().filter_map(State::sets) {
            // They were read on their own above; here they meet those that are there.
            let args = ["restore".to_owned(), "-exist".to_owned()];
            let answer = self.sets.call(&args, sets, self.clock.now());
            self.gateway.sets_changed();
            if answer.status != 0 {
                return Err(answer.err);
            }
        }
        loop {
            let mut changes = Vec::new();
            for (family, text, counted) in wanted.texts() {
                let (base, counters) = self.gateway.settled().rules_in_force().snapshot(family);
                let change = restored(&base, &counters, text, counted, options)?;
                changes.extend(change.map(|change| (base, change, counters)));
            }
            let moment = self.moment();
            // Old rules are taken apart when nobody waits any more.
            let mut old = Vec::new();
            let done = self.gateway.change(|engine| {
                // A reload may have come between.
                if !changes.iter().all(|(base, ..)| engine.rules_in_force().has(base)) {
                    return false;
                }
                for (base, change, counters) in changes {
                    // It is in force: that was just looked at, and the engine is locked since.
                    old.extend(engine.change_rules(&base, change, &counters));
                    old.push(base);
                }
                for state in &wanted.states {
                    state.restore_recent(engine, moment);
                }
                true
            });
            if done {
                return Ok(std::mem::take(&mut wanted.warnings));
            }
        }
    }
}

/// How `tidegate restore` was called.
#[derive(Copy, Clone, Debug)]
pub(super) struct RestoreOptions {
    /// Chains that the text names keep their rules.
    pub noflush: bool,
    /// Counters go on from what the text says.
    pub counters: bool,
}

/// What is to be put in force.
#[derive(Default)]
struct Wanted {
    states: Vec<State>,
    /// Texts in the form of iptables-save, one for each family.
    texts: [String; 2],
    warnings: String,
}

impl Wanted {
    fn read(
        &mut self,
        input: &Restore,
        options: RestoreOptions,
        sets: &Sets,
    ) -> Result<(), Report> {
        let source = Source::new(input.name.clone(), input.text.clone());
        if State::is_one(&input.text) {
            let aside = Sets::new();
            self.states.push(State::parse(&source, &aside, Instant::ZERO)?);
            if self.states.len() > 1 {
                let text = format!("{} is a second saved state", input.name);
                return Err(Report::from(Diagnostic::unplaced(text)));
            }
            return Ok(());
        }
        let family = input.family;
        // With --noflush a text may lean on what is in force, which only the change itself can tell.
        if !options.noflush {
            for warning in rules::parse(&source, family, sets)?.1 {
                let _ = writeln!(self.warnings, "{warning}");
            }
        }
        self.texts[family as usize].push_str(&input.text);
        Ok(())
    }

    /// Family, text, and whether its counters count whatever the options say.
    fn texts(&self) -> impl Iterator<Item = (Family, &str, bool)> {
        let families = [Family::V4, Family::V6];
        let saved = self.states.iter().flat_map(move |state| {
            let text = move |family| state.rules_text(family).map(|text| (family, text, true));
            families.into_iter().filter_map(text)
        });
        let plain = families.into_iter().map(|f| (f, self.texts[f as usize].as_str(), false));
        saved.chain(plain).filter(|(_, text, _)| !text.is_empty())
    }
}

/// The change that a text makes; none if it has no tables.
fn restored(
    base: &Arc<Ruleset>,
    counters: &Counters,
    text: &str,
    counted: bool,
    options: RestoreOptions,
) -> Result<Option<Change>, String> {
    let mut args = Vec::new();
    if options.noflush {
        args.push("--noflush".to_owned());
    }
    if options.counters || counted {
        args.push("--counters".to_owned());
    }
    let program = live::Program::Restore;
    let call = Call { program, family: base.family(), args: &args, input: text, stamp: "" };
    let Answer { status, err, change, .. } = live::run(call, Present { ruleset: base, counters });
    if status == 0 { Ok(change) } else { Err(err) }
}

/// When the state is to be saved next.
pub(super) struct Schedule {
    every: Option<Duration>,
    next: Instant,
}

impl Schedule {
    pub fn new(state: Option<&config::State>, now: Instant) -> Self {
        let every = state.and_then(|state| state.every);
        Self { every, next: now + every.unwrap_or_default() }
    }

    /// Whether that time has come; the next is counted from now.
    pub fn due(&mut self, now: Instant) -> bool {
        let due = self.every.is_some() && self.next <= now;
        if let Some(every) = self.every.filter(|_| due) {
            self.next = now + every;
        }
        due
    }

    pub fn next(&self) -> Option<Instant> {
        self.every.map(|_| self.next)
    }
}

/// The state that the configuration names, read and checked before anything is touched.
pub(super) fn read(
    config: &config::Config,
    sets: &Sets,
    now: Instant,
) -> Result<Option<State>, Report> {
    config.state.as_ref().map_or(Ok(None), |state| State::read(&state.file, sets, now))
}

/// What a reload says of rules that were changed by command.
pub(super) fn dropped() -> Diagnostic {
    let text = "rules that were changed by command are dropped: the rules files were read again";
    Diagnostic { severity: Severity::Warning, ..Diagnostic::unplaced(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_saved_now_and_then() {
        let at = Instant::from_secs;
        let state = |every| config::State { file: "s".into(), every };
        let mut schedule = Schedule::new(Some(&state(Some(Duration::from_secs(10)))), at(100));
        assert_eq!((schedule.due(at(109)), schedule.next()), (false, Some(at(110))));
        // A late look doesn't make up for what was missed.
        assert_eq!((schedule.due(at(135)), schedule.next()), (true, Some(at(145))));
        assert!(!schedule.due(at(136)));
        for never in [Some(state(None)), None] {
            let mut schedule = Schedule::new(never.as_ref(), at(100));
            assert_eq!((schedule.due(at(1 << 30)), schedule.next()), (false, None));
        }
    }
}
