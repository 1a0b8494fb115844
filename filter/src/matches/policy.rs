//! `-m policy`: whether IPsec has handled or will handle a packet. Nothing here does IPsec, so a rule
//! that asks for a policy, or for what one is like, never matches.

use std::fmt::{self, Write as _};

use tidegate_packet::{Addr, Family};

use crate::ast::OptionAst;
use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, flag, value};
use crate::lex::Word;
use crate::query::Hook;
use crate::values::{list_saved, prefix_len, save_name, save_option};

pub(crate) static SPEC: MatchSpec = MatchSpec {
    options: &[
        value(&["dir"]),
        value(&["pol"]),
        flag(&["strict"]),
        value(&["reqid"]).inverts().repeats(),
        value(&["spi"]).inverts().repeats(),
        value(&["tunnel-src"]).inverts().repeats(),
        value(&["tunnel-dst"]).inverts().repeats(),
        value(&["proto"]).inverts().repeats(),
        value(&["mode"]).inverts().repeats(),
        flag(&["next"]).repeats(),
    ],
    ..Spec::new("policy", build)
};

/// `XT_POLICY_MAX_ELEM`.
const MAX_ELEMENTS: usize = 4;
const PROTOCOLS: [(&str, u8); 3] = [("esp", 50), ("ah", 51), ("ipcomp", 108)];

#[derive(Debug)]
struct Policy {
    outgoing: bool,
    none: bool,
    strict: bool,
    elements: Vec<Element>,
}

/// One transformation of a policy; each asked with whether it is negated.
#[derive(Debug, Default)]
struct Element {
    reqid: Option<(u32, bool)>,
    spi: Option<(u32, bool)>,
    proto: Option<(u8, bool)>,
    /// Whether a tunnel.
    mode: Option<(bool, bool)>,
    destination: Option<(Masked, bool)>,
    source: Option<(Masked, bool)>,
}

/// An address with its mask; the bits behind it are printed too.
#[derive(Debug)]
struct Masked {
    family: Family,
    addr: Addr,
    mask: u128,
}

impl fmt::Display for Masked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match prefix_len(self.mask, self.family) {
            Some(len) if len < self.family.bits() => write!(f, "{}/{len}", self.addr),
            _ => write!(f, "{}", self.addr),
        }
    }
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    let (dir, _) = given.required("dir")?;
    let outgoing = match &*dir.text {
        "in" => false,
        "out" => true,
        _ => return Err(dir.wrong("expected in or out")),
    };
    let none = match given.value("pol") {
        None => false,
        Some((word, _)) => match &*word.text {
            "none" => true,
            "ipsec" => false,
            _ => return Err(word.wrong("expected none or ipsec")),
        },
    };
    let strict = given.has("strict");
    let elements = elements(given)?;
    if elements.len() > 1 && !strict {
        return Err(given.wrong("--next needs --strict"));
    }
    if none && (strict || elements.len() > 1) {
        return Err(given.wrong("no policy, and what a policy is like"));
    }
    if !none {
        for (n, element) in elements.iter().enumerate() {
            element.check(given, strict, n)?;
        }
        given.warn("no packet here has an IPsec policy: this never matches");
    }
    Ok(Box::new(Policy { outgoing, none, strict, elements }))
}

fn elements(given: &Given<'_>) -> Outcome<Vec<Element>> {
    let mut elements = vec![Element::default()];
    for option in &given.extension.options {
        if option.opt.names[0] == "next" {
            if elements.len() == MAX_ELEMENTS {
                return Err(given.wrong(format!("at most {MAX_ELEMENTS} elements of a policy")));
            }
            elements.push(Element::default());
        } else if let Some(element) = elements.last_mut() {
            element.add(given, option)?;
        }
    }
    Ok(elements)
}

impl Element {
    fn add(&mut self, given: &Given<'_>, option: &OptionAst<'_>) -> Outcome<()> {
        let (name, inverted) = (option.opt.names[0], option.inverted);
        let Some(word) = option.values.first() else { return Ok(()) };
        let number = || word.number(0..=u64::from(u32::MAX)).map(|n| n as u32);
        let twice = match name {
            "reqid" => self.reqid.replace((number()?, inverted)).is_some(),
            "spi" => self.spi.replace((number()?, inverted)).is_some(),
            "proto" => self.proto.replace((protocol(word)?, inverted)).is_some(),
            "mode" => {
                let tunnel = match &*word.text {
                    "tunnel" => true,
                    "transport" => false,
                    _ => return Err(word.wrong("expected transport or tunnel")),
                };
                self.mode.replace((tunnel, inverted)).is_some()
            }
            "tunnel-src" => self.source.replace((masked(given, word)?, inverted)).is_some(),
            "tunnel-dst" => self.destination.replace((masked(given, word)?, inverted)).is_some(),
            _ => false,
        };
        if twice {
            return Err(word
                .wrong(format!("--{name} may be given only once for an element"))
                .words(format!("policy match: double --{name} option")));
        }
        Ok(())
    }

