//! Helpers in the table: payload in, payload and expectations out, and what bounds them.

mod common;

use std::time::Duration;

use common::{addr, ip, proptest, to};
use proptest::prelude::*;
use tidegate_nat::{Conntrack, HELP_ROOM, Helper, Manip, Settings, State, Template, Tracked};
use tidegate_packet::builder::{self, Tcp};
use tidegate_packet::checksum::{self, Field};
use tidegate_packet::tcp::{ACK, Header, RST, SYN};
use tidegate_packet::{Instant, Parsed};

const CLIENT: &str = "10.0.0.2";
const SERVER: &str = "198.51.100.10";
const OUTSIDE: &str = "203.0.113.1";

struct Gateway {
    table: Conntrack,
    now: Instant,
    masquerade: bool,
    helper: Helper,
}

impl Gateway {
    fn new(helper: Helper, masquerade: bool, settings: Settings) -> Self {
        let table = Conntrack::new(settings, [7, 8]);
        Self { table, now: Instant::from_secs(1000), masquerade, helper }
    }

    /// Sends a packet through; `helped` says that the rule covers it.
    fn pass(&mut self, bytes: &[u8], helped: bool) -> Result<(Vec<u8>, Tracked), String> {
        let mut room = bytes.to_vec();
        let mut packet = Parsed::parse(&room).map_err(|e| e.to_string())?;
        let helper = helped.then_some(self.helper);
        let template = Template { helper, ..Template::default() };
        let mut tracked = self.table.track_as(&template, None, &packet, &room, true, self.now);
        for (manip, range) in [(Manip::Destination, None), (Manip::Source, Some(to(OUTSIDE)))] {
            let range = range.filter(|_| self.masquerade && packet.src == addr(CLIENT));
            if self.table.needs_nat(&tracked, manip) {
                self.table
                    .set_nat(&mut tracked, manip, range.as_ref(), self.now, &mut || 5)
                    .map_err(|e| e.to_string())?;
            }
            self.table
                .translate(&tracked, manip, &mut packet, &mut room, Field::Complete)
                .map_err(|e| e.to_string())?;
        }
        self.table.confirm(&mut tracked, self.now).map_err(|e| e.to_string())?;
        room.resize(room.len() + HELP_ROOM, 0);
        self.table
            .help(&tracked, &mut packet, &mut room, Field::Complete, self.now)
            .map_err(|e| e.to_string())?;
        room.truncate(packet.len as usize);
        assert_eq!(Parsed::parse(&room), Ok(packet), "the headers are in step with the bytes");
        let segment = packet.segment(&room);
        assert!(checksum::verify_transport(packet.src, packet.dst, packet.protocol, segment));
        Ok((room, tracked))
    }

    /// The same for a packet of a protocol without a checksum.
    fn pass_unsummed(&mut self, bytes: &[u8]) -> Result<State, String> {
        let mut bytes = bytes.to_vec();
        let mut packet = Parsed::parse(&bytes).map_err(|e| e.to_string())?;
        let mut tracked = self.table.track(&packet, &bytes, true, self.now);
        for manip in [Manip::Destination, Manip::Source] {
            let _ = self.table.set_nat(&mut tracked, manip, None, self.now, &mut || 5);
            self.table
                .translate(&tracked, manip, &mut packet, &mut bytes, Field::Complete)
                .map_err(|e| e.to_string())?;
        }
        self.table.confirm(&mut tracked, self.now).map_err(|e| e.to_string())?;
        Ok(tracked.state())
    }

    fn up(&mut self, flags: u8, seq: u32, text: &[u8]) -> Result<String, String> {
        let fields =
            Tcp { sport: 4000, dport: 21, seq, ack: 5001, flags, window: 8000, options: &[] };
        let packet = builder::tcp(ip(CLIENT, SERVER, 6), fields, text);
        self.pass(&packet, true).map(|(bytes, _)| payload(&bytes))
    }

    fn down(&mut self, flags: u8, ack: u32, text: &[u8]) -> Result<String, String> {
        let to = if self.masquerade { OUTSIDE } else { CLIENT };
        let fields =
            Tcp { sport: 21, dport: 4000, seq: 5001, ack, flags, window: 8000, options: &[] };
        let fields = Tcp { seq: if flags & SYN != 0 { 5000 } else { 5001 }, ..fields };
        let packet = builder::tcp(ip(SERVER, to, 6), fields, text);
        self.pass(&packet, true).map(|(bytes, _)| payload(&bytes))
    }

