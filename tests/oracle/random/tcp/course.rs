//! How a conversation goes if nothing comes between.

use super::{Stage, forge, step};
use crate::random::dice::Dice;
use crate::random::model::{Layer, Step};
use crate::random::values::Net;
use std::collections::VecDeque;

/// One of the two who talk.
#[derive(Clone, Debug)]
struct End {
    interface: &'static str,
    src: String,
    dst: String,
    sport: String,
    dport: String,
    /// The next sequence number it sends.
    next: u32,
    /// The next one it expects.
    got: u32,
    window: u16,
    stamps: bool,
}

/// A segment.
#[derive(Clone, Debug)]
pub struct Seg {
    /// Who sends it.
    pub end: usize,
    /// Its flags, as the case language has them.
    pub flags: String,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number.
    pub ack: u32,
    /// Window.
    pub window: u16,
    /// Options and odd fields.
    pub options: Vec<String>,
    /// Bytes of data.
    pub data: u32,
    /// What is done to the finished packet.
    pub edit: Option<String>,
    /// How often it comes.
    pub times: u32,
}

/// What arrives.
#[derive(Clone, Debug)]
pub enum Item {
    /// A segment.
    Seg(Seg),
    /// An ICMP error of that end about the last packet that it got: kind, and how it quotes.
    Error(usize, &'static str, Vec<String>),
}

/// A conversation.
pub struct Talk {
    v4: bool,
    ends: [End; 2],
    /// Where the opener's port shows, and by which name the server calls it.
    learn: Option<(String, &'static str)>,
    items: Vec<Item>,
}

const ISNS: [u32; 7] = [1000, 0, 5000, 0xffff_ff00, 0xffff_ffff, 0x7fff_ff00, 0x8000_0000];
const WINDOWS: [u16; 8] = [0, 1, 100, 1000, 8192, 29_200, 64_240, 65_535];
const SIZES: [u32; 7] = [0, 1, 10, 100, 536, 1000, 1400];

impl Talk {
    /// A conversation that goes where the rules have something to do in most cases.
    pub fn new(d: &mut Dice, stage: &Stage, number: usize) -> Self {
        let v4 = stage.net == Net::V4;
        let at = |v4_addr: &str, v6_addr: &str| if v4 { v4_addr } else { v6_addr }.to_owned();
        let port = d.pick(&["1025", "2000"]);
        let inside = d.pick(&[("192.168.0.2", "fd00:1::2"), ("192.168.0.3", "fd00:1::3")]);
        let inside = at(inside.0, inside.1);
        let outside = at("198.51.100.10", "2001:db8:99::10");
        let own = at("203.0.113.1", "2001:db8:1::1");
        let server = at("192.168.0.2", "fd00:1::2");
        let mut learn = None;
        let mut called = port.to_owned();
        let mut name = |interface| {
            called = format!("$p{number}");
            learn = Some((called[1..].to_owned(), interface));
        };
        let ways: &[u8] = match (stage.masquerade, stage.forward) {
            (false, false) => &[0, 0, 1, 2],
            (true, false) => &[0, 0, 0, 1],
            (false, true) => &[3, 3, 4, 0],
            (true, true) => &[0, 3, 3, 4, 4, 1],
        };
        // Interface, what it has for its own address and for the other's, of both ends.
        let (client, other) = match d.pick(ways) {
            0 => {
                let seen = if stage.masquerade {
                    name("ppp0");
                    own
                } else {
                    inside.clone()
                };
                (("eth0", inside, outside.clone(), "80"), ("ppp0", outside, seen, "80"))
            }
            1 => {
                let (a, b) = (at("10.3.0.2", "fd00:2::2"), at("192.168.0.9", "fd00:1::9"));
                (("eth1", a.clone(), b.clone(), "22"), ("eth0", b, a, "22"))
            }
            2 => {
                let host = at("192.168.0.9", "fd00:1::9");
                (("ppp0", outside.clone(), host.clone(), "80"), ("eth0", host, outside, "80"))
            }
            3 => {
                let client = d.pick(&[at("203.0.113.9", "2001:db8:1::9"), outside]);
                (("ppp0", client.clone(), own, "8080"), ("eth0", server, client, "80"))
            }
            _ => {
                name("eth0");
                let client = at("192.168.0.3", "fd00:1::3");
                let gateway = at("192.168.0.1", "fd00:1::1");
                (("eth0", client, own, "8080"), ("eth0", server, gateway, "80"))
            }
        };
        let end = |d: &mut Dice, (interface, src, dst, _): (&'static str, String, String, &str)| {
            let (next, window) = (isn(d), d.pick(&WINDOWS[2..]));
            let stamps = d.chance(30);
            let ports = (String::new(), String::new());
            End {
                interface,
                src,
                dst,
                sport: ports.0,
                dport: ports.1,
                next,
                got: 0,
                window,
                stamps,
            }
        };
        let (dport, sport) = (client.3.to_owned(), other.3.to_owned());
        let mut ends = [end(d, client), end(d, other)];
        (ends[0].sport, ends[0].dport) = (port.to_owned(), dport);
        (ends[1].sport, ends[1].dport) = (sport, called);
        Self { v4, ends, learn, items: Vec::new() }
    }

