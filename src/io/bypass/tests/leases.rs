//! When a flow's packets are forwarded, and what is said of them.

use super::*;
use std::thread;

/// This thread may run anywhere again.
fn leave_processor() {
    let mut all = CpuSet::new();
    (0..CpuSet::count()).for_each(|cpu| all.set(cpu).unwrap());
    sched_setaffinity(Pid::from_raw(0), &all).unwrap();
}

fn udp() -> Flow {
    flows().into_iter().map(|(_, flow)| flow).find(|flow| !is_tcp(flow)).unwrap()
}

fn hello(flow: &Flow, direction: usize) -> Vec<u8> {
    frame(direction, &packet(flow, direction, b"hello"))
}

#[test]
fn a_flow_is_forwarded_from_lease_to_end() {
    let Some(bypass) = bypass() else { return };
    let flow = udp();
    let frames = [hello(&flow, 0), hello(&flow, 1)];
    assert_eq!(decide(&bypass, &frames[0]), UP);
    let number = bypass.lease(&flow).unwrap();
    for frame in &frames {
        assert_eq!(decide(&bypass, frame), TAKEN);
    }
    let report = bypass.report(number, true);
    let each = Counters { packets: 1, bytes: frames[0].len() as u64 - 14 };
    assert_eq!(report.counted, [each; 2]);
    for frame in &frames {
        assert_eq!(decide(&bypass, frame), UP);
    }
    // The number is another's, and an end once more is nobody's.
    assert_eq!(bypass.report(number, true).counted, [Counters::default(); 2]);
    assert_eq!(bypass.lease(&flow), Some(number));
}

#[test]
fn a_generation_and_a_time_end() {
    let Some(bypass) = bypass() else { return };
    let flow = udp();
    let number = bypass.lease(&flow).unwrap();
    for (generation, decision) in [(2, UP), (1, TAKEN), (1 << 40 | 1, UP), (1, TAKEN)] {
        bypass.set_generation(generation);
        assert_eq!(decide(&bypass, &hello(&flow, 0)), decision, "{generation}");
    }
    bypass.report(number, true);
    let over = Flow { until: NOW, ..flow };
    bypass.lease(&over).unwrap();
    // The kernel's coarse clock moves in steps, of ten milliseconds at most.
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while decide(&bypass, &hello(&over, 0)) != UP {
        assert!(std::time::Instant::now() < deadline, "its time doesn't end");
    }
}

#[test]
fn packets_are_dated_by_the_gateways_clock() {
    let Some(bypass) = bypass() else { return };
    let flow = udp();
    let number = bypass.lease(&flow).unwrap();
    decide(&bypass, &hello(&flow, 0));
    let seen = bypass.report(number, false).seen;
    // By at most a tick before the programs were loaded.
    let earliest = Instant::from_nanos(NOW.as_nanos() - 20_000_000);
    assert!(seen >= earliest && seen < NOW + Duration::from_secs(600), "{seen:?}");
}

#[test]
fn a_pause_holds_the_windows() {
    let Some(bypass) = bypass() else { return };
    let (_, flow) = flows().swap_remove(0);
    let number = bypass.lease(&flow).unwrap();
    assert_eq!(decide(&bypass, &hello(&flow, 0)), TAKEN);
    assert_eq!(bypass.pause(number).counted[0].packets, 1);
    assert_eq!(decide(&bypass, &hello(&flow, 0)), UP);
    let mut windows = windows::established();
    windows.peers[0].max_window = 12_345;
    bypass.resume(number, Some(windows));
    assert_eq!(bypass.report(number, false).windows, Some(windows));
    assert_eq!(decide(&bypass, &hello(&flow, 0)), TAKEN);
}

#[test]
fn one_direction_alone() {
    let Some(bypass) = bypass() else { return };
    for direction in [0, 1] {
        for (what, mut flow) in flows() {
            flow.ways[1 - direction] = None;
            let (_, whole) = flows()
                .into_iter()
                .find(|(name, f)| *name == what && is_tcp(f) == is_tcp(&flow))
                .unwrap();
            let number = bypass.lease(&flow).unwrap();
            assert_eq!(decide(&bypass, &hello(&whole, direction)), TAKEN, "{what}");
            assert_eq!(decide(&bypass, &hello(&whole, 1 - direction)), UP, "{what}");
            let report = bypass.report(number, true);
            assert_eq!(report.counted[direction].packets, 1, "{what}");
            assert_eq!(report.windows.is_some(), is_tcp(&flow), "{what}");
        }
    }
}

#[test]
fn what_cannot_be_leased() {
    let Some(bypass) = bypass() else { return };
    let (_, tcp) = flows().swap_remove(0);
    let udp = udp();
    let mut icmp = udp.clone();
    for way in icmp.ways.iter_mut().flatten() {
        way.tuple.protocol = tidegate_packet::protocol::ICMP;
        way.rewritten.protocol = tidegate_packet::protocol::ICMP;
    }
    let rows = [
        ("TCP without windows", Flow { windows: None, ..tcp.clone() }),
        ("UDP with windows", Flow { windows: tcp.windows, ..udp.clone() }),
        ("of two families", Flow { family: Family::V6, ..udp.clone() }),
        ("another protocol", icmp),
        ("no direction", Flow { ways: [None, None], ..udp.clone() }),
    ];
    for (what, flow) in rows {
        assert_eq!(bypass.lease(&flow), None, "{what}");
    }
    // A key that another flow has: neither of both is there then.
    let mut half = udp.clone();
    half.ways.swap(0, 1);
    half.ways[1].as_mut().unwrap().tuple.sport = 999;
    let number = bypass.lease(&udp).unwrap();
    assert_eq!(bypass.lease(&udp), None);
    let mut other = udp.clone();
    other.ways[0].as_mut().unwrap().tuple.sport = 999;
    assert_eq!(bypass.lease(&other), None, "its reply is the first's");
    bypass.report(number, true);
    assert!(bypass.lease(&other).is_some());
}

