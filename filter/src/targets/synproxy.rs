//! `SYNPROXY`: the gateway shakes hands in the server's place, and remembers nothing until a client
//! has answered.

use tidegate_packet::{Transport, protocol, tcp};

use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Next, Spec, Target, TargetSpec, flag, value};
use crate::query::{Hook, Query};
use crate::values::{list_saved, parse_number, save_name, save_option};
use crate::verdict::{SynProxy, Verdict};

pub(crate) static SPEC: TargetSpec = TargetSpec {
    options: &[
        flag(&["sack-perm"]),
        flag(&["timestamp"]),
        value(&["wscale"]),
        value(&["mss"]),
        flag(&["ecn"]),
    ],
    hooks: &[Hook::Input, Hook::Forward],
    protocols: &[protocol::TCP],
    ..Spec::new("SYNPROXY", build)
};

impl Target for SynProxy {
    fn apply(&self, context: &mut Context<'_>) -> Next {
        // Anything but a handshake's segments is the next rule's business.
        match concerns(context.query) {
            true => Next::Final(Verdict::SynProxy(*self)),
            false => Next::Continue,
        }
    }

    fn list(&self, out: &mut String, _style: Listing) {
        out.push_str(" SYNPROXY ");
        let mut options = String::new();
        list_saved(&mut options, |out| self.save(out));
        out.push_str(options.trim_start());
        if !options.is_empty() {
            out.push(' ');
        }
    }

    fn save(&self, out: &mut String) {
        let Self { sack, timestamp, window_scale, mss, ecn } = *self;
        if sack {
            save_name(out, "sack-perm", false);
        }
        if timestamp {
            save_name(out, "timestamp", false);
        }
        if let Some(scale) = window_scale {
            save_option(out, "wscale", false, scale);
        }
        if let Some(mss) = mss {
            save_option(out, "mss", false, mss);
        }
        if ecn {
            save_name(out, "ecn", false);
        }
    }

    fn uses_conntrack(&self) -> bool {
        true
    }
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Target>> {
    let number = |name, most: u64| match given.value(name) {
        // Longer numbers are cut to the field's width, as iptables does.
        Some((word, _)) => match parse_number(&word.text) {
            Some(n) if n <= u64::from(u32::MAX) => Ok(Some((n & most) as u16)),
            _ => Err(word.wrong(format!("bad number `{}`", word.text))),
        },
        None => Ok(None),
    };
    Ok(Box::new(SynProxy {
        sack: given.has("sack-perm"),
        timestamp: given.has("timestamp"),
        window_scale: number("wscale", 0xff)?.map(|n| n as u8),
        mss: number("mss", 0xffff)?,
        ecn: given.has("ecn"),
    }))
}

/// A first SYN or a plain ACK, and any TCP segment that can't be read, to drop it.
fn concerns(query: &Query<'_>) -> bool {
    match query.packet.transport {
        Transport::Tcp { flags, .. } => {
            let kind = flags & (tcp::SYN | tcp::ACK | tcp::FIN | tcp::RST);
            kind == tcp::SYN || kind == tcp::ACK
        }
        Transport::LaterFragment | Transport::Malformed => true,
        _ => false,
    }
}
