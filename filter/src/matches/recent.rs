//! `-m recent`: addresses seen lately. The lists themselves are in [`crate::memory`].

use std::fmt::Write as _;

use tidegate_packet::Family;

use crate::diagnostic::{Outcome, Refusal};
use crate::extension::{Context, Given, Listing, Match, MatchSpec, RecentUse, Spec, flag, value};
use crate::memory::{Action, Touch};
use crate::values::{mask_addr, save_name, save_option};

pub(crate) static SPEC: MatchSpec = MatchSpec {
    options: &[
        flag(&["set"]).inverts(),
        flag(&["rcheck"]).inverts(),
        flag(&["update"]).inverts(),
        flag(&["remove"]).inverts(),
        value(&["seconds"]),
        flag(&["reap"]),
        value(&["hitcount"]),
        flag(&["rttl"]),
        value(&["name"]),
        flag(&["rsource"]),
        flag(&["rdest"]),
        value(&["mask"]),
    ],
    ..Spec::new("recent", build)
};

/// `XT_RECENT_MAX_NSTAMPS`: counts from here on are refused.
const MAX_HITCOUNT: u64 = 65_535;
/// `XT_RECENT_NAME_LEN` less the final zero.
const MAX_NAME: usize = 199;

#[derive(Debug)]
struct Recent {
    family: Family,
    action: Action,
    inverted: bool,
    seconds: u32,
    hitcount: u32,
    reap: bool,
    ttl: bool,
    name: String,
    destination: bool,
    mask: u128,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    let command = given.one_of(&["set", "rcheck", "update", "remove"])?;
    let action = match command.opt.names[0] {
        "set" => Action::Set,
        "rcheck" => Action::Check,
        "update" => Action::Update,
        _ => Action::Remove,
    };
    let seconds = match given.value("seconds") {
        Some((word, _)) => word.number(1..=u64::from(u32::MAX))? as u32,
        None => 0,
    };
    let hitcount = match given.value("hitcount") {
        Some((word, _)) => word.number(0..=MAX_HITCOUNT)? as u32,
        None => 0,
    };
    let (reap, ttl) = (given.has("reap"), given.has("rttl"));
    if matches!(action, Action::Set | Action::Remove)
        && (seconds > 0 || hitcount > 0 || reap || ttl)
    {
        return Err(given
            .wrong("--seconds, --hitcount, --reap and --rttl go only with --rcheck and --update")
            .refused(Refusal::Invalid));
    }
    if reap && seconds == 0 {
        return Err(given
            .wrong("--reap needs --seconds")
            .words("recent: option \"--reap\" also requires \"--seconds\".\n"));
    }
    let name = match given.value("name") {
        Some((word, _)) => {
            // It becomes a file name under /proc.
            let bad = word.text.is_empty()
                || word.text.len() > MAX_NAME
                || word.text.contains('/')
                || matches!(&*word.text, "." | "..");
            if bad {
                return Err(word.wrong(format!("bad list name `{}`", word.text)));
            }
            word.text.to_string()
        }
        None => "DEFAULT".to_owned(),
    };
    let mask = match given.value("mask") {
        // An address, not a length: iptables reads `24` as 0.0.0.24.
        Some((word, _)) if given.family == Family::V4 => match word.text.parse::<u32>() {
            Ok(number) => u128::MAX << 32 | u128::from(number),
            Err(_) => word.address(Family::V4)?.bits() | u128::MAX << 32,
        },
        Some((word, _)) => word.address(Family::V6)?.bits(),
        None => u128::MAX,
    };
    Ok(Box::new(Recent {
        family: given.family,
        action,
        inverted: command.inverted,
        seconds,
        hitcount,
        reap,
        ttl,
        name,
        destination: given.has("rdest"),
        mask,
    }))
}

impl Match for Recent {
    fn matches(&self, context: &mut Context<'_>) -> bool {
        let query = context.query;
        // Where an interface to leave by is known the TTL has been decremented already; lists hold
        // it as it arrived.
        let forwarded = query.output.is_some() && query.input.is_some();
        let touch = Touch {
            action: self.action,
            inverted: self.inverted,
            seconds: self.seconds,
            hitcount: self.hitcount,
            reap: self.reap,
            check_ttl: self.ttl,
            addr: if self.destination { query.packet.dst } else { query.packet.src },
            ttl: query.packet.hop_limit.wrapping_add(u8::from(forwarded)),
            now: query.now,
            dry: context.dry,
        };
        context.memory.touch(self.list(), touch)
    }

    fn list(&self, out: &mut String, _style: Listing) {
        let Self { action, inverted, seconds, hitcount, reap, ttl, name, .. } = self;
        out.push_str(if *inverted { " ! recent:" } else { " recent:" });
        out.push_str(match action {
            Action::Set => " SET",
            Action::Check => " CHECK",
            Action::Update => " UPDATE",
            Action::Remove => " REMOVE",
        });
        if *seconds > 0 {
            let _ = write!(out, " seconds: {seconds}");
        }
        out.push_str(if *reap { " reap" } else { "" });
        if *hitcount > 0 {
            let _ = write!(out, " hit_count: {hitcount}");
        }
        out.push_str(if *ttl { " TTL-Match" } else { "" });
        let side = if self.destination { "dest" } else { "source" };
        let mask = mask_addr(self.mask, self.family);
        let _ = write!(out, " name: {name} side: {side} mask: {mask}");
    }

    fn save(&self, out: &mut String) {
        let command = match self.action {
            Action::Set => "set",
            Action::Check => "rcheck",
            Action::Update => "update",
            Action::Remove => "remove",
        };
        save_name(out, command, self.inverted);
        if self.seconds > 0 {
            save_option(out, "seconds", false, self.seconds);
        }
        if self.reap {
            save_name(out, "reap", false);
        }
        if self.hitcount > 0 {
            save_option(out, "hitcount", false, self.hitcount);
        }
        if self.ttl {
            save_name(out, "rttl", false);
        }
        save_option(out, "name", false, &self.name);
        save_option(out, "mask", false, mask_addr(self.mask, self.family));
        save_name(out, if self.destination { "rdest" } else { "rsource" }, false);
    }

    fn recent(&self) -> Option<RecentUse<'_>> {
        Some(self.list())
    }
}

impl Recent {
    fn list(&self) -> RecentUse<'_> {
        RecentUse { name: &self.name, mask: self.mask, hitcount: self.hitcount }
    }
}
