//! Reasons of rules, connections, neighbours and the gateway as a host.

use super::*;

pub(super) fn state(reason: Drop) -> Vec<Row> {
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

pub(super) fn ends(reason: Drop) -> Vec<Row> {
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

/// Reasons that belong to a protocol's conversation.
pub(super) fn conversations(reason: Drop) -> Vec<Row> {
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
