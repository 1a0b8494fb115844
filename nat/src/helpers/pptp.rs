//! PPTP (RFC 2637): the control connection agrees on two numbers for a call, one of each side, and
//! the call's packets go by GRE with the receiver's number in them.
//!
//! Terms. The client (PNS) has the control connection's original direction, the server (PAC) the
//! reply direction. Behind a translation the client's number becomes the outside port of the control
//! connection, because nothing but that is known to be the client's own: so a control connection has
//! one call at a time.

use tidegate_packet::protocol;

use super::{HelpDrop, Memory, Reading};
use crate::Tuple;
use crate::conn::{Connection, Direction};
use crate::expect::{Expectation, Follow};
use crate::table::Conntrack;

const MAGIC: u32 = 0x1a2b_3c4d;
const CONTROL: u16 = 1;
/// Length of the header that messages share.
const HEAD: usize = 12;
/// The first result code of each answer: it was done.
const DONE: u8 = 1;

const START_REQUEST: u16 = 1;
const START_REPLY: u16 = 2;
const STOP_REQUEST: u16 = 3;
const STOP_REPLY: u16 = 4;
const ECHO_REQUEST: u16 = 5;
const ECHO_REPLY: u16 = 6;
const OUT_CALL_REQUEST: u16 = 7;
const OUT_CALL_REPLY: u16 = 8;
const IN_CALL_REQUEST: u16 = 9;
const IN_CALL_REPLY: u16 = 10;
const IN_CALL_CONNECT: u16 = 11;
const CLEAR_REQUEST: u16 = 12;
const DISCONNECT: u16 = 13;
const WAN_ERROR: u16 = 14;
const SET_LINK: u16 = 15;

/// What each message has at least behind its header (RFC 2637 section 2); it is not read else.
const LENGTHS: [usize; 16] = [0, 144, 144, 4, 4, 0, 0, 156, 20, 208, 12, 16, 4, 136, 28, 12];

/// How far the control connection is.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Session {
    #[default]
    None,
    Failed,
    Stopping,
    Requested,
    Confirmed,
}

/// How far its call is.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
enum Call {
    #[default]
    None,
    OutRequested,
    Out,
    InRequested,
    InAnswered,
    In,
    Clearing,
}

/// What is remembered of a control connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Control {
    session: Session,
    call: Call,
    /// The client's number as the server knows it, and the server's.
    client: u16,
    server: u16,
    /// The client's number as the client knows it, where it is translated.
    inside: u16,
    /// What was left in [`crate::gre::Calls`], original and reply.
    keys: [Option<Tuple>; 2],
}

/// A control message: its type and what follows its header.
fn message(payload: &[u8]) -> Option<(u16, &[u8])> {
    let word = |at: usize| Some(u16::from_be_bytes([*payload.get(at)?, *payload.get(at + 1)?]));
    let magic = u32::from(word(4)?) << 16 | u32::from(word(6)?);
    if word(2)? != CONTROL || magic != MAGIC {
        return None;
    }
    let (kind, body) = (word(8)?, payload.get(HEAD..)?);
    let least = LENGTHS.get(usize::from(kind)).copied().unwrap_or(0);
    (body.len() >= least).then_some((kind, body))
}

fn number(body: &[u8], at: usize) -> u16 {
    match body.get(at..at + 2) {
        Some(&[high, low]) => u16::from_be_bytes([high, low]),
        _ => 0,
    }
}

/// What a message leads to.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
struct Consequence {
    /// It made no sense in this state, and passes as it is.
    ignored: bool,
    /// The call's packets are expected now.
    expects: bool,
    /// The call is over.
    ends: bool,
}

