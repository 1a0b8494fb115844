//! Conversations through a gateway that translates, while its rules, its addresses and its table are
//! changed by hand. The fuzz target `conversation` and `tests/conversations.rs` run these.
//!
//! The input is a walk: each step is a packet of somebody's (a beginning, an answer to what was seen,
//! an error about it, a piece, something damaged), some time, or a command.

use super::watch::Watch;
use super::{addr, arriving, frames, page_with_neighbours};
use std::collections::HashSet;
use std::time::Duration;
use tidegate::engine::Lent;
use tidegate::io::channel::Flying;
use tidegate::sim::SimConfig;
use tidegate_filter::live::{Call, Present, Program, run};
use tidegate_filter::{Sets, Source, load_with};
use tidegate_nat::{Conntrack, Update};
use tidegate_packet::builder::{self, Ip, Tcp};
use tidegate_packet::{
    Addr, Family, Instant, Parsed, Transport, ethernet, icmp, icmpv6, protocol, tcp,
};

/// Connections that the gateway has room for.
const MAX: usize = 24;
/// Steps of a walk.
const STEPS: usize = 96;

const RULES_V4: &str = "*nat\n\
    -A PREROUTING -i ppp0 -p tcp --dport 8000 -j DNAT --to-destination 192.168.0.6:80\n\
    -A PREROUTING -i ppp0 -p udp --dport 8000:8003 -j DNAT --to-destination 192.168.0.5-192.168.0.6\n\
    -A POSTROUTING -o ppp0 -p udp -j MASQUERADE --to-ports 1024-1031\n\
    -A POSTROUTING -o ppp0 -p tcp --dport 81 -j MASQUERADE --mapping endpoint-independent \
        --filtering endpoint-independent\n\
    -A POSTROUTING -o ppp0 -p tcp --dport 82 -j MASQUERADE --random-fully\n\
    -A POSTROUTING -o ppp0 -j MASQUERADE\n\
    COMMIT\n\
    *raw\n-A PREROUTING -p tcp --dport 21 -j CT --helper ftp\nCOMMIT\n";

const RULES_V6: &str = "*nat\n-A POSTROUTING -o ppp0 -j MASQUERADE\nCOMMIT\n";

/// Commands that leave every MASQUERADE rule where it is.
const COMMANDS: &[&str] = &[
    "-t raw -A PREROUTING -p udp -j CT --notrack",
    "-t raw -A PREROUTING -i eth1 -j CT --zone 3",
    "-t raw -A PREROUTING -p icmp -j NOTRACK",
    "-t raw -F",
    "-t nat -I PREROUTING -p udp --dport 53 -j DNAT --to-destination 198.51.100.10:5353",
    "-t nat -I PREROUTING -p tcp --dport 80 -j REDIRECT --to-ports 3128",
    "-t nat -F PREROUTING",
    "-t mangle -A POSTROUTING -p tcp --tcp-flags SYN SYN -j TCPMSS --set-mss 500",
    "-t mangle -A PREROUTING -j CONNMARK --set-mark 5",
    "-t mangle -F",
    "-A FORWARD -m conntrack --ctstate INVALID -j REJECT",
    "-A FORWARD -p tcp -m connlimit --connlimit-above 3 -j REJECT --reject-with tcp-reset",
    "-P FORWARD DROP",
    "-P FORWARD ACCEPT",
    "-F",
];

/// Reads the walk from its beginning; past its end come zeros.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::from(self.byte()) % all.len()]
    }
}

struct Walk<'a> {
    input: Input<'a>,
    watch: Watch,
    /// What has left, and what has come in: port and packet.
    seen: Vec<(String, Vec<u8>)>,
    given: u64,
    uplink: bool,
}

/// Plays a walk; what doesn't hold is said.
pub fn play(data: &[u8]) -> Result<(), String> {
    let config = SimConfig {
        rules_v4: RULES_V4.into(),
        rules_v6: RULES_V6.into(),
        sysctls: format!("net.netfilter.nf_conntrack_max = {MAX}\n"),
        ..page_with_neighbours()
    };
    let watch = Watch::with_bound(&config, MAX);
    let mut walk = Walk { input: Input(data), watch, seen: Vec::new(), given: 0, uplink: true };
    for n in 0..STEPS {
        if walk.input.0.is_empty() {
            break;
        }
        walk.step().and_then(|()| walk.holds()).map_err(|why| format!("step {n}: {why}"))?;
    }
    walk.end()
}

