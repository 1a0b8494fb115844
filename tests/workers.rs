//! Workers on threads of their own over devices in memory: a table that is full, ports that run out,
//! rules replaced under load, connections that end at once, a worker that hangs.

mod common;
mod threads;

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use common::addr;
use threads::{Lab, Wires, answer, config, count_of, number, question};
use tidegate::conntrack::gateway::entries;
use tidegate::conntrack::{Ask, Entry, Tell};
use tidegate::engine::Drop;
use tidegate::worker::unix_nanos;
use tidegate_filter::Sets;
use tidegate_packet::{Family, protocol};

const NAT: &str = "*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -i wan0 -p udp -m udp --dport 8000 -j DNAT --to-destination 192.168.0.4:53
-A POSTROUTING -o wan0 -p udp -m udp --dport 53 -j MASQUERADE --to-ports 2000-2063
-A POSTROUTING -o wan0 -j MASQUERADE
COMMIT
";

/// Lets nothing through that begins outside but for the forward, nor what is for port 666.
fn filtering(more: &str) -> String {
    format!(
        "{NAT}*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n\
         -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n{more}\
         -A FORWARD -p udp -m udp --dport 666 -j DROP\n-A FORWARD -i lan0 -j ACCEPT\n\
         -A FORWARD -m conntrack --ctstate DNAT -j ACCEPT\nCOMMIT\n"
    )
}

/// Outside ends of the connections that are listed.
fn outside(lab: &Lab) -> Vec<(std::net::IpAddr, u16)> {
    let all = lab.gateway.each(entries).into_iter().flatten();
    all.map(|entry: Entry| (entry.reply.dst, entry.reply.dport)).collect()
}

/// However many workers look for a port at once: each is given once, all are, and again when those
/// who had them are gone.
#[test]
fn ports_are_given_once_by_all_workers() {
    for workers in [1, 3, 8] {
        let mut lab = Lab::new(&config(NAT, ""), workers, Wires::Scattered);
        for round in 0..3u32 {
            for n in 0..400 {
                // One far end, so that a port is for one.
                let host = addr(&format!("192.168.0.{}", 2 + n % 7));
                lab.push("lan0", &question(host, 1024 + (round * 400 + n) as u16, 53, n));
            }
            let out = lab.settle();
            let ports: BTreeSet<u16> = out.iter().map(|sent| sent.ports().0).collect();
            assert_eq!((out.len(), ports.len()), (64, 64), "{workers} workers");
            assert_eq!((ports.first(), ports.last()), (Some(&2000), Some(&2063)));
            let listed: BTreeSet<_> = outside(&lab).into_iter().collect();
            assert_eq!((listed.len(), lab.gateway.connections()), (64, 64));
            assert_eq!(lab.drops(Drop::NatExhausted) + lab.drops(Drop::ConnectionTable), 336);
            lab.expire();
            assert_eq!(lab.left(), [0; 3]);
            lab.forget();
        }
    }
}

/// The bound holds at any moment while all workers want more, and those that are assured stay.
#[test]
fn a_full_table_is_full_for_all_workers() {
    for workers in [1, 3, 8] {
        let sysctls = "net.netfilter.nf_conntrack_max = 300\n";
        let mut lab = Lab::new(&config(NAT, sysctls), workers, Wires::Scattered);
        let host = addr("192.168.0.2");
        // What is seen in both directions for a while is assured.
        for n in 0..100 {
            lab.push("lan0", &question(host, 1000 + n, 5000, 0));
        }
        assert_eq!(lab.settle().len(), 100);
        lab.assure();
        let standing = outside(&lab);
        lab.forget();
        for n in 0..6000u32 {
            let host = addr(&format!("192.168.0.{}", 3 + n % 5));
            lab.push(
                "lan0",
                &question(host, 1024 + (n % 1500) as u16, 7000 + (n / 1500) as u16, n),
            );
            assert!(lab.gateway.connections() <= 300, "{workers} workers");
            if n % 256 == 255 {
                // No queue between workers is full.
                lab.settle();
            }
        }
        // Nobody is refused: there is always somebody who may go.
        assert_eq!((lab.settle().len(), lab.gateway.connections()), (6000, 300));
        let now: BTreeSet<_> = outside(&lab).into_iter().collect();
        assert!(standing.iter().all(|end| now.contains(end)), "{workers} workers");
        assert_eq!(lab.gateway.stats().early_drop, 6000 - 200);
    }
}