    /// A handshake and the first command.
    fn log_in(&mut self) {
        self.up(SYN, 1000, b"").unwrap();
        self.down(SYN | ACK, 1001, b"").unwrap();
        self.up(ACK, 1001, b"").unwrap();
        self.up(ACK, 1001, b"USER\r\n").unwrap();
        self.down(ACK, 1007, b"").unwrap();
    }

    /// How a SYN from the server's data port is tracked, and where it goes.
    fn data(&mut self, port: u16) -> (State, String) {
        let to = if self.masquerade { OUTSIDE } else { CLIENT };
        let fields =
            Tcp { sport: 20, dport: port, seq: 1, flags: SYN, window: 8000, ..Tcp::default() };
        let packet = builder::tcp(ip(SERVER, to, 6), fields, b"");
        let (bytes, tracked) = self.pass(&packet, false).unwrap();
        (tracked.state(), common::show(&bytes))
    }
}

fn payload(bytes: &[u8]) -> String {
    let packet = Parsed::parse(bytes).unwrap();
    let segment = packet.segment(bytes);
    let at = Header::new_checked(segment).map_or(8, |h| h.header_len());
    String::from_utf8_lossy(&segment[at..]).into_owned()
}

const PORT: &[u8] = b"PORT 10,0,0,2,4,5\r\n";

#[test]
fn the_announced_connection_is_related_and_translated() {
    let mut gateway = Gateway::new(Helper::Ftp, true, Settings::default());
    gateway.log_in();
    assert_eq!(gateway.up(ACK, 1007, PORT).unwrap(), "PORT 203,0,113,1,4,5\r\n");
    assert_eq!(gateway.table.expectations().count(), 1);
    let (state, way) = gateway.data(1029);
    assert_eq!((state, way.as_str()), (State::Related, "198.51.100.10:20 > 10.0.0.2:1029"));
    assert_eq!(gateway.table.expectations().count(), 0);
    let child = gateway.table.iter().find(|(_, c)| c.original().sport == 20).unwrap().1;
    assert_eq!(child.master_helper(), Some(Helper::Ftp));
    assert_eq!(gateway.table.get(child.master().unwrap()).unwrap().helper(), Some(Helper::Ftp));
    // The three bytes more are taken back from what the server acknowledges.
    assert_eq!(gateway.table.iter().count(), 2);
}

#[test]
fn expectations_end_in_time_with_their_master_and_when_replaced() {
    let mut gateway = Gateway::new(Helper::Ftp, false, Settings::default());
    gateway.log_in();
    gateway.up(ACK, 1007, PORT).unwrap();
    let end = gateway.table.next_expiry().unwrap();
    gateway.now = gateway.now + Duration::from_secs(299);
    gateway.table.expire(gateway.now);
    assert_eq!(gateway.table.expectations().count(), 1);
    gateway.now = gateway.now + Duration::from_secs(2);
    assert!(end <= gateway.now);
    gateway.table.expire(gateway.now);
    assert_eq!(gateway.table.expectations().count(), 0);
    assert_eq!(gateway.data(1029).0, State::New);

    let mut gateway = Gateway::new(Helper::Ftp, false, Settings::default());
    gateway.log_in();
    gateway.up(ACK, 1007, PORT).unwrap();
    gateway.down(ACK, 1026, b"").unwrap();
    gateway.up(ACK, 1026, b"PORT 10,0,0,2,4,6\r\n").unwrap();
    let ports: Vec<u16> = gateway.table.expectations().map(|e| e.tuple.dport).collect();
    assert_eq!(ports, [1030]);
    gateway.table.flush();
    assert_eq!(gateway.table.expectations().count(), 0);
}

#[test]
fn the_table_of_expectations_is_bounded() {
    let settings = Settings { expect_max: 1, ..Settings::default() };
    let mut gateway = Gateway::new(Helper::Tftp, false, settings);
    let request = |port| builder::udp(ip(CLIENT, SERVER, 17), port, 69, b"\x00\x01f\0octet\0");
    gateway.pass(&request(1025), true).unwrap();
    assert!(gateway.pass(&request(1026), true).is_err());
    // The same client may ask again.
    gateway.pass(&request(1025), true).unwrap();
    assert_eq!(gateway.table.expectations().count(), 1);
}

