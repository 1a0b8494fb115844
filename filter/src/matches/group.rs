//! `-m realm` and `-m devgroup`: numbers that an administrator gives to routes and interfaces. The
//! gateway's all have zero, as the kernel's have unless told otherwise.

use std::fmt;

use tidegate_packet::Family;

use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, value};
use crate::query::Hook;
use crate::values::{list_saved, save_option};

pub(crate) static REALM: MatchSpec = MatchSpec {
    families: &[Family::V4],
    options: &[value(&["realm"]).inverts()],
    hooks: &[Hook::Input, Hook::Forward, Hook::Output, Hook::Postrouting],
    ..Spec::new("realm", build_realm)
};

pub(crate) static DEVGROUP: MatchSpec = MatchSpec {
    options: &[value(&["src-group"]).inverts(), value(&["dst-group"]).inverts()],
    ..Spec::new("devgroup", build_devgroup)
};

#[derive(Copy, Clone, Debug)]
struct Number {
    option: &'static str,
    value: u32,
    mask: u32,
    inverted: bool,
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mask {
            u32::MAX => write!(f, "{:#x}", self.value),
            mask => write!(f, "{:#x}/{mask:#x}", self.value),
        }
    }
}

#[derive(Debug)]
struct Numbers(Vec<Number>);

fn number(given: &Given<'_>, option: &'static str) -> Outcome<Option<Number>> {
    let Some((word, inverted)) = given.value(option) else { return Ok(None) };
    let (value, mask) = word.masked_u32()?;
    Ok(Some(Number { option, value, mask, inverted }))
}

fn build_realm(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    given.required("realm")?;
    Ok(Box::new(Numbers(number(given, "realm")?.into_iter().collect())))
}

fn build_devgroup(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    given.not_empty()?;
    let numbers = [number(given, "src-group")?, number(given, "dst-group")?];
    Ok(Box::new(Numbers(numbers.into_iter().flatten().collect())))
}

impl Match for Numbers {
    fn matches(&self, _: &mut Context<'_>) -> bool {
        self.0.iter().all(|n| (n.value == 0) != n.inverted)
    }

    fn flow_only(&self) -> bool {
        true
    }

    fn list(&self, out: &mut String, _: Listing) {
        list_saved(out, |out| self.save(out));
    }

    fn save(&self, out: &mut String) {
        for n in &self.0 {
            save_option(out, n.option, n.inverted, n);
        }
    }

    fn check_hooks(&self, hooks: u8) -> Result<(), &'static str> {
        let asks = |option| self.0.iter().any(|n| n.option == option);
        if asks("src-group") && hooks & (Hook::Output.bit() | Hook::Postrouting.bit()) != 0 {
            return Err("--src-group doesn't work in OUTPUT and POSTROUTING");
        }
        if asks("dst-group") && hooks & (Hook::Prerouting.bit() | Hook::Input.bit()) != 0 {
            return Err("--dst-group doesn't work in PREROUTING and INPUT");
        }
        Ok(())
    }
}
