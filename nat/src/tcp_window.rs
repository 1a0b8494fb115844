//! TCP's windows, judged from the middle (after Guido van Rooij, "Real Stateful TCP Packet
//! Filtering in IP Filter", with netfilter's bounds).
//!
//! For a segment of sender S to receiver R, with `sack` the right edge of its highest SACK block
//! or its ACK:
//!
//! 1. data not above the window: `seq <= S.max_end`
//! 2. data not below it: `end >= S.end - R.max_window`
//! 3. nothing acknowledged that wasn't sent: `sack <= R.end`
//! 4. nothing acknowledged from long ago: `sack >= R.end - max(S.max_window, 66000)`
//!
//! What breaks 1 or 3 is INVALID; what only breaks 2 or 4 is a late repetition and passes, but is
//! not believed.

use tidegate_packet::tcp::{
    ACK, FIN, Header, OPT_SACK, OPT_SACK_PERMITTED, OPT_WINDOW_SCALE, RST, SYN,
};

use crate::conn::Direction;
use crate::lease::PeerWindow;
use crate::tcp::{TcpState, TcpTrack};

/// The least tolerance of equation 4.
const LEAST_ACK_WINDOW: u32 = 66_000;
/// RFC 7323 section 2.3.
const MAX_SCALE: u8 = 14;

/// `a < b` in sequence space.
#[inline]
pub(crate) fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// `a > b` in sequence space.
#[inline]
pub(crate) fn after(a: u32, b: u32) -> bool {
    before(b, a)
}

/// A segment's numbers.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Segment<'a> {
    header: Header<'a>,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    /// Sequence number behind the segment; SYN and FIN count.
    pub(crate) end: u32,
    pub(crate) window: u16,
    pub(crate) flags: u8,
    /// How far the other side's numbers are shifted on their way.
    shift: u32,
}

impl<'a> Segment<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let header = Header::new_checked(bytes)?;
        let flags = header.flags();
        let payload = (bytes.len() - header.header_len()) as u32;
        let len = payload + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        let seq = header.seq();
        Some(Self {
            header,
            seq,
            ack: header.ack(),
            end: seq.wrapping_add(len),
            window: header.window(),
            flags,
            shift: 0,
        })
    }

    /// What is acknowledged, as the other side counts: its numbers have been shifted by this.
    pub(crate) fn unshift(&mut self, by: u32) {
        self.shift = by;
        self.ack = self.ack.wrapping_sub(by);
    }

    /// Window scale and flags of a SYN's options; `None` if it has no options at all.
    pub(crate) fn syn_options(&self) -> Option<(u8, u8)> {
        if self.header.option_bytes().is_empty() {
            return None;
        }
        let (mut scale, mut flags) = (0, 0);
        for option in self.header.options() {
            match (option.kind, option.data) {
                (OPT_SACK_PERMITTED, []) => flags |= Peer::SACK,
                (OPT_WINDOW_SCALE, [shift]) => {
                    scale = (*shift).min(MAX_SCALE);
                    flags |= Peer::SCALE;
                }
                _ => {}
            }
        }
        Some((scale, flags))
    }

    /// The right edge of the highest SACK block, at least the ACK (RFC 2018).
    fn sack(&self) -> u32 {
        let mut highest = self.ack;
        let blocks = self.header.options().find_map(|o| {
            let whole = !o.data.is_empty() && o.data.len().is_multiple_of(8);
            (o.kind == OPT_SACK && whole).then_some(o.data)
        });
        for block in blocks.unwrap_or_default().chunks_exact(8) {
            let edge = u32::from_be_bytes([block[4], block[5], block[6], block[7]]);
            let edge = edge.wrapping_sub(self.shift);
            if after(edge, highest) {
                highest = edge;
            }
        }
        highest
    }
}

/// What is known of one side. Packed, because two of them are in every connection.
#[derive(Copy, Clone, Debug, Default)]
#[repr(C, packed(2))]
pub(crate) struct Peer {
    /// Highest sequence number sent, plus one (`td_end`).
    pub(crate) end: u32,
    /// Highest that the other side has room for (`td_maxend`).
    pub(crate) max_end: u32,
    /// Largest window it has announced (`td_maxwin`); zero: nothing was seen of it.
    pub(crate) max_window: u32,
    /// Highest acknowledgment it has sent (`td_maxack`).
    pub(crate) max_ack: u32,
    /// Its window's scale.
    scale: u8,
    flags: u8,
}

impl Peer {
    /// It offered window scaling.
    pub(crate) const SCALE: u8 = 1 << 0;
    /// It permits SACK.
    pub(crate) const SACK: u8 = PeerWindow::SACK;
    /// It sent the first FIN.
    pub(crate) const CLOSE_INIT: u8 = 1 << 2;
    /// Its windows aren't judged.
    pub(crate) const LIBERAL: u8 = 1 << 3;
    /// It sent data that wait for their acknowledgment.
    pub(crate) const UNACKNOWLEDGED: u8 = PeerWindow::UNACKNOWLEDGED;
    /// `max_ack` holds something.
    pub(crate) const MAXACK_SET: u8 = PeerWindow::MAXACK_SET;

    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub(crate) fn set(&mut self, flag: u8) {
        self.flags |= flag;
    }

