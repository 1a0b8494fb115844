//! IPv4 options (RFC 791 section 3.1, RFC 7126), as Linux's `ip_options_compile`,
//! `ip_forward_options` and `ip_options_echo` treat them.
//!
//! A header with options is *compiled* once its packet has been routed: options are checked, the
//! gateway's address and the time go into the slots they ask for. A forwarded packet's record is
//! corrected to the egress's address after FORWARD; the gateway's answers *echo* the options of
//! the question. The header checksum is right again when the packet leaves.

use super::Engine;
use super::counters::Drop;
use super::icmp::Message;
use super::interface::LOOPBACK;
use super::link_out::Hop;
use super::packet::Packet;
use super::route::Target;
use super::route_in::{Destination, Routed};
use tidegate_filter::LinkType;
use tidegate_packet::{Addr, icmp, ipv4};

mod echo;

pub use echo::Reply;

/// End of the list.
const END: u8 = 0;
/// One octet of nothing.
const NO_OPERATION: u8 = 1;
const RECORD_ROUTE: u8 = 7;
const TIMESTAMP: u8 = 68;
const LOOSE_SOURCE_ROUTE: u8 = 131;
/// Security labels (CIPSO).
const CIPSO: u8 = 134;
const STRICT_SOURCE_ROUTE: u8 = 137;
/// RFC 2113.
const ROUTER_ALERT: u8 = 148;

/// Flags of a timestamp option: times alone.
const TIMES: u8 = 0;
/// Each time behind the address of who wrote it.
const ADDRESSES_AND_TIMES: u8 = 1;
/// The sender has named who is to write.
const PRESPECIFIED: u8 = 3;

/// The options of one header: where those that matter stand, counted from the header's start, and
/// what was written into them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    record_route: Option<usize>,
    /// The record has got the gateway's address.
    recorded: bool,
    timestamp: Option<usize>,
    /// The timestamp has got an address, a time.
    stamped: (bool, bool),
    source_route: Option<usize>,
    cipso: Option<usize>,
    /// The next address of a source route that leads on from here.
    next_hop: Option<Addr>,
    /// The options as they came.
    original: Vec<u8>,
}

/// Where and when options are compiled.
pub struct Place<'a> {
    /// The gateway's address that goes into them.
    pub address: Addr,
    /// Milliseconds since midnight UT.
    pub time: u32,
    /// Whether an address is an ordinary one, and not the gateway's.
    pub is_elsewhere: &'a dyn Fn(Addr) -> bool,
}

impl Options {
    /// Checks a header's options and fills them in. The error is the pointer of the parameter
    /// problem; options before it have been filled in by then, as in Linux.
    pub fn compile(&mut self, header: &mut [u8], place: &Place<'_>) -> Result<(), u8> {
        self.original = header[ipv4::MIN_HEADER_LEN..].to_vec();
        let mut at = ipv4::MIN_HEADER_LEN;
        while at < header.len() {
            match header[at] {
                END => {
                    header[at..].fill(END);
                    break;
                }
                NO_OPERATION => at += 1,
                _ => {
                    let len = header.get(at + 1).map_or(0, |l| usize::from(*l));
                    if len < 2 || at + len > header.len() {
                        return Err(at as u8);
                    }
                    self.option(at, &mut header[at..at + len], place)
                        .map_err(|octet| (at + octet) as u8)?;
                    at += len;
                }
            }
        }
        Ok(())
    }

    /// One option. The error is the octet in it that is wrong.
    fn option(&mut self, at: usize, option: &mut [u8], place: &Place<'_>) -> Result<(), usize> {
        match option[0] {
            LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE => {
                check_pointer(option, 3, 4)?;
                // RFC 1812 section 5.2.4.1: at most one.
                if self.source_route.is_some() {
                    return Err(0);
                }
                self.source_route = Some(at);
            }
            RECORD_ROUTE => {
                if self.record_route.is_some() {
                    return Err(0);
                }
                self.record(option, place)?;
                self.record_route = Some(at);
            }
            TIMESTAMP => {
                if self.timestamp.is_some() {
                    return Err(0);
                }
                self.stamp(option, place)?;
                self.timestamp = Some(at);
            }
            ROUTER_ALERT if option.len() < 4 => return Err(1),
            CIPSO => {
                if self.cipso.is_some() {
                    return Err(0);
                }
                self.cipso = Some(at);
                // No domain of interpretation is configured, so none is known.
                return Err(if option.len() < 8 { 1 } else { 2 });
            }
            _ => {}
        }
        Ok(())
    }

    /// The next free slot of a record route gets the gateway's address.
    fn record(&mut self, option: &mut [u8], place: &Place<'_>) -> Result<(), usize> {
        let pointer = check_pointer(option, 3, 4)?;
        if pointer > option.len() {
            return Ok(());
        }
        slot(option, pointer, 4).ok_or(2usize)?.copy_from_slice(&place.address.v4_bytes());
        option[2] += 4;
        self.recorded = true;
        Ok(())
    }

