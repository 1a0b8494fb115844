//! Session descriptions (RFC 4566): where media go to.
//!
//! ```text
//! v=0
//! o=alice 2890844526 2890844526 IN IP4 10.0.0.2      who offers, never a destination
//! c=IN IP4 10.0.0.2                                  for all media that don't have their own
//! m=audio 49170 RTP/AVP 0                            the even port; the one above is RTCP's
//! ```

use tidegate_packet::Addr;

use super::message::shown;
use super::text::{Found, Header, Span, address, lines, number};
use super::{CLASS_AUDIO, CLASS_IMAGE, CLASS_VIDEO, HelpDrop, Talk};

/// Most media of a message that are expected.
const MOST_MEDIA: usize = 3;

const MEDIA: [(&[u8], u8); 3] =
    [(b"audio ", CLASS_AUDIO), (b"video ", CLASS_VIDEO), (b"image ", CLASS_IMAGE)];

/// Lines of a description.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Line {
    Version,
    Owner,
    Connection,
    Media,
}

impl Line {
    fn name(self) -> &'static [u8] {
        match self {
            Self::Version => b"v=",
            Self::Owner => b"o=",
            Self::Connection => b"c=",
            Self::Media => b"m=",
        }
    }

    /// The part of the line's value that is read.
    fn part(self, text: &[u8], at: usize, v4: bool) -> Option<Span> {
        let rest = &text[at..];
        let count = |from: usize, is: fn(&u8) -> bool| {
            rest.get(from..).unwrap_or_default().iter().take_while(|b| is(b)).count()
        };
        let (at, len) = match self {
            Self::Version => (at, count(0, u8::is_ascii_digit)),
            Self::Media => {
                let word = count(0, u8::is_ascii_alphabetic);
                if rest.get(word) != Some(&b' ') {
                    return None;
                }
                (at, word + 1 + count(word + 1, u8::is_ascii_digit))
            }
            Self::Owner | Self::Connection => {
                let word: &[u8] = if v4 { b"IN IP4 " } else { b"IN IP6 " };
                // What ends with the message isn't found.
                let rest = &rest[..rest.len().saturating_sub(word.len())];
                let line = rest.iter().position(|b| matches!(b, b'\r' | b'\n'));
                let starts = 0..line.unwrap_or(rest.len());
                let at = starts.map(|n| at + n).find(|n| text[*n..].starts_with(word))?;
                let at = at + word.len();
                (at, address(text, at, v4, false)?.1 - at)
            }
        };
        (len > 0).then_some(Span { at, len })
    }
}

/// The next line of a kind behind `from`, but not beyond the next media.
fn line(text: &[u8], from: usize, kind: Line, within: bool, v4: bool) -> Found<Span> {
    let found = lines(text, from, |at| {
        let starts = |name: &[u8]| super::begins_with(&text[at..], name);
        if within && starts(Line::Media.name()) {
            return Some(Found::Absent);
        }
        if !starts(kind.name()) {
            return None;
        }
        let at = at + kind.name().len();
        Some(kind.part(text, at, v4).map_or(Found::Bad(at), Found::Is))
    });
    found.unwrap_or(Found::Absent)
}

impl Talk<'_, '_> {
    fn line(&self, from: usize, kind: Line, within: bool) -> Found<Span> {
        line(self.text(), from, kind, within, self.v4)
    }

    fn connection(&self, from: usize) -> Option<Addr> {
        match self.line(from, Line::Connection, true) {
            Found::Is(span) => Some(address(self.text(), span.at, self.v4, false)?.0),
            _ => None,
        }
    }

