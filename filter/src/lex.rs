//! Splits a line into words the way `iptables-restore` does.

use std::borrow::Cow;
use std::ops::Range;

use crate::diagnostic::{Outcome, Problem};

/// The longest word that iptables-restore takes.
const MAX_WORD: usize = 1023;

/// A word of a line, quotes and escapes removed, and where it stands in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Word<'t> {
    /// Mostly a piece of the file itself: a file has a dozen words for each of its rules.
    pub text: Cow<'t, str>,
    pub span: Range<usize>,
    /// It ended in a quote, so `"!"` is a value and not a negation.
    pub quoted: bool,
}

impl Word<'_> {
    /// A problem with this word.
    pub fn wrong(&self, message: impl Into<String>) -> Problem {
        Problem::new(self.span.clone(), message)
    }
}

/// Splits `line`, which starts at byte `start` of the file, and appends its words to `words`.
///
/// A double quote opens a quoted part, inside which a backslash takes the next character as it is;
/// outside quotes a backslash is an ordinary character. A closing quote ends the word, even without
/// a blank behind it.
pub(crate) fn split<'t>(line: &'t str, start: usize, words: &mut Vec<Word<'t>>) -> Outcome<()> {
    let is_blank = |b: &u8| matches!(b, b' ' | b'\t');
    let mut at = 0;
    while let Some(skipped) = line.as_bytes()[at..].iter().position(|b| !is_blank(b)) {
        at += skipped;
        let rest = &line[at..];
        let ends = |b: &u8| is_blank(b) || *b == b'"';
        let len = rest.bytes().position(|b| ends(&b)).unwrap_or(rest.len());
        let from = start + at;
        let word = if rest.as_bytes().get(len) == Some(&b'"') {
            let Some((text, len)) = quoted(rest, len) else {
                return Err(Problem::new(from..start + line.len(), "the quote is never closed"));
            };
            Word { text, span: from..from + len, quoted: true }
        } else {
            Word { text: Cow::Borrowed(&rest[..len]), span: from..from + len, quoted: false }
        };
        if word.text.len() > MAX_WORD {
            let message = format!("a word longer than {MAX_WORD} bytes");
            return Err(Problem::new(word.span, message));
        }
        at = word.span.end - start;
        words.push(word);
    }
    Ok(())
}

/// The word at the beginning of `rest`, whose first quote is at `open`, and how many bytes of the
/// line it takes; nothing if its quote is never closed.
fn quoted(rest: &str, open: usize) -> Option<(Cow<'_, str>, usize)> {
    let inside = &rest[open + 1..];
    let stop = inside.find(['"', '\\'])?;
    if open == 0 && inside.as_bytes()[stop] == b'"' {
        return Some((Cow::Borrowed(&inside[..stop]), stop + 2));
    }
    let mut text = rest[..open].to_owned();
    let mut chars = inside.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((Cow::Owned(text), open + 1 + at + 1)),
            '\\' => text.extend(chars.next().map(|(_, escaped)| escaped)),
            _ => text.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str, start: usize) -> Outcome<Vec<Word<'_>>> {
        let mut words = Vec::new();
        split(line, start, &mut words).map(|()| words)
    }

    #[test]
    fn words_are_split_as_iptables_restore_splits_them() {
        for (line, want) in [
            ("-A INPUT  -j\tDROP", vec!["-A", "INPUT", "-j", "DROP"]),
            (r#"--comment "a b""#, vec!["--comment", "a b"]),
            (r#"--comment "a \"q\" \\ b""#, vec!["--comment", r#"a "q" \ b"#]),
            (r#"a\b"#, vec![r"a\b"]),
            (r#""" x"#, vec!["", "x"]),
            (r#"ü"ö\ä" "é""#, vec!["üöä", "é"]),
            (r#"a"b"c"#, vec!["ab", "c"]),
            ("", vec![]),
            ("   ", vec![]),
        ] {
            let got: Vec<_> = words(line, 0).unwrap().into_iter().map(|w| w.text).collect();
            assert_eq!(got, want, "{line}");
        }
        assert_eq!(words("-j \"DR", 10).unwrap_err().span, 13..16);
        assert_eq!(words("-j  DROP", 10).unwrap()[1].span, 14..18);
        assert_eq!(words(r#"-j a"b\"c" d"#, 10).unwrap()[1].span, 13..20);
        assert!(words(&"x".repeat(1024), 0).is_err());
    }
}
