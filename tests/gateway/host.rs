//! The namespace's own kernel behind the INPUT chain.

use std::process::{Command, Stdio};

use tidegate::lab::traffic::service::Service;

use super::harness::{
    DEADLINE, Gateway, Outcome, TWO, ask_tcp, ask_udp, at, knock, ping, settled_state_of, state_of,
    two_hosts, wait,
};

const RULES: &str = "*filter
:INPUT DROP [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -m conntrack --ctstate INVALID -j DROP
-A INPUT -p icmp -m icmp --icmp-type 8 -m conntrack --ctstate NEW -j ACCEPT
-A INPUT -i lan0 -p tcp --dport 7 -m conntrack --ctstate NEW -j ACCEPT
-A INPUT -i lan0 -p udp -m multiport --dports 7,53 -m conntrack --ctstate NEW -j ACCEPT
-A INPUT -i lan0 -p tcp --dport 9 -j ACCEPT
-A INPUT -p udp -j REJECT --reject-with icmp-port-unreachable
-A INPUT -p tcp -j REJECT --reject-with tcp-reset
-A INPUT -j REJECT --reject-with icmp-proto-unreachable
-A OUTPUT -p tcp --dport 81 -j REJECT --reject-with tcp-reset
COMMIT
";

const RULES6: &str = "*filter
:INPUT DROP [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -p ipv6-icmp -j ACCEPT
-A INPUT -i lan0 -p tcp --dport 7 -j ACCEPT
-A INPUT -p tcp -j REJECT --reject-with tcp-reset
-A INPUT -j REJECT --reject-with icmp6-adm-prohibited
COMMIT
";

fn config() -> String {
    format!("{TWO}\n[rules]\nipv4 = \"v4\"\nipv6 = \"v6\"\n[host]\ndevice = \"tide0\"\n")
}

const FILES: [(&str, &str); 2] = [("v4", RULES), ("v6", RULES6)];

pub fn a_daemon_behind_the_input_chain() -> Outcome {
    let network = two_hosts().route("server", "192.168.0.0/24", "203.0.113.1").build()?;
    let (client, gw, server) = (network.host("client"), network.host("gw"), network.host("server"));
    let gateway = Gateway::start(gw, &config(), &FILES)?;
    // Open and closed by rule; both have a listener.
    let _open = Service::start(gw, "gateway", 7)?;
    let _closed = Service::start(gw, "gateway", 8)?;
    assert_eq!(ask_tcp(client, "192.168.0.1:7")?, "gateway sees 192.168.0.2");
    assert_eq!(ask_tcp(client, "203.0.113.1:7")?, "gateway sees 192.168.0.2");
    assert_eq!(ask_tcp(client, "[fd00:1::1]:7")?, "gateway sees fd00:1::2");
    assert_eq!(ask_udp(client, "192.168.0.1:7")?, "gateway sees 192.168.0.2");
    for (from, to, want) in [
        (client, "192.168.0.1:8", "reset"),
        (client, "[fd00:1::1]:8", "reset"),
        // Allowed, and nobody listens: the kernel's reset.
        (client, "192.168.0.1:9", "reset"),
        // Allowed on the LAN alone.
        (server, "203.0.113.1:7", "reset"),
        (server, "[2001:db8:1::1]:7", "reset"),
    ] {
        assert_eq!(knock(from, to)?, want, "{to}");
    }
    assert_eq!(ask_udp(client, "192.168.0.1:8")?, "port unreachable from 192.168.0.1");
    for to in ["192.168.0.1", "203.0.113.1"] {
        assert_eq!(ping(client, to)?, format!("reply from {to}, TTL 64"));
    }
    assert_eq!(ping(client, "fd00:1::1")?, "reply from fd00:1::1");
    assert_eq!(ping(server, "2001:db8:1::1")?, "reply from 2001:db8:1::1");
    // It is the kernel that answered: it has counted.
    let snmp = gw.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp"))?;
    assert!(in_echos(&snmp).ok_or("no InEchos")? >= 2, "{snmp}");
    assert_eq!(ping(client, "203.0.113.2")?, "reply from 203.0.113.2, TTL 63");
    dns(&network)?;
    gateway.stop()?;
    assert_eq!(gw.netlink()?.link("tide0")?, None);
    Ok(())
}

fn in_echos(snmp: &str) -> Option<u64> {
    let mut lines = snmp.lines().filter(|l| l.starts_with("Icmp:"));
    let at = lines.next()?.split(' ').position(|w| w == "InEchos")?;
    lines.next()?.split(' ').nth(at)?.parse().ok()
}

/// dnsmasq answers a name, if it is installed.
fn dns(network: &tidegate::lab::topology::Network) -> Outcome {
    let started = network.host("gw").run(|| {
        Command::new("dnsmasq")
            .args(["--no-daemon", "--no-resolv", "--no-hosts", "--conf-file=/dev/null"])
            .args(["--address=/gate.example/192.0.2.7", "--port=53"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
    });
    let mut dnsmasq = match started {
        Ok(child) => super::dhcp::Ended(child),
        Err(e) if std::env::var_os("TIDEGATE_FORBID_SKIP").is_none() => {
            eprintln!("SKIPPED: DNS behind the INPUT chain: dnsmasq: {e}");
            return Ok(());
        }
        Err(e) => return Err(e.into()),
    };
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    query.extend(b"\x04gate\x07example\x00\x00\x01\x00\x01");
    let socket = network.host("client").run(|| std::net::UdpSocket::bind("0.0.0.0:0"))?;
    socket.connect(at("192.168.0.1:53"))?;
    socket.set_read_timeout(Some(DEADLINE / 40))?;
    let mut answer = [0; 512];
    wait("an answer of dnsmasq", || {
        let asked = socket.send(&query).and_then(|_| socket.recv(&mut answer));
        asked.is_ok_and(|n| {
            n > 16 && answer[..2] == [0x12, 0x34] && answer[n - 4..n] == [192, 0, 2, 7]
        })
    })
    .map_err(|e| format!("{e}; {:?}", dnsmasq.0.try_wait()))?;
    Ok(())
}

pub fn the_gateways_own_connections() -> Outcome {
    let network = two_hosts().build()?;
    let (client, gw, server) = (network.host("client"), network.host("gw"), network.host("server"));
    let before = settled_state_of(&network, "gw", "wan0")?;
    let routes = "[[route]]\nto = \"10.2.0.0/16\"\nkind = \"unreachable\"\n\
                  [[route]]\nto = \"10.3.0.0/16\"\nkind = \"prohibit\"\n";
    let gateway = Gateway::start(gw, &format!("{}{routes}", config()), &FILES)?;
    let _services = [Service::start(server, "server", 7)?, Service::start(client, "client", 7)?];
    let _refused = Service::start(server, "server", 81)?;
    // By the address of the uplink outwards, of the LAN inwards.
    assert_eq!(ask_tcp(gw, "203.0.113.2:7")?, "server sees 203.0.113.1");
    assert_eq!(ask_udp(gw, "203.0.113.2:7")?, "server sees 203.0.113.1");
    assert_eq!(ask_tcp(gw, "192.168.0.2:7")?, "client sees 192.168.0.1");
    assert_eq!(ask_tcp(gw, "[2001:db8:1::2]:7")?, "server sees 2001:db8:1::1");
    assert_eq!(ask_tcp(gw, "[fd00:1::2]:7")?, "client sees fd00:1::1");
    assert_eq!(ping(gw, "203.0.113.2")?, "reply from 203.0.113.2, TTL 64");
    assert_eq!(ping(gw, "fd00:1::2")?, "reply from fd00:1::2");
    assert_eq!(knock(gw, "203.0.113.2:81")?, "reset", "OUTPUT is asked");
    // Nowhere to go: the program is told at once.
    for (to, want) in [
        ("[2001:db8:77::1]:7", "no route from 2001:db8:1::1"),
        ("10.2.0.1:7", "host unreachable from 203.0.113.1"),
        ("10.3.0.1:7", "admin prohibited from 203.0.113.1"),
    ] {
        assert_eq!(knock(gw, to)?, want, "{to}");
    }
    // A neighbour that doesn't answer.
    assert_eq!(knock(gw, "203.0.113.77:7")?, "host unreachable from 203.0.113.1");
    super::workers::bulk(gw, server, "203.0.113.2:5001")?;
    super::workers::bulk(gw, server, "[2001:db8:1::2]:5002")?;
    gateway.stop()?;
    assert_eq!(state_of(&network, "gw", "wan0")?, before);
    Ok(())
}
