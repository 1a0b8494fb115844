//! Long chains: a packet finds its rules by look-up, also after changes by command, and meets just
//! those that it meets when each is asked.
#![no_main]

#[path = "../../filter/tests/common/mod.rs"]
mod common;

use common::chains::{Arrival, check};
use libfuzzer_sys::fuzz_target;
use std::fmt::Write as _;
use tidegate_packet::{Addr, Family, builder};

const CHAINS: [&str; 3] = ["PREROUTING", "one", "two"];
const INTERFACES: [&str; 8] = ["", "eth0", "eth1", "eth+", "e+", "wan0", "w+", "a-name-of-more-"];

/// Numbers out of the input; zeros behind its end.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn below(&mut self, n: u8) -> u8 {
        self.byte() % n
    }

    fn port(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// Few of them, so that much collides.
    fn address(&mut self, family: Family) -> Addr {
        let (b, d) = (self.below(8), self.below(8));
        match family {
            Family::V4 => Addr::from_v4_bytes([10, b, 0, d]),
            Family::V6 => Addr::from_bits(0xfd << 120 | u128::from(b) << 64 | u128::from(d)),
        }
    }

    /// What stands behind `-A CHAIN`. A chain leads only further down.
    fn rule(&mut self, chain: usize, family: Family) -> String {
        let mut rule = String::new();
        let what = self.byte();
        for (bit, option) in [(1, "-s"), (2, "-d")] {
            if what & bit != 0 {
                let len = self.below(if family == Family::V4 { 33 } else { 129 });
                let not = if self.byte() > 220 { " !" } else { "" };
                let _ = write!(rule, "{not} {option} {}/{len}", self.address(family));
            }
        }
        if what & 4 != 0 {
            let not = if self.byte() > 220 { " !" } else { "" };
            let name = INTERFACES[usize::from(self.below(8))];
            if !name.is_empty() {
                let _ = write!(rule, "{not} -i {name}");
            }
        }
        let (a, b) = (self.port(), self.port());
        let (low, high) = (a.min(b), a.max(b).max(a.min(b).saturating_add(1)));
        let _ = match what >> 3 & 7 {
            0 => Ok(()),
            1 => write!(rule, " -p tcp --dport {low}"),
            2 => write!(rule, " -p udp --sport {low}:{high}"),
            3 if low < high => write!(rule, " -p udp -m multiport --dports 53,{low}:{high}"),
            3 => write!(rule, " -p 17"),
            4 => write!(rule, " -p tcp -m limit --limit 1/hour --limit-burst 2 -m tcp ! --dport {low}"),
            5 => {
                let (from, to) = (self.address(family), self.address(family));
                write!(rule, " -m iprange --src-range {}-{}", from.min(to), from.max(to))
            }
            6 => write!(rule, " ! -p udp"),
            _ => write!(rule, " -p tcp --tcp-flags SYN,ACK SYN -m multiport --ports {low},80"),
        };
        let target = match (what >> 6, self.below(4)) {
            (0, _) => "",
            (1, 0) => " -j ACCEPT",
            (1, 1) => " -j RETURN",
            (1, 2) => " -j MARK --set-mark 1",
            (1, _) => " -j LOG",
            (_, n) if chain + 1 < CHAINS.len() => {
                let to = CHAINS[CHAINS.len() - 1 - usize::from(n > 1 && chain == 0)];
                let _ = write!(rule, " {} {to}", if n % 2 == 0 { "-j" } else { "-g" });
                ""
            }
            _ => " -j DROP",
        };
        rule + target
    }

    fn packet(&mut self, family: Family) -> Vec<u8> {
        let (from, to) = (self.address(family), self.address(family));
        let (sport, dport) = (self.port(), self.port());
        match self.below(4) {
            0 => builder::udp(builder::Ip::new(from, to, 17), sport, dport, b""),
            // Cut short, or none at all.
            1 => builder::ip(builder::Ip::new(from, to, 6), &vec![0; usize::from(self.below(24))]),
            _ => {
                let tcp = builder::Tcp { sport, dport, ..builder::Tcp::default() };
                builder::tcp(builder::Ip::new(from, to, 6), tcp, &[])
            }
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let mut bytes = Bytes(data);
    let family = if bytes.byte() < 160 { Family::V4 } else { Family::V6 };
    let mut text = String::from("*mangle\n:one - [0:0]\n:two - [0:0]\n");
    for (n, chain) in CHAINS.into_iter().enumerate() {
        for _ in 0..bytes.below(40) {
            let _ = writeln!(text, "-A {chain}{}", bytes.rule(n, family));
        }
    }
    text += "COMMIT\n";
    let commands: Vec<String> = (0..bytes.below(16))
        .map(|_| {
            let at = usize::from(bytes.below(3));
            let (chain, n) = (CHAINS[at], bytes.below(40) + 1);
            match bytes.below(4) {
                0 => format!("-A {chain}{}", bytes.rule(at, family)),
                1 => format!("-I {chain} {n}{}", bytes.rule(at, family)),
                2 => format!("-R {chain} {n}{}", bytes.rule(at, family)),
                _ => format!("-D {chain} {n}"),
            }
        })
        .collect();
    let packets: Vec<Arrival> = (0..8)
        .map(|_| (bytes.packet(family), ["eth0", "eth1", "wan0", "a-name-of-more-"][usize::from(bytes.below(4))]))
        .collect();
    check(&text, family, &commands, &packets);
});
