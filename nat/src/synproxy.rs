//! The SYN proxy: the gateway answers a client's SYN in the server's place and remembers nothing.
//! What it has to know later is in the numbers that the client sends back: the *cookie* is the
//! initial sequence number, and the low bits of the time stamp hold the options.
//!
//! A client that answers has an address of its own. Only then a SYN goes to the server, and a
//! connection comes to be. The server's numbers differ from the cookie for good, so the server's
//! side of the connection is shifted (`seqadj.rs`), and its time stamps are.

mod cookie;
mod options;

use cookie::{PERIOD_SECONDS, SIZES, cookie, size_in};
use options::{Options, adjust_stamps, put};
use tidegate_packet::builder::{self, Ip, Tcp};
use tidegate_packet::checksum::{self, Field};
use tidegate_packet::tcp::{ACK, CWR, ECE, FIN, Header, RST, SYN};
use tidegate_packet::{Addr, Instant, Parsed, protocol};

use crate::conn::Direction;
use crate::table::Conntrack;
use crate::tcp::TcpState;
use crate::tracked::{Entry, Role, Tracked};

/// What a rule lets the gateway offer to clients.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
pub struct Offer {
    /// Selective acknowledgments.
    pub sack: bool,
    /// Time stamps; without them scaling, SACK and ECN can't be remembered.
    pub timestamp: bool,
    /// The server's window scale.
    pub window_scale: Option<u8>,
    /// The server's maximum segment size.
    pub mss: Option<u16>,
    /// Congestion notification.
    pub ecn: bool,
}

/// What becomes of a segment that met a `SYNPROXY` rule; it goes no further itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proxied {
    /// To the client: a SYN/ACK with a cookie.
    Greeted(Vec<u8>),
    /// To the server: the client's SYN, whose connection has to be tracked with
    /// [`crate::Template::synproxy`].
    Admitted(Vec<u8>),
    /// A wrong checksum, or no cookie of this gateway's.
    Refused,
}

/// What becomes of a packet of a connection that the proxy has admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shaken {
    /// It goes on.
    Passes,
    /// It ends here, and the client's SYN goes to the server once more.
    Repeats(Vec<u8>),
    /// The server's SYN/ACK ends here: it is acknowledged, and the client is told the window.
    Completes {
        /// To the server, a packet of the connection's original direction.
        server: Vec<u8>,
        /// To the client, one of the reply direction.
        client: Vec<u8>,
    },
    /// It makes no sense.
    Refused,
}

/// What the proxy knows of a connection.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Handshake {
    /// The sequence number that the client knows the server by.
    isn: u32,
    /// The time stamp that the client knows.
    stamp: u32,
    /// How much higher the server's time stamps are.
    stamp_offset: u32,
}

/// The scale in a time stamp when there is none.
const NO_SCALE: u32 = 0xf;

/// One end's address and port, then the other's.
type Ends = [(Addr, u16); 2];

fn segment(from: (Addr, u16), to: (Addr, u16), ttl: u8, fields: Tcp<'_>) -> Vec<u8> {
    let ip = Ip { hop_limit: ttl, dont_fragment: true, ..Ip::new(from.0, to.0, protocol::TCP) };
    builder::tcp(ip, Tcp { sport: from.1, dport: to.1, ..fields }, &[])
}

fn ends(packet: &Parsed, header: &Header<'_>) -> Ends {
    [(packet.src, header.sport()), (packet.dst, header.dport())]
}

impl Conntrack {
    /// Answers a client in a server's place. `verify`: nobody has looked at the checksum. `ttl` is
    /// for the packets made.
    pub fn proxy(
        &self,
        offer: Offer,
        packet: &Parsed,
        bytes: &[u8],
        verify: bool,
        ttl: u8,
        now: Instant,
    ) -> Proxied {
        let text = packet.segment(bytes);
        let Some(header) = Header::new_checked(text) else { return Proxied::Refused };
        let right = || checksum::verify_transport(packet.src, packet.dst, protocol::TCP, text);
        if verify && !right() {
            return Proxied::Refused;
        }
        if header.flags() & SYN != 0 {
            return Proxied::Greeted(self.greet(offer, packet, &header, ttl, now));
        }
        match self.admit(packet, &header, header.seq(), ttl, now) {
            Some(syn) => Proxied::Admitted(syn),
            None => Proxied::Refused,
        }
    }

