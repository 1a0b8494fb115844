//! Every way that a frame can end is counted under its name.

mod link;
mod network;
mod state;

use crate::common::frames::{catalogue, pieces_v4};
use crate::common::{
    addr, arriving, frame, gateway_mac, host_mac, interface, page_with_neighbours,
};
use link::{by_arp, link};
use network::{network, routing};
use state::{conversations, ends, state};
use std::time::Duration;
use tidegate::engine::Drop;
use tidegate::io::channel::Flying;
use tidegate::io::{Checksum, Offload};
use tidegate::sim::{Sim, SimConfig, SimRoute};
use tidegate_packet::arp::{Arp, Operation};
use tidegate_packet::builder::{self, Ip, Tcp};
use tidegate_packet::{MacAddr, Parsed, ethernet, ipv4, tcp};

/// How a reason is provoked.
enum How {
    /// By these frames, the last of which is the one that is dropped.
    Rows(Vec<Row>),
    /// Not by frames; says why.
    Elsewhere(&'static str),
}

struct Row {
    what: &'static str,
    config: SimConfig,
    frames: Vec<(&'static str, Flying)>,
    wait: Duration,
}

fn row(what: &'static str, config: SimConfig, frames: Vec<(&'static str, Flying)>) -> Row {
    Row { what, config, frames, wait: Duration::ZERO }
}

/// Under the page's rules.
fn page(what: &'static str, port: &'static str, frame: impl Into<Flying>) -> Row {
    row(what, page_with_neighbours(), vec![(port, frame.into())])
}

/// Without rules.
fn open() -> SimConfig {
    SimConfig { rules_v4: String::new(), rules_v6: String::new(), ..page_with_neighbours() }
}

fn with_rules(rules: &str) -> SimConfig {
    SimConfig { rules_v4: rules.into(), ..open() }
}

fn with_sysctl(sysctl: &str) -> SimConfig {
    SimConfig { sysctls: format!("{sysctl}\n"), ..open() }
}

fn on(what: &'static str, config: SimConfig, port: &'static str, packet: &[u8]) -> Row {
    row(what, config, vec![(port, arriving(port, packet).into())])
}

fn udp(src: &str, dst: &str) -> Vec<u8> {
    builder::udp(Ip::new(addr(src), addr(dst), 17), 4000, 9, b"data")
}

fn out() -> Vec<u8> {
    udp("192.168.0.2", "198.51.100.10")
}

fn out6() -> Vec<u8> {
    udp("fd00:1::2", "2001:db8:2::10")
}

/// A packet with some bytes replaced and its header checksum mended.
fn with(mut packet: Vec<u8>, edits: &[(usize, u8)]) -> Vec<u8> {
    for (at, value) in edits {
        packet[*at] = *value;
    }
    if packet[0] >> 4 == 4 && packet[0] & 15 == 5 {
        ipv4::write_checksum(&mut packet);
    }
    packet
}

fn arp(edit: impl FnOnce(&mut Arp)) -> Vec<u8> {
    let mut message = Arp {
        operation: Operation::Request,
        sender_mac: host_mac(2),
        sender: addr("192.168.0.2"),
        target_mac: MacAddr::default(),
        target: addr("192.168.0.1"),
    };
    edit(&mut message);
    message.to_frame(MacAddr::BROADCAST)
}

const TO_ONE_PORT: &str =
    "*nat\n-A POSTROUTING -s 192.168.0.0/24 -p udp -j MASQUERADE --to-ports 5000-5000\nCOMMIT\n";
const MASQUERADE: &str =
    "*nat\n-A POSTROUTING -o ppp0 -j MASQUERADE\n-A POSTROUTING -o eth2 -j MASQUERADE\nCOMMIT\n";

/// A row for each reason, in the order of the declaration. A reason without one doesn't compile.
fn how(reason: Drop) -> How {
    How::Rows(match reason {
        Drop::LinkRunt | Drop::LinkOtherHost | Drop::LinkVlan | Drop::LinkProtocol => link(reason),
        Drop::Offload | Drop::BridgeSource | Drop::BridgeReserved | Drop::BridgeSamePort => {
            link(reason)
        }
        Drop::ArpMalformed | Drop::ArpNotForUs => by_arp(reason),
        Drop::IpTruncated
        | Drop::IpVersion
        | Drop::IpHeaderLength
        | Drop::IpLength
        | Drop::IpHeaderChecksum
        | Drop::IpOptions
        | Drop::Ip6ExtensionHeader
        | Drop::Ip6BadAddress => network(reason),
        Drop::MartianSource
        | Drop::MartianDestination
        | Drop::ReversePath
        | Drop::NoRoute
        | Drop::RouteRefused
        | Drop::ForwardingOff
        | Drop::NotForwardable
        | Drop::MulticastNotJoined
        | Drop::HopLimit
        | Drop::TooBig
        | Drop::Ip6Scope => routing(reason),
        Drop::Fragment
        | Drop::RuleDrop
        | Drop::RuleReject
        | Drop::ConnectionTable
        | Drop::NatExhausted
        | Drop::NatImpossible
        | Drop::NatBypass => state(reason),
        Drop::Helper | Drop::SynProxy | Drop::SynProxyTaken => conversations(reason),
        Drop::NeighbourFailed
        | Drop::NeighbourQueue
        | Drop::HostIgnored
        | Drop::HostMalformed
        | Drop::ErrorRateLimited => ends(reason),
        Drop::EgressDown => return How::Elsewhere("a worker counts it when a device is gone"),
        Drop::DeviceRefused => return How::Elsewhere("a worker counts what a device refuses"),
        Drop::DeviceOverrun | Drop::DeviceDiscard | Drop::HandoverFull => {
            return How::Elsewhere("a worker asks the device");
        }
    })
}

#[test]
fn every_reason_is_counted_under_its_name() {
    for &reason in Drop::ALL {
        let rows = match how(reason) {
            How::Rows(rows) => rows,
            How::Elsewhere(why) => {
                assert!(!why.is_empty());
                continue;
            }
        };
        assert!(!rows.is_empty(), "{}", reason.name());
        for Row { what, config, mut frames, wait } in rows {
            let mut sim = Sim::new(&config).unwrap_or_else(|e| panic!("{what}: {e}"));
            let (port, last) = frames.pop().expect("a frame");
            for (port, frame) in frames {
                sim.inject(port, frame).expect("a port");
            }
            sim.collect();
            let seen = |sim: &Sim| sim.counters().drops().collect::<Vec<_>>();
            let before = sim.counters().dropped(reason);
            sim.inject(port, last).expect("a port");
            sim.advance(wait);
            let counted = sim.counters().dropped(reason) - before;
            assert_eq!(counted, 1, "{}, {what}: {:?}", reason.name(), seen(&sim));
        }
    }
}

/// Cut anywhere, a frame is dropped under the name of what is missing, and nothing is sent.
#[test]
fn frames_cut_anywhere() {
    for arrival in catalogue() {
        let bytes = &arrival.frame.bytes;
        let header = ethernet::Header::parse(bytes).expect("a whole frame");
        let len = match header.ethertype {
            ethernet::ARP => 28,
            ethernet::IPV4 | ethernet::IPV6 => {
                Parsed::parse(&bytes[header.len..]).expect("a packet").len as usize
            }
            _ => continue,
        };
        let to_us =
            header.dst == gateway_mac(0) || header.dst == gateway_mac(2) || header.dst.is_group();
        if !to_us || header.vlan.is_some_and(|tci| tci & 0xfff != 0) {
            continue;
        }
        let mut sim = Sim::new(&page_with_neighbours()).expect("a configuration");
        // The first 200 bytes have all the headers; beyond, a few places stand for all.
        let places = (0..(header.len + len).min(200)).chain((200..header.len + len).step_by(97));
        for cut in places {
            let mut frame = arrival.frame.clone();
            frame.bytes.truncate(cut);
            // Its checksum would lie beyond the cut frame; that has a row of its own.
            frame.offload = Offload::default();
            let want: &[Drop] = match cut.checked_sub(header.len) {
                None => &[Drop::LinkRunt],
                Some(_) if header.ethertype == ethernet::ARP => &[Drop::ArpMalformed],
                Some(at) if header.ethertype == ethernet::IPV6 && at < 40 => &[Drop::IpTruncated],
                Some(at) if at < 20 => &[Drop::IpTruncated],
                Some(_) => &[Drop::IpLength, Drop::IpHeaderLength],
            };
            let count = |sim: &Sim| want.iter().map(|d| sim.counters().dropped(*d)).sum::<u64>();
            let before = count(&sim);
            sim.inject(arrival.port, frame).expect("a port");
            let drops: Vec<_> = sim.counters().drops().collect();
            assert_eq!(count(&sim), before + 1, "{cut} of {bytes:02x?}: {drops:?}");
            assert_eq!(sim.collect(), [], "{cut} of {bytes:02x?}");
        }
    }
}
