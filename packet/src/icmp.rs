//! ICMP for IPv4 (RFC 792 and successors).
#![allow(missing_docs)]

/// Header length common to all messages the gateway handles.
pub const HEADER_LEN: usize = 8;

pub const ECHO_REPLY: u8 = 0;
pub const DEST_UNREACHABLE: u8 = 3;
pub const SOURCE_QUENCH: u8 = 4;
pub const REDIRECT: u8 = 5;
pub const ECHO_REQUEST: u8 = 8;
pub const ROUTER_ADVERTISEMENT: u8 = 9;
pub const ROUTER_SOLICITATION: u8 = 10;
pub const TIME_EXCEEDED: u8 = 11;
pub const PARAMETER_PROBLEM: u8 = 12;
pub const TIMESTAMP_REQUEST: u8 = 13;
pub const TIMESTAMP_REPLY: u8 = 14;
pub const INFO_REQUEST: u8 = 15;
pub const INFO_REPLY: u8 = 16;
pub const ADDRESS_REQUEST: u8 = 17;
pub const ADDRESS_REPLY: u8 = 18;
/// The highest type that Linux's ICMP knows (`NR_ICMP_TYPES`).
pub const MAX_KNOWN: u8 = 18;

/// Codes of destination unreachable.
pub mod unreachable {
    pub const NET: u8 = 0;
    pub const HOST: u8 = 1;
    pub const PROTOCOL: u8 = 2;
    pub const PORT: u8 = 3;
    pub const FRAG_NEEDED: u8 = 4;
    pub const SOURCE_ROUTE_FAILED: u8 = 5;
    pub const NET_PROHIBITED: u8 = 9;
    pub const HOST_PROHIBITED: u8 = 10;
    pub const ADMIN_PROHIBITED: u8 = 13;
}

/// Whether a message of this type quotes a packet (RFC 1122 section 3.2.2).
#[inline]
pub const fn is_error(kind: u8) -> bool {
    matches!(kind, DEST_UNREACHABLE | SOURCE_QUENCH | REDIRECT | TIME_EXCEEDED | PARAMETER_PROBLEM)
}

/// The reply type of a query, or the query type of a reply.
pub const fn counterpart(kind: u8) -> Option<u8> {
    Some(match kind {
        ECHO_REPLY => ECHO_REQUEST,
        ECHO_REQUEST => ECHO_REPLY,
        TIMESTAMP_REQUEST => TIMESTAMP_REPLY,
        TIMESTAMP_REPLY => TIMESTAMP_REQUEST,
        INFO_REQUEST => INFO_REPLY,
        INFO_REPLY => INFO_REQUEST,
        ADDRESS_REQUEST => ADDRESS_REPLY,
        ADDRESS_REPLY => ADDRESS_REQUEST,
        _ => return None,
    })
}

/// Whether this type asks a question that conntrack may open a connection for.
pub const fn is_query(kind: u8) -> bool {
    matches!(kind, ECHO_REQUEST | TIMESTAMP_REQUEST | INFO_REQUEST | ADDRESS_REQUEST)
}
