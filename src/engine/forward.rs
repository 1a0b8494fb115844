//! The life of a packet, from top to bottom.
//!
//! ```text
//! link in ─ decode ─ sanity ─ fragments ─ raw PREROUTING ─ conntrack ─ mangle PREROUTING ─ nat PREROUTING ─ route
//!    ├─ for the gateway:  mangle INPUT ─ filter INPUT ─ security INPUT ─ nat INPUT ─ confirm ─ host
//!    └─ to forward:       TTL ─ MTU ─ mangle FORWARD ─ filter FORWARD ─ security FORWARD ─┐
//! host ─ route ─ raw OUTPUT ─ conntrack ─ mangle OUTPUT ─ nat OUTPUT ─ filter OUTPUT ─ security OUTPUT ─ reroute ─┤
//!                                 mangle POSTROUTING ─ nat POSTROUTING ─ confirm ─ link out ◄─────────────────────┘
//! ```
//!
//! An error is a packet's end, with its reason; whatever answer it deserves has been queued by
//! then and goes its own way afterwards.

use super::counters::Drop;
use super::icmp::Message;
use super::interface::{InterfaceId, LOOPBACK};
use super::link_out::Hop;
use super::packet::{OwnedFrame, Packet};
use super::route_in::Destination;
use super::rules::Copy;
use super::{Engine, Fate};
use tidegate_filter::{Hook, TableName};
use tidegate_nat::Tracked;
use tidegate_packet::{Family, checksum, ipv4, protocol, tcp};

impl Engine {
    /// A packet that came in by an interface.
    pub(crate) fn forward(&mut self, packet: &mut Packet<'_>) -> Result<Fate, Drop> {
        self.sanity(packet)?;
        // Linux can be told to show fragments to the raw table (`raw_before_defrag` of iptable_raw);
        // the whole doesn't meet it again then.
        let raw_first = self.policy.raw_before_defrag;
        if raw_first && packet.pieces.is_none() {
            self.rules(TableName::Raw, Hook::Prerouting, packet, None)?;
        }
        if self.must_reassemble(packet)
            && let Some(fate) = self.defragment(packet)?
        {
            return Ok(fate);
        }
        if !raw_first {
            self.rules(TableName::Raw, Hook::Prerouting, packet, None)?;
        }
        self.after_reassembly(packet)?;
        match self.route_in(packet)? {
            Destination::Local => self.deliver(packet),
            Destination::Onward(hop) => self.pass_on(packet, hop),
        }
    }

    /// PREROUTING behind the raw table: tracked and, on a connection's first packet, given a destination.
    fn after_reassembly(&mut self, packet: &mut Packet<'_>) -> Result<(), Drop> {
        self.track(packet);
        self.rules(TableName::Mangle, Hook::Prerouting, packet, None)?;
        self.translate(Hook::Prerouting, packet, None)?;
        // Linux looks for a socket of its own before it routes, and joins pieces to have a whole TCP
        // header for that (tcp_v4_early_demux).
        if let (protocol::TCP, Some(pieces)) = (packet.parsed.protocol, &mut packet.pieces) {
            pieces.header_was_written(tcp::MIN_HEADER_LEN);
        }
        Ok(())
    }

    /// INPUT: for the gateway itself.
    fn deliver(&mut self, packet: &mut Packet<'_>) -> Result<Fate, Drop> {
        self.with_room(packet, Self::deliver_in_place)
    }

    fn deliver_in_place(&mut self, packet: &mut Packet<'_>) -> Result<Fate, Drop> {
        self.rules(TableName::Mangle, Hook::Input, packet, None)?;
        self.rules(TableName::Filter, Hook::Input, packet, None)?;
        self.rules(TableName::Security, Hook::Input, packet, None)?;
        self.translate(Hook::Input, packet, None)?;
        if self.shake(packet)? {
            return Ok(Fate::Consumed);
        }
        self.confirm(packet)?;
        self.host(packet)
    }