    pub(crate) fn window(self) -> PeerWindow {
        let Self { end, max_end, max_window, max_ack, scale, flags } = self;
        PeerWindow { end, max_end, max_window, max_ack, scale, flags }
    }

    pub(crate) fn from_window(window: PeerWindow) -> Self {
        let PeerWindow { end, max_end, max_window, max_ack, scale, flags } = window;
        Self { end, max_end, max_window, max_ack, scale, flags }
    }

    /// The sender of a connection's first SYN.
    pub(crate) fn opening(segment: &Segment<'_>) -> Self {
        let mut peer = Self::default();
        peer.syn(segment);
        peer
    }

    /// The sender of a first segment out of the middle: its scale is unknown, so its windows
    /// can't be judged, and SACK is assumed.
    pub(crate) fn picked_up(segment: &Segment<'_>) -> Self {
        let window = u32::from(segment.window).max(1);
        Self {
            end: segment.end,
            max_end: segment.end.wrapping_add(window),
            max_window: window,
            ..Self::unseen()
        }
    }

    /// The other side of such a connection.
    pub(crate) fn unseen() -> Self {
        Self { flags: Self::SACK | Self::LIBERAL, ..Self::default() }
    }

    /// Starts from a SYN's numbers.
    fn syn(&mut self, segment: &Segment<'_>) {
        self.end = segment.end;
        self.max_end = segment.end;
        self.max_window = u32::from(segment.window).max(1);
        if let Some((scale, flags)) = segment.syn_options() {
            self.scale = scale;
            self.flags = self.flags & Self::LIBERAL | flags;
        }
    }

    /// Starts from a SYN that was noted earlier.
    pub(crate) fn reopen(&mut self, end: u32, window: u16, scale: u8, flags: u8) {
        self.end = end;
        self.max_end = end;
        self.max_window = u32::from(window).max(1);
        (self.scale, self.flags) = (scale, flags);
    }

    /// Forgets everything but that it isn't judged.
    pub(crate) fn reset(&mut self) {
        *self = Self { flags: self.flags & Self::LIBERAL, ..Self::default() };
    }
}

/// How a segment fits.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// Into the window: believed.
    Accept,
    /// Below it, or only a little beyond: passes, not believed.
    Ignore,
    /// Beyond it.
    Beyond,
}

impl TcpTrack {
    /// Judges a segment by the equations and learns from it if it fits.
    pub(crate) fn fit(
        &mut self,
        direction: Direction,
        plain_ack: bool,
        segment: &Segment<'_>,
        be_liberal: bool,
    ) -> Fit {
        let state = self.state();
        let (mut sender, mut receiver) =
            (self.peers[direction.index()], self.peers[direction.other().index()]);
        let flags = segment.flags;
        let (mut seq, mut ack, mut end) = (segment.seq, segment.ack, segment.end);
        let mut sack = if receiver.has(Peer::SACK) { segment.sack() } else { ack };

        let only_syn = flags & (SYN | ACK) == SYN;
        let first = sender.max_window == 0;
        let opens = matches!(state, TcpState::SynSent | TcpState::SynRecv);
        let mut accepted_unjudged = false;
        if flags & SYN != 0 && (first || opens && after(end, sender.end)) {
            // The first SYN of this side, or a new one with higher numbers (RFC 9293 section
            // 3.4.1): a new beginning.
            sender.syn(segment);
            // RFC 7323 section 2.2: scaling needs both sides' offer.
            if direction == Direction::Reply
                && !(sender.has(Peer::SCALE) && receiver.has(Peer::SCALE))
            {
                (sender.scale, receiver.scale) = (0, 0);
            }
            // A simultaneous open.
            accepted_unjudged = only_syn && (first || direction == Direction::Reply);
        } else if first {
            // The middle of a connection whose beginning wasn't seen.
            sender.end = end;
            sender.max_window = (u32::from(segment.window) << sender.scale).max(1);
            sender.max_end = end.wrapping_add(sender.max_window);
            if receiver.max_window == 0 {
                // Nothing of the other side either: equations 3 and 4 must hold until then.
                (receiver.end, receiver.max_end) = (sack, sack);
            } else if sack == receiver.end.wrapping_add(1) {
                // Most likely the answer to a keep-alive.
                receiver.end = sack;
            }
        }
        // What was learned so far stays, however the segment fits.
        self.peers[direction.index()] = sender;
        self.peers[direction.other().index()] = receiver;
        if accepted_unjudged {
            return Fit::Accept;
        }

        // Without ACK, or in resets of stacks that set it with nothing in it, take the best.
        if flags & ACK == 0 || flags & RST != 0 && ack == 0 {
            (ack, sack) = (receiver.end, receiver.end);
        }
        // A reset that answers a SYN has no sequence number (RFC 9293 section 3.5.2).
        if flags & RST != 0 && seq == 0 && state == TcpState::SynSent {
            (seq, end) = (sender.end, sender.end);
        }

        let liberal = be_liberal || sender.has(Peer::LIBERAL);
        match judge(&sender, &receiver, seq, end, sack) {
            Fit::Accept => {
                self.learn(direction, plain_ack, segment, [seq, ack, end, sack]);
                Fit::Accept
            }
            Fit::Ignore => {
                // More than the window allowed, but by less than another window: the receiver may
                // well take it, and what it then acknowledges must not look unsent.
                if after(seq, sender.max_end) {
                    let sender = &mut self.peers[direction.index()];
                    sender.end = end;
                    sender.set(Peer::UNACKNOWLEDGED);
                }
                if liberal { Fit::Accept } else { Fit::Ignore }
            }
            Fit::Beyond if liberal => Fit::Accept,
            Fit::Beyond => Fit::Beyond,
        }
    }