    /// A SYN/ACK whose numbers hold what the SYN said. Its window is closed: what the client wants
    /// to say has to wait for the server.
    fn greet(
        &self,
        offer: Offer,
        packet: &Parsed,
        header: &Header<'_>,
        ttl: u8,
        now: Instant,
    ) -> Vec<u8> {
        let client = Options::read(header);
        let mut own = Options { mss: client.mss.and(offer.mss), ..Options::default() };
        let mut ecn = false;
        if let (true, Some((value, _))) = (offer.timestamp, client.stamps) {
            ecn = offer.ecn && header.flags() & (ECE | CWR) == ECE | CWR;
            own.sack = offer.sack && client.sack;
            own.scale = client.scale.and(offer.window_scale);
            let scale = own.scale.and(client.scale).map_or(NO_SCALE, u32::from);
            let clock = now.as_millis() as u32 & !0x3f;
            let held = clock | scale | u32::from(own.sack) << 4 | u32::from(ecn) << 5;
            own.stamps = Some((held, value));
        }
        let wanted = client.mss.unwrap_or(0);
        let size = SIZES.iter().rposition(|size| *size <= wanted).unwrap_or(0);
        let ends = ends(packet, header);
        let period = now.as_secs() / PERIOD_SECONDS;
        let fields = Tcp {
            seq: cookie(&self.key, ends, header.seq(), period, size),
            ack: header.seq().wrapping_add(1),
            flags: SYN | ACK | if ecn { ECE } else { 0 },
            options: &own.write(),
            ..Tcp::default()
        };
        segment(ends[1], ends[0], ttl, fields)
    }

    /// The SYN that the client sent before, out of the ACK to a cookie. It carries the cookie as the
    /// number it acknowledges, for [`Conntrack::shake`]. `seq` is the first number behind the SYN.
    fn admit(
        &self,
        packet: &Parsed,
        header: &Header<'_>,
        seq: u32,
        ttl: u8,
        now: Instant,
    ) -> Option<Vec<u8>> {
        let ends = ends(packet, header);
        let (isn, seen) = (seq.wrapping_sub(1), header.ack().wrapping_sub(1));
        let mss = size_in(&self.key, ends, isn, seen, now)?;
        let mut options = Options { mss: Some(mss), ..Options::default() };
        let mut flags = SYN;
        options.stamps = Options::read(header).stamps;
        if let Some((_, held)) = options.stamps {
            options.scale = Some(held & 0xf).filter(|s| *s != NO_SCALE).map(|s| s as u8);
            options.sack = held >> 4 & 1 != 0;
            if held >> 5 & 1 != 0 {
                flags |= ECE | CWR;
            }
        }
        let options = options.write();
        let window = header.window();
        let fields =
            Tcp { seq: isn, ack: seen, flags, window, options: &options, ..Tcp::default() };
        Some(segment(ends[0], ends[1], ttl, fields))
    }

    /// Whether [`Conntrack::shake`] has anything to do with the packet.
    #[inline]
    pub fn needs_shake(&self, tracked: &Tracked) -> bool {
        let extra = self.view(tracked).and_then(crate::Connection::extra);
        tracked.role == Role::Member && extra.is_some_and(|e| e.handshake.is_some())
    }

