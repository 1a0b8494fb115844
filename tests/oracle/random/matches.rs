//! Random conditions of rules.

use super::dice::Dice;
use super::rules::is_noisy;
use super::values::{Net, any, mark, port_list, ports, prefix};

/// Where a rule stands.
pub struct Place {
    /// The family.
    pub net: Net,
    /// The table.
    pub table: &'static str,
    /// The built-in chain; none for one's own.
    pub hook: Option<&'static str>,
    /// In nat: the chain translates sources.
    pub source_side: bool,
}

/// What a rule's `-p` names.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Protocol {
    Tcp,
    Udp,
    Icmp,
    Other(&'static str),
}

impl Protocol {
    /// The word behind `-p`.
    pub fn name(self, net: Net) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp if net == Net::V4 => "icmp",
            Self::Icmp => "ipv6-icmp",
            Self::Other(name) => name,
        }
    }
}

/// A protocol for a rule.
pub fn protocol(d: &mut Dice, net: Net) -> Protocol {
    let others: &[&'static str] = match net {
        Net::V4 => &["udplite", "sctp", "gre", "esp", "ah", "47", "253", "ipencap", "58", "igmp"],
        Net::V6 => &["udplite", "sctp", "gre", "esp", "ah", "253", "41", "mh", "1", "59"],
    };
    match d.below(20) {
        0..9 => Protocol::Tcp,
        9..14 => Protocol::Udp,
        14..18 => Protocol::Icmp,
        _ => Protocol::Other(d.pick(others)),
    }
}

/// A condition that is legal in this place for this protocol; none where the one that was drawn
/// isn't.
pub fn condition(d: &mut Dice, place: &Place, protocol: Option<Protocol>) -> Option<String> {
    if d.chance(45)
        && let Some(found) = of_protocol(d, place.net, protocol)
    {
        return Some(found);
    }
    match d.below(10) {
        0..4 => Some(of_connection(d, place)),
        4..8 => Some(of_header(d, place.net)),
        8 => of_place(d, place),
        _ if place.hook.is_some_and(|h| is_noisy(place.net, h)) => None,
        _ => Some(remembering(d)),
    }
}

/// What only packets of some protocol have.
fn of_protocol(d: &mut Dice, net: Net, protocol: Option<Protocol>) -> Option<String> {
    let not = d.not();
    Some(match protocol? {
        Protocol::Tcp => match d.below(12) {
            0..3 => format!("-m tcp {not}--dport {}", ports(d)),
            3 => format!("-m tcp {not}--sport {}", ports(d)),
            4 => format!("-m tcp --sport {} {not}--dport {}", ports(d), ports(d)),
            5 => format!("-m tcp {not}--tcp-flags FIN,SYN,RST,ACK SYN"),
            6 => {
                let all = ["FIN", "SYN", "RST", "PSH", "ACK", "URG"];
                let (mask, set) = (d.some(&all), d.some(&all));
                format!("-m tcp {not}--tcp-flags {mask} {}", d.pick(&[set.as_str(), "NONE"]))
            }
            7 => format!("-m tcp {not}--tcp-option {}", d.pick(&[2, 3, 4, 5, 8, 30, 254])),
            8 => {
                let range = d.pick(&["536", "1400:1460", "0", "1460", "0:65535", "1461:65535"]);
                format!("-m tcpmss {not}--mss {range}")
            }
            9 => d
                .pick(&[
                    "-m ecn --ecn-tcp-cwr",
                    "-m ecn ! --ecn-tcp-ece",
                    "-m ecn --ecn-tcp-ece --ecn-ip-ect 0",
                    "-m ecn ! --ecn-tcp-cwr --ecn-tcp-ece",
                ])
                .to_owned(),
            _ => multiport(d),
        },
        Protocol::Udp => match d.below(4) {
            0 => format!("-m udp {not}--dport {}", ports(d)),
            1 => format!("-m udp {not}--sport {}", ports(d)),
            2 => format!("-m udp --sport {} --dport {}", ports(d), ports(d)),
            _ => multiport(d),
        },
        Protocol::Icmp if net == Net::V4 => {
            let kinds =
                ["0", "8", "3", "3/1", "3/3", "3/4", "4", "5/1", "11/0", "13", "any", "255"];
            format!("-m icmp {not}--icmp-type {}", d.pick(&kinds))
        }
        Protocol::Icmp => {
            let kinds = ["128", "129", "1", "1/4", "2", "3/0", "4/1", "135", "136", "130", "143"];
            format!("-m icmp6 {not}--icmpv6-type {}", d.pick(&kinds))
        }
        Protocol::Other("udplite" | "sctp") => multiport(d),
        Protocol::Other("esp") => {
            format!("-m esp {not}--espspi {}", d.pick(&["0", "5", "1:100", "0:4294967295"]))
        }
        Protocol::Other("ah") if net == Net::V4 => {
            format!("-m ah {not}--ahspi {}", d.pick(&["0", "5", "1:100", "0:4294967295"]))
        }
        Protocol::Other("mh") => format!("-m mh {not}--mh-type {}", d.pick(&["0", "5", "3:6"])),
        Protocol::Other(_) => return None,
    })
}