/// No packet is lost and none is let in while rules are replaced again and again, and the packets of
/// a flow leave by one worker and in order, whoever receives them.
#[test]
fn rules_are_replaced_under_load() {
    for (workers, wires) in [(2, Wires::Home), (3, Wires::Scattered), (8, Wires::Scattered)] {
        let mut lab = Lab::new(&config(&filtering(""), ""), workers, wires);
        let (host, server) = (addr("192.168.0.2"), addr("192.168.0.4"));
        let far = addr("198.51.100.1");
        let flows = 0..24u16;
        for n in flows.clone() {
            lab.push("lan0", &question(host, 3000 + n, 5000, 0));
            lab.push("wan0", &threads::datagram(far, addr("203.0.113.1"), (4000 + n, 8000), 0));
        }
        assert_eq!(lab.settle().len(), 48);
        lab.assure();
        lab.forget();
        let rules = ["", "-A FORWARD -p udp -m udp --dport 9 -j DROP\n"].map(filtering);
        let mut last = HashMap::new();
        for round in 1..=40u32 {
            // As many as there is room for in one queue: what is lost is lost to rules.
            for n in flows.clone() {
                for of_round in 0..2 {
                    let seen = round * 2 + of_round;
                    lab.push("lan0", &question(host, 3000 + n, 5000, seen));
                    lab.push("wan0", &answer(3000 + n, 5000, seen));
                    lab.push("lan0", &threads::datagram(server, far, (53, 4000 + n), seen));
                    lab.push("wan0", &question(host, 3000 + n, 666, seen));
                    lab.push("lan0", &question(host, 3000 + n, 666, seen));
                }
            }
            let text = &rules[round as usize % 2];
            let v4 = threads::rules(text, Family::V4);
            let v6 = tidegate_filter::Ruleset::empty(Family::V6, &Sets::new());
            drop(lab.gateway.change(|engine| engine.replace_rules(v4, v6)));
            let out = lab.settle();
            assert_eq!(out.len(), 24 * 6, "{workers} workers, round {round}");
            for sent in out {
                let before = last.insert((sent.port, sent.ports()), (sent.worker, number(&sent)));
                let Some((worker, seen)) = before else { continue };
                assert_eq!(worker, sent.worker, "{:?}", sent.ports());
                assert!(seen < number(&sent), "in order");
            }
            lab.forget();
        }
        assert_eq!(last.len(), 24 * 3);
        assert_eq!(lab.drops(Drop::HandoverFull), 0);
    }
}

/// Packets of established flows are forwarded while somebody holds the engine, whichever worker
/// receives them: nothing that they need belongs to all workers.
#[test]
fn established_flows_do_without_the_engine() {
    for workers in [1, 3, 8] {
        let mut lab = Lab::new(&config(&filtering(""), ""), workers, Wires::Scattered);
        let [host, server] = ["192.168.0.2", "192.168.0.4"].map(addr);
        let [far, gateway] = ["198.51.100.1", "203.0.113.1"].map(addr);
        let round = |lab: &mut Lab| {
            for n in 0..24 {
                lab.push("lan0", &question(host, 3000 + n, 5000, 0));
                lab.push("wan0", &threads::datagram(far, gateway, (4000 + n, 8000), 0));
                if lab.is_assured() {
                    lab.push("wan0", &answer(3000 + n, 5000, 0));
                    lab.push("lan0", &threads::datagram(server, far, (53, 4000 + n), 0));
                }
            }
        };
        round(&mut lab);
        assert_eq!(lab.settle().len(), 48);
        lab.assure();
        // A worker whose timer goes off meanwhile waits for the engine: then once more.
        let done = (0..1000).any(|_| {
            // What was decided lasts for two seconds.
            for _ in 0..2 {
                lab.forget();
                round(&mut lab);
                assert_eq!(lab.settle().len(), 96);
            }
            lab.forget();
            let shared = lab.gateway.clone();
            let engine = shared.engine();
            round(&mut lab);
            let done = lab.sent_within(96, Duration::from_millis(100));
            drop(engine);
            lab.settle();
            done
        });
        assert!(done, "{workers} workers");
    }
}

