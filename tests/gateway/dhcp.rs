//! DHCP on the uplink, with dnsmasq as the server.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tidegate::lab::netns::Netns;
use tidegate::lab::topology::{End, Network, Topology};
use tidegate::lab::traffic::service::Service;
use tidegate::lab::traffic::udp;

use super::harness::{Gateway, Outcome, Tried, ask_tcp, at, ping, wait};

/// A process that doesn't outlive its test.
pub struct Ended(pub Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts dnsmasq at `eth0`: clients get two minutes, the least that it grants, and are to renew
/// after four seconds.
fn server(host: &Netns, directory: &Path, range: &str) -> Tried<Ended> {
    let file = |name: &str| directory.join(name).display().to_string();
    // What an earlier one has granted it doesn't know.
    let _ = fs::remove_file(file("leases"));
    let log = fs::File::create(file("log"))?;
    let child = host.run(|| {
        Command::new("dnsmasq")
            // Inside a user namespace it couldn't become another user.
            .args(["--no-daemon", "--conf-file=/dev/null", "--port=0"])
            .args(["--interface=eth0", "--bind-interfaces", "--no-ping", "--dhcp-authoritative"])
            .arg(format!("--dhcp-range={range},255.255.255.0,2m"))
            .args(["--dhcp-option=option:router,203.0.113.2", "--dhcp-option=option:T1,4"])
            .arg(format!("--dhcp-leasefile={}", file("leases")))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
    })?;
    Ok(Ended(child))
}

fn network() -> Tried<Network> {
    let far = End::new("server", "far0").address("198.51.100.10/32");
    Ok(Topology::new()
        .host("client")
        .host("gw")
        .host("server")
        .link(End::new("client", "eth0").address("192.168.0.2/24"), End::new("gw", "lan0"))
        .link(End::new("server", "eth0").address("203.0.113.2/24"), End::new("gw", "wan0"))
        .link(far, End::new("server", "far1"))
        .route("client", "default", "192.168.0.1")
        .build()?)
}

const FLAGS: [&str; 2] = ["--lan=lan0=192.168.0.1/24", "--uplink=wan0=dhcp"];

/// The uplink's IPv4 address.
fn address(gateway: &Gateway) -> Tried<Option<String>> {
    let status = gateway.status()?;
    let wan0 = status.interfaces.iter().find(|i| i.name == "wan0").ok_or("no wan0")?;
    Ok(wan0.addresses.iter().find(|a| !a.contains(':')).cloned())
}

pub fn an_uplink_gets_its_address() -> Outcome {
    let network = network()?;
    let (client, server_host) = (network.host("client"), network.host("server"));
    let dir = tempfile::tempdir()?;
    // The gateway is there first.
    let gateway = Gateway::start_flags(network.host("gw"), &FLAGS, &[])?;
    assert_eq!(address(&gateway)?, None);
    assert_eq!(ping(client, "198.51.100.10")?, "net unreachable from 192.168.0.1");
    let _server = server(server_host, dir.path(), "203.0.113.100,203.0.113.110")?;
    let _service = Service::start(server_host, "server", 7)?;
    wait("a lease", || address(&gateway).is_ok_and(|a| a.is_some()))?;
    let found = address(&gateway)?.ok_or("no address")?;
    let own = found.strip_suffix("/24").ok_or(found.clone())?;
    assert!(own.starts_with("203.0.113.10") || own == "203.0.113.110", "{found}");
    assert_eq!(ask_tcp(client, "198.51.100.10:7")?, format!("server sees {own}"));
    assert_eq!(ping(server_host, own)?, format!("reply from {own}, TTL 64"));
    let log = || fs::read_to_string(dir.path().join("log")).unwrap_or_default();
    // More than one if the server has begun slowly.
    let asked = log().matches("DHCPDISCOVER").count();
    wait("two renewals", || log().matches("DHCPACK").count() >= 3)
        .map_err(|e| format!("{e}\n{}\n{}", log(), gateway.log()))?;
    let now = log();
    assert_eq!(now.matches("DHCPDISCOVER").count(), asked, "renewed, not asked for anew: {now}");
    assert_eq!(address(&gateway)?, Some(found.clone()));
    assert_eq!(gateway.log().matches("DHCP lease").count(), 1, "no news: {}", gateway.log());
    gateway.stop()?;
    Ok(())
}

pub fn another_address_ends_masqueraded_connections() -> Outcome {
    let network = network()?;
    let (client, server_host) = (network.host("client"), network.host("server"));
    let dir = tempfile::tempdir()?;
    let first = server(server_host, dir.path(), "203.0.113.100,203.0.113.100")?;
    let _service = Service::start(server_host, "server", 7)?;
    let gateway = Gateway::start_flags(network.host("gw"), &FLAGS, &[])?;
    wait("a lease", || address(&gateway).is_ok_and(|a| a.is_some()))?;
    // One flow for all the time.
    let ask = || {
        let asked = client.run(|| udp::ask(Some(40_000), at("203.0.113.2:7")));
        Ok::<_, Box<dyn std::error::Error>>(asked.map_err(|e| e.to_string())?.seen.to_string())
    };
    assert_eq!(ask()?, "203.0.113.100:40000");
    drop(first);
    let _second = server(server_host, dir.path(), "203.0.113.200,203.0.113.200")?;
    wait("the other address", || {
        address(&gateway).is_ok_and(|a| a.as_deref() == Some("203.0.113.200/24"))
    })
    .map_err(|e| format!("{e}\n{}", gateway.log()))?;
    assert_eq!(ask()?, "203.0.113.200:40000");
    let log = gateway.stop()?;
    assert!(log.contains("lease"), "{log}");
    Ok(())
}

/// Starts a gateway with these flags besides, waits for its lease, ends it, and gives what the server
/// has said.
fn a_run(flags: &[&str], released: bool) -> Tried<String> {
    let network = network()?;
    let dir = tempfile::tempdir()?;
    let _server = server(network.host("server"), dir.path(), "203.0.113.100,203.0.113.110")?;
    let flags = [&FLAGS[..], flags].concat();
    let gateway = Gateway::start_flags(network.host("gw"), &flags, &[])?;
    wait("a lease", || address(&gateway).is_ok_and(|a| a.is_some()))?;
    gateway.stop()?;
    let log = || fs::read_to_string(dir.path().join("log")).unwrap_or_default();
    if released {
        // It is sent before the process ends; the server takes its time to say so.
        wait("a release", || log().contains("DHCPRELEASE"))
            .map_err(|e| format!("{e}\n{}", log()))?;
    }
    Ok(log())
}

pub fn the_lease_is_given_back() -> Outcome {
    let log = a_run(&[], true)?;
    assert_eq!(log.matches("DHCPRELEASE").count(), 1, "{log}");
    Ok(())
}

pub fn a_saved_state_keeps_the_lease() -> Outcome {
    let dir = tempfile::tempdir()?;
    let state = format!("--state={}", dir.path().join("state").display());
    let log = a_run(&[&state], false)?;
    assert!(!log.contains("DHCPRELEASE") && log.contains("DHCPACK"), "{log}");
    Ok(())
}
