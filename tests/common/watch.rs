//! Holds a gateway to its promises, frame by frame, whatever comes in.

use super::{addr, check, page_with_neighbours};
use std::collections::HashSet;
use std::time::Duration;
use tidegate::io::channel::Flying;
use tidegate::sim::{Sim, SimConfig};
use tidegate_packet::{Addr, Parsed, Prefix, ethernet, icmpv6, protocol};

/// The rulesets, by what makes each worth trying.
pub fn gateways() -> Vec<(&'static str, SimConfig)> {
    let page = page_with_neighbours();
    let nat = "*nat\n-A PREROUTING -i ppp0 -p udp -m udp --dport 9 -j DNAT --to-destination 192.168.0.6\n\
               -A PREROUTING -i ppp0 -p tcp -j DNAT --to-destination 192.168.0.5-192.168.0.6:1000-1003\n\
               -A POSTROUTING -s 192.168.0.0/24 -o ppp0 -p tcp -j MASQUERADE --to-ports 1024-1027\n\
               -A POSTROUTING -s 192.168.0.0/24 -o ppp0 -j MASQUERADE\n\
               -A POSTROUTING -s 10.3.0.0/16 -o ppp0 -j MASQUERADE\nCOMMIT\n";
    let clamp = "*mangle\n-A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu\n\
                 -A PREROUTING -m rpfilter --invert -j DROP\nCOMMIT\n";
    let notrack = "*raw\n-A PREROUTING -p udp -j NOTRACK\nCOMMIT\n";
    let reject = "*filter\n-A FORWARD -p tcp -j REJECT --reject-with tcp-reset\n-A FORWARD -j REJECT\n\
                  -A INPUT -j REJECT\nCOMMIT\n";
    let with = |rules_v4: String, rules_v6: String, sysctls: &str| SimConfig {
        rules_v4,
        rules_v6,
        sysctls: sysctls.into(),
        ..page.clone()
    };
    let mut narrow = with(format!("{nat}{clamp}"), clamp.into(), "");
    narrow.interfaces[2].mtu = 1280;
    vec![
        ("no rules", with(String::new(), String::new(), "")),
        ("translation alone", with(nat.into(), String::new(), "")),
        ("untracked UDP", with(format!("{nat}{notrack}"), notrack.into(), "")),
        ("a narrow uplink", narrow),
        ("everything refused", with(reject.into(), reject.into(), "")),
        (
            "four connections",
            with(nat.into(), String::new(), "net.netfilter.nf_conntrack_max = 4\n"),
        ),
        (
            "the page, strict sources",
            with(page.rules_v4.clone(), page.rules_v6.clone(), "net.ipv4.conf.all.rp_filter = 1\n"),
        ),
        ("the page", page),
    ]
}

/// What identifies a packet's flow to somebody who watches the wire.
type Flow = (u8, Addr, Addr, Option<(u16, u16)>);

/// Says of a packet that leaves by the uplink whether source NAT rules cover it.
pub type Covers = Box<dyn Fn(&Parsed) -> bool>;

/// Watches a gateway and holds it to its promises.
pub struct Watch {
    sim: Sim,
    /// Whether source NAT rules cover a packet that leaves by the uplink.
    covers: Covers,
    max: usize,
    /// All frames so far had right transport checksums.
    right: bool,
    /// Flows that came from outside straight to an inside address: their answers were never to
    /// be translated.
    asked_inside: HashSet<Flow>,
    /// What has left for the last frame.
    sent: Vec<(String, Flying)>,
}

impl Watch {
    /// Over a gateway made of this.
    pub fn new(config: &SimConfig) -> Self {
        Self::with_bound(config, if config.sysctls.contains("conntrack_max") { 4 } else { 262_144 })
    }

    /// The same where the table has this bound.
    pub fn with_bound(config: &SimConfig, max: usize) -> Self {
        let masquerades = config.rules_v4.contains("MASQUERADE")
            && !config.sysctls.contains("invalid_bypasses_nat");
        Self {
            sim: Sim::new(config).expect("a configuration of this file"),
            covers: Box::new(move |_| masquerades),
            max,
            right: true,
            asked_inside: HashSet::new(),
            sent: Vec::new(),
        }
    }

    /// The same where other packets are covered.
    #[must_use]
    pub fn covering(self, covers: Covers) -> Self {
        Self { covers, ..self }
    }

