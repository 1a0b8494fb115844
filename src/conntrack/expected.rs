//! Expectations: connections that a helper has read about and that haven't begun yet.

use super::entry::{Entry, Moment, Side, has_ports, protocol_name};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use tidegate_nat::{Conntrack, Expectation};

/// What stands before the first one in XML.
pub const HEAD: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<expect>\n";
/// What stands after the last one.
pub const TAIL: &str = "</expect>\n";

/// A connection that is expected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// Seconds until it is given up.
    pub timeout: u64,
    /// Transport protocol.
    pub protocol: u8,
    /// Its first packet.
    pub tuple: Side,
    /// Which bits of that matter.
    pub mask: Side,
    /// The original direction of the connection that announced it.
    pub master: Side,
    /// Its kind among the helper's.
    pub class: u8,
    /// Who read about it.
    pub helper: String,
}

impl Expected {
    /// All that are expected, and whose masters are still there.
    pub fn all(table: &Conntrack, moment: Moment) -> Vec<Self> {
        table.expectations().filter_map(|e| Self::of(table, e, moment)).collect()
    }

    /// One of them.
    pub fn of(table: &Conntrack, expectation: &Expectation, moment: Moment) -> Option<Self> {
        let master = table.get(expectation.master)?;
        let master = Entry::of(expectation.master, master, moment).original;
        let tuple = &expectation.tuple;
        let side =
            |src, dst, sport, dport| Side { src, dst, sport, dport, counters: None, zone: None };
        let (src, dst) = (tuple.src.to_ip(), tuple.dst.to_ip());
        let [none, all]: [IpAddr; 2] = match src {
            IpAddr::V4(_) => [Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::BROADCAST.into()],
            IpAddr::V6(_) => [Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::from_bits(u128::MAX).into()],
        };
        let any = |any: bool| if any { 0 } else { u16::MAX };
        Some(Self {
            timeout: (expectation.deadline - moment.now).as_secs(),
            protocol: tuple.protocol,
            tuple: side(src, dst, tuple.sport, tuple.dport),
            mask: side(
                if expectation.any_source { none } else { all },
                all,
                any(expectation.any_sport),
                u16::MAX,
            ),
            master: Side { counters: None, zone: None, ..master },
            class: expectation.class,
            helper: expectation.helper.name().to_owned(),
        })
    }

    /// The plain form, without a newline.
    pub fn line(&self) -> String {
        let Self { timeout, protocol, tuple, mask, master, class, helper } = self;
        let ends = |side: &Side, before: &str| {
            let Side { src, dst, sport, dport, .. } = side;
            let mut text = format!("{before}src={src} {before}dst={dst} ");
            if has_ports(*protocol) {
                // Writing into a string can't fail.
                let _ = write!(text, "sport={sport} dport={dport} ");
            }
            text
        };
        format!(
            "{timeout} proto={protocol} {}{}{}class={class} helper={helper}",
            ends(tuple, ""),
            ends(mask, "mask-"),
            ends(master, "master-")
        )
    }

    /// The form of `-o xml`, without a newline.
    pub fn xml(&self) -> String {
        let Self { timeout, protocol, tuple, mask, master, class, helper } = self;
        let (number, family) = if tuple.src.is_ipv4() { (2, "ipv4") } else { (10, "ipv6") };
        let all = [("expected", tuple), ("mask", mask), ("master", master)];
        let mut text = format!("<flow><layer3 protonum=\"{number}\" protoname=\"{family}\">");
        for (name, Side { src, dst, .. }) in all {
            let _ = write!(text, "<{name}><src>{src}</src><dst>{dst}</dst></{name}>");
        }
        let name = protocol_name(*protocol);
        let _ = write!(text, "</layer3><layer4 protonum=\"{protocol}\" protoname=\"{name}\">");
        if has_ports(*protocol) {
            for (name, Side { sport, dport, .. }) in all {
                let _ =
                    write!(text, "<{name}><sport>{sport}</sport><dport>{dport}</dport></{name}>");
            }
        }
        let _ = write!(
            text,
            "</layer4><meta><helper-name>{helper}</helper-name><timeout>{timeout}</timeout>\
             <class>{class}</class></meta></flow>"
        );
        text
    }

    /// The form of `-o json`, without a newline.
    pub fn json(&self) -> String {
        let Self { timeout, protocol, tuple, mask, master, class, helper } = self;
        let side =
            |s: &Side| json!({"src": s.src, "dst": s.dst, "sport": s.sport, "dport": s.dport});
        json!({
            "timeout": timeout,
            "protocol": protocol_name(*protocol),
            "protonum": protocol,
            "expected": side(tuple),
            "mask": side(mask),
            "master": side(master),
            "class": class,
            "helper": helper,
        })
        .to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What conntrack 1.4.7 printed on Linux 6.18.
    #[test]
    fn forms_are_the_originals() {
        let side = |a: &str, sport, dport| {
            let a: IpAddr = a.parse().unwrap();
            Side { src: a, dst: a, sport, dport, counters: None, zone: None }
        };
        let expected = Expected {
            timeout: 299,
            protocol: 6,
            tuple: side("127.0.0.1", 0, 2049),
            mask: side("255.255.255.255", 0, 65535),
            master: side("127.0.0.1", 51384, 21),
            class: 0,
            helper: "ftp".into(),
        };
        assert_eq!(
            expected.line(),
            "299 proto=6 src=127.0.0.1 dst=127.0.0.1 sport=0 dport=2049 mask-src=255.255.255.255 \
             mask-dst=255.255.255.255 sport=0 dport=65535 master-src=127.0.0.1 \
             master-dst=127.0.0.1 sport=51384 dport=21 class=0 helper=ftp"
        );
        assert_eq!(
            expected.xml(),
            "<flow><layer3 protonum=\"2\" protoname=\"ipv4\"><expected><src>127.0.0.1</src>\
             <dst>127.0.0.1</dst></expected><mask><src>255.255.255.255</src>\
             <dst>255.255.255.255</dst></mask><master><src>127.0.0.1</src><dst>127.0.0.1</dst>\
             </master></layer3><layer4 protonum=\"6\" protoname=\"tcp\"><expected>\
             <sport>0</sport><dport>2049</dport></expected><mask><sport>0</sport>\
             <dport>65535</dport></mask><master><sport>51384</sport><dport>21</dport></master>\
             </layer4><meta><helper-name>ftp</helper-name><timeout>299</timeout><class>0</class>\
             </meta></flow>"
        );
    }
}
