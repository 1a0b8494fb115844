//! `-m owner`: the local socket that sent a packet. No packet here has one: forwarded ones never do,
//! and those of the host device have left their kernel's sockets behind.

use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Match, MatchSpec, Spec, flag, value};
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

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    let ask = |name: &str| match given.value(name) {
        Some((word, inverted)) => ids(word).map(|ids| Some((ids, inverted))),
        None => Ok(None),
    };
    let this = Owner {
        user: ask("uid-owner")?,
        group: ask("gid-owner")?,
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
fn ids(word: &Word) -> Outcome<(u32, u32)> {
    let one = |text: &str| parse_number(text).and_then(|n| u32::try_from(n).ok());
    let pair = match word.text.split_once('-') {
        Some((low, high)) => one(low).zip(one(high)),
        None if word.text == "root" => Some((0, 0)),
        None => one(&word.text).map(|id| (id, id)),
    };
    // The highest number stands for none, and a range that runs backwards is refused by the kernel.
    pair.filter(|(low, high)| low <= high && *high != u32::MAX).ok_or_else(|| {
        word.wrong(format!("bad id `{}`", word.text))
            .help("expected a number or a range; names are not looked up, they differ from machine to machine")
    })
}

impl Match for Owner {
    /// xt_owner without a socket: only what is denied holds.
    fn matches(&self, _: &mut Context<'_>) -> bool {
        self.user.is_none_or(|(_, inverted)| inverted)
            && self.group.is_none_or(|(_, inverted)| inverted)
            && self.socket.is_none_or(|(_, inverted)| inverted)
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