    /// FORWARD: for somebody else.
    fn pass_on(&mut self, packet: &mut Packet<'_>, hop: Hop) -> Result<Fate, Drop> {
        self.hop_limit_and_mtu(packet, hop)?;
        let out = Some(hop.egress);
        self.rules(TableName::Mangle, Hook::Forward, packet, out)?;
        self.rules(TableName::Filter, Hook::Forward, packet, out)?;
        self.rules(TableName::Security, Hook::Forward, packet, out)?;
        if packet.options.is_some() {
            self.forward_options(packet, hop);
        }
        self.leave(packet, hop)
    }

    /// POSTROUTING: the last look, the source translation, and out.
    fn leave(&mut self, packet: &mut Packet<'_>, hop: Hop) -> Result<Fate, Drop> {
        self.with_room(packet, |engine, packet| engine.leave_in_place(packet, hop))
    }

    fn leave_in_place(&mut self, packet: &mut Packet<'_>, hop: Hop) -> Result<Fate, Drop> {
        let out = Some(hop.egress);
        self.rules(TableName::Mangle, Hook::Postrouting, packet, out)?;
        self.translate(Hook::Postrouting, packet, Some(hop))?;
        if self.shake(packet)? {
            return Ok(Fate::Consumed);
        }
        self.confirm(packet)?;
        if hop.egress == LOOPBACK {
            self.loop_back(packet, LOOPBACK);
            return Ok(Fate::Consumed);
        }
        // Who sends a broadcast hears it, too.
        if hop.broadcast && packet.input.is_none() {
            self.loop_back(packet, hop.egress);
        }
        self.link_out(packet, hop)
    }

    /// OUTPUT: a packet of the gateway's own, routed to `hop`.
    pub(crate) fn send(&mut self, packet: &mut Packet<'_>, hop: Hop) -> Result<Fate, Drop> {
        let out = Some(hop.egress);
        let before = (packet.parsed.src, packet.parsed.dst, packet.mark);
        self.rules(TableName::Raw, Hook::Output, packet, out)?;
        self.track(packet);
        self.rules(TableName::Mangle, Hook::Output, packet, out)?;
        self.translate(Hook::Output, packet, Some(hop))?;
        self.rules(TableName::Filter, Hook::Output, packet, out)?;
        self.rules(TableName::Security, Hook::Output, packet, out)?;
        let rerouted = before != (packet.parsed.src, packet.parsed.dst, packet.mark);
        // Towards link-local addresses and groups the link stays the one that was meant (Linux's
        // `ip6_route_me_harder`).
        let link = out.filter(|id| *id != LOOPBACK);
        let hop = if rerouted { self.route_out(packet.parsed.dst, link)? } else { hop };
        self.leave(packet, hop)
    }

    /// Both come before the FORWARD chain (RFC 1812 section 5.3.1, RFC 1191), so no rule hides
    /// that the gateway is there.
    fn hop_limit_and_mtu(&mut self, packet: &mut Packet<'_>, hop: Hop) -> Result<(), Drop> {
        let family = packet.parsed.family;
        if packet.parsed.hop_limit <= 1 {
            self.send_error(packet, Message::hop_limit(family));
            return Err(Drop::HopLimit);
        }
        match family {
            Family::V4 => self.strict_route(packet, hop)?,
            Family::V6 => self.turn_back_v6(packet, hop)?,
        }
        let mtu = self.interfaces.get(hop.egress).mtu;
        if packet.exceeds(mtu) {
            self.send_error(packet, Message::too_big(family, mtu));
            return Err(Drop::TooBig);
        }
        packet.parsed.hop_limit -= 1;
        match family {
            Family::V4 => ipv4::decrement_ttl(packet.bytes_mut()),
            Family::V6 => packet.bytes_mut()[7] -= 1,
        }
        if packet.input == Some(hop.egress) && family == Family::V4 {
            self.redirect_v4(packet, hop);
        }
        Ok(())
    }
}

