//! Random targets.

use super::dice::Dice;
use super::matches::{Place, Protocol};
use super::values::{INTERFACES, Net, host, mark, own, port};

/// What a target asks of its rule.
#[derive(Copy, Clone, Debug)]
pub struct Needed {
    /// The rule's protocol.
    pub protocol: Protocol,
    /// A condition.
    pub condition: Option<&'static str>,
}

const TCP: Option<Needed> = Some(Needed { protocol: Protocol::Tcp, condition: None });
const SYN: Option<Needed> =
    Some(Needed { protocol: Protocol::Tcp, condition: Some("-m tcp --tcp-flags SYN,RST SYN") });

/// A target that is legal in this place, and what it needs.
pub fn target(d: &mut Dice, place: &Place) -> (String, Option<Needed>) {
    let plain = |text: &str| (text.to_owned(), None);
    match (place.table, d.below(10)) {
        (_, 0) => plain(d.pick(&["", "-j RETURN", "-j ACCEPT"])),
        ("filter", 1..5) => plain("-j ACCEPT"),
        ("filter", 5..7) => plain("-j DROP"),
        ("filter", 7..9) => reject(d, place.net),
        ("filter", _) => marking(d),
        ("nat", _) => translation(d, place),
        ("raw", 1..6) => plain(d.pick(&["-j NOTRACK", "-j CT --notrack"])),
        ("raw" | "security", _) => plain(d.pick(&["-j ACCEPT", "-j DROP", ""])),
        (_, 1..4) => marking(d),
        (_, 4) => plain(d.pick(&["-j DROP", "-j ACCEPT", ""])),
        _ => change(d, place),
    }
}

fn reject(d: &mut Dice, net: Net) -> (String, Option<Needed>) {
    if d.chance(25) {
        return ("-j REJECT --reject-with tcp-reset".to_owned(), TCP);
    }
    let kind = if net == Net::V4 {
        d.pick(&[
            "icmp-net-unreachable",
            "icmp-host-unreachable",
            "icmp-port-unreachable",
            "icmp-proto-unreachable",
            "icmp-net-prohibited",
            "icmp-host-prohibited",
            "icmp-admin-prohibited",
        ])
    } else {
        d.pick(&[
            "icmp6-no-route",
            "icmp6-adm-prohibited",
            "icmp6-addr-unreachable",
            "icmp6-port-unreachable",
            "icmp6-policy-fail",
            "icmp6-reject-route",
        ])
    };
    (format!("-j REJECT --reject-with {kind}"), None)
}

fn marking(d: &mut Dice) -> (String, Option<Needed>) {
    let text = match d.below(10) {
        0..3 => format!("-j MARK --set-mark {}", mark(d)),
        3 => format!("-j MARK --set-xmark {}", mark(d)),
        4 => format!("-j MARK --{}-mark 0x3", d.pick(&["and", "or", "xor"])),
        5 => format!("-j CONNMARK --set-mark {}", mark(d)),
        6 => format!("-j CONNMARK --{}-mark 0x3", d.pick(&["and", "or", "xor"])),
        7 => d.pick(&["-j CONNMARK --save-mark", "-j CONNMARK --save-mark --mask 0xf"]).to_owned(),
        8 => format!("-j CONNMARK --save-mark --nfmask 0x3 --ctmask {}", d.pick(&["0xff", "0x1"])),
        _ => d
            .pick(&["-j CONNMARK --restore-mark", "-j CONNMARK --restore-mark --mask 0x2"])
            .to_owned(),
    };
    (text, None)
}

