//! `ipset` as users and programs know it: its command line, outputs, words and exit statuses
//! (ipset 7).

mod read;

use std::ops::Range;
use std::sync::Arc;

use tidegate_packet::Instant;

use super::change::Change;
use super::fault::{Class, Fault, Result};
use super::kind::Kind;
use super::list::{self, Mode};
use super::{Set, Sets, create, help, no_set};
use crate::diagnostic::{Diagnostic, Problem};
use crate::lex::Word;
use read::{Call, Command, Common, checked_name, common, lines, read_line, words};

/// The version whose words these are.
const VERSION: &str = "v7.17";
/// Mistakes in the command line.
const USAGE: u8 = 2;
const FAILED: u8 = 1;

/// What a run of `ipset` gives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Its exit status.
    pub status: u8,
    /// What it writes to standard output.
    pub out: String,
    /// And to standard error.
    pub err: String,
}

/// Files that `ipset` reads or writes, and whether it is standard input: whoever was called does
/// that, not the gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// It carries out the commands of a file.
    pub restores: bool,
    /// It asks for no sets (`help`, `version`).
    pub offline: bool,
    /// `-file`.
    pub file: Option<String>,
}

/// What arguments are about. Arguments that can't be read are about nothing; the answer says so.
pub fn files(args: &[String]) -> Files {
    let words = words(args);
    let Ok(call) = Call::read(&words) else { return Files::default() };
    let offline = matches!(call.command, Command::Help | Command::Version | Command::Quit);
    Files { restores: call.command == Command::Restore, offline, file: call.options.file }
}

/// Runs the program.
pub(super) fn run(sets: &Sets, args: &[String], input: &str, now: Instant) -> Answer {
    let mut answer = Answer::default();
    let words = words(args);
    let call = match Call::read(&words) {
        Ok(call) => call,
        Err(fault) => {
            let quiet = words.iter().any(|word| common(&word.text) == Some("quiet"));
            answer.fail(&fault, None, quiet);
            return answer;
        }
    };
    if call.command == Command::Restore {
        restore(sets, input, &call.options, now, &mut answer);
        return answer;
    }
    if let Err(fault) = execute(sets, &call, now, &mut answer) {
        answer.fail(&fault, None, call.options.quiet);
    }
    answer
}

impl Answer {
    fn fail(&mut self, fault: &Fault, line: Option<usize>, quiet: bool) {
        self.status = if fault.class == Class::Usage { USAGE } else { FAILED };
        if quiet {
            return;
        }
        let words = fault.words();
        self.err += &match (fault.class, line) {
            (Class::Usage, _) => {
                format!("ipset {VERSION}: {words}\nTry `ipset help' for more information.\n")
            }
            (_, Some(line)) => format!("ipset {VERSION}: Error in line {line}: {words}\n"),
            (_, None) => format!("ipset {VERSION}: {words}\n"),
        };
    }
}

/// Carries out the lines that `restore` reads, up to the first that is refused.
fn restore(sets: &Sets, input: &str, options: &Common, now: Instant, answer: &mut Answer) {
    for (n, (body, start)) in lines(input).enumerate() {
        let call = match read_line(body, start) {
            Ok(None) => continue,
            Ok(Some(call)) => call,
            Err(fault) => return answer.fail(&fault, Some(n + 1), options.quiet),
        };
        let call = Call {
            options: Common {
                exist: call.options.exist || options.exist,
                quiet: call.options.quiet || options.quiet,
                ..call.options
            },
            ..call
        };
        if let Err(fault) = execute(sets, &call, now, answer) {
            return answer.fail(&fault, Some(n + 1), call.options.quiet);
        }
        if answer.status != 0 {
            return;
        }
    }
}

/// Carries out all lines of a file that can be, and tells of the others with their places.
pub(super) fn load(
    sets: &Sets,
    text: &str,
    now: Instant,
) -> std::result::Result<(), Vec<Diagnostic>> {
    let mut problems = Vec::new();
    for (body, start) in lines(text) {
        let span: Range<usize> = start..start + body.len();
        let done = read_line(body, start).and_then(|call| match call {
            None => Ok(()),
            Some(Call { command, name, .. }) if !command.makes_sets() => {
                let what = format!("`{name}` has no place in a file of sets");
                Err(Fault::refused(what))
            }
            Some(call) => execute(sets, &call, now, &mut Answer::default()),
        });
        problems.extend(done.err().map(|fault| fault.problem(span)));
    }
    let problems: Vec<Problem> = problems;
    if problems.is_empty() { Ok(()) } else { Err(Diagnostic::all(text, problems)) }
}

