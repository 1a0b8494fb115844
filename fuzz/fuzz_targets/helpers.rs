//! Conversations that helpers read: whatever is said, the headers stay right, and no more is expected
//! than the table has room for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_nat::{Conntrack, HELP_ROOM, Helper, Manip, Range, Settings, Template};
use tidegate_packet::builder::{self, Ip, Tcp};
use tidegate_packet::checksum::{self, Field};
use tidegate_packet::tcp::{ACK, SYN};
use tidegate_packet::{Addr, Instant, Parsed};

const ENDS: [&str; 3] = ["10.0.0.2", "198.51.100.10", "203.0.113.1"];
const ENDS6: [&str; 3] = ["fd00::2", "2001:db8::10", "2001:db8:1::1"];

const HELPERS: [Helper; 6] =
    [Helper::Ftp, Helper::Irc, Helper::Tftp, Helper::Amanda, Helper::Pptp, Helper::Sip];

// Helper, family, translation and, where a helper reads both, protocol; then texts, each behind a byte that says whose it is.
fuzz_target!(|data: &[u8]| {
    let [kind, rest @ ..] = data else { return };
    let Some(&helper) = HELPERS.get(usize::from(kind & 7)) else { return };
    let ends = if kind & 8 == 0 { ENDS } else { ENDS6 }.map(|a| a.parse::<Addr>().unwrap());
    let outside = if kind & 16 == 0 { ends[2] } else { ends[0] };
    let datagrams = match helper {
        Helper::Sip => kind & 32 == 0,
        _ => matches!(helper, Helper::Tftp | Helper::Amanda),
    };
    let settings = Settings { expect_max: 16, ..Settings::default() };
    let mut table = Conntrack::new(settings, [1, 2]);
    let now = Instant::from_secs(1000);
    let template = Template { helper: Some(helper), ..Template::default() };
    let mut pass = |up: bool, flags: u8, seq: u32, ack: u32, text: &[u8]| {
        let (src, dst) = if up { (ends[0], ends[1]) } else { (ends[1], outside) };
        let (sport, dport) = if up { (4000, 21) } else { (21, 4000) };
        let fields = Tcp { sport, dport, seq, ack, flags, window: 60_000, options: &[] };
        let mut room = match datagrams {
            true => builder::udp(Ip::new(src, dst, 17), sport, dport, text),
            false => builder::tcp(Ip::new(src, dst, 6), fields, text),
        };
        let mut packet = Parsed::parse(&room).unwrap();
        let mut tracked = table.track_as(&template, &packet, &room, true, now);
        let range = Range { addrs: Some((outside, outside)), ..Range::default() };
        for (manip, range) in [(Manip::Destination, None), (Manip::Source, Some(range))] {
            let _ = table.set_nat(&mut tracked, manip, range.as_ref(), now, &mut || 5);
            let _ = table.translate(&tracked, manip, &mut packet, &mut room, Field::Complete);
        }
        if table.confirm(&mut tracked, now).is_err() {
            return;
        }
        room.resize(room.len() + HELP_ROOM, 0);
        if table.help(&tracked, &mut packet, &mut room, Field::Complete, now).is_ok() {
            room.truncate(packet.len as usize);
            assert_eq!(Parsed::parse(&room), Ok(packet));
            let segment = packet.segment(&room);
            assert!(checksum::verify_transport(packet.src, packet.dst, packet.protocol, segment));
        }
        assert!(table.expectations().count() <= 16);
    };
    pass(true, SYN, 1000, 0, b"");
    pass(false, SYN | ACK, 5000, 1001, b"");
    pass(true, ACK, 1001, 5001, b"\n");
    pass(false, ACK, 5001, 1002, b"\n");
    let (mut seq, mut ack) = (1002u32, 5002u32);
    for part in rest.split(|b| *b == 0xff).take(16) {
        let [whose, text @ ..] = part else { continue };
        let text = &text[..text.len().min(1400)];
        if whose & 1 == 0 {
            pass(true, ACK, seq, ack, text);
            seq += text.len() as u32;
        } else {
            pass(false, ACK, ack, seq, text);
            ack += text.len() as u32;
        }
    }
});
