//! The addresses of a message's first line and headers, as a translation changes them.

use tidegate_packet::{Addr, protocol};

use super::super::{HelpDrop, Memory, Reading};
use super::Talk;
use super::text::{self, Found, Header, Uri};
use crate::conn::Direction;

/// An address as it stands in an URI or, without brackets, elsewhere.
pub(super) fn shown(addr: Addr, brackets: bool) -> String {
    if brackets && !addr.is_v4() { format!("[{addr}]") } else { addr.to_string() }
}

/// The same with a port.
pub(super) fn shown_with_port(addr: Addr, port: u16) -> String {
    format!("{}:{port}", shown(addr, true))
}

impl Talk<'_, '_> {
    /// What an end of this flow is on the other side of the translation; nothing for others and for
    /// one that stays.
    fn mapped(&mut self, addr: Addr, port: u16) -> Option<(Addr, u16)> {
        let (this, other) = (self.this, self.other);
        let new = if (addr, port) == (this.src, this.sport) {
            (other.dst, other.dport)
        } else if (addr, port) == (this.dst, this.dport) {
            let wanted = self.dialog().map_or(0, |dialog| dialog.answers_to);
            (other.src, if wanted == 0 { other.sport } else { wanted })
        } else {
            return None;
        };
        (new != (addr, port)).then_some(new)
    }

    fn map(&mut self, uri: Uri) {
        if let Some((addr, port)) = self.mapped(uri.addr, uri.port) {
            self.replace(uri.span, &shown_with_port(addr, port));
        }
    }

    fn map_header(&mut self, kind: Header) {
        if let Found::Is(uri) = text::uri(self.text(), kind, self.v4) {
            self.map(uri);
        }
    }

    /// The first line, the topmost `Via`, `Contact`s, `From` and `To`.
    pub(super) fn translate(&mut self) -> Result<(), HelpDrop> {
        let request = !super::begins_with(self.text(), b"SIP/2.0");
        if request && let Some(uri) = text::request_uri(self.text(), self.v4) {
            self.map(uri);
        }
        self.via(request);
        let (mut from, mut listed) = (0, false);
        while let Found::Is(uri) =
            text::next_uri(self.text(), from, Header::Contact, self.v4, &mut listed)
        {
            from = uri.span.end();
            self.map(uri);
        }
        self.map_header(Header::From);
        self.map_header(Header::To);
        Ok(())
    }

    fn via(&mut self, request: bool) {
        let kind = match self.this.protocol {
            protocol::TCP => Header::ViaTcp,
            _ => Header::ViaUdp,
        };
        let Found::Is(via) = text::uri(self.text(), kind, self.v4) else { return };
        let (this, other) = (self.this, self.other);
        // Others on the way have theirs.
        let own = match request {
            true => (this.src, this.sport),
            false => (this.dst, this.dport),
        };
        if (via.addr, via.port) != own {
            return;
        }
        let len = self.len;
        self.map(via);
        let end = via.span.end() + self.len - len;
        // RFC 3261 section 18.1.1, where answers are to be sent.
        let v4 = self.v4;
        if let Some((span, addr)) = text::address_parameter(self.text(), end, b"maddr=", v4, true)
            && addr == this.src
            && addr != other.dst
        {
            self.replace(span, &shown(other.dst, true));
        }
        // Section 18.2.1, where the request came from, and RFC 3581.
        if let Some((span, addr)) =
            text::address_parameter(self.text(), end, b"received=", v4, false)
            && addr == this.dst
            && addr != other.src
        {
            self.replace(span, &shown(other.src, false));
        }
        if let Found::Is((span, port)) = text::number_parameter(self.text(), end, b"rport=")
            && port as u16 == this.dport
            && port as u16 != other.sport
        {
            self.replace(span, &other.sport.to_string());
        }
    }
}

/// Answers go to the port that the sender wants them on.
pub(super) fn to_the_wanted_port(reading: &mut Reading<'_>) -> Result<(), HelpDrop> {
    let Some(Memory::Sip(dialog)) = reading.memory() else { return Ok(()) };
    let port = dialog.answers_to;
    let datagram = reading.packet.protocol == protocol::UDP;
    if reading.direction == Direction::Original || port == 0 || !datagram {
        return Ok(());
    }
    reading.send_to_port(port)
}
