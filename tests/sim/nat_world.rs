//! A gateway with a LAN and an uplink, and packets told in one line.

use crate::common::{addr, arriving, page_with_neighbours};
use std::time::Duration;
use tidegate::engine::Drop;
use tidegate::sim::Sim;
use tidegate_packet::builder::{self, Ip, Tcp};
use tidegate_packet::{Parsed, protocol};

/// What lets strangers in whom a mapping lets in.
pub const DOOR: &str = "-A FORWARD -i ppp0 -m conntrack --ctstate DNAT -j ACCEPT\n";

/// Hosts inside.
pub const ALICE: &str = "192.168.0.2:4000";
pub const CAROL: &str = "192.168.0.5:4000";

/// The gateway.
pub struct Nat {
    sim: Sim,
    tcp: bool,
}

impl Nat {
    /// At 203.0.`net`.1. `target` is the rule for what leaves by the uplink, `door` are further rules
    /// of the filter table.
    pub fn new(net: u8, target: &str, door: &str) -> Self {
        Self::tuned(net, target, door, "")
    }

    /// The same with kernel parameters.
    pub fn tuned(net: u8, target: &str, door: &str, sysctls: &str) -> Self {
        let outside = format!("203.0.{net}.1");
        let mut config = page_with_neighbours();
        config.interfaces[2].addresses = vec![format!("{outside}/24").parse().expect("a prefix")];
        let router = addr(&format!("203.0.{net}.2"));
        config.neighbours.push(("ppp0".into(), router, crate::common::host_mac(99)));
        config.routes.truncate(1);
        config.routes[0].via = Some(router);
        config.rules_v6.clear();
        config.sysctls = sysctls.into();
        config.rules_v4 = format!(
            "*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -o ppp0 {target}\nCOMMIT\n\
             *filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n\
             -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
             -A FORWARD ! -i ppp0 -j ACCEPT\n{door}COMMIT\n"
        );
        Self { sim: Sim::new(&config).expect("a configuration"), tcp: false }
    }

    /// The same for TCP: what is sent are SYNs.
    pub fn tcp(mut self) -> Self {
        self.tcp = true;
        self
    }

    /// Lets time pass.
    pub fn wait(&mut self, seconds: u64) {
        self.sim.advance(Duration::from_secs(seconds));
        assert!(self.sim.collect().is_empty(), "nobody has sent anything");
    }

    /// Packets dropped for this reason.
    pub fn dropped(&self, reason: Drop) -> u64 {
        self.sim.counters().dropped(reason)
    }

    /// Connections in the table.
    pub fn connections(&self) -> usize {
        self.sim.connections()
    }

    /// Endpoint-independent mappings.
    pub fn mappings(&self) -> usize {
        self.sim.engine().mappings()
    }

    /// The log lines since the last call.
    pub fn log(&mut self) -> Vec<String> {
        let lines = self.sim.engine_mut().take_log().lines;
        lines.into_iter().map(|line| line.text).collect()
    }

    /// Sends a packet into a port; answers what comes out: `eth0 A:p > B:q`.
    pub fn send(&mut self, port: &str, from: &str, to: &str) -> Option<String> {
        self.pass(port, &datagram(from, to, self.tcp))
    }

    /// The same with a packet of any kind.
    pub fn pass(&mut self, port: &str, packet: &[u8]) -> Option<String> {
        self.sim.inject(port, arriving(port, packet)).expect("a port");
        let mut out = self.sim.collect().into_iter().map(|(port, frame)| {
            let parsed = Parsed::parse(&frame.bytes[14..]).expect("a packet");
            let (sport, dport) = parsed.ports().unwrap_or_default();
            format!("{port} {}:{sport} > {}:{dport}", parsed.src, parsed.dst)
        });
        let first = out.next();
        assert_eq!(out.next(), None, "one packet makes one packet");
        first
    }

    /// Sends from inside to a host beyond the uplink; answers whom that sees.
    pub fn out(&mut self, from: &str, to: &str) -> Option<String> {
        let port = if from.starts_with("10.") { "eth1" } else { "eth0" };
        let sent = self.send(port, from, to)?;
        let seen = sent.strip_prefix("ppp0 ")?.strip_suffix(&format!(" > {to}"))?;
        Some(seen.to_owned())
    }

    /// Whether a packet from outside reaches a host inside, as one from the same sender.
    pub fn comes_in(&mut self, from: &str, to: &str, inside: &str) -> bool {
        let came = self.send("ppp0", from, to);
        let want = format!(" {from} > {inside}");
        came.is_some_and(|came| {
            assert!(came.ends_with(&want), "{came} instead of {want}");
            true
        })
    }
}

/// A datagram or a SYN.
fn datagram(from: &str, to: &str, tcp: bool) -> Vec<u8> {
    let end = |text: &str| {
        let (host, port) = text.rsplit_once(':').expect("an address and a port");
        (addr(host), port.parse::<u16>().expect("a port"))
    };
    let ((src, sport), (dst, dport)) = (end(from), end(to));
    if !tcp {
        return builder::udp(Ip::new(src, dst, protocol::UDP), sport, dport, b"hello");
    }
    let fields = Tcp { sport, dport, seq: 1000, ack: 0, flags: 2, window: 64_240, options: &[] };
    builder::tcp(Ip::new(src, dst, protocol::TCP), fields, b"")
}

/// The port of `address:port`.
pub fn port(end: &str) -> u16 {
    end.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("a port")
}