    /// Its packets.
    pub fn steps(mut self, d: &mut Dice) -> VecDeque<Step> {
        for life in 0..d.pick(&[1, 1, 1, 2, 2, 3]) {
            if life > 0 {
                self.again(d);
            }
            // After the first, the other side may be the one who opens.
            let opener = usize::from(life > 0 && d.chance(25));
            self.open(d, opener);
            for _ in 0..d.below(7) {
                self.round(d);
            }
            self.close(d);
        }
        let mut items = std::mem::take(&mut self.items);
        if d.chance(85) {
            forge::disturb(d, &mut items, self.v4);
        }
        items.into_iter().enumerate().map(|(at, item)| self.step(at, item)).collect()
    }

    /// Numbers of the next connection between the same ports.
    fn again(&mut self, d: &mut Dice) {
        for end in &mut self.ends {
            let step =
                d.pick(&[0, 1, 1000, 64_000, 70_000, 1 << 30, 1 << 31, 0u32.wrapping_sub(9000)]);
            end.next = if d.chance(80) { end.next.wrapping_add(step) } else { isn(d) };
        }
    }

    /// Sends a segment with the numbers that are next.
    fn send(&mut self, end: usize, flags: &str, data: u32) -> &mut Seg {
        let stamps = self.ends.iter().all(|e| e.stamps) && !flags.contains('R');
        let this = &mut self.ends[end];
        let mut options = Vec::new();
        if stamps {
            options.push("ts 7:9".to_owned());
        }
        let ack = if flags.contains('A') { this.got } else { 0 };
        let seg = Seg {
            end,
            flags: flags.to_owned(),
            seq: this.next,
            ack,
            window: this.window,
            options,
            data,
            edit: None,
            times: 1,
        };
        let counted = flags.chars().filter(|c| matches!(c, 'S' | 'F')).count() as u32;
        if !flags.contains('R') {
            this.next = this.next.wrapping_add(data + counted);
        }
        self.items.push(Item::Seg(seg));
        match self.items.last_mut() {
            Some(Item::Seg(seg)) => seg,
            _ => unreachable!("a segment was pushed"),
        }
    }

    /// The end has got all that the other has sent.
    fn hear(&mut self, end: usize) {
        self.ends[end].got = self.ends[1 - end].next;
    }

    fn syn(&mut self, d: &mut Dice, end: usize, flags: &str) {
        let data = if d.chance(4) { 30 } else { 0 };
        let options = syn_options(d, self.ends[end].stamps);
        let seg = self.send(end, flags, data);
        seg.options = options;
        seg.times = d.pick(&[1, 1, 1, 1, 1, 2]);
    }

