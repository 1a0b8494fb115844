//! The lines of a file: `*table`, `:CHAIN`, commands, `COMMIT`, comments.

use std::ops::Range;

use tidegate_packet::Family;

use crate::ast::{FileAst, ItemAst, TableAst};
use crate::counters::Count;
use crate::diagnostic::{Outcome, Problem, Refusal, Told};
use crate::lex::Word;
use crate::query::TableName;

/// The longest line that iptables-restore reads in one piece.
const MAX_LINE: usize = 10_239;

/// How a file is read.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Reading {
    pub family: Family,
    /// Take the counters in brackets; otherwise they aren't looked at.
    pub counters: bool,
    /// Only this table's section; of the others only the first and the last line are read.
    pub only: Option<TableName>,
}

impl Reading {
    /// All tables with their counters.
    pub fn all(family: Family) -> Self {
        Self { family, counters: true, only: None }
    }
}

/// A line's meaning.
#[derive(Debug)]
pub(crate) enum Event<'t> {
    /// `*table`.
    Open(TableName),
    /// A line inside a table.
    Item(ItemAst<'t>),
    /// `COMMIT`.
    Commit,
}

/// Reads a whole file and gathers every line's problem.
pub(crate) fn file(text: &str, reading: Reading) -> Result<FileAst<'_>, Vec<Problem>> {
    let mut tables = Vec::new();
    let mut open: Option<TableAst<'_>> = None;
    let (warnings, problems) = stream(text, reading, &mut |event| match event {
        Event::Open(name) => open = Some(TableAst { name, items: Vec::new() }),
        Event::Item(item) => {
            if let Some(table) = &mut open {
                table.items.push(item);
            }
        }
        Event::Commit => tables.extend(open.take()),
    });
    if problems.is_empty() { Ok(FileAst { tables, warnings }) } else { Err(problems) }
}

/// Reads a file line by line, so that nothing of a line has to be kept once it is dealt with. Gives
/// warnings and problems.
pub(crate) fn stream<'t>(
    text: &'t str,
    reading: Reading,
    on: &mut dyn FnMut(Event<'t>),
) -> (Vec<Problem>, Vec<Problem>) {
    let (mut warnings, mut problems) = (Vec::new(), Vec::new());
    let mut words = Vec::new();
    let mut open: Option<TableName> = None;
    let mut lost = false;
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        match one_line(line, start, reading, &mut open, &mut warnings, &mut words) {
            Ok(Some(event)) => on(event),
            Ok(None) => {}
            Err(problem) => {
                problems.push(problem);
                lost |= open.is_none();
                // After a line outside of any table go on as if in one, so that it is told only once.
                open.get_or_insert(TableName::Filter);
            }
        }
        start += line.len();
    }
    if let Some(table) = open.filter(|_| !lost) {
        problems.push(
            Problem::new(text.len()..text.len(), "the file ends inside a table")
                .help(format!("expected COMMIT to end *{}", table.as_str()))
                .told(Told::Unfinished),
        );
    }
    (warnings, problems)
}

fn one_line<'t>(
    line: &'t str,
    start: usize,
    reading: Reading,
    open: &mut Option<TableName>,
    warnings: &mut Vec<Problem>,
    words: &mut Vec<Word<'t>>,
) -> Outcome<Option<Event<'t>>> {
    let body = line.strip_suffix('\n').unwrap_or(line);
    let whole = start..start + body.len();
    if body.is_empty() || body.starts_with('#') {
        return Ok(None);
    }
    if body.len() > MAX_LINE {
        return Err(Problem::new(whole, format!("a line longer than {MAX_LINE} bytes")));
    }
    if body.as_bytes().contains(&0) {
        return Err(Problem::new(whole, "a zero byte in a line"));
    }
    if body.ends_with('\r') {
        return Err(Problem::new(whole.end - 1..whole.end, "the line ends in a carriage return")
            .help("convert the file to Unix line ends"));
    }
    let wanted = |table: TableName| reading.only.is_none_or(|only| table == only);
    let Some(table) = *open else {
        let name = table_name(body, whole)?;
        *open = Some(name);
        return Ok(wanted(name).then_some(Event::Open(name)));
    };
    if body == "COMMIT" && line.ends_with('\n') {
        *open = None;
        return Ok(wanted(table).then_some(Event::Commit));
    }
    if body.trim_end() == "COMMIT" {
        return Err(Problem::new(whole, "COMMIT must be followed by a line end and nothing else"));
    }
    if !wanted(table) {
        return Ok(None);
    }
    let item = match body.strip_prefix(':') {
        Some(_) => Some(chain(body, start, reading, warnings)?),
        None => super::command::command(body, start, reading, words)?,
    };
    Ok(item.map(Event::Item))
}

