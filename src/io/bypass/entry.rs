//! What a flow looks like in the maps.

use super::layout::{Key, Last, Peer, Rewrite, State, Way, kind};
use super::{Flow, Way as Direction};
use tidegate_nat::Tuple;
use tidegate_nat::lease::{PeerWindow, Windows};
use tidegate_packet::{Addr, Family, protocol};

/// IPv4 in the first four, the rest zero.
fn address(addr: Addr) -> [u8; 16] {
    let mut bytes = [0; 16];
    let wire = addr.wire();
    bytes[..wire.len()].copy_from_slice(wire);
    bytes
}

fn ports(tuple: &Tuple) -> [u8; 4] {
    let [[a, b], [c, d]] = [tuple.sport, tuple.dport].map(u16::to_be_bytes);
    [a, b, c, d]
}

const fn version(family: Family) -> u8 {
    match family {
        Family::V4 => 4,
        Family::V6 => 6,
    }
}

/// Whether it is one that the programs know: of one family, and TCP with windows or UDP without.
pub(super) fn is_possible(flow: &Flow) -> bool {
    let mut ways = flow.ways.iter().flatten();
    let Some(protocol) = ways.clone().next().map(|way| way.tuple.protocol) else { return false };
    let of_family = |tuple: &Tuple| {
        let v4 = flow.family == Family::V4;
        tuple.protocol == protocol && tuple.src.is_v4() == v4 && tuple.dst.is_v4() == v4
    };
    let protocol_known = match protocol {
        protocol::TCP => flow.windows.is_some(),
        protocol::UDP => flow.windows.is_none(),
        _ => false,
    };
    protocol_known && ways.all(|way| of_family(&way.tuple) && of_family(&way.rewritten))
}

pub(super) fn key(flow: &Flow, way: &Direction) -> Key {
    Key {
        interface: way.input,
        kind: kind(version(flow.family), way.tuple.protocol) as u32,
        src: address(way.tuple.src),
        dst: address(way.tuple.dst),
        ports: ports(&way.tuple),
    }
}

/// What replacing bytes by others (both even in number) changes in a ones' complement sum (RFC 1624,
/// equation 3), in the machine's order; words that stay change nothing.
fn diff(old: &[u8], new: &[u8]) -> u32 {
    let word = |bytes: &[u8]| u16::from_ne_bytes([bytes[0], bytes[1]]);
    let words = old.chunks_exact(2).zip(new.chunks_exact(2));
    words
        .map(|(old, new)| (word(old), word(new)))
        .filter(|(old, new)| old != new)
        .map(|(old, new)| u32::from(new) + u32::from(!old))
        .sum()
}

fn fold(sum: u32) -> u32 {
    let sum = (sum >> 16) + (sum & 0xffff);
    (sum >> 16) + (sum & 0xffff)
}

fn rewrite(flow: &Flow, way: &Direction) -> Rewrite {
    let old = key(flow, way);
    let (src, dst) = (address(way.rewritten.src), address(way.rewritten.dst));
    let ports = ports(&way.rewritten);
    let mut link = [0; 16];
    link[..way.header.len()].copy_from_slice(&way.header);
    let address_diff = diff(&old.src, &src) + diff(&old.dst, &dst);
    // TTL and protocol are a word of the IPv4 header; next header and hop limit one of IPv6's.
    let (ttl, hop_limit) = (diff(&[1, 0], &[0, 0]), diff(&[0, 1], &[0, 0]));
    // IPv4's header has a checksum of its own, which makes up for all that changes there, and the
    // kernel's helper that mends a pseudo-header takes that for granted.
    let complete = address_diff + hop_limit;
    Rewrite {
        egress: way.egress,
        complete,
        link,
        src,
        dst,
        ports,
        header_diff: fold(address_diff + ttl),
        address_diff,
        port_diff: diff(&old.ports, &ports),
        kind: old.kind,
        unused: 0,
    }
}

/// A slot's state before the first packet. `until` is on the kernel's clock.
pub(super) fn state(flow: &Flow, until: u64) -> State {
    let ways = flow.ways.each_ref().map(|way| {
        // No packet has a key of zeros.
        let Some(way) = way else { return Way::default() };
        let mut to = [0; 8];
        to[2..].copy_from_slice(&way.to.0);
        let (key, rewrite) = (key(flow, way), rewrite(flow, way));
        Way { key, mtu: way.mtu, to, packets: 0, bytes: 0, frames: 0, rewrite }
    });
    let mut state = State {
        verify: flow.checksum.into(),
        generation: flow.generation,
        until,
        ways,
        ..State::default()
    };
    set_windows(&mut state, &flow.windows.unwrap_or_default());
    state
}

pub(super) fn set_windows(state: &mut State, windows: &Windows) {
    let Windows { peers, seq, ack, end, window, direction, retransmissions } = *windows;
    state.peers = peers.map(Peer::from);
    state.last = Last { seq, ack, end, window, direction, retransmissions };
}

/// The windows of a slot, if it is TCP's.
pub(super) fn windows(state: &State) -> Option<Windows> {
    let tcp = state.ways.iter().any(|way| way.key.kind & 0xff == u32::from(protocol::TCP));
    let Last { seq, ack, end, window, direction, retransmissions } = state.last;
    let peers = state.peers.map(PeerWindow::from);
    tcp.then_some(Windows { peers, seq, ack, end, window, direction, retransmissions })
}
