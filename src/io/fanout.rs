//! The kernel's choice of a worker for a frame (`PACKET_FANOUT_CBPF`): a program that computes what
//! `tidegate_nat::home` does for plain TCP and UDP over IPv4 and IPv6, so that frames arrive where
//! their connections are. For everything else it gives the kernel's hash of the flow.
//!
//! It only saves time: what arrives at another worker is handed over (`crate::handover`).

/// Where offsets from the network header begin, and special values (`SKF_*` of linux/filter.h).
const NET: i32 = -0x10_0000;
const AD_PROTOCOL: i32 = -0x1000;
const AD_RXHASH: i32 = -0x1000 + 32;

const LD_W_ABS: u16 = 0x20;
const LD_H_ABS: u16 = 0x28;
const LD_B_ABS: u16 = 0x30;
const LD_H_IND: u16 = 0x48;
const LD_MEM: u16 = 0x60;
const LDX_IMM: u16 = 0x01;
const LDX_MEM: u16 = 0x61;
const ST: u16 = 0x02;
const ADD_X: u16 = 0x0c;
const MUL_K: u16 = 0x24;
const AND_K: u16 = 0x54;
const LSH_K: u16 = 0x64;
const RSH_K: u16 = 0x74;
const XOR_K: u16 = 0xa4;
const XOR_X: u16 = 0xac;
const TAX: u16 = 0x07;
const JA: u16 = 0x05;
const JEQ_K: u16 = 0x15;
const JSET_K: u16 = 0x45;
const RET_A: u16 = 0x16;

const fn op(code: u16, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt: 0, jf: 0, k }
}

