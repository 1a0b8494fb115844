//! The gateway and the packets that the benchmarks are about.

#![allow(dead_code)]

use std::fmt::Write as _;
use std::io;
use std::os::fd::BorrowedFd;

use tidegate::engine::{Fate, OwnedFrame, PortId};
use tidegate::gateway::Gateway;
use tidegate::io::{BURST, Frame, Outgoing, Receive};
use tidegate::sim::{Sim, SimConfig, SimInterface, SimRoute};
use tidegate_packet::builder::{self, Ip, Tcp};
use tidegate_packet::{Addr, Instant, MacAddr, ethernet, protocol, tcp};

const ROUTER: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
const LAN: MacAddr = MacAddr([2, 0, 0, 0, 1, 0]);
const WAN: MacAddr = MacAddr([2, 0, 0, 0, 1, 1]);
/// The page's rules, with MASQUERADE.
pub const RULES: &str = include_str!("../../src/lab/rules/iptables.rules");
/// What a gateway's clock shows at the beginning.
const NOW: Instant = Instant::from_secs(3600);
/// Ports of a client.
const PORTS: u32 = 50_000;
/// Most flows.
pub const FLOWS_MAX: u32 = 20 * PORTS;

/// An address.
pub fn addr(text: &str) -> Addr {
    text.parse().expect("an address")
}

fn client(flow: u32) -> (Addr, MacAddr) {
    let host = (flow / PORTS) as u8 + 2;
    (Addr::from_v4_bytes([192, 168, 0, host]), MacAddr([2, 0, 0, 0, 0, host]))
}

fn server(flow: u32) -> Addr {
    Addr::from_v4_bytes([198, 51, 100, (flow / PORTS) as u8 + 10])
}

fn port(flow: u32) -> u16 {
    1024 + (flow % PORTS) as u16
}

/// Flow `flow`'s datagram to its server.
pub fn datagram(flow: u32) -> Vec<u8> {
    let ip = Ip::new(client(flow).0, server(flow), protocol::UDP);
    builder::udp(ip, port(flow), 5002, &[b't'; 18])
}

fn frame(dst: MacAddr, src: MacAddr, packet: &[u8]) -> OwnedFrame {
    let mut bytes = vec![0; ethernet::HEADER_LEN];
    ethernet::write(&mut bytes, dst, src, ethernet::IPV4);
    bytes.extend_from_slice(packet);
    OwnedFrame::new(&bytes)
}

/// The same as the LAN's port receives it.
pub fn request(flow: u32) -> OwnedFrame {
    frame(LAN, client(flow).1, &datagram(flow))
}

/// Its answer as the uplink's port receives it.
fn answer(flow: u32) -> OwnedFrame {
    let ip = Ip::new(server(flow), addr("203.0.113.1"), protocol::UDP);
    frame(WAN, ROUTER, &builder::udp(ip, 5002, port(flow), &[b'u'; 18]))
}

/// The page's rules, with others before those of FORWARD that no packet here matches.
pub fn rules_behind(others: usize) -> String {
    let mut text = String::new();
    let mut placed = false;
    for line in RULES.lines() {
        if line.starts_with("-A FORWARD") && !placed {
            placed = true;
            for n in 0..others {
                let (a, b) = (n >> 8, n & 0xff);
                text +=
                    &format!("-A FORWARD -s 10.9.{a}.{b}/32 -p udp --dport {} -j DROP\n", n + 1);
            }
        }
        text += line;
        text.push('\n');
    }
    assert!(placed, "rules in FORWARD");
    text
}

/// A gateway with these rules and nothing in its tables.
pub fn gateway(rules: &str) -> Sim {
    let interface = |name: &str, mac, address: &str| {
        SimInterface::new(name, mac, &[address.parse().expect("a prefix")])
    };
    let mut neighbours = vec![("ppp0".into(), addr("203.0.113.2"), ROUTER)];
    neighbours.extend((0..FLOWS_MAX).step_by(PORTS as usize).map(|flow| {
        let (addr, mac) = client(flow);
        ("eth0".to_owned(), addr, mac)
    }));
    let config = SimConfig {
        interfaces: vec![
            interface("eth0", LAN, "192.168.0.1/24"),
            interface("ppp0", WAN, "203.0.113.1/24"),
        ],
        routes: vec![SimRoute {
            to: "0.0.0.0/0".parse().expect("a prefix"),
            via: Some(addr("203.0.113.2")),
            dev: None,
        }],
        neighbours,
        rules_v4: rules.into(),
        sysctls: "net.netfilter.nf_conntrack_max = 2000000\n".into(),
        ..SimConfig::default()
    };
    Sim::new(&config).expect("a gateway")
}

/// Sends a packet of a flow; it has to leave.
pub fn send(sim: &mut Sim, flow: &mut OwnedFrame) {
    assert_ne!(sim.input(PortId(0), flow.frame()), Fate::Consumed);
}

/// A gateway with so many established flows, each of which has gone both ways twice.
pub fn established(rules: &str, flows: u32) -> Sim {
    let mut sim = gateway(rules);
    for _ in 0..2 {
        for flow in 0..flows {
            send(&mut sim, &mut request(flow));
            assert_ne!(sim.input(PortId(1), answer(flow).frame()), Fate::Consumed);
        }
    }
    sim
}

