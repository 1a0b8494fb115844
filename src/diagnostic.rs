//! What is wrong with a text that a person wrote: where, what was expected, and the line itself
//! with a caret under the place.

use std::fmt;
use std::io::{self, IsTerminal};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceSpan};

/// Name of the source that stands for the flags of the command line.
pub const COMMAND_LINE: &str = "command line";

/// A text with the name it goes by.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    /// File name, `<stdin>` or [`COMMAND_LINE`].
    pub name: String,
    /// The whole text.
    pub text: String,
}

impl Source {
    /// A text by that name.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Arc<Self> {
        Arc::new(Self { name: name.into(), text: text.into() })
    }

    /// Reads a file. What can't be read or isn't UTF-8 is a diagnostic like any other.
    pub fn read(path: &Path) -> Result<Arc<Self>, Box<Diagnostic>> {
        let name = path.display().to_string();
        match std::fs::read(path) {
            Ok(bytes) => Self::from_bytes(name, bytes),
            Err(error) => Err(Box::new(Diagnostic::unplaced(format!("{name}: {error}")))),
        }
    }

    /// A text from bytes that ought to be UTF-8.
    pub fn from_bytes(name: String, bytes: Vec<u8>) -> Result<Arc<Self>, Box<Diagnostic>> {
        String::from_utf8(bytes).map(|text| Self::new(name.clone(), text)).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
            let place = Place { source: Self::new(name, text), span: at..at + 3 };
            Box::new(place.error("this isn't UTF-8 text"))
        })
    }

    /// A place in the text.
    pub fn place(self: &Arc<Self>, span: Range<usize>) -> Place {
        Place { source: self.clone(), span }
    }

    /// Line and column of a byte, both counted from 1, the column in characters.
    pub fn position(&self, offset: usize) -> (usize, usize) {
        let mut end = offset.min(self.text.len());
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        let before = &self.text[..end];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }
}

/// Some bytes of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The text.
    pub source: Arc<Source>,
    /// The bytes.
    pub span: Range<usize>,
}

impl Place {
    /// An error at this place.
    pub fn error(&self, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            place: Some(self.clone()),
            message: message.into(),
            label: None,
            help: None,
        }
    }

    /// A warning at this place.
    pub fn warning(&self, message: impl Into<String>) -> Diagnostic {
        Diagnostic { severity: Severity::Warning, ..self.error(message) }
    }

    /// Bytes inside this place, counted from its first.
    pub fn inner(&self, span: Range<usize>) -> Self {
        let start = self.span.start;
        Self { source: self.source.clone(), span: start + span.start..start + span.end }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, column) = self.source.position(self.span.start);
        write!(f, "{}:{line}:{column}", self.source.name)
    }
}

/// How bad it is.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Nothing is applied.
    Error,
    /// Everything is applied; something was left out that the writer may have wanted.
    Warning,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Where, if it is somewhere.
    pub place: Option<Place>,
    /// What.
    pub message: String,
    /// What was expected, written under the caret.
    pub label: Option<String>,
    /// What to do about it.
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error that is at no place in a text.
    pub fn unplaced(message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            place: None,
            message: message.into(),
            label: None,
            help: None,
        }
    }

    /// Says under the caret what was expected.
    #[must_use]
    pub fn expected(mut self, label: impl Into<String>) -> Self {
        self.label = Some(format!("expected {}", label.into()));
        self
    }

    /// Says what to do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Says which known name is near the one that was written, if one is.
    #[must_use]
    pub fn nearest<'a>(self, word: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        match nearest(word, known) {
            Some(name) => self.help(format!("did you mean `{name}`?")),
            None => self,
        }
    }

    /// The diagnostic as people read it on a terminal: the message, `file:line:column`, the line
    /// with a caret. Warnings are one line. Ends with a newline.
    pub fn render(&self, style: Style) -> String {
        if self.severity == Severity::Warning || self.place.is_none() {
            return self.one_line();
        }
        let mut theme = match (style.unicode, style.colour) {
            (true, true) => GraphicalTheme::unicode(),
            (true, false) => GraphicalTheme::unicode_nocolor(),
            (false, _) => GraphicalTheme::none(),
        };
        theme.characters.error = "error:".into();
        let handler = GraphicalReportHandler::new_themed(theme)
            .with_width(style.width)
            .with_context_lines(1)
            .with_links(false);
        let mut out = String::new();
        match handler.render_report(&mut out, &Shown::of(self)) {
            Ok(()) => out,
            Err(fmt::Error) => self.one_line(),
        }
    }

    fn one_line(&self) -> String {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let place = self.place.as_ref().map(|p| format!("{p}: ")).unwrap_or_default();
        let label = self.label.as_ref().map(|l| format!("; {l}")).unwrap_or_default();
        let help = self.help.as_ref().map(|h| format!(" ({h})")).unwrap_or_default();
        printable(&format!("{severity}: {place}{}{label}{help}\n", self.message))
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.one_line().trim_end())
    }
}

impl std::error::Error for Diagnostic {}

/// How to draw.
#[derive(Copy, Clone, Debug)]
pub struct Style {
    /// With colours.
    pub colour: bool,
    /// With box-drawing characters.
    pub unicode: bool,
    /// Columns to wrap messages at.
    pub width: usize,
}

impl Style {
    /// Without colours, the same everywhere.
    pub const PLAIN: Self = Self { colour: false, unicode: true, width: 100 };

    /// What standard error can show.
    pub fn of_stderr() -> Self {
        let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { colour, ..Self::PLAIN }
    }
}

/// Everything that was found in one go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What was found, in the order it was found.
    pub diagnostics: Vec<Diagnostic>,
}

impl Report {
    /// Adds one.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }

