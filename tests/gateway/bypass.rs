//! Established flows that the kernel forwards by the gateway's order: nothing shows but the speed.

use std::io::{Read, Write};
use std::net::{Shutdown, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use tidegate::lab::netns::Netns;
use tidegate::lab::traffic::service::Service;
use tidegate::lab::traffic::tcp;

use super::harness::{DEADLINE, Gateway, Outcome, TWO, Tried, at, two_hosts, wait};
use super::names::Names;

/// A stream whose echoes are awaited one after the other, for as long as the test takes.
struct Echo {
    rounds: AtomicU64,
    stop: AtomicBool,
}

impl Echo {
    /// Does the test while the echoes come.
    fn during(client: &Netns, to: &str, test: impl FnOnce(&Self) -> Outcome) -> Outcome {
        let stream = client.run(|| tcp::connect(None, at(to), DEADLINE));
        let mut stream = stream.map_err(|e| e.to_string())?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let ending = stream.try_clone()?;
        let echo = Self { rounds: AtomicU64::new(0), stop: AtomicBool::new(false) };
        thread::scope(|s| {
            let traffic = s.spawn(|| -> std::io::Result<()> {
                let mut block = [0; 1000];
                while !echo.stop.load(Ordering::Relaxed) {
                    let round = echo.rounds.load(Ordering::Relaxed);
                    block.fill(round as u8);
                    stream.write_all(&block)?;
                    let mut back = [0; 1000];
                    stream.read_exact(&mut back)?;
                    assert!(back == block, "round {round}");
                    echo.rounds.store(round + 1, Ordering::Relaxed);
                }
                Ok(())
            });
            let result = test(&echo);
            echo.stop.store(true, Ordering::Relaxed);
            match result {
                // What the stream then meets isn't of interest, nor waited for.
                Err(error) => {
                    ending.shutdown(Shutdown::Both).map_or_else(|e| Err(e.into()), |()| Err(error))
                }
                Ok(()) => match traffic.join() {
                    Ok(told) => told.map_err(Into::into),
                    Err(_) => Err("the traffic panicked".into()),
                },
            }
        })
    }

    fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }

    /// Waits for more echoes.
    fn go_on(&self, rounds: u64) -> Outcome {
        let end = self.rounds() + rounds;
        wait("echoes", || self.rounds() >= end)
    }

    /// Nothing comes any more but what was on its way.
    fn stands_still(&self) -> Outcome {
        let mut last = self.rounds();
        thread::sleep(Duration::from_millis(50));
        wait("silence", || {
            thread::sleep(Duration::from_millis(300));
            let now = self.rounds();
            std::mem::replace(&mut last, now) == now
        })
    }
}

/// Packets that the kernel has forwarded.
fn forwarded(gateway: &Gateway) -> Tried<u64> {
    Ok(gateway.status()?.bypass.ok_or("there is no bypass")?.packets)
}

fn wait_for_bypass(gateway: &Gateway) -> Outcome {
    let before = forwarded(gateway)?;
    wait("packets that bypass the gateway", || forwarded(gateway).is_ok_and(|n| n > before + 20))
}

const RULES: &str = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n\
    -A FORWARD -p udp -j ACCEPT\n\
    -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
    -A FORWARD -i lan0 -j ACCEPT\n-A FORWARD -i wan0 -p tcp --dport 8080 -j ACCEPT\nCOMMIT\n\
    *nat\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n\
    -A PREROUTING -i wan0 -p tcp --dport 80 -j DNAT --to-destination 192.168.0.2:8080\n\
    -A POSTROUTING -o wan0 -j MASQUERADE\nCOMMIT\n";

fn start(gw: &Netns, sysctls: &str) -> Tried<Gateway> {
    let toml = format!(
        "{TWO}\n[rules]\nipv4 = \"r\"\n[sysctl]\n\"net.netfilter.nf_conntrack_acct\" = 1\n{sysctls}"
    );
    Gateway::start(gw, &toml, &[("r", RULES)])
}

/// The number behind a word: `packets=7`.
fn numbers(text: &str, word: &str) -> Vec<u64> {
    let value = |part: &str| part.split([' ', '\n']).next()?.parse().ok();
    text.split(word).skip(1).filter_map(value).collect()
}

/// Packets of the rules and the policy of a chain, by `iptables -S -v`.
fn rules_counted(names: &Names, chain: &str) -> Tried<[u64; 2]> {
    let text = names.done(&format!("iptables -v -S {chain}"), "")?;
    let mut sum = [0; 2];
    for part in text.split(" -c ").skip(1) {
        let mut words = part.split_whitespace();
        for sum in &mut sum {
            *sum += words.next().and_then(|n| n.parse::<u64>().ok()).ok_or("no counters")?;
        }
    }
    Ok(sum)
}