fn segment(
    src: Addr,
    dst: Addr,
    [sport, dport]: [u16; 2],
    flags: u8,
    [seq, ack]: [u32; 2],
) -> Vec<u8> {
    // A timestamp, as nearly all segments have.
    let options = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 1];
    let tcp = Tcp { sport, dport, seq, ack, flags, window: 512, options: &options };
    builder::tcp(
        Ip::new(src, dst, protocol::TCP),
        tcp,
        if flags & tcp::SYN == 0 { b"ab" } else { b"" },
    )
}

/// A segment of TCP connection `flow` as the LAN's port receives it.
pub fn segment_out(flow: u32, flags: u8, numbers: [u32; 2]) -> OwnedFrame {
    let (addr, mac) = client(flow);
    frame(LAN, mac, &segment(addr, server(flow), [port(flow), 80], flags, numbers))
}

/// A segment of data of an established TCP connection.
pub fn data(flow: u32) -> OwnedFrame {
    segment_out(flow, tcp::ACK, [1001, 5001])
}

/// A gateway with so many established TCP connections.
pub fn connected(rules: &str, flows: u32) -> Sim {
    let mut sim = gateway(rules);
    for flow in 0..flows {
        send(&mut sim, &mut segment_out(flow, tcp::SYN, [1000, 0]));
        let ends = (server(flow), addr("203.0.113.1"));
        let back = segment(ends.0, ends.1, [80, port(flow)], tcp::SYN | tcp::ACK, [5000, 1001]);
        let mut back = frame(WAN, ROUTER, &back);
        assert_ne!(sim.input(PortId(1), back.frame()), Fate::Consumed);
        for _ in 0..2 {
            send(&mut sim, &mut data(flow));
        }
    }
    sim
}

/// Frames that the LAN's port has received, to be taken in burst by burst as a worker does.
pub struct Received {
    /// All of them.
    pub frames: Vec<OwnedFrame>,
    first: usize,
}

impl Received {
    /// Around frames.
    pub fn new(frames: Vec<OwnedFrame>) -> Self {
        Self { frames, first: 0 }
    }

    /// Sends them all; they have to leave.
    pub fn send(&mut self, gateway: &Gateway) {
        for first in (0..self.frames.len()).step_by(BURST) {
            self.first = first;
            let fates = &mut [Fate::Consumed; BURST];
            let fates = &mut fates[..BURST.min(self.frames.len() - first)];
            gateway.burst(0, NOW, 0).inputs(PortId(0), self, fates);
            assert!(!fates.contains(&Fate::Consumed));
        }
    }
}

impl Receive for Received {
    fn receive(&mut self) -> io::Result<usize> {
        Ok(0)
    }

    fn frame(&mut self, index: usize) -> Frame<'_> {
        self.frames[self.first + index].frame()
    }

    fn sent(&self, index: usize) -> Outgoing<'_> {
        let frame = &self.frames[self.first + index];
        Outgoing { bytes: frame.bytes(), offload: frame.meta.offload }
    }

    fn release(&mut self) {}

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Numbers below `flows`, each once, in no order.
pub fn shuffled(flows: u32) -> impl Iterator<Item = u32> {
    // A prime that divides no number of flows here.
    let mut at = 0;
    (0..flows).map(move |_| {
        at = (u64::from(at) + 618_033_989) as u32 % flows;
        at
    })
}

/// So many rules such as people have: three quarters in filter, with chains, the rest in nat.
pub fn many_rules(count: usize) -> String {
    let mut text = String::from("*filter\n");
    for chain in 0..16 {
        let _ = writeln!(text, ":chain{chain} - [0:0]");
    }
    let filter = count * 3 / 4;
    for i in 0..filter {
        let addr = format!("10.{}.{}.{}", i >> 16 & 255, i >> 8 & 255, i & 255);
        let (chain, port) = (i % 16, i % 65535 + 1);
        let _ = match i % 4 {
            0 => writeln!(
                text,
                "-A FORWARD -s {addr}/32 -i lan0 -p tcp -m tcp --dport {port} -j ACCEPT"
            ),
            1 => {
                writeln!(text, "-A FORWARD -d {addr}/32 -m conntrack --ctstate NEW -j chain{chain}")
            }
            2 => writeln!(
                text,
                "-A chain{chain} -s {addr}/32 -p udp -m multiport --dports 53,{port} -j DROP"
            ),
            _ => writeln!(
                text,
                "-A chain{chain} -d {addr}/32 -m comment --comment \"rule {i}\" -j RETURN"
            ),
        };
    }
    text.push_str("COMMIT\n*nat\n");
    for i in filter..count {
        let _ = writeln!(
            text,
            "-A PREROUTING -d 203.0.113.1/32 -p tcp -m tcp --dport {} -j DNAT --to-destination 10.0.{}.{}:80",
            i % 65535 + 1,
            i >> 8 & 255,
            i & 255
        );
    }
    text.push_str("COMMIT\n");
    text
}
