//! LANs, uplinks and routes.

use tidegate::lab::topology::{End, Topology};
use tidegate::lab::traffic::SILENCE;
use tidegate::lab::traffic::service::Service;
use tidegate::lab::traffic::udp::Probe;

use super::harness::{Gateway, OPEN, Outcome, Tried, ask_tcp, ask_udp, at, ping};

/// Two uplinks with a router behind each, a LAN, and a host that is reached by `dev` alone.
fn topology() -> Topology {
    let mut topology = Topology::new()
        .host("client")
        .host("gw")
        .host("alone")
        .link(
            End::new("client", "eth0").address("192.168.0.2/24").address("fd00:1::2/64"),
            End::new("gw", "lan0"),
        )
        .link(End::new("alone", "eth0").address("172.16.9.9/32"), End::new("gw", "lan1"))
        .route("client", "default", "192.168.0.1")
        .route("client", "default", "fd00:1::1");
    for (name, near, far) in [("one", "203.0.113", 1), ("two", "198.18.0", 2)] {
        topology = topology
            .router(name)
            .link(
                End::new(name, "eth0")
                    .address(&format!("{near}.2/24"))
                    .address(&format!("2001:db8:{far}::2/64")),
                End::new("gw", &format!("wan{}", far - 1)),
            )
            // What lies behind both routers: the answer tells which of them was taken.
            .link(
                End::new(name, "a").address("198.51.100.10/32").address("2001:db8:ff::10/128"),
                End::new(name, "b").address("198.51.101.10/32").address("198.51.101.77/32"),
            )
            .route(name, "default", &format!("{near}.1"))
            .route(name, "default", &format!("2001:db8:{far}::1"));
    }
    topology
}

const CONFIG: &str = r#"
[[interface]]
name = "lan0"
address = ["192.168.0.1/24", "fd00:1::1/64"]
[[interface]]
name = "lan1"
address = ["172.16.9.1/32"]
[[interface]]
name = "wan0"
address = ["203.0.113.1/24", "2001:db8:1::1/64"]
[[interface]]
name = "wan1"
address = ["198.18.0.1/24", "2001:db8:2::1/64"]
[[route]]
to = "0.0.0.0/0"
via = "198.18.0.2"
metric = 10
[[route]]
to = "0.0.0.0/0"
via = "203.0.113.2"
metric = 5
[[route]]
to = "198.51.101.0/24"
via = "198.18.0.2"
[[route]]
to = "198.51.101.77/32"
via = "203.0.113.2"
dev = "wan0"
[[route]]
to = "::/0"
via = "2001:db8:2::2"
[[route]]
to = "172.16.9.9/32"
dev = "lan1"
[[route]]
to = "10.1.0.0/16"
kind = "blackhole"
[[route]]
to = "10.2.0.0/16"
kind = "unreachable"
[[route]]
to = "10.3.0.0/16"
kind = "prohibit"
[[route]]
to = "fd02::/16"
kind = "unreachable"
[[route]]
to = "fd03::/16"
kind = "prohibit"
[rules]
ipv4 = "v4"
ipv6 = "v6"
"#;

