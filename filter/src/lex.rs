//! Splits a line into words the way `iptables-restore` does.

use std::ops::Range;

use crate::diagnostic::{Outcome, Problem};

/// The longest word that iptables-restore takes.
const MAX_WORD: usize = 1023;

/// A word of a line, quotes and escapes removed, and where it stands in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    pub text: String,
    pub span: Range<usize>,
    /// It ended in a quote, so `"!"` is a value and not a negation.
    pub quoted: bool,
}

impl Word {
    /// A problem with this word.
    pub fn wrong(&self, message: impl Into<String>) -> Problem {
        Problem::new(self.span.clone(), message)
    }
}

/// Splits `line`, which starts at byte `start` of the file.
///
/// A double quote opens a quoted part, inside which a backslash takes the next character as it is;
/// outside quotes a backslash is an ordinary character. A closing quote ends the word, even without
/// a blank behind it.
pub(crate) fn split(line: &str, start: usize) -> Outcome<Vec<Word>> {
    let mut words = Vec::new();
    let mut text = String::new();
    let mut begin = None;
    let mut chars = line.char_indices();
    let mut quoted = false;
    while let Some((at, c)) = chars.next() {
        match c {
            '"' if !quoted => {
                quoted = true;
                begin.get_or_insert(start + at);
            }
            '"' => {
                let from = begin.take().unwrap_or(start + at);
                push(&mut words, &mut text, from..start + at + 1, true)?;
                quoted = false;
            }
            '\\' if quoted => text.extend(chars.next().map(|(_, escaped)| escaped)),
            ' ' | '\t' if !quoted => {
                if let Some(from) = begin.take() {
                    push(&mut words, &mut text, from..start + at, false)?;
                }
            }
            _ => {
                begin.get_or_insert(start + at);
                text.push(c);
            }
        }
    }
    if quoted {
        let from = begin.unwrap_or(start);
        return Err(Problem::new(from..start + line.len(), "the quote is never closed"));
    }
    if let Some(from) = begin {
        push(&mut words, &mut text, from..start + line.len(), false)?;
    }
    Ok(words)
}

fn push(words: &mut Vec<Word>, text: &mut String, span: Range<usize>, quoted: bool) -> Outcome<()> {
    if text.len() > MAX_WORD {
        return Err(Problem::new(span, format!("a word longer than {MAX_WORD} bytes")));
    }
    words.push(Word { text: std::mem::take(text), span, quoted });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_iptables_restore_splits_them() {
        for (line, want) in [
            ("-A INPUT  -j\tDROP", vec!["-A", "INPUT", "-j", "DROP"]),
            (r#"--comment "a b""#, vec!["--comment", "a b"]),
            (r#"--comment "a \"q\" \\ b""#, vec!["--comment", r#"a "q" \ b"#]),
            (r#"a\b"#, vec![r"a\b"]),
            (r#""" x"#, vec!["", "x"]),
            (r#"a"b"c"#, vec!["ab", "c"]),
            ("", vec![]),
            ("   ", vec![]),
        ] {
            let got: Vec<_> = split(line, 0).unwrap().into_iter().map(|w| w.text).collect();
            assert_eq!(got, want, "{line}");
        }
        assert_eq!(split("-j \"DR", 10).unwrap_err().span, 13..16);
        assert_eq!(split("-j  DROP", 10).unwrap()[1].span, 14..18);
        assert!(split(&"x".repeat(1024), 0).is_err());
    }
}