/// Whoever counts or lists while connections end at once is told what is left, and packets of the
/// others pass.
#[test]
fn many_end_at_once_while_packets_pass() {
    for workers in [1, 3] {
        let sysctls = "net.netfilter.nf_conntrack_udp_timeout_stream = 86400\n";
        let mut lab = Lab::new(&config(NAT, sysctls), workers, Wires::Scattered);
        let host = addr("192.168.0.2");
        for n in 0..20 {
            lab.push("lan0", &question(host, 1000 + n, 5000, 0));
        }
        lab.settle();
        lab.assure();
        lab.forget();
        for n in 0..12_000u32 {
            let host = addr(&format!("192.168.0.{}", 3 + n % 5));
            lab.push("lan0", &question(host, 1024 + (n / 5) as u16, 7000, n));
            if n % 256 == 255 {
                lab.settle();
            }
        }
        lab.settle();
        assert_eq!(lab.ask(Ask::Count), Tell::Count(12_020));
        lab.forget();
        // All but the first have ended by then. Some are removed, in the middle of which packets come.
        let later = Duration::from_secs(1000);
        let behind = {
            let mut engine = lab.gateway.engine();
            engine.set_time(lab.clock.now() + later, unix_nanos());
            engine.sweep();
            engine.give_back();
            assert!(engine.next_tick() < tidegate::engine::TICK);
            engine.is_behind()
        };
        assert!(behind);
        for n in 0..20 {
            lab.push("lan0", &question(host, 1000 + n, 5000, 1));
        }
        assert_eq!(lab.settle().len(), 20);
        assert_eq!(lab.ask_at(Ask::Count, later), Tell::Count(20));
        let Tell::Page { entries, .. } = lab.ask_at(threads::list(), later) else { panic!() };
        assert_eq!(entries.len(), 20);
        assert!(entries.iter().all(|entry| entry.protocol == protocol::UDP));
    }
}

/// A worker that hangs keeps what is its own and nothing else: the others forward, its connections
/// are listed and end, rules are replaced; what is for it waits, or is lost and counted. Then it goes on.
#[test]
fn a_worker_that_hangs_stops_nobody_else() {
    let mut lab = Lab::new(&config(&filtering(""), ""), 3, Wires::Scattered);
    let host = addr("192.168.0.2");
    for n in 0..60 {
        lab.push("lan0", &question(host, 1000 + n, 5000, 0));
    }
    assert_eq!(lab.settle().len(), 60);
    lab.assure();
    lab.forget();
    let mut of_worker = [0; 3];
    for n in 0..60 {
        of_worker[lab.home(host, 1000 + n, 5000)] += 1;
    }
    assert!(of_worker.iter().all(|count| *count > 5), "{of_worker:?}");
    lab.hang(1);
    // The two that run receive everything.
    let (mut pushed, mut lost) = (0, 0);
    while lost == 0 {
        for n in 0..60 {
            lab.push_to([0, 2][usize::from(n) % 2], "lan0", &question(host, 1000 + n, 5000, 1));
            pushed += usize::from(lab.home(host, 1000 + n, 5000) != 1);
        }
        let v4 = threads::rules(&filtering(""), Family::V4);
        let v6 = tidegate_filter::Ruleset::empty(Family::V6, &Sets::new());
        drop(lab.gateway.change(|engine| engine.replace_rules(v4, v6)));
        lab.wait_for_sent(pushed);
        lost = lab.drops(Drop::HandoverFull);
        assert!(pushed < 10_000, "its queue has a bound");
    }
    assert!(lab.sent().iter().all(|sent| sent.worker != 1));
    // New connections, too, and everything is listed.
    for n in 0..60 {
        lab.push_to(0, "lan0", &question(host, 2000 + n, 5000, 1));
        pushed += usize::from(lab.home(host, 2000 + n, 5000) != 1);
    }
    lab.wait_for_sent(pushed);
    assert!(outside(&lab).len() > 60);
    lab.expire();
    assert_eq!(lab.left(), [0; 3]);
    // What has waited goes its way.
    lab.go_on(1);
    lab.settle();
    let late = lab.sent().iter().filter(|sent| sent.worker == 1).count();
    assert_eq!(late, tidegate::handover::QUEUE);
}

/// A worker whose device is gone says so once; the others don't notice.
#[test]
fn a_device_that_is_gone_for_one_is_there_for_others() {
    let mut lab = Lab::new(&config(&filtering(""), ""), 3, Wires::Scattered);
    let host = addr("192.168.0.2");
    lab.lose(1, "lan0");
    assert_eq!(lab.gone.recv_timeout(Duration::from_secs(60)).map(|port| port.0), Ok(0));
    for n in 0..90 {
        lab.push_to([0, 2][usize::from(n) % 2], "lan0", &question(host, 1000 + n, 5000, 1));
    }
    // Its own flows as well: they are handed over to it.
    let out = lab.settle();
    assert_eq!(out.len(), 90);
    assert_eq!(count_of(&out, |sent| sent.worker).len(), 3);
    assert!(lab.gone.try_recv().is_err());
}
