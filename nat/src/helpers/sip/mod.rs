//! SIP (RFC 3261): calls whose sound and pictures go by RTP on ports that a session description
//! (SDP, RFC 4566) announces, and registrations, by which calls come in later.
//!
//! As `nf_conntrack_sip` and `nf_nat_sip` with their parameters' defaults: media are expected from
//! the other side's signalling address to the sender's own (`sip_direct_media`), signalling from the
//! registrar alone (`sip_direct_signalling`).
//!
//! A message is edited in memory of its own and goes back into the packet as a whole: so whatever
//! makes no sense in its middle leaves the packet as it was, to be dropped.

mod expected;
mod message;
mod sdp;
mod text;

use std::time::Duration;

use tidegate_packet::protocol;

use self::text::{Found, Header, Span};
use super::text::begins_with;
use super::{HelpDrop, Memory, Reading};
use crate::Tuple;

/// How long a signalling flow lives: `sip_timeout`.
const SIGNALLING: Duration = Duration::from_secs(3600);

/// Kinds of expectations.
pub(super) const CLASS_SIGNALLING: u8 = 0;
const CLASS_AUDIO: u8 = 1;
const CLASS_VIDEO: u8 = 2;
pub(super) const CLASS_IMAGE: u8 = 3;

/// What is remembered of a signalling flow.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dialog {
    /// The number of the last offer of media, which its refusal has as well.
    invite: u32,
    /// The number of the last registration.
    register: u32,
    /// The port that the sender wants answers to, if that isn't its own (or 0).
    answers_to: u16,
}

/// A message under the helper's eyes.
struct Talk<'a, 'b> {
    reading: &'a mut Reading<'b>,
    /// The packet's payload.
    bytes: Vec<u8>,
    /// Where the message begins in it, and how long it is.
    start: usize,
    len: usize,
    v4: bool,
    this: Tuple,
    other: Tuple,
    translated: bool,
}

impl Talk<'_, '_> {
    fn text(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }

    fn dialog(&mut self) -> Option<&mut Dialog> {
        match self.reading.memory() {
            Some(Memory::Sip(dialog)) => Some(dialog),
            _ => None,
        }
    }

    fn replace(&mut self, span: Span, with: &str) {
        let at = self.start + span.at;
        self.bytes.splice(at..at + span.len, with.bytes());
        self.len = self.len + with.len() - span.len;
    }

    fn header(&self, kind: Header) -> Found<Span> {
        text::header(self.text(), 0, kind, self.v4)
    }

    /// The number of a message's `CSeq`, which it must have, and what stands behind it.
    fn cseq(&self) -> Result<(u32, usize), HelpDrop> {
        match self.header(Header::CSeq) {
            Found::Is(span) => Ok((text::number(self.text(), span.at).0, span.end() + 1)),
            _ => Err(HelpDrop::Message),
        }
    }

    /// `Expires`, or nothing.
    fn expires(&self) -> u32 {
        match self.header(Header::Expires) {
            Found::Is(span) => text::number(self.text(), span.at).0,
            _ => 0,
        }
    }

    /// Whether the transport that a value's parameter names is this flow's.
    fn is_of_this_transport(&self, from: usize) -> bool {
        match text::parameter(self.text(), from, b"transport=") {
            None => true,
            Some(name) if begins_with(name, b"TCP") => self.this.protocol == protocol::TCP,
            Some(name) if begins_with(name, b"UDP") => self.this.protocol == protocol::UDP,
            Some(_) => false,
        }
    }

    fn message(&mut self) -> Result<(), HelpDrop> {
        match begins_with(self.text(), b"SIP/2.0 ") {
            true => self.response()?,
            false => self.request()?,
        }
        if self.translated { self.translate() } else { Ok(()) }
    }

    fn request(&mut self) -> Result<(), HelpDrop> {
        // Some phones send from a high port and want answers on another.
        if let Found::Is(via) = text::uri(self.text(), Header::ViaUdp, self.v4)
            && via.port != self.this.sport
            && via.addr == self.this.src
            && let Some(dialog) = self.dialog()
        {
            dialog.answers_to = via.port;
        }
        let Some(method) = Method::of_request(self.text()) else { return Ok(()) };
        let (cseq, _) = self.cseq()?;
        match method {
            Method::Invite => {
                self.unexpect_media();
                self.description()?;
                if let Some(dialog) = self.dialog() {
                    dialog.invite = cseq;
                }
                Ok(())
            }
            Method::Update | Method::Ack | Method::Prack => self.description(),
            Method::Bye => {
                self.unexpect_media();
                Ok(())
            }
            Method::Register => self.register(cseq),
        }
    }