    /// The next free slot of a timestamp gets the time, and the address if it asks for that; a
    /// full one counts who couldn't write.
    fn stamp(&mut self, option: &mut [u8], place: &Place<'_>) -> Result<(), usize> {
        let pointer = check_pointer(option, 4, 5)?;
        let flag = option[3] & 0x0f;
        if pointer > option.len() {
            if flag != PRESPECIFIED {
                if option[3] >> 4 == 15 {
                    return Err(3);
                }
                option[3] += 0x10;
            }
            return Ok(());
        }
        let time = place.time.to_be_bytes();
        slot(option, pointer, 4).ok_or(2usize)?;
        match flag {
            TIMES => {
                option[pointer - 1..pointer + 3].copy_from_slice(&time);
                option[2] += 4;
                self.stamped = (false, true);
            }
            ADDRESSES_AND_TIMES => {
                let pair = slot(option, pointer, 8).ok_or(2usize)?;
                pair[..4].copy_from_slice(&place.address.v4_bytes());
                pair[4..].copy_from_slice(&time);
                option[2] += 8;
                self.stamped = (true, true);
            }
            PRESPECIFIED => {
                let pair = slot(option, pointer, 8).ok_or(2usize)?;
                if (place.is_elsewhere)(address_at(pair, 0)) {
                    return Ok(());
                }
                pair[4..].copy_from_slice(&time);
                option[2] += 8;
                self.stamped = (false, true);
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether the source names every router on the way.
    fn is_strict(&self, header: &[u8]) -> bool {
        self.source_route.is_some_and(|at| header[at] == STRICT_SOURCE_ROUTE)
    }

    /// Whether the source names routers on the way.
    pub fn has_source_route(&self) -> bool {
        self.source_route.is_some()
    }

    /// Puts the options back as they came, for a kernel that will look at them itself.
    pub fn undo(&self, packet: &mut [u8]) {
        let end = ipv4::MIN_HEADER_LEN + self.original.len();
        packet[ipv4::MIN_HEADER_LEN..end].copy_from_slice(&self.original);
    }

    /// Corrects what a forwarded packet's options say of the gateway to its address on the way
    /// out. Gives the packet's new destination if a source route leads on from here.
    fn forward(&self, header: &mut [u8], egress: Addr) -> Option<Addr> {
        let address = egress.v4_bytes();
        if let (Some(at), true) = (self.record_route, self.recorded) {
            let written = at + usize::from(header[at + 2]) - 5;
            header[written..written + 4].copy_from_slice(&address);
        }
        let (next, at) = (self.next_hop?, self.source_route?);
        let end = at + usize::from(header[at + 1]);
        let pointer = usize::from(header[at + 2]);
        let place = (at + pointer - 1..)
            .step_by(4)
            .take_while(|p| p + 4 <= end)
            .find(|p| address_at(header, *p) == next);
        if let Some(place) = place {
            header[16..20].copy_from_slice(&next.v4_bytes());
            header[place..place + 4].copy_from_slice(&address);
            header[at + 2] = (place - at + 5) as u8;
        }
        // Linux corrects a timestamp's address for source-routed packets alone.
        if let (Some(at), (true, _)) = (self.timestamp, self.stamped) {
            let written = at + usize::from(header[at + 2]) - 9;
            header[written..written + 4].copy_from_slice(&address);
        }
        place.map(|_| next)
    }
}

/// An option's pointer, if the option is long enough to have one and it isn't before the data.
fn check_pointer(option: &[u8], min_len: usize, first: u8) -> Result<usize, usize> {
    if option.len() < min_len {
        return Err(1);
    }
    if option[2] < first {
        return Err(2);
    }
    Ok(usize::from(option[2]))
}

/// `len` octets from a pointer on, which counts from one.
fn slot(option: &mut [u8], pointer: usize, len: usize) -> Option<&mut [u8]> {
    option.get_mut(pointer - 1..pointer - 1 + len)
}

fn address_at(bytes: &[u8], at: usize) -> Addr {
    Addr::from_v4_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

impl Engine {
    /// Compiles the options of a packet that has been routed. A packet whose options are wrong is
    /// answered with parameter problem (RFC 1122 section 3.2.2.5) and dropped.
    pub(crate) fn ip_options(
        &mut self,
        packet: &mut Packet<'_>,
        routed: Routed,
    ) -> Result<Routed, Drop> {
        let l4 = usize::from(packet.parsed.l4);
        let address = self.recorded_address(packet);
        let is_elsewhere = |addr: Addr| self.is_elsewhere(addr);
        let time = self.milliseconds_since_midnight();
        let place = Place { address, time, is_elsewhere: &is_elsewhere };
        let mut options = Box::<Options>::default();
        let result = options.compile(&mut packet.bytes_mut()[..l4], &place);
        let leads_on = options.has_source_route();
        packet.options = Some(options);
        match result {
            Err(pointer) => Err(self.bad_option(packet, pointer)),
            Ok(()) if leads_on => self.source_route(packet, routed),
            Ok(()) => Ok(routed),
        }
    }

    /// Follows a source route (`ip_options_rcv_srr`), where `accept_source_route` allows it on
    /// the interface and on all: a packet that has come to an address of the gateway's goes on to
    /// the next address that isn't.
    fn source_route(&mut self, packet: &mut Packet<'_>, routed: Routed) -> Result<Routed, Drop> {
        let input = packet.input.unwrap_or(LOOPBACK);
        if !self.policy.interface(input).accept_source_route
            || packet.link.is_some_and(|l| l.kind != LinkType::Unicast)
        {
            return Err(Drop::IpOptions);
        }
        let Some(at) = packet.options.as_deref().and_then(|o| o.source_route) else {
            return Ok(routed);
        };
        if matches!(routed, Routed::To(Destination::Onward(_))) {
            if packet.bytes()[at] == STRICT_SOURCE_ROUTE {
                // The pointer names the destination address.
                return Err(self.bad_option(packet, 16));
            }
            return Ok(routed);
        }
        if !self.routes.is_local(packet.parsed.dst) {
            return Err(Drop::IpOptions);
        }
        let end = at + usize::from(packet.bytes()[at + 1]);
        let mut place = at + usize::from(packet.bytes()[at + 2]) - 1;
        while place < end {
            if place + 4 > end {
                return Err(self.bad_option(packet, (at + 2) as u8));
            }
            let next = address_at(packet.bytes(), place);
            let routed = self.route_v4(packet, next, input).map_err(|_| Drop::IpOptions)?;
            match routed {
                Routed::To(Destination::Onward(_)) => {
                    if let Some(options) = packet.options.as_deref_mut() {
                        options.next_hop = Some(next);
                    }
                    return Ok(routed);
                }
                Routed::To(Destination::Local) if self.routes.is_local(next) => {
                    packet.bytes_mut()[16..20].copy_from_slice(&next.v4_bytes());
                    packet.parsed.dst = next;
                    place += 4;
                }
                _ => return Err(Drop::IpOptions),
            }
        }
        Ok(routed)
    }

    /// The address the packet was sent to, or for a packet to others that of the way back.
    fn recorded_address(&self, packet: &Packet<'_>) -> Addr {
        let (src, dst) = (packet.parsed.src, packet.parsed.dst);
        if self.routes.is_local(dst) {
            return dst;
        }
        let back = self.routes.lookup(src, packet.input).map(|f| f.target);
        let (egress, next) = match back {
            Some(Target::Unicast { egress, via }) => (egress, via.unwrap_or(src)),
            _ => (packet.input.unwrap_or(LOOPBACK), src),
        };
        self.source_for(egress, next).unwrap_or(dst)
    }

    /// Whether an address is an ordinary one, and not the gateway's (`inet_addr_type`).
    pub(crate) fn is_elsewhere(&self, addr: Addr) -> bool {
        let ours = matches!(
            self.routes.lookup(addr, None).map(|f| f.target),
            Some(Target::Local(_) | Target::Broadcast(_))
        );
        let unicast = !addr.is_multicast() && !addr.is_limited_broadcast();
        unicast && !ours && !addr.is_unspecified() && !addr.is_loopback()
    }

    fn bad_option(&mut self, packet: &Packet<'_>, pointer: u8) -> Drop {
        let rest = [pointer, 0, 0, 0];
        self.send_error(packet, Message { rest, ..Message::new(icmp::PARAMETER_PROBLEM, 0) });
        Drop::IpOptions
    }

    /// A strict source route doesn't lead through routers that it doesn't name (RFC 791).
    pub(crate) fn strict_route(&mut self, packet: &Packet<'_>, hop: Hop) -> Result<(), Drop> {
        let Some(options) = packet.options.as_deref() else { return Ok(()) };
        let wanted = options.next_hop.unwrap_or(packet.parsed.dst);
        if options.is_strict(packet.bytes()) && hop.next != wanted {
            let failed = icmp::unreachable::SOURCE_ROUTE_FAILED;
            self.send_error(packet, Message::new(icmp::DEST_UNREACHABLE, failed));
            return Err(Drop::IpOptions);
        }
        Ok(())
    }

    /// A forwarded packet's options get the gateway's address on the way out.
    pub(crate) fn forward_options(&self, packet: &mut Packet<'_>, hop: Hop) {
        let Some(options) = packet.options.take() else { return };
        let l4 = usize::from(packet.parsed.l4);
        let egress = self.source_for(hop.egress, hop.next).unwrap_or(packet.parsed.src);
        if let Some(dst) = options.forward(&mut packet.bytes_mut()[..l4], egress) {
            packet.parsed.dst = dst;
        }
        ipv4::write_checksum(packet.bytes_mut());
    }
}

#[cfg(test)]
mod tests;
