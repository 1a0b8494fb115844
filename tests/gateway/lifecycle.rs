//! From the start to the end of a gateway.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::Signal;
use tidegate::lab::topology::{End, Topology};
use tidegate::lab::traffic::service::Service;
use tidegate::link::netlink::VethEnd;
use tidegate_packet::Family;

use super::harness::{
    Gateway, OPEN, Outcome, TWO, ask_tcp, ask_udp, ping, run, settled_state_of, state_of, text,
    two_hosts, wait,
};

/// The built-in rules masquerade in both forms; the file form is the design's own example.
pub fn by_flags_and_by_file() -> Outcome {
    let network = two_hosts().build()?;
    let (client, gw) = (network.host("client"), network.host("gw"));
    let _service = Service::start(network.host("server"), "server", 7)?;
    let flags = [
        "--lan=lan0=192.168.0.1/24,fd00:1::1/64",
        "--uplink=wan0=203.0.113.1/24,2001:db8:1::1/64,via=203.0.113.2",
        "--sysctl={}/90-firewall.conf",
        "--workers=1",
    ];
    let sysctls = [("90-firewall.conf", "net.ipv4.conf.all.rp_filter = 1\n")];
    let toml = format!(
        "workers = 2\n{TWO}\n[rules]\nipv6 = \"ip6tables.rules\"\n\n[sysctl]\n\
         \"net.ipv4.ip_forward\" = 1\n\"net.ipv4.conf.all.rp_filter\" = 1\n"
    );
    for form in ["flags", "file"] {
        let gateway = match form {
            "flags" => Gateway::start_flags(gw, &flags, &sysctls)?,
            _ => Gateway::start(gw, &toml, &[("ip6tables.rules", OPEN)])?,
        };
        assert_eq!(ping(client, "203.0.113.2")?, "reply from 203.0.113.2, TTL 63", "{form}");
        assert_eq!(ask_tcp(client, "203.0.113.2:7")?, "server sees 203.0.113.1", "{form}");
        assert_eq!(ask_udp(client, "203.0.113.2:7")?, "server sees 203.0.113.1", "{form}");
        assert_eq!(ask_tcp(client, "[2001:db8:1::2]:7")?, "server sees fd00:1::2", "{form}");
        let status = gateway.status()?;
        assert_eq!(status.workers, if form == "flags" { 1 } else { 2 });
        for (name, uplink) in [("lan0", false), ("wan0", true)] {
            let i = status.interfaces.iter().find(|i| i.name == name).ok_or(name)?;
            assert_eq!(i.uplink, uplink, "{name}");
            assert!(i.rx_packets > 3 && i.rx_bytes > i.rx_packets * 40, "{i:?}");
            assert!(i.tx_packets > 3 && i.tx_bytes > i.tx_packets * 40, "{i:?}");
        }
        assert!(status.connections >= 4, "{status:?}");
        let rules = gateway.rules(Family::V4)?;
        assert!(rules.contains("-s 192.168.0.0/24 -o wan0 -j MASQUERADE"), "{rules}");
        gateway.stop()?;
    }
    Ok(())
}

pub fn the_socket_is_there_while_it_forwards() -> Outcome {
    let network = two_hosts().build()?;
    let gateway = Gateway::start(network.host("gw"), TWO, &[])?;
    // No retry: what comes before the socket could be lost, what comes after may not.
    let pong = network.host("client").run(|| {
        let mut pinger = tidegate::lab::traffic::ping::Pinger::new("192.168.0.1".parse()?)?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(
            pinger.once(super::harness::DEADLINE)?.to_string(),
        )
    });
    assert_eq!(pong.map_err(|e| e.to_string())?, "reply from 192.168.0.1, TTL 64");
    let socket = gateway.control();
    assert_eq!(fs::metadata(&socket)?.permissions().mode() & 0o777, 0o600);
    let socket = socket.to_string_lossy().into_owned();
    let said = run(network.host("client"), &["status", "--control", &socket])?;
    let told = text(&said.stdout);
    assert!(said.status.success() && told.contains("wan0  uplink"), "{told}");
    gateway.stop()?;
    let said = run(network.host("client"), &["status", "--control", &socket])?;
    assert_eq!(said.status.code(), Some(1));
    assert!(text(&said.stderr).contains("no gateway runs with the control socket"));
    Ok(())
}

