//! Random packets and conversations.

use std::collections::VecDeque;

use super::dice::Dice;
use super::model::{Layer, Step};
use super::values::{INTERFACES, Net, any, host, odd, own, port};

/// What arrives in a case: some conversations, interleaved, with single packets among them.
pub fn steps(d: &mut Dice, nets: &[Net]) -> Vec<Step> {
    let mut threads: Vec<VecDeque<Step>> = Vec::new();
    for _ in 0..d.within(3, 9) {
        let net = d.pick(nets);
        let thread = match d.below(10) {
            0..3 => tcp(d, net),
            3..5 => question(d, net),
            5 => fragments(d, net),
            _ => (0..d.within(1, 4)).map(|_| single(d, net)).collect(),
        };
        threads.push(thread.into());
    }
    // A reply answers the last packet that left there, so a conversation mostly stays whole.
    interleaved(d, threads, 6)
}

/// Conversations that go on at the same time, at most so many steps of one after the other.
pub(super) fn interleaved(d: &mut Dice, mut threads: Vec<VecDeque<Step>>, most: u64) -> Vec<Step> {
    let mut steps = Vec::new();
    threads.retain(|t| !t.is_empty());
    while !threads.is_empty() {
        let at = d.below(threads.len() as u64) as usize;
        for _ in 0..d.within(1, most) {
            steps.extend(threads[at].pop_front());
        }
        threads.retain(|t| !t.is_empty());
    }
    steps
}

fn step(interface: &'static str, layers: Vec<Layer>) -> Step {
    Step { times: 1, interface, layers, then: None }
}

/// Where a conversation goes: its ends' interfaces and addresses.
struct Way {
    from: &'static str,
    to: &'static str,
    src: &'static str,
    dst: &'static str,
}

fn way(d: &mut Dice, net: Net) -> Way {
    let (from, to) = (d.pick(&INTERFACES), d.pick(&INTERFACES));
    let src = host(d, net, from);
    let dst = if d.chance(25) { own(d, net) } else { host(d, net, to) };
    Way { from, to, src, dst }
}

fn ip(d: &mut Dice, way: &Way) -> Layer {
    with_header(d, Layer::new(format!("ip {} > {}", way.src, way.dst)), way.src.contains(':'))
}

/// An IP layer with some fields out of the ordinary.
fn with_header(d: &mut Dice, mut layer: Layer, v6: bool) -> Layer {
    if d.chance(15) {
        layer = layer.with(format!("ttl {}", d.pick(&[0, 1, 2, 3, 63, 128, 255])));
    }
    if d.chance(15) {
        layer = layer.with(format!("tos {}", d.pick(&["0x10", "0x03", "0x02", "0xb8", "0xff"])));
    }
    if !v6 && d.chance(20) {
        layer = layer.with("df");
    }
    layer
}

/// A handshake, data and an end, with something odd in most.
fn tcp(d: &mut Dice, net: Net) -> Vec<Step> {
    let way = way(d, net);
    let (sport, dport) = (port(d), port(d));
    let head = |flags: &str| format!("tcp {sport} > {dport} {flags}");
    let mut syn = Layer::new(head(if d.chance(10) { "SEC" } else { "S" })).with("seq 1000");
    for option in ["mss 1460", "sackok", "ts 1:0", "ws 7"] {
        if d.chance(50) {
            syn = syn.with(option);
        }
    }
    let mut steps = vec![step(way.from, vec![ip(d, &way), syn])];
    let server = |d: &mut Dice, layer: Layer, data: Option<u64>| {
        let mut layers = vec![with_header(d, Layer::new("reply"), net == Net::V6), layer];
        layers.extend(data.map(|n| Layer::new(format!("data {n}"))));
        layers
    };
    let answer = Layer::new(format!("tcp {}", if d.chance(90) { "SA" } else { "RA" }))
        .with("seq 5000")
        .with("mss 1400");
    let answer = if d.chance(50) { answer.with("ws 2") } else { answer };
    steps.push(step(way.to, server(d, answer, None)));
    steps.push(step(way.from, server(d, Layer::new("tcp A"), None)));
    for _ in 0..d.below(4) {
        let data = Some(d.pick(&[1, 20, 200, 1400]));
        let side = d.pick(&[way.from, way.to]);
        steps.push(step(side, server(d, Layer::new("tcp PA"), data)));
    }
    if d.chance(60) {
        let ends: &[(&str, bool)] =
            if d.chance(70) { &[("FA", true), ("FA", false), ("A", true)] } else { &[("R", true)] };
        for (flags, client) in ends {
            let side = if *client { way.from } else { way.to };
            steps.push(step(side, server(d, Layer::new(format!("tcp {flags}")), None)));
        }
    }
    if d.chance(30) {
        // The same connection again.
        steps.push(steps[0].clone());
    }
    for _ in 0..d.pick(&[0, 0, 1, 2]) {
        let at = d.below(steps.len() as u64 + 1) as usize;
        let odd = odd_segment(d, &way, sport, dport);
        steps.insert(at, odd);
    }
    if d.chance(20) {
        let at = d.below(steps.len() as u64) as usize;
        steps.remove(at);
    }
    steps
}

