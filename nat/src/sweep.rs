//! What many connections meet at once: the end of their time, and orders to all of them. It is done
//! a few at a time, so that packets never wait for more than that.
//!
//! A connection whose time is over and that hasn't been removed yet is as good as gone: no packet
//! finds it, no list shows it, a full table takes its place first. Orders reach one connection after
//! the other while packets pass, as in netfilter (`nf_ct_iterate_cleanup`).

use std::collections::VecDeque;

use tidegate_packet::{Addr, Family, Instant};

use crate::conn::{Connection, Proto};
use crate::table::Conntrack;

/// Something to be done once to all connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// A family's established TCP connections start from new windows with their next segments,
    /// because segments have passed unseen: tracking was off for a while (`nf_ct_tcp_fixup`).
    ForgetWindows(Family),
    /// An interface has these addresses left: what was masqueraded to another one of it goes
    /// (`masq_inet_event`).
    ForgetMasqueraded {
        /// Its number.
        interface: u32,
        /// Its addresses.
        kept: Vec<Addr>,
    },
}

impl Order {
    /// Whether the later of two makes the earlier one needless.
    fn replaces(&self, earlier: &Self) -> bool {
        match (self, earlier) {
            (Self::ForgetWindows(a), Self::ForgetWindows(b)) => a == b,
            (
                Self::ForgetMasqueraded { interface: a, .. },
                Self::ForgetMasqueraded { interface: b, .. },
            ) => a == b,
            _ => false,
        }
    }
}

/// How far an order has come.
#[derive(Debug)]
struct Round {
    order: Order,
    slot: u32,
    mapping: u32,
}

/// What is left to be done.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    rounds: VecDeque<Round>,
    /// When more had ended than were looked at.
    behind: Option<Instant>,
}

/// Looking at so many places costs about what removing a connection does.
const PLACES: usize = 16;

impl Conntrack {
    /// Removes all connections whose time is over, carries out all orders, and says how many
    /// connections had ended.
    pub fn expire(&mut self, now: Instant) -> usize {
        self.sweep(now, usize::MAX)
    }

    /// The same for about so many connections at most. Whether something is left,
    /// [`Conntrack::is_behind`] says.
    pub fn sweep(&mut self, now: Instant, most: usize) -> usize {
        let mut left = most.max(1);
        self.sweep.behind = None;
        self.mappings.seen = now;
        self.expire_expected(now, &mut left);
        let ended = self.sweep_expired(now, &mut left);
        self.mappings.expire(now, &mut left);
        self.carry_out(&mut left);
        if left == 0 {
            self.sweep.behind = Some(now);
        }
        ended
    }

    fn sweep_expired(&mut self, now: Instant, left: &mut usize) -> usize {
        let mut ended = 0;
        while *left > 0
            && let Some(slot) = self.wheel.pop(now)
        {
            *left -= 1;
            if self.slots.get(slot).is_some_and(|conn| conn.deadline <= now) {
                // Whoever holds its lease may have seen packets since.
                self.settle_lease(slot, false);
            }
            let Some(conn) = self.slots.get(slot) else { continue };
            if conn.deadline <= now {
                self.remove(slot);
                ended += 1;
            } else {
                let deadline = conn.deadline;
                self.wheel.arm(slot, deadline);
            }
        }
        ended
    }

    /// Whether [`Conntrack::sweep`] has something left to do at once.
    pub fn is_behind(&self) -> bool {
        self.sweep.behind.is_some() || !self.sweep.rounds.is_empty()
    }

    /// When [`Conntrack::sweep`] should be called next; nothing can expire before.
    pub fn next_expiry(&self) -> Option<Instant> {
        let Self { wheel, expectations, mappings, sweep, .. } = self;
        [sweep.behind, wheel.next(), expectations.next_expiry(), mappings.next_expiry()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Makes room in a full table, for a newcomer to any: a connection that is over goes, else one
    /// that may be thrown out. `None`: there is no room.
    pub(crate) fn make_room(&mut self, now: Instant) -> Option<Room> {
        if self.any(|table| table.sweep_expired(now, &mut 64) > 0) {
            return Some(Room::WasOver);
        }
        if !self.any(|table| table.drop_early(now)) {
            return None;
        }
        self.stats.early_drop += 1;
        Some(Room::ThrownOut)
    }

    /// Gives an order to all connections; [`Conntrack::sweep`] carries it out.
    pub fn order(&mut self, order: Order) {
        self.sweep.rounds.retain(|round| !order.replaces(&round.order));
        self.sweep.rounds.push_back(Round { order, slot: 0, mapping: 0 });
    }

    fn carry_out(&mut self, left: &mut usize) {
        while *left > 0
            && let Some(mut round) = self.sweep.rounds.pop_front()
        {
            if !self.go_round(&mut round, left) {
                self.sweep.rounds.push_front(round);
            }
        }
    }

    /// Goes on with an order. True if all is done.
    fn go_round(&mut self, round: &mut Round, left: &mut usize) -> bool {
        let Round { order, slot, mapping } = round;
        while (*slot as usize) < self.slots.places() {
            if *left == 0 {
                return false;
            }
            for at in *slot..slot.saturating_add(PLACES as u32) {
                if self.obey(order, at) {
                    *left = left.saturating_sub(1);
                }
            }
            *slot += PLACES as u32;
            *left = left.saturating_sub(1);
        }
        let Order::ForgetMasqueraded { interface, kept } = order else { return true };
        while *mapping < self.mappings.end() {
            if *left == 0 {
                return false;
            }
            let end = mapping.saturating_add(PLACES as u32);
            let gone = self.mappings.remove_unused(*mapping..end, |m| {
                m.masqueraded && m.interface == *interface && !kept.contains(&m.outside.addr)
            });
            *mapping = end;
            *left = left.saturating_sub(gone + 1);
        }
        true
    }

    /// Carries an order out for the connection in a slot. True if the connection is gone.
    fn obey(&mut self, order: &Order, slot: u32) -> bool {
        if matches!(order, Order::ForgetWindows(_)) {
            self.settle_lease(slot, true);
        }
        let Some(conn) = self.slots.get_mut(slot) else { return false };
        match order {
            Order::ForgetWindows(family) => {
                let this_family = conn.original().src.family() == *family;
                if let (true, Proto::Tcp(track)) = (this_family, &mut conn.proto) {
                    track.forget_windows();
                }
                false
            }
            Order::ForgetMasqueraded { interface, kept } => {
                let own =
                    conn.masqueraded() == Some(*interface) && !kept.contains(&conn.reply().dst);
                let came_in = conn.mappings()[1];
                let lost = own
                    || self.mappings.get(came_in).is_some_and(|m| {
                        m.masqueraded
                            && m.interface == *interface
                            && !kept.contains(&m.outside.addr)
                    });
                lost && self.remove(slot).is_some()
            }
        }
    }

    /// Removes all connections.
    pub fn flush(&mut self) -> usize {
        let gone = self.delete_if(|_| true);
        let end = self.mappings.end();
        self.mappings.remove_unused(0..end, |_| true);
        gone
    }

    /// Removes the connections that `which` names, and says how many.
    pub fn delete_if(&mut self, mut which: impl FnMut(&Connection) -> bool) -> usize {
        let mut gone = 0;
        for slot in 0..self.slots.places() as u32 {
            if self.slots.get(slot).is_some_and(&mut which) {
                self.remove(slot);
                gone += 1;
            }
        }
        gone
    }
}

/// Whose place a newcomer gets.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// One that was over.
    WasOver,
    /// One that wasn't.
    ThrownOut,
}