#[test]
fn there_is_room_for_so_many() {
    let Some(bypass) = bypass() else { return };
    let nth = |n: u32| {
        let mut flow = udp();
        let port = n as u16 + 1;
        let [a, b] = flow.ways.each_mut().map(|way| way.as_mut().unwrap());
        (a.tuple.sport, b.tuple.dport) = (port, port);
        (a.rewritten.sport, b.rewritten.dport) = (port, port);
        flow
    };
    for n in 0..MOST {
        assert_eq!(bypass.lease(&nth(n)), Some(n));
    }
    assert_eq!(bypass.lease(&nth(MOST)), None);
    for n in [0, 1, 77, MOST - 1] {
        assert_eq!(decide(&bypass, &hello(&nth(n), 1)), TAKEN, "{n}");
        assert_eq!(bypass.report(n, true).counted[1].packets, 1, "{n}");
    }
    assert!(bypass.lease(&nth(MOST)).is_some());
}

#[test]
fn an_order_is_for_one_packet() {
    let Some(bypass) = bypass() else { return };
    let flow = udp();
    bypass.lease(&flow).unwrap();
    let frame = hello(&flow, 0);
    assert_eq!(forward(&bypass, &frame).0, SHOT, "nobody has decided");
    assert_eq!(decide(&bypass, &frame), TAKEN);
    assert_eq!(forward(&bypass, &frame).0, REDIRECT);
    assert_eq!(forward(&bypass, &frame).0, SHOT, "once more");
    // Another packet behind it: by its length, and by the next decision.
    assert_eq!(decide(&bypass, &frame), TAKEN);
    assert_eq!(forward(&bypass, &frame[..frame.len() - 1]).0, SHOT, "another");
    assert_eq!(forward(&bypass, &frame).0, SHOT, "its order is gone");
    assert_eq!(decide(&bypass, &frame), TAKEN);
    assert_eq!(decide(&bypass, &frame[..30]), UP);
    assert_eq!(forward(&bypass, &frame).0, SHOT, "what was said is over");
}

#[test]
fn another_interface_is_another_flow() {
    let Some(bypass) = bypass() else { return };
    let mut flow = udp();
    flow.ways[0].as_mut().unwrap().input = INPUT + 1;
    bypass.lease(&flow).unwrap();
    assert_eq!(decide(&bypass, &hello(&flow, 0)), UP);
    assert_eq!(decide(&bypass, &hello(&flow, 1)), TAKEN);
}

#[test]
fn a_slot_is_asked_whose_it_is() {
    let Some(bypass) = bypass() else { return };
    let flow = udp();
    let number = bypass.lease(&flow).unwrap();
    // As if it had become another's between look-up and lock.
    let all: [fn(&mut Key); 5] = [
        |key| key.interface ^= 1,
        |key| key.kind ^= 1,
        |key| key.src[3] ^= 1,
        |key| key.dst[15] ^= 1,
        |key| key.ports[3] ^= 1,
    ];
    for change in all {
        change(&mut bypass.slot(number).lock().ways[0].key);
        assert_eq!(decide(&bypass, &hello(&flow, 0)), UP);
        change(&mut bypass.slot(number).lock().ways[0].key);
        assert_eq!(decide(&bypass, &hello(&flow, 0)), TAKEN);
    }
}

#[test]
fn who_finds_the_lock_taken_goes_up() {
    let Some(bypass) = bypass() else { return };
    let flow = udp();
    let number = bypass.lease(&flow).unwrap();
    let locked = bypass.slot(number).lock();
    assert_eq!(decide(&bypass, &hello(&flow, 0)), UP);
    drop(locked);
    assert_eq!(bypass.report(number, false).counted, [Counters::default(); 2]);
    assert_eq!(decide(&bypass, &hello(&flow, 0)), TAKEN);
}

#[test]
fn nothing_is_counted_twice_or_lost() {
    const TAKES: u64 = 1000;
    let Some(bypass) = bypass() else { return };
    let flow = udp();
    let number = bypass.lease(&flow).unwrap();
    let senders = [0, 1].map(|direction| {
        let (bypass, frame) = (bypass.clone(), hello(&flow, direction));
        thread::spawn(move || {
            leave_processor();
            let mut taken = 0;
            while taken < TAKES {
                taken += u64::from(decide(&bypass, &frame) == TAKEN);
            }
        })
    });
    let mut counted = [0; 2];
    let mut collect = || {
        let report = bypass.report(number, false);
        for (sum, more) in counted.iter_mut().zip(report.counted) {
            *sum += more.packets;
        }
    };
    while senders.iter().any(|sender| !sender.is_finished()) {
        collect();
        // The lock is to be free for most of the time.
        thread::sleep(Duration::from_micros(20));
    }
    collect();
    for sender in senders {
        sender.join().unwrap();
    }
    assert_eq!(counted, [TAKES; 2]);
}