    /// Whether any of it forbids going on.
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(|d| d.severity == Severity::Error)
    }

    /// Whether an error lies in the flags of the command line.
    pub fn is_usage(&self) -> bool {
        self.diagnostics.iter().any(|d| {
            d.severity == Severity::Error
                && d.place.as_ref().is_some_and(|p| p.source.name == COMMAND_LINE)
        })
    }

    /// Everything as people read it.
    pub fn render(&self, style: Style) -> String {
        self.diagnostics.iter().map(|d| d.render(style)).collect()
    }
}

impl From<Diagnostic> for Report {
    fn from(diagnostic: Diagnostic) -> Self {
        Self { diagnostics: vec![diagnostic] }
    }
}

/// The known name nearest to `word`, if one is near enough to be meant.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let enough = |name: &str| (name.len().max(word.len()) / 3).max(1);
    let len = word.chars().count();
    known
        .into_iter()
        // Lengths that differ by more are farther apart than that, and cost nothing to compare.
        .filter(|name| name.chars().count().abs_diff(len) <= enough(name))
        .map(|name| (strsim::damerau_levenshtein(word, name), name))
        .filter(|(distance, name)| *distance <= enough(name))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Control characters other than tab and newline as `?`, byte for byte, so that a text can't
/// drive the terminal and offsets stay right.
fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let hidden = c.is_control() && c != '\n' && c != '\t';
            let shown = match c {
                '\r' => ' ',
                _ if hidden => '?',
                _ => c,
            };
            std::iter::repeat_n(shown, if hidden { c.len_utf8() } else { 1 })
        })
        .collect()
}

/// A diagnostic in the form that miette draws.
#[derive(Debug)]
struct Shown<'a> {
    diagnostic: &'a Diagnostic,
    source: Option<NamedSource<String>>,
}

impl<'a> Shown<'a> {
    fn of(diagnostic: &'a Diagnostic) -> Self {
        let source = diagnostic
            .place
            .as_ref()
            .map(|p| NamedSource::new(printable(&p.source.name), printable(&p.source.text)));
        Self { diagnostic, source }
    }
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.diagnostic.message))
    }
}

impl std::error::Error for Shown<'_> {}

impl miette::Diagnostic for Shown<'_> {
    fn help<'b>(&'b self) -> Option<Box<dyn fmt::Display + 'b>> {
        let help = self.diagnostic.help.as_ref()?;
        Some(Box::new(printable(help)))
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        self.source.as_ref().map(|s| s as &dyn miette::SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let place = self.diagnostic.place.as_ref()?;
        // A place past the end (something is missing there) is drawn on the last byte's line,
        // and one that goes over several lines on its first.
        let text = &place.source.text;
        let start = place.span.start.min(text.len());
        let line = text.get(start..).and_then(|t| t.find('\n')).unwrap_or(text.len() - start);
        let len = place.span.len().min(line);
        let label = self.diagnostic.label.as_deref().map(printable);
        let span = LabeledSpan::new_with_span(label, SourceSpan::from((start, len)));
        Some(Box::new(std::iter::once(span)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_its_place_and_draws_a_caret() {
        let source = Source::new("gateway.toml", "workers = 2\nworkes = 3\n");
        let error = source
            .place(12..18)
            .error("unknown key `workes`")
            .expected("a key of the top level")
            .nearest("workes", ["control", "workers"]);
        assert_eq!(
            error.render(Style::PLAIN),
            "  error: unknown key `workes`
   ╭─[gateway.toml:2:1]
 1 │ workers = 2
 2 │ workes = 3
   · ───┬──
   ·    ╰── expected a key of the top level
   ╰────
  help: did you mean `workers`?
"
        );
        assert_eq!(
            error.to_string(),
            "error: gateway.toml:2:1: unknown key `workes`; expected a key of the top level (did \
             you mean `workers`?)"
        );
    }

    #[test]
    fn positions_count_characters() {
        let source = Source::new("f", "aé\n\tx");
        for (offset, position) in [(0, (1, 1)), (3, (1, 3)), (2, (1, 2)), (4, (2, 1)), (5, (2, 2))]
        {
            assert_eq!(source.position(offset), position, "{offset}");
        }
        assert_eq!(source.position(99), (2, 3));
    }

    #[test]
    fn places_at_the_edges_are_drawn() {
        for (text, span) in [("", 0..0), ("a", 1..1), ("a\n", 2..9), ("a\nb", 0..3), ("é", 1..2)] {
            let drawn = Source::new("f", text).place(span.clone()).error("m").render(Style::PLAIN);
            assert!(
                drawn.contains("f:1:1]") || drawn.contains("f:1:2]") || drawn.contains("f:2:1")
            );
        }
    }

    #[test]
    fn a_text_cannot_drive_the_terminal() {
        let source = Source::new("f\u{1b}[2J", "\u{1b}]0;x\u{7} y\r\n");
        let drawn = source.place(0..1).error("bad \u{1b}[31m").render(Style::PLAIN);
        assert!(!drawn.contains(['\u{1b}', '\u{7}', '\r']), "{drawn:?}");
    }

    #[test]
    fn text_that_is_not_utf8_is_placed() {
        let error = Source::from_bytes("f".into(), b"ab\ncd\xff".to_vec()).unwrap_err();
        assert_eq!(error.to_string(), "error: f:2:3: this isn't UTF-8 text");
    }

    #[test]
    fn near_names_are_found_and_far_ones_are_not() {
        assert_eq!(nearest("adress", ["name", "address"]), Some("address"));
        assert_eq!(nearest("zzz", ["name", "address"]), None);
        assert_eq!(nearest("mut", ["mtu", "mac"]), Some("mtu"));
    }
}
