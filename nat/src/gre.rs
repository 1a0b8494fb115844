//! The keys of GRE: what its packets don't tell of their source.
//!
//! A packet of PPTP (GRE version 1, RFC 2637 section 4.1) names the call by the number that its
//! receiver has given it. The sender's own number stands in the control connection alone, so the
//! helper that reads it leaves a *call* here for each direction: who sends to whom with which number,
//! and what the sender's own is (`nf_ct_gre_keymap`).

use std::collections::HashMap;

use tidegate_packet::{Addr, protocol};

use crate::Tuple;

/// Every call that a helper has read about. A control connection has one for each direction, and
/// takes them along when it ends: that bounds them.
#[derive(Debug, Default)]
pub(crate) struct Calls(HashMap<(Addr, Addr, u16), Vec<u16>>);

impl Calls {
    pub(crate) fn add(&mut self, call: &Tuple) {
        self.0.entry((call.src, call.dst, call.dport)).or_default().push(call.sport);
    }

    pub(crate) fn remove(&mut self, call: &Tuple) {
        let key = (call.src, call.dst, call.dport);
        let Some(sources) = self.0.get_mut(&key) else { return };
        if let Some(at) = sources.iter().position(|sport| *sport == call.sport) {
            sources.remove(at);
        }
        if sources.is_empty() {
            self.0.remove(&key);
        }
    }

    /// Completes the tuple of a packet, which begins with `segment`: the oldest call counts, and
    /// without one the sender's key is zero.
    #[inline]
    pub(crate) fn complete(&self, tuple: &mut Tuple, segment: &[u8]) {
        if tuple.protocol != protocol::GRE || self.0.is_empty() || !is_call(segment) {
            return;
        }
        let found = self.0.get(&(tuple.src, tuple.dst, tuple.dport));
        tuple.sport = found.and_then(|sources| sources.first()).copied().unwrap_or(0);
    }
}

/// Enhanced GRE, up to the call's number.
fn is_call(segment: &[u8]) -> bool {
    segment.len() >= 8 && version(segment) == Some(1)
}

/// The version in a GRE header (RFC 2784 section 2.1).
pub(crate) fn version(segment: &[u8]) -> Option<u8> {
    segment.get(1).map(|flags| flags & 7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_call_counts_until_it_ends() {
        let (src, dst) = ("10.0.0.2".parse().unwrap(), "198.51.100.10".parse().unwrap());
        let call = |sport, dport| Tuple { src, dst, sport, dport, protocol: protocol::GRE };
        let mut calls = Calls::default();
        let packet = [0x30, 0x81, 0x88, 0x0b, 0, 0, 0, 7];
        let of = |calls: &Calls, segment: &[u8]| {
            let mut tuple = call(0, 7);
            calls.complete(&mut tuple, segment);
            tuple.sport
        };
        assert_eq!(of(&calls, &packet), 0);
        calls.add(&call(1, 7));
        calls.add(&call(2, 7));
        calls.add(&call(3, 8));
        assert_eq!(of(&calls, &packet), 1);
        assert_eq!(of(&calls, &packet[..6]), 0, "cut short");
        assert_eq!(of(&calls, &[0x30, 0x80, 0x88, 0x0b, 0, 0, 0, 7]), 0, "version 0");
        calls.remove(&call(1, 7));
        calls.remove(&call(1, 7));
        assert_eq!(of(&calls, &packet), 2);
        calls.remove(&call(2, 7));
        calls.remove(&call(3, 8));
        assert!(calls.0.is_empty());
    }
}