const fn jump(code: u16, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

const fn at(base: i32, offset: i32) -> u32 {
    (base + offset) as u32
}

/// The steering program with this key. The kernel takes its result modulo the number of sockets.
pub(super) fn program(key: u32) -> Vec<libc::sock_filter> {
    const IPV4: u32 = 0x0800;
    const IPV6: u32 = 0x86dd;
    vec![
        op(LD_H_ABS, AD_PROTOCOL as u32),
        jump(JEQ_K, IPV4, 0, V6 - 2),
        // IPv4: no fragment, TCP or UDP; X becomes the header's length.
        op(LD_H_ABS, at(NET, 6)),
        jump(JSET_K, 0x3fff, OTHER - 4, 0),
        op(LD_B_ABS, at(NET, 9)),
        jump(JEQ_K, 6, 1, 0),
        jump(JEQ_K, 17, 0, OTHER - 7),
        op(LD_B_ABS, at(NET, 0)),
        op(AND_K, 15),
        op(LSH_K, 2),
        op(TAX, 0),
        op(JA, (PORTS - V6) as u32),
        // IPv6: TCP or UDP right behind the header.
        jump(JEQ_K, IPV6, 0, OTHER - V6 - 1),
        op(LD_B_ABS, at(NET, 6)),
        jump(JEQ_K, 6, 1, 0),
        jump(JEQ_K, 17, 0, OTHER - V6 - 4),
        op(LDX_IMM, 40),
        // The ports are a and b. (a ^ b) + (a + b) * K ^ key, mixed.
        op(LD_H_IND, at(NET, 0)),
        op(ST, 0),
        op(LD_H_IND, at(NET, 2)),
        op(TAX, 0),
        op(LD_MEM, 0),
        op(ADD_X, 0),
        op(MUL_K, 0x9e37_79b1),
        op(ST, 1),
        op(LD_MEM, 0),
        op(XOR_X, 0),
        op(LDX_MEM, 1),
        op(ADD_X, 0),
        op(XOR_K, key),
        op(TAX, 0),
        op(RSH_K, 16),
        op(XOR_X, 0),
        op(MUL_K, 0x7feb_352d),
        op(TAX, 0),
        op(RSH_K, 15),
        op(XOR_X, 0),
        op(RET_A, 0),
        op(LD_W_ABS, AD_RXHASH as u32),
        op(RET_A, 0),
    ]
}

/// Where the instructions for IPv6, for the ports and for everything else begin.
const V6: u8 = 12;
const PORTS: u8 = 17;
const OTHER: u8 = 38;

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_nat::{Tuple, home};
    use tidegate_packet::builder::{self, Ip};
    use tidegate_packet::{Addr, protocol};

    const RXHASH: u32 = 0xabcd;

    /// As the kernel runs it; a load beyond the packet ends it with zero.
    fn run(program: &[libc::sock_filter], ethertype: u16, packet: &[u8]) -> u32 {
        let load = |offset: u32, len: usize| -> Option<u32> {
            let offset = offset as i32;
            if offset == AD_PROTOCOL {
                return Some(ethertype.into());
            }
            if offset == AD_RXHASH {
                return Some(RXHASH);
            }
            let from = usize::try_from(offset - NET).ok()?;
            let bytes = packet.get(from..from + len)?;
            Some(bytes.iter().fold(0, |n, b| n << 8 | u32::from(*b)))
        };
        let (mut a, mut x, mut memory, mut next) = (0u32, 0u32, [0u32; 16], 0);
        loop {
            let libc::sock_filter { code, jt, jf, k } = program[next];
            next += 1;
            let choose = |yes: bool| usize::from(if yes { jt } else { jf });
            let loaded = match code {
                LD_W_ABS => load(k, 4),
                LD_H_ABS => load(k, 2),
                LD_B_ABS => load(k, 1),
                LD_H_IND => load(x.wrapping_add(k), 2),
                LD_MEM => Some(memory[k as usize]),
                _ => Some(a),
            };
            let Some(loaded) = loaded else { return 0 };
            a = loaded;
            match code {
                LDX_IMM => x = k,
                LDX_MEM => x = memory[k as usize],
                ST => memory[k as usize] = a,
                ADD_X => a = a.wrapping_add(x),
                MUL_K => a = a.wrapping_mul(k),
                AND_K => a &= k,
                LSH_K => a <<= k,
                RSH_K => a >>= k,
                XOR_K => a ^= k,
                XOR_X => a ^= x,
                TAX => x = a,
                JA => next += k as usize,
                JEQ_K => next += choose(a == k),
                JSET_K => next += choose(a & k != 0),
                RET_A => return a,
                LD_W_ABS | LD_H_ABS | LD_B_ABS | LD_H_IND | LD_MEM => {}
                other => panic!("{other:#x}"),
            }
        }
    }

    #[test]
    fn the_kernel_steers_as_the_software_does() {
        let addrs = |a: &str, b: &str| [a, b].map(|a| a.parse::<Addr>().unwrap());
        for (ethertype, [src, dst]) in [
            (0x0800, addrs("192.0.2.1", "198.51.100.2")),
            (0x86dd, addrs("2001:db8::1", "2001:db8::2")),
        ] {
            for (n, shards) in (0..500u16).zip([1usize, 2, 3, 8].into_iter().cycle()) {
                let key = u32::from(n).wrapping_mul(0x9e37_79b9);
                let (sport, dport) = (n.wrapping_mul(7919), n.wrapping_mul(104));
                let ip = Ip::new(src, dst, protocol::UDP);
                let packet = builder::udp(ip, sport, dport, b"x");
                let tuple = Tuple { src, dst, sport, dport, protocol: protocol::UDP };
                let chosen = run(&program(key), ethertype, &packet) as usize % shards;
                assert_eq!(chosen, home(key, shards, &tuple), "{sport} {dport}");
            }
            // Neither TCP nor UDP; cut short.
            let ip = Ip::new(src, dst, protocol::UDP);
            let mut packet = builder::udp(ip, 1, 2, b"");
            assert_eq!(run(&program(1), ethertype, &packet[..20]), 0);
            packet[if src.is_v4() { 9 } else { 6 }] = 50;
            assert_eq!(run(&program(1), ethertype, &packet), RXHASH);
        }
        assert_eq!(run(&program(1), 0x0806, &[0; 28]), RXHASH);
        let [src, dst] = addrs("192.0.2.1", "198.51.100.2");
        let mut piece = builder::udp(Ip::new(src, dst, protocol::UDP), 1, 2, b"");
        piece[7] = 3;
        assert_eq!(run(&program(1), 0x0800, &piece), RXHASH);
    }
}
