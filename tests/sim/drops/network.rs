//! Reasons of the network layer and of routing.

use super::*;

pub(super) fn network(reason: Drop) -> Vec<Row> {
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

pub(super) fn routing(reason: Drop) -> Vec<Row> {
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
