//! Rewrites packets as their connection's tuples say.
//!
//! A packet that comes in as one direction's tuple leaves as the inverse of the other's. Which end
//! is changed at which hook depends on the direction: what was done to the source of the original
//! packets at POSTROUTING is undone at the destination of the replies at PREROUTING.

use tidegate_packet::checksum::{self, Delta, Field};
use tidegate_packet::{Parsed, Plain, Transport, icmp, icmpv6, ipv4, protocol, tcp};

use crate::conn::{Connection, Direction, Status};
use crate::icmp_error;
use crate::rewrite::{self, Place, Truncated, rewrite};
use crate::table::Conntrack;
use crate::tracked::{Role, Tracked};
use crate::{Manip, Tuple};

/// Why a packet can't be translated and must be dropped. Each is a drop reason.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum TranslateError {
    /// A transport header cut short.
    #[error("transport header too short to translate")]
    Truncated,
    /// The quote of an ICMP error is damaged.
    #[error("quoted packet can't be translated")]
    Quote,
    /// The checksum of an ICMP error is wrong, and a new one would hide it.
    #[error("ICMP error with a bad checksum")]
    Checksum,
    /// A redirect would tell one side of a translated connection about the other's network.
    #[error("ICMP redirect about a translated connection")]
    Redirect,
}

impl From<Truncated> for TranslateError {
    fn from(_: Truncated) -> Self {
        Self::Truncated
    }
}

impl Conntrack {
    /// Rewrites a packet at a hook: [`Manip::Destination`] at PREROUTING and OUTPUT,
    /// [`Manip::Source`] at POSTROUTING and INPUT. All checksums are mended, those of a quoted
    /// packet included, and `packet` is kept in step. `field` says what the transport checksum
    /// field holds. A packet whose connection isn't translated is left alone.
    #[inline]
    pub fn translate(
        &self,
        tracked: &Tracked,
        manip: Manip,
        packet: &mut Parsed,
        bytes: &mut [u8],
        field: Field,
    ) -> Result<(), TranslateError> {
        let Some(conn) = self.view(tracked) else { return Ok(()) };
        if !conn.is_translated() {
            return Ok(());
        }
        let direction = tracked.direction;
        let about = match tracked.role {
            Role::Member => false,
            Role::Error => true,
            Role::Answer => packet.is_icmp_error(),
        };
        if about && is_redirect(packet) {
            return Err(TranslateError::Redirect);
        }
        if !changes(conn, direction, manip) {
            return Ok(());
        }
        // Without a counterpart it would never have become a connection.
        let Some(target) = conn.tuple(direction.other()).inverse() else { return Ok(()) };
        if about {
            translate_error(conn, direction, manip, packet, bytes, field)
        } else {
            let place = place_of(packet, bytes, field);
            rewrite(bytes, place, manip, &target)?;
            keep_in_step(packet, manip, &target);
            Ok(())
        }
    }
}

/// Sends a packet on: both ends are rewritten, the TTL or hop limit is one less, and each checksum is
/// mended once for all of that. Sums of changes don't depend on the order of the changes, so it is the
/// same as [`Conntrack::translate`] at both hooks and the hop between them.
#[inline(always)]
pub(crate) fn pass_on<const V6: bool>(
    conn: &Connection,
    direction: Direction,
    plain: &Plain<V6>,
    packet: &mut [u8],
    field: Field,
) {
    let (addresses, ports) = match conn.is_translated() {
        false => (Delta::default(), Delta::default()),
        true if V6 => rewrite_v6(conn, direction, *plain, packet),
        true => rewrite_v4(conn, direction, plain, packet),
    };
    if V6 {
        packet[7] -= 1;
    } else {
        ipv4::hop(packet, addresses);
    }
    let changes = rewrite::covered(field, addresses, ports);
    if changes.is_zero() {
        return;
    }
    let segment = &mut packet[Plain::<V6>::L4..];
    match plain.is_tcp() {
        true => changes.update(segment, tcp::CHECKSUM_AT, field),
        false => rewrite::update_udp(segment, field, changes, true),
    }
}

/// Writes IPv4 addresses and ports as they leave, and says what that changes.
#[inline(always)]
fn rewrite_v4<const V6: bool>(
    conn: &Connection,
    direction: Direction,
    plain: &Plain<V6>,
    packet: &mut [u8],
) -> (Delta, Delta) {
    let (mut addresses, mut ports) = (Delta::default(), Delta::default());
    let Some(header) = packet.first_chunk_mut::<{ ipv4::MIN_HEADER_LEN + 4 }>() else {
        return (addresses, ports);
    };
    // It leaves as the inverse of the other direction's.
    let ([other_src, other_dst], [other_sport, other_dport]) = conn.v4_ends(direction.other());
    let [old_src, old_dst] = plain.v4;
    let (src, sport) = match changes(conn, direction, Manip::Source) {
        true => (other_dst, other_dport),
        false => (old_src, plain.sport),
    };
    let (dst, dport) = match changes(conn, direction, Manip::Destination) {
        true => (other_src, other_sport),
        false => (old_dst, plain.dport),
    };
    if src != old_src || dst != old_dst {
        addresses.replace32(old_src, src);
        addresses.replace32(old_dst, dst);
        header[12..16].copy_from_slice(&src.to_be_bytes());
        header[16..20].copy_from_slice(&dst.to_be_bytes());
    }
    if sport != plain.sport || dport != plain.dport {
        ports.replace16(plain.sport, sport);
        ports.replace16(plain.dport, dport);
        header[20..22].copy_from_slice(&sport.to_be_bytes());
        header[22..24].copy_from_slice(&dport.to_be_bytes());
    }
    (addresses, ports)
}

