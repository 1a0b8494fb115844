//! Packets, a gateway and a log for the tests.
#![allow(dead_code)]

use tidegate_filter::*;
use tidegate_packet::builder::{self, Ip, Tcp};
use tidegate_packet::{Addr, Family, Instant, Parsed, protocol};

/// A gateway whose own address ends in `.1` or `::1`, and whose routes lead to `lan0`.
pub struct TestGateway;

impl Gateway for TestGateway {
    fn reverse_path(&self, question: ReversePath<'_>) -> bool {
        question.loose || question.input == "lan0"
    }

    fn addr_type(&self, addr: Addr, _: Option<&str>) -> AddrType {
        match addr {
            a if a.is_multicast() => AddrType::Multicast,
            a if a.is_limited_broadcast() => AddrType::Broadcast,
            a if a.wire().last() == Some(&1) => AddrType::Local,
            _ => AddrType::Unicast,
        }
    }
}

/// Writes down what targets ask for.
#[derive(Default)]
pub struct Seen(pub Vec<String>);

impl Effects for Seen {
    fn log(&mut self, record: LogRecord<'_>) {
        self.0.push(format!("log {} {}", record.level, record.prefix));
    }
    fn set_mark(&mut self, mark: u32) {
        self.0.push(format!("mark {mark:#x}"));
    }
    fn notrack(&mut self) {
        self.0.push("notrack".into());
    }
    fn clamp_mss(&mut self, clamp: MssClamp) {
        self.0.push(format!("{clamp:?}"));
    }
}

pub fn rules(text: &str) -> Ruleset {
    load(Source { name: "test", text }, guess_family("", text))
        .unwrap_or_else(|e| panic!("{e:?}"))
        .ruleset
}

/// The rules of a filter table, with a chain `T` to jump to.
pub fn filter(lines: &str) -> String {
    format!("*filter\n:T - [0:0]\n{lines}\nCOMMIT\n")
}

fn ip(src: &str, dst: &str) -> Ip {
    Ip::new(src.parse().unwrap(), dst.parse().unwrap(), 0)
}

pub fn tcp(src: &str, dst: &str, sport: u16, dport: u16, flags: u8) -> Vec<u8> {
    builder::tcp(ip(src, dst), Tcp { sport, dport, flags, ..Tcp::default() }, b"")
}

pub fn udp(src: &str, dst: &str, sport: u16, dport: u16) -> Vec<u8> {
    builder::udp(ip(src, dst), sport, dport, b"x")
}

pub fn icmp(src: &str, dst: &str, kind: u8, code: u8) -> Vec<u8> {
    builder::icmp(ip(src, dst), kind, code, [0; 4], b"")
}

pub fn other(src: &str, dst: &str, number: u8, payload: &[u8]) -> Vec<u8> {
    builder::ip(Ip { protocol: number, ..ip(src, dst) }, payload)
}

/// A fragment of a TCP packet at an offset in units of eight bytes.
pub fn fragment(src: &str, dst: &str, offset: u16) -> Vec<u8> {
    let mut bytes = other(src, dst, protocol::TCP, &[0xff; 40]);
    bytes[6] = (offset >> 8) as u8;
    bytes[7] = offset as u8;
    tidegate_packet::ipv4::write_checksum(&mut bytes);
    bytes
}

/// A query about a packet on its way from `lan0` to `wan0`.
pub fn query<'a>(packet: &'a Parsed, bytes: &'a [u8]) -> Query<'a> {
    Query {
        packet,
        bytes,
        input: Some("lan0"),
        output: Some("wan0"),
        port: None,
        link: None,
        state: CtState::New,
        connection: None,
        mark: 0,
        now: Instant::from_secs(1000),
        unix_nanos: 0,
        gateway: &TestGateway,
    }
}

/// One walk through a filter chain.
pub fn walk(rules: &Ruleset, hook: Hook, bytes: &[u8]) -> (Verdict, Counters, Vec<String>) {
    let packet = Parsed::parse(bytes).unwrap();
    let mut counters = rules.zero_counters();
    let mut seen = Seen::default();
    let memory = Memory::new();
    let verdict = rules.evaluate(
        TableName::Filter,
        hook,
        &query(&packet, bytes),
        &mut counters,
        &memory,
        &mut seen,
    );
    (verdict, counters, seen.0)
}

pub fn style() -> SaveStyle<'static> {
    SaveStyle { stamp: "now", rule_counters: true }
}

pub const V4: Family = Family::V4;
