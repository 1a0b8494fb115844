//! The kernel as the oracle: the same rules, the same frames, the same outcome.
//!
//! Each case of `tests/corpus/*.case` is a test. Its frames go into a network namespace where the
//! kernel routes under `iptables-legacy`, and into Tidegate; what comes out is compared field by
//! field. Tables of TCP segments (`tests/corpus/tcp`, see `rows.rs`) say themselves what comes of
//! them. Where the kernel can't be asked (no iptables, no namespaces), what it did when the case
//! was recorded (`tests/corpus/golden`) takes its place, and the run says so.
//!
//! - `TIDEGATE_SHOW=1` prints what happened in each case.
//! - `TIDEGATE_BLESS=1` records what the kernel does.
//! - `TIDEGATE_ORACLE=golden` doesn't ask the kernel; `=self` plays each case in the kernel twice
//!   and compares these, which shows that a case is fit to be one.
//! - `TIDEGATE_RANDOM=SECONDS` tries random cases instead, from `TIDEGATE_RANDOM_SEED` on
//!   (`scripts/oracle`; see `random/mod.rs`), of the kind that `TIDEGATE_RANDOM_MODE` names.
//! - `TIDEGATE_FORBID_SKIP=1` makes it an error if the kernel can't be asked.

mod case;
mod compare;
mod connections;
mod decode;
mod frame;
mod golden;
mod harness;
mod kernel;
mod log;
mod random;
mod rows;
mod side;
mod tidegate;
mod topology;

use case::Case;
use compare::{Names, compare, show, unexpected};
use libtest_mimic::{Arguments, Failed, Trial};
use side::Transcript;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// Whom Tidegate is compared with.
#[derive(Copy, Clone, PartialEq, Eq)]
enum Oracle {
    /// The kernel of this machine.
    Kernel,
    /// The kernel against itself.
    Itself,
    /// Recorded frames.
    Golden,
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Most of a case's time is spent waiting for its clock or its namespace.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    arguments.test_threads.get_or_insert(4 * cores);
    let cases = match case::load_all(Path::new("tests/corpus")) {
        Ok(cases) => cases,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::FAILURE;
        }
    };
    let oracle = match std::env::var("TIDEGATE_ORACLE").as_deref() {
        _ if arguments.list => Oracle::Golden,
        Ok("golden") => Oracle::Golden,
        Ok("self") => Oracle::Itself,
        _ => Oracle::Kernel,
    };
    let oracle = match oracle {
        Oracle::Golden => oracle,
        _ => match kernel::become_root().and_then(|()| kernel::available()) {
            Ok(()) => oracle,
            Err(why) if std::env::var_os("TIDEGATE_FORBID_SKIP").is_some() => {
                eprintln!("the kernel can't be asked: {why}");
                return ExitCode::FAILURE;
            }
            Err(why) => {
                eprintln!("\n*** SKIPPED: the comparison with this machine's kernel ({why})");
                eprintln!("*** Tidegate is held against recorded frames instead\n");
                Oracle::Golden
            }
        },
    };
    if let Ok(seconds) = std::env::var("TIDEGATE_RANDOM") {
        let first = std::env::var("TIDEGATE_RANDOM_SEED").ok().and_then(|s| s.parse().ok());
        let mode = std::env::var("TIDEGATE_RANDOM_MODE").unwrap_or_default();
        let mode = random::Mode::named(&mode);
        let (Ok(seconds), Oracle::Kernel, Some(mode)) = (seconds.parse(), oracle, mode) else {
            eprintln!("random cases need the kernel, and TIDEGATE_RANDOM a number of seconds");
            return ExitCode::FAILURE;
        };
        return random::search(mode, first.unwrap_or(0), Duration::from_secs(seconds));
    }
    let logged = match log::cases() {
        Ok(cases) => cases,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::FAILURE;
        }
    };
    // A container may have iptables and still not be let at the kernel's log.
    let asked = oracle != Oracle::Golden
        && log::available()
            .inspect_err(|why| {
                eprintln!("\n*** SKIPPED: the comparison with the kernel's log ({why})");
                eprintln!("*** lines are held against recorded ones instead\n");
            })
            .is_ok();
    let mut trials = harness::trials();
    trials.extend(logged.into_iter().map(|case| {
        Trial::test(case.name.clone(), move || log::run(&case, asked).map_err(Failed::from))
    }));
    match rows::trials(oracle == Oracle::Kernel) {
        Ok(tables) => trials.extend(tables),
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::FAILURE;
        }
    }
    if oracle == Oracle::Kernel {
        trials.extend(random::trials());
    }
    trials.extend(cases.into_iter().map(|case| {
        let kind = if case.settings.differs.is_some() { "differs" } else { "" };
        let name = case.name.clone();
        Trial::test(name, move || run(&case, oracle).map_err(Failed::from)).with_kind(kind)
    }));
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Plays one case on both sides and compares.
fn run(case: &Case, oracle: Oracle) -> Result<(), String> {
    let showing = std::env::var_os("TIDEGATE_SHOW").is_some();
    let wanted = match oracle {
        Oracle::Golden => golden::read(case)?,
        Oracle::Kernel | Oracle::Itself => kernel::transcript(case, true)?,
    };
    if showing {
        print!("\n{}", show(case, &wanted));
    }
    let mut report = unexpected(case, "the kernel", &wanted);
    if oracle != Oracle::Golden && std::env::var_os("TIDEGATE_BLESS").is_some() {
        // What differs only in numbers that the kernel draws is left as it is.
        let same = |old: Transcript| {
            old.counters == wanted.counters
                && compare(case, Names("old", "new"), &old, &wanted).is_empty()
        };
        if !golden::read(case).is_ok_and(same) {
            golden::write(case, &wanted)?;
        }
    }
    if oracle == Oracle::Itself {
        let again = kernel::transcript(case, true)?;
        report += &compare(case, Names("kernel", "again"), &wanted, &again);
    } else {
        let got = tidegate::transcript(case)?;
        let differences = compare(case, Names("kernel", "tidegate"), &wanted, &got);
        match &case.settings.differs {
            Some(why) if differences.is_empty() => {
                report += &format!("agrees with the kernel; `differs {why}` has to go\n");
            }
            Some(_) => {}
            None => report += &differences,
        }
    }
    if report.is_empty() { Ok(()) } else { Err(format!("{}\n{report}", case.about)) }
}