    fn check(&self, given: &Given<'_>, strict: bool, number: usize) -> Outcome<()> {
        let Self { reqid, spi, proto, mode, destination, source } = self;
        let ends = destination.is_some() || source.is_some();
        let empty = reqid.is_none() && spi.is_none() && proto.is_none() && mode.is_none() && !ends;
        if strict && empty {
            return Err(given.wrong(format!("--strict asks nothing of element {number}")));
        }
        if ends && !mode.is_some_and(|(tunnel, inverted)| tunnel != inverted) {
            return Err(given.wrong("--tunnel-src and --tunnel-dst need --mode tunnel"));
        }
        Ok(())
    }

    fn save(&self, out: &mut String, proto: impl Fn(u8) -> String) {
        let Self { reqid, spi, proto: asked, mode, destination, source } = self;
        if let Some((reqid, inverted)) = reqid {
            save_option(out, "reqid", *inverted, reqid);
        }
        if let Some((spi, inverted)) = spi {
            save_option(out, "spi", *inverted, format_args!("{spi:#x}"));
        }
        if let Some((number, inverted)) = asked {
            save_option(out, "proto", *inverted, proto(*number));
        }
        if let Some((tunnel, inverted)) = mode {
            save_option(out, "mode", *inverted, if *tunnel { "tunnel" } else { "transport" });
        }
        if let Some((addr, inverted)) = destination {
            save_option(out, "tunnel-dst", *inverted, addr);
        }
        if let Some((addr, inverted)) = source {
            save_option(out, "tunnel-src", *inverted, addr);
        }
    }
}

fn protocol(word: &Word<'_>) -> Outcome<u8> {
    let named = PROTOCOLS
        .iter()
        .find(|(name, number)| *name == word.text || number.to_string() == word.text);
    named.map(|(_, number)| *number).ok_or_else(|| {
        word.wrong(format!("`{}` is no protocol of IPsec", word.text))
            .words("policy match: protocol must be ah/esp/ipcomp")
            .help("expected ah, esp or ipcomp")
    })
}

fn masked(given: &Given<'_>, word: &Word<'_>) -> Outcome<Masked> {
    let family = given.family;
    let (addr, mask) = match word.text.split_once('/') {
        Some((addr, mask)) => (word.part(addr), word.part(mask).mask(family)?),
        None => (word.clone(), u128::MAX),
    };
    if prefix_len(mask, family).is_none() {
        return Err(word.wrong("iptables would lose a mask with holes"));
    }
    Ok(Masked { family, addr: addr.address(family)?, mask })
}

fn protocol_name(number: u8) -> String {
    let named = PROTOCOLS.iter().find(|(_, n)| *n == number);
    named.map_or_else(|| number.to_string(), |(name, _)| (*name).to_owned())
}

impl Policy {
    fn save_head(&self, out: &mut String) {
        save_option(out, "dir", false, if self.outgoing { "out" } else { "in" });
        save_option(out, "pol", false, if self.none { "none" } else { "ipsec" });
        if self.strict {
            save_name(out, "strict", false);
        }
    }

    /// Nothing is printed of a policy that isn't there.
    fn shown(&self) -> &[Element] {
        if self.none { &[] } else { &self.elements }
    }
}

impl Match for Policy {
    fn matches(&self, _: &mut Context<'_>) -> bool {
        self.none
    }

    fn flow_only(&self) -> bool {
        true
    }

    fn list(&self, out: &mut String, style: Listing) {
        out.push_str(" policy match");
        list_saved(out, |out| self.save_head(out));
        let elements = self.shown();
        for (n, element) in elements.iter().enumerate() {
            if elements.len() > 1 {
                let _ = write!(out, " [{n}]");
            }
            list_saved(out, |out| {
                element.save(out, |number| match style.numeric {
                    true => number.to_string(),
                    false => protocol_name(number),
                });
            });
        }
    }

    fn save(&self, out: &mut String) {
        self.save_head(out);
        for (n, element) in self.shown().iter().enumerate() {
            if n > 0 {
                save_name(out, "next", false);
            }
            element.save(out, protocol_name);
        }
    }

    fn check_hooks(&self, hooks: u8) -> Result<(), &'static str> {
        let arriving = Hook::Prerouting.bit() | Hook::Input.bit();
        let leaving = Hook::Output.bit() | Hook::Postrouting.bit();
        match self.outgoing {
            true if hooks & arriving != 0 => Err("--dir out doesn't work in PREROUTING and INPUT"),
            false if hooks & leaving != 0 => Err("--dir in doesn't work in OUTPUT and POSTROUTING"),
            _ => Ok(()),
        }
    }
}
