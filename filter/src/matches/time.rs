//! `-m time`: date, time of day, weekday, day of the month; all in UTC.

use std::fmt::Write as _;

use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, flag, value};
use crate::lex::Word;
use crate::values::{save_name, save_option};

pub(crate) static SPEC: MatchSpec = MatchSpec {
    options: &[
        value(&["timestart"]),
        value(&["timestop"]),
        value(&["datestart"]),
        value(&["datestop"]),
        value(&["monthdays"]).inverts(),
        value(&["weekdays"]).inverts(),
        flag(&["kerneltz"]),
        flag(&["contiguous"]),
    ],
    ..Spec::new("time", build)
};

const DAY: u32 = 86_400;
/// The end of time, 2038-01-19T03:14:07.
const LAST_DATE: u32 = i32::MAX as u32;
const WEEKDAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
/// Bits 1 to 7.
const ALL_WEEKDAYS: u32 = 0xfe;
/// Bits 1 to 31.
const ALL_MONTHDAYS: u32 = 0xffff_fffe;

#[derive(Debug)]
struct Time {
    /// Seconds of the day, both included.
    day: (u32, u32),
    /// Seconds since 1970, both included.
    date: (u32, u32),
    monthdays: u32,
    weekdays: u32,
    kernel_zone: bool,
    contiguous: bool,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    let of = |name: &str, read: fn(&Word<'_>) -> Outcome<u32>, default| match given.value(name) {
        Some((word, _)) => read(word),
        None => Ok(default),
    };
    let days = |name: &str, read: fn(&Word<'_>) -> Outcome<u32>, all: u32| match given.value(name) {
        Some((word, inverted)) => {
            let mut bits = 0;
            for part in word.list() {
                bits |= 1 << read(&part)?;
            }
            Ok(if inverted { all & !bits } else { bits })
        }
        None => Ok(all),
    };
    let this = Time {
        day: (of("timestart", daytime, 0)?, of("timestop", daytime, DAY - 1)?),
        date: (of("datestart", date, 0)?, of("datestop", date, LAST_DATE)?),
        monthdays: days("monthdays", |w| w.number(1..=31).map(|n| n as u32), ALL_MONTHDAYS)?,
        weekdays: days("weekdays", weekday, ALL_WEEKDAYS)?,
        kernel_zone: given.has("kerneltz"),
        contiguous: given.has("contiguous"),
    };
    if this.contiguous && this.day.0 < this.day.1 {
        return Err(given.wrong("--contiguous is for a --timestop before --timestart"));
    }
    Ok(Box::new(this))
}

/// `hh:mm[:ss]`.
fn daytime(word: &Word<'_>) -> Outcome<u32> {
    let parts: Option<Vec<u32>> = word.text.split(':').map(decimal).collect();
    match parts.as_deref() {
        Some([h @ 0..=23, m @ 0..=59]) => Ok(h * 3600 + m * 60),
        Some([h @ 0..=23, m @ 0..=59, s @ 0..=59]) => Ok(h * 3600 + m * 60 + s),
        _ => Err(word.wrong(format!("bad time `{}`", word.text)).help("expected hh:mm[:ss]")),
    }
}

fn decimal(text: &str) -> Option<u32> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

/// `YYYY[-MM[-DD[Thh[:mm[:ss]]]]]`, what is missing at its least.
fn date(word: &Word<'_>) -> Outcome<u32> {
    let bad = || {
        word.wrong(format!("bad date `{}`", word.text))
            .help("expected YYYY-MM-DDThh:mm:ss, 1970 to 2038, and may stop short")
    };
    let (day, time) = match word.text.split_once('T') {
        Some((day, time)) => (day, Some(time)),
        None => (&*word.text, None),
    };
    let numbers =
        |text: &str, between| -> Option<Vec<u32>> { text.split(between).map(decimal).collect() };
    let day = numbers(day, '-').ok_or_else(bad)?;
    let (year, month, monthday) = match (day.as_slice(), time) {
        (&[y], None) => (y, 1, 1),
        (&[y, m], None) => (y, m, 1),
        (&[y, m, d], _) => (y, m, d),
        _ => return Err(bad()),
    };
    let time = time.map_or(Some(Vec::new()), |time| numbers(time, ':')).ok_or_else(bad)?;
    let at = |n: usize| time.get(n).copied().unwrap_or(0);
    let in_range = (1970..=2038).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&monthday)
        && time.len() <= 3
        && at(0) < 24
        && at(1) < 60
        && at(2) < 60;
    if !in_range {
        return Err(bad());
    }
    let seconds = u64::from(days_since_1970(year, month, monthday)) * u64::from(DAY);
    let seconds = seconds + u64::from(at(0) * 3600 + at(1) * 60 + at(2));
    u32::try_from(seconds).ok().filter(|n| *n <= LAST_DATE).ok_or_else(bad)
}

