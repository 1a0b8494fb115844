//! A packet on its way through the engine.

use super::interface::{InterfaceId, PortId};
use super::ip_options::Options;
use crate::io::{Checksum, Frame, HEADROOM, Meta, Offload};
use tidegate_filter::{Link, Tracking};
use tidegate_nat::{Pieces, Tracked};
use tidegate_packet::checksum::{self, Field};
use tidegate_packet::{Family, ParseError, Parsed, ethernet, ipv6, protocol, udp};

/// A packet, edited in place in the memory it arrived in.
#[derive(Debug)]
pub struct Packet<'a> {
    /// The memory and what the device said.
    pub frame: Frame<'a>,
    /// Where the IP header stands in the slot.
    pub l3: usize,
    /// The decoded headers, kept in step with the bytes.
    pub parsed: Parsed,
    /// The interface it came in by; absent for the gateway's own.
    pub input: Option<InterfaceId>,
    /// The port it came in by.
    pub port: Option<PortId>,
    /// The link layer it arrived with.
    pub link: Option<Link>,
    /// Its mark.
    pub mark: u32,
    /// What a `CT` rule has said about its connection, before it is tracked.
    pub tracking: Option<Tracking>,
    /// It is a SYN that the SYN proxy has made.
    pub synproxy: bool,
    /// Its place in a connection, once tracked.
    pub tracked: Option<Tracked>,
    /// It was put together from these fragments.
    pub pieces: Option<Box<Pieces>>,
    /// Its IPv4 options, once looked at.
    pub options: Option<Box<Options>>,
    /// It met TRACE.
    pub trace: bool,
    /// TEE made it.
    pub copied: bool,
}

impl<'a> Packet<'a> {
    /// Decodes the packet that starts at `l3` in the slot and cuts link padding off.
    pub fn decode(mut frame: Frame<'a>, l3: usize) -> Result<Self, ParseError> {
        let parsed = read_headers(&mut frame, l3)?;
        Ok(Self::new(frame, l3, parsed))
    }

    /// One whose headers have been decoded.
    #[inline]
    pub fn new(frame: Frame<'a>, l3: usize, parsed: Parsed) -> Self {
        Self {
            frame,
            l3,
            parsed,
            input: None,
            port: None,
            link: None,
            mark: 0,
            tracking: None,
            synproxy: false,
            tracked: None,
            pieces: None,
            options: None,
            trace: false,
            copied: false,
        }
    }

    /// The same for the beginning of a packet whose end may be missing, as in a quote.
    pub fn decode_quote(frame: Frame<'a>, l3: usize) -> Result<Self, ParseError> {
        let parsed = Parsed::parse_quote(&frame.slot[l3..frame.meta.end])?;
        Ok(Self::new(frame, l3, parsed))
    }

