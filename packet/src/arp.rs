//! ARP for Ethernet and IPv4 (RFC 826).

use crate::{Addr, MacAddr, be16, ethernet};

/// Length of the ARP message.
pub const LEN: usize = 28;

/// What an ARP message asks or tells.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Who has the target address?
    Request,
    /// The sender has it.
    Reply,
}

/// An ARP message.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Arp {
    /// Request or reply.
    pub operation: Operation,
    /// The sender's link address.
    pub sender_mac: MacAddr,
    /// The sender's IPv4 address; unspecified in a probe (RFC 5227).
    pub sender: Addr,
    /// The target's link address; zero in a request.
    pub target_mac: MacAddr,
    /// The target's IPv4 address.
    pub target: Addr,
}

impl Arp {
    /// Reads the message behind the link header; `None` unless it is a request or a reply for
    /// Ethernet and IPv4.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < LEN
            || be16(bytes, 0) != 1
            || be16(bytes, 2) != ethernet::IPV4
            || bytes[4] != 6
            || bytes[5] != 4
        {
            return None;
        }
        let mac = |at: usize| {
            let mut m = [0; 6];
            m.copy_from_slice(&bytes[at..at + 6]);
            MacAddr(m)
        };
        let addr = |at: usize| {
            Addr::from_v4_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        Some(Self {
            operation: match be16(bytes, 6) {
                1 => Operation::Request,
                2 => Operation::Reply,
                _ => return None,
            },
            sender_mac: mac(8),
            sender: addr(14),
            target_mac: mac(18),
            target: addr(24),
        })
    }

    /// The whole frame, sent from `sender_mac` to `dst`.
    pub fn to_frame(&self, dst: MacAddr) -> Vec<u8> {
        let mut f = vec![0; ethernet::HEADER_LEN + LEN];
        ethernet::write(&mut f, dst, self.sender_mac, ethernet::ARP);
        let b = &mut f[ethernet::HEADER_LEN..];
        b[..6].copy_from_slice(&[0, 1, 8, 0, 6, 4]);
        b[7] = match self.operation {
            Operation::Request => 1,
            Operation::Reply => 2,
        };
        b[8..14].copy_from_slice(&self.sender_mac.0);
        b[14..18].copy_from_slice(&self.sender.v4_bytes());
        b[18..24].copy_from_slice(&self.target_mac.0);
        b[24..28].copy_from_slice(&self.target.v4_bytes());
        f
    }
}
