//! `iptables-restore`: whole tables at once.

use super::edit::{NO_INTERVAL, book, change, tell};
use super::program::{Failed, OTHER, USAGE, shown};
use super::words::options;
use super::{Answer, Call, Present, table};
use crate::ast::{ItemAst, TableAst};
use crate::diagnostic::{Problem, Told};
use crate::parse::{self, Reading};
use crate::print::VERSION;
use crate::validate::Draftbook;
use std::fmt::Write as _;

pub(super) fn run(call: Call<'_>, present: Present<'_>) -> Result<Answer, Failed> {
    let name = call.name();
    let said = |err: String| Failed::said(OTHER, err);
    let options = options(call.program, call.args)
        .map_err(|why| said(format!("{name}: {why}\nTry `{name} -h' for more information.\n")))?;
    if options.version {
        return Ok(call.version());
    }
    if options.help {
        let err = format!(
            "Usage: {name} [-c] [-v] [-V] [-t] [-h] [-n] [-w secs] [-W usecs] [-T table] \
             [-M command] [file]\n\
             \t   [ --counters ]\n\t   [ --verbose ]\n\t   [ --version]\n\t   [ --test ]\n\
             \t   [ --help ]\n\t   [ --noflush ]\n\t   [ --wait=<seconds>\n\
             \t   [ --table=<TABLE> ]\n\t   [ --modprobe=<command> ]\n"
        );
        return Ok(Answer { err, ..Answer::default() });
    }
    if options.rest.len() > 1 {
        return Err(said("Unknown arguments found on commandline\n".to_owned()));
    }
    let only = match &options.table {
        Some(name) => Some(table(name).ok_or_else(|| Failed::NoTable(name.clone()))?),
        None => None,
    };
    let reading = Reading { family: call.family, counters: options.counters, only };
    let failed = |problems| Failed::Said(Box::new(wrong(call, problems)));
    let ast = parse::file(call.input, reading).map_err(failed)?;
    if options.counters && !ast.warnings.is_empty() {
        return Err(failed(ast.warnings));
    }
    let mut problems = Vec::new();
    let mut books: Vec<Draftbook> = Vec::new();
    let mut out = String::new();
    // Where nothing is flushed the original says nothing of the rest either.
    let verbose = options.verbose && !options.noflush;
    for section in &ast.tables {
        // A table may come twice; the second time it is as the first has left it.
        let mut book = match books.iter().position(|book| book.name() == section.name) {
            Some(at) => books.remove(at),
            None => book(present.ruleset, section.name),
        };
        if options.noflush {
            book = book.redeclares();
        } else {
            clear(&mut book, verbose.then_some(&mut out));
        }
        fill(&mut book, section, &mut problems, verbose.then_some(&mut out));
        books.push(book);
    }
    if !problems.is_empty() {
        return Err(failed(problems));
    }
    let change = change(present.ruleset, books).map_err(failed)?;
    let change = (!options.test && !ast.tables.is_empty()).then_some(change);
    let err = if options.wait_interval { NO_INTERVAL.to_owned() } else { String::new() };
    Ok(Answer { status: 0, out, err, change })
}

fn clear(book: &mut Draftbook, out: Option<&mut String>) {
    if let Some(out) = out {
        for name in book.chain_names() {
            let _ = writeln!(out, "Flushing chain `{name}'");
        }
        for name in book.chain_names().skip(book.name().hooks().len()) {
            let _ = writeln!(out, "Deleting chain `{name}'");
        }
    }
    book.clear();
}

fn fill(
    book: &mut Draftbook,
    section: &TableAst<'_>,
    problems: &mut Vec<Problem>,
    mut out: Option<&mut String>,
) {
    if out.is_some() {
        book.tell();
    }
    for item in &section.items {
        let before: Vec<String> = match (&out, item) {
            (Some(_), ItemAst::Flush(None) | ItemAst::Zero(None, _) | ItemAst::DeleteChain(_)) => {
                book.chain_names().map(str::to_owned).collect()
            }
            _ => Vec::new(),
        };
        match book.item(item, &mut Vec::new()) {
            Ok(()) => {
                if let Some(out) = &mut out {
                    tell(out, item, &before, book);
                }
            }
            Err(problem) => problems.push(problem),
        }
    }
}

/// The first problem as iptables-restore tells it, and then the others, so that a file needn't be
/// tried once for each.
fn wrong(call: Call<'_>, problems: Vec<Problem>) -> Answer {
    let name = call.name();
    let line = |problem: &Problem| {
        let before = call.input.get(..problem.span.start).unwrap_or(call.input);
        before.matches('\n').count() + 1
    };
    let mut problems = problems;
    problems.sort_by_key(|problem| problem.span.start);
    let mut err = String::new();
    let mut status = OTHER;
    if let Some(first) = problems.first() {
        let at = line(first);
        let words = match &first.told {
            Told::Refused(_) | Told::Unfinished => None,
            Told::Words(words) | Told::Bare(words) => Some(words.clone()),
            Told::Usage | Told::Number(..) => Some(shown(first)),
        };
        match words {
            Some(words) => {
                status = USAGE;
                let _ = write!(
                    err,
                    "{name} v{VERSION} (legacy): {words}\nError occurred at line: {at}\n"
                );
                call.try_help(&mut err);
            }
            None if first.told == Told::Unfinished => {
                let _ = writeln!(err, "{name}: COMMIT expected at line {at}");
            }
            None => {
                let _ = writeln!(err, "{name}: line {at} failed");
            }
        }
    }
    for problem in &problems {
        let _ = writeln!(err, "line {}: {}", line(problem), shown(problem));
    }
    Answer { status, err, ..Answer::default() }
}
