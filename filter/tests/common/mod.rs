//! Packets, a gateway and a log for the tests.
#![allow(dead_code)]

pub mod chains;

use std::ops::Deref;

use tidegate_filter::*;
use tidegate_packet::builder::{self, Ip, Tcp};
use tidegate_packet::{Addr, Family, Instant, Parsed, checksum, protocol};

/// A gateway whose own address ends in `.1` or `::1`, and whose routes lead to `lan0`. It
/// knows every flow but those to port 9.
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

    fn flow(&self, flow: &Flow, _: [u16; 2]) -> FlowState {
        if flow.dport == 9 { FlowState::Unknown } else { FlowState::Open }
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
    fn set_label(&mut self, label: u8) {
        self.0.push(format!("label {label}"));
    }
    fn nflog(&mut self, record: NflogRecord<'_>) {
        self.0.push(format!("nflog {} {}", record.group, record.prefix));
    }
    fn audit(&mut self, _: AuditRecord<'_>) {
        self.0.push("audit".into());
    }
    fn trace(&mut self, r: TraceRecord<'_>) {
        let (table, step) = (r.table.as_str(), r.step.as_str());
        self.0.push(format!("{table}:{}:{step}:{}", r.chain, r.number));
    }
    fn tee(&mut self, _: &Query<'_>, gateway: Addr, interface: Option<&str>) {
        self.0.push(format!("tee {gateway} {interface:?}"));
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
        random: 0,
        trace: false,
        cpu: 0,
        gateway: &TestGateway,
    }
}

/// The connection of a packet that is its first; it is assured and in the table.
pub fn connection(packet: &Parsed) -> Connection {
    let (sport, dport) = packet.ports().unwrap();
    let (src, dst, protocol) = (packet.src, packet.dst, packet.protocol);
    Connection {
        original: Flow { src, dst, sport, dport, protocol },
        reply: Flow { src: dst, dst: src, sport: dport, dport: sport, protocol },
        zones: [0; 2],
        direction: Direction::Original,
        seen_reply: true,
        assured: true,
        confirmed: true,
        expected: false,
        snat: false,
        dnat: false,
        mark: 0,
        labels: 0,
        helper: None,
        expires: 1,
        accounting: [(0, 0); 2],
    }
}

/// A packet that rules have changed.
#[derive(Clone)]
pub struct Edited {
    pub bytes: Vec<u8>,
    pub connection: Option<Connection>,
    /// The other edits.
    pub seen: Vec<String>,
}

/// Walks, with edits made on a copy.
pub fn evaluate_edited(
    rules: &Ruleset,
    table: TableName,
    hook: Hook,
    query: &Query<'_>,
    counters: &mut Counters,
    memory: &Memory,
    effects: &mut dyn Effects,
) -> (Verdict, Edited) {
    let mut packet = *query.packet;
    let connection = query.connection.map(|connection| **connection);
    let mut edited = Edited { bytes: query.bytes.to_vec(), connection, seen: Vec::new() };
    let (mut state, mut trace) = (query.state, query.trace);
    let mut walk = rules.walk(table, hook);
    loop {
        let connection = edited.connection.as_ref();
        let connection = connection.as_ref().map(|known| known as &dyn Deref<Target = _>);
        let query =
            Query { packet: &packet, bytes: &edited.bytes, connection, state, trace, ..*query };
        match walk.resume(&query, counters, memory, effects) {
            Step::Done(verdict) => return (verdict, edited),
            Step::Edit(Edit::Header(edit)) => {
                edit.make(&mut packet, &mut edited.bytes, checksum::Field::Complete);
                assert_eq!(Parsed::parse(&edited.bytes).as_ref(), Ok(&packet));
            }
            Step::Edit(Edit::ConnMark(mark)) => {
                edited.connection.as_mut().unwrap().mark = mark;
            }
            Step::Edit(edit) => {
                trace |= edit == Edit::Trace;
                if edit == Edit::Untrack {
                    state = CtState::Untracked;
                }
                edited.seen.push(format!("{edit:?}"));
            }
        }
    }
}

pub fn evaluate(
    rules: &Ruleset,
    table: TableName,
    hook: Hook,
    query: &Query<'_>,
    counters: &mut Counters,
    memory: &Memory,
    effects: &mut dyn Effects,
) -> Verdict {
    evaluate_edited(rules, table, hook, query, counters, memory, effects).0
}

/// One walk through a filter chain.
pub fn walk(rules: &Ruleset, hook: Hook, bytes: &[u8]) -> (Verdict, Counters, Vec<String>) {
    let packet = Parsed::parse(bytes).unwrap();
    let mut counters = rules.zero_counters();
    let mut seen = Seen::default();
    let memory = Memory::new();
    let query = query(&packet, bytes);
    let (verdict, edited) =
        evaluate_edited(rules, TableName::Filter, hook, &query, &mut counters, &memory, &mut seen);
    seen.0.extend(edited.seen);
    (verdict, counters, seen.0)
}

pub fn style() -> SaveStyle<'static> {
    SaveStyle { stamp: "now", rule_counters: true }
}

pub const V4: Family = Family::V4;
