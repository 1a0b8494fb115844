//! TAP devices that the gateway makes and that become the interfaces of hosts.

use tidegate::lab::topology::{End, Network, Topology};
use tidegate::lab::traffic::service::Service;

use super::harness::{Gateway, OPEN, Outcome, Tried, ask_tcp, ping};
use super::workers::traffic;

fn start(workers: usize) -> Tried<(Network, Gateway)> {
    let network = Topology::new().host("client").host("gw").host("server").build()?;
    let toml = format!("workers = {workers}\n{}", super::harness::TWO.replace("af-packet", "tap"));
    let gateway = Gateway::start(network.host("gw"), &toml, &[])?;
    let client = End::new("client", "eth0").address("192.168.0.2/24").address("fd00:1::2/64");
    let server = End::new("server", "eth0").address("203.0.113.2/24").address("2001:db8:1::2/64");
    network.adopt("gw", "lan0", &client)?;
    network.adopt("gw", "wan0", &server)?;
    network.add_route("client", "default", "192.168.0.1")?;
    network.add_route("client", "default", "fd00:1::1")?;
    network.add_route("server", "default", "2001:db8:1::1")?;
    Ok((network, gateway))
}

pub fn bulk_through_taps() -> Outcome {
    let (network, gateway) = start(1)?;
    traffic(network.host("client"), network.host("server"))?;
    gateway.stop()?;
    assert_eq!(network.host("client").netlink()?.link("eth0")?, None, "it goes with the gateway");
    Ok(())
}

pub fn workers_share_a_tap() -> Outcome {
    let (network, gateway) = start(4)?;
    traffic(network.host("client"), network.host("server"))?;
    gateway.stop()?;
    Ok(())
}

/// A row of microVMs behind one name.
pub fn a_bridge_of_taps() -> Outcome {
    let network = Topology::new().host("gw").host("vm0").host("vm1").host("vm2").build()?;
    let toml = "[[interface]]\nname = \"br0\"\nkind = \"bridge\"\nport_kind = \"tap\"\n\
                ports = [\"tap0\", \"tap1\", \"tap2\"]\naddress = [\"192.168.0.1/24\"]\n\
                [rules]\nipv4 = \"v4\"\n";
    let gateway = Gateway::start(network.host("gw"), toml, &[("v4", OPEN)])?;
    let mut services = Vec::new();
    for n in 0..3 {
        let vm = format!("vm{n}");
        let end = End::new(&vm, "eth0").address(&format!("192.168.0.{}/24", n + 10));
        network.adopt("gw", &format!("tap{n}"), &end)?;
        services.push(Service::start(network.host(&vm), &vm, 7)?);
    }
    for n in 0..3 {
        let vm = network.host(&format!("vm{n}"));
        assert_eq!(ping(vm, "192.168.0.1")?, "reply from 192.168.0.1, TTL 64");
        let other = (n + 1) % 3;
        let want = format!("vm{other} sees 192.168.0.{}", n + 10);
        assert_eq!(ask_tcp(vm, &format!("192.168.0.{}:7", other + 10))?, want);
    }
    gateway.stop()?;
    Ok(())
}
