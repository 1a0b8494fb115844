//! TOML tables read key by key, so that every error is found and knows its place. (Serde's
//! derive stops at the first.)

use super::draft::At;
use crate::diagnostic::{Place, Report, Source};
use ::toml::de::{DeTable, DeValue};
use std::ops::RangeInclusive;
use std::sync::Arc;
use toml::Spanned;

/// A table whose keys are taken out one by one; what remains is unknown.
pub(super) struct Table<'a> {
    /// The table's header, or its braces.
    pub place: Place,
    entries: Vec<Entry<'a>>,
}

type Entry<'a> = (At<String>, Spanned<DeValue<'a>>);

/// A value that was taken out of a table.
pub(super) struct Scalar<'a> {
    value: DeValue<'a>,
    pub place: Place,
}

/// A short form, or a long one.
pub(super) enum StringOrTable<'a> {
    String(At<String>),
    Table(Table<'a>),
}

impl<'a> Table<'a> {
    /// Parses a whole text. `None` if it isn't TOML; the report then says where.
    pub fn document(source: &'a Arc<Source>, report: &mut Report) -> Option<Self> {
        let (document, errors) = DeTable::parse_recoverable(&source.text);
        if errors.is_empty() {
            return Some(Self::new(document.into_inner(), source.place(0..0)));
        }
        for error in errors {
            let place = source.place(error.span().unwrap_or(0..0));
            report.push(place.error(error.message()));
        }
        None
    }

    fn new(table: DeTable<'a>, place: Place) -> Self {
        let mut entries: Vec<Entry<'a>> = table
            .into_iter()
            .map(|(key, value)| {
                let at = place.source.place(key.span());
                (At::new(key.into_inner().into_owned(), at), value)
            })
            .collect();
        // The parser sorts by name; settings count in the order they were written.
        entries.sort_by_key(|(key, _)| key.place.span.start);
        Self { place, entries }
    }

    fn take(&mut self, key: &str) -> Option<Scalar<'a>> {
        let at = self.entries.iter().position(|(k, _)| k.value == key)?;
        let (_, value) = self.entries.remove(at);
        Some(Scalar::new(value, &self.place.source))
    }

    /// A key that must be there.
    pub fn required(&mut self, key: &str, of: &str, report: &mut Report) -> Option<Scalar<'a>> {
        let found = self.take(key);
        if found.is_none() {
            report.push(self.place.error(format!("{of} has no `{key}`")));
        }
        found
    }

    /// A string.
    pub fn string(&mut self, key: &str, report: &mut Report) -> Option<At<String>> {
        let scalar = self.take(key)?;
        Some(At::new(scalar.string(report)?, scalar.place))
    }

    /// A number in a range; `unit` is for the message.
    pub fn integer(
        &mut self,
        key: &str,
        range: RangeInclusive<i64>,
        unit: &str,
        report: &mut Report,
    ) -> Option<At<i64>> {
        let scalar = self.take(key)?;
        let number = match &scalar.value {
            DeValue::Integer(n) => {
                i64::from_str_radix(n.as_str(), n.radix()).ok().filter(|n| range.contains(n))
            }
            _ => None,
        };
        let Some(number) = number else {
            let unit = if unit.is_empty() { String::new() } else { format!(" of {unit}") };
            let expected = format!("a number{unit} from {} to {}", range.start(), range.end());
            report.push(scalar.place.error(format!("bad value for `{key}`")).expected(expected));
            return None;
        };
        Some(At::new(number, scalar.place))
    }

    /// One of some names.
    pub fn one_of<T: Copy>(
        &mut self,
        key: &str,
        names: &[(&str, T)],
        report: &mut Report,
    ) -> Option<At<T>> {
        let text = self.string(key, report)?;
        if let Some((_, value)) = names.iter().find(|(name, _)| *name == text.value) {
            return Some(At::new(*value, text.place));
        }
        let all: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
        report.push(
            text.place
                .error(format!("`{}` is no {key}", text.value))
                .expected(any_of(&all))
                .nearest(&text.value, all.iter().copied()),
        );
        None
    }

    /// A list, or a single value in its place.
    pub fn list(&mut self, key: &str, report: &mut Report) -> Option<At<Vec<Scalar<'a>>>> {
        let scalar = self.take(key)?;
        match scalar.value {
            DeValue::Array(items) => {
                let source = &self.place.source;
                let items = items.into_iter().map(|item| Scalar::new(item, source)).collect();
                Some(At::new(items, scalar.place))
            }
            DeValue::Table(_) => {
                report.push(wrong(&scalar, "a list of strings"));
                None
            }
            _ => {
                let place = scalar.place.clone();
                Some(At::new(vec![scalar], place))
            }
        }
    }

    /// A `[key]` table.
    pub fn table(&mut self, key: &str, report: &mut Report) -> Option<Self> {
        let scalar = self.take(key)?;
        match scalar.value {
            DeValue::Table(table) => Some(Self::new(table, scalar.place)),
            _ => {
                report.push(wrong(&scalar, &format!("a table, as in [{key}]")));
                None
            }
        }
    }

    /// A string or a table.
    pub fn string_or_table(
        &mut self,
        key: &str,
        expected: &str,
        report: &mut Report,
    ) -> Option<StringOrTable<'a>> {
        let scalar = self.take(key)?;
        match scalar.value {
            DeValue::String(text) => {
                Some(StringOrTable::String(At::new(text.into_owned(), scalar.place)))
            }
            DeValue::Table(table) => Some(StringOrTable::Table(Self::new(table, scalar.place))),
            _ => {
                report.push(wrong(&scalar, expected));
                None
            }
        }
    }

    /// All `[[key]]` tables.
    pub fn tables(&mut self, key: &str, report: &mut Report) -> Vec<Self> {
        let expected = format!("tables, as in [[{key}]]");
        let Some(scalar) = self.take(key) else { return Vec::new() };
        let DeValue::Array(items) = scalar.value else {
            report.push(wrong(&scalar, &expected));
            return Vec::new();
        };
        let mut out = Vec::new();
        for item in items {
            let scalar = Scalar::new(item, &self.place.source);
            match scalar.value {
                DeValue::Table(table) => out.push(Self::new(table, scalar.place)),
                _ => report.push(wrong(&scalar, &expected)),
            }
        }
        out
    }

    /// What nobody has taken, in the order it was written. A dotted key without quotes
    /// (`net.ipv4.ip_forward = 1`) is a nest of tables to TOML; it comes out under its full name.
    pub fn rest(self) -> Vec<(At<String>, Scalar<'a>)> {
        let mut out = Vec::new();
        let mut queue: std::collections::VecDeque<_> = self.entries.into();
        while let Some((key, value)) = queue.pop_front() {
            let scalar = Scalar::new(value, &key.place.source);
            match scalar.value {
                DeValue::Table(table) => {
                    let inner = Self::new(table, key.place.clone());
                    for (mut name, value) in inner.entries.into_iter().rev() {
                        name.value = format!("{}.{}", key.value, name.value);
                        name.place.span.start = key.place.span.start.min(name.place.span.start);
                        queue.push_front((name, value));
                    }
                }
                _ => out.push((key, scalar)),
            }
        }
        out.sort_by_key(|(key, _)| key.place.span.end);
        out
    }

    /// Complains of every key that nobody has taken.
    pub fn finish(self, of: &str, known: &[&str], report: &mut Report) {
        for (key, _) in self.entries {
            let names = format!("{of} has {}", any_of(known).replace(" or ", " and "));
            let error = key.place.error(format!("unknown key `{}` in {of}", key.value));
            let error = error.nearest(&key.value, known.iter().copied());
            report.push(if error.help.is_none() { error.help(names) } else { error });
        }
    }
}

