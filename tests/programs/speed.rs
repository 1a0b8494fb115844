//! Single changes among many rules, from several programs at a time, with traffic on the way.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tidegate::lab::traffic::service::Service;
use tidegate::lab::traffic::tcp;

use super::harness::{DEADLINE, Gateway, Outcome, TWO, at, two_hosts};
use super::room::{Names, Room};

const MANY: usize = 10_000;

/// Rules of which the packets pass every one, and the one that lets them through.
fn many() -> String {
    let mut rules = "*filter\n:FORWARD DROP [0:0]\n".to_owned();
    for n in 0..MANY {
        rules += &format!("-A FORWARD -s 10.{}.{}.1 -j DROP\n", n / 250, n % 250);
    }
    rules + "-A FORWARD -j ACCEPT\nCOMMIT\n*nat\n-A POSTROUTING -o wan0 -j MASQUERADE\nCOMMIT\n"
}

pub fn a_rule_among_many() -> Outcome {
    let network = two_hosts().build()?;
    let client = network.host("client");
    let _service = Service::start(network.host("server"), "server", 7)?;
    let toml = format!("{TWO}\n[rules]\nipv4 = \"r\"\n");
    let gateway = Gateway::start(network.host("gw"), &toml, &[("r", &many())])?;
    let mut rooms = Vec::new();
    for _ in 0..2 {
        rooms.push(Room::new(network.host("gw"), Names::Gateway(&gateway))?);
    }
    let stop = AtomicBool::new(false);
    let mut stream = client
        .run(|| tcp::connect(None, at("203.0.113.2:7"), DEADLINE))
        .map_err(|e| e.to_string())?;
    thread::scope(|s| -> Outcome {
        let traffic = s.spawn(|| -> std::io::Result<u64> {
            let mut rounds = 0;
            while rounds <= 10 || !stop.load(Ordering::Relaxed) {
                let block = [rounds as u8; 512];
                stream.write_all(&block)?;
                let mut back = [0; 512];
                stream.read_exact(&mut back)?;
                rounds += 1;
            }
            Ok(rounds)
        });
        // What one of them does the other doesn't undo.
        let writers: Vec<_> = rooms
            .iter_mut()
            .enumerate()
            .map(|(n, room)| {
                s.spawn(move || {
                    for k in 0..20 {
                        let rule = format!("FORWARD -s 172.16.{n}.{k} -j DROP");
                        let line = format!("iptables -w 5 -I {rule} && iptables -w 5 -C {rule}");
                        room.done(&line).map_err(|e| e.to_string())?;
                    }
                    room.done(&format!("iptables -w -D FORWARD -s 172.16.{n}.7 -j DROP"))
                        .map(drop)
                        .map_err(|e| e.to_string())
                })
            })
            .collect();
        let done: Vec<_> = writers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        stop.store(true, Ordering::Relaxed);
        for writer in done {
            writer.map_err(|_| "a writer panicked")??;
        }
        let rounds = traffic.join().map_err(|_| "the traffic panicked")??;
        assert!(rounds > 10, "{rounds}");
        Ok(())
    })?;
    let rules = rooms[0].done("iptables -S FORWARD -v")?;
    let count = |what: &str| rules.lines().filter(|l| l.contains(what)).count();
    assert_eq!((count("-s 172.16.0."), count("-s 172.16.1."), count("-s 10.")), (19, 19, MANY));
    // Rules around it changed forty times, and it has gone on counting.
    let last = rules.lines().last().ok_or("no rules")?;
    let packets = last.split(" -c ").nth(1).and_then(|c| c.split(' ').next());
    let packets: u64 = packets.ok_or("no counter")?.parse()?;
    assert!(packets > 10, "{last}");
    gateway.stop()?;
    Ok(())
}
