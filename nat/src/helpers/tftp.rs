//! TFTP (RFC 1350): a request is answered from another port of the server.

use tidegate_packet::protocol;

use super::{HelpDrop, Reading};
use crate::conn::Direction;
use crate::expect::Follow;

const READ: u16 = 1;
const WRITE: u16 = 2;

pub(super) fn read(reading: &mut Reading<'_>) -> Result<(), HelpDrop> {
    let [high, low, ..] = *reading.payload() else { return Ok(()) };
    if !matches!(u16::from_be_bytes([high, low]), READ | WRITE) {
        return Ok(());
    }
    let (original, reply) = (reading.tuple(Direction::Original), reading.tuple(Direction::Reply));
    let mut expectation = reading.expectation(reply.src, reply.dst, protocol::UDP, reply.dport);
    if reading.is_translated() {
        expectation.follow = Follow::Master { direction: Direction::Reply, port: original.sport };
    }
    reading.expect(expectation).map_err(|_| HelpDrop::Expect)
}
