//! Every way that a frame can end is counted under its name.

use crate::common::frames::{catalogue, pieces_v4};
use crate::common::{
    addr, arriving, frame, gateway_mac, host_mac, interface, page_with_neighbours,
};
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

fn link(reason: Drop) -> Vec<Row> {
    let whole = arriving("eth0", &out());
    let edited = |edit: fn(&mut Vec<u8>)| {
        let mut f = whole.clone();
        edit(&mut f);
        f
    };
    match reason {
        Drop::LinkRunt => vec![
            page("nothing", "eth0", vec![]),
            page("13 bytes", "eth0", whole[..13].to_vec()),
            page("half a tag", "eth0", [&whole[..12], &[0x81, 0, 0]].concat()),
            page(
                "half a second tag",
                "eth0",
                [&whole[..12], &[0x88, 0xa8, 0, 1, 0x81, 0, 0]].concat(),
            ),
        ],
        Drop::LinkOtherHost => vec![page("another station", "eth0", edited(|f| f[5] = 99))],
        Drop::LinkVlan => vec![
            page(
                "VLAN 7",
                "eth0",
                edited(|f| {
                    f.splice(12..12, [0x81, 0, 0, 7]);
                }),
            ),
            page(
                "VLAN 7 behind a priority tag",
                "eth0",
                edited(|f| {
                    f.splice(12..12, [0x81, 0, 0, 0, 0x81, 0, 0, 7]);
                }),
            ),
            page(
                "three tags",
                "eth0",
                edited(|f| {
                    f.splice(12..12, [0x81, 0, 0, 0].repeat(3));
                }),
            ),
        ],
        Drop::LinkProtocol => vec![
            page("LLDP", "eth0", edited(|f| f[12..14].copy_from_slice(&[0x88, 0xcc]))),
            page("802.3 with LLC", "eth0", edited(|f| f[12..14].copy_from_slice(&[0, 38]))),
        ],
        Drop::Offload => {
            let checksum = Checksum::Partial { start: 34, offset: 999 };
            let mut flying = Flying::from(whole);
            flying.offload = Offload { checksum, gso: None };
            vec![page("a checksum beyond the frame", "eth0", flying)]
        }
        _ => bridge(reason),
    }
}

fn bridge(reason: Drop) -> Vec<Row> {
    let mut config = page_with_neighbours();
    config.interfaces[0].ports = vec!["tap0".into(), "tap1".into()];
    let from = |src, dst| frame(src, dst, &out());
    let two = (from(host_mac(3), host_mac(4)), from(host_mac(4), host_mac(3)));
    let one = |what, src, dst| row(what, config.clone(), vec![("tap0", from(src, dst).into())]);
    let pause = MacAddr([0x01, 0x80, 0xc2, 0, 0, 1]);
    match reason {
        Drop::BridgeSource => vec![
            one("from a group", pause, host_mac(4)),
            one("from nobody", MacAddr::default(), MacAddr::BROADCAST),
        ],
        Drop::BridgeReserved => vec![one("a pause frame", host_mac(3), pause)],
        _ => vec![row(
            "two stations on one port",
            config,
            vec![("tap0", two.0.into()), ("tap0", two.1.into())],
        )],
    }
}

fn by_arp(reason: Drop) -> Vec<Row> {
    let edited = |at: usize, value: u8| {
        let mut f = arp(|_| {});
        f[at] = value;
        f
    };
    match reason {
        Drop::ArpMalformed => vec![
            page("cut", "eth0", arp(|_| {})[..41].to_vec()),
            page("not about Ethernet", "eth0", edited(15, 6)),
            page("not about IPv4", "eth0", edited(16, 0x86)),
            page("long link addresses", "eth0", edited(18, 8)),
            page("long network addresses", "eth0", edited(19, 16)),
            page("neither question nor answer", "eth0", edited(21, 3)),
            page("from a group", "eth0", arp(|a| a.sender_mac = MacAddr::BROADCAST)),
            page("from nobody", "eth0", arp(|a| a.sender_mac = MacAddr::default())),
            page("for a multicast address", "eth0", arp(|a| a.sender = addr("224.0.0.5"))),
        ],
        _ => vec![page("somebody else is asked", "eth0", arp(|a| a.target = addr("192.168.0.9")))],
    }
}

