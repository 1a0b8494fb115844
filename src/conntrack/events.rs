//! Who listens to what happens to connections, and what waits for them.
//!
//! The packet path leaves events in the connection table's own bounded list; the manager takes
//! them from there and puts them into the queue of each listener. A listener that is too slow
//! loses events and is told how many; nobody waits for it.

use super::entry::{Entry, Moment};
use super::expected::Expected;
use super::filter::Filter;
use super::wire::QUEUE_MAX;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tidegate_nat::{Changes, Event, EventKind, ExpectationEvent};

/// Most listeners at a time.
const LISTENERS_MAX: usize = 8;
/// Most events that go in one answer.
const BATCH: usize = 1024;

/// What happened.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// A new connection.
    New,
    /// Something about it has changed.
    Update,
    /// It is gone.
    Destroy,
}

impl What {
    /// All of it.
    pub const ALL: [Self; 3] = [Self::New, Self::Update, Self::Destroy];
}

/// Something that happened to a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Happened {
    /// What.
    pub what: What,
    /// The connection as far as events tell it.
    pub entry: Entry,
    /// When, nanoseconds since 1970.
    pub at: u64,
    /// The process that did it, if it was no packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<u32>,
}

impl Happened {
    /// What the kernel's message about an event would hold: no counters but at the end, the mark if
    /// it is set or has changed, the state if it has changed (`ctnetlink_conntrack_event`).
    pub fn of(event: &Event, moment: Moment) -> Self {
        let Event { kind, changes, id, at, author, connection } = event;
        let time = Moment { now: *at, unix_nanos: moment.unix(*at) };
        let mut entry = Entry::of(*id, connection, time);
        entry.uses = None;
        entry.mark = entry.mark.filter(|mark| *mark != 0 || changes.has(Changes::MARK));
        let what = match kind {
            EventKind::New => What::New,
            EventKind::Update => What::Update,
            EventKind::Destroy => What::Destroy,
        };
        if what == What::Destroy {
            entry.stop = entry.start.map(|_| time.unix_nanos);
            entry.timeout = entry.timeout.filter(|seconds| *seconds != 0);
        } else {
            entry.original.counters = None;
            entry.reply.counters = None;
            entry.start = None;
            entry.state = entry.state.filter(|_| changes.has(Changes::STATE));
            if !changes.has(Changes::LABEL) {
                entry.labels.clear();
            }
        }
        Self { what, entry, at: time.unix_nanos, author: *author }
    }
}

/// Something that happened to an expectation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HappenedExpected {
    /// [`What::New`] or [`What::Destroy`].
    pub what: What,
    /// The expectation.
    pub expected: Expected,
    /// When, nanoseconds since 1970.
    pub at: u64,
}

impl HappenedExpected {
    fn of(event: &ExpectationEvent, moment: Moment) -> Self {
        let ExpectationEvent { kind, at, expectation, master } = event;
        let time = Moment { now: *at, unix_nanos: moment.unix(*at) };
        let what = if *kind == EventKind::New { What::New } else { What::Destroy };
        let expected = Expected::with_master(expectation, master, time);
        Self { what, expected, at: time.unix_nanos }
    }
}

/// What a listener wants to hear of.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum About {
    /// Connections.
    Connections,
    /// Expectations.
    Expectations,
}

/// All listeners.
#[derive(Debug, Default)]
pub struct Hub {
    queues: Mutex<Vec<Arc<Queue>>>,
}

#[derive(Debug)]
struct Queue {
    about: About,
    filter: Filter,
    what: Vec<What>,
    max: usize,
    waiting: Mutex<Waiting>,
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    events: VecDeque<Happened>,
    expected: VecDeque<HappenedExpected>,
    lost: u64,
}

/// A listener's end. Dropping it is not listening any more.
#[derive(Debug)]
pub struct Subscription {
    hub: Arc<Hub>,
    queue: Arc<Queue>,
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    /// One more listener, if there aren't too many. `max` events wait for it.
    pub fn subscribe(
        self: &Arc<Self>,
        about: About,
        filter: Filter,
        what: Vec<What>,
        max: usize,
    ) -> Option<Subscription> {
        let mut queues = held(&self.queues);
        if queues.len() >= LISTENERS_MAX {
            return None;
        }
        let max = max.clamp(1, QUEUE_MAX);
        let (waiting, arrived) = (Mutex::default(), Condvar::new());
        let queue = Arc::new(Queue { about, filter, what, max, waiting, arrived });
        queues.push(queue.clone());
        Some(Subscription { hub: self.clone(), queue })
    }

    /// Whether nobody listens.
    pub fn is_empty(&self) -> bool {
        held(&self.queues).is_empty()
    }

    /// Puts events before everybody who wants them. `lost`: how many there were besides.
    pub fn publish(&self, events: &[Event], lost: u64, moment: Moment) {
        let queues = held(&self.queues).clone();
        if queues.is_empty() {
            return;
        }
        for queue in &queues {
            held(&queue.waiting).lost += lost;
        }
        for event in events {
            let happened = Happened::of(event, moment);
            for queue in &queues {
                queue.offer(&happened);
            }
        }
        for queue in &queues {
            queue.arrived.notify_one();
        }
    }
}