fn multiport(d: &mut Dice) -> String {
    let side = d.pick(&["sports", "dports", "dports", "ports"]);
    format!("-m multiport {}--{side} {}", d.not(), port_list(d))
}

/// What tracking knows.
fn of_connection(d: &mut Dice, place: &Place) -> String {
    const STATES: [&str; 5] = ["NEW", "ESTABLISHED", "RELATED", "INVALID", "UNTRACKED"];
    let not = d.not();
    match d.below(16) {
        0..3 => format!("-m conntrack {not}--ctstate {}", d.some(&STATES)),
        3 => "-m conntrack --ctstate RELATED,ESTABLISHED".to_owned(),
        4 => format!("-m conntrack {not}--ctstate {}", d.some(&["SNAT", "DNAT", "INVALID"])),
        5 => format!("-m state {not}--state {}", d.some(&STATES)),
        6 => {
            let status = d.some(&["NONE", "EXPECTED", "SEEN_REPLY", "ASSURED", "CONFIRMED"]);
            format!("-m conntrack {not}--ctstatus {status}")
        }
        7 => format!("-m conntrack --ctdir {}", d.pick(&["ORIGINAL", "REPLY"])),
        8 | 9 => {
            let which = d.pick(&["ctorigsrc", "ctorigdst", "ctreplsrc", "ctrepldst"]);
            format!("-m conntrack {not}--{which} {}", prefix(d, place.net))
        }
        10 => {
            let protocol = d.pick(&["6", "17", "1", "58", "47"]);
            format!("-m conntrack {not}--ctproto {protocol}")
        }
        11 => {
            // Ports that the gateway draws are in the reply's tuple.
            let which = d.pick(&["ctorigsrcport", "ctorigdstport", "ctreplsrcport"]);
            let protocol = d.pick(&["6", "17"]);
            format!("-m conntrack --ctproto {protocol} {not}--{which} {}", ports(d))
        }
        12 => format!("-m connmark {not}--mark {}", mark(d)),
        13 => format!("-m mark {not}--mark {}", mark(d)),
        14 => {
            let direction = d.pick(&["original", "reply", "both"]);
            let mode = d.pick(&["packets", "bytes", "avgpkt"]);
            let range = d.pick(&["0:1", "2:", "2:3", "100:", "0:0", "60:400"]);
            format!(
                "-m connbytes {not}--connbytes {range} --connbytes-mode {mode} --connbytes-dir {direction}"
            )
        }
        _ => format!("-m helper {not}--helper {}", d.pick(&["ftp", "sip", "tftp-69"])),
    }
}

/// What every packet has.
fn of_header(d: &mut Dice, net: Net) -> String {
    let not = d.not();
    match d.below(15) {
        0 => format!(
            "-m length {not}--length {}",
            d.pick(&["0:60", "28", "40", "41:100", "60", "100:", ":1500", "1500:65535"])
        ),
        1 => {
            let how = d.pick(&["eq", "lt", "gt"]);
            let not = if how == "eq" { not } else { "" };
            let name = if net == Net::V4 { "ttl" } else { "hl" };
            format!("-m {name} {not}--{name}-{how} {}", d.pick(&[0, 1, 2, 62, 63, 64, 128, 255]))
        }
        2 => format!(
            "-m tos {not}--tos {}",
            d.pick(&["0", "0x10", "0x10/0x3f", "0xff/0x03", "0x00/0x03", "Minimize-Delay"])
        ),
        3 => format!("-m dscp {not}--dscp {}", d.pick(&["0", "0x2e", "0x08", "0x3f", "4"])),
        4 => format!("-m dscp {not}--dscp-class {}", d.pick(&["EF", "CS1", "AF11", "BE"])),
        5 => format!("-m ecn {not}--ecn-ip-ect {}", d.pick(&[0, 1, 2, 3])),
        6 | 7 => {
            let (a, b) = (any(d, net), any(d, net));
            let (low, high) = in_order(a, b);
            format!("-m iprange {not}--{}-range {low}-{high}", d.pick(&["src", "dst"]))
        }
        8 | 9 => {
            let types =
                d.some(&["UNICAST", "LOCAL", "BROADCAST", "MULTICAST", "UNSPEC", "ANYCAST"]);
            let types = if net == Net::V4 { types } else { d.pick(&V6_TYPES).to_owned() };
            format!("-m addrtype {not}--{}-type {types}", d.pick(&["src", "dst"]))
        }
        10 => {
            format!("-m pkttype {not}--pkt-type {}", d.pick(&["unicast", "broadcast", "multicast"]))
        }
        11 => {
            let what = d.pick(&[
                "--string GET",
                "--string get --icase",
                "--hex-string \"|0405|\"",
                "--hex-string \"|00|\"",
                "! --string GET",
                "--from 20 --to 40 --string GET",
                "--from 28 --hex-string \"|000102|\"",
                "--to 30 --hex-string \"|0102|\"",
            ]);
            let algorithm = d.pick(&["bm", "kmp"]);
            format!("-m string --algo {algorithm} {what}")
        }
        12 => format!("-m u32 {not}--u32 \"{}\"", d.pick(u32_tests(net))),
        13 => "-m length --length 0".to_owned(),
        _ if net == Net::V6 => match d.below(2) {
            0 => format!("-m frag --fragid {}", d.pick(&["0", "43981", "0:4294967295"])),
            _ => d
                .pick(&["-m frag --fragfirst", "-m frag --fragmore", "-m frag --fraglast"])
                .to_owned(),
        },
        _ => format!("-m dscp {not}--dscp-class CS5"),
    }
}