fn network(reason: Drop) -> Vec<Row> {
    let cut = |len: usize| arriving("eth0", &out())[..14 + len].to_vec();
    let cut6 = |len: usize| arriving("eth0", &out6())[..14 + len].to_vec();
    let v4 = |edits: &[(usize, u8)]| arriving("eth0", &with(out(), edits));
    let v6 = |edits: &[(usize, u8)]| arriving("eth0", &with(out6(), edits));
    let options = |options: &[u8]| {
        let plain = out();
        let mut p = [&plain[..20], options, &plain[20..]].concat();
        p[0] = 0x40 | (5 + options.len() / 4) as u8;
        p[3] += options.len() as u8;
        ipv4::write_checksum(&mut p);
        arriving("eth0", &p)
    };
    let from6 = |src, dst| arriving("eth0", &udp(src, dst));
    match reason {
        Drop::IpTruncated => vec![
            page("no byte of it", "eth0", cut(0)),
            page("19 bytes", "eth0", cut(19)),
            page("39 bytes of IPv6", "eth0", cut6(39)),
        ],
        Drop::IpVersion => {
            let mut other = arriving("eth0", &out());
            other[12..14].copy_from_slice(&ethernet::IPV6.to_be_bytes());
            let version = |n: u8| arriving("eth0", &with(out(), &[(0, n << 4 | 5)]));
            vec![
                page("version 5", "eth0", version(5)),
                page("version 0", "eth0", version(0)),
                page("IPv4 under IPv6's EtherType", "eth0", other),
            ]
        }
        Drop::IpHeaderLength => vec![
            page("16 bytes", "eth0", v4(&[(0, 0x44)])),
            page("no bytes", "eth0", v4(&[(0, 0x40)])),
            page("more than came", "eth0", v4(&[(0, 0x4f)])),
        ],
        Drop::IpLength => vec![
            page("shorter than its header", "eth0", v4(&[(2, 0), (3, 19)])),
            page("longer than the frame", "eth0", v4(&[(2, 1), (3, 0)])),
            page("cut at the end", "eth0", cut(31)),
            page("IPv6 longer than the frame", "eth0", v6(&[(4, 1)])),
            page("IPv6 cut at the end", "eth0", cut6(51)),
        ],
        Drop::IpHeaderChecksum => {
            let mut wrong = out();
            wrong[8] = 63;
            vec![page("another TTL", "eth0", arriving("eth0", &wrong))]
        }
        Drop::IpOptions => vec![
            page("loose source route", "eth0", options(&[131, 3, 4, 0])),
            page("strict source route", "eth0", options(&[137, 3, 4, 0])),
            page("a length of one", "eth0", options(&[7, 1, 0, 0])),
            page("beyond the header", "eth0", options(&[7, 9, 4, 0])),
            page("no room for a length", "eth0", options(&[1, 1, 1, 7])),
        ],
        Drop::Ip6ExtensionHeader => vec![
            page("longer than the packet", "eth0", v6(&[(6, 0), (40, 17), (41, 9)])),
            page("no room for the next", "eth0", v6(&[(6, 0), (40, 60), (41, 0)])),
        ],
        _ => vec![
            page("from loopback", "eth0", from6("::1", "fd00:1::1")),
            page("to loopback", "eth0", from6("fd00:1::2", "::1")),
            page("from a group", "eth0", from6("ff02::5", "fd00:1::1")),
            page("to a group of this interface only", "eth0", from6("fd00:1::2", "ff01::1")),
            page("to a group of the reserved scope", "eth0", from6("fd00:1::2", "ff00::1")),
        ],
    }
}

