//! Reasons of the link layer, of bridges and of ARP.

use super::*;

pub(super) fn link(reason: Drop) -> Vec<Row> {
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

pub(super) fn bridge(reason: Drop) -> Vec<Row> {
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

pub(super) fn by_arp(reason: Drop) -> Vec<Row> {
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
