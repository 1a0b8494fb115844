//! Connection tracking and translation at their places on a packet's way.

use super::Engine;
use super::counters::Drop;
use super::interface::{InterfaceId, LOOPBACK};
use super::link_out::Hop;
use super::packet::Packet;
use super::track;
use crate::io::Checksum;
use tidegate_filter::{self as filter, Hook, NatAction, NatRange, TableName, Verdict};
use tidegate_nat::{BlockRule, Filtering, Manip, MappingRule, Range, State, Template, Tracked};
use tidegate_packet::{Addr, Prefix, protocol};

impl Engine {
    /// conntrack at PREROUTING and OUTPUT. Packets that already have a connection (the gateway's
    /// answers, what comes in again by loopback) and untracked ones keep it.
    pub(crate) fn track(&mut self, packet: &mut Packet<'_>) {
        // Rules that were replaced may have left connections; they are followed to their end.
        let wanted = self.policy.tracks(packet.parsed.family) || self.conntrack.total() > 0;
        if packet.tracked.is_some() || !wanted {
            return;
        }
        let verify = packet.frame.meta.offload.checksum == Checksum::Unverified;
        let tracked = match self.at_hand.judged.take().filter(|_| !packet.has_template()) {
            Some(judged) => judged,
            None => self.track_anew(packet, verify),
        };
        // A wrong checksum would have made it INVALID. Devices join only what is known to be right.
        let verified = verify
            && self.conntrack.settings().checksum
            && matches!(packet.parsed.protocol, protocol::TCP | protocol::UDP)
            && !matches!(tracked.state(), State::Invalid(_) | State::Untracked);
        if verified {
            packet.frame.meta.offload.checksum = Checksum::Valid;
        }
        packet.tracked = Some(tracked);
    }

    fn track_anew(&mut self, packet: &Packet<'_>, verify: bool) -> Tracked {
        let template = match packet.tracking {
            Some(tracking) => track::template(tracking, packet.mark),
            None => Template { synproxy: packet.synproxy, ..Template::default() },
        };
        let (parsed, bytes) = (&packet.parsed, packet.bytes());
        let owner = self.conntrack.owner(self.steering, template.zones, parsed, bytes, self.now);
        self.lend(usize::from(owner));
        let missed = self.at_hand.missed.take();
        self.conntrack.track_as(&template, missed, parsed, bytes, verify, self.now)
    }

    /// The nat table's place at a hook: decides a new connection's translation and rewrites the
    /// packet. A family without nat rules has no new translations, as Linux without the nat table;
    /// connections that are translated already stay so.
    pub(crate) fn translate(
        &mut self,
        hook: Hook,
        packet: &mut Packet<'_>,
        hop: Option<Hop>,
    ) -> Result<(), Drop> {
        let output = hop.map(|hop| hop.egress);
        let family = packet.parsed.family;
        let has_table = self.policy.translates(family);
        if !has_table && self.conntrack.total() == 0 {
            return Ok(());
        }
        let Some(tracked) = &packet.tracked else { return Ok(()) };
        let manip = match hook {
            Hook::Prerouting | Hook::Output => Manip::Destination,
            Hook::Input | Hook::Postrouting | Hook::Forward => Manip::Source,
        };
        if matches!(tracked.state(), State::Invalid(_) | State::Untracked) {
            return self.guard_bypass(hook, packet, output);
        }
        if hook == Hook::Postrouting
            && let Some(egress) = output
            && !self.conntrack.check_egress(tracked, u32::from(egress.0))
        {
            return Err(Drop::NatImpossible);
        }
        if manip == Manip::Destination
            && has_table
            && let Some(present) = self.conntrack.second_look(tracked)
        {
            self.at_hand.trail.lose();
            self.take_over(hook, packet, output, present);
        }
        if has_table {
            self.decide_end(hook, packet, hop, manip)?;
        }
        let field = packet.checksum_field();
        let Packet { tracked: Some(tracked), parsed, frame, pieces, .. } = packet else {
            return Ok(());
        };
        let bytes = &mut frame.slot[packet.l3..frame.meta.end];
        let done = self.conntrack.translate(tracked, manip, parsed, bytes, field);
        if let Some(pieces) = pieces
            && self.conntrack.view(tracked).is_some_and(|c| c.is_translated())
        {
            pieces.header_was_written(header_len(parsed.protocol));
        }
        done.map_err(|_| Drop::NatImpossible)
    }