fn table_name(body: &str, whole: Range<usize>) -> Outcome<TableName> {
    let Some(rest) = body.strip_prefix('*') else {
        return Err(Problem::new(whole, "this line is outside of any table")
            .help("expected *filter, *nat, *mangle, *raw or *security, or a comment")
            .refused(Refusal::Invalid));
    };
    let name = rest.split([' ', '\t']).find(|w| !w.is_empty()).unwrap_or("");
    TableName::from_name(name).ok_or_else(|| {
        Problem::new(whole, format!("there is no table `{name}`"))
            .words(format!("iptables-restore: unable to initialize table '{name}'"))
            .help("expected filter, nat, mangle, raw or security")
    })
}

/// `:CHAIN POLICY [packets:bytes]`.
fn chain<'t>(
    body: &'t str,
    start: usize,
    reading: Reading,
    warnings: &mut Vec<Problem>,
) -> Outcome<ItemAst<'t>> {
    let mut words = Vec::new();
    let mut at = 1;
    for part in body[1..].split([' ', '\t']) {
        if !part.is_empty() {
            let span = start + at..start + at + part.len();
            words.push(Word { text: part.into(), span, quoted: false });
        }
        at += part.len() + 1;
    }
    let whole = start..start + body.len();
    let mut words = words.into_iter();
    let name = words.next().ok_or_else(|| Problem::new(whole.clone(), "a chain without a name"))?;
    let policy = words.next().ok_or_else(|| {
        Problem::new(whole, "a chain without a policy")
            .help("expected ACCEPT or DROP for a built-in chain, - for one's own")
    })?;
    let count = match words.next().filter(|_| reading.counters) {
        // Without -c iptables-restore doesn't look at them, so files with nonsense here do exist.
        Some(word) => count(&word).unwrap_or_else(|problem| {
            let words = format!("invalid policy counters for chain '{}'", name.text);
            warnings.push(problem.words(words));
            Count::default()
        }),
        None => Count::default(),
    };
    Ok(ItemAst::Chain { name, policy, count })
}

/// `[packets:bytes]`.
pub(super) fn count(word: &Word<'_>) -> Outcome<Count> {
    let parse = || {
        let (packets, bytes) = word.text.strip_prefix('[')?.strip_suffix(']')?.split_once(':')?;
        Some(Count { packets: packets.parse().ok()?, bytes: bytes.parse().ok()? })
    };
    parse().ok_or_else(|| {
        word.wrong(format!("bad counters `{}`", word.text))
            .help("expected [packets:bytes]")
            .words("-c packet counter not numeric")
    })
}

/// Takes `[packets:bytes] ` off the front of a line.
pub(super) fn leading_count(body: &str, start: usize, read: bool) -> Outcome<(Count, usize)> {
    if !body.starts_with('[') {
        return Ok((Count::default(), 0));
    }
    let end = body.find(']').map_or(body.len(), |at| at + 1);
    if !read {
        return Ok((Count::default(), end));
    }
    let word = Word { text: body[..end].into(), span: start..start + end, quoted: false };
    Ok((count(&word)?, end))
}