pub fn a_second_one_is_refused() -> Outcome {
    let network = two_hosts().build()?;
    let gw = network.host("gw");
    let gateway = Gateway::start(gw, TWO, &[])?;
    let socket = gateway.control().to_string_lossy().into_owned();
    let config = gateway.path("gateway.toml").to_string_lossy().into_owned();
    let same_socket = run(gw, &["run", "--config", &config])?;
    let said = text(&same_socket.stderr);
    assert_eq!(same_socket.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("error: control socket {socket}: another gateway")), "{said}");
    let other = gateway.path("other/other.sock").to_string_lossy().into_owned();
    let same_interface = run(gw, &["run", "--config", &config, "--control", &other])?;
    let said = text(&same_interface.stderr);
    assert_eq!(same_interface.status.code(), Some(1), "{said}");
    assert!(said.contains("error: interface lan0 is adopted by another process"), "{said}");
    assert_eq!(ping(network.host("client"), "203.0.113.2")?, "reply from 203.0.113.2, TTL 63");
    gateway.stop()?;
    Ok(())
}

/// A container's view: interfaces with addresses and routes, and no configuration but names.
fn container() -> Topology {
    Topology::new()
        .host("client")
        .host("gw")
        .host("server")
        .link(
            End::new("client", "eth0").address("192.168.0.2/24").address("fd00:1::2/64"),
            End::new("gw", "eth1").address("192.168.0.1/24").address("fd00:1::1/64"),
        )
        .link(
            End::new("server", "eth0").address("203.0.113.2/24").address("2001:db8:1::2/64"),
            End::new("gw", "eth0").address("203.0.113.1/24").address("2001:db8:1::1/64"),
        )
        // Beyond the server, so that the default route is needed.
        .link(End::new("server", "far0").address("198.51.100.10/32"), End::new("server", "far1"))
        .route("client", "default", "192.168.0.1")
        .route("client", "default", "fd00:1::1")
        .route("server", "default", "2001:db8:1::1")
        .route("gw", "default", "203.0.113.2")
        .route("gw", "10.9.0.0/16", "192.168.0.2")
}

pub fn what_interfaces_had_is_adopted_and_given_back() -> Outcome {
    let network = container().build()?;
    let (client, gw) = (network.host("client"), network.host("gw"));
    let _service = Service::start(network.host("server"), "server", 7)?;
    let state = || {
        Ok::<_, Box<dyn std::error::Error>>([
            state_of(&network, "gw", "eth0")?,
            state_of(&network, "gw", "eth1")?,
        ])
    };
    settled_state_of(&network, "gw", "eth0")?;
    settled_state_of(&network, "gw", "eth1")?;
    let before = state()?;
    assert!(before[0].iter().any(|l| l.starts_with("route 0.0.0.0/0 via")), "{before:?}");
    for flags in [["--lan=eth1", "--uplink=eth0"], ["--lan=eth1", "--lan=eth0"]] {
        let gateway = Gateway::start_flags(gw, &flags, &[])?;
        assert!(!state()?[0].iter().any(|l| l.starts_with("address")), "the kernel still has them");
        let status = gateway.status()?;
        let eth0 = status.interfaces.iter().find(|i| i.name == "eth0").ok_or("no eth0")?;
        // A default route makes an uplink, whatever the flag.
        assert!(eth0.uplink, "{status:?}");
        assert!(eth0.addresses.contains(&"203.0.113.1/24".to_owned()), "{eth0:?}");
        // The built-in rules know the network that was found.
        assert_eq!(ask_tcp(client, "198.51.100.10:7")?, "server sees 203.0.113.1");
        assert_eq!(ask_tcp(client, "[2001:db8:1::2]:7")?, "server sees fd00:1::2");
        // Also after a reload, which reads a configuration without addresses.
        gateway.signal(Signal::SIGHUP)?;
        gateway.wait_for_log("rules reloaded")?;
        assert_eq!(ask_tcp(client, "198.51.100.10:7")?, "server sees 203.0.113.1");
        let log = gateway.stop()?;
        assert!(!log.contains("giving back"), "{log}");
        assert_eq!(state()?, before);
    }
    Ok(())
}

pub fn a_crash_is_made_good_at_the_next_start() -> Outcome {
    let network = container().build()?;
    let (client, gw) = (network.host("client"), network.host("gw"));
    let _service = Service::start(network.host("server"), "server", 7)?;
    let before = settled_state_of(&network, "gw", "eth0")?;
    let flags = ["--lan=eth1", "--uplink=eth0"];
    Gateway::start_flags(gw, &flags, &[])?.crash()?;
    assert_ne!(state_of(&network, "gw", "eth0")?, before, "nobody could have given it back");
    // The next one finds what the first had found.
    let gateway = Gateway::start_flags(gw, &flags, &[])?;
    assert_eq!(ask_tcp(client, "198.51.100.10:7")?, "server sees 203.0.113.1");
    gateway.stop()?;
    assert_eq!(state_of(&network, "gw", "eth0")?, before);
    // And the kernel handles packets again, once nothing keeps it from doing so.
    wait("the kernel answers", || {
        ping(client, "192.168.0.1").is_ok_and(|p| p == "reply from 192.168.0.1, TTL 64")
    })
}