    /// A packet of a connection that the proxy has admitted, translated and about to leave.
    pub fn shake(
        &mut self,
        tracked: &mut Tracked,
        packet: &Parsed,
        bytes: &mut [u8],
        field: Field,
        ttl: u8,
        now: Instant,
    ) -> Shaken {
        let direction = tracked.direction;
        let view = self.view(tracked);
        let state = view.and_then(crate::Connection::tcp_state);
        let known = view.and_then(|c| c.extra()?.handshake.as_deref().copied());
        let (Some(state), Some(mut known)) = (state, known) else { return Shaken::Passes };
        let Some(header) = Header::new_checked(packet.segment(bytes)) else {
            return Shaken::Refused;
        };
        let flags = header.flags();
        let options = Options::read(&header);
        match (state, direction) {
            // The server wants no connection: the client knows it by another number.
            (TcpState::Close, Direction::Reply) if flags & RST != 0 => {
                put(packet, bytes, 4, known.isn.wrapping_add(1), field);
                return Shaken::Passes;
            }
            // The client asks whether the window is still closed: the SYN was lost.
            (TcpState::SynSent, Direction::Original) if flags & (SYN | ACK | FIN | RST) == ACK => {
                let seq = header.seq().wrapping_add(1);
                return match self.admit(packet, &header, seq, ttl, now) {
                    Some(syn) => Shaken::Repeats(syn),
                    None => Shaken::Refused,
                };
            }
            (TcpState::SynSent, Direction::Original) if flags & SYN != 0 => {
                known.isn = header.ack();
                known.stamp = options.stamps.map_or(0, |(_, echo)| echo);
                self.remember(tracked, known, None);
            }
            (TcpState::SynRecv, Direction::Reply) if flags & (SYN | ACK) == SYN | ACK => {
                known.stamp_offset =
                    options.stamps.map_or(0, |(value, _)| value.wrapping_sub(known.stamp));
                let shift = known.isn.wrapping_sub(header.seq());
                let window =
                    view.and_then(crate::Connection::tcp).map_or(0, |t| t.peers[0].max_window);
                let done = complete(packet, &header, known, window, ttl);
                self.remember(tracked, known, Some(shift));
                return done;
            }
            _ => {}
        }
        adjust_stamps(known, direction, packet, bytes, field);
        Shaken::Passes
    }

    fn remember(&mut self, tracked: &mut Tracked, known: Handshake, shift: Option<u32>) {
        let Some(conn) = self.view_mut(tracked) else { return };
        if shift.is_some() {
            conn.status.set(crate::Status::SEQ_ADJUST);
        }
        let extra = conn.make_extra();
        extra.handshake = Some(Box::new(known));
        if let Some(shift) = shift {
            extra.seqadj.get_or_insert_default()[Direction::Reply.index()].shift_all(shift);
        }
    }

    /// Makes a new connection one of the proxy's.
    pub(crate) fn begin_handshake(tracked: &mut Tracked) {
        if let Entry::Own(conn) = &mut tracked.entry {
            let extra = conn.make_extra();
            extra.handshake = Some(Box::default());
            extra.seqadj = Some(Box::default());
        }
    }
}

