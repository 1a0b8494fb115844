//! The same work by one worker and by several.

use std::time::Duration;

use tidegate::lab::netns::Netns;
use tidegate::lab::traffic::bulk::{Bulk, Direction};
use tidegate::lab::traffic::service::Service;

use super::harness::{Gateway, Outcome, TWO, ask_tcp, ask_udp, at, ping, two_hosts};

pub fn one_worker() -> Outcome {
    with(1)
}

pub fn two_workers() -> Outcome {
    with(2)
}

pub fn four_workers() -> Outcome {
    with(4)
}

fn with(workers: usize) -> Outcome {
    let network = two_hosts().build()?;
    let toml = format!("workers = {workers}\n{TWO}");
    let gateway = Gateway::start(network.host("gw"), &toml, &[])?;
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
        assert_eq!(ask_udp(client, "203.0.113.2:7")?, "server sees 203.0.113.1", "{n}");
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
