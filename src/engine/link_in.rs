//! The link layer on the way in: Ethernet, VLAN tags, bridges; then ARP or IP.

use super::counters::Drop;
use super::interface::{InterfaceId, Kind, PortId};
use super::packet::{OwnedFrame, Packet};
use super::short::End;
use super::{Engine, Fate};
use crate::io::Frame;
use std::collections::HashMap;
use std::time::Duration;
use tidegate_filter::{Link, LinkType};
use tidegate_packet::{Instant, MacAddr, ethernet, protocol, udp};

/// How long a bridge remembers where a station is (IEEE 802.1D: ageing time).
const AGEING: Duration = Duration::from_secs(300);
/// Stations that are remembered at most, of all bridges together.
const MAX_STATIONS: usize = 65_536;
/// While there are that many, how often those that are too old are looked for.
const SWEEP: Duration = Duration::from_secs(1);
/// DHCP answers that wait for the client at most, and how long each may be: a flood of them must
/// not become a flood of memory.
const MAX_DHCP_FRAMES: usize = 64;
const MAX_DHCP_FRAME: usize = 1514;

/// Where a bridge's stations are.
#[derive(Debug, Default)]
pub struct Stations {
    /// To be told when a station has moved.
    moved: End,
    ports: HashMap<(InterfaceId, MacAddr), (PortId, Instant), foldhash::fast::RandomState>,
    swept: Instant,
}

impl Stations {
    /// None yet.
    pub fn new(moved: End) -> Self {
        Self { moved, ..Self::default() }
    }

    fn learn(&mut self, bridge: InterfaceId, mac: MacAddr, port: PortId, now: Instant) {
        if self.ports.len() >= MAX_STATIONS && !self.ports.contains_key(&(bridge, mac)) {
            if now - self.swept >= SWEEP {
                self.swept = now;
                self.ports.retain(|_, (_, seen)| now - *seen < AGEING);
            }
            if self.ports.len() >= MAX_STATIONS {
                return;
            }
        }
        let before = self.ports.insert((bridge, mac), (port, now));
        if before.is_some_and(|(before, _)| before != port) {
            self.moved.end();
        }
    }

    /// Until when a station's port is remembered if nothing more is heard of it.
    pub fn known_until(&self, bridge: InterfaceId, mac: MacAddr) -> Option<Instant> {
        let (_, seen) = self.ports.get(&(bridge, mac))?;
        Some(*seen + (AGEING - Duration::from_nanos(1)))
    }

    /// The port behind which a station was seen lately.
    pub fn find(&self, bridge: InterfaceId, mac: MacAddr, now: Instant) -> Option<PortId> {
        let (port, seen) = self.ports.get(&(bridge, mac))?;
        (now - *seen < AGEING).then_some(*port)
    }
}

impl Engine {
    /// From a frame to a packet: what isn't IP for the gateway is dealt with here.
    pub(crate) fn link_in(&mut self, port: PortId, mut frame: Frame<'_>) -> Result<Fate, Drop> {
        let header = ethernet::Header::parse(frame.bytes()).ok_or(Drop::LinkRunt)?;
        super::offload::check_frame(&frame)?;
        let interface = self.interfaces.of_port(port);
        if self.interfaces.get(interface).kind == Kind::Bridge
            && let Some(fate) = self.switch(port, interface, &header, &mut frame)?
        {
            return Ok(fate);
        }
        // A tag with VLAN id 0 carries a priority only (IEEE 802.1Q section 9.6). What stands
        // behind it is the frame itself, so a second tag is a VLAN whatever the first says.
        let tag = frame.meta.vlan.map(|(_, tci)| tci).or(header.vlan);
        let tags = (header.len - ethernet::HEADER_LEN) / ethernet::VLAN_LEN
            + usize::from(frame.meta.vlan.is_some());
        if tags > 1 || tag.is_some_and(|tci| tci & 0x0fff != 0) {
            return Err(Drop::LinkVlan);
        }
        let kind =
            link_type(header.dst, self.interfaces.get(interface).mac).ok_or(Drop::LinkOtherHost)?;
        let l3 = frame.meta.start + header.len;
        match header.ethertype {
            ethernet::ARP => {
                let message = frame.slot[l3..frame.meta.end].to_vec();
                self.arp_in(port, interface, &message)
            }
            ethernet::IPV4 | ethernet::IPV6 => {
                let parsed = super::packet::read_headers(&mut frame, l3)?;
                if super::packet::ethertype(&parsed) != header.ethertype {
                    return Err(Drop::IpVersion);
                }
                let mut packet = Packet {
                    input: Some(interface),
                    port: Some(port),
                    link: Some(Link { dst: header.dst, src: header.src, kind }),
                    ..Packet::new(frame, l3, parsed)
                };
                super::offload::check_packet(&mut packet)?;
                if self.diverts_dhcp(interface, &packet) {
                    return Ok(Fate::Consumed);
                }
                self.forward(&mut packet)
            }
            _ => Err(Drop::LinkProtocol),
        }
    }

