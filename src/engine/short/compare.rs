//! For tests: a packet that can take the short way takes it on a copy, everything it has changed is
//! put back, and then it takes the long way. Both must have done the same.

use super::super::interface::PortId;
use super::super::packet::OwnedFrame;
use super::super::{Engine, Fate};
use super::ShortWay;
use super::plain::Plain;
use crate::io::Frame;
use tidegate_filter as filter;
use tidegate_nat::ConnId;
use tidegate_packet::{Family, ethernet};

/// What the short way has done.
#[derive(Debug)]
pub(crate) struct Expected {
    id: ConnId,
    fate: Fate,
    frame: OwnedFrame,
    connection: String,
    family: Family,
    counters: filter::Counters,
}

impl Engine {
    /// Tries the short way on a copy.
    pub(crate) fn try_short_way(
        &mut self,
        port: PortId,
        frame: &mut Frame<'_>,
    ) -> Option<Box<Expected>> {
        if self.short_way != ShortWay::Compared {
            return None;
        }
        let (family, id) = match Plain::<false>::read(frame) {
            Some(plain) => (Family::V4, self.connection_of(plain, frame)?),
            None => (Family::V6, self.connection_of(Plain::<true>::read(frame)?, frame)?),
        };
        let before = self.conntrack.take_down(id)?;
        let events = self.conntrack.waiting_events();
        let mut copy = OwnedFrame { slot: frame.slot.to_vec(), meta: *frame.meta };
        let Self { short, conntrack, now, rules, at_hand, .. } = self;
        let fate = short.try_pass(conntrack, port, &mut copy.frame(), *now, at_hand)?;
        let connection = format!("{:?}", conntrack.take_down(id));
        let mut counters = rules.counters_mut().clone();
        // Nothing else waits to be counted: it is the same with every packet.
        short.paths.settle(&mut counters);
        conntrack.put_back(id, before, events);
        let [v4, v6] = counters;
        let counters = if family == Family::V4 { v4 } else { v6 };
        Some(Box::new(Expected { id, fate, frame: copy, connection, family, counters }))
    }

    fn connection_of<const V6: bool>(&self, plain: Plain<V6>, frame: &Frame<'_>) -> Option<ConnId> {
        let packet = &frame.bytes()[ethernet::HEADER_LEN..];
        let sought = self.conntrack.seek(&plain.packet, packet);
        self.conntrack.known(&sought, &plain.packet, packet, self.now).ok().map(|known| known.id)
    }

    /// Compares with what the long way has done.
    pub(crate) fn check_short_way(&self, expected: &Expected, fate: Fate, frame: &Frame<'_>) {
        let Expected { id, fate: wanted, frame: copy, connection, family, counters } = expected;
        let told = |what: &str| format!("the short way differs in {what}: {:?}", self.now);
        assert_eq!(fate, *wanted, "{}", told("fate"));
        assert_eq!(*frame.meta, copy.meta, "{}", told("offload"));
        assert_eq!(frame.bytes(), copy.bytes(), "{}", told("bytes"));
        let now = format!("{:?}", self.conntrack.take_down(*id));
        assert_eq!(now, *connection, "{}", told("connection"));
        assert_eq!(self.rules.counters(*family), counters, "{}", told("counters"));
    }
}
