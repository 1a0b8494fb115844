//! Reading SIP (RFC 3261): where headers stand in a message, and addresses and numbers in them.
//!
//! A header begins a line and goes on in lines that begin with a blank (section 7.3.1). Many may be
//! said several times, or once with commas between their values; many have a short name.

use tidegate_packet::Addr;

use super::super::text::begins_with;

/// The port that SIP has where none is said.
const PORT: u16 = 5060;

/// A part of a message.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) at: usize,
    pub(super) len: usize,
}

impl Span {
    pub(super) fn end(self) -> usize {
        self.at + self.len
    }
}

/// What looking for something leads to.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Found<T> {
    Absent,
    /// It is there, from here on, and makes no sense.
    Bad(usize),
    Is(T),
}

/// Headers that are read.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Header {
    CSeq,
    From,
    To,
    Contact,
    ViaUdp,
    ViaTcp,
    Expires,
    ContentLength,
}

impl Header {
    /// Its name and its short one.
    fn names(self) -> (&'static [u8], Option<u8>) {
        match self {
            Self::CSeq => (b"CSeq", None),
            Self::From => (b"From", Some(b'f')),
            Self::To => (b"To", Some(b't')),
            Self::Contact => (b"Contact", Some(b'm')),
            Self::ViaUdp | Self::ViaTcp => (b"Via", Some(b'v')),
            Self::Expires => (b"Expires", None),
            Self::ContentLength => (b"Content-Length", Some(b'l')),
        }
    }

    /// What stands before the part that is read.
    fn before(self) -> Option<&'static [u8]> {
        match self {
            Self::From | Self::To | Self::Contact => Some(b"sip:"),
            Self::ViaUdp => Some(b"UDP "),
            Self::ViaTcp => Some(b"TCP "),
            _ => None,
        }
    }

    /// The part that is read, if one begins there.
    fn part(self, text: &[u8], at: usize, v4: bool) -> Option<Span> {
        match self {
            Self::From | Self::To | Self::Contact => behind_the_user(text, at, v4),
            Self::ViaUdp | Self::ViaTcp => endpoint(text, at, v4),
            _ => {
                let len = digits(text, at);
                (len > 0).then_some(Span { at, len })
            }
        }
    }
}

fn digits(text: &[u8], at: usize) -> usize {
    text.get(at..).unwrap_or_default().iter().take_while(|b| b.is_ascii_digit()).count()
}

/// A decimal number, zero without one. Too large ones lose their upper bits, as in the kernel.
pub(super) fn number(text: &[u8], at: usize) -> (u32, usize) {
    let len = digits(text, at);
    let value = text.get(at..at + len).unwrap_or_default().iter();
    (value.fold(0u64, |n, b| n.wrapping_mul(10).wrapping_add(u64::from(b - b'0'))) as u32, len)
}

/// The same in the base that its beginning says, as in C.
fn number_of_any_base(text: &[u8]) -> Option<(u32, usize)> {
    let hex = text.len() > 2
        && text[0] == b'0'
        && text[1].eq_ignore_ascii_case(&b'x')
        && text[2].is_ascii_hexdigit();
    let (base, skip) = match text.first()? {
        _ if hex => (16, 2),
        b'0' => (8, 0),
        _ => (10, 0),
    };
    let (mut value, mut len) = (0u64, 0);
    while let Some(digit) = text.get(skip + len).and_then(|b| (*b as char).to_digit(base)) {
        value = value.wrapping_mul(u64::from(base)).wrapping_add(u64::from(digit));
        len += 1;
    }
    (len > 0).then_some((value as u32, skip + len))
}

