//! `NOTRACK` and `CT`: whether and how the packet's connection is tracked.

use tidegate_packet::{Family, protocol};

use crate::diagnostic::{Outcome, Problem, Refusal};
use crate::edit::Edit;
use crate::extension::{Context, Given, Listing, Next, Spec, Target, TargetSpec, flag, value};
use crate::lex::Word;
use crate::query::TableName;
use crate::tracking::{EVENTS, Helper, Tracking, Zone};
use crate::values::{list_saved, parse_number, save_name, save_option};

pub(crate) static NOTRACK: TargetSpec =
    TargetSpec { tables: &[TableName::Raw], ..Spec::new("NOTRACK", build_notrack) };

pub(crate) static CT: TargetSpec = TargetSpec {
    options: &[
        flag(&["notrack"]),
        value(&["helper"]),
        value(&["timeout"]),
        value(&["ctevents"]),
        value(&["expevents"]),
        value(&["zone"]),
        value(&["zone-orig"]),
        value(&["zone-reply"]),
    ],
    tables: &[TableName::Raw],
    ..Spec::new("CT", build_ct)
};

/// `-j NOTRACK`.
#[derive(Debug)]
struct NoTrack;

/// `-j CT`.
#[derive(Debug)]
struct Ct {
    /// `--notrack`: the rest is kept to be printed.
    notrack: bool,
    tracking: Tracking,
    /// The directions that `--zone-orig` and `--zone-reply` named.
    named: [bool; 2],
}

fn build_notrack(_: &Given<'_>) -> Outcome<Box<dyn Target>> {
    Ok(Box::new(NoTrack))
}

fn build_ct(given: &Given<'_>) -> Outcome<Box<dyn Target>> {
    if let Some((word, _)) = given.value("timeout") {
        return Err(timeout(given, word));
    }
    let helper = match given.value("helper") {
        // iptables takes no name for no helper.
        Some((word, _)) if word.text.is_empty() => None,
        Some((word, _)) => Some(helper(given, word)?),
        None => None,
    };
    let events = match given.value("ctevents") {
        Some((word, _)) => Some(events(word, &EVENTS)?),
        None => None,
    };
    let expectation_events = match given.value("expevents") {
        Some((word, _)) => events_of_expectations(word)?,
        None => false,
    };
    let (zone, named) = zone(given)?;
    let tracking = Tracking { zone, helper, events, expectation_events };
    Ok(Box::new(Ct { notrack: given.has("notrack"), tracking, named }))
}

/// Policies of time-outs are made with nfct; there is no way to make one here, so none exists.
fn timeout(given: &Given<'_>, word: &Word<'_>) -> Problem {
    if given.protocol.is_none() {
        return needs_protocol(word);
    }
    word.wrong(format!("no such timeout policy `{}`", word.text))
        .help("time-outs are set by net.netfilter.nf_conntrack_*_timeout*")
        .refused(Refusal::NoChain)
}

fn needs_protocol(word: &Word<'_>) -> Problem {
    word.wrong("CT needs a protocol (`-p`, without `!`) for this").refused(Refusal::Invalid)
}

/// The protocols and families that netfilter registers each helper for.
fn helper(given: &Given<'_>, word: &Word<'_>) -> Outcome<Helper> {
    // Without a protocol the kernel looks the helper up all the same, and finds none.
    let tcp = given.protocol == Some(protocol::TCP);
    let udp = given.protocol == Some(protocol::UDP);
    let v4 = given.family == Family::V4;
    let found = Helper::ALL.into_iter().find(|helper| {
        let fits = match helper {
            Helper::Ftp => tcp,
            Helper::Irc | Helper::Pptp => tcp && v4,
            Helper::Tftp | Helper::Amanda => udp,
            Helper::Sip => tcp || udp,
        };
        fits && helper.name() == word.text
    });
    if let Some(found) = found {
        return Ok(found);
    }
    let exists = match &*word.text {
        "Q.931" | "sane" => tcp,
        "RAS" => udp,
        "netbios-ns" | "snmp" | "snmp_trap" => udp && v4,
        _ => false,
    };
    let names = Helper::ALL.map(Helper::name).join(", ");
    let problem = match exists {
        true => word.wrong(format!("helper `{}` is not supported", word.text)),
        false if Helper::ALL.iter().any(|h| h.name() == word.text) => {
            word.wrong(format!("no helper `{}` for this protocol (`-p`)", word.text))
        }
        false => word.wrong(format!("no such helper `{}`", word.text)),
    };
    Err(problem.help(format!("expected {names}")).refused(Refusal::NoChain))
}