    /// The gateway.
    pub fn sim(&mut self) -> &mut Sim {
        &mut self.sim
    }

    /// What has left for the last frame.
    pub fn take_sent(&mut self) -> Vec<(String, Flying)> {
        std::mem::take(&mut self.sent)
    }

    /// Sends one frame in and looks at everything that this brings about.
    pub fn step(&mut self, port: &str, frame: Flying) -> Result<(), String> {
        self.right &= check::transport_is_right(&frame);
        if let Some(p) = parsed(&frame).filter(|p| inside(p.dst) && !inside(p.src)) {
            let ports = p.ports().map(|(sport, dport)| (dport, sport));
            self.asked_inside.insert((p.protocol, p.dst, p.src, ports));
        }
        let before = self.drops();
        self.sim.inject(port, frame.clone()).expect("a port of the gateway");
        let out = self.sim.collect();
        if out.len() > 80 {
            return Err(format!("{} frames for one", out.len()));
        }
        let silent = out.is_empty() && self.drops() == before;
        if silent && !self.may_be_silent(&frame) {
            return Err("neither sent, nor counted, nor kept".into());
        }
        self.look_at(&out)?;
        self.sent = out;
        Ok(())
    }

    /// Lets time pass.
    pub fn wait(&mut self, by: Duration) -> Result<(), String> {
        self.sim.advance(by);
        let out = self.sim.collect();
        self.look_at(&out)
    }

    fn drops(&self) -> u64 {
        self.sim.counters().drops().map(|(_, n)| n).sum()
    }

    /// Frames that end at the gateway without an answer: it learnt from them, or keeps them.
    fn may_be_silent(&self, frame: &Flying) -> bool {
        let Some(header) = ethernet::Header::parse(&frame.bytes) else { return false };
        if header.ethertype == ethernet::ARP {
            return true;
        }
        let Some(p) = parsed(frame) else { return false };
        p.fragment.is_some()
            || p.icmp().is_some_and(|(kind, _)| {
                p.protocol == protocol::ICMPV6 && kind == icmpv6::NEIGHBOUR_ADVERTISEMENT
            })
            || self.sim.engine().neighbours().any(|(_, _, mac)| mac.is_none())
    }

    fn look_at(&self, out: &[(String, Flying)]) -> Result<(), String> {
        for (port, frame) in out {
            let what = |why: String| format!("{port}: {why}: {:02x?}", frame.bytes);
            let Some((p, _)) = check::decodes(frame).map_err(what)? else { continue };
            if self.right && !check::transport_is_right(frame) {
                return Err(what("wrong transport checksum".into()));
            }
            if port == "ppp0" && inside(p.src) && (self.covers)(&p) && !self.was_asked(&p) {
                return Err(what(format!("{} shows outside", p.src)));
            }
        }
        let connections = self.sim.connections();
        if connections > self.max {
            return Err(format!("{connections} connections"));
        }
        Ok(())
    }

    /// An answer to somebody outside who had named the inside address himself.
    fn was_asked(&self, p: &Parsed) -> bool {
        // Of a piece behind the first the ports aren't known.
        let later = |(protocol, asked, asker, _): &Flow| {
            p.is_later_fragment() && (*protocol, *asked, *asker) == (p.protocol, p.src, p.dst)
        };
        self.asked_inside.contains(&(p.protocol, p.src, p.dst, p.ports()))
            || self.asked_inside.iter().any(later)
            || p.is_icmp_error() && self.asked_inside.iter().any(|(_, _, asker, _)| *asker == p.dst)
    }
}

/// The packet in a frame, if it decodes.
pub fn parsed(frame: &Flying) -> Option<Parsed> {
    let header = ethernet::Header::parse(&frame.bytes)?;
    Parsed::parse(&frame.bytes[header.len..]).ok()
}

/// An IPv4 address that MASQUERADE rules cover, of a host other than the gateway.
fn inside(address: Addr) -> bool {
    let lan: Prefix = "192.168.0.0/24".parse().expect("a prefix");
    let other: Prefix = "10.3.0.0/16".parse().expect("a prefix");
    let own = [addr("192.168.0.1"), addr("10.3.0.1")];
    (lan.contains(address) || other.contains(address)) && !own.contains(&address)
}