/// What mangle is for.
fn change(d: &mut Dice, place: &Place) -> (String, Option<Needed>) {
    let v4 = place.net == Net::V4;
    let text = match d.below(14) {
        0 => format!("-j TOS --set-tos {}", d.pick(&["0x10", "0x03", "0x55/0xff", "0x1/0x3", "0"])),
        1 => format!("-j TOS --{}-tos 0x1c", d.pick(&["and", "or", "xor"])),
        2 => format!("-j DSCP --set-dscp {}", d.pick(&["0", "0x2e", "0x3f", "1"])),
        3 => "-j DSCP --set-dscp-class AF21".to_owned(),
        4..6 => {
            let (target, name) = if v4 { ("TTL", "ttl") } else { ("HL", "hl") };
            let (how, by) = d.pick(&[
                ("set", 1),
                ("set", 64),
                ("set", 255),
                ("inc", 1),
                ("inc", 200),
                ("dec", 1),
                ("dec", 63),
                ("dec", 255),
            ]);
            // --hl-set 0 and the like are refused.
            format!("-j {target} --{name}-{how} {by}")
        }
        6 => return (format!("-j TCPMSS --set-mss {}", d.pick(&[536, 1400, 1460, 9000])), SYN),
        7 if place.hook.is_some_and(|h| matches!(h, "FORWARD" | "OUTPUT" | "POSTROUTING")) => {
            return ("-j TCPMSS --clamp-mss-to-pmtu".to_owned(), SYN);
        }
        8 => {
            let which = d.some(&["mss", "wscale", "sack-permitted", "timestamp", "254"]);
            return (format!("-j TCPOPTSTRIP --strip-options {which}"), TCP);
        }
        9 if v4 => return ("-j ECN --ecn-tcp-remove".to_owned(), TCP),
        10 if place.hook.is_some_and(|h| matches!(h, "FORWARD" | "OUTPUT" | "POSTROUTING")) => {
            "-j CLASSIFY --set-class 0001:0010".to_owned()
        }
        11 if matches!(place.hook, Some("PREROUTING" | "FORWARD")) => {
            let gateway = if v4 { "10.3.0.9" } else { "fd00:2::9" };
            format!("-j TEE --gateway {gateway}")
        }
        12 if !v4 && matches!(place.hook, Some("POSTROUTING" | "INPUT")) => {
            "-j SNPT --src-pfx fd00:1::/64 --dst-pfx 2001:db8:1:5::/64".to_owned()
        }
        13 if !v4 && matches!(place.hook, Some("PREROUTING" | "OUTPUT")) => {
            "-j DNPT --src-pfx 2001:db8:1:5::/64 --dst-pfx fd00:1::/64".to_owned()
        }
        _ => return marking(d),
    };
    (text, None)
}

/// What nat is for. A port needs a protocol that has some.
fn translation(d: &mut Dice, place: &Place) -> (String, Option<Needed>) {
    let v4 = place.net == Net::V4;
    let masquerades = place.source_side && place.hook != Some("INPUT") && place.hook.is_some();
    let with_port = d.chance(35);
    let protocol = d.pick(&[Protocol::Tcp, Protocol::Tcp, Protocol::Udp]);
    let needed = with_port.then_some(Needed { protocol, condition: None });
    // Ports that no packet spells out, so that either side may draw others.
    let free = d.pick(&["6000-6003", "6000", "61000-65535"]);
    let text = match d.below(10) {
        0..5 if masquerades && with_port => format!("-j MASQUERADE --to-ports {free}"),
        0..5 if masquerades => {
            format!("-j MASQUERADE{}", d.pick(&["", "", "", " --random", " --random-fully"]))
        }
        0..3 if !place.source_side && with_port => {
            format!("-j REDIRECT --to-ports {}", d.pick(&["80", "8080", "22-25"]))
        }
        0..3 if !place.source_side => "-j REDIRECT".to_owned(),
        9 if place.hook != Some("INPUT") && place.hook.is_some() => {
            let to = match (place.source_side, v4) {
                (true, true) => d.pick(&["203.0.113.0/24", "203.0.113.1/32", "198.51.0.0/16"]),
                (false, true) => d.pick(&["192.168.0.0/24", "10.3.0.0/16", "10.3.0.2/32"]),
                (true, false) => d.pick(&["2001:db8:1::/64", "2001:db8:1::1/128"]),
                (false, false) => d.pick(&["fd00:1::/64", "fd00:2::/120"]),
            };
            return (format!("-j NETMAP --to {to}"), None);
        }
        _ => {
            let to = destination(d, place, with_port.then_some(free));
            let target =
                if place.source_side { "-j SNAT --to-source" } else { "-j DNAT --to-destination" };
            format!("{target} {to}{}", d.pick(&["", "", "", "", " --persistent", " --random"]))
        }
    };
    (text, needed)
}

fn destination(d: &mut Dice, place: &Place, free: Option<&str>) -> String {
    let v4 = place.net == Net::V4;
    let address = if place.source_side {
        own(d, place.net).to_owned()
    } else {
        let interface = d.pick(&INTERFACES);
        host(d, place.net, interface).to_owned()
    };
    let address = match (v4, d.below(10)) {
        (true, 0) if place.source_side => "203.0.113.1-203.0.113.9".to_owned(),
        (true, 0) => "192.168.0.2-192.168.0.9".to_owned(),
        (false, 0) if place.source_side => "2001:db8:1::1-2001:db8:1::9".to_owned(),
        (false, 0) => "fd00:1::2-fd00:1::9".to_owned(),
        _ => address,
    };
    let Some(free) = free else { return address };
    let ports = if place.source_side {
        free.to_owned()
    } else {
        match d.below(3) {
            0 => "2000-2002".to_owned(),
            1 => "80-81/443".to_owned(),
            _ => port(d).to_string(),
        }
    };
    if v4 { format!("{address}:{ports}") } else { format!("[{address}]:{ports}") }
}
