//! The table that the lab prints: aligned, one line as each row is done.

use std::io::{self, Write};
use std::os::fd::AsFd;

use super::rows::{Row, Seen};

/// Column headings.
const HEADINGS: [&str; 3] = ["what was tried", "must happen", "happened"];

/// What a narrow table says of an outcome that is as it must be.
const SAME: &str = "the same";

/// Marks and the blanks between columns.
const MARGIN: usize = 5 + 3 * 2;

/// Room for a figure.
const FIGURE: usize = 22;

/// How the table is drawn.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
pub struct Look {
    /// ✓ and ✗, arrows and colours instead of plain ASCII.
    pub pretty: bool,
    /// Columns of the terminal, if it is one.
    pub width: Option<usize>,
}

impl Look {
    /// Pretty on a terminal, unless `NO_COLOR` (no-color.org) is set.
    pub fn of(stream: &(impl io::IsTerminal + AsFd)) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        let terminal = stream.is_terminal();
        let width = terminal_size::terminal_size_of(stream).map(|(w, _)| w.0.into());
        Self { pretty: terminal && !plain, width: width.filter(|_| terminal) }
    }

    fn text(self, text: &str) -> String {
        if self.pretty { text.to_owned() } else { text.replace('→', "->").replace('µ', "u") }
    }

    fn mark(self, right: bool) -> &'static str {
        match (self.pretty, right) {
            (true, true) => "\x1b[32m✓\x1b[0m   ",
            (true, false) => "\x1b[31m✗\x1b[0m   ",
            (false, true) => "ok  ",
            (false, false) => "FAIL",
        }
    }

    fn strong(self, text: &str) -> String {
        if self.pretty { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// A table that is being printed.
#[derive(Debug)]
pub struct Table<W> {
    out: W,
    look: Look,
    widths: [usize; 3],
    section: &'static str,
    wrong: Vec<String>,
    done: usize,
}

impl<W: Write> Table<W> {
    /// Prints the headings over columns that are wide enough for all `rows`.
    pub fn new(mut out: W, look: Look, rows: &[Row]) -> io::Result<Self> {
        let widest = |text: fn(&Row) -> &str, heading: &str| {
            let texts = rows.iter().map(|r| look.text(text(r)).chars().count());
            texts.chain([heading.len()]).max().unwrap_or_default()
        };
        let tried = widest(|r| &r.tried, HEADINGS[0]);
        let expected = widest(|r| &r.expected, HEADINGS[1]);
        let full = MARGIN + tried + expected + expected + FIGURE;
        // On a terminal that is too narrow for it, an outcome that is as it must be is not told
        // twice.
        let happened = if look.width.is_some_and(|w| w < full) { SAME.len() } else { expected };
        let [h0, h1, h2] = HEADINGS;
        let heading = format!("     {h0:tried$}  {h1:expected$}  {h2}");
        let widths = [tried, expected, happened];
        writeln!(out, "{}", look.strong(&heading))?;
        Ok(Self { out, look, widths, section: "", wrong: Vec::new(), done: 0 })
    }

    /// Prints a row that was tried.
    pub fn row(&mut self, row: &Row, seen: &Seen) -> io::Result<()> {
        let Self { out, look, widths: [w0, w1, w2], section, wrong, done } = self;
        if row.section != *section {
            *section = row.section;
            writeln!(out, "{}", look.strong(section))?;
        }
        let right = row.expected == seen.happened;
        let (tried, expected) = (look.text(&row.tried), look.text(&row.expected));
        let happened = look.text(&seen.happened);
        let shown = if right && *w2 < *w1 { SAME } else { &happened };
        let line = format!(
            "{} {tried:w0$}  {expected:w1$}  {shown:w2$}  {}",
            look.mark(right),
            look.text(&seen.figure)
        );
        writeln!(out, "{}", line.trim_end())?;
        out.flush()?;
        *done += 1;
        if !right {
            wrong.push(format!(
                "{}: {tried}\n  the rules:    {}\n  must happen:  {expected}\n  happened:     {happened}\n",
                row.section, row.why
            ));
        }
        Ok(())
    }

    /// Prints what was wrong and says how many rows were.
    pub fn finish(mut self) -> io::Result<usize> {
        for wrong in &self.wrong {
            write!(self.out, "\n{wrong}")?;
        }
        let (wrong, done) = (self.wrong.len(), self.done);
        let verdict = match wrong {
            0 => format!("all {done} rows are as the rules say"),
            1 => format!("1 of {done} rows is not as the rules say"),
            n => format!("{n} of {done} rows are not as the rules say"),
        };
        writeln!(self.out, "\n{}", self.look.strong(&verdict))?;
        self.out.flush()?;
        Ok(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::rows;

    fn printed(look: Look, wrong: bool) -> (String, usize) {
        let rows = rows::all();
        let (mut text, row) = (Vec::new(), &rows[0]);
        let mut table = Table::new(&mut text, look, &rows).expect("headings");
        let happened = if wrong { "no answer".to_owned() } else { row.expected.clone() };
        let seen = Seen { happened, figure: "7 µs".into() };
        table.row(row, &seen).expect("a row");
        let count = table.finish().expect("the end");
        (String::from_utf8(text).expect("text"), count)
    }

    #[test]
    fn plain_text_is_ascii_and_aligned() {
        let (text, wrong) = printed(Look::default(), false);
        assert!(text.is_ascii() && wrong == 0, "{text}");
        let lines: Vec<_> = text.lines().collect();
        let column = lines[0].find("must happen").expect("a heading");
        assert_eq!(lines[2].find("reply"), Some(column), "{text}");
        let column = lines[0].find("happened").expect("a heading");
        assert_eq!(lines[2].rfind("reply"), Some(column), "{text}");
        assert!(lines[2].starts_with("ok ") && lines[2].ends_with("  7 us"), "{text}");
    }

    #[test]
    fn a_narrow_terminal_sees_what_differs() {
        let look = Look { pretty: true, width: Some(80) };
        let (right, _) = printed(look, false);
        assert!(right.contains("  the same  7 µs"), "{right}");
        let (wrong, count) = printed(look, true);
        assert!(wrong.contains("  no answer  7 µs") && wrong.contains('✗'), "{wrong}");
        assert!(wrong.contains("the rules:    INPUT: icmp type 8 is accepted"), "{wrong}");
        assert_eq!(count, 1);
    }
}
