//! Frames of a few flows, whole and damaged, through gateways that must not differ: one without the
//! short way, one with it, one that takes packets both ways, one that leases every flow, and one with
//! three shards whose frames arrive anywhere. The fuzz target `lockstep` and `tests/conversations.rs`
//! run these.
//!
//! The input is a walk: each step is a frame of one of the flows in one direction, some time, or a
//! change of rules, sets, neighbours, addresses or connections.

use super::{addr, frame, gateway_mac, host_mac, mutate, page_with_neighbours};
use std::time::Duration;
use tidegate::engine::ShortWay;
use tidegate::io::channel::Flying;
use tidegate::io::{Checksum, Gso, GsoKind, Offload};
use tidegate::sim::{Arrival, Sim, SimConfig};
use tidegate_filter::live::{Call, Present, Program, run};
use tidegate_filter::{SaveStyle, Sets};
use tidegate_nat::Update;
use tidegate_packet::arp::{Arp, Operation};
use tidegate_packet::builder::{self, Ip, Tcp};
use tidegate_packet::{Addr, Family, Instant, protocol, tcp};

/// Steps of a walk.
const STEPS: usize = 160;
const SETS: &str = "create blocked hash:ip\n";
const FILTER: &str = "*filter\n:FORWARD DROP\n-A FORWARD -m conntrack --ctstate INVALID -j DROP\n\
    -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
    -A FORWARD -i eth0 -j ACCEPT\n-A FORWARD -m conntrack --ctstate DNAT -j ACCEPT\nCOMMIT\n";
const NAT: &str = "*nat\n\
    -A PREROUTING -i ppp0 -p tcp --dport 8000 -j DNAT --to-destination 192.168.0.6:80\n\
    -A POSTROUTING -o ppp0 -j MASQUERADE\nCOMMIT\n";

/// What most people have, and what more or less forbids a short way.
const RULES: [&str; 4] = [
    "",
    "*mangle\n-A FORWARD -m connmark --mark 9 -j DROP\n-A FORWARD -m mark --mark 3\nCOMMIT\n",
    "*mangle\n-A FORWARD -p udp -m length --length 200:\n\
     -A FORWARD -p tcp -m tcp --tcp-flags PSH PSH\nCOMMIT\n",
    "*raw\n-A PREROUTING -i eth0 -p udp -j CT --zone 2\n-A PREROUTING -p tcp -j CT --notrack\nCOMMIT\n",
];

const COMMANDS: [&str; 10] = [
    "-I FORWARD -p udp -m set --match-set blocked dst -j DROP",
    "-I FORWARD -m limit --limit 5/sec -j ACCEPT",
    "-I FORWARD -p tcp -m quota --quota 3000 -j ACCEPT",
    "-D FORWARD 1",
    "-t mangle -A PREROUTING -j CONNMARK --set-mark 3",
    "-t mangle -A POSTROUTING -j TTL --ttl-dec 1",
    "-t mangle -F",
    "-Z",
    "-P FORWARD ACCEPT",
    "-t raw -A PREROUTING -m statistic --mode nth --every 3 --packet 0 -j MARK --set-mark 3",
];

/// One side of a flow: where its packets come in, and what their headers say.
#[derive(Copy, Clone)]
struct End {
    port: &'static str,
    /// The station, and the gateway's interface.
    stations: [u8; 2],
    src: &'static str,
    dst: &'static str,
    ports: [u16; 2],
}

struct Flow {
    is_tcp: bool,
    ends: [End; 2],
    /// The next sequence number of each side.
    next: [u32; 2],
}