    fn open(&mut self, d: &mut Dice, a: usize) {
        let b = 1 - a;
        match d.below(20) {
            // Out of the middle.
            0..3 => {
                self.hear(a);
                self.hear(b);
                return;
            }
            // Both at once.
            3..5 => {
                self.syn(d, a, "S");
                self.syn(d, b, "S");
                for (end, back) in [(a, 1), (b, 1)] {
                    self.hear(end);
                    let flags = d.pick(&["SA", "SA", "A"]);
                    let options = syn_options(d, self.ends[end].stamps);
                    let seg = self.send(end, flags, 0);
                    if flags == "SA" {
                        seg.seq = seg.seq.wrapping_sub(back);
                        seg.options = options;
                        self.ends[end].next = self.ends[end].next.wrapping_sub(back);
                    }
                }
                return;
            }
            // Refused.
            5 => {
                self.syn(d, a, "S");
                self.hear(b);
                let seq = d.pick(&[0, 0, 7]);
                self.send(b, "RA", 0).seq = seq;
                return;
            }
            // Unanswered.
            6 => return self.syn(d, a, "S"),
            _ => {}
        }
        let flags = if d.chance(10) { "SEC" } else { "S" };
        self.syn(d, a, flags);
        self.hear(b);
        self.syn(d, b, "SA");
        if d.chance(5) {
            return;
        }
        self.hear(a);
        let data = d.pick(&[0, 0, 0, 100]);
        self.send(a, "A", data);
    }

    /// Some data and what answers them.
    fn round(&mut self, d: &mut Dice) {
        let (a, b) = if d.chance(50) { (0, 1) } else { (1, 0) };
        if d.chance(20) {
            self.ends[b].window = d.pick(&WINDOWS);
        }
        match d.below(12) {
            // A keep-alive and its answer.
            0 => {
                let data = d.pick(&[0, 1]);
                self.send(a, "A", 0).data = data;
                if let Some(Item::Seg(seg)) = self.items.last_mut() {
                    seg.seq = seg.seq.wrapping_sub(1);
                }
                self.send(b, "A", 0);
            }
            // A closed window, probed, then opened.
            1 => {
                let window = self.ends[b].window;
                self.send(b, "A", 0).window = 0;
                let probe = self.send(a, "A", 1);
                probe.times = d.within(1, 4) as u32;
                self.send(b, "A", 0).window = 0;
                self.hear(b);
                self.send(b, "A", 0).window = window;
            }
            // Something is lost; the receiver says what it has.
            2..5 => {
                let lost = d.pick(&[100, 1000, 1400]);
                self.ends[a].next = self.ends[a].next.wrapping_add(lost);
                let from = self.ends[a].next;
                self.send(a, "PA", d.pick(&SIZES[1..]));
                let to = self.ends[a].next;
                let times = d.within(1, 5) as u32;
                let claim = d.pick(&[0, 0, 0, 1, 1000, 100_000]);
                let seg = self.send(b, "A", 0);
                seg.times = times;
                seg.options.push(format!("sack {from}-{}", to.wrapping_add(claim)));
                let next = self.ends[a].next;
                self.ends[a].next = from.wrapping_sub(lost);
                self.send(a, "A", lost);
                self.ends[a].next = next;
                self.hear(b);
                self.send(b, "A", 0);
            }
            // One-sided, without any acknowledgment.
            5 => {
                for _ in 0..d.within(1, 5) {
                    self.send(a, "A", d.pick(&SIZES));
                }
            }
            // The same acknowledgment again and again.
            6 => self.send(b, "A", 0).times = d.within(2, 6) as u32,
            _ => {
                for _ in 0..d.within(1, 3) {
                    let flags = d.pick(&["A", "PA", "PA", "PAU", "ACE"]);
                    self.send(a, flags, d.pick(&SIZES));
                }
                self.hear(b);
                self.send(b, d.pick(&["A", "A", "PA"]), d.pick(&[0, 0, 50]));
                self.hear(a);
            }
        }
    }

