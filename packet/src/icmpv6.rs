//! ICMP for IPv6 (RFC 4443) with the types of neighbour discovery (RFC 4861) and MLD (RFC 3810).
#![allow(missing_docs)]

/// Header length common to all messages the gateway handles.
pub const HEADER_LEN: usize = 8;

pub const DEST_UNREACHABLE: u8 = 1;
pub const PACKET_TOO_BIG: u8 = 2;
pub const TIME_EXCEEDED: u8 = 3;
pub const PARAMETER_PROBLEM: u8 = 4;
pub const ECHO_REQUEST: u8 = 128;
pub const ECHO_REPLY: u8 = 129;
pub const MLD_QUERY: u8 = 130;
pub const MLD_REPORT: u8 = 131;
pub const MLD_DONE: u8 = 132;
pub const ROUTER_SOLICITATION: u8 = 133;
pub const ROUTER_ADVERTISEMENT: u8 = 134;
pub const NEIGHBOUR_SOLICITATION: u8 = 135;
pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
pub const REDIRECT: u8 = 137;
pub const NODE_INFO_QUERY: u8 = 139;
pub const NODE_INFO_REPLY: u8 = 140;
pub const MLD2_REPORT: u8 = 143;

/// Codes of destination unreachable.
pub mod unreachable {
    pub const NO_ROUTE: u8 = 0;
    pub const ADM_PROHIBITED: u8 = 1;
    pub const BEYOND_SCOPE: u8 = 2;
    pub const ADDRESS: u8 = 3;
    pub const PORT: u8 = 4;
    pub const POLICY_FAIL: u8 = 5;
    pub const REJECT_ROUTE: u8 = 6;
}

/// Whether a message of this type quotes a packet (RFC 4443 section 2.1: the high bit is clear).
#[inline]
pub const fn is_error(kind: u8) -> bool {
    kind < 128
}

/// The reply type of a query, or the query type of a reply, for those that conntrack follows.
pub const fn counterpart(kind: u8) -> Option<u8> {
    Some(match kind {
        ECHO_REQUEST => ECHO_REPLY,
        ECHO_REPLY => ECHO_REQUEST,
        NODE_INFO_QUERY => NODE_INFO_REPLY,
        NODE_INFO_REPLY => NODE_INFO_QUERY,
        _ => return None,
    })
}

/// Whether this type asks a question that conntrack may open a connection for.
pub const fn is_query(kind: u8) -> bool {
    matches!(kind, ECHO_REQUEST | NODE_INFO_QUERY)
}

/// Types that conntrack leaves alone (`UNTRACKED`): neighbour discovery but for redirects, router
/// discovery, MLD.
pub const fn is_untracked(kind: u8) -> bool {
    matches!(
        kind,
        MLD_QUERY
            | MLD_REPORT
            | MLD_DONE
            | ROUTER_SOLICITATION
            | ROUTER_ADVERTISEMENT
            | NEIGHBOUR_SOLICITATION
            | NEIGHBOUR_ADVERTISEMENT
            | MLD2_REPORT
    )
}