    /// A bridge's part: learns, and passes on what is for another port. `None`: the frame is for
    /// the gateway.
    fn switch(
        &mut self,
        port: PortId,
        bridge: InterfaceId,
        header: &ethernet::Header,
        frame: &mut Frame<'_>,
    ) -> Result<Option<Fate>, Drop> {
        // No station has such an address, and what is sent to these groups stays on its link
        // (IEEE 802.1D section 7.12.6); spanning tree is passed on as by a bridge that runs none.
        if header.src.is_group() || header.src.is_zero() {
            return Err(Drop::BridgeSource);
        }
        if let [0x01, 0x80, 0xc2, 0x00, 0x00, 0x01..=0x0f] = header.dst.0 {
            return Err(Drop::BridgeReserved);
        }
        self.stations.learn(bridge, header.src, port, self.now);
        if header.dst == self.interfaces.get(bridge).mac {
            return Ok(None);
        }
        if let Some(egress) = self.stations.find(bridge, header.dst, self.now) {
            if egress == port {
                return Err(Drop::BridgeSamePort);
            }
            frame.restore_vlan();
            return Ok(Some(Fate::Transmit(egress)));
        }
        // Unknown stations and groups: to every other port; groups to the gateway as well.
        let group = header.dst.is_group();
        let vlan = frame.meta.vlan;
        frame.restore_vlan();
        let mut copy = OwnedFrame::new(frame.bytes());
        copy.meta.offload = frame.meta.offload;
        for egress in self.interfaces.get(bridge).ports.clone() {
            if egress != port {
                self.outbox.push((egress, copy.clone()));
            }
        }
        // The tag stands in the frame now; the header was read before.
        if group && vlan.is_some_and(|(_, tci)| tci & 0x0fff != 0) {
            return Ok(Some(Fate::Consumed));
        }
        if group && vlan.is_some() {
            // A priority tag: taken out again for the gateway's own copy.
            let start = frame.meta.start;
            frame.slot.copy_within(start..start + 12, start + 4);
            frame.meta.start += 4;
        }
        Ok(if group { None } else { Some(Fate::Consumed) })
    }

    /// Packets for a DHCP client are taken before all rules, as packet-socket clients do on Linux.
    fn diverts_dhcp(&mut self, interface: InterfaceId, packet: &Packet<'_>) -> bool {
        let client = packet.parsed.protocol == protocol::UDP
            && packet.parsed.ports() == Some((67, 68))
            && self.dhcp_interfaces.contains(&interface);
        if !client {
            return false;
        }
        let room = self.dhcp_frames.len() < MAX_DHCP_FRAMES
            && ethernet::HEADER_LEN + packet.bytes().len() <= MAX_DHCP_FRAME;
        if !room {
            self.counters.drop(Drop::HostIgnored);
        }
        if let (true, Some(link)) = (room, packet.link) {
            let mut frame = vec![0; ethernet::HEADER_LEN];
            ethernet::write(&mut frame, link.dst, link.src, ethernet::IPV4);
            frame.extend_from_slice(packet.bytes());
            if matches!(packet.frame.meta.offload.checksum, crate::io::Checksum::Partial { .. }) {
                let l4 = ethernet::HEADER_LEN + usize::from(packet.parsed.l4);
                tidegate_packet::checksum::complete_partial(&mut frame, l4, udp::CHECKSUM_AT);
            }
            self.dhcp_frames.push((interface, frame));
        }
        true
    }
}

/// To whom a frame is addressed, seen from a station; `None`: to another.
fn link_type(dst: MacAddr, own: MacAddr) -> Option<LinkType> {
    if dst == own {
        Some(LinkType::Unicast)
    } else if dst.is_broadcast() {
        Some(LinkType::Broadcast)
    } else if dst.is_group() {
        Some(LinkType::Multicast)
    } else {
        None
    }
}