/// A segment of a conversation with flags and numbers that needn't fit.
fn odd_segment(d: &mut Dice, way: &Way, sport: u16, dport: u16) -> Step {
    let flags =
        d.pick(&["none", "S", "SA", "A", "R", "RA", "F", "FA", "FPU", "SF", "SR", "P", "U", "SP"]);
    if d.chance(50) {
        let segment = Layer::new(format!("tcp {sport} > {dport} {flags}"))
            .with(format!("seq {}", d.pick(&[0, 999, 1000, 1001, 1002, 70_000, 4_000_000_000_u64])))
            .with(format!("ack {}", d.pick(&[0, 1, 5000, 5001, 5002, 90_000, 4_000_000_000_u64])));
        return step(way.from, vec![ip(d, way), segment]);
    }
    let mut segment = Layer::new(format!("tcp {flags}"));
    if d.chance(40) {
        segment = segment.with(format!("seq {}", d.pick(&[0, 4000, 5000, 5001, 5100, 200_000])));
    }
    if d.chance(30) {
        segment = segment.with(format!("win {}", d.pick(&[0, 1, 65535])));
    }
    step(way.to, vec![Layer::new("reply"), segment])
}

/// A datagram or a ping, its answers, and errors about it.
fn question(d: &mut Dice, net: Net) -> Vec<Step> {
    let way = way(d, net);
    let udp = d.chance(60);
    let (sport, dport) = (port(d), port(d));
    let data = |d: &mut Dice| payload(d);
    let ask = if udp {
        Layer::new(format!("udp {sport} > {dport}"))
    } else {
        Layer::new("icmp echo").with(format!("id {}", d.pick(&[1, 7, 1025]))).with("seq 1")
    };
    let mut first = vec![ip(d, &way), ask];
    first.extend(data(d));
    let mut steps = vec![step(way.from, first)];
    for _ in 0..d.within(1, 4) {
        let (side, back) = if d.chance(60) { (way.to, true) } else { (way.from, false) };
        let mut layers = vec![with_header(d, Layer::new("reply"), net == Net::V6)];
        match d.below(10) {
            0..3 => {
                let kind = if net == Net::V4 {
                    d.pick(&["3/1", "3/3", "3/13", "11/0", "4", "12", "5/1"])
                } else {
                    d.pick(&["1/0", "1/4", "3/0", "4/0"])
                };
                layers.push(Layer::new(format!("icmp {kind}")));
                let quote = Layer::new("quote");
                layers.push(match d.below(4) {
                    0 if net == Net::V4 => quote.with("first 28"),
                    1 => quote.with(format!("first {}", d.pick(&[20, 27, 40, 48, 100]))),
                    _ => quote,
                });
                if d.chance(20) && net == Net::V4 {
                    let router = d.pick(&["203.0.113.9", "10.3.0.9", "192.168.0.9"]);
                    layers[0] = Layer::new(format!("ip {router} > {}", way.src));
                }
            }
            _ if udp => {
                layers.push(Layer::new("udp"));
                layers.extend(data(d));
            }
            _ => layers.push(Layer::new(if back { "icmp pong" } else { "icmp echo" })),
        }
        steps.push(step(side, layers));
    }
    steps
}

fn payload(d: &mut Dice) -> Option<Layer> {
    match d.below(6) {
        0 | 1 => None,
        2 => Some(Layer::new("text GET")),
        _ => Some(Layer::new(format!("data {}", d.pick(&[1, 8, 40, 100, 512, 1400])))),
    }
}

/// A datagram in pieces.
fn fragments(d: &mut Dice, net: Net) -> Vec<Step> {
    let way = way(d, net);
    let mut ip = Layer::new(format!("ip {} > {}", way.src, way.dst));
    if net == Net::V4 {
        ip = ip.with(format!("id {}", d.within(0x7000, 0x7fff)));
    }
    let inner = match d.below(4) {
        0 => Layer::new(format!("tcp {} > {} S", port(d), port(d))),
        1 => Layer::new("icmp echo").with("id 9"),
        _ => Layer::new(format!("udp {} > {}", port(d), port(d))),
    };
    let whole = vec![ip, inner, Layer::new("data 100")];
    let mut cuts: Vec<u64> = vec![0, 200];
    for _ in 0..d.within(1, 2) {
        // An IPv6 fragment without the whole transport header is a difference of its own.
        cuts.push(d.pick(if net == Net::V4 {
            &[8, 16, 24, 48, 64, 96]
        } else {
            &[24, 48, 64, 96]
        }));
    }
    cuts.sort_unstable();
    cuts.dedup();
    let mut steps: Vec<Step> = cuts
        .windows(2)
        .map(|ends| {
            let mut layers = whole.clone();
            if d.chance(10) {
                layers[0] = layers[0].clone().with(format!("ttl {}", d.pick(&[1, 2, 40])));
            }
            layers.push(Layer::new(format!("slice {}..{}", ends[0], ends[1])));
            step(way.from, layers)
        })
        .collect();
    match d.below(6) {
        0 => steps.reverse(),
        1 => steps.push(steps[0].clone()),
        2 => drop(steps.pop()),
        _ => {}
    }
    steps
}