fn routing(reason: Drop) -> Vec<Row> {
    let no_default = || SimConfig { routes: Vec::new(), ..open() };
    match reason {
        Drop::MartianSource => vec![
            on("from a group", open(), "eth0", &udp("224.0.0.9", "198.51.100.10")),
            on("from everybody", open(), "eth0", &udp("255.255.255.255", "198.51.100.10")),
            on("from nobody", open(), "eth0", &udp("0.0.0.0", "198.51.100.10")),
            on("from loopback", open(), "eth0", &udp("127.0.0.1", "198.51.100.10")),
            on("from the gateway", open(), "eth0", &udp("203.0.113.1", "198.51.100.10")),
            on("from a group to a group", open(), "eth0", &udp("224.0.0.9", "224.0.0.1")),
            on("from loopback to a group", open(), "eth0", &udp("127.0.0.9", "224.0.0.1")),
        ],
        Drop::MartianDestination => vec![
            on("to loopback", open(), "eth0", &udp("192.168.0.2", "127.0.0.1")),
            on("to nobody", open(), "eth0", &udp("192.168.0.2", "0.0.0.0")),
        ],
        Drop::ReversePath => {
            let strict = || with_sysctl("net.ipv4.conf.all.rp_filter = 1");
            let loose =
                SimConfig { routes: Vec::new(), ..with_sysctl("net.ipv4.conf.all.rp_filter = 2") };
            vec![
                on("a LAN's address outside", strict(), "ppp0", &udp("192.168.0.2", "10.3.0.9")),
                on("an outside address on a LAN", strict(), "eth0", &udp("8.8.8.8", "10.3.0.9")),
                on("from nowhere", loose, "eth0", &udp("8.8.8.8", "10.3.0.9")),
            ]
        }
        Drop::NoRoute => vec![
            on("IPv4", no_default(), "eth0", &out()),
            on("IPv6", no_default(), "eth0", &out6()),
        ],
        Drop::RouteRefused => {
            let to = "198.51.100.0/24".parse().expect("a prefix");
            let mut config = open();
            config.routes.push(SimRoute { to, via: None, dev: None });
            vec![on("a blackhole", config, "eth0", &out())]
        }
        Drop::ForwardingOff => vec![
            on("IPv4", with_sysctl("net.ipv4.ip_forward = 0"), "eth0", &out()),
            on("IPv6", with_sysctl("net.ipv6.conf.all.forwarding = 0"), "eth0", &out6()),
        ],
        Drop::NotForwardable => {
            let to = |mac| frame(host_mac(2), mac, &out()).into();
            vec![
                row("to all stations", open(), vec![("eth0", to(MacAddr::BROADCAST))]),
                row("to a group", open(), vec![("eth0", to(MacAddr([1, 0, 0x5e, 0, 0, 1])))]),
            ]
        }
        Drop::MulticastNotJoined => vec![
            on("IPv4", open(), "eth0", &udp("192.168.0.2", "224.0.0.251")),
            on("IPv6", open(), "eth0", &udp("fd00:1::2", "ff02::fb")),
        ],
        Drop::HopLimit => vec![
            on("IPv4", open(), "eth0", &with(out(), &[(8, 1)])),
            on("IPv4, none at all", open(), "eth0", &with(out(), &[(8, 0)])),
            on("IPv6", open(), "eth0", &with(out6(), &[(7, 1)])),
        ],
        Drop::TooBig => {
            let long = |src, dst| {
                let header = Ip { dont_fragment: true, ..Ip::new(addr(src), addr(dst), 17) };
                builder::udp(header, 4000, 9, &[0; 1400])
            };
            let mut narrow = open();
            narrow.interfaces[2].mtu = 1280;
            vec![
                on("IPv4, DF", narrow.clone(), "eth0", &long("192.168.0.2", "198.51.100.10")),
                on("IPv6", narrow, "eth0", &long("fd00:1::2", "2001:db8:2::10")),
            ]
        }
        _ => vec![
            on("from this link only", open(), "eth0", &udp("fe80::2", "2001:db8:2::10")),
            on("from nobody", open(), "eth0", &udp("::", "2001:db8:2::10")),
        ],
    }
}

