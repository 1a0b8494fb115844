//! Which address out of a range: as Linux 6.18 chose in a namespace, packet by packet.

mod common;

use common::{Gateway, Rules, addr, ip, to_range};
use tidegate_nat::{Manip, Range};
use tidegate_packet::builder::udp;
use tidegate_packet::{Parsed, protocol};

/// End, `--persistent`, source, destination, chosen address.
type Row = (Manip, bool, &'static str, &'static str, &'static str);

/// `--to-source` and `--to-destination 203.0.113.20-203.0.113.29`.
#[rustfmt::skip]
const V4: &[Row] = &[
    (Manip::Source, false, "192.168.130.190", "56.14.238.199", "203.0.113.29"),
    (Manip::Source, false, "192.168.127.167", "17.80.57.96", "203.0.113.25"),
    (Manip::Source, false, "192.168.240.223", "42.194.52.147", "203.0.113.21"),
    (Manip::Source, false, "192.168.127.4", "104.110.208.72", "203.0.113.22"),
    (Manip::Source, false, "192.168.93.235", "109.199.81.196", "203.0.113.26"),
    (Manip::Source, false, "192.168.36.36", "90.227.64.34", "203.0.113.24"),
    (Manip::Source, false, "192.168.0.249", "11.107.110.246", "203.0.113.26"),
    (Manip::Source, false, "192.168.84.224", "32.148.160.247", "203.0.113.27"),
    (Manip::Source, true, "192.168.101.139", "97.104.93.241", "203.0.113.21"),
    (Manip::Source, true, "192.168.100.248", "60.152.11.93", "203.0.113.28"),
    (Manip::Source, true, "192.168.212.43", "29.135.33.85", "203.0.113.21"),
    (Manip::Source, true, "192.168.154.210", "88.1.173.17", "203.0.113.29"),
    (Manip::Source, true, "192.168.158.91", "115.156.246.179", "203.0.113.20"),
    (Manip::Source, true, "192.168.161.48", "72.241.90.15", "203.0.113.26"),
    (Manip::Source, true, "192.168.131.250", "13.183.206.5", "203.0.113.29"),
    (Manip::Source, true, "192.168.214.94", "59.4.231.12", "203.0.113.28"),
    (Manip::Destination, false, "192.168.92.160", "36.60.125.238", "203.0.113.22"),
    (Manip::Destination, false, "192.168.236.89", "76.181.128.199", "203.0.113.25"),
    (Manip::Destination, false, "192.168.236.28", "86.188.151.10", "203.0.113.25"),
    (Manip::Destination, false, "192.168.221.243", "22.106.174.132", "203.0.113.28"),
    (Manip::Destination, false, "192.168.185.236", "29.174.141.237", "203.0.113.26"),
    (Manip::Destination, false, "192.168.47.80", "98.162.156.46", "203.0.113.25"),
    (Manip::Destination, false, "192.168.40.161", "30.158.247.42", "203.0.113.26"),
    (Manip::Destination, false, "192.168.24.21", "87.207.16.61", "203.0.113.27"),
    (Manip::Destination, true, "192.168.176.212", "43.233.215.38", "203.0.113.25"),
    (Manip::Destination, true, "192.168.28.251", "92.16.252.86", "203.0.113.29"),
    (Manip::Destination, true, "192.168.106.34", "104.67.211.28", "203.0.113.25"),
    (Manip::Destination, true, "192.168.86.112", "58.76.30.217", "203.0.113.20"),
    (Manip::Destination, true, "192.168.215.76", "29.232.86.250", "203.0.113.24"),
    (Manip::Destination, true, "192.168.232.246", "73.162.245.71", "203.0.113.24"),
    (Manip::Destination, true, "192.168.149.121", "62.75.57.97", "203.0.113.25"),
    (Manip::Destination, true, "192.168.91.161", "74.173.92.23", "203.0.113.25"),
];

/// `--to-source 2001:db8:1::20-2001:db8:1::3:29`, `--to-destination` a /48.
#[rustfmt::skip]
const V6: &[Row] = &[
    (Manip::Source, false, "fd00:1::fbd5:45b7", "2600:b8ff::1028", "2001:db8:1::d950"),
    (Manip::Source, false, "fd00:1::b61e:b1d2", "2600:1192::c278", "2001:db8:1::13f8"),
    (Manip::Source, false, "fd00:1::9c84:5d0a", "2600:8fcb::d5d2", "2001:db8:1::2:59de"),
    (Manip::Source, false, "fd00:1::f8ab:43ce", "2600:9673::f4f7", "2001:db8:1::9253"),
    (Manip::Source, false, "fd00:1::ae1e:a653", "2600:5b77::94a7", "2001:db8:1::1:b206"),
    (Manip::Source, true, "fd00:1::5ed:796c", "2600:805a::536f", "2001:db8:1::2:d668"),
    (Manip::Source, true, "fd00:1::8c20:7684", "2600:93e1::d112", "2001:db8:1::bcd6"),
    (Manip::Source, true, "fd00:1::b690:590f", "2600:8c39::a4e2", "2001:db8:1::2:43cd"),
    (Manip::Source, true, "fd00:1::b0f0:bce3", "2600:d122::599d", "2001:db8:1::2:bbbe"),
    (Manip::Source, true, "fd00:1::584e:deb3", "2600:e64a::f9e4", "2001:db8:1::a849"),
    (Manip::Destination, false, "fd00:1::ba82:f4df", "2600:ab2e::84a5", "2001:db8:2:8018:9898:b8b1:2920:2029"),
    (Manip::Destination, false, "fd00:1::48a1:8783", "2600:5514::32db", "2001:db8:2:111d:c0c:faab:a7f6:f69f"),
    (Manip::Destination, false, "fd00:1::b95b:eff9", "2600:f458::486a", "2001:db8:2:aa76:dcdc:56bf:638a:8a1b"),
    (Manip::Destination, false, "fd00:1::285d:b83e", "2600:d550::2bfd", "2001:db8:2:3acd:f7f7:7ad0:278d:8d25"),
    (Manip::Destination, false, "fd00:1::d772:4d7c", "2600:8a99::b86e", "2001:db8:2:a592:3737:f94c:7bce:ce79"),
];

fn check(rows: &[Row], range: impl Fn(Manip) -> Range) {
    for &(manip, persistent, src, dst, chosen) in rows {
        let range = Some(Range { persistent, ..range(manip) });
        let rules = match manip {
            Manip::Source => Rules { snat: range, dnat: None },
            Manip::Destination => Rules { snat: None, dnat: range },
        };
        let packet = udp(ip(src, dst, protocol::UDP), 1000, 53, b"x");
        let out = Gateway::new().pass(&packet, rules).unwrap();
        let out = Parsed::parse(&out).unwrap();
        let got = if manip == Manip::Source { out.src } else { out.dst };
        assert_eq!(got, addr(chosen), "{manip:?} {persistent} {src} {dst}");
    }
}

#[test]
fn ipv4() {
    check(V4, |_| to_range("203.0.113.20", "203.0.113.29"));
}

#[test]
fn ipv6() {
    check(V6, |manip| match manip {
        Manip::Source => to_range("2001:db8:1::20", "2001:db8:1::3:29"),
        Manip::Destination => to_range("2001:db8:2::", "2001:db8:2:ffff:ffff:ffff:ffff:ffff"),
    });
}