    /// From the IP header to the end.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.frame.slot[self.l3..self.frame.meta.end]
    }

    /// From the IP header to the end, to be edited.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.frame.slot[self.l3..self.frame.meta.end]
    }

    /// What kind of value the transport checksum field holds.
    #[inline]
    pub fn checksum_field(&self) -> Field {
        match self.frame.meta.offload.checksum {
            Checksum::Partial { .. } => Field::Partial,
            Checksum::Unverified | Checksum::Valid => Field::Complete,
        }
    }

    /// The longest IP packet that this one puts on the wire: for a super-packet its segments.
    pub fn wire_len(&self) -> u32 {
        match self.frame.meta.offload.gso {
            Some(gso) => self.segment_header_len() as u32 + u32::from(gso.size),
            None => self.parsed.len,
        }
    }

    /// Whether it can't be sent on with this MTU, and its sender has to be told so.
    pub fn exceeds(&self, mtu: u32) -> bool {
        match &self.pieces {
            Some(pieces) => pieces.too_big(mtu as usize),
            None => self.wire_len() > mtu && self.parsed.dont_fragment,
        }
    }

    /// Whether something stands between the IPv6 header and the upper layer.
    #[inline]
    pub fn has_extension_headers(&self) -> bool {
        self.parsed.family == Family::V6 && self.parsed.l4 as usize != ipv6::HEADER_LEN
    }

    /// Length of the headers that every segment of a super-packet repeats.
    pub(crate) fn segment_header_len(&self) -> usize {
        let l4 = usize::from(self.parsed.l4);
        let transport = match self.parsed.protocol {
            protocol::TCP => usize::from(self.bytes().get(l4 + 12).map_or(5, |b| b >> 4)) * 4,
            _ => udp::HEADER_LEN,
        };
        l4 + transport
    }

    /// Computes a checksum that was left to the device. The segments of a super-packet get theirs
    /// when it is cut.
    pub fn complete_checksum(&mut self) {
        let Checksum::Partial { start, offset } = self.frame.meta.offload.checksum else { return };
        if self.frame.meta.offload.gso.is_some() {
            return;
        }
        let bytes = &mut self.frame.slot[self.frame.meta.start..self.frame.meta.end];
        if checksum::complete_partial(bytes, usize::from(start), usize::from(offset)) {
            self.frame.meta.offload.checksum = Checksum::Valid;
        }
    }

    /// Whether something is settled about its connection before it is tracked.
    pub fn has_template(&self) -> bool {
        self.tracking.is_some() || self.synproxy
    }

    /// Whether its slot has so many free bytes behind the packet.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.frame.slot.len() - self.frame.meta.end >= bytes
    }

    /// A copy of its frame with room behind it, for [`Packet::moved_to`].
    pub fn with_room(&self, bytes: usize) -> OwnedFrame {
        let mut slot = Vec::with_capacity(self.frame.meta.end + bytes);
        slot.extend_from_slice(&self.frame.slot[..self.frame.meta.end]);
        slot.resize(self.frame.meta.end + bytes, 0);
        OwnedFrame { slot, meta: *self.frame.meta }
    }

    /// The same packet in other memory, in which its bytes stand at the same place.
    pub fn moved_to<'b>(&mut self, frame: &'b mut OwnedFrame) -> Packet<'b> {
        let (tracked, pieces) = (self.tracked.take(), self.pieces.take());
        let options = self.options.take();
        Packet { frame: frame.frame(), tracked, pieces, options, ..*self }
    }

    /// A copy that owns its memory.
    pub fn to_owned_frame(&self) -> OwnedFrame {
        let mut slot = vec![0; HEADROOM];
        slot.extend_from_slice(self.bytes());
        let end = slot.len();
        let meta = Meta { start: HEADROOM, end, offload: self.frame.meta.offload, vlan: None };
        OwnedFrame { slot, meta }
    }
}

/// Decodes the headers of the packet that starts at `l3` in the slot and cuts link padding off.
#[inline]
pub(crate) fn read_headers(frame: &mut Frame<'_>, l3: usize) -> Result<Parsed, ParseError> {
    let parsed = Parsed::parse(&frame.slot[l3..frame.meta.end])?;
    frame.meta.end = l3 + parsed.len as usize;
    Ok(parsed)
}

/// A frame in memory of its own: made by the gateway, or kept for later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedFrame {
    /// The memory, with [`HEADROOM`] in front.
    pub slot: Vec<u8>,
    /// Where the frame stands.
    pub meta: Meta,
}

impl OwnedFrame {
    /// Around bytes, with headroom in front.
    pub fn new(bytes: &[u8]) -> Self {
        let mut slot = vec![0; HEADROOM];
        slot.extend_from_slice(bytes);
        let end = slot.len();
        Self { slot, meta: Meta { start: HEADROOM, end, offload: Offload::default(), vlan: None } }
    }

    /// As a frame to be edited.
    pub fn frame(&mut self) -> Frame<'_> {
        Frame { slot: &mut self.slot, meta: &mut self.meta }
    }

    /// The frame's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.slot[self.meta.start..self.meta.end]
    }
}

impl Frame<'_> {
    /// A copy in memory of its own.
    pub fn to_owned_frame(&self) -> OwnedFrame {
        let owned = OwnedFrame::new(self.bytes());
        let Meta { offload, vlan, .. } = *self.meta;
        OwnedFrame { meta: Meta { offload, vlan, ..owned.meta }, ..owned }
    }
}

/// EtherType of a packet's family.
pub fn ethertype(parsed: &Parsed) -> u16 {
    match parsed.family {
        Family::V4 => ethernet::IPV4,
        Family::V6 => ethernet::IPV6,
    }
}