fn ends_line(byte: u8) -> bool {
    matches!(byte, b'\r' | b'\n')
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// From the end of a line to the text of its continuation, if it has one before `limit`.
fn continuation(text: &[u8], at: usize, limit: usize) -> Option<usize> {
    let mut at = at + 1;
    if at >= limit {
        return None;
    }
    if text[at - 1] == b'\r' && text[at] == b'\n' {
        at += 1;
        if at >= limit {
            return None;
        }
    }
    if !is_blank(text[at]) {
        return None;
    }
    Some(at + text[at..limit].iter().take_while(|b| is_blank(**b)).count())
}

fn skip_blanks(text: &[u8], at: usize) -> Option<usize> {
    let at = at + text[at..].iter().take_while(|b| is_blank(**b)).count();
    match text.get(at) {
        Some(byte) if ends_line(*byte) => continuation(text, at, text.len()),
        _ => Some(at),
    }
}

/// Where a word begins in a header's value. What ends with the text isn't found.
fn search(text: &[u8], from: usize, limit: usize, word: &[u8]) -> Option<usize> {
    let limit = limit.checked_sub(word.len())?;
    let mut at = from;
    while at < limit {
        if ends_line(text[at]) {
            at = continuation(text, at, limit)?;
        } else if begins_with(&text[at..], word) {
            return Some(at);
        }
        at += 1;
    }
    None
}

/// Calls for the beginning of every line but the first, until that finds something.
pub(super) fn lines<T>(
    text: &[u8],
    from: usize,
    mut found: impl FnMut(usize) -> Option<T>,
) -> Option<T> {
    let mut at = from;
    while at < text.len() {
        if !ends_line(text[at]) {
            at += 1;
            continue;
        }
        at += 1;
        if at < text.len() && text[at - 1] == b'\r' && text[at] == b'\n' {
            at += 1;
        }
        if at >= text.len() {
            return None;
        }
        if let Some(found) = found(at) {
            return Some(found);
        }
        // The line's first byte isn't looked at again, as in the kernel: what follows an empty line
        // that ends in LF alone is none.
        at += 1;
    }
    None
}

/// The next header of a kind behind `from`.
pub(super) fn header(text: &[u8], from: usize, kind: Header, v4: bool) -> Found<Span> {
    let (name, short) = kind.names();
    lines(text, from, |at| {
        let line = &text[at..];
        let behind = if is_blank(line[0]) {
            return None;
        } else if begins_with(line, name) {
            at + name.len()
        } else {
            let short = short.filter(|s| line[0].eq_ignore_ascii_case(s));
            short.filter(|_| line.get(1).is_some_and(|b| !b.is_ascii_alphabetic()))?;
            at + 1
        };
        Some(value(text, behind, kind, v4))
    })
    .unwrap_or(Found::Absent)
}

/// The value behind a header's name.
fn value(text: &[u8], behind: usize, kind: Header, v4: bool) -> Found<Span> {
    let colon = skip_blanks(text, behind).filter(|at| text.get(*at) == Some(&b':'));
    let Some(at) = colon.filter(|at| at + 1 < text.len()) else { return Found::Absent };
    let Some(start) = skip_blanks(text, at + 1) else { return Found::Absent };
    let begin = match kind.before() {
        None => Some(start),
        Some(word) => search(text, start, text.len(), word).map(|at| at + word.len()),
    };
    match begin.and_then(|begin| kind.part(text, begin, v4)) {
        Some(span) => Found::Is(span),
        None => Found::Bad(start),
    }
}

/// The next of several values with commas between them.
fn next_in_list(text: &[u8], from: usize, kind: Header, v4: bool) -> Found<Span> {
    let word = kind.before().unwrap_or_default();
    let comma = search(text, from, text.len(), b",");
    let Some(found) = comma.and_then(|at| search(text, at, text.len(), word)) else {
        return Found::Absent;
    };
    let at = found + word.len();
    kind.part(text, at, v4).map_or(Found::Bad(at), Found::Is)
}

/// The next value of a kind that can be read. `listed` says whether the last one was in a list that
/// may go on.
fn walk(text: &[u8], mut from: usize, kind: Header, v4: bool, listed: &mut bool) -> Option<Span> {
    while *listed {
        match next_in_list(text, from, kind, v4) {
            Found::Is(span) => return Some(span),
            Found::Bad(at) => from = at,
            Found::Absent => *listed = false,
        }
    }
    loop {
        match header(text, from, kind, v4) {
            Found::Is(span) => {
                *listed = true;
                return Some(span);
            }
            Found::Bad(at) => from = at,
            Found::Absent => return None,
        }
    }
}

/// An address with a port, and where they stand.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct Uri {
    pub(super) span: Span,
    pub(super) addr: Addr,
    pub(super) port: u16,
}

/// The address that stands there, perhaps with a port. Ports below 1024 make no sense.
fn uri_at(text: &[u8], at: usize, v4: bool) -> Option<Uri> {
    let (addr, mut end) = address(text, at, v4, true)?;
    let mut port = PORT;
    if text.get(end) == Some(&b':') {
        let len = digits(text, end + 1);
        let value = std::str::from_utf8(&text[end + 1..end + 1 + len]).ok()?.parse().ok();
        port = value.filter(|port| *port >= 1024)?;
        end += 1 + len;
    }
    Some(Uri { span: Span { at, len: end - at }, addr, port })
}

/// The first header of a kind with an address.
pub(super) fn uri(text: &[u8], kind: Header, v4: bool) -> Found<Uri> {
    next_uri(text, 0, kind, v4, &mut false)
}

/// The next of all headers of a kind with an address.
pub(super) fn next_uri(
    text: &[u8],
    from: usize,
    kind: Header,
    v4: bool,
    listed: &mut bool,
) -> Found<Uri> {
    match walk(text, from, kind, v4, listed) {
        None => Found::Absent,
        Some(span) => uri_at(text, span.at, v4).map_or(Found::Bad(span.at), Found::Is),
    }
}

