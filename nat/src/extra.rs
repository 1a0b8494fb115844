//! What only connections have that some rule or helper treats specially: zones, labels, helpers,
//! masters, shifted sequence numbers.

use crate::conn::{Connection, Direction};
use crate::helpers::{Help, Helper};
use crate::seqadj::SeqAdjust;
use crate::synproxy::Handshake;
use crate::tracked::ConnId;

/// What a `CT` rule has said before the packet's connection was looked for.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
pub struct Template {
    /// The zone of the original and of the reply direction. Tuples are unique per zone and
    /// direction; 0 is where everything is that no rule says anything about.
    pub zones: [u16; 2],
    /// Who reads along if the packet starts a connection.
    pub helper: Option<Helper>,
    /// These events alone are to be told of the connection, in the kernel's places (`IPCT_*`).
    pub events: Option<u16>,
    /// The same for its expectations (`IPEXP_*`).
    pub expectation_events: Option<u8>,
    /// The packet is a SYN that the SYN proxy has made.
    pub synproxy: bool,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Extra {
    pub(crate) zones: [u16; 2],
    pub(crate) labels: u128,
    pub(crate) events: Option<u16>,
    pub(crate) expectation_events: Option<u8>,
    pub(crate) help: Option<Box<Help>>,
    pub(crate) master: Option<Master>,
    pub(crate) seqadj: Option<Box<[SeqAdjust; 2]>>,
    pub(crate) handshake: Option<Box<Handshake>>,
}

/// Which connection announced this one.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Master {
    pub(crate) id: ConnId,
    pub(crate) helper: Helper,
}

impl Connection {
    #[inline]
    pub(crate) fn extra(&self) -> Option<&Extra> {
        self.rare.as_ref()?.extra.as_deref()
    }

    #[inline]
    pub(crate) fn extra_mut(&mut self) -> Option<&mut Extra> {
        self.rare.as_mut()?.extra.as_deref_mut()
    }

    /// The same, made if it isn't there.
    pub(crate) fn make_extra(&mut self) -> &mut Extra {
        self.forget_paths();
        self.rare.get_or_insert_default().extra.get_or_insert_default()
    }

    /// Its zones, original then reply.
    #[inline]
    pub fn zones(&self) -> [u16; 2] {
        self.extra().map(|e| e.zones).unwrap_or_default()
    }

    /// Its labels, a bit each (`connlabel`).
    pub fn labels(&self) -> u128 {
        self.extra().map(|e| e.labels).unwrap_or_default()
    }

    /// The events that are to be told of it (`--ctevents`); absent: all.
    pub fn event_mask(&self) -> Option<u16> {
        self.extra().and_then(|e| e.events)
    }

    /// The events that are to be told of its expectations (`--expevents`); absent: all.
    pub fn expectation_event_mask(&self) -> Option<u8> {
        self.extra().and_then(|e| e.expectation_events)
    }

    /// Who reads along.
    pub fn helper(&self) -> Option<Helper> {
        self.extra()?.help.as_ref().map(|help| help.kind)
    }

    /// The connection that announced this one; it may be gone.
    pub fn master(&self) -> Option<ConnId> {
        self.extra()?.master.map(|m| m.id)
    }

    /// The helper of the connection that announced this one.
    pub fn master_helper(&self) -> Option<Helper> {
        self.extra()?.master.map(|m| m.helper)
    }

    /// How far a number of this direction has been shifted on its way, by the number itself as
    /// its sender counts.
    #[inline]
    pub(crate) fn seq_offset(&self, direction: Direction, seq: u32) -> u32 {
        match self.extra().and_then(|e| e.seqadj.as_deref()) {
            Some(ways) => ways[direction.index()].offset(seq),
            None => 0,
        }
    }
}