    fn close(&mut self, d: &mut Dice) {
        let (a, b) = if d.chance(50) { (0, 1) } else { (1, 0) };
        match d.below(12) {
            // Half closed: the other has more to say.
            0..2 => {
                self.send(a, "FA", 0);
                self.hear(b);
                self.send(b, "A", 0);
                for _ in 0..d.below(3) {
                    self.send(b, "PA", d.pick(&SIZES));
                    self.hear(a);
                    self.send(a, "A", 0);
                }
                self.send(b, "FA", 0);
                self.hear(a);
                self.send(a, "A", 0);
            }
            // Both at once.
            2 => {
                self.send(a, "FA", 0);
                self.send(b, "FA", 0);
                self.hear(a);
                self.hear(b);
                self.send(a, "A", 0);
                self.send(b, "A", 0);
            }
            // A reset, exact or not.
            3..6 => {
                let off = d.pick(&[0, 0, 0, 1, 100, 0u32.wrapping_sub(1), 70_000]);
                let flags = d.pick(&["R", "RA"]);
                let seg = self.send(a, flags, 0);
                seg.seq = seg.seq.wrapping_add(off);
                if d.chance(30) {
                    self.send(b, "A", d.pick(&SIZES));
                    self.send(a, "R", 0);
                }
            }
            // The last is missing.
            6 => {
                self.send(a, "FA", 0);
                self.hear(b);
                self.send(b, "FA", 0);
            }
            7 => {}
            _ => {
                self.send(a, "FPA", d.pick(&SIZES));
                self.hear(b);
                if d.chance(50) {
                    self.send(b, "A", 0);
                }
                self.send(b, "FA", 0);
                self.hear(a);
                self.send(a, "A", 0);
            }
        }
    }

    fn step(&self, at: usize, item: Item) -> Step {
        match item {
            Item::Error(end, kind, quote) => {
                let kind = format!("icmp {kind}");
                let mut layer = Layer::new("quote");
                layer.options = quote;
                let layers = vec![Layer::new("reply"), Layer::new(kind), layer];
                step(self.ends[end].interface, layers)
            }
            Item::Seg(seg) => {
                let end = &self.ends[seg.end];
                let ip = Layer::new(format!("ip {} > {}", end.src, end.dst));
                let head = format!("tcp {} > {} {}", end.sport, end.dport, seg.flags);
                let mut tcp = Layer::new(head)
                    .with(format!("seq {}", seg.seq))
                    .with(format!("ack {}", seg.ack))
                    .with(format!("win {}", seg.window));
                tcp.options.extend(seg.options);
                let mut layers = vec![ip, tcp];
                if seg.data > 0 {
                    layers.push(Layer::new(format!("data {}", seg.data)));
                }
                layers.extend(seg.edit.map(Layer::new));
                let mut step = step(end.interface, layers);
                step.times = seg.times;
                let opens = seg.end == 0 && (at == 0 || seg.flags.contains('S'));
                if let Some((name, interface)) = self.learn.as_ref().filter(|_| opens) {
                    step.then = Some(format!("${name} = {interface} sport"));
                }
                step
            }
        }
    }
}

fn isn(d: &mut Dice) -> u32 {
    if d.chance(75) { d.pick(&ISNS) } else { d.below(1 << 32) as u32 }
}

/// Options of a SYN.
fn syn_options(d: &mut Dice, stamps: bool) -> Vec<String> {
    let mut options = Vec::new();
    if d.chance(70) {
        options.push("mss 1460".to_owned());
    }
    if d.chance(60) {
        options.push("sackok".to_owned());
    }
    if stamps {
        options.push("ts 7:0".to_owned());
    }
    if d.chance(60) {
        options.push(format!("ws {}", d.pick(&[0, 2, 7, 7, 14, 15, 255])));
    }
    options
}