impl<'a> Scalar<'a> {
    fn new(value: Spanned<DeValue<'a>>, source: &Arc<Source>) -> Self {
        let mut span = value.span();
        let value = value.into_inner();
        // The caret goes under the text of a plain string, not under its quotes, so that a part
        // of it can be pointed at.
        if let DeValue::String(text) = &value
            && span.len() == text.len() + 2
        {
            span = span.start + 1..span.end - 1;
        }
        Self { value, place: source.place(span) }
    }

    /// The value as a string.
    pub fn string(&self, report: &mut Report) -> Option<String> {
        match &self.value {
            DeValue::String(text) => Some(text.clone().into_owned()),
            _ => {
                report.push(wrong(self, "a string"));
                None
            }
        }
    }

    /// A kernel parameter's value: a number, a flag or a string of either.
    pub fn sysctl(&self, report: &mut Report) -> Option<String> {
        match &self.value {
            DeValue::String(text) => Some(text.clone().into_owned()),
            DeValue::Boolean(flag) => Some(u8::from(*flag).to_string()),
            DeValue::Integer(n) => {
                let number = i64::from_str_radix(n.as_str(), n.radix()).ok();
                if number.is_none() {
                    report.push(wrong(self, "a number of at most 63 bits"));
                }
                number.map(|n| n.to_string())
            }
            _ => {
                report.push(wrong(self, "a number, true, false or a string"));
                None
            }
        }
    }
}

fn wrong(scalar: &Scalar<'_>, expected: &str) -> crate::diagnostic::Diagnostic {
    let found = match &scalar.value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    scalar.place.error(format!("{found} can't stand here")).expected(expected)
}

/// `a, b or c`.
fn any_of(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => format!("`{one}`"),
        [head @ .., last] => {
            let head: Vec<String> = head.iter().map(|n| format!("`{n}`")).collect();
            format!("{} or `{last}`", head.join(", "))
        }
    }
}