    fn response(&mut self) -> Result<(), HelpDrop> {
        let (code, _) = text::number(self.text(), b"SIP/2.0 ".len());
        if code == 0 {
            return Err(HelpDrop::Message);
        }
        let (cseq, method_at) = self.cseq()?;
        let Some(method) = Method::of_response(self.text(), method_at) else { return Ok(()) };
        match method {
            Method::Register => self.registered(cseq, code),
            Method::Invite | Method::Update | Method::Prack => {
                if (100..300).contains(&code) {
                    return self.description();
                }
                // The offer is refused.
                if self.dialog().is_some_and(|dialog| dialog.invite == cseq) {
                    self.unexpect_media();
                }
                Ok(())
            }
            Method::Ack | Method::Bye => Ok(()),
        }
    }
}

/// Methods that matter.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Method {
    Invite,
    Update,
    Ack,
    Prack,
    Bye,
    Register,
}

impl Method {
    const ALL: [(&'static [u8], Self); 6] = [
        (b"INVITE", Self::Invite),
        (b"UPDATE", Self::Update),
        (b"ACK", Self::Ack),
        (b"PRACK", Self::Prack),
        (b"BYE", Self::Bye),
        (b"REGISTER", Self::Register),
    ];

    /// The method of a request's first line, with a blank and a letter behind it.
    fn of_request(text: &[u8]) -> Option<Self> {
        let fits = |name: &[u8]| {
            begins_with(text, name)
                && text.get(name.len()) == Some(&b' ')
                && text.get(name.len() + 1).is_some_and(u8::is_ascii_alphabetic)
        };
        Self::ALL.iter().find(|(name, _)| fits(name)).map(|(_, method)| *method)
    }

    /// The method of a response's `CSeq`, of those whose responses matter.
    fn of_response(text: &[u8], at: usize) -> Option<Self> {
        let rest = text.get(at..)?;
        let answered = |method| !matches!(method, Self::Ack | Self::Bye);
        let mut all = Self::ALL.iter().filter(|(_, method)| answered(*method));
        all.find(|(name, _)| begins_with(rest, name)).map(|(_, method)| *method)
    }
}

/// The shortest message: `SIP/2.0 200`.
const SHORTEST: usize = 11;

pub(super) fn read(reading: &mut Reading<'_>) -> Result<(), HelpDrop> {
    let streamed = reading.packet.protocol == protocol::TCP;
    if streamed && !reading.is_established() || reading.payload().is_empty() {
        return Ok(());
    }
    reading.refresh(SIGNALLING);
    let bytes = reading.payload().to_vec();
    if bytes.len() < SHORTEST {
        return Ok(());
    }
    let direction = reading.direction;
    let (this, other) = (reading.tuple(direction), reading.tuple(direction.other()));
    let translated = reading.is_translated();
    let (len, v4) = (bytes.len(), this.src.is_v4());
    let mut talk = Talk { reading, bytes, start: 0, len, v4, this, other, translated };
    match streamed {
        true => talk.stream()?,
        false => talk.message()?,
    }
    let Talk { reading, bytes, .. } = talk;
    if reading.payload() != bytes {
        reading.replace(0, len, &bytes)?;
    }
    match translated {
        true => message::to_the_wanted_port(reading),
        false => Ok(()),
    }
}

impl Talk<'_, '_> {
    /// A segment: messages that are all there, one behind the other, each as long as it says.
    fn stream(&mut self) -> Result<(), HelpDrop> {
        loop {
            self.len = self.bytes.len() - self.start;
            let Found::Is(span) = self.header(Header::ContentLength) else { return Ok(()) };
            let (body, _) = text::number(self.text(), span.at);
            let rest = &self.text()[span.end()..];
            let Some(gap) = super::text::find(rest, b"\r\n\r\n") else { return Ok(()) };
            let head = span.end() + gap + 4;
            let Some(len) = usize::try_from(body).ok().and_then(|body| body.checked_add(head))
            else {
                return Ok(());
            };
            if len > self.len {
                return Ok(());
            }
            self.len = len;
            self.message()?;
            self.start += self.len;
        }
    }
}
