//! Addresses, ports and numbers that rules and packets have in common, so that they meet.

use super::dice::Dice;

/// Which address family.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Net {
    V4,
    V6,
}

/// The interfaces.
pub const INTERFACES: [&str; 3] = ["eth0", "eth1", "ppp0"];

/// Ports that conversations use. A port that the gateway draws is none of these.
pub const PORTS: [u16; 16] =
    [1, 21, 22, 25, 53, 80, 123, 443, 511, 512, 1023, 1024, 1025, 2000, 5060, 8080];

const ETH0: [&str; 4] = ["192.168.0.2", "192.168.0.3", "192.168.0.9", "192.168.0.77"];
const ETH1: [&str; 4] = ["10.3.0.2", "10.3.0.3", "10.3.0.9", "10.3.200.7"];
const PPP0: [&str; 5] = ["203.0.113.2", "203.0.113.9", "198.51.100.10", "198.51.100.11", "8.8.8.8"];
const OWN: [&str; 3] = ["192.168.0.1", "10.3.0.1", "203.0.113.1"];
const ODD: [&str; 16] = [
    "0.0.0.0",
    "0.1.2.3",
    "127.0.0.1",
    "169.254.1.1",
    "192.168.0.0",
    "192.168.0.255",
    "10.3.255.255",
    "203.0.113.255",
    "203.0.113.0",
    "224.0.0.1",
    "224.0.0.5",
    "239.1.2.3",
    "240.0.0.1",
    "255.255.255.255",
    "100.64.0.1",
    "192.0.2.7",
];

const ETH0_6: [&str; 3] = ["fd00:1::2", "fd00:1::3", "fd00:1::9"];
const ETH1_6: [&str; 3] = ["fd00:2::2", "fd00:2::3", "fd00:2::9"];
const PPP0_6: [&str; 4] = ["2001:db8:1::2", "2001:db8:1::9", "2001:db8:99::10", "2001:db8:99::11"];
const OWN_6: [&str; 3] = ["fd00:1::1", "fd00:2::1", "2001:db8:1::1"];
const ODD_6: [&str; 10] = [
    "::",
    "::1",
    "fe80::2",
    "fe80::9",
    "ff02::1",
    "ff02::2",
    "ff05::9",
    "ff0e::1:2",
    "::10.3.0.2",
    "2002:a03:2::1",
];

/// A host behind the interface.
pub fn host(d: &mut Dice, net: Net, interface: &str) -> &'static str {
    match (net, interface) {
        (Net::V4, "eth0") => d.pick(&ETH0[..3]),
        (Net::V4, "eth1") => d.pick(&ETH1[..3]),
        (Net::V4, _) => d.pick(&PPP0),
        (Net::V6, "eth0") => d.pick(&ETH0_6),
        (Net::V6, "eth1") => d.pick(&ETH1_6),
        (Net::V6, _) => d.pick(&PPP0_6),
    }
}

/// An address of the gateway.
pub fn own(d: &mut Dice, net: Net) -> &'static str {
    if net == Net::V4 { d.pick(&OWN) } else { d.pick(&OWN_6) }
}

/// An address of which anything may be true.
pub fn odd(d: &mut Dice, net: Net) -> &'static str {
    match net {
        Net::V4 if d.chance(20) => d.pick(&[ETH0[3], ETH1[3]]),
        Net::V4 => d.pick(&ODD),
        Net::V6 => d.pick(&ODD_6),
    }
}

/// Any address.
pub fn any(d: &mut Dice, net: Net) -> &'static str {
    match d.below(10) {
        0..6 => {
            let interface = d.pick(&INTERFACES);
            host(d, net, interface)
        }
        6..8 => own(d, net),
        _ => odd(d, net),
    }
}

/// An address, a prefix, or an address with an odd mask.
pub fn prefix(d: &mut Dice, net: Net) -> String {
    let address = any(d, net);
    match (net, d.below(10)) {
        (_, 0..4) => address.to_owned(),
        (Net::V4, 4..8) => format!("{address}/{}", d.pick(&[0, 1, 8, 16, 23, 24, 30, 31, 32])),
        (Net::V4, _) => {
            let mask = d.pick(&["255.255.0.255", "0.0.0.255", "255.0.255.0", "255.255.255.254"]);
            format!("{address}/{mask}")
        }
        (Net::V6, 4..9) => {
            format!("{address}/{}", d.pick(&[0, 1, 7, 10, 16, 32, 48, 63, 64, 65, 127, 128]))
        }
        (Net::V6, _) => format!("{address}/{}", d.pick(&["ffff::ffff", "::ff", "ffff:0:ffff::"])),
    }
}

/// A port.
pub fn port(d: &mut Dice) -> u16 {
    d.pick(&PORTS)
}

/// A port, or a range of which the ports that the gateway draws are either all part or none.
pub fn ports(d: &mut Dice) -> String {
    let a = port(d);
    match d.below(10) {
        0..7 => a.to_string(),
        7 => format!("{a}:{}", (a + 1).max(port(d))),
        8 => format!(":{}", d.pick(&[0, 22, 511, 1023])),
        _ => format!("{}:", d.pick(&[0, 512, 1024, 65535])),
    }
}

/// Several, for multiport.
pub fn port_list(d: &mut Dice) -> String {
    let count = d.within(1, 4);
    let list: Vec<String> = (0..count)
        .map(|_| {
            let a = port(d);
            if d.chance(25) { format!("{a}:{}", (a + 1).max(port(d))) } else { a.to_string() }
        })
        .collect();
    list.join(",")
}

/// A mark, with a mask in some cases.
pub fn mark(d: &mut Dice) -> String {
    let value = d.pick(&["0", "1", "2", "3", "0x10", "0xff", "0xffffffff"]);
    let mask = d.pick(&["", "", "/0x1", "/0xff", "/0x3", "/0xffffffff", "/0"]);
    format!("{value}{mask}")
}
