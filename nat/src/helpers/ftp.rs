//! FTP (RFC 959, RFC 2428): `PORT` and `EPRT` of clients, the answers to `PASV` and `EPSV` of servers.
//!
//! Commands are looked for at the beginning of a segment, and only if the segment begins a line: so
//! no text inside of a file name or a long answer is taken for one. Where the lines of each side end
//! is remembered for that.

use std::fmt::Write as _;

use tidegate_packet::{Addr, protocol};

use super::text::{self, begins_with, decimal, numbers};
use super::{HelpDrop, Memory, Reading};
use crate::conn::Direction;
use crate::expect::Refused;
use crate::tcp_window::{after, before};

/// Where lines have ended last, for both directions: sequence numbers as their senders count.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lines([LineEnds; 2]);

#[derive(Clone, Debug, Default)]
struct LineEnds {
    ends: [u32; 2],
    known: u8,
}

impl LineEnds {
    fn has(&self, seq: u32) -> bool {
        self.ends[..usize::from(self.known)].contains(&seq)
    }

    fn note(&mut self, seq: u32) {
        if self.has(seq) {
            return;
        }
        if let Some(free) = self.ends.get_mut(usize::from(self.known)) {
            *free = seq;
            self.known += 1;
            return;
        }
        let oldest = usize::from(!before(self.ends[0], self.ends[1]));
        if after(seq, self.ends[oldest]) {
            self.ends[oldest] = seq;
        }
    }
}

/// The forms in which an address is announced.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Port,
    Eprt,
    Pasv,
    Epsv,
}

/// An announced address.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct Announced {
    pub(super) form: Form,
    /// Absent in an answer to `EPSV`.
    pub(super) addr: Option<Addr>,
    pub(super) port: u16,
    /// Where address and port stand.
    pub(super) at: usize,
    pub(super) len: usize,
}

/// What a line announces.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    Nothing,
    /// It is about an address, and ends before that can be read.
    Unreadable,
    Announces(Announced),
}

const COMMANDS: [(&[u8], Form); 2] = [(b"PORT", Form::Port), (b"EPRT", Form::Eprt)];
const ANSWERS: [(&[u8], Form); 2] = [(b"227 ", Form::Pasv), (b"229 ", Form::Epsv)];

/// Reads the payload of a segment that begins a line. `v4` is the connection's family.
pub(super) fn line(payload: &[u8], direction: Direction, v4: bool) -> Line {
    let words = match direction {
        Direction::Original => COMMANDS,
        Direction::Reply => ANSWERS,
    };
    for (word, form) in words {
        if payload.len() <= word.len() {
            // A command may have been cut in two, and the second half would go unseen.
            if begins_with(word, payload) {
                return Line::Unreadable;
            }
        } else if begins_with(payload, word) {
            return match parse(payload, word.len(), form, v4) {
                Some(announced) => Line::Announces(announced),
                None => Line::Unreadable,
            };
        }
    }
    Line::Nothing
}

fn parse(payload: &[u8], behind: usize, form: Form, v4: bool) -> Option<Announced> {
    let skip_to = |byte: u8| {
        let at = payload[behind..].iter().position(|b| *b == byte)? + behind + 1;
        (at < payload.len()).then_some(at)
    };
    let at = match form {
        Form::Port | Form::Eprt => skip_to(b' ')?,
        Form::Epsv => skip_to(b'(')?,
        // RFC 1123 section 4.1.2.6: the numbers may stand anywhere, with or without parentheses.
        Form::Pasv => payload[behind..].iter().position(u8::is_ascii_digit)? + behind,
    };
    let rest = &payload[at..];
    let (addr, port, len) = match form {
        Form::Port => six(rest, Some(b'\r'))?,
        Form::Pasv => six(rest, None)?,
        Form::Eprt => extended(rest, v4)?,
        Form::Epsv => {
            let (port, len) = extended_port(rest, 3, delimiters(rest, [0, 1, 2])?)?;
            (None, port, len)
        }
    };
    Some(Announced { form, addr, port, at, len })
}

/// RFC 959: four bytes of an address and two of a port.
fn six(text: &[u8], end: Option<u8>) -> Option<(Option<Addr>, u16, usize)> {
    let (n, len) = numbers::<6>(text, b',', end)?;
    let (high, low) = (u8::try_from(n[4]).ok()?, u8::try_from(n[5]).ok()?);
    Some((Some(text::v4(&n[..4])?), u16::from_be_bytes([high, low]), len))
}