fn state(reason: Drop) -> Vec<Row> {
    let from = |src| ("eth0", Flying::from(arriving("eth0", &udp(src, "198.51.100.10"))));
    match reason {
        Drop::Fragment => {
            let long = builder::udp(
                Ip::new(addr("192.168.0.2"), addr("198.51.100.10"), 17),
                4000,
                9,
                &[0; 2000],
            );
            let arrive = |p: &Vec<u8>| ("eth0", Flying::from(arriving("eth0", p)));
            let (by_800, by_1200) = (pieces_v4(&long, 800), pieces_v4(&long, 1200));
            let tracked = || with_rules(MASQUERADE);
            let mut lonely = row("its others never come", tracked(), vec![arrive(&by_800[0])]);
            lonely.wait = Duration::from_secs(31);
            vec![
                row("twice", tracked(), vec![arrive(&by_800[0]), arrive(&by_800[0])]),
                row("overlapping", tracked(), vec![arrive(&by_800[0]), arrive(&by_1200[0])]),
                row(
                    "beyond 64 kB",
                    tracked(),
                    vec![arrive(&with(by_800[2].clone(), &[(6, 0x1f), (7, 0xff)]))],
                ),
                lonely,
            ]
        }
        Drop::RuleDrop => vec![
            on("a policy", with_rules("*filter\n:FORWARD DROP [0:0]\nCOMMIT\n"), "eth0", &out()),
            on("a rule", with_rules("*mangle\n-A PREROUTING -j DROP\nCOMMIT\n"), "eth0", &out()),
        ],
        Drop::RuleReject => {
            vec![page("unasked", "ppp0", arriving("ppp0", &udp("192.0.2.1", "192.168.0.2")))]
        }
        Drop::ConnectionTable => {
            let config = SimConfig {
                sysctls: "net.netfilter.nf_conntrack_max = 1\n".into(),
                ..with_rules(MASQUERADE)
            };
            let segment = |src: &str, dst: &str, ports: (u16, u16), flags, seq, ack| {
                let fields = Tcp {
                    sport: ports.0,
                    dport: ports.1,
                    seq,
                    ack,
                    flags,
                    window: 9000,
                    options: &[],
                };
                builder::tcp(Ip::new(addr(src), addr(dst), 6), fields, &[])
            };
            let (client, far) = ("192.168.0.2", "198.51.100.10");
            let arrive = |port, p: Vec<u8>| (port, Flying::from(arriving(port, &p)));
            // Assured, so that it isn't given up for the newcomer.
            vec![row(
                "full",
                config,
                vec![
                    arrive("eth0", segment(client, far, (4000, 80), tcp::SYN, 1, 0)),
                    arrive(
                        "ppp0",
                        segment(far, "203.0.113.1", (80, 4000), tcp::SYN | tcp::ACK, 9, 2),
                    ),
                    arrive("eth0", segment(client, far, (4000, 80), tcp::ACK, 2, 10)),
                    from("192.168.0.3"),
                ],
            )]
        }
        Drop::NatExhausted => vec![row(
            "the only port is taken",
            with_rules(TO_ONE_PORT),
            vec![from("192.168.0.2"), from("192.168.0.3")],
        )],
        Drop::NatImpossible => {
            let mut config = with_rules(MASQUERADE);
            config.interfaces.push(interface("eth2", 3, &[]));
            let to = "198.51.100.0/24".parse().expect("a prefix");
            config.routes.push(SimRoute { to, via: None, dev: Some("eth2".into()) });
            vec![row("no address to masquerade as", config, vec![from("192.168.0.2")])]
        }
        _ => {
            let fields = Tcp { sport: 1, dport: 2, ..Tcp::default() };
            let null =
                builder::tcp(Ip::new(addr("192.168.0.2"), addr("198.51.100.10"), 6), fields, &[]);
            let mut damaged = out();
            damaged[28] ^= 1;
            vec![
                on("no flags", with_rules(MASQUERADE), "eth0", &null),
                on("damaged", with_rules(MASQUERADE), "eth0", &damaged),
                on(
                    "untracked",
                    with_rules(&format!("{MASQUERADE}*raw\n-A PREROUTING -j NOTRACK\nCOMMIT\n")),
                    "eth0",
                    &out(),
                ),
            ]
        }
    }
}