/// A packet of the gateway's own that waits for its turn.
#[derive(Debug)]
pub(crate) enum Own {
    /// Made by the gateway: to be routed and sent through OUTPUT.
    Made {
        /// From its IP header on.
        bytes: Vec<u8>,
        /// The interface that the question came in by.
        asked_on: Option<InterfaceId>,
        /// The connection of the question.
        attach: Option<Tracked>,
        /// Bound to this interface (neighbour discovery).
        bound: bool,
    },
    /// Sent to the gateway's own address: comes in again by the loopback interface. Or a copy of
    /// a broadcast, which comes in again by the interface it left by.
    Looped {
        /// The interface.
        input: InterfaceId,
        /// The packet.
        frame: OwnedFrame,
        /// Its connection stays with it.
        tracked: Option<Tracked>,
        /// And its mark.
        mark: u32,
    },
    /// A SYN in a client's name, to the server.
    Syn(Vec<u8>),
    /// A copy that TEE has made: through OUTPUT, untracked, to a next hop that is settled.
    Copied(Copy),
}

impl Engine {
    /// Queues a packet of the gateway's own.
    pub(crate) fn originate(&mut self, bytes: Vec<u8>, asked_on: Option<InterfaceId>) {
        self.originate_attached(bytes, asked_on, None);
    }

    /// Queues an answer that belongs to the question's connection.
    pub(crate) fn originate_attached(
        &mut self,
        bytes: Vec<u8>,
        asked_on: Option<InterfaceId>,
        attach: Option<Tracked>,
    ) {
        self.own.push_back(Own::Made { bytes, asked_on, attach, bound: false });
    }

    /// Queues a packet that leaves by this interface whatever the routes say.
    pub(crate) fn originate_on(&mut self, interface: InterfaceId, bytes: Vec<u8>) {
        let asked_on = Some(interface);
        self.own.push_back(Own::Made { bytes, asked_on, attach: None, bound: true });
    }

    /// Sends what was queued. Answers to answers are rare and errors are never answered, so the
    /// bound on what comes up meanwhile is only a safety net.
    pub(crate) fn send_own(&mut self) {
        // Copies of what arrives were made before anything could be answered.
        let (early, late): (Vec<_>, Vec<_>) = self.copies.drain(..).partition(|c| c.arriving);
        early.into_iter().rev().for_each(|copy| self.own.push_front(Own::Copied(copy)));
        self.own.extend(late.into_iter().map(Own::Copied));
        for _ in 0..self.own.len() + 64 {
            self.own.extend(self.copies.drain(..).map(Own::Copied));
            let Some(own) = self.own.pop_front() else { return };
            let mut frame;
            let result = match own {
                Own::Made { bytes, asked_on, attach, bound } => {
                    frame = OwnedFrame::new(&bytes);
                    self.send_made(&mut frame, asked_on, attach, bound)
                }
                Own::Looped { input, frame: looped, tracked, mark } => {
                    frame = looped;
                    self.come_in_again(&mut frame, input, tracked, mark)
                }
                Own::Syn(bytes) => {
                    frame = OwnedFrame::new(&bytes);
                    self.send_syn(&mut frame)
                }
                Own::Copied(copy) => {
                    frame = OwnedFrame::new(&copy.bytes);
                    self.send_copy(&mut frame, &copy)
                }
            };
            match result {
                Ok(Fate::Transmit(port)) => self.outbox.push((port, frame)),
                Ok(Fate::Consumed) => {}
                Err(reason) => self.counters.drop(reason),
            }
        }
        self.counters.drop_many(Drop::HostIgnored, self.own.len() as u64);
        self.own.clear();
    }