#[test]
fn without_a_rule_nothing_is_read_and_nothing_is_kept() {
    let mut gateway = Gateway::new(Helper::Tftp, true, Settings::default());
    let request = builder::udp(ip(CLIENT, SERVER, 17), 1025, 69, b"\x00\x01f\0octet\0");
    gateway.pass(&request, false).unwrap();
    assert_eq!(gateway.table.expectations().count(), 0);
    // A helper for the other transport protocol doesn't attach.
    let mut gateway = Gateway::new(Helper::Ftp, true, Settings::default());
    gateway.pass(&request, true).unwrap();
    assert_eq!(gateway.table.iter().next().unwrap().1.helper(), None);
}

#[test]
fn zones_are_apart() {
    let mut table = Conntrack::new(Settings::default(), [1, 2]);
    let now = Instant::from_secs(5);
    let bytes = builder::udp(ip(CLIENT, SERVER, 17), 1, 2, b"x");
    let packet = Parsed::parse(&bytes).unwrap();
    let answer = builder::udp(ip(SERVER, CLIENT, 17), 2, 1, b"x");
    let answered = Parsed::parse(&answer).unwrap();
    for zones in [[0, 0], [3, 3], [3, 0], [0, 4]] {
        let template = Template { zones, ..Template::default() };
        let mut tracked = table.track_as(&template, None, &packet, &bytes, true, now);
        assert_eq!(tracked.state(), State::New, "{zones:?}");
        // The direction of a packet without a connection is the original one, and its zone alone
        // decides whether the connection is there already.
        assert_eq!(tracked.id().is_some(), zones == [3, 0] || zones == [0, 4], "{zones:?}");
        table.confirm(&mut tracked, now).unwrap();
    }
    for (zones, want) in
        [([3, 3], State::Established), ([0, 0], State::Established), ([5, 5], State::New)]
    {
        let template = Template { zones, ..Template::default() };
        assert_eq!(table.track_as(&template, None, &answered, &answer, true, now).state(), want);
    }
    assert!(table.find_in(&table.iter().next().unwrap().1.original(), [3, 3], now).is_some());
}

#[test]
fn a_reset_needs_no_helper() {
    let mut gateway = Gateway::new(Helper::Ftp, true, Settings::default());
    gateway.log_in();
    gateway.up(ACK, 1007, PORT).unwrap();
    assert_eq!(gateway.up(RST, 1026, b"").unwrap(), "");
}

