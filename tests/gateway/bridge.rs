//! Several ports that form one LAN.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use tidegate::io::{Offload, Outgoing, Receive, Transmit, af_packet};
use tidegate::lab::netns::Netns;
use tidegate::lab::topology::{End, Network, Topology};
use tidegate::lab::traffic::service::Service;
use tidegate_packet::MacAddr;

use super::harness::{DEADLINE, Gateway, Outcome, Tried, ask_tcp, ask_udp, ping};

const HOSTS: [&str; 3] = ["a", "b", "c"];

/// Three hosts at ports of `gw`, and a server behind an uplink.
fn topology() -> Topology {
    let mut topology = Topology::new()
        .host("gw")
        .host("server")
        .link(End::new("server", "eth0").address("203.0.113.2/24"), End::new("gw", "wan0"));
    for (n, name) in HOSTS.iter().enumerate() {
        let n = n + 2;
        topology = topology
            .host(name)
            .link(
                End::new(name, "eth0")
                    .address(&format!("192.168.0.{n}/24"))
                    .address(&format!("fd00:1::{n}/64"))
                    .mac(mac(n as u8)),
                End::new("gw", &format!("port{n}")),
            )
            .route(name, "default", "192.168.0.1")
            .route(name, "default", "fd00:1::1");
    }
    topology
}

fn mac(n: u8) -> MacAddr {
    MacAddr([2, 0xa, 0, 0, 0, n])
}

const CONFIG: &str = r#"
[[interface]]
name = "br0"
kind = "bridge"
ports = ["port2", "port3", "port4"]
address = ["192.168.0.1/24", "fd00:1::1/64"]
[[interface]]
name = "wan0"
address = ["203.0.113.1/24"]
[[route]]
to = "0.0.0.0/0"
via = "203.0.113.2"
[rules]
ipv4 = "v4"
"#;

/// Only what comes by the bridge's name passes.
const RULES: &str = "*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -i br0 -j ACCEPT
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -i br0 -o wan0 -j ACCEPT
COMMIT
*nat
:POSTROUTING ACCEPT [0:0]
-A POSTROUTING -o wan0 -j MASQUERADE
COMMIT
";

fn start() -> Tried<(Network, Gateway)> {
    let network = topology().build()?;
    let gateway = Gateway::start(network.host("gw"), CONFIG, &[("v4", RULES)])?;
    Ok((network, gateway))
}

pub fn ports_form_one_lan() -> Outcome {
    let (network, gateway) = start()?;
    let services = HOSTS.map(|n| Service::start(network.host(n), n, 7));
    let _services = services.into_iter().collect::<Result<Vec<_>, _>>()?;
    let _server = Service::start(network.host("server"), "server", 7)?;
    for (i, from) in HOSTS.iter().enumerate() {
        let host = network.host(from);
        for (j, to) in HOSTS.iter().enumerate().filter(|(j, _)| *j != i) {
            let (own, other) = (i + 2, j + 2);
            // One network: nobody has decremented the TTL.
            let pong = format!("reply from 192.168.0.{other}, TTL 64");
            assert_eq!(ping(host, &format!("192.168.0.{other}"))?, pong);
            let want = format!("{to} sees 192.168.0.{own}");
            assert_eq!(ask_tcp(host, &format!("192.168.0.{other}:7"))?, want);
            // Neighbour discovery is multicast.
            let want = format!("{to} sees fd00:1::{own}");
            assert_eq!(ask_udp(host, &format!("[fd00:1::{other}]:7"))?, want);
        }
        assert_eq!(ping(host, "192.168.0.1")?, "reply from 192.168.0.1, TTL 64", "{from}");
        assert_eq!(ping(host, "fd00:1::1")?, "reply from fd00:1::1", "{from}");
        assert_eq!(ask_tcp(host, "203.0.113.2:7")?, "server sees 203.0.113.1", "{from}");
        assert_eq!(ask_udp(host, "203.0.113.2:7")?, "server sees 203.0.113.1", "{from}");
    }
    gateway.stop()?;
    Ok(())
}

/// A packet socket at a host.
struct Tap {
    receive: Box<dyn Receive>,
    transmit: Box<dyn Transmit>,
    /// Frames that have come and weren't asked for yet.
    pending: Vec<Vec<u8>>,
}

impl Tap {
    fn at(host: &Netns) -> Tried<Self> {
        let options = af_packet::Options { promiscuous: true, ..Default::default() };
        let (receive, transmit) = host.run(|| af_packet::open("eth0", &options))?;
        Ok(Self { receive: Box::new(receive), transmit: Box::new(transmit), pending: Vec::new() })
    }

    fn send(&mut self, frame: &[u8]) -> Outcome {
        let outgoing = Outgoing { bytes: frame, offload: Offload::default() };
        let sent = self.transmit.send(&mut std::iter::once(outgoing))?;
        assert_eq!((sent.frames, sent.refused), (1, 0));
        Ok(())
    }

