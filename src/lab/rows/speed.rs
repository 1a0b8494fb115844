//! How fast, and whether everything arrives as it was sent.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::super::scene::{Scene, at};
use super::super::traffic::bulk::{Bulk, Direction};
use super::super::traffic::flood::Flood;
use super::super::traffic::{PATIENCE, tcp};
use super::{Row, Seen, brief};

const SECTION: &str = "Speed";
const ESTABLISHED: &str = "FORWARD: ESTABLISHED is accepted";
const INTACT: &str = "every byte arrives, in order";
const TIME: Duration = Duration::from_secs(1);
const ECHOES: usize = 2000;
const CONNECTIONS: u32 = 200;

pub(super) fn rows() -> Vec<Row> {
    let server = at("198.51.100.10", 5001);
    let six = at("2001:db8:2::10", 5001);
    let narrow = at("100.64.0.10", 5001);
    let row = |tried: &str, host, to, direction, streams, time| {
        Row::new(SECTION, tried, ESTABLISHED, INTACT, move |s| {
            bulk(s, host, to, direction, streams, time)
        })
    };
    use Direction::{Forward, Reverse};
    vec![
        row("bulk TCP client → server", "server", server, Forward, 1, TIME),
        row("bulk TCP server → client", "server", server, Reverse, 1, TIME),
        row("bulk TCP client → server, 4 streams", "server", server, Forward, 4, TIME),
        row("bulk TCP client → server, IPv6", "server", six, Forward, 1, TIME),
        row("bulk TCP client → narrow, MTU 1400", "narrow", narrow, Forward, 1, TIME / 2),
        Row::new(
            SECTION,
            "60-byte UDP client → server",
            "fw-interfaces accepts the first, ESTABLISHED the others; all are masqueraded",
            "server sees 203.0.113.1",
            flood,
        ),
        Row::new(
            SECTION,
            format!("{ECHOES} TCP echoes client → server"),
            ESTABLISHED,
            "every one is answered",
            |s| match s.at("client", || tcp::latency(at("198.51.100.10", 7), ECHOES)) {
                Ok(tcp::Latency { p50, p99 }) => Seen::new("every one is answered")
                    .figure(format!("p50 {}, p99 {}", brief(p50), brief(p99))),
                Err(e) => Seen::new(e),
            },
        ),
        Row::new(
            SECTION,
            format!("{CONNECTIONS} TCP connections client → server"),
            "fw-interfaces accepts each; MASQUERADE finds each a port",
            "every one is made",
            |s| s.at("client", connections),
        ),
    ]
}

fn bulk(
    scene: &Scene,
    host: &str,
    to: SocketAddr,
    direction: Direction,
    streams: usize,
    time: Duration,
) -> Seen {
    let (client, server) = (scene.network.host("client"), scene.network.host(host));
    let bulk = Bulk { client, server, listen: to, connect: to, direction, streams, time };
    match bulk.run() {
        Ok(done) if done.intact && done.bytes > 0 => {
            Seen::new(INTACT).figure(format!("{:.2} Gbit/s", done.rate() / 1e9))
        }
        Ok(_) => Seen::new("bytes are lost or in disorder"),
        Err(e) => Seen::new(e),
    }
}

/// Small datagrams; how many get through depends on the machine, whose they seem to be doesn't.
fn flood(scene: &Scene) -> Seen {
    let to = at("198.51.100.10", 5002);
    let (client, server) = (scene.network.host("client"), scene.network.host("server"));
    let flood = Flood { client, server, listen: to, connect: to, size: 18, time: TIME };
    match flood.run() {
        Ok(done) => match done.from {
            None => Seen::new("nothing arrives"),
            Some((_, true)) => Seen::new("server sees several senders"),
            Some((from, false)) => Seen::new(format!("server sees {from}"))
                .figure(format!("{:.2} million a second", done.rate() / 1e6)),
        },
        Err(e) => Seen::new(e),
    }
}

fn connections() -> Seen {
    let started = Instant::now();
    for made in 0..CONNECTIONS {
        if let Err(e) = tcp::connect(None, at("198.51.100.10", 7), PATIENCE) {
            return Seen::new(format!("{made} are made, then: {e}"));
        }
    }
    let rate = f64::from(CONNECTIONS) / started.elapsed().as_secs_f64();
    Seen::new("every one is made").figure(format!("{rate:.0} a second"))
}