/// Days from the first of 1970 to a date of the Gregorian calendar.
fn days_since_1970(year: u32, month: u32, day: u32) -> u32 {
    let leap = |y: u32| y.is_multiple_of(4) && (!y.is_multiple_of(100) || y.is_multiple_of(400));
    let years: u32 = (1970..year).map(|y| if leap(y) { 366 } else { 365 }).sum();
    let lengths = [31, if leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    years + lengths.iter().take(month as usize - 1).sum::<u32>() + day - 1
}

/// Year, month and day of the month of a day since 1970.
fn calendar(days: u32) -> (u32, u32, u32) {
    let year = (1970..).take_while(|y| days_since_1970(*y, 1, 1) <= days).last().unwrap_or(1970);
    let month = (1..=12).take_while(|m| days_since_1970(year, *m, 1) <= days).last().unwrap_or(1);
    (year, month, days - days_since_1970(year, month, 1) + 1)
}

/// Monday is 1.
fn weekday(word: &Word<'_>) -> Outcome<u32> {
    let named = WEEKDAYS.iter().position(|name| {
        word.text.eq_ignore_ascii_case(name) || word.text.eq_ignore_ascii_case(&name[..2])
    });
    match (named, decimal(&word.text)) {
        (Some(at), _) => Ok(at as u32 + 1),
        (None, Some(n @ 1..=7)) => Ok(n),
        _ => Err(word
            .wrong(format!("unknown weekday `{}`", word.text))
            .help("expected Mon to Sun, or 1 to 7")),
    }
}

fn clock(seconds: u32) -> String {
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// Appends a word and the days whose bits are set.
fn list_days(out: &mut String, word: &str, bits: u32, text: impl Fn(u32) -> String) {
    out.push_str(word);
    let mut between = ' ';
    for day in (1..32).filter(|day| bits >> day & 1 != 0) {
        let _ = write!(out, "{between}{}", text(day));
        between = ',';
    }
}

impl Match for Time {
    /// xt_time.
    fn matches(&self, context: &mut Context<'_>) -> bool {
        let now = context.query.unix_nanos / 1_000_000_000;
        let Ok(now) = u32::try_from(now) else { return false };
        if now < self.date.0 || now > self.date.1 {
            return false;
        }
        let (start, stop) = self.day;
        let seconds = now % DAY;
        let mut days = now / DAY;
        if start < stop {
            if seconds < start || seconds > stop {
                return false;
            }
        } else {
            if seconds < start && seconds > stop {
                return false;
            }
            // The hours after midnight belong to the day before.
            if self.contiguous && seconds <= stop {
                days = days.saturating_sub(1);
            }
        }
        // The first of 1970 was a Thursday.
        let weekday = (days + 3) % 7 + 1;
        if self.weekdays >> weekday & 1 == 0 {
            return false;
        }
        self.monthdays == ALL_MONTHDAYS || self.monthdays >> calendar(days).2 & 1 != 0
    }

    fn list(&self, out: &mut String, _: Listing) {
        out.push_str(" TIME");
        if self.day != (0, DAY - 1) {
            let _ = write!(out, " from {} to {}", clock(self.day.0), clock(self.day.1));
        }
        if self.monthdays != ALL_MONTHDAYS {
            list_days(out, " on", self.monthdays, |day| {
                // iptables goes by the last digit: it says 11st.
                let ending = match day % 10 {
                    1 => "st",
                    2 => "nd",
                    3 => "rd",
                    _ => "th",
                };
                format!("{day}{ending}")
            });
        }
        if self.weekdays != ALL_WEEKDAYS {
            list_days(out, " on", self.weekdays, |day| WEEKDAYS[day as usize - 1].to_owned());
        }
        for (words, date) in [("starting from", self.date.0), ("until date", self.date.1)] {
            if date != 0 && date != LAST_DATE {
                let (y, m, d) = calendar(date / DAY);
                let _ = write!(out, " {words} {y}-{m:02}-{d:02} {}", clock(date % DAY));
            }
        }
        if !self.kernel_zone {
            out.push_str(" UTC");
        }
        if self.contiguous {
            out.push_str(" contiguous");
        }
    }

    fn save(&self, out: &mut String) {
        if self.day != (0, DAY - 1) {
            save_option(out, "timestart", false, clock(self.day.0));
            save_option(out, "timestop", false, clock(self.day.1));
        }
        if self.monthdays != ALL_MONTHDAYS {
            list_days(out, " --monthdays", self.monthdays, |day| day.to_string());
        }
        if self.weekdays != ALL_WEEKDAYS {
            let name = |day: u32| WEEKDAYS[day as usize - 1].to_owned();
            list_days(out, " --weekdays", self.weekdays, name);
        }
        for (name, date) in [("datestart", self.date.0), ("datestop", self.date.1)] {
            if date != 0 {
                let (y, m, d) = calendar(date / DAY);
                let text = format!("{y}-{m:02}-{d:02}T{}", clock(date % DAY));
                save_option(out, name, false, text);
            }
        }
        if self.kernel_zone {
            save_name(out, "kerneltz", false);
        }
        if self.contiguous {
            save_name(out, "contiguous", false);
        }
    }
}
