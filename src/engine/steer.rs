//! Which worker a frame is for, read from the frame and from what the receiving worker knows.
//!
//! TCP and UDP flows go to the worker whose shard they live in, so that their packets have their
//! short way there. A worker knows the flows of its own shard; of others it knows their home
//! ([`tidegate_nat::home`]), and in its own home there are signs to those that live elsewhere
//! ([`tidegate_nat::Signs`]). All of that depends on the flow alone and changes only when its connection
//! begins or ends, so the packets of a flow stay in order. `src/io/fanout.rs` has the kernel choose the
//! home at once where it can.
//!
//! Everything else (fragments, errors, other protocols, ARP, tags) stays with the worker that received
//! it: it takes the long way, which finds every connection wherever it is.

use super::PortId;
use crate::io::Frame;
use tidegate_nat::{Conntrack, Signs, Tuple, home};
use tidegate_packet::{Addr, Instant, ethernet, protocol};

/// To whom a frame has to be handed over.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Onward {
    /// The worker's shard.
    pub shard: usize,
    /// That is where it stays. Else it is only the flow's home, which may have a sign.
    pub last: bool,
}

/// What steering depends on besides the frame.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Steering {
    /// Secret of [`home`].
    pub key: u32,
    /// How many shards there are.
    pub shards: usize,
    /// Frames of the host's device have no link header.
    pub host_port: Option<PortId>,
}

impl Steering {
    /// Where a frame has to go from the worker of a shard. `None`: it is right there.
    pub fn onward(
        &self,
        own: usize,
        (conntrack, signs): (&Conntrack, &Signs),
        port: PortId,
        frame: &Frame<'_>,
        now: Instant,
    ) -> Option<Onward> {
        if self.shards < 2 || self.host_port == Some(port) || frame.meta.vlan.is_some() {
            return None;
        }
        let flow = flow(frame.bytes())?;
        if conntrack.known(&flow, now).is_some() {
            return None;
        }
        if let Some(shard) = conntrack.signed(signs, &flow) {
            let shard = usize::from(shard);
            return (shard != own).then_some(Onward { shard, last: true });
        }
        let shard = home(self.key, self.shards, &flow);
        (shard != own).then_some(Onward { shard, last: false })
    }
}

/// The tuple of a frame that is TCP or UDP over IPv4 or IPv6: no fragment, no extension header.
pub fn flow(frame: &[u8]) -> Option<Tuple> {
    let packet = frame.get(ethernet::HEADER_LEN..)?;
    let (header, addrs, protocol) = match u16::from_be_bytes([frame[12], frame[13]]) {
        ethernet::IPV4 => {
            let &[first, _, _, _, _, _, high, low, _, protocol, ..] = packet else { return None };
            if u16::from_be_bytes([high, low]) & 0x3fff != 0 {
                return None;
            }
            (usize::from(first & 15) * 4, packet.get(12..20)?, protocol)
        }
        ethernet::IPV6 => (40, packet.get(8..40)?, packet[6]),
        _ => return None,
    };
    if !matches!(protocol, protocol::TCP | protocol::UDP) {
        return None;
    }
    let &[s0, s1, d0, d1, ..] = packet.get(header..)? else { return None };
    let (src, dst) = addrs.split_at(addrs.len() / 2);
    let [src, dst] = [addr(src)?, addr(dst)?];
    let (sport, dport) = (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]));
    Some(Tuple { src, dst, sport, dport, protocol })
}

fn addr(bytes: &[u8]) -> Option<Addr> {
    match <[u8; 4]>::try_from(bytes) {
        Ok(v4) => Some(Addr::from_v4_bytes(v4)),
        Err(_) => Some(Addr::from_v6_bytes(bytes.try_into().ok()?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_packet::builder::{self, Ip};

    fn frame(ethertype: u16, packet: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend(ethertype.to_be_bytes());
        frame.extend(packet);
        frame
    }

    #[test]
    fn flows_are_read() {
        let ends = |a: &str, b: &str| [a, b].map(|a| a.parse::<Addr>().unwrap());
        for (ethertype, [src, dst]) in [
            (ethernet::IPV4, ends("192.0.2.1", "198.51.100.2")),
            (ethernet::IPV6, ends("2001:db8::1", "2001:db8::2")),
        ] {
            let ip = Ip::new(src, dst, protocol::UDP);
            let whole = frame(ethertype, &builder::udp(ip, 1000, 53, b"x"));
            let want = Tuple { src, dst, sport: 1000, dport: 53, protocol: protocol::UDP };
            assert_eq!(flow(&whole), Some(want));
            // Cut short anywhere before the ports' end there is none.
            let header = if src.is_v4() { 20 } else { 40 };
            for len in 0..14 + header + 4 {
                assert_eq!(flow(&whole[..len]), None, "{len}");
            }
            assert_eq!(flow(&frame(ethernet::ARP, &whole[14..])), None);
        }
        let [src, dst] = ends("192.0.2.1", "198.51.100.2");
        let ip = Ip::new(src, dst, protocol::UDP);
        let mut piece = frame(ethernet::IPV4, &builder::udp(ip, 1000, 53, b"x"));
        piece[14 + 6] = 0x20;
        assert_eq!(flow(&piece), None);
    }
}
