//! Makes one super-packet out of UDP datagrams of a flow that come in one burst (the reverse of
//! `UDP_SEGMENT`). The kernel then carries one packet, and cuts it where datagrams are wanted: in
//! the device, in front of a device that can't, or at the receiving socket.
//!
//! Only what leaves no trace is merged. The headers must be equal but for what differs from
//! segment to segment by itself: lengths, the checksum, and IPv4's identification, which means
//! nothing where fragmenting is forbidden (RFC 6864 section 4.1) and else must count on as the
//! segments' will. The checksum must be known to be right, since the segments get new ones. A
//! flow's datagrams stay in order.

use super::{BURST, Checksum, Gso, GsoKind, Offload, Outgoing};
use tidegate_packet::{Addr, checksum, ethernet, ipv4, protocol, udp};

/// Segments that every kernel since 4.18 takes (`UDP_MAX_SEGMENTS`).
const MAX_SEGMENTS: usize = 64;
/// Bytes of payload that leave room for the headers in 65,535 bytes.
const MAX_PAYLOAD: usize = 65_000;
/// Flows that are gathered at the same time; a burst with more is merged less.
const OPEN: usize = 8;
/// Ethernet, IPv6, UDP.
const LONGEST_HEADER: usize = ethernet::HEADER_LEN + 40 + udp::HEADER_LEN;

const L3: usize = ethernet::HEADER_LEN;
const NO_FRAME: u8 = u8::MAX;

/// Frames that are sent as one.
#[derive(Copy, Clone, Debug)]
pub(super) struct Group {
    first: u8,
    last: u8,
    /// How many frames.
    pub frames: usize,
    /// Their bytes, as if each were sent by itself.
    pub bytes: usize,
    /// Payload bytes of the first and of all.
    size: usize,
    total: usize,
    open: bool,
}

impl Group {
    /// The number of its first frame.
    pub fn first(&self) -> usize {
        usize::from(self.first)
    }
}

/// How the frames of a burst are put together.
#[derive(Debug)]
pub(super) struct Groups {
    groups: [Group; BURST],
    len: usize,
    /// The next frame of the same group.
    next: [u8; BURST],
}

impl Groups {
    /// Every frame by itself.
    pub fn single(frames: &[Outgoing<'_>]) -> Self {
        let mut this = Self::empty();
        for (index, frame) in frames.iter().enumerate().take(BURST) {
            this.open(index, frame, 0, false);
        }
        this
    }

    /// Datagrams of one flow together, in the order of each group's first frame.
    pub fn of(frames: &[Outgoing<'_>]) -> Self {
        let mut this = Self::empty();
        for (index, frame) in frames.iter().enumerate().take(BURST) {
            match Datagram::of(frame) {
                Some(datagram) => this.place(frames, index, &datagram),
                None => {
                    // It may belong to a flow that is being gathered, and must not be overtaken.
                    if may_be_udp(frame.bytes) {
                        this.close_all();
                    }
                    this.open(index, frame, 0, false);
                }
            }
        }
        this
    }

    fn empty() -> Self {
        let none = Group { first: 0, last: 0, frames: 0, bytes: 0, size: 0, total: 0, open: false };
        Self { groups: [none; BURST], len: 0, next: [NO_FRAME; BURST] }
    }

    fn open(&mut self, index: usize, frame: &Outgoing<'_>, size: usize, open: bool) {
        let at = index as u8;
        let bytes = frame.bytes.len();
        self.groups[self.len] =
            Group { first: at, last: at, frames: 1, bytes, size, total: size, open };
        self.len += 1;
    }

    fn close_all(&mut self) {
        self.groups[..self.len].iter_mut().for_each(|g| g.open = false);
    }

    fn place(&mut self, frames: &[Outgoing<'_>], index: usize, datagram: &Datagram<'_>) {
        let recent = self.len.saturating_sub(OPEN);
        for group in self.groups[recent..self.len].iter_mut().filter(|g| g.open) {
            let first = &frames[usize::from(group.first)];
            if !datagram.same_flow(first) {
                continue;
            }
            let size = datagram.payload;
            let fits = size <= group.size
                && group.frames < MAX_SEGMENTS
                && group.total + size <= MAX_PAYLOAD
                && datagram.continues(first, group.frames);
            if !fits {
                group.open = false;
                break;
            }
            self.next[usize::from(group.last)] = index as u8;
            group.last = index as u8;
            group.frames += 1;
            group.bytes += datagram.bytes.len();
            group.total += size;
            // Only the last segment may be shorter.
            group.open = size == group.size;
            return;
        }
        self.open(index, &frames[index], datagram.payload, true);
    }

    /// The groups in the order in which they are to be sent.
    pub fn as_slice(&self) -> &[Group] {
        &self.groups[..self.len]
    }

    /// The numbers of a group's frames, in order.
    pub fn frames<'a>(&'a self, group: &Group) -> impl Iterator<Item = usize> + 'a {
        let mut at = group.first;
        std::iter::from_fn(move || {
            let index = usize::from(at);
            at = *self.next.get(index)?;
            Some(index)
        })
    }
}

/// The headers of a super-packet and what the device has to know of it.
#[derive(Copy, Clone, Debug)]
pub(super) struct Header {
    bytes: [u8; LONGEST_HEADER],
    len: usize,
    offload: Offload,
}

impl Header {
    /// Those of nothing.
    pub const NONE: Self = Self {
        bytes: [0; LONGEST_HEADER],
        len: 0,
        offload: Offload { checksum: Checksum::Unverified, gso: None },
    };

