//! What comes between: losses, repetitions, disorder, damage and forgeries.

use super::course::{Item, Seg};
use crate::random::dice::Dice;

/// Distances from the right number, on either side of it.
const FAR: [u32; 20] = [
    0,
    1,
    2,
    99,
    100,
    1000,
    1001,
    8192,
    64_240,
    64_241,
    65_535,
    65_536,
    65_999,
    66_000,
    66_001,
    131_072,
    1 << 20,
    1 << 30,
    0x7fff_ffff,
    0x8000_0000,
];

const FLAGS: [&str; 32] = [
    "A", "A", "A", "PA", "S", "S", "S", "SA", "SA", "R", "R", "RA", "RA", "FA", "FA", "FPA", "F",
    "none", "SF", "SR", "P", "U", "AU", "SU", "SP", "FAU", "FPU", "SEC", "SAE", "SAU", "RU", "RPA",
];

/// Options that are cut off, too long, or of no sense at all.
const OPTIONS: [&str; 15] = [
    "0502",
    "050a00000000",
    "05090000000000000000",
    "0512000000010000000200000003",
    "01010101",
    "00000000",
    "0300",
    "030307",
    "03040700",
    "0301",
    "0403ff",
    "0402",
    "fe04ffff",
    "0101080a0000000700000009",
    "fe",
];

const V4_ERRORS: [&str; 8] = ["3/0", "3/1", "3/3", "3/4 mtu 1400", "3/13", "4", "11/0", "12"];
const V6_ERRORS: [&str; 5] = ["1/0", "1/4", "2 mtu 1300", "3/0", "4/1"];

/// Makes an orderly conversation a real one.
pub fn disturb(d: &mut Dice, items: &mut Vec<Item>, v4: bool) {
    let likely = d.pick(&[2, 5, 10, 20]);
    let mut at = 0;
    while at < items.len() {
        if d.chance(likely) {
            match d.below(5) {
                0 => drop(items.remove(at)),
                1 => {
                    let copy = items[at].clone();
                    let to = (at + d.below(6) as usize).min(items.len());
                    items.insert(to, copy);
                }
                2 => {
                    let to = (at + 1 + d.below(3) as usize).min(items.len() - 1);
                    items.swap(at, to);
                }
                3 => damage(d, &mut items[at]),
                _ => {
                    let error = error(d, v4);
                    items.insert(at, error);
                }
            }
        }
        at += 1;
    }
    for _ in 0..d.pick(&[0, 1, 2, 3, 6]) {
        let forged = items.iter().filter_map(|item| match item {
            Item::Seg(seg) => Some(seg.clone()),
            Item::Error(..) => None,
        });
        let segments: Vec<Seg> = forged.collect();
        if segments.is_empty() {
            return;
        }
        let model = d.below(segments.len() as u64) as usize;
        let segment = forge(d, segments[model].clone());
        // Mostly near the segment that it is made after.
        let at = if d.chance(70) { model + d.below(3) as usize } else { d.below(1 << 16) as usize };
        let at = at.min(items.len());
        items.insert(at, Item::Seg(segment));
    }
}

fn error(d: &mut Dice, v4: bool) -> Item {
    let kind = if v4 { d.pick(&V4_ERRORS) } else { d.pick(&V6_ERRORS) };
    let mut quote = Vec::new();
    if d.chance(40) {
        let transport = if v4 { 20 } else { 40 };
        quote.push(format!("first {}", transport + d.pick(&[0, 4, 8, 8, 19, 20, 40])));
    }
    if d.chance(15) {
        let bytes =
            if v4 { [0, 9, 12, 16, 20, 22, 24, 33] } else { [0, 6, 23, 39, 40, 42, 44, 53] };
        quote.push(format!("edit {}={:02x}", d.pick(&bytes), d.below(256)));
    }
    Item::Error(d.below(2) as usize, kind, quote)
}

fn damage(d: &mut Dice, item: &mut Item) {
    let Item::Seg(seg) = item else { return };
    match d.below(7) {
        0 | 1 => seg.options.push("cksum bad".to_owned()),
        2 => seg.options.push(format!("doff {}", d.pick(&[0, 4, 5, 6, 15]))),
        3 => seg.edit = Some(format!("cut {}", d.pick(&[20, 24, 28, 39, 40, 44, 50, 60, 70]))),
        4 => seg.edit = Some(format!("pad {}", d.pick(&[1, 2, 6, 20]))),
        5 => seg.options.push(format!("res {}", d.pick(&[1, 7, 15]))),
        _ => seg.edit = Some(format!("poke {}={:02x}", 20 + d.below(40), d.below(256))),
    }
}

/// A segment that somebody else made, or that went astray.
fn forge(d: &mut Dice, mut seg: Seg) -> Seg {
    let off = |d: &mut Dice| {
        let far = d.pick(&FAR);
        if d.chance(50) { far } else { far.wrapping_neg() }
    };
    seg.times = d.pick(&[1, 1, 1, 2, 3, 4]);
    if d.chance(70) {
        seg.flags = d.pick(&FLAGS).to_owned();
    }
    if d.chance(60) {
        seg.seq = if d.chance(8) { 0 } else { seg.seq.wrapping_add(off(d)) };
    }
    if d.chance(50) {
        seg.ack = if d.chance(8) { 0 } else { seg.ack.wrapping_add(off(d)) };
    }
    if d.chance(30) {
        seg.window = d.pick(&[0, 1, 100, 1000, 64_240, 65_535]);
    }
    if d.chance(30) {
        seg.data = d.pick(&[0, 1, 100, 1400]);
    }
    if d.chance(10) {
        seg.end = 1 - seg.end;
        std::mem::swap(&mut seg.seq, &mut seg.ack);
    }
    if d.chance(25) {
        let (from, to) = (seg.ack.wrapping_add(off(d)), seg.ack.wrapping_add(off(d)));
        let option = match d.below(6) {
            0 | 1 => format!("sack {from}-{to}"),
            2 => format!("sack {from}-{to},{to}-{from}"),
            3 => format!("ws {}", d.pick(&[0, 1, 7, 14, 15])),
            4 => "sackok".to_owned(),
            _ => format!("opts {}", d.pick(&OPTIONS)),
        };
        seg.options.push(option);
    }
    seg
}