/// The address in a request's first line.
pub(super) fn request_uri(text: &[u8], v4: bool) -> Option<Uri> {
    let method = text.iter().take_while(|b| b.is_ascii_alphabetic()).count();
    if method == 0 || method + 1 >= text.len() {
        return None;
    }
    const WORD: &[u8] = b"sip:";
    let limit = text.len().checked_sub(WORD.len())?;
    let mut at = method + 1;
    while at < limit {
        if ends_line(text[at]) {
            return None;
        }
        if begins_with(&text[at..], WORD) {
            at += WORD.len();
            break;
        }
        at += 1;
    }
    uri_at(text, behind_the_user(text, at, v4)?.at, v4)
}

/// An address, behind a name and `@` if there is one in the line.
fn behind_the_user(text: &[u8], at: usize, v4: bool) -> Option<Span> {
    let rest = text.get(at..)?;
    let name = rest.iter().position(|b| *b == b'@' || ends_line(*b));
    let start = match name {
        Some(len) if rest[len] == b'@' => at + len + 1,
        _ => at,
    };
    endpoint(text, start, v4)
}

/// An address and perhaps a port.
fn endpoint(text: &[u8], at: usize, v4: bool) -> Option<Span> {
    uri_at(text, at, v4).map(|uri| uri.span)
}

/// An address, and where it ends. IPv6 ones have brackets where `brackets` says so, and may have
/// them else.
pub(super) fn address(text: &[u8], at: usize, v4: bool, brackets: bool) -> Option<(Addr, usize)> {
    if v4 {
        return dotted(text, at);
    }
    let open = text.get(at) == Some(&b'[');
    if brackets && !open {
        return None;
    }
    let start = at + usize::from(open);
    let (addr, len) = super::super::text::address(text.get(start..)?, false)?;
    let end = start + len;
    let closed = text.get(end) == Some(&b']');
    if brackets && !closed {
        return None;
    }
    Some((addr, end + usize::from(closed)))
}

/// Four numbers. Anything may follow but another dot and what could be a hexadecimal digit.
fn dotted(text: &[u8], at: usize) -> Option<(Addr, usize)> {
    let mut bytes = [0u8; 4];
    let mut at = at;
    for (n, byte) in bytes.iter_mut().enumerate() {
        if n > 0 {
            if text.get(at) != Some(&b'.') {
                return None;
            }
            at += 1;
        }
        let len = digits(text, at);
        if len == 0 {
            return None;
        }
        let mut value = 0u32;
        for digit in &text[at..at + len] {
            value = value * 10 + u32::from(digit - b'0');
            if value > 255 {
                return None;
            }
        }
        *byte = value as u8;
        at += len;
    }
    match text.get(at) {
        Some(b'.') => None,
        Some(b) if b.is_ascii_hexdigit() => None,
        _ => Some((Addr::from_v4_bytes(bytes), at)),
    }
}

/// Where the value that begins before `from` ends: at a comma, else with the text.
fn end_of_value(text: &[u8], from: usize) -> usize {
    search(text, from, text.len(), b",").unwrap_or(text.len())
}

/// The address of a parameter (`received=`).
pub(super) fn address_parameter(
    text: &[u8],
    from: usize,
    name: &[u8],
    v4: bool,
    brackets: bool,
) -> Option<(Span, Addr)> {
    let limit = end_of_value(text, from);
    let at = search(text, from, limit, name)? + name.len();
    let (addr, end) = address(&text[..limit], at, v4, brackets)?;
    Some((Span { at, len: end - at }, addr))
}

/// The number of a parameter (`expires=`).
pub(super) fn number_parameter(text: &[u8], from: usize, name: &[u8]) -> Found<(Span, u32)> {
    let Some(at) = search(text, from, end_of_value(text, from), name) else { return Found::Absent };
    let at = at + name.len();
    match number_of_any_base(&text[at..]) {
        Some((value, len)) => Found::Is((Span { at, len }, value)),
        None => Found::Bad(at),
    }
}