    /// The first frame's headers, with the lengths and checksums of all together.
    pub fn of(group: &Group, first: &Outgoing<'_>) -> Self {
        let l4 = first.bytes.len() - group.size - udp::HEADER_LEN;
        let len = l4 + udp::HEADER_LEN;
        let mut bytes = [0; LONGEST_HEADER];
        bytes[..len].copy_from_slice(&first.bytes[..len]);
        let udp_len = (udp::HEADER_LEN + group.total) as u16;
        let (src, dst) = if is_v4(&bytes) {
            let total = (l4 - L3) as u16 + udp_len;
            bytes[L3 + 2..L3 + 4].copy_from_slice(&total.to_be_bytes());
            ipv4::write_checksum(&mut bytes[L3..l4]);
            let addr = |at: usize| {
                Addr::from_v4_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
            };
            (addr(L3 + 12), addr(L3 + 16))
        } else {
            bytes[L3 + 4..L3 + 6].copy_from_slice(&udp_len.to_be_bytes());
            let addr = |at: usize| {
                let mut octets = [0; 16];
                octets.copy_from_slice(&bytes[at..at + 16]);
                Addr::from_v6_bytes(octets)
            };
            (addr(L3 + 8), addr(L3 + 24))
        };
        bytes[l4 + 4..l4 + 6].copy_from_slice(&udp_len.to_be_bytes());
        let pseudo = checksum::pseudo_header(src, dst, protocol::UDP, udp_len.into());
        let at = l4 + udp::CHECKSUM_AT;
        bytes[at..at + 2].copy_from_slice(&checksum::fold(pseudo).to_be_bytes());
        let offload = Offload {
            checksum: Checksum::Partial { start: l4 as u16, offset: udp::CHECKSUM_AT as u16 },
            gso: Some(Gso { kind: GsoKind::UdpL4, size: group.size as u16, ecn: false }),
        };
        Self { bytes, len, offload }
    }

    /// As a frame without payload.
    pub fn outgoing(&self) -> Outgoing<'_> {
        Outgoing { bytes: &self.bytes[..self.len], offload: self.offload }
    }
}

/// A datagram that may be merged.
struct Datagram<'a> {
    bytes: &'a [u8],
    l4: usize,
    payload: usize,
}

impl<'a> Datagram<'a> {
    fn of(frame: &Outgoing<'a>) -> Option<Self> {
        let Outgoing { bytes, offload } = *frame;
        if offload.gso.is_some() || bytes.len() < L3 + 28 {
            return None;
        }
        let l4 = match be16(bytes, 12) {
            // No options, no fragment.
            ethernet::IPV4 => {
                let plain = bytes[L3] == 0x45 && be16(bytes, L3 + 6) & 0x3fff == 0;
                let whole = usize::from(be16(bytes, L3 + 2)) == bytes.len() - L3;
                (plain && whole && bytes[L3 + 9] == protocol::UDP).then_some(L3 + 20)?
            }
            ethernet::IPV6 if bytes.len() >= LONGEST_HEADER => {
                let whole = usize::from(be16(bytes, L3 + 4)) == bytes.len() - L3 - 40;
                (whole && bytes[L3 + 6] == protocol::UDP).then_some(L3 + 40)?
            }
            _ => return None,
        };
        let known = match offload.checksum {
            Checksum::Partial { start, offset } => {
                usize::from(start) == l4 && usize::from(offset) == udp::CHECKSUM_AT
            }
            // Zero says that there is none (RFC 768).
            Checksum::Valid => be16(bytes, l4 + udp::CHECKSUM_AT) != 0,
            Checksum::Unverified => false,
        };
        let payload = bytes.len() - l4 - udp::HEADER_LEN;
        let whole = usize::from(be16(bytes, l4 + 4)) == udp::HEADER_LEN + payload;
        (known && whole && payload > 0).then_some(Self { bytes, l4, payload })
    }