pub fn what_bypasses_is_counted_as_ever() -> Outcome {
    let network = two_hosts().build()?;
    let (client, gw) = (network.host("client"), network.host("gw"));
    let _service = Service::start(network.host("server"), "server", 7)?;
    let gateway = start(gw, "")?;
    let names = Names::install(&gateway, gw)?;
    Echo::during(client, "203.0.113.2:7", |echo| {
        wait_for_bypass(&gateway)?;
        echo.go_on(100)?;
        let listed = names.done("conntrack -L -p tcp --state ESTABLISHED", "")?;
        assert!(listed.contains("[ASSURED]") && !listed.contains("OFFLOAD"), "{listed}");
        // It lives as long as ever: five days from its last packet.
        let left = numbers(&listed, "tcp      6 ");
        assert!(left.iter().all(|n| (431_900..=432_000).contains(n) || (200..=300).contains(n)));
        Ok(())
    })?;
    wait("the end", || {
        names.done("conntrack -L -p tcp --state TIME_WAIT", "").is_ok_and(|out| !out.is_empty())
    })?;
    assert!(forwarded(&gateway)? > 100);
    // The rules have counted every packet of the connection once, and so has the connection. One may
    // be sent again while we look.
    let carried = || -> Tried<[u64; 2]> {
        let listed = names.done("conntrack -L -p tcp", "")?;
        Ok(["packets=", "bytes="].map(|word| numbers(&listed, word).iter().sum()))
    };
    let (mut before, mut in_rules) = (carried()?, rules_counted(&names, "FORWARD")?);
    let mut after = carried()?;
    while before != after {
        (before, in_rules, after) = (after, rules_counted(&names, "FORWARD")?, carried()?);
    }
    assert_eq!(in_rules, after);
    let [packets, _] = after;
    let status = gateway.status()?;
    let lan = status.interfaces.iter().find(|i| i.name == "lan0").ok_or("lan0")?;
    let wan = status.interfaces.iter().find(|i| i.name == "wan0").ok_or("wan0")?;
    assert!(lan.rx_packets + wan.rx_packets >= packets, "{status:?}");
    assert!(lan.tx_packets + wan.tx_packets >= packets, "{status:?}");
    gateway.stop()?;
    Ok(())
}

pub fn a_new_rule_stops_a_flow_at_once() -> Outcome {
    let network = two_hosts().build()?;
    let (client, gw) = (network.host("client"), network.host("gw"));
    let _service = Service::start(network.host("server"), "server", 7)?;
    let gateway = start(gw, "")?;
    let names = Names::install(&gateway, gw)?;
    names.done("ipset create blocked hash:ip", "")?;
    names.done("iptables -I FORWARD -m set --match-set blocked dst -j DROP", "")?;
    Echo::during(client, "203.0.113.2:7", |echo| {
        for (stop, go) in [
            ("iptables -I FORWARD -j DROP", "iptables -D FORWARD 1"),
            ("ipset add blocked 203.0.113.2", "ipset del blocked 203.0.113.2"),
        ] {
            wait_for_bypass(&gateway)?;
            names.done(stop, "")?;
            // One may have been on its way.
            let rounds = echo.rounds();
            echo.stands_still()?;
            assert!(echo.rounds() <= rounds + 1, "{stop}: {rounds}, then {}", echo.rounds());
            names.done(go, "")?;
            echo.go_on(50)?;
        }
        Ok(())
    })?;
    gateway.stop()?;
    Ok(())
}

pub fn a_deleted_connection_is_gone() -> Outcome {
    let network = two_hosts().build()?;
    let (client, gw) = (network.host("client"), network.host("gw"));
    let _service = Service::start(network.host("server"), "server", 7)?;
    let gateway = start(gw, "\"net.netfilter.nf_conntrack_tcp_loose\" = 0\n")?;
    let names = Names::install(&gateway, gw)?;
    names.done("iptables -I FORWARD -m conntrack --ctstate INVALID -j DROP", "")?;
    Echo::during(client, "203.0.113.2:7", |echo| {
        wait_for_bypass(&gateway)?;
        names.done("conntrack -U -p tcp -m 7", "")?;
        echo.go_on(50)?;
        let listed = names.done("conntrack -L -p tcp -m 7", "")?;
        assert!(listed.contains("mark=7"), "{listed}");
        wait_for_bypass(&gateway)?;
        names.done("conntrack -D -p tcp", "")?;
        let rounds = echo.rounds();
        echo.stands_still()?;
        assert!(echo.rounds() <= rounds + 1);
        Err("done".into())
    })
    .map_or_else(|told| if told.to_string() == "done" { Ok(()) } else { Err(told) }, Ok)?;
    gateway.stop()?;
    Ok(())
}

