//! What a client asks about connections, and what the gateway tells.

use super::entry::{Entry, Side};
use super::events::{Happened, HappenedExpected, What};
use super::expected::Expected;
use super::filter::Filter;
use serde::{Deserialize, Serialize};

/// What a client wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Ask {
    /// Some of the connections that a filter means, from a place on. Answered by
    /// [`Tell::Page`], whose `next` is where to go on.
    Walk {
        /// Which.
        filter: Box<Filter>,
        /// What to do with them.
        action: Action,
        /// Where to begin; 0 at first.
        cursor: u32,
    },
    /// The connection that has exactly these ends in one direction.
    Get {
        /// Transport protocol.
        protocol: u8,
        /// The ends.
        side: Side,
        /// The reply direction instead of the original one.
        reply: bool,
    },
    /// Make a connection.
    Create {
        /// What it is to be like.
        entry: Box<Entry>,
        /// One that is there is an error; else it is changed.
        exclusive: bool,
    },
    /// Forget all connections, of one family if it is given.
    Flush {
        /// 4 or 6.
        family: Option<u8>,
    },
    /// How many there are.
    Count,
    /// The counters.
    Stats {
        /// Those of expectations.
        expectations: bool,
    },
    /// What helpers expect: all of it, or what is meant.
    Expected {
        /// Which.
        which: Which,
        /// They are to be given up.
        delete: bool,
    },
    /// Have something expected.
    Expect {
        /// What.
        expected: Box<Expected>,
    },
    /// Be told what happens from now on, by [`Ask::Next`] on the same connection.
    Listen {
        /// To which connections.
        filter: Box<Filter>,
        /// What of it.
        what: Vec<What>,
        /// How many events may wait before they are lost; at most [`QUEUE_MAX`].
        queue: usize,
        /// To expectations instead of connections; of these nothing is filtered.
        #[serde(default)]
        expectations: bool,
    },
    /// The events since the last time; waits a moment for some.
    Next,
}

/// Which expectations are meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Which {
    /// All.
    All,
    /// Of one family: 4 or 6.
    Family(u8),
    /// The one that a first packet with these ends would fulfil.
    Tuple(u8, Side),
}

/// Most events that wait for one listener.
pub const QUEUE_MAX: usize = 1 << 18;

/// What to do with the connections of a walk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Action {
    /// Tell them.
    List,
    /// Tell them and set their counters to zero.
    Zero,
    /// Forget them.
    Delete,
    /// Change them. Those that are so already stay and aren't told.
    Update(Change),
}

/// What becomes of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Change {
    /// The bits of the mark to change, and what they become.
    pub mark: Option<(u32, u32)>,
    /// Seconds that it lives if no packet comes.
    pub timeout: Option<u64>,
    /// Status bits to set.
    pub status: Option<u16>,
    /// The protocol's state.
    pub state: Option<String>,
    /// Labels to set.
    pub add_labels: Vec<u8>,
    /// Labels to take away.
    pub del_labels: Vec<u8>,
}

/// What the gateway tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tell {
    /// Connections.
    Page {
        /// Those that were meant, as they are after the action.
        entries: Vec<Entry>,
        /// Where to go on, if that wasn't all.
        next: Option<u32>,
        /// The gateway's time, nanoseconds since 1970.
        now: u64,
    },
    /// Expectations.
    Expected(Vec<Expected>),
    /// It was done.
    Done,
    /// How many.
    Count(u64),
    /// Counters with their names, as `conntrack -S` shows them.
    Stats(Vec<(String, u64)>),
    /// Events.
    Happened {
        /// Oldest first.
        events: Vec<Happened>,
        /// The same of expectations.
        #[serde(default)]
        expected: Vec<HappenedExpected>,
        /// How many were lost since the last time.
        lost: u64,
    },
    /// It can't be done.
    Fault(Fault),
}

/// Why something can't be done: the kernel's error numbers that conntrack has words for.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// ENOENT.
    #[error("No such file or directory")]
    Absent,
    /// EEXIST.
    #[error("File exists")]
    Exists,
    /// EINVAL.
    #[error("Invalid argument")]
    Invalid,
    /// ENOMEM.
    #[error("Cannot allocate memory")]
    Full,
    /// EOPNOTSUPP.
    #[error("Operation not supported")]
    Unsupported,
    /// EBUSY.
    #[error("Device or resource busy")]
    Busy,
}
