//! What SIP's messages let one expect: media, and calls to who has registered.

use std::time::Duration;

use tidegate_packet::{Addr, protocol};

use super::super::{HelpDrop, Helper, Reading};
use super::message::shown_with_port;
use super::text::{self, Found, Header, Span};
use super::{CLASS_SIGNALLING, Talk};
use crate::Tuple;
use crate::conn::Status;
use crate::expect::{Expectation, Follow, Refused};

impl Talk<'_, '_> {
    /// Gives up all media of the flow's.
    pub(super) fn unexpect_media(&mut self) {
        let id = self.reading.id;
        self.reading.table.unexpect_if(id, |e| e.class != CLASS_SIGNALLING);
    }

    /// Gives up calls to who has registered.
    fn unexpect_signalling(&mut self) {
        let id = self.reading.id;
        self.reading.table.unexpect_if(id, |e| e.class == CLASS_SIGNALLING);
    }

    /// Where the sender's address is on the other side. One that isn't translated keeps its own.
    fn outside(&self, addr: Addr) -> Addr {
        if self.this.src == self.other.dst { addr } else { self.other.dst }
    }

    /// Expects media at an address and an even port, and what goes with them one above; says where
    /// they will arrive. `place` is where the message has the port.
    pub(super) fn expect_media(
        &mut self,
        addr: Addr,
        port: u16,
        class: u8,
        place: Span,
    ) -> Result<Addr, HelpDrop> {
        // Only one's own: what goes elsewhere doesn't pass here.
        if addr != self.this.src {
            return Ok(addr);
        }
        let from = self.other.src;
        let (mut dst, mut dport, mut direct) = (addr, port, false);
        // Others may have been told of the same media on connections of their own. If both are
        // translated, the two can reach each other without.
        loop {
            let first = Tuple { src: from, dst, sport: 0, dport, protocol: protocol::UDP };
            let Some(found) = self.reading.expected_by_another(&first, class) else { break };
            match found {
                Follow::Sip { addr, port, .. }
                    if !direct && self.translated && (addr, port) != (dst, dport) =>
                {
                    (dst, dport, direct) = (addr, port, true);
                }
                _ => {
                    if direct {
                        self.set_media_port(place, dport & !1)?;
                    }
                    return Ok(dst);
                }
            }
        }
        let rtp = dport & !1;
        if direct {
            self.set_media_port(place, rtp)?;
        }
        let pair = [rtp, rtp | 1].map(|port| {
            let plain = self.reading.expectation(from, dst, protocol::UDP, port);
            Expectation { class, ..plain }
        });
        if self.translated && !direct {
            return self.expect_translated(pair, place);
        }
        // That the same is expected already, as another kind or by another flow, does no harm.
        let fine = |result| matches!(result, Ok(()) | Err(Refused::Already));
        let [rtp, rtcp] = pair;
        let first = self.reading.expect_of_any_master(rtp.clone());
        if !fine(first) {
            return Err(HelpDrop::Expect);
        }
        if !fine(self.reading.expect_of_any_master(rtcp)) {
            if first.is_ok() {
                self.take_back(&rtp.tuple);
            }
            return Err(HelpDrop::Expect);
        }
        Ok(dst)
    }

    fn take_back(&mut self, tuple: &Tuple) {
        let id = self.reading.id;
        self.reading.table.unexpect_if(id, |e| e.tuple == *tuple);
    }

    /// The same behind a translation: at the first pair of ports from their own on that nobody else
    /// expects.
    fn expect_translated(&mut self, pair: [Expectation; 2], place: Span) -> Result<Addr, HelpDrop> {
        let [rtp, rtcp] = pair;
        let inside = rtp.tuple.dst;
        let outside = self.outside(inside);
        let own = rtp.tuple.dport;
        let direction = self.reading.direction.other();
        let at = |plain: &Expectation, port: u16| Expectation {
            tuple: Tuple { dst: outside, dport: port, ..plain.tuple },
            follow: Follow::Sip { direction, addr: inside, port: plain.tuple.dport },
            ..plain.clone()
        };
        let mut port = own;
        loop {
            let first = at(&rtp, port);
            match self.reading.expect_of_any_master(first.clone()) {
                Ok(()) => match self.reading.expect_of_any_master(at(&rtcp, port | 1)) {
                    Ok(()) => break,
                    why => {
                        self.take_back(&first.tuple);
                        if why != Err(Refused::Clash) {
                            return Err(HelpDrop::Expect);
                        }
                    }
                },
                Err(Refused::Clash) => {}
                Err(_) => return Err(HelpDrop::Expect),
            }
            port = port.checked_add(2).ok_or(HelpDrop::Expect)?;
        }
        if port != own {
            self.set_media_port(place, port)?;
        }
        Ok(outside)
    }