fn ends(reason: Drop) -> Vec<Row> {
    let to_nobody = || ("eth1", Flying::from(arriving("eth1", &udp("10.3.0.9", "192.168.0.200"))));
    let to_host = |number: u8, payload: &[u8]| {
        let header = Ip::new(addr("192.168.0.2"), addr("192.168.0.1"), number);
        builder::ip(header, payload)
    };
    match reason {
        Drop::NeighbourFailed => {
            let mut row = row("nobody there", open(), vec![to_nobody()]);
            row.wait = Duration::from_secs(4);
            vec![row]
        }
        Drop::NeighbourQueue => {
            let frames = std::iter::repeat_with(to_nobody).take(17).collect();
            vec![row("the seventeenth", open(), frames)]
        }
        Drop::HostIgnored => vec![
            on("a closed port", open(), "eth0", &udp("192.168.0.2", "192.168.0.1")),
            on("IGMP", open(), "eth0", &to_host(2, &[0x16, 0, 0xe9, 0xff, 0, 0, 0, 0])),
            on(
                "an answer to nothing",
                open(),
                "eth0",
                &builder::echo(
                    Ip::new(addr("192.168.0.2"), addr("192.168.0.1"), 1),
                    false,
                    1,
                    1,
                    b"",
                ),
            ),
            on(
                "pings are ignored",
                with_sysctl("net.ipv4.icmp_echo_ignore_all = 1"),
                "eth0",
                &builder::echo(
                    Ip::new(addr("192.168.0.2"), addr("192.168.0.1"), 1),
                    true,
                    1,
                    1,
                    b"",
                ),
            ),
        ],
        Drop::HostMalformed => {
            let mut damaged = udp("192.168.0.2", "192.168.0.1");
            damaged[28] ^= 1;
            vec![
                on("damaged", open(), "eth0", &damaged),
                on("half a TCP header", open(), "eth0", &to_host(6, &[0; 10])),
                on("half a UDP header", open(), "eth0", &to_host(17, &[0; 7])),
                on("half an ICMP header", open(), "eth0", &to_host(1, &[8, 0, 0xf7, 0xff])),
            ]
        }
        _ => {
            let expiring = ("eth0", Flying::from(arriving("eth0", &with(out(), &[(8, 1)]))));
            vec![row("the seventh at once", open(), vec![expiring; 7])]
        }
    }
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

/// Reasons that belong to a protocol's conversation.
fn conversations(reason: Drop) -> Vec<Row> {
    let segment = |up: bool, flags, seq, ack, text: &[u8]| {
        let (port, src, dst) = match up {
            true => ("eth0", "192.168.0.2", "198.51.100.10"),
            false => ("ppp0", "198.51.100.10", "192.168.0.2"),
        };
        let (sport, dport) = if up { (4000, 21) } else { (21, 4000) };
        let fields = Tcp { sport, dport, seq, ack, flags, window: 8000, ..Tcp::default() };
        let packet = builder::tcp(Ip::new(addr(src), addr(dst), 6), fields, text);
        (port, arriving(port, &packet).into())
    };
    const PROXY: &str = "*filter\n-A FORWARD -p tcp -m conntrack --ctstate INVALID,UNTRACKED -j SYNPROXY\nCOMMIT\n*raw\n-A PREROUTING -p tcp --syn -j CT --notrack\nCOMMIT\n";
    let proxy = || SimConfig {
        sysctls: "net.netfilter.nf_conntrack_tcp_loose = 0\n".into(),
        ..with_rules(PROXY)
    };
    match reason {
        Drop::Helper => {
            let rules = "*raw\n-A PREROUTING -p tcp --dport 21 -j CT --helper ftp\nCOMMIT\n";
            let frames = vec![
                segment(true, tcp::SYN, 1000, 0, b""),
                segment(false, tcp::SYN | tcp::ACK, 5000, 1001, b""),
                segment(true, tcp::ACK, 1001, 5001, b""),
                segment(true, tcp::ACK, 1001, 5001, b"USER x\r\n"),
                segment(true, tcp::ACK, 1009, 5001, b"PORT 192,168,0"),
            ];
            vec![row("half a command", with_rules(rules), frames)]
        }
        Drop::SynProxyTaken => {
            vec![row("a SYN", proxy(), vec![segment(true, tcp::SYN, 1000, 0, b"")])]
        }
        _ => vec![row("no cookie", proxy(), vec![segment(true, tcp::ACK, 1000, 7, b"")])],
    }
}