impl Control {
    /// A message of the client's.
    fn outbound(&mut self, kind: u16, body: &[u8]) -> Consequence {
        let sensible = match kind {
            START_REQUEST => self.session == Session::None,
            STOP_REQUEST | SET_LINK | ECHO_REQUEST | ECHO_REPLY => true,
            OUT_CALL_REQUEST | CLEAR_REQUEST => self.session == Session::Confirmed,
            IN_CALL_REPLY => {
                matches!(self.call, Call::InRequested | Call::InAnswered)
                    && self.server == number(body, 2)
            }
            _ => false,
        };
        if !sensible {
            return Consequence { ignored: true, ..Consequence::default() };
        }
        match kind {
            START_REQUEST => self.session = Session::Requested,
            STOP_REQUEST => self.session = Session::Stopping,
            OUT_CALL_REQUEST => (self.call, self.client) = (Call::OutRequested, number(body, 0)),
            IN_CALL_REPLY if body.get(4) == Some(&DONE) => {
                (self.call, self.client) = (Call::InAnswered, number(body, 0));
            }
            IN_CALL_REPLY => self.call = Call::None,
            CLEAR_REQUEST => self.call = Call::Clearing,
            _ => {}
        }
        Consequence::default()
    }

    /// A message of the server's.
    fn inbound(&mut self, kind: u16, body: &[u8]) -> Consequence {
        let confirmed = self.session == Session::Confirmed;
        let sensible = match kind {
            START_REPLY => self.session >= Session::Requested,
            STOP_REPLY => self.session <= Session::Stopping,
            OUT_CALL_REPLY => {
                confirmed
                    && matches!(self.call, Call::OutRequested | Call::Out)
                    && self.client == number(body, 2)
            }
            IN_CALL_REQUEST => confirmed,
            IN_CALL_CONNECT => {
                confirmed
                    && matches!(self.call, Call::InAnswered | Call::In)
                    && self.client == number(body, 0)
            }
            DISCONNECT | WAN_ERROR | SET_LINK | ECHO_REQUEST | ECHO_REPLY => true,
            _ => false,
        };
        if !sensible {
            return Consequence { ignored: true, ..Consequence::default() };
        }
        let mut consequence = Consequence::default();
        let done = |at: usize| body.get(at) == Some(&DONE);
        match kind {
            START_REPLY if done(2) => self.session = Session::Confirmed,
            STOP_REPLY if done(0) => self.session = Session::None,
            START_REPLY | STOP_REPLY => self.session = Session::Failed,
            OUT_CALL_REPLY if done(4) => {
                (self.call, self.server) = (Call::Out, number(body, 0));
                consequence.expects = true;
            }
            OUT_CALL_REPLY => self.call = Call::None,
            IN_CALL_REQUEST => (self.call, self.server) = (Call::InRequested, number(body, 0)),
            IN_CALL_CONNECT => {
                self.call = Call::In;
                consequence.expects = true;
            }
            DISCONNECT => {
                self.call = Call::None;
                consequence.ends = true;
            }
            _ => {}
        }
        consequence
    }
}

/// Where the client's number stands in a message that has it, behind the header.
fn place(kind: u16, direction: Direction) -> Option<usize> {
    match (direction, kind) {
        (Direction::Original, OUT_CALL_REQUEST | IN_CALL_REPLY | CLEAR_REQUEST) => Some(0),
        (Direction::Reply, OUT_CALL_REPLY) => Some(2),
        (Direction::Reply, IN_CALL_CONNECT | WAN_ERROR | DISCONNECT | SET_LINK) => Some(0),
        _ => None,
    }
}