fn flows() -> Vec<Flow> {
    let lan = |src, dst, ports| End { port: "eth0", stations: [2, 0], src, dst, ports };
    let wan = |src, dst, ports| End { port: "ppp0", stations: [99, 2], src, dst, ports };
    let (client, far, own) = ("192.168.0.2", "198.51.100.10", "203.0.113.1");
    let (client6, far6) = ("fd00:1::2", "2001:db8:1::2");
    let (web, other) = ("192.168.0.6", "10.3.0.9");
    let web_side = End { port: "eth0", stations: [6, 0], src: web, dst: far, ports: [80, 5000] };
    let other_side =
        End { port: "eth1", stations: [9, 1], src: other, dst: client, ports: [7, 4002] };
    let flow = |is_tcp, a, b| Flow { is_tcp, ends: [a, b], next: [1000, u32::MAX - 2000] };
    vec![
        flow(false, lan(client, far, [4000, 53]), wan(far, own, [53, 4000])),
        flow(true, lan(client, far, [4001, 80]), wan(far, own, [80, 4001])),
        flow(true, wan(far, own, [5000, 8000]), web_side),
        flow(false, lan(client6, far6, [4000, 53]), wan(far6, client6, [53, 4000])),
        flow(true, lan(client6, far6, [4001, 80]), wan(far6, client6, [80, 4001])),
        flow(false, lan(client, other, [4002, 7]), other_side),
    ]
}

/// Reads the walk from its beginning; past its end come zeros.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::from(self.byte()) % all.len()]
    }
}

/// Gateways, by what makes each another.
const KINDS: [&str; 5] = ["without", "with", "compared", "leasing", "in shards"];

struct Walk<'a> {
    input: Input<'a>,
    sims: Vec<(Sim, Sets)>,
    flows: Vec<Flow>,
    uplink: bool,
}

/// Plays a walk; where gateways differ is said. How many packets have gone the short way in one that has
/// it, and how many were forwarded for the one that leases.
pub fn play(data: &[u8]) -> Result<[u64; 2], String> {
    let mut input = Input(data);
    let rules = input.of(&RULES);
    let acct = input.byte() & 1;
    let config = SimConfig {
        rules_v4: format!("{rules}{FILTER}{NAT}"),
        rules_v6: format!("{rules}{FILTER}"),
        sysctls: format!("net.netfilter.nf_conntrack_acct = {acct}\n"),
        ..page_with_neighbours()
    };
    let sims = KINDS.map(|kind| gateway(&config, kind)).into_iter().collect::<Result<_, _>>()?;
    let mut walk = Walk { input, sims, flows: flows(), uplink: true };
    for n in 0..STEPS {
        if walk.input.0.is_empty() {
            break;
        }
        walk.step().map_err(|why| format!("step {n}: {why}"))?;
        if n % 8 == 7 {
            walk.same().map_err(|why| format!("after step {n}: {why}"))?;
        }
    }
    walk.advance(Duration::from_secs(1))?;
    walk.same()?;
    Ok([walk.sims[1].0.taken_short_way(), walk.sims[3].0.forwarded()])
}

fn gateway(config: &SimConfig, kind: &str) -> Result<(Sim, Sets), String> {
    let sets = Sets::new();
    sets.restore(SETS, Instant::from_secs(3600)).map_err(|e| format!("{e:?}"))?;
    let shards = if kind == "in shards" { 3 } else { 1 };
    let mut sim = Sim::with_shards(config, &sets, shards).map_err(|e| e.to_string())?;
    sim.engine_mut().set_short_way(match kind {
        "without" => ShortWay::Off,
        "compared" => ShortWay::Compared,
        _ => ShortWay::On,
    });
    if kind == "leasing" {
        sim.lease_all();
    }
    if kind == "in shards" {
        sim.set_arrival(Arrival::Scattered);
    }
    Ok((sim, sets))
}

