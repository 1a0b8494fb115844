//! IRC's DCC: a client offers another one a file or a chat by its own address and port, as in
//! `PRIVMSG nick :\x01DCC SEND file 3232235778 1025 100\x01`.

use tidegate_packet::{Addr, protocol};

use super::text::{begins_with, decimal, find};
use super::{HelpDrop, Reading};
use crate::conn::Direction;

const OFFERS: [&[u8]; 5] = [b"SEND ", b"CHAT ", b"MOVE ", b"TSEND ", b"SCHAT "];

/// An offer: address and port, and where they stand.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) addr: Addr,
    pub(super) port: u16,
    pub(super) at: usize,
    pub(super) len: usize,
}

/// The offer in a message, if it is one.
pub(super) fn offer(payload: &[u8]) -> Option<Offer> {
    let start = payload.iter().position(|b| !matches!(b, b' ' | b'\n'))?;
    if !begins_with(&payload[start..], b"PRIVMSG ") {
        return None;
    }
    // The text begins behind the first " :", and only there may the command stand.
    let text = start + find(&payload[start..], b" :")? + 2;
    const COMMAND: &[u8] = b"\x01DCC ";
    let rest = payload.get(text..)?.strip_prefix(COMMAND)?;
    let kind = OFFERS.iter().find(|kind| rest.starts_with(kind))?;
    let argument = text + COMMAND.len() + kind.len();
    let line = &payload[argument..];
    let line = &line[..line.iter().position(|b| *b == b'\n')?];
    // The file's name, then address and port.
    let at = line.iter().position(|b| *b == b' ')? + 1;
    let (addr, digits) = decimal(&line[at..])?;
    let blanks = line[at + digits..].iter().take_while(|b| **b == b' ').count();
    let port_at = at + digits + blanks;
    let (port, port_digits) = decimal(&line[port_at..])?;
    Some(Offer {
        addr: Addr::from_v4_bytes(addr.to_be_bytes()),
        port: u16::try_from(port).ok().filter(|p| *p != 0 && blanks > 0)?,
        at: argument + at,
        len: port_at + port_digits - at,
    })
}

pub(super) fn read(reading: &mut Reading<'_>) -> Result<(), HelpDrop> {
    if reading.direction == Direction::Reply || !reading.is_established() {
        return Ok(());
    }
    let Some(offer) = offer(reading.payload()) else { return Ok(()) };
    let (original, reply) = (reading.tuple(Direction::Original), reading.tuple(Direction::Reply));
    // Only for oneself: by the inside or the outside address.
    if offer.addr != original.src && offer.addr != reply.dst {
        return Ok(());
    }
    let mut expectation = reading.expectation(reply.src, reply.dst, protocol::TCP, offer.port);
    // Whoever takes the offer is somewhere else than the server.
    expectation.any_source = true;
    if !reading.is_translated() {
        return reading.expect(expectation).map_err(|_| HelpDrop::Expect);
    }
    let port = reading.expect_at_a_free_port(expectation, Direction::Reply)?;
    let text = format!("{} {port}", reply.dst.v4_u32());
    reading.replace(offer.at, offer.len, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers() {
        let rows = [
            (
                "PRIVMSG bob :\x01DCC SEND a.txt 167772162 1025 99\x01\r\n",
                "10.0.0.2 1025 `167772162 1025`",
            ),
            (
                "privmsg bob :\x01DCC CHAT chat 167772162 1025\x01\n",
                "10.0.0.2 1025 `167772162 1025`",
            ),
            (" \nPRIVMSG b :\x01DCC SCHAT chat 167772162  7\x01\n", "10.0.0.2 7 `167772162  7`"),
            ("PRIVMSG bob :\x01DCC SEND a.txt 167772162 1025 99\x01", "-"),
            ("PRIVMSG bob :\x01DCC RESUME a.txt 1025 99\x01\n", "-"),
            ("PRIVMSG bob :hello \x01DCC SEND a 1 2\x01\n", "-"),
            ("PRIVMSG bob :\x01DCC SEND a 99999999999 2\x01\n", "-"),
            ("PRIVMSG bob :\x01DCC SEND a 1 0\x01\n", "-"),
            ("PRIVMSG bob :\x01DCC SEND a 1 66666\x01\n", "-"),
            ("NOTICE bob :\x01DCC SEND a 1 2\x01\n", "-"),
            ("PRIVMSG", "-"),
            ("", "-"),
        ];
        for (text, want) in rows {
            let got = offer(text.as_bytes()).map_or("-".into(), |o| {
                format!("{} {} `{}`", o.addr, o.port, &text[o.at..o.at + o.len])
            });
            assert_eq!(got, want, "{text:?}");
        }
    }
}
