//! `-m owner`: the local socket that sent a packet. No packet here has one: forwarded ones never do,
//! and those of the host device have left their kernel's sockets behind.

use std::fmt::Write as _;

use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, flag, value};
use crate::lex::Word;
use crate::query::Hook;
use crate::values::{Span, parse_number, save_name, save_option};

pub(crate) static SPEC: MatchSpec = MatchSpec {
    options: &[
        value(&["uid-owner"]).inverts(),
        value(&["gid-owner"]).inverts(),
        flag(&["socket-exists"]).inverts(),
        flag(&["suppl-groups"]),
    ],
    hooks: &[Hook::Output, Hook::Postrouting],
    ..Spec::new("owner", build)
};

type Asked<T> = Option<(T, bool)>;

#[derive(Debug)]
struct Owner {
    user: Asked<(u32, u32)>,
    group: Asked<(u32, u32)>,
    socket: Asked<()>,
    supplementary: bool,
}

/// Users and groups that every Debian system has, with the same numbers.
const USERS: &[(&str, u32)] = &[
    ("root", 0),
    ("daemon", 1),
    ("bin", 2),
    ("sys", 3),
    ("sync", 4),
    ("games", 5),
    ("man", 6),
    ("lp", 7),
    ("mail", 8),
    ("news", 9),
    ("uucp", 10),
    ("proxy", 13),
    ("www-data", 33),
    ("backup", 34),
    ("list", 38),
    ("irc", 39),
    ("nobody", 65_534),
];
const GROUPS: &[(&str, u32)] = &[
    ("root", 0),
    ("daemon", 1),
    ("bin", 2),
    ("sys", 3),
    ("adm", 4),
    ("tty", 5),
    ("disk", 6),
    ("lp", 7),
    ("mail", 8),
    ("news", 9),
    ("uucp", 10),
    ("man", 12),
    ("proxy", 13),
    ("kmem", 15),
    ("dialout", 20),
    ("fax", 21),
    ("voice", 22),
    ("cdrom", 24),
    ("floppy", 25),
    ("tape", 26),
    ("sudo", 27),
    ("audio", 29),
    ("dip", 30),
    ("www-data", 33),
    ("backup", 34),
    ("operator", 37),
    ("list", 38),
    ("irc", 39),
    ("src", 40),
    ("shadow", 42),
    ("utmp", 43),
    ("video", 44),
    ("sasl", 45),
    ("plugdev", 46),
    ("staff", 50),
    ("games", 60),
    ("users", 100),
    ("nogroup", 65_534),
];

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    let ask = |name: &str, known| match given.value(name) {
        Some((word, inverted)) => ids(word, known).map(|ids| Some((ids, inverted))),
        None => Ok(None),
    };
    let this = Owner {
        user: ask("uid-owner", USERS)?,
        group: ask("gid-owner", GROUPS)?,
        socket: given.get("socket-exists").map(|option| ((), option.inverted)),
        supplementary: given.has("suppl-groups"),
    };
    if this.user.is_none() && this.group.is_none() && this.socket.is_none() {
        return Err(
            given.wrong("at least one of --uid-owner, --gid-owner, --socket-exists must be given")
        );
    }
    if this.supplementary && this.group.is_none() {
        return Err(given.wrong("--suppl-groups needs --gid-owner"));
    }
    Ok(Box::new(this))
}

/// A number, or two with a dash between.
fn ids(word: &Word<'_>, known: &[(&str, u32)]) -> Outcome<(u32, u32)> {
    let one = |text: &str| parse_number(text).and_then(|n| u32::try_from(n).ok());
    let named = known.iter().find(|(name, _)| *name == word.text).map(|(_, id)| (*id, *id));
    let pair = named.or_else(|| match word.text.split_once('-') {
        Some((low, high)) => one(low).zip(one(high)),
        None => one(&word.text).map(|id| (id, id)),
    });
    // The highest number stands for none, and a range that runs backwards is refused by the kernel.
    pair.filter(|(low, high)| low <= high && *high != u32::MAX).ok_or_else(|| {
        word.wrong(format!("bad id `{}`", word.text))
            .help("expected a number or a range; names other than those of the system are not looked up, they differ from machine to machine")
    })
}

impl Match for Owner {
    /// xt_owner without a socket: only what is denied holds.
    fn matches(&self, _: &mut Context<'_>) -> bool {
        self.user.is_none_or(|(_, inverted)| inverted)
            && self.group.is_none_or(|(_, inverted)| inverted)
            && self.socket.is_none_or(|(_, inverted)| inverted)
    }

    fn list(&self, out: &mut String, style: Listing) {
        let negation = |inverted| if inverted { " !" } else { "" };
        if let Some((_, inverted)) = self.socket {
            let _ = write!(out, "{} owner socket exists", negation(inverted));
        }
        for (asked, what, names) in [(self.user, "UID", USERS), (self.group, "GID", GROUPS)] {
            let Some(((low, high), inverted)) = asked else { continue };
            let _ = write!(out, "{} owner {what} match ", negation(inverted));
            let _ = match names.iter().find(|(_, id)| *id == low && low == high && !style.numeric) {
                Some((name, _)) => write!(out, "{name}"),
                None => write!(out, "{}", Span(low, high, '-')),
            };
        }
        if self.supplementary {
            out.push_str(" incl. suppl. groups");
        }
    }

    fn save(&self, out: &mut String) {
        if let Some((_, inverted)) = self.socket {
            save_name(out, "socket-exists", inverted);
        }
        if let Some(((low, high), inverted)) = self.user {
            save_option(out, "uid-owner", inverted, Span(low, high, '-'));
        }
        if let Some(((low, high), inverted)) = self.group {
            save_option(out, "gid-owner", inverted, Span(low, high, '-'));
        }
        if self.supplementary {
            save_name(out, "suppl-groups", false);
        }
    }
}