/// The same for IPv6.
fn rewrite_v6<const V6: bool>(
    conn: &Connection,
    direction: Direction,
    plain: Plain<V6>,
    packet: &mut [u8],
) -> (Delta, Delta) {
    let (mut addresses, mut ports) = (Delta::default(), Delta::default());
    let other = conn.tuple(direction.other());
    let [old_src, old_dst] = plain.addrs(packet);
    let ends = [
        (Manip::Source, 8, old_src, other.dst, 40, plain.sport, other.dport),
        (Manip::Destination, 24, old_dst, other.src, 42, plain.dport, other.sport),
    ];
    for (manip, at, old, new, port_at, old_port, new_port) in ends {
        if !changes(conn, direction, manip) {
            continue;
        }
        if old != new {
            addresses.replace_addr(old, new);
            packet[at..at + 16].copy_from_slice(&new.octets());
        }
        if old_port != new_port {
            ports.replace16(old_port, new_port);
            packet[port_at..port_at + 2].copy_from_slice(&new_port.to_be_bytes());
        }
    }
    (addresses, ports)
}

/// Whether this end of a packet of this direction is changed.
#[inline(always)]
fn changes(conn: &Connection, direction: Direction, manip: Manip) -> bool {
    let source = (manip == Manip::Source) == (direction == Direction::Original);
    conn.status().has(if source { Status::SNAT } else { Status::DNAT })
}

fn is_redirect(packet: &Parsed) -> bool {
    matches!(
        packet.transport,
        Transport::Icmp { kind: icmp::REDIRECT, .. }
            | Transport::Icmpv6 { kind: icmpv6::REDIRECT, .. }
    )
}

fn place_of(packet: &Parsed, bytes: &[u8], field: Field) -> Place {
    Place {
        ip: 0,
        l4: usize::from(packet.l4),
        end: bytes.len().min(packet.len as usize),
        protocol: packet.protocol,
        v4: packet.src.is_v4(),
        field,
        cut: packet.fragment.is_some(),
    }
}

/// The quoted packet went the other way: its other end is changed back to what its sender sent,
/// then the error itself is changed like any packet of its direction, but for ports.
fn translate_error(
    conn: &Connection,
    direction: Direction,
    manip: Manip,
    packet: &mut Parsed,
    bytes: &mut [u8],
    field: Field,
) -> Result<(), TranslateError> {
    let quote = icmp_error::quote(packet, bytes).ok_or(TranslateError::Quote)?;
    let place = place_of(packet, bytes, field);
    if field == Field::Complete {
        let segment = packet.segment(bytes);
        let right = match place.v4 {
            true => checksum::of(segment) == 0,
            false => checksum::verify_transport(packet.src, packet.dst, protocol::ICMPV6, segment),
        };
        if !right {
            return Err(TranslateError::Checksum);
        }
    }
    let as_sent = conn.tuple(direction.other());
    let other_end = match manip {
        Manip::Source => Manip::Destination,
        Manip::Destination => Manip::Source,
    };
    rewrite(bytes, quote, other_end, &as_sent).map_err(|_| TranslateError::Quote)?;
    let Some(target) = as_sent.inverse() else { return Ok(()) };
    let plain = Place { protocol: protocol::NO_NEXT, ..place };
    let old = (packet.src, packet.dst);
    rewrite(bytes, plain, manip, &target)?;
    match manip {
        Manip::Source => packet.src = target.src,
        Manip::Destination => packet.dst = target.dst,
    }
    match field {
        Field::Complete => rewrite::refresh_icmp(bytes, place, packet.src, packet.dst),
        // The device sums up the quote; only the pseudo-header is in the field.
        Field::Partial => {
            let mut delta = Delta::default();
            delta.replace_addr(old.0, packet.src);
            delta.replace_addr(old.1, packet.dst);
            if !place.v4 {
                delta.update(bytes, place.l4 + 2, Field::Partial);
            }
        }
    }
    Ok(())
}

fn keep_in_step(packet: &mut Parsed, manip: Manip, target: &Tuple) {
    match manip {
        Manip::Source => packet.src = target.src,
        Manip::Destination => packet.dst = target.dst,
    }
    match (&mut packet.transport, manip) {
        (
            Transport::Tcp { sport: port, .. }
            | Transport::Udp { sport: port, .. }
            | Transport::Ports { sport: port, .. },
            Manip::Source,
        ) if packet.protocol != protocol::DCCP => *port = target.sport,
        (
            Transport::Tcp { dport: port, .. }
            | Transport::Udp { dport: port, .. }
            | Transport::Ports { dport: port, .. },
            Manip::Destination,
        ) if packet.protocol != protocol::DCCP => *port = target.dport,
        (Transport::Icmp { id, .. } | Transport::Icmpv6 { id, .. }, _) => *id = target.sport,
        _ => {}
    }
}