    /// Asks the nat table about the first packet of a connection of which nothing is decided here yet.
    fn decide_end(
        &mut self,
        hook: Hook,
        packet: &mut Packet<'_>,
        hop: Option<Hop>,
        manip: Manip,
    ) -> Result<(), Drop> {
        let Some(tracked) = &packet.tracked else { return Ok(()) };
        if !self.conntrack.needs_nat(tracked, manip) {
            // netfilter asks the nat table about a reset that a rule has made for a packet whose source
            // isn't decided yet. The answer changes nothing, but the rules count it.
            if self.conntrack.asks_nat_in_vain(tracked, manip) && !packet.parsed.is_icmp_error() {
                self.ask_nat_table(hook, packet, hop)?;
            }
            return Ok(());
        }
        let (mut range, egress) = self.ask_nat_table(hook, packet, hop)?;
        let Some(tracked) = &mut packet.tracked else { return Ok(()) };
        if let (None, Some(input)) = (&range, packet.input) {
            range = self.by_mapping(hook, tracked, input);
        }
        let Self { conntrack, rng, now, .. } = self;
        conntrack
            .set_nat(tracked, manip, range.as_ref(), *now, &mut || rand::Rng::next_u32(rng))
            .map_err(|_| Drop::NatExhausted)?;
        if let Some(egress) = egress {
            conntrack.set_masqueraded(tracked, u32::from(egress.0));
        }
        Ok(())
    }

    /// Where no rule translates: a mapping that a rule has made may lead inside, and what comes from
    /// inside to it has to look as if it came from outside.
    fn by_mapping(
        &mut self,
        hook: Hook,
        tracked: &mut Tracked,
        input: InterfaceId,
    ) -> Option<Range> {
        if self.conntrack.mappings() == 0 {
            return None;
        }
        let input = u32::from(input.0);
        match hook {
            Hook::Prerouting => self.conntrack.inbound(tracked, input, self.now),
            Hook::Postrouting => self.conntrack.hairpin(tracked, input),
            _ => None,
        }
    }

    /// A UDP flow that new rules send elsewhere begins anew with this packet.
    fn take_over(
        &mut self,
        hook: Hook,
        packet: &mut Packet<'_>,
        output: Option<InterfaceId>,
        present: (Addr, u16),
    ) {
        let (addr, port) = present;
        let in_ports = |range: NatRange| {
            let fixed = range.ports.filter(|_| range.base_port.is_none());
            fixed.is_none_or(|(first, last)| (first..=last).contains(&port))
        };
        let stays = match self.destination_of_first(hook, packet, output) {
            None => true,
            Some(NatAction::Destination(range)) => {
                let within = |(first, last)| (first..=last).contains(&addr);
                range.addrs.is_none_or(within) && in_ports(range)
            }
            Some(NatAction::Redirect(range)) => {
                self.redirect_address(packet).is_ok_and(|to| to == addr) && in_ports(range)
            }
            Some(NatAction::Netmap { network, len }) => {
                Prefix::new(network, len).is_some_and(|network| network.contains(addr))
            }
            Some(NatAction::Source(_) | NatAction::Masquerade(_)) => true,
        };
        if stays {
            return;
        }
        if let Some(id) = packet.tracked.take().and_then(|tracked| tracked.id()) {
            self.conntrack.delete(id);
        }
        self.track(packet);
    }