/// The ACK to the server and the news for the client. Both are as if this gateway weren't there:
/// the one in the client's numbers, the other in the server's; both are shifted on their way.
fn complete(
    packet: &Parsed,
    header: &Header<'_>,
    known: Handshake,
    window: u32,
    ttl: u8,
) -> Shaken {
    let [server, client] = ends(packet, header);
    let options = Options::read(header);
    let stamped = |stamps| Options { stamps, ..Options::default() }.write();
    let to_server = stamped(options.stamps.map(|(_, echo)| (echo, known.stamp)));
    let to_client = stamped(options.stamps);
    let scale = options.scale.unwrap_or(0);
    let server_ack = segment(
        client,
        server,
        ttl,
        Tcp {
            seq: header.ack(),
            ack: known.isn.wrapping_add(1),
            flags: ACK,
            window: window.min(u32::from(u16::MAX)) as u16,
            options: &to_server,
            ..Tcp::default()
        },
    );
    let client_ack = segment(
        server,
        client,
        ttl,
        Tcp {
            seq: header.seq().wrapping_add(1),
            ack: header.ack(),
            flags: ACK,
            window: header.window() >> scale,
            options: &to_client,
            ..Tcp::default()
        },
    );
    Shaken::Completes { server: server_ack, client: client_ack }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Settings;

    const RULE: Offer =
        Offer { sack: true, timestamp: true, window_scale: Some(7), mss: Some(1460), ecn: false };

    fn client(flags: u8, seq: u32, ack: u32, options: Options) -> (Parsed, Vec<u8>) {
        let from = ("192.0.2.1".parse().unwrap(), 4000);
        let to = ("10.0.0.1".parse().unwrap(), 80);
        let options = options.write();
        let fields = Tcp { seq, ack, flags, window: 500, options: &options, ..Tcp::default() };
        let bytes = segment(from, to, 64, fields);
        (Parsed::parse(&bytes).unwrap(), bytes)
    }

    fn fields(bytes: &[u8]) -> (u32, u32, u8, Options) {
        let packet = Parsed::parse(bytes).unwrap();
        let header = Header::new_checked(packet.segment(bytes)).unwrap();
        (header.seq(), header.ack(), header.flags(), Options::read(&header))
    }

    #[test]
    fn a_cookie_holds_what_the_syn_said() {
        let table = Conntrack::new(Settings::default(), [1, 2]);
        let now = Instant::from_secs(1000);
        let asked = Options { mss: Some(1400), scale: Some(5), sack: true, stamps: Some((77, 0)) };
        let (packet, bytes) = client(SYN, 100, 0, asked);
        let Proxied::Greeted(greeting) = table.proxy(RULE, &packet, &bytes, true, 64, now) else {
            panic!("no greeting")
        };
        let (cookie, ack, flags, offered) = fields(&greeting);
        assert_eq!((ack, flags), (101, SYN | ACK));
        assert_eq!((offered.mss, offered.scale, offered.sack), (Some(1460), Some(7), true));
        let (held, echo) = offered.stamps.unwrap();
        assert_eq!(echo, 77);
        let answer = Options { stamps: Some((80, held)), ..Options::default() };
        let later = Instant::from_secs(1000 + PERIOD_SECONDS);
        let (packet, bytes) = client(ACK, 101, cookie.wrapping_add(1), answer);
        for at in [now, later] {
            let Proxied::Admitted(syn) = table.proxy(RULE, &packet, &bytes, true, 64, at) else {
                panic!("refused")
            };
            let (seq, ack, flags, options) = fields(&syn);
            assert_eq!((seq, ack, flags), (100, cookie, SYN));
            let want =
                Options { mss: Some(1360), scale: Some(5), sack: true, stamps: Some((80, held)) };
            assert_eq!(options, want);
        }
        let too_late = Instant::from_secs(1000 + 2 * PERIOD_SECONDS);
        assert_eq!(table.proxy(RULE, &packet, &bytes, true, 64, too_late), Proxied::Refused);
        for (seq, ack) in [(102, cookie.wrapping_add(1)), (101, cookie), (101, cookie ^ 1 << 24)] {
            let (packet, bytes) = client(ACK, seq, ack, answer);
            assert_eq!(table.proxy(RULE, &packet, &bytes, true, 64, now), Proxied::Refused);
        }
        let other = Conntrack::new(Settings::default(), [1, 3]);
        assert_eq!(other.proxy(RULE, &packet, &bytes, true, 64, now), Proxied::Refused);
    }

    #[test]
    fn without_time_stamps_only_the_size_is_held() {
        let table = Conntrack::new(Settings::default(), [1, 2]);
        let now = Instant::from_secs(1000);
        let asked = Options { mss: None, scale: Some(5), sack: true, stamps: None };
        let (packet, mut bytes) = client(SYN, 100, 0, asked);
        let Proxied::Greeted(greeting) = table.proxy(RULE, &packet, &bytes, true, 64, now) else {
            panic!("no greeting")
        };
        let (cookie, _, _, offered) = fields(&greeting);
        assert_eq!(offered, Options::default());
        let (packet, answer) = client(ACK, 101, cookie.wrapping_add(1), Options::default());
        let Proxied::Admitted(syn) = table.proxy(RULE, &packet, &answer, true, 64, now) else {
            panic!("refused")
        };
        assert_eq!(fields(&syn).3, Options { mss: Some(536), ..Options::default() });
        bytes[40] ^= 1;
        let packet = Parsed::parse(&bytes).unwrap();
        assert_eq!(table.proxy(RULE, &packet, &bytes, true, 64, now), Proxied::Refused);
    }
}
