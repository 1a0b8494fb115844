//! What a new connection gets besides its tuples: what a `CT` rule has said, and, if it was
//! expected, its master's mark and translation.

use tidegate_packet::{Addr, Instant};

use crate::conn::{Direction, Status};
use crate::event::Changes;
use crate::expect::{Expectation, Follow};
use crate::extra::{Master, Template};
use crate::helpers::Help;
use crate::ports::Range;
use crate::table::Conntrack;
use crate::tracked::{Entry, State, Tracked};
use crate::{Connection, Helper, Manip};

impl Conntrack {
    /// For a connection that its first packet has just started (`init_conntrack`).
    #[inline]
    pub(crate) fn prepare(&mut self, tracked: &mut Tracked, template: &Template, now: Instant) {
        if template.synproxy {
            Self::begin_handshake(tracked);
        }
        let Entry::Own(conn) = &mut tracked.entry else { return };
        let plain = *template == Template::default();
        if !plain {
            conn.obey(template);
        }
        if self.expectations.len() == 0 {
            if !plain {
                conn.give_helper(template.helper);
            }
            return;
        }
        let tuple = conn.original();
        match self.take_expected(&tuple, template.zones, now) {
            Some(expected) => self.relate(tracked, &expected, now),
            // What was expected is read by whoever expects it to be, and by nobody else.
            None => conn.give_helper(template.helper),
        }
    }

    fn relate(&mut self, tracked: &mut Tracked, expected: &Expectation, now: Instant) {
        let Some(master) = self.get(expected.master) else { return };
        let (mark, flow) = (master.mark, [master.original(), master.reply()]);
        tracked.state = State::Related;
        if let Entry::Own(conn) = &mut tracked.entry {
            conn.status.set(Status::EXPECTED);
            conn.mark = mark;
            conn.make_extra().master =
                Some(Master { id: expected.master, helper: expected.helper });
            conn.give_helper(expected.child_helper);
        }
        match expected.follow {
            Follow::Rules => {}
            Follow::Master { direction, port } => {
                // The source becomes what the master sends to, the destination its real sender.
                let addr = flow[direction.other().index()].dst;
                let source = Range { addrs: Some((addr, addr)), ..Range::default() };
                let addr = flow[direction.other().index()].src;
                let ports = Some((port, port));
                let destination = Range { addrs: Some((addr, addr)), ports, ..Range::default() };
                self.translate_as(tracked, Manip::Source, source, now);
                self.translate_as(tracked, Manip::Destination, destination, now);
            }
            Follow::Sip { direction, addr, port } => {
                self.follow_sip(tracked, expected, (direction, addr, port), now);
            }
            Follow::Call { direction, key, counterpart } => {
                // One connection serves both ways (`pptp_expectfn`).
                if let Some(counterpart) = counterpart {
                    self.unexpect_first(&counterpart, expected.zones);
                }
                let Some(key) = key else { return };
                let ends = flow[direction.other().index()];
                let keys = |here: bool| here.then_some((key, key));
                let to =
                    |addr, ports| Range { addrs: Some((addr, addr)), ports, ..Range::default() };
                let outgoing = direction == Direction::Original;
                let source = to(ends.dst, keys(outgoing));
                let destination = to(ends.src, keys(!outgoing));
                self.translate_as(tracked, Manip::Source, source, now);
                self.translate_as(tracked, Manip::Destination, destination, now);
            }
        }
    }

    /// `nf_nat_sip_expected`: media come from where those of the other way are expected, if the
    /// master's own side sends them; what else the master's side sends gets its outside address;
    /// others keep theirs unless rules say something.
    fn follow_sip(
        &mut self,
        tracked: &mut Tracked,
        expected: &Expectation,
        (direction, addr, port): (Direction, Addr, u16),
        now: Instant,
    ) {
        let (Some(master), Entry::Own(conn)) = (self.get(expected.master), &tracked.entry) else {
            return;
        };
        let (ends, flow) = (conn.original(), [master.original(), master.reply()]);
        let exactly = |addr, port| Range {
            addrs: Some((addr, addr)),
            ports: Some((port, port)),
            ..Range::default()
        };
        self.translate_as(tracked, Manip::Destination, exactly(addr, port), now);
        let counterpart = match expected.class {
            0 => None,
            _ => self.counterpart(expected.master, ends.protocol, (ends.src, ends.sport)),
        };
        let source = match counterpart {
            Some((addr, port)) => exactly(addr, port),
            None if ends.src == flow[direction.index()].src => {
                let addr = flow[direction.other().index()].dst;
                Range { addrs: Some((addr, addr)), ..Range::default() }
            }
            None => return,
        };
        self.translate_as(tracked, Manip::Source, source, now);
    }

    /// A translation that no rule is asked about. Where it is impossible, the tuple is taken, and
    /// the packet is dropped when the connection is confirmed.
    fn translate_as(&mut self, tracked: &mut Tracked, manip: Manip, range: Range, now: Instant) {
        let seed = self.random();
        let mut draws = 0u32;
        let mut random = || {
            draws += 1;
            seed.wrapping_mul(draws.wrapping_mul(2) + 1).rotate_left(draws % 32)
        };
        let _ = self.set_nat(tracked, manip, Some(&range), now, &mut random);
    }

    /// Sets labels of the packet's connection (`connlabel --set`).
    pub fn set_labels(&mut self, tracked: &mut Tracked, labels: u128) {
        if let Some(conn) = self.view_mut(tracked) {
            let labels_before = conn.labels();
            conn.make_extra().labels |= labels;
            if conn.labels() != labels_before {
                conn.pending = conn.pending.with(Changes::LABEL);
            }
        }
    }
}

impl Connection {
    fn obey(&mut self, template: &Template) {
        let Template { zones, helper: _, events, expectation_events, synproxy: _ } = *template;
        if zones == [0; 2] && events.is_none() && expectation_events.is_none() {
            return;
        }
        let extra = self.make_extra();
        extra.zones = zones;
        extra.events = events;
        extra.expectation_events = expectation_events;
    }

    fn give_helper(&mut self, helper: Option<Helper>) {
        let protocol = self.original().protocol;
        let Some(help) = helper.and_then(|kind| Help::new(kind, protocol)) else { return };
        self.make_extra().help = Some(help);
        self.status.set(Status::HELPER);
    }
}