    /// What the nat table says about a new connection: a range, and for MASQUERADE the egress.
    fn ask_nat_table(
        &mut self,
        hook: Hook,
        packet: &mut Packet<'_>,
        hop: Option<Hop>,
    ) -> Result<(Option<Range>, Option<InterfaceId>), Drop> {
        let output = hop.map(|hop| hop.egress);
        if !self.policy.has_chain(packet.parsed.family, TableName::Nat, hook) {
            return Ok((None, None));
        }
        let action = match self.evaluate(TableName::Nat, hook, packet, output) {
            Verdict::Accept => return Ok((None, None)),
            Verdict::Drop | Verdict::Reject(_) | Verdict::SynProxy(_) => {
                return Err(Drop::RuleDrop);
            }
            Verdict::Nat(action) => action,
        };
        Ok(match action {
            NatAction::Source(range) => (Some(mapped(range, output, false)), None),
            NatAction::Destination(range) => (Some(plain(range)), None),
            NatAction::Netmap { network, len } => {
                let netmap = Prefix::new(network, len);
                (Some(Range { netmap, ..Range::default() }), None)
            }
            NatAction::Masquerade(range) => {
                let hop = hop.ok_or(Drop::NatImpossible)?;
                let addr = self.masquerade_address(packet.parsed.dst, hop)?;
                let range = mapped(range, output, true);
                (Some(Range { addrs: Some((addr, addr)), ..range }), Some(hop.egress))
            }
            NatAction::Redirect(range) => {
                let addr = self.redirect_address(packet)?;
                (Some(Range { addrs: Some((addr, addr)), ..plain(range) }), None)
            }
        })
    }

    /// The egress's address towards the packet's next hop.
    fn masquerade_address(&self, dst: Addr, hop: Hop) -> Result<Addr, Drop> {
        let towards = if hop.next.is_v6_link_local() { dst } else { hop.next };
        self.interfaces.get(hop.egress).source_address(towards).ok_or(Drop::NatImpossible)
    }

    /// The ingress's first address; loopback for the gateway's own packets.
    fn redirect_address(&self, packet: &Packet<'_>) -> Result<Addr, Drop> {
        let input = packet.input.unwrap_or(LOOPBACK);
        self.interfaces.get(input).primary(packet.parsed.family).ok_or(Drop::NatImpossible)
    }

    /// A packet outside every connection can't be translated. Where a source NAT rule covers it,
    /// it would carry an inside address out of the uplink; the kernel lets that happen.
    fn guard_bypass(
        &self,
        hook: Hook,
        packet: &Packet<'_>,
        output: Option<InterfaceId>,
    ) -> Result<(), Drop> {
        let leaks = hook == Hook::Postrouting
            && !self.policy.invalid_bypasses_nat
            && packet.input.is_some()
            && self.source_nat_covers(packet, output);
        if leaks { Err(Drop::NatBypass) } else { Ok(()) }
    }

    /// Puts a new connection into the table, once nothing can stop its first packet any more.
    pub(crate) fn confirm(&mut self, packet: &mut Packet<'_>) -> Result<(), Drop> {
        let Some(tracked) = &mut packet.tracked else { return Ok(()) };
        let confirmed =
            self.conntrack.confirm(tracked, self.now).map_err(|_| Drop::ConnectionTable)?;
        self.help(packet, confirmed)
    }
}

/// How much of a transport header Linux makes writable to translate it.
fn header_len(transport: u8) -> usize {
    match transport {
        protocol::TCP => 20,
        protocol::UDP | protocol::UDPLITE | protocol::ICMP | protocol::ICMPV6 => 8,
        _ => 0,
    }
}

fn plain(range: NatRange) -> Range {
    let NatRange { addrs, ports, base_port, random, random_fully, persistent, .. } = range;
    let (netmap, mapping) = (None, None);
    Range { addrs, ports, base_port, random, random_fully, persistent, netmap, mapping }
}

/// A range of a rule for the source, which may ask for a mapping.
fn mapped(range: NatRange, output: Option<InterfaceId>, masqueraded: bool) -> Range {
    let plain = plain(range);
    let (Some(filtering), Some(output)) = (range.mapping, output) else { return plain };
    let filtering = match filtering {
        filter::Filtering::EndpointIndependent => Filtering::EndpointIndependent,
        filter::Filtering::AddressDependent => Filtering::AddressDependent,
        filter::Filtering::AddressAndPortDependent => Filtering::AddressAndPortDependent,
    };
    let blocks = range.blocks.map(|(size, most)| BlockRule { size, most });
    let interface = u32::from(output.0);
    let mapping = Some(MappingRule { filtering, interface, masqueraded, blocks });
    // RFC 4787 REQ-2: all of a host's flows have the same address, mapped or not.
    Range { mapping, persistent: true, ..plain }
}