/// A link that goes down is waited for; one that is removed is done without.
pub fn links_come_and_go() -> Outcome {
    let network = container().build()?;
    let (client, gw) = (network.host("client"), network.host("gw"));
    let before = settled_state_of(&network, "gw", "eth1")?;
    let gateway = Gateway::start_flags(gw, &["--lan=eth1", "--uplink=eth0"], &[])?;
    assert_eq!(ping(client, "203.0.113.2")?, "reply from 203.0.113.2, TTL 63");
    let mut netlink = gw.netlink()?;
    let (eth0, eth1) = (netlink.require_link("eth0")?, netlink.require_link("eth1")?);
    netlink.set_up(eth1.index, false)?;
    gateway.wait_for_log("WARN link is down port=\"eth1\" error=Network is down")?;
    netlink.set_up(eth1.index, true)?;
    wait("packets again", || {
        ping(client, "203.0.113.2").is_ok_and(|p| p == "reply from 203.0.113.2, TTL 63")
    })?;
    netlink.delete_link(eth0.index)?;
    gateway.wait_for_log("port=\"eth0\" error=interface eth0 is gone")?;
    assert_eq!(ping(client, "192.168.0.1")?, "reply from 192.168.0.1, TTL 64");

    // Made again, it has another link address, and so has the server's end.
    netlink.create_veth(VethEnd::new("eth0"), VethEnd::new("moving"))?;
    network.adopt("gw", "moving", &End::new("server", "eth1").address("203.0.113.2/24"))?;
    gateway.wait_for_log("device is there again port=\"eth0\"")?;
    wait("packets again", || {
        ping(client, "203.0.113.2").is_ok_and(|p| p == "reply from 203.0.113.2, TTL 63")
    })?;
    let log = gateway.stop()?;
    assert!(!log.contains("giving back"), "{log}");
    assert_eq!(state_of(&network, "gw", "eth1")?, before);
    Ok(())
}

/// Unless one is configured, an interface's MTU is its device's, also later.
pub fn mtus_are_followed() -> Outcome {
    let network = two_hosts().build()?;
    let gw = network.host("gw");
    let fixed = TWO.replacen("name = \"lan0\"", "name = \"lan0\"\nmtu = 1500", 1);
    let gateway = Gateway::start(gw, &fixed, &[])?;
    let mut netlink = gw.netlink()?;
    let mut is = |name: &str, mtu: u32, want: u32| -> Outcome {
        let link = netlink.require_link(name)?;
        netlink.set_mtu(link.index, mtu)?;
        wait("the MTU is followed", || {
            let status = gateway.status();
            let mtu_of = |name: &str| {
                status.as_ref().ok()?.interfaces.iter().find(|i| i.name == name).map(|i| i.mtu)
            };
            mtu_of(name) == Some(want)
        })
    };
    is("wan0", 1400, 1400)?;
    is("lan0", 1300, 1500)?;
    is("wan0", 1500, 1500)?;
    let log = gateway.stop()?;
    assert!(log.contains("interface=\"wan0\" mtu=1400") && !log.contains("mtu=1300"), "{log}");
    Ok(())
}

pub fn log_lines_are_the_kernels() -> Outcome {
    let network = two_hosts().build()?;
    let rules = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n\
                 -A INPUT -p icmp -j LOG --log-prefix \"ping: \" --log-level 4\n\
                 -A FORWARD -p udp -j LOG --log-prefix \"fwd \" --log-level info\nCOMMIT\n";
    let toml = format!("{TWO}\n[rules]\nipv4 = \"r\"\n");
    let gateway = Gateway::start(network.host("gw"), &toml, &[("r", rules)])?;
    let client = network.host("client");
    assert_eq!(ping(client, "192.168.0.1")?, "reply from 192.168.0.1, TTL 64");
    ask_udp(client, "203.0.113.2:9")?;
    gateway.wait_for_log("ping: ")?;
    gateway.wait_for_log("fwd ")?;
    let log = gateway.stop()?;
    let line = |start: &str| {
        log.lines().find(|l| l.starts_with(start)).map(str::to_owned).ok_or(log.clone())
    };
    let ping = line("<4>ping: IN=lan0 OUT= MAC=")?;
    for part in [" SRC=192.168.0.2 DST=192.168.0.1 LEN=84 ", " PROTO=ICMP TYPE=8 CODE=0 ID="] {
        assert!(ping.contains(part), "{ping}");
    }
    let udp = line("<6>fwd IN=lan0 OUT=wan0 MAC=")?;
    for part in
        [" SRC=192.168.0.2 DST=203.0.113.2 ", " TTL=63 ", " DF PROTO=UDP SPT=", " DPT=9 LEN=12"]
    {
        assert!(udp.contains(part), "{udp}");
    }
    Ok(())
}
