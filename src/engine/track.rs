//! `CT` rules: what they say about a packet's connection, and the helpers they attach.

use super::counters::Drop;
use super::interface::LOOPBACK;
use super::packet::Packet;
use super::{Engine, Fate};
use tidegate_filter as filter;
use tidegate_nat::{self as nat, Confirmed, HELP_ROOM, Template};

/// A `CT` rule's words for the connection table.
pub(crate) fn template(tracking: filter::Tracking, mark: u32) -> Template {
    let filter::Tracking { zone, helper, events, expectation_events } = tracking;
    let id = if zone.from_mark { mark as u16 } else { zone.id };
    let in_zone = |counts: bool| if counts { id } else { 0 };
    Template {
        zones: [in_zone(zone.original), in_zone(zone.reply)],
        helper: helper.map(|helper| match helper {
            filter::Helper::Ftp => nat::Helper::Ftp,
            filter::Helper::Tftp => nat::Helper::Tftp,
            filter::Helper::Irc => nat::Helper::Irc,
            filter::Helper::Amanda => nat::Helper::Amanda,
            filter::Helper::Pptp => nat::Helper::Pptp,
            filter::Helper::Sip => nat::Helper::Sip,
        }),
        events,
        expectation_events: expectation_events.then_some(1),
        synproxy: false,
    }
}

/// A helper as rules see it.
pub(crate) fn shown(helper: nat::Helper) -> filter::Helper {
    match helper {
        nat::Helper::Ftp => filter::Helper::Ftp,
        nat::Helper::Tftp => filter::Helper::Tftp,
        nat::Helper::Irc => filter::Helper::Irc,
        nat::Helper::Amanda => filter::Helper::Amanda,
        nat::Helper::Pptp => filter::Helper::Pptp,
        nat::Helper::Sip => filter::Helper::Sip,
    }
}

impl Engine {
    /// Lets a packet go on in a place where a helper can make it longer. Devices' memory may end
    /// with the packet; then it goes on in memory of its own.
    pub(crate) fn with_room(
        &mut self,
        packet: &mut Packet<'_>,
        go_on: impl FnOnce(&mut Self, &mut Packet<'_>) -> Result<Fate, Drop>,
    ) -> Result<Fate, Drop> {
        let helped = packet.tracked.as_ref().is_some_and(|t| self.conntrack.needs_help(t));
        if !helped || packet.has_room(HELP_ROOM) {
            return go_on(self, packet);
        }
        let mut frame = packet.with_room(HELP_ROOM);
        match go_on(self, &mut packet.moved_to(&mut frame))? {
            Fate::Transmit(port) => {
                frame.slot.truncate(frame.meta.end);
                self.outbox.push((port, frame));
                Ok(Fate::Consumed)
            }
            Fate::Consumed => Ok(Fate::Consumed),
        }
    }

    /// The helper of the packet's connection reads it, and sequence numbers are shifted.
    pub(crate) fn help(
        &mut self,
        packet: &mut Packet<'_>,
        confirmed: Confirmed,
    ) -> Result<(), Drop> {
        let Some(tracked) = &packet.tracked else { return Ok(()) };
        // What comes in again by loopback was read when it went out.
        if !self.conntrack.needs_help(tracked) || packet.input == Some(LOOPBACK) {
            return Ok(());
        }
        let field = packet.checksum_field();
        let room = &mut packet.frame.slot[packet.l3..];
        let before = packet.parsed.len;
        let helped = self.conntrack.help(tracked, &mut packet.parsed, room, field, self.now);
        if packet.parsed.len != before {
            packet.frame.meta.end = packet.l3 + packet.parsed.len as usize;
            // The pieces it came in have other lengths now; it is cut anew where that is needed.
            packet.pieces = None;
        }
        if helped.is_err()
            && let Confirmed::Inserted(id) | Confirmed::InsertedForAnother(id) = confirmed
        {
            self.conntrack.delete(id);
        }
        helped.map_err(|_| Drop::Helper)
    }
}