fn known(sets: &Sets, word: &Word) -> Result<Arc<Set>> {
    sets.get(checked_name(word)?).ok_or_else(|| no_set().at(word))
}

fn execute(sets: &Sets, call: &Call, now: Instant, answer: &mut Answer) -> Result<()> {
    let done = carry_out(sets, call, now, answer);
    // What is refused may have been done in part.
    if call.command.makes_sets() {
        sets.changed();
    }
    done
}

fn carry_out(sets: &Sets, call: &Call, now: Instant, answer: &mut Answer) -> Result<()> {
    let Call { command, rest, options, .. } = call;
    let two = || match rest.as_slice() {
        [from, to] => {
            checked_name(from)?;
            Ok((from, to, checked_name(to)?))
        }
        _ => Err(no_set()),
    };
    match command {
        Command::Create => create(sets, call, answer),
        Command::Add | Command::Del | Command::Test => {
            let [name, element, extras @ ..] = rest.as_slice() else { return Err(no_set()) };
            let set = known(sets, name)?;
            let change = Change { sets, set: &set, exist: options.exist, now };
            match command {
                Command::Add => change.add(element, extras),
                Command::Del => change.delete(element, extras),
                _ => {
                    let (found, text) = change.test(element, extras)?;
                    let name = &set.name;
                    answer.status = if found { 0 } else { FAILED };
                    match (found, options.quiet) {
                        (_, true) => {}
                        (true, _) => {
                            answer.err += &format!("Warning: {text} is in set {name}.\n");
                        }
                        (false, _) => answer.err += &format!("{text} is NOT in set {name}.\n"),
                    }
                    Ok(())
                }
            }
        }
        Command::Destroy => {
            let name = rest.first().map(checked_name).transpose()?;
            if options.exist && name.is_some_and(|name| sets.get(name).is_none()) {
                return Ok(());
            }
            sets.destroy(name).map_err(|fault| rest.first().map_or(fault.clone(), |w| fault.at(w)))
        }
        Command::Flush => {
            for set in those(sets, rest.first())? {
                set.write().content = super::content::Content::default();
            }
            Ok(())
        }
        Command::List | Command::Save => {
            let default = if *command == Command::Save { Mode::Save } else { Mode::Plain };
            let mode = options.mode.unwrap_or(default);
            let those = those(sets, rest.first())?;
            answer.out += &list::list(&those, mode, options.style, now);
            Ok(())
        }
        Command::Rename => {
            let (from, to_word, to) = two()?;
            sets.rename(&from.text, to).map_err(|fault| fault.at(to_word))
        }
        Command::Swap => {
            let (from, to_word, to) = two()?;
            sets.swap(&from.text, to).map_err(|fault| fault.at(to_word))
        }
        Command::Help => explain(rest.first(), answer),
        Command::Version => {
            answer.out += &format!("ipset {VERSION}, protocol version: 7\n");
            Ok(())
        }
        Command::Restore => Err(Fault::refused("restore can't be nested")),
        Command::Quit => Ok(()),
    }
}

/// The named set, or all.
fn those(sets: &Sets, name: Option<&Word>) -> Result<Vec<Arc<Set>>> {
    match name {
        Some(name) => Ok(vec![known(sets, name)?]),
        None => Ok(sets.all()),
    }
}

fn create(sets: &Sets, call: &Call, answer: &mut Answer) -> Result<()> {
    let [name, kind_word, words @ ..] = call.rest.as_slice() else { return Err(no_set()) };
    let name_text = checked_name(name)?;
    let kind = Kind::named(&kind_word.text).ok_or_else(|| {
        Fault::syntax(format!("typename '{}' is unknown", kind_word.text)).at(kind_word)
    })?;
    let (body, ignored) =
        create::body(name_text, kind, words).map_err(|fault| fault.at(kind_word))?;
    if !ignored.is_empty() && !call.options.quiet {
        let tell = |o: &String| format!("Option '{o}' is ignored. Please upgrade your syntax.\n");
        answer.err += "Warning: ";
        answer.err += &ignored.iter().map(tell).collect::<String>();
    }
    sets.create(name_text, body, call.options.exist).map_err(|fault| fault.at(name))
}

fn explain(of: Option<&Word>, answer: &mut Answer) -> Result<()> {
    answer.out += &format!("ipset {VERSION}\n\n{}", help::USAGE);
    let unknown = |word: &Word| Fault::usage(format!("Unknown settype: `{}'", word.text)).at(word);
    let kind = of.map(|word| Kind::named(&word.text).ok_or_else(|| unknown(word))).transpose()?;
    answer.out += &kind.map_or_else(help::types, help::of);
    Ok(())
}
