//! What must hold for every frame that leaves the gateway.

use tidegate::io::channel::Flying;
use tidegate::io::{Checksum, GsoKind};
use tidegate_packet::arp::Arp;
use tidegate_packet::{Parsed, Transport, checksum, ethernet, protocol};

/// A frame that can't be told from what a kernel sends: it decodes, its lengths and its IPv4
/// header checksum are right. Gives the packet, unless it is ARP.
pub fn decodes(flying: &Flying) -> Result<Option<(Parsed, Vec<u8>)>, String> {
    let bytes = &flying.bytes;
    let header = ethernet::Header::parse(bytes).ok_or("a runt")?;
    if header.src.is_group() {
        return Err(format!("sent from the group {}", header.src));
    }
    let payload = &bytes[header.len..];
    match header.ethertype {
        ethernet::ARP => Arp::parse(payload).map(|_| None).ok_or("bad ARP".into()),
        ethernet::IPV4 | ethernet::IPV6 => {
            let parsed = Parsed::parse(payload).map_err(|e| e.to_string())?;
            if parsed.src.is_v4() != (header.ethertype == ethernet::IPV4) {
                return Err("the EtherType of the other family".into());
            }
            if parsed.len as usize != payload.len() {
                return Err(format!("length {} in a frame with {}", parsed.len, payload.len()));
            }
            offload_fits(flying, header.len, &parsed)?;
            Ok(Some((parsed, payload.to_vec())))
        }
        other => Err(format!("EtherType {other:04x}")),
    }
}

/// What the egress device is told fits the frame.
fn offload_fits(flying: &Flying, l3: usize, parsed: &Parsed) -> Result<(), String> {
    if let Checksum::Partial { start, offset } = flying.offload.checksum {
        let field = match parsed.transport {
            Transport::Tcp { .. } => 16,
            Transport::Udp { .. } => 6,
            Transport::Icmpv6 { .. } => 2,
            Transport::Ports { .. } => 8,
            _ => return Err(format!("partial checksum in {:?}", parsed.transport)),
        };
        if usize::from(start) != l3 + usize::from(parsed.l4) || offset != field {
            return Err(format!("checksum at {start}+{offset}, header at {l3}+{}", parsed.l4));
        }
    }
    let Some(gso) = flying.offload.gso else { return Ok(()) };
    let fits = match (gso.kind, parsed.transport) {
        (GsoKind::Tcp4, Transport::Tcp { .. }) => parsed.src.is_v4(),
        (GsoKind::Tcp6, Transport::Tcp { .. }) => !parsed.src.is_v4(),
        (GsoKind::UdpL4, Transport::Udp { .. }) => true,
        _ => false,
    };
    let right = fits && gso.size > 0 && parsed.fragment.is_none();
    if right { Ok(()) } else { Err(format!("{gso:?} of {parsed:?}")) }
}

/// Whether the transport checksum is right, once the device has finished it where it is to.
/// Fragments, protocols without a checksum and what doesn't decode are taken for right.
pub fn transport_is_right(flying: &Flying) -> bool {
    let Some(header) = ethernet::Header::parse(&flying.bytes) else { return true };
    let mut packet = flying.bytes[header.len..].to_vec();
    let Ok(parsed) = Parsed::parse(&packet) else { return true };
    packet.truncate(parsed.len as usize);
    if parsed.fragment.is_some_and(|f| f.more || f.offset != 0) {
        return true;
    }
    let l4 = usize::from(parsed.l4);
    if let Checksum::Partial { offset, .. } = flying.offload.checksum {
        if offload_fits(flying, header.len, &parsed).is_err() {
            return false;
        }
        if matches!(parsed.transport, Transport::Ports { .. }) {
            return true;
        }
        checksum::complete_partial(&mut packet, l4, usize::from(offset));
    }
    let segment = &packet[l4..];
    match parsed.transport {
        Transport::Udp { .. } if parsed.protocol == protocol::UDPLITE => true,
        Transport::Udp { .. } if parsed.src.is_v4() && segment[6..8] == [0, 0] => true,
        Transport::Udp { .. } | Transport::Tcp { .. } | Transport::Icmpv6 { .. } => {
            checksum::verify_transport(parsed.src, parsed.dst, parsed.protocol, segment)
        }
        Transport::Icmp { .. } => checksum::of(segment) == 0,
        _ => true,
    }
}