    /// `REGISTER`: calls will come to where the sender says, once the registrar agrees.
    pub(super) fn register(&mut self, cseq: u32) -> Result<(), HelpDrop> {
        // Who was called doesn't register by that.
        if self.reading.conn().is_some_and(|conn| conn.status.has(Status::EXPECTED)) {
            return Ok(());
        }
        let contact = match text::uri(self.text(), Header::Contact, self.v4) {
            Found::Is(contact) => contact,
            Found::Absent => return Ok(()),
            Found::Bad(_) => return Err(HelpDrop::Message),
        };
        let end = contact.span.end();
        // Nobody registers for others.
        if contact.addr != self.this.src || !self.is_of_this_transport(end) {
            return Ok(());
        }
        let expires = match text::number_parameter(self.text(), end, b"expires=") {
            Found::Is((_, seconds)) => seconds,
            Found::Absent => self.expires(),
            Found::Bad(_) => return Err(HelpDrop::Message),
        };
        if expires > 0 {
            self.expect_signalling(contact)?;
        }
        if let Some(dialog) = self.dialog() {
            dialog.register = cseq;
        }
        Ok(())
    }

    fn expect_signalling(&mut self, contact: text::Uri) -> Result<(), HelpDrop> {
        let text::Uri { span, addr, port, .. } = contact;
        let from = self.other.src;
        let plain = self.reading.expectation(from, addr, self.this.protocol, port);
        let expectation = Expectation {
            class: CLASS_SIGNALLING,
            permanent: true,
            inactive: true,
            child_helper: Some(Helper::Sip),
            ..plain
        };
        if !self.translated {
            return self.reading.expect(expectation).map_err(|_| HelpDrop::Expect);
        }
        let outside = self.outside(addr);
        let wanted = self.dialog().map_or(0, |dialog| dialog.answers_to);
        let own = if wanted == 0 { self.this.sport } else { wanted };
        let first = if port == own { self.other.dport } else { port };
        let direction = self.reading.direction.other();
        let expectation = Expectation {
            tuple: Tuple { dst: outside, dport: first, ..expectation.tuple },
            follow: Follow::Sip { direction, addr, port },
            ..expectation
        };
        let given = self.reading.expect_from_port(expectation)?;
        if (outside, given) != (addr, port) {
            self.replace(span, &shown_with_port(outside, given));
        }
        Ok(())
    }

    /// The registrar's answer: how long what was registered lives, or that it doesn't.
    pub(super) fn registered(&mut self, cseq: u32, code: u32) -> Result<(), HelpDrop> {
        if self.dialog().is_none_or(|dialog| dialog.register != cseq) || (100..200).contains(&code)
        {
            return Ok(());
        }
        if (200..300).contains(&code) {
            let common = self.expires();
            let (mut from, mut listed) = (0, false);
            loop {
                let found =
                    text::next_uri(self.text(), from, Header::Contact, self.v4, &mut listed);
                let contact = match found {
                    Found::Is(contact) => contact,
                    Found::Absent => break,
                    Found::Bad(_) => return Err(HelpDrop::Message),
                };
                let end = contact.span.end();
                from = end;
                if contact.addr != self.this.dst || !self.is_of_this_transport(end) {
                    continue;
                }
                let expires = match text::number_parameter(self.text(), end, b"expires=") {
                    Found::Is((_, seconds)) => seconds,
                    Found::Absent => common,
                    Found::Bad(_) => return Err(HelpDrop::Message),
                };
                if expires == 0 {
                    break;
                }
                let (protocol, seconds) = (self.this.protocol, u64::from(expires));
                let bound = (contact.addr, contact.port, protocol);
                if self.reading.keep_signalling(bound, Duration::from_secs(seconds)) {
                    return Ok(());
                }
            }
        }
        self.unexpect_signalling();
        Ok(())
    }
}

impl Reading<'_> {
    /// How another flow of this helper's will pass on media like these, if it expects them.
    fn expected_by_another(&self, tuple: &Tuple, class: u8) -> Option<Follow> {
        let zones = self.conn()?.zones();
        let found = self.table.first_expected(tuple, zones)?;
        (found.master != self.id && found.helper == Helper::Sip && found.class == class)
            .then_some(found.follow)
    }

    /// What is expected there lives for that long from now on, and counts from now on. Says whether
    /// there is such an expectation.
    fn keep_signalling(&mut self, bound: (Addr, u16, u8), lasts: Duration) -> bool {
        let deadline = self.now + lasts;
        self.table.prolong(self.id, deadline, |e| {
            e.class == CLASS_SIGNALLING && (e.tuple.dst, e.tuple.dport, e.tuple.protocol) == bound
        })
    }
}