pub(super) fn read(reading: &mut Reading<'_>) -> Result<(), HelpDrop> {
    if !reading.is_established() {
        return Ok(());
    }
    let (direction, id) = (reading.direction, reading.id);
    let outside = reading.tuple(Direction::Reply).dport;
    let translated = reading.is_translated();
    let Some((kind, body)) = message(reading.payload()) else { return Ok(()) };
    let body = body.to_vec();
    let Some(Memory::Pptp(control)) = reading.memory() else { return Ok(()) };
    let consequence = match direction {
        Direction::Original => control.outbound(kind, &body),
        Direction::Reply => control.inbound(kind, &body),
    };
    if consequence.ignored {
        return Ok(());
    }
    if translated && (direction, kind) == (Direction::Original, OUT_CALL_REQUEST) {
        (control.inside, control.client) = (control.client, outside);
    }
    let new = match direction {
        Direction::Original => control.client,
        Direction::Reply => control.inside,
    };
    if consequence.ends {
        reading.table.end_call(id);
    }
    if consequence.expects {
        expect(reading);
    }
    match place(kind, direction).filter(|_| translated) {
        Some(at) => reading.replace(HEAD + at, 2, &new.to_be_bytes()),
        None => Ok(()),
    }
}

/// Expects the call's packets in both directions, or neither.
fn expect(reading: &mut Reading<'_>) {
    let ends = [reading.tuple(Direction::Original), reading.tuple(Direction::Reply)];
    let (id, translated) = (reading.id, reading.is_translated());
    let Some(Memory::Pptp(control)) = reading.memory() else { return };
    let Control { client, server, inside, keys, .. } = control.clone();
    // Each packet as it comes in: the client's with the server's number, the server's with the one
    // that the server knows. A translation gives the other end's key its number there.
    let (from_client, to) = match translated {
        true => (inside, [Some(client), Some(inside)]),
        false => (client, [None, None]),
    };
    let numbers = [(from_client, server), (server, client)];
    let calls = [0, 1].map(|n| {
        let (sport, dport) = numbers[n];
        Tuple { sport, dport, protocol: protocol::GRE, ..ends[n] }
    });
    for (n, direction) in [Direction::Original, Direction::Reply].into_iter().enumerate() {
        let tuple = calls[n];
        let plain = reading.expectation(tuple.src, tuple.dst, tuple.protocol, tuple.dport);
        // When a server behind or beyond a translation is the first to send, netfilter looks for
        // the client's way under numbers that it doesn't have, and lets that be expected on.
        let counterpart = (n == 0 || !translated).then_some(calls[1 - n]);
        let follow = Follow::Call { direction, key: to[n], counterpart };
        let expectation = Expectation { tuple, any_sport: false, follow, ..plain };
        if reading.expect(expectation).is_err() {
            return reading.table.unexpect_if(id, |e| n == 1 && e.tuple == calls[0]);
        }
    }
    // A key that is there may only be said again.
    let says = |t: Tuple| (t.src, t.dst, t.dport);
    for n in [0, 1] {
        let call = calls[n];
        match keys[n] {
            None => reading.table.shared.calls.add(&call),
            Some(kept) if says(kept) == says(call) => continue,
            Some(_) => {
                if n == 1 {
                    reading.table.forget_keys(id);
                }
                return reading.table.unexpect_if(id, |e| calls.contains(&e.tuple));
            }
        }
        if let Some(Memory::Pptp(control)) = reading.memory() {
            control.keys[n] = Some(call);
        }
    }
}

impl Conntrack {
    fn control_mut(&mut self, id: crate::ConnId) -> Option<&mut Control> {
        let conn = crate::slots::conn_of(&mut self.slots, id)?;
        match &mut conn.extra_mut()?.help.as_mut()?.memory {
            Memory::Pptp(control) => Some(control),
            _ => None,
        }
    }

    fn forget_keys(&mut self, id: crate::ConnId) {
        let keys = self.control_mut(id).map(|c| std::mem::take(&mut c.keys)).unwrap_or_default();
        for call in keys.iter().flatten() {
            self.shared.calls.remove(call);
        }
    }

    /// The call of a control connection is over: with its packets' connection, or with what was
    /// expected of it.
    fn end_call(&mut self, id: crate::ConnId) {
        self.forget_keys(id);
        if let Some(master) = self.get(id).cloned() {
            self.end_siblings(&master);
        }
    }