fn events(word: &Word<'_>, known: &[&str]) -> Outcome<u16> {
    let mut bits = 0;
    for part in word.list() {
        let at = known.iter().position(|name| *name == part.text).ok_or_else(|| {
            part.wrong(format!("unknown event `{}`", part.text))
                .help(format!("expected {}", known.join(", ")))
                .words(format!("Unknown event type \"{}\"", part.text))
        })?;
        bits |= 1 << at;
    }
    Ok(bits)
}

fn events_of_expectations(word: &Word<'_>) -> Outcome<bool> {
    events(word, &EVENTS[..1]).map(|bits| bits != 0)
}

/// Several may be given: the last number counts, a mark counts always, and so do both directions.
fn zone(given: &Given<'_>) -> Outcome<(Zone, [bool; 2])> {
    let mut zone = Zone::default();
    let mut named = [false; 2];
    for option in &given.extension.options {
        let name = option.opt.names[0];
        if !matches!(name, "zone" | "zone-orig" | "zone-reply") {
            continue;
        }
        let Some(word) = option.values.first() else { continue };
        if word.text == "mark" {
            zone.from_mark = true;
        } else {
            let id = parse_number(&word.text).and_then(|n| u16::try_from(n).ok());
            zone.id = id.ok_or_else(|| {
                word.wrong(format!("bad zone `{}`", word.text))
                    .help("expected 0 to 65535 or mark")
                    .words(format!("Cannot parse {} as a zone ID", word.text))
            })?;
        }
        named[0] |= name == "zone-orig";
        named[1] |= name == "zone-reply";
    }
    // Neither direction or both: it counts for both.
    if named[0] != named[1] {
        [zone.original, zone.reply] = named;
    }
    Ok((zone, named))
}

impl Target for NoTrack {
    fn apply(&self, _: &mut Context<'_>) -> Next {
        Next::Edit(Edit::Untrack)
    }

    fn list(&self, out: &mut String, _style: Listing) {
        out.push_str(" NOTRACK");
    }

    fn save(&self, _: &mut String) {}

    fn uses_conntrack(&self) -> bool {
        false
    }
}

impl Target for Ct {
    fn apply(&self, _: &mut Context<'_>) -> Next {
        Next::Edit(if self.notrack { Edit::Untrack } else { Edit::Track(self.tracking) })
    }

    fn list(&self, out: &mut String, _style: Listing) {
        out.push_str(" CT");
        list_saved(out, |out| self.save(out));
    }

    fn save(&self, out: &mut String) {
        let Tracking { zone, helper, events, expectation_events } = self.tracking;
        if self.notrack {
            save_name(out, "notrack", false);
        }
        if let Some(helper) = helper {
            save_option(out, "helper", false, helper.name());
        }
        if let Some(bits) = events.filter(|bits| *bits != 0) {
            let set = EVENTS.iter().enumerate().filter(|(n, _)| bits >> n & 1 != 0);
            let names: Vec<&str> = set.map(|(_, name)| *name).collect();
            save_option(out, "ctevents", false, names.join(","));
        }
        if expectation_events {
            save_option(out, "expevents", false, "new");
        }
        let option = match self.named {
            [true, false] => "zone-orig",
            [false, true] => "zone-reply",
            _ => "zone",
        };
        if zone.from_mark {
            save_option(out, option, false, "mark");
        } else if zone.id != 0 {
            save_option(out, option, false, zone.id);
        }
    }

    /// Whoever only exempts packets doesn't make others be tracked (`xt_ct_tg_check`).
    fn uses_conntrack(&self) -> bool {
        !self.notrack
    }
}