    /// Expects the media that a message announces, and makes it announce them where they will
    /// arrive.
    pub(super) fn description(&mut self) -> Result<(), HelpDrop> {
        let Found::Is(session) = self.line(0, Line::Version, false) else { return Ok(()) };
        let session = session.at;
        let common = self.connection(session);
        let mut to = None;
        let (mut at, mut expected) = (session, 0);
        while expected < MOST_MEDIA {
            let Found::Is(media) = self.line(at, Line::Media, false) else { break };
            let text = &self.text()[media.at..media.end()];
            let Some((kind, class)) = MEDIA.iter().find(|(kind, _)| text.starts_with(kind)) else {
                at = media.end();
                continue;
            };
            at = media.at + kind.len();
            let place = Span { at, len: media.len - kind.len() };
            let port = match number(self.text(), at).0 {
                // The stream is off.
                0 => continue,
                port => u16::try_from(port).ok().filter(|p| *p >= 1024).ok_or(HelpDrop::Message)?,
            };
            let own = self.connection(at);
            let addr = own.or(common).ok_or(HelpDrop::Message)?;
            let addr = self.expect_media(addr, port, *class, place)?;
            to = Some(addr);
            if own.is_some() && self.translated {
                self.set_line(at, Line::Connection, addr).ok_or(HelpDrop::Message)?;
                self.set_length()?;
            }
            expected += 1;
        }
        match to {
            Some(addr) if self.translated => {
                self.set_line(session, Line::Owner, addr).ok_or(HelpDrop::Message)?;
                // It needn't be there where all media have their own.
                match self.line(session, Line::Connection, true) {
                    Found::Absent => {}
                    Found::Bad(_) | Found::Is(_) => {
                        let set = self.set_line(session, Line::Connection, addr);
                        set.ok_or(HelpDrop::Message)?;
                    }
                }
                self.set_length()
            }
            _ => Ok(()),
        }
    }

    /// Another address in a line; `None` if there is no such line.
    fn set_line(&mut self, from: usize, kind: Line, addr: Addr) -> Option<()> {
        let Found::Is(span) = self.line(from, kind, true) else { return None };
        self.replace(span, &shown(addr, false));
        Some(())
    }

    /// Another port for media.
    pub(super) fn set_media_port(&mut self, place: Span, port: u16) -> Result<(), HelpDrop> {
        self.replace(place, &port.to_string());
        self.set_length()
    }

    /// Makes `Content-Length` say how long the description is.
    fn set_length(&mut self) -> Result<(), HelpDrop> {
        let Found::Is(version) = self.line(0, Line::Version, false) else {
            return Err(HelpDrop::Message);
        };
        let len = self.len - version.at + Line::Version.name().len();
        let Found::Is(span) = self.header(Header::ContentLength) else {
            return Err(HelpDrop::Message);
        };
        self.replace(span, &len.to_string());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "INVITE x\r\n\r\nv=0\r\no=a 1 2 IN IP4 10.0.0.2\r\ns=-\r\nc=IN IP4 10.0.0.3\r\n\
                        t=0 0\r\nm=audio 4000 RTP/AVP 0\r\nm=video 4002 RTP/AVP 0\r\n\
                        c=IN IP4 10.0.0.4\r\nm=image 0 udptl t38\r\n";

    fn shown(from: usize, kind: Line, within: bool) -> &'static str {
        match line(TEXT.as_bytes(), from, kind, within, true) {
            Found::Is(span) => &TEXT[span.at..span.end()],
            Found::Bad(_) => "?",
            Found::Absent => "-",
        }
    }

    #[test]
    fn lines_of_a_description() {
        assert_eq!(shown(0, Line::Version, false), "0");
        assert_eq!(shown(0, Line::Owner, true), "10.0.0.2");
        assert_eq!(shown(0, Line::Connection, true), "10.0.0.3");
        assert_eq!(shown(0, Line::Media, false), "audio 4000");
        let audio = TEXT.find("audio").unwrap();
        assert_eq!(shown(audio, Line::Connection, true), "-");
        assert_eq!(shown(audio, Line::Media, false), "video 4002");
        let video = TEXT.find("video").unwrap();
        assert_eq!(shown(video, Line::Connection, true), "10.0.0.4");
        assert_eq!(shown(TEXT.len(), Line::Media, false), "-");
    }
}
