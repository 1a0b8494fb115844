//! The table that the lab prints: aligned, one line as each row is done.

use std::io::{self, Write};

use super::rows::{Row, Seen};

/// Column headings.
const HEADINGS: [&str; 4] = ["what was tried", "must happen", "happened", ""];

/// How the table is drawn.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
pub struct Look {
    /// ✓ and ✗, arrows and colours instead of plain ASCII.
    pub pretty: bool,
}

impl Look {
    /// Pretty on a terminal, unless `NO_COLOR` (no-color.org) is set.
    pub fn of(stream: &impl io::IsTerminal) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        Self { pretty: stream.is_terminal() && !plain }
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
    widths: [usize; 2],
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
        let widths = [widest(|r| &r.tried, HEADINGS[0]), widest(|r| &r.expected, HEADINGS[1])];
        let [tried, expected] = widths;
        let heading = format!(
            "     {:tried$}  {:expected$}  {:expected$}  {}",
            HEADINGS[0], HEADINGS[1], HEADINGS[2], HEADINGS[3]
        );
        writeln!(out, "{}", look.strong(heading.trim_end()))?;
        Ok(Self { out, look, widths, section: "", wrong: Vec::new(), done: 0 })
    }

    /// Prints a row that was tried.
    pub fn row(&mut self, row: &Row, seen: &Seen) -> io::Result<()> {
        let Self { out, look, widths: [tried_width, expected_width], section, wrong, done } = self;
        if row.section != *section {
            *section = row.section;
            writeln!(out, "{}", look.strong(section))?;
        }
        let right = row.expected == seen.happened;
        let (tried, expected) = (look.text(&row.tried), look.text(&row.expected));
        let happened = look.text(&seen.happened);
        let line = format!(
            "{} {tried:tried_width$}  {expected:expected_width$}  {happened:expected_width$}  {}",
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
