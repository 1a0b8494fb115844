//! What connections cost in memory, all that the table keeps for them counted.

mod common;

use common::{Gateway, Rules, to};
use peak_alloc::PeakAlloc;
use tidegate_nat::Settings;
use tidegate_packet::builder::{Ip, Tcp, tcp};
use tidegate_packet::checksum::Field;
use tidegate_packet::tcp::SYN;
use tidegate_packet::{Addr, protocol};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Bytes that are allocated.
fn allocated() -> usize {
    MEMORY.current_usage()
}

/// So many that the index has just been split where its load is worst.
const MANY: u32 = 240_000;
const V4: [&str; 2] = ["203.0.113.9", "192.0.2.1"];
const V6: [&str; 2] = ["2001:db8::9", "2001:db8:1::1"];

/// Client `n`, each with an address of its own: so each is in the table of sources as well.
fn client(n: u32, v6: bool) -> Addr {
    if v6 {
        let mut bytes = [0xfd; 16];
        bytes[12..].copy_from_slice(&n.to_be_bytes());
        Addr::from_v6_bytes(bytes)
    } else {
        Addr::from_v4_bytes((0x0a00_0000 + n).to_be_bytes())
    }
}

/// Opens TCP connections through SNAT and says what a connection cost in bytes at worst.
fn open(gw: &mut Gateway, count: u32, v6: bool) -> usize {
    let [server, outside] = if v6 { V6 } else { V4 };
    let (server, rules) =
        (server.parse().unwrap(), Rules { snat: Some(to(outside)), ..Rules::default() });
    let empty = allocated();
    let mut worst = 0;
    for n in 0..count {
        // Several ports of the server's, so that no port of the outside address is in use.
        let (sport, dport) = (1024 + (n % 60_000) as u16, 80 + (n / 60_000) as u16);
        let syn = Tcp { sport, dport, flags: SYN, seq: n, ..Tcp::default() };
        let syn = tcp(Ip::new(client(n, v6), server, protocol::TCP), syn, &[]);
        let (_, mut tracked) = gw.pass_as(&syn, rules, Field::Complete).unwrap();
        gw.table.set_masqueraded(&mut tracked, 3);
        if n % 512 == 0 && n > 20_000 {
            worst = worst.max((allocated() - empty).div_ceil(n as usize + 1));
        }
    }
    worst
}

/// One test: they would disturb each other's figures.
#[test]
fn connections_are_small_and_leave_nothing() {
    // IPv6 has its addresses in a box.
    for (v6, limit) in [(false, 192), (true, 352)] {
        let mut gw = Gateway::with(Settings { max: MANY, ..Settings::default() });
        let empty = allocated();
        let worst = open(&mut gw, MANY, v6);
        assert_eq!(gw.table.len(), MANY as usize);
        println!("{worst} bytes a connection at worst, IPv6: {v6}");
        assert!((128..=limit).contains(&worst), "{worst} bytes a connection, IPv6: {v6}");
        gw.wait(3600);
        assert_eq!(gw.table.expire(gw.now), MANY as usize);
        // A page of slots, and the numbers of those that were.
        let left = allocated() - empty;
        println!("{left} bytes afterwards");
        assert!(left < 128 * 1024, "{left} bytes are left of {MANY} connections");
    }
}
