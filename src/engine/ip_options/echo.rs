//! The options of a question, turned round for the answer (RFC 1122 sections 3.2.2.6 and
//! 4.2.3.8; Linux's `ip_options_echo` and `ip_options_build`).

use super::super::Engine;
use super::{END, Options, PRESPECIFIED, address_at};
use tidegate_packet::{Addr, ipv4};

/// Options for an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    bytes: Vec<u8>,
    /// Where the answer's source address goes.
    addresses: Vec<usize>,
    /// Where the time goes, and the time.
    time: Option<(usize, [u8; 4])>,
    /// Where the destination goes, if there is a way to take: its first stop is the other.
    detour: Option<(usize, Addr)>,
}

impl Options {
    /// Turns the options of the packet with this header round: the record and the timestamp go
    /// on, the source route is taken backwards. `None`: they can't be, and no answer is sent.
    pub fn echo(
        &self,
        header: &[u8],
        time: u32,
        is_elsewhere: &dyn Fn(Addr) -> bool,
    ) -> Option<Reply> {
        let mut reply = Reply::default();
        if let Some(at) = self.record_route {
            reply.record_route(option_at(header, at)?, self.recorded)?;
        }
        if let Some(at) = self.timestamp {
            let option = option_at(header, at)?;
            reply.timestamp(option, self.stamped, time.to_be_bytes(), is_elsewhere)?;
        }
        if let Some(at) = self.source_route {
            reply.source_route(option_at(header, at)?, address_at(header, 12));
        }
        if let Some(at) = self.cipso {
            reply.bytes.extend_from_slice(option_at(header, at)?);
        }
        reply.bytes.resize(reply.bytes.len().next_multiple_of(4), END);
        Some(reply)
    }
}

fn option_at(header: &[u8], at: usize) -> Option<&[u8]> {
    header.get(at..at + usize::from(*header.get(at + 1)?))
}

impl Reply {
    fn record_route(&mut self, option: &[u8], recorded: bool) -> Option<()> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(option);
        let pointer = usize::from(option[2]);
        if recorded && pointer <= option.len() {
            if pointer + 3 > option.len() {
                return None;
            }
            self.bytes[start + 2] += 4;
            self.addresses.push(start + pointer - 1);
        }
        Some(())
    }

    fn timestamp(
        &mut self,
        option: &[u8],
        (address, time_wanted): (bool, bool),
        time: [u8; 4],
        is_elsewhere: &dyn Fn(Addr) -> bool,
    ) -> Option<()> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(option);
        let mut pointer = usize::from(option[2]);
        if pointer > option.len() {
            return Some(());
        }
        if address {
            if pointer + 3 > option.len() {
                return None;
            }
            self.addresses.push(start + pointer - 1);
            pointer += 4;
        }
        if time_wanted {
            if pointer + 3 > option.len() {
                return None;
            }
            if option[3] & 0x0f != PRESPECIFIED {
                self.time = Some((start + pointer - 1, time));
                pointer += 4;
            } else if pointer + 7 <= option.len() && !is_elsewhere(address_at(option, pointer - 1))
            {
                self.time = Some((start + pointer + 3, time));
                pointer += 8;
            }
        }
        self.bytes[start + 2] = pointer as u8;
        Some(())
    }

    /// The routers that the packet has passed, the last one first. `asker` ends the way and isn't
    /// named twice (RFC 1812 section 5.2.4.1).
    fn source_route(&mut self, option: &[u8], asker: Addr) {
        let passed = usize::from(option[2]).min(option.len() + 1).saturating_sub(4);
        let mut stops: Vec<Addr> =
            (1..=passed / 4).rev().map(|n| address_at(option, passed % 4 + 4 * n - 1)).collect();
        if stops.last() == Some(&asker) {
            stops.pop();
        }
        let Some(first) = stops.first().copied() else { return };
        let start = self.bytes.len();
        self.bytes.extend([option[0], (stops.len() * 4 + 3) as u8, 4]);
        for stop in &stops[1..] {
            self.bytes.extend(stop.v4_bytes());
        }
        self.detour = Some((start + 3 + 4 * (stops.len() - 1), first));
        self.bytes.extend([0; 4]);
    }

    /// Where the answer goes first, if not straight to who asked.
    pub fn first_stop(&self) -> Option<Addr> {
        self.detour.map(|(_, first)| first)
    }

    /// How many octets they take.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Puts the options into an answer that was built without.
    pub fn put_into(self, mut packet: Vec<u8>) -> Vec<u8> {
        let Self { mut bytes, addresses, time, detour } = self;
        // Options that come back have fitted into a header, so they fit again.
        if bytes.is_empty() || bytes.len() > 40 || packet.len() < ipv4::MIN_HEADER_LEN {
            return packet;
        }
        for at in addresses {
            bytes[at..at + 4].copy_from_slice(&packet[12..16]);
        }
        if let Some((at, time)) = time {
            bytes[at..at + 4].copy_from_slice(&time);
        }
        if let Some((at, first)) = detour {
            bytes[at..at + 4].copy_from_slice(&packet[16..20]);
            packet[16..20].copy_from_slice(&first.v4_bytes());
        }
        packet[0] = 0x40 | ((ipv4::MIN_HEADER_LEN + bytes.len()) / 4) as u8;
        let len = (packet.len() + bytes.len()) as u16;
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        packet.splice(ipv4::MIN_HEADER_LEN..ipv4::MIN_HEADER_LEN, bytes);
        ipv4::write_checksum(&mut packet);
        packet
    }
}

impl Engine {
    /// The options for the answer to a packet; none if it has none. `None`: no answer.
    pub(crate) fn turn_round(&self, options: Option<&Options>, packet: &[u8]) -> Option<Reply> {
        let Some(options) = options else { return Some(Reply::default()) };
        let time = self.milliseconds_since_midnight();
        options.echo(packet, time, &|addr| self.is_elsewhere(addr))
    }
}