/// RFC 2428 section 2: `|1|132.235.1.2|6275|`, with any delimiter.
fn extended(text: &[u8], v4: bool) -> Option<(Option<Addr>, u16, usize)> {
    let delimiter = delimiters(text, [0, 2, 2])?;
    if text[1] != if v4 { b'1' } else { b'2' } {
        return None;
    }
    let (addr, len) = text::address(&text[3..], v4)?;
    if text.get(3 + len) != Some(&delimiter) {
        return None;
    }
    let (port, end) = extended_port(text, 3 + len + 1, delimiter)?;
    Some((Some(addr), port, end))
}

/// The byte that stands at all these places and may be a delimiter.
fn delimiters(text: &[u8], places: [usize; 3]) -> Option<u8> {
    let delimiter = *text.first()?;
    let fits = text.len() > 3 && delimiter.is_ascii_graphic() && !delimiter.is_ascii_digit();
    (fits && places.iter().all(|at| text[*at] == delimiter)).then_some(delimiter)
}

/// A port with a delimiter behind it, and where that ends.
fn extended_port(text: &[u8], at: usize, delimiter: u8) -> Option<(u16, usize)> {
    let (port, digits) = decimal(text.get(at..)?)?;
    let port = u16::try_from(port).ok().filter(|p| *p != 0)?;
    (text.get(at + digits) == Some(&delimiter)).then_some((port, at + digits + 1))
}

/// How an address is announced.
fn announcement(form: Form, addr: Addr, port: u16) -> String {
    let mut out = String::new();
    // Writing to a string can't fail.
    let _ = match form {
        Form::Port | Form::Pasv => {
            let [a, b, c, d] = addr.v4_bytes();
            write!(out, "{a},{b},{c},{d},{},{}", port >> 8, port & 0xff)
        }
        Form::Eprt if addr.is_v4() => write!(out, "|1|{addr}|{port}|"),
        Form::Eprt => {
            // Every group in full, as netfilter writes it.
            let groups: Vec<String> =
                addr.octets().chunks(2).map(|g| format!("{:02x}{:02x}", g[0], g[1])).collect();
            write!(out, "|2|{}|{port}|", groups.join(":"))
        }
        Form::Epsv => write!(out, "|||{port}|"),
    };
    out
}

pub(super) fn read(reading: &mut Reading<'_>) -> Result<(), HelpDrop> {
    if !reading.is_established() || reading.payload().is_empty() {
        return Ok(());
    }
    let direction = reading.direction;
    let (seq, payload) = (reading.seq(), reading.payload());
    let ends_a_line = payload.ends_with(b"\n");
    let end = seq.wrapping_add(payload.len() as u32);
    let Some(Memory::Ftp(lines)) = reading.memory() else { return Ok(()) };
    let result = match lines.0[direction.index()].has(seq) {
        true => act(reading),
        false => Ok(()),
    };
    if result.is_ok()
        && ends_a_line
        && let Some(Memory::Ftp(lines)) = reading.memory()
    {
        lines.0[direction.index()].note(end);
    }
    result
}

fn act(reading: &mut Reading<'_>) -> Result<(), HelpDrop> {
    let direction = reading.direction;
    let (this, other) = (reading.tuple(direction), reading.tuple(direction.other()));
    let announced = match line(reading.payload(), direction, this.src.is_v4()) {
        Line::Nothing => return Ok(()),
        Line::Unreadable => return Err(HelpDrop::Message),
        Line::Announces(announced) => announced,
    };
    // Where the connection will go to as it arrives here.
    let mut dst = other.dst;
    if let Some(addr) = announced.addr.filter(|addr| *addr != this.src) {
        // Somebody announces another's address: a bounce attack (RFC 2577 section 3), or a server
        // that hands over to another. Let it pass as text, and expect nothing.
        if !reading.table.settings.ftp_loose {
            return Ok(());
        }
        dst = addr;
    }
    let expectation = reading.expectation(other.src, dst, protocol::TCP, announced.port);
    if !reading.is_translated() {
        return match reading.expect(expectation) {
            Ok(()) => Ok(()),
            Err(Refused::Clash | Refused::Full | Refused::Already) => Err(HelpDrop::Expect),
        };
    }
    let expectation = crate::expect::Expectation {
        tuple: crate::Tuple { dst: other.dst, ..expectation.tuple },
        ..expectation
    };
    let port = reading.expect_at_a_free_port(expectation, direction.other())?;
    let text = announcement(announced.form, other.dst, port);
    let replaced = reading.replace(announced.at, announced.len, text.as_bytes());
    if replaced.is_err() {
        reading.table.unexpect_if(reading.id, |e| e.tuple.dport == port);
    }
    replaced
}

