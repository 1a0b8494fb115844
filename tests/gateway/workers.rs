//! The same work by one worker and by several.

use std::time::Duration;

use tidegate::lab::netns::Netns;
use tidegate::lab::traffic::bulk::{Bulk, Direction};
use tidegate::lab::traffic::service::Service;

use super::harness::{Gateway, LASTING, Outcome, TWO, ask_tcp, ask_udp_from, at, ping, two_hosts};
use super::names::Names;

pub fn one_worker() -> Outcome {
    with(1)
}

pub fn two_workers() -> Outcome {
    with(2)
}

pub fn four_workers() -> Outcome {
    with(4)
}

/// Answers of forwarded flows have their home in other shards than their connections.
const FORWARDS: &str = "*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -i wan0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 192.168.0.2:7
-A PREROUTING -i wan0 -p udp -m udp --dport 8080 -j DNAT --to-destination 192.168.0.2:7
-A POSTROUTING -o wan0 -j MASQUERADE
COMMIT
";

pub fn three_workers_forward_ports() -> Outcome {
    let network = two_hosts().build()?;
    let (client, server) = (network.host("client"), network.host("server"));
    let _service = Service::start(client, "client", 7)?;
    let toml = format!("workers = 3\n{TWO}\n[rules]\nipv4 = \"r\"\n[sysctl]\nfile = \"s\"\n");
    let files = [("r", FORWARDS), ("s", LASTING)];
    let gateway = Gateway::start(network.host("gw"), &toml, &files)?;
    let names = Names::install(&gateway, network.host("gw"))?;
    for n in 0..60 {
        let seen = ask_udp_from(server, 20_000 + n, "203.0.113.1:8080")?;
        assert_eq!(seen, "client sees 203.0.113.2", "{n}");
        assert_eq!(ask_tcp(server, "203.0.113.1:8080")?, "client sees 203.0.113.2", "{n}");
    }
    bulk(client, server, "203.0.113.2:5001")?;
    // Every shard's connections are listed, counted and deleted.
    let listed = names.done("conntrack -L -p udp --dport 8080", "")?;
    assert_eq!(listed.lines().count(), 60, "{listed}");
    let (all, counted) = (names.done("conntrack -L", "")?, names.done("conntrack -C", "")?);
    assert!(all.lines().count() >= 120, "{all}");
    assert!(counted.trim().parse::<usize>()? >= 120, "{counted}");
    names.done("conntrack -D -p udp", "")?;
    let left = names.call("conntrack -L -p udp", "")?;
    assert_eq!(left.1, "", "{left:?}");
    names.done("conntrack -F", "")?;
    assert_eq!(gateway.status()?.connections, 0);
    assert_eq!(ask_tcp(server, "203.0.113.1:8080")?, "client sees 203.0.113.2");
    gateway.stop()?;
    Ok(())
}

fn with(workers: usize) -> Outcome {
    let network = two_hosts().build()?;
    let toml = format!("workers = {workers}\n{TWO}\n[sysctl]\nfile = \"s\"\n");
    let gateway = Gateway::start(network.host("gw"), &toml, &[("s", LASTING)])?;
    assert_eq!(gateway.status()?.workers, workers);
    traffic(network.host("client"), network.host("server"))?;
    let status = gateway.status()?;
    assert!(status.connections >= 200, "{status:?}");
    let log = gateway.stop()?;
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
    Ok(())
}

/// Bulk both ways with several streams, IPv6, many connections, many datagrams.
pub fn traffic(client: &Netns, server: &Netns) -> Outcome {
    bulk(client, server, "203.0.113.2:5001")?;
    bulk(client, server, "[2001:db8:1::2]:5002")?;
    let _service = Service::start(server, "server", 7)?;
    for n in 0..100 {
        assert_eq!(ask_tcp(client, "203.0.113.2:7")?, "server sees 203.0.113.1", "{n}");
        let seen = ask_udp_from(client, 20_000 + n, "203.0.113.2:7")?;
        assert_eq!(seen, "server sees 203.0.113.1", "{n}");
    }
    assert_eq!(ping(client, "203.0.113.2")?, "reply from 203.0.113.2, TTL 63");
    Ok(())
}

/// With one stream and with several, in both directions.
pub fn bulk(client: &Netns, server: &Netns, to: &str) -> Outcome {
    for (direction, streams) in [
        (Direction::Forward, 1),
        (Direction::Reverse, 4),
        (Direction::Forward, 4),
        (Direction::Reverse, 1),
    ] {
        let time = Duration::from_millis(200);
        let (listen, connect) = (at(to), at(to));
        let bulk = Bulk { client, server, listen, connect, direction, streams, time };
        let got = bulk.run().map_err(|e| format!("{to} {direction:?}: {e}"))?;
        assert!(got.intact, "{to} {direction:?}");
        assert!(got.bytes > 0, "{to} {direction:?}: {got:?}");
    }
    Ok(())
}
