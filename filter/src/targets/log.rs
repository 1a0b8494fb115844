//! `LOG`: a line in the log, and on to the next rule.

use std::fmt::Write as _;

use crate::diagnostic::Outcome;
use crate::effects::{LogFlags, LogRecord};
use crate::extension::{Context, Given, Listing, Next, Spec, Target, TargetSpec, flag, value};
use crate::lex::Word;
use crate::values::{cut, parse_number, save_name, save_option, save_string};

pub(crate) static SPEC: TargetSpec = TargetSpec {
    options: &[
        value(&["log-level"]),
        value(&["log-prefix"]),
        flag(&["log-tcp-sequence"]),
        flag(&["log-tcp-options"]),
        flag(&["log-ip-options"]),
        flag(&["log-uid"]),
        flag(&["log-macdecode"]),
    ],
    ..Spec::new("LOG", build)
};

/// The names of the levels in listings.
const LEVELS: [&str; 8] = ["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"];
/// The names that `--log-level` takes. `err` isn't one to iptables 1.8.9.
const TAKEN: [(&str, u8); 9] = [
    ("emerg", 0),
    ("panic", 0),
    ("alert", 1),
    ("crit", 2),
    ("error", 3),
    ("warning", 4),
    ("notice", 5),
    ("info", 6),
    ("debug", 7),
];
const DEFAULT_LEVEL: u8 = 4;
/// What fits in a rule; the rest of a longer prefix is cut off.
const MAX_PREFIX: usize = 29;

#[derive(Debug)]
struct Log {
    level: u8,
    prefix: String,
    flags: LogFlags,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Target>> {
    let level = match given.value("log-level") {
        Some((word, _)) => level(word)?,
        None => DEFAULT_LEVEL,
    };
    let prefix = match given.value("log-prefix") {
        Some((word, _)) if word.text.is_empty() => return Err(word.wrong("an empty prefix")),
        Some((word, _)) => cut(&word.text, MAX_PREFIX).to_owned(),
        None => String::new(),
    };
    let flags = LogFlags {
        tcp_sequence: given.has("log-tcp-sequence"),
        tcp_options: given.has("log-tcp-options"),
        ip_options: given.has("log-ip-options"),
        uid: given.has("log-uid"),
        mac_decode: given.has("log-macdecode"),
    };
    Ok(Box::new(Log { level, prefix, flags }))
}

fn level(word: &Word<'_>) -> Outcome<u8> {
    let named = TAKEN.iter().find(|(name, _)| word.text.eq_ignore_ascii_case(name));
    named
        .map(|(_, level)| *level)
        .or(parse_number(&word.text).filter(|n| *n <= 7).map(|n| n as u8))
        .ok_or_else(|| {
            word.wrong(format!("unknown log level `{}`", word.text))
                .help(format!("expected 0 to 7 or {}", TAKEN.map(|(name, _)| name).join(", ")))
                .words(format!("log level \"{}\" unknown\n", word.text))
        })
}

impl Target for Log {
    fn apply(&self, context: &mut Context<'_>) -> Next {
        context.effects.log(LogRecord {
            table: context.table,
            hook: context.hook,
            level: self.level,
            prefix: &self.prefix,
            flags: self.flags,
            query: context.query,
            mark: context.mark,
        });
        Next::Continue
    }

    fn list(&self, out: &mut String, style: Listing) {
        let LogFlags { tcp_sequence, tcp_options, ip_options, uid, mac_decode } = self.flags;
        // In the order of their bits in the kernel's rule; the fifth isn't LOG's.
        let flags = [
            (tcp_sequence, 1, "tcp-sequence"),
            (tcp_options, 2, "tcp-options"),
            (ip_options, 4, "ip-options"),
            (uid, 8, "uid"),
            (mac_decode, 32, "macdecode"),
        ];
        let given = || flags.iter().filter(|(given, ..)| *given);
        if style.numeric {
            let bits: u8 = given().map(|(_, bit, _)| bit).sum();
            let _ = write!(out, " LOG flags {bits} level {}", self.level);
        } else {
            let name = match self.level {
                DEFAULT_LEVEL => "warn",
                level => LEVELS.get(usize::from(level)).copied().unwrap_or_default(),
            };
            let _ = write!(out, " LOG level {name}");
            for (_, _, name) in given() {
                let _ = write!(out, " {name}");
            }
        }
        if !self.prefix.is_empty() {
            let _ = write!(out, " prefix \"{}\"", self.prefix);
        }
    }

    fn save(&self, out: &mut String) {
        if !self.prefix.is_empty() {
            save_name(out, "log-prefix", false);
            save_string(out, &self.prefix);
        }
        if self.level != DEFAULT_LEVEL {
            save_option(out, "log-level", false, self.level);
        }
        let LogFlags { tcp_sequence, tcp_options, ip_options, uid, mac_decode } = self.flags;
        for (given, name) in [
            (tcp_sequence, "log-tcp-sequence"),
            (tcp_options, "log-tcp-options"),
            (ip_options, "log-ip-options"),
            (uid, "log-uid"),
            (mac_decode, "log-macdecode"),
        ] {
            if given {
                save_name(out, name, false);
            }
        }
    }
}
