//! The programs: what they are called, how they fail, and `iptables-save`.

use super::words::options;
use super::{Answer, Call, Present, table};
use crate::diagnostic::{Problem, Refusal, Told};
use crate::names;
use crate::print::{SaveStyle, VERSION};
use std::fmt::Write as _;

/// One of iptables' programs, or of ip6tables'.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// `iptables`.
    Iptables,
    /// `iptables-save`.
    Save,
    /// `iptables-restore`.
    Restore,
}

/// Why a call did nothing.
#[derive(Debug)]
pub(super) enum Failed {
    /// All of it is in the answer.
    Said(Box<Answer>),
    /// The arguments are wrong, or the rules don't allow it.
    Problem(Box<Problem>),
    /// There is no such table.
    NoTable(String),
}

impl From<Problem> for Failed {
    fn from(problem: Problem) -> Self {
        Self::Problem(Box::new(problem))
    }
}

/// Mistakes in the arguments.
pub(super) const USAGE: u8 = 2;
/// Everything else.
pub(super) const OTHER: u8 = 1;
/// What iptables calls a version problem: the table isn't known.
const VERSION_PROBLEM: u8 = 3;

impl Call<'_> {
    /// The program's name.
    pub(super) fn name(&self) -> String {
        let name = names::program(self.family);
        match self.program {
            Program::Iptables => name.to_owned(),
            Program::Save => format!("{name}-save"),
            Program::Restore => format!("{name}-restore"),
        }
    }

    /// The line of `--version`. Programs look for the version and for the kind in brackets.
    pub(super) fn version(&self) -> Answer {
        Answer { out: format!("{} v{VERSION} (legacy)\n", self.name()), ..Answer::default() }
    }

    /// Status and text of a mistake in the arguments.
    pub(super) fn usage(&self, words: &str) -> Answer {
        let name = self.name();
        let mut err = format!("{name} v{VERSION} (legacy): {words}\n");
        self.try_help(&mut err);
        Answer { status: USAGE, err, ..Answer::default() }
    }

    pub(super) fn try_help(&self, err: &mut String) {
        let name = self.name();
        let _ = writeln!(err, "Try `{name} -h' or '{name} --help' for more information.");
    }
}

impl Failed {
    pub fn said(status: u8, err: String) -> Self {
        Self::Said(Box::new(Answer { status, err, ..Answer::default() }))
    }

    pub fn answer(self, call: Call<'_>) -> Answer {
        let name = call.name();
        let problem = match self {
            Self::Said(answer) => return *answer,
            Self::NoTable(table) => {
                let err = format!(
                    "{name} v{VERSION} (legacy): can't initialize {} table `{table}': Table does \
                     not exist (do you need to insmod?)\nPerhaps {} or your kernel needs to be \
                     upgraded.\n",
                    names::program(call.family),
                    names::program(call.family),
                );
                return Answer { status: VERSION_PROBLEM, err, ..Answer::default() };
            }
            Self::Problem(problem) => problem,
        };
        match &problem.told {
            Told::Usage | Told::Number(..) | Told::Unfinished => call.usage(&shown(&problem)),
            Told::Words(words) => call.usage(words),
            Told::Bare(words) => {
                let mut err = format!("{words}\n");
                call.try_help(&mut err);
                Answer { status: USAGE, err, ..Answer::default() }
            }
            Told::Refused(refusal) => {
                let mut err = format!("{name}: {}\n", refusal.text());
                // iptables sends its user to the kernel's log, which knows nothing of this.
                if matches!(refusal, Refusal::Invalid | Refusal::Loop) {
                    let _ = writeln!(err, "{}", shown(&problem));
                }
                Answer { status: OTHER, err, ..Answer::default() }
            }
        }
    }
}

/// A problem in our own words.
pub(super) fn shown(problem: &Problem) -> String {
    match &problem.help {
        Some(help) => format!("{} ({help})", problem.message),
        None => problem.message.clone(),
    }
}

/// `iptables-save`.
pub(super) fn save(call: Call<'_>, present: Present<'_>) -> Result<Answer, Failed> {
    let name = call.name();
    let said = |err: String| Failed::said(OTHER, err);
    let options = options(call.program, call.args).map_err(|why| {
        said(format!("{name}: {why}\nLook at manual page `{name}.8' for more information.\n"))
    })?;
    if options.version {
        return Ok(call.version());
    }
    if !options.rest.is_empty() {
        return Err(said("Unknown arguments found on commandline\n".to_owned()));
    }
    let only = match &options.table {
        Some(name) => Some(table(name).ok_or_else(|| {
            said(format!(
                "{} v{VERSION} (legacy): Cannot initialize: Table does not exist (do you need to \
                 insmod?)\n",
                call.name()
            ))
        })?),
        None => None,
    };
    let style = SaveStyle { stamp: call.stamp, rule_counters: options.counters };
    let out = present.ruleset.save_tables(Some(present.counters), style, only);
    Ok(Answer { out, ..Answer::default() })
}
