//! Protocols that are told apart by addresses, or by ports without states.
//!
//! SCTP is followed by its ports alone for now: an association is answered or it isn't; its
//! chunks, states and verification tags aren't looked at.

use tidegate_packet::{Instant, protocol};

use crate::conn::{Connection, Status};
use crate::settings::Settings;

/// Prolongs the connection; GRE and SCTP become assured when both sides have spoken.
pub(crate) fn packet(conn: &mut Connection, settings: &Settings, now: Instant) {
    let answered = conn.status.has(Status::SEEN_REPLY);
    let timeout = match (conn.tuples[0].protocol, answered) {
        (protocol::GRE, false) => settings.gre,
        (protocol::GRE, true) => settings.gre_stream,
        (protocol::SCTP, false) => settings.sctp_closed,
        (protocol::SCTP, true) => settings.sctp_established,
        _ => settings.generic,
    };
    conn.refresh(timeout, now);
    if answered && matches!(conn.tuples[0].protocol, protocol::GRE | protocol::SCTP) {
        conn.status.set(Status::ASSURED);
    }
}
