//! Rewrites packets as their connection's tuples say.
//!
//! A packet that comes in as one direction's tuple leaves as the inverse of the other's. Which end
//! is changed at which hook depends on the direction: what was done to the source of the original
//! packets at POSTROUTING is undone at the destination of the replies at PREROUTING.

use tidegate_packet::checksum::{self, Field};
use tidegate_packet::{Parsed, Transport, icmp, icmpv6, protocol};

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

/// Rewrites both ends of a connection's packet whose transport header is complete. The destination
/// comes first, as on the way from PREROUTING to POSTROUTING.
#[inline]
pub(crate) fn both_ends(
    conn: &Connection,
    direction: Direction,
    packet: &Parsed,
    bytes: &mut [u8],
    field: Field,
) {
    let Some(target) = conn.tuple(direction.other()).inverse() else { return };
    let place = place_of(packet, bytes, field);
    for manip in [Manip::Destination, Manip::Source] {
        if changes(conn, direction, manip) {
            // It fails for headers that are cut short.
            let _ = rewrite(bytes, place, manip, &target);
        }
    }
}

/// Whether this end of a packet of this direction is changed.
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
            let mut delta = checksum::Delta::default();
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
