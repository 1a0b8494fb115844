//! Tests that need rights, devices or programs: run, or skipped loudly.

use libtest_mimic::{Arguments, Failed, Trial};
use std::fmt::Display;
use std::process::ExitCode;

/// The tests of a binary.
pub struct Trials {
    arguments: Arguments,
    forbid_skip: bool,
    trials: Vec<Trial>,
}

impl Trials {
    /// None yet. So many run at a time, if the command line doesn't tell.
    pub fn new(threads: usize) -> Self {
        let mut arguments = Arguments::from_args();
        arguments.test_threads.get_or_insert(threads);
        let forbid_skip = std::env::var_os("TIDEGATE_FORBID_SKIP").is_some_and(|v| v != "0");
        Self { arguments, forbid_skip, trials: Vec::new() }
    }

    /// A test, and why it can't run here. Skipped it is marked as ignored; where that is forbidden it
    /// fails.
    pub fn add<E: Display>(
        &mut self,
        name: &str,
        missing: Option<String>,
        run: impl FnOnce() -> Result<(), E> + Send + 'static,
    ) {
        let skip = missing.is_some() && !self.forbid_skip;
        if let Some(why) = missing.as_ref().filter(|_| skip && !self.arguments.list) {
            eprintln!("SKIPPED: {name}: {why}");
        }
        let trial = Trial::test(name, move || match missing {
            Some(why) => Err(Failed::from(why)),
            None => run().map_err(|e| Failed::from(e.to_string())),
        });
        self.trials.push(trial.with_ignored_flag(skip));
    }

    /// Runs them.
    pub fn run(self) -> ExitCode {
        libtest_mimic::run(&self.arguments, self.trials).exit_code()
    }
}
