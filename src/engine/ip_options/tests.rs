//! Tables of options: as they come, and as they leave.

use super::*;

const TIME: u32 = 0x0102_0304;
/// The gateway's address towards the sender, and the one on the way out.
const OWN: &str = "c0a80001";
const EGRESS: &str = "cb007101";

fn hex(text: &str) -> Vec<u8> {
    let text = text.replace("OWN", OWN).replace("OUT", EGRESS).replace("TIME", "01020304");
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|d| (d[0] * 16 + d[1]) as u8).collect()
}

fn addr(text: &str) -> Addr {
    address_at(&hex(text), 0)
}

/// A header from 192.168.0.2 to 198.51.100.10.
fn header(options: &str) -> Vec<u8> {
    let options = hex(options);
    let mut header = hex("45000000 00000000 40110000 c0a80002 c633640a");
    header[0] = 0x45 + (options.len() / 4) as u8;
    header.extend(options);
    header
}

fn compiled(options: &str) -> (Options, Vec<u8>, Result<(), u8>) {
    let mut header = header(options);
    let is_elsewhere = |a: Addr| a != addr(OWN);
    let place = Place { address: addr(OWN), time: TIME, is_elsewhere: &is_elsewhere };
    let mut options = Options::default();
    let result = options.compile(&mut header, &place);
    (options, header, result)
}

#[test]
fn good_options_are_filled_in() {
    for (options, want) in [
        ("01010100", "01010100"),
        ("0007ff01", "00000000"),
        ("94040000", "94040000"),
        ("55040000", "55040000"),
        ("07070400000000 00", "070708OWN00"),
        ("070708c0a8000900", "070708c0a8000900"),
        ("07030600", "07030600"),
        ("4408050000000000", "44080900TIME"),
        ("440c0501 00000000 00000000", "440c0d01 OWN TIME"),
        ("440c0503 OWN 00000000", "440c0d03 OWN TIME"),
        ("440c0503 0a030009 00000000", "440c0503 0a030009 00000000"),
        ("440c0502 00000000 00000000", "440c0502 00000000 00000000"),
        ("44080900 00000001", "44080910 00000001"),
        ("440809f3 00000001", "440809f3 00000001"),
        ("830704c633640100", "830704c633640100"),
    ] {
        let (_, header, result) = compiled(options);
        assert_eq!((result, &header[20..]), (Ok(()), &hex(want)[..]), "{options}");
    }
}

#[test]
fn the_pointer_names_what_is_wrong() {
    for (options, pointer) in [
        ("07000000", 20),
        ("01010107", 23),
        ("07ff0400", 20),
        ("07020000", 21),
        ("0707030000000000", 22),
        ("0706060000000000", 22),
        ("070704000000000707040000000000 00", 27),
        ("44030500", 21),
        ("4408040000000000", 22),
        ("4408070000000000", 22),
        ("4408050100000000", 22),
        ("4408050300000000", 22),
        ("440809f000000001", 23),
        ("44080900000000014408090000000001", 28),
        ("94030000", 21),
        ("8606000000010000", 21),
        ("860a0000000101040000 0000", 22),
        ("83020000", 21),
        ("8307030000000000", 22),
        ("83070400000000 8307040000000000 00", 27),
    ] {
        assert_eq!(compiled(options).2, Err(pointer), "{options}");
    }
}

#[test]
fn forwarding_corrects_the_address_and_undo_takes_all_back() {
    let (options, mut header, _) = compiled("0707040000000000");
    assert_eq!(options.forward(&mut header, addr(EGRESS)), None);
    assert_eq!(header[20..], hex("070708OUT00"));
    options.undo(&mut header);
    assert_eq!(header[20..], hex("0707040000000000"));

    let (mut options, mut header, _) = compiled("830b04 0a030005 c6336401 00");
    options.next_hop = Some(addr("0a030005"));
    assert_eq!(options.forward(&mut header, addr(EGRESS)), Some(addr("0a030005")));
    assert_eq!(header[16..], hex("0a030005 830b08 OUT c6336401 00"));
}

#[test]
fn answers_turn_the_options_round() {
    for (options, want) in [
        ("070b0400000000 00000000 00", "070b0c OWN OWN 00"),
        ("0707040000000000", "070708 OWN 00"),
        ("44100500 00000000 00000000 00000000", "44100d00 TIME TIME 00000000"),
        ("440c0501 00000000 00000000", "440c0d01 OWN TIME"),
        ("94040000", ""),
        ("830b0c c0a80008 c0a80009 00", "830b04 c0a80008 c0a80002 00"),
        ("830b0c c0a80002 c0a80009 00", "830704 c0a80002 00"),
        ("830704 c6336401 00", ""),
    ] {
        let (options_, header, result) = compiled(options);
        assert_eq!(result, Ok(()));
        let reply = options_.echo(&header, TIME, &|a| a != addr(OWN)).unwrap();
        let answer = hex("45000014 00000000 40010000 OWN c0a80002");
        let answer = reply.put_into(answer);
        assert_eq!(answer[20..], hex(want), "{options}");
        assert_eq!(usize::from(answer[0] & 15) * 4, answer.len());
    }
    // A record with room for half an address: Linux doesn't answer.
    let (options, header, _) = compiled("070904 00000000 0000 000000");
    assert_eq!(options.echo(&header, TIME, &|_| true), None);
}

proptest::proptest! {
    /// Whatever the octets, nothing panics: neither filling in, nor forwarding, nor answering.
    #[test]
    fn any_octets(
        mut octets in proptest::collection::vec(proptest::prelude::any::<u8>(), 4..40),
        kind in proptest::sample::select(vec![7u8, 68, 131, 137, 134, 148]),
        len in 2u8..40,
        pointer in 0u8..44,
    ) {
        octets.truncate(octets.len() & !3);
        octets[..3].copy_from_slice(&[kind, len, pointer]);
        let mut header = header("");
        header.extend(&octets);
        let mut options = Options::default();
        let place = Place { address: addr(OWN), time: TIME, is_elsewhere: &|_| false };
        let result = options.compile(&mut header, &place);
        if let Some(reply) = options.echo(&header, TIME, &|_| false) {
            reply.put_into(header.clone());
        }
        if result.is_ok() {
            options.next_hop = Some(addr("0a030005"));
            options.forward(&mut header, addr(EGRESS));
        }
    }
}
