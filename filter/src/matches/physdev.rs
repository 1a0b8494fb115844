//! `-m physdev`: the bridge ports of a bridged packet.
//!
//! The gateway routes: a packet that came in by a port of one of its bridges has that port, and
//! none leaves as bridged.

use crate::base::Interface;
use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, flag, value};
use crate::values::{save_name, save_option};

pub(crate) static SPEC: MatchSpec = MatchSpec {
    options: &[
        value(&["physdev-in"]).inverts(),
        value(&["physdev-out"]).inverts(),
        flag(&["physdev-is-in"]).inverts(),
        flag(&["physdev-is-out"]).inverts(),
        flag(&["physdev-is-bridged"]).inverts(),
    ],
    ..Spec::new("physdev", build)
};

#[derive(Debug)]
struct PhysDev {
    input: Option<Interface>,
    output: Option<Interface>,
    is_in: Option<bool>,
    is_out: Option<bool>,
    is_bridged: Option<bool>,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    given.not_empty()?;
    let port = |name: &str| match given.value(name) {
        Some((word, _)) if word.text.is_empty() || word.text.len() > 15 => {
            Err(word.wrong(format!("bad port name `{}`", word.text)))
        }
        Some((word, inverted)) => Ok(Some(Interface::new(&word.text, inverted))),
        None => Ok(None),
    };
    let is = |name: &str| given.get(name).map(|option| !option.inverted);
    Ok(Box::new(PhysDev {
        input: port("physdev-in")?,
        output: port("physdev-out")?,
        is_in: is("physdev-is-in"),
        is_out: is("physdev-is-out"),
        is_bridged: is("physdev-is-bridged"),
    }))
}

impl Match for PhysDev {
    fn matches(&self, context: &mut Context<'_>) -> bool {
        let port = context.query.port;
        let Some(port) = port else {
            // Not a bridge's packet: it can only fail what is asked, and pass what is denied
            // (xt_physdev).
            return self.is_in != Some(true)
                && self.is_out != Some(true)
                && self.is_bridged != Some(true)
                && self.input.as_ref().is_none_or(|i| i.inverted)
                && self.output.as_ref().is_none_or(|o| o.inverted);
        };
        self.is_in != Some(false)
            && self.is_out != Some(true)
            && self.is_bridged != Some(true)
            && self.input.as_ref().is_none_or(|i| i.matches(Some(port)))
            && self.output.as_ref().is_none_or(|o| o.matches(None))
    }

    fn flow_only(&self) -> bool {
        true
    }

    fn list(&self, out: &mut String, _style: Listing) {
        out.push_str(" PHYSDEV match");
        self.save(out);
    }

    fn save(&self, out: &mut String) {
        let Self { input, output, is_in, is_out, is_bridged } = self;
        let flag = |out: &mut String, name, asked: &Option<bool>| {
            if let Some(wanted) = asked {
                save_name(out, name, !wanted);
            }
        };
        flag(out, "physdev-is-in", is_in);
        if let Some(port) = input {
            save_option(out, "physdev-in", port.inverted, port.text());
        }
        flag(out, "physdev-is-out", is_out);
        if let Some(port) = output {
            save_option(out, "physdev-out", port.inverted, port.text());
        }
        flag(out, "physdev-is-bridged", is_bridged);
    }
}
