//! `struct virtio_net_hdr`, which packet sockets and TAP devices put in front of a frame to say
//! what is left to do for it: <https://docs.oasis-open.org/virtio/virtio/v1.2/>, section 5.1.6.
//! The kernel uses it in the machine's own byte order here (legacy virtio).

use super::{Checksum, Gso, GsoKind, Offload, Outgoing};

/// Length of the header without the receive-buffer count.
pub(super) const LEN: usize = 10;

const F_NEEDS_CSUM: u8 = 1;
const F_DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// The header says something that can't be honoured, so the frame can't be handed on.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct Unusable;

/// Reads the header in front of a frame of `frame_len` bytes.
pub(super) fn parse(header: &[u8; LEN], frame_len: usize) -> Result<Offload, Unusable> {
    let [flags, gso_type, rest @ ..] = header;
    let field = |at: usize| u16::from_ne_bytes([rest[at], rest[at + 1]]);
    let (gso_size, start, offset) = (field(2), field(4), field(6));
    let checksum = if flags & F_NEEDS_CSUM != 0 {
        if usize::from(start) + usize::from(offset) + 2 > frame_len {
            return Err(Unusable);
        }
        Checksum::Partial { start, offset }
    } else if flags & F_DATA_VALID != 0 {
        Checksum::Valid
    } else {
        Checksum::Unverified
    };
    let kind = match gso_type & !GSO_ECN {
        GSO_NONE => return Ok(Offload { checksum, gso: None }),
        GSO_TCPV4 => GsoKind::Tcp4,
        GSO_TCPV6 => GsoKind::Tcp6,
        GSO_UDP_L4 => GsoKind::UdpL4,
        // UDP fragmentation (3) and tunnels: cutting them needs more than this header says.
        _ => return Err(Unusable),
    };
    if gso_size == 0 {
        return Err(Unusable);
    }
    let gso = Gso { kind, size: gso_size, ecn: gso_type & GSO_ECN != 0 };
    Ok(Offload { checksum, gso: Some(gso) })
}

/// Writes the header for a frame to be sent.
pub(super) fn emit(frame: &Outgoing<'_>) -> [u8; LEN] {
    let mut header = [0; LEN];
    let mut put = |at: usize, value: u16| {
        header[at..at + 2].copy_from_slice(&value.to_ne_bytes());
    };
    if let Checksum::Partial { start, offset } = frame.offload.checksum {
        put(6, start);
        put(8, offset);
    }
    if let Some(gso) = frame.offload.gso {
        put(2, header_len(frame));
        put(4, gso.size);
    }
    match frame.offload.checksum {
        Checksum::Partial { .. } => header[0] = F_NEEDS_CSUM,
        Checksum::Valid => header[0] = F_DATA_VALID,
        Checksum::Unverified => {}
    }
    if let Some(gso) = frame.offload.gso {
        header[1] = match gso.kind {
            GsoKind::Tcp4 => GSO_TCPV4,
            GsoKind::Tcp6 => GSO_TCPV6,
            GsoKind::UdpL4 => GSO_UDP_L4,
        } | if gso.ecn { GSO_ECN } else { 0 };
    }
    header
}

/// Bytes of all headers of a super-packet: what the kernel keeps in the linear part of its
/// buffer. Only a hint (0 is allowed), so a frame that doesn't say where its transport header
/// begins goes without.
fn header_len(frame: &Outgoing<'_>) -> u16 {
    let (Checksum::Partial { start, .. }, Some(gso)) = (frame.offload.checksum, frame.offload.gso)
    else {
        return 0;
    };
    let transport = match gso.kind {
        GsoKind::UdpL4 => 8,
        GsoKind::Tcp4 | GsoKind::Tcp6 => {
            let data_offset = frame.bytes.get(usize::from(start) + 12).copied().unwrap_or(0);
            u16::from(data_offset >> 4) * 4
        }
    };
    let len = start.saturating_add(transport);
    if usize::from(len) <= frame.bytes.len() { len } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(flags: u8, gso_type: u8, fields: [u16; 4]) -> [u8; LEN] {
        let mut header = [flags, gso_type, 0, 0, 0, 0, 0, 0, 0, 0];
        for (i, value) in fields.into_iter().enumerate() {
            header[2 + 2 * i..4 + 2 * i].copy_from_slice(&value.to_ne_bytes());
        }
        header
    }

    const PARTIAL: Checksum = Checksum::Partial { start: 34, offset: 16 };

    fn gso(kind: GsoKind, ecn: bool) -> Option<Gso> {
        Some(Gso { kind, size: 1448, ecn })
    }

    #[test]
    fn headers_are_read_and_written() {
        let rows = [
            (header(0, 0, [0; 4]), Checksum::Unverified, None),
            (header(2, 0, [0; 4]), Checksum::Valid, None),
            (header(1, 0, [0, 0, 34, 16]), PARTIAL, None),
            (header(1, 1, [66, 1448, 34, 16]), PARTIAL, gso(GsoKind::Tcp4, false)),
            (header(1, 0x81, [66, 1448, 34, 16]), PARTIAL, gso(GsoKind::Tcp4, true)),
            (header(1, 4, [66, 1448, 34, 16]), PARTIAL, gso(GsoKind::Tcp6, false)),
            (header(1, 5, [42, 1448, 34, 16]), PARTIAL, gso(GsoKind::UdpL4, false)),
        ];
        // A TCP header of 32 bytes at 34.
        let mut bytes = vec![0; 3000];
        bytes[46] = 8 << 4;
        for (wire, checksum, gso) in rows {
            let offload = Offload { checksum, gso };
            assert_eq!(parse(&wire, bytes.len()), Ok(offload), "{wire:?}");
            assert_eq!(emit(&Outgoing { bytes: &bytes, offload }), wire, "{offload:?}");
        }
    }

    #[test]
    fn what_cannot_be_honoured_is_unusable() {
        let rows = [
            ("UDP fragmentation offload", header(1, 3, [42, 1448, 34, 6]), 3000),
            ("unknown kind", header(1, 2, [42, 1448, 34, 6]), 3000),
            ("a tunnel", header(1, 0x41, [42, 1448, 34, 6]), 3000),
            ("segments of no size", header(1, 1, [66, 0, 34, 16]), 3000),
            ("checksum field outside", header(1, 0, [0, 0, 34, 16]), 51),
            ("checksum start far outside", header(1, 0, [0, 0, u16::MAX, u16::MAX]), 3000),
        ];
        for (what, wire, frame_len) in rows {
            assert_eq!(parse(&wire, frame_len), Err(Unusable), "{what}");
        }
        assert!(parse(&header(1, 0, [0, 0, 34, 16]), 52).is_ok());
    }

    #[test]
    fn a_hint_never_exceeds_the_frame() {
        let offload = Offload { checksum: PARTIAL, gso: gso(GsoKind::Tcp4, false) };
        let mut bytes = vec![0; 60];
        bytes[46] = 15 << 4;
        assert_eq!(&emit(&Outgoing { bytes: &bytes, offload })[2..4], &[0, 0]);
        assert_eq!(&emit(&Outgoing { bytes: &bytes[..20], offload })[2..4], &[0, 0]);
    }
}