/// The text of a parameter (`transport=`).
pub(super) fn parameter<'a>(text: &'a [u8], from: usize, name: &[u8]) -> Option<&'a [u8]> {
    let at = search(text, from, end_of_value(text, from), name)? + name.len();
    Some(&text[at..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(found: Found<Uri>, text: &str) -> String {
        match found {
            Found::Absent => "-".into(),
            Found::Bad(_) => "?".into(),
            Found::Is(u) => {
                format!("{} {} `{}`", u.addr, u.port, &text[u.span.at..u.span.end()])
            }
        }
    }

    #[test]
    fn headers_with_addresses() {
        let rows = [
            ("x\r\nContact: <sip:me@10.0.0.2:5070>;q=1\r\n\r\n", "10.0.0.2 5070 `10.0.0.2:5070`"),
            ("x\r\nm: <sip:10.0.0.2>\r\n\r\n", "10.0.0.2 5060 `10.0.0.2`"),
            ("x\r\nCONTACT\t :\r\n  <SIP:me@10.0.0.2>\r\n\r\n", "10.0.0.2 5060 `10.0.0.2`"),
            ("x\nContact: <sip:me@10.0.0.2:5070>\n\n", "10.0.0.2 5070 `10.0.0.2:5070`"),
            ("x\r\nMax: 7\r\nContact: sip:a@b.example, sip:c@10.0.0.3\r\n\r\n", "-"),
            (
                "x\r\nContact: sip:b.example\r\nContact: sip:10.0.0.3 \r\n\r\n",
                "10.0.0.3 5060 `10.0.0.3`",
            ),
            ("x\r\nContact: <sip:me@10.0.0.2:80>\r\n\r\n", "-"),
            ("x\r\nContact: <sip:me@10.0.0.2:>\r\n\r\n", "-"),
            ("x\r\nContact: <sip:me@10.0.0.2:99999>\r\n\r\n", "-"),
            ("x\r\nContact: <sip:me@10.0.0.2.5>\r\n\r\n", "-"),
            ("x\r\nContact: <sip:me@10.0.0.256>\r\n\r\n", "-"),
            ("Contact: <sip:me@10.0.0.2>\r\n\r\n", "-"),
            ("x\r\nContact", "-"),
            ("x\r\nContact:", "-"),
            ("x\r\n", "-"),
            ("", "-"),
        ];
        for (text, want) in rows {
            let got = shown(uri(text.as_bytes(), Header::Contact, true), text);
            assert_eq!(got, want, "{text:?}");
        }
        let text = "x\r\nVia: SIP/2.0/UDP [2001:db8::1]:5062;branch=z\r\n\r\n";
        let got = shown(uri(text.as_bytes(), Header::ViaUdp, false), text);
        assert_eq!(got, "2001:db8::1 5062 `[2001:db8::1]:5062`");
        assert_eq!(uri(text.as_bytes(), Header::ViaTcp, false), Found::Absent);
    }

    #[test]
    fn lists_of_contacts() {
        let text =
            b"x\r\nContact: <sip:a@10.0.0.1>, <sip:b@c.example>,\r\n <sip:c@10.0.0.3:5070>\r\n\
                     Contact: <sip:d@10.0.0.4>\r\n\r\n";
        let (mut from, mut listed, mut all) = (0, false, Vec::new());
        while let Found::Is(uri) = next_uri(text, from, Header::Contact, true, &mut listed) {
            all.push(uri.addr.to_string());
            from = uri.span.end();
        }
        assert_eq!(all, ["10.0.0.1", "10.0.0.3", "10.0.0.4"]);
    }

    #[test]
    fn first_lines() {
        let rows = [
            ("INVITE sip:bob@10.0.0.9 SIP/2.0\r\n", Some("10.0.0.9")),
            ("REGISTER sip:10.0.0.9:5070 SIP/2.0\r\n", Some("10.0.0.9:5070")),
            ("INVITE sip:bob@b.example SIP/2.0\r\n", None),
            ("INVITE\r\nsip:bob@10.0.0.9", None),
            ("INVITE", None),
            (" sip:1.2.3.4 x", None),
            ("", None),
        ];
        for (text, want) in rows {
            let got = request_uri(text.as_bytes(), true).map(|u| &text[u.span.at..u.span.end()]);
            assert_eq!(got, want, "{text:?}");
        }
    }

    #[test]
    fn numbers() {
        assert_eq!(number(b"314159 INVITE", 0), (314_159, 6));
        assert_eq!(number(b"x", 0), (0, 0));
        assert_eq!(number(b"4294967297", 0), (1, 10));
        let of = |text: &[u8]| number_of_any_base(text);
        assert_eq!(of(b"3600;"), Some((3600, 4)));
        assert_eq!(of(b"0x10"), Some((16, 4)));
        assert_eq!(of(b"010"), Some((8, 3)));
        assert_eq!(of(b"0"), Some((0, 1)));
        assert_eq!(of(b"\"60\""), None);
        let value = b"<sip:a@1.2.3.4>;expires=60;q=1, <x>;expires=90 ";
        assert_eq!(
            number_parameter(value, 0, b"expires="),
            Found::Is((Span { at: 24, len: 2 }, 60))
        );
        assert_eq!(number_parameter(b";q=1, <x>;expires=90 ", 0, b"expires="), Found::Absent);
    }
}