impl Walk<'_> {
    fn step(&mut self) -> Result<(), String> {
        let kind = self.input.byte();
        match kind & 15 {
            0..=3 => self.begins(kind >> 4),
            4..=8 => self.answers(kind >> 4),
            9 => self.error(),
            10 => self.piece(),
            11 => self.again(),
            12 => {
                let steps = [1, 3, 31, 61, 121, 250];
                let by = Duration::from_secs(self.input.of(&steps));
                self.watch.wait(by)
            }
            13 => self.command(),
            14 => self.by_hand(),
            _ => self.change(),
        }
    }

    /// A packet comes in, and what leaves for it is remembered.
    fn send(&mut self, port: &str, packet: &[u8]) -> Result<(), String> {
        let frame = Flying::from(arriving(port, packet));
        self.given += 1;
        self.watch.step(port, frame)?;
        for (port, frame) in self.watch.take_sent() {
            let Some(header) = ethernet::Header::parse(&frame.bytes) else { continue };
            if matches!(header.ethertype, ethernet::IPV4 | ethernet::IPV6) {
                self.seen.push((port, frame.bytes[header.len..].to_vec()));
            }
        }
        self.seen.push((port.to_owned(), packet.to_vec()));
        let surplus = self.seen.len().saturating_sub(24);
        self.seen.drain(..surplus);
        Ok(())
    }

    /// Somebody who may speak first, and to whom.
    fn ends(&mut self) -> (&'static str, Addr, Addr) {
        let ways = [
            ("eth0", "192.168.0.2", "198.51.100.10"),
            ("eth0", "192.168.0.5", "198.51.100.10"),
            ("eth1", "10.3.0.9", "198.51.100.10"),
            ("eth0", "192.168.0.2", "203.0.113.1"),
            ("eth0", "192.168.0.2", "10.3.0.9"),
            ("ppp0", "198.51.100.10", "203.0.113.1"),
            ("ppp0", "198.51.100.66", "203.0.113.7"),
            ("eth0", "fd00:1::2", "2001:db8:2::10"),
            ("ppp0", "2001:db8:2::10", "2001:db8:1::1"),
        ];
        let (port, src, dst) = self.input.of(&ways);
        (port, addr(src), addr(dst))
    }

    fn begins(&mut self, which: u8) -> Result<(), String> {
        let (port, src, dst) = self.ends();
        let sport = 1024 + u16::from(self.input.byte() & 7);
        let dport = self.input.of(&[80, 81, 82, 21, 53, 8000, 8001, 1024]);
        let packet = match which & 3 {
            0 | 1 => {
                let flags = self.input.of(&[tcp::SYN, tcp::SYN, tcp::ACK, 0, tcp::RST, 0x29]);
                let seq = u32::from(self.input.byte()) << 24;
                let fields = Tcp { sport, dport, flags, seq, window: 5000, ..Tcp::default() };
                builder::tcp(Ip::new(src, dst, protocol::TCP), fields, b"")
            }
            2 => builder::udp(Ip::new(src, dst, protocol::UDP), sport, dport, b"word"),
            _ => {
                let number = if src.is_v4() { protocol::ICMP } else { protocol::ICMPV6 };
                builder::echo(Ip::new(src, dst, number), true, sport & 3, 1, b"ping")
            }
        };
        self.send(port, &packet)
    }

    /// An answer to a packet that was seen, from where it went, or a word more from where it came.
    fn answers(&mut self, which: u8) -> Result<(), String> {
        let Some((port, packet)) = self.pick() else { return Ok(()) };
        let Ok(p) = Parsed::parse(&packet) else { return Ok(()) };
        let skew = match which & 3 {
            3 => i32::from(self.input.byte() as i8) << (self.input.byte() & 31),
            _ => 0,
        };
        let header = Ip::new(p.dst, p.src, p.protocol);
        let answer = match p.transport {
            Transport::Tcp { sport, dport, flags } => {
                let Some(h) = tcp::Header::new_checked(p.segment(&packet)) else { return Ok(()) };
                let text = p.segment(&packet).len() - h.header_len();
                let len = text as u32 + u32::from(flags & (tcp::SYN | tcp::FIN) != 0);
                let flags = self.input.of(&[
                    tcp::SYN | tcp::ACK,
                    tcp::ACK,
                    tcp::ACK | tcp::PSH,
                    tcp::FIN | tcp::ACK,
                    tcp::RST,
                    tcp::RST | tcp::ACK,
                    tcp::SYN,
                    0,
                ]);
                let (seq, ack) = (h.ack().wrapping_add_signed(skew), h.seq().wrapping_add(len));
                let (sport, dport) = (dport, sport);
                let fields = Tcp { sport, dport, flags, seq, ack, window: 5000, ..Tcp::default() };
                let words: [&[u8]; 4] =
                    [b"", b"data", b"PORT 192,168,0,2,4,1\r\n", b"227 (198,51,100,10,4,1)\r\n"];
                builder::tcp(header, fields, self.input.of(&words))
            }
            Transport::Udp { sport, dport } if p.protocol == protocol::UDP => {
                builder::udp(header, dport, sport, b"answer")
            }
            Transport::Icmp { id, .. } | Transport::Icmpv6 { id, .. } => {
                builder::echo(header, false, id, 1, b"ping")
            }
            _ => return Ok(()),
        };
        self.send(&port, &answer)
    }

    /// An error about a packet that was seen, with as much of it as there is room for.
    fn error(&mut self) -> Result<(), String> {
        let Some((port, packet)) = self.pick() else { return Ok(()) };
        let Ok(p) = Parsed::parse(&packet) else { return Ok(()) };
        let len = usize::from(self.input.byte()).max(8).min(packet.len());
        let mut quote = packet[..len].to_vec();
        if self.input.byte() & 3 == 0 {
            let at = usize::from(self.input.byte()) % quote.len();
            quote[at] ^= self.input.byte();
        }
        let (number, kinds) = match p.family {
            Family::V4 => (protocol::ICMP, [icmp::DEST_UNREACHABLE, icmp::TIME_EXCEEDED, 5, 12]),
            Family::V6 => (protocol::ICMPV6, [icmpv6::PACKET_TOO_BIG, 1, 3, 4]),
        };
        let kind = self.input.of(&kinds);
        let header = Ip::new(p.dst, p.src, number);
        self.send(&port, &builder::icmp(header, kind, 3, [0, 0, 5, 0], &quote))
    }

    /// Pieces of a datagram, one at a time.
    fn piece(&mut self) -> Result<(), String> {
        let (port, src, dst) = self.ends();
        let payload = vec![b'f'; 40 + usize::from(self.input.byte())];
        let id = u16::from(self.input.byte() & 1);
        let header = Ip { id, ..Ip::new(src, dst, protocol::UDP) };
        let whole = builder::udp(header, 1024 + id, 53, &payload);
        let pieces = match src.is_v4() {
            true => frames::pieces_v4(&whole, 32),
            false => frames::pieces_v6(&whole, 32),
        };
        for _ in 0..1 + self.input.byte() % 4 {
            let which = usize::from(self.input.byte()) % pieces.len();
            self.send(port, &pieces[which])?;
        }
        Ok(())
    }

    /// Something that was seen, from the same place, with a byte of it changed.
    fn again(&mut self) -> Result<(), String> {
        let Some((port, mut packet)) = self.pick() else { return Ok(()) };
        let at = usize::from(self.input.byte()) % packet.len().max(1);
        if let Some(byte) = packet.get_mut(at) {
            *byte ^= self.input.byte();
        }
        let mut frame = Flying::from(arriving(&port, &packet));
        super::mutate::mend(&mut frame);
        let packet = frame.bytes[ethernet::HEADER_LEN..].to_vec();
        if packet.is_empty() { Ok(()) } else { self.send(&port, &packet) }
    }

    fn pick(&mut self) -> Option<(String, Vec<u8>)> {
        let which = usize::from(self.input.byte());
        self.seen.iter().rev().cycle().nth(which % self.seen.len().max(1)).cloned()
    }

    /// A rule is changed while packets are under way.
    fn command(&mut self) -> Result<(), String> {
        let words = self.input.of(COMMANDS);
        let args: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
        let family = Family::V4;
        let engine = self.watch.sim().engine_mut();
        let (base, counters) = engine.rules_in_force().snapshot(family);
        let call = Call { program: Program::Iptables, family, args: &args, input: "", stamp: "" };
        let answer = run(call, Present { ruleset: &base, counters: &counters });
        match answer.change {
            Some(change) => engine
                .change_rules(&base, change, &counters)
                .map(|_| ())
                .map_err(|_| "superseded".to_owned()),
            None => Err(format!("{words}: {}", answer.err)),
        }
    }

    /// `conntrack -D`, `-F`, `-U`.
    fn by_hand(&mut self) -> Result<(), String> {
        let (what, which) = (self.input.byte(), usize::from(self.input.byte()));
        let now = self.watch.sim().now();
        self.watch.sim().each(|lent| {
            let table = lent.conntrack_mut();
            let count = table.len().max(1);
            let Some(id) = table.iter().nth(which % count).map(|(id, _)| id) else { return };
            match what & 3 {
                0 => drop(table.delete(id)),
                1 if which & 7 == 0 => drop(table.flush()),
                _ => {
                    let timeout = Some(Duration::from_secs(u64::from(what)));
                    let update = Update { timeout, mark: Some((7, 1)), ..Update::default() };
                    let _ = table.update(id, &update, now);
                }
            }
        });
        Ok(())
    }

    /// New rules, or another address on the uplink.
    fn change(&mut self) -> Result<(), String> {
        let what = self.input.byte();
        let engine = self.watch.sim().engine_mut();
        if what & 1 == 0 {
            let sets = Sets::new();
            let load = |text, family| {
                let loaded = load_with(Source { name: "rules", text }, family, &sets);
                loaded.map(|loaded| loaded.ruleset).map_err(|e| format!("{e:?}"))
            };
            engine.replace_rules(load(RULES_V4, Family::V4)?, load(RULES_V6, Family::V6)?);
            return Ok(());
        }
        self.uplink = !self.uplink;
        let own = if self.uplink { "203.0.113.1/24" } else { "203.0.113.7/24" };
        let prefix = |text: &str| text.parse().map_err(|_| "a prefix".to_owned());
        let id = engine.interfaces().by_name("ppp0").ok_or("no uplink")?;
        let routes = engine.static_routes().to_vec();
        engine.replace_addresses(id, vec![prefix(own)?, prefix("2001:db8:1::1/64")?], routes);
        Ok(())
    }

    /// What must hold after each step.
    fn holds(&mut self) -> Result<(), String> {
        let now = self.watch.sim().now();
        let (given, own) = (self.given, if self.uplink { "203.0.113.1" } else { "203.0.113.7" });
        let counters = self.watch.sim().counters();
        let received: u64 = counters.received.iter().map(|t| t.packets).sum();
        if received != given {
            return Err(format!("{received} received of {given}"));
        }
        let connections = self.watch.sim().connections();
        if connections > MAX {
            return Err(format!("{connections} connections"));
        }
        let mut taken = HashSet::new();
        let whole = |lent: &mut Lent<'_>| consistent(lent.conntrack(), &mut taken, own, now);
        self.watch.sim().each(whole).into_iter().collect()
    }

    /// Days later nothing is left.
    fn end(mut self) -> Result<(), String> {
        let later = self.watch.sim().now() + Duration::from_secs(30 * 86_400);
        let sim = self.watch.sim();
        sim.engine_mut().set_time(later, 0);
        sim.engine_mut().tick();
        match sim.connections() {
            0 => Ok(()),
            left => Err(format!("{left} connections are left for ever")),
        }
    }
}

/// What must hold of a table: no tuple twice, each finds its own connection, and nothing stands for
/// an address that is gone.
fn consistent(
    table: &Conntrack,
    taken: &mut HashSet<(String, u16)>,
    own: &str,
    now: Instant,
) -> Result<(), String> {
    for (id, conn) in table.iter() {
        let zones = conn.zones();
        for (tuple, zone) in [(conn.original(), zones[0]), (conn.reply(), zones[1])] {
            if !taken.insert((format!("{tuple:?}"), zone)) {
                return Err(format!("{tuple:?} twice"));
            }
        }
        let found = table.find_in(&conn.original(), zones, now).map(|(found, _)| found);
        if found.is_some_and(|found| found != id) {
            return Err(format!("{:?} finds another", conn.original()));
        }
        let reply = conn.reply();
        if conn.masqueraded().is_some() && reply.dst.is_v4() && reply.dst != addr(own) {
            return Err(format!("masqueraded to {}, which is gone", reply.dst));
        }
    }
    Ok(())
}