proptest! {
    #![proptest_config(proptest(400))]

    /// Whatever a conversation says: no panic, headers and checksums stay right, and there are never
    /// more expectations than the helper's policy allows.
    #[test]
    fn any_text(
        which in 0usize..3,
        texts in proptest::collection::vec(
            ("(PORT |EPRT |227 |229 |PRIVMSG a :\x01DCC SEND f |CONNECT DATA |\\PC{0,4})[0-9,|(. :)]{0,30}(\r\n|\n| MESG 7\n)?", any::<bool>()),
            1..8,
        ),
    ) {
        let helper = [Helper::Ftp, Helper::Irc, Helper::Ftp][which];
        let mut gateway = Gateway::new(helper, which != 2, Settings::default());
        gateway.log_in();
        let mut seq = 1007u32;
        for (text, up) in texts {
            let bytes = text.as_bytes();
            if up {
                let _ = gateway.up(ACK, seq, bytes);
                seq += bytes.len() as u32;
            } else {
                let _ = gateway.down(ACK, seq, bytes);
            }
            prop_assert!(gateway.table.expectations().count() <= 8);
        }
    }

    /// The same for SIP: messages of lines that make sense one by one, over UDP and TCP.
    #[test]
    fn any_call(
        masquerade in any::<bool>(),
        datagrams in any::<bool>(),
        messages in proptest::collection::vec(
            (0..FIRST.len(), proptest::collection::vec(0..LINES.len(), 0..20), 0usize..40, any::<bool>()),
            1..8,
        ),
    ) {
        let mut gateway = Gateway::new(Helper::Sip, masquerade, Settings::default());
        gateway.log_in();
        let mut seq = 1007u32;
        for (first, lines, cut, up) in messages {
            let mut text = FIRST[first].to_owned();
            lines.into_iter().for_each(|line| text.push_str(LINES[line]));
            text.truncate(text.len().saturating_sub(cut.saturating_sub(30)));
            let bytes = text.as_bytes();
            if datagrams {
                let (from, to, sport, dport) = match up {
                    true => (CLIENT, SERVER, 4000, 21),
                    false => (SERVER, if masquerade { OUTSIDE } else { CLIENT }, 21, 4000),
                };
                let packet = builder::udp(ip(from, to, 17), sport, dport, bytes);
                let _ = gateway.pass(&packet, true);
            } else if up {
                let _ = gateway.up(ACK, seq, bytes);
                seq += bytes.len() as u32;
            } else {
                let _ = gateway.down(ACK, seq, bytes);
            }
            // Of two flows: a registration, and audio, video, images each.
            prop_assert!(gateway.table.expectations().count() <= 2 * 11);
        }
    }

    /// The same for PPTP, with numbers out of few.
    #[test]
    fn any_control(
        masquerade in any::<bool>(),
        messages in proptest::collection::vec(
            (0u8..17, proptest::collection::vec(0u8..4, 8), 0usize..210, any::<bool>()),
            1..24,
        ),
    ) {
        let mut gateway = Gateway::new(Helper::Pptp, masquerade, Settings::default());
        gateway.log_in();
        let mut seq = 1007u32;
        for (kind, numbers, len, up) in messages {
            let mut bytes = vec![0, 0, 0, 1, 0x1a, 0x2b, 0x3c, 0x4d, 0, kind, 0, 0];
            bytes.extend(numbers);
            bytes.resize(12 + len.max(156), 0);
            bytes.truncate(bytes.len() - usize::from(len < 9) * 100);
            if up {
                let _ = gateway.up(ACK, seq, &bytes);
                seq += bytes.len() as u32;
            } else {
                let _ = gateway.down(ACK, seq, &bytes);
            }
            let call = [0x30, 1, 0x88, 0x0b, 0, 0, 0, kind & 3, 0, 0, 0, 1];
            let to = if masquerade { OUTSIDE } else { CLIENT };
            let _ = gateway.pass_unsummed(&builder::ip(ip(SERVER, to, 47), &call));
            let _ = gateway.pass_unsummed(&builder::ip(ip(CLIENT, SERVER, 47), &call));
            prop_assert!(gateway.table.expectations().count() <= 2);
        }
    }
}

const FIRST: [&str; 9] = [
    "INVITE sip:bob@198.51.100.10:21 SIP/2.0\r\n",
    "REGISTER sip:198.51.100.10:1021 SIP/2.0\r\n",
    "BYE sip:4000@203.0.113.1:4000 SIP/2.0\r\n",
    "ACK sip:x SIP/2.0\r\n",
    "UPDATE sip: \n",
    "SIP/2.0 200 OK\r\n",
    "SIP/2.0 183 x\r",
    "SIP/2.0 486",
    "",
];

const LINES: [&str; 26] = [
    "Via: SIP/2.0/UDP 10.0.0.2:4000;branch=z;rport=21;maddr=10.0.0.2;received=198.51.100.10\r\n",
    "Via: SIP/2.0/TCP 10.0.0.2:4000\r\n",
    "v : SIP/2.0/UDP 203.0.113.1:4000;rport=4000;received=203.0.113.1\r\n",
    "Via: SIP/2.0/UDP 10.0.0.2:5062\r\n",
    "CSeq: 1 INVITE\r\n",
    "CSeq: 1 REGISTER\r\n",
    "CSeq: 99999999999999999999 UPDATE\n",
    "From: <sip:a@10.0.0.2:4000>;tag=1\r\n",
    "t:\r\n  <sip:b@203.0.113.1:4000>\r\n",
    "Contact: <sip:a@10.0.0.2:4000>;expires=60, <sip:a@10.0.0.2:4000>,\r\n <sip:203.0.113.1:4000>\r\n",
    "m: sip:10.0.0.2\r\n",
    "Contact: <sip:a@203.0.113.1:4000>;expires=0x7fffffff\r\n",
    "Contact: *\r\n",
    "Expires: 3600\r\n",
    "Expires: 0\r\n",
    "Content-Length: 100\r\n",
    "l:0\r\n",
    "\r\n",
    "v=0\r\n",
    "o=- 1 1 IN IP4 10.0.0.2\r\n",
    "c=IN IP4 10.0.0.2\r\n",
    "c=IN IP4 198.51.100.10",
    "m=audio 4000 RTP/AVP 0\r\n",
    "m=video 65535 RTP/AVP 31\r\n",
    "m=image 0 udptl t38\r\n",
    "m=audio 65534",
];