pub fn lans_uplinks_and_special_routes() -> Outcome {
    let network = topology().build()?;
    let (client, alone) = (network.host("client"), network.host("alone"));
    // It has one neighbour and no network.
    let mut netlink = alone.netlink()?;
    let index = netlink.require_link("eth0")?.index;
    netlink.add_route("172.16.9.1/32".parse()?, None, Some(index), None)?;
    netlink.add_route("0.0.0.0/0".parse()?, Some("172.16.9.1".parse()?), None, None)?;
    let services = ["one", "two", "alone"].map(|n| Service::start(network.host(n), n, 7));
    let _services = services.into_iter().collect::<Result<Vec<_>, _>>()?;
    let nat = "*nat\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n\
               -A POSTROUTING -o wan+ -j MASQUERADE\nCOMMIT\n";
    let rules = format!("{OPEN}{nat}");
    let gateway = Gateway::start(network.host("gw"), CONFIG, &[("v4", &rules), ("v6", OPEN)])?;
    for (to, want) in [
        ("198.51.100.10:7", "one sees 203.0.113.1"),
        ("198.51.101.10:7", "two sees 198.18.0.1"),
        ("198.51.101.77:7", "one sees 203.0.113.1"),
        ("203.0.113.2:7", "one sees 203.0.113.1"),
        ("198.18.0.2:7", "two sees 198.18.0.1"),
        ("172.16.9.9:7", "alone sees 192.168.0.2"),
        ("[2001:db8:ff::10]:7", "two sees fd00:1::2"),
    ] {
        assert_eq!(ask_tcp(client, to)?, want, "TCP to {to}");
        // A server's datagrams come from its first address, whichever was asked.
        if !to.contains("198.51") && !to.contains("ff::") {
            assert_eq!(ask_udp(client, to)?, want, "UDP to {to}");
        }
    }
    for (to, want) in [
        ("10.2.0.1", "host unreachable from 192.168.0.1"),
        ("10.3.0.1", "ICMP 3/13 from 192.168.0.1"),
        ("fd02::1", "no route from fd00:1::1"),
        ("fd03::1", "admin prohibited from fd00:1::1"),
    ] {
        let want = want.replace("ICMP 3/13", "admin prohibited");
        assert_eq!(probe(client, to)?, want, "{to}");
    }
    let silence = Probe { wait: SILENCE, ..Probe::new(at("10.1.0.1:9")) };
    assert_eq!(client.run(|| silence.send())?.to_string(), "no answer");
    assert_eq!(ping(alone, "192.168.0.2")?, "reply from 192.168.0.2, TTL 63");
    gateway.stop()?;
    Ok(())
}

fn probe(from: &tidegate::lab::netns::Netns, to: &str) -> Tried<String> {
    let to = if to.contains(':') { format!("[{to}]:9") } else { format!("{to}:9") };
    Ok(from.run(|| Probe::new(at(&to)).send())?.to_string())
}

/// By flags alone, the built-in rules.
pub fn two_lans_are_masqueraded() -> Outcome {
    let network = Topology::new()
        .host("a")
        .host("b")
        .host("gw")
        .host("server")
        .link(End::new("a", "eth0").address("192.168.0.2/24"), End::new("gw", "lan0"))
        .link(End::new("b", "eth0").address("10.3.0.2/16"), End::new("gw", "lan1"))
        .link(End::new("server", "eth0").address("203.0.113.2/24"), End::new("gw", "wan0"))
        .route("a", "default", "192.168.0.1")
        .route("b", "default", "10.3.0.1")
        .route("server", "192.168.0.0/24", "203.0.113.1")
        .build()?;
    let services = ["a", "b", "server"].map(|n| Service::start(network.host(n), n, 7));
    let _services = services.into_iter().collect::<Result<Vec<_>, _>>()?;
    let flags =
        ["--lan=lan0=192.168.0.1/24", "--lan=lan1=10.3.0.1/16", "--uplink=wan0=203.0.113.1/24"];
    let gateway = Gateway::start_flags(network.host("gw"), &flags, &[])?;
    for (from, to, want) in [
        ("a", "203.0.113.2:7", "server sees 203.0.113.1"),
        ("b", "203.0.113.2:7", "server sees 203.0.113.1"),
        ("a", "10.3.0.2:7", "b sees 192.168.0.2"),
        ("b", "192.168.0.2:7", "a sees 10.3.0.2"),
        ("server", "192.168.0.2:7", "host unreachable from 203.0.113.1"),
        ("server", "203.0.113.1:7", "reset"),
    ] {
        assert_eq!(ask_tcp(network.host(from), to)?, want, "{from} to {to}");
    }
    gateway.stop()?;
    Ok(())
}
