//! Hosts of a topology reach each other.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};

use tidegate::lab::topology::{End, Network, Topology};

use super::{Outcome, PATIENCE};

/// Opens a connection, asks over it and says whom the server saw.
fn connect(
    network: &Network,
    from: &str,
    to: &str,
    address: &str,
) -> Result<IpAddr, Box<dyn std::error::Error>> {
    let listener = network.host(to).run(|| TcpListener::bind((address, 80)))?;
    let address = listener.local_addr()?;
    let mut stream = network.host(from).run(|| TcpStream::connect_timeout(&address, PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let (mut served, peer) = listener.accept()?;
    served.write_all(b"hello")?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer)?;
    assert_eq!(&answer, b"hello");
    Ok(peer.ip())
}

pub fn hosts_reach_each_other() -> Outcome {
    let network = Topology::new()
        .host("client")
        .router("middle")
        .host("server")
        .link(
            End::new("client", "eth0").address("10.0.0.2/24").address("fd00:a::2/64"),
            End::new("middle", "lan0").address("10.0.0.1/24").address("fd00:a::1/64"),
        )
        .link(
            End::new("middle", "wan0").address("198.51.100.1/24").address("fd00:b::1/64").mtu(1400),
            End::new("server", "eth0")
                .address("198.51.100.10/24")
                .address("fd00:b::2/64")
                .mtu(1400),
        )
        .route("client", "default", "10.0.0.1")
        .route("client", "default", "fd00:a::1")
        .route("server", "default", "198.51.100.1")
        .route("server", "fd00:a::/64", "fd00:b::1")
        .build()?;
    assert_eq!(network.names().collect::<Vec<_>>(), ["client", "middle", "server"]);
    assert_eq!(
        connect(&network, "client", "server", "198.51.100.10")?,
        "10.0.0.2".parse::<IpAddr>()?
    );
    assert_eq!(connect(&network, "client", "server", "fd00:b::2")?, "fd00:a::2".parse::<IpAddr>()?);
    let link = network.host("middle").netlink()?.require_link("wan0")?;
    assert_eq!((link.mtu, link.up), (1400, true));
    Ok(())
}

pub fn a_bridge_joins_its_ports() -> Outcome {
    let network = Topology::new()
        .host("a")
        .host("b")
        .router("switch")
        .link(End::new("a", "eth0").address("10.0.0.1/24"), End::new("switch", "p1"))
        .link(End::new("b", "eth0").address("10.0.0.2/24"), End::new("switch", "p2"))
        .bridge(End::new("switch", "br0").address("10.0.0.3/24"), &["p1", "p2"])
        .build()?;
    assert_eq!(connect(&network, "a", "b", "10.0.0.2")?, "10.0.0.1".parse::<IpAddr>()?);
    assert_eq!(connect(&network, "b", "switch", "10.0.0.3")?, "10.0.0.2".parse::<IpAddr>()?);
    Ok(())
}

pub fn a_moved_interface_works() -> Outcome {
    let network = Topology::new()
        .host("a")
        .host("b")
        .host("c")
        .link(End::new("a", "eth0").address("10.0.0.1/24"), End::new("b", "far0"))
        .build()?;
    network.adopt("b", "far0", &End::new("c", "eth0").address("10.0.0.3/24"))?;
    assert_eq!(network.host("b").netlink()?.link("far0")?, None);
    assert_eq!(connect(&network, "a", "c", "10.0.0.3")?, "10.0.0.1".parse::<IpAddr>()?);
    let missing = network.adopt("b", "far0", &End::new("c", "eth1")).expect_err("it is gone");
    assert!(missing.to_string().contains("moving far0 of b to c"), "{missing}");
    Ok(())
}