    /// Same family, addresses and ports.
    #[inline]
    fn same_flow(&self, first: &Outgoing<'_>) -> bool {
        let (a, b) = (self.bytes, first.bytes);
        let addresses = if is_v4(a) { L3 + 12..L3 + 20 } else { L3 + 8..L3 + 40 };
        let ports = self.l4..self.l4 + 4;
        a[12..14] == b[12..14]
            && a[addresses.clone()] == b[addresses]
            && a[ports.clone()] == b[ports]
    }

    /// Whether it is what segment `number` of a super-packet that begins with `first` looks like.
    fn continues(&self, first: &Outgoing<'_>, number: usize) -> bool {
        let (a, b) = (self.bytes, first.bytes);
        if a[..12] != b[..12] {
            return false;
        }
        if !is_v4(a) {
            // Version, class, flow label; next header and hop limit.
            return a[L3..L3 + 4] == b[L3..L3 + 4] && a[L3 + 6..L3 + 8] == b[L3 + 6..L3 + 8];
        }
        let dont_fragment = a[L3 + 6] & 0x40 != 0;
        let id = be16(b, L3 + 4).wrapping_add(number as u16);
        a[L3..L3 + 2] == b[L3..L3 + 2]
            && a[L3 + 6..L3 + 10] == b[L3 + 6..L3 + 10]
            && (dont_fragment || be16(a, L3 + 4) == id)
    }
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn is_v4(frame: &[u8]) -> bool {
    be16(frame, 12) == ethernet::IPV4
}

/// Whether a frame that isn't merged may belong to a flow of datagrams: all but plain TCP.
fn may_be_udp(frame: &[u8]) -> bool {
    let upper = match frame.get(12..14) {
        Some([0x08, 0x00]) => frame.get(L3 + 9),
        Some([0x86, 0xdd]) => frame.get(L3 + 6),
        _ => None,
    };
    upper != Some(&protocol::TCP)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_packet::MacAddr;
    use tidegate_packet::builder::{self, Ip};

    const VALID: Offload = Offload { checksum: Checksum::Valid, gso: None };

    struct Row {
        port: u16,
        ttl: u8,
        payload: usize,
        offload: Offload,
        tcp: bool,
    }

    const ROW: Row = Row { port: 9, ttl: 63, payload: 18, offload: VALID, tcp: false };

    fn frame(row: &Row, v6: bool) -> Vec<u8> {
        let [src, dst] = if v6 { ["fd00::1", "fd00::2"] } else { ["10.0.0.1", "10.0.0.2"] };
        let addr = |text: &str| text.parse().expect("an address");
        let ip = Ip {
            hop_limit: row.ttl,
            dont_fragment: true,
            ..Ip::new(addr(src), addr(dst), protocol::UDP)
        };
        let payload: Vec<u8> = (0..row.payload).map(|n| n as u8).collect();
        let packet = if row.tcp {
            builder::tcp(
                ip,
                builder::Tcp { sport: 1, dport: row.port, ..Default::default() },
                &payload,
            )
        } else {
            builder::udp(ip, 1, row.port, &payload)
        };
        let mut bytes = vec![0; L3];
        let ethertype = if v6 { ethernet::IPV6 } else { ethernet::IPV4 };
        ethernet::write(&mut bytes, MacAddr([2; 6]), MacAddr([4; 6]), ethertype);
        bytes.extend_from_slice(&packet);
        bytes
    }

    fn groups(rows: &[Row], v6: bool) -> Vec<Vec<usize>> {
        let bytes: Vec<_> = rows.iter().map(|r| frame(r, v6)).collect();
        let frames: Vec<_> = bytes
            .iter()
            .zip(rows)
            .map(|(bytes, row)| Outgoing { bytes, offload: row.offload })
            .collect();
        let groups = Groups::of(&frames);
        groups.as_slice().iter().map(|g| groups.frames(g).collect()).collect()
    }

    #[test]
    fn only_what_leaves_no_trace_is_merged_and_flows_stay_in_order() {
        let unverified = Offload::default();
        type Want = Vec<Vec<usize>>;
        let rows: Vec<(&str, Vec<Row>, Want)> = vec![
            ("alike", vec![ROW, ROW, ROW], vec![vec![0, 1, 2]]),
            (
                "two flows",
                vec![ROW, Row { port: 8, ..ROW }, ROW, Row { port: 8, ..ROW }],
                vec![vec![0, 2], vec![1, 3]],
            ),
            (
                "a shorter one is the last",
                vec![ROW, Row { payload: 7, ..ROW }, ROW],
                vec![vec![0, 1], vec![2]],
            ),
            (
                "a longer one begins anew",
                vec![ROW, Row { payload: 19, ..ROW }],
                vec![vec![0], vec![1]],
            ),
            ("another TTL", vec![ROW, Row { ttl: 9, ..ROW }, ROW], vec![vec![0], vec![1], vec![2]]),
            (
                "a checksum that nobody looked at closes",
                vec![ROW, Row { offload: unverified, ..ROW }, ROW],
                vec![vec![0], vec![1], vec![2]],
            ),
            ("TCP doesn't", vec![ROW, Row { tcp: true, ..ROW }, ROW], vec![vec![0, 2], vec![1]]),
            (
                "without payload",
                vec![Row { payload: 0, ..ROW }, Row { payload: 0, ..ROW }],
                vec![vec![0], vec![1]],
            ),
        ];
        for (what, rows, want) in rows {
            assert_eq!(groups(&rows, true), want, "{what}, IPv6");
            assert_eq!(groups(&rows, false), want, "{what}, IPv4");
        }
    }

    #[test]
    fn identifications_count_on_unless_fragmenting_is_forbidden() {
        for (flags, ids, want) in [
            (0x40, [7, 7, 90], 1),
            (0, [7, 8, 9], 1),
            (0, [0xffff, 0, 1], 1),
            (0, [7, 7, 7], 3),
            (0, [7, 8, 10], 2),
        ] {
            let bytes = ids.map(|id: u16| {
                let mut bytes = frame(&ROW, false);
                bytes[L3 + 4..L3 + 6].copy_from_slice(&id.to_be_bytes());
                bytes[L3 + 6] = flags;
                bytes
            });
            let frames = bytes.each_ref().map(|bytes| Outgoing { bytes, offload: VALID });
            assert_eq!(Groups::of(&frames).as_slice().len(), want, "{flags:#x} {ids:?}");
        }
    }

    #[test]
    fn limits_hold() {
        let many: Vec<Row> = (0..BURST).map(|_| ROW).collect();
        assert_eq!(groups(&many, false).len(), 1);
        let long: Vec<Row> = (0..BURST).map(|_| Row { payload: 1472, ..ROW }).collect();
        let sizes: Vec<_> = groups(&long, false).iter().map(Vec::len).collect();
        assert_eq!(sizes, [44, 20]);
    }

    #[test]
    fn the_header_covers_all_segments() {
        for v6 in [false, true] {
            let bytes = frame(&ROW, v6);
            let frames = [Outgoing { bytes: &bytes, offload: VALID }; 3];
            let groups = Groups::of(&frames);
            let group = groups.as_slice()[0];
            let header = Header::of(&group, &frames[0]);
            let head = header.outgoing();
            let mut whole = head.bytes.to_vec();
            for index in groups.frames(&group) {
                whole.extend_from_slice(&frames[index].bytes[head.bytes.len()..]);
            }
            // What the device is to do with the whole, were it not cut.
            let Checksum::Partial { start, offset } = head.offload.checksum else { panic!() };
            assert!(checksum::complete_partial(&mut whole, start.into(), offset.into()));
            let parsed = tidegate_packet::Parsed::parse(&whole[L3..]).expect("a packet");
            assert_eq!(parsed.len as usize, whole.len() - L3);
            let segment = &whole[start.into()..];
            assert!(checksum::verify_transport(parsed.src, parsed.dst, protocol::UDP, segment));
            assert_eq!(group.bytes, 3 * bytes.len());
            let gso = head.offload.gso.expect("a super-packet");
            assert_eq!((gso.kind, gso.size), (GsoKind::UdpL4, 18));
        }
    }
}
