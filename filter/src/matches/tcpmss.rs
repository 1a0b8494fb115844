//! `-m tcpmss`: the maximum segment size that a TCP header announces.

use std::fmt::Write as _;

use tidegate_packet::{protocol, tcp};

use super::header;
use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, value};
use crate::values::bang;
use crate::values::{Span, save_option};

pub(crate) static SPEC: MatchSpec = MatchSpec {
    options: &[value(&["mss"]).inverts()],
    protocols: &[protocol::TCP],
    ..Spec::new("tcpmss", build)
};

#[derive(Debug)]
struct TcpMss {
    low: u16,
    high: u16,
    inverted: bool,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    let (word, inverted) = given.required("mss")?;
    let end = |text: &str, default| match text {
        "" => Ok(default),
        text => word.part(text).number(0..=65_535).map(|n| n as u16),
    };
    let (low, high) = match word.text.split_once(':') {
        Some((low, high)) => (end(low, 0)?, end(high, u16::MAX)?),
        None => {
            let mss = word.number(0..=65_535)? as u16;
            (mss, mss)
        }
    };
    if low > high {
        return Err(word.wrong(format!("range `{}` runs backwards", word.text)));
    }
    Ok(Box::new(TcpMss { low, high, inverted }))
}

impl Match for TcpMss {
    fn matches(&self, context: &mut Context<'_>) -> bool {
        if header::<20>(context).is_none() {
            return false;
        }
        let segment = context.query.packet.segment(context.query.bytes);
        let Some(header) = tcp::Header::new_checked(segment) else {
            context.hotdrop = true;
            return false;
        };
        let announced = header.options().find_map(|option| match (option.kind, option.data) {
            (tcp::OPT_MSS, &[high, low]) => Some(u16::from_be_bytes([high, low])),
            _ => None,
        });
        // A header without the option is like one outside the range.
        announced.is_some_and(|mss| (self.low..=self.high).contains(&mss)) != self.inverted
    }

    fn list(&self, out: &mut String, _style: Listing) {
        let range = Span(self.low, self.high, ':');
        let _ = write!(out, " tcpmss match {}{range}", bang(self.inverted));
    }

    fn save(&self, out: &mut String) {
        save_option(out, "mss", self.inverted, Span(self.low, self.high, ':'));
    }
}
