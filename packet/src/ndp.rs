//! Neighbour solicitations and advertisements (RFC 4861 sections 4.3 and 4.4).

use crate::{Addr, MacAddr, builder, icmpv6, protocol};

/// A solicitation or an advertisement.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Ndp {
    /// Who has `target`?
    Solicitation {
        /// The address asked for.
        target: Addr,
        /// The asker's link address, absent while it probes for duplicates.
        source_mac: Option<MacAddr>,
    },
    /// `target` is here.
    Advertisement {
        /// The address spoken of.
        target: Addr,
        /// Its link address.
        target_mac: Option<MacAddr>,
        /// The sender routes.
        router: bool,
        /// It answers a solicitation.
        solicited: bool,
        /// It replaces what the hearer knew.
        overrides: bool,
    },
}

impl Ndp {
    /// Reads the ICMPv6 message. The caller has checked the hop limit (it must be 255) and the
    /// checksum. `None` if it is something else or damaged.
    pub fn parse(message: &[u8]) -> Option<Self> {
        if message.len() < 24 || message[1] != 0 {
            return None;
        }
        let mut target = [0; 16];
        target.copy_from_slice(&message[8..24]);
        let target = Addr::from_v6_bytes(target);
        // An IPv4 address of ours has the mapped form, too, and is ARP's business.
        if target.is_multicast() || target.is_v4() {
            return None;
        }
        let option = |kind| link_address(&message[24..], kind);
        match message[0] {
            icmpv6::NEIGHBOUR_SOLICITATION => {
                Some(Self::Solicitation { target, source_mac: option(1)? })
            }
            icmpv6::NEIGHBOUR_ADVERTISEMENT => Some(Self::Advertisement {
                target,
                target_mac: option(2)?,
                router: message[4] & 0x80 != 0,
                solicited: message[4] & 0x40 != 0,
                overrides: message[4] & 0x20 != 0,
            }),
            _ => None,
        }
    }

    /// The IPv6 packet with this message, hop limit 255.
    pub fn to_packet(&self, src: Addr, dst: Addr) -> Vec<u8> {
        let mut m = vec![0; 24];
        let option = match *self {
            Self::Solicitation { target, source_mac } => {
                m[0] = icmpv6::NEIGHBOUR_SOLICITATION;
                m[8..24].copy_from_slice(&target.octets());
                source_mac.map(|mac| (1, mac))
            }
            Self::Advertisement { target, target_mac, router, solicited, overrides } => {
                m[0] = icmpv6::NEIGHBOUR_ADVERTISEMENT;
                m[4] = u8::from(router) << 7 | u8::from(solicited) << 6 | u8::from(overrides) << 5;
                m[8..24].copy_from_slice(&target.octets());
                target_mac.map(|mac| (2, mac))
            }
        };
        if let Some((kind, mac)) = option {
            m.extend([kind, 1]);
            m.extend(mac.0);
        }
        let mut packet = builder::ip(
            builder::Ip { hop_limit: 255, ..builder::Ip::new(src, dst, protocol::ICMPV6) },
            &m,
        );
        builder::finish_transport(&mut packet);
        packet
    }
}

/// The link address in option `kind`: `Some(None)` if there is no such option, `None` if the
/// options are damaged (a zero length, RFC 4861 section 4.6).
fn link_address(mut options: &[u8], kind: u8) -> Option<Option<MacAddr>> {
    let mut found = None;
    while options.len() >= 2 {
        let len = usize::from(options[1]) * 8;
        if len == 0 || len > options.len() {
            return None;
        }
        if options[0] == kind && len == 8 {
            let mut mac = [0; 6];
            mac.copy_from_slice(&options[2..8]);
            found = found.or(Some(MacAddr(mac)));
        }
        options = &options[len..];
    }
    Some(found)
}

/// The solicited-node multicast group of an address (RFC 4291 section 2.7.1).
pub fn solicited_node(target: Addr) -> Addr {
    let t = target.octets();
    Addr::from_v6_bytes([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, t[13], t[14], t[15]])
}

/// The link-local address made from a link address (RFC 4291 appendix A).
pub fn link_local(mac: MacAddr) -> Addr {
    let m = mac.0;
    Addr::from_v6_bytes([
        0xfe,
        0x80,
        0,
        0,
        0,
        0,
        0,
        0,
        m[0] ^ 2,
        m[1],
        m[2],
        0xff,
        0xfe,
        m[3],
        m[4],
        m[5],
    ])
}