    /// For an acknowledgment of an established connection, data or none: learns from it if it fits
    /// whatever the settings are.
    pub(crate) fn accept(&mut self, direction: Direction, segment: &Segment<'_>) -> bool {
        let (sender, receiver) =
            (self.peers[direction.index()], self.peers[direction.other().index()]);
        let Segment { seq, ack, end, .. } = *segment;
        let sack = if receiver.has(Peer::SACK) { segment.sack() } else { ack };
        let begun = sender.max_window != 0 && receiver.max_window != 0;
        if !begun || judge(&sender, &receiver, seq, end, sack) != Fit::Accept {
            return false;
        }
        self.learn(direction, true, segment, [seq, ack, end, sack]);
        true
    }

    /// Takes over what a segment inside the window says.
    fn learn(
        &mut self,
        direction: Direction,
        plain_ack: bool,
        segment: &Segment<'_>,
        [seq, ack, end, sack]: [u32; 4],
    ) {
        let flags = segment.flags;
        let [original, reply] = &mut self.peers;
        let (sender, receiver) = match direction {
            Direction::Original => (original, reply),
            Direction::Reply => (reply, original),
        };
        // RFC 7323 section 2.2: the window of a SYN is never scaled.
        let scale = if flags & SYN == 0 { sender.scale } else { 0 };
        let window = u32::from(segment.window) << scale;
        sender.max_window = sender.max_window.max(window.wrapping_add(sack.wrapping_sub(ack)));
        if after(end, sender.end) {
            sender.end = end;
            sender.set(Peer::UNACKNOWLEDGED);
        }
        if flags & ACK != 0 && (!sender.has(Peer::MAXACK_SET) || after(ack, sender.max_ack)) {
            sender.max_ack = ack;
            sender.set(Peer::MAXACK_SET);
        }
        if receiver.max_window != 0 && after(end, sender.max_end) {
            let more = end.wrapping_sub(sender.max_end);
            receiver.max_window = receiver.max_window.wrapping_add(more);
        }
        let edge = sack.wrapping_add(window);
        if !before(edge, receiver.max_end) {
            // A closed window may be probed with one byte (RFC 9293 section 3.8.6.1).
            receiver.max_end = if window == 0 { edge.wrapping_add(1) } else { edge };
        }
        if ack == receiver.end {
            receiver.flags &= !Peer::UNACKNOWLEDGED;
        }
        if !plain_ack {
            return;
        }
        let last = &mut self.last;
        let same = last.direction == direction
            && (last.seq, last.ack, last.end, last.window) == (seq, ack, end, segment.window);
        if same {
            last.retransmissions = last.retransmissions.saturating_add(1);
        } else {
            last.direction = direction;
            (last.seq, last.ack, last.end, last.window) = (seq, ack, end, segment.window);
            last.retransmissions = 0;
        }
    }
}

/// The four equations.
fn judge(sender: &Peer, receiver: &Peer, seq: u32, end: u32, sack: u32) -> Fit {
    let lowest = sender.end.wrapping_sub(receiver.max_window);
    let not_below = !before(end, lowest);
    let acks_sent = !after(sack, receiver.end);
    let tolerance = sender.max_window.max(LEAST_ACK_WINDOW);
    let acks_recent = !before(sack, receiver.end.wrapping_sub(tolerance));
    if after(seq, sender.max_end) {
        let overshot = end.wrapping_sub(sender.max_end).wrapping_add(1);
        let a_little = receiver.max_window != 0 && overshot <= receiver.max_window;
        return if a_little && not_below && acks_sent && acks_recent {
            Fit::Ignore
        } else {
            Fit::Beyond
        };
    }
    if !acks_sent {
        return Fit::Beyond;
    }
    if receiver.max_window != 0 && !not_below || !acks_recent {
        return Fit::Ignore;
    }
    Fit::Accept
}