    /// The same for a control connection that has left the table.
    pub(crate) fn end_call_of(&mut self, master: &Connection) {
        let Some(help) = master.extra().and_then(|e| e.help.as_ref()) else { return };
        let Memory::Pptp(control) = &help.memory else { return };
        for call in control.keys.iter().flatten() {
            self.shared.calls.remove(call);
        }
        self.end_siblings(master);
    }

    /// Both ways of a call by the numbers that the server knows.
    fn end_siblings(&mut self, master: &Connection) {
        let Some(help) = master.extra().and_then(|e| e.help.as_ref()) else { return };
        let Memory::Pptp(Control { client, server, .. }) = help.memory else { return };
        let zones = master.zones();
        for (ends, sport, dport) in
            [(master.original(), client, server), (master.reply(), server, client)]
        {
            let tuple = Tuple { sport, dport, protocol: protocol::GRE, ..ends };
            if !self.delete_anywhere(&tuple, zones) {
                self.unexpect_first(&tuple, zones);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(kind: u16, len: usize) -> Vec<u8> {
        let mut all = vec![0, 0, 0, 1, 0x1a, 0x2b, 0x3c, 0x4d];
        all.extend(kind.to_be_bytes());
        all.extend([0; 2]);
        all.resize(HEAD + len, 0);
        all
    }

    #[test]
    fn only_whole_control_messages_are_read() {
        for (kind, len) in LENGTHS.iter().enumerate() {
            let whole = bytes(kind as u16, *len);
            assert_eq!(message(&whole).map(|m| m.0), Some(kind as u16));
            assert_eq!(message(&whole[..whole.len() - 1]), None, "{kind}");
        }
        let mut other = bytes(START_REQUEST, 144);
        other[3] = 2;
        assert_eq!(message(&other), None, "a management message");
        other[3] = 1;
        other[7] = 0;
        assert_eq!(message(&other), None, "no cookie");
        assert_eq!(message(&[]), None);
    }

    #[test]
    fn a_call_is_expected_once_both_have_agreed() {
        let mut control = Control::default();
        let body = |numbers: [u16; 2], result: u8| {
            let mut all: Vec<u8> = numbers.iter().flat_map(|n| n.to_be_bytes()).collect();
            all.push(result);
            all
        };
        // Nobody has asked yet.
        assert!(control.inbound(START_REPLY, &[0, 0, DONE]).ignored);
        assert!(control.outbound(OUT_CALL_REQUEST, &body([5, 0], 0)).ignored);
        assert!(!control.outbound(START_REQUEST, &[]).ignored);
        assert!(control.outbound(START_REQUEST, &[]).ignored, "asked already");
        assert!(!control.inbound(START_REPLY, &[0, 0, DONE]).ignored);
        assert!(!control.outbound(OUT_CALL_REQUEST, &body([5, 0], 0)).ignored);
        assert!(control.inbound(OUT_CALL_REPLY, &body([9, 6], DONE)).ignored, "another's call");
        assert!(control.inbound(OUT_CALL_REPLY, &body([9, 5], DONE)).expects);
        assert_eq!((control.client, control.server), (5, 9));
        assert!(control.inbound(DISCONNECT, &body([5, 0], 1)).ends);
        // Refused.
        control.outbound(OUT_CALL_REQUEST, &body([5, 0], 0));
        assert!(!control.inbound(OUT_CALL_REPLY, &body([9, 5], 2)).expects);
        assert!(control.inbound(OUT_CALL_REPLY, &body([9, 5], DONE)).ignored);
        // The server calls.
        assert!(control.inbound(IN_CALL_CONNECT, &body([5, 0], 0)).ignored);
        control.inbound(IN_CALL_REQUEST, &body([11, 0], 0));
        assert!(control.outbound(IN_CALL_REPLY, &body([12, 10], DONE)).ignored);
        assert!(!control.outbound(IN_CALL_REPLY, &body([12, 11], DONE)).ignored);
        assert!(control.inbound(IN_CALL_CONNECT, &body([12, 0], 0)).expects);
    }
}
