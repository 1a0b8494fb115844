//! What stays with a packet on its way: state, direction, connection.

use std::ops::{Deref, DerefMut};

use crate::conn::{Connection, Direction};

/// A packet's relation to its connection, as `--ctstate` sees it.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Of a connection that has seen packets in one direction only.
    New,
    /// Of a connection that has seen packets both ways.
    Established,
    /// An error about a connection, or an answer that the gateway makes to one of its packets.
    Related,
    /// Of no connection, and fit to start none.
    Invalid(InvalidReason),
    /// Exempt from tracking.
    Untracked,
}

/// Why a packet is INVALID. Each is a counter's name.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum InvalidReason {
    /// A fragment that was not reassembled.
    #[error("fragment without transport header")]
    Fragment,
    /// The transport header is cut short or contradicts itself.
    #[error("malformed transport header")]
    Malformed,
    /// The transport checksum is wrong.
    #[error("bad transport checksum")]
    Checksum,
    /// The UDP length field is too small or too large.
    #[error("bad UDP length")]
    UdpLength,
    /// Flags that no TCP sends together.
    #[error("invalid TCP flags")]
    TcpFlags,
    /// This segment makes no sense in this state of the connection.
    #[error("TCP segment out of state")]
    TcpState,
    /// The segment can't start a connection.
    #[error("TCP segment without connection")]
    TcpNew,
    /// Sequence or acknowledgment number beyond the window.
    #[error("TCP segment out of window")]
    TcpWindow,
    /// A reset below the window.
    #[error("TCP reset out of window")]
    TcpReset,
    /// SCTP chunks that don't go together, or none at all.
    #[error("SCTP chunks that don't go together")]
    SctpChunks,
    /// An SCTP packet that can't start an association.
    #[error("SCTP packet without association")]
    SctpNew,
    /// A wrong verification tag.
    #[error("wrong SCTP verification tag")]
    SctpTag,
    /// An SCTP chunk that makes no sense in this state.
    #[error("SCTP chunk out of state")]
    SctpState,
    /// An ICMP message that is neither a query that opens a connection nor the answer to one.
    #[error("ICMP message without connection")]
    IcmpNew,
    /// An ICMP type that isn't known.
    #[error("unknown ICMP type")]
    IcmpType,
    /// An ICMP error whose quoted packet is damaged.
    #[error("ICMP error with a damaged quote")]
    IcmpQuote,
    /// An ICMP error about no connection.
    #[error("ICMP error about no connection")]
    IcmpNoConnection,
    /// An ICMP error that isn't addressed to the sender of the packet it quotes.
    #[error("ICMP error to somebody else")]
    IcmpAddress,
}

/// Names a connection in the table.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConnId {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

impl ConnId {
    /// The shard whose table it is in.
    #[inline]
    pub const fn shard(self) -> u8 {
        (self.generation >> crate::store::GENERATION_BITS) as u8
    }

    /// A number for listings. Two connections of a gateway have different ones unless it has more
    /// than a million places for them, or with several shards 128 thousand each.
    pub const fn number(self) -> u32 {
        self.slot ^ (self.generation << 20) ^ ((self.shard() as u32) << 17)
    }
}

/// What stays with a packet: its state, its direction, its connection.
#[derive(Clone, Debug)]
pub struct Tracked {
    pub(crate) state: State,
    pub(crate) direction: Direction,
    pub(crate) entry: Entry,
    pub(crate) role: Role,
}

/// Where the packet's connection is.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    None,
    /// Not in the table: new (this packet alone has it), or removed by this very packet.
    Own(Box<Loose>),
    Known(ConnId),
}

/// A connection outside the table.
#[derive(Clone, Debug)]
pub(crate) struct Loose {
    pub(crate) conn: Connection,
    /// Hashes outside zones of its tuples, original and reply, as far as they were looked for and
    /// not found in any table.
    pub(crate) free: [Option<u64>; 2],
    /// How many connections had entered tables by then ([`crate::shared`]).
    pub(crate) entered: u64,
    /// The hash of its original source, if that was asked for.
    pub(crate) source: Option<u64>,
}

impl Loose {
    /// A tuple's hash, if it is known that the tuple is free still.
    #[inline]
    pub(crate) fn is_free(&self, direction: Direction, entered: u64) -> Option<u64> {
        self.free[direction.index()].filter(|_| self.entered == entered)
    }
}

impl Deref for Loose {
    type Target = Connection;

    #[inline]
    fn deref(&self) -> &Connection {
        &self.conn
    }
}

impl DerefMut for Loose {
    #[inline]
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.conn
    }
}

/// What the packet is to its connection.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// One of its packets.
    Member,
    /// An ICMP error about it.
    Error,
    /// The gateway's answer to one of its packets.
    Answer,
}

impl Tracked {
    /// A packet exempt from tracking (`NOTRACK`).
    pub const fn untracked() -> Self {
        Self::without(State::Untracked)
    }

    pub(crate) const fn invalid(reason: InvalidReason) -> Self {
        Self::without(State::Invalid(reason))
    }

    const fn without(state: State) -> Self {
        Self { state, direction: Direction::Original, entry: Entry::None, role: Role::Member }
    }

    /// The relation to the connection.
    #[inline]
    pub fn state(&self) -> State {
        self.state
    }

    /// The direction inside the connection; original where there is none.
    #[inline]
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// Whether it is an ICMP error about its connection.
    #[inline]
    pub fn is_error(&self) -> bool {
        self.role == Role::Error
    }

    /// The name of the connection, if it is in the table.
    #[inline]
    pub fn id(&self) -> Option<ConnId> {
        match self.entry {
            Entry::Known(id) => Some(id),
            _ => None,
        }
    }
}

/// What [`crate::Conntrack::confirm`] did.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Confirmed {
    /// The packet has no connection, or its connection was in the table already.
    Nothing,
    /// The connection is in the table now.
    Inserted(ConnId),
    /// As `Inserted`; the table was full and another connection had to go.
    InsertedForAnother(ConnId),
}

/// Why the first packet of a connection must be dropped. Each is a drop reason.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ConfirmDrop {
    /// One of its tuples is taken by another connection.
    #[error("tuple is taken by another connection")]
    Clash,
    /// The table is full and nothing in it may be dropped.
    #[error("connection table full")]
    TableFull,
}