#[cfg(test)]
mod tests {
    use super::*;
    use Direction::{Original, Reply};

    fn shown(payload: &str, direction: Direction, v4: bool) -> String {
        match line(payload.as_bytes(), direction, v4) {
            Line::Nothing => "-".into(),
            Line::Unreadable => "?".into(),
            Line::Announces(a) => {
                let addr = a.addr.map_or("*".into(), |a| a.to_string());
                format!("{addr} {} `{}`", a.port, &payload[a.at..a.at + a.len])
            }
        }
    }

    #[test]
    fn announcements() {
        let rows = [
            ("PORT 10,0,0,2,4,1\r\n", Original, true, "10.0.0.2 1025 `10,0,0,2,4,1`"),
            ("port 10,0,0,2,4,1\r\n", Original, true, "10.0.0.2 1025 `10,0,0,2,4,1`"),
            ("PORT 10,0,0,2,4,1\n", Original, true, "?"),
            ("PORT 10,0,0,2,4\r\n", Original, true, "?"),
            ("PORT 10,0,0,256,4,1\r\n", Original, true, "?"),
            ("PORT 10,0,0,2,4,99999999999\r\n", Original, true, "?"),
            ("PORT", Original, true, "?"),
            ("PO", Original, true, "?"),
            ("P", Original, true, "?"),
            ("PASV\r\n", Original, true, "-"),
            ("EPRT |1|10.0.0.2|6275|\r\n", Original, true, "10.0.0.2 6275 `|1|10.0.0.2|6275|`"),
            ("EPRT !1!10.0.0.2!6275!\r\n", Original, true, "10.0.0.2 6275 `!1!10.0.0.2!6275!`"),
            ("EPRT |2|10.0.0.2|6275|\r\n", Original, true, "?"),
            ("EPRT |2|fd00::2|6275|\r\n", Original, false, "fd00::2 6275 `|2|fd00::2|6275|`"),
            ("EPRT |1|10.0.0.2|0|\r\n", Original, true, "?"),
            ("EPRT |1|10.0.0.2|66000|\r\n", Original, true, "?"),
            (
                "227 Entering Passive Mode (10,0,0,2,4,1).\r\n",
                Reply,
                true,
                "10.0.0.2 1025 `10,0,0,2,4,1`",
            ),
            ("227 =10,0,0,2,4,1\r\n", Reply, true, "10.0.0.2 1025 `10,0,0,2,4,1`"),
            ("227 Entering\r\n", Reply, true, "?"),
            (
                "229 Entering Extended Passive Mode (|||6446|)\r\n",
                Reply,
                false,
                "* 6446 `|||6446|`",
            ),
            ("229 x (|||6446)\r\n", Reply, true, "?"),
            ("229 x |||6446|\r\n", Reply, true, "?"),
            ("230 hello\r\n", Reply, true, "-"),
            ("PORT 10,0,0,2,4,1\r\n", Reply, true, "-"),
        ];
        for (payload, direction, v4, want) in rows {
            assert_eq!(shown(payload, direction, v4), want, "{payload:?}");
        }
    }

    #[test]
    fn announced_anew() {
        let v4: Addr = "203.0.113.1".parse().unwrap();
        let v6: Addr = "2001:db8::1".parse().unwrap();
        for (form, addr, want) in [
            (Form::Port, v4, "203,0,113,1,4,2"),
            (Form::Pasv, v4, "203,0,113,1,4,2"),
            (Form::Eprt, v4, "|1|203.0.113.1|1026|"),
            (Form::Eprt, v6, "|2|2001:0db8:0000:0000:0000:0000:0000:0001|1026|"),
            (Form::Epsv, v6, "|||1026|"),
        ] {
            assert_eq!(announcement(form, addr, 1026), want);
        }
    }

    #[test]
    fn line_ends_are_remembered() {
        let mut ends = LineEnds::default();
        assert!(!ends.has(0));
        for seq in [10, 20, 20, 30] {
            ends.note(seq);
        }
        assert_eq!([10, 20, 30].map(|s| ends.has(s)), [false, true, true]);
        ends.note(5);
        assert!(ends.has(20) && ends.has(30));
    }
}
