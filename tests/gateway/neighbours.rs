//! Finding the hosts on a link.

use std::net::UdpSocket;
use std::time::Duration;

use tidegate::lab::traffic::service::Service;
use tidegate::lab::traffic::udp::{self, Probe};
use tidegate::lab::traffic::{Answer, Failure};
use tidegate_packet::MacAddr;

use super::harness::{DEADLINE, Gateway, OPEN, Outcome, TWO, ask_udp, at, knock, two_hosts, wait};

/// As many packets as wait for a host that hasn't been asked for yet.
const QUEUE: usize = 16;

fn open(toml: &str) -> (String, [(&'static str, &'static str); 2]) {
    (format!("{toml}\n[rules]\nipv4 = \"v4\"\nipv6 = \"v6\"\n"), [("v4", OPEN), ("v6", OPEN)])
}

pub fn a_burst_waits_for_resolution() -> Outcome {
    let network = two_hosts().route("server", "192.168.0.0/24", "203.0.113.1").build()?;
    let (client, server) = (network.host("client"), network.host("server"));
    // With several workers one may send a packet on while another still sends those that have waited.
    let (toml, files) = open(&format!("workers = 1\n{TWO}"));
    for to in ["203.0.113.2:9000", "[2001:db8:1::2]:9000"] {
        let gateway = Gateway::start(network.host("gw"), &toml, &files)?;
        let far = server.run(|| UdpSocket::bind(at(to)))?;
        far.set_read_timeout(Some(DEADLINE / 2))?;
        let any = if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
        let near = client.run(|| UdpSocket::bind(any))?;
        // The client's own queue would lose some while it asks for the gateway.
        let own = if to.starts_with('[') { "fd00:1::1" } else { "192.168.0.1" };
        super::harness::ping(client, own)?;
        for n in 0..QUEUE as u8 {
            near.send_to(&[n], at(to))?;
        }
        let mut buffer = [0; 8];
        for n in 0..QUEUE as u8 {
            let got = far.recv_from(&mut buffer).map_err(|e| format!("{to}, packet {n}: {e}"))?;
            assert_eq!((got.0, buffer[0]), (1, n), "{to}");
        }
        gateway.stop()?;
    }
    Ok(())
}

pub fn unreachable_neighbours_are_reported() -> Outcome {
    let network = two_hosts().build()?;
    let client = network.host("client");
    let (toml, files) = open(TWO);
    let gateway = Gateway::start(network.host("gw"), &toml, &files)?;
    for (to, want) in [
        ("203.0.113.99:9", "host unreachable from 192.168.0.1"),
        ("[2001:db8:1::99]:9", "address unreachable from fd00:1::1"),
    ] {
        let probe = Probe { wait: DEADLINE, ..Probe::new(at(to)) };
        assert_eq!(client.run(|| probe.send())?.to_string(), want);
    }
    // A connection attempt ends with EHOSTUNREACH, long before it would time out.
    let tried =
        client.run(|| std::net::TcpStream::connect_timeout(&at("203.0.113.98:9"), DEADLINE));
    assert_eq!(tried.err().and_then(|e| e.raw_os_error()), Some(libc::EHOSTUNREACH));
    let drops = gateway.status()?.drops;
    assert!(drops.values().any(|n| *n > 0), "{drops:?}");
    gateway.stop()?;
    Ok(())
}

/// The server's interface is exchanged for another with the same address; it says so by speaking.
pub fn a_new_link_address_is_learnt() -> Outcome {
    let network = two_hosts().build()?;
    let (client, server) = (network.host("client"), network.host("server"));
    let _service = Service::start(server, "server", 7)?;
    let gateway = Gateway::start(network.host("gw"), TWO, &[])?;
    assert_eq!(ask_udp(client, "203.0.113.2:7")?, "server sees 203.0.113.1");
    let mut netlink = server.netlink()?;
    let eth0 = netlink.require_link("eth0")?;
    netlink.set_up(eth0.index, false)?;
    netlink.set_mac(eth0.index, MacAddr([2, 0, 0, 0, 0, 0x77]))?;
    netlink.set_up(eth0.index, true)?;
    wait("the link is up", || netlink.require_link("eth0").is_ok_and(|l| l.running))?;
    // Its ARP request for the gateway carries the new address.
    super::harness::ping(server, "203.0.113.1")?;
    assert_eq!(ask_udp(client, "203.0.113.2:7")?, "server sees 203.0.113.1");
    // Or by asking everybody for somebody else.
    netlink.set_mac(eth0.index, MacAddr([2, 0, 0, 0, 0, 0x78]))?;
    // Not for so long that the gateway asks again by itself.
    let asked = client.run(|| udp::ask_within(None, at("203.0.113.2:7"), Duration::from_secs(2)));
    let silent = matches!(asked, Err(Failure::Answer(Answer::Silence)));
    assert!(silent, "the old address isn't heard: {asked:?}");
    knock(server, "203.0.113.50:7")?;
    assert_eq!(ask_udp(client, "203.0.113.2:7")?, "server sees 203.0.113.1");
    assert_eq!(knock(client, "203.0.113.2:7")?, "reply from 203.0.113.2");
    gateway.stop()?;
    Ok(())
}
