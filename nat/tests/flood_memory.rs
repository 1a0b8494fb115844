//! What floods take of the memory, counted by the allocator: tables keep to their bounds in bytes as
//! well, and give back what they can. One test at a time: everything in this process is counted.

mod common;

use std::sync::{Mutex, PoisonError};

use common::{Gateway, Rules, addr};
use peak_alloc::PeakAlloc;
use tidegate_nat::{FragmentSettings, Reassembler, Settings};
use tidegate_packet::builder::{self, Ip, Tcp};
use tidegate_packet::tcp::SYN;
use tidegate_packet::{Addr, Instant, Parsed, ipv4, ipv6, protocol};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

static ALONE: Mutex<()> = Mutex::new(());

/// A fragment of eight bytes.
fn tiny(v4: bool, host: u32, id: u16, at: u16) -> Vec<u8> {
    let [a, b, c, d] = host.to_be_bytes();
    if v4 {
        let src = Addr::from_v4_bytes([77, b, c, d]);
        let header = Ip { id, ..Ip::new(src, addr("203.0.113.1"), protocol::UDP) };
        let mut bytes = builder::ip(header, &[7; 8]);
        bytes[6..8].copy_from_slice(&((at / 8) | 0x2000).to_be_bytes());
        ipv4::write_checksum(&mut bytes);
        return bytes;
    }
    let mut src = addr("2001:db8::").octets();
    src[12..].copy_from_slice(&[a, b, c, d]);
    let header = Ip::new(Addr::from_v6_bytes(src), addr("2001:db8:1::1"), protocol::FRAGMENT);
    let mut rest = vec![protocol::UDP, 0];
    rest.extend((at | 1).to_be_bytes());
    rest.extend(u32::from(id).to_be_bytes());
    rest.extend([7; 8]);
    assert_eq!(rest.len(), ipv6::FRAGMENT_LEN + 8);
    builder::ip(header, &rest)
}

/// The `n`th fragment of a flood.
type Fragment = fn(u32) -> (u32, u16, u16);

/// Many datagrams that never become whole; few with very many pieces, each with a gap behind it.
#[test]
fn fragments_keep_to_their_bound() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    const BOUND: usize = 4 << 20;
    let kinds: [(&str, Fragment); 3] = [
        ("one piece each", |n| (n, n as u16, 0)),
        ("no first piece", |n| (n, n as u16, 8)),
        ("many pieces of few", |n| (n % 16, (n / 16 / 4000) as u16, (n / 16 % 4000 * 16) as u16)),
    ];
    for (what, kind) in kinds {
        for v4 in [true, false] {
            let settings = FragmentSettings { max_bytes: BOUND, ..FragmentSettings::V4 };
            let before = MEMORY.current_usage();
            let mut queues = Reassembler::new(settings);
            for n in 0..100_000 {
                let (host, id, at) = kind(n);
                let bytes = tiny(v4, host, id, at);
                let parsed = Parsed::parse(&bytes).unwrap();
                queues.push(&parsed, &bytes, Instant::from_secs(1));
                assert!(queues.bytes() <= BOUND);
            }
            let taken = MEMORY.current_usage().saturating_sub(before);
            assert!(queues.bytes() > BOUND - 4096, "{what}: the flood has filled it");
            assert!(taken <= BOUND, "{what} {v4}: {taken}");
            assert!(taken > BOUND / 8, "{what} {v4}: {taken}, so the bound is no use");
            queues.expire(Instant::from_secs(100));
            drop(queues.take_expired());
            assert!(queues.is_empty() && queues.bytes() == 0);
            let left = MEMORY.current_usage().saturating_sub(before);
            assert!(left < BOUND / 4, "{what} {v4}: {left} are left");
        }
    }
}

/// A flood from a million sources takes no more than the table's bound, however long it lasts: pieces
/// of the index that happen to become full are split, ever fewer of them.
#[test]
fn connections_keep_to_their_bound() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    const MAX: u32 = 65_536;
    /// With index, wheel and what growing leaves.
    const EACH: usize = 192;
    let before = MEMORY.current_usage();
    let mut gateway = Gateway::with(Settings { max: MAX, ..Settings::default() });
    let flood = |gateway: &mut Gateway, from: u32, count: u32| {
        MEMORY.reset_peak_usage();
        for n in from..from + count {
            let [_, b, c, d] = n.wrapping_mul(2_654_435_761).to_be_bytes();
            let fields = Tcp { sport: n as u16, dport: 80, flags: SYN, ..Tcp::default() };
            let header =
                Ip::new(Addr::from_v4_bytes([77, b, c, d]), addr("203.0.113.9"), protocol::TCP);
            let _ = gateway.pass(&builder::tcp(header, fields, &[]), Rules::default());
        }
        assert_eq!(gateway.table.len(), MAX as usize);
        MEMORY.peak_usage() - before
    };
    let peaks = [0, 1, 2, 3, 4].map(|n| flood(&mut gateway, n * 200_000, 200_000));
    assert!(peaks.iter().all(|peak| *peak <= MAX as usize * EACH), "{peaks:?}");
    assert!(peaks[4] <= peaks[3] + peaks[3] / 50, "{peaks:?}");
    gateway.wait(200);
    gateway.table.expire(gateway.now);
    assert!(gateway.table.is_empty());
    drop(gateway);
    assert!(MEMORY.current_usage().saturating_sub(before) < 1 << 20);
}
