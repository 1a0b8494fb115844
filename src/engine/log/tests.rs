use super::*;
use crate::sim::{Sim, SimConfig, SimInterface};
use tidegate_packet::MacAddr;
use tidegate_packet::builder::{self, Ip};
use tidegate_packet::protocol;

const OWN: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

/// A gateway with one interface, a bridge if it has ports, and these rules in INPUT.
fn gateway(ports: &[&str], rules: &str) -> Sim {
    let mut interface = SimInterface::new("lan0", OWN, &["192.168.0.1/24".parse().unwrap()]);
    interface.ports = ports.iter().map(|p| (*p).to_owned()).collect();
    let rules = format!(
        "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n{rules}\nCOMMIT\n"
    );
    let interfaces = vec![interface];
    Sim::new(&SimConfig { interfaces, rules_v4: rules, ..SimConfig::default() }).unwrap()
}

fn frame(payload: usize) -> Vec<u8> {
    let (src, dst) = ("192.168.0.2".parse().unwrap(), "192.168.0.1".parse().unwrap());
    let packet = builder::udp(Ip::new(src, dst, protocol::UDP), 7, 9, &vec![0; payload]);
    [&OWN.0[..], &OTHER.0, &[8, 0], &packet].concat()
}

#[test]
fn a_bridges_port_is_named() {
    for (ports, port, want) in [
        (&["tap0", "tap1"][..], "tap1", "IN=lan0 OUT= PHYSIN=tap1 MAC=02:00:00:00:00:01:02:"),
        (&[], "lan0", "IN=lan0 OUT= MAC=02:00:00:00:00:01:02:"),
    ] {
        let mut sim = gateway(ports, "-A INPUT -j LOG");
        sim.inject(port, frame(1)).unwrap();
        let lines = sim.engine_mut().take_log().lines;
        assert!(lines[0].text.starts_with(want), "{lines:?}");
    }
}

#[test]
fn what_waits_is_bounded() {
    let mut sim = gateway(&[], "-A INPUT -j LOG\n-A INPUT -j NFLOG --nflog-group 3");
    sim.engine_mut().listen(Groups::Some([3].into()));
    for _ in 0..MAX_WAITING + 2 {
        sim.inject("lan0", frame(1)).unwrap();
    }
    let waiting = sim.engine_mut().take_log();
    let counts = (waiting.lines.len(), waiting.packets.len(), waiting.lost);
    assert_eq!(counts, (MAX_WAITING, MAX_WAITING, 4));
    // It begins anew, now with packets of the greatest length.
    let long = 65_000;
    for _ in 0..MAX_WAITING_BYTES / long + 5 {
        sim.inject("lan0", frame(long)).unwrap();
    }
    let waiting = sim.engine_mut().take_log();
    let bytes: usize = waiting.packets.iter().map(|p| p.bytes.len()).sum();
    assert!(bytes <= MAX_WAITING_BYTES && waiting.lost > 0, "{bytes}, {}", waiting.lost);
    assert!(sim.engine_mut().take_log().is_empty());
}

#[test]
fn nflog_goes_to_its_listener_cut_as_the_rule_says() {
    for (rule, group, len) in [
        ("--nflog-group 3", 3, 36),
        ("--nflog-group 3 --nflog-size 20", 3, 20),
        ("--nflog-size 0", 0, 0),
        ("--nflog-size 9999", 0, 36),
        ("--nflog-range 20", 0, 36),
    ] {
        let mut sim = gateway(&[], &format!("-A INPUT -j NFLOG --nflog-prefix \"a b\" {rule}"));
        sim.inject("lan0", frame(8)).unwrap();
        let waiting = sim.engine_mut().take_log();
        let end = format!("NFLOG={group} ");
        let text = &waiting.lines[0].text;
        assert!(text.starts_with("a bIN=lan0 ") && text.ends_with(&end), "{text}");
        sim.engine_mut().listen(Groups::All);
        sim.inject("lan0", frame(8)).unwrap();
        let waiting = sim.engine_mut().take_log();
        let [packet] = &waiting.packets[..] else { panic!("{waiting:?}") };
        assert_eq!((packet.group, packet.bytes.len(), packet.len), (group, len, 36), "{rule}");
        assert_eq!((packet.prefix.as_str(), packet.hook), ("a b", Hook::Input));
        assert_eq!(packet.link.map(|l| l[6..12].to_vec()), Some(OTHER.0.to_vec()));
        assert_eq!((packet.input.as_deref(), packet.output.as_deref()), (Some("lan0"), None));
    }
}

#[test]
fn lines_end_where_the_kernels_do() {
    let mut text = "ä".repeat(1000);
    bound(&mut text);
    assert_eq!(text.len(), MAX_LINE);
}