    /// The frames of our protocol (an experimental EtherType, tagged or not) that have come.
    fn drain(&mut self, found: &mut Vec<Vec<u8>>) -> Outcome {
        loop {
            let frames = self.receive.receive()?;
            for index in 0..frames {
                let mut frame = self.receive.frame(index);
                frame.restore_vlan();
                if frame.bytes().windows(2).skip(12).step_by(2).take(5).any(|w| w == TYPE) {
                    found.push(frame.bytes().to_vec());
                }
            }
            self.receive.release();
            if frames == 0 {
                return Ok(());
            }
        }
    }

    /// Waits until the frame is here; says which of ours came before it.
    fn until(&mut self, last: &[u8]) -> Tried<Vec<Vec<u8>>> {
        let (mut found, started) = (std::mem::take(&mut self.pending), Instant::now());
        while started.elapsed() < DEADLINE {
            self.drain(&mut found)?;
            if let Some(at) = found.iter().position(|f| f == last) {
                self.pending = found.split_off(at + 1);
                found.pop();
                return Ok(found);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Err(format!("{last:02x?} didn't come, but {found:02x?}").into())
    }
}

/// Local Experimental EtherType 1 (RFC 9542).
const TYPE: [u8; 2] = [0x88, 0xb5];

fn frame(to: MacAddr, from: MacAddr, tags: &[u8], mark: u8) -> Vec<u8> {
    let mut frame = [to.0, from.0].concat();
    frame.extend(tags);
    frame.extend(TYPE);
    frame.extend([mark; 60]);
    frame
}

pub fn frames_cross_intact() -> Outcome {
    let (network, gateway) = start()?;
    let [mut a, mut b, mut c] =
        [Tap::at(network.host("a"))?, Tap::at(network.host("b"))?, Tap::at(network.host("c"))?];
    let tags: [&[u8]; 5] = [
        &[],
        &[0x81, 0, 0, 42],
        // With priority and the drop bit.
        &[0x81, 0, 0xb0, 7],
        // Priority only.
        &[0x81, 0, 0xe0, 0],
        // A service tag around a customer's.
        &[0x88, 0xa8, 0, 9, 0x81, 0, 0, 42],
    ];
    for (n, tags) in tags.iter().enumerate() {
        for to in [MacAddr::BROADCAST, MacAddr([1, 0, 0x5e, 0, 0, 9]), MacAddr([2, 9, 9, 9, 9, 9])]
        {
            let sent = frame(to, mac(2), tags, n as u8);
            a.send(&sent)?;
            assert!(b.until(&sent)?.is_empty(), "{sent:02x?}");
            assert!(c.until(&sent)?.is_empty(), "{sent:02x?}");
        }
    }
    // Nothing came back to where it was from.
    let mut back = Vec::new();
    a.drain(&mut back)?;
    assert_eq!(back, Vec::<Vec<u8>>::new());
    gateway.stop()?;
    Ok(())
}

pub fn unknown_stations_are_flooded_and_known_ones_are_not() -> Outcome {
    let (network, gateway) = start()?;
    let [mut a, mut b, mut c] =
        [Tap::at(network.host("a"))?, Tap::at(network.host("b"))?, Tap::at(network.host("c"))?];
    // Stations that no kernel has: only our frames speak for them.
    let (one, two) = (MacAddr([2, 0xb, 0, 0, 0, 1]), MacAddr([2, 0xb, 0, 0, 0, 2]));
    let end = frame(MacAddr::BROADCAST, one, &[], 99);
    let unknown = frame(two, one, &[], 1);
    a.send(&unknown)?;
    a.send(&end)?;
    assert_eq!(b.until(&end)?, std::slice::from_ref(&unknown));
    assert_eq!(c.until(&end)?, [unknown]);
    // `two` speaks behind b: the answer goes to a alone, and so do later frames the other way.
    let answer = frame(one, two, &[], 2);
    b.send(&answer)?;
    let end_b = frame(MacAddr::BROADCAST, two, &[], 98);
    b.send(&end_b)?;
    assert_eq!(a.until(&end_b)?, [answer]);
    assert!(c.until(&end_b)?.is_empty());
    let known = frame(two, one, &[0x81, 0, 0, 5], 3);
    a.send(&known)?;
    a.send(&end)?;
    assert_eq!(b.until(&end)?, [known]);
    assert!(c.until(&end)?.is_empty());
    // It moves to c.
    c.send(&end_b)?;
    assert!(a.until(&end_b)?.is_empty());
    let moved = frame(two, one, &[], 4);
    a.send(&moved)?;
    a.send(&end)?;
    assert_eq!(c.until(&end)?, [moved]);
    b.until(&end_b)?;
    assert!(b.until(&end)?.is_empty());
    // A kernel's broadcast reaches everybody.
    let ears: Vec<UdpSocket> = ["b", "c"]
        .iter()
        .map(|n| network.host(n).run(|| UdpSocket::bind("0.0.0.0:9000")))
        .collect::<Result<_, _>>()?;
    let mouth = network.host("a").run(|| UdpSocket::bind("0.0.0.0:0"))?;
    mouth.set_broadcast(true)?;
    mouth.send_to(b"all", "192.168.0.255:9000")?;
    for ear in ears {
        ear.set_read_timeout(Some(DEADLINE))?;
        assert_eq!(ear.recv_from(&mut [0; 8])?.0, 3);
    }
    gateway.stop()?;
    Ok(())
}