impl Hub {
    /// The same for expectations.
    pub fn publish_expected(&self, events: &[ExpectationEvent], moment: Moment) {
        let queues = held(&self.queues).clone();
        for queue in queues.iter().filter(|queue| queue.about == About::Expectations) {
            for event in events {
                queue.offer_expected(HappenedExpected::of(event, moment));
            }
            queue.arrived.notify_one();
        }
    }
}

impl Queue {
    fn offer_expected(&self, happened: HappenedExpected) {
        if !self.what.contains(&happened.what) {
            return;
        }
        let mut waiting = held(&self.waiting);
        if waiting.expected.len() < self.max {
            waiting.expected.push_back(happened);
        } else {
            waiting.lost += 1;
        }
    }

    fn offer(&self, happened: &Happened) {
        if self.about != About::Connections {
            return;
        }
        if !self.what.contains(&happened.what) || !self.filter.fits(&happened.entry) {
            return;
        }
        let mut waiting = held(&self.waiting);
        if waiting.events.len() < self.max {
            waiting.events.push_back(happened.clone());
        } else {
            waiting.lost += 1;
        }
    }
}

impl Subscription {
    /// The next events and how many were lost; waits for some, but no longer than `patience`.
    pub fn next(&self, patience: Duration) -> (Vec<Happened>, Vec<HappenedExpected>, u64) {
        let waiting = held(&self.queue.waiting);
        let nothing = |w: &mut Waiting| w.events.is_empty() && w.expected.is_empty() && w.lost == 0;
        let (mut waiting, _) = self
            .queue
            .arrived
            .wait_timeout_while(waiting, patience, nothing)
            .unwrap_or_else(PoisonError::into_inner);
        let some = waiting.events.len().min(BATCH);
        let expected = waiting.expected.len().min(BATCH);
        let waiting = &mut *waiting;
        (
            waiting.events.drain(..some).collect(),
            waiting.expected.drain(..expected).collect(),
            std::mem::take(&mut waiting.lost),
        )
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        held(&self.hub.queues).retain(|queue| !Arc::ptr_eq(queue, &self.queue));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_nat::{Conntrack, Create, Settings, Tuple};
    use tidegate_packet::Instant;

    const MOMENT: Moment = Moment { now: Instant::ZERO, unix_nanos: 1_000_000_000_000 };

    fn events(count: u16) -> Vec<Event> {
        let mut table = Conntrack::new(Settings::default(), [1, 2]);
        table.listen(true, Instant::ZERO);
        for port in 0..count {
            let [a, b] = ["10.0.0.1", "10.0.0.2"].map(|a| a.parse().unwrap());
            let original = Tuple { src: a, dst: b, sport: port, dport: 53, protocol: 17 };
            let reply = original.inverse().unwrap();
            let timeout = Duration::from_secs(30);
            let create = Create {
                original,
                reply,
                timeout,
                status: 0,
                mark: 0,
                state: None,
                zones: [0; 2],
                labels: 0,
            };
            table.create(&create, Instant::ZERO).unwrap();
        }
        table.take_events().0
    }

    #[test]
    fn who_is_slow_loses_events_and_hears_of_it() {
        let hub = Arc::new(Hub::default());
        let slow =
            hub.subscribe(About::Connections, Filter::default(), What::ALL.to_vec(), 3).unwrap();
        let quick =
            hub.subscribe(About::Connections, Filter::default(), What::ALL.to_vec(), 100).unwrap();
        hub.publish(&events(10), 2, MOMENT);
        let (got, _, lost) = slow.next(Duration::ZERO);
        assert_eq!((got.len(), lost), (3, 9));
        let (got, _, lost) = quick.next(Duration::ZERO);
        assert_eq!((got.len(), lost), (10, 2));
        assert_eq!(got[9].entry.original.sport, 9);
        // What is lost is told once.
        hub.publish(&events(1), 0, MOMENT);
        assert_eq!(slow.next(Duration::ZERO).2, 0);
    }

    #[test]
    fn only_what_is_wanted_is_kept() {
        let hub = Arc::new(Hub::default());
        let ends = super::super::filter::Ends { sport: Some(4), ..Default::default() };
        let filter = Filter { original: ends, ..Filter::default() };
        let one = hub.subscribe(About::Connections, filter, What::ALL.to_vec(), 9).unwrap();
        let none =
            hub.subscribe(About::Connections, Filter::default(), vec![What::Destroy], 9).unwrap();
        hub.publish(&events(6), 0, MOMENT);
        assert_eq!(one.next(Duration::ZERO).0.len(), 1);
        assert_eq!(none.next(Duration::ZERO), (Vec::new(), Vec::new(), 0));
    }

    #[test]
    fn listeners_are_counted_and_leave() {
        let hub = Arc::new(Hub::default());
        let all: Vec<_> = (0..LISTENERS_MAX)
            .map(|_| hub.subscribe(About::Connections, Filter::default(), Vec::new(), 1))
            .collect();
        assert!(all.iter().all(Option::is_some));
        assert!(hub.subscribe(About::Connections, Filter::default(), Vec::new(), 1).is_none());
        drop(all);
        assert!(hub.is_empty());
    }
}