    fn send_made(
        &mut self,
        frame: &mut OwnedFrame,
        asked_on: Option<InterfaceId>,
        attach: Option<Tracked>,
        bound: bool,
    ) -> Result<Fate, Drop> {
        let l3 = frame.meta.start;
        let mut packet = Packet::decode(frame.frame(), l3)?;
        packet.frame.meta.offload.checksum = crate::io::Checksum::Valid;
        self.lend_for(attach.as_ref());
        packet.tracked = attach;
        let dst = packet.parsed.dst;
        let hop = match asked_on {
            Some(egress) if bound => Hop { egress, next: dst, broadcast: false },
            link => self.route_out(dst, link)?,
        };
        self.send(&mut packet, hop)
    }

    /// `TEE` (nf_dup_ipv4, nf_dup_ipv6). Who gets it is settled by the rule, not by its address.
    fn send_copy(&mut self, frame: &mut OwnedFrame, copy: &Copy) -> Result<Fate, Drop> {
        let Copy { bytes: _, gateway, interface, arriving } = copy;
        let egress = interface.as_deref().and_then(|name| self.interfaces.by_name(name));
        if interface.is_some() && egress.is_none() {
            return Err(Drop::NoRoute);
        }
        let hop = self.route_out(*gateway, egress)?;
        let l3 = frame.meta.start;
        let mut packet = Packet::decode(frame.frame(), l3)?;
        packet.tracked = Some(Tracked::untracked());
        packet.copied = true;
        let (family, limit) = (packet.parsed.family, packet.parsed.hop_limit);
        if *arriving && limit > 1 {
            packet.parsed.hop_limit = limit - 1;
            match family {
                Family::V4 => ipv4::decrement_ttl(packet.bytes_mut()),
                Family::V6 => packet.bytes_mut()[7] -= 1,
            }
        }
        // A way on which it doesn't fit is to be noticed (nf_dup_ipv4).
        if family == Family::V4 && !packet.parsed.dont_fragment {
            let header = packet.bytes_mut();
            let mut delta = checksum::Delta::default();
            let old = [header[6], header[7]];
            header[6] |= 0x40;
            delta.replace(&old, &[header[6], header[7]]);
            delta.update(header, 10, checksum::Field::Complete);
            packet.parsed.dont_fragment = true;
        }
        self.send(&mut packet, hop)
    }

    /// A packet of the host device's kernel: like one of the gateway's own.
    pub(crate) fn host_output(&mut self, frame: crate::io::Frame<'_>) -> Result<Fate, Drop> {
        super::offload::check_frame(&frame)?;
        let l3 = frame.meta.start;
        let mut packet = Packet::decode(frame, l3)?;
        super::offload::check_packet(&mut packet)?;
        match self.route_out(packet.parsed.dst, None) {
            Ok(hop) => self.send(&mut packet, hop),
            Err(reason) => {
                self.tell_host(&packet);
                Err(reason)
            }
        }
    }

    fn loop_back(&mut self, packet: &Packet<'_>, input: InterfaceId) {
        let frame = packet.to_owned_frame();
        let tracked = packet.tracked.clone();
        self.own.push_back(Own::Looped { input, frame, tracked, mark: packet.mark });
    }

    fn come_in_again(
        &mut self,
        frame: &mut OwnedFrame,
        input: InterfaceId,
        tracked: Option<Tracked>,
        mark: u32,
    ) -> Result<Fate, Drop> {
        let l3 = frame.meta.start;
        let mut packet = Packet::decode(frame.frame(), l3)?;
        packet.input = Some(input);
        self.lend_for(tracked.as_ref());
        packet.tracked = tracked;
        packet.mark = mark;
        if input == LOOPBACK {
            return self.forward(&mut packet);
        }
        // Its route is known; asked again, its source would be a martian's.
        self.rules(TableName::Raw, Hook::Prerouting, &mut packet, None)?;
        self.after_reassembly(&mut packet)?;
        self.deliver(&mut packet)
    }
}
