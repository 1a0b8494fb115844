//! Expectations: connections that a helper has read about and that haven't begun yet.

use super::entry::{Moment, Side, has_ports, protocol_name};
use super::events::What;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use tidegate_nat::{Conntrack, Expectation, Tuple};
use tidegate_packet::protocol;

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
    /// That connection's protocol.
    pub master_protocol: u8,
    /// It stays when its connection comes.
    #[serde(default)]
    pub permanent: bool,
    /// It doesn't count yet.
    #[serde(default)]
    pub inactive: bool,
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
        Some(Self::with_master(expectation, &table.get(expectation.master)?.original(), moment))
    }

    /// The same by its master's original direction.
    pub fn with_master(expectation: &Expectation, master: &Tuple, moment: Moment) -> Self {
        let (master_protocol, master) = (master.protocol, Side::of(master, None));
        let tuple = &expectation.tuple;
        let side =
            |src, dst, sport, dport| Side { src, dst, sport, dport, counters: None, zone: None };
        let (src, dst) = (tuple.src.to_ip(), tuple.dst.to_ip());
        let [none, all]: [IpAddr; 2] = match src {
            IpAddr::V4(_) => [Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::BROADCAST.into()],
            IpAddr::V6(_) => [Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::from_bits(u128::MAX).into()],
        };
        let any = |any: bool| if any { 0 } else { u16::MAX };
        Self {
            timeout: (expectation.deadline - moment.now).as_secs(),
            protocol: tuple.protocol,
            tuple: side(src, dst, tuple.sport, tuple.dport),
            mask: side(
                if expectation.any_source { none } else { all },
                all,
                any(expectation.any_sport),
                u16::MAX,
            ),
            master,
            master_protocol,
            permanent: expectation.permanent,
            inactive: expectation.inactive,
            class: expectation.class,
            helper: expectation.helper.name().to_owned(),
        }
    }

    /// The plain form of what happened to it, without a newline.
    pub fn event_line(&self, what: What) -> String {
        let head = if what == What::New { "    [NEW]" } else { "[DESTROY]" };
        format!("{head} {}", self.line())
    }

    /// The same as XML. `at`: when, if that is to be shown, in nanoseconds since 1970.
    pub fn event_xml(&self, what: What, at: Option<u64>) -> String {
        let kind = if what == What::New { "new" } else { "destroy" };
        let when = at.map(crate::ctime::when).unwrap_or_default();
        let text = self.xml().replacen("<flow>", &format!("<flow type=\"{kind}\">"), 1);
        text.replacen("</meta></flow>", &format!("{when}</meta></flow>"), 1)
    }

    /// Each of its three tuples with its protocol.
    fn tuples(&self) -> [(&'static str, &Side, u8); 3] {
        let Self { protocol, tuple, mask, master, master_protocol, .. } = self;
        [
            ("expected", tuple, *protocol),
            ("mask", mask, *protocol),
            ("master", master, *master_protocol),
        ]
    }

    /// The plain form, without a newline.
    pub fn line(&self) -> String {
        let Self { timeout, protocol, class, helper, .. } = self;
        let mut text = format!("{timeout} proto={protocol} ");
        for (name, Side { src, dst, sport, dport, .. }, protocol) in self.tuples() {
            let before = if name == "expected" { String::new() } else { format!("{name}-") };
            // Writing into a string can't fail.
            let _ = write!(text, "{before}src={src} {before}dst={dst} ");
            if protocol == protocol::GRE {
                let _ = write!(text, "srckey=0x{sport:x} dstkey=0x{dport:x} ");
            } else if has_ports(protocol) {
                let _ = write!(text, "sport={sport} dport={dport} ");
            }
        }
        let flags = [(self.permanent, "PERMANENT"), (self.inactive, "INACTIVE")];
        let flags: Vec<&str> = flags.iter().filter(|(is, _)| *is).map(|(_, name)| *name).collect();
        if !flags.is_empty() {
            let _ = write!(text, "{} ", flags.join(","));
        }
        let _ = write!(text, "class={class} helper={helper}");
        text
    }

    /// The form of `-o xml`, without a newline.
    pub fn xml(&self) -> String {
        let Self { timeout, protocol, tuple, class, helper, .. } = self;
        let (number, family) = if tuple.src.is_ipv4() { (2, "ipv4") } else { (10, "ipv6") };
        let mut text = format!("<flow><layer3 protonum=\"{number}\" protoname=\"{family}\">");
        for (name, Side { src, dst, .. }, _) in self.tuples() {
            let _ = write!(text, "<{name}><src>{src}</src><dst>{dst}</dst></{name}>");
        }
        let name = protocol_name(*protocol);
        let _ = write!(text, "</layer3><layer4 protonum=\"{protocol}\" protoname=\"{name}\">");
        for (name, Side { sport, dport, .. }, protocol) in self.tuples() {
            let _ = if protocol == protocol::GRE {
                write!(
                    text,
                    "<{name}><srckey>0x{sport:x}</srckey><dstkey>0x{dport:x}</dstkey></{name}>"
                )
            } else if has_ports(protocol) {
                write!(text, "<{name}><sport>{sport}</sport><dport>{dport}</dport></{name}>")
            } else {
                Ok(())
            };
        }
        let _ = write!(
            text,
            "</layer4><meta><helper-name>{helper}</helper-name><timeout>{timeout}</timeout>\
             <class>{class}</class>"
        );
        for (is, name) in [(self.permanent, "permanent"), (self.inactive, "inactive")] {
            if is {
                let _ = write!(text, "<{name}/>");
            }
        }
        text.push_str("</meta></flow>");
        text
    }

    /// The form of `-o json`, without a newline.
    pub fn json(&self) -> String {
        self.object(None).to_string()
    }

    /// The same of what happened to it.
    pub fn event_json(&self, what: What) -> String {
        self.object(Some(what)).to_string()
    }

    fn object(&self, event: Option<What>) -> Value {
        let Self { timeout, protocol, tuple, mask, master, class, helper, .. } = self;
        let side =
            |s: &Side| json!({"src": s.src, "dst": s.dst, "sport": s.sport, "dport": s.dport});
        let mut object = json!({
            "timeout": timeout,
            "protocol": protocol_name(*protocol),
            "protonum": protocol,
            "expected": side(tuple),
            "mask": side(mask),
            "master": side(master),
            "class": class,
            "helper": helper,
        });
        if let Some(event) = event {
            object["event"] = json!(event);
        }
        object
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
            master_protocol: 6,
            permanent: false,
            inactive: false,
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
