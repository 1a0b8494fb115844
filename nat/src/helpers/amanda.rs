//! Amanda: a backup client's answer names the ports that the server is to connect to, as in
//! `CONNECT DATA 1025 MESG 1026 INDEX 1027`.

use std::time::Duration;

use tidegate_packet::protocol;

use super::text::{decimal, find};
use super::{HelpDrop, Reading};
use crate::conn::Direction;
use crate::expect::Refused;
use crate::slots::conn_of;

/// `master_timeout`: answers of a client that has to think first are slow.
const TIMEOUT: Duration = Duration::from_secs(300);
const STREAMS: [&[u8]; 4] = [b"DATA ", b"MESG ", b"INDEX ", b"STATE "];
/// What netfilter looks at.
const MOST_DIGITS: usize = 5;

/// The ports of an answer: the place and length of each number, and the port.
pub(super) fn ports(payload: &[u8]) -> impl Iterator<Item = (usize, usize, u16)> {
    let start = find(payload, b"CONNECT ").map_or(payload.len(), |at| at + b"CONNECT ".len());
    let end = find(&payload[start..], b"\n").map_or(start, |at| start + at);
    STREAMS.iter().filter_map(move |stream| {
        let at = start + find(&payload[start..end], stream)? + stream.len();
        let (port, digits) = decimal(&payload[at..end])?;
        let port = u16::try_from(port).ok().filter(|p| *p != 0)?;
        (digits <= MOST_DIGITS).then_some((at, digits, port))
    })
}

pub(super) fn read(reading: &mut Reading<'_>) -> Result<(), HelpDrop> {
    if reading.direction == Direction::Original {
        return Ok(());
    }
    let now = reading.now;
    if let Some(conn) = conn_of(&mut reading.table.slots, reading.id) {
        conn.refresh(TIMEOUT, now);
    }
    let original = reading.tuple(Direction::Original);
    for stream in 0..STREAMS.len() {
        // Earlier numbers may have grown: look anew for each.
        let found = ports(reading.payload()).nth(stream);
        let Some((at, digits, port)) = found else { break };
        let expectation = reading.expectation(original.src, original.dst, protocol::TCP, port);
        if reading.is_translated() {
            let port = reading.expect_at_a_free_port(expectation, Direction::Original)?;
            reading.replace(at, digits, port.to_string().as_bytes())?;
        } else if let Err(Refused::Clash | Refused::Full) = reading.expect(expectation) {
            return Err(HelpDrop::Expect);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_answers() {
        let text =
            "Amanda 2.6 REP HANDLE 000 SEQ 1\nCONNECT DATA 1025 MESG 1026 INDEX 1027\nOPTIONS ;\n";
        let got: Vec<_> =
            ports(text.as_bytes()).map(|(at, len, p)| (&text[at..at + len], p)).collect();
        assert_eq!(got, [("1025", 1025), ("1026", 1026), ("1027", 1027)]);
        for text in [
            "CONNECT DATA 1025",
            "DATA 1025\n",
            "CONNECT DATA 0\n",
            "CONNECT DATA 70000\n",
            "",
            "CONNECT ",
        ] {
            assert_eq!(ports(text.as_bytes()).count(), 0, "{text:?}");
        }
        assert_eq!(ports(b"CONNECT MESG 7\nDATA 8\n").count(), 1);
    }
}