impl Walk<'_> {
    fn step(&mut self) -> Result<(), String> {
        let kind = self.input.byte();
        match kind & 31 {
            0..=17 => self.goes_on(kind >> 5),
            18..=20 => self.begins(),
            21..=23 => self.is_damaged(),
            24 => {
                let millis = self.input.of(&[1, 100, 1100, 2500, 11_000, 31_000, 121_000]);
                self.advance(Duration::from_millis(millis))
            }
            25 | 26 => self.command(),
            27 => self.set(),
            28 | 29 => self.by_hand(),
            30 => self.speaks(),
            _ => self.changes(),
        }
    }

    fn inject(&mut self, port: &str, frame: &Flying) -> Result<(), String> {
        for (sim, _) in &mut self.sims {
            sim.inject(port, frame.clone()).map_err(|e| e.to_string())?;
        }
        self.same_frames()
    }

    fn advance(&mut self, by: Duration) -> Result<(), String> {
        self.sims.iter_mut().for_each(|(sim, _)| sim.advance(by));
        self.same_frames()
    }

    /// What they have sent since the last time.
    fn same_frames(&mut self) -> Result<(), String> {
        let mut sent = self.sims.iter_mut().map(|(sim, _)| sim.collect());
        let first = sent.next().unwrap_or_default();
        match sent.zip(&KINDS[1..]).find(|(sent, _)| *sent != first) {
            None => Ok(()),
            Some((other, kind)) => {
                Err(format!("{kind} the short way: {other:02x?} instead of {first:02x?}"))
            }
        }
    }

    /// Everything else that can be seen of them.
    fn same(&mut self) -> Result<(), String> {
        const STYLE: SaveStyle<'_> = SaveStyle { stamp: "", rule_counters: true };
        let mut seen = self.sims.iter_mut().map(|(sim, _)| {
            let now = sim.now();
            let connections = sim.each(|lent| {
                let told = |c: &tidegate_nat::Connection| {
                    let state = (c.accounting(), c.mark(), c.tcp_state(), c.time_left(now));
                    format!("{:?} {:?} {:?} {state:?}\n", c.original(), c.reply(), c.status())
                };
                lent.conntrack().iter().map(|(_, c)| told(c)).collect::<Vec<_>>()
            });
            let mut connections: Vec<String> = connections.into_iter().flatten().collect();
            connections.sort();
            let counters = sim.counters();
            let drops: Vec<_> = counters.drops().collect();
            let rules = sim.engine().rules_in_force();
            let rules = [Family::V4, Family::V6]
                .map(|family| rules.of(family).save(Some(rules.counters(family)), STYLE));
            (connections.concat(), rules, drops, counters.received)
        });
        let Some(first) = seen.next() else { return Ok(()) };
        match seen.zip(&KINDS[1..]).find(|(other, _)| *other != first) {
            None => Ok(()),
            Some((other, kind)) => {
                Err(format!("{kind} the short way: {other:#?}\ninstead of {first:#?}"))
            }
        }
    }

    /// A packet in the middle of a flow; now and then one that isn't as the last one says.
    fn goes_on(&mut self, which: u8) -> Result<(), String> {
        let (flow, side) = self.pick();
        let flags = match which {
            0..=3 => tcp::ACK,
            4 | 5 => tcp::ACK | tcp::PSH,
            _ => self.input.of(&[
                tcp::ACK | tcp::ECE,
                tcp::ACK | tcp::CWR | tcp::PSH,
                tcp::FIN | tcp::ACK,
                tcp::RST,
                tcp::RST | tcp::ACK,
                tcp::ACK | tcp::URG,
                0,
            ]),
        };
        let len = self.input.of(&[0, 1, 10, 100, 255, 700, 1400, 1460, 4000]);
        let frame = self.packet(flow, side, flags, len);
        self.inject(self.flows[flow].ends[side].port, &frame)
    }

    fn begins(&mut self) -> Result<(), String> {
        let (flow, _) = self.pick();
        for (side, flags) in [(0, tcp::SYN), (1, tcp::SYN | tcp::ACK), (0, tcp::ACK)] {
            let frame = self.packet(flow, side, flags, 0);
            self.inject(self.flows[flow].ends[side].port, &frame)?;
        }
        Ok(())
    }

    fn is_damaged(&mut self) -> Result<(), String> {
        let (flow, side) = self.pick();
        let next = self.flows[flow].next;
        let mut frame = self.packet(flow, side, tcp::ACK, 100);
        let how = self.input.byte();
        if how & 0x80 != 0 {
            frame.offload = self.offload();
        }
        for _ in 0..how & 3 {
            let (at, value) = (usize::from(self.input.byte()), self.input.byte());
            let len = frame.bytes.len().max(1);
            if let Some(byte) = frame.bytes.get_mut(at % len) {
                *byte = value;
            }
        }
        match how >> 2 & 3 {
            0 => {
                let len = usize::from(self.input.word()) % (frame.bytes.len() + 1);
                frame.bytes.truncate(len);
            }
            1 => frame.bytes.extend(vec![self.input.byte(); usize::from(self.input.byte() & 63)]),
            2 => {
                // A tag.
                let tag = [0x81, 0, self.input.byte() & 0xf, self.input.byte()];
                frame.bytes.splice(12..12, tag);
            }
            _ => {}
        }
        if how & 0x40 != 0 {
            mutate::mend(&mut frame);
        } else {
            // Nobody has taken it for what it was.
            self.flows[flow].next = next;
        }
        let port = match how & 0x20 {
            0 => self.flows[flow].ends[side].port,
            _ => self.input.of(&["eth0", "eth1", "ppp0"]),
        };
        self.inject(port, &frame)
    }

    fn pick(&mut self) -> (usize, usize) {
        let which = self.input.byte();
        (usize::from(which >> 1) % self.flows.len(), usize::from(which & 1))
    }

    /// A frame of a flow; of TCP it is what comes next.
    fn packet(&mut self, flow: usize, side: usize, flags: u8, len: usize) -> Flying {
        let skew = match self.input.byte() {
            byte @ 0..=31 => u32::from(byte) << (self.input.byte() & 31),
            _ => 0,
        };
        let Flow { is_tcp, ends, next } = &mut self.flows[flow];
        let End { stations, src, dst, ports, .. } = ends[side];
        let ends: [Addr; 2] = [addr(src), addr(dst)];
        let payload = vec![b'p'; len];
        let (packet, gso) = if *is_tcp {
            let fields = Tcp {
                sport: ports[0],
                dport: ports[1],
                seq: next[side].wrapping_sub(skew),
                ack: next[1 - side],
                flags,
                window: 8192,
                options: if flags & tcp::SYN != 0 { &[2, 4, 5, 0xb4, 3, 3, 2, 1] } else { &[] },
            };
            let ends_it = flags & (tcp::SYN | tcp::FIN) != 0;
            next[side] = next[side].wrapping_add(len as u32 + u32::from(ends_it));
            let kind = if ends[0].is_v4() { GsoKind::Tcp4 } else { GsoKind::Tcp6 };
            (builder::tcp(Ip::new(ends[0], ends[1], protocol::TCP), fields, &payload), kind)
        } else {
            let ip = Ip::new(ends[0], ends[1], protocol::UDP);
            (builder::udp(ip, ports[0], ports[1], &payload), GsoKind::UdpL4)
        };
        let bytes = frame(host_mac(stations[0]), gateway_mac(stations[1]), &packet);
        let mut flying = Flying::from(bytes);
        if len > 1460 {
            flying.offload = Offload {
                checksum: Checksum::Valid,
                gso: Some(Gso { kind: gso, size: 1400, ecn: false }),
            };
        }
        flying
    }

    fn offload(&mut self) -> Offload {
        let checksum = match self.input.byte() % 3 {
            0 => Checksum::Unverified,
            1 => Checksum::Valid,
            _ => Checksum::Partial {
                start: self.input.of(&[34, 54, 14, 35, 60_000]),
                offset: self.input.of(&[6, 16, 2, 400]),
            },
        };
        let kinds = [GsoKind::Tcp4, GsoKind::Tcp6, GsoKind::UdpL4];
        let kind = kinds.get(usize::from(self.input.byte() & 7)).copied();
        let sizes = [0, 1, 50, 99, 100, 1400, 65_535];
        let gso = kind.map(|kind| Gso { kind, size: self.input.of(&sizes), ecn: false });
        Offload { checksum, gso }
    }

    fn command(&mut self) -> Result<(), String> {
        let words = self.input.of(&COMMANDS);
        let family = self.input.of(&[Family::V4, Family::V6]);
        let args: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
        let program = Program::Iptables;
        for (sim, _) in &mut self.sims {
            let engine = sim.engine_mut();
            let (base, counters) = engine.rules_in_force().snapshot(family);
            let call = Call { program, family, args: &args, input: "", stamp: "" };
            let answer = run(call, Present { ruleset: &base, counters: &counters });
            if let Some(change) = answer.change {
                let done = engine.change_rules(&base, change, &counters);
                done.map_err(|_| "superseded".to_owned())?;
            }
        }
        self.follow();
        Ok(())
    }

    /// As `Gateway::change`: all tables know of it before the next packet.
    fn follow(&mut self) {
        self.sims.iter_mut().for_each(|(sim, _)| drop(sim.each(|_| ())));
    }

    fn set(&mut self) -> Result<(), String> {
        let args = self.input.of(&[
            "add blocked 198.51.100.10 -exist",
            "del blocked 198.51.100.10 -exist",
            "flush blocked",
        ]);
        let args: Vec<String> = args.split(' ').map(str::to_owned).collect();
        for (sim, sets) in &mut self.sims {
            sets.call(&args, "", sim.now());
            sim.engine().sets_changed();
        }
        Ok(())
    }

    /// `conntrack -D`, `-U`, for some of the connections.
    fn by_hand(&mut self) -> Result<(), String> {
        let (what, port) = (self.input.byte(), 4000 + u16::from(self.input.byte() % 3));
        for (sim, _) in &mut self.sims {
            let now = sim.now();
            sim.each(|lent| {
                let table = lent.conntrack_mut();
                let ids: Vec<_> = table
                    .iter()
                    .filter(|(_, conn)| conn.original().sport == port)
                    .map(|(id, _)| id)
                    .collect();
                for id in ids {
                    let mark = Some((u32::MAX, u32::from(what >> 4)));
                    let timeout = Some(Duration::from_secs(u64::from(what)));
                    let update = match what & 3 {
                        0 => {
                            table.delete(id);
                            continue;
                        }
                        1 => Update { timeout, ..Update::default() },
                        _ => Update { mark, ..Update::default() },
                    };
                    let _ = table.update(id, &update, now);
                }
            });
        }
        Ok(())
    }

    /// The router or a host says where it is, perhaps at another station.
    fn speaks(&mut self) -> Result<(), String> {
        let which = self.input.byte();
        let (port, n, own, station) = match which & 1 {
            0 => ("ppp0", 2, "203.0.113.2", 99),
            _ => ("eth0", 0, "192.168.0.2", 2),
        };
        let to = if n == 2 { "203.0.113.1" } else { "192.168.0.1" };
        let station = if which & 2 == 0 { station } else { 77 };
        let said = Arp {
            operation: if which & 4 == 0 { Operation::Request } else { Operation::Reply },
            sender_mac: host_mac(station),
            sender: addr(own),
            target_mac: gateway_mac(n),
            target: addr(to),
        };
        self.inject(port, &Flying::from(said.to_frame(gateway_mac(n))))
    }

    /// Another address on the uplink.
    fn changes(&mut self) -> Result<(), String> {
        self.uplink = !self.uplink;
        let own = if self.uplink { "203.0.113.1/24" } else { "203.0.113.7/24" };
        let prefix = |text: &str| text.parse().map_err(|_| "a prefix".to_owned());
        for (sim, _) in &mut self.sims {
            let engine = sim.engine_mut();
            let id = engine.interfaces().by_name("ppp0").ok_or("no uplink")?;
            let routes = engine.static_routes().to_vec();
            engine.replace_addresses(id, vec![prefix(own)?, prefix("2001:db8:1::1/64")?], routes);
        }
        self.follow();
        // Connections are forgotten in steps, between which packets pass; not here.
        self.advance(Duration::from_millis(1))
    }
}