pub fn nothing_is_forwarded_without_the_gateway() -> Outcome {
    let network = two_hosts().build()?;
    let (client, gw) = (network.host("client"), network.host("gw"));
    let _service = Service::start(network.host("server"), "server", 7)?;
    let gateway = start(gw, "")?;
    Echo::during(client, "203.0.113.2:7", |echo| {
        wait_for_bypass(&gateway)?;
        gateway.crash()?;
        let rounds = echo.rounds();
        echo.stands_still()?;
        assert!(echo.rounds() <= rounds + 1);
        Err("done".into())
    })
    .map_or_else(|told| if told.to_string() == "done" { Ok(()) } else { Err(told) }, Ok)
}

pub fn forwarded_ports_and_ipv6() -> Outcome {
    let network = two_hosts().build()?;
    let (client, gw, server) = (network.host("client"), network.host("gw"), network.host("server"));
    let _inside = Service::start(client, "client", 8080)?;
    let _outside = Service::start(server, "server", 7)?;
    let gateway = start(gw, "")?;
    Echo::during(server, "203.0.113.1:80", |_| wait_for_bypass(&gateway))?;
    Echo::during(client, "[2001:db8:1::2]:7", |_| wait_for_bypass(&gateway))?;
    gateway.stop()?;
    Ok(())
}

/// Datagrams that nobody answers, and the first answer.
pub fn datagrams_one_way_and_both() -> Outcome {
    let network = two_hosts().build()?;
    let (client, gw, server) = (network.host("client"), network.host("gw"), network.host("server"));
    let gateway = start(gw, "")?;
    let names = Names::install(&gateway, gw)?;
    let listener = server.run(|| UdpSocket::bind("203.0.113.2:9"))?;
    listener.set_read_timeout(Some(DEADLINE))?;
    let sender = client.run(|| UdpSocket::bind("192.168.0.2:4000"))?;
    sender.set_read_timeout(Some(DEADLINE))?;
    let mut sent = 0u64;
    let mut burst = |answered: bool| -> Outcome {
        let (mut room, mut from, mut payload) = ([0; 1000], None, [0; 600]);
        for _ in 0..100 {
            sent += 1;
            payload[..8].copy_from_slice(&sent.to_be_bytes());
            sender.send_to(&payload, "203.0.113.2:9")?;
            let (len, peer) = listener.recv_from(&mut room)?;
            assert_eq!((&room[..len], peer), (&payload[..], "203.0.113.1:4000".parse()?));
            from = Some(peer);
        }
        if let (true, Some(peer)) = (answered, from) {
            listener.send_to(b"answer", peer)?;
            assert_eq!(sender.recv(&mut room)?, 6);
        }
        Ok(())
    };
    burst(false)?;
    assert!(forwarded(&gateway)? > 0);
    let listed = names.done("conntrack -L -p udp", "")?;
    assert!(listed.contains("[UNREPLIED]"), "{listed}");
    burst(true)?;
    let listed = names.done("conntrack -L -p udp", "")?;
    assert!(!listed.contains("UNREPLIED"), "{listed}");
    burst(true)?;
    let listed = names.done("conntrack -L -p udp", "")?;
    assert_eq!(numbers(&listed, "packets="), [300, 2], "{listed}");
    assert_eq!(rules_counted(&names, "FORWARD")?, [302, 300 * 628 + 2 * 34]);
    gateway.stop()?;
    Ok(())
}

/// Those that the systemd units leave it.
pub fn few_capabilities_are_enough() -> Outcome {
    let network = two_hosts().build()?;
    let (client, gw) = (network.host("client"), network.host("gw"));
    let _service = Service::start(network.host("server"), "server", 7)?;
    let program = ["setpriv", "--bounding-set=-all,+net_admin,+net_raw,+bpf"];
    let flags = ["--lan=lan0=192.168.0.1/24", "--uplink=wan0=203.0.113.1/24,via=203.0.113.2"];
    let gateway = Gateway::start_by(gw, &program, &flags)?;
    Echo::during(client, "203.0.113.2:7", |_| wait_for_bypass(&gateway))?;
    gateway.stop()?;
    Ok(())
}

pub fn it_can_be_switched_off() -> Outcome {
    let network = two_hosts().build()?;
    let (client, gw) = (network.host("client"), network.host("gw"));
    let _service = Service::start(network.host("server"), "server", 7)?;
    let gateway = start(gw, "\"tidegate.bypass\" = 0\n")?;
    Echo::during(client, "203.0.113.2:7", |echo| echo.go_on(200))?;
    assert_eq!(forwarded(&gateway)?, 0);
    gateway.stop()?;
    Ok(())
}