/// A packet of which anything may be wrong.
fn single(d: &mut Dice, net: Net) -> Step {
    let interface = d.pick(&INTERFACES);
    let src = if d.chance(75) { host(d, net, interface) } else { odd(d, net) };
    // Answers to a broadcast address pass POSTROUTING twice in Linux, a difference of its own.
    let src = if src.ends_with(".255") { "192.0.2.7" } else { src };
    let dst = any(d, net);
    let v6 = net == Net::V6;
    let mut outer = with_header(d, Layer::new(format!("ip {src} > {dst}")), v6);
    if d.chance(3) {
        outer = outer.with(if v6 { "flow 77" } else { "evil" });
    }
    if !v6 && d.chance(4) {
        outer = outer.with("cksum bad");
    }
    if !v6 && d.chance(6) {
        outer = outer.with(format!(
            "opts {}",
            d.pick(&["01010101", "94040000", "070704000000", "44080500000000", "8303047f", "0a0a"])
        ));
    }
    let mut layers = vec![outer];
    if v6 && d.chance(15) {
        let header = d.pick(&["hop", "dst", "route", "hop 05020000", "dst 1e0200", "route 0000"]);
        layers.push(Layer::new(header));
    }
    layers.push(transport(d, net));
    let kind = layers.last().map(|l| l.head.clone()).unwrap_or_default();
    if !kind.starts_with("icmp") || d.chance(60) {
        layers.extend(payload(d));
    }
    if d.chance(4) {
        layers.push(Layer::new(match d.below(3) {
            0 => format!("cut {}", d.pick(&[10, 20, 24, 28, 39, 40, 44, 50, 60])),
            1 => format!("pad {}", d.pick(&[1, 4, 18])),
            _ => format!("poke {}={:02x}", d.below(44), d.below(256)),
        }));
    }
    Step { times: d.pick(&[1, 1, 1, 1, 2, 3, 5]), interface, layers, then: None }
}

fn transport(d: &mut Dice, net: Net) -> Layer {
    let bad = |d: &mut Dice, layer: Layer| {
        if d.chance(5) { layer.with("cksum bad") } else { layer }
    };
    match d.below(20) {
        0..7 => {
            let flags = d.pick(&["S", "S", "S", "A", "SA", "R", "RA", "F", "none", "FPU", "PA"]);
            let mut layer = Layer::new(format!("tcp {} > {} {flags}", port(d), port(d)));
            if d.chance(30) {
                layer = layer.with(format!("mss {}", d.pick(&[0, 536, 1400, 1460, 9000])));
            }
            if d.chance(5) {
                layer =
                    layer.with(d.pick(&["doff 4", "doff 15", "res 1", "opts 0200", "opts fe04"]));
            }
            bad(d, layer)
        }
        7..12 => {
            let mut layer = Layer::new(format!("udp {} > {}", port(d), port(d)));
            if d.chance(8) {
                layer = layer.with(d.pick(&["len 0", "len 7", "len 8", "len 2000", "cksum 0"]));
            }
            bad(d, layer)
        }
        12..17 if net == Net::V4 => {
            let kind =
                d.pick(&["echo", "echo", "pong", "13", "15", "17", "3/1", "11", "5/0", "9", "42"]);
            let id = d.pick(&[1, 7]);
            bad(d, Layer::new(format!("icmp {kind}")).with(format!("id {id}")))
        }
        12..17 => {
            let kind = d.pick(&["echo", "echo", "pong", "1/4", "2", "144", "200", "100"]);
            let id = d.pick(&[1, 7]);
            bad(d, Layer::new(format!("icmp {kind}")).with(format!("id {id}")))
        }
        _ => Layer::new(format!(
            "proto {}",
            // 132 and 33 have trackers of their own, 47 as well.
            d.pick(&[
                2,
                4,
                41,
                47,
                50,
                132,
                136,
                253,
                59,
                33,
                if net == Net::V4 { 51 } else { 97 }
            ])
        )),
    }
}