const V6_TYPES: [&str; 4] = ["UNICAST", "LOCAL", "MULTICAST", "UNICAST,LOCAL"];

fn u32_tests(net: Net) -> &'static [&'static str] {
    if net == Net::V4 {
        &[
            "0>>16&0xFF=0x0:0x10",
            "6&0xFF=6",
            "6&0xFF=0x1,0x11",
            "0>>22&0x3C@0>>16=80:1025",
            "0>>22&0x3C@12>>26&0x3C@0=0x47455420",
            "4&0x3FFF=0",
            "12=0xC0A80002 && 16&0xFF=10",
            "100=1",
        ]
    } else {
        &["4>>16=0:100", "4>>8&0xFF=6,17", "40>>16=80:1025", "0>>28=6", "200=1"]
    }
}

fn in_order<'a>(a: &'a str, b: &'a str) -> (&'a str, &'a str) {
    let address = |text: &str| text.parse::<std::net::IpAddr>().ok();
    if address(a) <= address(b) { (a, b) } else { (b, a) }
}

/// What only some hooks know.
fn of_place(d: &mut Dice, place: &Place) -> Option<String> {
    let (not, hook) = (d.not(), place.hook?);
    let inward = matches!(hook, "PREROUTING" | "INPUT" | "FORWARD");
    let before_routing = hook == "PREROUTING" && matches!(place.table, "raw" | "mangle");
    Some(match d.below(9) {
        0 | 1 if before_routing => {
            let options = d.pick(&["", " --loose", " --accept-local", " --loose --validmark"]);
            format!("-m rpfilter{options}{}", d.pick(&["", " --invert"]))
        }
        2 if inward => {
            let address = d.pick(&["02:00:00:00:01:02", "02:00:00:00:03:02", "02:00:00:00:02:09"]);
            format!("-m mac {not}--mac-source {address}")
        }
        3 if inward && place.net == Net::V4 => {
            let (side, kind) =
                (d.pick(&["src", "dst"]), d.pick(&["UNICAST", "LOCAL", "BROADCAST"]));
            format!("-m addrtype --{side}-type {kind} --limit-iface-in")
        }
        4 if !inward => d.pick(&["-m owner --gid-owner 7", "-m owner --uid-owner 5"]).to_owned(),
        // iproute2's names of realms would be printed for some numbers.
        5 if hook != "PREROUTING" => {
            format!("-m realm {not}--realm {}", d.pick(&["0x99", "0x77", "0x99/0xff"]))
        }
        6 if inward && place.net == Net::V6 => "-m eui64".to_owned(),
        7 if inward && hook != "FORWARD" => "-m policy --dir in --pol none".to_owned(),
        7 if !inward => "-m policy --dir out --pol none".to_owned(),
        8 => format!(
            "-m physdev {not}{}",
            d.pick(&["--physdev-is-in", "--physdev-in eth0", "--physdev-is-bridged"])
        ),
        _ => return None,
    })
}

/// What depends on earlier packets.
fn remembering(d: &mut Dice) -> String {
    let not = d.not();
    let many = d.within(1, 4);
    match d.below(9) {
        0 | 1 => format!("-m limit --limit 1/hour --limit-burst {many}"),
        2 => {
            let mode = d.some(&["srcip", "srcport", "dstip", "dstport"]);
            let how = d.pick(&["upto", "above"]);
            let name = d.below(1_000_000);
            let mask = d.pick(&["", " --hashlimit-srcmask 24", " --hashlimit-dstmask 31"]);
            format!(
                "-m hashlimit --hashlimit-{how} 1/hour --hashlimit-burst {many} --hashlimit-mode {mode} --hashlimit-name h{name}{mask}"
            )
        }
        3..6 => {
            let what = match d.below(8) {
                0..3 => format!("{not}--set"),
                3 => format!("{not}--rcheck"),
                4 => format!("{not}--rcheck --seconds 3600 --hitcount {many}"),
                5 => format!("{not}--update --seconds 3600 --hitcount {many} --rttl"),
                6 => format!("{not}--update --hitcount {many}"),
                _ => format!("{not}--remove"),
            };
            let side = d.pick(&["rsource", "rsource", "rdest"]);
            format!("-m recent {what} --name {} --{side}", d.pick(&["A", "B", "DEFAULT"]))
        }
        6 => {
            format!("-m statistic --mode nth {not}--every {} --packet {}", many + 1, d.below(many))
        }
        // connlimit counts what it hasn't looked at for a jiffy.
        _ => format!("-m quota {not}--quota {}", d.pick(&[0, 50, 100, 300, 1000])),
    }
}
