//! Networks of namespaces, with real kernels at all ends. Needs root or user namespaces; where
//! neither is to be had the tests say so, and fail if `TIDEGATE_FORBID_SKIP` is set.

use std::error::Error;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use tidegate::lab::privilege;
use tidegate::lab::topology::{End, Network, Topology};

type Outcome = Result<(), Box<dyn Error>>;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let rights = privilege::acquire();
    let forbid = std::env::var_os("TIDEGATE_FORBID_SKIP").is_some_and(|v| v != "0");
    let tests: [(&str, fn() -> Outcome); 3] = [
        ("hosts_reach_each_other", hosts_reach_each_other),
        ("a_bridge_joins_its_ports", a_bridge_joins_its_ports),
        ("a_moved_interface_works", a_moved_interface_works),
    ];
    if let Err(e) = &rights
        && !forbid
    {
        eprintln!("SKIPPED: every test of tests/lab.rs.\n{e}");
    }
    let missing = rights.as_ref().err().map(ToString::to_string);
    let trials = tests
        .into_iter()
        .map(|(name, test)| {
            let missing = missing.clone();
            Trial::test(name, move || match missing {
                Some(why) => Err(Failed::from(why)),
                None => test().map_err(|e| Failed::from(e.to_string())),
            })
            .with_ignored_flag(rights.is_err() && !forbid)
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Opens a connection, asks over it and says whom the server saw.
fn connect(
    network: &Network,
    from: &str,
    to: &str,
    address: &str,
) -> Result<IpAddr, Box<dyn Error>> {
    let listener = network.host(to).run(|| TcpListener::bind((address, 80)))?;
    let address = listener.local_addr()?;
    let mut stream =
        network.host(from).run(|| TcpStream::connect_timeout(&address, Duration::from_secs(5)))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let (mut served, peer) = listener.accept()?;
    served.write_all(b"hello")?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer)?;
    assert_eq!(&answer, b"hello");
    Ok(peer.ip())
}

fn hosts_reach_each_other() -> Outcome {
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

fn a_bridge_joins_its_ports() -> Outcome {
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

fn a_moved_interface_works() -> Outcome {
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
